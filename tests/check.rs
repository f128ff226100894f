//! `check` against the fixture registry: answers, requests, and what it says.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{
    Answer, Fault, Gate, Image, Program, Registry, Setup, Tokens, image, index, layer, merge,
};
use serde_json::{Value, json};

/// An image that differs from others by its label alone.
fn labelled(label: &str, created: Option<&str>) -> Image {
    image([layer().file("label", label)]).created(created).oci()
}

fn source(registry: &Registry, fields: Value) -> Value {
    merge(json!({"repository": registry.repository("t/a")}), fields)
}

fn check(registry: &Registry, fields: Value, version: Value) -> Program {
    let request = json!({"source": source(registry, fields), "version": version});
    Program::check(request).against(registry)
}

/// A registry with these tags, each of an image of its own.
fn tagged(setup: Setup, tags: &[&str]) -> (Registry, BTreeMap<String, String>) {
    let registry = setup.start();
    let mut digests = BTreeMap::new();
    for tag in tags {
        let digest = registry.put_image("t/a", tag, &labelled(tag, None));
        digests.insert((*tag).to_owned(), digest);
    }
    (registry, digests)
}

fn pairs(versions: &Value) -> Vec<(String, String)> {
    let text = |version: &Value, name: &str| version[name].as_str().unwrap().to_owned();
    let versions = versions.as_array().unwrap().iter();
    versions
        .map(|version| (text(version, "tag"), text(version, "digest")))
        .collect()
}

#[test]
fn every_recorded_scenario_is_answered_as_recorded() {
    let table = include_str!("cases/check.jsonl");
    for (number, line) in table.lines().enumerate() {
        let case: Value = serde_json::from_str(line).unwrap();
        let registry = Registry::start();
        let strings = |name: &str| -> Vec<String> {
            let list = case[name].as_array();
            let list = list.into_iter().flatten();
            list.map(|item| item.as_str().unwrap().to_owned()).collect()
        };
        let made = |label: &str| labelled(label, case["created"][label].as_str());
        let digest = |label: &str| made(label).digest.clone();
        for tag in case["tags"].as_array().unwrap() {
            registry.put_image(
                "t/a",
                tag[0].as_str().unwrap(),
                &made(tag[1].as_str().unwrap()),
            );
        }
        for label in strings("gone") {
            registry.put_untagged("t/a", &made(&label));
        }
        // A label that is deleted was never put; a tag of it is listed all the same.
        for label in strings("deleted") {
            registry.lose_manifest("t/a", &digest(&label));
        }
        let version = match case["version"].as_array() {
            None => Value::Null,
            Some(version) => {
                json!({"tag": version[0], "digest": digest(version[1].as_str().unwrap())})
            }
        };
        let output = check(&registry, case["source"].clone(), version).run();
        let expected: Vec<(String, String)> = case["expect"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| {
                let label = pair[1].as_str().unwrap();
                (pair[0].as_str().unwrap().to_owned(), digest(label))
            })
            .collect();
        assert_eq!(
            pairs(&output.succeeds()),
            expected,
            "line {}: {line}",
            number + 1
        );
    }
}

#[test]
fn a_tag_costs_one_head_request() {
    let (registry, digests) = tagged(Registry::setup(), &["latest"]);
    let output = check(&registry, json!({"tag": "latest"}), Value::Null).run();
    output.succeeds_with(json!([{"tag": "latest", "digest": digests["latest"]}]));
    output.says("");
    assert_eq!(registry.lines(), ["HEAD /v2/t/a/manifests/latest 200"]);
}

#[test]
fn a_tag_behind_a_token_server_costs_three_requests() {
    let tokens = Tokens::new().user("alice", "s3cret").anonymous_pull(false);
    let (registry, digests) = tagged(Registry::setup().bearer(&tokens), &["latest"]);
    let login = json!({"tag": "latest", "username": "alice", "password": "s3cret"});
    let output = check(&registry, login, Value::Null).run();
    output.succeeds_with(json!([{"tag": "latest", "digest": digests["latest"]}]));
    assert_eq!(registry.requests().len(), 3, "{:?}", registry.lines());
}

#[test]
fn a_missing_tag_is_no_version_and_no_error() {
    let (registry, _) = tagged(Registry::setup(), &["latest"]);
    let output = check(&registry, json!({"tag": "other"}), Value::Null).run();
    output.succeeds_with(json!([]));
}

