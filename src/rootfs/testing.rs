//! Layers built in memory, unpacked into a directory of their own, and read back with std::fs.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Outcome, Proven, Rootfs, Selection, Unpacked};
pub(super) use crate::archive::testing::{Layer, Spec, layer};
use crate::error::Result;
use crate::oci::digest::{Checked, Digest};
use crate::report::{Hidden, Report};

/// A directory for one test, removed at its end.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// In shared memory where there is any: for what makes and removes many files.
    pub(super) fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        match memory.is_dir() {
            true => Self::below(memory),
            false => Self::new(),
        }
    }

    fn below(directory: &Path) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("registry-image-rootfs-{}-{n}", std::process::id());
        let path = directory.join(name);
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

impl Rootfs<'_> {
    /// Unpacks everything of a layer.
    pub(super) fn unpack_whole(&self, number: usize, tar: &[u8]) -> Result<Unpacked> {
        match self.unpack(number, Selection::All, &mut &*tar)? {
            Outcome::Done(unpacked) => Ok(unpacked),
            Outcome::Incomplete => panic!("nothing was left out"),
        }
    }

    /// Merges a layer that needs nothing that was left out.
    pub(super) fn merge_whole(&self, layer: Unpacked) -> Result<()> {
        match self.merge(layer.believe_anyway())? {
            Outcome::Done(()) => Ok(()),
            Outcome::Incomplete => panic!("nothing was left out"),
        }
    }
}

impl Unpacked {
    /// Believes bytes that nobody questions.
    pub(super) fn believe_anyway(self) -> Proven {
        let proof = || {
            Checked::new(io::empty(), &Digest::of(b""), None)
                .finish()
                .unwrap()
        };
        self.believe(proof(), proof())
    }
}

/// Unpacks and merges layers into `destination`, which is cleared first.
pub(super) fn apply(destination: &Path, layers: &[Layer]) -> Result<()> {
    apply_as(destination, layers, true)
}

/// The same, as on a filesystem that moves directories or does not.
pub(super) fn apply_as(destination: &Path, layers: &[Layer], moves: bool) -> Result<()> {
    let report = Report::new(false, Hidden::default());
    Rootfs::remove_old(destination)?;
    let rootfs = Rootfs::create(destination, &report)?;
    if !moves {
        rootfs.keeper.cannot_move_directories();
    }
    apply_into(rootfs, layers)
}

pub(super) fn apply_into(rootfs: Rootfs<'_>, layers: &[Layer]) -> Result<()> {
    let mut unpacked = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        unpacked.push(rootfs.unpack_whole(number, &layer.0)?);
    }
    for layer in unpacked {
        rootfs.merge_whole(layer)?;
    }
    rootfs.finish()
}

/// A layer's bytes, and something that happens when some of them were read.
pub(super) struct Interrupted<'b, F: FnMut()> {
    pub(super) before: &'b [u8],
    pub(super) after: &'b [u8],
    pub(super) then: Option<F>,
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

/// What the layers make, one line for each thing.
pub(super) fn unpack(layers: &[Layer]) -> Result<String> {
    let scratch = Scratch::in_memory();
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
