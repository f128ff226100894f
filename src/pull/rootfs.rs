//! The schedule of a rootfs: layers are fetched, verified and unpacked apart, side by side,
//! and merged in order.
//!
//! Unverified bytes never reach `rootfs`: a layer is merged when both its digests match and all
//! lower ones are merged. The result cannot depend on timing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Cursor, Read};
use std::sync::Mutex;

use super::merger::{Complete, Merger};
use crate::archive;
use crate::context::Context;
use crate::error::{Doing, Error, Kind, Result};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::{Checked, Digest, Verified};
use crate::oci::manifest::Manifest;
use crate::registry::Remote;
use crate::report::Progress;
use crate::rootfs::{Outcome, Rootfs, Selection, Unpacked};
use crate::workers::{Moment, Others, Pace, Stop, lock, read_ahead};

/// Layers smaller than this are inflated by the thread that unpacks them, and unpacked in whole:
/// another thread and its blocks, or looking for what need not be made, cost more than they bring.
const LARGE_FROM: u64 = 1 << 20;

/// A layer of up to so many bytes that comes more than once is fetched once: builders make the layer
/// of no change (32 bytes) for each step that changes nothing.
const KEPT: u64 = 1 << 10;

/// Why something is fetched again that was right.
const INCOMPLETE: &str =
    "needs files that were not made because layers above replace them: fetching it once more";

/// Fetches the layers of an image into `rootfs`.
///
/// # Errors
/// The layer that failed, and why; `rootfs` is not whole then. [`Kind::Local`] is what no other
/// registry can change.
pub(crate) fn rootfs(
    context: &Context<'_>,
    remote: &Remote<'_>,
    manifest: &Manifest,
    diff_ids: &[Digest],
    rootfs: Rootfs<'_>,
) -> Result<()> {
    let layers = match in_order(manifest, diff_ids) {
        Ok(layers) => layers,
        Err(error) => {
            rootfs.discard();
            return Err(error);
        }
    };
    let bars = manifest.layers.iter().zip(1..).map(|(blob, number)| {
        let label = format!("layer {number} {}", blob.digest.short());
        (label, blob.size)
    });
    let progress = context.report.progress(bars);
    // A zstd decoder holds 8 MiB and more, as much as four of gzip. A wrong media type costs memory
    // and nothing else.
    let workers = match layers.iter().any(|layer| layer.blob.is_zstd()) {
        true => context.workers.at_most_one_a_core(),
        false => context.workers,
    };
    let mut pull = Pull {
        context,
        remote,
        progress: &progress,
        kept: Kept::of(manifest),
        pace: Pace::new(moment(context)),
        merger: Merger::new(rootfs),
        selection: Selection::SkipReplaced,
    };
    loop {
        let stop = remote.new_stop();
        let fetched = workers.map_until(&stop, &layers, |layer, others| pull.layer(layer, others));
        let incomplete = pull.merger.incomplete();
        let mut rootfs = pull.merger.into_rootfs();
        let failed = match fetched {
            Ok(_) => {
                rootfs.finish()?;
                progress.finish("fetched");
                return Ok(());
            }
            Err(_) if incomplete => rootfs.restart().err(),
            Err(error) => Some(error),
        };
        if let Some(error) = failed {
            rootfs.discard();
            return Err(error);
        }
        context.report.info(format!("the image {INCOMPLETE}"));
        layers.iter().for_each(|layer| progress.restart(layer.at));
        pull.merger = Merger::new(rootfs);
        pull.selection = Selection::All;
    }
}

