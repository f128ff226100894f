//! Compression for push: gzip (RFC 1952) without name and time, equal for equal input.

use std::io::{self, Read, Write};

use miniz_oxide::deflate::core::{CompressorOxide, create_comp_flags_from_zip_params};
use miniz_oxide::deflate::stream::deflate;
use miniz_oxide::{MZFlush, MZStatus};

use crate::error::{Error, Kind, Result};

/// Magic, deflate, no flags, no time, no hint at the level, an unknown system (RFC 1952, 2.3).
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

const LEVEL: i32 = 6;

/// Raw deflate with a 32 KiB window.
const WINDOW_BITS: i32 = -15;

const BLOCK: usize = 128 << 10;

/// Compresses everything that `plain` has into `out`.
///
/// # Errors
/// What `plain` says; that of `out` with [`Kind::Network`], as it is a connection.
pub(crate) fn compress(mut plain: impl Read, out: &mut impl Write) -> Result<()> {
    let flags = create_comp_flags_from_zip_params(LEVEL, WINDOW_BITS, 0);
    let mut compressor = Box::new(CompressorOxide::new(flags));
    let mut crc = crc32fast::Hasher::new();
    let mut size: u32 = 0;
    let mut input = vec![0; BLOCK];
    let mut output = vec![0; BLOCK];
    let sent = |error: io::Error| Error::io(Kind::Network, error);
    out.write_all(&HEAD).map_err(sent)?;
    loop {
        let n = match plain.read(&mut input) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::io(Kind::Local, error)),
        };
        let mut rest = input.get(..n).unwrap_or_default();
        crc.update(rest);
        // ISIZE is the size modulo 2³² (RFC 1952, 2.3.1).
        size = size.wrapping_add(n as u32);
        let flush = if n == 0 {
            MZFlush::Finish
        } else {
            MZFlush::None
        };
        loop {
            let step = deflate(&mut compressor, rest, &mut output, flush);
            rest = rest.get(step.bytes_consumed..).unwrap_or_default();
            out.write_all(output.get(..step.bytes_written).unwrap_or_default())
                .map_err(sent)?;
            match step.status {
                Ok(MZStatus::StreamEnd) => {
                    out.write_all(&crc.finalize().to_le_bytes()).map_err(sent)?;
                    return out.write_all(&size.to_le_bytes()).map_err(sent);
                }
                Ok(_) if n > 0 && rest.is_empty() => break,
                Ok(_) => {}
                Err(error) => return Err(Error::local(format!("compress: {error:?}"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_inflates_to_what_it_was() {
        for size in [0usize, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 17] {
            let plain: Vec<u8> = (0..size).map(|n| (n * n / 31) as u8).collect();
            let mut packed = Vec::new();
            compress(plain.as_slice(), &mut packed).unwrap();
            let mut back = Vec::new();
            let mut decoder = crate::archive::decode(packed.as_slice()).unwrap();
            decoder.read_to_end(&mut back).unwrap();
            assert!(back == plain, "{size}");
        }
    }
}
