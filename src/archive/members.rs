//! The headers of a tar without its data: which members there are, and where their bytes lie.
//!
//! For tarballs on disk that are then read by offset. Fields are read by the same rules as in
//! `entries`, so that a tarball has the same members for both.

use std::io::{self, Read};

use super::header::{BLOCK, Header, LONG_NAME_LIMIT, goes_on, two_headers, two_names, until_nul};
use super::pax::{self, Pax};
use super::shown;
use crate::error::{Error, Kind, Result};

/// A stream that can pass over bytes without reading them.
pub(crate) trait Forward: Read {
    /// # Errors
    /// `UnexpectedEof` where the stream is shorter.
    fn skip(&mut self, bytes: u64) -> io::Result<()>;
}

impl<T: Forward> Forward for &mut T {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        (**self).skip(bytes)
    }
}

/// Whether a stream that starts with `start` can be a tar: a header, or the end marker of an empty
/// one.
pub(crate) fn is_tar(start: &[u8]) -> bool {
    match start.first_chunk::<BLOCK>() {
        Some(block) => block.iter().all(|byte| *byte == 0) || Header::check(block).is_ok(),
        None => false,
    }
}

/// One member of a tar.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    /// Of a link: where it leads.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: MemberKind,
    /// Where in the stream its bytes begin.
    pub(crate) at: u64,
    pub(crate) size: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MemberKind {
    File,
    HardLink,
    Symlink,
    /// A directory, a device: nothing that has bytes.
    Other,
}

/// Reads one header after another.
pub(crate) struct Members<R> {
    tar: R,
    at: u64,
    /// Where the header at hand begins.
    start: u64,
    pax: Pax,
}

impl<R: Forward> Members<R> {
    pub(crate) fn new(tar: R) -> Self {
        Members {
            tar,
            at: 0,
            start: 0,
            pax: Pax::default(),
        }
    }

    /// The next member, whose bytes are passed over; `None` at the end.
    ///
    /// # Errors
    /// [`Kind::Hostile`] for what is no tar, is cut off, or can be read in two ways; what the
    /// reader says.
    pub(crate) fn next(&mut self) -> Result<Option<Member>> {
        let (mut long_name, mut long_link, mut has_pax) = (None, None, false);
        self.pax.clear();
        let mut block = [0; BLOCK];
        loop {
            self.start = self.at;
            let speaks = long_name.is_some() || long_link.is_some() || has_pax;
            if !self.block(&mut block)? || self.is_end(&mut block)? {
                return match speaks {
                    true => Err(self.cut_off()),
                    false => Ok(None),
                };
            }
            let header = Header::check(&block).map_err(|error| self.here(error))?;
            match header.kind() {
                b'L' if long_name.is_none() => long_name = Some(self.text(&header)?),
                b'K' if long_link.is_none() => long_link = Some(self.text(&header)?),
                b'x' if !has_pax => {
                    has_pax = true;
                    *self.pax.text() = self.extension(&header, pax::LIMIT)?;
                    self.pax.parse()?;
                }
                b'L' | b'K' | b'x' => {
                    return Err(two_headers());
                }
                b'g' => {
                    let mut global = Pax::default();
                    *global.text() = self.extension(&header, pax::LIMIT)?;
                    global.parse()?;
                    global.check_global()?;
                }
                _ => return self.member(&header, long_name, long_link).map(Some),
            }
        }
    }

    fn member(
        &mut self,
        header: &Header<'_>,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Member> {
        let sparse_name = self.pax.sparse.name().map(|range| self.pax.slice(range));
        let name = one_of(long_name, sparse_name.or(self.pax.path()))?;
        let link = one_of(long_link, self.pax.link())?;
        let name = name.unwrap_or_else(|| {
            let mut name = Vec::new();
            header.name(&mut name);
            name
        });
        let sparse = header.kind() == b'S' || self.pax.sparse.is_some();
        if sparse {
            // Its map may go on in blocks that no size counts: what follows cannot be found.
            let name = shown(&name);
            return Err(Error::local(format!("{name} is stored as a sparse file"))
                .advise("write the tarball again without `--sparse`"));
        }
        let kind = match header.kind() {
            0 | b'0' | b'7' if !name.ends_with(b"/") => MemberKind::File,
            b'1' => MemberKind::HardLink,
            b'2' => MemberKind::Symlink,
            _ => MemberKind::Other,
        };
        let size = match self.pax.size {
            // The field in the header cannot hold more than 8 GiB in octal digits.
            Some(size) => size,
            None => header.size()?,
        };
        let at = self.at;
        match kind {
            // The size of the file it is a link to, or nothing; no data follow (GNU tar, Go).
            MemberKind::HardLink => {}
            // GNU tar takes `size` bytes for its data, Go takes none.
            MemberKind::Symlink | MemberKind::Other if is_known(header.kind()) && size > 0 => {
                let name = shown(&name);
                return Err(Error::hostile(format!(
                    "{name}: {size} bytes of data for what has none"
                )));
            }
            _ => self.pass(size)?,
        }
        Ok(Member {
            name,
            link: link.unwrap_or_else(|| header.link().to_vec()),
            kind,
            at,
            size,
        })
    }

