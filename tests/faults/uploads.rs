//! Uploads that break, and the places where they may go on.

use std::time::Duration;

use crate::common::{Answer, Fault, Gate, Image, Registry, Tokens, answer, image, layer, sha256};
use crate::help::{app, count, put, told};
use serde_json::json;

const START: &str = "/v2/t/a/blobs/uploads/";
const SESSION: &str = "/v2/t/a/blobs/uploads/upload-*";

fn assert_pushed(registry: &Registry, image: &Image) {
    let pushed = registry.manifest("t/a", "1").map(|found| found.bytes);
    assert_eq!(pushed.as_ref(), Some(&image.manifest));
    for blob in image.blobs() {
        assert_eq!(
            registry.blob("t/a", &blob.digest).as_ref(),
            Some(&blob.bytes)
        );
    }
}

#[test]
fn a_token_that_ends_in_the_middle_of_an_upload_is_renewed() {
    let image = app();
    for method in ["POST", "PATCH", "PUT"] {
        let tokens = Tokens::new().user("alice", "s3cret");
        let registry = Registry::setup().bearer(&tokens).start();
        registry.on(method, "/v2/t/a/*").then(Fault::Expired);
        let login = json!({"username": "alice", "password": "s3cret"});
        // Another worker's upload would see the same token end.
        let output = put(&registry, &image, login)
            .env("REGISTRY_IMAGE_WORKERS", "1")
            .run();
        output.succeeds();
        assert_pushed(&registry, &image);
        let expected: &[&str] = match method {
            "PATCH" => &[
                "PATCH http://REGISTRY/v2/t/a/blobs/uploads/SESSION: 401 Unauthorized: \
                 UNAUTHORIZED: authentication required; check `source.username` and \
                 `source.password`, and what they may do there; trying again in T",
                "pushed 1",
            ],
            _ => &["pushed 1"],
        };
        assert_eq!(told(&output), expected, "{method}");
    }
}

#[test]
fn a_login_that_is_refused_again_and_again_ends_the_upload() {
    let image = app();
    let tokens = Tokens::new().user("alice", "s3cret");
    let registry = Registry::setup().bearer(&tokens).start();
    registry.on("PATCH", SESSION).always().then(Fault::Expired);
    let login = json!({"username": "alice", "password": "s3cret"});
    let output = put(&registry, &image, login)
        .env("REGISTRY_IMAGE_WORKERS", "1")
        .run();
    output.fails();
    assert_eq!(count(&registry, "PATCH", SESSION), 4);
}

#[test]
fn an_upload_that_breaks_starts_again_with_a_new_session() {
    let image = app();
    let registry = Registry::start();
    for at in [1, 70_000, 500_000] {
        registry
            .on("PATCH", SESSION)
            .with_header("content-length", "1050112")
            .then(Fault::ResetInRequest(at));
    }
    let output = put(&registry, &image, json!({})).run();
    output.succeeds();
    assert_pushed(&registry, &image);
    assert_eq!(count(&registry, "POST", START), 5);
    assert_eq!(told(&output).len(), 4, "{:?}", told(&output));
}

#[test]
fn what_a_server_says_before_it_hangs_up_on_an_upload_is_heard() {
    let image = app();
    for (early, says) in [
        (
            answer(406)
                .with("Content-Type", "text/html")
                .body("<html>Not Acceptable</html>"),
            "406 Not Acceptable: an HTML page instead of an answer",
        ),
        (
            answer(403).error("DENIED", "your quota is used up"),
            "403 Forbidden: DENIED: your quota is used up",
        ),
    ] {
        let registry = Registry::start();
        registry
            .on("PATCH", SESSION)
            .with_header("content-length", "1050112")
            .then(Fault::AnswerEarly(early));
        let output = put(&registry, &image, json!({}))
            .env("REGISTRY_IMAGE_WORKERS", "1")
            .run();
        output.fails();
        let last = told(&output).pop().unwrap();
        let expected = format!("PATCH http://REGISTRY/v2/t/a/blobs/uploads/SESSION: {says}");
        assert!(last.ends_with(&expected), "{last}");
        assert_eq!(told(&output).len(), 1);
    }
}

