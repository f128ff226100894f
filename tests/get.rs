//! `in` against the fixture registry: what it leaves in its directory, and what it refuses.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

mod common;

#[path = "get/large.rs"]
mod large;
#[path = "get/platforms.rs"]
mod platforms;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use common::{
    Fault, Gate, Image, Layer, Output, Program, Registry, assert_tree, image, index, layer, merge,
    tree,
};
use rustix::process::Signal;
use serde_json::{Value, json};

fn get(registry: &Registry, digest: &str, source: Value, params: Value) -> Program {
    let request = json!({
        "source": merge(json!({"repository": registry.repository("t/a")}), source),
        "version": {"tag": "1", "digest": digest},
        "params": params,
    });
    Program::get(request).against(registry)
}

fn put(registry: &Registry, image: &Image) -> String {
    registry.alias_image(image, "app");
    registry.put_image("t/a", "1", image)
}

fn app() -> Image {
    image([
        layer()
            .dir("etc")
            .file("etc/a", "one")
            .file("etc/gone", "x"),
        layer().file("etc/b", "two").whiteout("etc/gone").zstd(),
        layer().file("etc/a", "three").plain(),
    ])
    .config(json!({"Cmd": ["sh"], "Env": ["A=b"], "User": "1:2"}))
    .label("commit", "4e5c4ea")
    .label("other", "x")
    .annotation("org.example.note", "y")
    .oci()
}

