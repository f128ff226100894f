//! What a registry sees of us where nothing goes wrong: how many requests and connections, and
//! which headers.

use crate::common::{Fault, Gate, Image, Registry, Request, Tokens, image, layer};
use crate::help::{assert_arrived, check, get, put, serving};
use serde_json::{Value, json};

fn small() -> Image {
    image([layer().file("a", "a"), layer().file("b", "b")]).oci()
}

/// A registry that wants tokens, where `t/a:1` is this image.
fn guarded(image: &Image) -> Registry {
    let tokens = Tokens::new().user("alice", "s3cret").anonymous_pull(false);
    let registry = Registry::setup().bearer(&tokens).start();
    registry.put_image("t/a", "1", image);
    registry.alias_image(image, "image");
    registry
}

fn alice() -> Value {
    json!({"username": "alice", "password": "s3cret", "tag": "1"})
}

/// Method, kind of thing, and headers of a request, without what differs from run to run.
fn headers(request: &Request) -> String {
    let path = &request.head.path;
    let kinds = ["manifests", "uploads", "blobs", "token"];
    let kind = kinds.iter().find(|kind| path.contains(*kind)).unwrap();
    let mut headers: Vec<String> = Vec::new();
    for (name, value) in &request.head.headers {
        let value = match name.to_ascii_lowercase().as_str() {
            "authorization" => value.split(' ').next().unwrap(),
            "host" => "REGISTRY",
            "content-length" => "N",
            _ => value.as_str(),
        };
        headers.push(format!("{}: {value}", name.to_ascii_lowercase()));
    }
    headers.sort();
    format!("{} {kind}: {}", request.head.method, headers.join(", "))
}

#[test]
fn a_look_at_a_tag_costs_one_request_and_three_where_a_token_is_wanted() {
    let image = small();
    let registry = Registry::start();
    registry.put_image("t/a", "1", &image);
    check(&registry, json!({"tag": "1"})).run().succeeds();
    assert_eq!(registry.lines(), ["HEAD /v2/t/a/manifests/1 200"]);

    let registry = guarded(&image);
    check(&registry, alice()).run().succeeds();
    assert_eq!(
        registry.lines(),
        [
            "HEAD /v2/t/a/manifests/1 401",
            "GET /token?service=fixture&scope=repository%3At%2Fa%3Apull 200",
            "HEAD /v2/t/a/manifests/1 200",
        ]
    );
    assert_eq!(registry.connections(), 1);
}

#[test]
fn a_pull_asks_for_each_thing_once_and_for_nothing_else() {
    let image = small();
    let registry = guarded(&image);
    let program = get(&registry, &image, alice()).env("REGISTRY_IMAGE_WORKERS", "1");
    assert_arrived(&program.run(), &image);
    let mut lines = registry.lines();
    // Config and layers come in any order.
    lines[3..].sort();
    assert_eq!(
        lines,
        [
            "GET /v2/t/a/manifests/<image> 401",
            "GET /token?service=fixture&scope=repository%3At%2Fa%3Apull 200",
            "GET /v2/t/a/manifests/<image> 200",
            "GET /v2/t/a/blobs/<image.config> 200",
            "GET /v2/t/a/blobs/<image.layer0> 200",
            "GET /v2/t/a/blobs/<image.layer1> 200",
        ]
    );
    assert_eq!(registry.connections(), 1);
}

