//! One layer to one tree, trees to one root filesystem.
//!
//! Layers are unpacked apart, each into a tree of its own beside the rootfs (`DEST/.layers/<n>`),
//! on any thread; a layer whose bytes are proven is then merged into `DEST/rootfs`, in order, by
//! renames. Unverified bytes never reach the rootfs, and what comes out depends on no timing.
//!
//! All work goes through directory descriptors, one component of a name at a time; no path of an
//! image is ever given to the kernel in one piece, and links are resolved below the root as
//! chroot(2) would. Neither `/proc` nor any other program is needed. The names of an image are
//! hostile; whoever else may write into the destination while we run is trusted not to.

mod above;
mod calls;
#[cfg(test)]
mod hostile;
mod merge;
mod meta;
mod path;
#[cfg(test)]
mod random;
mod records;
mod remove;
#[cfg(test)]
mod testing;
mod tree;
mod unpack;

use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::{Mode, OFlags};
use rustix::fs::{fchmod, fchown, flistxattr, fremovexattr, futimens, open};
use rustix::process::{getegid, geteuid, umask};

use crate::error::{Doing, Result};
use crate::oci::digest::Verified;
use crate::report::Report;
use crate::workers::lock;
use above::{Above, Attempt, Begun, Sightings};
use calls::{EPOCH, failed, make_directory, open_directory, times};
use merge::Merge;
use meta::Keeper;
use tree::Tree;
use unpack::{Summary, Unpack};

const ROOTFS: &str = "rootfs";
const LAYERS: &str = ".layers";
/// The tree of a layer, beside its records.
const TREE: &str = "tree";

/// `DEST/rootfs` while it is made, and the trees of layers beside it.
pub(crate) struct Rootfs<'a> {
    destination: OwnedFd,
    layers: OwnedFd,
    root: OwnedFd,
    keeper: Keeper<'a>,
    begun: Begun,
    /// Because of which layers something was left out of those that are merged.
    seen: Mutex<Sightings>,
}

/// A layer in a tree of its own, not yet believed.
#[must_use]
pub(crate) struct Unpacked {
    number: usize,
    attempt: Attempt,
    summary: Summary,
}

/// A layer in a tree of its own that is complete and proven.
#[must_use]
pub(crate) struct Proven(Unpacked);

impl Unpacked {
    /// Takes the layer as it is: its compressed bytes are proven against the descriptor, the plain
    /// ones against the diff_id.
    pub(crate) fn believe(self, _compressed: Verified, _plain: Verified) -> Proven {
        Proven(self)
    }
}

/// What of a layer is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    All,
    /// Not what layers above, as far as they are unpacked, have in its place.
    SkipReplaced,
}

/// How a step went that may have to be taken again with [`Selection::All`].
#[must_use]
pub(crate) enum Outcome<T> {
    Done(T),
    /// Something was left out that is needed after all.
    Incomplete,
}

impl<'a> Rootfs<'a> {
    /// Starts in the directory `destination`, which is there; what an earlier try left in it has
    /// been removed ([`Rootfs::remove_old`]), other files are left alone.
    ///
    /// The umask of the process is 0 from here on, because modes come from the image: whoever
    /// creates files names their mode.
    pub(crate) fn create(destination: &Path, report: &'a Report) -> Result<Self> {
        Self::start(open_destination(destination)?, report)
            .doing(|| format!("destination `{}`", destination.display()))
    }

    fn start(destination: OwnedFd, report: &'a Report) -> Result<Self> {
        let (layers, root) = directories(&destination)?;
        Ok(Rootfs {
            destination,
            layers,
            root,
            keeper: Keeper::new(report),
            begun: Begun::default(),
            seen: Mutex::default(),
        })
    }

    /// Starts anew in the same directory.
    pub(crate) fn restart(&mut self) -> Result<()> {
        remove_all(&self.destination)?;
        (self.layers, self.root) = directories(&self.destination)?;
        (self.begun, self.seen) = Default::default();
        Ok(())
    }

    /// Removes what an earlier try left in the directory `destination`, which is there.
    pub(crate) fn remove_old(destination: &Path) -> Result<()> {
        let opened = open_destination(destination)?;
        remove_all(&opened).doing(|| format!("destination `{}`", destination.display()))
    }

