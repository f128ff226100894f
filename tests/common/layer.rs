//! Layers: tar archives written byte by byte, honest or hostile, and their compression.
//!
//! The writer is our own, not that of a crate: a parser must not be tested with its own writer, and
//! no library writes what attackers write.

use super::{noise, sha256};

/// A layer without entries. Words like [`Layer::mode`] change the entry added last.
///
/// ```ignore
/// layer().dir("etc").file("etc/a", "new").mode(0o600).owner(1, 2).whiteout("etc/b").gzip()
/// ```
pub fn layer() -> Layer {
    Layer {
        parts: Vec::new(),
        compression: Compression::Gzip { members: 1 },
        gnu_names: false,
        end: vec![0; 1024],
    }
}

#[derive(Clone)]
pub struct Layer {
    parts: Vec<Part>,
    compression: Compression,
    gnu_names: bool,
    end: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Compression {
    None,
    Gzip { members: usize },
    Zstd,
}

#[derive(Clone)]
enum Part {
    Entry(Box<Entry>),
    Raw(Vec<u8>),
}

/// One member of an archive, as its header will say.
#[derive(Clone)]
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: u8,
    pub link: Vec<u8>,
    pub data: Vec<u8>,
    pub mode: u32,
    pub uid: i64,
    pub gid: i64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    pub device: (u32, u32),
    /// What the header's size field says, where it is not the length of the data.
    pub size: Option<u64>,
    /// Records besides those that the values above need.
    pub pax: Vec<(Vec<u8>, Vec<u8>)>,
    /// The body of the PAX header, in the place of records.
    pub raw_pax: Option<Vec<u8>>,
    /// Last change of the header block; the checksum is made after it.
    pub tweak: Option<fn(&mut [u8; 512])>,
    pub bad_checksum: bool,
    /// Blocks between header and data (old GNU sparse extensions).
    pub extension: Vec<u8>,
}

impl Entry {
    fn new(kind: u8, name: &[u8]) -> Entry {
        Entry {
            name: name.to_vec(),
            kind,
            link: Vec::new(),
            data: Vec::new(),
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            mtime: (1_000_000_000, 0),
            device: (0, 0),
            size: None,
            pax: Vec::new(),
            raw_pax: None,
            tweak: None,
            bad_checksum: false,
            extension: Vec::new(),
        }
    }
}

impl Layer {
    // Entries.

