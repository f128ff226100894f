//! What a layer removes.

use super::*;

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
    for upper in [
        layer().file("etc/.wh..wh..opq", "").file("etc/c", "new"),
        layer().file("etc/c", "new").file("etc/.wh..wh..opq", ""),
    ] {
        assert_tree(&[lower.clone(), upper], ["d /etc", "- /etc/c \"new\""]);
    }
    // A whiteout of a directory that the layer itself puts there makes it a new one.
    for upper in [
        layer().file(".wh.etc", "").dir("etc").file("etc/c", "new"),
        layer().file("etc/c", "new").file(".wh.etc", ""),
    ] {
        assert_tree(&[lower.clone(), upper], ["d /etc", "- /etc/c \"new\""]);
    }
}

#[test]
fn whiteouts_resolve_their_directory_inside_the_root() {
    let lower = layer()
        .dir("d")
        .file("d/x", "")
        .file("d/y", "")
        .symlink("relative", "d")
        .symlink("absolute", "/d")
        .symlink("climbing", "../../../d")
        .symlink("nowhere", "none")
        .file("file", "");
    let rest = ["l /absolute -> /d", "l /climbing -> ../../../d", "d /d"];
    let links = ["l /nowhere -> none", "l /relative -> d"];
    for through in ["relative", "absolute", "climbing", "d", "./relative//"] {
        let upper = layer().file(&format!("{through}/.wh.x"), "");
        let [a, b, c] = rest;
        let [d, e] = links;
        assert_tree(
            &[lower.clone(), upper],
            [a, b, c, "- /d/y \"\"", "- /file \"\"", d, e],
        );
        let upper = layer().file(&format!("{through}/.wh..wh..opq"), "");
        assert_tree(&[lower.clone(), upper], [a, b, c, "- /file \"\"", d, e]);
    }
    // What is not there, or cannot be, is no error.
    let upper = layer()
        .file(".wh.none", "")
        .file("none/.wh.x", "")
        .file("none/.wh..wh..opq", "")
        .file("nowhere/.wh.x", "")
        .file("file/.wh.x", "")
        .file("file/.wh..wh..opq", "");
    assert_eq!(
        short(&unpack(&[lower.clone(), upper]).unwrap()),
        short(&unpack(std::slice::from_ref(&lower)).unwrap())
    );
    // A directory of this layer in place of the link: what the link pointed to is not meant.
    let upper = layer()
        .dir("relative")
        .file("relative/.wh.x", "")
        .file("relative/.wh..wh..opq", "");
    assert_tree(
        &[lower, upper],
        [
            rest[0],
            rest[1],
            rest[2],
            "- /d/x \"\"",
            "- /d/y \"\"",
            "- /file \"\"",
            links[0],
            "d /relative",
        ],
    );
}

#[test]
fn whiteouts_remove_whatever_there_is() {
    let lower = layer()
        .dir("d")
        .dir("d/full")
        .file("d/full/f", "")
        .symlink("d/link", "/d/full")
        .kind(b'6', "d/fifo")
        .file("d/\u{1}", "")
        .file("keep", "");
    let upper = layer()
        .file("d/.wh.full", "")
        .file("d/.wh.link", "")
        .file("d/.wh.fifo", "")
        .file("d/.wh.\u{1}", "");
    assert_tree(&[lower.clone(), upper], ["d /d", "- /keep \"\""]);
    assert_tree(
        &[
            lower.clone(),
            layer().file(".wh..wh..opq", "").file("new", ""),
        ],
        ["- /new \"\""],
    );
    // Any type of entry may be a whiteout: aufs made hard links of them.
    let upper = layer().link(".wh.d", "/.wh..wh.aufs").dir("keep/.wh.x");
    assert_tree(&[lower, upper], ["- /keep \"\""]);
    // Names as long as names may be, which are longer with the prefix.
    let long = "n".repeat(255);
    assert_tree(
        &[
            layer().file(&long, "").file("x", ""),
            layer().file(&format!(".wh.{long}"), ""),
        ],
        ["- /x \"\""],
    );
}

#[test]
fn whiteout_names_that_are_none_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh..", "a/.wh..."] {
        assert_refused(
            &[layer().file("a/b", ""), layer().file(name, "")],
            "a whiteout must name",
        );
    }
    for name in [".wh.a/b", "x/.wh.a/b/c", ".wh..wh..opq/b"] {
        assert_refused(&[layer().file(name, "")], "a name below a whiteout");
    }
}

#[test]
fn devices_are_left_out_and_what_they_replace_is_gone() {
    let lower = layer()
        .file("dev/null", "file")
        .dir("dev/sda")
        .file("dev/sda/x", "");
    assert_tree(
        &[
            lower,
            layer()
                .kind(b'3', "dev/null")
                .kind(b'4', "dev/sda")
                .kind(b'3', "dev/tty"),
        ],
        ["d /dev"],
    );
    assert_tree(
        &[layer()
            .file("a", "")
            .kind(b'3', "a")
            .file("b", "")
            .kind(b'3', "b")
            .file("b", "2")],
        ["- /b \"2\""],
    );
}
