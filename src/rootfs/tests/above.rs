//! What layers above replace, and who wants it all the same.

use std::collections::BTreeMap;

use super::*;
use crate::error::Result;
use crate::report::{Hidden, Report};
use crate::rootfs::{Outcome, Rootfs, Selection, Unpacked};

/// What had to be unpacked a second time.
#[derive(Debug, PartialEq, Eq)]
enum Again {
    Nothing,
    Layer,
    Image,
}

/// Unpacks from the top, `late` around all that lie below it, and compares with what the same
/// layers make in whole, be it an error.
#[track_caller]
fn assert_same(layers: &[Layer], late: Option<usize>, left_out: &[usize], expected: Again) {
    let scratch = Scratch::in_memory();
    let report = Report::new(false, Hidden::default());
    let mut rootfs = Rootfs::create(scratch.path(), &report).unwrap();
    let (mut again, mut found) = (Again::Nothing, Vec::new());
    let made = from_the_top(&mut rootfs, layers, late, &mut found, &mut again);
    let made = made
        .and_then(|()| rootfs.finish())
        .map(|()| listing(&scratch.path().join("rootfs")));
    let shown = |made: Result<String>| made.map_err(|error| (error.kind(), error.to_string()));
    assert_eq!(shown(made), shown(unpack(layers)), "{layers:?}");
    found.sort();
    assert_eq!(
        (found.as_slice(), again),
        (left_out, expected),
        "{layers:?}"
    );
}

fn from_the_top(
    rootfs: &mut Rootfs<'_>,
    layers: &[Layer],
    late: Option<usize>,
    left_out: &mut Vec<usize>,
    again: &mut Again,
) -> Result<()> {
    let mut unpacked = BTreeMap::new();
    unpack_below(rootfs, layers, late, &mut unpacked, again)?;
    let seen = unpacked
        .iter()
        .filter(|(_, layer)| !layer.summary.seen.is_empty());
    left_out.extend(seen.map(|(number, _)| *number));
    for layer in unpacked.into_values() {
        if let Outcome::Incomplete = rootfs.merge(layer.believe_anyway())? {
            *again = Again::Image;
            rootfs.restart()?;
            for (number, layer) in layers.iter().enumerate() {
                rootfs.merge_whole(rootfs.unpack_whole(number, &layer.0)?)?;
            }
            return Ok(());
        }
    }
    Ok(())
}

fn unpack_below(
    rootfs: &Rootfs<'_>,
    layers: &[Layer],
    late: Option<usize>,
    unpacked: &mut BTreeMap<usize, Unpacked>,
    again: &mut Again,
) -> Result<()> {
    let Some((layer, below)) = layers.split_last() else {
        return Ok(());
    };
    let number = below.len();
    let mut beside = Ok(());
    let mut tar = Interrupted {
        before: &[],
        after: &layer.0,
        then: Some(|| {
            if late == Some(number) {
                beside = unpack_below(rootfs, below, late, unpacked, again);
            }
        }),
    };
    let outcome = rootfs.unpack(number, Selection::SkipReplaced, &mut tar);
    beside?;
    let layer = match outcome? {
        Outcome::Done(layer) => layer,
        Outcome::Incomplete => {
            *again = Again::Layer;
            rootfs.unpack_whole(number, &layer.0)?
        }
    };
    unpacked.insert(number, layer);
    match late == Some(number) {
        true => Ok(()),
        false => unpack_below(rootfs, below, late, unpacked, again),
    }
}