#[test]
fn an_early_answer_that_passes_is_waited_for_as_it_asks() {
    let image = app();
    let registry = Registry::start();
    let limited = answer(429)
        .retry_after(11)
        .error("TOOMANYREQUESTS", "slow down");
    registry
        .on("PATCH", SESSION)
        .then(Fault::AnswerEarly(limited));
    let output = put(&registry, &image, json!({})).run();
    output.succeeds();
    assert_pushed(&registry, &image);
    let line = "PATCH http://REGISTRY/v2/t/a/blobs/uploads/SESSION: 429 Too Many Requests: \
                TOOMANYREQUESTS: slow down; trying again in T";
    assert!(
        told(&output).iter().any(|said| said == line),
        "{:?}",
        told(&output)
    );
    assert!(output.messages().contains("trying again in 11.0 s"));
}

#[test]
fn an_upload_goes_on_where_the_registry_says_but_without_credentials_elsewhere() {
    let image = app();
    let tokens = Tokens::new().user("alice", "s3cret");
    let storage = Registry::start();
    let registry = Registry::setup().bearer(&tokens).start();
    // The session is at another server, which shares what it stores.
    let place = storage.host();
    let moved = move |_: &_, answer: Answer| {
        let location = answer.header("location").unwrap().to_owned();
        let path = location.split_once("/v2/").unwrap().1;
        answer.set("Location", format!("http://{place}/v2/{path}"))
    };
    registry.on("POST", START).always().then(Fault::edit(moved));
    let session = |_: &_, answer: Answer| answer;
    storage
        .on("PATCH", SESSION)
        .always()
        .then(Fault::edit(session))
        .and(Fault::DoneBut(answer(202)));
    storage
        .on("PUT", SESSION)
        .always()
        .then(Fault::DoneBut(answer(201)));
    storage.allow(crate::common::Offence::NoSuchUpload);
    storage.allow(crate::common::Offence::LocationNotFollowed);
    let login = json!({"username": "alice", "password": "s3cret"});
    let output = put(&registry, &image, login).against(&storage).run();
    // Nothing was stored at the registry itself, so its manifest cannot be put.
    output.fails();
    registry.allow(crate::common::Offence::BlobsMissing);
    assert!(storage.requests().len() >= 4);
    for request in storage.requests() {
        assert_eq!(request.header("authorization"), None);
    }
}

#[test]
fn an_upload_may_not_go_on_at_addresses_that_only_this_worker_means() {
    let image = app();
    for location in [
        "http://169.254.169.254/latest/meta-data?_state=1",
        "http://[fe80::1]/x",
        "http://[::ffff:169.254.1.1]/x",
    ] {
        let registry = Registry::start();
        let started = answer(202).with("Location", location);
        registry
            .on("POST", START)
            .always()
            .then(Fault::Answer(started));
        let output = put(&registry, &image, json!({}))
            .env("REGISTRY_IMAGE_WORKERS", "1")
            .run();
        output.fails();
        let last = told(&output).pop().unwrap();
        assert!(
            last.contains("http://REGISTRY leads to ")
                && last.ends_with(" is an address that it must not lead to"),
            "{last}"
        );
    }
}

