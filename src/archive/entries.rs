//! Walks the entries of a tar stream.
//!
//! The `tar` crate's own iterator is not used for this: it keeps long names, PAX headers and
//! sparse maps of any size in memory, cuts PAX records at newlines (which breaks binary
//! attributes), takes the first of two records where everybody else takes the last, and copies
//! every byte once more. Names come out as bytes and as they are; whoever opens something by them
//! resolves them.

use std::io::{self, BufRead};

use super::header::{
    BLOCK, Header, LONG_NAME_LIMIT, Mtime, goes_on, two_headers, two_names, until_nul,
};
use super::pax::{self, Pax};
use super::shown;
use super::sparse::{Extent, Form, Map, leading_map};
use crate::error::{Error, Kind, Result};

/// What an entry is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum EntryKind {
    Device,
    Directory,
    Fifo,
    File,
    /// A hard link.
    Link,
    Symlink,
}

/// One entry, without its data.
pub(crate) struct Entry {
    name: Vec<u8>,
    link: Vec<u8>,
    pub(crate) kind: EntryKind,
    /// Permissions with set-id and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Mtime,
    /// Of a file: its size on disk, holes included.
    pub(crate) size: u64,
    extents: Option<Vec<Extent>>,
    pax: Pax,
    global: Pax,
}

impl Entry {
    pub(crate) fn name(&self) -> &[u8] {
        &self.name
    }

    /// Where a symlink points, or the name of the other entry that a hard link is.
    pub(crate) fn link(&self) -> &[u8] {
        &self.link
    }

    /// Of a sparse file: what of it is no hole; its data are these, one after another.
    pub(crate) fn extents(&self) -> Option<&[Extent]> {
        self.extents.as_deref()
    }

    /// Names and values of extended attributes.
    pub(crate) fn xattrs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.global.xattrs().chain(self.pax.xattrs())
    }

    pub(crate) fn has_xattrs(&self) -> bool {
        self.pax.has_xattrs() || self.global.has_xattrs()
    }
}

/// The stored bytes of the current entry.
pub(crate) struct Data<R> {
    reader: R,
    left: u64,
    padding: u64,
}

impl<R: BufRead> Data<R> {
    /// As much as lies in one piece in the reader's buffer; empty at the end of the entry.
    ///
    /// # Errors
    /// [`Kind::Hostile`] when the stream ends before the entry; what the reader says.
    pub(crate) fn block(&mut self) -> Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let block = fill(&mut self.reader)?;
        if block.is_empty() {
            return Err(cut_off());
        }
        let n = usize::try_from(self.left).unwrap_or(usize::MAX);
        Ok(block.get(..n.min(block.len())).unwrap_or_default())
    }

    /// `n` bytes of the last block have been used.
    pub(crate) fn consume(&mut self, n: usize) {
        self.reader.consume(n);
        self.left = self.left.saturating_sub(n as u64);
    }

    fn byte(&mut self) -> Result<u8> {
        let byte = self.block()?.first().copied();
        let byte = byte.ok_or_else(|| Error::hostile("a sparse file's map does not end"))?;
        self.consume(1);
        Ok(byte)
    }

    /// The whole of a small entry.
    fn read_to(&mut self, out: &mut Vec<u8>) -> Result<()> {
        loop {
            let block = self.block()?;
            if block.is_empty() {
                return self.skip();
            }
            out.extend_from_slice(block);
            let n = block.len();
            self.consume(n);
        }
    }

    /// Passes over what is left of the entry, and its padding.
    pub(crate) fn skip(&mut self) -> Result<()> {
        loop {
            let n = self.block()?.len();
            if n == 0 {
                break;
            }
            self.consume(n);
        }
        while self.padding > 0 {
            let n = fill(&mut self.reader)?.len() as u64;
            if n == 0 {
                // Go's reader too takes the end of the stream for the padding of the last entry.
                self.padding = 0;
                break;
            }
            let n = n.min(self.padding);
            self.reader.consume(n as usize);
            self.padding -= n;
        }
        Ok(())
    }

    /// The next 512 bytes; `false` at the end of the stream.
    fn header(&mut self, header: &mut [u8; BLOCK]) -> Result<bool> {
        let mut room = &mut header[..];
        while !room.is_empty() {
            let block = fill(&mut self.reader)?;
            let n = block.len().min(room.len());
            if n == 0 {
                let started = room.len() < BLOCK;
                return if started { Err(cut_off()) } else { Ok(false) };
            }
            let (part, rest) = room.split_at_mut(n);
            part.copy_from_slice(block.get(..n).unwrap_or_default());
            self.reader.consume(n);
            room = rest;
        }
        Ok(true)
    }

    /// The data that follow are `size` bytes and padding to a whole block.
    fn expect(&mut self, size: u64) -> Result<()> {
        if i64::try_from(size).is_err() {
            return Err(Error::hostile(format!("a size that cannot be: {size}")));
        }
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }
}

