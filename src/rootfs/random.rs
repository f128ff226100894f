//! Random layers against a slow, obvious model.

mod model;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;

use super::testing::*;
use super::{Outcome, Rootfs, Selection, Unpacked};
use crate::error::{Error, Result};
use crate::report::{Hidden, Report};
use model::*;

/// Images for each run of the suite; a failure names its seed.
const IMAGES: u64 = 2_000;

/// Kinds of entries, as [`Random::entry`] counts them: all, and files, directories and symlinks.
const ALL_KINDS: u64 = 20;
const SIMPLE_KINDS: u64 = 14;

/// xorshift64*
#[derive(Clone, Copy)]
struct Random(u64);

/// The names of an image.
#[derive(Clone, Copy)]
enum Names {
    /// Some, to any depth.
    Many,
    /// Few, so that everything meets everything.
    Few,
}

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn place(&mut self, names: Names) -> Place {
        if let Names::Few = names {
            let places = [&b"a"[..], b"a", b"a/c", b"a/c", b"b", b"b/c", b"c", b"a/b"];
            return self.pick(&places).to_vec();
        }
        let depth = self.pick(&[1, 1, 2, 2, 2, 3, 3, 4]);
        let names: Vec<&[u8]> = (0..depth)
            .map(|_| self.pick(&[&b"a"[..], b"b", b"c", b"d\xff"]))
            .collect();
        names.join(&b'/')
    }

    fn meta(&mut self) -> Meta {
        Meta {
            mode: match self.below(3) {
                0 => 0o755,
                1 => 0o644,
                _ => self.below(0o10000) as u32,
            },
            owner: (self.pick(&[0, 0, 1, 1000]), self.pick(&[0, 0, 5])),
            mtime: (
                self.below(2_000_000_000) as i64 - 1_000_000,
                self.pick(&[0, 0, 1, 999_999_999]),
            ),
        }
    }

    fn entry(&mut self, known: &[Place], names: Names, kinds: u64) -> Entry {
        let place = match known {
            [_, ..] if self.below(2) == 0 => known[self.below(known.len() as u64) as usize].clone(),
            _ => self.place(names),
        };
        let target = |random: &mut Random| match known {
            [_, ..] if random.below(4) > 0 => {
                known[random.below(known.len() as u64) as usize].clone()
            }
            _ => random.place(names),
        };
        let kind = match self.below(kinds) {
            0..6 => Kind::File(format!("{}", self.below(1_000)).into_bytes()),
            6..11 => Kind::Dir,
            11..14 => {
                let text = target(self);
                let prefix = self.pick(&[&b"/"[..], b"", b"../", b"../../", b"./", b"none/../"]);
                Kind::Symlink([prefix, &text].concat())
            }
            14..16 => Kind::Link(target(self)),
            16 | 17 => Kind::Whiteout,
            18 => Kind::Opaque,
            _ => self
                .pick(&[&Kind::Fifo, &Kind::Fifo, &Kind::Device])
                .clone(),
        };
        let place = match kind {
            Kind::Dir | Kind::Opaque if self.below(15) == 0 => Vec::new(),
            _ => place,
        };
        let mut meta = self.meta();
        if !rustix::process::geteuid().is_root() {
            // The listing is made by the same user, who must get in.
            meta.mode |= if kind == Kind::Dir { 0o500 } else { 0o400 };
        }
        Entry { kind, place, meta }
    }
}

fn written(layer: Layer, entry: &Entry) -> Layer {
    let (above, name) = parent(&entry.place);
    let (kind, place, link, data): (u8, Place, &[u8], &[u8]) = match &entry.kind {
        Kind::Device => (b'3', entry.place.clone(), b"", b""),
        Kind::Dir => (b'5', [&entry.place[..], b"/"].concat(), b"", b""),
        Kind::Fifo => (b'6', entry.place.clone(), b"", b""),
        Kind::File(data) => (b'0', entry.place.clone(), b"", data),
        Kind::Link(target) => (b'1', entry.place.clone(), target, b""),
        Kind::Opaque => (b'0', join(&entry.place, b".wh..wh..opq"), b"", b""),
        Kind::Symlink(target) => (b'2', entry.place.clone(), target, b""),
        Kind::Whiteout => (b'0', join(&above, &[b".wh.", &name[..]].concat()), b"", b""),
    };
    let (seconds, nanoseconds) = entry.meta.mtime;
    let mtime = match (seconds, nanoseconds) {
        (0.., nanoseconds) => format!("{seconds}.{nanoseconds:09}"),
        (seconds, 0) => format!("{seconds}"),
        (seconds, nanoseconds) => {
            format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds)
        }
    };
    layer.spec(Spec {
        name: &place,
        kind,
        mode: entry.meta.mode,
        owner: entry.meta.owner,
        mtime: 0,
        link,
        data,
        pax: &[("mtime", mtime.as_bytes())],
    })
}