    fn text(&mut self, header: &Header<'_>) -> Result<Vec<u8>> {
        let mut text = self.extension(header, LONG_NAME_LIMIT)?;
        text.truncate(until_nul(&text).len());
        Ok(text)
    }

    fn extension(&mut self, header: &Header<'_>, limit: u64) -> Result<Vec<u8>> {
        let size = header.size()?;
        if size > limit {
            return Err(Error::hostile(format!(
                "a tar header announces {size} bytes that speak for the next; {limit} are read"
            )));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        let read = self.tar.read_exact(&mut bytes);
        read.map_err(|error| self.failed(error))?;
        self.at += size;
        self.pad(size)?;
        Ok(bytes)
    }

    /// The next 512 bytes; `false` at the end of the stream.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.tar.read(rest) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.cut_off()),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        self.at += BLOCK as u64;
        Ok(true)
    }

    /// Whether the block is the first of the two of zeros that end an archive.
    fn is_end(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        if block.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        if self.block(block)? && block.iter().any(|byte| *byte != 0) {
            return Err(goes_on());
        }
        Ok(true)
    }

    fn pass(&mut self, size: u64) -> Result<()> {
        let skipped = self.tar.skip(size);
        skipped.map_err(|error| self.failed(error))?;
        self.at = self.at.saturating_add(size);
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let block = BLOCK as u64;
        let padding = (block - size % block) % block;
        match self.tar.skip(padding) {
            Ok(()) => {}
            // Go's reader too takes the end of the stream for the padding of the last entry.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(self.failed(error)),
        }
        self.at = self.at.saturating_add(padding);
        Ok(())
    }

    fn failed(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.cut_off(),
            _ => Error::io(Kind::Local, error),
        }
    }

    fn cut_off(&self) -> Error {
        self.here(Error::hostile("the tar ends in the middle"))
    }

    fn here(&self, error: Error) -> Error {
        error.doing(format!("tar member at byte {}", self.start))
    }
}

/// A type of POSIX; others may have data.
fn is_known(kind: u8) -> bool {
    matches!(kind, 0 | b'0'..=b'7')
}

