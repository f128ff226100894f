use serde_json::{Value, json};

use super::*;
use crate::oci::media_type::OCI_INDEX;
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
    let path = |part: &Value| format!("blobs/sha256/{}", &part["digest"].as_str().unwrap()[7..]);
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
fn an_index_that_is_listed_again_and_again_is_looked_at_once() {
    let (mut parts, image) = both_forms(&["a", "b"]);
    let mut index = parts.index(&[json!({
        "mediaType": OCI_MANIFEST, "digest": Digest::of(b"not saved").to_string(), "size": 1
    })]);
    for _ in 0..30 {
        index = parts.index(&[index.clone(), index]);
    }
    let wanted = image["digest"].clone();
    parts.layout(&[image, index]);
    assert_eq!(root(&parts), wanted);
}

#[test]
fn of_several_images_in_a_layout_the_saved_one_is_pushed() {
    let (mut parts, image) = both_forms(&["a"]);
    let other = parts.image(&["other"]);
    parts.layout(&[other, image.clone()]);
    assert_eq!(root(&parts), image["digest"]);
}

#[test]
fn plain_layers_of_a_layout_are_compressed_all_the_same() {
    let tar = layer("a");
    let mut parts = Parts::default();
    let config = parts.document(OCI_CONFIG, &config(std::slice::from_ref(&tar)));
    let blob = parts.blob(TAR, &tar);
    let path = |part: &Value| format!("blobs/sha256/{}", &part["digest"].as_str().unwrap()[7..]);
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