fn image(seed: u64, names: Names) -> (Vec<Layer>, Vec<Vec<Entry>>, Option<String>) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut model = Model::new();
    let (mut layers, mut entries) = (Vec::new(), Vec::new());
    let mut broken = false;
    for _ in 0..1 + random.below(6) {
        let mut own = Own::default();
        own.map
            .insert(Vec::new(), Node::Dir(IMPLIED, Some(u64::MAX)));
        let mut layer = layer();
        let mut kept = Vec::new();
        let (tidy, kinds) = match names {
            Names::Many => (random.below(3), ALL_KINDS),
            Names::Few => (
                random.pick(&[0, 1, 2, 2, 2]),
                random.pick(&[SIMPLE_KINDS, ALL_KINDS]),
            ),
        };
        for _ in 0..1 + random.below(14) {
            let known: Vec<Place> = (model.root.keys().chain(own.map.keys()))
                .filter(|place| !place.is_empty())
                .cloned()
                .collect();
            let entry = random.entry(&known, names, kinds);
            // Layers of honest tools name every directory before what is in it, or nearly every one.
            let mut with_parents = vec![entry.clone()];
            let mut above = parent(&entry.place).0;
            while tidy > 0 && !above.is_empty() && (tidy == 2 || random.below(8) > 0) {
                if !own.map.contains_key(&above) {
                    let meta = random.meta();
                    let mode = meta.mode | 0o500;
                    with_parents.push(Entry {
                        kind: Kind::Dir,
                        place: above.clone(),
                        meta: Meta { mode, ..meta },
                    });
                }
                above = parent(&above).0;
            }
            for entry in with_parents.into_iter().rev() {
                let mut tried = (model.clone(), own.clone());
                if tried.0.entry(&mut tried.1, &entry).is_ok() {
                    (model, own) = tried;
                    layer = written(layer, &entry);
                    kept.push(entry);
                }
            }
        }
        let mut merged = model.clone();
        broken = merged.merge(own).is_err();
        // Few images are worth more than their error.
        if broken && random.below(5) > 0 {
            broken = false;
            continue;
        }
        model = merged;
        layers.push(layer);
        entries.push(kept);
        if broken {
            break;
        }
    }
    let expected = (!broken).then(|| model.listing());
    (layers, entries, expected)
}

/// Counts of what happened to images.
#[derive(Default)]
struct Tally {
    broken: u64,
    left_out: u64,
    /// A layer was unpacked twice because of what was left out, or all of them were.
    layer_again: u64,
    image_again: u64,
}

/// Layers that are unpacked as on several threads: one in the middle of another, some of them from
/// wrong bytes first.
struct Run<'r> {
    rootfs: &'r Rootfs<'r>,
    layers: &'r [Layer],
    random: RefCell<Random>,
    left: RefCell<Vec<usize>>,
    unpacked: RefCell<BTreeMap<usize, Unpacked>>,
    failure: RefCell<Option<Error>>,
    again: Cell<u64>,
}

