//! Layers that nobody honest would build, through the real program, as root and without privileges:
//! nothing outside the rootfs changes, the last line says which layer and which name, and a
//! broken image is not fetched twice.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

mod common;

use common::{
    Canary, Image, Layer, Output, Program, Registry, assert_lines, assert_tree, gzip, image, layer,
    tree,
};
use serde_json::json;

fn get(registry: &Registry, image: &Image, unprivileged: bool) -> Program {
    let digest = registry.put_image("t/a", "1", image);
    let program = Program::get(json!({
        "source": {"repository": registry.repository("t/a")},
        "version": {"tag": "1", "digest": digest},
    }))
    .against(registry);
    match unprivileged {
        true => program.unprivileged(),
        false => program,
    }
}

/// Runs images that `layers` builds with the path of a canary, once as root (where the test is)
/// and once as nobody, each with the canary beside the destination.
fn attack(layers: impl Fn(&str) -> Vec<Layer>, check: impl Fn(&Output)) {
    for unprivileged in [false, true] {
        let registry = Registry::start();
        // The image names the canary, and the canary lies beside the destination.
        let placeholder = image([layer()]).oci();
        let program = get(&registry, &placeholder, unprivileged);
        let canary = Canary::beside(program.directory_argument());
        let image = image(layers(canary.name())).oci();
        let digest = registry.put_image("t/a", "2", &image);
        let request = json!({
            "source": {"repository": registry.repository("t/a")},
            "version": {"tag": "2", "digest": digest},
        });
        let output = program.stdin(request.to_string()).run();
        // It compares now; later its directory is gone.
        drop(canary);
        check(&output);
        match output.status.code() {
            Some(0) => {}
            _ => {
                output.fails();
                for name in ["digest", "metadata.json", "rootfs", ".layers"] {
                    assert!(!output.destination().join(name).exists(), "{name} is left");
                }
            }
        }
    }
}

/// One layer that is refused with this last line.
fn refused(layers: impl IntoIterator<Item = Layer>, at: usize, why: &str) {
    let layers: Vec<Layer> = layers.into_iter().collect();
    let count = layers.len();
    let registry = Registry::start();
    let image = image(layers).oci();
    let digest = &image.layers[at - 1].digest;
    let output = get(&registry, &image, false)
        .showing(&image.digest, "IMAGE")
        .showing(&digest[.."sha256:".len() + 12], "LAYER")
        .run();
    let line = format!("get: REGISTRY/t/a@IMAGE: layer {at} of {count} (LAYER…): {why}");
    output.fails_ending_with(&line);
    let blob = format!("GET /v2/t/a/blobs/{digest} ");
    let requests = registry.requests();
    let fetched = requests
        .iter()
        .filter(|request| request.line().starts_with(&blob));
    assert_eq!(
        fetched.count(),
        1,
        "a broken image is not fetched twice: {why}"
    );
    for name in ["digest", "metadata.json", "rootfs", ".layers"] {
        assert!(
            !output.destination().join(name).exists(),
            "{name} is left: {why}"
        );
    }
}

fn raw(bytes: impl Into<Vec<u8>>) -> Layer {
    layer().raw(bytes).end([]).plain()
}

#[test]
fn names_that_climb_out_are_refused() {
    for name in [
        "../canary/file",
        "/../canary/file",
        "a/../../canary/file",
        "..",
        "./..",
    ] {
        attack(
            |_| vec![layer().file(name, "x")],
            |output| {
                let shown = format!("the name `{name}` leads out of the image");
                assert!(output.messages().contains(&shown), "{}", output.messages());
            },
        );
    }
}

#[test]
fn a_symlink_out_is_never_followed_out() {
    let through: [fn(Layer) -> Layer; 11] = [
        |layer| layer.file("s/file", "overwritten"),
        |layer| layer.file("s/new", "new"),
        |layer| layer.dir("s/dir").mode(0o777),
        |layer| layer.dir("s/made"),
        |layer| layer.symlink("s/file", "x"),
        |layer| layer.fifo("s/file"),
        |layer| layer.whiteout("s/file"),
        |layer| layer.whiteout("s/dir"),
        |layer| layer.opaque("s"),
        |layer| layer.dir("s").mode(0o777).owner(7, 7).mtime(1),
        |layer| layer.file("s", "in its place"),
    ];
    for through in through {
        // The symlink is of the same layer, and of the one below.
        attack(
            |canary| vec![through(layer().symlink("s", canary))],
            |output| {
                output.succeeds();
            },
        );
        attack(
            |canary| vec![layer().symlink("s", canary), through(layer())],
            |output| {
                output.succeeds();
            },
        );
        attack(
            |_| vec![layer().symlink("s", "../../../canary"), through(layer())],
            |output| {
                output.succeeds();
            },
        );
    }
}

