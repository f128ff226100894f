//! Random layers against a slow, obvious model.

mod model;

use super::testing::*;
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
        let tidy = random.below(3) > 0;
        for _ in 0..1 + random.below(14) {
            let known: Vec<Place> = (model.root.keys().chain(own.map.keys()))
                .filter(|place| !place.is_empty())
                .cloned()
                .collect();
            let entry = random.entry(&known);
            // Layers of honest tools name every directory before what is in it.
            let mut with_parents = vec![entry.clone()];
            let mut above = parent(&entry.place).0;
            while tidy && !above.is_empty() && random.below(8) > 0 {
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

#[test]
fn random_layers_make_what_the_model_makes() {
    let scratch = Scratch::in_memory();
    let mut broken = 0;
    for seed in 1..=IMAGES {
        let (layers, entries, expected) = image(seed);
        let found = apply_as(scratch.path(), &layers, seed % 4 > 0);
        match expected {
            None => {
                broken += 1;
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
    assert!(
        broken < IMAGES / 4,
        "{broken} images of {IMAGES} test only an error"
    );
}
