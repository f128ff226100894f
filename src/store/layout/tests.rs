use serde_json::{Value, json};

use super::*;
use crate::oci::media_type::{OCI_CONFIG, OCI_MANIFEST};
use crate::store::samples::{Parts, Scratch, TAR, config, gzip, index_of, layer, read, tree};

fn digest(descriptor: &Value) -> String {
    descriptor["digest"].as_str().unwrap().to_owned()
}

/// The digest that a push of this layout gives, the same from a directory and from a tarball.
fn root(parts: &Parts) -> String {
    let scratch = Scratch::new();
    let sources = [scratch.directory(parts), scratch.tarball(parts)];
    let [directory, tarball] = sources.map(|source| {
        let source = source.unwrap();
        for blob in tree(&source).blobs() {
            assert_eq!(read(&source, &blob.digest).unwrap().len() as u64, blob.size);
        }
        tree(&source).root().unwrap().descriptor.digest.to_string()
    });
    assert_eq!(directory, tarball);
    directory
}

#[test]
fn a_layout_of_one_image_is_that_image() {
    let mut parts = Parts::default();
    let image = parts.image(&["a", "bb"]);
    parts.layout(std::slice::from_ref(&image));
    assert_eq!(root(&parts), digest(&image));
    let scratch = Scratch::new();
    let source = scratch.directory(&parts).unwrap();
    assert_eq!(tree(&source).documents.len(), 1);
    assert_eq!(tree(&source).blobs().count(), 3);
}

#[test]
fn an_image_under_two_names_is_one_image() {
    let mut parts = Parts::default();
    let image = parts.image(&["a"]);
    let named = |name: &str| {
        let mut image = image.clone();
        image["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        image
    };
    parts.layout(&[named("a"), named("b")]);
    assert_eq!(root(&parts), digest(&image));
}

#[test]
fn a_layout_of_several_images_is_its_index_json() {
    let mut parts = Parts::default();
    let images = [parts.image(&["a"]), parts.image(&["bb"])];
    parts.layout(&images);
    assert_eq!(
        root(&parts),
        Digest::of(parts.bytes("index.json")).to_string()
    );
}

#[test]
fn an_index_that_is_all_there_is_is_unwrapped() {
    let mut parts = Parts::default();
    let image = parts.image(&["a"]);
    let index = parts.index(std::slice::from_ref(&image));
    parts.layout(std::slice::from_ref(&index));
    assert_eq!(root(&parts), digest(&index));
    let outer = parts.index(std::slice::from_ref(&index));
    parts.layout(&[outer]);
    assert_eq!(root(&parts), digest(&index));
}

#[test]
fn an_index_json_that_also_lies_in_blobs_is_what_is_pushed() {
    let mut parts = Parts::default();
    let image = parts.image(&["a"]);
    let index = parts.index(std::slice::from_ref(&image));
    parts.layout(std::slice::from_ref(&image));
    assert_eq!(root(&parts), digest(&index));
}

#[test]
fn the_single_image_digest_beside_a_layout_is_what_is_pushed() {
    let mut parts = Parts::default();
    let images = [parts.image(&["a"]), parts.image(&["bb"])];
    parts.layout(&images);
    for text in [digest(&images[1]), format!("{}\n", digest(&images[1]))] {
        parts.file(SINGLE, text);
        assert_eq!(root(&parts), digest(&images[1]));
    }
}

#[test]
fn children_come_before_their_index_and_everything_comes_once() {
    let mut parts = Parts::default();
    let images = [parts.image(&["a", "same"]), parts.image(&["bb", "same"])];
    let inner = parts.index(&images);
    let outer = [inner, images[0].clone()];
    parts.layout(&outer);
    let scratch = Scratch::new();
    let source = scratch.tarball(&parts).unwrap();
    let order: Vec<String> = tree(&source)
        .documents
        .iter()
        .map(|stored| stored.descriptor.digest.to_string())
        .collect();
    let itself = Digest::of(parts.bytes("index.json")).to_string();
    assert_eq!(
        order,
        [
            digest(&images[0]),
            digest(&images[1]),
            digest(&outer[0]),
            itself
        ]
    );
    // Two configs, three layers.
    assert_eq!(tree(&source).blobs().count(), 5);
}

#[test]
fn blobs_of_a_directory_may_be_symbolic_links() {
    let mut parts = Parts::default();
    let image = parts.image(&["a"]);
    parts.layout(&[image]);
    let scratch = Scratch::new();
    let outside = scratch.path().join("outside");
    let name = parts
        .0
        .keys()
        .find(|name| name.starts_with("blobs"))
        .cloned();
    let name = name.unwrap();
    std::fs::write(&outside, parts.bytes(&name)).unwrap();
    parts.symlink(&name, outside.to_str().unwrap());
    assert!(scratch.directory(&parts).is_ok());
    // In a tarball the same link leads out of it.
    let text = scratch.text(scratch.tarball(&parts));
    assert!(text.contains("which is not in the tarball"), "{text}");
}

#[test]
fn a_foreign_layer_may_be_missing() {
    let mut parts = Parts::default();
    let tar = layer("a");
    let mut foreign = parts.blob(
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        &tar,
    );
    parts.0.clear();
    foreign["urls"] = json!(["https://example.com/a"]);
    let config = parts.document(OCI_CONFIG, &config(&[tar]));
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [foreign]});
    let manifest = parts.document(OCI_MANIFEST, &manifest);
    parts.layout(std::slice::from_ref(&manifest));
    assert_eq!(root(&parts), digest(&manifest));
}

