//! A directory tree and the descriptors that are open in it.
//!
//! Directories are opened one component at a time and never through a symlink that the kernel
//! follows: links are read and resolved here, below the root, as chroot(2) would. Up to 64 stay
//! open, because entries of a tar stand together.
//!
//! Writing into a directory changes its time, and needs permissions that its mode may not give. So
//! every directory that was opened is left as it should be when its descriptor is closed: with
//! the mode and time that it had, or that were asked for. Nothing else has to be remembered, for
//! any number of directories.
//!
//! Threat model: names and links are hostile; nobody else writes into the tree while we run.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Timespec};
use rustix::fs::{chmodat, fchmod, fchown, fstat, futimens};
use rustix::fs::{mkdirat, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::getegid;

use super::calls::{EPOCH, OPEN_DIRECTORY, failed, not_made, times};
use super::path;
use crate::archive::shown;
use crate::error::{Error, Result};

/// Descriptors for each tree: eight workers, each with those of the layers above it, and a merge stay
/// below the usual limit of 1,024.
const OPEN_LIMIT: usize = 64;
/// Links followed in one path, as Linux has it (path_resolution(7)).
const LINKS_LIMIT: usize = 40;
/// Text of a path after links were put in: each link has `PATH_MAX` at most.
const TEXT_LIMIT: usize = 64 * 1024;

pub(super) struct Tree {
    root: OwnedFd,
    open: Vec<Directory>,
    /// Counts uses, to find the directory that was not used for the longest time.
    uses: u64,
    /// Ours.
    group: Gid,
}

/// An open directory.
pub(super) struct Directory {
    path: Vec<u8>,
    fd: Rc<OwnedFd>,
    used: u64,
    /// What it should be when it is closed.
    pub(super) mode: u32,
    pub(super) mtime: Timespec,
    /// The mode that it has while it is open.
    working_mode: u32,
    /// Something was written into it, or its time is to be another one.
    touched: bool,
    /// Something may be in it.
    filled: bool,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// A slot of [`Tree`]; good until the next directory is opened after 63 others were used.
#[derive(Clone, Copy)]
pub(super) struct Slot(usize);

/// What a name in a directory is.
pub(super) enum Child {
    Directory(Slot),
    Missing,
    /// A symlink and its target.
    Symlink(Vec<u8>),
    /// Neither a directory nor a symlink.
    Other,
}

/// Where a path leads.
pub(super) enum Walked {
    /// To this directory.
    Directory(Slot),
    /// To this place, where nothing is; what is missing was taken literally.
    Missing(Vec<u8>),
    /// Nowhere: something on the way is no directory, or links lead in circles.
    Blocked(Error),
}

impl Tree {
    pub(super) fn new(root: OwnedFd) -> Self {
        Tree {
            root,
            open: Vec::new(),
            uses: 0,
            group: getegid(),
        }
    }

    /// The descriptor of an open directory.
    pub(super) fn fd(&self, slot: Slot) -> Result<Rc<OwnedFd>> {
        Ok(Rc::clone(&self.get(slot)?.fd))
    }

    /// The descriptor of a directory in which something will be changed.
    pub(super) fn touch(&mut self, slot: Slot) -> Result<Rc<OwnedFd>> {
        let directory = self.get_mut(slot)?;
        directory.touched = true;
        directory.filled = true;
        Ok(Rc::clone(&directory.fd))
    }

    pub(super) fn get(&self, slot: Slot) -> Result<&Directory> {
        self.open.get(slot.0).ok_or_else(no_slot)
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Result<&mut Directory> {
        self.open.get_mut(slot.0).ok_or_else(no_slot)
    }

    /// Opens a directory by its place, in which no component is a symlink.
    pub(super) fn directory(&mut self, place: &[u8]) -> Result<Slot> {
        match self.walk(place, &mut |_| Ok(false))? {
            Walked::Directory(slot) => Ok(slot),
            Walked::Missing(_) => Err(Error::local(format!("{} is gone", shown(place)))),
            Walked::Blocked(error) => Err(error),
        }
    }

    /// Resolves `text` from the root, as chroot(2) would. A directory that is not there is made
    /// (0755) where `create` says so for its place.
    ///
    /// # Errors
    /// What the system says; a path that gets too long.
    pub(super) fn walk(
        &mut self,
        text: &[u8],
        create: &mut dyn FnMut(&[u8]) -> Result<bool>,
    ) -> Result<Walked> {
        if let Some(slot) = self.find(text) {
            return Ok(Walked::Directory(slot));
        }
        // What is open was reached without a link, so resolving can start there.
        let mut start = text;
        let here = loop {
            (start, _) = path::split(start);
            if let Some(slot) = self.find(start) {
                break slot;
            }
            if start.is_empty() {
                break self.open_root()?;
            }
        };
        let rest = text.get(start.len()..).unwrap_or_default();
        self.walk_from(here, rest, create)
    }

    /// The same from a directory that is open.
    pub(super) fn walk_from(
        &mut self,
        start: Slot,
        text: &[u8],
        create: &mut dyn FnMut(&[u8]) -> Result<bool>,
    ) -> Result<Walked> {
        let mut here = start;
        // Components still to go, the next one at `at`.
        let mut text = text.to_vec();
        let mut at = 0;
        let mut links = 0;
        // Set from the first component on that is not there.
        let mut missing: Option<Vec<u8>> = None;
        loop {
            let rest = text.get(at..).unwrap_or_default();
            let slashes = rest.iter().take_while(|byte| **byte == b'/').count();
            let rest = rest.get(slashes..).unwrap_or_default();
            let length = rest.iter().position(|byte| *byte == b'/');
            let name = rest.get(..length.unwrap_or(rest.len())).unwrap_or_default();
            at += slashes + name.len();
            match (name, &mut missing) {
                (b"", None) => return Ok(Walked::Directory(here)),
                (b"", Some(_)) => return Ok(Walked::Missing(missing.take().unwrap_or_default())),
                (b".", _) => continue,
                (b"..", Some(place)) => {
                    path::pop(place);
                    continue;
                }
                (b"..", None) => {
                    let place = self.get(here)?.path.clone();
                    let (parent, _) = path::split(&place);
                    here = self.directory(parent)?;
                    continue;
                }
                (name, Some(place)) => {
                    path::push(place, name)?;
                    continue;
                }
                (_, None) => {}
            }
            let name = name.to_vec();
            match self.child(here, &name)? {
                Child::Directory(slot) => here = slot,
                Child::Symlink(target) => {
                    links += 1;
                    let rest = text.get(at..).unwrap_or_default();
                    if links > LINKS_LIMIT || target.len() + rest.len() > TEXT_LIMIT {
                        let why = "leads through too many symbolic links";
                        return Ok(Walked::Blocked(self.refuse(here, &name, why)));
                    }
                    if target.starts_with(b"/") {
                        here = self.open_root()?;
                    }
                    text = [&target[..], b"/", rest].concat();
                    at = 0;
                }
                Child::Other => {
                    let error = self.refuse(here, &name, "is not a directory");
                    return Ok(Walked::Blocked(error));
                }
                Child::Missing => {
                    let mut place = self.get(here)?.path.clone();
                    path::push(&mut place, &name)?;
                    if create(&place)? {
                        let made = self.make(here, &name, 0o755, EPOCH)?;
                        here = made.ok_or_else(no_slot)?;
                    } else {
                        missing = Some(place);
                    }
                }
            }
        }
    }

    /// What `name` is in an open directory.
    pub(super) fn child(&mut self, parent: Slot, name: &[u8]) -> Result<Child> {
        let directory = self.get(parent)?;
        let mut place = directory.path.clone();
        path::push(&mut place, name)?;
        if let Some(slot) = self.find(&place) {
            return Ok(Child::Directory(slot));
        }
        let above = self.fd(parent)?;
        let opened = match openat(&above, name, OPEN_DIRECTORY, Mode::empty()) {
            // Not ours to read as it is; it is ours to change.
            Err(Errno::ACCESS) => {
                let stat = rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW);
                let stat = stat.map_err(|error| failed(error, "open", &place))?;
                // The mode of what a link leads to is not ours to change.
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    return Err(failed(Errno::ACCESS, "open", &place));
                }
                let loose = Mode::from_raw_mode(stat.st_mode) | Mode::RWXU;
                chmodat(&above, name, loose, AtFlags::empty())
                    .map_err(|error| failed(error, "open", &place))?;
                let fd = openat(&above, name, OPEN_DIRECTORY, Mode::empty())
                    .map_err(|error| failed(error, "open", &place))?;
                return Ok(Child::Directory(self.insert(place, fd, &stat)?));
            }
            opened => opened,
        };
        match opened {
            Ok(fd) => {
                let stat = fstat(&fd).map_err(|error| failed(error, "open", &place))?;
                Ok(Child::Directory(self.insert(place, fd, &stat)?))
            }
            Err(Errno::NOENT) => Ok(Child::Missing),
            Err(Errno::NOTDIR | Errno::LOOP) => match readlinkat(&above, name, Vec::new()) {
                Ok(target) => Ok(Child::Symlink(target.into_bytes())),
                Err(Errno::INVAL) => Ok(Child::Other),
                Err(error) => Err(failed(error, "read link", &place)),
            },
            Err(error) => Err(failed(error, "open", &place)),
        }
    }

    /// Makes a directory and opens it; `None` where something of that name is there. Its owner is
    /// whoever we are.
    pub(super) fn make(
        &mut self,
        parent: Slot,
        name: &[u8],
        mode: u32,
        mtime: Timespec,
    ) -> Result<Option<Slot>> {
        let mut place = self.get(parent)?.path.clone();
        path::push(&mut place, name)?;
        let above = self.touch(parent)?;
        let making = "make directory";
        match mkdirat(&above, name, Mode::from_raw_mode(working(mode))) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(None),
            Err(error) => return Err(not_made(&above, error, making, &place)),
        }
        let wrong = |error| failed(error, making, &place);
        let fd = openat(&above, name, OPEN_DIRECTORY, Mode::empty()).map_err(wrong)?;
        let mut stat = fstat(&fd).map_err(wrong)?;
        // Some mounts (`grpid`) hand on the group of the directory above.
        if stat.st_gid != self.group.as_raw() {
            fchown(&fd, None, Some(self.group)).map_err(wrong)?;
            stat.st_gid = self.group.as_raw();
        }
        let slot = self.insert(place, fd, &stat)?;
        let directory = self.get_mut(slot)?;
        directory.leave_as(mode, mtime);
        directory.filled = false;
        Ok(Some(slot))
    }

    /// Forgets the directories at and below `place`, which have been removed or moved. Slots of
    /// others stay good.
    pub(super) fn forget(&mut self, place: &[u8]) {
        for directory in &mut self.open {
            if path::is_within(&directory.path, place) {
                directory.forget();
            }
        }
    }

    /// The same without the directory itself.
    pub(super) fn forget_below(&mut self, place: &[u8]) {
        for directory in &mut self.open {
            if path::is_within(&directory.path, place) && directory.path != place {
                directory.forget();
            }
        }
    }

    /// Closes all directories and leaves each as it should be.
    pub(super) fn close(&mut self) -> Result<()> {
        while let Some(directory) = self.open.pop() {
            directory.close()?;
        }
        Ok(())
    }

    fn open_root(&mut self) -> Result<Slot> {
        if let Some(slot) = self.find(b"") {
            return Ok(slot);
        }
        let wrong = |error| failed(error, "open", b"/");
        let stat = fstat(&self.root).map_err(wrong)?;
        let open = || openat(&self.root, ".", OPEN_DIRECTORY, Mode::empty());
        let fd = match open() {
            // An image may close its root to its owner, as any other directory.
            Err(Errno::ACCESS) => {
                let loose = Mode::from_raw_mode(stat.st_mode) | Mode::RWXU;
                fchmod(&self.root, loose).and_then(|()| open())
            }
            opened => opened,
        };
        self.insert(Vec::new(), fd.map_err(wrong)?, &stat)
    }

    fn find(&mut self, place: &[u8]) -> Option<Slot> {
        let at = self
            .open
            .iter()
            .position(|directory| directory.path == place)?;
        self.uses += 1;
        if let Some(directory) = self.open.get_mut(at) {
            directory.used = self.uses;
        }
        Some(Slot(at))
    }

    fn insert(&mut self, place: Vec<u8>, fd: OwnedFd, stat: &Stat) -> Result<Slot> {
        self.uses += 1;
        let mode = stat.st_mode & 0o7777;
        let mut directory = Directory {
            path: place,
            fd: Rc::new(fd),
            used: self.uses,
            mode,
            mtime: Timespec {
                tv_sec: stat.st_mtime,
                tv_nsec: stat.st_mtime_nsec.cast_signed(),
            },
            working_mode: mode,
            touched: false,
            filled: true,
            uid: stat.st_uid,
            gid: stat.st_gid,
        };
        directory.loosen()?;
        if self.open.len() < OPEN_LIMIT {
            self.open.push(directory);
            return Ok(Slot(self.open.len() - 1));
        }
        let oldest = self.open.iter().enumerate().min_by_key(|(_, d)| d.used);
        let at = oldest.map_or(0, |(at, _)| at);
        if let Some(place) = self.open.get_mut(at) {
            std::mem::replace(place, directory).close()?;
        }
        Ok(Slot(at))
    }

    fn refuse(&self, parent: Slot, name: &[u8], why: &str) -> Error {
        let mut place = self.get(parent).map_or(Vec::new(), |d| d.path.clone());
        if !place.is_empty() {
            place.push(b'/');
        }
        place.extend_from_slice(name);
        Error::hostile(format!("{} {why}", shown(&place)))
    }
}