#[test]
fn a_registry_that_does_not_say_what_it_has_is_sent_everything() {
    for status in [400, 403, 405, 501] {
        let image = app();
        let registry = Registry::start();
        let silent = || Fault::Answer(answer(status));
        registry
            .on("HEAD", "/v2/t/a/blobs/*")
            .always()
            .then(silent());
        put(&registry, &image, json!({})).run().succeeds();
        assert_pushed(&registry, &image);

        // Who may not push hears so in the registry's words.
        let registry = Registry::start();
        registry
            .on("HEAD", "/v2/t/a/blobs/*")
            .always()
            .then(silent());
        let denied = Fault::error(403, "DENIED", "not yours");
        registry.on("POST", "*").always().then(denied);
        let output = put(&registry, &image, json!({})).run();
        output.fails();
        let last = told(&output).pop().unwrap();
        let words = "POST http://REGISTRY/v2/t/a/blobs/uploads/: 403 Forbidden: DENIED: not yours; \
                     set `source.username` and `source.password`";
        assert!(last.ends_with(words), "{last}");
    }
}

#[test]
fn a_session_without_a_place_is_an_error_that_says_so() {
    let image = app();
    let registry = Registry::start();
    registry.on("POST", START).then(Fault::Without("Location"));
    let output = put(&registry, &image, json!({}))
        .env("REGISTRY_IMAGE_WORKERS", "1")
        .run();
    let layer = &image.layers[0].digest;
    output.fails_ending_with(&format!(
        "put: push {}: POST http://REGISTRY/v2/t/a/blobs/uploads/: \
         the registry started an upload without a Location",
        crate::help::short(layer)
    ));
}

#[test]
fn a_session_that_is_gone_is_started_anew() {
    let image = app();
    let registry = Registry::start();
    let gone = || {
        Fault::error(
            404,
            "BLOB_UPLOAD_UNKNOWN",
            "blob upload unknown to registry",
        )
    };
    registry.on("PATCH", SESSION).then(gone());
    registry.on("PUT", SESSION).then(gone());
    let output = put(&registry, &image, json!({})).run();
    output.succeeds();
    assert_pushed(&registry, &image);
}

#[test]
fn a_wrong_digest_at_the_commit_is_final() {
    let image = app();
    let registry = Registry::start();
    registry.on("PUT", SESSION).always().then(Fault::error(
        400,
        "DIGEST_INVALID",
        "provided digest did not match uploaded content",
    ));
    let output = put(&registry, &image, json!({}))
        .env("REGISTRY_IMAGE_WORKERS", "1")
        .run();
    output.fails();
    assert_eq!(count(&registry, "PUT", SESSION), 1);
    let last = told(&output).pop().unwrap();
    assert!(
        last.ends_with(
            "400 Bad Request: DIGEST_INVALID: provided digest did not match uploaded content"
        ),
        "{last}"
    );
}

#[test]
fn a_manifest_that_is_stored_under_another_digest_is_refused() {
    let image = app();
    let registry = Registry::start();
    registry
        .on("PUT", "/v2/t/a/manifests/*")
        .then(Fault::Header("Docker-Content-Digest", sha256(b"another")));
    let output = put(&registry, &image, json!({})).run();
    output.fails_ending_with(&format!(
        "put: PUT http://REGISTRY/v2/t/a/manifests/{}: the registry stored {} instead of {}",
        image.digest,
        sha256(b"another"),
        image.digest
    ));
}

#[test]
fn an_upload_that_is_refused_ends_the_wait_for_a_silent_registry() {
    let image = image(["a", "b"].map(|name| layer().noise(name, 100_000))).oci();
    let registry = Registry::start();
    let both = Gate::meeting(2);
    let [silent, other] = [0, 1].map(|at| format!("/v2/t/a/blobs/{}", image.layers[at].digest));
    registry
        .on("HEAD", &silent)
        .then(Fault::Hold(both.clone()))
        .and(Fault::Stall);
    registry.on("HEAD", &other).then(Fault::Hold(both));
    registry
        .on("POST", START)
        .then(Fault::error(403, "DENIED", "not you"));
    let output = put(&registry, &image, json!({}))
        .env("REGISTRY_IMAGE_WORKERS", "2")
        .real_clock()
        .limit(Duration::from_secs(30))
        .run();
    output.fails();
    let messages = told(&output);
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(messages[0].contains("403 Forbidden"), "{messages:?}");
}