    pub fn file(self, name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Layer {
        let data = data.as_ref().to_vec();
        self.entry(b'0', name).edit(|entry| entry.data = data)
    }

    pub fn dir(self, name: impl AsRef<[u8]>) -> Layer {
        let mut name = name.as_ref().to_vec();
        if !name.ends_with(b"/") {
            name.push(b'/');
        }
        self.entry(b'5', name)
    }

    pub fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Layer {
        let target = target.as_ref().to_vec();
        self.entry(b'2', name).edit(|entry| {
            entry.link = target;
            entry.mode = 0o777;
        })
    }

    pub fn hardlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Layer {
        let target = target.as_ref().to_vec();
        self.entry(b'1', name).edit(|entry| entry.link = target)
    }

    /// Removes `name` of lower layers.
    pub fn whiteout(self, name: impl AsRef<[u8]>) -> Layer {
        let name = name.as_ref();
        let at = name.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        let marker = [&name[..at], b".wh.", &name[at..]].concat();
        self.file(marker, "")
    }

    /// Empties a directory of what lower layers have in it; `""` is the root.
    pub fn opaque(self, directory: impl AsRef<[u8]>) -> Layer {
        let directory = directory.as_ref();
        let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
        self.file([directory, slash, b".wh..wh..opq"].concat(), "")
    }

    pub fn fifo(self, name: impl AsRef<[u8]>) -> Layer {
        self.entry(b'6', name)
    }

    /// `kind` is `c` or `b`.
    pub fn device(self, name: impl AsRef<[u8]>, kind: char, major: u32, minor: u32) -> Layer {
        let kind = if kind == 'c' { b'3' } else { b'4' };
        self.entry(kind, name)
            .edit(|entry| entry.device = (major, minor))
    }

    /// Any type flag, empty.
    pub fn entry(mut self, kind: u8, name: impl AsRef<[u8]>) -> Layer {
        self.parts
            .push(Part::Entry(Box::new(Entry::new(kind, name.as_ref()))));
        self
    }

    /// A sparse file of old GNU tar (type `S`): pieces at offsets in a file of `size` bytes. All
    /// pieces but the last have a multiple of 512 bytes, as every reader expects.
    pub fn gnu_sparse(self, name: &str, size: u64, pieces: &[(u64, &[u8])]) -> Layer {
        let data: Vec<u8> = pieces
            .iter()
            .flat_map(|(_, piece)| piece.to_vec())
            .collect();
        self.gnu_sparse_map(name, size, &sparse_map(size, pieces), &data)
    }

    /// The same with a map that need not fit the data.
    pub fn gnu_sparse_map(self, name: &str, size: u64, map: &[(u64, u64)], data: &[u8]) -> Layer {
        let (inside, outside) = map.split_at(map.len().min(4));
        let pair = |(at, length): &(u64, u64)| [number(*at, 12), number(*length, 12)].concat();
        let mut block = vec![0; 512];
        let map: Vec<u8> = inside.iter().flat_map(pair).collect();
        block[386..386 + map.len()].copy_from_slice(&map);
        block[482] = u8::from(!outside.is_empty());
        block[483..495].copy_from_slice(&number(size, 12));
        let mut extension = Vec::new();
        let mut rest = outside.chunks(21).peekable();
        while let Some(pairs) = rest.next() {
            let mut map: Vec<u8> = pairs.iter().flat_map(pair).collect();
            map.resize(512, 0);
            map[504] = u8::from(rest.peek().is_some());
            extension.extend(map);
        }
        self.entry(b'S', name).edit(|entry| {
            entry.data = data.to_vec();
            // Kept in front of the extensions until the header is made.
            entry.extension = [block, extension].concat();
        })
    }

    /// A sparse file as PAX records say it: `version` is `0.0`, `0.1` or `1.0`.
    pub fn pax_sparse(
        self,
        version: &str,
        name: &str,
        size: u64,
        pieces: &[(u64, &[u8])],
    ) -> Layer {
        let mut data: Vec<u8> = pieces
            .iter()
            .flat_map(|(_, piece)| piece.to_vec())
            .collect();
        let pairs: Vec<(String, String)> = sparse_map(size, pieces)
            .iter()
            .map(|(at, length)| (at.to_string(), length.to_string()))
            .collect();
        let count = pairs.len().to_string();
        let size = size.to_string();
        let mut records: Vec<(&str, String)> = Vec::new();
        match version {
            "0.0" => {
                records.push(("GNU.sparse.size", size));
                records.push(("GNU.sparse.numblocks", count));
                for (at, length) in pairs {
                    records.push(("GNU.sparse.offset", at));
                    records.push(("GNU.sparse.numbytes", length));
                }
            }
            "0.1" => {
                records.push(("GNU.sparse.size", size));
                records.push(("GNU.sparse.numblocks", count));
                let map: Vec<String> = pairs
                    .iter()
                    .map(|(at, length)| format!("{at},{length}"))
                    .collect();
                records.push(("GNU.sparse.map", map.join(",")));
                records.push(("GNU.sparse.name", name.to_owned()));
            }
            "1.0" => {
                records.push(("GNU.sparse.major", "1".to_owned()));
                records.push(("GNU.sparse.minor", "0".to_owned()));
                records.push(("GNU.sparse.name", name.to_owned()));
                records.push(("GNU.sparse.realsize", size));
                let mut map = format!("{count}\n").into_bytes();
                for (at, length) in pairs {
                    map.extend(format!("{at}\n{length}\n").into_bytes());
                }
                map.resize(map.len().next_multiple_of(512), 0);
                data = [map, data].concat();
            }
            other => panic!("no PAX sparse format {other}"),
        }
        let stored = if version == "0.0" {
            name.to_owned()
        } else {
            format!("GNUSparseFile.0/{name}")
        };
        let mut layer = self.file(stored, data);
        for (key, value) in records {
            layer = layer.pax(key, value);
        }
        layer
    }

    /// Bytes as they are, between entries.
    pub fn raw(mut self, bytes: impl Into<Vec<u8>>) -> Layer {
        self.parts.push(Part::Raw(bytes.into()));
        self
    }

    /// A PAX global header.
    pub fn global_pax(self, key: &str, value: &str) -> Layer {
        let body = pax_record(key.as_bytes(), value.as_bytes());
        let mut entry = Entry::new(b'g', b"pax_global_header");
        entry.data = body;
        let block = plain_member(&entry);
        self.raw(block)
    }

    // The entry added last.

    pub fn mode(self, mode: u32) -> Layer {
        self.edit(|entry| entry.mode = mode)
    }

    pub fn owner(self, uid: i64, gid: i64) -> Layer {
        self.edit(|entry| (entry.uid, entry.gid) = (uid, gid))
    }

    pub fn mtime(self, seconds: i64) -> Layer {
        self.mtime_ns(seconds, 0)
    }

    pub fn mtime_ns(self, seconds: i64, nanoseconds: u32) -> Layer {
        self.edit(|entry| entry.mtime = (seconds, nanoseconds))
    }

    pub fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Layer {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    /// One more PAX record, in order; it wins over what the header says.
    pub fn pax(self, key: &str, value: impl AsRef<[u8]>) -> Layer {
        let record = (key.as_bytes().to_vec(), value.as_ref().to_vec());
        self.edit(|entry| entry.pax.push(record))
    }

    /// These bytes as the body of the entry's PAX header.
    pub fn raw_pax(self, body: impl Into<Vec<u8>>) -> Layer {
        let body = body.into();
        self.edit(|entry| entry.raw_pax = Some(body))
    }

    /// The header's size field, whatever the data is.
    pub fn size(self, size: u64) -> Layer {
        self.edit(|entry| entry.size = Some(size))
    }

    /// Changes the header block before its checksum is made.
    pub fn tweak(self, tweak: fn(&mut [u8; 512])) -> Layer {
        self.edit(|entry| entry.tweak = Some(tweak))
    }

    pub fn bad_checksum(self) -> Layer {
        self.edit(|entry| entry.bad_checksum = true)
    }

    /// Any change of the entry added last.
    pub fn edit(mut self, change: impl FnOnce(&mut Entry)) -> Layer {
        match self.parts.last_mut() {
            Some(Part::Entry(entry)) => change(entry),
            _ => panic!("no entry before this word"),
        }
        self
    }

    // The archive.

    /// Long names as GNU tar writes them (types `L` and `K`), not as PAX records.
    pub fn gnu_names(mut self) -> Layer {
        self.gnu_names = true;
        self
    }

    /// What follows the last entry, in the place of two blocks of zeros.
    pub fn end(mut self, bytes: impl Into<Vec<u8>>) -> Layer {
        self.end = bytes.into();
        self
    }

    pub fn gzip(mut self) -> Layer {
        self.compression = Compression::Gzip { members: 1 };
        self
    }

    pub fn gzip_members(mut self, members: usize) -> Layer {
        self.compression = Compression::Gzip { members };
        self
    }

    pub fn zstd(mut self) -> Layer {
        self.compression = Compression::Zstd;
        self
    }

    pub fn plain(mut self) -> Layer {
        self.compression = Compression::None;
        self
    }

    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// A file that does not compress, to make a layer large.
    pub fn noise(self, name: &str, length: usize) -> Layer {
        let seed = name
            .bytes()
            .fold(length as u64, |seed, b| seed * 31 + u64::from(b));
        self.file(name, noise(seed, length))
    }

    pub fn tar(&self) -> Vec<u8> {
        let mut tar = Vec::new();
        for part in &self.parts {
            match part {
                Part::Entry(entry) => tar.extend(member(entry, self.gnu_names)),
                Part::Raw(bytes) => tar.extend_from_slice(bytes),
            }
        }
        tar.extend_from_slice(&self.end);
        tar
    }

    /// sha256 of the tar.
    pub fn diff_id(&self) -> String {
        sha256(&self.tar())
    }

    /// The tar, compressed as chosen (gzip if not).
    pub fn bytes(&self) -> Vec<u8> {
        let tar = self.tar();
        match self.compression {
            Compression::None => tar,
            Compression::Zstd => zstd(&tar),
            Compression::Gzip { members } => {
                let piece = tar.len().div_ceil(members.max(1)).max(1);
                tar.chunks(piece).flat_map(gzip).collect()
            }
        }
    }
}

/// Offsets and lengths, with the empty piece at the end that says how long a last hole is.
fn sparse_map(size: u64, pieces: &[(u64, &[u8])]) -> Vec<(u64, u64)> {
    let mut map: Vec<(u64, u64)> = pieces
        .iter()
        .map(|(at, piece)| (*at, piece.len() as u64))
        .collect();
    if map.last().is_none_or(|(at, length)| at + length < size) {
        map.push((size, 0));
    }
    map
}

/// One gzip member.
pub fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    bytes.extend(miniz_oxide::deflate::compress_to_vec(plain, 1));
    bytes.extend(crc32(plain).to_le_bytes());
    bytes.extend((plain.len() as u32).to_le_bytes());
    bytes
}

/// One zstd frame.
pub fn zstd(plain: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(zstd_safe::compress_bound(plain.len()));
    zstd_safe::compress(&mut bytes, plain, 1).unwrap();
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut at = 0;
        while at < 256 {
            let mut value = at as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 {
                    0xedb8_8320 ^ (value >> 1)
                } else {
                    value >> 1
                };
                bit += 1;
            }
            table[at] = value;
            at += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, byte| {
        TABLE[((crc ^ u32::from(*byte)) & 255) as usize] ^ (crc >> 8)
    })
}

