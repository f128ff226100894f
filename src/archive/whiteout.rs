//! The names by which a layer removes what lies below it (OCI image-spec, layer.md,
//! "Whiteouts"); the only file that knows the prefix.

use crate::error::{Error, Result};

const PREFIX: &[u8] = b".wh.";
/// Names that aufs kept for itself; the opaque marker is one of them.
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Where aufs kept the inodes of hard links; layers of the first Docker releases link to them.
pub(crate) const AUFS_LINKS: &[u8] = b".wh..wh.plnk";

/// What the last component of an entry's name asks for.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Mark<'a> {
    /// An ordinary name.
    None,
    /// Remove this name of lower layers.
    Remove(&'a [u8]),
    /// Remove everything that lower layers have in this directory.
    Opaque,
    /// Bookkeeping of aufs, which means nothing elsewhere.
    Metadata,
}

/// Reads one component of a name.
///
/// # Errors
/// `.wh.`, `.wh..` and `.wh...` would remove the directory itself or its parent.
pub(crate) fn mark(component: &[u8]) -> Result<Mark<'_>> {
    if component == OPAQUE {
        return Ok(Mark::Opaque);
    }
    if component.starts_with(AUFS) {
        return Ok(Mark::Metadata);
    }
    match component.strip_prefix(PREFIX) {
        None => Ok(Mark::None),
        Some(b"" | b"." | b"..") => Err(Error::hostile(
            "a whiteout must name something inside its directory",
        )),
        Some(name) => Ok(Mark::Remove(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whiteouts_name_what_they_remove() {
        for (component, expected) in [
            (&b"file"[..], Mark::None),
            (b".wh", Mark::None),
            (b"a.wh.b", Mark::None),
            (b".whx", Mark::None),
            (b".wh.file", Mark::Remove(b"file")),
            (b".wh..hidden", Mark::Remove(b".hidden")),
            (b".wh....", Mark::Remove(b"...")),
            (b".wh..wh", Mark::Remove(b".wh")),
            (b".wh.\xff", Mark::Remove(b"\xff")),
            (b".wh..wh..opq", Mark::Opaque),
            (b".wh..wh.aufs", Mark::Metadata),
            (b".wh..wh.plnk", Mark::Metadata),
            (b".wh..wh.", Mark::Metadata),
            (b".wh..wh..opqx", Mark::Metadata),
        ] {
            assert_eq!(mark(component).unwrap(), expected, "{component:?}");
        }
    }

    #[test]
    fn a_whiteout_of_nothing_itself_or_its_parent_is_refused() {
        for component in [&b".wh."[..], b".wh..", b".wh..."] {
            assert!(mark(component).is_err(), "{component:?}");
        }
    }
}