/// The layers in the order in which they are begun: the largest first, the others fill the time
/// that it takes.
fn in_order<'l>(manifest: &'l Manifest, diff_ids: &'l [Digest]) -> Result<Vec<Layer<'l>>> {
    let count = diff_ids.len();
    if manifest.layers.len() != count {
        return Err(Error::hostile(format!(
            "the config lists {count} layers (`rootfs.diff_ids`), the manifest {}",
            manifest.layers.len()
        )));
    }
    let pairs = manifest.layers.iter().zip(diff_ids).enumerate();
    let mut layers: Vec<Layer<'_>> = pairs
        .map(|(at, (blob, diff_id))| Layer {
            at,
            count,
            blob,
            diff_id,
        })
        .collect();
    layers.sort_by_key(|layer| (Reverse(layer.blob.size.checked_ilog2()), layer.turn()));
    Ok(layers)
}

struct Layer<'l> {
    /// Position from the bottom, starting at 0.
    at: usize,
    /// How many there are.
    count: usize,
    blob: &'l Descriptor,
    diff_id: &'l Digest,
}

impl Layer<'_> {
    /// Among layers of about the same size. Of large ones the highest comes first, because what it
    /// replaces need not be made below; of small ones the lowest, because merging begins with it,
    /// and goes on beside what is still unpacked.
    fn turn(&self) -> usize {
        match self.is_large() {
            true => self.count - self.at,
            false => self.at,
        }
    }

    fn is_large(&self) -> bool {
        self.blob.size >= LARGE_FROM
    }

    /// As errors name it.
    fn name(&self) -> String {
        let (number, digest) = (self.at + 1, self.blob.digest.short());
        format!("layer {number} of {} ({digest})", self.count)
    }
}

struct Pull<'p, 'a> {
    context: &'p Context<'p>,
    remote: &'p Remote<'a>,
    progress: &'p Progress<'p>,
    kept: Kept<'p>,
    /// Of large layers.
    pace: Pace,
    merger: Merger<'p>,
    selection: Selection,
}

/// Small layers that the manifest lists more than once, with their bytes when one has fetched them.
struct Kept<'p>(BTreeMap<&'p Digest, Mutex<Option<Vec<u8>>>>);

impl<'p> Kept<'p> {
    fn of(manifest: &'p Manifest) -> Self {
        let mut seen = BTreeSet::new();
        let small = manifest.layers.iter().filter(|blob| blob.size <= KEPT);
        let repeated = small.filter(|blob| !seen.insert(&blob.digest));
        Kept(
            repeated
                .map(|blob| (&blob.digest, Mutex::default()))
                .collect(),
        )
    }

    /// The bytes of `blob`, where it is one of these. The others wait for who fetches it.
    fn get(&self, remote: &Remote<'_>, blob: &Descriptor, stop: &Stop) -> Result<Option<Vec<u8>>> {
        let Some(kept) = self.0.get(&blob.digest) else {
            return Ok(None);
        };
        let mut kept = lock(kept);
        match &*kept {
            Some(bytes) => Ok(Some(bytes.clone())),
            None => Ok(Some(
                kept.insert(remote.small_blob(blob, KEPT, stop)?).clone(),
            )),
        }
    }
}

/// Why an attempt at a layer failed.
enum Failure {
    /// For good.
    Final(Error),
    /// The bytes are not the ones asked for, which may be a fault on the way.
    WrongBytes(Error),
    /// Something was left out that is needed after all.
    Incomplete,
}

impl Pull<'_, '_> {
    fn layer(&self, layer: &Layer<'_>, others: &Others<'_>) -> Result<()> {
        // A small one waits longer for its answer than it keeps a processor busy, and its files are
        // made sooner than looked for elsewhere.
        let now = || moment(self.context);
        let (_running, mut selection) = match layer.is_large() {
            true => (Some(self.pace.start(now)), self.selection),
            false => (None, Selection::All),
        };
        others.stop().check()?;
        let mut repeated = false;
        loop {
            match self.attempt(layer, selection, others) {
                Ok(complete) => return self.merger.add(layer.at, complete, others.stop()),
                Err(Failure::Incomplete) => {
                    let number = layer.at + 1;
                    self.context
                        .report
                        .info(format!("layer {number} {INCOMPLETE}"));
                    selection = Selection::All;
                }
                Err(Failure::WrongBytes(error)) if !repeated => {
                    self.context.report.info(format!(
                        "layer {}: {error}: fetching it once more",
                        layer.at + 1
                    ));
                    repeated = true;
                }
                Err(Failure::Final(error) | Failure::WrongBytes(error)) => {
                    return Err(error.doing(layer.name()));
                }
            }
            self.progress.restart(layer.at);
        }
    }

