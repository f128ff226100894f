//! Round trips through a real registry: what `out` pushed, `in` fetches and `out` pushes again, in
//! every format that keeps an image whole.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

mod common;

use std::fs;
use std::path::Path;

use common::{
    DockerRegistry, Image, Program, RealSetup, RealTokens, TempDir, image, index, layer, noise,
};
use serde_json::{Value, json};

/// Where `in` leaves an image that `out` takes.
const OCI: (&str, &str) = ("oci", "image.tar");
const LAYOUT: (&str, &str) = ("oci-layout", "oci");

fn files(content: &str) -> common::Layer {
    layer()
        .dir("etc")
        .file("etc/a", content)
        .file("noise", noise(3, 200_000))
}

/// `out` of a file or directory; the digest of its answer.
fn put(source: &Value, path: &Path) -> String {
    let file = path.file_name().unwrap().to_str().unwrap();
    let request = json!({"source": source, "params": {"image": file}});
    let output = Program::put(request)
        .destination(path.parent().unwrap())
        .real_clock()
        .run();
    let version = output.succeeds()["version"].clone();
    assert_eq!(version["tag"], "v1");
    version["digest"].as_str().unwrap().to_owned()
}

/// `check`, `in` in a format, and `out` of what it left into another repository.
fn again(source: &Value, other: &Value, (format, file): (&str, &str), digest: &str) -> String {
    let version = json!({"tag": "v1", "digest": digest});
    let found = Program::check(json!({"source": source})).run().succeeds();
    assert_eq!(found, json!([version]));
    let params = json!({"format": format});
    let request = json!({"source": source, "version": version, "params": params});
    let got = Program::get(request).real_clock().run();
    got.succeeds();
    assert_eq!(got.file("digest"), digest);
    put(other, &got.destination().join(file))
}

/// The image, how it differs, and the formats that keep its digest.
type Case = (&'static str, Image, Vec<(&'static str, &'static str)>);

fn cases() -> Vec<Case> {
    let both = vec![OCI, LAYOUT];
    let helm = image([files("chart")]).oci().lie(|document| {
        document["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
        document["layers"][0]["mediaType"] =
            json!("application/vnd.cncf.helm.chart.content.v1.tar+gzip");
    });
    vec![
        ("oci", image([files("1"), files("2")]).oci(), both.clone()),
        (
            "docker",
            image([files("1"), files("2")]).docker(),
            both.clone(),
        ),
        ("plain", image([files("1").plain()]).oci(), vec![LAYOUT]),
        (
            "zstd",
            image([files("1").zstd(), files("2")]).oci(),
            both.clone(),
        ),
        (
            "members",
            image([files("1").gzip_members(3)]).oci(),
            both.clone(),
        ),
        ("repeated", image([files("1"), files("1")]).oci(), both),
        (
            "annotated",
            image([files("1")]).annotation("a", "b").oci(),
            vec![OCI, LAYOUT],
        ),
        ("artifact", helm, vec![LAYOUT]),
        (
            "index",
            index([
                ("linux/amd64", image([files("1")]).oci()),
                (
                    "linux/arm64",
                    image([files("2")]).platform("linux/arm64").oci(),
                ),
            ])
            .attested()
            .annotation("a", "b")
            .oci(),
            vec![LAYOUT],
        ),
        (
            "list",
            index([("linux/amd64", image([files("1")]).docker())]).docker(),
            vec![LAYOUT],
        ),
    ]
}

#[test]
fn a_round_trip_keeps_the_digest() {
    let work = TempDir::new();
    let registry = DockerRegistry::start();
    let source = |name: &str| json!({"repository": registry.repository(name), "tag": "v1"});
    for (name, image, formats) in cases() {
        let path = work.join(name);
        image.write_layout(&path, None);
        let digest = put(&source(name), &path);
        assert_eq!(digest, image.digest, "{name}");
        let archive = work.write(format!("{name}.tar"), image.oci_archive(None));
        assert_eq!(
            put(&source(&format!("{name}-tar")), &archive),
            digest,
            "{name}"
        );
        for format in formats {
            let other = source(&format!("{name}-{}", format.0));
            assert_eq!(
                again(&source(name), &other, format, &digest),
                digest,
                "{name} {format:?}"
            );
        }
    }
}

#[test]
fn a_docker_tarball_keeps_the_digest_that_it_got_when_it_was_first_pushed() {
    let work = TempDir::new();
    let registry = DockerRegistry::start();
    let source = |name: &str| json!({"repository": registry.repository(name), "tag": "v1"});
    let image = image([files("1"), files("2"), files("1")]).docker();
    let tarballs = [image.docker_save(&["x:1"]), image.docker_save_oci(&["x:1"])];
    for (at, bytes) in tarballs.into_iter().enumerate() {
        let name = format!("saved-{at}");
        let digest = put(&source(&name), &work.write(&name, bytes));
        for format in [OCI, LAYOUT] {
            let other = source(&format!("{name}-{}", format.0));
            assert_eq!(
                again(&source(&name), &other, format, &digest),
                digest,
                "{name} {format:?}"
            );
        }
    }
}

#[test]
fn tokens_of_a_real_registry_are_asked_for_and_renewed_while_blobs_go_up() {
    let work = TempDir::new();
    let registry = DockerRegistry::with(&RealSetup {
        tokens: Some(RealTokens {
            users: &[("alice", "s3cret")],
            anonymous_pull: false,
            seconds: 60,
        }),
        ..RealSetup::default()
    });
    let source = json!({
        "repository": registry.repository("private"),
        "tag": "v1",
        "username": "alice",
        "password": "s3cret",
    });
    let layers: Vec<_> = (0..6).map(|n| files(&n.to_string())).collect();
    let image = image(layers).oci();
    image.write_layout(&work.join("image"), None);
    let digest = put(&source, &work.join("image"));
    assert_eq!(digest, image.digest);
    assert_eq!(again(&source, &source, LAYOUT, &digest), digest);
    let refused = Program::put(json!({
        "source": {"repository": registry.repository("private"), "tag": "v2"},
        "params": {"image": "image"},
    }))
    .destination(work.path())
    .run();
    refused.fails();
    assert!(
        fs::read_dir(
            registry
                .storage()
                .join("repositories/private/_manifests/tags")
        )
        .unwrap()
        .all(|tag| tag.unwrap().file_name() == "v1")
    );
}
