//! Bytes to tar entries and back: compression told by magic bytes, tar reading and writing, whiteout
//! names.
//!
//! Nothing here touches a disk, and nothing here believes a name: that is `rootfs`'s part.

mod decode;
mod entries;
pub(crate) mod gzip;
mod header;
mod inflate;
mod input;
pub(crate) mod members;
mod pax;
mod record;
mod sparse;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod whiteout;
pub(crate) mod write;

pub(crate) use decode::{Compression, Decoder, decode, decode_copyable};
pub(crate) use entries::{Data, Entries, Entry, EntryKind};

/// A name from an image as an error or a log line shows it: text where it is text, else escaped;
/// cut where it is absurdly long. (Control characters are escaped by the writer of the line.)
pub(crate) fn shown(name: &[u8]) -> String {
    /// Longer than any honest name, shorter than a screen.
    const SHOWN_BYTES: usize = 1024;
    let (name, rest) = match name.split_at_checked(SHOWN_BYTES) {
        Some((head, tail)) if !tail.is_empty() => (head, "…"),
        _ => (name, ""),
    };
    match std::str::from_utf8(name) {
        Ok(text) => format!("`{text}{rest}`"),
        Err(_) => format!("`{}{rest}`", name.escape_ascii()),
    }
}