#[test]
fn a_registry_that_does_not_say_the_digest_is_asked_for_the_manifest() {
    let (registry, digests) = tagged(Registry::setup(), &["latest"]);
    registry
        .on("*", "/v2/t/a/manifests/*")
        .times(2)
        .then(Fault::edit(|_, answer: Answer| {
            answer.without("Docker-Content-Digest")
        }));
    let output = check(&registry, json!({"tag": "latest"}), Value::Null).run();
    output.succeeds_with(json!([{"tag": "latest", "digest": digests["latest"]}]));
    let expected = [
        "HEAD /v2/t/a/manifests/latest 200",
        "GET /v2/t/a/manifests/latest 200",
    ];
    assert_eq!(registry.lines(), expected);
}

#[test]
fn a_registry_that_does_not_allow_head_is_asked_for_the_manifest() {
    for status in [405, 400, 501] {
        let (registry, digests) = tagged(Registry::setup(), &["latest"]);
        registry
            .on("HEAD", "/v2/t/a/manifests/*")
            .then(Fault::Answer(common::answer(status)));
        let output = check(&registry, json!({"tag": "latest"}), Value::Null).run();
        output.succeeds_with(json!([{"tag": "latest", "digest": digests["latest"]}]));
    }
}

#[test]
fn the_given_version_comes_first_while_it_can_be_fetched() {
    let (registry, digests) = tagged(Registry::setup(), &["latest"]);
    let old = registry.put_untagged("t/a", &labelled("old", None));
    let given = json!({"tag": "latest", "digest": old});
    let output = check(&registry, json!({"tag": "latest"}), given).run();
    output.succeeds_with(json!([
        {"tag": "latest", "digest": old},
        {"tag": "latest", "digest": digests["latest"]},
    ]));
    // Without a tag, as image resources of tasks give it, and after it was deleted.
    let given = json!({"digest": old});
    check(&registry, json!({"tag": "latest"}), given.clone())
        .run()
        .succeeds_with(json!([
            {"tag": "latest", "digest": old},
            {"tag": "latest", "digest": digests["latest"]},
        ]));
    registry.delete_manifest("t/a", &old);
    check(&registry, json!({"tag": "latest"}), given)
        .run()
        .succeeds_with(json!([{"tag": "latest", "digest": digests["latest"]}]));
}

#[test]
fn a_failing_look_up_of_the_given_version_never_fails_the_check() {
    let (registry, digests) = tagged(Registry::setup(), &["latest"]);
    let old = common::sha256(b"old");
    registry
        .on("*", &format!("/v2/t/a/manifests/{old}"))
        .times(2)
        .then(Fault::error(403, "DENIED", "not yours"));
    let output = check(
        &registry,
        json!({"tag": "latest"}),
        json!({"tag": "latest", "digest": old}),
    )
    .run();
    output.succeeds_with(json!([{"tag": "latest", "digest": digests["latest"]}]));
    assert!(
        output
            .messages()
            .starts_with("warning: the given version is left out: ")
    );
}

#[test]
fn tags_below_the_given_version_cost_no_request() {
    let tags = ["1.0.0", "1.1.0", "1.2.0", "1.3.0", "latest"];
    let (registry, digests) = tagged(Registry::setup(), &tags);
    let given = json!({"tag": "1.2.0", "digest": digests["1.2.0"]});
    let output = check(&registry, json!({}), given).run();
    let expected = ["1.2.0", "1.3.0", "latest"].map(|tag| (tag.to_owned(), digests[tag].clone()));
    assert_eq!(pairs(&output.succeeds()), expected);
    assert_eq!(
        registry.sorted_lines(),
        [
            "GET /v2/t/a/tags/list?n=1000 200",
            "HEAD /v2/t/a/manifests/1.2.0 200",
            "HEAD /v2/t/a/manifests/1.3.0 200",
            "HEAD /v2/t/a/manifests/latest 200",
        ]
    );
}

#[test]
fn all_pages_of_tags_are_read() {
    let tags: Vec<String> = (0..95).map(|n| format!("1.{n}.0")).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    for setup in [
        Registry::setup().page_size(10),
        Registry::setup().page_size(10).absolute_links(),
        Registry::setup().page_size(10).most_tags_a_page(100),
    ] {
        let (registry, _) = tagged(setup, &tags);
        let output = check(&registry, json!({"tag_regex": "^1\\."}), Value::Null).run();
        assert_eq!(pairs(&output.succeeds()).len(), 95);
    }
}

