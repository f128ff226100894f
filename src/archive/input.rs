//! A buffered reader that can be asked for its first bytes.

use std::io::{self, Read};

/// Compressed bytes read at once.
const INPUT_BUFFER: usize = 64 * 1024;
/// What the longest signature of a compression takes: bzip2's, with the magic of its first block.
const SIGNATURE_BYTES: usize = 10;

/// What is read of a compressed stream.
#[derive(Clone)]
pub(super) struct Input<R> {
    reader: R,
    buffer: Box<[u8]>,
    at: usize,
    end: usize,
}

impl<R: Read> Input<R> {
    pub(super) fn new(reader: R) -> Self {
        Input {
            reader,
            buffer: vec![0; INPUT_BUFFER].into_boxed_slice(),
            at: 0,
            end: 0,
        }
    }

    /// The first bytes, fewer than a signature takes only where the stream is shorter.
    pub(super) fn start(&mut self) -> io::Result<&[u8]> {
        while self.end < SIGNATURE_BYTES {
            match self.read_more()? {
                0 => break,
                n => self.end += n,
            }
        }
        Ok(self.buffer.get(..self.end).unwrap_or_default())
    }

    /// What is buffered, read anew where nothing is; empty only at the end.
    pub(super) fn fill(&mut self) -> io::Result<&[u8]> {
        if self.at == self.end {
            (self.at, self.end) = (0, 0);
            self.end = self.read_more()?;
        }
        Ok(self.buffer.get(self.at..self.end).unwrap_or_default())
    }

    pub(super) fn consume(&mut self, n: usize) {
        self.at = (self.at + n).min(self.end);
    }

    pub(super) fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.fill()?.first().copied())
    }

    pub(super) fn byte(&mut self) -> io::Result<Option<u8>> {
        let byte = self.peek()?;
        self.consume(1);
        Ok(byte)
    }

    fn read_more(&mut self) -> io::Result<usize> {
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        loop {
            match self.reader.read(room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}
