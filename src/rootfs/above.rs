//! What a layer above replaces is not made.
//!
//! While a layer is unpacked, layers above it are unpacked too, or have been. Where one of them has
//! something in the place of an entry, nobody will ever see the entry: its file is not made, which
//! is most of the work for images whose layers replace each other's files. The trees above are
//! looked at as they lie on the disk, so no list of their places is kept.
//!
//! The result is the same with and without, because only *plain* layers take part: their entries
//! mean the same whatever lies below ([`Above::depends`] tells which do not).
//!
//! - Once a plain layer has something in a place, nothing of lower layers is ever seen there:
//!   whatever comes into that place later hides it too.
//! - A plain layer in between does not miss what is not there.
//! - A later entry of the layer itself may (a hard link to it, a name below it). It
//!   [requires it](Above::require): the unpacking ends with an error that nobody sees, which
//!   [`Above::is_incomplete`] tells from others, and the layer is unpacked again, everything of it.
//! - A layer that looked plain may not stay so, and one whose bytes were wrong is unpacked again.
//!   That is noticed at its merge at the latest ([`Sightings`]), and the whole image is unpacked
//!   again.
//!
//! Only what the machine would have said of a file that is not made (no room, no such owner) is not
//! heard.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, FileType, Mode, openat, statat};

use super::calls::{OPEN_DIRECTORY, open_directory};
use super::{Selection, TREE};
use crate::error::{Error, Result};
use crate::workers::lock;

/// Layers that are looked at, each with two descriptors.
const UPPER_LIMIT: usize = 8;

/// Directories that may be opened to look at, for each entry on average: about what it costs to
/// make a file. And so many more in all.
const OPENED_FOR_EACH: u64 = 16;
const OPENED_AT_FIRST: u64 = 1024;

/// Places that one layer leaves out: as many as fit into a table of 288 KiB.
const LEFT_OUT_LIMIT: usize = 28 * 1024;

/// The layers whose unpacking has begun, each with its last attempt.
#[derive(Default)]
pub(super) struct Begun {
    attempts: Mutex<BTreeMap<usize, Attempt>>,
    /// Counts whatever may change what a layer sees above it.
    changes: AtomicU64,
}

/// One unpacking of a layer.
#[derive(Clone)]
pub(super) struct Attempt {
    id: u64,
    plain: Arc<AtomicBool>,
}

impl Begun {
    /// An attempt at layer `number`, whose tree is there and empty.
    pub(super) fn begin(&self, number: usize) -> Attempt {
        let attempt = Attempt {
            id: self.changes.fetch_add(1, Ordering::Relaxed),
            plain: Arc::new(AtomicBool::new(true)),
        };
        lock(&self.attempts).insert(number, attempt.clone());
        attempt
    }

    /// The layers whose entries replace those of layer `number`, lowest first: the plain ones up to
    /// the first that is not, or of which nothing is known yet.
    fn above(&self, number: usize) -> Vec<Sighting> {
        let attempts = lock(&self.attempts);
        let above = (number + 1..).map_while(|layer| Some((layer, attempts.get(&layer)?)));
        let plain = above.take_while(|(_, attempt)| attempt.is_plain());
        let sightings = plain.map(|(layer, attempt)| Sighting {
            layer,
            attempt: attempt.id,
        });
        sightings.take(UPPER_LIMIT).collect()
    }

    /// Whether layer `number` can rely on what it has seen, as far as is known.
    fn still_holds(&self, number: usize, seen: &Sightings) -> bool {
        let above = self.above(number);
        seen.0.iter().all(|sighting| above.contains(sighting))
    }
}

impl Attempt {
    fn is_plain(&self) -> bool {
        self.plain.load(Ordering::Relaxed)
    }
}

/// A layer as it was seen: its number, and that of its attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sighting {
    pub(super) layer: usize,
    attempt: u64,
}

/// The layers because of which something was left out.
#[derive(Default)]
pub(super) struct Sightings(BTreeSet<Sighting>);

impl Sightings {
    pub(super) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether `layer`, when it is merged now, is not what it was taken for: one that replaces what
    /// was left out, or lies between and does not miss it.
    pub(super) fn is_wrong_about(&self, layer: usize, attempt: &Attempt) -> bool {
        let matters = self.0.last().is_some_and(|highest| layer <= highest.layer);
        let mut seen = self.0.iter().filter(|sighting| sighting.layer == layer);
        matters && !attempt.is_plain() || seen.any(|sighting| sighting.attempt != attempt.id)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The layers above one that is being unpacked, and what of it is left out because of them.
pub(super) struct Above<'a> {
    /// The layer's own.
    attempt: &'a Attempt,
    begun: &'a Begun,
    selection: Selection,
    /// The directory with the trees of all layers.
    layers: BorrowedFd<'a>,
    number: usize,
    /// [`Begun::changes`] when `upper` was made; 0 is before this layer's own beginning.
    changes: u64,
    upper: Vec<Upper>,
    /// The place of every [`Upper::here`].
    here: Vec<u8>,
    asked: u64,
    opened: u64,
    /// Hashes of places. Two places with one hash cost a second attempt, no more.
    left_out: HashSet<u64>,
    hasher: RandomState,
    seen: Sightings,
    incomplete: Cell<bool>,
}

/// The tree of a layer above.
struct Upper {
    sighting: Sighting,
    root: OwnedFd,
    /// Its directory at the place that is looked at, if it has one.
    here: Option<OwnedFd>,
}

impl<'a> Above<'a> {
    /// For an attempt at layer `number`.
    pub(super) fn new(
        begun: &'a Begun,
        layers: BorrowedFd<'a>,
        number: usize,
        attempt: &'a Attempt,
        selection: Selection,
    ) -> Self {
        Above {
            attempt,
            begun,
            selection,
            layers,
            number,
            changes: 0,
            upper: Vec::new(),
            // No place has a NUL in it.
            here: vec![0],
            asked: 0,
            opened: 0,
            left_out: HashSet::new(),
            hasher: RandomState::new(),
            seen: Sightings::default(),
            incomplete: Cell::new(false),
        }
    }

