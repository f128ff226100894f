//! `in` into a filesystem that fills up: the last line says which layer, which name and how much was
//! needed, nothing is left that looks like an image, and with more room the next run succeeds.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

mod common;

use common::{Fault, Image, Layer, Program, Registry, Tmpfs, image, layer};
use serde_json::json;
use std::time::{Duration, Instant};

/// What fills up, and how.
struct Case {
    image: Image,
    format: &'static str,
    /// Of the filesystem.
    limits: &'static str,
    /// The last line after the repository and the digest; `N` stands for any number.
    why: &'static str,
}

fn rootfs(
    layers: impl IntoIterator<Item = Layer>,
    limits: &'static str,
    why: &'static str,
) -> Case {
    Case {
        image: image(layers).oci(),
        format: "rootfs",
        limits,
        why,
    }
}

fn kept(format: &'static str, why: &'static str) -> Case {
    Case {
        image: image([layer().noise("big", 2 << 20)]).oci(),
        format,
        limits: "size=1m",
        why,
    }
}

/// The last line without what differs from filesystem to filesystem.
fn without_numbers(line: &str) -> String {
    let mut text = String::new();
    for word in line.split_inclusive([' ', '(']) {
        match word.trim_end().parse::<u64>() {
            Ok(_) => text += "N ",
            Err(_) => text += word,
        }
    }
    text
}

#[test]
fn a_disk_that_fills_up_ends_the_step_with_what_was_needed() {
    each_fills_up(false);
}

#[test]
fn without_privileges_too() {
    each_fills_up(true);
}

/// A layer of one job is read on one thread and unpacked on another.
#[test]
fn a_full_disk_does_not_wait_for_a_registry_that_does_not_answer() {
    // Blocks of 256 KiB go from one to the other. The disk is full in the middle of the fifth one, and
    // the connection breaks in the sixth.
    let Some(disk) = Tmpfs::mount("size=1152k") else {
        return;
    };
    let registry = Registry::start();
    let image = image([layer().noise("big", 4 << 20)]).oci();
    let digest = registry.put_image("t/a", "1", &image);
    let path = format!("/v2/t/a/blobs/{}", image.layers[0].digest);
    registry.on("GET", &path).then(Fault::ResetAfter(1_500_000));
    let again = registry.on("GET", &path).nth(2).optional();
    again.then(Fault::unavailable(60));
    let request = json!({
        "source": {"repository": registry.repository("t/a")},
        "version": {"tag": "1", "digest": digest},
    });
    let started = Instant::now();
    let get = Program::get(request).against(&registry).real_clock();
    let output = get.destination(disk.path()).run();
    output.fails();
    let messages = output.messages();
    let last = messages.lines().last().unwrap_or_default();
    assert!(last.contains("no space left on device"), "{last}");
    let took = started.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
}

