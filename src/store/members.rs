//! The members of a tarball on disk: their names, and where their bytes lie.
//!
//! One pass over the headers; no member's bytes are kept. Only what an image is made of is listed
//! (regular files and links), and names lead to other members, never to files outside.

use std::collections::HashMap;
use std::io::{self, Read};

use tar::{EntryType, Header, PaxExtensions};

use crate::error::{Error, Kind, Result};

const BLOCK: u64 = 512;

/// An image has a member or two for each layer and document; a tarball with more is something
/// else (the files of a root filesystem), and its list would cost memory.
const MEMBERS_LIMIT: usize = 65_536;

/// A member whose name is longer than any builder's is not listed. In bytes.
const NAME_LIMIT: usize = 1024;

/// PAX records and GNU long names before one header, in bytes: real ones have a few hundred.
const EXTENSION_LIMIT: u64 = 64 << 10;

/// Links that lead to links: builders make chains of one.
const LINKS_LIMIT: usize = 16;

/// The name of a file in an image on disk: relative, `/` between its parts, none of them `.` or `..`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Name(String);

impl Name {
    /// Cleans a name that stands in a document or a tar header. `None` where it is empty or climbs
    /// out of the image.
    pub(super) fn clean(text: &str) -> Option<Name> {
        Name::below(&[], text)
    }

    fn below(directory: &[&str], text: &str) -> Option<Name> {
        let mut parts = match text.starts_with('/') {
            true => Vec::new(),
            false => directory.to_vec(),
        };
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop()?;
                }
                part => parts.push(part),
            }
        }
        (!parts.is_empty()).then(|| Name(parts.join("/")))
    }

    /// What a symbolic link of this name means by `target`.
    fn link(&self, target: &str) -> Option<Name> {
        let mut directory: Vec<&str> = self.0.split('/').collect();
        directory.pop();
        Name::below(&directory, target)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a regular member's bytes lie in the plain tar stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Extent {
    pub(super) at: u64,
    pub(super) size: u64,
}

#[derive(Debug)]
enum Member {
    File(Extent),
    Hard(String),
    Symbolic(String),
    /// Its bytes do not lie in one piece.
    Sparse,
}

/// The members of one tarball. Where a name comes twice the later one counts, as it does when
/// `tar` or `docker load` unpack the file.
#[derive(Debug)]
pub(super) struct Members(HashMap<Name, Member>);

/// A tar stream that can be walked without reading what is skipped.
pub(super) trait Forward: Read {
    /// # Errors
    /// `UnexpectedEof` where the stream is shorter.
    fn skip(&mut self, bytes: u64) -> io::Result<()>;
}

impl Members {
    /// Walks the headers of `tar` to its end marker.
    ///
    /// # Errors
    /// Something that is no tar, is cut off, or has more members than an image.
    pub(super) fn list(tar: &mut impl Forward) -> Result<Members> {
        let mut walk = Walk { tar, at: 0 };
        let mut members = HashMap::new();
        let mut next = Extension::default();
        while let Some(header) = walk.header()? {
            let kind = header.entry_type();
            let size = match next.size {
                // The PAX record wins: the header's field cannot hold more than 8 GiB.
                Some(size) if !is_extension(kind) => size,
                _ => header.entry_size().map_err(|_| damaged(walk.at))?,
            };
            if is_extension(kind) {
                let bytes = walk.extension(size)?;
                next.read(kind, &bytes);
                continue;
            }
            let extension = std::mem::take(&mut next);
            let name = extension
                .name
                .unwrap_or_else(|| header.path_bytes().into_owned());
            let target = || {
                let link = extension.link.clone();
                let link = link.or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
                String::from_utf8(link.unwrap_or_default()).unwrap_or_default()
            };
            let member = match kind {
                EntryType::Link => Some(Member::Hard(target())),
                EntryType::Symlink => Some(Member::Symbolic(target())),
                EntryType::GNUSparse => Some(Member::Sparse),
                EntryType::Regular | EntryType::Continuous if extension.sparse => {
                    Some(Member::Sparse)
                }
                EntryType::Regular | EntryType::Continuous => {
                    Some(Member::File(Extent { at: walk.at, size }))
                }
                _ => None,
            };
            if !has_no_data(kind) {
                walk.skip(size)?;
            }
            let name = match name.len() <= NAME_LIMIT {
                true => std::str::from_utf8(&name).ok().and_then(Name::clean),
                false => None,
            };
            if let (Some(name), Some(member)) = (name, member) {
                members.insert(name, member);
            }
            if members.len() > MEMBERS_LIMIT {
                return Err(Error::local(format!(
                    "it has more than {MEMBERS_LIMIT} members, and no image has as many"
                )));
            }
        }
        Ok(Members(members))
    }