    /// A layer above because of which `name` in `directory` can be left out: it has something other
    /// than a directory in its place.
    pub(super) fn find(&mut self, directory: &[u8], name: &[u8]) -> Option<Sighting> {
        let everything = self.selection == Selection::All || !self.attempt.is_plain();
        if everything || self.left_out.len() >= LEFT_OUT_LIMIT {
            return None;
        }
        self.asked += 1;
        let changes = self.begun.changes.load(Ordering::Relaxed);
        if self.here != directory || self.changes != changes {
            self.look_at(directory, changes);
        }
        let upper = self.upper.iter().find(|upper| upper.has(name))?;
        Some(upper.sighting)
    }

    fn look_at(&mut self, directory: &[u8], changes: u64) {
        if changes != self.changes {
            self.changes = changes;
            self.upper.clear();
            for sighting in self.begun.above(self.number) {
                self.opened += 2;
                let layer = open_directory(self.layers, &sighting.layer.to_string());
                // What cannot be opened replaces nothing.
                if let Ok(root) = layer.and_then(|layer| open_directory(layer, TREE)) {
                    let here = None;
                    self.upper.push(Upper {
                        sighting,
                        root,
                        here,
                    });
                }
            }
        }
        self.here.clear();
        self.here.extend_from_slice(directory);
        let is_dear = self.opened > OPENED_AT_FIRST + OPENED_FOR_EACH * self.asked;
        for upper in &mut self.upper {
            upper.here = match is_dear {
                true => None,
                false => upper.open(directory, &mut self.opened).ok(),
            };
        }
    }

    /// Remembers that nothing was made at `place`, because of what was found there.
    pub(super) fn leave_out(&mut self, place: &[u8], found: Sighting) {
        self.left_out.insert(self.hasher.hash_one(place));
        self.seen.0.insert(found);
    }

    /// What an entry means depends on what lies below: it links to a file there, its name goes
    /// through directories that no entry describes, or it removes something in one. The layer
    /// leaves nothing out, and nothing is left out because of it.
    ///
    /// # Errors
    /// Something was left out already, and is required.
    pub(super) fn depends(&self) -> Result<()> {
        if self.attempt.plain.swap(false, Ordering::Relaxed) {
            self.begun.changes.fetch_add(1, Ordering::Relaxed);
        }
        self.require_if(!self.left_out.is_empty())
    }

    pub(super) fn has_left_out(&self, place: &[u8]) -> bool {
        !self.left_out.is_empty() && self.left_out.contains(&self.hasher.hash_one(place))
    }

    /// What should be at `place` matters, where nothing was found.
    ///
    /// # Errors
    /// It was left out; [`Above::is_incomplete`] from now on.
    pub(super) fn require(&self, place: &[u8]) -> Result<()> {
        self.require_if(self.has_left_out(place))
    }

    fn require_if(&self, left_out: bool) -> Result<()> {
        if left_out {
            self.incomplete.set(true);
            return Err(Error::local("what was left out is required"));
        }
        Ok(())
    }

    /// Something that was left out is required: the layer must be unpacked again in whole.
    pub(super) fn is_incomplete(&self) -> bool {
        self.incomplete.get()
    }

    /// At the end of the layer: because of which layers something was left out.
    ///
    /// # Errors
    /// They are not what they were taken for: what was left out is required.
    pub(super) fn take_sightings(&mut self) -> Result<Sightings> {
        let seen = std::mem::take(&mut self.seen);
        self.require_if(!self.begun.still_holds(self.number, &seen))?;
        Ok(seen)
    }
}

impl Upper {
    fn open(&self, directory: &[u8], opened: &mut u64) -> rustix::io::Result<OwnedFd> {
        let mut open = |parent: &OwnedFd, name: &[u8]| {
            *opened += 1;
            openat(parent, name, OPEN_DIRECTORY, Mode::empty())
        };
        let mut here = open(&self.root, b".")?;
        for name in directory.split(|byte| *byte == b'/') {
            if !name.is_empty() {
                here = open(&here, name)?;
            }
        }
        Ok(here)
    }

    fn has(&self, name: &[u8]) -> bool {
        let Some(here) = &self.here else {
            return false;
        };
        statat(here, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::Directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    use crate::rootfs::testing::Scratch;

    #[test]
    fn looking_costs_no_more_than_making_files() {
        const LAYERS: usize = 9;
        const ENTRIES: u64 = 2_000;
        let scratch = Scratch::in_memory();
        let places = ["a", "b"].map(|top| format!("{top}{}", "/d".repeat(30)));
        let begun = Begun::default();
        for number in 1..LAYERS {
            for place in &places {
                let place = format!("{number}/{TREE}/{place}");
                std::fs::create_dir_all(scratch.path().join(place)).unwrap();
            }
            begun.begin(number);
        }
        let layers = std::fs::File::open(scratch.path()).unwrap();
        let attempt = begun.begin(0);
        let layers = layers.as_fd();
        let mut above = Above::new(&begun, layers, 0, &attempt, Selection::SkipReplaced);
        for n in 0..ENTRIES {
            let place = &places[n as usize % 2];
            assert_eq!(above.find(place.as_bytes(), b"f"), None);
        }
        let usual = OPENED_AT_FIRST + ENTRIES * OPENED_FOR_EACH;
        assert!(above.opened > usual / 2, "nothing was looked at");
        assert!(above.opened < usual + 1_000, "{}", above.opened);
    }
}
