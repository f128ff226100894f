//! `docker save` tarballs: `manifest.json`, configs and layers under names of its choice (old form),
//! or under `blobs/` with an OCI layout beside it (Docker 25 and later, BuildKit, containerd, and our
//! own `get`).
//!
//! Where the tarball holds a whole OCI image with compressed layers, that image is pushed byte for
//! byte, so that its digest stays. Else the image is the one in `manifest.json`, as `crane push` reads
//! it: layers that are plain are compressed on the way, and a manifest is made.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use super::files::{Body, Files};
use super::layout::{self, check_count, named, required};
use super::members::Name;
use super::{Image, Layer, Loose, Stored, Tree};
use crate::archive::{Compression, decode};
use crate::error::{Doing, Error, Result};
use crate::oci::config::ImageConfig;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::{Checked, Digest, Hashed};
use crate::oci::manifest::Document;
use crate::oci::media_type::{DOCKER_CONFIG, DOCKER_MANIFEST, OCI_CONFIG, OCI_MANIFEST};
use crate::workers::Workers;

const DOCKER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const OCI_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const OCI_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// Images whose names a message lists.
const LISTED: usize = 10;

/// Documents that are looked at for the one that `manifest.json` is about.
const MOST_DOCUMENTS: usize = 4096;

/// Layers of an image: Docker stops at 127.
const LAYERS_LIMIT: usize = 4096;

/// One image of `manifest.json`.
#[derive(Deserialize)]
struct Saved {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    repo_tags: Option<Vec<String>>,
    #[serde(rename = "Layers", default)]
    layers: Option<Vec<String>>,
    /// Where foreign layers are, by diff_id.
    #[serde(rename = "LayerSources", default)]
    sources: Option<BTreeMap<Digest, Descriptor>>,
}

/// Reads the image in `files`; the caller has seen its `manifest.json`.
pub(super) fn read(files: &Files, workers: Workers) -> Result<Image> {
    let saved = saved(files)?;
    let config_name = within(files, "Config", &saved.config)?;
    let config = required(files, &config_name)?;
    if files.has(&named("index.json")?)
        && let Some(tree) = whole(files, &config)?
    {
        return Ok(Image::Tree(tree));
    }
    let loose = loose(files, saved, &config_name, config, workers)?;
    Ok(Image::Loose(Box::new(loose)))
}

/// The one image of `manifest.json`.
fn saved(files: &Files) -> Result<Saved> {
    let name = named("manifest.json")?;
    let bytes = required(files, &name)?;
    let images: Vec<Saved> = serde_json::from_slice(&bytes)
        .map_err(|error| Error::local(format!("it cannot be read: {error}")))
        .doing(|| files.show(&name))?;
    let count = images.len();
    let names = images.iter().map(|image| match &image.repo_tags {
        Some(tags) if !tags.is_empty() => format!("`{}`", tags.join("`, `")),
        _ => format!("`{}` without a tag", image.config),
    });
    let mut names: Vec<String> = names.take(LISTED + 1).collect();
    if names.len() > LISTED {
        names.truncate(LISTED);
        names.push("and others".to_owned());
    }
    let mut images = images.into_iter();
    match (images.next(), count) {
        (Some(image), 1) => Ok(image),
        (None, _) => Err(Error::local("it lists no image").doing(files.show(&name))),
        _ => Err(Error::local(format!(
            "the tarball holds {count} images: {}",
            names.join("; ")
        ))
        .advise("save one image alone")),
    }
}

/// A name that `manifest.json` gives, which must be one inside the tarball.
fn within(files: &Files, field: &str, text: &str) -> Result<Name> {
    Name::clean(text).ok_or_else(|| {
        let file = named("manifest.json").map(|name| files.show(&name));
        Error::local(format!(
            "`{field}` is `{text}`, which leads out of the tarball"
        ))
        .doing(file.unwrap_or_default())
    })
}

/// The OCI image beside `manifest.json` where nothing of it is missing and its layers are
/// compressed: an index that holds the image whose config has digest `config`, or that image alone.
///
/// # Errors
/// An OCI layout and a `manifest.json` that are about different images: which one is pushed must
/// not depend on the reader.
fn whole(files: &Files, config: &[u8]) -> Result<Option<Tree>> {
    let (_, index) = layout::index(files)?;
    if index.manifests.is_empty() {
        return Ok(None);
    }
    let read = match layout::distinct(&index).len() {
        1 => layout::read(files).ok(),
        // Of several, the one that `manifest.json` is about.
        _ => None,
    };
    // Docker saves indexes whose other platforms it does not have, and Docker 25.0 wrote manifests
    // without layers. What is there of the image itself is enough.
    let tree = match read {
        Some(tree) => tree,
        None => match alone(files, &index.manifests, config) {
            Some(tree) => tree,
            None => return Ok(None),
        },
    };
    let mut images = tree
        .documents
        .iter()
        .filter_map(|stored| match &stored.document {
            Document::Image(manifest) => Some(manifest.as_ref()),
            Document::Index(_) => None,
        });
    if !images.any(|manifest| manifest.config.digest.check(config).is_ok()) {
        return Err(Error::local(
            "`manifest.json` and `index.json` are about different images",
        ));
    }
    Ok(is_compressed(files, &tree)?.then_some(tree))
}

