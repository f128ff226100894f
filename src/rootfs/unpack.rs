//! One layer's entries into a tree of its own.
//!
//! What the layer cannot decide alone is recorded for the merge: what it removes, hard links to
//! files of lower layers, directories that only deeper names imply. Entries count in their order,
//! the last one of a name wins, as when they were applied one by one to one tree.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags};
use rustix::fs::{fallocate, ftruncate, linkat, mknodat, openat, statat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::Outcome;
use super::above::{Above, Sightings};
use super::calls::{failed, not_made};
use super::meta::{Born, Keeper, time};
use super::path;
use super::records::{Implied, Links, List, OPAQUE, REMOVALS, REMOVE};
use super::remove::remove;
use super::tree::{Child, Slot, Tree, Walked};
use crate::archive::whiteout::{self, Mark};
use crate::archive::{Data, Entries, Entry, EntryKind, shown};
use crate::error::{Doing, Error, Result};
use std::io::BufRead;

/// Space is asked for in one piece from here on: below, the call costs more than it saves.
const FALLOCATE_FROM: u64 = 1 << 20;
/// And not for more than this at once: the size is the image's word.
const FALLOCATE_MOST: u64 = 1 << 30;

/// What is left to say of an unpacked layer, besides what lies on disk.
pub(super) struct Summary {
    /// How many directories are only implied, at most.
    pub(super) implied: u64,
    /// An entry describes the root itself.
    pub(super) root_described: bool,
    /// Because of which layers something was left out here.
    pub(super) seen: Sightings,
}

pub(super) struct Unpack<'a> {
    /// The directory that holds the tree and the records.
    layer: BorrowedFd<'a>,
    tree: Tree,
    keeper: &'a Keeper<'a>,
    above: Above<'a>,
    implied: Implied,
    links: Links,
    removals: List,
    root_described: bool,
    /// The name being unpacked, as a place.
    place: Vec<u8>,
}

impl<'a> Unpack<'a> {
    pub(super) fn new(
        layer: BorrowedFd<'a>,
        tree: OwnedFd,
        keeper: &'a Keeper<'a>,
        above: Above<'a>,
    ) -> Self {
        Unpack {
            layer,
            tree: Tree::new(tree),
            keeper,
            above,
            implied: Implied::new(),
            links: Links::new(),
            removals: List::new(REMOVALS),
            root_described: false,
            place: Vec::new(),
        }
    }

    /// Reads entries to the end of the tar; what follows it is left in `tar`.
    pub(super) fn run(mut self, tar: &mut dyn BufRead) -> Result<Outcome<Summary>> {
        let seen = self.entries(tar).and_then(|()| self.above.take_sightings());
        match seen {
            Err(_) if self.above.is_incomplete() => Ok(Outcome::Incomplete),
            seen => self.finish(seen?).map(Outcome::Done),
        }
    }

    fn entries(&mut self, tar: &mut dyn BufRead) -> Result<()> {
        let mut entries = Entries::new(tar);
        while let Some((entry, data)) = entries.next()? {
            let mut place = std::mem::take(&mut self.place);
            self.entry(entry, data, &mut place)?;
            self.place = place;
        }
        Ok(())
    }

    fn finish(mut self, seen: Sightings) -> Result<Summary> {
        self.tree.close()?;
        // Only there to be linked to.
        let root = self.tree.directory(b"")?;
        let root = self.tree.touch(root)?;
        remove(&*root, whiteout::AUFS_LINKS)
            .map_err(|error| failed(error, "remove", whiteout::AUFS_LINKS))?;
        self.tree.forget(whiteout::AUFS_LINKS);
        self.tree.close()?;
        self.links.finish()?;
        self.removals.finish()?;
        Ok(Summary {
            implied: self.implied.count(),
            root_described: self.root_described,
            seen,
        })
    }