#[test]
fn an_artifact_needs_no_image_config() {
    let mut parts = Parts::default();
    let config = parts.blob("application/vnd.cncf.helm.config.v1+json", b"{}");
    let chart = parts.blob(
        "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        b"chart",
    );
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [chart]});
    let manifest = parts.document(OCI_MANIFEST, &manifest);
    parts.layout(std::slice::from_ref(&manifest));
    assert_eq!(root(&parts), digest(&manifest));
}

#[test]
fn what_is_not_whole_is_told_by_the_file_that_is_wrong() {
    let mut good = Parts::default();
    let image = good.image(&["a"]);
    good.layout(std::slice::from_ref(&image));
    let hex = digest(&image).replace("sha256:", "");
    let manifest = format!("blobs/sha256/{hex}");
    let parsed: Value = serde_json::from_slice(good.bytes(&manifest)).unwrap();
    let name_of = |value: &Value| format!("blobs/sha256/{}", &digest(value)[7..]);
    let (config_name, layer_name) = (name_of(&parsed["config"]), name_of(&parsed["layers"][0]));
    type Change<'a> = &'a dyn Fn(&mut Parts);
    let cases: [(Change<'_>, String); 13] = [
        (
            &|parts| {
                parts.0.remove(&manifest);
            },
            format!("`/directory/{manifest}`: there is no such file"),
        ),
        (
            &|parts| {
                parts.0.remove(&layer_name);
            },
            format!("`/directory/{layer_name}`: there is no such file"),
        ),
        (
            &|parts| {
                parts.0.remove(&config_name);
            },
            format!("`/directory/{config_name}`: there is no such file"),
        ),
        (
            &|parts| {
                parts.0.remove(&layer_name);
                parts.file(&format!("{layer_name}/file"), "x");
            },
            format!("`/directory/{layer_name}`: it is not a regular file"),
        ),
        (
            &|parts| parts.file(&layer_name, b"short"),
            format!("`/directory/{layer_name}`: it has 5 bytes, where"),
        ),
        (
            &|parts| {
                let other = String::from_utf8(parts.bytes(&config_name).to_vec()).unwrap();
                parts.file(&config_name, other.replace("amd64", "amd46"));
            },
            format!("`/directory/{config_name}`: the bytes are not the ones asked for"),
        ),
        (
            &|parts| {
                let other = String::from_utf8(parts.bytes(&manifest).to_vec()).unwrap();
                parts.file(&manifest, other.replace("schemaVersion", "schemaversion"));
            },
            format!("`/directory/{manifest}`: the bytes are not the ones asked for"),
        ),
        (
            &|parts| parts.file("oci-layout", r#"{"imageLayoutVersion":"2.0.0"}"#),
            "`/directory/oci-layout`: the layout has version `2.0.0`".to_owned(),
        ),
        (
            &|parts| parts.layout(&[]),
            "`/directory/index.json`: it lists no image".to_owned(),
        ),
        (
            &|parts| parts.file("index.json", parsed.to_string()),
            "`/directory/index.json`: it is an image manifest and no index".to_owned(),
        ),
        (
            &|parts| parts.file(SINGLE, "latest"),
            format!("`/directory/{SINGLE}`: `latest` is not a digest"),
        ),
        (
            &|parts| parts.file("index.json", vec![b' '; 9 << 20]),
            "`/directory/index.json`: it has 9437184 bytes".to_owned(),
        ),
        (
            &|parts| {
                let blob = parts.blob("text/plain", b"x");
                parts.layout(&[blob]);
            },
            "`/directory/index.json`: it lists nothing but a `text/plain`".to_owned(),
        ),
    ];
    for (change, expected) in cases {
        let scratch = Scratch::new();
        let mut parts = good.clone();
        change(&mut parts);
        let text = scratch.text(scratch.directory(&parts));
        assert!(text.starts_with("read image `/directory`: "), "{text}");
        assert!(text.contains(&expected), "{text}\n{expected}");
    }
}

#[test]
fn bytes_that_are_not_the_blob_fail_at_their_end() {
    let mut parts = Parts::default();
    let image = parts.image(&["a"]);
    parts.layout(&[image]);
    let layer = parts.0.iter().find_map(|(name, _)| {
        let gzip = parts.bytes(name).starts_with(&[0x1f, 0x8b]);
        gzip.then(|| name.clone())
    });
    let layer = layer.unwrap();
    let mut bytes = parts.bytes(&layer).to_vec();
    bytes[20] ^= 1;
    parts.file(&layer, bytes);
    let scratch = Scratch::new();
    let source = scratch.directory(&parts).unwrap();
    let digest = Digest::parse(&format!("sha256:{}", &layer[13..])).unwrap();
    let text = scratch.text(read(&source, &digest));
    assert!(
        text.starts_with("the bytes are not the ones asked for"),
        "{text}"
    );
}

#[test]
fn a_file_that_shrinks_while_it_is_read_says_so() {
    let mut parts = Parts::default();
    let image = parts.image(&["a"]);
    parts.layout(&[image]);
    let scratch = Scratch::new();
    let source = scratch.tarball(&parts).unwrap();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(scratch.path().join("image.tar"));
    file.unwrap().set_len(600).unwrap();
    let blob = tree(&source).blobs().next().unwrap().digest.clone();
    let text = scratch.text(read(&source, &blob));
    assert!(
        text.starts_with("the file became shorter while it was read"),
        "{text}"
    );
}

#[test]
fn counts_of_layers_must_agree() {
    let mut parts = Parts::default();
    let config = parts.document(OCI_CONFIG, &config(&[layer("a"), layer("bb")]));
    let layer = parts.blob(TAR, &gzip(&layer("a")));
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    let manifest = parts.document(OCI_MANIFEST, &manifest);
    parts.json("index.json", &index_of(&[manifest]));
    let scratch = Scratch::new();
    let text = scratch.text(scratch.tarball(&parts));
    assert!(text.contains("the config lists 2 layers"), "{text}");
}
