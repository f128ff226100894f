//! One 512-byte header block of a tar: V7, ustar, star, GNU.
//!
//! Fields are read as GNU tar and Go's archive/tar read them; where the two differ, or where a
//! number makes no sense, the block is refused: a header that two programs read differently is
//! how files are smuggled past one of them (CVE-2025-62518, CVE-2026-33055).

use std::ops::Range;

use super::shown;
use crate::error::{Error, Result};

pub(super) const BLOCK: usize = 512;

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
pub(super) const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
const PREFIX: Range<usize> = 345..500;
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TRAILER: Range<usize> = 508..512;
const GNU_TIMES: [Range<usize>; 2] = [345..357, 357..369];
const GNU_SPARSE: Range<usize> = 386..482;
const GNU_EXTENDED: usize = 482;
const GNU_REAL_SIZE: Range<usize> = 483..495;

/// Data of a GNU long name, in bytes; a path has at most 4,096 (`PATH_MAX`).
pub(super) const LONG_NAME_LIMIT: u64 = 8 * 1024;

/// A time as files have it; before 1970 the seconds are negative and the nanoseconds count up.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Mtime {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// One block, its checksum compared.
pub(super) struct Header<'a>(&'a [u8; BLOCK]);

impl<'a> Header<'a> {
    /// # Errors
    /// The checksum is wrong, so this is no header.
    pub(super) fn check(block: &'a [u8; BLOCK]) -> Result<Self> {
        let header = Header(block);
        // The field itself counts as spaces. Old tars added up signed bytes.
        let field = header.field(CHECKSUM);
        let spaces = 8 * i64::from(b' ');
        let unsigned = || -> i64 {
            let sum = |bytes: &[u8]| -> u32 { bytes.iter().map(|byte| u32::from(*byte)).sum() };
            i64::from(sum(block)) - i64::from(sum(field)) + spaces
        };
        let signed = || -> i64 {
            let sum = |bytes: &[u8]| -> i64 {
                bytes.iter().map(|byte| i64::from(byte.cast_signed())).sum()
            };
            sum(block) - sum(field) + spaces
        };
        match number(field) {
            Some(stored) if stored == unsigned() || stored == signed() => {}
            _ => {
                return Err(Error::hostile(
                    "a tar header's checksum is wrong: the stream is broken, or no tar",
                ));
            }
        }
        Ok(header)
    }

    pub(super) fn kind(&self) -> u8 {
        self.0.get(TYPE).copied().unwrap_or(0)
    }

    /// The name, with the prefix where the format has one, into `name`.
    pub(super) fn name(&self, name: &mut Vec<u8>) {
        let prefix = match self.field(MAGIC) {
            [b'u', b's', b't', b'a', b'r', 0, ..] if self.field(STAR_TRAILER) == b"tar\0" => {
                STAR_PREFIX
            }
            [b'u', b's', b't', b'a', b'r', 0, ..] => PREFIX,
            // Quirk(Go before 1.8, and so Docker before 17.03): wrote a ustar prefix under GNU's
            // magic, where two times belong. Go's reader takes what is no number for the prefix.
            b"ustar  \0" if self.kind() != b'S' && !self.has_gnu_times() => PREFIX,
            _ => 0..0,
        };
        name.clear();
        name.extend_from_slice(self.text(prefix));
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(self.text(NAME));
    }

    fn has_gnu_times(&self) -> bool {
        let times = GNU_TIMES.into_iter();
        times
            .map(|range| self.number(range, "time"))
            .all(|time| time.is_ok())
    }

