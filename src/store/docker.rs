//! `docker save` tarballs: `manifest.json`, configs and layers under names of its choice (old form),
//! or under `blobs/` with an OCI layout beside it (Docker 25 and later, BuildKit, containerd, and our
//! own `get`).
//!
//! Where the tarball holds a whole OCI image with compressed layers, that image is pushed byte for
//! byte, so that its digest stays. Else the image is the one in `manifest.json`, as `crane push` reads
//! it: layers that are plain are compressed on the way, and a manifest is made.

use std::collections::BTreeMap;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use super::files::{Body, Files};
use super::layout::{self, check_count, named, required};
use super::members::Name;
use super::{Image, Layer, Loose, Stored, Tree};
use crate::archive::{Compression, decode};
use crate::error::{Doing, Error, Result};
use crate::oci::config::ImageConfig;
use crate::oci::digest::{Algorithm, Checked, Digest, Hasher};
use crate::oci::manifest::{
    DOCKER_CONFIG, DOCKER_MANIFEST, Descriptor, Document, OCI_CONFIG, OCI_MANIFEST,
};
use crate::workers::Workers;

const DOCKER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const OCI_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const OCI_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// Images whose names a message lists.
const LISTED: usize = 10;

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
        && let Some(tree) = whole(files, &Digest::of(&config))?
    {
        return Ok(Image::Tree(tree));
    }
    loose(files, saved, &config_name, config, workers).map(Image::Loose)
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
fn whole(files: &Files, config: &Digest) -> Result<Option<Tree>> {
    let (_, index) = layout::index(files)?;
    if index.manifests.is_empty() {
        return Ok(None);
    }
    let tree = match layout::read(files) {
        Ok(tree) => tree,
        // Docker saves indexes whose other platforms it does not have, and Docker 25.0 wrote
        // manifests without layers. What is there of the image itself is enough.
        Err(_) => match alone(files, &index.manifests, config)? {
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
    if !images.any(|manifest| manifest.config.digest == *config) {
        return Err(Error::local(
            "`manifest.json` and `index.json` are about different images",
        ));
    }
    Ok(is_compressed(files, &tree)?.then_some(tree))
}

/// The image with this config, looked for in what is there of an index that is not complete.
fn alone(files: &Files, entries: &[Descriptor], config: &Digest) -> Result<Option<Tree>> {
    let mut entries: Vec<Descriptor> = entries.to_vec();
    // Every document is looked at once; an index of indexes of indexes ends here.
    for _ in 0..LAYERS_LIMIT {
        let Some(entry) = entries.pop() else {
            return Ok(None);
        };
        let read = layout::stored(files, &entry.digest, Some(entry.size), &entry.media_type);
        let Ok(stored) = read else { continue };
        match &stored.document {
            Document::Index(index) => entries.extend(index.manifests.iter().cloned()),
            Document::Image(manifest) if manifest.config.digest == *config => {
                return Ok(layout::tree(files, stored).ok());
            }
            Document::Image(_) => {}
        }
    }
    Ok(None)
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
    for (diff_id, name) in parsed.diff_ids().iter().zip(&names) {
        jobs.push((
            diff_id,
            within(files, "Layers", name)?,
            sources.get(diff_id),
        ));
    }
    let mut layers = workers.map(&jobs, |(diff_id, name, source), _| {
        layer(files, diff_id, name, *source)
    })?;
    let oci = layers.iter().any(|layer| match layer {
        Layer::Ready(descriptor) => descriptor.media_type == OCI_ZSTD,
        _ => false,
    });
    let mut places = Vec::new();
    for (layer, (_, name, _)) in layers.iter_mut().zip(jobs) {
        match layer {
            Layer::Ready(descriptor) => {
                if oci && descriptor.media_type == DOCKER_GZIP {
                    descriptor.media_type = OCI_GZIP.to_owned();
                }
                places.push((descriptor.digest.clone(), name));
            }
            Layer::Plain { diff_id, .. } => places.push((diff_id.clone(), name)),
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
        places,
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
            _ => Err(Error::local("there is no such file").doing(files.show(name))),
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
    let mut packed = Hashing {
        body: opened(files, name)?,
        hasher: Hasher::new(Algorithm::Sha256),
    };
    let plain = decode(&mut packed)?;
    Checked::new(plain, diff_id, None).finish()?;
    // The decoder has read on to the end.
    Ok(packed.hasher.finish())
}

struct Hashing {
    body: Body,
    hasher: Hasher,
}

impl Read for Hashing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.body.read(buf)?;
        self.hasher.update(buf.get(..n).unwrap_or_default());
        Ok(n)
    }
}

/// Told by the first bytes.
fn compression(files: &Files, name: &Name) -> Result<Compression> {
    let decoder = decode(opened(files, name)?).doing(|| files.show(name))?;
    Ok(decoder.compression())
}

fn opened(files: &Files, name: &Name) -> Result<Body> {
    let body = files.open(name)?;
    body.ok_or_else(|| Error::local("there is no such file").doing(files.show(name)))
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        urls: Vec::new(),
        annotations: BTreeMap::new(),
        platform: None,
    }
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
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::oci::manifest::OCI_INDEX;
    use crate::store::samples::{
        Part as Piece, Parts, Scratch, TAR, config, gzip, key, layer, loose, read, tree, zstd,
    };

    /// The old form of `docker save`: an upper layer that is like a lower one is a link to it.
    fn old_form(layers: &[&str]) -> Parts {
        let mut parts = Parts::default();
        let tars: Vec<_> = layers.iter().map(|text| layer(text)).collect();
        let config = config(&tars).to_string();
        let name = format!("{}.json", Digest::of(config.as_bytes()).hex());
        parts.file(&name, config);
        let mut names = Vec::new();
        for (at, tar) in tars.iter().enumerate() {
            let name = format!("{at:064}/layer.tar");
            match tars.iter().position(|other| other == tar) {
                Some(first) if first < at => {
                    parts.symlink(&name, &format!("../{first:064}/layer.tar"));
                }
                _ => parts.file(&name, tar),
            }
            names.push(name);
        }
        parts.json(
            "manifest.json",
            &json!([{"Config": name, "RepoTags": ["a:1", "b:2"], "Layers": names}]),
        );
        parts.json("repositories", &json!({"a": {"1": "0"}}));
        parts
    }

    /// What our own `get` and BuildKit write: a layout and a `manifest.json` about the same blobs.
    fn both_forms(layers: &[&str]) -> (Parts, Value) {
        let mut parts = Parts::default();
        let image = parts.image(layers);
        let manifest = format!("blobs/sha256/{}", &image["digest"].as_str().unwrap()[7..]);
        let manifest: Value = serde_json::from_slice(parts.bytes(&manifest)).unwrap();
        let path =
            |part: &Value| format!("blobs/sha256/{}", &part["digest"].as_str().unwrap()[7..]);
        let layers: Vec<String> = manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(path)
            .collect();
        parts.layout(std::slice::from_ref(&image));
        parts.json(
            "manifest.json",
            &json!([{"Config": path(&manifest["config"]), "RepoTags": null, "Layers": layers}]),
        );
        (parts, image)
    }

    fn root(parts: &Parts) -> String {
        let scratch = Scratch::new();
        let source = scratch.tarball(parts).unwrap();
        tree(&source).root().unwrap().descriptor.digest.to_string()
    }

    #[test]
    fn plain_layers_are_known_by_diff_id_and_links_are_followed() {
        let parts = old_form(&["a", "bb", "a"]);
        let scratch = Scratch::new();
        let source = scratch.tarball(&parts).unwrap();
        let loose = loose(&source);
        let tars = ["a", "bb", "a"].map(layer);
        for (layer, tar) in loose.layers.iter().zip(&tars) {
            let plain = Layer::Plain {
                diff_id: Digest::of(tar),
                size: tar.len() as u64,
            };
            assert_eq!(*layer, plain);
            assert_eq!(read(&source, key(layer)).unwrap(), *tar);
        }
        assert_eq!(loose.config_descriptor.media_type, DOCKER_CONFIG);
        assert_eq!(loose.config_descriptor.digest, Digest::of(&loose.config));
    }

    #[test]
    fn hard_links_are_followed_from_the_top() {
        let mut parts = old_form(&["a", "a"]);
        let [first, second] = [0, 1].map(|at| format!("{at:064}/layer.tar"));
        parts
            .0
            .insert(second, Piece::Hardlink(format!("./{first}")));
        let scratch = Scratch::new();
        let source = scratch.tarball(&parts).unwrap();
        assert_eq!(loose(&source).layers.len(), 2);
    }

    #[test]
    fn compressed_layers_are_hashed_and_make_the_manifest_that_crane_makes() {
        let tar = layer("a");
        let packed = gzip(&tar);
        let config = config(std::slice::from_ref(&tar)).to_string();
        let mut parts = Parts::default();
        let id = Digest::of(config.as_bytes()).to_string();
        parts.file(&id, &config);
        parts.file("layer.tar.gz", &packed);
        parts.json(
            "manifest.json",
            &json!([{"Config": id, "Layers": ["layer.tar.gz"]}]),
        );
        let scratch = Scratch::new();
        let source = scratch.tarball(&parts).unwrap();
        let Layer::Ready(ready) = &loose(&source).layers[0] else {
            panic!("it is compressed");
        };
        assert_eq!(read(&source, &ready.digest).unwrap(), packed);
        let stored = loose(&source)
            .manifest(std::slice::from_ref(ready))
            .unwrap();
        let expected = format!(
            r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}","config":{{"mediaType":"{DOCKER_CONFIG}","size":{},"digest":"{id}"}},"layers":[{{"mediaType":"{DOCKER_GZIP}","size":{},"digest":"{}"}}]}}"#,
            config.len(),
            packed.len(),
            Digest::of(&packed),
        );
        assert_eq!(String::from_utf8(stored.bytes).unwrap(), expected);
    }

    #[test]
    fn a_zstd_layer_makes_an_oci_manifest() {
        let mut parts = old_form(&["a", "bb"]);
        parts.file(&format!("{:064}/layer.tar", 1), zstd(&layer("bb")));
        let scratch = Scratch::new();
        let source = scratch.tarball(&parts).unwrap();
        let loose = loose(&source);
        let Layer::Ready(zstd) = &loose.layers[1] else {
            panic!("it is compressed");
        };
        let layers = [loose.compressed(Digest::of(b""), 0), zstd.clone()];
        let manifest = loose.manifest(&layers).unwrap();
        assert_eq!(manifest.descriptor.media_type, OCI_MANIFEST);
        let types = layers.map(|layer| layer.media_type);
        assert_eq!(types, [OCI_GZIP.to_owned(), OCI_ZSTD.to_owned()]);
        assert_eq!(loose.config_descriptor.media_type, OCI_CONFIG);
    }

    #[test]
    fn a_compressed_layer_that_holds_other_bytes_is_refused() {
        let mut parts = old_form(&["a", "bb"]);
        let name = format!("{:064}/layer.tar", 1);
        for (bytes, why) in [
            (gzip(&layer("cc")), "the bytes are not the ones asked for"),
            (
                gzip(&layer("bb"))[..50].to_vec(),
                "the gzip stream ends in the middle",
            ),
            (b"\xfd7zXZ\0...".to_vec(), "it is compressed with xz"),
        ] {
            parts.file(&name, bytes);
            let scratch = Scratch::new();
            let text = scratch.text(scratch.tarball(&parts));
            let expected = format!("read image `/image.tar`: `{name}` in `/image.tar`: {why}");
            assert!(text.starts_with(&expected), "{text}\n{expected}");
        }
    }

    #[test]
    fn a_whole_oci_image_keeps_its_digest() {
        let (parts, image) = both_forms(&["a", "bb"]);
        assert_eq!(root(&parts), image["digest"]);
    }

    #[test]
    fn an_index_that_is_not_whole_gives_the_image_that_is_there() {
        let (mut parts, image) = both_forms(&["a"]);
        let mut absent = Parts::default();
        let absent = absent.image(&["other platform"]);
        let index = parts.index(&[absent, image.clone()]);
        parts.layout(&[index]);
        assert_eq!(root(&parts), image["digest"]);
    }

    #[test]
    fn plain_layers_of_a_layout_are_compressed_all_the_same() {
        let tar = layer("a");
        let mut parts = Parts::default();
        let config = parts.document(OCI_CONFIG, &config(std::slice::from_ref(&tar)));
        let blob = parts.blob(TAR, &tar);
        let path =
            |part: &Value| format!("blobs/sha256/{}", &part["digest"].as_str().unwrap()[7..]);
        // Docker 25.0 forgot the layers; later ones list them.
        for layers in [json!([]), json!([blob])] {
            let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
            let manifest = parts.document(OCI_MANIFEST, &manifest);
            parts.layout(&[manifest]);
            parts.json(
                "manifest.json",
                &json!([{"Config": path(&config), "Layers": [path(&blob)]}]),
            );
            let scratch = Scratch::new();
            let source = scratch.tarball(&parts).unwrap();
            assert!(matches!(loose(&source).layers[0], Layer::Plain { .. }));
        }
    }

    #[test]
    fn a_layout_and_a_manifest_about_different_images_are_refused() {
        let (mut parts, _) = both_forms(&["a"]);
        let other = parts.image(&["other"]);
        parts.layout(&[other]);
        let scratch = Scratch::new();
        assert_eq!(
            scratch.text(scratch.tarball(&parts)),
            "read image `/image.tar`: `manifest.json` and `index.json` are about different images"
        );
    }

    #[test]
    fn a_foreign_layer_that_was_not_saved_is_only_named() {
        let mut parts = old_form(&["a"]);
        let name = format!("{:064}/layer.tar", 0);
        parts.0.remove(&name);
        let mut saved: Value = serde_json::from_slice(parts.bytes("manifest.json")).unwrap();
        let diff_id = Digest::of(&layer("a")).to_string();
        saved[0]["LayerSources"] = json!({diff_id.clone(): {
            "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "size": 7, "digest": diff_id, "urls": ["https://example.com/layer"],
        }});
        parts.json("manifest.json", &saved);
        let scratch = Scratch::new();
        let source = scratch.tarball(&parts).unwrap();
        let Layer::Foreign(foreign) = &loose(&source).layers[0] else {
            panic!("it is foreign");
        };
        let manifest = loose(&source)
            .manifest(std::slice::from_ref(foreign))
            .unwrap();
        let text = String::from_utf8(manifest.bytes).unwrap();
        assert!(
            text.contains(r#""urls":["https://example.com/layer"]"#),
            "{text}"
        );
    }

    #[test]
    fn what_is_no_single_whole_image_is_told_by_what_is_wrong() {
        let good = old_form(&["a", "bb"]);
        let saved: Value = serde_json::from_slice(good.bytes("manifest.json")).unwrap();
        let first = format!("{:064}/layer.tar", 0);
        let with = |field: &str, value: Value| {
            let mut saved = saved.clone();
            saved[0][field] = value;
            saved
        };
        type Change<'a> = &'a dyn Fn(&mut Parts);
        let cases: [(Change<'_>, &str); 14] = [
            (
                &|parts| {
                    let mut two = saved.clone();
                    two.as_array_mut()
                        .unwrap()
                        .push(json!({"Config": "c.json"}));
                    parts.json("manifest.json", &two);
                },
                "the tarball holds 2 images: `a:1`, `b:2`; `c.json` without a tag; save one image alone",
            ),
            (
                &|parts| parts.json("manifest.json", &json!([])),
                "`manifest.json` in `/image.tar`: it lists no image",
            ),
            (
                &|parts| parts.json("manifest.json", &json!({"schemaVersion": 2})),
                "`manifest.json` in `/image.tar`: it cannot be read: invalid type: map",
            ),
            (
                &|parts| parts.json("manifest.json", &with("Config", json!("../x.json"))),
                "`manifest.json` in `/image.tar`: `Config` is `../x.json`, which leads out",
            ),
            (
                &|parts| parts.json("manifest.json", &with("Config", json!("x.json"))),
                "`x.json` in `/image.tar`: there is no such file",
            ),
            (
                &|parts| parts.json("manifest.json", &with("Layers", json!([first.clone()]))),
                "the config lists 2 layers (`rootfs.diff_ids`), the manifest 1",
            ),
            (
                &|parts| {
                    parts.0.remove(&first);
                },
                "0/layer.tar` in `/image.tar`: there is no such file",
            ),
            (
                &|parts| parts.symlink(&first, "../../etc/passwd"),
                "0/layer.tar` is a link to `../../etc/passwd`, outside the tarball",
            ),
            (
                &|parts| parts.symlink(&first, "../x"),
                "0/layer.tar` is a link to `x`, which is not in the tarball",
            ),
            (
                &|parts| parts.symlink(&first, "/etc/passwd"),
                "0/layer.tar` is a link to `etc/passwd`, which is not in the tarball",
            ),
            (
                &|parts| parts.symlink(&first, "layer.tar"),
                "0/layer.tar` is a link that leads to itself",
            ),
            (
                &|parts| {
                    parts.0.remove("manifest.json");
                },
                "it is a `docker save` tarball of before Docker 1.10",
            ),
            (
                &|parts| {
                    parts.0.remove("manifest.json");
                    parts.0.remove("repositories");
                },
                "the tarball is no image: it has neither `index.json`",
            ),
            (
                &|parts| parts.file("manifest.json", vec![b' '; 9 << 20]),
                "`manifest.json` in `/image.tar`: it has 9437184 bytes; a document has at most",
            ),
        ];
        for (change, expected) in cases {
            let scratch = Scratch::new();
            let mut parts = good.clone();
            change(&mut parts);
            let text = scratch.text(scratch.tarball(&parts));
            assert!(text.contains(expected), "{text}\n{expected}");
        }
    }

    #[test]
    fn a_layer_with_another_diff_id_fails_at_its_end() {
        let mut parts = old_form(&["a"]);
        parts.file(&format!("{:064}/layer.tar", 0), layer("x"));
        let scratch = Scratch::new();
        let source = scratch.tarball(&parts).unwrap();
        let text = scratch.text(read(&source, key(&loose(&source).layers[0])));
        assert!(
            text.starts_with("the bytes are not the ones asked for"),
            "{text}"
        );
    }

    #[test]
    fn an_empty_oci_index_beside_a_saved_image_says_nothing() {
        let mut parts = old_form(&["a"]);
        parts.json(
            "index.json",
            &json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}),
        );
        let scratch = Scratch::new();
        assert_eq!(loose(&scratch.tarball(&parts).unwrap()).layers.len(), 1);
    }
}