#[test]
fn requests_have_these_headers_and_no_others() {
    let image = small();
    let registry = guarded(&image);
    check(&registry, alice()).run().succeeds();
    let program = get(&registry, &image, alice()).env("REGISTRY_IMAGE_WORKERS", "1");
    program.run().succeeds();
    let other = crate::common::image([layer().file("c", "c")]).oci();
    let program = put(&registry, &other, alice()).env("REGISTRY_IMAGE_WORKERS", "1");
    program.run().succeeds();
    let mut seen: Vec<String> = registry.requests().iter().map(headers).collect();
    seen.sort();
    seen.dedup();
    let agent = concat!("user-agent: registry-image/", env!("CARGO_PKG_VERSION"));
    let manifests = "accept: application/vnd.oci.image.index.v1+json, \
                     application/vnd.oci.image.manifest.v1+json, \
                     application/vnd.docker.distribution.manifest.list.v2+json, \
                     application/vnd.docker.distribution.manifest.v2+json";
    let bytes = "content-type: application/octet-stream";
    let token = "authorization: Bearer";
    let mut expect = [
        format!("GET blobs: {token}, host: REGISTRY, {agent}"),
        format!("GET manifests: {manifests}, {token}, host: REGISTRY, {agent}"),
        format!("GET manifests: {manifests}, host: REGISTRY, {agent}"),
        format!(
            "GET token: accept: application/json, authorization: Basic, host: REGISTRY, {agent}"
        ),
        format!("HEAD blobs: host: REGISTRY, {agent}"),
        format!("HEAD blobs: {token}, host: REGISTRY, {agent}"),
        format!("HEAD manifests: {manifests}, {token}, host: REGISTRY, {agent}"),
        format!("HEAD manifests: {manifests}, host: REGISTRY, {agent}"),
        format!("PATCH uploads: {token}, content-length: N, {bytes}, host: REGISTRY, {agent}"),
        format!("POST uploads: {token}, content-length: N, host: REGISTRY, {agent}"),
        format!(
            "PUT manifests: {token}, content-length: N, \
             content-type: application/vnd.oci.image.manifest.v1+json, host: REGISTRY, {agent}"
        ),
        format!("PUT uploads: {token}, content-length: N, {bytes}, host: REGISTRY, {agent}"),
    ];
    expect.sort();
    assert_eq!(seen, expect);
}

#[test]
fn cookies_are_not_kept() {
    let image = small();
    let registry = guarded(&image);
    let cookie = || Fault::Header("Set-Cookie", "session=1; Path=/".to_owned());
    registry.on("*", "*").always().then(cookie());
    assert_arrived(&get(&registry, &image, alice()).run(), &image);
    put(&registry, &image, alice()).run().succeeds();
    let requests = registry.requests();
    assert!(requests.iter().all(|r| r.header("cookie").is_none()));
}

#[test]
fn a_put_uses_no_more_connections_than_it_has_workers() {
    for workers in [1, 4] {
        let image = image((0..8).map(|n| layer().file("n", n.to_string()))).oci();
        let registry = guarded(&small());
        let program = put(&registry, &image, alice());
        let workers_text = workers.to_string();
        program
            .env("REGISTRY_IMAGE_WORKERS", workers_text)
            .run()
            .succeeds();
        assert!(
            registry.connections() <= workers,
            "{}",
            registry.connections()
        );
    }
}

#[test]
fn one_pool_of_connections_serves_the_run() {
    let image = image((0..8).map(|n| layer().file("n", n.to_string()))).oci();
    let registry = serving(&image);
    let output = get(&registry, &image, json!({}))
        .env("REGISTRY_IMAGE_WORKERS", "1")
        .run();
    assert_arrived(&output, &image);
    assert_eq!(registry.connections(), 1);
    assert!(registry.requests().len() >= 10);

    // As many at once as there are workers, and no more connections than that.
    let registry = serving(&image);
    let gate = Gate::meeting(4);
    registry
        .on("GET", "/v2/t/a/blobs/*")
        .times(4)
        .then(Fault::Hold(gate));
    let output = get(&registry, &image, json!({}))
        .env("REGISTRY_IMAGE_WORKERS", "4")
        .run();
    assert_arrived(&output, &image);
    assert_eq!(registry.connections(), 4);
}

#[test]
fn look_ups_of_tags_share_their_connections() {
    let registry = Registry::start();
    for n in 0..100 {
        let tag = format!("1.{n}.0");
        let image = image([layer().file("tag", &tag)]).oci();
        registry.put_image("t/a", &tag, &image);
    }
    let output = check(&registry, json!({})).run();
    assert_eq!(output.succeeds().as_array().unwrap().len(), 100);
    assert!(registry.connections() <= 16, "{}", registry.connections());
}