    /// Unpacks layer `number`, a tar stream, into a fresh tree of its own; what an earlier attempt
    /// at the same layer left is removed first. Different layers may be unpacked on different
    /// threads at once. Reads to the end of the tar, not of the stream: the caller drains it.
    ///
    /// With [`Selection::SkipReplaced`] it may end in [`Outcome::Incomplete`], anywhere in the stream.
    ///
    /// # Errors
    /// [`Kind::Hostile`](crate::error::Kind) for a tar or an entry that nobody honest would send,
    /// `Local` for what this machine refuses, each with the entry's name; what `tar` says.
    pub(crate) fn unpack(
        &self,
        number: usize,
        selection: Selection,
        tar: &mut dyn BufRead,
    ) -> Result<Outcome<Unpacked>> {
        let name = number.to_string();
        remove::remove(&self.layers, name.as_bytes())
            .map_err(|error| failed(error, "remove", name.as_bytes()))?;
        make_directory(&self.layers, &name)?;
        let layer = open_directory(&self.layers, &name)?;
        make_directory(&layer, TREE)?;
        let tree = open_directory(&layer, TREE)?;
        let attempt = self.begun.begin(number);
        let layers = self.layers.as_fd();
        let above = Above::new(&self.begun, layers, number, &attempt, selection);
        let unpack = Unpack::new(layer.as_fd(), tree, &self.keeper, above);
        Ok(match unpack.run(tar)? {
            Outcome::Done(summary) => Outcome::Done(Unpacked {
                number,
                attempt,
                summary,
            }),
            Outcome::Incomplete => Outcome::Incomplete,
        })
    }

    /// Merges a layer into the rootfs. In order, lowest first.
    ///
    /// With [`Outcome::Incomplete`] all layers are needed once more and in whole, in a rootfs that
    /// starts anew.
    ///
    /// # Errors
    /// As for [`Rootfs::unpack`]; the rootfs is of no use then.
    pub(crate) fn merge(&self, Proven(layer): Proven) -> Result<Outcome<()>> {
        let mut seen = lock(&self.seen);
        if seen.is_wrong_about(layer.number, &layer.attempt) {
            return Ok(Outcome::Incomplete);
        }
        let name = layer.number.to_string();
        let directory = open_directory(&self.layers, &name)?;
        let root = Tree::new(duplicate(self.root.as_fd())?);
        let merge = Merge::new(root, directory, &layer.summary, &self.keeper)?;
        merge.run()?;
        seen.extend(layer.summary.seen);
        remove::remove(&self.layers, name.as_bytes())
            .map_err(|error| failed(error, "remove", name.as_bytes()))?;
        Ok(Outcome::Done(()))
    }

    /// Removes what was needed beside the rootfs. Directories have their times already: a merge
    /// leaves each as it should be.
    pub(crate) fn finish(self) -> Result<()> {
        remove::remove(&self.destination, LAYERS.as_bytes())
            .map_err(|error| failed(error, "remove", LAYERS.as_bytes()))
    }

    /// Removes the rootfs of a run that failed, as far as possible.
    pub(crate) fn discard(self) {
        // The run has failed already, and says why.
        let _ = remove_all(&self.destination);
    }
}

/// Makes the directory for layers and the rootfs.
fn directories(destination: &OwnedFd) -> Result<(OwnedFd, OwnedFd)> {
    umask(Mode::empty());
    let layers = fresh(destination, LAYERS)?;
    let root = fresh(destination, ROOTFS)?;
    // 0755, root's and of 1970, unless a layer says otherwise.
    fchmod(&root, Mode::from_raw_mode(0o755))
        .and_then(|()| futimens(&root, &times(EPOCH)))
        .map_err(|error| failed(error, "set up", b""))?;
    Ok((layers, root))
}

/// Removes both; a failure of one does not stop the removal of the other.
fn remove_all(destination: &OwnedFd) -> Result<()> {
    let removed = [ROOTFS, LAYERS].map(|name| {
        remove::remove(destination, name.as_bytes())
            .map_err(|error| failed(error, "remove", name.as_bytes()))
    });
    removed.into_iter().collect()
}

fn open_destination(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty())
        .map_err(std::io::Error::from)
        .doing(|| format!("open destination `{}`", path.display()))
}

/// Makes a directory that hands nothing on to what is made in it: neither a group (set-group-id of
/// the destination) nor rights (a default access list of it).
fn fresh(destination: &OwnedFd, name: &str) -> Result<OwnedFd> {
    make_directory(destination, name)?;
    let directory = open_directory(destination, name)?;
    let wrong = |error| failed(error, "set up", name.as_bytes());
    // Only what is there is removed: not every filesystem knows of these at all.
    let mut room = [0u8; 4096];
    let listed = flistxattr(&directory, &mut room[..]).unwrap_or(0);
    let there = room.get(..listed).unwrap_or_default();
    for list in ["system.posix_acl_access", "system.posix_acl_default"] {
        let mut names = there.split(|byte| *byte == 0);
        if names.any(|name| name == list.as_bytes()) {
            fremovexattr(&directory, list).map_err(wrong)?;
        }
    }
    let (user, group) = (geteuid(), getegid());
    fchown(&directory, Some(user), Some(group)).map_err(wrong)?;
    fchmod(&directory, Mode::RWXU).map_err(wrong)?;
    Ok(directory)
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned().doing(|| "open the rootfs")
}

#[cfg(test)]
mod tests;
