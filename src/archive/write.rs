//! Headers of a tar that is written: directories and regular files, owned by root, at time 0.

use super::header::{BLOCK as BLOCK_SIZE, CHECKSUM};
use super::record;
use crate::error::{Error, Result};

/// Everything in a tar begins at a multiple of this, in bytes; two blocks of zeros end it.
pub(crate) const BLOCK: u64 = BLOCK_SIZE as u64;

/// The largest size that a header's eleven octal digits can hold (POSIX.1-2017, pax, "ustar"). Above
/// it sizes are written in base 256, as GNU tar and Go do and read.
pub(crate) const OCTAL_LIMIT: u64 = 0o777_7777_7777;

/// A header has so many bytes for a name; longer ones (sha512) come in a PAX record.
const NAME_FIELD: usize = 100;

/// What precedes the `size` bytes of a regular file.
///
/// # Errors
/// A name that no header can have.
pub(crate) fn file(name: &str, size: u64) -> Result<Vec<u8>> {
    let Some(short) = name.get(..NAME_FIELD).filter(|short| *short != name) else {
        return header(name, 0o644, b'0', size);
    };
    let record = record::written("path", name);
    let mut blocks = header("pax-header", 0o644, b'x', record.len() as u64)?;
    blocks.extend_from_slice(record.as_bytes());
    blocks.resize(blocks.len().next_multiple_of(BLOCK_SIZE), 0);
    blocks.extend(header(short, 0o644, b'0', size)?);
    Ok(blocks)
}

/// A directory; its name ends in `/`.
///
/// # Errors
/// A name of more than 100 bytes.
pub(crate) fn directory(name: &str) -> Result<Vec<u8>> {
    header(name, 0o755, b'5', 0)
}

/// A ustar header (POSIX.1-2017, pax), or GNU's where the size needs base 256.
fn header(name: &str, mode: u32, kind: u8, size: u64) -> Result<Vec<u8>> {
    if name.len() > NAME_FIELD {
        return Err(Error::local(format!(
            "`{name}` is too long for a tar header"
        )));
    }
    let mut header = Vec::with_capacity(BLOCK_SIZE);
    let mut field = |bytes: &[u8], width: usize| {
        let end = header.len() + width;
        header.extend_from_slice(bytes);
        header.resize(end, 0);
    };
    field(name.as_bytes(), NAME_FIELD);
    field(format!("{mode:07o}").as_bytes(), 8);
    field(b"0000000", 8);
    field(b"0000000", 8);
    match size > OCTAL_LIMIT {
        true => {
            field(&[0x80, 0, 0, 0], 4);
            field(&size.to_be_bytes(), 8);
        }
        false => field(format!("{size:011o}").as_bytes(), 12),
    }
    field(b"00000000000", 12);
    // The checksum is taken with spaces in its place.
    field(&[b' '; 8], 8);
    field(&[kind], 1);
    field(b"", 100);
    match size > OCTAL_LIMIT {
        true => field(b"ustar  \0", 8),
        false => field(b"ustar\x0000", 8),
    }
    header.resize(BLOCK_SIZE, 0);
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    if let Some(field) = header.get_mut(CHECKSUM) {
        field.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    Ok(header)
}
