//! Complete layers on their way into the rootfs.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::error::{Doing, Error, Result};
use crate::rootfs::{Outcome, Proven, Rootfs};
use crate::workers::{Stop, lock};

/// Merges complete layers in order. Whoever completes the layer that is next merges it and all
/// that wait behind it; the others go on with their work.
pub(super) struct Merger<'m> {
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
    incomplete: bool,
}

/// A layer whose bytes are right.
pub(super) struct Complete {
    /// Whoever merges it, an error is this layer's.
    pub(super) name: String,
    pub(super) tree: Proven,
}

impl<'m> Merger<'m> {
    pub(super) fn new(rootfs: Rootfs<'m>) -> Self {
        Merger {
            rootfs,
            state: Mutex::default(),
        }
    }

    pub(super) fn rootfs(&self) -> &Rootfs<'m> {
        &self.rootfs
    }

    pub(super) fn add(&self, at: usize, layer: Complete, stop: &Stop) -> Result<()> {
        lock(&self.state).complete.insert(at, layer);
        while let Some(layer) = self.take_next() {
            stop.check()?;
            // After a failure nobody merges any more: `merging` stays as it is.
            let merged = self.rootfs.merge(layer.tree).doing(|| layer.name)?;
            let mut state = lock(&self.state);
            if let Outcome::Incomplete = merged {
                // An image that fails is not fetched again.
                stop.check()?;
                state.incomplete = true;
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
    pub(super) fn incomplete(&self) -> bool {
        lock(&self.state).incomplete
    }

    pub(super) fn into_rootfs(self) -> Rootfs<'m> {
        self.rootfs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::layer;
    use crate::oci::digest::{Checked, Digest};
    use crate::report::{Hidden, Report};
    use crate::rootfs::Selection;
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
                .unpack(at, Selection::SkipReplaced, &mut tar.as_slice());
            let Outcome::Done(tree) = unpacked.unwrap() else {
                panic!("nothing was left out");
            };
            let (blob, plain) = (proof().unwrap(), proof().unwrap());
            Complete {
                name: at.to_string(),
                tree: tree.believe(blob, plain),
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
