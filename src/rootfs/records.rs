//! What a layer cannot settle alone, kept on disk beside its tree, so that a layer with a million
//! of such things costs no memory: the directories that are only implied, what is to be removed
//! below, and hard links to files below.

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::fs::{mknodat, openat, readlinkat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::calls::{failed, make_directory, not_made, open_directory, times};
use crate::archive::shown;
use crate::error::{Doing, Error, Result};
use crate::oci::digest::Digest;

/// Buffer of a list while it is written or read.
const BUFFER: usize = 4 * 1024;

/// The list of what a layer removes; these are its marks.
pub(super) const REMOVALS: &str = "removals";
/// Remove this place.
pub(super) const REMOVE: u8 = b'-';
/// Remove what is in this place.
pub(super) const OPAQUE: u8 = b'o';

/// A list of places, each with one byte that says what about it.
pub(super) struct List {
    name: &'static str,
    file: Option<BufWriter<File>>,
}

impl List {
    /// The file `name` is made with the first record.
    pub(super) fn new(name: &'static str) -> Self {
        List { name, file: None }
    }

    pub(super) fn push(&mut self, layer: impl AsFd, what: u8, place: &[u8]) -> Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = openat(&layer, self.name, flags, Mode::RUSR | Mode::WUSR);
                let file = file
                    .map_err(|error| not_made(layer, error, "write list", self.name.as_bytes()))?;
                none.insert(BufWriter::with_capacity(BUFFER, File::from(file)))
            }
        };
        let length = u16::try_from(place.len()).unwrap_or(u16::MAX);
        file.write_all(&[what])
            .and_then(|()| file.write_all(&length.to_le_bytes()))
            .and_then(|()| file.write_all(place))
            .doing(|| format!("note {} in list `{}`", shown(place), self.name))
    }

    pub(super) fn finish(self) -> Result<()> {
        match self.file {
            Some(mut file) => file.flush().doing(|| format!("write list `{}`", self.name)),
            None => Ok(()),
        }
    }

    /// Calls `each` with every record of the file `name`, in order; none where there is no file.
    pub(super) fn read(
        layer: impl AsFd,
        name: &'static str,
        mut each: impl FnMut(u8, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let file = match openat(layer, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(failed(error, "read list", name.as_bytes())),
        };
        let mut file = BufReader::with_capacity(BUFFER, file);
        let mut place = Vec::new();
        loop {
            let mut head = [0; 3];
            match file.read_exact(&mut head) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                read => read.doing(|| format!("read list `{name}`"))?,
            }
            let [what, low, high] = head;
            place.resize(usize::from(u16::from_le_bytes([low, high])), 0);
            file.read_exact(&mut place)
                .doing(|| format!("read list `{name}`"))?;
            each(what, &place)?;
        }
    }
}

/// The directories that no entry of the layer describes: a directory of symlinks, each named by
/// the hash of the place it stands for (places are longer than names may be) and pointing to its
/// number in the order in which they were made.
pub(super) struct Implied {
    directory: Option<OwnedFd>,
    count: u64,
}

const IMPLIED: &str = "implied";

impl Implied {
    pub(super) fn new() -> Self {
        Implied {
            directory: None,
            count: 0,
        }
    }

    /// Those of a layer that has been unpacked.
    pub(super) fn open(layer: impl AsFd, count: u64) -> Result<Self> {
        let directory = match count {
            0 => None,
            _ => Some(open_directory(layer, IMPLIED)?),
        };
        Ok(Implied { directory, count })
    }

