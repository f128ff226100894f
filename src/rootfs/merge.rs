//! One unpacked layer onto the layers below it.
//!
//! A layer is a set of things: where its own entries stand in it makes no difference here, and
//! what it removes never touches what it adds. A subtree that meets nothing below moves with one
//! rename.

mod below;
mod late;

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, RawDir, RenameFlags, SeekFrom, Timespec};
use rustix::fs::{chmodat, renameat, renameat_with, seek, statat, unlinkat};
use rustix::io::Errno;

use super::TREE;
use super::calls::failed;
use super::meta::{Keeper, copy_xattrs};
use super::path;
use super::records::Implied;
use super::remove;
use super::tree::Tree;
use super::unpack::Summary;
use crate::archive::shown;
use crate::error::{Error, Result};

/// Bytes of directory entries read at once.
const LISTING: usize = 32 * 1024;
/// Names of directories that wait to be gone into, in all that are open: more are listed again.
const WAITING_LIMIT: usize = 64 * 1024;

pub(super) struct Merge<'a> {
    lower: Tree,
    /// Rooted in the layer's directory, so that both its tree and what is late are in it.
    upper: Tree,
    layer: OwnedFd,
    implied: Implied,
    root_described: bool,
    keeper: &'a Keeper<'a>,
    /// Subtrees that wait in `late`.
    late: u64,
    listing: Vec<u8>,
    /// Bytes of names in all frames.
    waiting: usize,
}

/// Where a merge of two directories stands: three places that grow and shrink together.
struct Walk {
    /// In the layer, as its entries name it.
    own: Vec<u8>,
    /// In the layer's directory, where it is now.
    from: Vec<u8>,
    /// In the rootfs.
    to: Vec<u8>,
}

/// A directory of the layer that meets one of the rootfs, while what is in it is merged.
struct Frame {
    /// Directories in it that meet one below, still to be gone into.
    names: VecDeque<Vec<u8>>,
    /// The last listing found nothing that could be moved or gone into.
    dry: bool,
}

impl<'a> Merge<'a> {
    pub(super) fn new(
        lower: Tree,
        layer: OwnedFd,
        summary: &Summary,
        keeper: &'a Keeper<'a>,
    ) -> Result<Self> {
        let upper = Tree::new(super::duplicate(layer.as_fd())?);
        let implied = Implied::open(&layer, summary.implied)?;
        Ok(Merge {
            lower,
            upper,
            layer,
            implied,
            root_described: summary.root_described,
            keeper,
            late: 0,
            listing: Vec::with_capacity(LISTING),
            waiting: 0,
        })
    }

    /// 1. links: to files below, while these are all still there
    /// 2. removals: of what is below, before anything of this layer is there
    /// 3. the tree
    /// 4. what lies behind symlinks of lower layers: these are resolved as they are afterwards
    pub(super) fn run(mut self) -> Result<()> {
        self.link()?;
        self.remove()?;
        // What was opened of the layer may move: it must be as it should be.
        self.upper.close()?;
        let walk = Walk {
            own: Vec::new(),
            from: TREE.as_bytes().to_vec(),
            to: Vec::new(),
        };
        self.merge(walk)?;
        self.merge_late()?;
        self.lower.close()
    }

    /// Merges one directory of the layer and all below it into one of the rootfs. The stack is on
    /// the heap and its depth is bounded by [`path::PATH_LIMIT`].
    fn merge(&mut self, mut walk: Walk) -> Result<()> {
        let described = match walk.own.is_empty() {
            true => self.root_described,
            // A late subtree is only implied.
            false => false,
        };
        let mut frames = vec![self.enter(&walk, described)?];
        while let Some(frame) = frames.last_mut() {
            if let Some(name) = frame.names.pop_front() {
                self.waiting -= name.len();
                walk.push(&name)?;
                let described = self.implied.get(&walk.own)?.is_none();
                let frame = self.enter(&walk, described)?;
                frames.push(frame);
                continue;
            }
            if !self.leave(&walk)? {
                let names = self.list(&walk)?;
                if names.is_empty() && frame.dry {
                    self.remove_leftovers(&walk)?;
                } else {
                    frame.dry = names.is_empty();
                    frame.names = names;
                    continue;
                }
            }
            frames.pop();
            walk.pop();
        }
        Ok(())
    }

    /// Starts with a directory: its metadata, then what is in it.
    fn enter(&mut self, walk: &Walk, described: bool) -> Result<Frame> {
        if described {
            self.describe(walk)?;
        }
        Ok(Frame {
            names: self.list(walk)?,
            dry: false,
        })
    }

