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
use crate::report::{Progress, Report};
use crate::rootfs::{Rootfs, Unpacked};
use crate::workers::{Others, Stop, lock, read_ahead};

/// Layers smaller than this are inflated by the thread that unpacks them: another one and its
/// blocks cost more than they bring.
const SPLIT_FROM: u64 = 1 << 20;

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
    let pull = Pull {
        report: context.report,
        remote,
        progress: &progress,
        merger: Merger::new(rootfs),
    };
    // The largest first: the others fill the time that it takes. Of about the same size the lowest
    // first: merging begins with it, and goes on beside what is still unpacked.
    layers.sort_by_key(|layer| (Reverse(layer.blob.size.checked_ilog2()), layer.at));
    // A zstd decoder holds 8 MiB and more, as much as four of gzip. A wrong media type costs memory
    // and nothing else.
    let workers = match layers.iter().any(|layer| layer.blob.is_zstd()) {
        true => context.workers.at_most_one_a_core(),
        false => context.workers,
    };
    let fetched = workers.map(&layers, |layer, others| pull.layer(layer, others));
    let rootfs = pull.merger.into_rootfs();
    match fetched {
        Ok(_) => rootfs.finish()?,
        Err(error) => {
            rootfs.discard();
            return Err(error);
        }
    }
    progress.finish("fetched");
    Ok(())
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
    /// As errors name it.
    fn name(&self) -> String {
        let (number, digest) = (self.at + 1, self.blob.digest.short());
        format!("layer {number} of {} ({digest})", self.count)
    }
}

struct Pull<'p, 'a> {
    report: &'p Report,
    remote: &'p Remote<'a>,
    progress: &'p Progress<'p>,
    merger: Merger<'p>,
}

/// Why an attempt at a layer failed.
enum Failure {
    /// For good.
    Final(Error),
    /// The bytes are not the ones asked for, which may be a fault on the way.
    WrongBytes(Error),
}

impl Pull<'_, '_> {
    fn layer(&self, layer: &Layer<'_>, others: &Others<'_>) -> Result<()> {
        let complete = match self.attempt(layer, others) {
            Err(Failure::WrongBytes(error)) => {
                self.report.info(format!(
                    "layer {}: {error}: fetching it once more",
                    layer.at + 1
                ));
                self.progress.restart(layer.at);
                self.attempt(layer, others)
            }
            attempt => attempt,
        };
        match complete {
            Ok(complete) => self.merger.add(layer.at, complete, others.stop()),
            Err(Failure::Final(error) | Failure::WrongBytes(error)) => {
                Err(error.doing(layer.name()))
            }
        }
    }

    fn attempt(
        &self,
        layer: &Layer<'_>,
        others: &Others<'_>,
    ) -> std::result::Result<Complete, Failure> {
        let stop = &others.stop().for_parts();
        let blob_reader = self.remote.open(layer.blob, stop).map_err(Failure::Final)?;
        let reader = self.progress.counting(layer.at, stop.watch(blob_reader));
        let mut blob = Checked::new(reader, &layer.blob.digest, Some(layer.blob.size));
        // A second thread for a layer only where a processor would have nothing to do.
        let helps = || layer.blob.size >= SPLIT_FROM && others.leave_a_core_idle();
        let unpacked = archive::decode(&mut blob).and_then(|plain| {
            read_ahead(plain, helps, |plain| {
                unpack(self.merger.rootfs(), layer, stop.watch(plain)).inspect_err(|error| {
                    // Whoever reads ahead would wait long for a registry that does not answer. What
                    // is hostile is read to its end: it may be no more than a fault on the way.
                    if error.kind() == Kind::Local {
                        stop.set();
                    }
                })
            })
        });
        match unpacked {
            Ok((tree, plain)) => match blob.finish() {
                Ok(blob) => Ok(Complete {
                    name: layer.name(),
                    tree,
                    blob,
                    plain,
                }),
                Err(error) => Err(wrong_or_final(error)),
            },
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
    plain: impl BufRead,
) -> Result<(Unpacked, Verified)> {
    let mut plain = Checked::new(plain, layer.diff_id, None);
    let tree = rootfs.unpack(layer.at, &mut plain)?;
    // An error of the reader is no word about the digest.
    plain.drain()?;
    let plain = plain.finish().doing(|| "diff_id")?;
    Ok((tree, plain))
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
}

/// A layer with the proofs that its bytes are right.
struct Complete {
    /// Whoever merges it, an error is this layer's.
    name: String,
    tree: Unpacked,
    blob: Verified,
    plain: Verified,
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
            self.rootfs
                .merge(layer.tree, layer.blob, layer.plain)
                .doing(|| layer.name)?;
            let mut state = lock(&self.state);
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

    fn into_rootfs(self) -> Rootfs<'m> {
        self.rootfs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::layer;
    use crate::report::Hidden;
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
            Complete {
                name: at.to_string(),
                tree: merger.rootfs().unpack(at, &mut tar.as_slice()).unwrap(),
                blob: proof().unwrap(),
                plain: proof().unwrap(),
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
