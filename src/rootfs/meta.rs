//! Owner, attributes, mode and time of what an entry makes, and the one order in which they are
//! set; who we are and what the filesystem can do.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Uid, XattrFlags};
use rustix::fs::{chmodat, chownat, fchmod, fchown, fsetxattr, futimens, utimensat};
use rustix::io::Errno;

use super::calls::{failed, times};
use crate::archive::{Entry, shown};
use crate::error::Result;
use crate::report::Report;

/// Who we are and what is known of the filesystem, which decides what is kept.
pub(super) struct Keeper<'a> {
    uid: u32,
    gid: u32,
    root: bool,
    report: &'a Report,
    /// A refused attribute has been reported.
    refused: AtomicBool,
    /// A directory with attributes has been seen.
    directory_xattrs: AtomicBool,
    /// The filesystem has refused to move a directory (EXDEV).
    pins_directories: AtomicBool,
}

/// Group and user that a new file has anyway, where that is certain.
#[derive(Clone, Copy)]
pub(super) struct Born {
    certain: bool,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(report: &'a Report) -> Self {
        let uid = rustix::process::geteuid();
        Keeper {
            uid: uid.as_raw(),
            gid: rustix::process::getegid().as_raw(),
            root: uid.is_root(),
            report,
            refused: AtomicBool::new(false),
            directory_xattrs: AtomicBool::new(false),
            pins_directories: AtomicBool::new(false),
        }
    }

    pub(super) fn report(&self) -> &'a Report {
        self.report
    }

    /// What is made in a directory of this group: some mounts hand the group on.
    pub(super) fn born_in(&self, group: u32) -> Born {
        Born {
            certain: group == self.gid,
        }
    }

    fn must_chown(&self, entry: &Entry, born: Born) -> bool {
        self.root && !(born.certain && entry.uid == self.uid && entry.gid == self.gid)
    }

    /// The mode to create a file with: its own when nothing else will be set on it, else one that
    /// lets attributes be set and gives nobody rights too early.
    pub(super) fn first_mode(&self, entry: &Entry, born: Born) -> Mode {
        if self.is_plain(entry, born) {
            Mode::from_raw_mode(entry.mode)
        } else {
            Mode::RUSR | Mode::WUSR
        }
    }

    fn is_plain(&self, entry: &Entry, born: Born) -> bool {
        let special = entry.mode & 0o7000 != 0;
        !special && !entry.has_xattrs() && !self.must_chown(entry, born)
    }

    /// Finishes a file that was created with [`Keeper::first_mode`] and written.
    pub(super) fn file(
        &self,
        fd: BorrowedFd<'_>,
        entry: &Entry,
        born: Born,
        at: &[u8],
    ) -> Result<()> {
        // 1. owner: chown clears set-id bits and file capabilities, so it is first
        // 2. attributes: they need a mode that lets us write, and 1 would drop capabilities
        // 3. mode: set-id bits stay from here on
        // 4. time: writing has changed it
        if !self.is_plain(entry, born) {
            if self.must_chown(entry, born) {
                self.chown(fd, entry, at)?;
            }
            self.xattrs(fd, entry, at)?;
            fchmod(fd, Mode::from_raw_mode(entry.mode))
                .map_err(|error| failed(error, "set the mode of", at))?;
        }
        futimens(fd, &times(time(entry))).map_err(|error| failed(error, "set the time of", at))
    }

    /// Owner and attributes of a directory; its mode and time are set when it is closed.
    pub(super) fn directory(
        &self,
        fd: BorrowedFd<'_>,
        entry: &Entry,
        (uid, gid): (u32, u32),
        at: &[u8],
    ) -> Result<()> {
        if self.root && (entry.uid, entry.gid) != (uid, gid) {
            self.chown(fd, entry, at)?;
        }
        if entry.has_xattrs() {
            self.directory_xattrs.store(true, Ordering::Relaxed);
            self.xattrs(fd, entry, at)?;
        }
        Ok(())
    }

    /// Finishes a symlink or FIFO, which has no descriptor: a FIFO would wait to be opened.
    pub(super) fn node(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        born: Born,
        at: &[u8],
    ) -> Result<()> {
        if self.must_chown(entry, born) {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            chownat(parent, name, Some(uid), Some(gid), flags)
                .map_err(|error| refused_owner(error, entry, at))?;
        }
        if entry.kind == crate::archive::EntryKind::Fifo {
            // It was made just now, so the name is no symlink that could be followed.
            chmodat(
                parent,
                name,
                Mode::from_raw_mode(entry.mode),
                AtFlags::empty(),
            )
            .map_err(|error| failed(error, "set the mode of", at))?;
        }
        utimensat(parent, name, &times(time(entry)), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed(error, "set the time of", at))
    }

    fn chown(&self, fd: BorrowedFd<'_>, entry: &Entry, at: &[u8]) -> Result<()> {
        fchown(
            fd,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
        )
        .map_err(|error| refused_owner(error, entry, at))
    }

    fn xattrs(&self, fd: BorrowedFd<'_>, entry: &Entry, at: &[u8]) -> Result<()> {
        for (name, value) in entry.xattrs() {
            if self.keeps(name) {
                let set = fsetxattr(fd, name, value, XattrFlags::empty());
                // "no space left", says ext4 of one that is too large for it.
                self.xattr_result(set, name, at).map_err(|error| {
                    error.noting(format!("the attribute has {} bytes", value.len()))
                })?;
            }
        }
        Ok(())
    }

    /// Capabilities (which only root can give) and what users have noted. Of the rest, some would
    /// change how the tree behaves where it is used next: `trusted.overlay.*` and `user.overlay.*`
    /// make overlayfs redirect and hide, `system.posix_acl_default` gives rights to what is made
    /// later, `security.selinux` belongs to the machine.
    pub(super) fn keeps(&self, name: &[u8]) -> bool {
        match name {
            b"security.capability" => self.root,
            name => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
        }
    }

    pub(super) fn xattr_result(
        &self,
        result: std::result::Result<(), Errno>,
        name: &[u8],
        at: &[u8],
    ) -> Result<()> {
        match result {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::NOSYS) => {
                if !self.refused.swap(true, Ordering::Relaxed) {
                    let (name, at) = (shown(name), shown(at));
                    self.report.warn(format!(
                        "the filesystem refuses extended attributes ({name} of {at}); they are left out"
                    ));
                }
                Ok(())
            }
            Err(error) => {
                let name = String::from_utf8_lossy(name);
                Err(failed(error, &format!("set attribute `{name}` of"), at))
            }
        }
    }

    /// Whether a directory may have attributes.
    pub(super) fn has_directory_xattrs(&self) -> bool {
        self.directory_xattrs.load(Ordering::Relaxed)
    }

    /// Whether directories can be moved, as far as is known.
    pub(super) fn moves_directories(&self) -> bool {
        !self.pins_directories.load(Ordering::Relaxed)
    }

    pub(super) fn cannot_move_directories(&self) {
        self.pins_directories.store(true, Ordering::Relaxed);
    }

    /// Whether owners are kept.
    pub(super) fn is_root(&self) -> bool {
        self.root
    }
}

