//! What a layer says of the layers below it: hard links to their files, and what it removes.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::fs::{linkat, openat, statat, unlinkat};
use rustix::io::Errno;

use super::Merge;
use crate::archive::shown;
use crate::error::{Error, Result};
use crate::rootfs::calls::failed;
use crate::rootfs::records::{Links, List, OPAQUE, REMOVALS};
use crate::rootfs::tree::{Child, Slot, Walked};
use crate::rootfs::{TREE, duplicate, path, remove};

impl Merge<'_> {
    /// Replaces the stand-ins of hard links by the files below that they link to.
    pub(super) fn link(&mut self) -> Result<()> {
        let layer = duplicate(self.layer.as_fd())?;
        Links::places(&layer, |place| {
            let (parent, name) = path::split(place);
            let Some(parent) = self.own_directory(parent)? else {
                return Ok(());
            };
            let above = self.upper.fd(parent)?;
            let stat = match statat(&above, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => return Ok(()),
                Err(error) => return Err(failed(error, "link", place)),
            };
            // Something else may have replaced it later in the layer.
            if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
                return Ok(());
            }
            let target = Links::target(&layer, stat.st_mtime)?;
            let above = self.upper.touch(parent)?;
            let found = self.link_target(&target)?;
            let Some((directory, target_name)) = found else {
                let (place, target) = (shown(place), shown(&target));
                return Err(Error::hostile(format!(
                    "{place} is a hard link to {target}, which is no file of any layer"
                )));
            };
            unlinkat(&above, name, AtFlags::empty())
                .and_then(|()| linkat(&*directory, &target_name, &above, name, AtFlags::empty()))
                .map_err(|error| failed(error, "link", place))
        })
    }

    /// The file below that a hard link means: its directory and its name there.
    fn link_target(&mut self, target: &[u8]) -> Result<Option<(Rc<OwnedFd>, Vec<u8>)>> {
        let (parent, name) = path::split(target);
        let Walked::Directory(slot) = self.lower.walk(parent, &mut |_| Ok(false))? else {
            return Ok(None);
        };
        let directory = self.lower.fd(slot)?;
        match statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Ok(None),
            Ok(_) => Ok(Some((directory, name.to_vec()))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failed(error, "link to", target)),
        }
    }

    /// A directory of this layer by its place, if there is one.
    fn own_directory(&mut self, place: &[u8]) -> Result<Option<Slot>> {
        let mut from = TREE.as_bytes().to_vec();
        if !place.is_empty() {
            // One more component than a place may have; nothing longer is made of it.
            from.push(b'/');
            from.extend_from_slice(place);
        }
        let mut slot = match self.upper.walk(b"", &mut |_| Ok(false))? {
            Walked::Directory(slot) => slot,
            _ => return Ok(None),
        };
        for name in from.split(|byte| *byte == b'/') {
            match self.upper.child(slot, name)? {
                Child::Directory(child) => slot = child,
                _ => return Ok(None),
            }
        }
        Ok(Some(slot))
    }

    /// Applies whiteouts and opaque markers, in the order of their entries, to what is below.
    pub(super) fn remove(&mut self) -> Result<()> {
        let layer = duplicate(self.layer.as_fd())?;
        List::read(&layer, REMOVALS, |what, place| {
            let (directory, name) = match what {
                OPAQUE => (place, &b""[..]),
                _ => path::split(place),
            };
            let Some(slot) = self.lower_directory(directory)? else {
                return Ok(());
            };
            let fd = self.lower.touch(slot)?;
            let real = self.lower.get(slot)?.path().to_vec();
            let removed = match what {
                OPAQUE => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    let opened = openat(&fd, ".", flags, Mode::empty());
                    self.lower.forget_below(&real);
                    opened.and_then(remove::empty)
                }
                _ => {
                    let mut gone = real;
                    path::push(&mut gone, name)?;
                    self.lower.forget(&gone);
                    remove::remove(&*fd, name)
                }
            };
            removed.map_err(|error| failed(error, "remove", place))
        })
    }

    /// The directory below in which this layer removes something. Where a lower layer has a
    /// symlink on the way, it is followed only if this layer puts nothing in its place.
    fn lower_directory(&mut self, place: &[u8]) -> Result<Option<Slot>> {
        let mut slot = self.lower.directory(b"")?;
        if place.is_empty() {
            return Ok(Some(slot));
        }
        let mut own = Vec::new();
        for name in place.split(|byte| *byte == b'/') {
            path::push(&mut own, name)?;
            slot = match self.lower.child(slot, name)? {
                Child::Directory(child) => child,
                Child::Missing | Child::Other => return Ok(None),
                Child::Symlink(target) => {
                    if !self.is_open(&own)? {
                        return Ok(None);
                    }
                    let parent = self.lower.get(slot)?.path().to_vec();
                    match self.follow(&parent, &target)? {
                        Walked::Directory(slot) => slot,
                        _ => return Ok(None),
                    }
                }
            };
        }
        Ok(Some(slot))
    }

    /// Whether this layer leaves what is below at `own` in its place.
    fn is_open(&mut self, own: &[u8]) -> Result<bool> {
        let (parent, name) = path::split(own);
        let Some(parent) = self.own_directory(parent)? else {
            return Ok(true);
        };
        match self.upper.child(parent, name)? {
            Child::Missing => Ok(true),
            Child::Directory(_) => Ok(self.implied.get(own)?.is_some()),
            Child::Symlink(_) | Child::Other => Ok(false),
        }
    }

    fn follow(&mut self, from: &[u8], target: &[u8]) -> Result<Walked> {
        let start = match target.starts_with(b"/") {
            true => self.lower.directory(b"")?,
            false => self.lower.directory(from)?,
        };
        self.lower.walk_from(start, target, &mut |_| Ok(false))
    }
}
