//! Runs: what they find, what they leave, and that their order is no matter.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::report::{Hidden, Report};
use crate::rootfs::Rootfs;

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
    // Whoever forgets to remove it gets an error, and no file anywhere else.
    assert!(Rootfs::create(scratch.path(), &Report::new(false, Hidden::default())).is_err());
    apply(scratch.path(), &[layer().file("f", "")]).unwrap();
    assert_eq!(short(&listing(&at("rootfs")))[1..], ["- /f \"\""]);
    assert_eq!(fs::read(at("digest")).unwrap(), b"old");
    assert!(!at(".layers").exists());
    assert_eq!(
        short(&listing(outside.path()))[1..],
        ["- /precious \"data\""]
    );
    let error = apply(&at("digest"), &[layer()]).unwrap_err();
    assert_eq!(error.kind(), Kind::Local);
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
        let report = Report::new(false, Hidden::default());
        let rootfs = Rootfs::create(scratch.path(), &report).unwrap();
        let mut unpacked: Vec<_> = order
            .iter()
            .map(|n| {
                let whole = &layers[*n].0;
                // A first attempt ends in the middle.
                assert!(rootfs.unpack_whole(*n, &whole[..612]).is_err());
                (*n, rootfs.unpack_whole(*n, whole).unwrap())
            })
            .collect();
        unpacked.sort_by_key(|(n, _)| *n);
        for (_, layer) in unpacked {
            rootfs.merge_whole(layer).unwrap();
        }
        rootfs.finish().unwrap();
        assert_eq!(listing(&scratch.path().join("rootfs")), expected);
    }
    let scratch = Scratch::new();
    let report = Report::new(false, Hidden::default());
    let rootfs = Rootfs::create(scratch.path(), &report).unwrap();
    let unpacked = crate::workers::Workers::new(3)
        .map(&layers.each_ref(), |layer, _| {
            let n = layers
                .iter()
                .position(|other| std::ptr::eq(other, *layer))
                .unwrap();
            rootfs.unpack_whole(n, &layer.0)
        })
        .unwrap();
    for layer in unpacked {
        rootfs.merge_whole(layer).unwrap();
    }
    rootfs.finish().unwrap();
    assert_eq!(listing(&scratch.path().join("rootfs")), expected);
}

#[test]
fn a_failed_run_can_take_everything_back() {
    let scratch = Scratch::new();
    let report = Report::new(false, Hidden::default());
    let rootfs = Rootfs::create(scratch.path(), &report).unwrap();
    let _ = rootfs.unpack_whole(0, &layer().file("a", "").0).unwrap();
    rootfs.discard();
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}
