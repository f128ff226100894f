//! Files that match a pattern, by the rules of Go's `path/filepath` (`Glob`, `Match`, `Join`),
//! which pipelines' `params.image` was written for.
//!
//! Owns the pattern language and walking directories for it. Names are bytes; what the files
//! are is not its business.
//!
//! | pattern | matches |
//! | --- | --- |
//! | `*` | any bytes of a name, none too, a leading dot too; `**` is no more than `*` |
//! | `?` | one character |
//! | `[a-z_]`, `[^a-z]` | one character of the class, or not of it (`!` does not negate) |
//! | `\c` | `c` itself, also in a class |

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// What makes a path element a pattern.
const META: [char; 4] = ['*', '?', '[', '\\'];

/// What Go decodes bytes to that are no UTF-8, one at a time.
const NO_CHARACTER: char = '\u{fffd}';

/// The files below `base` that match, in the order of their names, directory by directory.
///
/// `base` is taken literally, whatever characters it has. The pattern is joined to it and
/// cleaned before anything is looked at, so a leading `/` means nothing and `..` goes up, out of
/// `base` too. Links in the middle are followed. A pattern without special characters is the
/// file of that name, if there is one. Directories that cannot be read have no files.
///
/// The one error is a malformed pattern. (Go does not notice some of these as long as no name
/// comes near; such a pattern cannot match, so nothing but the message differs.)
pub(crate) fn glob(base: &Path, pattern: &str) -> Result<Vec<PathBuf>> {
    let (start, elements) = join(base, pattern);
    let matchers = elements.iter().map(|element| Matcher::parse(element));
    let matchers = matchers.collect::<std::result::Result<Vec<_>, _>>();
    let matchers = matchers
        .map_err(|why| Error::config(format!("pattern `{}`: {why}", pattern.escape_debug())))?;
    if matchers.is_empty() {
        let start = named(start);
        let exists = fs::symlink_metadata(&start).is_ok();
        return Ok(exists.then_some(start).into_iter().collect());
    }
    let mut found = vec![start];
    for matcher in &matchers {
        let mut next = Vec::new();
        for directory in &found {
            let names = names(directory).into_iter();
            let names = names.filter(|name| matcher.matches(name.as_bytes()));
            next.extend(names.map(|name| directory.join(name)));
        }
        found = next;
    }
    Ok(found)
}

/// `filepath.Join`, cut in two: the path before the first element that is a pattern, cleaned,
/// and the elements from there on.
fn join<'a>(base: &Path, pattern: &'a str) -> (PathBuf, Vec<&'a str>) {
    let mut path = PathBuf::new();
    for component in base.components() {
        match component {
            Component::ParentDir => go_up(&mut path),
            Component::CurDir => (),
            other => path.push(other),
        }
    }
    let mut elements = Vec::new();
    for element in pattern.split('/') {
        match element {
            "" | "." => (),
            ".." => {
                if elements.pop().is_none() {
                    go_up(&mut path);
                }
            }
            element => elements.push(element),
        }
    }
    let literal = elements
        .iter()
        .take_while(|element| !element.contains(META))
        .count();
    path.extend(elements.drain(..literal));
    (path, elements)
}

/// One `..`, by the text alone.
fn go_up(path: &mut PathBuf) {
    match path.components().next_back() {
        Some(Component::Normal(_)) => {
            path.pop();
        }
        Some(Component::RootDir) => (),
        _ => path.push(".."),
    }
}

/// A relative path that was cleaned away is where we are.
fn named(path: PathBuf) -> PathBuf {
    match path.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => path,
    }
}

/// Sorted by bytes. What is no directory or cannot be read has none; a failure in the middle
/// keeps the names read so far.
fn names(directory: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(named(directory.to_owned()))
        .into_iter()
        .flatten();
    let mut names: Vec<OsString> = entries.map_while(|it| Some(it.ok()?.file_name())).collect();
    names.sort_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
    names
}

/// The pattern of one path element: runs of single places, each perhaps after a `*`.
struct Matcher {
    runs: Vec<Run>,
}

#[derive(Default)]
struct Run {
    after_star: bool,
    places: Vec<Place>,
}

