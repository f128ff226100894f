//! What layers above replace, and who wants it all the same.

use super::*;
use crate::report::{Hidden, Report};
use crate::rootfs::{Outcome, Rootfs, Selection};

/// What had to be unpacked a second time.
#[derive(Debug, PartialEq, Eq)]
enum Again {
    Nothing,
    Layer,
    Image,
}

/// Unpacks from the top, every layer proven before the next one begins but `late`, and compares
/// with what the same layers make in whole.
#[track_caller]
fn assert_same(layers: &[Layer], late: Option<usize>, left_out: &[usize], expected: Again) {
    let scratch = Scratch::in_memory();
    let report = Report::new(false, Hidden::default());
    let rootfs = Rootfs::create(scratch.path(), &report).unwrap();
    let (mut again, mut found) = (Again::Nothing, Vec::new());
    let mut proven = Vec::new();
    let mut unproven = None;
    for (number, layer) in layers.iter().enumerate().rev() {
        let mut tar = layer.0.as_slice();
        let unpacked = match rootfs.unpack(number, Selection::Needed, &mut tar) {
            Ok(Outcome::Done(unpacked)) => unpacked,
            Ok(Outcome::Wanted) => {
                again = Again::Layer;
                match rootfs.unpack_whole(number, &layer.0) {
                    Ok(unpacked) => unpacked,
                    Err(error) => {
                        assert_eq!(error.to_string(), unpack(layers).unwrap_err().to_string());
                        return;
                    }
                }
            }
            Err(error) => panic!("layer {number}: {error}"),
        };
        if unpacked.summary.replaced_by.is_some() {
            found.insert(0, number);
        }
        match late == Some(number) {
            true => unproven = Some(unpacked),
            false => proven.insert(0, rootfs.believe_anyway(unpacked)),
        }
    }
    if let (Some(late), Some(unpacked)) = (late, unproven) {
        proven.insert(late, rootfs.believe_anyway(unpacked));
    }
    assert_eq!(found, left_out, "{layers:?}");
    for layer in proven {
        match rootfs.merge(layer).unwrap() {
            Outcome::Done(()) => {}
            Outcome::Wanted => {
                assert_eq!(expected, Again::Image, "{layers:?}");
                return;
            }
        }
    }
    rootfs.finish().unwrap();
    assert_eq!(again, expected, "{layers:?}");
    let found = listing(&scratch.path().join("rootfs"));
    assert_eq!(found, unpack(layers).unwrap(), "{layers:?}");
}

#[test]
fn what_a_layer_above_has_in_its_place_is_left_out() {
    let upper = layer()
        .dir("d")
        .file("d/f", "new")
        .file("d/hard", "new")
        .file("d/link", "new")
        .dir("d/e");
    // Files, symlinks, hard links, and what stood there before in the same layer.
    let lower = layer()
        .dir("d")
        .dir("d/f")
        .file("d/f/below", "old")
        .file("d/f", "old")
        .link("d/hard", "d/f")
        .symlink("d/link", "f")
        .file("d/kept", "old")
        .file("d/e", "old");
    assert_same(&[lower.clone(), upper.clone()], None, &[0], Again::Nothing);
    // Whatever happens in between, as long as it is not resolved below.
    let between = layer()
        .dir("d")
        .dir("d/f")
        .file("d/f/between", "")
        .file("d/.wh.link", "")
        .file("d/.wh.kept", "");
    assert_same(&[lower, between, upper], Some(1), &[0], Again::Nothing);
}

#[test]
fn a_layer_that_wants_what_it_left_out_is_unpacked_again() {
    let upper = layer().dir("d").file("d/f", "new").file("d/s", "new");
    let below = || layer().dir("t").file("t/x", "");
    let lower = || {
        layer()
            .dir("d")
            .file("d/f", "old")
            .dir("t")
            .symlink("d/s", "../t")
    };
    for wanting in [
        lower().link("l", "d/f"),
        lower().link("l", "d/s"),
        lower().link("l", "d/s/x"),
        lower().file("d/s/y", ""),
        lower().file("d/s/.wh.x", ""),
        lower().dir("d/s"),
        lower().dir("d/f"),
        lower().file("implied/f", ""),
    ] {
        let layers = [below(), wanting, upper.clone()];
        assert_same(&layers, None, &[], Again::Layer);
    }
    // An error is the same error.
    for broken in [lower().link("l", "d/f/x"), lower().file("d/f/x", "")] {
        assert_same(&[broken, upper.clone()], None, &[], Again::Layer);
    }
}

#[test]
fn a_layer_in_between_that_wants_it_starts_everything_again() {
    let lower = layer()
        .dir("d")
        .file("d/f", "old")
        .dir("t")
        .file("t/x", "")
        .symlink("d/s", "../t");
    let upper = layer().dir("d").file("d/f", "new").file("d/s", "new");
    for between in [
        layer().link("l", "d/f"),
        layer().file("d/s/y", ""),
        layer().file("d/s/.wh.x", ""),
        layer().file("d/s/.wh..wh..opq", ""),
    ] {
        let layers = [lower.clone(), between, upper.clone()];
        // Not known yet when the lowest is unpacked; known.
        assert_same(&layers, Some(1), &[0], Again::Image);
        assert_same(&layers, None, &[], Again::Nothing);
    }
}

#[test]
fn of_several_layers_above_the_highest_counts() {
    let layers = [
        layer().file("a", "old").file("b", "old"),
        layer().file("b", "new"),
        layer().link("l", "a"),
        layer().file("a", "new"),
    ];
    assert_same(&layers, Some(2), &[0], Again::Image);
}

#[test]
fn a_layer_whose_places_depend_on_those_below_replaces_nothing() {
    let lower = layer()
        .dir("t")
        .file("t/f", "old")
        .symlink("d", "t")
        .dir("e")
        .file("e/f", "old");
    for upper in [
        layer().file("d/f", "new"),
        layer().file("g/f", "").dir("e").file("e/f", "new"),
        layer().dir("e").file("e/f", "new").link("l", "t/f"),
    ] {
        assert_same(&[lower.clone(), upper], None, &[], Again::Nothing);
    }
    // Behind its own symlink it is where the link leads.
    let upper = layer().dir("e").symlink("d", "e").file("d/f", "new");
    assert_same(&[lower, upper], None, &[0], Again::Nothing);
    // A layer that implies a directory leaves nothing out: here `s` is where `lib/x` goes.
    let layers = [
        layer().symlink("lib", "s"),
        layer().file("lib/x", "").dir("d").symlink("s", "d"),
        layer().file("s", "new"),
    ];
    assert_same(&layers, None, &[], Again::Nothing);
}
