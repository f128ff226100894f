//! Writes `image.tar` for `get` with `format: oci`: what `docker load` takes (`manifest.json`, config,
//! layers as the registry has them), and at the same time an OCI layout, as Docker 25 and later save
//! images. Each blob is there once, under `blobs/`.
//!
//! Every member's place follows from the manifest, so several threads write layers at once. The bytes
//! of the file depend on the manifest and the name alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::layout_writer::{Annotations, create, index_of, listed, to_json};
use super::writing::{BlobWriter, Done};
use super::{LAYOUT_VERSION, Stored};
use crate::archive::write::{self, BLOCK};
use crate::error::{Doing, Error, Result};
use crate::oci::descriptor::{Descriptor, each_once};
use crate::oci::digest::Digest;
use crate::oci::manifest::{Document, Manifest};
use crate::oci::reference::{Repository, Tag};
use crate::workers::lock;

/// A tarball that is being written, under a name of its own until it is whole.
pub(crate) struct ImageTar {
    path: PathBuf,
    unproven: PathBuf,
    file: Arc<File>,
    /// Where each blob's bytes go, with their number.
    places: BTreeMap<Digest, (u64, u64)>,
    done: Done,
    finished: bool,
}

impl ImageTar {
    /// Starts the tarball of the image `stored` at `path`, where what an earlier try left has been
    /// removed. Without a `name` `docker load` loads it by its id alone.
    ///
    /// # Errors
    /// An index, which no tarball of this kind can hold; a manifest whose sizes make no sense.
    pub(crate) fn create(
        path: &Path,
        stored: &Stored,
        name: Option<(&Repository, &Tag)>,
    ) -> Result<Self> {
        let Document::Image(manifest) = &stored.document else {
            return Err(Error::local("an index cannot be saved as `image.tar`"));
        };
        let mut plan = Plan::default();
        plan.file("oci-layout", LAYOUT_VERSION.as_bytes().to_vec())?;
        plan.file("index.json", index_json(stored, name)?)?;
        plan.file("manifest.json", manifest_json(manifest, name)?)?;
        plan.directory("blobs/")?;
        let blobs = blobs(stored, manifest)?;
        let mut algorithms = Vec::new();
        for blob in &blobs {
            let algorithm = blob.digest.algorithm().name();
            if !algorithms.contains(&algorithm) {
                algorithms.push(algorithm);
                plan.directory(&format!("blobs/{algorithm}/"))?;
            }
        }
        let mut places = BTreeMap::new();
        for blob in blobs {
            let at = plan.member(&blob_path(&blob.digest), blob.size)?;
            places.insert(blob.digest.clone(), (at, blob.size));
        }
        plan.end()?;

        let unproven = unproven(path);
        let tar = ImageTar {
            path: path.to_owned(),
            file: Arc::new(create(&unproven)?),
            unproven,
            places,
            done: Done::default(),
            finished: false,
        };
        // What nobody writes reads as zeros: padding and the end marker.
        let sized = tar.file.set_len(plan.at);
        let written = sized.and_then(|()| {
            let mut parts = plan.parts.iter();
            parts.try_for_each(|(at, bytes)| tar.file.write_all_at(bytes, *at))
        });
        written.doing(|| format!("write `{}`", tar.unproven.display()))?;
        // The manifest is at hand and has been compared with its digest.
        if let Some((at, _)) = tar.places.get(&stored.descriptor.digest) {
            let written = tar.file.write_all_at(&stored.bytes, *at);
            written.doing(|| format!("write `{}`", tar.unproven.display()))?;
            lock(&tar.done).insert(stored.descriptor.digest.clone());
        }
        Ok(tar)
    }