    fn entry<R: BufRead>(
        &mut self,
        entry: &Entry,
        data: &mut Data<R>,
        place: &mut Vec<u8>,
    ) -> Result<()> {
        self.keeper
            .report()
            .debug(|| format!("{:?} {}", entry.kind, shown(entry.name())));
        path::place(entry.name(), place)?;
        if place.is_empty() {
            return self.root(entry);
        }
        let (parent, name) = path::split(place);
        match self.mark(parent, name).doing(|| shown(place))? {
            Mark::None => {}
            Mark::Metadata => return Ok(()),
            Mark::Opaque => return self.removal(OPAQUE, parent, b""),
            Mark::Remove(removed) => return self.removal(REMOVE, parent, removed),
        }
        let parent = self
            .parent(parent)
            .doing(|| format!("unpack {}", shown(place)))?;
        let directory = self.tree.get(parent)?;
        let born = self.keeper.born_in(directory.gid);
        // Where the parent is behind a symlink of this layer, this is another place than the
        // entry's name says; from here on it is the one that counts.
        let mut real = directory.path().to_vec();
        path::push(&mut real, name)?;
        let new = New {
            entry,
            parent,
            name,
            place: &real,
            born,
        };
        match entry.kind {
            EntryKind::Directory => self.directory(&new),
            EntryKind::File => self.file(&new, data),
            EntryKind::Link => self.link(&new),
            EntryKind::Symlink | EntryKind::Fifo => self.node(&new),
            EntryKind::Device => self.device(&new),
        }
    }

