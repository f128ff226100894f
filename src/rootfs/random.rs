//! Random layers against a slow, obvious model: the rules of a merge on maps in memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::testing::*;

/// Images for each run of the suite; a failure names its seed.
const IMAGES: u64 = 2_000;

type Place = Vec<u8>;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Meta {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, u32),
}

const IMPLIED: Meta = Meta {
    mode: 0o755,
    owner: (0, 0),
    mtime: (0, 0),
};

#[derive(Clone, Debug)]
enum Node {
    /// With the number of its making, where only deeper names imply it.
    Dir(Meta, Option<u64>),
    /// Everything else, by inode.
    Leaf(usize),
}

#[derive(Clone, Debug)]
enum Inode {
    File(Meta, Vec<u8>),
    Symlink(Meta, Vec<u8>),
    Fifo(Meta),
    /// A hard link to a lower layer's file.
    Pending(Place),
}

/// Places and what is there; the root always is.
type Map = BTreeMap<Place, Node>;

#[derive(Clone, Default)]
struct Model {
    inodes: Vec<Inode>,
    root: Map,
}

#[derive(Clone, Default)]
struct Own {
    map: Map,
    removals: Vec<(bool, Place)>,
    implied: u64,
}

enum Found {
    Dir(Place),
    Missing(Place),
    Blocked,
}

fn join(place: &[u8], name: &[u8]) -> Place {
    match place {
        b"" => name.to_vec(),
        _ => [place, b"/", name].concat(),
    }
}

fn parent(place: &[u8]) -> (Place, Place) {
    match place.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (place[..at].to_vec(), place[at + 1..].to_vec()),
        None => (Vec::new(), place.to_vec()),
    }
}

fn below<'a>(map: &'a Map, place: &'a [u8]) -> impl Iterator<Item = Place> + 'a {
    let inside = move |other: &&Place| {
        !other.is_empty() && (place.is_empty() || other.starts_with(&join(place, b"")))
    };
    map.keys().filter(inside).cloned()
}

fn remove(map: &mut Map, place: &[u8]) {
    let gone: Vec<Place> = below(map, place).collect();
    for place in gone {
        map.remove(&place);
    }
    map.remove(place);
}

fn children(map: &Map, place: &[u8]) -> Vec<Place> {
    let direct = |other: &Place| parent(other).0 == place;
    below(map, place).filter(direct).collect()
}

impl Model {
    fn new() -> Self {
        let mut model = Model::default();
        model.root.insert(Vec::new(), Node::Dir(IMPLIED, None));
        model
    }

