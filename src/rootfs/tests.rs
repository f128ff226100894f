//! What layers make of a rootfs, as small images; every rule of a merge has one.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::testing::*;
use super::*;
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
fn directories_take_the_metadata_of_the_last_entry_that_describes_them() {
    let described = |mode, owner, mtime| {
        layer().spec(Spec {
            name: b"d/",
            kind: b'5',
            mode,
            owner,
            mtime,
            ..Spec::default()
        })
    };
    let lower = described(0o1777, (1, 2), 500).file("d/a", "1").dir("d/s");
    // Implied by a deeper name: as it was below, its time too.
    assert_eq!(
        unpack(&[
            lower.clone(),
            layer()
                .file("d/b", "2")
                .file("d/s/c", "2")
                .file("d/.wh.a", "")
        ])
        .unwrap(),
        lines(&[
            "d755 0:0 0 /",
            "d1777 1:2 500 /d",
            "-644 0:0 1000 /d/b \"2\"",
            "d755 0:0 1000 /d/s",
            "-644 0:0 1000 /d/s/c \"2\"",
        ])
    );
    // Described, before or after what is in it, and alone.
    for upper in [
        described(0o2750, (3, 0), 600).file("d/b", "2"),
        Layer([layer().file("d/b", "2").0, described(0o2750, (3, 0), 600).0].concat()),
    ] {
        assert_eq!(
            unpack(&[lower.clone(), upper]).unwrap(),
            lines(&[
                "d755 0:0 0 /",
                "d2750 3:0 600 /d",
                "-644 0:0 1000 /d/a \"1\"",
                "-644 0:0 1000 /d/b \"2\"",
                "d755 0:0 1000 /d/s",
            ])
        );
    }
    // Nothing below says otherwise.
    assert_eq!(
        unpack(&[layer().file("x/y/f", "")]).unwrap(),
        lines(&[
            "d755 0:0 0 /",
            "d755 0:0 0 /x",
            "d755 0:0 0 /x/y",
            "-644 0:0 1000 /x/y/f \"\""
        ])
    );
}

#[test]
fn modes_owners_and_times_are_kept() {
    let entry = |kind, name, mode, owner, mtime: &'static str| Spec {
        name,
        kind,
        mode,
        owner,
        link: if kind == b'2' { b"target" } else { b"" },
        pax: Box::leak(Box::new([("mtime", mtime.as_bytes())])),
        ..Spec::default()
    };
    let tar = layer()
        .spec(entry(b'0', b"a-suid", 0o4755, (0, 0), "1.000000001"))
        .spec(entry(b'0', b"b-sgid-owned", 0o6711, (1000, 7), "-1.25"))
        .spec(entry(b'0', b"c-none", 0, (0, 7), "4102444800"))
        .spec(entry(b'5', b"d-sgid", 0o2775, (0, 50), "7.5"))
        .spec(entry(b'0', b"d-sgid/file", 0o640, (0, 0), "8"))
        .spec(entry(b'5', b"d-sgid/sub", 0o755, (0, 0), "9"))
        .spec(entry(b'6', b"e-fifo", 0o4622, (3, 4), "10"))
        .spec(entry(b'2', b"f-link", 0o777, (5, 6), "-3"))
        .spec(entry(b'5', b"g-sticky", 0o1777, (0, 0), "11"));
    let read = fs::Permissions::from_mode(0o400);
    let scratch = Scratch::new();
    apply(scratch.path(), &[tar]).unwrap();
    let root = scratch.path().join("rootfs");
    let unreadable = root.join("c-none");
    assert_eq!(fs::metadata(&unreadable).unwrap().mode() & 0o7777, 0);
    fs::set_permissions(&unreadable, read).unwrap();
    assert_eq!(
        listing(&root),
        lines(&[
            "d755 0:0 0 /",
            "-4755 0:0 1.000000001 /a-suid \"\"",
            "-6711 1000:7 -2.750000000 /b-sgid-owned \"\"",
            "-400 0:7 4102444800 /c-none \"\"",
            "d2775 0:50 7.500000000 /d-sgid",
            "-640 0:0 8 /d-sgid/file \"\"",
            "d755 0:0 9 /d-sgid/sub",
            "p4622 3:4 10 /e-fifo",
            "l0 5:6 -3 /f-link -> target",
            "d1777 0:0 11 /g-sticky",
        ])
    );
}