fn names(output: &Output) -> Vec<String> {
    let entries = fs::read_dir(output.destination()).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_rootfs_comes_with_the_files_that_concourse_reads() {
    let registry = Registry::start();
    let digest = put(&registry, &app());
    let output = get(&registry, &digest, json!({}), json!({})).run();
    output.succeeds_with(json!({
        "version": {"tag": "1", "digest": digest},
        "metadata": [
            {"name": "repository", "value": registry.repository("t/a")},
            {"name": "tag", "value": "1"},
        ],
    }));
    assert_tree(
        output.destination().join("rootfs"),
        [("etc/a", "three"), ("etc/b", "two")],
    );
    assert_eq!(output.file("repository"), registry.repository("t/a"));
    assert_eq!(output.file("tag"), "1");
    assert_eq!(output.file("digest"), digest);
    assert_eq!(
        output.file("metadata.json"),
        r#"{"cmd":["sh"],"entrypoint":null,"env":["A=b"],"user":"1:2"}"#
    );
    assert_eq!(
        output.file("labels.json"),
        r#"{"commit":"4e5c4ea","other":"x"}"#
    );
    let expected = [
        "digest",
        "labels.json",
        "metadata.json",
        "repository",
        "rootfs",
        "tag",
    ];
    assert_eq!(names(&output), expected);
}

#[test]
fn the_result_is_the_same_for_any_number_of_workers() {
    let registry = Registry::start();
    let layers: Vec<Layer> = (0..12u64)
        .map(|n| {
            let mut layer = layer()
                .noise(&format!("data/{n}"), 200_000)
                .file("shared/last", n.to_string())
                .file(format!("shared/{}", n % 3), n.to_string())
                .symlink(format!("links/{n}"), format!("../data/{n}"));
            if n > 0 {
                layer = layer
                    .hardlink(format!("hard/{n}"), format!("data/{}", n - 1))
                    .whiteout(format!("links/{}", n - 1));
            }
            layer
        })
        .collect();
    assert_same_for_any_number_of_workers(&registry, layers);
}

fn assert_same_for_any_number_of_workers(registry: &Registry, layers: Vec<Layer>) {
    let digest = put(registry, &image(layers).oci());
    let run = |workers: &str| {
        let output = get(registry, &digest, json!({}), json!({}))
            .env("REGISTRY_IMAGE_WORKERS", workers)
            .run();
        output.succeeds();
        let nodes = tree(output.destination().join("rootfs"));
        nodes
            .iter()
            .map(|node| node.full_line())
            .collect::<Vec<_>>()
    };
    let one = run("1");
    assert!(one.len() > 30, "{one:#?}");
    for workers in ["2", "4", "16"] {
        assert_eq!(run(workers), one, "{workers} workers");
    }
}

#[test]
fn labels_and_annotations_are_shown_where_the_source_asks_for_them() {
    let registry = Registry::start();
    let digest = put(&registry, &app());
    let source = json!({"label_regex": "^com", "annotation_regex": "example"});
    for params in [json!({}), json!({"skip_download": true})] {
        let output = get(&registry, &digest, source.clone(), params).run();
        assert_eq!(
            output.succeeds()["metadata"],
            json!([
                {"name": "repository", "value": registry.repository("t/a")},
                {"name": "tag", "value": "1"},
                {"name": "commit", "value": "4e5c4ea"},
                {"name": "org.example.note", "value": "y"},
            ])
        );
    }
}

/// A layout is of all platforms: that the step's own is not among them is no reason to fail.
#[test]
fn a_layout_without_the_platform_has_annotations_but_no_labels() {
    let registry = Registry::start();
    let other = image([layer().file("a", "b")])
        .platform("linux/s390x")
        .label("commit", "4e5c4ea")
        .oci();
    let index = index([("linux/s390x", other)])
        .annotation("org.example.note", "y")
        .oci();
    let digest = registry.put_image("t/a", "1", &index);
    let source = json!({
        "label_regex": ".",
        "annotation_regex": ".",
        "platform": {"architecture": "amd64"},
    });
    let params = json!({"format": "oci-layout"});
    let output = get(&registry, &digest, source, params).run();
    let last = &output.succeeds()["metadata"][2];
    assert_eq!(*last, json!({"name": "org.example.note", "value": "y"}));
    assert!(
        output
            .messages()
            .contains("warning: there are no labels to show: "),
        "{}",
        output.messages()
    );
}

#[test]
fn skipping_the_download_costs_no_request() {
    let registry = Registry::start();
    let digest = put(&registry, &app());
    let output = get(
        &registry,
        &digest,
        json!({}),
        json!({"skip_download": true}),
    )
    .run();
    output.succeeds();
    assert_eq!(names(&output), ["digest", "repository", "tag"]);
    assert!(registry.requests().is_empty());
}

/// Builders make the layer of no change for each step that changes nothing.
#[test]
fn what_comes_twice_is_fetched_once() {
    let nothing = || layer().plain();
    let image = image([nothing(), layer().file("a", "a"), nothing(), nothing()]).oci();
    let (config, layers) = (image.config.as_ref().unwrap(), &image.layers);
    for format in ["rootfs", "oci", "oci-layout"] {
        let registry = Registry::start();
        let digest = registry.put_image("t/a", "1", &image);
        let params = json!({"format": format});
        let output = get(&registry, &digest, json!({}), params).run();
        output.succeeds();
        let mut expected = vec![
            format!("GET /v2/t/a/manifests/{digest} 200"),
            format!("GET /v2/t/a/blobs/{} 200", config.digest),
            format!("GET /v2/t/a/blobs/{} 200", layers[0].digest),
            format!("GET /v2/t/a/blobs/{} 200", layers[1].digest),
        ];
        let requests = registry.requests();
        let lines = requests.iter().map(|request| request.line());
        let mut lines: Vec<String> = lines.map(|line| line.to_string()).collect();
        expected.sort();
        lines.sort();
        assert_eq!(lines, expected, "{format}");
    }
}

#[test]
fn an_image_tarball_is_one_for_docker_and_an_oci_layout() {
    let registry = Registry::start();
    let image = app();
    let digest = put(&registry, &image);
    let output = get(&registry, &digest, json!({}), json!({"format": "oci"})).run();
    output.succeeds();
    let expected = ["digest", "image.tar", "labels.json", "repository", "tag"];
    assert_eq!(names(&output), expected);
    let bytes = fs::read(output.destination().join("image.tar")).unwrap();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut members = std::collections::BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        members.insert(entry.path().unwrap().display().to_string(), content);
    }
    let manifest: Value = serde_json::from_slice(&members["manifest.json"]).unwrap();
    assert_eq!(
        manifest[0]["RepoTags"],
        json!([format!("{}:1", registry.repository("t/a"))])
    );
    for layer in manifest[0]["Layers"].as_array().unwrap() {
        assert!(members.contains_key(layer.as_str().unwrap()));
    }
    assert!(members.contains_key("oci-layout") && members.contains_key("index.json"));
    for (name, bytes) in image.objects() {
        let path = format!("blobs/{}", name.replace(':', "/"));
        assert_eq!(members[&path], bytes, "{path}");
    }
}

