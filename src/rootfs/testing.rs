//! Layers built in memory, unpacked into a directory of their own, and read back with std::fs.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Rootfs;
use crate::error::Result;
use crate::oci::digest::{Checked, Digest, Verified};
use crate::report::Report;

/// A directory for one test, removed at its end.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("registry-image-rootfs-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let parent = fs::File::open(self.0.parent().unwrap()).unwrap();
        let name = self.0.file_name().unwrap().as_bytes();
        super::remove::remove(&parent, name).unwrap();
    }
}

/// A tar, entry by entry.
#[derive(Clone)]
pub(super) struct Layer(pub(super) Vec<u8>);

pub(super) fn layer() -> Layer {
    Layer(Vec::new())
}

/// One entry; what is not said is ordinary.
#[derive(Clone, Debug)]
pub(super) struct Spec<'a> {
    pub(super) name: &'a [u8],
    pub(super) kind: u8,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime: u64,
    pub(super) link: &'a [u8],
    pub(super) data: &'a [u8],
    pub(super) pax: &'a [(&'a str, &'a [u8])],
}

impl Default for Spec<'_> {
    fn default() -> Self {
        Spec {
            name: b"",
            kind: b'0',
            mode: 0o644,
            owner: (0, 0),
            mtime: 1_000,
            link: b"",
            data: b"",
            pax: &[],
        }
    }
}

impl Layer {
    pub(super) fn spec(mut self, spec: Spec<'_>) -> Self {
        let mut pax: Vec<(&str, &[u8])> = spec.pax.to_vec();
        if spec.name.len() > 100 {
            pax.push(("path", spec.name));
        }
        if spec.link.len() > 100 {
            pax.push(("linkpath", spec.link));
        }
        if !pax.is_empty() {
            let mut records = Vec::new();
            for (key, value) in pax {
                let rest = key.len() + value.len() + 3;
                let length = (1..)
                    .map(|digits| rest + digits)
                    .find(|length| length.to_string().len() + rest == *length)
                    .unwrap();
                records.extend_from_slice(format!("{length} {key}=").as_bytes());
                records.extend_from_slice(value);
                records.push(b'\n');
            }
            self = self.block(b'x', b"pax", b"", &records, |_| {});
        }
        let cut = |text: &[u8]| text.get(..100).unwrap_or(text).to_vec();
        self.block(
            spec.kind,
            &cut(spec.name),
            &cut(spec.link),
            spec.data,
            |header| {
                header.set_mode(spec.mode);
                header.set_uid(spec.owner.0.into());
                header.set_gid(spec.owner.1.into());
                header.set_mtime(spec.mtime);
            },
        )
    }

    pub(super) fn block(
        mut self,
        kind: u8,
        name: &[u8],
        link: &[u8],
        data: &[u8],
        set: impl FnOnce(&mut tar::Header),
    ) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(data.len() as u64);
        set(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, name: &str, data: &str) -> Self {
        self.spec(Spec {
            name: name.as_bytes(),
            data: data.as_bytes(),
            ..Spec::default()
        })
    }

    pub(super) fn dir(self, name: &str) -> Self {
        self.spec(Spec {
            name: name.as_bytes(),
            kind: b'5',
            mode: 0o755,
            ..Spec::default()
        })
    }

    pub(super) fn symlink(self, name: &str, target: &str) -> Self {
        self.linked(b'2', name, target)
    }

    pub(super) fn link(self, name: &str, target: &str) -> Self {
        self.linked(b'1', name, target)
    }

    fn linked(self, kind: u8, name: &str, target: &str) -> Self {
        self.spec(Spec {
            name: name.as_bytes(),
            kind,
            link: target.as_bytes(),
            ..Spec::default()
        })
    }

    pub(super) fn kind(self, kind: u8, name: &str) -> Self {
        self.spec(Spec {
            name: name.as_bytes(),
            kind,
            ..Spec::default()
        })
    }
}

/// Proofs for bytes that nobody questions.
pub(super) fn proof() -> (Verified, Verified) {
    let proof = || {
        Checked::new(io::empty(), &Digest::of(b""), None)
            .finish()
            .unwrap()
    };
    (proof(), proof())
}

/// Unpacks and merges layers into `destination`.
pub(super) fn apply(destination: &Path, layers: &[Layer]) -> Result<()> {
    let report = Report::new(false);
    let rootfs = Rootfs::create(destination, &report)?;
    let mut unpacked = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        unpacked.push(rootfs.unpack(number, &mut layer.0.as_slice())?);
    }
    for layer in unpacked {
        let (compressed, plain) = proof();
        rootfs.merge(layer, compressed, plain)?;
    }
    rootfs.finish()
}

/// What the layers make, one line for each thing.
pub(super) fn unpack(layers: &[Layer]) -> Result<String> {
    let scratch = Scratch::new();
    apply(scratch.path(), layers)?;
    assert!(!scratch.path().join(".layers").exists());
    Ok(listing(&scratch.path().join("rootfs")))
}

/// A tree, sorted: type, mode, owner (as root), modification time, place, and what is in it.
/// Names of one inode share the name of the first as `=NAME`.
pub(super) fn listing(root: &Path) -> String {
    let mut out = String::new();
    let mut inodes = HashMap::new();
    list(root, root, &mut inodes, &mut out);
    out
}

fn list(root: &Path, path: &Path, inodes: &mut HashMap<u64, String>, out: &mut String) {
    let meta = fs::symlink_metadata(path).unwrap();
    let kind = meta.file_type();
    let place = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
    let place = format!("/{}", place.escape_ascii());
    let letter = match kind {
        kind if kind.is_dir() => 'd',
        kind if kind.is_file() => '-',
        kind if kind.is_symlink() => 'l',
        kind if kind.is_fifo() => 'p',
        _ => '?',
    };
    let mode = if kind.is_symlink() {
        0
    } else {
        meta.mode() & 0o7777
    };
    write!(out, "{letter}{mode:o} ").unwrap();
    if rustix::process::geteuid().is_root() {
        write!(out, "{}:{} ", meta.uid(), meta.gid()).unwrap();
    }
    write!(out, "{}", meta.mtime()).unwrap();
    if meta.mtime_nsec() != 0 {
        write!(out, ".{:09}", meta.mtime_nsec()).unwrap();
    }
    write!(out, " {place}").unwrap();
    if !kind.is_dir() && meta.nlink() > 1 {
        let first = inodes.entry(meta.ino()).or_insert_with(|| place.clone());
        write!(out, " ={first}").unwrap();
    }
    if kind.is_symlink() {
        let target = fs::read_link(path).unwrap().into_os_string().into_vec();
        write!(out, " -> {}", target.escape_ascii()).unwrap();
    } else if kind.is_file() {
        let data = fs::read(path).unwrap();
        write!(out, " {:?}", String::from_utf8_lossy(&data)).unwrap();
    }
    out.push('\n');
    if kind.is_dir() {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        names.sort();
        for name in names {
            list(root, &name, inodes, out);
        }
    }
}
