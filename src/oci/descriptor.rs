//! Pointers to bytes (image-spec, descriptor.md).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::json::{named_texts, or_null};
use super::media_type::{DOCKER_LIST, OCI_INDEX, is_manifest_type};
use super::platform::Platform;
use super::reference::is_name;
use crate::error::{Error, Result};

/// The annotation that names where a blob came from; the registry's host follows.
const DISTRIBUTION_SOURCE: &str = "containerd.io/distribution.source.";

/// Repositories that a blob is asked from; each costs a request.
const MOUNTS_LIMIT: usize = 3;

/// A pointer to bytes: what they are, how many, and their digest.
///
/// The inline `data` of a descriptor is not read: the same bytes are fetched and verified.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Descriptor {
    #[serde(rename = "mediaType", default, deserialize_with = "or_null")]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// Where a foreign layer may be fetched from, without credentials.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_null"
    )]
    pub(crate) urls: Vec<String>,
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "named_texts"
    )]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    /// What the manifest it points to is, where that is no image.
    #[serde(
        rename = "artifactType",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor that says nothing but which bytes are meant.
    pub(crate) fn of(digest: Digest, size: u64) -> Self {
        Descriptor {
            media_type: String::new(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }

    pub(crate) fn typed(mut self, media_type: impl Into<String>) -> Self {
        self.media_type = media_type.into();
        self
    }

    /// The same with `sources`, where it says nothing itself of where the bytes came from.
    pub(crate) fn with_sources(&self, sources: &Sources) -> Self {
        let mut descriptor = self.clone();
        for (name, repositories) in &sources.0 {
            let own = descriptor.annotations.entry(name.clone());
            own.or_insert_with(|| repositories.clone());
        }
        descriptor
    }

    /// Other repositories of the registry `host` that had this blob when the image was fetched, as
    /// containerd and BuildKit note it.
    pub(crate) fn known_in(&self, host: &str) -> impl Iterator<Item = &str> {
        let noted = self
            .annotations
            .get(&format!("{DISTRIBUTION_SOURCE}{host}"));
        let names = noted.into_iter().flat_map(|names| names.split(','));
        names.filter(|name| is_name(name)).take(MOUNTS_LIMIT)
    }

    /// Whether an entry of an index may be a manifest or an index.
    ///
    /// Quirk(early builders): they left the type out.
    pub(crate) fn is_document(&self) -> bool {
        self.media_type.is_empty() || is_manifest_type(&self.media_type)
    }

    /// Whether it is one of BuildKit's attestations: by its platform or, where that was left out, by the
    /// annotation.
    pub(crate) fn is_attestation(&self) -> bool {
        let kind = self.annotations.get("vnd.docker.reference.type");
        kind.is_some_and(|kind| kind == "attestation-manifest")
            || self.platform.as_ref().is_some_and(Platform::is_attestation)
    }

    pub(crate) fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
    }

    /// Whether a layer is said to be compressed with zstd (`…tar+zstd`, and `…tar.zstd` under Docker's
    /// name); its bytes may tell otherwise.
    pub(crate) fn is_zstd(&self) -> bool {
        self.media_type.ends_with("zstd")
    }
}

/// Annotations that say in which repositories of which registries something was. On an entry of an index
/// or on a manifest, where containerd writes them, they are about all that it refers to.
#[derive(Clone, Default)]
pub(crate) struct Sources(BTreeMap<String, String>);

impl Sources {
    /// These and those of `annotations`, which are nearer to the bytes.
    pub(crate) fn with(&self, annotations: &BTreeMap<String, String>) -> Self {
        let mut sources = self.clone();
        for (name, repositories) in annotations {
            if name.starts_with(DISTRIBUTION_SOURCE) {
                sources.0.insert(name.clone(), repositories.clone());
            }
        }
        sources
    }
}

/// What was listed so far, by digest: the same thing may be listed several times.
#[derive(Default)]
pub(crate) struct Listed(BTreeMap<Digest, u64>);

impl Listed {
    /// Whether it is listed for the first time.
    ///
    /// # Errors
    /// It has another size than before: nothing has both.
    pub(crate) fn add(&mut self, descriptor: &Descriptor) -> Result<bool> {
        let (digest, size) = (&descriptor.digest, descriptor.size);
        match self.0.insert(digest.clone(), size) {
            None => Ok(true),
            Some(before) if before == size => Ok(false),
            Some(before) => Err(Error::hostile(format!(
                "{digest} is listed with two sizes, {before} and {size}"
            ))),
        }
    }
}

/// Each of `descriptors` once.
///
/// # Errors
/// As those of [`Listed::add`].
pub(crate) fn each_once<'d>(
    descriptors: impl Iterator<Item = &'d Descriptor>,
) -> Result<Vec<&'d Descriptor>> {
    let mut listed = Listed::default();
    let mut each = Vec::new();
    for descriptor in descriptors {
        if listed.add(descriptor)? {
            each.push(descriptor);
        }
    }
    Ok(each)
}
