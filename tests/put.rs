//! `out` against the fixture registry: what is pushed, in which order, and under which tags.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

mod common;

use common::{
    Fault, Image, Offence, Program, Registry, Tokens, answer, image, index, layer, merge, noise,
};
use serde_json::{Value, json};

fn app(content: &str) -> Image {
    image([
        layer().file("etc/base", "base"),
        layer().file("app", content),
    ])
    .oci()
}

/// A put of `image` as an OCI layout directory named `image`.
fn put(registry: &Registry, image: &Image, source: Value, params: Value) -> Program {
    let request = json!({
        "source": merge(json!({"repository": registry.repository("t/a")}), source),
        "params": merge(json!({"image": "image"}), params),
    });
    let program = Program::put(request).against(registry);
    image.write_layout(&program.directory_argument().join("image"), None);
    program
}

/// `out` of the bytes of a tarball, as `v1`.
fn put_tarball(registry: &Registry, bytes: Vec<u8>) -> Program {
    let request = json!({
        "source": {"repository": registry.repository("t/a"), "tag": "v1"},
        "params": {"image": "image.tar"},
    });
    Program::put(request)
        .against(registry)
        .source_file("image.tar", bytes)
}

#[test]
fn every_recorded_put_pushes_the_recorded_tags() {
    let table = include_str!("cases/put_tags.jsonl");
    let image = app("new");
    for (number, line) in table.lines().enumerate() {
        let case: Value = serde_json::from_str(line).unwrap();
        let registry = Registry::start();
        for (at, tag) in case["existing"].as_array().unwrap().iter().enumerate() {
            registry.put_image("t/a", tag.as_str().unwrap(), &app(&at.to_string()));
        }
        let before = registry.tags("t/a");
        let mut params = case["params"].clone();
        params["image"] = json!("image");
        let mut program = put(&registry, &image, case["source"].clone(), params);
        if let (Some(text), Some(name)) = (
            case["additional_tags_file"].as_str(),
            case["params"]["additional_tags"].as_str(),
        ) {
            program = program.source_file(name, text);
        }
        let output = program.run();
        if case["error"] == true {
            output.fails();
            assert_eq!(registry.tags("t/a"), before, "line {}: {line}", number + 1);
            continue;
        }
        let tags: Vec<&str> = case["tags"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tag| tag.as_str().unwrap())
            .collect();
        output.succeeds_with(json!({
            "version": {"tag": case["version_tag"], "digest": image.digest},
            "metadata": [
                {"name": "repository", "value": registry.repository("t/a")},
                {"name": "tags", "value": tags.join(" ")},
            ],
        }));
        let now = registry.tags("t/a");
        for tag in tags {
            let there = now
                .iter()
                .any(|(name, digest)| name == tag && *digest == image.digest);
            assert!(there, "line {}: {tag}: {line}", number + 1);
        }
    }
}

#[test]
fn blobs_come_before_the_manifest_and_tags_come_last() {
    let registry = Registry::start();
    let image = app("new");
    registry.alias_image(&image, "app");
    let output = put(&registry, &image, json!({"tag": "v1"}), json!({}))
        .env("REGISTRY_IMAGE_WORKERS", "1")
        .run();
    output.succeeds();
    let lines = registry.lines();
    let first_manifest = lines
        .iter()
        .position(|line| line.starts_with("PUT /v2/t/a/manifests/"))
        .unwrap();
    let last_blob = lines
        .iter()
        .rposition(|line| line.contains("/blobs/"))
        .unwrap();
    assert!(last_blob < first_manifest, "{lines:#?}");
    let puts: Vec<&String> = lines
        .iter()
        .filter(|line| line.starts_with("PUT /v2/t/a/manifests/"))
        .collect();
    assert_eq!(
        puts.last().unwrap().as_str(),
        "PUT /v2/t/a/manifests/v1 201"
    );
}

#[test]
fn a_second_put_of_the_same_image_sends_nothing() {
    let registry = Registry::start();
    let image = app("new");
    put(&registry, &image, json!({"tag": "v1"}), json!({}))
        .run()
        .succeeds();
    registry.forget_requests();
    put(&registry, &image, json!({"tag": "v1"}), json!({}))
        .run()
        .succeeds();
    let lines = registry.lines();
    assert!(
        lines.iter().all(|line| line.starts_with("HEAD ")),
        "{lines:#?}"
    );
}

