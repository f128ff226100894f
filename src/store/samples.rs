//! Small images for the tests of this module, built in memory.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{Image, Layer, Loose, Source, Tree, open};
use crate::error::Result;
use crate::oci::digest::Digest;
use crate::oci::media_type::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use crate::workers::Workers;

pub(super) const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// A directory of its own for one test.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("registry-image-store-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes `files` as a directory and opens it.
    pub(super) fn directory(&self, files: &Parts) -> Result<Source> {
        let directory = self.0.join("directory");
        files.write_to(&directory);
        open(&directory, Workers::new(2))
    }

    /// Writes `files` as a tarball and opens it.
    pub(super) fn tarball(&self, files: &Parts) -> Result<Source> {
        self.file(files.tar())
    }

    pub(super) fn file(&self, bytes: Vec<u8>) -> Result<Source> {
        let path = self.0.join("image.tar");
        fs::write(&path, bytes).unwrap();
        open(&path, Workers::new(2))
    }

    /// The text of an error, this directory's name left out.
    pub(super) fn text<T>(&self, result: Result<T>) -> String {
        let text = result.map(|_| ()).unwrap_err().to_string();
        text.replace(&self.0.display().to_string(), "")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[derive(Clone)]
pub(super) enum Part {
    File(Vec<u8>),
    Symlink(String),
    Hardlink(String),
}

/// The files of one image by name.
#[derive(Clone, Default)]
pub(super) struct Parts(pub(super) BTreeMap<String, Part>);

impl Parts {
    pub(super) fn file(&mut self, name: &str, bytes: impl AsRef<[u8]>) {
        let part = Part::File(bytes.as_ref().to_vec());
        self.0.insert(name.to_owned(), part);
    }

    pub(super) fn json(&mut self, name: &str, value: &Value) {
        self.file(name, serde_json::to_vec(value).unwrap());
    }

    pub(super) fn symlink(&mut self, name: &str, target: &str) {
        self.0
            .insert(name.to_owned(), Part::Symlink(target.to_owned()));
    }

    pub(super) fn bytes(&self, name: &str) -> &[u8] {
        match &self.0[name] {
            Part::File(bytes) => bytes,
            _ => unreachable!("{name} is a file"),
        }
    }

    /// Adds a blob and gives its descriptor.
    pub(super) fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        self.file(&format!("blobs/sha256/{}", digest.hex()), bytes);
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    }

    pub(super) fn document(&mut self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, &serde_json::to_vec(value).unwrap())
    }

    /// Adds an image of gzip layers with these texts in them, and gives its descriptor.
    pub(super) fn image(&mut self, layers: &[&str]) -> Value {
        let tars: Vec<_> = layers.iter().map(|text| layer(text)).collect();
        let config = self.document(OCI_CONFIG, &config(&tars));
        let layers: Vec<Value> = tars
            .iter()
            .map(|tar| self.blob(&format!("{TAR}+gzip"), &gzip(tar)))
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers
        });
        self.document(OCI_MANIFEST, &manifest)
    }

    pub(super) fn index(&mut self, entries: &[Value]) -> Value {
        self.document(OCI_INDEX, &index_of(entries))
    }

    pub(super) fn layout(&mut self, entries: &[Value]) {
        self.file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        self.json("index.json", &index_of(entries));
    }

    pub(super) fn tar(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, part) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            let data: &[u8] = match part {
                Part::File(bytes) => {
                    header.set_size(bytes.len() as u64);
                    bytes
                }
                Part::Symlink(target) | Part::Hardlink(target) => {
                    header.set_entry_type(match part {
                        Part::Symlink(_) => tar::EntryType::Symlink,
                        _ => tar::EntryType::Link,
                    });
                    header.set_link_name_literal(target).unwrap();
                    header.set_size(0);
                    &[]
                }
            };
            // Names as they are: `..` and leading slashes included.
            let field = &mut header.as_old_mut().name;
            field[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, data).unwrap();
        }
        tar.into_inner().unwrap()
    }

    pub(super) fn write_to(&self, directory: &Path) {
        for (name, part) in &self.0 {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match part {
                Part::File(bytes) => fs::write(&path, bytes).unwrap(),
                Part::Symlink(target) => std::os::unix::fs::symlink(target, &path).unwrap(),
                Part::Hardlink(target) => fs::hard_link(directory.join(target), &path).unwrap(),
            }
        }
    }
}

pub(super) fn index_of(entries: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
}

/// Text that hardly compresses, and is the same for the same seed.
pub(super) fn letters(seed: u64, count: usize) -> String {
    let mut state = seed;
    let letter = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(b'a' + (state >> 60) as u8)
    };
    (0..count).map(letter).collect()
}

/// A layer's tar with one file that holds `text`.
pub(super) fn layer(text: &str) -> Vec<u8> {
    let mut parts = Parts::default();
    parts.file(&format!("files/{}", text.len()), text);
    parts.tar()
}

pub(super) fn config(layers: &[Vec<u8>]) -> Value {
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|tar| Digest::of(tar).to_string())
        .collect();
    json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}})
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let (packed, _) = crate::archive::gzip::compress(bytes, Workers::new(1), |body| {
        let mut packed = Vec::new();
        body.read_to_end(&mut packed).unwrap();
        Ok(packed)
    })
    .unwrap();
    packed
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut packed = vec![0; zstd_safe::compress_bound(bytes.len())];
    let len = zstd_safe::compress(&mut packed[..], bytes, 3).unwrap();
    packed.truncate(len);
    packed
}

pub(super) fn tree(source: &Source) -> &Tree {
    match source.image() {
        Image::Tree(tree) => tree,
        Image::Loose(_) => panic!("a tree was expected"),
    }
}

pub(super) fn loose(source: &Source) -> &Loose {
    match source.image() {
        Image::Loose(loose) => loose,
        Image::Tree(_) => panic!("an image without manifest was expected"),
    }
}

pub(super) fn read(source: &Source, digest: &Digest) -> Result<Vec<u8>> {
    let mut body = source.open(digest)?;
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes)
        .map_err(|error| crate::error::Error::io(crate::error::Kind::Local, error))?;
    body.finish()?;
    Ok(bytes)
}

/// The digest of a layer as [`Source::open`] takes it.
pub(super) fn key(layer: &Layer) -> &Digest {
    match layer {
        Layer::Plain { diff_id, .. } => diff_id,
        Layer::Ready(descriptor) | Layer::Foreign(descriptor) => &descriptor.digest,
    }
}