    pub(super) fn link(&self) -> &'a [u8] {
        self.text(LINK)
    }

    /// The permission bits with set-id and sticky; the rest of the field says nothing more.
    pub(super) fn mode(&self) -> Result<u32> {
        Ok((self.number(MODE, "mode")? & 0o7777) as u32)
    }

    pub(super) fn uid(&self) -> Result<i64> {
        self.number(UID, "user id")
    }

    pub(super) fn gid(&self) -> Result<i64> {
        self.number(GID, "group id")
    }

    pub(super) fn size(&self) -> Result<u64> {
        not_negative(self.number(SIZE, "size")?)
    }

    pub(super) fn mtime(&self) -> Result<Mtime> {
        Ok(Mtime {
            seconds: self.number(MTIME, "modification time")?,
            nanoseconds: 0,
        })
    }

    /// Of an `S` entry: the four extents in the header, whether more follow in blocks of their
    /// own, and the size that the file has with its holes.
    pub(super) fn gnu_sparse(&self) -> Result<(&'a [u8], bool, u64)> {
        if self.field(MAGIC) != b"ustar  \0" {
            return Err(Error::hostile(
                "a sparse file in a header that is not GNU's",
            ));
        }
        let more = self.0.get(GNU_EXTENDED).is_some_and(|more| *more != 0);
        let size = not_negative(self.number(GNU_REAL_SIZE, "real size")?)?;
        Ok((self.field(GNU_SPARSE), more, size))
    }

    fn field(&self, range: Range<usize>) -> &'a [u8] {
        self.0.get(range).unwrap_or_default()
    }

    fn text(&self, range: Range<usize>) -> &'a [u8] {
        until_nul(self.field(range))
    }

    fn number(&self, range: Range<usize>, what: &str) -> Result<i64> {
        let field = self.field(range);
        number(field).ok_or_else(|| {
            let field = field.escape_ascii();
            Error::hostile(format!("a tar header's {what} is no number: `{field}`"))
        })
    }
}

fn not_negative(size: i64) -> Result<u64> {
    u64::try_from(size).map_err(|_| Error::hostile(format!("a size below zero: {size}")))
}

pub(super) fn until_nul(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits among spaces and NULs (nothing at all is 0), or base-256: the first bit set, the
/// rest a number in two's complement (GNU tar, "tar internals: Extensions").
pub(super) fn number(field: &[u8]) -> Option<i64> {
    match field {
        [first, rest @ ..] if first & 0x80 != 0 => {
            // The second bit is the sign.
            let top = i64::from((first << 1).cast_signed() >> 1);
            rest.iter().try_fold(top, |value, byte| {
                Some(value.checked_mul(256)? | i64::from(*byte))
            })
        }
        _ => {
            let digits = until_nul(field.trim_ascii_start()).trim_ascii_end();
            let digits = match digits {
                // NULs in front, as Go trims them.
                [] => until_nul(trim_nuls(field)).trim_ascii(),
                digits => digits,
            };
            digits.iter().try_fold(0i64, |value, byte| match byte {
                b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
                _ => None,
            })
        }
    }
}

fn trim_nuls(field: &[u8]) -> &[u8] {
    let start = field.iter().position(|byte| !matches!(byte, 0 | b' '));
    field
        .get(start.unwrap_or(field.len())..)
        .unwrap_or_default()
}

pub(super) fn two_headers() -> Error {
    Error::hostile("two headers of one kind speak for one tar entry")
}

pub(super) fn two_names(one: &[u8], other: &[u8]) -> Error {
    let (one, other) = (shown(one), shown(other));
    Error::hostile(format!("a tar entry with two names: {one} and {other}"))
}

/// After one block of zeros, where GNU tar reads on and Go does not.
pub(super) fn goes_on() -> Error {
    Error::hostile("the tar goes on after a block of zeros, which some programs take for its end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"000644 \0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644\0junk", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777777\0", Some(0o77777777777)),
            (b"777777777777", Some(0o777777777777)),
            (b"0000648\0", None),
            (b"-000001\0", None),
            (b"0x1f\0\0\0\0", None),
            (b"64 4\0\0\0\0", None),
            (b"\x80\0\0\0\0\0\0\x01", Some(1)),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Some(256)),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                Some(-1),
            ),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
        ] {
            assert_eq!(number(field), value, "{}", field.escape_ascii());
        }
    }
}
