//! Random layers against a slow, obvious model.

mod model;

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};
use std::path::Path;

use super::testing::*;
use super::{Outcome, Rootfs, Selection, Unpacked};
use crate::error::Result;
use crate::report::{Hidden, Report};
use model::*;

/// Images for each run of the suite; a failure names its seed.
const IMAGES: u64 = 2_000;

/// xorshift64*
struct Random(u64);

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

    fn place(&mut self) -> Place {
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

    fn entry(&mut self, known: &[Place]) -> Entry {
        let place = match known {
            [_, ..] if self.below(2) == 0 => known[self.below(known.len() as u64) as usize].clone(),
            _ => self.place(),
        };
        let target = |random: &mut Random| match known {
            [_, ..] if random.below(4) > 0 => {
                known[random.below(known.len() as u64) as usize].clone()
            }
            _ => random.place(),
        };
        let kind = match self.below(20) {
            0..6 => Kind::File(format!("{}", self.below(1_000)).into_bytes()),
            6..11 => Kind::Dir,
            11..14 => {
                let text = target(self);
                let prefix = self.pick(&[&b"/"[..], b"", b"../", b"../../", b"./"]);
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

fn image(seed: u64) -> (Vec<Layer>, Vec<Vec<Entry>>, Option<String>) {
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
        let tidy = random.below(3);
        for _ in 0..1 + random.below(14) {
            let known: Vec<Place> = (model.root.keys().chain(own.map.keys()))
                .filter(|place| !place.is_empty())
                .cloned()
                .collect();
            let entry = random.entry(&known);
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
struct Seen {
    broken: u64,
    left_out: u64,
    /// A layer was unpacked twice because of what was left out, or all of them were.
    layer_again: u64,
    image_again: u64,
}

/// A layer's bytes, and something that happens when some of them were read.
struct Interrupted<'b, F: FnMut()> {
    before: &'b [u8],
    after: &'b [u8],
    then: Option<F>,
}

impl<F: FnMut()> BufRead for Interrupted<'_, F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.before.is_empty() {
            if let Some(mut then) = self.then.take() {
                then();
            }
            self.before = std::mem::take(&mut self.after);
        }
        Ok(self.before)
    }

    fn consume(&mut self, n: usize) {
        self.before = &self.before[n..];
    }
}

impl<F: FnMut()> Read for Interrupted<'_, F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

/// Applies layers as a run on several threads may: unpacked in any order, some of them proven
/// before others, before a lower one begins or while it is read.
fn apply_in_any_order(
    destination: &Path,
    layers: &[Layer],
    random: &mut Random,
    seen: &mut Seen,
) -> Result<()> {
    let report = Report::new(false, Hidden::default());
    Rootfs::remove_old(destination)?;
    let rootfs = Rootfs::create(destination, &report)?;
    let mut left: Vec<usize> = (0..layers.len()).collect();
    let mut unproven: Vec<(usize, Unpacked)> = Vec::new();
    let mut proven = BTreeMap::new();
    while !left.is_empty() {
        // Mostly from the top, as the schedule does.
        let at = match random.below(3) {
            0 => random.below(left.len() as u64) as usize,
            _ => left.len() - 1,
        };
        let number = left.remove(at);
        let bytes = &layers[number].0;
        let (before, after) = bytes.split_at(random.below(1 + bytes.len() as u64) as usize);
        let mut next = match random.below(2) {
            0 => unproven.pop(),
            _ => None,
        };
        let then = || {
            if let Some((number, layer)) = next.take() {
                proven.insert(number, rootfs.believe_anyway(layer));
            }
        };
        let mut tar = Interrupted {
            before,
            after,
            then: Some(then),
        };
        let unpacked = match rootfs.unpack(number, Selection::Needed, &mut tar)? {
            Outcome::Done(unpacked) => unpacked,
            Outcome::Wanted => {
                seen.layer_again += 1;
                rootfs.unpack_whole(number, bytes)?
            }
        };
        tar.then.take().into_iter().for_each(|mut then| then());
        seen.left_out += u64::from(unpacked.summary.replaced_by.is_some());
        unproven.push((number, unpacked));
        while !unproven.is_empty() && random.below(2) > 0 {
            let (number, layer) = unproven.remove(random.below(unproven.len() as u64) as usize);
            proven.insert(number, rootfs.believe_anyway(layer));
        }
    }
    for (number, layer) in unproven {
        proven.insert(number, rootfs.believe_anyway(layer));
    }
    for layer in proven.into_values() {
        if let Outcome::Wanted = rootfs.merge(layer)? {
            seen.image_again += 1;
            rootfs.restart()?.finish()?;
            return apply(destination, layers);
        }
    }
    rootfs.finish()
}

#[test]
fn random_layers_make_what_the_model_makes() {
    check(|destination, layers, seed, _| apply_as(destination, layers, seed % 4 > 0));
}

#[test]
fn what_layers_above_replace_makes_no_difference() {
    let seen = check(|destination, layers, seed, seen| {
        apply_in_any_order(destination, layers, &mut Random(seed), seen)
    });
    for (what, count, at_least) in [
        ("layers that left something out", seen.left_out, IMAGES / 20),
        ("layers unpacked again", seen.layer_again, 10),
        ("images unpacked again", seen.image_again, 10),
    ] {
        assert!(count >= at_least, "{count} {what}");
    }
}

/// Compares what `apply` makes of many images with the model.
fn check(mut apply: impl FnMut(&Path, &[Layer], u64, &mut Seen) -> Result<()>) -> Seen {
    let scratch = Scratch::in_memory();
    let mut seen = Seen::default();
    for seed in 1..=IMAGES {
        let (layers, entries, expected) = image(seed);
        let found = apply(scratch.path(), &layers, seed, &mut seen);
        match expected {
            None => {
                seen.broken += 1;
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
    let broken = seen.broken;
    assert!(
        broken < IMAGES / 4,
        "{broken} images of {IMAGES} test only an error"
    );
    seen
}
