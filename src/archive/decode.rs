//! Undoes a layer's compression, which is told by its first bytes: media types are not trusted.
//!
//! A stream that ends too early although its reader is at the end, or makes no sense, is
//! [`Kind::Hostile`](crate::error::Kind): the image is broken, and fetching it again brings the
//! same bytes. What the reader below says when it fails passes through unchanged.

use std::io::{self, BufRead, Read};

use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::inflate::Inflate;
use super::input::Input;
use crate::error::{Error, Kind, Result};

/// Plain bytes made at once: 256 KiB is where larger blocks stop being faster. A power of two, and
/// more than twice deflate's window of 32 KiB, as miniz_oxide wants it.
const OUTPUT_BUFFER: usize = 256 * 1024;
/// A reader with this much room is served without the buffer between.
const DIRECT_FROM: usize = 16 * 1024;
/// 2^27 bytes, 128 MiB: what `zstd -d` and every registry client accept; a frame with a larger
/// window would cost us that much memory.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// `ZSTD_error_frameParameter_windowTooLarge` (zstd_errors.h), as functions return it.
const ZSTD_WINDOW_TOO_LARGE: usize = 0_usize.wrapping_sub(16);

/// The plain bytes of a stream, in blocks of up to 256 KiB through [`BufRead`].
pub(crate) struct Decoder<R> {
    input: Input<R>,
    method: Method,
    /// Plain bytes, made at the first use.
    buffer: Box<[u8]>,
    /// What of the buffer has not been consumed.
    at: usize,
    end: usize,
}

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Compression {
    Gzip,
    None,
    Zstd,
}

enum Method {
    Plain,
    Gzip(Box<Inflate>),
    Zstd(Box<Unzstd>),
}

/// Looks at the first bytes of `reader` and undoes the compression they tell of: gzip, zstd or none.
///
/// # Errors
/// A compression that images do not use, by its name; what `reader` says.
pub(crate) fn decode<R: Read>(reader: R) -> Result<Decoder<R>> {
    decode_with(reader, Inflate::new)
}

/// The same, slower, for a stream whose decoder is to be copied ([`Decoder::try_clone`]).
///
/// # Errors
/// As for [`decode`].
pub(crate) fn decode_copyable<R: Read>(reader: R) -> Result<Decoder<R>> {
    decode_with(reader, Inflate::copyable)
}

fn decode_with<R: Read>(reader: R, inflate: fn() -> Inflate) -> Result<Decoder<R>> {
    let mut input = Input::new(reader);
    let start = input
        .start()
        .map_err(|error| Error::io(Kind::Local, error))?;
    let method = match start {
        [0x1f, 0x8b, ..] => Method::Gzip(Box::new(inflate())),
        // The second is a skippable frame, with which a zstd stream may start.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Method::Zstd(Box::new(Unzstd::new()?))
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return Err(unsupported("xz")),
        [0x04, 0x22, 0x4d, 0x18, ..] => return Err(unsupported("lz4")),
        // `BZh` alone could be the name of a tar's first file.
        [b'B', b'Z', b'h', b'1'..=b'9', block @ ..]
            if block.starts_with(&[0x31, 0x41, 0x59, 0x26, 0x53, 0x59])
                || block.starts_with(&[0x17, 0x72, 0x45, 0x38, 0x50, 0x90]) =>
        {
            return Err(unsupported("bzip2"));
        }
        _ => Method::Plain,
    };
    Ok(Decoder {
        input,
        method,
        buffer: Box::default(),
        at: 0,
        end: 0,
    })
}

impl<R> Decoder<R> {
    pub(crate) fn compression(&self) -> Compression {
        match self.method {
            Method::Plain => Compression::None,
            Method::Gzip(_) => Compression::Gzip,
            Method::Zstd(_) => Compression::Zstd,
        }
    }
}

impl<R: Clone> Decoder<R> {
    /// The same stream at the same place, to be read once more from there: about 330 KiB. `None`
    /// for zstd, whose state cannot be copied, and for gzip unless from [`decode_copyable`].
    pub(crate) fn try_clone(&self) -> Option<Self> {
        let method = match &self.method {
            Method::Plain => Method::Plain,
            Method::Gzip(inflate) => Method::Gzip(Box::new(inflate.try_clone()?)),
            Method::Zstd(_) => return None,
        };
        Some(Decoder {
            input: self.input.clone(),
            method,
            buffer: self.buffer.clone(),
            at: self.at,
            end: self.end,
        })
    }
}

