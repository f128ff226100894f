//! OCI image layouts (image-spec, image-layout.md), as a directory or inside a tarball: which of
//! their documents is the one to push, and everything it refers to.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::files::Files;
use super::members::Name;
use super::{Blob, Stored, Tree};
use crate::error::{Doing, Error, Result};
use crate::oci::config::ImageConfig;
use crate::oci::descriptor::{Descriptor, Listed, Sources};
use crate::oci::digest::Digest;
use crate::oci::manifest::{
    DOCUMENTS_LIMIT, Document, Index, Manifest, NESTING_LIMIT, nested_too_deep,
};

/// Written by `in` beside an image that belongs to no index.
pub(super) const SINGLE: &str = "single-image-digest";

/// Reads the layout in `files`; the caller has seen its `index.json`.
///
/// What is pushed, in this order:
/// 1. the image that `single-image-digest` names;
/// 2. `index.json` itself where the same bytes also lie in `blobs/`, as `in` writes it;
/// 3. the one image that `index.json` lists; if it lists one index, that index, unwrapped for as
///    long as it holds nothing but another one;
/// 4. `index.json` itself.
pub(super) fn read(files: &Files) -> Result<Tree> {
    let (bytes, index) = index(files)?;
    let root = root(files, &bytes, &index)?;
    tree(files, root)
}

/// `index.json`, parsed, and the version of the layout checked.
pub(super) fn index(files: &Files) -> Result<(Vec<u8>, Index)> {
    check_version(files)?;
    let bytes = required(files, &named("index.json")?)?;
    let index = match Document::parse(&bytes, "") {
        Ok(Document::Index(index)) => Ok(index),
        Ok(Document::Image(_)) => Err(Error::local("it is an image manifest and no index")),
        Err(error) => Err(error),
    };
    let index = index.doing(|| shown(files, "index.json"))?;
    Ok((bytes, index))
}

/// A layout without `oci-layout` is taken as it is: nothing in the file is needed.
fn check_version(files: &Files) -> Result<()> {
    #[derive(Deserialize)]
    struct Layout {
        #[serde(rename = "imageLayoutVersion")]
        version: String,
    }
    let Some(bytes) = files.document(&named("oci-layout")?)? else {
        return Ok(());
    };
    let layout: Layout = serde_json::from_slice(&bytes)
        .map_err(|error| Error::local(format!("it cannot be read: {error}")))
        .doing(|| shown(files, "oci-layout"))?;
    match layout.version.as_str() {
        "1.0.0" => Ok(()),
        other => Err(Error::local(format!(
            "the layout has version `{other}`; 1.0.0 is the only one there is"
        ))
        .doing(shown(files, "oci-layout"))),
    }
}

fn root(files: &Files, bytes: &[u8], index: &Index) -> Result<Stored> {
    if let Some(text) = files.document(&named(SINGLE)?)? {
        let digest = std::str::from_utf8(&text).unwrap_or_default().trim_ascii();
        let digest = Digest::parse(digest).doing(|| shown(files, SINGLE))?;
        let listed = index.manifests.iter().find(|entry| entry.digest == digest);
        let media_type = listed.map_or("", |entry| &entry.media_type);
        return stored(files, &digest, None, media_type).doing(|| shown(files, SINGLE));
    }
    let itself = Digest::of(bytes);
    if files.has(&blob_name(&itself)?) {
        return Stored::new(bytes.to_vec(), &itself, "");
    }
    let entries = distinct(index);
    let mut root = match entries.as_slice() {
        [] => return Err(Error::local("it lists no image").doing(shown(files, "index.json"))),
        [only] if only.is_document() => pointed_to(files, only)?,
        [only] => {
            return Err(Error::local(format!(
                "it lists nothing but a `{}`, which is no image",
                only.media_type
            ))
            .doing(shown(files, "index.json")));
        }
        _ => return Stored::new(bytes.to_vec(), &itself, ""),
    };
    for _ in 0..NESTING_LIMIT {
        let Document::Index(index) = &root.document else {
            break;
        };
        root = match distinct(index).as_slice() {
            [only] if only.is_index() => pointed_to(files, only)?,
            _ => break,
        };
    }
    Ok(root)
}

