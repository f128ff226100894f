//! Modes, owners, times, attributes and holes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

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
