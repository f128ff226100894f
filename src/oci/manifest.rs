//! Manifests and indexes (image-spec, manifest.md, image-index.md; the Docker schema 2 documents have the
//! same shape under other media types).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::descriptor::Descriptor;
use super::json::{self, bounded, named_texts, or_null};
use super::media_type::{
    DOCKER_CONFIG, DOCKER_LIST, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, essence,
    is_manifest_type,
};
use super::platform::Platform;
use crate::error::{Error, Result};

/// Bytes of a manifest, an index or a config. The spec asks clients and registries to manage at least
/// 4 MiB (distribution-spec, "Pushing Manifests"). Twice that; read and parsed, a hostile document
/// costs us two or three times as much memory.
pub(crate) const DOCUMENT_LIMIT: u64 = 8 << 20;

/// Bytes of all manifests and indexes below one index, which are held at once: those of a hundred
/// platforms have 200 KiB.
pub(crate) const DOCUMENTS_LIMIT: u64 = 64 << 20;

/// Levels of documents below an index: two are seen in the wild.
pub(crate) const NESTING_LIMIT: usize = 8;

/// What is wrong with an index that has more of them.
pub(crate) fn nested_too_deep() -> String {
    format!("its indexes are nested deeper than {NESTING_LIMIT} levels")
}

/// More layers than any builder makes (Docker stops at 127); each one costs a job and a directory.
const LAYERS_LIMIT: usize = 4096;

/// More entries than any index has; each may cost a request.
const ENTRIES_LIMIT: usize = 16_384;

/// More annotations than any builder writes on one thing; each may become a line of metadata.
const ANNOTATIONS_LIMIT: usize = 4096;

/// One image (or artifact): a config and its layers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Manifest {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    #[serde(rename = "mediaType", default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(
        rename = "artifactType",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    artifact_type: Option<String>,
    pub(crate) config: Descriptor,
    #[serde(deserialize_with = "or_null")]
    pub(crate) layers: Vec<Descriptor>,
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "named_texts"
    )]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// What this is when it is no image: the artifact's own type.
    pub(crate) fn artifact_type(&self) -> Option<&str> {
        let config = self.config.media_type.as_str();
        let is_image = match config {
            OCI_CONFIG | DOCKER_CONFIG => true,
            // Quirk(early builders): a config without media type is an image's.
            "" => self.artifact_type.is_none(),
            // Quirk(docker/distribution 2.3): configs were stored as what the storage called them.
            "application/octet-stream" | "application/json" | "text/html" => {
                self.media_type.as_deref() == Some(DOCKER_MANIFEST)
            }
            _ => false,
        };
        match is_image {
            true => None,
            false => Some(self.artifact_type.as_deref().unwrap_or(config)),
        }
    }
}

/// Images for several platforms, or anything else that belongs together.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Index {
    #[serde(deserialize_with = "or_null")]
    pub(crate) manifests: Vec<Descriptor>,
    #[serde(default, deserialize_with = "named_texts")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(rename = "mediaType", default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
}

impl Index {
    /// The entries that may hold the image for `wanted`: the best one for that platform or, where
    /// there is none, those that name no platform, as builders of single-platform indexes leave it
    /// out. Attestations are never among them, nor are artifacts without a platform.
    pub(crate) fn entries_for(&self, wanted: &Platform) -> Vec<&Descriptor> {
        let images = || {
            self.manifests
                .iter()
                .filter(|entry| !entry.is_attestation())
        };
        let best = images()
            .filter_map(|entry| {
                let offered = entry.platform.as_ref()?;
                Some((wanted.preference(offered)?, entry))
            })
            .min_by_key(|(preference, _)| *preference);
        match best {
            Some((_, entry)) => vec![entry],
            None => images()
                .filter(|entry| {
                    let is_typed = entry.artifact_type.is_some();
                    entry.platform.is_none() && !is_typed && entry.is_document()
                })
                .collect(),
        }
    }

    /// The platforms that its images name.
    pub(crate) fn platforms(&self) -> impl Iterator<Item = &Platform> {
        let images = self
            .manifests
            .iter()
            .filter(|entry| !entry.is_attestation());
        images.filter_map(|entry| entry.platform.as_ref())
    }
}

/// A manifest or an index, told apart by content.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Document {
    Image(Box<Manifest>),
    Index(Index),
}