#[test]
fn what_oci_layout_fetches_a_put_pushes_with_the_same_digest() {
    let child = |platform: &str| {
        image([layer().file("of", platform)])
            .platform(platform)
            .oci()
    };
    let all = index([
        ("linux/amd64", child("linux/amd64")),
        ("linux/arm64", child("linux/arm64")),
    ])
    .attested()
    .oci();
    let nested = index([
        ("linux/s390x", child("linux/s390x")),
        ("linux/amd64", all.clone()),
        ("linux/arm64", index([("linux/arm64", all.clone())]).oci()),
    ])
    .oci();
    for image in [app(), all, nested] {
        let registry = Registry::start();
        let digest = registry.put_image("t/a", "1", &image);
        let output = get(
            &registry,
            &digest,
            json!({}),
            json!({"format": "oci-layout"}),
        )
        .run();
        output.succeeds();
        let request = json!({
            "source": {"repository": registry.repository("t/b"), "tag": "2"},
            "params": {"image": "oci"},
        });
        let pushed = Program::put(request)
            .destination(output.destination())
            .against(&registry)
            .run();
        assert_eq!(pushed.succeeds()["version"]["digest"], json!(digest));
    }
}

#[test]
fn bytes_that_are_not_the_ones_asked_for_leave_no_image() {
    let broken: [(&str, &str, Fault); 5] = [
        (
            "manifests",
            "the bytes are not the ones asked for",
            Fault::FlipByte(10),
        ),
        (
            "config",
            "the bytes are not the ones asked for",
            Fault::FlipByte(10),
        ),
        (
            "layer",
            "the bytes are not the ones asked for",
            Fault::WrongBytes,
        ),
        ("layer", "its descriptor says", Fault::Longer(10)),
        ("layer", "its descriptor says", Fault::Shorter(10)),
    ];
    for (place, why, fault) in broken {
        let registry = Registry::start();
        let image = image([layer().noise("data", 100_000)]).oci();
        let digest = registry.put_image("t/a", "1", &image);
        let path = match place {
            "manifests" => format!("/v2/t/a/manifests/{digest}"),
            "config" => format!("/v2/t/a/blobs/{}", image.config.as_ref().unwrap().digest),
            _ => format!("/v2/t/a/blobs/{}", image.layers[0].digest),
        };
        registry.on("GET", &path).always().then(fault);
        let output = get(&registry, &digest, json!({}), json!({})).run();
        output.fails();
        assert!(
            output.messages().contains(why),
            "{place}: {}",
            output.messages()
        );
        for name in ["digest", "metadata.json", "tag"] {
            assert!(!output.destination().join(name).exists(), "{place}: {name}");
        }
    }
}

#[test]
fn a_layer_that_is_wrong_once_is_fetched_again() {
    let registry = Registry::start();
    let image = image([layer().noise("data", 100_000)]).oci();
    let digest = registry.put_image("t/a", "1", &image);
    registry
        .on("GET", &format!("/v2/t/a/blobs/{}", image.layers[0].digest))
        .then(Fault::WrongBytes);
    let output = get(&registry, &digest, json!({}), json!({})).run();
    output.succeeds();
    assert_eq!(tree(output.destination().join("rootfs")).len(), 2);
}

#[test]
fn a_layer_whose_content_is_not_its_diff_id_is_a_broken_image_and_not_tried_again() {
    let registry = Registry::start();
    let other = common::sha256(b"other");
    let image = image([layer().file("a", "b")])
        .edit_config(move |config| config["rootfs"]["diff_ids"][0] = json!(other))
        .oci();
    let digest = put(&registry, &image);
    let output = get(&registry, &digest, json!({}), json!({})).run();
    output.fails();
    assert!(
        output.messages().contains("layer 1 of 1"),
        "{}",
        output.messages()
    );
    let blob = format!("GET /v2/t/a/blobs/{} 200", image.layers[0].digest);
    let fetched = registry
        .requests()
        .iter()
        .filter(|request| request.line() == blob)
        .count();
    assert!(fetched <= 1);
}