    /// How many there have ever been.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn insert(&mut self, layer: impl AsFd, place: &[u8]) -> Result<()> {
        let directory = match &self.directory {
            Some(directory) => directory,
            None => {
                make_directory(&layer, IMPLIED)?;
                let directory = open_directory(&layer, IMPLIED)?;
                self.directory.insert(directory)
            }
        };
        let (number, key) = (self.count.to_string(), key(place));
        self.count += 1;
        match symlinkat(number.as_str(), directory, key.as_str()) {
            // The directory had been there before and was replaced by something else.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(not_made(directory, error, "note", place)),
        }
    }

    pub(super) fn remove(&self, place: &[u8]) -> Result<()> {
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        match unlinkat(directory, key(place).as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed(error, "note", place)),
        }
    }

    /// The number of `place`, if it is one of them.
    pub(super) fn get(&self, place: &[u8]) -> Result<Option<u64>> {
        let Some(directory) = &self.directory else {
            return Ok(None);
        };
        match readlinkat(directory, key(place).as_str(), Vec::new()) {
            Ok(number) => {
                let number = number.to_str().ok().and_then(|number| number.parse().ok());
                number
                    .map(Some)
                    .ok_or_else(|| Error::local("a note of ours makes no sense"))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failed(error, "look up", place)),
        }
    }
}

fn key(place: &[u8]) -> String {
    Digest::of(place).hex().to_owned()
}

/// Hard links whose target is not in the layer itself. In the tree stands a socket in place of
/// each (nothing else there is a socket, and it can be linked to in turn, like the file it stands
/// for); its modification time is a number, under which the target is kept.
pub(super) struct Links {
    directory: Option<OwnedFd>,
    places: List,
    count: i64,
}

const LINKS: &str = "links";
const PLACES: &str = "link-places";

impl Links {
    pub(super) fn new() -> Self {
        Links {
            directory: None,
            places: List::new(PLACES),
            count: 0,
        }
    }

    /// Makes the stand-in for a link to `target` at `place`, which is `name` in `parent` and must
    /// be free.
    pub(super) fn insert(
        &mut self,
        layer: impl AsFd,
        place: &[u8],
        parent: impl AsFd,
        name: &[u8],
        target: &[u8],
    ) -> Result<()> {
        let directory = match &self.directory {
            Some(directory) => directory,
            None => {
                make_directory(&layer, LINKS)?;
                let directory = open_directory(&layer, LINKS)?;
                self.directory.insert(directory)
            }
        };
        let number = self.count;
        self.count += 1;
        let mtime = rustix::fs::Timespec {
            tv_sec: number,
            tv_nsec: 0,
        };
        write_note(directory, &number.to_string(), target)
            .doing(|| format!("link {}", shown(place)))?;
        mknodat(&parent, name, FileType::Socket, Mode::RUSR, 0)
            .and_then(|()| {
                let times = times(mtime);
                rustix::fs::utimensat(&parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            })
            .map_err(|error| not_made(parent, error, "link", place))?;
        self.also(layer, place)
    }

    /// A further name of a stand-in.
    pub(super) fn also(&mut self, layer: impl AsFd, place: &[u8]) -> Result<()> {
        self.places.push(layer, 0, place)
    }

    pub(super) fn finish(self) -> Result<()> {
        self.places.finish()
    }

    /// Every place where a stand-in was put, in order.
    pub(super) fn places(
        layer: impl AsFd,
        mut each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        List::read(layer, PLACES, |_, place| each(place))
    }

    /// The target that is kept under a number.
    pub(super) fn target(layer: impl AsFd, number: i64) -> Result<Vec<u8>> {
        let directory = open_directory(layer, LINKS)?;
        read_note(&directory, &number.to_string())
    }
}

/// Keeps a place or two in a file of its own. (A symlink would do with one call, but XFS has room
/// for 1,023 bytes in one.)
pub(super) fn write_note(directory: impl AsFd, name: &str, note: &[u8]) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(&directory, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|error| not_made(directory, error, "write note", name.as_bytes()))?;
    File::from(file)
        .write_all(note)
        .doing(|| format!("write note `{name}`"))
}

pub(super) fn read_note(directory: impl AsFd, name: &str) -> Result<Vec<u8>> {
    let file = openat(
        directory,
        name,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| failed(error, "read note", name.as_bytes()))?;
    let mut note = Vec::new();
    File::from(file)
        .read_to_end(&mut note)
        .doing(|| format!("read note `{name}`"))?;
    Ok(note)
}
