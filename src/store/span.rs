//! A part of a file on disk, read by offset: several threads read one file at once.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::members::Extent;
use crate::archive::members::Forward;
use crate::error::{Doing, Error, Kind, Result};

/// A part of a file, read by offset.
#[derive(Clone)]
pub(crate) struct Span {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Span {
    pub(super) fn whole(path: &Path) -> Result<Self> {
        let file = File::open(path).doing(|| "open")?;
        let size = file.metadata().doing(|| "stat")?.len();
        Ok(Span::new(Arc::new(file), Extent { at: 0, size }))
    }

    pub(super) fn new(file: Arc<File>, extent: Extent) -> Self {
        Span {
            file,
            at: extent.at,
            left: extent.size,
        }
    }

    /// Bytes that are still to be read.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Another part of the same file.
    pub(super) fn other(&self, extent: Extent) -> Self {
        Span::new(Arc::clone(&self.file), extent)
    }
}

impl Read for Span {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let buf = at_most(buf, self.left);
        if buf.is_empty() {
            return Ok(0);
        }
        match self.file.read_at(buf, self.at)? {
            0 => Err(shorter(self.left)),
            n => {
                self.at += n as u64;
                self.left -= n as u64;
                Ok(n)
            }
        }
    }
}

impl Forward for Span {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        if bytes > self.left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += bytes;
        self.left -= bytes;
        Ok(())
    }
}

/// The part of `buf` that `bytes` have room in.
pub(super) fn at_most(buf: &mut [u8], bytes: u64) -> &mut [u8] {
    let most = usize::try_from(bytes).map_or(buf.len(), |bytes| bytes.min(buf.len()));
    buf.get_mut(..most).unwrap_or_default()
}

/// A file that ends `missing` bytes too early.
pub(super) fn shorter(missing: u64) -> io::Error {
    Error::local(format!(
        "the file became shorter while it was read: {missing} bytes are missing"
    ))
    .advise("do not write to the image while it is pushed")
    .into_io()
}

/// The first bytes of a stream, enough for [`crate::archive::members::is_tar`].
pub(super) fn start(reader: impl Read) -> Result<Vec<u8>> {
    let mut start = Vec::new();
    let read = reader.take(512).read_to_end(&mut start);
    read.map_err(|error| Error::io(Kind::Local, error))?;
    Ok(start)
}