/// The image with this config, looked for in what is there of an index that is not complete.
fn alone(files: &Files, entries: &[Descriptor], config: &[u8]) -> Option<Tree> {
    let mut entries: Vec<Descriptor> = entries.to_vec();
    let mut seen = HashSet::new();
    // An index of indexes of indexes ends here.
    while seen.len() < MOST_DOCUMENTS {
        let entry = entries.pop()?;
        if !seen.insert(entry.digest.clone()) {
            continue;
        }
        let read = layout::stored(files, &entry.digest, Some(entry.size), &entry.media_type);
        let Ok(stored) = read else { continue };
        match &stored.document {
            Document::Index(index) => {
                let listed = index.manifests.iter();
                entries.extend(
                    listed
                        .filter(|entry| !seen.contains(&entry.digest))
                        .cloned(),
                );
            }
            Document::Image(manifest) if manifest.config.digest.check(config).is_ok() => {
                return layout::tree(files, stored).ok();
            }
            Document::Image(_) => {}
        }
    }
    None
}

/// Whether every layer of every image is compressed. Docker without containerd's image store saves
/// plain layers, which nobody wants in a registry.
fn is_compressed(files: &Files, tree: &Tree) -> Result<bool> {
    for stored in &tree.documents {
        let Document::Image(manifest) = &stored.document else {
            continue;
        };
        for layer in &manifest.layers {
            // An attestation's layer is a JSON document: it stays what it is.
            if layer.media_type.contains(".tar") && layer.urls.is_empty() {
                let name = layout::blob_name(&layer.digest)?;
                if compression(files, &name)? == Compression::None {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}

fn loose(
    files: &Files,
    saved: Saved,
    config_name: &Name,
    config: Vec<u8>,
    workers: Workers,
) -> Result<Loose> {
    if let Some(digest) = digest_of_name(config_name) {
        digest.check(&config).doing(|| files.show(config_name))?;
    }
    let parsed = ImageConfig::parse(&config).doing(|| files.show(config_name))?;
    let names = saved.layers.unwrap_or_default();
    if names.len() > LAYERS_LIMIT {
        return Err(Error::local(format!(
            "the image has {} layers; {LAYERS_LIMIT} is the most that is accepted",
            names.len()
        )));
    }
    check_count(names.len(), &parsed, true).doing(|| files.show(config_name))?;
    let sources = saved.sources.unwrap_or_default();
    let mut jobs = Vec::with_capacity(names.len());
    for (at, (diff_id, name)) in parsed.diff_ids().iter().zip(&names).enumerate() {
        jobs.push((at, diff_id, within(files, "Layers", name)?));
    }
    // What has to be read in its order would be decoded from its start for each step back.
    jobs.sort_by_key(|(_, _, name)| files.read_order(name));
    let found = files.readers(workers).map(&jobs, |(_, diff_id, name), _| {
        layer(files, diff_id, name, sources.get(diff_id))
    })?;
    let mut found: Vec<_> = jobs.into_iter().zip(found).collect();
    found.sort_by_key(|((at, ..), _)| *at);
    let (jobs, mut layers): (Vec<_>, Vec<Layer>) = found.into_iter().unzip();
    let oci = layers.iter().any(|layer| match layer {
        Layer::Ready(descriptor) => descriptor.media_type == OCI_ZSTD,
        _ => false,
    });
    let mut names = Vec::new();
    for (layer, (_, _, name)) in layers.iter_mut().zip(jobs) {
        match layer {
            Layer::Ready(descriptor) => {
                if oci && descriptor.media_type == DOCKER_GZIP {
                    descriptor.media_type = OCI_GZIP.to_owned();
                }
                names.push((descriptor.digest.clone(), name));
            }
            Layer::Plain { diff_id, .. } => names.push((diff_id.clone(), name)),
            Layer::Foreign(_) => {}
        }
    }
    let config_type = match oci {
        true => OCI_CONFIG,
        false => DOCKER_CONFIG,
    };
    Ok(Loose {
        config_descriptor: descriptor(config_type, Digest::of(&config), config.len() as u64),
        config,
        layers,
        names,
    })
}

/// What the layer in file `name` is: its compression is told by its bytes.
fn layer(
    files: &Files,
    diff_id: &Digest,
    name: &Name,
    source: Option<&Descriptor>,
) -> Result<Layer> {
    let Some(size) = files.size(name)? else {
        return match source {
            Some(source) if !source.urls.is_empty() => Ok(Layer::Foreign(source.clone())),
            _ => Err(missing(files, name)),
        };
    };
    let media_type = match compression(files, name)? {
        Compression::None => {
            return Ok(Layer::Plain {
                diff_id: diff_id.clone(),
                size,
            });
        }
        Compression::Gzip => DOCKER_GZIP,
        // Docker's own types know no zstd: such an image gets an OCI manifest.
        Compression::Zstd => OCI_ZSTD,
    };
    let digest = match digest_of_name(name) {
        Some(digest) => digest,
        None => hash(files, name, diff_id).doing(|| files.show(name))?,
    };
    Ok(Layer::Ready(descriptor(media_type, digest, size)))
}

/// The digest that a file below `blobs/` has for a name. It is compared when the file is read.
fn digest_of_name(name: &Name) -> Option<Digest> {
    let (algorithm, hex) = name.as_str().strip_prefix("blobs/")?.split_once('/')?;
    Digest::parse(&format!("{algorithm}:{hex}")).ok()
}

/// The digest of a compressed layer that has no digest for a name. All that is known of it is its
/// diff_id, so the plain bytes are compared with that.
fn hash(files: &Files, name: &Name, diff_id: &Digest) -> Result<Digest> {
    let mut packed = Hashed::new(opened(files, name)?);
    let plain = decode(&mut packed)?;
    Checked::new(plain, diff_id, None).finish()?;
    // The decoder has read on to the end.
    Ok(packed.finish().0)
}

/// Told by the first bytes.
fn compression(files: &Files, name: &Name) -> Result<Compression> {
    let head = files.head(name)?;
    let head = head.ok_or_else(|| missing(files, name))?;
    let decoder = decode(head).doing(|| files.show(name))?;
    Ok(decoder.compression())
}

fn opened(files: &Files, name: &Name) -> Result<Body> {
    let body = files.open(name)?;
    body.ok_or_else(|| missing(files, name))
}

fn missing(files: &Files, name: &Name) -> Error {
    Error::local("there is no such file").doing(files.show(name))
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor::of(digest, size).typed(media_type)
}

impl Loose {
    /// The descriptor of a plain layer after it has been compressed with gzip.
    pub(crate) fn compressed(&self, digest: Digest, size: u64) -> Descriptor {
        let media_type = match self.config_descriptor.media_type == OCI_CONFIG {
            true => OCI_GZIP,
            false => DOCKER_GZIP,
        };
        descriptor(media_type, digest, size)
    }

    /// The manifest of this image with these layers (one for each of `self.layers`).
    ///
    /// Docker schema 2, with fields in the order of `crane push`, so that a tarball with compressed
    /// layers has the same digest from both; OCI where a layer is zstd.
    pub(crate) fn manifest(&self, layers: &[Descriptor]) -> Result<Stored> {
        let media_type = match self.config_descriptor.media_type == OCI_CONFIG {
            true => OCI_MANIFEST,
            false => DOCKER_MANIFEST,
        };
        let composed = Composed {
            schema_version: 2,
            media_type,
            config: Part::from(&self.config_descriptor),
            layers: layers.iter().map(Part::from).collect(),
        };
        let bytes = serde_json::to_vec(&composed)
            .map_err(|error| Error::local(format!("the manifest cannot be written: {error}")))?;
        let digest = Digest::of(&bytes);
        Stored::new(bytes, &digest, media_type)
    }
}

#[derive(Serialize)]
struct Composed<'a> {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    #[serde(rename = "mediaType")]
    media_type: &'a str,
    config: Part<'a>,
    layers: Vec<Part<'a>>,
}

#[derive(Serialize)]
struct Part<'a> {
    #[serde(rename = "mediaType")]
    media_type: &'a str,
    size: u64,
    digest: &'a Digest,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    urls: &'a [String],
}

impl<'a> From<&'a Descriptor> for Part<'a> {
    fn from(descriptor: &'a Descriptor) -> Self {
        Part {
            media_type: &descriptor.media_type,
            size: descriptor.size,
            digest: &descriptor.digest,
            urls: &descriptor.urls,
        }
    }
}

#[cfg(test)]
mod tests;
