//! The fixture registry is tested too: a fixture that forgives hides defects.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

mod common;

use common::{
    Fault, Gate, Offence, Registry, Tokens, answer, image, index, layer, noise, sha256, sha512,
};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

const ACCEPT: &str = "Accept: application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";
const OCTETS: &str = "Content-Type: application/octet-stream";

// Strictness.

/// Each line is a request that a client must not send, and what the fixture says of it.
#[test]
fn a_request_that_the_specification_forbids_is_an_offence() {
    let digest = sha256(b"blob");
    let big = "x".repeat(65 << 10);
    let cases: &[(String, &[Offence])] = &[
        (get("/v2/a/manifests/1", &[]), &[Offence::ManifestAccept]),
        (
            get("/v2/a/manifests/1", &["Accept: */*"]),
            &[Offence::ManifestAccept],
        ),
        (
            get(&format!("/v2/a/blobs/{digest}"), &[ACCEPT]),
            &[Offence::BlobAccept],
        ),
        (
            get(&format!("/v2/a/blobs/{digest}"), &["Accept-Encoding: gzip"]),
            &[Offence::AcceptEncoding],
        ),
        (
            get("/v2/", &["Authorization: Basic YTpi"]),
            &[Offence::UnaskedAuthorization],
        ),
        (
            get("/elsewhere", &["Authorization: Basic YTpi"]),
            &[Offence::ForeignAuthorization, Offence::UnknownEndpoint],
        ),
        (get("/elsewhere", &[]), &[Offence::UnknownEndpoint]),
        (get("/v2/a/nothing", &[]), &[Offence::UnknownEndpoint]),
        (get("/v2/A/manifests/1", &[ACCEPT]), &[Offence::BadName]),
        (get("/v2/a--/manifests/1", &[ACCEPT]), &[Offence::BadName]),
        (get("/v2/a/manifests/-1", &[ACCEPT]), &[Offence::BadName]),
        (get("/v2/a/blobs/sha256:AB", &[]), &[Offence::BadName]),
        (
            get(&format!("/v2/a/blobs/{digest}"), &["Range: bytes=5-2"]),
            &[Offence::BadRange],
        ),
        (
            get(&format!("/v2/a/blobs/{digest}"), &["Range: 1-2"]),
            &[Offence::BadRange],
        ),
        (
            get(&format!("/v2/a/blobs/{digest}"), &["Range: bytes=0-1,3-3"]),
            &[Offence::BadRange],
        ),
        (get("/v2/a/tags/list?n=many", &[]), &[Offence::BadRange]),
        (get(" /v2/", &[]), &[Offence::BadRequestLine]),
        (get("v2/", &[]), &[Offence::BadRequestLine]),
        (
            "GET /v2/ HTTP/1.0\r\nHost: HOST\r\n\r\n".into(),
            &[Offence::BadRequestLine],
        ),
        (
            "get /v2/ HTTP/1.1\r\nHost: HOST\r\n\r\n".into(),
            &[Offence::BadRequestLine],
        ),
        (
            "GET /v2/ HTTP/1.1\r\nHost: other\r\n\r\n".into(),
            &[Offence::WrongHost],
        ),
        ("GET /v2/ HTTP/1.1\r\n\r\n".into(), &[Offence::WrongHost]),
        (get("/v2/", &["No colon"]), &[Offence::BadHeader]),
        (get("/v2/", &["Space : a"]), &[Offence::BadHeader]),
        (get("/v2/", &["Host: HOST"]), &[Offence::BadHeader]),
        (get("/v2/", &[&big]), &[Offence::BrokenRequest]),
        (
            send("GET", "/v2/", &["Content-Length: 1"], "x"),
            &[Offence::BodyNotAllowed],
        ),
        (
            send("POST", "/v2/a/blobs/uploads/", &[], ""),
            &[Offence::NoBodyLength],
        ),
        (
            send("POST", "/v2/a/blobs/uploads", &["Content-Length: 0"], ""),
            &[Offence::UnknownEndpoint],
        ),
        (
            send(
                "PUT",
                "/v2/a/blobs/uploads/upload-9?digest=x",
                &["Content-Length: 0"],
                "",
            ),
            &[Offence::NoSuchUpload],
        ),
        (
            send(
                "PATCH",
                "/v2/a/blobs/uploads/upload-9",
                &["Content-Length: 3", OCTETS],
                "abc",
            ),
            &[Offence::NoSuchUpload],
        ),
        (
            send("PUT", "/v2/a/manifests/1", &["Content-Length: 2"], "{}"),
            &[Offence::NoContentType],
        ),
        (
            send(
                "PUT",
                "/v2/a/manifests/1",
                &["Content-Length: 2", "Content-Type: x"],
                "{{",
            ),
            &[Offence::BadManifest],
        ),
        (
            send(
                "PUT",
                "/v2/a/manifests/1",
                &["Content-Length: 17", "Content-Type: x"],
                r#"{"mediaType":"y"}"#,
            ),
            &[Offence::BadManifest],
        ),
        (
            send(
                "PUT",
                &format!("/v2/a/manifests/{digest}"),
                &["Content-Length: 2", "Content-Type: x"],
                "{}",
            ),
            &[Offence::WrongDigest],
        ),
        (
            send(
                "POST",
                "/v2/a/blobs/uploads/",
                &["Content-Length: 0", "Transfer-Encoding: chunked"],
                "0\r\n\r\n",
            ),
            &[Offence::BadHeader],
        ),
        (
            send(
                "POST",
                "/v2/a/blobs/uploads/",
                &["Transfer-Encoding: chunked"],
                "3\r\nabcd\r\n",
            ),
            &[Offence::BrokenRequest],
        ),
        (
            send("POST", "/v2/", &["Content-Length: 0"], ""),
            &[Offence::UnknownEndpoint],
        ),
    ];
    let mut wrong = Vec::new();
    for (request, expected) in cases {
        let registry = Registry::start();
        registry.put_blob("a", b"blob");
        let mut client = Client::connect(&registry);
        client.write(request);
        client.finish();
        let mut kinds: Vec<String> = registry.complaints();
        kinds
            .iter_mut()
            .for_each(|text| text.truncate(text.find(':').unwrap_or(text.len())));
        kinds.dedup();
        let expected_kinds: Vec<String> = expected.iter().map(|o| format!("{o:?}")).collect();
        if kinds != expected_kinds {
            let request: String = request.chars().take(200).collect();
            wrong.push(format!(
                "{request}expected {expected_kinds:?}, got {:?}",
                registry.complaints()
            ));
        }
        Offence::ALL
            .iter()
            .for_each(|offence| registry.allow(*offence));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn a_decent_client_hears_no_complaint() {
    let registry = Registry::start();
    let image = image([layer().file("a", "1")]).oci();
    let digest = registry.put_image("team/app", "1.0", &image);
    let mut client = Client::connect(&registry);
    for reference in ["1.0", &digest] {
        let got = client.get(&format!("/v2/team/app/manifests/{reference}"), &[ACCEPT]);
        assert_eq!(
            (got.status, got.header("docker-content-digest")),
            (200, Some(digest.as_str()))
        );
        assert_eq!(got.body, image.manifest);
        assert_eq!(got.header("content-type"), Some(image.media_type.as_str()));
    }
    let head = client.request("HEAD", "/v2/team/app/manifests/1.0", &[ACCEPT], b"");
    assert_eq!(
        head.header("content-length"),
        Some(image.manifest.len().to_string().as_str())
    );
    let layer = &image.layers[0];
    let got = client.get(&format!("/v2/team/app/blobs/{}", layer.digest), &[]);
    assert_eq!(got.body, layer.bytes);
    registry.alias_image(&image, "app");
    assert_eq!(
        registry.lines(),
        [
            "GET /v2/team/app/manifests/1.0 200",
            "GET /v2/team/app/manifests/<app> 200",
            "HEAD /v2/team/app/manifests/1.0 200",
            "GET /v2/team/app/blobs/<app.layer0> 200",
        ]
    );
    assert_eq!(registry.connections(), 1);
}

#[test]
fn an_offence_fails_the_test_when_the_registry_is_dropped() {
    let registry = Registry::start();
    Client::connect(&registry).get("/v2/a/manifests/1", &[]);
    let message = panic_of(|| drop(registry));
    assert!(
        message.contains("ManifestAccept: GET /v2/a/manifests/1: Accept lacks"),
        "{message}"
    );
    assert!(
        message.contains("requests:\n  GET /v2/a/manifests/1 404"),
        "{message}"
    );
}

#[test]
fn a_scripted_fault_that_never_happens_fails_the_test() {
    let registry = Registry::start();
    registry.on("GET", "/v2/x").then(Fault::Reset);
    registry.on("GET", "/v2/").times(2).then(Fault::Chunked);
    registry.on("GET", "/v2/y").optional().then(Fault::Reset);
    registry.on("GET", "/v2/z").always().then(Fault::Reset);
    Client::connect(&registry).get("/v2/", &[]);
    let message = panic_of(|| drop(registry));
    assert!(
        message.contains("GET /v2/x happened 0 of 1 times"),
        "{message}"
    );
    assert!(
        message.contains("GET /v2/ happened 1 of 2 times"),
        "{message}"
    );
    assert!(
        message.contains("GET /v2/z happened 0 of 1 times"),
        "{message}"
    );
    assert!(!message.contains("/v2/y"), "{message}");
}

// Reading.

#[test]
fn ranges_are_those_of_rfc_9110() {
    let registry = Registry::start();
    let digest = registry.put_blob("a", b"0123456789");
    let mut client = Client::connect(&registry);
    for (range, status, content_range, body) in [
        ("bytes=0-3", 206, Some("bytes 0-3/10"), "0123"),
        ("bytes=4-", 206, Some("bytes 4-9/10"), "456789"),
        ("bytes=8-99", 206, Some("bytes 8-9/10"), "89"),
        ("bytes=-2", 206, Some("bytes 8-9/10"), "89"),
        ("bytes=10-", 416, Some("bytes */10"), "{"),
    ] {
        let header = format!("Range: {range}");
        let got = client.get(&format!("/v2/a/blobs/{digest}"), &[&header]);
        assert_eq!(
            (got.status, got.header("content-range")),
            (status, content_range),
            "{range}"
        );
        assert!(got.text().starts_with(body), "{range}: {}", got.text());
    }
    registry.alias(&digest, "blob");
    assert_eq!(
        registry.lines()[4],
        "GET /v2/a/blobs/<blob> [bytes=10-] 416"
    );
}

#[test]
fn tags_come_in_pages_in_the_order_of_their_first_push() {
    let registry = Registry::setup().page_size(2).absolute_links().start();
    for tag in ["b", "a", "c", "e", "d"] {
        registry.tag("r", tag, "sha256:0");
    }
    let mut client = Client::connect(&registry);
    let mut path = "/v2/r/tags/list?n=1000".to_owned();
    let mut pages = Vec::new();
    loop {
        let got = client.get(&path, &[]);
        pages.push(got.json()["tags"].to_string());
        let Some(link) = got.header("link") else {
            break;
        };
        let link = link
            .strip_prefix('<')
            .unwrap()
            .strip_suffix(">; rel=\"next\"")
            .unwrap();
        path = link.strip_prefix(&registry.url("")).unwrap().to_owned();
    }
    assert_eq!(pages, [r#"["b","a"]"#, r#"["c","e"]"#, r#"["d"]"#]);
    assert_eq!(registry.lines()[1], "GET /v2/r/tags/list?last=a&n=1000 200");
}

#[test]
fn a_page_that_is_too_large_is_refused_where_asked_for() {
    let registry = Registry::setup().most_tags_a_page(100).start();
    registry.tag("r", "a", "sha256:0");
    let mut client = Client::connect(&registry);
    let statuses = ["?n=1000", "?n=100", ""]
        .map(|query| client.get(&format!("/v2/r/tags/list{query}"), &[]).status);
    assert_eq!(statuses, [400, 200, 200]);
    assert_eq!(client.get("/v2/none/tags/list", &[]).code(), "NAME_UNKNOWN");
}

#[test]
fn what_is_absent_is_said_with_the_codes_of_the_specification() {
    let registry = Registry::start();
    registry.put_blob("a", b"x");
    let mut client = Client::connect(&registry);
    assert_eq!(
        client.get("/v2/a/manifests/1", &[ACCEPT]).code(),
        "MANIFEST_UNKNOWN"
    );
    assert_eq!(
        client.get("/v2/b/manifests/1", &[ACCEPT]).code(),
        "NAME_UNKNOWN"
    );
    let absent = format!("/v2/a/blobs/{}", sha256(b"y"));
    assert_eq!(client.get(&absent, &[]).code(), "BLOB_UNKNOWN");
    assert_eq!(
        client
            .get(&format!("/v2/a/referrers/{}", sha256(b"x")), &[])
            .status,
        404
    );
}

// Writing.

#[test]
fn an_image_is_pushed_in_the_right_order_only() {
    let registry = Registry::start();
    let image = image([layer().file("a", "1")]).oci();
    let mut client = Client::connect(&registry);
    let kind = format!("Content-Type: {}", image.media_type);
    let early = client.request("PUT", "/v2/a/manifests/1", &[&kind], &image.manifest);
    assert_eq!(
        (early.status, early.code().as_str()),
        (400, "MANIFEST_BLOB_UNKNOWN")
    );
    assert!(registry.complaints()[0].starts_with("BlobsMissing: PUT /v2/a/manifests/1: refers"));
    registry.allow(Offence::BlobsMissing);

    for blob in image.blobs() {
        let at = client.open_upload(&registry, "/v2/a/blobs/uploads/");
        let (start, rest) = blob.bytes.split_at(10);
        let patch = client.request("PATCH", &at, &[OCTETS, "Content-Range: 0-9"], start);
        assert_eq!((patch.status, patch.header("range")), (202, Some("0-9")));
        let at = path_of(&registry, patch.header("location").unwrap());
        let seen = client.get(&at, &[]);
        assert_eq!((seen.status, seen.header("range")), (204, Some("0-9")));
        let patch = client.request_chunked("PATCH", &at, &[OCTETS], &[rest]);
        let at = path_of(&registry, patch.header("location").unwrap());
        let digest = blob.digest.replace(':', "%3A");
        let put = client.request("PUT", &format!("{at}&digest={digest}"), &[], b"");
        assert_eq!(
            (put.status, put.header("docker-content-digest")),
            (201, Some(&*blob.digest))
        );
        assert_eq!(registry.blob("a", &blob.digest).as_ref(), Some(&blob.bytes));
    }
    let put = client.request("PUT", "/v2/a/manifests/1", &[&kind], &image.manifest);
    assert_eq!(
        (put.status, put.header("docker-content-digest")),
        (201, Some(&*image.digest))
    );
    assert_eq!(registry.tags("a"), [("1".to_owned(), image.digest.clone())]);
    assert_eq!(registry.open_uploads(), 0);
    registry.alias_image(&image, "a");
    assert_eq!(
        registry.lines()[1..6],
        [
            "POST /v2/a/blobs/uploads/ 202",
            "PATCH /v2/a/blobs/uploads/SESSION 202",
            "GET /v2/a/blobs/uploads/SESSION 204",
            "PATCH /v2/a/blobs/uploads/SESSION 202",
            "PUT /v2/a/blobs/uploads/SESSION?digest=<a.config> 201",
        ]
    );
}

#[test]
fn uploads_are_checked_byte_for_byte() {
    let registry = Registry::setup().relative_locations().start();
    let mut client = Client::connect(&registry);
    let wrong = client.open_upload(&registry, "/v2/a/blobs/uploads/");
    let path = format!("{wrong}&digest={}", sha256(b"other"));
    assert_eq!(
        client.request("PUT", &path, &[OCTETS], b"bytes").code(),
        "DIGEST_INVALID"
    );

    let none = client.open_upload(&registry, "/v2/a/blobs/uploads/");
    assert_eq!(
        client.request("PUT", &none, &[OCTETS], b"bytes").status,
        400
    );
    let range = client.open_upload(&registry, "/v2/a/blobs/uploads/");
    let header = "Content-Range: 1-5";
    assert_eq!(
        client
            .request("PATCH", &range, &[OCTETS, header], b"bytes")
            .status,
        416
    );
    assert_eq!(client.request("PATCH", &range, &[], b"bytes").status, 202);
    // The first location again: the session has moved on.
    assert_eq!(
        client.request("PATCH", &range, &[OCTETS], b"bytes").status,
        202
    );
    assert_eq!(client.request("DELETE", &range, &[], b"").status, 204);
    let kinds: Vec<String> = registry
        .complaints()
        .iter()
        .map(|text| text.split(':').next().unwrap().to_owned())
        .collect();
    assert_eq!(
        kinds,
        [
            "WrongDigest",
            "NoDigest",
            "BadRange",
            "NoContentType",
            "LocationNotFollowed",
            "LocationNotFollowed"
        ]
    );
    Offence::ALL
        .iter()
        .for_each(|offence| registry.allow(*offence));
}

#[test]
fn blobs_are_mounted_and_posted_in_one_request_where_that_is_offered() {
    let plain = Registry::setup().without_mounts().start();
    let able = Registry::setup().single_post().start();
    for (registry, mounted, posted) in [(&plain, 202, 202), (&able, 201, 201)] {
        let digest = registry.put_blob("from", b"blob");
        let mut client = Client::connect(registry);
        let mount = format!("/v2/to/blobs/uploads/?mount={digest}&from=from");
        assert_eq!(client.request("POST", &mount, &[], b"").status, mounted);
        let post = format!("/v2/to/blobs/uploads/?digest={}", sha512(b"one"));
        assert_eq!(
            client.request("POST", &post, &[OCTETS], b"one").status,
            posted
        );
    }
    assert_eq!(able.blob("to", &sha512(b"one")), Some(b"one".to_vec()));
}

#[test]
fn an_index_needs_its_children() {
    let registry = Registry::start();
    let one = image([layer().file("a", "1")]).docker();
    let list = index([("linux/amd64", one.clone())]).docker();
    let kind = format!("Content-Type: {}", list.media_type);
    let mut client = Client::connect(&registry);
    assert_eq!(
        client
            .request("PUT", "/v2/a/manifests/1", &[&kind], &list.manifest)
            .status,
        400
    );
    registry.allow(Offence::BlobsMissing);
    registry.put_untagged("a", &one);
    assert_eq!(
        client
            .request("PUT", "/v2/a/manifests/1", &[&kind], &list.manifest)
            .status,
        201
    );
    assert_eq!(
        client
            .request("DELETE", "/v2/a/manifests/1", &[], b"")
            .status,
        202
    );
    assert_eq!(
        client
            .request("DELETE", "/v2/a/manifests/1", &[], b"")
            .status,
        404
    );
}

// Credentials.

#[test]
fn basic_credentials_are_for_those_who_were_asked() {
    let registry = Registry::setup().basic("alice", "s3cret").start();
    let mut client = Client::connect(&registry);
    let first = client.get("/v2/a/tags/list", &[]);
    assert_eq!((first.status, first.code().as_str()), (401, "UNAUTHORIZED"));
    assert_eq!(
        first.header("www-authenticate"),
        Some(r#"Basic realm="fixture""#)
    );
    let right = "Authorization: Basic YWxpY2U6czNjcmV0";
    assert_eq!(
        client.get("/v2/a/tags/list", &[right]).code(),
        "NAME_UNKNOWN"
    );
    assert_eq!(
        client
            .get("/v2/a/tags/list", &["Authorization: Basic YTpi"])
            .status,
        401
    );
    registry.assert_clean();
    registry.forget_requests();
    assert_eq!(client.get("/v2/", &[right]).status, 200);
    assert!(registry.complaints()[0].starts_with("UnaskedAuthorization"));
    registry.allow(Offence::UnaskedAuthorization);
}

#[test]
fn bearer_tokens_are_issued_used_and_worn_out() {
    let tokens = Tokens::new()
        .user("alice", "s3cret")
        .uses(2)
        .expires_in(Some(60));
    let registry = Registry::setup().bearer(&tokens).start();
    registry.tag("a/b", "1", "sha256:0");
    let mut client = Client::connect(&registry);
    let refused = client.get("/v2/a/b/tags/list", &[]);
    let realm = registry.url("/token");
    assert_eq!(
        refused.header("www-authenticate").unwrap(),
        format!(r#"Bearer realm="{realm}",service="fixture",scope="repository:a/b:pull""#)
    );
    let asked = "/token?service=fixture&scope=repository%3Aa%2Fb%3Apull%2Cpush";
    let anonymous = client.get(asked, &[]).json();
    assert_eq!(anonymous, json!({"token": "token-1", "expires_in": 60}));
    let bearer = |n: usize| format!("Authorization: Bearer token-{n}");
    let upload = client.request("POST", "/v2/a/b/blobs/uploads/", &[&bearer(1)], b"");
    assert!(
        upload
            .header("www-authenticate")
            .unwrap()
            .contains("insufficient_scope")
    );
    assert_eq!(client.get("/v2/a/b/tags/list", &[&bearer(1)]).status, 200);
    assert_eq!(
        client.get("/v2/a/b/tags/list", &[&bearer(1)]).status,
        401,
        "worn out"
    );

    let alice = client.get(asked, &["Authorization: Basic YWxpY2U6czNjcmV0"]);
    assert_eq!(alice.json()["token"], json!("token-2"));
    let upload = client.request("POST", "/v2/a/b/blobs/uploads/", &[&bearer(2)], b"");
    assert_eq!(upload.status, 202);
    tokens.expire_all();
    assert_eq!(client.get("/v2/a/b/tags/list", &[&bearer(2)]).status, 401);
    assert_eq!(
        client.get(asked, &["Authorization: Basic YTpi"]).status,
        401
    );
    registry.assert_clean();
    assert_eq!(
        client.get("/v2/", &["Authorization: Bearer mine"]).status,
        401
    );
    assert!(registry.complaints()[0].contains("token `mine` was never issued"));
    registry.allow(Offence::ForeignAuthorization);
}

#[test]
fn tokens_are_posted_for_where_get_is_refused() {
    let tokens = Tokens::new()
        .user("alice", "s3cret")
        .refresh_token("r-1", "alice")
        .get_answers(405);
    let server = Registry::setup().serve_tokens(&tokens).start();
    let registry = Registry::setup()
        .bearer(&tokens)
        .realm(server.url("/token"))
        .challenges([
            "Negotiate",
            r#"BASIC realm=x, bearer Realm="{realm}" , SERVICE={service}"#,
        ])
        .start();
    let refused = Client::connect(&registry).get("/v2/", &[]);
    let challenges: Vec<&str> = refused
        .headers
        .iter()
        .filter(|(name, _)| name == "www-authenticate")
        .map(|(_, value)| value.as_str())
        .collect();
    let realm = server.url("/token");
    let second = format!(r#"BASIC realm=x, bearer Realm="{realm}" , SERVICE=fixture"#);
    assert_eq!(challenges, ["Negotiate", &second]);

    let mut client = Client::connect(&server);
    assert_eq!(client.get("/token?service=fixture", &[]).status, 405);
    let form = "Content-Type: application/x-www-form-urlencoded";
    let mut post = |who: &str| {
        let body = format!("service=fixture&client_id=c&scope=repository:a:pull&{who}");
        client.request("POST", "/token", &[form], body.as_bytes())
    };
    let right = post("grant_type=refresh_token&refresh_token=r-1");
    assert_eq!(right.json()["access_token"], json!("token-1"));
    assert_eq!(
        post("grant_type=password&username=alice&password=s3cret").status,
        200
    );
    assert_eq!(
        post("grant_type=password&username=alice&password=no").status,
        401
    );
    server.assert_clean();
    assert_eq!(post("grant_type=magic").status, 401);
    server.allow(Offence::TokenRequest);
}

#[test]
fn a_second_fixture_can_show_the_same_objects() {
    let registry = Registry::start();
    let storage = Registry::setup().same_store_as(&registry).start();
    let digest = registry.put_blob("a", b"bytes");
    registry
        .on("GET", "/v2/a/blobs/*")
        .then(Fault::RedirectBelow(307, storage.url("/storage/")));
    let got = Client::connect(&registry).get(&format!("/v2/a/blobs/{digest}"), &[]);
    let to = got
        .header("location")
        .unwrap()
        .strip_prefix(&storage.url(""))
        .unwrap();
    assert_eq!(Client::connect(&storage).get(to, &[]).body, b"bytes");
    storage.serve("/other?key=1", "presigned");
    assert_eq!(
        Client::connect(&storage).get("/other?key=1", &[]).body,
        b"presigned"
    );
}

// Faults.

#[test]
fn a_cut_comes_after_exactly_the_scripted_bytes() {
    let registry = Registry::start();
    // Larger than the kernel's buffers, so that a reset that does not wait would lose bytes.
    let blob = noise(1, 9 << 20);
    let digest = registry.put_blob("a", &blob);
    let path = format!("/v2/a/blobs/{digest}");
    for cut in [0, 1, 1000, 8 << 20] {
        registry.on("GET", &path).then(Fault::ResetAfter(cut));
        let (got, error) = Client::connect(&registry).read_until_broken(&path);
        assert_eq!(
            (got.len() as u64, error.as_str()),
            (cut, "connection reset")
        );
        assert!(blob.starts_with(&got));
        registry.on("GET", &path).then(Fault::CloseAfter(cut));
        let (got, error) = Client::connect(&registry).read_until_broken(&path);
        assert_eq!((got.len() as u64, error.as_str()), (cut, "end of stream"));
    }
    registry.alias(&digest, "blob");
    assert_eq!(registry.lines()[2], "GET /v2/a/blobs/<blob> 200 reset@1");
    assert_eq!(registry.lines()[3], "GET /v2/a/blobs/<blob> 200 close@1");
}

#[test]
fn connections_break_before_an_answer() {
    let registry = Registry::start();
    for (fault, error) in [
        (Fault::Reset, "connection reset"),
        (Fault::DoneThenReset, "connection reset"),
        (Fault::Close, "end of stream"),
        (Fault::Garbage(b"\0\0".to_vec()), "end of stream"),
    ] {
        registry.on("GET", "/v2/").then(fault);
        let mut client = Client::connect(&registry);
        client.write(&get("/v2/", &[]));
        assert_eq!(client.rest().1, error);
    }
    assert_eq!(
        registry.lines(),
        [
            "GET /v2/ reset",
            "GET /v2/ reset",
            "GET /v2/ close",
            "GET /v2/ garbage"
        ]
    );
}

#[test]
fn uploads_break_in_the_middle_or_after_they_were_done() {
    let registry = Registry::start();
    let blob = noise(2, 1 << 20);
    let digest = sha256(&blob);
    registry
        .on("PUT", "/v2/a/blobs/uploads/*")
        .then(Fault::ResetInRequest(1000));
    registry
        .on("PUT", "/v2/a/blobs/uploads/*")
        .then(Fault::DoneThenReset);
    for kept in [false, true] {
        let mut client = Client::connect(&registry);
        let at = client.open_upload(&registry, "/v2/a/blobs/uploads/");
        let length = format!("Content-Length: {}", blob.len());
        client.write(&send(
            "PUT",
            &format!("{at}&digest={digest}"),
            &[OCTETS, &length],
            "",
        ));
        let _ = client.stream.write_all(&blob);
        assert_eq!(client.rest().1, "connection reset");
        assert_eq!(registry.blob("a", &digest).is_some(), kept);
    }
    let broken = registry.requests();
    assert_eq!(
        (broken[1].body.len(), broken[3].body.len()),
        (1000, blob.len())
    );
}

#[test]
fn a_stall_lasts_until_it_is_released_or_the_test_ends() {
    let registry = Registry::start();
    let digest = registry.put_blob("a", b"0123456789");
    registry
        .on("GET", "/v2/a/blobs/*")
        .then(Fault::StallAfter(4));
    registry.on("GET", "/v2/").times(2).then(Fault::Stall);
    let mut stalled = Client::connect(&registry);
    stalled.write(&get(&format!("/v2/a/blobs/{digest}"), &[]));
    let mut silent = Client::connect(&registry);
    silent.write(&get("/v2/", &[]));
    registry.wait_for("both to stall", |requests| {
        requests
            .iter()
            .filter(|r| r.outcome.contains("stall"))
            .count()
            == 2
    });
    registry.release();
    let (bytes, _) = stalled.rest();
    assert!(bytes.ends_with(b"\r\n\r\n0123"));
    assert!(silent.rest().0.is_empty());
    let mut to_the_end = Client::connect(&registry);
    to_the_end.write(&get("/v2/", &[]));
    registry.wait_for("the stall", |requests| {
        requests[2..].iter().any(|r| r.outcome == "stall")
    });
    drop(registry);
    assert!(to_the_end.rest().0.is_empty());
}

#[test]
fn bodies_lie_as_scripted() {
    let registry = Registry::start();
    let digest = registry.put_blob("a", b"0123456789");
    let path = format!("/v2/a/blobs/{digest}");
    let cases: Vec<(Fault, &[u8])> = vec![
        (Fault::FlipByte(2), b"0133456789"),
        (Fault::WrongBytes, b"edgfa`cbml"),
        (Fault::Longer(2), b"0123456789\0\0"),
        (Fault::Shorter(3), b"0123456"),
        (Fault::Body(b"else".to_vec()), b"else"),
        (Fault::Chunked, b"0123456789"),
        (Fault::CloseDelimited, b"0123456789"),
        (Fault::Without("Content-Length"), b"0123456789"),
        (Fault::SayLength(4), b"0123"),
        (Fault::Slowly(3, Duration::from_millis(1)), b"0123456789"),
        (Fault::edit(|_, answer| answer.body("edited")), b"edited"),
    ];
    for (fault, body) in cases {
        registry.on("GET", &path).then(fault);
        assert_eq!(Client::connect(&registry).get(&path, &[]).body, body);
    }
    registry
        .on("GET", &path)
        .then(Fault::Without("docker-content-digest"))
        .and(Fault::FlipByte(0));
    let got = Client::connect(&registry).get(&path, &[]);
    assert_eq!(
        (got.header("docker-content-digest"), got.body[0]),
        (None, b'1')
    );
}

#[test]
fn ranges_go_wrong_as_scripted() {
    let registry = Registry::start();
    let digest = registry.put_blob("a", b"0123456789");
    let path = format!("/v2/a/blobs/{digest}");
    for (fault, status, content_range, body) in [
        (Fault::IgnoreRange, 200, None, "0123456789"),
        (Fault::OtherRange(0, 1), 206, Some("bytes 0-1/10"), "01"),
        (Fault::RangeRefused, 416, Some("bytes */10"), ""),
        (
            Fault::Header("Content-Range", "bytes 7-9/10".into()),
            206,
            Some("bytes 7-9/10"),
            "56789",
        ),
    ] {
        registry
            .on("GET", &path)
            .with_header("Range", "bytes=5-*")
            .then(fault);
        let mut client = Client::connect(&registry);
        assert_eq!(
            client.get(&path, &[]).status,
            200,
            "no rule for a request without Range"
        );
        let got = client.get(&path, &["Range: bytes=5-"]);
        assert_eq!(
            (got.status, got.header("content-range")),
            (status, content_range)
        );
        assert!(got.status == 416 || got.text() == body);
    }
}

#[test]
fn rules_count_as_their_words_say() {
    let registry = Registry::start();
    registry
        .on("GET", "/v2/")
        .nth(2)
        .times(2)
        .then(Fault::too_many(3));
    registry
        .on("GET", "/v2/")
        .nth(5)
        .then(Fault::unavailable("Wed, 21 Oct 2015 07:28:00 GMT"));
    registry
        .on("HEAD", "/v2/*")
        .always()
        .then(Fault::Answer(answer(405)));
    registry
        .on("GET", "/v2/?x=*")
        .then(Fault::error(404, "X", "y"));
    let mut client = Client::connect(&registry);
    let statuses: Vec<u16> = (0..6).map(|_| client.get("/v2/", &[]).status).collect();
    assert_eq!(statuses, [200, 429, 429, 200, 503, 200]);
    assert_eq!(client.request("HEAD", "/v2/", &[], b"").status, 405);
    assert_eq!(client.get("/v2/?x=1", &[]).code(), "X");
    // Without `nth`, equal rules take turns.
    registry.on("GET", "/v2/").then(Fault::error(500, "A", ""));
    registry.on("GET", "/v2/").then(Fault::error(502, "B", ""));
    let statuses: Vec<u16> = (0..3).map(|_| client.get("/v2/", &[]).status).collect();
    assert_eq!(statuses, [500, 502, 200]);
}

#[test]
fn an_expired_token_stays_worthless() {
    let tokens = Tokens::new();
    let registry = Registry::setup().bearer(&tokens).start();
    registry.tag("a", "1", "sha256:0");
    registry
        .on("GET", "/v2/a/tags/list")
        .with_header("Authorization", "*")
        .nth(2)
        .then(Fault::Expired);
    let mut client = Client::connect(&registry);
    assert_eq!(client.get("/v2/a/tags/list", &[]).status, 401);
    let old = format!(
        "Authorization: Bearer {}",
        tokens.issue(&["repository:a:pull"])
    );
    let statuses: Vec<u16> = (0..3)
        .map(|_| client.get("/v2/a/tags/list", &[&old]).status)
        .collect();
    assert_eq!(statuses, [200, 401, 401]);
    let new = format!(
        "Authorization: Bearer {}",
        tokens.issue(&["repository:a:pull"])
    );
    assert_eq!(client.get("/v2/a/tags/list", &[&new]).status, 200);
}

#[test]
fn connections_close_after_an_answer_with_and_without_a_word() {
    let registry = Registry::start();
    registry.on("GET", "/v2/").then(Fault::LastOfConnection);
    registry.on("GET", "/v2/").then(Fault::SilentClose);
    for word in [Some("close"), None] {
        let mut client = Client::connect(&registry);
        let got = client.get("/v2/", &[]);
        assert_eq!((got.status, got.header("connection")), (200, word));
        assert_eq!(client.rest().1, "end of stream");
    }
}

#[test]
fn a_gate_holds_requests_until_enough_have_come() {
    let registry = Registry::start();
    registry
        .on("GET", "/v2/")
        .times(2)
        .then(Fault::Hold(Gate::meeting(2)));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(Client::connect(&registry).get("/v2/", &[]).status, 200));
        }
    });
    assert_eq!(registry.most_at_once(), 2);
    let gate = Gate::new();
    registry.on("GET", "/v2/").then(Fault::Hold(gate.clone()));
    let mut client = Client::connect(&registry);
    client.write(&get("/v2/", &[]));
    gate.wait_for(1);
    assert_eq!(registry.lines()[2], "GET /v2/ …");
    gate.open();
    assert_eq!(client.read_answer("GET").status, 200);
}

#[test]
fn a_tls_hello_to_a_plain_registry_is_no_request() {
    let registry = Registry::start();
    let mut client = Client::connect(&registry);
    client.stream.write_all(&[0x16, 3, 1, 0, 1, 0]).unwrap();
    assert!(client.rest().0.starts_with(b"HTTP/1.1 400 Bad Request"));
    assert_eq!((registry.tls_hellos(), registry.requests().len()), (1, 0));
}

// The raw client.

fn get(target: &str, headers: &[&str]) -> String {
    send("GET", target, headers, "")
}

fn send(method: &str, target: &str, headers: &[&str], body: &str) -> String {
    let headers: String = headers
        .iter()
        .map(|header| format!("{header}\r\n"))
        .collect();
    format!("{method} {target} HTTP/1.1\r\nHost: HOST\r\n{headers}\r\n{body}")
}

fn path_of(registry: &Registry, location: &str) -> String {
    location
        .strip_prefix(&registry.url(""))
        .unwrap_or(location)
        .to_owned()
}

fn panic_of(action: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(action)).expect_err("a panic");
    panic.downcast_ref::<String>().unwrap().clone()
}

struct Client {
    stream: TcpStream,
    host: String,
}

struct Got {
    status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn code(&self) -> String {
        self.json()["errors"][0]["code"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

impl Client {
    fn connect(registry: &Registry) -> Client {
        let stream = TcpStream::connect(registry.address()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Client {
            stream,
            host: registry.host(),
        }
    }

    fn write(&mut self, text: &str) {
        let text = text.replace("Host: HOST", &format!("Host: {}", self.host));
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    fn get(&mut self, target: &str, headers: &[&str]) -> Got {
        self.write(&get(target, headers));
        self.read_answer("GET")
    }

    fn request(&mut self, method: &str, target: &str, headers: &[&str], body: &[u8]) -> Got {
        let length = format!("Content-Length: {}", body.len());
        let mut headers = headers.to_vec();
        if matches!(method, "POST" | "PUT" | "PATCH") {
            headers.push(&length);
        }
        self.write(&send(method, target, &headers, ""));
        self.stream.write_all(body).unwrap();
        self.read_answer(method)
    }

    fn request_chunked(
        &mut self,
        method: &str,
        target: &str,
        headers: &[&str],
        pieces: &[&[u8]],
    ) -> Got {
        let headers = [headers, &["Transfer-Encoding: chunked"]].concat();
        self.write(&send(method, target, &headers, ""));
        for piece in pieces {
            self.stream
                .write_all(format!("{:X};a=b\r\n", piece.len()).as_bytes())
                .unwrap();
            self.stream.write_all(piece).unwrap();
            self.stream.write_all(b"\r\n").unwrap();
        }
        self.stream.write_all(b"0\r\n\r\n").unwrap();
        self.read_answer(method)
    }

    /// The path of a new upload session.
    fn open_upload(&mut self, registry: &Registry, path: &str) -> String {
        let got = self.request("POST", path, &[], b"");
        assert_eq!(got.status, 202);
        path_of(registry, got.header("location").unwrap())
    }

    fn read_answer(&mut self, method: &str) -> Got {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let mut got = Got {
            status,
            headers,
            body: Vec::new(),
        };
        if method == "HEAD" || status == 204 {
            return got;
        }
        if let Some(length) = got.header("content-length") {
            let mut body = vec![0; length.parse().unwrap()];
            self.stream.read_exact(&mut body).unwrap();
            got.body = body;
        } else if got.header("transfer-encoding").is_some() {
            let mut line = String::new();
            loop {
                let mut byte = [0];
                self.stream.read_exact(&mut byte).unwrap();
                line.push(char::from(byte[0]));
                if let Some(size) = line.strip_suffix("\r\n") {
                    let size = usize::from_str_radix(size, 16).unwrap();
                    let mut chunk = vec![0; size + 2];
                    self.stream.read_exact(&mut chunk).unwrap();
                    got.body.extend_from_slice(&chunk[..size]);
                    line.clear();
                    if size == 0 {
                        break;
                    }
                }
            }
        } else {
            self.stream.read_to_end(&mut got.body).unwrap();
        }
        got
    }

    /// What comes until the connection ends, and how it ends.
    fn rest(&mut self) -> (Vec<u8>, String) {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return (bytes, "end of stream".to_owned()),
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(error) => return (bytes, error.kind().to_string()),
            }
        }
    }

    /// The body of an answer that breaks off, and how it ends.
    fn read_until_broken(&mut self, path: &str) -> (Vec<u8>, String) {
        self.write(&get(path, &[]));
        let (bytes, error) = self.rest();
        let at = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        (bytes[at + 4..].to_vec(), error)
    }

    /// Waits until the fixture is done with what was sent.
    fn finish(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = self.rest();
    }
}