fn pointed_to(files: &Files, entry: &Descriptor) -> Result<Stored> {
    stored(files, &entry.digest, Some(entry.size), &entry.media_type)
}

/// The entries of an index, an image under several names counted once.
pub(super) fn distinct(index: &Index) -> Vec<Descriptor> {
    let mut seen = BTreeSet::new();
    let entries = index.manifests.iter();
    let entries = entries.filter(|entry| seen.insert(entry.digest.clone()));
    entries.cloned().collect()
}

/// Everything that `root` refers to, each document and blob once.
///
/// # Errors
/// A file that is missing, or whose bytes are not what their descriptor says. The bytes of blobs
/// are compared when they are read.
pub(super) fn tree(files: &Files, root: Stored) -> Result<Tree> {
    let mut listed = Listed::default();
    listed.add(&root.descriptor)?;
    // Of the entry that leads to the root, or to an index around it.
    let mut sources = Sources::default();
    for entry in index(files).map_or(Vec::new(), |(_, index)| index.manifests) {
        sources = sources.with(&entry.annotations);
    }
    let mut found = Found {
        files,
        listed,
        bytes: 0,
        tree: Tree::default(),
    };
    found.document(root, 0, &sources)?;
    Ok(found.tree)
}

struct Found<'a> {
    files: &'a Files,
    listed: Listed,
    bytes: u64,
    tree: Tree,
}

impl Found<'_> {
    /// Adds what `stored` refers to, then `stored`: a registry refuses a manifest whose parts it
    /// does not have.
    fn document(&mut self, stored: Stored, depth: usize, sources: &Sources) -> Result<()> {
        self.bytes += stored.descriptor.size;
        if self.bytes > DOCUMENTS_LIMIT {
            return Err(Error::local(format!(
                "its manifests have more than {DOCUMENTS_LIMIT} bytes together"
            )));
        }
        if depth > NESTING_LIMIT {
            return Err(Error::local(nested_too_deep()));
        }
        let digest = stored.descriptor.digest.clone();
        let within = || format!("{} {digest}", stored.document);
        let sources = sources.with(stored.document.annotations());
        match &stored.document {
            Document::Image(manifest) => self.image(manifest, &sources).doing(within)?,
            Document::Index(index) => {
                for entry in &index.manifests {
                    self.entry(entry, depth + 1, &sources).doing(within)?;
                }
            }
        }
        self.tree.documents.push(stored);
        Ok(())
    }

    fn entry(&mut self, entry: &Descriptor, depth: usize, sources: &Sources) -> Result<()> {
        if !entry.is_document() {
            // An index may list anything, as BuildKit's caches do.
            return self.blob(entry, sources);
        }
        if !self.listed.add(entry)? {
            return Ok(());
        }
        let sources = sources.with(&entry.annotations);
        self.document(pointed_to(self.files, entry)?, depth, &sources)
    }

    fn image(&mut self, manifest: &Manifest, sources: &Sources) -> Result<()> {
        self.blob(&manifest.config, sources)?;
        if manifest.artifact_type().is_none() {
            check_config(self.files, manifest)?;
        }
        for layer in &manifest.layers {
            self.blob(layer, sources)?;
        }
        Ok(())
    }

    fn blob(&mut self, blob: &Descriptor, sources: &Sources) -> Result<()> {
        let name = blob_name(&blob.digest)?;
        let Some(size) = self.files.size(&name)? else {
            // A foreign layer stays where its `urls` say; the registry is not given it.
            return match blob.urls.is_empty() {
                true => Err(Error::local("there is no such file").doing(self.files.show(&name))),
                false => Ok(()),
            };
        };
        if size != blob.size {
            return Err(Error::local(format!(
                "it has {size} bytes, where {} are announced",
                blob.size
            ))
            .doing(self.files.show(&name)));
        }
        if self.listed.add(blob)? {
            self.tree.blobs.push(Blob {
                descriptor: blob.with_sources(sources),
                name,
            });
        }
        Ok(())
    }
}