#[test]
fn a_next_page_on_another_server_is_not_asked_for() {
    let (registry, _) = tagged(Registry::setup(), &["1"]);
    let other = Registry::start();
    let link = format!("<{}>; rel=\"next\"", other.url("/v2/t/a/tags/list?last=1"));
    registry
        .on("GET", "/v2/t/a/tags/list*")
        .then(Fault::edit(move |_, answer: Answer| {
            answer.with("Link", link.clone())
        }));
    let output = check(&registry, json!({}), Value::Null)
        .against(&other)
        .run();
    output.fails_with(
        "check: REGISTRY/t/a: list tags: GET http://REGISTRY/v2/t/a/tags/list: \
         the next page of tags is said to be on http://REGISTRY2",
    );
    assert!(other.requests().is_empty());
}

#[test]
fn a_repository_that_does_not_exist_has_no_versions() {
    let registry = Registry::start();
    for fields in [json!({}), json!({"tag_regex": "."})] {
        let output = check(&registry, fields, Value::Null).run();
        output.succeeds_with(json!([]));
        output.says("warning: the registry does not know the repository REGISTRY/t/a");
    }
}

#[test]
fn a_listed_tag_without_a_manifest_is_left_out_with_a_warning() {
    let (registry, digests) = tagged(Registry::setup(), &["1.0.0", "1.1.0"]);
    registry.lose_manifest("t/a", &digests["1.1.0"]);
    for fields in [
        json!({}),
        json!({"tag_regex": "."}),
        json!({"tag_regex": ".", "created_at_sort": true}),
    ] {
        let output = check(&registry, fields, Value::Null).run();
        output.succeeds_with(json!([{"tag": "1.0.0", "digest": digests["1.0.0"]}]));
        output.says(
            "warning: REGISTRY/t/a: the tag `1.1.0` is listed, but has no manifest; left out",
        );
    }
}

#[test]
fn lists_with_nulls_and_duplicates_and_names_that_are_no_tags_are_read() {
    let (registry, digests) = tagged(Registry::setup(), &["1.0.0"]);
    let long = "1".repeat(2 << 20);
    let body = json!({"name": "t/a", "tags": ["1.0.0", null, "1.0.0", "a b", "../x", long]});
    registry
        .on("GET", "/v2/t/a/tags/list*")
        .then(Fault::Answer(common::answer(200).json(&body)));
    let output = check(&registry, json!({}), Value::Null).run();
    output.succeeds_with(json!([{"tag": "1.0.0", "digest": digests["1.0.0"]}]));
    output.says("warning: the registry lists 3 names that cannot be tags");
}

#[test]
fn a_list_that_is_none_is_an_error() {
    for body in ["<html>", "[]", r#"{"tags":"1.0.0"}"#, r#"{"tags":[1]}"#, ""] {
        let (registry, _) = tagged(Registry::setup(), &["1.0.0"]);
        registry
            .on("GET", "/v2/t/a/tags/list*")
            .then(Fault::Answer(common::answer(200).body(body)));
        check(&registry, json!({}), Value::Null).run().fails_with(
            "check: REGISTRY/t/a: list tags: GET http://REGISTRY/v2/t/a/tags/list: \
             the answer is not a list of tags",
        );
    }
}

#[test]
fn creation_times_are_those_of_the_image_for_the_platform() {
    let registry = Registry::start();
    let at = |platform: &str, created| {
        image([layer().file("of", platform)])
            .platform(platform)
            .created(Some(created))
            .oci()
    };
    let first = index([
        ("linux/arm64", at("linux/arm64", "2030-01-01T00:00:00Z")),
        ("linux/amd64", at("linux/amd64", "2020-01-01T00:00:00Z")),
    ])
    .oci();
    let second = at("linux/amd64", "2021-01-01T00:00:00+02:00");
    let newer = registry.put_image("t/a", "b", &second);
    let older = registry.put_image("t/a", "a", &first);
    let fields = json!({
        "tag_regex": ".",
        "created_at_sort": true,
        "platform": {"architecture": "amd64", "os": "linux"},
    });
    check(&registry, fields, Value::Null)
        .run()
        .succeeds_with(json!([
            {"tag": "a", "digest": older},
            {"tag": "b", "digest": newer},
        ]));
}

