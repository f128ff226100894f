//! Writes an OCI image layout (image-spec, image-layout.md) for `get` with `format: oci-layout`.
//!
//! Several threads write blobs at once; each gets its name when it is proven. `index.json` comes
//! last, so that a run that failed leaves no layout.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::layout::SINGLE;
use super::writing::{BlobWriter, Done};
use super::{LAYOUT_VERSION, Stored};
use crate::error::{Doing, Error, Result};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::manifest::Document;
use crate::oci::media_type::OCI_INDEX;
use crate::workers::lock;

/// A layout that is being written.
pub(crate) struct LayoutWriter {
    directory: PathBuf,
    done: Done,
}

impl LayoutWriter {
    /// Starts a layout at `directory`, where what an earlier try left has been removed.
    pub(crate) fn create(directory: &Path) -> Result<Self> {
        make_directory(directory)?;
        let layout = LayoutWriter {
            directory: directory.to_owned(),
            done: Done::default(),
        };
        layout.write("oci-layout", LAYOUT_VERSION.as_bytes())?;
        Ok(layout)
    }

    /// Removes what an earlier try left.
    pub(crate) fn remove_old(directory: &Path) -> Result<()> {
        remove(directory).doing(|| format!("remove `{}`", directory.display()))
    }

    /// Whether this blob or document is there already; one that several images share is written once.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        lock(&self.done).contains(digest)
    }

    /// A place for the blob's bytes.
    ///
    /// # Errors
    /// A blob that is being written by somebody else.
    pub(crate) fn blob(&self, descriptor: &Descriptor) -> Result<BlobWriter<'_>> {
        let Descriptor { digest, size, .. } = descriptor;
        let path = self.blob_path(digest)?;
        let unproven = path.with_file_name(format!(".{}.partial", digest.hex()));
        let file = create(&unproven)?;
        Ok(BlobWriter {
            file: Arc::new(file),
            path: unproven,
            start: 0,
            written: 0,
            size: *size,
            digest: digest.clone(),
            rename: Some(path),
            done: &self.done,
        })
    }

    /// Writes a manifest or an index to `blobs/`.
    pub(crate) fn document(&self, stored: &Stored) -> Result<()> {
        let digest = &stored.descriptor.digest;
        write(&self.blob_path(digest)?, &stored.bytes)?;
        lock(&self.done).insert(digest.clone());
        Ok(())
    }

    /// Completes the layout: an index becomes `index.json` byte for byte, an image is listed there
    /// and named in `single-image-digest`.
    ///
    /// # Errors
    /// Something that `root` refers to has not been committed.
    pub(crate) fn finish(self, root: &Stored) -> Result<()> {
        let needed: Vec<&Descriptor> = match &root.document {
            Document::Index(index) => index.manifests.iter().collect(),
            Document::Image(manifest) => {
                let layers = manifest.layers.iter();
                layers.chain([&manifest.config]).collect()
            }
        };
        let itself = &root.descriptor;
        for descriptor in needed.into_iter().chain([itself]) {
            if !self.has(&descriptor.digest) {
                return Err(Error::local(format!(
                    "{} was not written",
                    descriptor.digest
                )));
            }
        }
        match &root.document {
            Document::Index(_) => self.write("index.json", &root.bytes),
            Document::Image(_) => {
                self.write(SINGLE, itself.digest.to_string().as_bytes())?;
                self.write("index.json", &index_of(vec![listed(itself)])?)
            }
        }
    }

    fn blob_path(&self, digest: &Digest) -> Result<PathBuf> {
        let directory = self.directory.join("blobs").join(digest.algorithm().name());
        make_directory(&directory)?;
        Ok(directory.join(digest.hex()))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write(&self.directory.join(name), bytes)
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = create(path)?.write_all(bytes);
    written.doing(|| format!("write `{}`", path.display()))
}

fn remove(path: &Path) -> io::Result<()> {
    let found = match path.symlink_metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match found.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

fn make_directory(path: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755);
    let made = builder.create(path);
    made.doing(|| format!("make directory `{}`", path.display()))
}

/// A new file that was not there.
pub(super) fn create(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o644);
    options
        .open(path)
        .doing(|| format!("create `{}`", path.display()))
}

/// An entry of an `index.json` that we write.
#[derive(Serialize)]
pub(super) struct Listed<'a> {
    #[serde(rename = "mediaType")]
    media_type: &'a str,
    digest: &'a Digest,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) annotations: Option<Annotations>,
}

/// What Docker and containerd name an image by when they load it.
#[derive(Serialize)]
pub(super) struct Annotations {
    #[serde(rename = "io.containerd.image.name")]
    pub(super) name: String,
    #[serde(rename = "org.opencontainers.image.ref.name")]
    pub(super) tag: String,
}

pub(super) fn listed(descriptor: &Descriptor) -> Listed<'_> {
    Listed {
        media_type: &descriptor.media_type,
        digest: &descriptor.digest,
        size: descriptor.size,
        annotations: None,
    }
}

pub(super) fn index_of(manifests: Vec<Listed<'_>>) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    struct IndexJson<'a> {
        #[serde(rename = "schemaVersion")]
        schema_version: u32,
        #[serde(rename = "mediaType")]
        media_type: &'a str,
        manifests: Vec<Listed<'a>>,
    }
    to_json(&IndexJson {
        schema_version: 2,
        media_type: OCI_INDEX,
        manifests,
    })
}