impl Run<'_> {
    fn below(&self, n: usize) -> usize {
        self.random.borrow_mut().below(n as u64) as usize
    }

    /// Unpacks a layer that is left, and others while it is read.
    fn next(&self) {
        let left = self.left.borrow().len();
        if left == 0 {
            return;
        }
        // Mostly from the top, as the schedule does.
        let at = match self.below(3) {
            0 => self.below(left),
            _ => left - 1,
        };
        let number = self.left.borrow_mut().remove(at);
        let bytes = &self.layers[number].0;
        if self.below(8) == 0 {
            let wrong = &self.layers[self.below(self.layers.len())].0;
            let _ = self.unpack(number, wrong);
        }
        let unpacked = match self.unpack(number, bytes) {
            Ok(Outcome::Incomplete) => {
                self.again.set(self.again.get() + 1);
                self.rootfs.unpack_whole(number, bytes)
            }
            Ok(Outcome::Done(unpacked)) => Ok(unpacked),
            Err(error) => Err(error),
        };
        match unpacked {
            Ok(unpacked) => drop(self.unpacked.borrow_mut().insert(number, unpacked)),
            Err(error) => drop(self.failure.borrow_mut().get_or_insert(error)),
        }
    }

    fn unpack(&self, number: usize, bytes: &[u8]) -> Result<Outcome<Unpacked>> {
        let (before, after) = bytes.split_at(self.below(1 + bytes.len()));
        let then = || {
            while self.below(2) > 0 && !self.left.borrow().is_empty() {
                self.next();
            }
        };
        let mut tar = Interrupted {
            before,
            after,
            then: Some(then),
        };
        // As small layers are.
        let selection = match self.below(4) {
            0 => Selection::All,
            _ => Selection::SkipReplaced,
        };
        self.rootfs.unpack(number, selection, &mut tar)
    }
}

fn apply_at_once(
    destination: &Path,
    layers: &[Layer],
    random: Random,
    tally: &mut Tally,
) -> Result<()> {
    let report = Report::new(false, Hidden::default());
    Rootfs::remove_old(destination)?;
    let mut rootfs = Rootfs::create(destination, &report)?;
    let run = Run {
        rootfs: &rootfs,
        layers,
        random: RefCell::new(random),
        left: RefCell::new((0..layers.len()).collect()),
        unpacked: RefCell::default(),
        failure: RefCell::default(),
        again: Cell::default(),
    };
    while !run.left.borrow().is_empty() {
        run.next();
    }
    tally.layer_again += run.again.get();
    if let Some(error) = run.failure.into_inner() {
        return Err(error);
    }
    for layer in run.unpacked.into_inner().into_values() {
        tally.left_out += u64::from(!layer.summary.seen.is_empty());
        if let Outcome::Incomplete = rootfs.merge(layer.believe_anyway())? {
            tally.image_again += 1;
            rootfs.restart()?;
            return apply_into(rootfs, layers);
        }
    }
    rootfs.finish()
}

#[test]
fn random_layers_make_what_the_model_makes() {
    check(Names::Many, |destination, layers, seed, _| {
        apply_as(destination, layers, seed % 4 > 0)
    });
}

#[test]
fn what_layers_above_replace_makes_no_difference() {
    for names in [Names::Many, Names::Few] {
        let tally = check(names, |destination, layers, seed, tally| {
            apply_at_once(destination, layers, Random(seed), tally)
        });
        for (what, count) in [
            ("layers that left something out", tally.left_out),
            ("layers unpacked again", tally.layer_again),
            ("images unpacked again", tally.image_again),
        ] {
            assert!(count >= IMAGES / 200, "{count} {what}");
        }
    }
}

/// Compares what `apply` makes of many images with the model.
fn check(
    names: Names,
    mut apply: impl FnMut(&Path, &[Layer], u64, &mut Tally) -> Result<()>,
) -> Tally {
    let scratch = Scratch::in_memory();
    let mut tally = Tally::default();
    for seed in 1..=IMAGES {
        let (layers, entries, expected) = image(seed, names);
        let found = apply(scratch.path(), &layers, seed, &mut tally);
        match expected {
            None => {
                tally.broken += 1;
                let Err(error) = found else {
                    panic!("seed {seed} should fail: {entries:#?}");
                };
                assert_eq!(
                    error.kind(),
                    crate::error::Kind::Hostile,
                    "seed {seed}: {error}"
                );
            }
            Some(expected) => {
                if let Err(error) = found {
                    panic!("seed {seed}: {error}\n{entries:#?}");
                }
                let found = listing(&scratch.path().join("rootfs"));
                assert!(
                    found == expected,
                    "seed {seed}: found\n{found}\nexpected\n{expected}\n{entries:#?}"
                );
            }
        }
    }
    let broken = tally.broken;
    assert!(
        broken < IMAGES / 4,
        "{broken} images of {IMAGES} test only an error"
    );
    tally
}
