//! The same pushes to registries of different make: Debian's docker-registry, the one of `crane`,
//! and zuul-registry. Each answers in its own way where the specification leaves room, and in places
//! where it does not.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{
    DockerRegistry, Image, Output, Program, Server, TempDir, find, image, index, lacking, layer,
    merge, noise,
};
use serde_json::{Value, json};

/// A running registry, and what `source` needs to write to it.
enum Registry {
    Docker(DockerRegistry),
    /// Paths of uploads without a host, 204 to a PATCH, tags in pages without `Link`, no mount.
    Crane(Server),
    /// Tokens for a scope that it invents, no `Range`, 404 to a mount and to any query, HTML for
    /// errors.
    Zuul(Server),
}

impl Registry {
    fn docker() -> Option<Registry> {
        Some(Registry::Docker(DockerRegistry::start()))
    }

    fn crane() -> Option<Registry> {
        if find("crane").is_none() {
            return lacking("crane's registry: scripts/test builds it");
        }
        Some(Registry::Crane(Server::start("crane", |_, port| {
            let address = format!("127.0.0.1:{port}");
            ["registry", "serve", "--address", &address]
                .map(str::to_owned)
                .to_vec()
        })))
    }

    fn zuul() -> Option<Registry> {
        if find("zuul-registry").is_none() {
            return lacking("zuul-registry: scripts/test installs it");
        }
        Some(Registry::Zuul(Server::start(
            "zuul-registry",
            |directory, port| {
                let data = directory.join("data").display().to_string();
                let config = json!({"registry": {
                    "address": "127.0.0.1",
                    "port": port,
                    "public-url": format!("http://127.0.0.1:{port}"),
                    "secret": "secret",
                    "storage": {"driver": "filesystem", "root": data},
                    "users": [{"name": "ci", "pass": "s3cret", "access": "write"}],
                }});
                let path = directory.write("registry.yaml", config.to_string());
                vec!["-c".to_owned(), path.display().to_string()]
            },
        )))
    }

    fn repository(&self, name: &str) -> String {
        match self {
            Registry::Docker(registry) => registry.repository(name),
            Registry::Crane(server) | Registry::Zuul(server) => format!("{}/{name}", server.host()),
        }
    }

    fn source(&self, name: &str) -> Value {
        let mut source = json!({"repository": self.repository(name)});
        if let Registry::Zuul(_) = self {
            source["username"] = json!("ci");
            source["password"] = json!("s3cret");
        }
        source
    }

    /// The source with the tag `v1`.
    fn tagged(&self, name: &str) -> Value {
        let mut source = self.source(name);
        source["tag"] = json!("v1");
        source
    }
}

/// `out` of a file or directory.
fn put(source: &Value, path: &Path) -> Output {
    let file = path.file_name().unwrap().to_str().unwrap();
    let request = json!({"source": source, "params": {"image": file}});
    Program::put(request)
        .destination(path.parent().unwrap())
        .real_clock()
        .run()
}

fn digest(output: &Output) -> String {
    let version = output.succeeds()["version"].clone();
    version["digest"].as_str().unwrap().to_owned()
}

fn app(content: &str) -> Image {
    image([
        layer().dir("etc").file("etc/a", content),
        layer().noise("noise", 3_000_000),
        layer().file("b", content).zstd(),
    ])
    .oci()
}

/// `check`, `in` in two formats, and `out` of what that left, also once more.
fn goes_round(registry: &Registry) {
    let work = TempDir::new();
    let many = (0..30).map(|n| layer().file(format!("{n}"), noise(n, 20_000)));
    let saved = image(many).docker();
    let multi = index([
        ("linux/amd64", app("new")),
        ("linux/arm64", image([layer().file("x", "y")]).oci()),
    ])
    .attested()
    .oci();
    app("new").write_layout(&work.join("layout"), None);
    multi.write_layout(&work.join("index"), None);
    work.write("saved", saved.docker_save(&["x:1"]));
    work.write("archive", app("new").oci_archive(Some("x")));
    for name in ["layout", "index", "saved", "archive"] {
        let source = registry.tagged(name);
        let pushed = digest(&put(&source, &work.join(name)));
        let version = json!({"tag": "v1", "digest": pushed});
        let found = Program::check(json!({"source": source})).run().succeeds();
        assert_eq!(found, json!([version]), "{name}");

        let again = put(&source, &work.join(name));
        assert_eq!(digest(&again), pushed, "{name}");
        let told = again.messages();
        assert!(told.contains("v1 is there already"), "{name}: {told}");
        assert!(told.contains("pushed 0 B in "), "{name}: {told}");

        let request = json!({"source": source, "version": version});
        let rootfs = Program::get(request).run();
        rootfs.succeeds();
        match name {
            "saved" => assert!(rootfs.destination().join("rootfs/29").exists()),
            _ => assert_eq!(rootfs.file("rootfs/etc/a"), "new"),
        }
        let params = json!({"format": "oci-layout"});
        let request = json!({"source": source, "version": version, "params": params});
        let got = Program::get(request).run();
        got.succeeds();
        let other = registry.tagged(&format!("{name}-again"));
        assert_eq!(digest(&put(&other, &got.destination().join("oci"))), pushed);
    }
}