pub(super) fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::local(format!("a document cannot be written: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::oci::digest::Checked;
    use crate::store::samples::{Parts, Scratch, read, tree};
    use crate::store::{Source, Tree};
    use crate::workers::Workers;

    /// Writes everything of `source` into a layout, as a pull does.
    fn copy(source: &Source, to: &Path) -> Result<()> {
        let tree: &Tree = tree(source);
        LayoutWriter::remove_old(to)?;
        let layout = LayoutWriter::create(to)?;
        let blobs: Vec<&Descriptor> = tree.blobs().collect();
        Workers::new(4).map(&blobs, |blob, _| {
            let mut body = source.open(&blob.digest)?;
            // A first try that was broken off.
            layout.blob(blob)?.write_all(b"x").doing(|| "write")?;
            let mut writer = layout.blob(blob)?;
            io::copy(&mut body, &mut writer).doing(|| "copy")?;
            writer.commit(&body.finish()?)
        })?;
        for stored in &tree.documents {
            layout.document(stored)?;
        }
        layout.finish(tree.root()?)
    }

    fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        let mut left = vec![directory.to_owned()];
        while let Some(at) = left.pop() {
            for entry in fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => left.push(path),
                    false => {
                        let name = path.strip_prefix(directory).unwrap().display().to_string();
                        found.push((name, fs::read(path).unwrap()));
                    }
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn an_index_is_index_json_byte_for_byte_and_a_push_gives_its_digest() {
        let mut parts = Parts::default();
        let image = parts.image(&["a"]);
        // A single entry: what is there must not be taken for a wrapper.
        let index = parts.index(&[image]);
        parts.layout(std::slice::from_ref(&index));
        let scratch = Scratch::new();
        let to = scratch.path().join("oci");
        copy(&scratch.tarball(&parts).unwrap(), &to).unwrap();
        let again = crate::store::open(&to, Workers::new(1)).unwrap();
        let root = &tree(&again).root().unwrap().descriptor;
        assert_eq!(root.digest.to_string(), index["digest"]);
        assert_eq!(
            Digest::of(&fs::read(to.join("index.json")).unwrap()),
            root.digest
        );
        let mut expected: Vec<String> = parts.0.keys().cloned().collect();
        expected.sort();
        let names: Vec<String> = files(&to).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, expected);
        assert!(!to.join(SINGLE).exists());
    }

    #[test]
    fn an_image_is_listed_and_named_and_old_files_are_gone() {
        let mut parts = Parts::default();
        let image = parts.image(&["a", "bb", "a"]);
        parts.layout(std::slice::from_ref(&image));
        let scratch = Scratch::new();
        let to = scratch.path().join("oci");
        fs::create_dir(&to).unwrap();
        fs::write(to.join("old"), "old").unwrap();
        let source = scratch.tarball(&parts).unwrap();
        copy(&source, &to).unwrap();
        let mut expected = parts.clone();
        let digest = image["digest"].as_str().unwrap();
        expected.file(SINGLE, digest);
        let names: Vec<String> = files(&to).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, expected.0.into_keys().collect::<Vec<_>>());
        let index: Value =
            serde_json::from_slice(&fs::read(to.join("index.json")).unwrap()).unwrap();
        assert_eq!(index["manifests"], serde_json::json!([image]));
        let again = crate::store::open(&to, Workers::new(1)).unwrap();
        assert_eq!(
            tree(&again).root().unwrap().descriptor.digest.to_string(),
            digest
        );
    }

    #[test]
    fn only_proven_bytes_become_a_blob() {
        let mut parts = Parts::default();
        let image = parts.image(&["a"]);
        parts.layout(&[image]);
        let scratch = Scratch::new();
        let source = scratch.tarball(&parts).unwrap();
        let to = scratch.path().join("oci");
        let layout = LayoutWriter::create(&to).unwrap();
        let blob = tree(&source).blobs().next().unwrap().clone();
        let bytes = read(&source, &blob.digest).unwrap();
        let proof = |bytes: &[u8]| {
            let digest = Digest::of(bytes);
            Checked::new(bytes, &digest, None).finish().unwrap()
        };

        // Dropped: nothing is left.
        drop(layout.blob(&blob).unwrap());
        assert_eq!(files(&to).len(), 1);
        // Proof of something else; too few bytes; too many.
        let writer = layout.blob(&blob).unwrap();
        assert!(writer.commit(&proof(b"other")).is_err());
        let mut writer = layout.blob(&blob).unwrap();
        writer.write_all(&bytes[1..]).unwrap();
        assert!(writer.commit(&proof(&bytes)).is_err());
        let mut writer = layout.blob(&blob).unwrap();
        writer.write_all(&bytes).unwrap();
        assert!(writer.write_all(b"x").is_err());
        // Two at once would write into one file.
        assert!(layout.blob(&blob).is_err());
        drop(writer);
        assert!(!layout.has(&blob.digest));
        assert_eq!(files(&to).len(), 1);
        // A layout with something missing is not finished.
        let root = tree(&source).root().unwrap();
        layout.document(root).unwrap();
        let text = scratch.text(layout.finish(root));
        assert!(text.ends_with("was not written"), "{text}");
        assert!(!to.join("index.json").exists());
    }
}
