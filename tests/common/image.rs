//! Images and indexes as the registry holds them, and as files that `put` reads.

use super::layer::{Compression, Layer, layer};
use super::{sha256, sha512};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// A config or layer.
#[derive(Clone, Debug)]
pub struct Blob {
    pub media_type: String,
    pub digest: String,
    pub bytes: Vec<u8>,
    /// The tar in it; of a config, empty.
    pub tar: Vec<u8>,
}

impl Blob {
    /// The same bytes under their sha512.
    fn rename_sha512(&mut self) {
        self.digest = sha512(&self.bytes);
    }

    fn new(media_type: &str, bytes: Vec<u8>, tar: Vec<u8>) -> Blob {
        Blob {
            media_type: media_type.to_owned(),
            digest: sha256(&bytes),
            bytes,
            tar,
        }
    }

    pub fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// An image, or an index with `children`.
#[derive(Clone, Debug)]
pub struct Image {
    pub media_type: String,
    pub digest: String,
    pub manifest: Vec<u8>,
    pub config: Option<Blob>,
    pub layers: Vec<Blob>,
    pub children: Vec<Image>,
    /// `{architecture, os, variant?}`, as an index will say.
    pub platform: Value,
}

impl Image {
    fn new(media_type: &str, manifest: &Value) -> Image {
        let manifest = manifest.to_string().into_bytes();
        Image {
            media_type: media_type.to_owned(),
            digest: sha256(&manifest),
            manifest,
            config: None,
            layers: Vec::new(),
            children: Vec::new(),
            platform: Value::Null,
        }
    }

    /// Config and layers of this image, not of its children.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.config.iter().chain(&self.layers)
    }

    pub fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.manifest.len()})
    }

    /// The manifest as JSON.
    pub fn document(&self) -> Value {
        serde_json::from_slice(&self.manifest).unwrap()
    }

    /// The same objects under a manifest that says something else.
    pub fn lie(mut self, change: impl FnOnce(&mut Value)) -> Image {
        let mut document = self.document();
        change(&mut document);
        self.manifest = document.to_string().into_bytes();
        self.digest = sha256(&self.manifest);
        self
    }

    /// Every object below and this, by digest: what a layout's `blobs/sha256` holds.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let mut objects: BTreeMap<String, Vec<u8>> = self
            .blobs()
            .map(|blob| (blob.digest.clone(), blob.bytes.clone()))
            .collect();
        for child in &self.children {
            objects.extend(child.objects());
        }
        objects.insert(self.digest.clone(), self.manifest.clone());
        objects
    }

    /// Writes an OCI layout whose `index.json` lists this image or index; `tag` becomes its
    /// `org.opencontainers.image.ref.name`.
    pub fn write_layout(&self, directory: &Path, tag: Option<&str>) {
        for (name, bytes) in self.layout_files(tag) {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    /// Writes what `get` writes as `oci-layout`: an index is `index.json` itself; a single image
    /// is listed, and named by `single-image-digest`.
    pub fn write_get_layout(&self, directory: &Path) {
        self.write_layout(directory, None);
        match self.children.is_empty() {
            true => fs::write(directory.join("single-image-digest"), &self.digest).unwrap(),
            false => fs::write(directory.join("index.json"), &self.manifest).unwrap(),
        }
    }

    /// The layout of [`Image::write_layout`] as one tar.
    pub fn oci_archive(&self, tag: Option<&str>) -> Vec<u8> {
        tar(self.layout_files(tag))
    }

    fn layout_files(&self, tag: Option<&str>) -> Vec<(String, Vec<u8>)> {
        let mut listed = self.descriptor();
        if let Some(tag) = tag {
            listed["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        }
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [listed]});
        let version = json!({"imageLayoutVersion": "1.0.0"});
        let mut files = vec![
            ("oci-layout".to_owned(), version.to_string().into_bytes()),
            ("index.json".to_owned(), index.to_string().into_bytes()),
        ];
        files.extend(
            self.objects()
                .into_iter()
                .map(|(digest, bytes)| (format!("blobs/{}", digest.replace(':', "/")), bytes)),
        );
        files
    }

    /// `docker save` before Docker 25: a directory for each layer, equal layers as symlinks.
    pub fn docker_save(&self, tags: &[&str]) -> Vec<u8> {
        let config = self.config.as_ref().unwrap();
        let mut archive = layer().plain();
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        let mut paths = Vec::new();
        for (n, blob) in self.layers.iter().enumerate() {
            let diff_id = sha256(&blob.tar);
            let id = sha256(format!("{n} {diff_id}").as_bytes())[7..].to_owned();
            archive = archive
                .dir(&id)
                .file(format!("{id}/VERSION"), "1.0")
                .file(format!("{id}/json"), json!({ "id": id }).to_string());
            let path = format!("{id}/layer.tar");
            archive = match seen.get(&diff_id) {
                Some(first) => archive.symlink(&path, format!("../{first}/layer.tar")),
                None => archive.file(&path, &blob.tar),
            };
            seen.entry(diff_id).or_insert(id);
            paths.push(path);
        }
        let name = format!("{}.json", &config.digest[7..]);
        let manifest = json!([{"Config": name, "RepoTags": tags, "Layers": paths}]);
        archive
            .file(&name, &config.bytes)
            .file("manifest.json", manifest.to_string())
            .tar()
    }

    /// `docker save` since Docker 25: an OCI layout of uncompressed layers with `manifest.json`.
    pub fn docker_save_oci(&self, tags: &[&str]) -> Vec<u8> {
        let config = self.config.as_ref().unwrap();
        let path = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
        let layers: Vec<Blob> = self
            .layers
            .iter()
            .map(|blob| {
                Blob::new(
                    layer_type(OCI_MANIFEST, Compression::None),
                    blob.tar.clone(),
                    vec![],
                )
            })
            .collect();
        let descriptors: Vec<Value> = layers.iter().map(Blob::descriptor).collect();
        let mut listed = Blob {
            media_type: OCI_CONFIG.to_owned(),
            ..config.clone()
        }
        .descriptor();
        listed["mediaType"] = json!(OCI_CONFIG);
        let mut image = Image::new(
            OCI_MANIFEST,
            &json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": listed,
                    "layers": descriptors}),
        );
        let paths: Vec<String> = layers.iter().map(|blob| path(&blob.digest)).collect();
        let sources: Map<String, Value> = layers
            .iter()
            .map(|blob| (blob.digest.clone(), blob.descriptor()))
            .collect();
        let manifest = json!([{"Config": path(&config.digest), "RepoTags": tags, "Layers": paths,
                               "LayerSources": sources}]);
        image.config = Some(config.clone());
        image.layers = layers;
        let mut files = image.layout_files(None);
        files.push((
            "manifest.json".to_owned(),
            manifest.to_string().into_bytes(),
        ));
        tar(files)
    }
}

