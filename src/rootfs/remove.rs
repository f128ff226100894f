//! Removes a tree by descriptors: of any depth, with three open at once, and without following a
//! link.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, RawDir, SeekFrom};
use rustix::fs::{chmodat, openat, seek, unlinkat};
use rustix::io::Errno;

use super::calls::OPEN_DIRECTORY;

/// Bytes of directory entries read at once.
const LISTING: usize = 8 * 1024;

/// Removes `name` in `parent`, whatever it is; what is not there is no error.
pub(super) fn remove(parent: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    match unlinkat(&parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // POSIX allows EPERM for a directory.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        result => return result,
    }
    empty(open(&parent, name)?)?;
    unlinkat(&parent, name, AtFlags::REMOVEDIR)
}

/// Removes everything in `directory`. Goes down by name and up by `..`, which leads back because
/// nobody else moves these directories while we run.
pub(super) fn empty(directory: OwnedFd) -> Result<(), Errno> {
    let mut here = directory;
    // Names of the directories between the first one and `here`.
    let mut names: Vec<Vec<u8>> = Vec::new();
    loop {
        if let Some(name) = first_full_directory(&here)? {
            here = open(&here, &name)?;
            names.push(name);
            continue;
        }
        let Some(name) = names.pop() else {
            return Ok(());
        };
        here = open(&here, b"..")?;
        unlinkat(&here, name.as_slice(), AtFlags::REMOVEDIR)?;
    }
}

/// Removes what can be removed at once; the first directory that is not empty, if any.
fn first_full_directory(directory: &OwnedFd) -> Result<Option<Vec<u8>>, Errno> {
    seek(directory, SeekFrom::Start(0))?;
    let mut buffer = [MaybeUninit::uninit(); LISTING];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) => continue,
                // A filesystem that does not tell types.
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(error),
            }
        }
        match unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Some(name.to_vec())),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Opens a directory that is to be emptied, although its mode may not allow it.
fn open(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    if name != b".." {
        // Not allowed where somebody else owns it; then what follows says what is wrong. The name
        // is that of a directory, so no link is followed.
        let _ = chmodat(&parent, name, Mode::RWXU, AtFlags::empty());
    }
    openat(parent, name, OPEN_DIRECTORY, Mode::empty())
}
