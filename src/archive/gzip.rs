//! gzip for push: blocks of the input are compressed side by side, and the bytes that come out
//! depend on the input alone.
//!
//! One member (RFC 1952) with no name and no time in its header. Each block is deflated without
//! knowledge of the others, or stored where it does not get smaller. Either way it ends on a byte (a
//! deflated one with a sync flush, as pigz does with `--independent`; a stored one by its nature), so
//! that joining blocks is joining bytes. Several members would join as well and let libdeflate do the
//! work, twice as fast; but there are readers of layers that stop after the first one.

use std::io::{self, Read};

use zlib_rs::{Deflate, DeflateFlush};

use crate::error::{Error, Kind, Result};
use crate::workers::Workers;

/// Bytes of input that are compressed apart. Matches do not reach back over its border, which makes
/// the output of 512 KiB 0.3 % larger than that of 4 MiB; each worker holds two blocks. A constant,
/// because another size is another digest.
const BLOCK: usize = 512 << 10;

/// zlib's level. 2 takes the processor time of Go's fastest level (what `crane push` uses), and its
/// output is 4 % smaller; 1 is 12 % larger than Go's, 6 takes twice the time of 2 for 7 %.
const LEVEL: i32 = 2;

/// Of a whole block, pieces of this size are compressed first. Where none of them gets smaller the
/// block holds what was compressed before (archives, pictures, fonts), and is stored: deflate takes
/// as long for it as for text, and brings nothing.
const SAMPLE: usize = 8 << 10;
/// Samples of a block, and the way from one to the next: no power of two, which files are often
/// aligned to.
const SAMPLES: usize = 8;
const SAMPLE_STRIDE: usize = 71 << 10;
/// A sample that keeps this much of its size, in percent, does not get smaller.
const SAMPLE_KEEPS: usize = 98;

/// The most bytes of a stored block (RFC 1951, section 3.2.4).
const STORED_MOST: usize = u16::MAX as usize;

/// Base-2 logarithm of deflate's window of 32 KiB.
const WINDOW_BITS: u8 = 15;

/// Magic, deflate, no flags, no time, no hint, unknown system (RFC 1952, section 2.3).
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// The last block of a deflate stream, empty (RFC 1951, section 3.2.6): every other one says that
/// more follow.
const LAST_BLOCK: [u8; 2] = [0x03, 0x00];

/// Reads `plain` to its end, and lets `consume` read it compressed.
///
/// Memory: about 2.5 MiB for each of `workers`. Gives `plain` back, so that whoever checks its bytes
/// can finish.
///
/// # Errors
/// What `plain` says when it fails comes out of the reader unchanged; else what `consume` says.
pub(crate) fn compress<R: Read + Send, T>(
    mut plain: R,
    workers: Workers,
    consume: impl FnOnce(&mut Gzip<'_>) -> Result<T>,
) -> Result<(T, R)> {
    let read = || {
        let mut block = Vec::with_capacity(BLOCK);
        let mut part = plain.by_ref().take(BLOCK as u64);
        part.read_to_end(&mut block)
            .map_err(|error| Error::io(Kind::Local, error))?;
        Ok((!block.is_empty()).then_some(block))
    };
    let done = workers.in_order(read, Deflater::worker, |next| {
        consume(&mut Gzip {
            next,
            crc: crc32fast::Hasher::new(),
            size: 0,
            buffer: HEADER.to_vec(),
            at: 0,
            ended: false,
        })
    })?;
    Ok((done, plain))
}

/// The compressed bytes.
pub(crate) struct Gzip<'a> {
    next: &'a mut dyn FnMut() -> Result<Option<Block>>,
    crc: crc32fast::Hasher,
    /// Plain bytes, modulo 2³², as the trailer counts.
    size: u32,
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for Gzip<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.buffer.len() && !self.ended {
            self.at = 0;
            match (self.next)().map_err(Error::into_io)? {
                Some(block) => {
                    self.crc.combine(&block.crc);
                    self.size = self.size.wrapping_add(block.size);
                    self.buffer = block.bytes;
                }
                None => {
                    self.ended = true;
                    self.buffer = LAST_BLOCK.to_vec();
                    let crc = self.crc.clone().finalize();
                    self.buffer.extend(crc.to_le_bytes());
                    self.buffer.extend(self.size.to_le_bytes());
                }
            }
        }
        let mut rest = self.buffer.get(self.at..).unwrap_or_default();
        let n = rest.read(out)?;
        self.at += n;
        Ok(n)
    }
}