    /// The lower directory takes the upper one's owner, attributes, mode and time.
    fn describe(&mut self, walk: &Walk) -> Result<()> {
        let upper = self.upper.directory(&walk.from)?;
        let lower = self.lower.directory(&walk.to)?;
        let (upper, lower) = (self.upper.get(upper)?, self.lower.get_mut(lower)?);
        if self.keeper.is_root() && (upper.uid, upper.gid) != (lower.uid, lower.gid) {
            use rustix::fs::{Gid, Uid, fchown};
            let (user, group) = (Uid::from_raw(upper.uid), Gid::from_raw(upper.gid));
            fchown(lower.fd(), Some(user), Some(group))
                .map_err(|error| failed(error, "set the owner of", &walk.to))?;
            (lower.uid, lower.gid) = (upper.uid, upper.gid);
        }
        if self.keeper.has_directory_xattrs() {
            copy_xattrs(upper.fd(), lower.fd(), self.keeper, &walk.to)?;
        }
        lower.leave_as(upper.mode, upper.mtime);
        Ok(())
    }

    /// Moves what can be moved at once; the directories that meet one below.
    fn list(&mut self, walk: &Walk) -> Result<VecDeque<Vec<u8>>> {
        let mut listing = std::mem::take(&mut self.listing);
        let listed = self.list_into(walk, listing.spare_capacity_mut());
        self.listing = listing;
        listed
    }

    fn list_into(
        &mut self,
        walk: &Walk,
        listing: &mut [MaybeUninit<u8>],
    ) -> Result<VecDeque<Vec<u8>>> {
        let (upper, lower) = (
            self.upper.directory(&walk.from)?,
            self.lower.directory(&walk.to)?,
        );
        let upper = self.upper.fd(upper)?;
        let lower = self.lower.touch(lower)?;
        let both = Both {
            upper: &upper,
            lower: &lower,
            walk,
        };
        let wrong = |error| failed(error, "list", &walk.to);
        seek(&*upper, SeekFrom::Start(0)).map_err(wrong)?;
        let mut names = VecDeque::new();
        let mut entries = RawDir::new(&*upper, listing);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(wrong)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let mut kind = entry.file_type();
            if kind == FileType::Unknown {
                let stat = statat(&*upper, name, AtFlags::SYMLINK_NOFOLLOW).map_err(wrong)?;
                kind = FileType::from_raw_mode(stat.st_mode);
            }
            if kind != FileType::Directory {
                self.move_file(&both, name)?;
            } else if !self.move_directory(&both, name)? {
                // A walk must go on even if all frames before it wait for many.
                if self.waiting + name.len() > WAITING_LIMIT && !names.is_empty() {
                    break;
                }
                self.waiting += name.len();
                names.push_back(name.to_vec());
            }
        }
        Ok(names)
    }

    fn move_file(&mut self, both: &Both<'_>, name: &[u8]) -> Result<()> {
        let moved = match renameat(both.upper, name, both.lower, name) {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                self.lower.forget(&both.to(name)?);
                remove::remove(both.lower, name)
                    .and_then(|()| renameat(both.upper, name, both.lower, name))
            }
            moved => moved,
        };
        moved.map_err(|error| both.failed(error, name))
    }

    /// Moves a whole subtree if nothing is in its place; `false` when a directory is.
    fn move_directory(&mut self, both: &Both<'_>, name: &[u8]) -> Result<bool> {
        match self.move_whole(both, name) {
            Ok(()) => return Ok(true),
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::XDEV) => {}
            Err(error) => return Err(both.failed(error, name)),
        }
        let kind = match statat(both.lower, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode),
            Err(Errno::NOENT) => return self.make_below(both, name).map(|()| false),
            Err(error) => return Err(both.failed(error, name)),
        };
        if kind == FileType::Directory {
            return self.replace_empty(both, name);
        }
        if let Some(number) = self.implied.get(&both.own(name)?)? {
            let to = both.to(name)?;
            if kind != FileType::Symlink {
                let to = shown(&to);
                return Err(Error::hostile(format!(
                    "a layer has something below {to}, which is not a directory"
                )));
            }
            self.defer(both, name, number, &to)?;
            return Ok(true);
        }
        unlinkat(both.lower, name, AtFlags::empty()).map_err(|error| both.failed(error, name))?;
        match self.move_whole(both, name) {
            Ok(()) => Ok(true),
            Err(Errno::XDEV) => self.make_below(both, name).map(|()| false),
            Err(error) => Err(both.failed(error, name)),
        }
    }

    /// Renames a directory if its name is free below.
    fn move_whole(&self, both: &Both<'_>, name: &[u8]) -> std::result::Result<(), Errno> {
        if !self.keeper.moves_directories() {
            return Err(Errno::XDEV);
        }
        let moved = both.move_whole(name);
        if moved == Err(Errno::XDEV) {
            self.keeper.cannot_move_directories();
        }
        moved
    }

    /// Moves a whole subtree in place of a directory that is empty, if its own entry describes it:
    /// nothing of the lower one would be left but its name.
    fn replace_empty(&mut self, both: &Both<'_>, name: &[u8]) -> Result<bool> {
        if !self.keeper.moves_directories() || self.implied.get(&both.own(name)?)?.is_some() {
            return Ok(false);
        }
        // Most are not empty; what else forbids it is met again, and told, further down.
        let moved = renameat(both.upper, name, both.lower, name).is_ok();
        if moved {
            self.lower.forget(&both.to(name)?);
        }
        Ok(moved)
    }

    /// For filesystems on which a directory cannot be moved (EXDEV on some overlays): one is made,
    /// and what is in it is moved entry by entry.
    fn make_below(&mut self, both: &Both<'_>, name: &[u8]) -> Result<()> {
        let mut walk = both.walk.copy();
        walk.push(name)?;
        let upper = self.upper.directory(&walk.from)?;
        let upper = self.upper.get(upper)?;
        let (mode, mtime): (u32, Timespec) = (upper.mode, upper.mtime);
        let lower = self.lower.directory(&both.walk.to)?;
        match self.lower.make(lower, name, mode, mtime)? {
            Some(_) => self.describe(&walk),
            None => Err(both.failed(Errno::EXIST, name)),
        }
    }

    /// Removes a directory of the layer when it is empty.
    fn leave(&mut self, walk: &Walk) -> Result<bool> {
        let (parent, name) = path::split(&walk.from);
        let parent = self.upper.directory(parent)?;
        let parent = self.upper.fd(parent)?;
        match unlinkat(&*parent, name, AtFlags::REMOVEDIR) {
            Ok(()) => {
                self.upper.forget(&walk.from);
                Ok(true)
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            Err(error) => Err(failed(error, "merge", &walk.to)),
        }
    }

    /// What is left when nothing more moves: names of files that are the same inode on both sides,
    /// for which rename(2) does nothing.
    fn remove_leftovers(&mut self, walk: &Walk) -> Result<()> {
        let (parent, name) = path::split(&walk.from);
        let parent = self.upper.directory(parent)?;
        let parent = self.upper.fd(parent)?;
        self.upper.forget(&walk.from);
        remove::remove(&*parent, name).map_err(|error| failed(error, "merge", &walk.to))
    }
}