fn unsupported(name: &str) -> Error {
    Error::hostile(format!(
        "it is compressed with {name}; image layers are compressed with gzip or zstd, or not at all"
    ))
}

#[cold]
fn refused(code: usize) -> Error {
    match code {
        ZSTD_WINDOW_TOO_LARGE => {
            let most = 1 << (ZSTD_WINDOW_LOG_MAX - 20);
            Error::hostile(format!(
                "the zstd stream has a window of more than {most} MiB, the most that is accepted"
            ))
            .advise(format!(
                "compress it with `--long={ZSTD_WINDOW_LOG_MAX}` at most"
            ))
        }
        code => {
            let why = zstd_safe::get_error_name(code);
            Error::hostile(format!("the zstd stream is broken: {why}"))
        }
    }
}

impl<R: Read> BufRead for Decoder<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if let Method::Plain = self.method {
            return self.input.fill();
        }
        if self.at == self.end {
            if self.buffer.is_empty() {
                self.buffer = vec![0; OUTPUT_BUFFER].into_boxed_slice();
            }
            let start = match self.method.needs_its_buffer() {
                true => self.end % OUTPUT_BUFFER,
                false => 0,
            };
            let made = self.method.more(&mut self.input, &mut self.buffer, start)?;
            (self.at, self.end) = (start, start + made);
        }
        Ok(self.buffer.get(self.at..self.end).unwrap_or_default())
    }

    fn consume(&mut self, n: usize) {
        match self.method {
            Method::Plain => self.input.consume(n),
            _ => self.at = (self.at + n).min(self.end),
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.end && out.len() >= DIRECT_FROM && !self.method.needs_its_buffer() {
            return self.method.more(&mut self.input, out, 0);
        }
        let mut block = self.fill_buf()?;
        let n = block.read(out)?;
        self.consume(n);
        Ok(n)
    }
}

impl Method {
    /// Whether plain bytes must stay in the buffer where they were made.
    fn needs_its_buffer(&self) -> bool {
        match self {
            Method::Plain | Method::Zstd(_) => false,
            Method::Gzip(inflate) => inflate.needs_its_buffer(),
        }
    }

    /// Makes plain bytes in `buffer` from `start` on; how many, 0 at the end of the stream.
    fn more<R: Read>(
        &mut self,
        input: &mut Input<R>,
        buffer: &mut [u8],
        start: usize,
    ) -> io::Result<usize> {
        match self {
            Method::Gzip(inflate) => inflate.more(input, buffer, start),
            Method::Zstd(unzstd) => unzstd.more(input, buffer),
            Method::Plain => {
                let n = input.fill()?.read(buffer)?;
                input.consume(n);
                Ok(n)
            }
        }
    }
}

/// zstd frames, one after another, skippable ones included.
struct Unzstd {
    context: DCtx<'static>,
    /// Inside a frame.
    open: bool,
    /// The context may hold plain bytes that found no room.
    full: bool,
}

impl Unzstd {
    fn new() -> Result<Self> {
        let no_memory = || Error::local("no memory for a zstd decoder");
        let mut context = DCtx::try_create().ok_or_else(no_memory)?;
        context
            .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
            .map_err(|code| Error::local(zstd_safe::get_error_name(code)))?;
        Ok(Unzstd {
            context,
            open: false,
            full: false,
        })
    }

    fn more<R: Read>(&mut self, input: &mut Input<R>, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let chunk = input.fill()?;
            if chunk.is_empty() && !self.full {
                if self.open {
                    return Err(Error::hostile("the zstd stream ends in the middle").into_io());
                }
                return Ok(0);
            }
            let mut source = InBuffer::around(chunk);
            let mut target = OutBuffer::around(&mut *buffer);
            let hint = self
                .context
                .decompress_stream(&mut target, &mut source)
                .map_err(|code| refused(code).into_io())?;
            let (used, made) = (source.pos(), target.pos());
            input.consume(used);
            self.open = hint != 0;
            self.full = self.open && made == buffer.len();
            if made > 0 {
                return Ok(made);
            }
        }
    }
}

#[cfg(test)]
mod tests;