/// A compressed block, and what the trailer has to know of its plain bytes.
struct Block {
    bytes: Vec<u8>,
    crc: crc32fast::Hasher,
    size: u32,
}

/// One worker's compressor.
struct Deflater {
    engine: Deflate,
    output: Vec<u8>,
}

impl Deflater {
    /// A worker's part of [`Workers::in_order`].
    fn worker() -> impl FnMut(Vec<u8>) -> Result<Block> {
        let mut deflater = Deflater {
            engine: Deflate::new(LEVEL, false, WINDOW_BITS),
            // Parts of a deflated block that do not get smaller zlib stores itself, at a few bytes
            // for each.
            output: vec![0; BLOCK + BLOCK / 64 + 64],
        };
        move |plain| deflater.block(&plain)
    }

    fn block(&mut self, plain: &[u8]) -> Result<Block> {
        let bytes = match self.gets_smaller(plain)? {
            true => self.deflate(plain)?.to_vec(),
            false => stored(plain),
        };
        let mut crc = crc32fast::Hasher::new();
        crc.update(plain);
        Ok(Block {
            bytes,
            crc,
            size: u32::try_from(plain.len()).unwrap_or_default(),
        })
    }

    fn deflate(&mut self, plain: &[u8]) -> Result<&[u8]> {
        self.engine.reset();
        let flushed = self
            .engine
            .compress(plain, &mut self.output, DeflateFlush::SyncFlush);
        let made = usize::try_from(self.engine.total_out()).unwrap_or_default();
        let all = self.engine.total_in() == plain.len() as u64 && made < self.output.len();
        if flushed.is_err() || !all {
            return Err(Error::local("a block could not be compressed"));
        }
        Ok(self.output.get(..made).unwrap_or_default())
    }