#[test]
fn an_index_goes_up_with_all_its_images_and_keeps_its_digest() {
    let registry = Registry::start();
    let index = index([("linux/amd64", app("amd64")), ("linux/arm64", app("arm64"))])
        .attested()
        .oci();
    let output = put(&registry, &index, json!({"tag": "v1"}), json!({})).run();
    assert_eq!(output.succeeds()["version"]["digest"], json!(index.digest));
    assert_eq!(
        registry.tags("t/a"),
        [("v1".to_owned(), index.digest.clone())]
    );
}

#[test]
fn a_docker_tarball_is_pushed_with_its_layers_compressed_and_sent_once() {
    let image = app("new");
    for bytes in [
        image.docker_save(&["other/name:9"]),
        image.docker_save_oci(&["other/name:9"]),
    ] {
        let registry = Registry::start();
        let digest = put_tarball(&registry, bytes).run().succeeds()["version"]["digest"]
            .as_str()
            .unwrap()
            .to_owned();
        // Names inside the tarball do not choose where it goes.
        assert_eq!(registry.tags("t/a"), [("v1".to_owned(), digest.clone())]);
        let manifest = registry.manifest("t/a", &digest).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest.bytes).unwrap();
        for layer in manifest["layers"].as_array().unwrap() {
            let blob = registry
                .blob("t/a", layer["digest"].as_str().unwrap())
                .unwrap();
            assert_eq!(blob.len() as u64, layer["size"].as_u64().unwrap());
            assert_eq!(blob[..2], [0x1f, 0x8b]);
        }
    }
}

/// As containerd notes it: on the entry of `index.json`, for all that the image has.
#[test]
fn blobs_are_mounted_from_where_the_index_says_the_image_came_from() {
    let registry = Registry::start();
    let image = app("base");
    registry.put_image("t/base", "1", &image);
    let program = put(&registry, &image, json!({"tag": "v1"}), json!({}));
    let path = program.directory_argument().join("image/index.json");
    let mut index: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let name = format!("containerd.io/distribution.source.{}", registry.host());
    index["manifests"][0]["annotations"] = json!({name: "t/base"});
    std::fs::write(&path, index.to_string()).unwrap();
    program.run().succeeds();
    let lines = registry.lines();
    let mounts = lines
        .iter()
        .filter(|line| line.contains("from=t%2Fbase") && line.ends_with(" 201"));
    assert_eq!(mounts.count(), image.blobs().count(), "{lines:#?}");
    assert!(
        !lines.iter().any(|line| line.starts_with("PATCH ")),
        "{lines:#?}"
    );
}

#[test]
fn versions_of_a_registry_that_knows_no_pages_are_known_too() {
    // zuul-registry: with any query the list is a page that is not there.
    let registry = Registry::start();
    registry.put_image("t/a", "2.0.0", &app("two"));
    registry.put_image("t/a", "1.0.0", &app("one"));
    let no_page = answer(404).with("Content-Type", "text/html;charset=utf-8");
    registry
        .on("GET", "/v2/t/a/tags/list?n=*")
        .always()
        .then(Fault::Answer(no_page.body("<html>404 Not Found</html>")));
    let params = json!({"version": "1.0.1", "bump_aliases": true});
    let answer = put(&registry, &app("new"), json!({}), params)
        .run()
        .succeeds();
    assert_eq!(answer["metadata"][1]["value"], "1.0.1 1 1.0");
}

#[test]
fn a_rebuild_with_one_new_layer_sends_one_layer() {
    let registry = Registry::start();
    let push = |image: &Image| put_tarball(&registry, image.docker_save(&[])).run();
    push(&app("one")).succeeds();
    registry.forget_requests();
    let output = push(&app("two"));
    output.succeeds();
    let sum = output.messages();
    let sum = sum
        .lines()
        .find(|line| line.starts_with("pushed "))
        .unwrap();
    assert!(sum.ends_with("/s); 102 B there already"), "{sum}");
    let lines = registry.lines();
    let uploads = lines
        .iter()
        .filter(|line| line.starts_with("PATCH "))
        .count();
    assert_eq!(
        uploads,
        2,
        "the layer and the config: {:#?}",
        registry.lines()
    );
}