/// One entry with the extended headers that it needs.
fn member(entry: &Entry, gnu_names: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut records = Vec::new();
    let mut long = |kind: u8, key: &str, value: &[u8]| {
        if value.len() <= 100 {
        } else if gnu_names {
            let mut header = Entry::new(kind, b"././@LongLink");
            header.data = [value, b"\0"].concat();
            bytes.extend(plain_member(&header));
        } else {
            records.extend(pax_record(key.as_bytes(), value));
        }
    };
    long(b'K', "linkpath", &entry.link);
    long(b'L', "path", &entry.name);
    for (key, value) in [("uid", entry.uid), ("gid", entry.gid)] {
        if !(0..=0o7_777_777).contains(&value) {
            records.extend(pax_record(key.as_bytes(), value.to_string().as_bytes()));
        }
    }
    let (seconds, nanoseconds) = entry.mtime;
    if nanoseconds != 0 || !(0..=0o77_777_777_777).contains(&seconds) {
        let text = match (seconds, nanoseconds) {
            (_, 0) => seconds.to_string(),
            // -1.25 is 750,000,000 ns after -2.
            (..0, ns) if seconds == -1 => format!("-0.{:09}", 1_000_000_000 - ns),
            (..0, ns) => format!("{}.{:09}", seconds + 1, 1_000_000_000 - ns),
            (_, ns) => format!("{seconds}.{ns:09}"),
        };
        records.extend(pax_record(b"mtime", text.as_bytes()));
    }
    for (key, value) in &entry.pax {
        records.extend(pax_record(key, value));
    }
    if let Some(raw) = &entry.raw_pax {
        records.clone_from(raw);
    }
    if !records.is_empty() || entry.raw_pax.is_some() {
        let mut header = Entry::new(b'x', b"PaxHeaders.0/entry");
        header.data = records;
        bytes.extend(plain_member(&header));
    }
    bytes.extend(plain_member(entry));
    bytes
}