    /// As chroot(2) would resolve it; missing directories are made where `make` is a counter.
    fn walk(&self, map: &mut Map, from: &[u8], text: &[u8], mut make: Option<&mut u64>) -> Found {
        let mut here = from.to_vec();
        let mut missing = false;
        let mut links = 0;
        let mut todo: Vec<Place> = text.rsplit(|b| *b == b'/').map(<[u8]>::to_vec).collect();
        while let Some(name) = todo.pop() {
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    here = parent(&here).0;
                    // What was missing is taken literally, also on the way back.
                    continue;
                }
                _ => {}
            }
            let next = join(&here, &name);
            if missing {
                here = next;
                continue;
            }
            match map.get(&next) {
                Some(Node::Dir(..)) => here = next,
                Some(Node::Leaf(inode)) => match &self.inodes[*inode] {
                    Inode::Symlink(_, target) => {
                        links += 1;
                        if links > 40 {
                            return Found::Blocked;
                        }
                        if target.starts_with(b"/") {
                            here = Vec::new();
                        }
                        todo.extend(target.rsplit(|b| *b == b'/').map(<[u8]>::to_vec));
                    }
                    _ => return Found::Blocked,
                },
                None => match &mut make {
                    Some(count) => {
                        map.insert(next.clone(), Node::Dir(IMPLIED, Some(**count)));
                        **count += 1;
                        here = next;
                    }
                    None => {
                        missing = true;
                        here = next;
                    }
                },
            }
        }
        match missing {
            true => Found::Missing(here),
            false => Found::Dir(here),
        }
    }

    fn real(&self, map: &mut Map, place: &[u8]) -> Option<Place> {
        match self.walk(map, b"", place, None) {
            Found::Dir(place) | Found::Missing(place) => Some(place),
            Found::Blocked => None,
        }
    }

    fn entry(&mut self, own: &mut Own, spec: &Entry) -> Result<(), ()> {
        let meta = spec.meta;
        let (above, name) = parent(&spec.place);
        match spec.kind {
            Kind::Whiteout | Kind::Opaque => {
                let removed = match spec.kind {
                    Kind::Opaque => self.real(&mut own.map, &spec.place),
                    _ => self
                        .real(&mut own.map, &above)
                        .map(|above| join(&above, &name)),
                };
                if let Some(removed) = removed {
                    own.removals.push((spec.kind == Kind::Opaque, removed));
                }
                return Ok(());
            }
            Kind::Dir if spec.place.is_empty() => {
                own.map.insert(Vec::new(), Node::Dir(meta, None));
                return Ok(());
            }
            _ => {}
        }
        let Found::Dir(above) = self.walk(&mut own.map, b"", &above, Some(&mut own.implied)) else {
            return Err(());
        };
        let place = join(&above, &name);
        let inode = match &spec.kind {
            Kind::Dir => {
                if let Some(Node::Leaf(_)) = own.map.get(&place) {
                    own.removals.push((false, place.clone()));
                }
                own.map.insert(place, Node::Dir(meta, None));
                return Ok(());
            }
            Kind::Device => {
                remove(&mut own.map, &place);
                own.removals.push((false, place));
                return Ok(());
            }
            Kind::Link(target) => {
                let (above, name) = parent(target);
                let target = join(&self.real(&mut own.map, &above).ok_or(())?, &name);
                if target != place && target.starts_with(&join(&place, b"")) {
                    return Err(());
                }
                match own.map.get(&target) {
                    Some(Node::Dir(..)) => return Err(()),
                    Some(Node::Leaf(_)) if target == place => return Ok(()),
                    Some(Node::Leaf(inode)) => *inode,
                    None => self.push(Inode::Pending(target)),
                }
            }
            Kind::File(data) => self.push(Inode::File(meta, data.clone())),
            Kind::Symlink(target) => self.push(Inode::Symlink(meta, target.clone())),
            Kind::Fifo => self.push(Inode::Fifo(meta)),
            Kind::Whiteout | Kind::Opaque => return Ok(()),
        };
        remove(&mut own.map, &place);
        own.map.insert(place, Node::Leaf(inode));
        Ok(())
    }

    fn push(&mut self, inode: Inode) -> usize {
        self.inodes.push(inode);
        self.inodes.len() - 1
    }

    fn merge(&mut self, mut own: Own) -> Result<(), ()> {
        let mut root = std::mem::take(&mut self.root);
        // 1. links to what is below
        for place in own.map.keys().cloned().collect::<Vec<_>>() {
            let Some(Node::Leaf(inode)) = own.map.get(&place) else {
                continue;
            };
            let Inode::Pending(target) = &self.inodes[*inode] else {
                continue;
            };
            let (above, name) = parent(target);
            let Found::Dir(above) = self.walk(&mut root, b"", &above, None) else {
                return Err(());
            };
            let Some(Node::Leaf(inode)) = root.get(&join(&above, &name)) else {
                return Err(());
            };
            own.map.insert(place, Node::Leaf(*inode));
        }
        // 2. removals of what is below
        for (opaque, place) in own.removals.clone() {
            let (above, name) = match opaque {
                true => (place, Vec::new()),
                false => parent(&place),
            };
            let Some(above) = self.removal(&own, &mut root, &above) else {
                continue;
            };
            match opaque {
                true => {
                    for place in children(&root, &above) {
                        remove(&mut root, &place);
                    }
                }
                false => remove(&mut root, &join(&above, &name)),
            }
        }
        // 3. the tree, 4. what is behind symlinks
        let mut late = BTreeMap::new();
        self.merge_dir(&own, &mut root, b"", b"", &mut late)?;
        while !late.is_empty() {
            for number in 0..own.implied {
                let Some((from, to)) = late.remove(&number) else {
                    continue;
                };
                let mut made = 0;
                let Found::Dir(to) = self.walk(&mut root, b"", &to, Some(&mut made)) else {
                    return Err(());
                };
                self.merge_dir(&own, &mut root, &from, &to, &mut late)?;
            }
        }
        self.root = root;
        Ok(())
    }

    fn removal(&self, own: &Own, root: &mut Map, place: &[u8]) -> Option<Place> {
        let mut here = Vec::new();
        let mut mine = Vec::new();
        for name in place.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            mine = join(&mine, name);
            let next = join(&here, name);
            here = match root.get(&next)? {
                Node::Dir(..) => next,
                Node::Leaf(inode) => {
                    let Inode::Symlink(_, target) = &self.inodes[*inode] else {
                        return None;
                    };
                    if let Some(Node::Dir(_, None) | Node::Leaf(_)) = own.map.get(&mine) {
                        return None;
                    }
                    let from = if target.starts_with(b"/") {
                        b""
                    } else {
                        &here[..]
                    };
                    match self.walk(root, from, target, None) {
                        Found::Dir(place) => place,
                        _ => return None,
                    }
                }
            };
        }
        Some(here)
    }

    fn merge_dir(
        &self,
        own: &Own,
        root: &mut Map,
        from: &[u8],
        to: &[u8],
        late: &mut BTreeMap<u64, (Place, Place)>,
    ) -> Result<(), ()> {
        if let Some(Node::Dir(meta, None)) = own.map.get(from) {
            root.insert(to.to_vec(), Node::Dir(*meta, None));
        }
        for from in children(&own.map, from) {
            let to = join(to, &parent(&from).1);
            let there = root.get(&to).cloned();
            match (&own.map[&from], there) {
                (Node::Leaf(inode), _) => {
                    remove(root, &to);
                    root.insert(to, Node::Leaf(*inode));
                }
                (Node::Dir(meta, _), None) => {
                    root.insert(to.clone(), Node::Dir(*meta, None));
                    self.merge_dir(own, root, &from, &to, late)?;
                }
                (Node::Dir(..), Some(Node::Dir(..))) => {
                    self.merge_dir(own, root, &from, &to, late)?;
                }
                (Node::Dir(_, None), Some(Node::Leaf(_))) => {
                    remove(root, &to);
                    self.merge_dir(own, root, &from, &to, late)?;
                }
                (Node::Dir(_, Some(number)), Some(Node::Leaf(inode))) => {
                    match &self.inodes[inode] {
                        Inode::Symlink(..) => late.insert(*number, (from, to)),
                        _ => return Err(()),
                    };
                }
            }
        }
        Ok(())
    }

    /// As [`listing`] shows a tree.
    fn listing(&self) -> String {
        let mut out = String::new();
        let mut firsts: BTreeMap<usize, String> = BTreeMap::new();
        let mut places: Vec<&Place> = self.root.keys().collect();
        places.sort_by_key(|place| place.split(|b| *b == b'/').collect::<Vec<_>>());
        for place in places {
            let node = &self.root[place];
            let (letter, meta) = match node {
                Node::Dir(meta, _) => ('d', *meta),
                Node::Leaf(inode) => match &self.inodes[*inode] {
                    Inode::File(meta, _) => ('-', *meta),
                    Inode::Symlink(meta, _) => ('l', Meta { mode: 0, ..*meta }),
                    Inode::Fifo(meta) => ('p', *meta),
                    Inode::Pending(_) => unreachable!(),
                },
            };
            write!(out, "{letter}{:o} ", meta.mode).unwrap();
            if rustix::process::geteuid().is_root() {
                write!(out, "{}:{} ", meta.owner.0, meta.owner.1).unwrap();
            }
            write!(out, "{}", meta.mtime.0).unwrap();
            if meta.mtime.1 != 0 {
                write!(out, ".{:09}", meta.mtime.1).unwrap();
            }
            let shown = format!("/{}", place.escape_ascii());
            write!(out, " {shown}").unwrap();
            if let Node::Leaf(inode) = node {
                let same = |other: &&Node| matches!(other, Node::Leaf(other) if other == inode);
                if self.root.values().filter(same).count() > 1 {
                    let first = firsts.entry(*inode).or_insert_with(|| shown.clone());
                    write!(out, " ={first}").unwrap();
                }
                match &self.inodes[*inode] {
                    Inode::File(_, data) => {
                        write!(out, " {:?}", String::from_utf8_lossy(data)).unwrap();
                    }
                    Inode::Symlink(_, target) => {
                        write!(out, " -> {}", target.escape_ascii()).unwrap();
                    }
                    _ => {}
                }
            }
            out.push('\n');
        }
        out
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Device,
    Dir,
    Fifo,
    File(Vec<u8>),
    Link(Place),
    Opaque,
    Symlink(Vec<u8>),
    Whiteout,
}

#[derive(Clone)]
struct Entry {
    kind: Kind,
    place: Place,
    meta: Meta,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = self.place.escape_ascii();
        let Meta { mode, owner, mtime } = self.meta;
        match &self.kind {
            Kind::Link(to) => write!(f, "Link {place} = {}", to.escape_ascii()),
            Kind::Symlink(to) => write!(f, "Symlink {place} -> {}", to.escape_ascii()),
            kind => write!(f, "{kind:?} {place}"),
        }?;
        write!(
            f,
            " ({mode:o} {}:{} {}.{:09})",
            owner.0, owner.1, mtime.0, mtime.1
        )
    }
}

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