#[test]
fn the_root_stays_a_directory_that_entries_may_describe() {
    for name in [&b"."[..], b"/", b"", b"./", b"a/.."] {
        let described = layer().spec(Spec {
            name,
            kind: b'5',
            mode: 0o711,
            owner: (1, 2),
            mtime: 77,
            ..Spec::default()
        });
        for layers in [
            vec![described.clone().file("f", "")],
            vec![layer().file("f", ""), described],
        ] {
            assert_eq!(
                unpack(&layers).unwrap(),
                lines(&["d711 1:2 77 /", "-644 0:0 1000 /f \"\""])
            );
        }
        for kind in *b"01236" {
            let name = std::str::from_utf8(name).unwrap();
            // That is a directory, whatever its type.
            if kind == b'0' && name.ends_with('/') {
                continue;
            }
            assert_refused(
                &[layer().linked(kind, name, "x")],
                "in place of the image's root",
            );
        }
    }
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
        "which is in no layer",
    );
    assert_refused(
        &[lower, layer().kind(b'3', "dev").link("l", "dev")],
        "which is in no layer",
    );
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

#[test]
fn sparse_files_keep_their_holes() {
    let scratch = Scratch::new();
    let tar = layer().spec(Spec {
        name: b"sparse",
        data: &[b'x'; 8192],
        pax: &[
            ("GNU.sparse.map", b"1048576,4096,52428800,4096"),
            ("GNU.sparse.size", b"104857600"),
        ],
        ..Spec::default()
    });
    apply(scratch.path(), &[tar]).unwrap();
    let path = scratch.path().join("rootfs/sparse");
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.len(), 100 << 20);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    let data = fs::read(&path).unwrap();
    let filled = data.iter().filter(|byte| **byte == b'x').count();
    assert_eq!(filled, 8192);
    assert!(data[1 << 20..][..4096].iter().all(|byte| *byte == b'x'));
    assert!(data[50 << 20..][..4096].iter().all(|byte| *byte == b'x'));
}

#[test]
fn attributes_of_users_and_capabilities_are_kept_and_no_others() {
    // As Linux stores `cap_net_raw+ep` (linux/capability.h, VFS_CAP_REVISION_2).
    const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let pax: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.security.capability", CAPABILITY),
        ("SCHILY.xattr.user.note", b"a\0\nb"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"x"),
    ];
    let directory = |pax| {
        layer().spec(Spec {
            name: b"d",
            kind: b'5',
            mode: 0o755,
            pax,
            ..Spec::default()
        })
    };
    let lower = directory(&[
        ("SCHILY.xattr.user.note", b"d"),
        ("SCHILY.xattr.user.old", b"1"),
    ])
    .spec(Spec {
        name: b"d/f",
        mode: 0o4555,
        owner: (1, 1),
        data: b"data",
        pax,
        ..Spec::default()
    });
    let upper = directory(&[("SCHILY.xattr.user.note", b"new")]).file("d/g", "");
    let scratch = Scratch::new();
    apply(scratch.path(), &[lower, upper]).unwrap();
    let xattrs = |place: &str| -> Vec<(String, Vec<u8>)> {
        let path = scratch.path().join("rootfs").join(place);
        let (mut names, mut value) = ([0u8; 4096], [0u8; 4096]);
        let length = rustix::fs::llistxattr(&path, &mut names[..]).unwrap();
        let names = names[..length].split(|byte| *byte == 0);
        let mut found: Vec<_> = names
            .filter(|name| !name.is_empty())
            .map(|name| {
                let length = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap();
                (
                    String::from_utf8(name.to_vec()).unwrap(),
                    value[..length].to_vec(),
                )
            })
            .collect();
        found.sort();
        found
    };
    let note = |value: &[u8]| ("user.note".to_owned(), value.to_vec());
    let mut expected = vec![note(b"a\0\nb")];
    if is_root() {
        expected.insert(0, ("security.capability".to_owned(), CAPABILITY.to_vec()));
    }
    assert_eq!(xattrs("d/f"), expected);
    assert_eq!(xattrs("d"), [note(b"new")]);
    let mode = fs::metadata(scratch.path().join("rootfs/d/f"))
        .unwrap()
        .mode();
    assert_eq!(mode & 0o7777, 0o4555);
}