/// POSIX.1-2017 pax: `LENGTH KEY=VALUE\n`, where the length counts itself.
pub fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// Header, extensions, data and padding.
fn plain_member(entry: &Entry) -> Vec<u8> {
    let mut header = [0; 512];
    // Old GNU sparse fields come as a block in front of the extensions.
    let (fields, extension) = entry.extension.split_at(entry.extension.len().min(512));
    header[..fields.len()].copy_from_slice(fields);
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &entry.name[..entry.name.len().min(100)]);
    put(100, &number(u64::from(entry.mode), 8));
    let owner = |id: i64| number(u64::try_from(id).unwrap_or(0).min(0o7_777_777), 8);
    put(108, &owner(entry.uid));
    put(116, &owner(entry.gid));
    put(
        124,
        &number(entry.size.unwrap_or(entry.data.len() as u64), 12),
    );
    put(
        136,
        &number(
            u64::try_from(entry.mtime.0)
                .unwrap_or(0)
                .min(0o77_777_777_777),
            12,
        ),
    );
    put(148, b"        ");
    put(156, &[entry.kind]);
    put(157, &entry.link[..entry.link.len().min(100)]);
    let gnu = matches!(entry.kind, b'L' | b'K' | b'S');
    put(257, if gnu { b"ustar  \0" } else { b"ustar\x0000" });
    if matches!(entry.kind, b'3' | b'4') {
        put(329, &number(u64::from(entry.device.0), 8));
        put(337, &number(u64::from(entry.device.1), 8));
    }
    if let Some(tweak) = entry.tweak {
        tweak(&mut header);
    }
    let mut sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    if entry.bad_checksum {
        sum += 1;
    }
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(extension);
    bytes.extend_from_slice(&entry.data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// Octal with a NUL, or base 256 where that is too small.
fn number(value: u64, width: usize) -> Vec<u8> {
    let octal = format!("{value:0digits$o}\0", digits = width - 1);
    if octal.len() <= width {
        return octal.into_bytes();
    }
    let mut bytes = vec![0; width];
    bytes[width - 8..].copy_from_slice(&value.to_be_bytes());
    bytes[0] |= 0x80;
    bytes
}