    /// What a name asks for. Marks count as the last component only.
    fn mark<'n>(&self, parent: &[u8], name: &'n [u8]) -> Result<Mark<'n>> {
        let mut above = parent.split(|byte| *byte == b'/').peekable();
        let top = above.peek().copied().unwrap_or_default();
        if top == whiteout::AUFS_LINKS {
            return Ok(Mark::None);
        }
        for component in above {
            match whiteout::mark(component)? {
                Mark::None => {}
                Mark::Metadata => return Ok(Mark::Metadata),
                Mark::Opaque | Mark::Remove(_) => {
                    return Err(Error::hostile("a name below a whiteout"));
                }
            }
        }
        whiteout::mark(name)
    }

    fn removal(&mut self, what: u8, directory: &[u8], name: &[u8]) -> Result<()> {
        let mut real = match self.resolve(directory)? {
            Walked::Directory(slot) => self.tree.get(slot)?.path().to_vec(),
            Walked::Missing(real) => {
                self.above.depends()?;
                real
            }
            // What cannot be there need not be removed.
            Walked::Blocked(_) => return Ok(()),
        };
        if !name.is_empty() {
            path::push(&mut real, name)?;
        }
        self.removals.push(self.layer, what, &real)
    }

    /// Where `place` is when this layer's own symlinks are followed, or why it is nowhere.
    fn real(&mut self, place: &[u8]) -> Result<Result<Vec<u8>>> {
        match self.resolve(place)? {
            Walked::Directory(slot) => Ok(Ok(self.tree.get(slot)?.path().to_vec())),
            Walked::Missing(real) => Ok(Ok(real)),
            Walked::Blocked(error) => Ok(Err(error)),
        }
    }

    /// Follows this layer's own symlinks; nothing is made.
    fn resolve(&mut self, place: &[u8]) -> Result<Walked> {
        let above = &self.above;
        self.tree.walk(place, &mut |missing| {
            above.require(missing)?;
            Ok(false)
        })
    }

    /// The directory for an entry; what of it is not there is implied.
    fn parent(&mut self, place: &[u8]) -> Result<Slot> {
        let (implied, above, layer) = (&mut self.implied, &self.above, self.layer);
        let walked = self.tree.walk(place, &mut |missing| {
            above.depends()?;
            implied.insert(layer, missing)?;
            Ok(true)
        })?;
        match walked {
            Walked::Directory(slot) => Ok(slot),
            Walked::Missing(_) => Err(Error::local("its directory is gone")),
            Walked::Blocked(error) => Err(error),
        }
    }

    /// The root stays what it is; an entry may only describe it (CVE-2021-29136).
    fn root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != EntryKind::Directory {
            let (kind, name) = (entry.kind, shown(entry.name()));
            return Err(Error::hostile(format!(
                "a {kind:?} entry {name} in place of the image's root directory"
            )));
        }
        let root = self.tree.directory(b"")?;
        self.root_described = true;
        self.describe(root, entry)
    }

    /// Gives an open directory what its entry says.
    fn describe(&mut self, slot: Slot, entry: &Entry) -> Result<()> {
        let directory = self.tree.get_mut(slot)?;
        let owner = (directory.uid, directory.gid);
        self.keeper
            .directory(directory.fd(), entry, owner, directory.path())?;
        if self.keeper.is_root() {
            (directory.uid, directory.gid) = (entry.uid, entry.gid);
        }
        directory.leave_as(entry.mode, time(entry));
        Ok(())
    }

    fn directory(&mut self, new: &New<'_>) -> Result<()> {
        // It described only what is described now.
        self.implied.remove(new.place)?;
        let slot = match self.make(new)? {
            Some(slot) => {
                self.above.require(new.place)?;
                slot
            }
            None => match self.tree.child(new.parent, new.name)? {
                Child::Directory(slot) => slot,
                Child::Symlink(_) | Child::Other | Child::Missing => {
                    self.unlink(new)?;
                    // What was here has replaced what lies below; that must not shine through now.
                    self.removals.push(self.layer, REMOVE, new.place)?;
                    let made = self.make(new)?;
                    made.ok_or_else(|| failed(Errno::EXIST, "create", new.place))?
                }
            },
        };
        self.describe(slot, new.entry)
    }

    fn make(&mut self, new: &New<'_>) -> Result<Option<Slot>> {
        let entry = new.entry;
        self.tree
            .make(new.parent, new.name, entry.mode, time(entry))
    }

    fn unlink(&mut self, new: &New<'_>) -> Result<()> {
        let parent = self.tree.touch(new.parent)?;
        unlinkat(&*parent, new.name, AtFlags::empty())
            .map_err(|error| failed(error, "replace", new.place))
    }

    /// Removes what this layer has put at a place.
    fn clear(&mut self, new: &New<'_>) -> Result<()> {
        let parent = self.tree.touch(new.parent)?;
        let removed = match unlinkat(&*parent, new.name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            // POSIX allows EPERM for a directory.
            Err(Errno::ISDIR | Errno::PERM) => {
                // With it goes what it stood for, to the layers below too.
                self.above.depends()?;
                self.tree.forget(new.place);
                remove(&*parent, new.name)
            }
            removed => removed,
        };
        removed.map_err(|error| failed(error, "replace", new.place))
    }

    /// Whether the entry is left out, because a layer above has something in its place.
    fn leave_out(&mut self, new: &New<'_>) -> Result<bool> {
        // Attributes may be none that any system takes.
        if new.entry.has_xattrs() {
            return Ok(false);
        }
        let parent = self.tree.get(new.parent)?;
        let Some(found) = self.above.find(parent.path(), new.name) else {
            return Ok(false);
        };
        // What it replaces is not looked for in a directory that is known to be empty.
        let is_there = |parent| statat(parent, new.name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if !parent.is_empty() && is_there(parent.fd()) {
            return Ok(false);
        }
        self.keeper.report().debug(|| {
            let (place, layer) = (shown(new.place), found.layer + 1);
            format!("{place} is not made: layer {layer} replaces it")
        });
        self.above.leave_out(new.place, found);
        Ok(true)
    }

    /// Runs `create`, which makes something that is no directory; where a name is taken, it is
    /// cleared first. Files are thus always new (`O_EXCL`), never written through a shared inode.
    fn create<T>(
        &mut self,
        new: &New<'_>,
        create: impl Fn(&OwnedFd) -> std::result::Result<T, Errno>,
    ) -> Result<(T, Rc<OwnedFd>)> {
        let parent = self.tree.touch(new.parent)?;
        let made = match create(&parent) {
            Err(Errno::EXIST) => {
                self.clear(new)?;
                create(&parent)
            }
            made => made,
        };
        let made = made.map_err(|error| not_made(&parent, error, "create", new.place))?;
        Ok((made, parent))
    }

    fn file<R: BufRead>(&mut self, new: &New<'_>, data: &mut Data<R>) -> Result<()> {
        if self.leave_out(new)? {
            return data.skip().doing(|| format!("unpack {}", shown(new.place)));
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = self.keeper.first_mode(new.entry, new.born);
        let (fd, _) = self.create(new, |parent| openat(parent, new.name, flags, mode))?;
        write(&fd, new, data)?;
        self.keeper.file(fd.as_fd(), new.entry, new.born, new.place)
    }

    fn node(&mut self, new: &New<'_>) -> Result<()> {
        let target = new.entry.link();
        if new.entry.kind == EntryKind::Symlink && target.is_empty() {
            let place = shown(new.place);
            return Err(Error::hostile(format!(
                "the symlink {place} points to nothing"
            )));
        }
        // What is longer can be made nowhere.
        if target.len() <= path::PATH_LIMIT && self.leave_out(new)? {
            return Ok(());
        }
        let mode = Mode::from_raw_mode(new.entry.mode);
        let ((), parent) = self.create(new, |parent| match new.entry.kind {
            EntryKind::Symlink => symlinkat(target, parent, new.name),
            _ => mknodat(parent, new.name, FileType::Fifo, mode, 0),
        })?;
        self.keeper
            .node(parent.as_fd(), new.name, new.entry, new.born, new.place)
    }

    /// Device nodes are skipped: a user namespace cannot make them. What the entry would have
    /// replaced is gone all the same.
    fn device(&mut self, new: &New<'_>) -> Result<()> {
        let place = shown(new.place);
        self.keeper
            .report()
            .debug(|| format!("the device {place} is skipped"));
        self.above.require(new.place)?;
        self.clear(new)?;
        self.removals.push(self.layer, REMOVE, new.place)
    }

    /// A hard link. Its header's owner, mode and time are those of the file it links to, and are
    /// not set again.
    fn link(&mut self, new: &New<'_>) -> Result<()> {
        let Target {
            real,
            directory,
            kind,
        } = self.link_target(new)?;
        // The slot of the new name's directory may be gone after so many others were opened.
        let (own, _) = path::split(new.place);
        let new = &New {
            parent: self.tree.directory(own)?,
            ..*new
        };
        match (directory, kind) {
            // A link to itself.
            (_, Some(_)) if real == new.place => Ok(()),
            (_, None) if self.above.has_left_out(&real) => match self.leave_out(new)? {
                true => Ok(()),
                false => self.above.require(&real),
            },
            (Some(directory), Some(kind)) => {
                if self.leave_out(new)? {
                    return Ok(());
                }
                let (_, name) = path::split(&real);
                self.create(new, |parent| {
                    linkat(&directory, name, parent, new.name, AtFlags::empty())
                })?;
                if kind == FileType::Socket {
                    self.links.also(self.layer, new.place)?;
                }
                Ok(())
            }
            _ => {
                self.above.depends()?;
                self.clear(new)?;
                let parent = self.tree.touch(new.parent)?;
                self.links
                    .insert(self.layer, new.place, &*parent, new.name, &real)
            }
        }
    }

    /// What a hard link links to.
    ///
    /// # Errors
    /// A target that no file can be.
    fn link_target(&mut self, new: &New<'_>) -> Result<Target> {
        let mut target = Vec::new();
        path::place(new.entry.link(), &mut target)
            .doing(|| format!("hard link {}", shown(new.place)))?;
        let missing = || {
            let (place, target) = (shown(new.place), shown(new.entry.link()));
            Error::hostile(format!(
                "{place} is a hard link to {target}, which cannot be"
            ))
        };
        if target.is_empty() {
            return Err(missing());
        }
        let (parent, name) = path::split(&target);
        let mut real = self.real(parent)?.map_err(|_| missing())?;
        // What follows something that is not there was taken literally; it may be a link again.
        let directory = match self.resolve(&real)? {
            Walked::Directory(slot) => {
                real = self.tree.get(slot)?.path().to_vec();
                Some(self.tree.fd(slot)?)
            }
            Walked::Missing(_) | Walked::Blocked(_) => None,
        };
        path::push(&mut real, name)?;
        if path::is_within(&real, new.place) && real != new.place {
            // The target goes away with the directory that the link replaces.
            return Err(missing());
        }
        let kind = match &directory {
            Some(directory) => match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
                Err(Errno::NOENT) => None,
                Err(error) => return Err(failed(error, "link to", &real)),
            },
            None => None,
        };
        if kind == Some(FileType::Directory) {
            return Err(missing());
        }
        Ok(Target {
            real,
            directory,
            kind,
        })
    }
}

