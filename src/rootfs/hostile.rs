//! Images that nobody honest would build. Whatever they try, nothing outside the rootfs changes:
//! a canary lies beside it and is compared, times included.

use std::fs;

use super::testing::*;
use super::*;
use crate::error::Kind;

/// What an image did to its rootfs, or why it was refused. The canary is compared.
fn run(layers: impl FnOnce(&str) -> Vec<Layer>) -> Result<String> {
    let outside = Scratch::in_memory();
    let canary = outside.path().join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("file"), "precious").unwrap();
    fs::create_dir(canary.join("directory")).unwrap();
    fs::write(canary.join("directory/inner"), "precious").unwrap();
    fs::write(outside.path().join("marker"), "beside").unwrap();
    let before = listing(outside.path());
    let destination = outside.path().join("destination");
    fs::create_dir(&destination).unwrap();
    let result = apply(&destination, &layers(canary.to_str().unwrap()));
    let made = result.map(|()| listing(&destination.join("rootfs")));
    fs::remove_dir_all(&destination).unwrap();
    let after = listing(outside.path());
    // The directory that both lie in has a new time.
    let rest = |text: &str| text.split_once('\n').unwrap().1.to_owned();
    assert_eq!(rest(&after), rest(&before), "the canary was changed");
    made
}

#[test]
fn nothing_leads_out() {
    let leaves = |through: &str| -> Vec<Layer> {
        let at = |name: &str| format!("{through}/{name}");
        vec![
            layer().file(&at("file"), "overwritten"),
            layer().file(&at("new"), "new"),
            layer().dir(&at("directory")),
            layer().dir(&at("made")),
            layer().symlink(&at("file"), "x"),
            layer().kind(b'6', &at("file")),
            layer().kind(b'3', &at("file")),
            layer().file(&at(".wh.file"), ""),
            layer().file(&at(".wh.directory"), ""),
            layer().file(&at(".wh..wh..opq"), ""),
            layer().link("stolen", &at("file")).file("stolen", "x"),
            layer().link("stolen", &at("file")).spec(Spec {
                name: b"stolen",
                mode: 0o777,
                owner: (7, 7),
                ..Spec::default()
            }),
            layer().spec(Spec {
                name: through.as_bytes(),
                kind: b'5',
                mode: 0o777,
                owner: (7, 7),
                ..Spec::default()
            }),
        ]
    };
    for count in 0..leaves("x").len() {
        let leaf = |through: &str| leaves(through).remove(count);
        let joined = |first: Layer, second: Layer| Layer([first.0, second.0].concat());
        // By name.
        for name in [
            "../canary",
            "/../canary",
            "a/../../canary",
            "./../canary",
            "../../../../../../../../../../tmp",
        ] {
            let error = run(|_| vec![leaf(name)]).unwrap_err();
            assert_eq!(error.kind(), Kind::Hostile, "{error}");
        }
        // By a symlink: of this layer, of a lower one, in a chain, above the root.
        let _ = run(|canary| vec![joined(layer().symlink("s", canary), leaf("s"))]);
        let _ = run(|canary| vec![layer().symlink("s", canary), leaf("s")]);
        let _ = run(|_| vec![layer().symlink("s", "../../canary"), leaf("s")]);
        let _ = run(|_| vec![joined(layer().symlink("s", "../canary"), leaf("s"))]);
        let _ = run(|canary| {
            vec![
                layer().symlink("s", "t/u").dir("t").symlink("t/u", "/v"),
                layer().symlink("v", canary),
                leaf("s"),
            ]
        });
        let _ = run(|canary| vec![layer().dir("s"), layer().symlink("s", canary), leaf("s")]);
        let _ = run(|canary| {
            vec![joined(
                layer().dir("d").file("d/f", "").symlink("d", canary),
                leaf("d"),
            )]
        });
        // By a path through links and back.
        let _ = run(|canary| vec![layer().symlink("s", canary), leaf("s/../canary")]);
        // By /proc.
        let _ = run(|_| vec![layer().symlink("s", "/proc/self/cwd"), leaf("s")]);
        let _ = run(|_| vec![layer().symlink("s", "/proc/self/root/tmp"), leaf("s")]);
    }
}

#[test]
fn a_link_out_is_kept_as_it_is_and_resolved_inside() {
    let made = run(|canary| {
        vec![
            layer()
                .symlink("s", canary)
                .symlink("up", "../../../canary"),
            layer().file("s/f", "inside").file("up/g", "inside"),
        ]
    })
    .unwrap();
    assert!(made.contains(" /canary/g \"inside\""), "{made}");
    assert!(made.contains("/canary/f \"inside\""), "{made}");
    assert!(made.contains(" /up -> ../../../canary\n"), "{made}");
}

#[test]
fn a_hard_link_never_leads_out() {
    for target in ["../canary/file", "/../canary/file", "x/../../canary/file"] {
        let error = run(|_| vec![layer().link("l", target)]).unwrap_err();
        assert!(
            error.to_string().starts_with("hard link `l`: the name `")
                && error.to_string().ends_with("leads out of the image"),
            "{error}"
        );
    }
    let error = run(|canary| vec![layer().link("l", &format!("{canary}/file"))]).unwrap_err();
    assert!(
        error.to_string().contains("which is no file of any layer"),
        "{error}"
    );
    for own in [true, false] {
        let error = run(|canary| {
            let link = layer().link("l", "s/file");
            let symlink = layer().symlink("s", canary);
            match own {
                true => vec![Layer([symlink.0, link.0].concat())],
                false => vec![symlink, link],
            }
        })
        .unwrap_err();
        assert!(
            error.to_string().contains("which is no file of any layer"),
            "{error}"
        );
    }
}