#[test]
fn what_is_pushed_to_docker_registry_goes_round() {
    goes_round(&Registry::docker().unwrap());
}

#[test]
fn what_is_pushed_to_crane_goes_round() {
    if let Some(registry) = Registry::crane() {
        goes_round(&registry);
    }
}

#[test]
fn what_is_pushed_to_zuul_registry_goes_round() {
    if let Some(registry) = Registry::zuul() {
        goes_round(&registry);
    }
}

/// Each line of the recorded table in a repository of its own.
fn pushes_the_recorded_tags(registry: &Registry) {
    let work = TempDir::new();
    let small = |content: &str| image([layer().file("a", content)]).oci();
    let (old, new) = (small("old"), small("new"));
    old.write_layout(&work.join("old"), None);
    new.write_layout(&work.join("new"), None);
    for (number, line) in include_str!("cases/put_tags.jsonl").lines().enumerate() {
        let case: Value = serde_json::from_str(line).unwrap();
        let name = format!("line/{}", number + 1);
        let texts = |value: &Value| -> Vec<String> {
            let texts = value.as_array().into_iter().flatten();
            texts
                .map(|text| text.as_str().unwrap().to_owned())
                .collect()
        };
        let out = |source: Value, mut params: Value, image: &str, tags: Option<&str>| {
            params["image"] = json!(image);
            if let Some(tags) = tags {
                let name = params["additional_tags"].as_str().unwrap();
                fs::write(work.join(name), tags).unwrap();
            }
            Program::put(json!({"source": source, "params": params}))
                .destination(work.path())
                .run()
        };
        let existing = texts(&case["existing"]);
        if !existing.is_empty() {
            let params = json!({"additional_tags": "existing"});
            let tags = existing.join(" ");
            out(registry.source(&name), params, "old", Some(&tags)).succeeds();
        }
        let source = merge(registry.source(&name), case["source"].clone());
        let tags = case["additional_tags_file"].as_str();
        let output = out(source, case["params"].clone(), "new", tags);
        let pushed = texts(&case["tags"]);
        if case["error"] == true {
            output.fails();
        } else {
            let answer = output.succeeds();
            let version = json!({"tag": case["version_tag"], "digest": new.digest});
            assert_eq!(answer["version"], version, "{line}");
            assert_eq!(answer["metadata"][1]["value"], pushed.join(" "), "{line}");
        }
        // Nothing else has moved.
        let mut source = registry.source(&name);
        source["tag_regex"] = json!(".");
        let found = Program::check(json!({"source": source})).run().succeeds();
        let found = found.as_array().unwrap().iter();
        let found: BTreeMap<&str, &str> = found
            .map(|version| {
                let text = |field: &str| version[field].as_str().unwrap();
                (text("tag"), text("digest"))
            })
            .collect();
        let existing = existing.iter().map(|tag| (tag.as_str(), &old.digest));
        let pushed = pushed.iter().map(|tag| (tag.as_str(), &new.digest));
        let expected: BTreeMap<&str, &str> = existing
            .chain(pushed)
            .map(|(tag, digest)| (tag, digest.as_str()))
            .collect();
        assert_eq!(found, expected, "{line}");
    }
}

#[test]
fn docker_registry_gets_the_recorded_tags() {
    pushes_the_recorded_tags(&Registry::docker().unwrap());
}

#[test]
fn crane_gets_the_recorded_tags() {
    if let Some(registry) = Registry::crane() {
        pushes_the_recorded_tags(&registry);
    }
}

#[test]
fn zuul_registry_gets_the_recorded_tags() {
    if let Some(registry) = Registry::zuul() {
        pushes_the_recorded_tags(&registry);
    }
}

#[test]
fn a_blob_is_asked_for_in_the_repositories_it_comes_from_and_sent_where_that_fails() {
    let registries = [Registry::docker(), Registry::crane(), Registry::zuul()];
    for registry in registries.into_iter().flatten() {
        let work = TempDir::new();
        let host = registry.repository("");
        let key = format!(
            "containerd.io/distribution.source.{}",
            host.trim_end_matches('/')
        );
        let image = image([layer().noise("noise", 100_000)])
            .oci()
            .lie(|document| {
                document["layers"][0]["annotations"] = json!({key: "nothing,one"});
            });
        image.write_layout(&work.join("image"), None);
        // `nothing` does not have it; `one` does, or the registry has it for all its repositories.
        for (name, there) in [("one", false), ("two", true)] {
            let output = put(&registry.tagged(name), &work.join("image"));
            assert_eq!(digest(&output), image.digest);
            let told = output.messages();
            let is_sum = |line: &&str| line.starts_with("pushed ") && line.contains("/s)");
            let sum = told.lines().find(is_sum);
            let sum = sum.unwrap_or_else(|| panic!("{told}"));
            assert_eq!(sum.ends_with(" there already"), there, "{name}: {sum}");
        }
    }
}
