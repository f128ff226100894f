//! What every file here asks of the system, and how its refusals are told.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, Timespec, Timestamps};
use rustix::fs::{fstatvfs, mkdirat, openat};
use rustix::io::Errno;

use crate::archive::shown;
use crate::error::{Error, Kind, Result};

/// Opens a directory and never what a symlink leads to.
pub(super) const OPEN_DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The time of what no entry describes: a fixed one, so that the result depends on nothing else.
pub(super) const EPOCH: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Makes a directory of ours, which is not there.
pub(super) fn make_directory(parent: impl AsFd, name: &str) -> Result<()> {
    mkdirat(&parent, name, Mode::RWXU)
        .map_err(|error| not_made(parent, error, "make directory", name.as_bytes()))
}

pub(super) fn open_directory(parent: impl AsFd, name: &str) -> Result<OwnedFd> {
    openat(parent, name, OPEN_DIRECTORY, Mode::empty())
        .map_err(|error| failed(error, "open", name.as_bytes()))
}

pub(super) fn times(mtime: Timespec) -> Timestamps {
    Timestamps {
        last_access: mtime,
        last_modification: mtime,
    }
}

/// A failed system call on a name of the image.
#[cold]
pub(super) fn failed(error: Errno, what: &str, place: &[u8]) -> Error {
    let place = if place.is_empty() { b"/" } else { place };
    Error::io(Kind::Local, error.into()).doing(format!("{what} {}", shown(place)))
}

/// The same for what could not be made in `directory`. A full filesystem has no space left, says the
/// system, also where it is inodes that it has no more of.
#[cold]
pub(super) fn not_made(directory: impl AsFd, error: Errno, what: &str, place: &[u8]) -> Error {
    let failure = failed(error, what, place);
    if !matches!(error, Errno::NOSPC | Errno::DQUOT) {
        return failure;
    }
    match fstatvfs(directory) {
        // XFS makes inodes of free blocks: without blocks it has none either.
        Ok(stat) if stat.f_files > 0 && stat.f_favail == 0 && stat.f_bavail > 0 => {
            let files = stat.f_files;
            failure.noting(format!(
                "the filesystem holds {files} files and has no inodes left"
            ))
        }
        _ => failure,
    }
}
