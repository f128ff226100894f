//! What registries answer in odd forms, without end, or not at all.

use crate::common::{Fault, Program, Registry, Tokens, answer, image, index, layer, noise};
use crate::help::{app, assert_arrived, check, count, get, layer_path, put, serving, small, told};
use serde_json::{Value, json};

#[test]
fn bodies_are_bounded() {
    let image = small();
    // A manifest, a page of tags, a token: each is longer than its limit and not read to its end.
    let long = |bytes: usize| vec![b' '; bytes];
    let registry = serving(&image);
    let manifest = format!("/v2/t/a/manifests/{}", image.digest);
    registry
        .on("GET", &manifest)
        .then(Fault::Body(long((8 << 20) + 1)));
    let output = get(&registry, &image, json!({})).run();
    output.fails_ending_with(&format!(
        "get: REGISTRY/t/a: fetch manifest {}: GET http://REGISTRY{manifest}: \
         the answer is longer than 8388608 bytes, the most that is accepted",
        image.digest
    ));

    let registry = serving(&image);
    registry
        .on("GET", "/v2/t/a/tags/list")
        .then(Fault::Body(long((16 << 20) + 1)));
    let output = check(&registry, json!({})).run();
    output.fails_ending_with(
        "check: REGISTRY/t/a: list tags: GET http://REGISTRY/v2/t/a/tags/list: \
         the answer is longer than 16777216 bytes, the most that is accepted",
    );

    let tokens = Tokens::new();
    let registry = Registry::setup().bearer(&tokens).start();
    registry.put_image("t/a", "1", &image);
    registry
        .on("GET", "/token")
        .then(Fault::Body(long((1 << 20) + 1)));
    let output = check(&registry, json!({})).run();
    output.fails_ending_with(
        "check: REGISTRY/t/a: list tags: GET http://REGISTRY/v2/t/a/tags/list: \
         log in at REGISTRY: GET http://REGISTRY/token: \
         the answer is longer than 1048576 bytes, the most that is accepted",
    );

    // An error's text is cut off, also where it never ends.
    let registry = serving(&image);
    let page = answer(400).body(
        noise(1, 1 << 20)
            .iter()
            .map(|b| b'a' + b % 26)
            .collect::<Vec<_>>(),
    );
    registry
        .on("GET", &manifest)
        .then(Fault::Answer(page))
        .and(Fault::Chunked);
    let output = get(&registry, &image, json!({})).run();
    output.fails();
    assert!(output.messages().len() < 1000);
}

#[test]
fn a_head_that_does_not_end_is_an_error_at_once() {
    let image = small();
    let path = format!("/v2/t/a/manifests/{}", image.digest);
    let long = answer(200).with("X-Long", "x".repeat(1 << 20));
    let many = (0..5000).fold(answer(200), |many, n| many.with(&format!("X-{n}"), "x"));
    for (answer, why) in [
        (
            long,
            "the head of its answer, or of a chunk, is longer than 65536 bytes",
        ),
        (
            many,
            "the answer is not valid HTTP: http parse resulted in too many headers",
        ),
    ] {
        let registry = serving(&image);
        registry.on("GET", &path).then(Fault::Answer(answer));
        let output = get(&registry, &image, json!({})).run();
        output.fails_with(&format!(
            "get: REGISTRY/t/a: fetch manifest {}: GET http://REGISTRY{path}: {why}",
            image.digest
        ));
    }
}

#[test]
fn a_config_that_is_too_large_is_not_asked_for() {
    let image = small().lie(|manifest| manifest["config"]["size"] = json!((8 << 20) + 1));
    let registry = serving(&image);
    let source = json!({"repository": registry.repository("t/a"), "label_regex": "."});
    let output = crate::common::Program::get(json!({
        "source": source,
        "version": {"tag": "1", "digest": image.digest},
        "params": {"skip_download": true},
    }))
    .run();
    output.fails();
    assert_eq!(registry.requests().len(), 1);
}