/// The config of an image must be there and speak of as many layers as the manifest lists.
fn check_config(files: &Files, manifest: &Manifest) -> Result<()> {
    let name = blob_name(&manifest.config.digest)?;
    let Descriptor { digest, size, .. } = &manifest.config;
    let config = sized(files, digest, Some(*size))?;
    digest.check(&config).doing(|| files.show(&name))?;
    let config = ImageConfig::parse(&config).doing(|| files.show(&name))?;
    // Some artifacts call themselves images and carry a config of `{}`: theirs is no layer.
    let has_layers = manifest.layers.is_empty()
        || manifest
            .layers
            .iter()
            .any(|layer| layer.media_type.contains(".tar"));
    check_count(manifest.layers.len(), &config, has_layers).doing(|| files.show(&name))
}

pub(super) fn check_count(layers: usize, config: &ImageConfig, has_layers: bool) -> Result<()> {
    let diff_ids = config.diff_ids().len();
    match has_layers && layers != diff_ids {
        true => Err(Error::local(format!(
            "the config lists {diff_ids} layers (`rootfs.diff_ids`), the manifest {layers}"
        ))),
        false => Ok(()),
    }
}

/// Reads and checks a document of `blobs/`.
pub(super) fn stored(
    files: &Files,
    digest: &Digest,
    size: Option<u64>,
    media_type: &str,
) -> Result<Stored> {
    let bytes = sized(files, digest, size)?;
    let shown = || blob_name(digest).map_or_else(|_| digest.to_string(), |name| files.show(&name));
    Stored::new(bytes, digest, media_type).doing(shown)
}

/// The bytes of a document; their digest is for the caller to compare.
fn sized(files: &Files, digest: &Digest, size: Option<u64>) -> Result<Vec<u8>> {
    let name = blob_name(digest)?;
    let bytes = required(files, &name)?;
    if let Some(size) = size
        && bytes.len() as u64 != size
    {
        return Err(Error::local(format!(
            "it has {} bytes, where {size} are announced",
            bytes.len()
        ))
        .doing(files.show(&name)));
    }
    Ok(bytes)
}

pub(super) fn required(files: &Files, name: &Name) -> Result<Vec<u8>> {
    files
        .document(name)?
        .ok_or_else(|| Error::local("there is no such file").doing(files.show(name)))
}

impl Stored {
    /// The document `bytes`, which what pointed to it or the Content-Type it came with calls a
    /// `media_type` ([`Document::media_type`]).
    ///
    /// # Errors
    /// Bytes with another digest; what [`Document::parse`] refuses.
    pub(crate) fn new(bytes: Vec<u8>, digest: &Digest, media_type: &str) -> Result<Stored> {
        digest.check(&bytes)?;
        let document = Document::parse(&bytes, media_type)?;
        Ok(Stored::of(bytes, digest.clone(), document, media_type))
    }

    /// The same where the bytes were compared and read before.
    pub(crate) fn of(bytes: Vec<u8>, digest: Digest, document: Document, media_type: &str) -> Self {
        let descriptor = Descriptor::of(digest, bytes.len() as u64);
        Stored {
            descriptor: descriptor.typed(document.media_type(media_type)),
            bytes,
            document,
        }
    }
}

/// `blobs/<algorithm>/<hex>`.
pub(super) fn blob_name(digest: &Digest) -> Result<Name> {
    named(&format!(
        "blobs/{}/{}",
        digest.algorithm().name(),
        digest.hex()
    ))
}

pub(super) fn named(text: &str) -> Result<Name> {
    Name::clean(text).ok_or_else(|| Error::local(format!("`{text}` leads out of the image")))
}

fn shown(files: &Files, name: &str) -> String {
    named(name).map_or_else(|_| name.to_owned(), |name| files.show(&name))
}

#[cfg(test)]
mod tests;