/// A plain tar of some files, with the directories they need.
fn tar(files: Vec<(String, Vec<u8>)>) -> Vec<u8> {
    let mut archive = layer().plain();
    let mut directories = BTreeSet::new();
    for (name, bytes) in files {
        for (at, _) in name.match_indices('/') {
            if directories.insert(name[..at].to_owned()) {
                archive = archive.dir(&name[..at]);
            }
        }
        archive = archive.file(name, bytes);
    }
    archive.tar()
}

/// An image of these layers for linux/amd64; [`ImageBuilder::oci`] or [`ImageBuilder::docker`]
/// finishes it.
pub fn image(layers: impl IntoIterator<Item = Layer>) -> ImageBuilder {
    ImageBuilder {
        layers: layers.into_iter().collect(),
        config: Map::new(),
        platform: "linux/amd64".to_owned(),
        created: Some("2020-01-01T00:00:00Z".to_owned()),
        annotations: Map::new(),
        edit: Vec::new(),
        sha512: false,
    }
}

type Edit = Box<dyn FnOnce(&mut Value)>;

pub struct ImageBuilder {
    layers: Vec<Layer>,
    config: Map<String, Value>,
    platform: String,
    created: Option<String>,
    annotations: Map<String, Value>,
    edit: Vec<Edit>,
    sha512: bool,
}

impl ImageBuilder {
    /// Members of the config's `config`: `Env`, `Cmd`, `Entrypoint`, `User`, `Labels` …
    pub fn config(mut self, members: Value) -> Self {
        let Value::Object(members) = members else {
            panic!("config is no object")
        };
        self.config.extend(members);
        self
    }

    pub fn label(mut self, name: &str, value: &str) -> Self {
        let labels = self.config.entry("Labels").or_insert_with(|| json!({}));
        labels[name] = json!(value);
        self
    }

    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), json!(value));
        self
    }

    /// `os/architecture[/variant]`
    pub fn platform(mut self, platform: &str) -> Self {
        platform.clone_into(&mut self.platform);
        self
    }

    /// `None` leaves it out.
    pub fn created(mut self, time: Option<&str>) -> Self {
        self.created = time.map(str::to_owned);
        self
    }

    /// Any change of the config document, before its digest is taken.
    pub fn edit_config(mut self, change: impl FnOnce(&mut Value) + 'static) -> Self {
        self.edit.push(Box::new(change));
        self
    }

    /// Config and layers are described by their sha512 (diff_ids stay sha256).
    pub fn sha512(mut self) -> Self {
        self.sha512 = true;
        self
    }

    pub fn oci(self) -> Image {
        self.build(OCI_MANIFEST, OCI_CONFIG)
    }

    pub fn docker(self) -> Image {
        self.build(DOCKER_MANIFEST, DOCKER_CONFIG)
    }

    fn build(self, media_type: &str, config_type: &str) -> Image {
        let mut layers: Vec<Blob> = self
            .layers
            .iter()
            .map(|layer| {
                let kind = layer_type(media_type, layer.compression());
                Blob::new(kind, layer.bytes(), layer.tar())
            })
            .collect();
        let diff_ids: Vec<String> = layers.iter().map(|blob| sha256(&blob.tar)).collect();
        let platform = platform(&self.platform);
        let mut config = platform.clone();
        config["config"] = Value::Object(self.config);
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        if let Some(created) = self.created {
            config["created"] = json!(created);
        }
        for change in self.edit {
            change(&mut config);
        }
        let mut config = Blob::new(config_type, config.to_string().into_bytes(), Vec::new());
        if self.sha512 {
            config.rename_sha512();
            layers.iter_mut().for_each(Blob::rename_sha512);
        }
        let descriptors: Vec<Value> = layers.iter().map(Blob::descriptor).collect();
        let mut manifest = json!({"schemaVersion": 2, "mediaType": media_type,
                                  "config": config.descriptor(), "layers": descriptors});
        if !self.annotations.is_empty() {
            manifest["annotations"] = Value::Object(self.annotations);
        }
        let mut image = Image::new(media_type, &manifest);
        image.config = Some(config);
        image.layers = layers;
        image.platform = platform;
        image
    }
}