fn each_fills_up(unprivileged: bool) {
    let many = (0..100).fold(layer(), |layer, n| layer.file(format!("d/{n}"), ""));
    let directories = (0..100).fold(layer(), |layer, n| layer.dir(format!("d{n}")));
    let links = (0..100).fold(layer(), |layer, n| {
        layer.hardlink(format!("l/{n}"), "below")
    });
    let cases = [
        rootfs(
            [layer().noise("usr/big", 2 << 20)],
            "size=1m",
            "layer N of N (LAYER1…): write `usr/big`: no space left on device \
             (N of its N bytes found room)",
        ),
        rootfs(
            [
                layer().noise("small", 100_000),
                layer().noise("usr/big", 2 << 20),
            ],
            "size=1m",
            "layer N of N (LAYER2…): write `usr/big`: no space left on device \
             (N of its N bytes found room)",
        ),
        // 1,000 times smaller than what it holds.
        rootfs(
            [layer().file("zeros", vec![0; 8 << 20])],
            "size=1m",
            "layer N of N (LAYER1…): write `zeros`: no space left on device \
             (N of its N bytes found room)",
        ),
        rootfs(
            [layer().pax_sparse("1.0", "holes", 1 << 40, &[(1 << 39, &[1; 2 << 20])])],
            "size=1m",
            "layer N of N (LAYER1…): write `holes`: no space left on device \
             (N of its N bytes found room)",
        ),
        rootfs(
            [many],
            "nr_inodes=30",
            "layer N of N (LAYER1…): create `d/NAME`: no space left on device \
             (the filesystem holds N files and has no inodes left)",
        ),
        rootfs(
            [directories],
            "nr_inodes=30",
            "layer N of N (LAYER1…): make directory `dNAME`: no space left on device \
             (the filesystem holds N files and has no inodes left)",
        ),
        rootfs(
            [layer().file("below", "x"), links],
            "nr_inodes=30",
            "layer N of N (LAYER2…): link `l/NAME: no space left on device \
             (the filesystem holds N files and has no inodes left)",
        ),
        // The last inode is the file's own, and not what it lacks.
        rootfs(
            [layer().noise("big", 2 << 20)],
            "size=1m,nr_inodes=6",
            "layer N of N (LAYER1…): write `big`: no space left on device \
             (N of its N bytes found room)",
        ),
        rootfs(
            [(0..8000).fold(layer(), |layer, n| layer.whiteout(format!("w/{n:0200}")))],
            "size=1m",
            "layer N of N (LAYER1…): note `w/NAME` in list `removals`: no space left on device",
        ),
        kept(
            "oci",
            "fetch LAYER1: write `DEST/.image.tar.partial`: no space left on device \
             (N of its N bytes found room)",
        ),
        kept(
            "oci-layout",
            "fetch LAYER1: write `DEST/oci/blobs/sha256/.NAME.partial`: \
             no space left on device (N of its N bytes found room)",
        ),
        // The rootfs fits, what describes it does not.
        Case {
            image: image([layer().file("a", "b")])
                .label("long", &"x".repeat(1 << 20))
                .oci(),
            format: "rootfs",
            limits: "size=512k",
            why: "write `DEST/labels.json`: no space left on device",
        },
    ];
    for case in &cases {
        let Some(disk) = Tmpfs::mount(case.limits) else {
            return;
        };
        fills_up(case, &disk, unprivileged);
    }
}

fn fills_up(case: &Case, disk: &Tmpfs, unprivileged: bool) {
    let registry = Registry::start();
    let digest = registry.put_image("t/a", "1", &case.image);
    let run = || {
        let request = json!({
            "source": {"repository": registry.repository("t/a")},
            "version": {"tag": "1", "digest": digest},
            "params": {"format": case.format},
        });
        // One after another, the largest first: which one is refused is no matter of timing.
        let mut program = Program::get(request)
            .against(&registry)
            .env("REGISTRY_IMAGE_WORKERS", "1")
            .destination(disk.path())
            .showing(&disk.path().display().to_string(), "DEST")
            .showing(&digest, "IMAGE");
        for (layer, number) in case.image.layers.iter().zip(1..) {
            let shown = match case.format {
                "rootfs" => &layer.digest[..19],
                _ => &layer.digest,
            };
            program = program.showing(shown, &format!("LAYER{number}"));
        }
        match unprivileged {
            true => program.unprivileged().run(),
            false => program.run(),
        }
    };
    let output = run();
    output.fails();
    let messages = output.messages();
    let line = without_numbers(messages.lines().last().unwrap_or_default());
    // Which one of many found no room, and the temporary name of a blob.
    let name = case.why.split_once("NAME");
    let matches = match name {
        Some((before, after)) => {
            let at = line.find(before);
            at.is_some_and(|at| line[at + before.len()..].ends_with(after))
        }
        None => line.ends_with(case.why),
    };
    assert!(matches, "expected {}\ngot      {line}", case.why);
    for name in ["digest", "metadata.json", "rootfs", ".layers", "image.tar"] {
        // A rootfs that is whole is no image without the files beside it.
        let whole = name == "rootfs" && case.why.contains("labels.json");
        let there = disk.path().join(name).exists();
        assert!(whole || !there, "{name} is left: {line}");
    }
    assert!(!disk.path().join("oci/index.json").exists(), "{line}");

    disk.remount("size=256m,nr_inodes=10000");
    let output = run();
    output.succeeds();
    assert_eq!(output.file("digest"), digest);
}