/// Nobody waits for a config when another look-up has failed for good.
#[test]
fn a_look_up_that_fails_for_good_ends_the_others() {
    let registry = Registry::start();
    let image = image([layer().file("a", "a")]).oci();
    for tag in ["1", "2"] {
        registry.put_image("t/a", tag, &image);
    }
    let config = format!("/v2/t/a/blobs/{}", image.config.as_ref().unwrap().digest);
    registry.on("GET", &config).then(Fault::unavailable(300));
    let gate = Gate::new();
    registry
        .on("GET", "/v2/t/a/manifests/2")
        .then(Fault::Hold(gate.clone()))
        .and(Fault::error(403, "DENIED", "not you"));
    let source = json!({"tag_regex": ".", "created_at_sort": true});
    let running = check(&registry, source, Value::Null)
        .real_clock()
        .limit(std::time::Duration::from_secs(30))
        .start();
    registry.wait_for("an answer for the config", |requests| {
        requests.iter().any(|request| request.head.path == config)
    });
    gate.open();
    let output = running.wait();
    output.fails();
    assert!(
        output.messages().contains("403 Forbidden"),
        "{}",
        output.messages()
    );
}

#[test]
fn the_answer_is_the_same_for_any_order_of_look_ups() {
    let tags: Vec<String> = (0..40).map(|n| format!("{}.{}", n / 7, n % 7)).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    let (registry, _) = tagged(Registry::setup(), &tags);
    let answers: BTreeSet<String> = (0..5)
        .map(|_| check(&registry, json!({}), Value::Null).run().stdout)
        .collect();
    assert_eq!(answers.len(), 1);
}

#[test]
fn odd_combinations_of_fields_are_warned_about() {
    let (registry, digests) = tagged(Registry::setup(), &["1.0.0"]);
    let expected = json!([{"tag": "1.0.0", "digest": digests["1.0.0"]}]);
    for (fields, warning) in [
        (
            json!({"tag": "1.0.0", "semver_constraint": "> 5"}),
            "warning: `source.tag` is followed; the fields about versions have no effect",
        ),
        (
            json!({"tag": "1.0.0", "tag_regex": "x"}),
            "warning: `source.tag_regex` has no effect: `source.tag` is followed",
        ),
        (
            json!({"tag_regex": "1", "pre_releases": true}),
            "warning: `source.tag_regex` is followed; the fields about versions have no effect",
        ),
        (
            json!({"created_at_sort": true}),
            "warning: `source.created_at_sort` has no effect without `source.tag_regex`",
        ),
    ] {
        let output = check(&registry, fields, Value::Null).run();
        output.succeeds_with(expected.clone());
        output.says(warning);
    }
}

#[test]
fn rules_that_cannot_be_read_are_refused_before_any_connection() {
    let registry = Registry::start();
    for (fields, line) in [
        (
            json!({"tag_regex": "("}),
            "check: `source.tag_regex` is `(`, which is not a regular expression that is understood here: found open group without closing ')'",
        ),
        (
            json!({"tag": "a/b"}),
            "check: `source.tag`: tag `a/b`: a tag may hold letters, digits, `_`, `.` and `-`",
        ),
    ] {
        check(&registry, fields, Value::Null).run().fails_with(line);
    }
    let bad = check(
        &registry,
        json!({"semver_constraint": "> 1.x.y.z"}),
        Value::Null,
    )
    .run();
    bad.fails();
    assert!(bad.messages().contains("> 1.x.y.z"), "{}", bad.messages());
    assert!(registry.requests().is_empty());
}

#[test]
fn the_bare_tag_is_left_out_where_versions_alone_are_followed() {
    let (registry, digests) = tagged(Registry::setup(), &["1.0.0", "latest"]);
    let version = |tag: &str| json!({"tag": tag, "digest": digests[tag]});
    for (semver_only, expected) in [
        (true, json!([version("1.0.0")])),
        (false, json!([version("1.0.0"), version("latest")])),
    ] {
        check(&registry, json!({"semver_only": semver_only}), Value::Null)
            .run()
            .succeeds_with(expected);
    }
}

#[test]
fn expressions_of_re2_find_their_tags() {
    let (registry, digests) = tagged(Registry::setup(), &["1.0-rc_1", "a"]);
    let expected = json!([{"tag": "1.0-rc_1", "digest": digests["1.0-rc_1"]}]);
    check(
        &registry,
        json!({"tag_regex": r"^\pN[\w-.]+$"}),
        Value::Null,
    )
    .run()
    .succeeds_with(expected);
}

#[test]
fn denied_is_told_from_missing() {
    let (registry, _) = tagged(Registry::setup(), &["1.0.0"]);
    registry.on("GET", "/v2/t/a/tags/list*").then(Fault::error(
        403,
        "DENIED",
        "requested access to the resource is denied",
    ));
    check(&registry, json!({}), Value::Null).run().fails_with(
        "check: REGISTRY/t/a: list tags: GET http://REGISTRY/v2/t/a/tags/list: 403 Forbidden: \
         DENIED: requested access to the resource is denied; set `source.username` and `source.password`",
    );
}