#[test]
fn names_too_long_are_named() {
    let long = "n".repeat(256);
    for layers in [
        vec![layer().file(&format!("d/{long}"), "")],
        vec![layer().dir(&format!("d/{long}"))],
        vec![layer().file(&format!("d/{long}/f"), "")],
        vec![layer().symlink(&format!("d/{long}"), "x")],
        vec![layer().kind(b'6', &format!("d/{long}"))],
        vec![layer().link(&format!("d/{long}"), "x")],
        vec![layer().file("x", "").link(&format!("d/{long}"), "x")],
    ] {
        let error = run(|_| layers).unwrap_err().to_string();
        assert!(error.contains(&format!("`d/{long}")), "{error}");
        assert!(error.ends_with(": file name too long"), "{error}");
    }
    let error = run(|_| vec![layer().symlink("s", &"x/".repeat(3000))]).unwrap_err();
    assert!(error.to_string().starts_with("create `s`: "), "{error}");
    let error = run(|_| vec![layer().file(&"x/".repeat(3000), "")]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("a path of more than 4095 bytes"),
        "{error}"
    );
}

#[test]
fn names_are_bytes_as_long_and_as_odd_as_linux_allows() {
    let long = "n".repeat(255);
    let made = run(|_| {
        let odd: Vec<Spec<'_>> = [
            &b"\xff\xfe"[..],
            b"\n",
            b"a b",
            b"\x1b[2J",
            b"*?[",
            b"-rf",
            b"...",
            b"\\",
        ]
        .into_iter()
        .map(|name| Spec {
            name,
            ..Spec::default()
        })
        .collect();
        let all = odd.into_iter().fold(layer(), Layer::spec);
        vec![all.file(&format!("{long}/{long}"), "deep")]
    })
    .unwrap();
    assert_eq!(made.lines().count(), 1 + 8 + 2, "{made}");
    assert!(made.contains(" /\\xff\\xfe \"\"\n"), "{made}");
    assert!(
        made.contains(&format!("/{long}/{long} \"deep\"\n")),
        "{made}"
    );
}

/// 2,000 directories in one another, in both layers, of which only some may be open at once.
#[test]
fn very_deep_trees_are_merged_and_removed() {
    let scratch = Scratch::in_memory();
    let deep = "d/".repeat(2_000);
    let lower = layer().file(&format!("{deep}lower"), "1").spec(Spec {
        name: "d/".repeat(1_000).as_bytes(),
        kind: b'5',
        mode: 0o700,
        mtime: 5,
        ..Spec::default()
    });
    let upper = layer()
        .file(&format!("{deep}upper"), "2")
        .file(&format!("{}.wh.none", "d/".repeat(1_990)), "")
        .link("top", &format!("{deep}lower"));
    apply(scratch.path(), &[lower.clone(), upper.clone()]).unwrap();
    let mut depth = 0;
    let mut here = open_directory(fs::File::open(scratch.path()).unwrap(), "rootfs").unwrap();
    while let Ok(next) = open_directory(&here, "d") {
        depth += 1;
        here = next;
        if depth == 1_000 {
            let stat = rustix::fs::fstat(&here).unwrap();
            assert_eq!((stat.st_mode & 0o7777, stat.st_mtime), (0o700, 5));
        }
    }
    assert_eq!(depth, 2_000);
    for name in ["lower", "upper"] {
        rustix::fs::statat(&here, name, rustix::fs::AtFlags::empty()).unwrap();
    }
    assert!(scratch.path().join("rootfs/top").exists());
    // A link makes it deeper than any path; into that, nothing can be merged any more.
    let link = layer().symlink("s", &"d/".repeat(450));
    let below = layer().file(&format!("s/{}f", "e/".repeat(1_900)), "3");
    let layers = [lower, upper, link, below.clone(), below];
    apply(scratch.path(), &layers[..4]).unwrap();
    let error = apply(scratch.path(), &layers).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("a path of more than 4095 bytes"),
        "{error}"
    );
    apply(scratch.path(), &[layer()]).unwrap();
    assert_eq!(listing(&scratch.path().join("rootfs")).lines().count(), 1);
}

/// What is remembered lies on disk: a layer of nothing but odd things costs no memory for each.
#[test]
fn many_implied_directories_whiteouts_and_links() {
    let lower = layer().file("target", "x");
    let lower = (0..500).fold(lower, |layer, n| layer.file(&format!("w{n}/f"), ""));
    let upper = (0..500).fold(layer(), |layer, n| {
        layer
            .file(&format!("i{n}/j/k/f"), "")
            .file(&format!("w{n}/.wh.f"), "")
            .link(&format!("l{n}"), "target")
    });
    let made = run(|_| vec![lower, upper]).unwrap();
    let count = |what: &str| made.lines().filter(|line| line.contains(what)).count();
    assert_eq!(count("/k/f "), 500);
    assert_eq!(count(" /w"), 500, "only the directories are left");
    assert_eq!(count("=/l0 "), 501);
}

#[test]
fn symlinks_in_place_of_records_are_none() {
    // Names of ours mean nothing in an image.
    let made = run(|canary| {
        vec![
            layer()
                .symlink("tree", canary)
                .symlink("late", canary)
                .symlink("links", canary)
                .symlink(".layers", canary)
                .file("removals", "x")
                .dir("implied")
                .file("rootfs", "y"),
        ]
    })
    .unwrap();
    assert_eq!(made.lines().count(), 8, "{made}");
}

#[test]
fn a_symlink_to_nothing_is_refused() {
    let error = run(|_| vec![layer().symlink("s", "")]).unwrap_err();
    assert_eq!(error.to_string(), "the symlink `s` points to nothing");
}