impl Directory {
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether it was made here, and nothing in it yet.
    pub(super) fn is_empty(&self) -> bool {
        !self.filled
    }

    /// Sets what it is to be left as.
    pub(super) fn leave_as(&mut self, mode: u32, mtime: Timespec) {
        self.mode = mode;
        self.mtime = mtime;
        self.touched = true;
    }

    fn forget(&mut self) {
        // No place has a NUL in it, so this one is not found any more.
        self.path = vec![0];
        self.used = 0;
        self.mode = self.working_mode;
        self.touched = false;
    }

    fn loosen(&mut self) -> Result<()> {
        let wanted = working(self.mode);
        if wanted != self.working_mode {
            fchmod(&*self.fd, Mode::from_raw_mode(wanted))
                .map_err(|error| failed(error, "open up", &self.path))?;
            self.working_mode = wanted;
        }
        Ok(())
    }

    fn close(self) -> Result<()> {
        // 1. mode: it changes no time that is kept
        // 2. time: last, because nothing is written into the directory any more
        if self.mode != self.working_mode {
            fchmod(&*self.fd, Mode::from_raw_mode(self.mode))
                .map_err(|error| failed(error, "set the mode of", &self.path))?;
        }
        if self.touched {
            futimens(&*self.fd, &times(self.mtime))
                .map_err(|error| failed(error, "set the time of", &self.path))?;
        }
        Ok(())
    }
}

/// The mode of a directory while it is open: readable and writable for us, and not handing its
/// group to what is made in it.
fn working(mode: u32) -> u32 {
    (mode | 0o700) & !0o2000
}

#[cold]
fn no_slot() -> Error {
    Error::local("a directory that should be open is not")
}