impl Walk {
    fn push(&mut self, name: &[u8]) -> Result<()> {
        path::push(&mut self.own, name)?;
        path::push(&mut self.to, name)?;
        // Not a name of the image: one component longer than `own` at most.
        self.from.push(b'/');
        self.from.extend_from_slice(name);
        Ok(())
    }

    fn pop(&mut self) {
        path::pop(&mut self.own);
        path::pop(&mut self.from);
        path::pop(&mut self.to);
    }

    fn copy(&self) -> Self {
        Walk {
            own: self.own.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
        }
    }
}

/// The two open directories of a walk.
struct Both<'a> {
    upper: &'a OwnedFd,
    lower: &'a OwnedFd,
    walk: &'a Walk,
}

impl Both<'_> {
    fn to(&self, name: &[u8]) -> Result<Vec<u8>> {
        let mut to = self.walk.to.clone();
        path::push(&mut to, name)?;
        Ok(to)
    }

    fn own(&self, name: &[u8]) -> Result<Vec<u8>> {
        let mut own = self.walk.own.clone();
        path::push(&mut own, name)?;
        Ok(own)
    }

    fn failed(&self, error: Errno, name: &[u8]) -> Error {
        match self.to(name) {
            Ok(to) => failed(error, "put in place", &to),
            Err(error) => error,
        }
    }

    /// Renames a directory if its name is free below.
    fn move_whole(&self, name: &[u8]) -> std::result::Result<(), Errno> {
        match self.rename(name) {
            // Moving a directory changes its `..`, which its mode may forbid (not to root).
            Err(Errno::ACCESS) => {
                let stat = statat(self.upper, name, AtFlags::SYMLINK_NOFOLLOW)?;
                let mode = Mode::from_raw_mode(stat.st_mode);
                chmodat(self.upper, name, mode | Mode::RWXU, AtFlags::empty())?;
                let moved = self.rename(name);
                let side = match moved {
                    Ok(()) => self.lower,
                    Err(_) => self.upper,
                };
                chmodat(side, name, mode, AtFlags::empty())?;
                moved
            }
            moved => moved,
        }
    }

    fn rename(&self, name: &[u8]) -> std::result::Result<(), Errno> {
        let flags = RenameFlags::NOREPLACE;
        match renameat_with(self.upper, name, self.lower, name, flags) {
            // A kernel or filesystem without the flag.
            Err(Errno::INVAL | Errno::NOSYS) => {
                match statat(self.lower, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(_) => Err(Errno::EXIST),
                    Err(Errno::NOENT) => renameat(self.upper, name, self.lower, name),
                    Err(error) => Err(error),
                }
            }
            moved => moved,
        }
    }
}