    /// Where the regular file of this name lies, links followed inside the tarball.
    ///
    /// # Errors
    /// A link that leads nowhere or in a circle, a sparse member.
    pub(super) fn find(&self, name: &Name) -> Result<Option<Extent>> {
        let mut at = name.clone();
        for _ in 0..LINKS_LIMIT {
            let target = match self.0.get(&at) {
                Some(Member::File(extent)) => return Ok(Some(*extent)),
                Some(Member::Sparse) => {
                    return Err(Error::local(format!("`{at}` is stored as a sparse file"))
                        .advise("write the tarball again without `--sparse`"));
                }
                Some(Member::Hard(target)) => (Name::clean(target), target),
                Some(Member::Symbolic(target)) => (at.link(target), target),
                None if at == *name => return Ok(None),
                None => {
                    return Err(Error::local(format!(
                        "`{name}` is a link to `{at}`, which is not in the tarball"
                    )));
                }
            };
            at = match target {
                (Some(target), _) => target,
                (None, text) => {
                    return Err(Error::local(format!(
                        "`{at}` is a link to `{text}`, outside the tarball"
                    )));
                }
            };
        }
        Err(Error::local(format!(
            "`{name}` is a link that leads to itself"
        )))
    }

    /// Whether a member of this name is listed.
    pub(super) fn has(&self, name: &Name) -> bool {
        self.0.contains_key(name)
    }

    /// Where the regular members begin, in the order of the stream.
    pub(super) fn starts(&self) -> Vec<u64> {
        let file = |member: &Member| match member {
            Member::File(extent) => Some(extent.at),
            _ => None,
        };
        let mut starts: Vec<u64> = self.0.values().filter_map(file).collect();
        starts.sort_unstable();
        starts
    }
}

/// Whether `block` is the header of a tar member, or the first block of an empty tar.
pub(super) fn is_header(block: &[u8; 512]) -> bool {
    block.iter().all(|b| *b == 0) || has_good_sum(Header::from_byte_slice(block))
}

fn has_good_sum(header: &Header) -> bool {
    // The sum is taken with its own eight bytes as spaces (POSIX.1-2017, pax, "ustar").
    let sum = header.as_bytes().iter().enumerate().map(|(at, b)| {
        u32::from(match at {
            148..=155 => b' ',
            _ => *b,
        })
    });
    header.cksum().is_ok_and(|said| said == sum.sum::<u32>())
}

fn is_extension(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::GNULongName
            | EntryType::GNULongLink
            | EntryType::XHeader
            | EntryType::XGlobalHeader
    )
}

/// Types whose size field says nothing about bytes that follow (as Go's and GNU's readers have it).
fn has_no_data(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::Link
            | EntryType::Symlink
            | EntryType::Char
            | EntryType::Block
            | EntryType::Directory
            | EntryType::Fifo
    )
}

fn damaged(at: u64) -> Error {
    Error::local(format!(
        "the tarball is damaged: there is no tar header at byte {at}"
    ))
}

/// What stands before a header and overrides its fields.
#[derive(Default)]
struct Extension {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl Extension {
    fn read(&mut self, kind: EntryType, bytes: &[u8]) {
        let text = || {
            let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
            bytes.get(..end).map(<[u8]>::to_vec)
        };
        match kind {
            EntryType::GNULongName => self.name = text(),
            EntryType::GNULongLink => self.link = text(),
            EntryType::XHeader => {
                for record in PaxExtensions::new(bytes).flatten() {
                    let value = record.value_bytes();
                    match record.key_bytes() {
                        b"path" => self.name = Some(value.to_vec()),
                        b"linkpath" => self.link = Some(value.to_vec()),
                        b"size" => {
                            let text = std::str::from_utf8(value).unwrap_or_default();
                            self.size = text.parse().ok();
                        }
                        key => self.sparse |= key.starts_with(b"GNU.sparse."),
                    }
                }
            }
            // A global header speaks of times and owners; no builder names members with it.
            _ => {}
        }
    }
}

struct Walk<'a, R> {
    tar: &'a mut R,
    at: u64,
}

impl<R: Forward> Walk<'_, R> {
    /// The next header; `None` at the end marker, or where the file just ends.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut block = [0; BLOCK as usize];
        match read_block(self.tar, &mut block).map_err(|error| self.failed(error))? {
            0 => return Ok(None),
            512 => {}
            _ => return Err(self.cut_off()),
        }
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        if !has_good_sum(&header) {
            return Err(damaged(self.at));
        }
        self.at += BLOCK;
        Ok(Some(header))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > EXTENSION_LIMIT {
            return Err(Error::local(format!(
                "the header at byte {} announces {size} bytes of extensions; {EXTENSION_LIMIT} are accepted",
                self.at
            )));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        match self.tar.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) => return Err(self.failed(error)),
        }
        self.at += size;
        self.pad(size)?;
        Ok(bytes)
    }

    fn skip(&mut self, size: u64) -> Result<()> {
        self.tar.skip(size).map_err(|error| self.failed(error))?;
        self.at = self.at.saturating_add(size);
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let padding = (BLOCK - size % BLOCK) % BLOCK;
        match self.tar.skip(padding) {
            Ok(()) => {
                self.at = self.at.saturating_add(padding);
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.cut_off(),
            _ => Error::io(Kind::Local, error),
        }
    }

    fn cut_off(&self) -> Error {
        Error::local(format!(
            "the tarball is cut off: it ends inside the member at byte {}",
            self.at
        ))
    }
}

/// Reads until `block` is full or the stream ends.
fn read_block(reader: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