/// A docker tarball with one layer of `size` bytes that do not compress.
fn put_noise(registry: &Registry, size: usize) -> Program {
    let image = image([layer().file("noise", noise(5, size)).plain()]).oci();
    put_tarball(registry, image.docker_save(&[]))
}

/// `Content-Range` and length of each PATCH that was accepted, those of the config left out.
fn pieces(registry: &Registry) -> Vec<(Option<String>, usize)> {
    let requests = registry.requests();
    let sent = requests
        .iter()
        .filter(|request| request.head.method == "PATCH" && request.outcome == "202");
    sent.map(|request| {
        let range = request.header("content-range").map(str::to_owned);
        (range, request.body.len())
    })
    .filter(|(_, size)| *size > 10_000)
    .collect()
}

#[test]
fn a_blob_that_is_refused_as_too_large_goes_up_in_pieces_that_are_taken() {
    const MIB: usize = 1 << 20;
    let size = 4 * MIB + 12_345;
    let content = layer().file("noise", noise(5, size)).plain();
    for (largest, piece) in [(2 * MIB, 2 * MIB), (3 * MIB, 2 * MIB), (MIB, MIB)] {
        for relative in [false, true] {
            let mut setup = Registry::setup().largest_body(largest as u64);
            if relative {
                setup = setup.relative_locations();
            }
            let registry = setup.start();
            let image = image([content.clone()]).oci();
            let output = put(&registry, &image, json!({"tag": "v1"}), json!({})).run();
            output.succeeds();
            let whole = image.layers[0].bytes.len();
            let expected: Vec<_> = (0..whole)
                .step_by(piece)
                .map(|at| {
                    let end = whole.min(at + piece);
                    (Some(format!("{at}-{}", end - 1)), end - at)
                })
                .collect();
            assert_eq!(pieces(&registry), expected);
            let stored = registry.blob("t/a", &image.layers[0].digest);
            assert!(stored.unwrap() == image.layers[0].bytes);
        }
    }
}

#[test]
fn a_layer_that_is_compressed_on_its_way_goes_up_in_pieces_too() {
    let registry = Registry::setup().largest_body(2 << 20).start();
    put_noise(&registry, 3 << 20).run().succeeds();
    let ranges: Vec<_> = pieces(&registry)
        .into_iter()
        .map(|(range, _)| range)
        .collect();
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    assert_eq!(ranges[0].as_deref(), Some("0-2097151"));
}

#[test]
fn the_other_blobs_do_not_ask_again_what_is_too_large() {
    let registry = Registry::setup().largest_body(2 << 20).start();
    let layers = [1, 2, 3].map(|seed| layer().file("noise", noise(seed, 3 << 20)).plain());
    let image = image(layers).oci();
    put(&registry, &image, json!({"tag": "v1"}), json!({}))
        .env("REGISTRY_IMAGE_WORKERS", "1")
        .run()
        .succeeds();
    let refused = registry
        .lines()
        .iter()
        .filter(|line| line.ends_with(" 413"))
        .count();
    assert_eq!(refused, 1);
}

#[test]
fn a_registry_that_wants_lengths_gets_them() {
    let registry = Registry::setup().wants_lengths().start();
    put_noise(&registry, 1 << 20).run().succeeds();
    assert_eq!(pieces(&registry).len(), 1);
}

#[test]
fn no_piece_but_the_last_is_smaller_than_the_registry_takes() {
    let registry = Registry::setup()
        .largest_body(3 << 20)
        .smallest_piece(2_500_000)
        .start();
    put_noise(&registry, 6_000_000).run().succeeds();
    let sizes: Vec<_> = pieces(&registry)
        .into_iter()
        .map(|(_, size)| size)
        .collect();
    assert_eq!(sizes[..2], [2_500_000; 2]);
    assert_eq!(sizes.len(), 3);

    // Nothing can be sent to one that takes neither.
    let registry = Registry::setup()
        .largest_body(2 << 20)
        .smallest_piece(2_500_000)
        .start();
    let output = put_noise(&registry, 6_000_000).run();
    output.fails();
    assert!(registry.tags("t/a").is_empty());
}