pub(super) fn time(entry: &Entry) -> Timespec {
    Timespec {
        tv_sec: entry.mtime.seconds,
        tv_nsec: entry.mtime.nanoseconds.into(),
    }
}

fn refused_owner(error: Errno, entry: &Entry, at: &[u8]) -> crate::error::Error {
    let what = format!("give user {} and group {}", entry.uid, entry.gid);
    let error_is_mapping = error == Errno::INVAL;
    let error = failed(error, &what, at);
    match error_is_mapping {
        true => error.advise("the user namespace that this runs in has no such id"),
        false => error,
    }
}

/// Copies the attributes of a directory, so that the other has these and no others.
pub(super) fn copy_xattrs(
    from: impl AsFd,
    to: impl AsFd,
    keeper: &Keeper<'_>,
    at: &[u8],
) -> Result<()> {
    let list = |fd: BorrowedFd<'_>| -> Result<Vec<u8>> {
        let mut names = vec![0; XATTR_BYTES];
        match rustix::fs::flistxattr(fd, names.as_mut_slice()) {
            Ok(length) => {
                names.truncate(length);
                Ok(names)
            }
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Vec::new()),
            Err(error) => Err(failed(error, "list attributes of", at)),
        }
    };
    let (new, old) = (list(from.as_fd())?, list(to.as_fd())?);
    let names = |list: &[u8]| -> Vec<Vec<u8>> {
        let names = list.split(|byte| *byte == 0);
        let kept = names.filter(|name| keeper.keeps(name));
        kept.map(<[u8]>::to_vec).collect()
    };
    let new = names(&new);
    for name in names(&old) {
        if !new.contains(&name) {
            let removed = rustix::fs::fremovexattr(&to, name.as_slice());
            keeper.xattr_result(removed, &name, at)?;
        }
    }
    for name in new {
        let mut value = vec![0; XATTR_BYTES];
        let set = rustix::fs::fgetxattr(&from, name.as_slice(), value.as_mut_slice()).and_then(
            |length| {
                let value = value.get(..length).unwrap_or_default();
                fsetxattr(&to, name.as_slice(), value, XattrFlags::empty())
            },
        );
        keeper.xattr_result(set, &name, at)?;
    }
    Ok(())
}

/// The kernel's own limit for a value and for a list of names (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const XATTR_BYTES: usize = 64 * 1024;
