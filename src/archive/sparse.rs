//! Maps of sparse files: old GNU headers and the three PAX forms (GNU tar manual, "Storing Sparse
//! Files").

use std::ops::Range;

use super::header;
use super::record::{name, number};
use crate::error::{Error, Result};

/// A piece of a file that is not a hole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// 1 MiB of memory. Go's reader has the same bound on the text of a map; tar writes an extent only
/// for a change between data and hole.
const EXTENTS_LIMIT: usize = 1 << 16;
/// Digits of the largest number, and a newline.
const NUMBER_LIMIT: usize = 21;

/// The extents of one file, in order.
#[derive(Default)]
pub(super) struct Map {
    extents: Vec<Extent>,
    end: u64,
    /// Bytes that lie in the archive.
    stored: u64,
}

impl Map {
    fn push(&mut self, offset: u64, length: u64) -> Result<()> {
        let end = offset.checked_add(length);
        let end = end.filter(|end| i64::try_from(*end).is_ok());
        let Some(end) = end.filter(|_| offset >= self.end) else {
            return Err(refused("its parts overlap or are out of order"));
        };
        self.end = end;
        self.stored += length;
        if length == 0 {
            // The last one only says where the file ends.
            return Ok(());
        }
        if self.extents.len() == EXTENTS_LIMIT {
            return Err(refused("it has more than 65,536 parts"));
        }
        self.extents.push(Extent { offset, length });
        Ok(())
    }

    /// The extents, when they fit a file of `size` bytes of which `stored` lie in the archive.
    pub(super) fn finish(self, size: u64, stored: u64) -> Result<Vec<Extent>> {
        if self.end > size || self.stored != stored {
            return Err(refused("its parts and its size contradict each other"));
        }
        Ok(self.extents)
    }

    /// Extents of an old GNU header or of one of the blocks that follow it: pairs of numbers of
    /// 12 bytes.
    pub(super) fn gnu(&mut self, fields: &[u8]) -> Result<()> {
        let (pairs, _) = fields.as_chunks::<24>();
        for pair in pairs {
            let (offset, length) = pair.split_at(12);
            if offset.first().is_none_or(|first| *first == 0) {
                break;
            }
            let number = |field| header::number(field).and_then(|n| u64::try_from(n).ok());
            match (number(offset), number(length)) {
                (Some(offset), Some(length)) => self.push(offset, length)?,
                _ => return Err(refused("its map is no list of numbers")),
            }
        }
        Ok(())
    }

    /// `offset,length,offset,length` (0.1, and what [`PaxSparse`] makes of 0.0).
    fn commas(&mut self, text: &[u8]) -> Result<()> {
        let mut numbers = text.split(|byte| *byte == b',').map(decimal);
        while let Some(offset) = numbers.next() {
            let length = numbers.next();
            let length = length.ok_or_else(|| refused("its map ends with half a part"))?;
            self.push(offset?, length?)?;
        }
        Ok(())
    }
}

/// Reads the map that stands before the data of a 1.0 file: decimal numbers, each with a newline;
/// the first is the number of parts. `next` gives one byte of the data.
pub(super) fn leading_map(mut next: impl FnMut() -> Result<u8>) -> Result<Map> {
    let mut number = || {
        let mut digits = [0u8; NUMBER_LIMIT];
        for at in 0..NUMBER_LIMIT {
            match next()? {
                b'\n' => return decimal(digits.get(..at).unwrap_or_default()),
                digit => {
                    if let Some(place) = digits.get_mut(at) {
                        *place = digit;
                    }
                }
            }
        }
        Err(refused("a number of its map does not end"))
    };
    let parts = number()?;
    let mut map = Map::default();
    for _ in 0..parts {
        let (offset, length) = (number()?, number()?);
        map.push(offset, length)?;
    }
    Ok(map)
}

/// What a PAX header says of a sparse file.
#[derive(Default)]
pub(super) struct PaxSparse {
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Range<usize>>,
    /// `GNU.sparse.size` (0.x) or `GNU.sparse.realsize` (1.0).
    size: Option<u64>,
    map: Option<Range<usize>>,
    blocks: Option<u64>,
    /// Form 0.0 repeats two records for each part.
    pairs: Map,
    pairs_seen: u64,
    offset: Option<u64>,
}

/// The three ways to store a map.
pub(super) enum Form {
    /// The map is here, in the header.
    Here(Map),
    /// The map stands before the data.
    Leading,
}

impl PaxSparse {
    pub(super) fn is_some(&self) -> bool {
        self.major.is_some()
            || self.size.is_some()
            || self.map.is_some()
            || self.blocks.is_some()
            || self.name.is_some()
            || self.pairs_seen > 0
    }

    /// One record; those that are not about sparse files are passed over.
    pub(super) fn record(&mut self, keyword: &[u8], value: &[u8], at: Range<usize>) -> Result<()> {
        match keyword {
            b"GNU.sparse.major" => self.major = number(keyword, value)?,
            b"GNU.sparse.minor" => self.minor = number(keyword, value)?,
            b"GNU.sparse.name" => self.name = (!name(value)?.is_empty()).then_some(at),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.size = number(keyword, value)?,
            b"GNU.sparse.numblocks" => self.blocks = number(keyword, value)?,
            b"GNU.sparse.map" => self.map = (!value.is_empty()).then_some(at),
            b"GNU.sparse.offset" => {
                if self.offset.is_some() {
                    return Err(refused("a part has two offsets"));
                }
                self.offset = Some(decimal(value)?);
            }
            b"GNU.sparse.numbytes" => {
                let offset = self.offset.take();
                let offset = offset.ok_or_else(|| refused("a part has no offset"))?;
                self.pairs.push(offset, decimal(value)?)?;
                self.pairs_seen += 1;
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn name(&self) -> Option<Range<usize>> {
        self.name.clone()
    }

    /// The file's size with its holes, and where its map is; `None` where it is not sparse.
    /// `text` gives a range of the PAX header.
    pub(super) fn form<'a>(
        &mut self,
        text: impl FnOnce(Range<usize>) -> &'a [u8],
    ) -> Result<Option<(u64, Form)>> {
        if !self.is_some() {
            return Ok(None);
        }
        let size = self.size;
        let size = size.ok_or_else(|| refused("its size is not given"))?;
        let version = (self.major, self.minor.unwrap_or(0));
        let form = match version {
            (Some(1), 0) => Form::Leading,
            (None | Some(0), 0 | 1) => {
                let (map, parts) = match self.map.take() {
                    Some(range) => {
                        let mut map = Map::default();
                        let text = text(range);
                        map.commas(text)?;
                        let commas = text.iter().filter(|byte| **byte == b',').count() as u64;
                        (map, commas.div_ceil(2))
                    }
                    None => (std::mem::take(&mut self.pairs), self.pairs_seen),
                };
                if self.offset.is_some() || self.blocks.is_some_and(|blocks| blocks != parts) {
                    return Err(refused(
                        "its map has another number of parts than announced",
                    ));
                }
                Form::Here(map)
            }
            _ => return Err(refused("its map has an unknown version")),
        };
        Ok(Some((size, form)))
    }
}

fn decimal(digits: &[u8]) -> Result<u64> {
    let number = digits.iter().try_fold(0u64, |value, byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    });
    let number = number.filter(|_| !digits.is_empty());
    number.ok_or_else(|| refused("its map is no list of numbers"))
}

#[cold]
fn refused(why: &str) -> Error {
    Error::hostile(format!("a sparse file makes no sense: {why}"))
}