#[test]
fn a_body_that_is_too_large_however_small_is_an_error() {
    let registry = Registry::setup().largest_body(100).start();
    let output = put(&registry, &app("new"), json!({"tag": "v1"}), json!({}))
        .env("REGISTRY_IMAGE_WORKERS", "1")
        .run();
    output.fails();
    let last = output.messages().lines().last().unwrap().to_owned();
    assert!(
        last.ends_with(": 413 Payload Too Large: an HTML page instead of an answer"),
        "{last}"
    );
    assert!(registry.tags("t/a").is_empty());
}

#[test]
fn a_piece_that_breaks_starts_the_blob_anew() {
    let registry = Registry::setup().largest_body(1 << 20).start();
    let piece = |at| {
        registry
            .on("PATCH", "/v2/t/a/blobs/uploads/*")
            .with_header("content-range", at)
    };
    piece("1048576-*").then(Fault::Reset);
    piece("2097152-*").then(Fault::error(416, "RANGE_INVALID", "out of order"));
    piece("1048576-*").nth(3).then(Fault::error(
        404,
        "BLOB_UPLOAD_UNKNOWN",
        "blob upload unknown to registry",
    ));
    put_noise(&registry, 3 << 20).run().succeeds();
}

#[test]
fn a_commit_that_comes_about_a_moment_after_its_error_counts() {
    let image = app("new");
    for fault in [
        Fault::DoneBut(answer(504).body("the storage is slow")),
        Fault::DoneThenReset,
    ] {
        let registry = Registry::start();
        let digest = &image.layers[0].digest;
        let blob = format!("/v2/t/a/blobs/{digest}");
        registry
            .on(
                "PUT",
                &format!("/v2/t/a/blobs/uploads/*?*digest=*{}", &digest[7..]),
            )
            .then(fault);
        // The second look finds it; the first one came before the upload.
        registry
            .on("HEAD", &blob)
            .nth(2)
            .times(1)
            .then(Fault::error(404, "BLOB_UNKNOWN", "unknown"));
        // The session is gone: a second commit is an offence that the program cannot know of.
        registry.allow(Offence::NoSuchUpload);
        put(&registry, &image, json!({"tag": "v1"}), json!({}))
            .env("REGISTRY_IMAGE_WORKERS", "1")
            .run()
            .succeeds();
        let patches = registry
            .lines()
            .iter()
            .filter(|line| line.starts_with("PATCH "))
            .count();
        assert_eq!(patches, 3, "no blob is sent twice");
    }
}

#[test]
fn a_token_that_another_worker_lost_meanwhile_is_renewed_again() {
    let tokens = Tokens::new().user("alice", "s3cret");
    for (method, path) in [
        ("POST", "/v2/t/a/blobs/uploads/"),
        ("PATCH", "/v2/t/a/blobs/uploads/*"),
        ("PUT", "/v2/t/a/blobs/uploads/*"),
        ("PUT", "/v2/t/a/manifests/*"),
    ] {
        let registry = Registry::setup().bearer(&tokens).start();
        registry.on(method, path).times(3).then(Fault::Expired);
        let source = json!({"tag": "v1", "username": "alice", "password": "s3cret"});
        let output = put(&registry, &app("new"), source, json!({}))
            .env("REGISTRY_IMAGE_WORKERS", "4")
            .run();
        output.succeeds();
    }
}

#[test]
fn a_commit_whose_answer_is_lost_counts_when_the_blob_is_there() {
    let registry = Registry::start();
    registry
        .on("PUT", "/v2/t/a/blobs/uploads/*")
        .then(Fault::DoneThenReset);
    put(&registry, &app("new"), json!({"tag": "v1"}), json!({}))
        .run()
        .succeeds();
}