/// What a hard link links to.
struct Target {
    /// Its place, with no symlink on the way.
    real: Vec<u8>,
    /// Its directory and what it is, where the layer has them.
    directory: Option<Rc<OwnedFd>>,
    kind: Option<FileType>,
}

/// Something that an entry makes.
#[derive(Clone, Copy)]
struct New<'e> {
    entry: &'e Entry,
    /// Its directory, and its name there.
    parent: Slot,
    name: &'e [u8],
    place: &'e [u8],
    born: Born,
}

/// Writes the data of a file, with its holes as holes.
fn write<R: BufRead>(fd: &OwnedFd, new: &New<'_>, data: &mut Data<R>) -> Result<()> {
    let wrong = |error| failed(error, "write", new.place);
    let mut written = 0;
    let Some(extents) = new.entry.extents() else {
        if new.entry.size >= FALLOCATE_FROM {
            // Only for speed: where it fails, writing says why, or works.
            let size = new.entry.size.min(FALLOCATE_MOST);
            let _ = fallocate(fd, FallocateFlags::KEEP_SIZE, 0, size);
        }
        loop {
            let block = data
                .block()
                .doing(|| format!("unpack {}", shown(new.place)))?;
            if block.is_empty() {
                return Ok(());
            }
            let n = retrying(|| rustix::io::write(fd, block))
                .map_err(|error| full(error, wrong(error), written, new.entry.size))?;
            data.consume(n);
            written += n as u64;
        }
    };
    let stored = extents.iter().map(|extent| extent.length).sum();
    for extent in extents {
        let mut at = extent.offset;
        let end = extent.offset.saturating_add(extent.length);
        while at < end {
            let block = data
                .block()
                .doing(|| format!("unpack {}", shown(new.place)))?;
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let block = block.get(..left.min(block.len())).unwrap_or_default();
            let n = retrying(|| rustix::io::pwrite(fd, block, at))
                .map_err(|error| full(error, wrong(error), written, stored))?;
            data.consume(n);
            written += n as u64;
            at += n as u64;
        }
    }
    ftruncate(fd, new.entry.size).map_err(wrong)
}

/// Where the disk is full: how much was needed.
#[cold]
fn full(errno: Errno, error: Error, written: u64, size: u64) -> Error {
    match errno {
        Errno::NOSPC | Errno::DQUOT => {
            error.noting(format!("{written} of its {size} bytes found room"))
        }
        _ => error,
    }
}

fn retrying<T>(
    mut call: impl FnMut() -> std::result::Result<T, Errno>,
) -> std::result::Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