#[test]
fn a_hard_link_out_is_refused() {
    for target in ["../canary/file", "/../canary/file"] {
        attack(
            |_| vec![layer().hardlink("l", target)],
            |output| {
                output.fails();
            },
        );
    }
    attack(
        |canary| {
            vec![
                layer()
                    .hardlink("l", format!("{canary}/file"))
                    .file("l", "x"),
            ]
        },
        // The link is replaced before anybody asks where it leads.
        |output| assert_tree(output.destination().join("rootfs"), [("l", "x")]),
    );
    attack(
        |canary| {
            vec![
                layer().symlink("s", canary),
                layer().hardlink("l", "s/file"),
            ]
        },
        |output| {
            output.fails();
        },
    );
}

#[test]
fn links_out_stay_as_they_are_and_resolve_inside() {
    attack(
        |_| {
            vec![
                layer().symlink("up", "../../canary").symlink("sys", "/x/y"),
                layer().file("up/file", "inside").file("sys/z", "inside"),
            ]
        },
        |output| {
            output.succeeds();
            assert_tree(
                output.destination().join("rootfs"),
                [
                    ("canary/file", "inside"),
                    ("sys", "-> /x/y"),
                    ("up", "-> ../../canary"),
                    ("x/y/z", "inside"),
                ],
            );
        },
    );
}