fn fill<R: BufRead>(reader: &mut R) -> Result<&[u8]> {
    // A loop that returns what it borrowed does not pass the borrow checker, so the buffer is
    // asked for twice; the second time nothing is read.
    loop {
        match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(Kind::Local, error)),
            Ok(_) => break,
        }
    }
    reader
        .fill_buf()
        .map_err(|error| Error::io(Kind::Local, error))
}

#[cold]
fn cut_off() -> Error {
    Error::hostile("the tar stream ends in the middle")
}

/// Reads one entry after another.
pub(crate) struct Entries<R> {
    data: Data<R>,
    entry: Entry,
    header: Box<[u8; BLOCK]>,
}

impl<R: BufRead> Entries<R> {
    pub(crate) fn new(reader: R) -> Self {
        Entries {
            data: Data {
                reader,
                left: 0,
                padding: 0,
            },
            entry: Entry {
                name: Vec::new(),
                link: Vec::new(),
                kind: EntryKind::File,
                mode: 0,
                uid: 0,
                gid: 0,
                mtime: Mtime::default(),
                size: 0,
                extents: None,
                pax: Pax::default(),
                global: Pax::default(),
            },
            header: Box::new([0; BLOCK]),
        }
    }

    /// The next entry and its data; `None` at the end: after two blocks of zeros, or where the
    /// stream ends between two entries. What follows the end is left in the reader.
    ///
    /// # Errors
    /// [`Kind::Hostile`] for what is no tar, is cut off, or can be read in two ways; what the
    /// reader says.
    pub(crate) fn next(&mut self) -> Result<Option<(&Entry, &mut Data<R>)>> {
        self.data.skip()?;
        self.entry.pax.clear();
        self.entry.extents = None;
        let mut seen = Seen::default();
        loop {
            if !self.data.header(&mut self.header)? || self.is_end()? {
                if seen.any() {
                    return Err(cut_off());
                }
                return Ok(None);
            }
            let header = Header::check(&self.header)?;
            match header.kind() {
                b'L' => {
                    once(&mut seen.name)?;
                    read_name(&header, &mut self.data, &mut self.entry.name)?;
                }
                b'K' => {
                    once(&mut seen.link)?;
                    read_name(&header, &mut self.data, &mut self.entry.link)?;
                }
                b'x' => {
                    once(&mut seen.pax)?;
                    read_pax(&header, &mut self.data, &mut self.entry.pax)?;
                }
                b'g' => {
                    self.entry.global.clear();
                    read_pax(&header, &mut self.data, &mut self.entry.global)?;
                    self.entry.global.check_global()?;
                }
                _ => {
                    self.entry.names(&header, &seen)?;
                    self.entry
                        .fields(&header)
                        .and_then(|()| read_size(&header, &mut self.data, &mut self.entry))
                        .map_err(|error| error.doing(shown(&self.entry.name)))?;
                    return Ok(Some((&self.entry, &mut self.data)));
                }
            }
            // What speaks for an entry is passed over with its padding.
            self.data.skip()?;
        }
    }

    /// Whether the block is the first of the two of zeros that end an archive.
    fn is_end(&mut self) -> Result<bool> {
        if self.header.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        let more = self.data.header(&mut self.header)?;
        if more && self.header.iter().any(|byte| *byte != 0) {
            return Err(goes_on());
        }
        Ok(true)
    }
}

/// Which headers have spoken for the entry that follows.
#[derive(Default)]
struct Seen {
    name: bool,
    link: bool,
    pax: bool,
}

impl Seen {
    fn any(&self) -> bool {
        self.name || self.link || self.pax
    }
}

fn once(seen: &mut bool) -> Result<()> {
    if std::mem::replace(seen, true) {
        return Err(two_headers());
    }
    Ok(())
}

fn read_name<R: BufRead>(
    header: &Header<'_>,
    data: &mut Data<R>,
    name: &mut Vec<u8>,
) -> Result<()> {
    let size = header.size()?;
    if size > LONG_NAME_LIMIT {
        return Err(Error::hostile(format!(
            "a name of {size} bytes; the longest that is read has {LONG_NAME_LIMIT}"
        )));
    }
    data.expect(size)?;
    name.clear();
    data.read_to(name)?;
    let length = until_nul(name).len();
    name.truncate(length);
    Ok(())
}