impl Document {
    /// Reads the bytes of a manifest that came with `content_type` (empty where nothing was said).
    ///
    /// # Errors
    /// Both `manifests` and `layers`, or a `mediaType` that contradicts a manifest's Content-Type
    /// (CVE-2021-41190); Docker schema 1; anything that is no manifest.
    pub(crate) fn parse(bytes: &[u8], content_type: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Shape {
            #[serde(rename = "schemaVersion", default)]
            schema_version: Option<u64>,
            #[serde(rename = "mediaType", default)]
            media_type: Option<String>,
            #[serde(default)]
            manifests: Member,
            #[serde(default)]
            layers: Member,
            #[serde(rename = "fsLayers", default)]
            fs_layers: Option<serde::de::IgnoredAny>,
        }
        let content_type = essence(content_type);
        if json::is_page(bytes) {
            return Err(
                Error::hostile("the manifest cannot be read: it is an HTML page")
                    .advise("is there a proxy or login page in between?"),
            );
        }
        let shape: Shape = json::object(bytes)
            .map_err(|why| Error::hostile(format!("the manifest cannot be read: {why}")))?;
        let inside = shape.media_type.as_deref().unwrap_or_default();
        let schema_1 =
            |text: &str| text.starts_with("application/vnd.docker.distribution.manifest.v1");
        if shape.schema_version == Some(1)
            || shape.fs_layers.is_some()
            || schema_1(&content_type)
            || schema_1(inside)
        {
            return Err(Error::registry(
                "the image is stored as Docker schema 1, which is no longer supported",
            )
            .advise("push it again with a current builder"));
        }
        if !inside.is_empty() && is_manifest_type(&content_type) && inside != content_type {
            return Err(Error::hostile(format!(
                "the manifest calls itself `{inside}`, but was served as `{content_type}`"
            )));
        }
        let said = match inside.is_empty() {
            true => content_type.as_str(),
            false => inside,
        };
        let document = match (shape.manifests, shape.layers) {
            (Member::Given, Member::Given) => {
                return Err(Error::hostile(
                    "the manifest has both `manifests` and `layers`: it is neither an index nor an image",
                ));
            }
            // A `null` counts where nothing is given: an image without layers.
            (Member::Given, _) | (Member::Null, Member::Absent) => {
                if matches!(said, OCI_MANIFEST | DOCKER_MANIFEST) {
                    return Err(contradiction(said, "manifests"));
                }
                Document::Index(from_slice(bytes)?)
            }
            (_, Member::Given) | (Member::Absent, Member::Null) => {
                if matches!(said, OCI_INDEX | DOCKER_LIST) {
                    return Err(contradiction(said, "layers"));
                }
                Document::Image(Box::new(from_slice(bytes)?))
            }
            _ => {
                return Err(Error::registry(match said.is_empty() {
                    true => "the document is neither an image manifest nor an index".to_owned(),
                    false => format!("`{said}` is neither an image manifest nor an index"),
                }));
            }
        };
        document.check_counts()?;
        Ok(document)
    }

    fn check_counts(&self) -> Result<()> {
        let check = |count, limit, what| bounded("manifest", count, limit, what);
        let descriptors = match self {
            Document::Image(manifest) => {
                check(manifest.layers.len(), LAYERS_LIMIT, "layers")?;
                &manifest.layers
            }
            Document::Index(index) => {
                check(index.manifests.len(), ENTRIES_LIMIT, "entries")?;
                &index.manifests
            }
        };
        let each = descriptors.iter().map(|descriptor| &descriptor.annotations);
        for annotations in each.chain([self.annotations()]) {
            check(annotations.len(), ANNOTATIONS_LIMIT, "annotations")?;
        }
        Ok(())
    }

    pub(crate) fn annotations(&self) -> &BTreeMap<String, String> {
        match self {
            Document::Image(manifest) => &manifest.annotations,
            Document::Index(index) => &index.annotations,
        }
    }

    /// The media type to push it under and to list it with: its own; else `said`, which what pointed
    /// to it or the Content-Type it came with says, where that is a manifest's; else OCI's for its
    /// shape.
    pub(crate) fn media_type(&self, said: &str) -> String {
        let (own, by_shape) = match self {
            Document::Image(manifest) => (&manifest.media_type, OCI_MANIFEST),
            Document::Index(index) => (&index.media_type, OCI_INDEX),
        };
        match own.as_deref() {
            Some(own) if !own.is_empty() => own.to_owned(),
            _ => Some(essence(said))
                .filter(|said| is_manifest_type(said))
                .unwrap_or_else(|| by_shape.to_owned()),
        }
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Document::Image(_) => "image manifest",
            Document::Index(_) => "index",
        })
    }
}