#[test]
fn broken_streams_are_the_images_fault() {
    let tar = layer().noise("file", 50_000).tar();
    let packed = gzip(&tar);
    refused(
        [raw(&packed[..packed.len() / 2])],
        1,
        "unpack `file`: the gzip stream ends in the middle",
    );
    refused(
        [layer().file("a", "b"), raw(gzip(&tar[..30_000]))],
        2,
        "unpack `file`: the tar stream ends in the middle",
    );
    let mut flipped = packed.clone();
    let at = flipped.len() - 6;
    flipped[at] ^= 1;
    refused(
        [raw(flipped)],
        1,
        "the gzip stream is broken: its checksum (CRC-32) is wrong",
    );
    let zstd = layer().noise("file", 50_000).zstd().bytes();
    refused(
        [raw(&zstd[..zstd.len() - 10])],
        1,
        "the zstd stream ends in the middle",
    );
    // A window of 256 MiB.
    refused(
        [raw(&b"\x28\xb5\x2f\xfd\x00\x90\x01\0\0"[..])],
        1,
        "the zstd stream has a window of more than 128 MiB, the most that is accepted; compress it with \
         `--long=27` at most",
    );
    refused(
        [raw(&b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4\x46"[..])],
        1,
        "it is compressed with xz; image layers are compressed with gzip or zstd, or not at all",
    );
    refused(
        [raw("<html>".repeat(200))],
        1,
        "a tar header's checksum is wrong: the stream is broken, or no tar",
    );
    refused(
        [layer().file("a", "").bad_checksum()],
        1,
        "a tar header's checksum is wrong: the stream is broken, or no tar",
    );
}

#[test]
fn entries_that_cannot_be_are_named() {
    let over = i64::from(u32::MAX);
    for (hostile, why) in [
        (
            layer().file("a", "").owner(over, 0),
            "`a`: 4294967295 can be no user's id",
        ),
        (
            layer().file("a", "").owner(0, over + 1),
            "`a`: 4294967296 can be no group's id",
        ),
        (
            layer().file("a", "").owner(-1, 0),
            "`a`: -1 can be no user's id",
        ),
        (
            layer().file("d/.wh.", ""),
            "`d/.wh.`: a whiteout must name something inside its directory",
        ),
        (
            layer().file("d/.wh..", ""),
            "`d/.wh..`: a whiteout must name something inside its directory",
        ),
        (
            layer().file("d/.wh...", ""),
            "`d/.wh...`: a whiteout must name something inside its directory",
        ),
        (
            layer().file(".", "x"),
            "a File entry `.` in place of the image's root directory",
        ),
        (
            layer().symlink("/", "x"),
            "a Symlink entry `/` in place of the image's root directory",
        ),
        (
            layer().file("a", "").file("a/b", ""),
            "unpack `a/b`: `a` is not a directory",
        ),
        (
            layer().symlink("s", "s").file("s/b", ""),
            "unpack `s/b`: `s` leads through too many symbolic links",
        ),
        (
            layer().dir("d").hardlink("l", "d"),
            "`l` is a hard link to `d`, which cannot be",
        ),
        (
            layer().hardlink("l", "none"),
            "`l` is a hard link to `none`, which is no file of any layer",
        ),
        (
            layer().symlink("s", ""),
            "the symlink `s` points to nothing",
        ),
        (
            layer().entry(b'D', "d"),
            "`d`: a tar entry of type `D`, which no image has",
        ),
        (
            layer().file("a", "").pax("path", "b\0c"),
            "a PAX name holds a NUL",
        ),
        (
            layer().file("a", "").raw_pax("nonsense"),
            "a PAX record makes no sense: `nonsense`",
        ),
        (
            layer()
                .file("a", "")
                .end([0; 512])
                .raw([0; 512])
                .file("b", ""),
            "the tar goes on after a block of zeros, which some programs take for its end",
        ),
    ] {
        refused([hostile], 1, why);
    }
    let long = "n".repeat(256);
    refused(
        [layer().file(format!("d/{long}"), "")],
        1,
        &format!("create `d/{long}`: file name too long"),
    );
    refused(
        [layer().file("a", ""), layer().file("a/b", "")],
        2,
        "a layer has something below `a`, which is not a directory",
    );
}

/// The layer that is refused is the one that the line names, wherever it stands and whatever else
/// is under way.
#[test]
fn a_hostile_layer_among_others_leaves_no_image() {
    for at in 1..=4 {
        let layers = (1..=4).map(|n| match n == at {
            true => layer().file("../out", "x"),
            false => layer().noise(&format!("data/{n}"), 300_000),
        });
        refused(layers, at, "the name `../out` leads out of the image");
    }
}

#[test]
fn control_characters_in_names_never_reach_the_log() {
    for unprivileged in [false, true] {
        let registry = Registry::start();
        let hostile = layer()
            .file("\x1b[2J\x07clear", "")
            .file("a\nerror: forged line", "")
            .symlink("\u{202e}reversed", "\x1b]0;title\x07")
            .file("x", "")
            .file("x/\x1b[31m", "");
        let image = image([hostile]).oci();
        let digest = registry.put_image("t/a", "1", &image);
        let output = get(&registry, &image, unprivileged)
            .stdin(
                json!({
                    "source": {"repository": registry.repository("t/a"), "debug": true},
                    "version": {"tag": "1", "digest": digest},
                })
                .to_string(),
            )
            .run();
        output.fails();
        let ours = |c: char| c == '\n' || !(c.is_control() || c == '\u{202e}');
        assert!(output.stderr.chars().all(ours), "{:?}", output.stderr);
        assert!(
            !output
                .stderr
                .lines()
                .any(|line| line == "error: forged line")
        );
        assert!(
            output.stderr.contains("x/\\u{1b}[31m"),
            "{:?}",
            output.stderr
        );
    }
}

/// 1,000 times smaller than what it holds; memory does not grow with it, and holes stay holes.
#[test]
fn a_bomb_is_a_large_file_and_nothing_else() {
    let registry = Registry::start();
    let hostile = layer().file("zeros", vec![0; 100 << 20]).pax_sparse(
        "1.0",
        "holes",
        1 << 40,
        &[(1 << 39, b"x")],
    );
    let image = image([hostile]).oci();
    assert!(image.layers[0].bytes.len() < 1 << 20);
    let output = get(&registry, &image, false).run();
    output.succeeds();
    let root = output.destination().join("rootfs");
    let size = |name: &str| std::fs::metadata(root.join(name)).unwrap().len();
    assert_eq!((size("zeros"), size("holes")), (100 << 20, 1 << 40));
}

#[test]
fn without_privileges_an_image_is_unpacked_but_for_owners() {
    let registry = Registry::start();
    let lower = layer()
        .dir("./")
        .mode(0)
        .dir("closed")
        .mode(0)
        .file("closed/file", "1")
        .file("owned", "2")
        .owner(1000, 1000)
        .file("setuid", "")
        .mode(0o4755)
        .device("dev/null", 'c', 1, 3)
        .fifo("pipe");
    let upper = layer().file("closed/more", "3").whiteout("closed/file");
    let image = image([lower, upper]).oci();
    let output = get(&registry, &image, true).run();
    output.succeeds();
    let root = output.destination().join("rootfs");
    let nodes = tree(&root);
    let owner = nodes[0].uid;
    assert_eq!(nodes[0].mode, 0);
    assert!(
        nodes
            .iter()
            .all(|node| node.uid == owner && node.gid == owner)
    );
    let line = |kind: &str, rest: &str| format!("{kind} {owner}:{owner} {rest}");
    let empty = "0 sha256:e3b0c44298fc";
    let lines = [
        line("d0000", "closed"),
        line("-0644", "closed/more 1 sha256:4e07408562be"),
        line("d0755", "dev"),
        line("-0644", "owned 1 sha256:d4735e3a265e"),
        line("p0644", "pipe"),
        line("-4755", &format!("setuid {empty}")),
    ];
    assert_lines(&root, lines.iter().map(String::as_str));
}