#[test]
fn a_login_that_fails_is_no_blob_that_is_missing() {
    let image = small();
    let tokens = Tokens::new()
        .user("alice", "wonderland")
        .anonymous_pull(true);
    let registry = Registry::setup().bearer(&tokens).start();
    let login = json!({
        "repository": registry.repository("t/b"),
        "username": "alice",
        "password": "hunter2",
    });
    let output = put(&registry, &image, login).run();
    output.fails();
    let asked = count(&registry, "GET", "/token");
    assert_eq!(asked, 1, "{}", output.messages());
}

#[test]
fn the_manifests_below_an_index_are_bounded_together() {
    // Nine children of 8 MiB each, of which none is asked for.
    let large = index((0..9).map(|n| ("linux/amd64", image([layer().file("n", [n])]).oci())))
        .oci()
        .lie(|index| {
            for entry in index["manifests"].as_array_mut().unwrap() {
                entry["size"] = json!(8 << 20);
            }
        });
    let registry = serving(&large);
    get(&registry, &large, json!({})).run().fails_with(
        "get: REGISTRY/t/a: the manifests below the index have more than 67108864 bytes together",
    );
    assert_eq!(registry.requests().len(), 1);
}

#[test]
fn what_is_listed_twice_has_one_size() {
    let twice = image(["a", "a"].map(|name| layer().file(name, name).plain()))
        .oci()
        .lie(|manifest| manifest["layers"][1] = manifest["layers"][0].clone());
    let layer = twice.lie(|manifest| manifest["layers"][1]["size"] = json!(7));
    let child = index(["linux/amd64", "linux/arm64"].map(|platform| (platform, small())))
        .oci()
        .lie(|index| index["manifests"][1]["size"] = json!(7));
    for (image, at) in [(layer, "layers"), (child, "manifests")] {
        let registry = serving(&image);
        let (digest, size) = {
            let first = &image.document()[at][0];
            (
                first["digest"].as_str().unwrap().to_owned(),
                first["size"].clone(),
            )
        };
        let why = format!("{digest} is listed with two sizes, {size} and 7");
        let fetched = get(&registry, &image, json!({})).run();
        fetched.fails();
        let said = fetched.messages();
        assert!(said.trim_end().ends_with(&why), "{said}");
        if at == "manifests" {
            let pushed = put(&registry, &image, json!({})).run();
            pushed.fails();
            assert!(pushed.messages().contains(&why), "{}", pushed.messages());
        }
    }
}

/// Neither the line nor the work grows with the platforms that an index makes up.
#[test]
fn an_error_names_few_of_many_platforms() {
    let one = || small();
    let many = index((0..40).map(|_| ("linux/arm64", one())))
        .oci()
        .lie(|index| {
            for (n, entry) in index["manifests"]
                .as_array_mut()
                .unwrap()
                .iter_mut()
                .enumerate()
            {
                entry["platform"]["architecture"] = json!(format!("{n}{}", "x".repeat(1000)));
            }
        });
    let registry = serving(&many);
    let request = json!({
        "source": {"repository": registry.repository("t/a")},
        "version": {"tag": "1", "digest": many.digest},
    });
    let output = Program::get(request).against(&registry).run();
    output.fails();
    let said = output.messages();
    assert!(said.trim_end().ends_with(", and others"), "{said}");
    assert!(said.len() < 4000, "{}", said.len());
}

#[test]
fn indexes_are_nested_eight_levels_deep_at_most() {
    let other = || image([layer().file("b", "b")]).oci();
    let nested = |levels: usize| {
        (0..levels).fold(small(), |image, _| {
            index([("linux/amd64", image), ("linux/arm64", other())]).oci()
        })
    };
    let deep = nested(8);
    let registry = serving(&deep);
    assert_arrived(&get(&registry, &deep, json!({})).run(), &deep);
    put(&registry, &deep, json!({})).run().succeeds();
    let deeper = nested(9);
    let registry = serving(&deeper);
    let why = "its indexes are nested deeper than 8 levels";
    let fetched = get(&registry, &deeper, json!({})).run();
    fetched.fails_with(&format!("get: REGISTRY/t/a: {why}"));
    let unpacked = Program::get(json!({
        "source": {"repository": registry.repository("t/a")},
        "version": {"tag": "1", "digest": deeper.digest},
    }));
    let unpacked = unpacked.against(&registry).run();
    unpacked.fails_with(&format!("get: REGISTRY/t/a: {why}"));
    let pushed = put(&registry, &deeper, json!({})).run();
    pushed.fails();
    assert!(pushed.messages().contains(why), "{}", pushed.messages());
}