#[test]
fn a_tag_that_cannot_be_read_back_fails_the_step_and_says_that_it_was_pushed() {
    let registry = Registry::start();
    let image = app("new");
    registry
        .on("HEAD", "/v2/t/a/manifests/v1")
        .always()
        .then(Fault::error(404, "MANIFEST_UNKNOWN", "unknown"));
    put(&registry, &image, json!({"tag": "v1"}), json!({})).run().fails_ending_with(
        "put: REGISTRY/t/a: v1 was pushed, but cannot be read after 60 s; the registry may need longer: run the step again",
    );
    // Somebody else has pushed in between.
    let registry = Registry::start();
    let other = app("theirs");
    registry
        .on("HEAD", "/v2/t/a/manifests/v1")
        .always()
        .then(Fault::Header("Docker-Content-Digest", other.digest.clone()));
    put(&registry, &image, json!({"tag": "v1"}), json!({})).run().fails_ending_with(&format!(
        "put: REGISTRY/t/a: v1 was pushed, but points to {} after 60 s; see whether somebody else pushes the same tag",
        other.digest
    ));
    // A registry that takes what it does not let this user read, or breaks.
    for (fault, said) in [
        (
            Fault::error(403, "DENIED", "no pulls"),
            "403 Forbidden: DENIED: no pulls; set",
        ),
        (
            Fault::error(503, "UNAVAILABLE", "later"),
            "503 Service Unavailable: UNAVAILABLE: later (",
        ),
    ] {
        let registry = Registry::start();
        let path = format!("/v2/t/a/manifests/{}", image.digest);
        registry
            .on("HEAD", &path)
            .nth(2)
            .always()
            .then(Fault::Answer(answer(405)));
        registry.on("GET", &path).always().then(fault);
        let output = put(&registry, &image, json!({"tag": "v1"}), json!({})).run();
        output.fails();
        let told = output.messages();
        let last = told.lines().last().unwrap();
        let but = format!(
            "put: REGISTRY/t/a: {} was pushed, but cannot be read: ",
            image.digest
        );
        assert!(last.starts_with(&but) && last.contains(said), "{last}");
    }
}

#[test]
fn a_digest_of_the_other_algorithm_is_as_good_as_that_of_its_name() {
    // A registry that answers with its own algorithm, whatever was asked for.
    let registry = Registry::start();
    let image = image([layer().file("a", "b")]).sha512().oci();
    let digest = registry.put_image("t/a", "1", &image);
    let get = |format: &str| {
        let output = Program::get(json!({
            "source": {"repository": registry.repository("t/a")},
            "version": {"tag": "1", "digest": digest},
            "params": {"format": format},
        }))
        .against(&registry)
        .run();
        output.succeeds();
        output
    };
    for (format, name) in [("oci", "image.tar"), ("oci-layout", "oci")] {
        let fetched = get(format);
        let request = json!({
            "source": {"repository": registry.repository("t/b"), "tag": format},
            "params": {"image": name},
        });
        let output = Program::put(request)
            .destination(fetched.destination())
            .against(&registry)
            .run();
        output.succeeds();
        assert!(registry.tags("t/b").iter().any(|(tag, _)| tag == format));
    }
}

#[test]
fn images_that_cannot_be_pushed_leave_every_tag_where_it_was() {
    let registry = Registry::start();
    let image = app("new");
    // Two layers: the registry has the first one already.
    registry.put_image("t/a", "v1", &app("old"));
    let before = registry.tags("t/a");
    let layer = image.layers[1].digest.clone();
    let path = |program: &Program| {
        let hex = layer.split_once(':').unwrap().1;
        program
            .directory_argument()
            .join("image/blobs/sha256")
            .join(hex)
    };
    type Spoil = fn(&std::path::Path);
    let spoilt: [(Spoil, &str); 3] = [
        (
            |blob| std::fs::remove_file(blob).unwrap(),
            "there is no such file",
        ),
        (
            |blob| std::fs::write(blob, "short").unwrap(),
            "it has 5 bytes",
        ),
        (
            |blob| {
                let mut bytes = std::fs::read(blob).unwrap();
                bytes[20] ^= 1;
                std::fs::write(blob, bytes).unwrap();
            },
            "their digest is",
        ),
    ];
    for (spoil, expect) in spoilt {
        let program = put(&registry, &image, json!({"tag": "v1"}), json!({}));
        spoil(&path(&program));
        let output = program.run();
        output.fails();
        let told = output.messages();
        let last = told.lines().last().unwrap();
        assert!(last.contains(expect), "{last}");
        assert_eq!(registry.tags("t/a"), before, "{expect}");
    }
}