#[test]
fn layers_and_diff_ids_are_as_many() {
    let registry = Registry::start();
    let image = image([layer().file("a", "b")])
        .edit_config(|config| config["rootfs"]["diff_ids"] = json!([]))
        .oci();
    let digest = put(&registry, &image);
    get(&registry, &digest, json!({}), json!({}))
        .showing(&digest, "DIGEST")
        .run()
        .fails_with(
            "get: REGISTRY/t/a@DIGEST: the config lists 0 layers (`rootfs.diff_ids`), the manifest 1",
        );
}

#[test]
fn an_artifact_is_named_by_its_type_and_fetched_as_a_layout() {
    let registry = Registry::start();
    let chart = image([layer().file("Chart.yaml", "name: x")])
        .oci()
        .lie(|manifest| {
            manifest["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
        });
    let digest = registry.put_image("t/a", "1", &chart);
    let output = get(&registry, &digest, json!({}), json!({}))
        .showing(&digest, "DIGEST")
        .run();
    output.fails_with(
        "get: REGISTRY/t/a@DIGEST is no image, but an artifact of type \
         `application/vnd.cncf.helm.config.v1+json`; fetch it with `params.format: oci-layout`",
    );
    get(
        &registry,
        &digest,
        json!({}),
        json!({"format": "oci-layout"}),
    )
    .run()
    .succeeds();
}

#[test]
fn what_an_earlier_try_left_is_replaced_and_a_strangers_files_stay() {
    let registry = Registry::start();
    let digest = put(&registry, &app());
    let ours = ["digest", "repository", "tag"];
    let formats: [(Value, &[&str]); 4] = [
        (
            json!({"format": "rootfs"}),
            &["labels.json", "metadata.json", "rootfs"],
        ),
        (json!({"format": "oci"}), &["image.tar", "labels.json"]),
        (json!({"format": "oci-layout"}), &["oci"]),
        (json!({"skip_download": true}), &[]),
    ];
    for (params, expected) in formats {
        let program = get(&registry, &digest, json!({}), params.clone());
        for (name, text) in [
            ("rootfs/stale", "x"),
            (".layers/0/tree/stale", "x"),
            (".image.tar.partial", "x"),
            ("image.tar", "x"),
            ("oci/index.json", "{}"),
            ("oci/blobs/sha256/stale", "x"),
            ("digest", "sha256:old"),
            (".digest.partial", "sha2"),
            ("labels.json", "{}"),
            ("metadata.json", "{}"),
            ("notes.txt", "mine"),
        ] {
            let path = program.directory_argument().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let output = program.run();
        output.succeeds();
        assert_eq!(output.file("digest"), digest);
        assert_eq!(output.file("notes.txt"), "mine");
        let mut expected = [expected, &ours, &["notes.txt"]].concat();
        expected.sort_unstable();
        assert_eq!(names(&output), expected, "{params}");
        if expected.contains(&"rootfs") {
            assert_tree(
                output.destination().join("rootfs"),
                [("etc/a", "three"), ("etc/b", "two")],
            );
        }
        if expected.contains(&"oci") {
            let stale = output.destination().join("oci/blobs/sha256/stale");
            assert!(!stale.exists());
        }
    }
}

#[test]
fn a_destination_that_cannot_be_written_to_is_named() {
    let registry = Registry::start();
    let digest = put(&registry, &app());
    let run = |format: &str, program: &dyn Fn(Program) -> Program| {
        let params = json!({"format": format});
        program(get(&registry, &digest, json!({}), params).showing(&digest, "DIGEST")).run()
    };
    for (format, line) in [
        (
            "rootfs",
            "get: REGISTRY/t/a@DIGEST: destination `TMP/dest`: make directory `.layers`: \
             permission denied",
        ),
        (
            "oci",
            "get: REGISTRY/t/a@DIGEST: create `TMP/dest/.image.tar.partial`: permission denied",
        ),
        (
            "oci-layout",
            "get: make directory `TMP/dest/oci`: permission denied",
        ),
    ] {
        let closed = |program: Program| {
            let mode = fs::Permissions::from_mode(0o555);
            fs::set_permissions(program.directory_argument(), mode).unwrap();
            program.unprivileged()
        };
        run(format, &closed).fails_with(line);
        let file = |program: Program| {
            let path = program.beside("file");
            fs::write(&path, "mine").unwrap();
            program.destination(path)
        };
        let output = run(format, &file);
        output.fails_with("get: create `TMP/file`: file exists");
        assert_eq!(fs::read_to_string(output.destination()).unwrap(), "mine");
    }
}

/// A build whose log nobody reads any more goes on: only lines wait for a reader, bars never.
#[test]
fn progress_does_not_wait_for_a_reader() {
    let registry = Registry::start();
    let layers = (0..20).map(|n| layer().noise(&format!("data/{n}"), 20_000));
    let image = image(layers).oci();
    let digest = registry.put_image("t/a", "1", &image);
    for layer in &image.layers {
        let blob = format!("/v2/t/a/blobs/{}", layer.digest);
        let slowly = Fault::Slowly(4000, Duration::from_millis(50));
        registry.on("GET", &blob).then(slowly);
    }
    // The last line takes the rest of the one page that the pipe has room for.
    let output = get(&registry, &digest, json!({}), json!({}))
        .unread_stderr(4096)
        .run();
    output.succeeds();
    assert_eq!(output.file("digest"), digest);
}

/// Whatever was under way, a run that is ended leaves no image, and the next one in the same
/// directory makes what a first one makes.
#[test]
fn a_run_that_is_killed_leaves_nothing_that_looks_like_an_image() {
    // One worker takes them by size: the upper layer is asked for when the lower one is merged.
    let image = image([
        layer()
            .dir("closed")
            .mode(0)
            .file("closed/file", "1")
            .noise("data", 1_200_000),
        layer()
            .noise("data", 300_000)
            .whiteout("closed/file")
            .hardlink("closed/link", "data"),
    ])
    .oci();
    let config = &image.config.as_ref().unwrap().digest;
    let [lower, upper] = [0, 1].map(|at| format!("blobs/{}", image.layers[at].digest));
    let points: [(String, &[u64]); 4] = [
        (format!("manifests/{}", image.digest), &[0]),
        (format!("blobs/{config}"), &[0]),
        (lower, &[0, 1_100_000]),
        (upper, &[0, 200_000]),
    ];
    // Not SIGINT: shells start what runs in the background without it.
    let signals = [Signal::KILL, Signal::TERM];
    for (at, format) in ["rootfs", "oci", "oci-layout"].into_iter().enumerate() {
        let registry = Registry::start();
        let digest = registry.put_image("t/a", "1", &image);
        let program = || {
            get(&registry, &digest, json!({}), json!({"format": format}))
                .env("REGISTRY_IMAGE_WORKERS", "1")
                .unprivileged()
        };
        let clean = program().run();
        clean.succeeds();
        let expected = everything(clean.destination());
        let points = points.iter().flat_map(|(path, stops)| {
            let stops = stops.iter();
            stops.map(move |stop| (format!("/v2/t/a/{path}"), *stop))
        });
        for ((path, stop), signal) in points.zip(signals.iter().cycle().skip(at)) {
            let at = format!("{format}, {signal:?} at byte {stop} of {path}");
            registry.forget_requests();
            registry.on("GET", &path).then(match stop {
                0 => Fault::Stall,
                bytes => Fault::StallAfter(bytes),
            });
            let running = program().start();
            registry.wait_for(&at, |requests| {
                let line = format!("GET {path}");
                let mut lines = requests.iter().map(|request| request.line());
                lines.any(|found| found.starts_with(&line))
            });
            let output = running.signal(*signal);
            assert!(!output.status.success(), "{at}");
            for name in ["digest", "metadata.json", "image.tar", "oci/index.json"] {
                assert!(!output.destination().join(name).exists(), "{at}: {name}");
            }
            registry.release();
            let again = program().destination(output.destination()).run();
            again.succeeds();
            assert_eq!(everything(again.destination()), expected, "{at}");
        }
    }
}

/// All that is in a directory, without the times that are the run's.
fn everything(directory: &Path) -> Vec<String> {
    let nodes = tree(directory);
    let lines = nodes.iter().map(|node| match node.path.as_str() {
        path if path.starts_with("rootfs") => node.full_line(),
        _ => node.line(),
    });
    lines.collect()
}

/// The layer that fails is the one that the line names, and nobody waits for the others: neither
/// for bytes that trickle nor for the end of a wait.
#[test]
fn a_layer_that_fails_for_good_stops_the_others() {
    let image = image([
        layer().file("small", "x"),
        layer().noise("large", 10_000_000),
    ])
    .oci();
    let [small, large] = [0, 1].map(|at| format!("/v2/t/a/blobs/{}", image.layers[at].digest));
    for format in ["rootfs", "oci", "oci-layout"] {
        let faults = [
            Fault::Slowly(1000, Duration::from_millis(10)),
            Fault::too_many(300),
            Fault::unavailable(300),
            // Silence, at once and in the middle.
            Fault::Stall,
            Fault::StallAfter(1_000),
        ];
        for fault in faults {
            let registry = Registry::start();
            let digest = registry.put_image("t/a", "1", &image);
            // Both are under way; then the large one is slow or waits; then the small one fails.
            let (both, gate) = (Gate::meeting(2), Gate::new());
            registry
                .on("GET", &large)
                .then(Fault::Hold(both.clone()))
                .and(fault);
            registry
                .on("GET", &small)
                .then(Fault::Hold(both))
                .and(Fault::Hold(gate.clone()))
                .and(Fault::error(404, "BLOB_UNKNOWN", "gone"));
            let running = get(&registry, &digest, json!({}), json!({"format": format}))
                .env("REGISTRY_IMAGE_WORKERS", "4")
                .real_clock()
                .limit(Duration::from_secs(30))
                .start();
            registry.wait_for("an answer for the large layer", |requests| {
                let mut lines = requests.iter().map(|request| request.line());
                lines.any(|line| line.starts_with(&format!("GET {large} ")))
            });
            gate.open();
            let output = running.wait();
            output.fails();
            let messages = output.messages();
            let last = messages.lines().last().unwrap();
            assert!(
                last.ends_with("404 Not Found: BLOB_UNKNOWN: gone"),
                "{format}: {last}"
            );
        }
    }
}

/// What a reader says is no word about a digest.
#[test]
fn a_connection_that_breaks_behind_the_tar_is_named_as_such() {
    let registry = Registry::start();
    let long = layer().file("a", "b").end([0; 100_000]).plain();
    let image = image([long]).oci();
    let digest = put(&registry, &image);
    let layer = &image.layers[0].digest;
    let blob = format!("/v2/t/a/blobs/{layer}");
    registry.on("GET", &blob).then(Fault::ResetAfter(50_000));
    let denied = Fault::error(403, "DENIED", "no more");
    registry.on("GET", &blob).nth(2).then(denied);
    get(&registry, &digest, json!({}), json!({}))
        .showing(&digest, "DIGEST")
        .showing(layer, "LAYER")
        .showing(&layer[..19], "LAYER")
        .run()
        .fails_ending_with(
            "get: REGISTRY/t/a@DIGEST: layer 1 of 1 (LAYER…): read LAYER… at byte 50000 of 101024: \
             GET http://REGISTRY/v2/t/a/blobs/LAYER: 403 Forbidden: DENIED: no more; \
             set `source.username` and `source.password`",
        );
}

#[test]
fn platform_free_images_of_another_platform_are_fetched_with_a_warning() {
    let registry = Registry::start();
    let image = image([layer().file("a", "b")])
        .platform("linux/arm64")
        .oci();
    let digest = put(&registry, &image);
    let amd64 = json!({"platform": {"architecture": "amd64", "os": "linux"}});
    let output = get(&registry, &digest, amd64, json!({})).run();
    output.succeeds();
    assert!(
        output.messages().contains(
            "warning: the image is for linux/arm64, not for linux/amd64; there is no other"
        ),
        "{}",
        output.messages()
    );
}

#[test]
fn a_missing_directory_argument_and_a_bad_request_make_no_connection() {
    for (arguments, stdin, line) in [
        (["in"], "{}", "get: destination path not specified"),
        (["out"], "{}", "put: source path not specified"),
        (
            ["check"],
            "",
            "check: the request on stdin is empty; send a JSON document with `source` in it",
        ),
        (
            ["check"],
            r#"{"source":{"repository":"#,
            "check: the request on stdin is not valid JSON: EOF while parsing a value at line 1 column 24",
        ),
        (
            ["nonsense"],
            "",
            "`nonsense` is not a command; see `registry-image --help`",
        ),
    ] {
        Program::new(arguments).stdin(stdin).run().fails_with(line);
    }
}