/// What one place of a pattern takes.
enum Place {
    Byte(u8),
    Character,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Matcher {
    fn parse(pattern: &str) -> std::result::Result<Matcher, &'static str> {
        let mut runs = vec![];
        let mut run = Run::default();
        let mut rest = pattern.chars();
        while let Some(character) = rest.next() {
            let place = match character {
                '*' => {
                    if !run.places.is_empty() {
                        runs.push(std::mem::take(&mut run));
                    }
                    run.after_star = true;
                    continue;
                }
                '?' => Place::Character,
                '[' => class(&mut rest)?,
                '\\' => {
                    let escaped = rest.next().ok_or("nothing follows the last `\\`")?;
                    run.places.extend(literally(escaped));
                    continue;
                }
                plain => {
                    run.places.extend(literally(plain));
                    continue;
                }
            };
            run.places.push(place);
        }
        runs.push(run);
        Ok(Matcher { runs })
    }

    /// Each run takes the first place it can, as in Go: with bytes that are no UTF-8 that is not
    /// the same as trying all places.
    fn matches(&self, name: &[u8]) -> bool {
        let mut rest = name;
        let mut runs = self.runs.iter().peekable();
        while let Some(run) = runs.next() {
            let is_last = runs.peek().is_none();
            if is_last && run.after_star && run.places.is_empty() {
                return true;
            }
            let starts = if run.after_star { rest.len() } else { 0 };
            let taken = (0..=starts).find_map(|start| {
                let after = run.take(rest.get(start..)?)?;
                (!is_last || after.is_empty()).then_some(after)
            });
            match taken {
                Some(after) => rest = after,
                None => return false,
            }
        }
        rest.is_empty()
    }
}

impl Run {
    /// What is left of a name that begins with this run.
    fn take<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        self.places
            .iter()
            .try_fold(name, |rest, place| place.take(rest))
    }
}

impl Place {
    fn take<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        let (first, after) = name.split_first()?;
        match self {
            Place::Byte(byte) => (byte == first).then_some(after),
            Place::Character => Some(split_character(name).1),
            Place::Class { negated, ranges } => {
                let (character, after) = split_character(name);
                let is_in = ranges
                    .iter()
                    .any(|(low, high)| (low..=high).contains(&&character));
                (is_in != *negated).then_some(after)
            }
        }
    }
}

/// The bytes of a character stand for themselves.
fn literally(character: char) -> impl Iterator<Item = Place> {
    let mut bytes = [0; 4];
    let length = character.encode_utf8(&mut bytes).len();
    bytes.into_iter().take(length).map(Place::Byte)
}