fn read_pax<R: BufRead>(header: &Header<'_>, data: &mut Data<R>, pax: &mut Pax) -> Result<()> {
    let size = header.size()?;
    if size > pax::LIMIT {
        return Err(Error::hostile(format!(
            "a PAX header of {size} bytes; the longest that is read has {}",
            pax::LIMIT
        )));
    }
    data.expect(size)?;
    data.read_to(pax.text())?;
    pax.parse()
}

impl Entry {
    /// Name and link, from whichever header has them.
    fn names(&mut self, header: &Header<'_>, seen: &Seen) -> Result<()> {
        let sparse_name = self.pax.sparse.name().map(|range| self.pax.slice(range));
        let pax_name = sparse_name.or(self.pax.path());
        match (seen.name, pax_name) {
            (true, Some(name)) if name != self.name => return Err(two_names(&self.name, name)),
            (true, _) => {}
            (false, Some(name)) => {
                self.name.clear();
                self.name.extend_from_slice(name);
            }
            (false, None) => header.name(&mut self.name),
        }
        match (seen.link, self.pax.link()) {
            (true, Some(link)) if link != self.link => return Err(two_names(&self.link, link)),
            (true, _) => {}
            (false, link) => {
                self.link.clear();
                self.link.extend_from_slice(link.unwrap_or(header.link()));
            }
        }
        Ok(())
    }

    fn fields(&mut self, header: &Header<'_>) -> Result<()> {
        let directory = self.name.ends_with(b"/");
        self.kind = match header.kind() {
            // V7 had no type for directories; GNU tar goes by the slash in every format.
            0 | b'0' | b'7' if directory => EntryKind::Directory,
            // POSIX lets `7` (contiguous) be read as an ordinary file.
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::Link,
            b'2' => EntryKind::Symlink,
            b'3' | b'4' => EntryKind::Device,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => {
                let other = other.escape_ascii();
                return Err(Error::hostile(format!(
                    "a tar entry of type `{other}`, which no image has"
                )));
            }
        };
        self.mode = header.mode()?;
        let (pax, global) = (&self.pax, &self.global);
        self.uid = owner("user", pax.uid.or(global.uid), header.uid())?;
        self.gid = owner("group", pax.gid.or(global.gid), header.gid())?;
        self.mtime = match pax.mtime.or(global.mtime) {
            Some(mtime) => mtime,
            None => header.mtime()?,
        };
        Ok(())
    }
}

/// An id that chown(2) can set: 2³²−1 means "leave it" there.
fn owner(whose: &str, pax: Option<i64>, header: Result<i64>) -> Result<u32> {
    let id = match pax {
        Some(id) => id,
        None => header?,
    };
    match u32::try_from(id) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(Error::hostile(format!("{id} can be no {whose}'s id"))),
    }
}

/// How many bytes follow the header, and how large the file becomes.
fn read_size<R: BufRead>(header: &Header<'_>, data: &mut Data<R>, entry: &mut Entry) -> Result<()> {
    // The PAX size wins (CVE-2026-33055).
    let size = match entry.pax.size {
        Some(size) => size,
        None => header.size()?,
    };
    entry.size = 0;
    match entry.kind {
        EntryKind::File => {}
        // The size of the file it is a link to, or nothing; no data follow (GNU tar, Go).
        EntryKind::Link => return data.expect(0),
        _ if size == 0 => return data.expect(0),
        // GNU tar takes `size` bytes for its data, Go takes none.
        kind => {
            return Err(Error::hostile(format!(
                "a {kind:?} entry with {size} bytes of data"
            )));
        }
    }
    data.expect(size)?;
    entry.size = size;
    if header.kind() == b'S' {
        let (fields, mut more, real_size) = header.gnu_sparse()?;
        let mut map = Map::default();
        map.gnu(fields)?;
        // The further blocks of the map are not counted in the size.
        let mut block = [0; BLOCK];
        while more {
            if !data.header(&mut block)? {
                return Err(cut_off());
            }
            map.gnu(block.get(..504).unwrap_or_default())?;
            more = block.get(504).is_some_and(|more| *more != 0);
        }
        entry.extents = Some(map.finish(real_size, size)?);
        entry.size = real_size;
        return Ok(());
    }
    let Entry { pax, .. } = entry;
    let mut sparse = std::mem::take(&mut pax.sparse);
    let Some((real_size, form)) = sparse.form(|range| pax.slice(range))? else {
        return Ok(());
    };
    let map = match form {
        Form::Here(map) => map,
        Form::Leading => {
            let map = leading_map(|| data.byte())?;
            // The map is padded to a whole block, as the data after it.
            let used = size - data.left;
            for _ in used..used.next_multiple_of(BLOCK as u64) {
                data.byte()?;
            }
            map
        }
    };
    entry.extents = Some(map.finish(real_size, data.left)?);
    entry.size = real_size;
    Ok(())
}

#[cfg(test)]
mod tests;