#[test]
fn what_a_layer_above_has_in_its_place_is_left_out() {
    let upper = layer()
        .dir("d")
        .file("d/f", "new")
        .file("d/hard", "new")
        .file("d/link", "new")
        .dir("d/e");
    let lower = layer()
        .dir("d")
        .file("d/f", "older")
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
        lower().link("d/s", "d/s/x"),
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
fn what_a_layer_had_in_an_attempt_that_failed_replaces_nothing() {
    let [lower, right, wrong] = ["f", "g", "f"].map(|name| layer().file(name, name).0);
    let scratch = Scratch::in_memory();
    let report = Report::new(false, Hidden::default());
    let rootfs = Rootfs::create(scratch.path(), &report).unwrap();
    let unpack =
        |number, bytes: &[u8]| match rootfs.unpack(number, Selection::SkipReplaced, &mut &*bytes) {
            Ok(Outcome::Done(layer)) => layer,
            _ => panic!("layer {number}"),
        };
    drop(unpack(1, &wrong));
    let lower = unpack(0, &lower);
    assert!(!lower.summary.seen.is_empty());
    let upper = unpack(1, &right);
    assert!(matches!(
        rootfs.merge(lower.believe_anyway()),
        Ok(Outcome::Done(()))
    ));
    assert!(matches!(
        rootfs.merge(upper.believe_anyway()),
        Ok(Outcome::Incomplete)
    ));
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

/// What is removed depends on what stands in the way of it, which must not be missing: `t/x`
/// would go.
#[test]
fn a_whiteout_does_not_go_through_what_was_left_out() {
    let low = layer().dir("t").file("t/x", "precious").symlink("s", "t");
    let top = layer().file("s", "new");
    let whiteout = |layer: Layer| layer.file("s/.wh.x", "");
    let opaque = |layer: Layer| layer.file("s/.wh..wh..opq", "");
    for removing in [whiteout, opaque] {
        for middle in [
            removing(layer()).file("s", "old"),
            removing(layer()).symlink("s", "old"),
            removing(layer().dir("s")).file("s", "old"),
            removing(layer().dir("s")).symlink("s", "old"),
        ] {
            let layers = [low.clone(), middle, top.clone()];
            assert_same(&layers, None, &[], Again::Nothing);
        }
        let gone = removing(layer().dir("s")).kind(b'3', "s");
        let layers = [low.clone(), gone.clone(), top.clone()];
        assert_same(&layers, Some(1), &[0], Again::Image);
        let layers = [low.clone(), layer().file("s", "old"), gone, top.clone()];
        assert_same(&layers, Some(2), &[0, 1], Again::Image);
    }
    let around = layer()
        .symlink("s", "q")
        .symlink("z", "nothing/../s")
        .file("z/.wh.x", "");
    assert_same(&[low, around, top], None, &[], Again::Layer);
}

#[test]
fn a_link_around_something_missing_finds_what_was_left_out() {
    let lower = layer()
        .dir("t")
        .file("t/f", "data")
        .symlink("b", "t")
        .symlink("z", "nothing/../b")
        .link("x", "z/f");
    for upper in [
        layer().file("b", "new"),
        layer().dir("t").file("t/f", "new"),
    ] {
        assert_same(&[lower.clone(), upper], None, &[], Again::Layer);
    }
}

#[test]
fn a_link_to_what_the_layer_itself_takes_away_is_an_error_all_the_same() {
    let device = layer().file("f", "old").kind(b'3', "f").link("x", "f");
    let upper = layer().file("f", "new").file("x", "new");
    assert_same(&[layer(), device, upper], None, &[], Again::Layer);
    let replaced = layer()
        .dir("a")
        .file("a/f", "old")
        .file("a", "file")
        .dir("a")
        .link("x", "a/f");
    let upper = layer().dir("a").file("a/f", "new").file("x", "new");
    assert_same(&[layer(), replaced, upper], None, &[], Again::Layer);
}

#[test]
fn what_no_machine_takes_is_refused_though_a_layer_above_replaces_it() {
    let huge = vec![b'x'; 70_000];
    let xattr = |name, value| {
        layer().spec(Spec {
            name: b"f",
            pax: &[(name, value)],
            ..Spec::default()
        })
    };
    let mut cut = layer().file("f", &"y".repeat(20_000));
    cut.0.truncate(5_000);
    for lower in [
        layer().symlink("f", &"x".repeat(5_000)),
        layer().symlink("f", ""),
        xattr("SCHILY.xattr.user.a", &huge),
        xattr("SCHILY.xattr.security.capability", b"rubbish"),
        cut,
    ] {
        assert_same(
            &[lower, layer().file("f", "new")],
            None,
            &[],
            Again::Nothing,
        );
    }
}