fn layer_type(manifest: &str, compression: Compression) -> &'static str {
    match (manifest == OCI_MANIFEST, compression) {
        (true, Compression::Gzip { .. }) => "application/vnd.oci.image.layer.v1.tar+gzip",
        (true, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
        (true, Compression::None) => "application/vnd.oci.image.layer.v1.tar",
        (false, Compression::Gzip { .. }) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        (false, Compression::Zstd) => "application/vnd.docker.image.rootfs.diff.tar.zstd",
        (false, Compression::None) => "application/vnd.docker.image.rootfs.diff.tar",
    }
}

fn platform(text: &str) -> Value {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        [os, architecture] => json!({"os": os, "architecture": architecture}),
        [os, architecture, variant] => {
            json!({"os": os, "architecture": architecture, "variant": variant})
        }
        _ => panic!("platform `{text}`"),
    }
}

/// An index of images or indexes under these platforms (`os/architecture[/variant]`; an empty
/// one leaves the descriptor's platform out).
pub fn index<'a>(children: impl IntoIterator<Item = (&'a str, Image)>) -> IndexBuilder {
    let children = children
        .into_iter()
        .map(|(platform, image)| (platform.to_owned(), image, None));
    IndexBuilder {
        children: children.collect(),
        annotations: Map::new(),
    }
}

pub struct IndexBuilder {
    /// Platform, image, annotations of the descriptor.
    children: Vec<(String, Image, Option<Value>)>,
    annotations: Map<String, Value>,
}

impl IndexBuilder {
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), json!(value));
        self
    }

    /// Adds an attestation manifest for every image so far, as buildx does.
    pub fn attested(mut self) -> Self {
        let subjects: Vec<Image> = self
            .children
            .iter()
            .map(|(_, image, _)| image.clone())
            .collect();
        for subject in subjects {
            let notes = json!({"vnd.docker.reference.type": "attestation-manifest",
                               "vnd.docker.reference.digest": subject.digest});
            let attestation = attestation(&subject);
            self.children
                .push(("unknown/unknown".to_owned(), attestation, Some(notes)));
        }
        self
    }

    pub fn oci(self) -> Image {
        self.build(OCI_INDEX)
    }

    pub fn docker(self) -> Image {
        self.build(DOCKER_LIST)
    }

    fn build(self, media_type: &str) -> Image {
        let listed: Vec<Value> = self
            .children
            .iter()
            .map(|(text, image, notes)| {
                let mut descriptor = image.descriptor();
                if !text.is_empty() {
                    descriptor["platform"] = platform(text);
                }
                if let Some(notes) = notes {
                    descriptor["annotations"] = notes.clone();
                }
                descriptor
            })
            .collect();
        let mut document =
            json!({"schemaVersion": 2, "mediaType": media_type, "manifests": listed});
        if !self.annotations.is_empty() {
            document["annotations"] = Value::Object(self.annotations);
        }
        let mut image = Image::new(media_type, &document);
        image.children = self
            .children
            .into_iter()
            .map(|(_, image, _)| image)
            .collect();
        image
    }
}

/// A provenance statement about an image, as buildx stores it beside the image.
pub fn attestation(subject: &Image) -> Image {
    let digest = subject.digest.trim_start_matches("sha256:");
    let statement = json!({"_type": "https://in-toto.io/Statement/v0.1",
                           "predicateType": "https://slsa.dev/provenance/v0.2",
                           "subject": [{"name": "image", "digest": {"sha256": digest}}]});
    let statement = statement.to_string().into_bytes();
    let layer = Blob::new("application/vnd.in-toto+json", statement.clone(), statement);
    let config = json!({"architecture": "unknown", "os": "unknown", "config": {},
                        "rootfs": {"type": "layers", "diff_ids": [layer.digest]}});
    let config = Blob::new(OCI_CONFIG, config.to_string().into_bytes(), Vec::new());
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
                          "config": config.descriptor(), "layers": [layer.descriptor()]});
    let mut image = Image::new(OCI_MANIFEST, &manifest);
    image.config = Some(config);
    image.layers = vec![layer];
    image
}