#[test]
fn directories_that_forbid_everything_are_filled_all_the_same() {
    let closed = |name: &'static [u8], mode| Spec {
        name,
        kind: b'5',
        mode,
        ..Spec::default()
    };
    let lower = layer()
        .spec(closed(b"a", 0))
        .file("a/f", "1")
        .spec(closed(b"a/b", 0))
        .file("a/b/g", "1")
        .spec(closed(b"c", 0o555))
        .file("c/x", "1");
    let upper = layer()
        .spec(closed(b"a/b", 0o100))
        .file("a/b/h", "2")
        .file("a/.wh.f", "")
        .spec(closed(b"new", 0o111))
        .spec(closed(b"new/inner", 0))
        .file("new/inner/i", "2")
        .file(".wh.c", "");
    let scratch = Scratch::new();
    apply(scratch.path(), &[lower.clone(), upper]).unwrap();
    let root = scratch.path().join("rootfs");
    for (place, mode) in [("a", 0), ("a/b", 0o100), ("new", 0o111), ("new/inner", 0)] {
        let path = root.join(place);
        assert_eq!(
            fs::metadata(&path).unwrap().mode() & 0o7777,
            mode,
            "{place}"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let found = short(&listing(&root));
    assert_eq!(
        found[1..],
        [
            "d /a",
            "d /a/b",
            "- /a/b/g \"1\"",
            "- /a/b/h \"2\"",
            "d /new",
            "d /new/inner",
            "- /new/inner/i \"2\""
        ]
    );
    // And a later run removes them.
    apply(scratch.path(), &[lower]).unwrap();
    apply(scratch.path(), &[layer().file("f", "")]).unwrap();
    assert_eq!(short(&listing(&root))[1..], ["- /f \"\""]);
}

#[test]
fn a_run_starts_clean_and_leaves_alone_what_is_not_its_own() {
    let scratch = Scratch::new();
    let outside = Scratch::new();
    fs::write(outside.path().join("precious"), "data").unwrap();
    let at = |name: &str| scratch.path().join(name);
    fs::write(at("digest"), "old").unwrap();
    fs::create_dir_all(at("rootfs/a/b")).unwrap();
    symlink(outside.path(), at("rootfs/a/outside")).unwrap();
    symlink(outside.path(), at(".layers")).unwrap();
    apply(scratch.path(), &[layer().file("f", "")]).unwrap();
    assert_eq!(short(&listing(&at("rootfs")))[1..], ["- /f \"\""]);
    fs::remove_dir_all(at("rootfs")).unwrap();
    symlink(outside.path(), at("rootfs")).unwrap();
    apply(scratch.path(), &[layer().file("f", "")]).unwrap();
    assert_eq!(short(&listing(&at("rootfs")))[1..], ["- /f \"\""]);
    assert_eq!(fs::read(at("digest")).unwrap(), b"old");
    assert!(!at(".layers").exists());
    assert_eq!(
        short(&listing(outside.path()))[1..],
        ["- /precious \"data\""]
    );
    // Where there is nothing yet.
    apply(&at("deep/destination"), &[layer().file("f", "")]).unwrap();
    assert!(at("deep/destination/rootfs/f").exists());
    let error = apply(&at("digest"), &[layer()]).unwrap_err();
    assert_eq!(error.kind(), Kind::Local);
}

#[test]
fn what_the_destination_hands_on_does_not_reach_the_image() {
    let scratch = Scratch::new();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o2770)).unwrap();
    // user::r-x,user:12:rwx,group::---,mask::rwx,other::--- (linux/posix_acl_xattr.h)
    let mut list = vec![2u8, 0, 0, 0];
    for (tag, rights, id) in [
        (1u16, 5u16, u32::MAX),
        (2, 7, 12),
        (4, 0, u32::MAX),
        (16, 7, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        list.extend_from_slice(&tag.to_le_bytes());
        list.extend_from_slice(&rights.to_le_bytes());
        list.extend_from_slice(&id.to_le_bytes());
    }
    let set = rustix::fs::setxattr(
        scratch.path(),
        "system.posix_acl_default",
        &list,
        rustix::fs::XattrFlags::empty(),
    );
    // tmpfs may be built without access lists; the set-group-id bit is there in any case.
    assert!(matches!(set, Ok(()) | Err(rustix::io::Errno::OPNOTSUPP)));
    if is_root() {
        std::os::unix::fs::chown(scratch.path(), None, Some(50)).unwrap();
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o2770)).unwrap();
    }
    let lower = layer().dir("d").file("d/f", "").file("implied/f", "");
    apply(scratch.path(), &[lower, layer().file("d/g", "")]).unwrap();
    let root = scratch.path().join("rootfs");
    assert_eq!(
        listing(&root),
        lines(&[
            "d755 0:0 0 /",
            "d755 0:0 1000 /d",
            "-644 0:0 1000 /d/f \"\"",
            "-644 0:0 1000 /d/g \"\"",
            "d755 0:0 0 /implied",
            "-644 0:0 1000 /implied/f \"\"",
        ])
    );
    let mut names = [0u8; 256];
    assert_eq!(
        rustix::fs::llistxattr(root.join("d"), &mut names[..]),
        Ok(0)
    );
}

