//! What a layer above replaces is not made.
//!
//! While a layer is unpacked, layers above it may be complete and proven. Where one of them has
//! something in the place of an entry, nobody will ever see the entry: its file is left out, which
//! is most of the work for images whose layers replace each other's files. The trees above are
//! looked at as they lie on the disk, so no list of their places is kept.
//!
//! What comes out is the same with and without:
//! - Only a *plain* layer replaces anything here, one whose entries mean the same whatever lies
//!   below ([`Summary::plain`](super::unpack::Summary)).
//! - What was left out may still be wanted: by a later entry of its own layer (a hard link to it, a
//!   name below it), or by a layer in between that was not complete yet, and turns out not to be
//!   plain. Both are seen, and then everything is unpacked again, nothing left out.
//!
//! Only what the machine would have said of a file that is not made (no room, no such owner here)
//! is not heard.

use std::cell::Cell;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Mutex;

use rustix::fs::{AtFlags, FileType, Mode, openat, statat};

use super::TREE;
use super::records::open_directory;
use super::tree::OPEN_DIRECTORY;
use crate::error::{Error, Result};
use crate::workers::lock;

/// Layers that are looked at, each with two descriptors.
const UPPER_LIMIT: usize = 8;

/// Components of a directory that is looked for: each costs a system call in each of the layers,
/// and what honest images have lies less deep.
const DEPTH_LIMIT: usize = 32;

/// Places that one layer leaves out: as many as fit into a table of 288 KiB.
const LEFT_OUT_LIMIT: usize = 28 * 1024;

/// The layers that are complete and proven.
#[derive(Default)]
pub(super) struct Finished(Mutex<Vec<Known>>);

#[derive(Clone, Copy)]
struct Known {
    number: usize,
    plain: bool,
}

impl Finished {
    pub(super) fn add(&self, number: usize, plain: bool) {
        lock(&self.0).push(Known { number, plain });
    }

    fn count(&self) -> usize {
        lock(&self.0).len()
    }

    /// The layers whose entries replace those of layer `number`, lowest first: the plain ones up to
    /// the first that is not.
    fn above(&self, number: usize) -> Vec<usize> {
        let mut above: Vec<Known> = lock(&self.0).clone();
        above.retain(|known| known.number > number);
        above.sort_unstable_by_key(|known| known.number);
        let plain = above.iter().take_while(|known| known.plain);
        plain.map(|known| known.number).take(UPPER_LIMIT).collect()
    }
}

/// The layers above one that is being unpacked, and what of it is left out because of them.
pub(super) struct Above<'a> {
    finished: Option<&'a Finished>,
    /// The directory with the trees of all layers.
    layers: BorrowedFd<'a>,
    number: usize,
    /// So many layers were finished when `upper` was made.
    known: usize,
    upper: Vec<Upper>,
    /// The place of every [`Upper::here`].
    here: Vec<u8>,
    /// Hashes of places. Two places with one hash cost a second attempt, no more.
    left_out: HashSet<u64>,
    hasher: RandomState,
    highest: Option<usize>,
    wanted: Cell<bool>,
}

/// The tree of a layer above.
struct Upper {
    number: usize,
    root: OwnedFd,
    /// Its directory at the place that is looked at, if it has one.
    here: Option<OwnedFd>,
}

impl<'a> Above<'a> {
    /// For layer `number`; without `finished` nothing is ever left out.
    pub(super) fn new(
        finished: Option<&'a Finished>,
        layers: BorrowedFd<'a>,
        number: usize,
    ) -> Self {
        Above {
            finished,
            layers,
            number,
            known: 0,
            upper: Vec::new(),
            // No place has a NUL in it.
            here: vec![0],
            left_out: HashSet::new(),
            hasher: RandomState::new(),
            highest: None,
            wanted: Cell::new(false),
        }
    }

    /// The number of a layer above that has something other than a directory in the place of `name`
    /// in `directory`; none if there is no room to remember what is left out.
    pub(super) fn replaces(&mut self, directory: &[u8], name: &[u8]) -> Option<usize> {
        let finished = self.finished?;
        if self.here != directory {
            self.go(finished, directory);
        }
        if self.left_out.len() >= LEFT_OUT_LIMIT {
            return None;
        }
        let upper = self.upper.iter().find(|upper| upper.has(name))?;
        self.highest = self.highest.max(Some(upper.number));
        Some(upper.number)
    }

    fn go(&mut self, finished: &Finished, directory: &[u8]) {
        let known = finished.count();
        if known != self.known {
            self.known = known;
            self.upper.clear();
            for number in finished.above(self.number) {
                let layer = open_directory(self.layers, &number.to_string());
                // What cannot be opened replaces nothing.
                if let Ok(root) = layer.and_then(|layer| open_directory(layer, TREE)) {
                    let here = None;
                    self.upper.push(Upper { number, root, here });
                }
            }
        }
        self.here.clear();
        self.here.extend_from_slice(directory);
        let too_deep = directory.split(|byte| *byte == b'/').count() > DEPTH_LIMIT;
        for upper in &mut self.upper {
            upper.here = match too_deep {
                true => None,
                false => upper.open(directory).ok(),
            };
        }
    }

    /// Remembers that nothing was made at `place`.
    pub(super) fn leave_out(&mut self, place: &[u8]) {
        self.left_out.insert(self.hasher.hash_one(place));
    }

    pub(super) fn has_left_out(&self, place: &[u8]) -> bool {
        !self.left_out.is_empty() && self.left_out.contains(&self.hasher.hash_one(place))
    }

    /// What should be at `place` matters, where nothing was found.
    ///
    /// # Errors
    /// It was left out; [`Above::wanted`] from now on.
    pub(super) fn want(&self, place: &[u8]) -> Result<()> {
        self.want_if(self.has_left_out(place))
    }

    /// Whatever was left out matters.
    ///
    /// # Errors
    /// As for [`Above::want`].
    pub(super) fn want_all(&self) -> Result<()> {
        self.want_if(!self.left_out.is_empty())
    }

    fn want_if(&self, left_out: bool) -> Result<()> {
        if left_out {
            self.wanted.set(true);
            return Err(Error::local("what was left out is wanted"));
        }
        Ok(())
    }

    /// Something that was left out is wanted: the layer must be unpacked again in whole.
    pub(super) fn wanted(&self) -> bool {
        self.wanted.get()
    }

    /// The highest layer because of which something was left out.
    pub(super) fn highest(&self) -> Option<usize> {
        self.highest
    }
}

impl Upper {
    fn open(&self, directory: &[u8]) -> rustix::io::Result<OwnedFd> {
        let mut here = openat(&self.root, ".", OPEN_DIRECTORY, Mode::empty())?;
        for name in directory.split(|byte| *byte == b'/') {
            if !name.is_empty() {
                here = openat(here, name, OPEN_DIRECTORY, Mode::empty())?;
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
