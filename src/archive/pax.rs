//! Records of a PAX extended header (POSIX pax, "pax Extended Header").
//!
//! Records are cut by their length, never at newlines: the value of an attribute such as
//! `security.capability` is binary. A keyword given twice counts as given last, as POSIX, GNU tar
//! and Go have it; an empty value takes an earlier one back.

use std::ops::Range;

use super::header::Mtime;
use super::record::{name, number, record, time};
use super::sparse::PaxSparse;
use crate::error::{Error, Result};

/// As Go's reader has it. Attributes have 64 KiB each at most, names 4 KiB.
pub(super) const LIMIT: u64 = 1 << 20;

const XATTR: &[u8] = b"SCHILY.xattr.";

/// The records that mean something here. Ranges point into `text`.
#[derive(Default)]
pub(super) struct Pax {
    text: Vec<u8>,
    path: Option<Range<usize>>,
    link: Option<Range<usize>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<Mtime>,
    xattrs: Vec<(Range<usize>, Range<usize>)>,
    pub(super) sparse: PaxSparse,
}

impl Pax {
    /// Forgets everything, keeps the memory of honest sizes.
    pub(super) fn clear(&mut self) {
        const KEPT: usize = 16 * 1024;
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        text.shrink_to(KEPT);
        let mut xattrs = std::mem::take(&mut self.xattrs);
        xattrs.clear();
        xattrs.shrink_to(64);
        *self = Pax {
            text,
            xattrs,
            ..Pax::default()
        };
    }

    /// The buffer to fill before [`Pax::parse`].
    pub(super) fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    pub(super) fn path(&self) -> Option<&[u8]> {
        self.path.clone().map(|range| self.slice(range))
    }

    pub(super) fn link(&self) -> Option<&[u8]> {
        self.link.clone().map(|range| self.slice(range))
    }

    /// Names and values of extended attributes.
    pub(super) fn xattrs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let xattrs = self.xattrs.iter();
        xattrs.map(|(name, value)| (self.slice(name.clone()), self.slice(value.clone())))
    }

    pub(super) fn has_xattrs(&self) -> bool {
        !self.xattrs.is_empty()
    }

    pub(super) fn slice(&self, range: Range<usize>) -> &[u8] {
        self.text.get(range).unwrap_or_default()
    }

    /// Reads the records in the buffer.
    pub(super) fn parse(&mut self) -> Result<()> {
        let text = std::mem::take(&mut self.text);
        let parsed = self.parse_records(&text);
        self.text = text;
        parsed
    }

    fn parse_records(&mut self, text: &[u8]) -> Result<()> {
        let mut at = 0;
        while at < text.len() {
            let rest = text.get(at..).unwrap_or_default();
            let (keyword, value) = record(rest).ok_or_else(|| {
                let start = rest.get(..rest.len().min(40)).unwrap_or_default();
                let start = start.escape_ascii();
                Error::hostile(format!("a PAX record makes no sense: `{start}`"))
            })?;
            let keyword_text = rest.get(keyword.clone()).unwrap_or_default();
            let next = at + value.end + 1;
            let range = at + value.start..at + value.end;
            let value = rest.get(value).unwrap_or_default();
            match keyword_text {
                b"path" => self.path = some(name(value)?, range),
                b"linkpath" => self.link = some(name(value)?, range),
                b"size" => self.size = number(keyword_text, value)?,
                b"uid" => self.uid = number(keyword_text, value)?,
                b"gid" => self.gid = number(keyword_text, value)?,
                b"mtime" => self.mtime = time(value)?,
                _ => {
                    if let Some(attribute) = keyword_text.strip_prefix(XATTR) {
                        let end = at + keyword.end;
                        self.xattr(text, end - attribute.len()..end, range);
                    } else {
                        self.sparse.record(keyword_text, value, range)?;
                    }
                }
            }
            at = next;
        }
        Ok(())
    }

    fn xattr(&mut self, text: &[u8], name: Range<usize>, value: Range<usize>) {
        // Few in every image, so a search is cheaper than a map; a hostile header of 1 MiB has
        // room for 40,000 of them, so the search is bounded.
        const SEARCHED: usize = 64;
        let same = |known: &Range<usize>| text.get(known.clone()) == text.get(name.clone());
        let mut last = self.xattrs.iter_mut().rev().take(SEARCHED);
        match last.find(|(known, _)| same(known)) {
            Some((_, known)) => *known = value,
            None => self.xattrs.push((name, value)),
        }
    }

    /// What a global header may say. A name, a size or a map that stands for every file that
    /// follows is read by some programs and not by others.
    pub(super) fn check_global(&self) -> Result<()> {
        let odd = self.path.is_some() || self.link.is_some() || self.size.is_some();
        if odd || self.sparse.is_some() {
            return Err(Error::hostile(
                "a global PAX header gives all files one name, size or map",
            ));
        }
        Ok(())
    }
}

fn some(value: &[u8], range: Range<usize>) -> Option<Range<usize>> {
    (!value.is_empty()).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<Pax> {
        let mut pax = Pax::default();
        pax.text().extend_from_slice(text);
        pax.parse()?;
        Ok(pax)
    }

    #[test]
    fn records_are_cut_by_their_length() {
        let pax =
            parse(b"11 path=a\n\n12 path=b/\xff\n28 SCHILY.xattr.user.a=\x00\n=\x01\n").unwrap();
        assert_eq!(pax.path(), Some(&b"b/\xff"[..]));
        let xattrs: Vec<_> = pax.xattrs().collect();
        assert_eq!(xattrs, [(&b"user.a"[..], &b"\x00\n=\x01"[..])]);
    }

    #[test]
    fn the_last_of_two_records_counts_and_an_empty_one_takes_back() {
        let pax = parse(b"10 size=12\n").map(|pax| pax.size);
        assert!(pax.is_err(), "the length is wrong by one");
        let pax = parse(b"11 size=12\n11 size=13\n9 path=a\n8 path=\n").unwrap();
        assert_eq!(pax.size, Some(13));
        assert_eq!(pax.path(), None);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for text in [
            &b"9 path=a"[..],
            b"9 path=a\0",
            b"9path=a\n",
            b" 9 path=a\n",
            b"+9 path=a\n",
            b"0 path=a\n",
            b"1 path=a\n",
            b"6 path\n",
            b"5 =a\n\n",
            b"99999999999999999999 path=a\n",
            b"10 path=a\0\n",
            b"10 size=-1\n",
            b"10 size=+1\n",
            b"10 size=1x\n",
            b"29 size=18446744073709551616\n",
            b"12 mtime=1.x\n",
            b"12 mtime=1.-\n",
            b"9 uid=1.\n",
        ] {
            assert!(parse(text).is_err(), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn times_have_nanoseconds_before_1970_too() {
        for (value, seconds, nanoseconds) in [
            (&b"0"[..], 0, 0),
            (b"1.5", 1, 500_000_000),
            (b"1.", 1, 0),
            (b"1.000000001999", 1, 1),
            (b"-1", -1, 0),
            (b"-1.25", -2, 750_000_000),
            (b"-0.25", -1, 750_000_000),
        ] {
            let expected = Mtime {
                seconds,
                nanoseconds,
            };
            assert_eq!(time(value).unwrap(), Some(expected));
        }
    }
}