#[test]
fn layers_may_be_unpacked_in_any_order_at_once_and_twice() {
    let layers = [
        layer()
            .dir("d")
            .file("d/a", "1")
            .file("d/b", "1")
            .symlink("s", "d"),
        layer()
            .link("l", "d/a")
            .file("d/.wh.a", "")
            .file("s/c", "2"),
        layer().dir("d").file("d/b", "3").file("x/y", "3"),
    ];
    let expected = unpack(&layers).unwrap();
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let scratch = Scratch::new();
        let report = Report::new(false);
        let rootfs = Rootfs::create(scratch.path(), &report).unwrap();
        let mut unpacked: Vec<_> = order
            .iter()
            .map(|n| {
                let whole = &layers[*n].0;
                // A first attempt ends in the middle.
                let cut = &mut &whole[..612];
                assert!(rootfs.unpack(*n, cut).is_err());
                (*n, rootfs.unpack(*n, &mut whole.as_slice()).unwrap())
            })
            .collect();
        unpacked.sort_by_key(|(n, _)| *n);
        for (_, layer) in unpacked {
            let (compressed, plain) = proof();
            rootfs.merge(layer, compressed, plain).unwrap();
        }
        rootfs.finish().unwrap();
        assert_eq!(listing(&scratch.path().join("rootfs")), expected);
    }
    let scratch = Scratch::new();
    let report = Report::new(false);
    let rootfs = Rootfs::create(scratch.path(), &report).unwrap();
    let unpacked = crate::workers::Workers::new(3)
        .map(&layers.each_ref(), |layer, _| {
            let n = layers
                .iter()
                .position(|other| std::ptr::eq(other, *layer))
                .unwrap();
            rootfs.unpack(n, &mut layer.0.as_slice())
        })
        .unwrap();
    for layer in unpacked {
        let (compressed, plain) = proof();
        rootfs.merge(layer, compressed, plain).unwrap();
    }
    rootfs.finish().unwrap();
    assert_eq!(listing(&scratch.path().join("rootfs")), expected);
}

#[test]
fn a_failed_run_can_take_everything_back() {
    let scratch = Scratch::new();
    let report = Report::new(false);
    let rootfs = Rootfs::create(scratch.path(), &report).unwrap();
    let _ = rootfs
        .unpack(0, &mut layer().file("a", "").0.as_slice())
        .unwrap();
    rootfs.discard();
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}
