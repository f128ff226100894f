//! The schedule of a rootfs: layers are fetched, verified and unpacked apart, side by side,
//! and merged in order.
//!
//! Unverified bytes never reach `rootfs`: a layer is merged when both its digests match and all
//! lower ones are merged. The result cannot depend on timing.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::Mutex;

use crate::archive;
use crate::context::Context;
use crate::error::{Doing, Error, Kind, Result};
use crate::oci::digest::{Checked, Digest, Verified};
use crate::oci::manifest::{Descriptor, Manifest};
use crate::registry::Remote;
use crate::report::Progress;
use crate::rootfs::{Extent, Outcome, Proven, Rootfs, Unpacked};
use crate::workers::{Moment, Others, Pace, Stop, lock, read_ahead};

/// Layers smaller than this are inflated by the thread that unpacks them, and unpacked in whole:
/// another thread and its blocks, or looking for what need not be made, cost more than they bring.
const LARGE_FROM: u64 = 1 << 20;

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
    if manifest.layers.len() != diff_ids.len() {
        rootfs.discard();
        return Err(Error::hostile(format!(
            "the manifest has {} layers, but the config has the diff_ids of {}",
            manifest.layers.len(),
            diff_ids.len()
        )));
    }
    let mut layers: Vec<Layer<'_>> = manifest
        .layers
        .iter()
        .zip(diff_ids)
        .enumerate()
        .map(|(at, (blob, diff_id))| Layer {
            at,
            count: diff_ids.len(),
            blob,
            diff_id,
        })
        .collect();
    let bars = layers.iter().map(|layer| {
        let label = format!("layer {} {}", layer.at + 1, layer.blob.digest.short());
        (label, layer.blob.size)
    });
    let progress = context.report.progress(bars);
    // The largest first: the others fill the time that it takes.
    layers.sort_by_key(|layer| (Reverse(layer.blob.size.checked_ilog2()), layer.order()));
    // A zstd decoder holds 8 MiB and more, as much as four of gzip. A wrong media type costs memory
    // and nothing else.
    let workers = match layers.iter().any(|layer| layer.blob.is_zstd()) {
        true => context.workers.at_most_one_a_core(),
        false => context.workers,
    };
    let mut pull = Pull {
        context,
        remote,
        pace: Pace::new(moment(context)),
        progress: &progress,
        merger: Merger::new(rootfs),
        extent: Extent::Needed,
    };
    loop {
        let fetched = workers.map(&layers, |layer, others| pull.layer(layer, others));
        let wanted = pull.merger.wanted();
        let rootfs = pull.merger.into_rootfs();
        match fetched {
            Ok(_) => {
                rootfs.finish()?;
                progress.finish("fetched");
                return Ok(());
            }
            Err(_) if wanted => {
                context.report.info(
                    "a layer needs files that were left out because layers above replace them: \
                     fetching all layers once more",
                );
                layers.iter().for_each(|layer| progress.restart(layer.at));
                pull.merger = Merger::new(rootfs.restart()?);
                pull.extent = Extent::Whole;
            }
            Err(error) => {
                rootfs.discard();
                return Err(error);
            }
        }
    }
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
    fn order(&self) -> usize {
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
    /// Of large layers.
    pace: Pace,
    merger: Merger<'p>,
    extent: Extent,
}

/// Why an attempt at a layer failed.
enum Failure {
    /// For good.
    Final(Error),
    /// The bytes are not the ones asked for, which may be a fault on the way.
    WrongBytes(Error),
    /// Something was left out that is needed after all.
    Wanted,
}