#[test]
fn the_image_is_one_file_that_is_there() {
    let registry = Registry::start();
    let run = |pattern: &str| {
        let request = json!({
            "source": {"repository": registry.repository("t/a"), "tag": "v1"},
            "params": {"image": pattern},
        });
        Program::put(request)
            .against(&registry)
            .source_file("one/image.tar", "")
            .source_file("two/image.tar", "")
            .source_file("empty/.keep", "")
            .run()
    };
    run("three/*.tar").fails_with(
        "put: `params.image`: no files match glob `three/*.tar`; \
         the path is relative to the step's source directory; is the artifact an input of the put?",
    );
    run("*/image.tar").fails_with(
        "put: `params.image`: too many files match glob `*/image.tar`: `one/image.tar`, `two/image.tar`",
    );
    run("empty").fails_with(
        "put: read image `TMP/src/empty`: the directory is no OCI layout: it has no `index.json`",
    );
    assert!(registry.requests().is_empty());
}

#[test]
fn what_is_no_tag_is_refused_before_anything_is_sent() {
    let registry = Registry::start();
    let image = app("new");
    put(&registry, &image, json!({}), json!({}))
        .run()
        .fails_with("put: no tag specified - need either 'version:' in params or 'tag:' in source");
    let program = put(
        &registry,
        &image,
        json!({}),
        json!({"additional_tags": "tags/list"}),
    );
    let output = program.source_file("tags/list", "ok feature/x").run();
    output.fails();
    assert!(
        output.messages().contains("`feature/x`"),
        "{}",
        output.messages()
    );
    assert!(registry.requests().is_empty());
}

#[test]
fn an_immutable_tag_is_told_in_the_registrys_own_words() {
    let registry = Registry::start();
    registry
        .on("PUT", "/v2/t/a/manifests/v1")
        .then(Fault::error(
            400,
            "TAG_INVALID",
            "The image tag 'v1' already exists and is immutable",
        ));
    put(&registry, &app("new"), json!({"tag": "v1"}), json!({}))
        .run()
        .fails_ending_with(
            "put: REGISTRY/t/a: push v1: PUT http://REGISTRY/v2/t/a/manifests/v1: 400 Bad Request: \
         TAG_INVALID: The image tag 'v1' already exists and is immutable",
        );
}

#[test]
fn a_tag_that_is_refused_after_others_names_those() {
    let registry = Registry::start();
    registry.on("PUT", "/v2/t/a/manifests/1").then(Fault::error(
        412,
        "PRECONDITION",
        "the tag 1 is immutable",
    ));
    let params = json!({"version": "1.2.3", "bump_aliases": true});
    put(&registry, &app("new"), json!({}), params)
        .run()
        .fails_ending_with(
            "put: REGISTRY/t/a: push 1: PUT http://REGISTRY/v2/t/a/manifests/1: \
             412 Precondition Failed: PRECONDITION: the tag 1 is immutable \
             (pushed before that: `1.2.3`, `latest`)",
        );
}

#[test]
fn the_file_of_additional_tags_is_below_the_source_and_a_file() {
    let registry = Registry::start();
    let run = |name: &str| {
        let params = json!({"additional_tags": name});
        let program =
            put(&registry, &app("new"), json!({}), params).source_file("meta/tags", "\r\na b\r\n");
        let pipe = program.directory_argument().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        program.run()
    };
    for name in ["meta/tags", "/meta/tags", "./meta/../meta/tags"] {
        let answer = run(name).succeeds();
        assert_eq!(answer["metadata"][1]["value"], "a b", "{name}");
    }
    for (name, why) in [
        ("pipe", "it is not a regular file"),
        ("meta", "is a directory"),
        ("none", "no such file or directory"),
    ] {
        let expected = format!("put: `params.additional_tags` (`{name}`): {why}");
        run(name).fails_with(&expected);
    }
}

#[test]
fn of_many_files_that_match_a_message_names_some() {
    let registry = Registry::start();
    let params = json!({"image": "a*"});
    let mut program = put(&registry, &app("new"), json!({"tag": "v1"}), params);
    for n in 0..23 {
        program = program.source_file(&format!("a{n:02}"), "");
    }
    let names: Vec<String> = (0..20).map(|n| format!("`a{n:02}`")).collect();
    program.run().fails_with(&format!(
        "put: `params.image`: too many files match glob `a*`: {}, and 3 more",
        names.join(", ")
    ));
}