    /// Removes what an earlier try left.
    pub(crate) fn remove_old(path: &Path) -> Result<()> {
        for old in [path, unproven(path).as_path()] {
            match fs::remove_file(old) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).doing(|| format!("remove `{}`", old.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A place for the bytes of the config or a layer.
    ///
    /// # Errors
    /// A blob that the manifest does not name.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<BlobWriter<'_>> {
        let place = self.places.get(digest);
        let (start, size) =
            *place.ok_or_else(|| Error::local(format!("{digest} is not in the image")))?;
        Ok(BlobWriter {
            file: Arc::clone(&self.file),
            path: self.unproven.clone(),
            start,
            written: 0,
            size,
            digest: digest.clone(),
            rename: None,
            done: &self.done,
        })
    }

    /// Gives the tarball its name.
    ///
    /// # Errors
    /// A blob that has not been committed.
    pub(crate) fn finish(mut self) -> Result<()> {
        for digest in self.places.keys() {
            if !lock(&self.done).contains(digest) {
                return Err(Error::local(format!("{digest} was not written")));
            }
        }
        let renamed = fs::rename(&self.unproven, &self.path);
        renamed.doing(|| format!("rename `{}`", self.unproven.display()))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for ImageTar {
    fn drop(&mut self) {
        if !self.finished {
            // The step has failed already.
            let _ = fs::remove_file(&self.unproven);
        }
    }
}

/// What a tarball is called until it is whole.
fn unproven(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.partial"))
}

/// The manifest, its config and its layers, each once.
fn blobs<'a>(stored: &'a Stored, manifest: &'a Manifest) -> Result<Vec<&'a Descriptor>> {
    let of_image = [&stored.descriptor, &manifest.config];
    each_once(of_image.into_iter().chain(&manifest.layers))
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// What Docker before 25 reads, and containerd where there is no `index.json`.
fn manifest_json(manifest: &Manifest, name: Option<(&Repository, &Tag)>) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Saved {
        config: String,
        repo_tags: Vec<String>,
        layers: Vec<String>,
    }
    let name = name.map(|(repository, tag)| format!("{}:{tag}", repository.familiar_name()));
    let layers = manifest.layers.iter();
    to_json(&[Saved {
        config: blob_path(&manifest.config.digest),
        repo_tags: name.into_iter().collect(),
        layers: layers.map(|layer| blob_path(&layer.digest)).collect(),
    }])
}

/// One entry, named as Docker names it.
fn index_json(stored: &Stored, name: Option<(&Repository, &Tag)>) -> Result<Vec<u8>> {
    let mut entry = listed(&stored.descriptor);
    entry.annotations = name.map(|(repository, tag)| Annotations {
        name: format!("{repository}:{tag}"),
        tag: tag.to_string(),
    });
    index_of(vec![entry])
}

/// The file before its blobs are there.
#[derive(Default)]
struct Plan {
    /// What is known already, and where it goes.
    parts: Vec<(u64, Vec<u8>)>,
    at: u64,
}

impl Plan {
    fn file(&mut self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let at = self.member(name, bytes.len() as u64)?;
        self.parts.push((at, bytes));
        Ok(())
    }

    fn directory(&mut self, name: &str) -> Result<()> {
        self.part(write::directory(name)?)
    }

    /// A regular file of `size` bytes; gives where they begin.
    fn member(&mut self, name: &str, size: u64) -> Result<u64> {
        self.part(write::file(name, size)?)?;
        let at = self.at;
        self.advance(size)?;
        Ok(at)
    }

    fn part(&mut self, bytes: Vec<u8>) -> Result<()> {
        let size = bytes.len() as u64;
        self.parts.push((self.at, bytes));
        self.advance(size)
    }

    fn end(&mut self) -> Result<()> {
        self.advance(2 * BLOCK)
    }

    fn advance(&mut self, size: u64) -> Result<()> {
        let end = size
            .checked_next_multiple_of(BLOCK)
            .and_then(|size| self.at.checked_add(size))
            // What the kernel takes for a file's size.
            .filter(|end| i64::try_from(*end).is_ok());
        self.at = end.ok_or_else(|| {
            Error::hostile(format!("the manifest announces {size} bytes for one blob"))
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
