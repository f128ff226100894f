//! What layers make of a rootfs, as small images; every rule of a merge has one.

mod above;
mod links;
mod metadata;
mod runs;
mod whiteouts;

use rustix::process::geteuid;

use super::testing::*;
use crate::error::Kind;

/// The places of a listing with what is in them, without modes, owners and times.
fn short(listing: &str) -> Vec<String> {
    let lines = listing.lines();
    lines
        .map(|line| {
            let letter = &line[..1];
            let at = line.find(" /").unwrap();
            format!("{letter} {}", &line[at + 1..])
        })
        .collect()
}

#[track_caller]
fn assert_tree<const N: usize>(layers: &[Layer], expected: [&str; N]) {
    let found = short(&unpack(layers).unwrap());
    assert_eq!(found[0], "d /");
    assert_eq!(found[1..], expected, "{layers:?}");
}

/// The image is refused, and the message says so.
#[track_caller]
fn assert_refused(layers: &[Layer], text: &str) {
    let error = unpack(layers).unwrap_err();
    assert_eq!(error.kind(), Kind::Hostile, "{error}");
    assert!(error.to_string().contains(text), "{error}\n{layers:?}");
}

fn is_root() -> bool {
    geteuid().is_root()
}

/// What a line of a listing is for this user: owners are root's business.
fn lines(expected: &[&str]) -> String {
    let line = |line: &&str| {
        let mut words: Vec<_> = line.split(' ').collect();
        if !is_root() {
            words.remove(1);
        }
        words.join(" ") + "\n"
    };
    expected.iter().map(line).collect()
}

#[test]
fn layers_replace_and_merge() {
    let lower = layer()
        .dir("d")
        .file("d/kept", "1")
        .file("d/replaced", "1")
        .dir("d/sub")
        .file("d/sub/x", "1")
        .file("file", "1")
        .symlink("to-d", "d");
    assert_tree(
        &[
            lower.clone(),
            layer()
                .dir("d")
                .file("d/replaced", "2")
                .file("d/sub", "2")
                .dir("file")
                .file("file/inside", "2")
                .file("to-d/through", "2"),
        ],
        [
            "d /d",
            "- /d/kept \"1\"",
            "- /d/replaced \"2\"",
            "- /d/sub \"2\"",
            "- /d/through \"2\"",
            "d /file",
            "- /file/inside \"2\"",
            "l /to-d -> d",
        ],
    );
    assert_tree(
        &[
            lower.clone(),
            layer()
                .dir("to-d")
                .file("to-d/in", "2")
                .file("d/.wh..wh..opq", ""),
        ],
        ["d /d", "- /file \"1\"", "d /to-d", "- /to-d/in \"2\""],
    );
    assert_tree(
        &[
            lower,
            layer().symlink("d", "x").kind(b'6', "file"),
            layer().file("to-d", "3"),
        ],
        ["l /d -> x", "p /file", "- /to-d \"3\""],
    );
}

#[test]
fn of_two_entries_of_one_name_the_last_counts() {
    assert_tree(&[layer().file("a", "1").file("a", "2")], ["- /a \"2\""]);
    assert_tree(
        &[layer().dir("a").file("a/x", "").file("a", "2")],
        ["- /a \"2\""],
    );
    assert_tree(
        &[layer().file("a", "1").dir("a").file("a/x", "")],
        ["d /a", "- /a/x \"\""],
    );
    assert_tree(
        &[layer().dir("b").symlink("a", "b").file("a/x", "")],
        ["l /a -> b", "d /b", "- /b/x \"\""],
    );
    assert_tree(
        &[layer().symlink("a", "b").dir("a").file("a/x", "")],
        ["d /a", "- /a/x \"\""],
    );
    // Through a link whose target only the link implies.
    assert_tree(
        &[layer().symlink("a", "../b/c").file("a/x", "")],
        ["l /a -> ../b/c", "d /b", "d /b/c", "- /b/c/x \"\""],
    );
    // A file that was there for a moment has replaced what lies below.
    assert_tree(
        &[
            layer().file("a/old", ""),
            layer().file("a", "").dir("a").file("a/x", ""),
        ],
        ["d /a", "- /a/x \"\""],
    );
    // A file is never written through a name that shares its inode.
    assert_tree(
        &[layer().file("a", "1").link("b", "a").file("a", "2")],
        ["- /a \"2\"", "- /b \"1\""],
    );
    assert_tree(
        &[
            layer().file("a", "1").link("b", "a"),
            layer().file("a", "2"),
        ],
        ["- /a \"2\"", "- /b \"1\""],
    );
}

#[test]
fn a_name_below_a_file_is_refused() {
    assert_refused(
        &[layer().file("a", "").file("a/b", "")],
        "`a` is not a directory",
    );
    assert_refused(
        &[layer().file("a", ""), layer().file("a/b", "")],
        "below `a`, which is not a directory",
    );
    assert_refused(
        &[
            layer().file("a", "").symlink("s", "a"),
            layer().file("s/b", ""),
        ],
        "`a` is not a directory",
    );
    assert_refused(
        &[layer().symlink("s", "s").file("s/b", "")],
        "too many symbolic links",
    );
    assert_refused(
        &[
            layer().symlink("s", "t").symlink("t", "s"),
            layer().file("s/b", ""),
        ],
        "too many symbolic links",
    );
    // Unless this layer removes the file.
    assert_tree(
        &[
            layer().file("a", ""),
            layer().file(".wh.a", "").file("a/b", ""),
        ],
        ["d /a", "- /a/b \"\""],
    );
}