    fn gets_smaller(&mut self, plain: &[u8]) -> Result<bool> {
        if plain.len() < BLOCK {
            return Ok(true);
        }
        for at in (0..SAMPLES).map(|n| n * SAMPLE_STRIDE) {
            let sample = plain.get(at..at + SAMPLE).unwrap_or_default();
            if self.deflate(sample)?.len() * 100 < sample.len() * SAMPLE_KEEPS {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Deflate's form of bytes that are not compressed.
fn stored(plain: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(plain.len() + plain.len() / 1024 + 64);
    for part in plain.chunks(STORED_MOST) {
        let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
        bytes.push(0);
        bytes.extend(length.to_le_bytes());
        bytes.extend((!length).to_le_bytes());
        bytes.extend(part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::decode;
    use crate::oci::digest::{Checked, Digest};

    fn gzip(plain: &[u8], workers: usize) -> Vec<u8> {
        let (bytes, _) = compress(plain, Workers::new(workers), |body| {
            let mut bytes = Vec::new();
            let read = body.read_to_end(&mut bytes);
            read.map_err(|error| Error::io(Kind::Local, error))?;
            Ok(bytes)
        })
        .unwrap();
        bytes
    }

    fn noise(bytes: &mut [u8]) {
        let mut state = 1_u64;
        for byte in bytes {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
    }

    /// Text that compresses, and noise that does not, in turns.
    fn sample(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        noise(&mut bytes);
        for (at, byte) in bytes.iter_mut().enumerate() {
            if (at >> 15) % 2 == 0 {
                *byte = b"the same words again and again "[at % 31];
            }
        }
        bytes
    }

    /// Gives at most seven bytes at a time.
    struct Short<'a>(&'a [u8]);

    impl Read for Short<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let most = out.len().min(7);
            self.0.read(&mut out[..most])
        }
    }

    #[test]
    fn what_was_compressed_comes_out_again() {
        for len in [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 12_345] {
            let mut plain = sample(len);
            // The first block gets no smaller.
            noise(plain.get_mut(..BLOCK).unwrap_or_default());
            let packed = gzip(&plain, 3);
            let mut back = Vec::new();
            let mut decoder = decode(packed.as_slice()).unwrap();
            decoder.read_to_end(&mut back).unwrap();
            assert_eq!(back, plain);
            assert_eq!(packed[..10], HEADER);
        }
    }

    #[test]
    fn what_does_not_get_smaller_is_stored() {
        let mut plain = vec![0; BLOCK];
        noise(&mut plain);
        // Five bytes for each stored block, nine of them.
        let overhead = HEADER.len() + 9 * 5 + LAST_BLOCK.len() + 8;
        assert_eq!(gzip(&plain, 2).len(), BLOCK + overhead);
        // Text in one of the samples is enough to look closer.
        plain[2 * SAMPLE_STRIDE..][..60 << 10].fill(b' ');
        assert!(gzip(&plain, 2).len() < BLOCK - (59 << 10));
    }

    #[test]
    fn the_bytes_depend_on_the_input_alone() {
        let plain = sample(3 * BLOCK + 99);
        let one = gzip(&plain, 1);
        for workers in [2, 5] {
            assert_eq!(gzip(&plain, workers), one, "{workers} workers");
        }
        let (short, _) = compress(Short(&plain), Workers::new(2), |body| {
            let mut bytes = Vec::new();
            body.read_to_end(&mut bytes).unwrap();
            Ok(bytes)
        })
        .unwrap();
        assert_eq!(short, one);
        // Another digest for the same layer is an image that everybody fetches again: a change of
        // this line is a change for every user.
        assert_eq!(
            Digest::of(&one).to_string(),
            "sha256:0c70065bb698990805d15b5ff43e49b7f495e415a1eee514f6eb94e80f70633f"
        );
    }

    #[test]
    fn the_plain_reader_comes_back_to_be_checked() {
        let plain = sample(2 * BLOCK);
        let digest = Digest::of(&plain);
        let checked = Checked::new(plain.as_slice(), &digest, None);
        let ((), checked) = compress(checked, Workers::new(2), |body| {
            io::copy(body, &mut io::sink()).unwrap();
            Ok(())
        })
        .unwrap();
        assert_eq!(checked.finish().unwrap().size(), plain.len() as u64);
    }

    #[test]
    fn a_failing_reader_fails_as_it_failed_and_after_what_it_gave() {
        struct Failing(usize);
        impl Read for Failing {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                if self.0 == 0 {
                    return Err(Error::hostile("wrong bytes").into_io());
                }
                let n = out.len().min(self.0);
                self.0 -= n;
                Ok(n)
            }
        }
        for workers in [1, 4] {
            let failed = compress(Failing(3 * BLOCK), Workers::new(workers), |body| {
                let mut bytes = Vec::new();
                let read = body.read_to_end(&mut bytes);
                assert!(bytes.len() > HEADER.len());
                read.map_err(|error| Error::io(Kind::Local, error))
            });
            let error = failed.map(|(n, _)| n).unwrap_err();
            assert_eq!(error.kind(), Kind::Hostile);
            assert_eq!(error.to_string(), "wrong bytes");
        }
    }

    #[test]
    fn a_consumer_may_give_up_early() {
        for workers in [1, 4] {
            let endless = io::repeat(b'x');
            let failed = compress(endless, Workers::new(workers), |body| {
                body.read_exact(&mut [0; 100]).unwrap();
                Err::<(), _>(Error::registry("the upload was refused"))
            });
            let error = failed.map(|_| ()).unwrap_err();
            assert_eq!(error.to_string(), "the upload was refused");
        }
    }
}
