//! Hard links, within a layer and to lower ones.

use super::*;

#[test]
fn hard_links_reach_into_lower_layers() {
    let lower = layer()
        .dir("a")
        .file("a/x", "1")
        .symlink("s", "a")
        .symlink("t", "a/x");
    assert_tree(
        &[
            lower.clone(),
            layer()
                .link("l", "a/x")
                .link("m", "/l")
                .link("n", "s/x")
                .link("o", "t")
                .file("a/.wh.x", ""),
        ],
        [
            "d /a",
            "- /l =/l \"1\"",
            "- /m =/l \"1\"",
            "- /n =/l \"1\"",
            "l /o =/o -> a/x",
            "l /s -> a",
            "l /t =/o -> a/x",
        ],
    );
    // To a file that a later layer removes, and that this layer replaces.
    assert_tree(
        &[
            lower.clone(),
            layer().link("l", "a/x"),
            layer().file("a/.wh.x", ""),
        ],
        ["d /a", "- /l \"1\"", "l /s -> a", "l /t -> a/x"],
    );
    assert_tree(
        &[
            lower.clone(),
            layer().link("l", "a/x").file("a/x", "2").link("m", "a/x"),
        ],
        [
            "d /a",
            "- /a/x =/a/x \"2\"",
            "- /l \"1\"",
            "- /m =/a/x \"2\"",
            "l /s -> a",
            "l /t -> a/x",
        ],
    );
    // The stand-in of a link is replaced like anything else.
    assert_tree(
        &[
            lower.clone(),
            layer()
                .link("l", "a/x")
                .link("m", "l")
                .file("l", "2")
                .dir("m"),
        ],
        [
            "d /a",
            "- /a/x \"1\"",
            "- /l \"2\"",
            "d /m",
            "l /s -> a",
            "l /t -> a/x",
        ],
    );
    // In place of its own target, and of another name of the same file.
    assert_tree(
        &[
            lower.clone(),
            layer().link("a/x", "a/x").link("a/y", "a/x"),
            layer().link("a/x", "a/y"),
        ],
        [
            "d /a",
            "- /a/x =/a/x \"1\"",
            "- /a/y =/a/x \"1\"",
            "l /s -> a",
            "l /t -> a/x",
        ],
    );
    for target in [
        "a", "nothing", "a/x/y", "", "/", "s", "s/none", "../a/x", "t/y",
    ] {
        let error = unpack(&[lower.clone(), layer().link("l", target)]);
        match target {
            "s" => assert!(error.is_ok()),
            _ => assert_eq!(error.unwrap_err().kind(), Kind::Hostile, "{target}"),
        }
    }
    assert_refused(
        &[layer().dir("a").link("l", "a")],
        "`l` is a hard link to `a`, which cannot be",
    );
    assert_refused(
        &[layer().dir("a").file("a/x", "").link("a", "a/x")],
        "which cannot be",
    );
    assert_refused(
        &[layer().link("l", "m").link("m", "l")],
        "which is no file of any layer",
    );
    assert_refused(
        &[lower, layer().kind(b'3', "dev").link("l", "dev")],
        "which is no file of any layer",
    );
}

#[test]
fn bookkeeping_of_aufs_is_left_out_and_its_links_resolved() {
    assert_tree(
        &[layer()
            .file(".wh..wh.aufs", "")
            .dir(".wh..wh.orph")
            .file(".wh..wh.orph/x", "")
            .dir(".wh..wh.plnk")
            .file(".wh..wh.plnk/12.34", "shared")
            .link("a", "/.wh..wh.plnk/12.34")
            .link("b", ".wh..wh.plnk/12.34")
            .file("d/.wh..wh.aufs", "")],
        ["- /a =/a \"shared\"", "- /b =/a \"shared\""],
    );
}
