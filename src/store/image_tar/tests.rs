use std::io::{Read, Write};

use serde_json::{Value, json};

use super::*;
use crate::archive::write::OCTAL_LIMIT;
use crate::store::samples::{Parts, Scratch, tree};
use crate::store::{Source, open};
use crate::workers::Workers;

fn name() -> (Repository, Tag) {
    (
        Repository::parse("busybox").unwrap(),
        Tag::parse("1.36").unwrap(),
    )
}

fn copy(source: &Source, to: &Path, workers: usize) -> Result<()> {
    let tree = tree(source);
    let (repository, tag) = name();
    let tar = ImageTar::create(to, tree.root()?, Some((&repository, &tag)))?;
    let blobs: Vec<&Descriptor> = tree.blobs().collect();
    Workers::new(workers).map(&blobs, |blob, _| {
        let mut body = source.open(&blob.digest)?;
        let mut writer = tar.blob(&blob.digest)?;
        std::io::copy(&mut body, &mut writer).doing(|| "copy")?;
        writer.commit(&body.finish()?)
    })?;
    tar.finish()
}

fn sample() -> (Scratch, Source, Value) {
    let mut parts = Parts::default();
    let image = parts.image(&["a", "bb", "a"]);
    parts.layout(std::slice::from_ref(&image));
    let scratch = Scratch::new();
    let source = scratch.directory(&parts).unwrap();
    (scratch, source, image)
}

#[test]
fn the_tarball_is_a_layout_and_a_saved_image_and_a_push_gives_the_same_digest() {
    let (scratch, source, image) = sample();
    let path = scratch.path().join("image.tar");
    copy(&source, &path, 4).unwrap();
    let again = open(&path, Workers::new(1)).unwrap();
    let root = &tree(&again).root().unwrap().descriptor;
    assert_eq!(root.digest.to_string(), image["digest"]);

    let mut found = Vec::new();
    let mut archive = tar::Archive::new(File::open(&path).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let header = entry.header();
        assert_eq!((header.mtime().unwrap(), header.uid().unwrap()), (0, 0));
        found.push((name, bytes));
    }
    let start: Vec<&str> = found
        .iter()
        .map(|(name, _)| name.as_str())
        .take(6)
        .collect();
    let manifest = blob_path(&root.digest);
    assert_eq!(
        start,
        [
            "oci-layout",
            "index.json",
            "manifest.json",
            "blobs/",
            "blobs/sha256/",
            &manifest
        ]
    );
    assert_eq!(found.len(), 9, "each blob is there once");
    let index: Value = serde_json::from_slice(&found[1].1).unwrap();
    assert_eq!(
        index["manifests"][0]["annotations"],
        json!({
            "io.containerd.image.name": "docker.io/library/busybox:1.36",
            "org.opencontainers.image.ref.name": "1.36",
        })
    );
    let saved: Value = serde_json::from_slice(&found[2].1).unwrap();
    assert_eq!(saved[0]["RepoTags"], json!(["busybox:1.36"]));
    let layers = saved[0]["Layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3);
    assert_eq!(layers[0], layers[2]);
    for (name, bytes) in found.iter().skip(5) {
        assert_eq!(*name, blob_path(&Digest::of(bytes)));
    }
}

#[test]
fn the_bytes_are_the_same_for_any_number_of_workers() {
    let (scratch, source, _) = sample();
    let files = [1, 8].map(|workers| {
        let path = scratch.path().join("image.tar");
        copy(&source, &path, workers).unwrap();
        fs::read(path).unwrap()
    });
    assert_eq!(files[0], files[1]);
    assert_eq!(files[0].len() % 512, 0);
}

#[test]
fn a_tarball_gets_its_name_when_every_blob_is_proven() {
    let (scratch, source, _) = sample();
    let path = scratch.path().join("image.tar");
    fs::write(&path, "of an earlier run").unwrap();
    let root = tree(&source).root().unwrap();
    ImageTar::remove_old(&path).unwrap();
    let tar = ImageTar::create(&path, root, None).unwrap();
    let blob = tree(&source).blobs().next().unwrap().clone();
    let mut writer = tar.blob(&blob.digest).unwrap();
    let too_much = vec![0; usize::try_from(blob.size).unwrap() + 1];
    assert!(
        writer.write_all(&too_much).is_err(),
        "the next member begins there"
    );
    drop(writer);
    let text = scratch.text(tar.finish());
    assert!(text.ends_with("was not written"), "{text}");
    let left: Vec<_> = fs::read_dir(scratch.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn members_beyond_eight_gigabytes_and_of_sha512_are_found_again() {
    let sha512 = format!("sha512:{}", "0f".repeat(64));
    let config = Digest::of(b"{}").to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/x", "digest": config, "size": 2},
        "layers": [
            {"mediaType": "application/x", "digest": sha512, "size": OCTAL_LIMIT + 1},
            {"mediaType": "application/x", "digest": Digest::of(b"x").to_string(), "size": 1},
        ],
    });
    let bytes = manifest.to_string().into_bytes();
    let digest = Digest::of(&bytes);
    let stored = Stored::new(bytes, &digest, "").unwrap();
    let scratch = Scratch::new();
    let path = scratch.path().join("image.tar");
    let tar = ImageTar::create(&path, &stored, None).unwrap();
    let file = File::open(&tar.unproven).unwrap();
    // Holes: nothing of this is on the disk.
    let mut archive = tar::Archive::new(file);
    let mut found = BTreeMap::new();
    for entry in archive.entries_with_seek().unwrap() {
        let entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        found.insert(name, (entry.raw_file_position(), entry.size()));
    }
    for (digest, place) in &tar.places {
        assert_eq!(found[&blob_path(digest)], *place);
    }
}

#[test]
fn sizes_that_make_no_sense_are_refused() {
    let config = Digest::of(b"{}").to_string();
    for sizes in [[u64::MAX, 1], [1 << 62, 1 << 62], [1, 2]] {
        let layer = |size| json!({"digest": config, "size": size});
        let other = json!({"digest": Digest::of(b"x").to_string(), "size": sizes[1]});
        let second = match sizes {
            [1, 2] => layer(2),
            _ => other,
        };
        let manifest = json!({
            "schemaVersion": 2, "config": layer(sizes[0]), "layers": [second],
        });
        let bytes = manifest.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        let stored = Stored::new(bytes, &digest, "").unwrap();
        let scratch = Scratch::new();
        let made = ImageTar::create(&scratch.path().join("image.tar"), &stored, None);
        assert!(made.is_err());
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
