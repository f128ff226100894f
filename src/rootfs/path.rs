//! Names of an image as places below a root: lexical rules only, nothing is opened here.
//!
//! A place is `a/b/c`, without a slash in front or behind, without `.` and `..`; the root is
//! empty. Places are bytes and are never joined to a path of this machine.

use crate::archive::shown;
use crate::error::{Error, Result};

/// `PATH_MAX` less its NUL: what is deeper can be opened by no program in one piece. It bounds
/// the depth of everything here.
pub(super) const PATH_LIMIT: usize = 4095;
/// What the directories of ours (`late/<number>/`) may add to that.
const OWN_PREFIX: usize = 32;

/// Writes the place that `name` means into `place`.
///
/// `..` takes back the component before it, as Go's `path.Clean` does, which Docker applies to
/// names of entries.
///
/// # Errors
/// A name that climbs above the root, or is too long for a path.
pub(super) fn place(name: &[u8], place: &mut Vec<u8>) -> Result<()> {
    place.clear();
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if place.is_empty() => {
                let name = shown(name);
                return Err(Error::hostile(format!(
                    "the name {name} leads out of the image"
                )));
            }
            b".." => pop(place),
            component => push(place, component)?,
        }
    }
    if place.len() > PATH_LIMIT {
        return Err(too_long(place));
    }
    Ok(())
}

/// Goes down.
pub(super) fn push(place: &mut Vec<u8>, component: &[u8]) -> Result<()> {
    if place.len() + 1 + component.len() > PATH_LIMIT + OWN_PREFIX {
        return Err(too_long(place));
    }
    if !place.is_empty() {
        place.push(b'/');
    }
    place.extend_from_slice(component);
    Ok(())
}

#[cold]
fn too_long(place: &[u8]) -> Error {
    let place = shown(place);
    Error::hostile(format!("a path of more than {PATH_LIMIT} bytes, {place}"))
}

/// Goes up; the root is above the root.
pub(super) fn pop(place: &mut Vec<u8>) {
    let (parent, _) = split(place);
    let length = parent.len();
    place.truncate(length);
}

/// The directory and the last component.
pub(super) fn split(place: &[u8]) -> (&[u8], &[u8]) {
    match place.iter().rposition(|byte| *byte == b'/') {
        Some(at) => {
            let (parent, leaf) = place.split_at(at);
            (parent, leaf.get(1..).unwrap_or_default())
        }
        None => (&[], place),
    }
}

/// Whether `place` is `directory` or below it.
pub(super) fn is_within(place: &[u8], directory: &[u8]) -> bool {
    match place.strip_prefix(directory) {
        Some([]) | Some([b'/', ..]) => true,
        Some(_) => directory.is_empty(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_place_below_the_root() {
        for (name, expected) in [
            (&b""[..], &b""[..]),
            (b".", b""),
            (b"/", b""),
            (b"./", b""),
            (b"//", b""),
            (b"a", b"a"),
            (b"/a", b"a"),
            (b"./a//b/./c/", b"a/b/c"),
            (b"a/..", b""),
            (b"a/../b", b"b"),
            (b"a/b/../../c", b"c"),
            (b"...", b"..."),
            (b"..a/b..", b"..a/b.."),
            (b"\xff/\n", b"\xff/\n"),
        ] {
            let mut found = b"rest".to_vec();
            place(name, &mut found).unwrap();
            assert_eq!(found, expected, "{}", name.escape_ascii());
        }
        for name in [
            &b".."[..],
            b"../a",
            b"/..",
            b"a/../..",
            b"a/../../b",
            b"./..",
        ] {
            assert!(
                place(name, &mut Vec::new()).is_err(),
                "{}",
                name.escape_ascii()
            );
        }
        assert!(place(&b"a/".repeat(2048), &mut Vec::new()).is_ok());
        assert!(place(&b"a/".repeat(2049), &mut Vec::new()).is_err());
    }

    #[test]
    fn within_is_not_a_prefix_of_text() {
        assert!(is_within(b"a/b", b"a"));
        assert!(is_within(b"a", b"a"));
        assert!(is_within(b"a", b""));
        assert!(!is_within(b"ab", b"a"));
        assert!(!is_within(b"a", b"a/b"));
    }
}