/// What a GNU header and a PAX record say of one thing.
fn one_of(gnu: Option<Vec<u8>>, pax: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
    match (gnu, pax) {
        (Some(gnu), Some(pax)) if gnu != pax => Err(two_names(&gnu, pax)),
        (Some(gnu), _) => Ok(Some(gnu)),
        (None, pax) => Ok(pax.map(<[u8]>::to_vec)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::{Layer, layer};
    use crate::archive::{Entries, EntryKind};

    impl Forward for &[u8] {
        fn skip(&mut self, bytes: u64) -> io::Result<()> {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            *self = self.get(bytes..).ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok(())
        }
    }

    type Listed = (Vec<u8>, Vec<u8>, MemberKind, Vec<u8>);

    fn members(tar: &[u8]) -> Result<Vec<Listed>> {
        let mut members = Members::new(tar);
        let mut listed = Vec::new();
        while let Some(member) = members.next()? {
            let (at, size) = (member.at as usize, member.size as usize);
            let data = match member.kind {
                MemberKind::File => tar[at..at + size].to_vec(),
                _ => Vec::new(),
            };
            let link = match member.kind {
                MemberKind::HardLink | MemberKind::Symlink => member.link,
                _ => Vec::new(),
            };
            listed.push((member.name, link, member.kind, data));
        }
        Ok(listed)
    }

    fn entries(tar: &[u8]) -> Result<Vec<Listed>> {
        let mut entries = Entries::new(tar);
        let mut listed = Vec::new();
        while let Some((entry, data)) = entries.next()? {
            let kind = match entry.kind {
                EntryKind::File => MemberKind::File,
                EntryKind::Link => MemberKind::HardLink,
                EntryKind::Symlink => MemberKind::Symlink,
                _ => MemberKind::Other,
            };
            let link = match kind {
                MemberKind::HardLink | MemberKind::Symlink => entry.link().to_vec(),
                _ => Vec::new(),
            };
            let name = entry.name().to_vec();
            let mut bytes = Vec::new();
            loop {
                let block = data.block()?;
                if block.is_empty() {
                    break;
                }
                bytes.extend_from_slice(block);
                let n = block.len();
                data.consume(n);
            }
            listed.push((name, link, kind, bytes));
        }
        Ok(listed)
    }

    #[test]
    fn members_are_the_entries_that_a_layer_with_these_bytes_has() {
        let long = "d/".repeat(90) + "file";
        let end = |tar: Layer| [tar.0, vec![0; 1024]].concat();
        let plain = layer()
            .dir("d/")
            .file("d/a", "text")
            .file("d/empty", "")
            .file("d/block", &"x".repeat(512))
            .symlink("d/s", "../a")
            .link("d/h", "d/a")
            .file(&long, "pax name")
            .symlink("l", &long);
        let gnu = layer()
            .block(
                b'L',
                b"././@LongLink",
                b"",
                format!("{long}\0").as_bytes(),
                |_| {},
            )
            .block(b'0', b"short", b"", b"gnu name", |_| {})
            .block(
                b'K',
                b"././@LongLink",
                b"",
                format!("{long}\0").as_bytes(),
                |_| {},
            )
            .block(b'2', b"s", b"short", b"", |_| {});
        let odd = layer()
            .block(b'7', b"contiguous", b"", b"data", |_| {})
            .block(0, b"old", b"", b"data", |_| {})
            .block(0, b"old directory/", b"", b"", |_| {})
            .block(b'1', b"h", b"old", b"", |header| header.set_size(512))
            .block(b'g', b"global", b"", b"16 comment=text\n", |_| {})
            .file("last", "x");
        let wins = layer()
            .block(b'x', b"pax", b"", b"9 size=4\n", |_| {})
            .block(b'0', b"f", b"", b"data", |header| header.set_size(0))
            .file("last", "x");
        for tar in [plain, gnu, odd, wins].map(end) {
            let expected = entries(&tar).unwrap();
            assert_eq!(members(&tar).unwrap(), expected);
            // Without the end marker too, and cut off anywhere else for neither.
            let unmarked = &tar[..tar.len() - 1024];
            assert_eq!(members(unmarked).unwrap(), expected);
            let cut = &unmarked[..unmarked.len() - 600];
            assert_eq!(members(cut).is_err(), entries(cut).is_err());
        }
    }

    #[test]
    fn what_two_programs_may_read_differently_is_refused() {
        let pax = |records: &[u8]| {
            layer()
                .block(b'x', b"pax", b"", records, |_| {})
                .file("f", "x")
        };
        let long = |name: &[u8]| layer().block(b'L', b"l", b"", name, |_| {});
        for (tar, why) in [
            (long(b"a\0").0, "the tar ends in the middle"),
            (
                [long(b"a\0").0, long(b"b\0").0].concat(),
                "two headers of one kind",
            ),
            (
                [long(b"a\0").0, pax(b"9 path=b\n").0].concat(),
                "a tar entry with two names",
            ),
            (pax(b"nonsense").0, "a PAX record makes no sense"),
            (
                pax(b"22 GNU.sparse.major=1\n").0,
                "`f` is stored as a sparse file",
            ),
            (
                layer().block(b'2', b"s", b"t", b"data", |_| {}).0,
                "`s`: 4 bytes of data for what has none",
            ),
            (
                layer().block(b'0', b"d/", b"", b"data", |_| {}).0,
                "`d/`: 4 bytes of data for what has none",
            ),
            (
                [vec![0; 512], layer().file("f", "x").0].concat(),
                "the tar goes on after a block of zeros",
            ),
            (
                layer()
                    .block(b'x', b"p", b"", b"", |header| header.set_size(1 << 40))
                    .0,
                "a tar header announces 1099511627776 bytes",
            ),
            (
                layer()
                    .block(b'0', b"f", b"", b"", |header| header.set_size(1 << 40))
                    .0,
                "the tar ends in the middle",
            ),
        ] {
            let text = members(&tar).unwrap_err().to_string();
            assert!(text.contains(why), "{text}\n{why}");
        }
    }
}