    fn attempt(
        &self,
        layer: &Layer<'_>,
        selection: Selection,
        others: &Others<'_>,
    ) -> std::result::Result<Complete, Failure> {
        let stop = &others.stop().for_parts();
        let kept = self.kept.get(self.remote, layer.blob, stop);
        let blob_reader: Box<dyn Read + Send + '_> = match kept.map_err(Failure::Final)? {
            Some(bytes) => Box::new(Cursor::new(bytes)),
            None => Box::new(self.remote.open(layer.blob, stop).map_err(Failure::Final)?),
        };
        let reader = self.progress.counting(layer.at, stop.watch(blob_reader));
        let mut blob = Checked::new(reader, &layer.blob.digest, Some(layer.blob.size));
        // A second thread for a layer only where a processor would have nothing to do.
        let helps = || layer.is_large() && others.leave_a_core_idle();
        let unpacked = archive::decode(&mut blob).and_then(|plain| {
            read_ahead(plain, helps, |plain| {
                let unpacked = unpack(self.merger.rootfs(), layer, selection, stop.watch(plain));
                // Whoever reads ahead would wait long for a registry that does not answer. What
                // is hostile is read to its end: it may be no more than a fault on the way.
                match &unpacked {
                    Ok(Outcome::Incomplete) => stop.set(),
                    Err(error) if error.kind() == Kind::Local => stop.set(),
                    Ok(Outcome::Done(_)) | Err(_) => {}
                }
                unpacked
            })
        });
        match unpacked {
            Ok(Outcome::Done((tree, plain))) => match blob.finish() {
                Ok(blob) => Ok(Complete {
                    name: layer.name(),
                    tree: tree.believe(blob, plain),
                }),
                Err(error) => Err(wrong_or_final(error)),
            },
            Ok(Outcome::Incomplete) => Err(Failure::Incomplete),
            // Whether the image is broken or its bytes are is known when all of them were read.
            Err(broken) if broken.kind() == Kind::Hostile => match blob.finish() {
                Ok(_) => Err(Failure::Final(broken)),
                Err(error) => Err(wrong_or_final(error)),
            },
            // Bytes that are not the ones asked for can ask of a machine what none has: any amount of
            // room, names of any length. Nobody has proven these.
            Err(error) if error.kind() == Kind::Local => {
                Err(Failure::Final(error.of_kind(Kind::Hostile)))
            }
            Err(error) => Err(Failure::Final(error)),
        }
    }
}

fn moment(context: &Context<'_>) -> Moment {
    Moment {
        elapsed: context.clock.elapsed(),
        used: context.clock.used(),
    }
}

fn wrong_or_final(error: Error) -> Failure {
    match error.kind() {
        Kind::Hostile => Failure::WrongBytes(error),
        _ => Failure::Final(error),
    }
}

/// Unpacks a plain layer into a tree of its own.
fn unpack(
    rootfs: &Rootfs<'_>,
    layer: &Layer<'_>,
    selection: Selection,
    plain: impl BufRead,
) -> Result<Outcome<(Unpacked, Verified)>> {
    let mut plain = Checked::new(plain, layer.diff_id, None);
    let Outcome::Done(tree) = rootfs.unpack(layer.at, selection, &mut plain)? else {
        return Ok(Outcome::Incomplete);
    };
    // An error of the reader is no word about the digest.
    plain.drain()?;
    let plain = plain.finish().doing(|| "diff_id")?;
    Ok(Outcome::Done((tree, plain)))
}