/// A class, its `[` already read. It has one range at least, and `-` and `]` only escaped.
fn class(rest: &mut std::str::Chars<'_>) -> std::result::Result<Place, &'static str> {
    let mut ranges = Vec::new();
    let negated = skip(rest, '^');
    while ranges.is_empty() || !skip(rest, ']') {
        let low = class_character(rest)?;
        let high = if skip(rest, '-') {
            class_character(rest)?
        } else {
            low
        };
        ranges.push((low, high));
    }
    Ok(Place::Class { negated, ranges })
}

fn class_character(rest: &mut std::str::Chars<'_>) -> std::result::Result<char, &'static str> {
    const OPEN: &str = "a `[` has no `]`";
    match rest.next().ok_or(OPEN)? {
        '\\' => rest.next().ok_or(OPEN),
        '-' => Err("a `-` in `[…]` is not between two characters"),
        ']' => Err("a `[…]` is empty, or ends in a `-`"),
        plain => Ok(plain),
    }
}

fn skip(rest: &mut std::str::Chars<'_>, expected: char) -> bool {
    let found = rest.as_str().starts_with(expected);
    if found {
        rest.next();
    }
    found
}

/// The first character and the rest; a byte that begins none counts as one.
fn split_character(name: &[u8]) -> (char, &[u8]) {
    let first = (1..=4.min(name.len())).find_map(|length| {
        let (bytes, rest) = name.split_at_checked(length)?;
        Some((std::str::from_utf8(bytes).ok()?.chars().next()?, rest))
    });
    first.unwrap_or((NO_CHARACTER, name.get(1..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::symlink;

    /// A directory of the test's own, gone afterwards.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, paths: &[&[u8]]) -> Tree {
            let root = std::env::temp_dir().join(format!("glob-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            let tree = Tree(root);
            tree.add(paths);
            tree
        }

        /// Files, and directories where a path ends in `/`.
        fn add(&self, paths: &[&[u8]]) {
            fs::create_dir_all(&self.0).expect("the root");
            for path in paths {
                let full = self.0.join(OsString::from_vec(path.to_vec()));
                match path.strip_suffix(b"/") {
                    Some(_) => fs::create_dir_all(&full).expect("a directory"),
                    None => {
                        fs::create_dir_all(full.parent().expect("a parent")).expect("a directory");
                        fs::write(&full, "").expect("a file");
                    }
                }
            }
        }

        fn glob(&self, pattern: &str) -> String {
            shown(&glob(&self.0, pattern).expect(pattern), &self.0)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn shown(found: &[PathBuf], root: &Path) -> String {
        let below = |path: &PathBuf| {
            path.strip_prefix(root)
                .expect("below")
                .as_os_str()
                .to_owned()
        };
        let found: Vec<Vec<u8>> = found.iter().map(|path| below(path).into_vec()).collect();
        found.join(&b' ').escape_ascii().to_string()
    }

    fn matches(pattern: &str, name: &[u8]) -> bool {
        Matcher::parse(pattern).expect(pattern).matches(name)
    }

    #[test]
    fn names_match_as_in_go() {
        for (pattern, name, expected) in [
            ("", "", true),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("*", "", true),
            ("*", ".hidden", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("a*b", "ab", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("a**b", "axxb", true),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("\\a\\b", "ab", true),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("a[^a][^a][^a]b", "a☺b", false),
            ("[α-ω]*", "α", true),
            ("*[a-ζ]*", "A", false),
            ("[z-a]", "m", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "-", true),
            ("[\\-x]", "z", false),
            ("[[*?]", "*", true),
            ("[!a]", "b", false),
            ("[!a]", "!", true),
            ("a]", "a]", true),
            ("a-b]", "a-b]", true),
            ("*x", "xxx", true),
            ("[^^]", "^", false),
            ("?*?", "a", false),
            ("*☺", "☺☺", true),
        ] {
            assert_eq!(
                matches(pattern, name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn a_byte_that_is_no_utf_8_counts_as_a_character() {
        for (pattern, name, expected) in [
            ("?", &b"\xff"[..], true),
            ("??", b"\xe2\x98", true),
            ("?", b"\xe2\x98", false),
            ("[^a]", b"\xff", true),
            ("[\u{fffd}]", b"\xff", true),
            ("*\u{e9}", b"x\xc3\xa9", true),
            ("\u{e9}", b"\xc3", false),
            ("a*", b"a\xff\xfe", true),
            // `?` may begin inside a character when a star stands before it.
            ("*??", b"\xc3\xa9", false),
            ("*?", b"\xc3\xa9", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name:?}");
        }
    }

    #[test]
    fn malformed_patterns_are_errors_that_quote_them() {
        for (pattern, why) in [
            ("[", "a `[` has no `]`"),
            ("[a", "a `[` has no `]`"),
            ("[^", "a `[` has no `]`"),
            ("[a-", "a `[` has no `]`"),
            ("[\\", "a `[` has no `]`"),
            ("[]", "a `[…]` is empty, or ends in a `-`"),
            ("[]a]", "a `[…]` is empty, or ends in a `-`"),
            ("[^]", "a `[…]` is empty, or ends in a `-`"),
            ("[a-]", "a `[…]` is empty, or ends in a `-`"),
            ("[-]", "a `-` in `[…]` is not between two characters"),
            ("[-x]", "a `-` in `[…]` is not between two characters"),
            ("[a-b-c]", "a `-` in `[…]` is not between two characters"),
            ("a\\", "nothing follows the last `\\`"),
            ("a*[", "a `[` has no `]`"),
            ("x/[a/b]", "a `[` has no `]`"),
            ("a\\/b", "nothing follows the last `\\`"),
            ("*/[", "a `[` has no `]`"),
        ] {
            let error = glob(Path::new("/nowhere"), pattern)
                .expect_err(pattern)
                .to_string();
            assert_eq!(
                error,
                format!("pattern `{}`: {why}", pattern.escape_debug())
            );
        }
    }

    #[test]
    fn patterns_reach_over_several_elements_in_the_order_of_names() {
        let tree = Tree::new(
            "elements",
            &[
                b"b/image.tar",
                b"b/image2.tar",
                b"a/image.tar",
                b"a/.image.tar",
                b".c/image.tar",
                b"a/deep/er/image.tar",
                b"image.tar",
                b"a-b/image.tar",
                b"empty/",
                b"B/x",
                b"lit*ral",
                b"b/sub[1]/x",
                b"\xff/image.tar",
            ],
        );
        for (pattern, expected) in [
            ("image.tar", "image.tar"),
            ("*.tar", "image.tar"),
            ("nothing", ""),
            ("nothing*", ""),
            (
                "*/image.tar",
                ".c/image.tar a/image.tar a-b/image.tar b/image.tar \\xff/image.tar",
            ),
            ("?/image.tar", "a/image.tar b/image.tar \\xff/image.tar"),
            (
                "[ab]/*",
                "a/.image.tar a/deep a/image.tar b/image.tar b/image2.tar b/sub[1]",
            ),
            ("a/*/*/*", "a/deep/er/image.tar"),
            (
                "**/image.tar",
                ".c/image.tar a/image.tar a-b/image.tar b/image.tar \\xff/image.tar",
            ),
            ("a/**/image.tar", ""),
            ("image.tar/*", ""),
            ("empty/*", ""),
            ("lit\\*ral", "lit*ral"),
            ("b/sub\\[1]/x", "b/sub[1]/x"),
            ("b/sub[1]/x", ""),
            ("", ""),
            (".", ""),
            ("/image.tar", "image.tar"),
            ("./a//image.tar/", "a/image.tar"),
            ("*/../image.tar", "image.tar"),
            ("a/../b/im*e.tar", "b/image.tar"),
        ] {
            assert_eq!(tree.glob(pattern), expected, "{pattern}");
        }
        assert_eq!(
            glob(&tree.0, "").expect("the base"),
            std::slice::from_ref(&tree.0)
        );
        assert_eq!(
            glob(&tree.0.join("a"), "../im*e.tar").expect("above"),
            [tree.0.join("image.tar")]
        );
    }

    #[test]
    fn the_base_is_no_pattern() {
        let tree = Tree::new("base", &[b"[a]*/x.tar", b"a/x.tar"]);
        let base = tree.0.join("[a]*");
        assert_eq!(glob(&base, "*.tar").expect("found"), [base.join("x.tar")]);
        assert_eq!(glob(&base, "x.tar").expect("found"), [base.join("x.tar")]);
    }

    #[test]
    fn links_are_followed_in_the_middle_and_kept_at_the_end() {
        let tree = Tree::new("links", &[b"real/image.tar", b"file"]);
        let link = |to: &str, from: &str| symlink(to, tree.0.join(from)).expect("a link");
        link("real", "to-directory");
        link("file", "to-file");
        link("nowhere", "to-nothing");
        link("to-itself", "to-itself");
        assert_eq!(
            tree.glob("*/image.tar"),
            "real/image.tar to-directory/image.tar"
        );
        assert_eq!(tree.glob("to-dir*/*"), "to-directory/image.tar");
        assert_eq!(tree.glob("to-n*"), "to-nothing");
        assert_eq!(tree.glob("to-nothing"), "to-nothing");
        assert_eq!(tree.glob("to-*/*"), "to-directory/image.tar");
        assert_eq!(tree.glob("to-itself/x"), "");
    }

    #[test]
    fn relative_bases_stay_relative() {
        for (base, pattern, path, elements) in [
            ("", "", "", vec![]),
            (".", "../x", "../x", vec![]),
            ("a/b", "../../../x/*", "../x", vec!["*"]),
            ("/", "../../x", "/x", vec![]),
            ("/a/./b//c", "d", "/a/b/c/d", vec![]),
            ("/a/../b", "..", "/", vec![]),
            ("a", "*/../b/..", "a", vec![]),
            ("", "a/b*/c", "a", vec!["b*", "c"]),
            ("..", "..", "../..", vec![]),
        ] {
            assert_eq!(
                join(Path::new(base), pattern),
                (path.into(), elements),
                "{base} {pattern}"
            );
        }
        assert_eq!(glob(Path::new(""), "").expect("here"), [PathBuf::from(".")]);
        assert!(
            glob(Path::new(""), "Cargo.to*")
                .expect("here")
                .contains(&"Cargo.toml".into())
        );
    }

    #[test]
    fn names_that_no_file_can_have_are_not_there() {
        let tree = Tree::new("names", &[b"a"]);
        assert_eq!(tree.glob("a\0"), "");
        assert_eq!(tree.glob("a\0*"), "");
        assert_eq!(tree.glob(&"a".repeat(5_000)), "");
        assert_eq!(tree.glob(&"a/".repeat(5_000)), "");
        assert_eq!(tree.glob(&"*/".repeat(5_000)), "");
    }

    #[test]
    fn many_stars_do_not_multiply() {
        let pattern = format!("{}b", "*a".repeat(100));
        assert!(!matches(&pattern, "a".repeat(255).as_bytes()));
        assert!(matches(&"*".repeat(10_000), b"a"));
    }
}
