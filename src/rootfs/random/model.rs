//! The rules of a merge on maps in memory: slow and obvious.

use std::collections::BTreeMap;
use std::fmt::Write as _;

pub(super) type Place = Vec<u8>;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime: (i64, u32),
}

pub(super) const IMPLIED: Meta = Meta {
    mode: 0o755,
    owner: (0, 0),
    mtime: (0, 0),
};

#[derive(Clone, Debug)]
pub(super) enum Node {
    /// With the number of its making, where only deeper names imply it.
    Dir(Meta, Option<u64>),
    /// Everything else, by inode.
    Leaf(usize),
}

#[derive(Clone, Debug)]
pub(super) enum Inode {
    File(Meta, Vec<u8>),
    Symlink(Meta, Vec<u8>),
    Fifo(Meta),
    /// A hard link to a lower layer's file.
    Pending(Place),
}

/// Places and what is there; the root always is.
pub(super) type Map = BTreeMap<Place, Node>;

#[derive(Clone, Default)]
pub(super) struct Model {
    inodes: Vec<Inode>,
    pub(super) root: Map,
}

#[derive(Clone, Default)]
pub(super) struct Own {
    pub(super) map: Map,
    removals: Vec<(bool, Place)>,
    implied: u64,
}

pub(super) enum Found {
    Dir(Place),
    Missing(Place),
    Blocked,
}

pub(super) fn join(place: &[u8], name: &[u8]) -> Place {
    match place {
        b"" => name.to_vec(),
        _ => [place, b"/", name].concat(),
    }
}

pub(super) fn parent(place: &[u8]) -> (Place, Place) {
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
    pub(super) fn new() -> Self {
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

    pub(super) fn entry(&mut self, own: &mut Own, spec: &Entry) -> Result<(), ()> {
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

    pub(super) fn merge(&mut self, mut own: Own) -> Result<(), ()> {
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
    pub(super) fn listing(&self) -> String {
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
pub(super) enum Kind {
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
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) place: Place,
    pub(super) meta: Meta,
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