/// A member of a document, of which only that it is there matters.
#[derive(Default)]
enum Member {
    #[default]
    Absent,
    Null,
    Given,
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        let value = Option::<serde::de::IgnoredAny>::deserialize(deserializer)?;
        Ok(value.map_or(Member::Null, |_| Member::Given))
    }
}

fn contradiction(said: &str, field: &str) -> Error {
    Error::hostile(format!(
        "the manifest says it is `{said}`, but it has `{field}`"
    ))
}

fn from_slice<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T> {
    json::object(bytes).map_err(|why| Error::hostile(format!("the manifest cannot be read: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(extra: &str) -> String {
        format!(r#"{{"mediaType":"application/x","digest":"{DIGEST}","size":0{extra}}}"#)
    }

    fn image(extra: &str) -> String {
        let d = descriptor("");
        format!(r#"{{"schemaVersion":2,"config":{d},"layers":[{d}]{extra}}}"#)
    }

    fn index(extra: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"manifests":[{}]{extra}}}"#,
            descriptor("")
        )
    }

    #[test]
    fn a_document_is_what_its_content_its_media_type_and_its_content_type_agree_on() {
        let with = |media_type: &str| format!(r#","mediaType":"{media_type}""#);
        for (bytes, content_type, expect) in [
            (image(""), OCI_MANIFEST, "image manifest"),
            (image(""), "", "image manifest"),
            (image(""), "text/plain; charset=utf-8", "image manifest"),
            (
                image(&with(DOCKER_MANIFEST)),
                "application/json",
                "image manifest",
            ),
            (
                image(&with(OCI_MANIFEST)),
                "Application/vnd.oci.image.manifest.v1+json; charset=utf-8",
                "image manifest",
            ),
            (index(""), OCI_INDEX, "index"),
            (index(r#","annotations":null"#), DOCKER_LIST, "index"),
            (
                index(&with(OCI_INDEX)),
                OCI_MANIFEST,
                "the manifest calls itself",
            ),
            (
                image(&with(OCI_MANIFEST)),
                DOCKER_MANIFEST,
                "the manifest calls itself",
            ),
            (image(""), OCI_INDEX, "the manifest says it is"),
            (index(""), DOCKER_MANIFEST, "the manifest says it is"),
            (index(r#","layers":[]"#), "", "the manifest has both"),
            (index(r#","layers":null"#), "", "index"),
            (
                index("").replace(
                    r#""size":0"#,
                    r#""size":0,"platform":{"architecture":null,"os":null}"#,
                ),
                OCI_INDEX,
                "index",
            ),
            (image(r#","manifests":null"#), "", "image manifest"),
            (
                format!(
                    r#"{{"schemaVersion":2,"config":{},"layers":null}}"#,
                    descriptor("")
                ),
                OCI_MANIFEST,
                "image manifest",
            ),
            (
                r#"{"schemaVersion":2,"manifests":null}"#.to_owned(),
                OCI_INDEX,
                "index",
            ),
            (
                r#"{"manifests":null,"layers":null}"#.to_owned(),
                "",
                "the document is neither",
            ),
            (
                r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(),
                "application/vnd.docker.distribution.manifest.v1+prettyjws",
                "the image is stored as Docker schema 1",
            ),
            ("{}".to_owned(), "", "the document is neither"),
            ("{}".to_owned(), "text/html", "`text/html` is neither"),
            (
                "<html>".to_owned(),
                "text/html",
                "the manifest cannot be read: it is an HTML page; is there a proxy or login page in between?",
            ),
            (
                "\n<!DOCTYPE html>".to_owned(),
                "",
                "the manifest cannot be read: it is an HTML page",
            ),
            (
                "<?xml".to_owned(),
                "",
                "the manifest cannot be read: it is not a JSON object",
            ),
            (
                image("").replace(r#""application/x""#, "null"),
                "",
                "image manifest",
            ),
            (
                image(r#","annotations":{"a":null}"#)
                    .replace(r#""size":0"#, r#""size":0,"annotations":{"a":null}"#),
                "",
                "image manifest",
            ),
            (index(r#","annotations":{"a":null}"#), "", "index"),
            (
                image("").replace(r#""size":0"#, r#""size":-1"#),
                "",
                "the manifest cannot be read",
            ),
            (
                image("").replace("sha256:e3", "sha256:../"),
                "",
                "the manifest cannot be read",
            ),
        ] {
            let found = match Document::parse(bytes.as_bytes(), content_type) {
                Ok(document) => document.to_string(),
                Err(error) => error.to_string(),
            };
            assert!(
                found.starts_with(expect),
                "{bytes} as {content_type}: {found}"
            );
        }
    }

    #[test]
    fn an_index_offers_the_best_entry_or_those_without_a_platform() {
        let of = |os: &str, architecture: &str| {
            format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"}}"#)
        };
        let (amd64, arm64) = (of("linux", "amd64"), of("linux", "arm64"));
        let unknown = of("unknown", "unknown");
        let note = r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#;
        let plain = String::new();
        for (entries, offered, platforms) in [
            (
                vec![&arm64, &amd64, &plain],
                vec![1],
                "linux/arm64 linux/amd64",
            ),
            (vec![&plain, &arm64, &plain], vec![0, 2], "linux/arm64"),
            (
                vec![&unknown, &note.to_owned(), &format!("{amd64}{note}")],
                vec![],
                "",
            ),
            (vec![], vec![], ""),
        ] {
            let entries = entries.iter().enumerate().map(|(size, extra)| {
                let entry = descriptor(extra).replace("application/x", OCI_MANIFEST);
                entry.replace(r#""size":0"#, &format!(r#""size":{size}"#))
            });
            let entries: Vec<String> = entries.collect();
            let text = format!(r#"{{"manifests":[{}]}}"#, entries.join(","));
            let Document::Index(index) = Document::parse(text.as_bytes(), "").unwrap() else {
                unreachable!("it has manifests");
            };
            let mut wanted = Platform::of_this_binary();
            wanted.set_architecture("amd64");
            let found = index.entries_for(&wanted);
            let found: Vec<u64> = found.iter().map(|entry| entry.size).collect();
            assert_eq!(found, offered, "{text}");
            let listed: Vec<String> = index.platforms().map(Platform::to_string).collect();
            assert_eq!(listed.join(" "), platforms, "{text}");
        }
    }

    #[test]
    fn more_annotations_than_anybody_writes_are_refused() {
        let annotations = |count: usize| {
            let each: Vec<String> = (0..count).map(|n| format!(r#""{n}":"""#)).collect();
            format!(r#","annotations":{{{}}}"#, each.join(","))
        };
        let error = |text: String| {
            let parsed = Document::parse(text.as_bytes(), "");
            parsed.err().map(|error| error.to_string())
        };
        let of_layer =
            |count| image("").replace(r#""size":0"#, &format!(r#""size":0{}"#, annotations(count)));
        let says = "the manifest has 4097 annotations; 4096 is the most that is accepted";
        assert_eq!(error(image(&annotations(4096))), None);
        assert_eq!(error(of_layer(4096)), None);
        assert_eq!(error(image(&annotations(4097))).as_deref(), Some(says));
        assert_eq!(error(index(&annotations(4097))).as_deref(), Some(says));
        assert_eq!(error(of_layer(4097)).as_deref(), Some(says));
    }

    #[test]
    fn an_artifact_names_its_type() {
        let typed = |config: &str, artifact: &str| {
            let text = image(artifact).replacen("application/x", config, 1);
            match Document::parse(text.as_bytes(), "").unwrap() {
                Document::Image(manifest) => manifest.artifact_type().map(str::to_owned),
                Document::Index(_) => None,
            }
        };
        let helm = "application/vnd.cncf.helm.config.v1+json";
        assert_eq!(typed(OCI_CONFIG, ""), None);
        assert_eq!(typed(DOCKER_CONFIG, ""), None);
        assert_eq!(typed(helm, "").as_deref(), Some(helm));
        let json = "application/json";
        assert_eq!(typed(json, "").as_deref(), Some(json));
        let docker = format!(r#","mediaType":"{DOCKER_MANIFEST}""#);
        assert_eq!(typed(json, &docker), None);
        assert_eq!(
            typed(
                "application/vnd.oci.empty.v1+json",
                r#","artifactType":"text/sbom""#
            )
            .as_deref(),
            Some("text/sbom")
        );
    }
}
