//! What layers make of a rootfs, as a table of small images.

use super::testing::*;

/// The places of a listing with what is in them, without modes and times.
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

fn assert_tree<const N: usize>(layers: &[Layer], expected: [&str; N]) {
    let found = short(&unpack(layers).unwrap());
    assert_eq!(found[0], "d /");
    assert_eq!(found[1..], expected, "{layers:?}");
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for block in self
            .0
            .chunks(512)
            .filter(|block| &block[257..262] == b"ustar")
        {
            let name = block[..100].split(|byte| *byte == 0).next().unwrap();
            write!(f, "{}:{} ", char::from(block[156]), name.escape_ascii())?;
        }
        f.write_str("| ")
    }
}

#[test]
fn a_whiteout_never_removes_what_its_own_layer_added() {
    let lower = layer().dir("etc").file("etc/a", "old").file("etc/b", "old");
    for upper in [
        layer().file("etc/a", "new").file("etc/.wh.a", ""),
        layer().file("etc/.wh.a", "").file("etc/a", "new"),
    ] {
        assert_tree(
            &[lower.clone(), upper],
            ["d /etc", "- /etc/a \"new\"", "- /etc/b \"old\""],
        );
    }
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
            lower,
            layer()
                .dir("to-d")
                .file("to-d/in", "2")
                .file("d/.wh..wh..opq", ""),
        ],
        ["d /d", "- /file \"1\"", "d /to-d", "- /to-d/in \"2\""],
    );
}

#[test]
fn hard_links_reach_into_lower_layers() {
    let lower = layer().dir("a").file("a/x", "1").symlink("s", "a");
    assert_tree(
        &[
            lower.clone(),
            layer()
                .link("l", "a/x")
                .link("m", "l")
                .link("n", "s/x")
                .file("a/.wh.x", ""),
        ],
        [
            "d /a",
            "- /l =/l \"1\"",
            "- /m =/l \"1\"",
            "- /n =/l \"1\"",
            "l /s -> a",
        ],
    );
    for (name, target) in [
        ("l", "a"),
        ("l", "nothing"),
        ("l", "a/x/y"),
        ("l", ""),
        ("l", "../a/x"),
    ] {
        let error = unpack(&[lower.clone(), layer().link(name, target)]).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Hostile, "{error}");
    }
}