impl Pull<'_, '_> {
    fn layer(&self, layer: &Layer<'_>, others: &Others<'_>) -> Result<()> {
        // Small ones wait longer for an answer than a processor is busy with them.
        let (_running, mut extent) = match layer.is_large() {
            true => (Some(self.pace.start(|| moment(self.context))), self.extent),
            false => (None, Extent::Whole),
        };
        others.stop().check()?;
        let mut repeated = false;
        loop {
            match self.attempt(layer, extent, others) {
                Ok(complete) => return self.merger.add(layer.at, complete, others.stop()),
                Err(Failure::Wanted) => {
                    self.context.report.info(format!(
                        "layer {} needs files that were left out because layers above replace \
                         them: fetching it once more",
                        layer.at + 1
                    ));
                    extent = Extent::Whole;
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
        extent: Extent,
        others: &Others<'_>,
    ) -> std::result::Result<Complete, Failure> {
        let stop = &others.stop().for_parts();
        let blob_reader = self.remote.open(layer.blob, stop).map_err(Failure::Final)?;
        let reader = self.progress.counting(layer.at, stop.watch(blob_reader));
        let mut blob = Checked::new(reader, &layer.blob.digest, Some(layer.blob.size));
        // A second thread for a layer only where a processor would have nothing to do.
        let helps = || layer.is_large() && others.leave_a_core_idle();
        let unpacked = archive::decode(&mut blob).and_then(|plain| {
            read_ahead(plain, helps, |plain| {
                let unpacked = unpack(self.merger.rootfs(), layer, extent, stop.watch(plain));
                // Whoever reads ahead would wait long for a registry that does not answer. What
                // is hostile is read to its end: it may be no more than a fault on the way.
                match &unpacked {
                    Ok(Outcome::Wanted) => stop.set(),
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
                    tree: self.merger.rootfs().believe(tree, blob, plain),
                }),
                Err(error) => Err(wrong_or_final(error)),
            },
            Ok(Outcome::Wanted) => Err(Failure::Wanted),
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
    extent: Extent,
    plain: impl BufRead,
) -> Result<Outcome<(Unpacked, Verified)>> {
    let mut plain = Checked::new(plain, layer.diff_id, None);
    let Outcome::Done(tree) = rootfs.unpack(layer.at, extent, &mut plain)? else {
        return Ok(Outcome::Wanted);
    };
    // An error of the reader is no word about the digest.
    plain.drain()?;
    let plain = plain.finish().doing(|| "diff_id")?;
    Ok(Outcome::Done((tree, plain)))
}

/// Merges complete layers in order. Whoever completes the layer that is next merges it and all
/// that wait behind it; the others go on with their work.
struct Merger<'m> {
    rootfs: Rootfs<'m>,
    state: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// The layer to be merged next.
    next: usize,
    complete: BTreeMap<usize, Complete>,
    /// Somebody is merging.
    merging: bool,
    /// A layer could not be merged because of what was left out below.
    wanted: bool,
}

/// A layer whose bytes are right.
struct Complete {
    /// Whoever merges it, an error is this layer's.
    name: String,
    tree: Proven,
}

impl<'m> Merger<'m> {
    fn new(rootfs: Rootfs<'m>) -> Self {
        Merger {
            rootfs,
            state: Mutex::default(),
        }
    }

    fn rootfs(&self) -> &Rootfs<'m> {
        &self.rootfs
    }

    fn add(&self, at: usize, layer: Complete, stop: &Stop) -> Result<()> {
        lock(&self.state).complete.insert(at, layer);
        while let Some(layer) = self.take_next() {
            stop.check()?;
            // After a failure nobody merges any more: `merging` stays as it is.
            let merged = self.rootfs.merge(layer.tree).doing(|| layer.name)?;
            let mut state = lock(&self.state);
            if let Outcome::Wanted = merged {
                state.wanted = true;
                return Err(Error::local("what was left out is needed"));
            }
            state.merging = false;
            state.next += 1;
        }
        Ok(())
    }

    /// The layer that is next, unless it is not complete or somebody is merging already. That
    /// somebody looks again when done, so nothing is left behind.
    fn take_next(&self) -> Option<Complete> {
        let mut state = lock(&self.state);
        if state.merging {
            return None;
        }
        let next = state.next;
        let layer = state.complete.remove(&next)?;
        state.merging = true;
        Some(layer)
    }

    /// The whole image is needed once more, nothing left out.
    fn wanted(&self) -> bool {
        lock(&self.state).wanted
    }

    fn into_rootfs(self) -> Rootfs<'m> {
        self.rootfs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::layer;
    use crate::report::{Hidden, Report};
    use std::io;

    #[test]
    fn nothing_is_merged_after_another_layer_has_failed() {
        let name = format!("registry-image-pull-{}", std::process::id());
        let destination = std::env::temp_dir().join(name);
        std::fs::create_dir(&destination).unwrap();
        let report = Report::new(false, Hidden::default());
        let merger = Merger::new(Rootfs::create(&destination, &report).unwrap());
        let complete = |at: usize| {
            let tar = layer().file(&at.to_string(), "").0;
            let proof = || Checked::new(io::empty(), &Digest::of(b""), None).finish();
            let unpacked = merger
                .rootfs()
                .unpack(at, Extent::Needed, &mut tar.as_slice());
            let Outcome::Done(tree) = unpacked.unwrap() else {
                panic!("nothing was left out");
            };
            let (blob, plain) = (proof().unwrap(), proof().unwrap());
            Complete {
                name: at.to_string(),
                tree: merger.rootfs().believe(tree, blob, plain),
            }
        };
        let stop = Stop::default();
        // Each waits for the one below.
        merger.add(1, complete(1), &stop).unwrap();
        merger.add(0, complete(0), &stop).unwrap();
        merger.add(3, complete(3), &stop).unwrap();
        stop.set();
        merger.add(2, complete(2), &stop).unwrap_err();
        let merged = std::fs::read_dir(destination.join("rootfs")).unwrap();
        let mut merged: Vec<_> = merged.map(|entry| entry.unwrap().file_name()).collect();
        merged.sort();
        merger.into_rootfs().discard();
        std::fs::remove_dir(&destination).unwrap();
        assert_eq!(merged, ["0", "1"]);
    }
}