#[test]
fn the_names_of_tags_are_bounded_together() {
    // Pages of one long name each.
    let registry = Registry::start();
    let name = "a".repeat(15 << 20);
    for page in 1..=6 {
        let path = match page {
            1 => "/v2/t/a/tags/list".to_owned(),
            _ => format!("/page/{page}"),
        };
        let link = format!("</page/{}>; rel=\"next\"", page + 1);
        let answer = answer(200)
            .set("Link", &link)
            .json(&json!({"name": "t/a", "tags": [name]}));
        let rule = registry.on("GET", &path).optional();
        rule.then(Fault::Answer(answer));
    }
    check(&registry, json!({"tag_regex": "."})).run().fails_with(
        "check: REGISTRY/t/a: list tags: GET http://REGISTRY/page/5: the list of tags does not end",
    );
}

#[test]
fn answers_in_odd_forms_are_answers() {
    // Its type can only be told by its shape.
    let image = app().lie(|manifest| {
        manifest.as_object_mut().unwrap().remove("mediaType");
    });
    type Case = (&'static str, fn() -> Vec<Fault>);
    let forms: [Case; 6] = [
        ("chunks", || vec![Fault::Chunked]),
        ("no length", || vec![Fault::CloseDelimited]),
        ("the last of its connection", || {
            vec![Fault::LastOfConnection]
        }),
        ("the last without saying so", || vec![Fault::SilentClose]),
        ("text", || {
            vec![Fault::Header(
                "Content-Type",
                "text/plain; charset=utf-8".to_owned(),
            )]
        }),
        ("no type", || vec![Fault::Without("Content-Type")]),
    ];
    for (name, form) in forms {
        let registry = Registry::start();
        registry.put_image("t/a", "1", &image);
        for fault in form() {
            registry.on("*", "*").always().then(fault);
        }
        let output = get(&registry, &image, json!({})).run();
        assert_arrived(&output, &image);
        let listed: Value = serde_json::from_str(&output.file("oci/index.json")).unwrap();
        let listed = &listed["manifests"][0]["mediaType"];
        assert_eq!(listed, image.media_type.as_str(), "{name}");
        let output = check(&registry, json!({"tag_regex": "."})).run();
        assert_eq!(
            output.succeeds(),
            json!([{"tag": "1", "digest": image.digest}]),
            "{name}"
        );
        let output = put(&registry, &image, json!({})).run();
        output.succeeds();
    }
}

#[test]
fn a_registry_without_head_is_asked_with_get() {
    let image = small();
    for refusal in [
        Fault::Answer(answer(405)),
        Fault::Answer(answer(501)),
        Fault::Answer(answer(503)),
        Fault::Without("Docker-Content-Digest"),
        Fault::Header("Docker-Content-Digest", "sha256:nonsense".to_owned()),
        // HEAD is no reason to try for ten minutes what GET has at once.
        Fault::Reset,
        Fault::Close,
        Fault::Answer(answer(410)),
        Fault::Garbage(b"HTTP/1.1 abc\r\n\r\n".to_vec()),
        Fault::Garbage(b"HTTP/1.1 200 OK\r\nX Y: a\r\n\r\n".to_vec()),
        Fault::Garbage([b"HTTP/1.1 200 OK\r\nX: ", [b'a'; 300_000].as_slice()].concat()),
        Fault::Redirect(307, "/v2/t/a/manifests/1".to_owned()),
    ] {
        let registry = serving(&image);
        let head = registry.on("HEAD", "/v2/t/a/manifests/1");
        head.always().then(refusal);
        let output = check(&registry, json!({"tag": "1"})).run();
        output.succeeds_with(json!([{"tag": "1", "digest": image.digest}]));
        output.says("");
        assert_eq!(count(&registry, "GET", "/v2/t/a/manifests/1"), 1);
    }
}

#[test]
fn a_page_that_is_no_manifest_is_no_version() {
    let image = small();
    let registry = serving(&image);
    registry.on("HEAD", "*").then(Fault::Answer(answer(405)));
    let portal = answer(200)
        .with("Content-Type", "text/html")
        .body("<html>log in</html>");
    registry.on("GET", "*").then(Fault::Answer(portal));
    check(&registry, json!({"tag": "1"})).run().fails();
}

#[test]
fn a_list_of_tags_that_is_none_or_has_no_end_is_an_error_and_not_an_empty_list() {
    let image = small();
    let list = "/v2/t/a/tags/list";
    let path = format!("check: REGISTRY/t/a: list tags: GET http://REGISTRY{list}");
    for (answer, expect) in [
        (r#"{"name":"t/a","tags":null}"#, Ok(())),
        (r#"{"name":"t/a"}"#, Ok(())),
        (r#"{"tags":[]}"#, Ok(())),
        (r#"{"tags":null}"#, Ok(())),
        ("{}", Err(())),
        (r#"{"errors":[{"code":"DENIED"}]}"#, Err(())),
        (r#"{"name":"t/a","tags":"1"}"#, Err(())),
    ] {
        let registry = serving(&image);
        let answer = crate::common::answer(200).body(answer);
        registry.on("GET", list).then(Fault::Answer(answer));
        let output = check(&registry, json!({})).run();
        match expect {
            Ok(()) => drop(output.succeeds_with(json!([]))),
            Err(()) => {
                output.fails_with(&format!("{path}: the answer is not a list of tags"));
            }
        }
    }
    // The first page shows that the repository is there.
    let registry = Registry::setup().page_size(1).start();
    registry.put_image("t/a", "1.0.0", &image);
    registry.put_image("t/a", "1.0.1", &image);
    let lost = Fault::error(404, "NAME_UNKNOWN", "no such page");
    registry.on("GET", list).nth(2).then(lost);
    let output = check(&registry, json!({})).run();
    output.fails_with(&format!(
        "{path}: 404 Not Found: NAME_UNKNOWN: no such page"
    ));
}

#[test]
fn a_manifest_with_other_bytes_is_fetched_once_more() {
    let image = small();
    let path = format!("/v2/t/a/manifests/{}", image.digest);
    let registry = serving(&image);
    registry.on("GET", &path).then(Fault::FlipByte(3));
    assert_arrived(&get(&registry, &image, json!({})).run(), &image);
    let registry = serving(&image);
    registry.on("GET", &path).times(2).then(Fault::FlipByte(3));
    get(&registry, &image, json!({})).run().fails();
    assert_eq!(count(&registry, "GET", &path), 2);
}

#[test]
fn a_manifest_that_is_not_there_yet_is_waited_for() {
    let image = small();
    let path = format!("/v2/t/a/manifests/{}", image.digest);
    let unknown = || Fault::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
    let registry = serving(&image);
    registry.on("GET", &path).times(10).then(unknown());
    let output = get(&registry, &image, json!({})).run();
    assert_arrived(&output, &image);
    assert_eq!(
        told(&output),
        [format!(
            "REGISTRY/t/a: {} is not there (yet): looking again for 15 s",
            image.digest
        )]
    );
    let registry = serving(&image);
    registry.on("GET", &path).always().then(unknown());
    get(&registry, &image, json!({})).run().fails();
    assert!((14..17).contains(&count(&registry, "GET", &path)));
}

#[test]
fn a_missing_or_denied_blob_is_asked_for_once() {
    for (status, code) in [
        (404, "BLOB_UNKNOWN"),
        (403, "DENIED"),
        (400, "X"),
        (405, "X"),
    ] {
        let image = app();
        let registry = serving(&image);
        registry
            .on("GET", &layer_path(&image))
            .always()
            .then(Fault::error(status, code, "no"));
        get(&registry, &image, json!({})).run().fails();
        assert_eq!(count(&registry, "GET", &layer_path(&image)), 1);
    }
}
