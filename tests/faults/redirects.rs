//! Redirects, and what goes along with them: no credentials, and nothing to private addresses.

use crate::common::{Authority, Fault, Proxy, Registry, Tokens, noise, sha256};
use crate::help::{app, assert_arrived, check, get, get_of, layer_path, serving, small, told};
use serde_json::json;

#[test]
fn ten_redirects_are_followed_and_no_more() {
    let image = app();
    for (redirects, arrives) in [(1, true), (10, true), (11, false)] {
        let registry = serving(&image);
        let digest = &image.layers[0].digest;
        let target = format!("/storage/{digest}");
        let hop = |n: usize| match n {
            n if n == redirects => target.clone(),
            n => format!("/hop/{n}?signature=s3cret"),
        };
        registry
            .on("GET", &layer_path(&image))
            .then(Fault::Redirect(302, hop(1)));
        for n in 1..redirects {
            let status = [301, 302, 303, 307, 308][n % 5];
            let rule = registry.on("GET", &format!("/hop/{n}")).optional();
            rule.then(Fault::Redirect(status, hop(n + 1)));
        }
        let output = get(&registry, &image, json!({"debug": true})).run();
        output.keeps_secret(["signature", "s3cret"]);
        if arrives {
            assert_arrived(&output, &image);
        } else {
            output.fails_ending_with(&format!(
                "get: REGISTRY/t/a@{}: fetch {digest}: http://REGISTRY/v2/t/a/blobs/{digest}: \
                 more than 10 redirects, the last to http://REGISTRY{target}",
                image.digest
            ));
        }
    }
}

#[test]
fn a_redirect_loop_ends() {
    let image = small();
    let registry = serving(&image);
    registry
        .on("*", "/v2/*")
        .always()
        .then(Fault::Redirect(307, "/loop".to_owned()));
    registry
        .on("*", "/loop")
        .always()
        .then(Fault::Redirect(302, "/loop".to_owned()));
    let output = check(&registry, json!({"tag": "1"})).run();
    output.fails_with(
        "check: REGISTRY/t/a: look up 1: http://REGISTRY/v2/t/a/manifests/1: \
         more than 10 redirects, the last to http://REGISTRY/loop",
    );
}

#[test]
fn a_redirect_from_https_to_plain_http_is_not_followed() {
    let authority = Authority::new("private CA");
    let image = app();
    let plain = Registry::start();
    let registry = Registry::setup()
        .tls(authority.identity(&["127.0.0.1"]).server())
        .start();
    registry.put_image("t/a", "1", &image);
    let to = plain.url("/storage/");
    registry
        .on("GET", &layer_path(&image))
        .then(Fault::RedirectBelow(307, to));
    let fields = json!({"ca_certs": [authority.pem()]});
    let output = get(&registry, &image, fields).against(&plain).run();
    let digest = &image.layers[0].digest;
    output.fails_ending_with(&format!(
        "get: REGISTRY/t/a@{}: fetch {digest}: https://REGISTRY/v2/t/a/blobs/{digest} redirects to \
         http://REGISTRY2/storage/{digest}, from HTTPS to plain HTTP: not followed",
        image.digest
    ));
    assert!(plain.requests().is_empty());
}

#[test]
fn credentials_never_leave_the_registry() {
    let image = app();
    let tokens = Tokens::new().user("alice", "s3cret").anonymous_pull(false);
    let storage = Registry::start();
    let registry = Registry::setup().bearer(&tokens).start();
    registry.put_image("t/a", "1", &image);
    storage.put_blob_as("x", &image.layers[0].digest, &image.layers[0].bytes);
    // The same host and another port is another server.
    registry
        .on("GET", &layer_path(&image))
        .with_header("authorization", "Bearer *")
        .then(Fault::RedirectBelow(307, storage.url("/storage/")));
    let login = json!({"username": "alice", "password": "s3cret"});
    let output = get(&registry, &image, login).run();
    assert_arrived(&output, &image);
    // A fixture's storage takes an Authorization for an offence; here it is said once more.
    assert_eq!(storage.requests()[0].header("authorization"), None);
}

#[test]
fn foreign_layers_come_from_public_servers_without_credentials() {
    let bytes = noise(3, 5000);
    let authority = Authority::new("private CA");
    let identity = authority.identity(&["layers.test"]);
    let storage = Registry::setup()
        .tls(identity.server())
        .name("layers.test")
        .start();
    storage.serve("/layer", bytes.clone());
    let proxy = Proxy::start(&storage);
    let foreign = |url: &str| {
        small().lie(|manifest| {
            manifest["layers"][0] = json!({
                "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "digest": sha256(&bytes),
                "size": bytes.len(),
                "urls": [url],
            });
        })
    };
    let image = foreign("https://layers.test/layer");
    let tokens = Tokens::new().user("alice", "s3cret").anonymous_pull(false);
    let registry = Registry::setup().bearer(&tokens).start();
    registry.put_image("t/a", "1", &image);
    let fields = json!({
        "username": "alice", "password": "s3cret", "ca_certs": [authority.pem()],
    });
    let output = get(&registry, &image, fields.clone())
        .env("https_proxy", proxy.url())
        .run();
    output.succeeds();
    assert_eq!(storage.requests()[0].header("authorization"), None);

    // Not from this machine or its neighbours, by name or number, also not by a redirect.
    let near = Registry::start();
    near.serve("/layer", bytes.clone());
    let port = near.address().port();
    storage
        .on("GET", "/moved")
        .always()
        .then(Fault::Redirect(302, "https://10.0.0.7/layer".to_owned()));
    for url in [
        near.url("/layer"),
        format!("http://localhost:{port}/layer"),
        format!("http://0.0.0.0:{port}/layer"),
        format!("http://[::ffff:127.0.0.1]:{port}/layer"),
        "http://169.254.169.254/layer".to_owned(),
        "http://10.0.0.7/layer".to_owned(),
        "https://[fd00::7]/layer".to_owned(),
        "https://layers.test/moved".to_owned(),
    ] {
        let image = foreign(&url);
        registry.put_image("t/a", "1", &image);
        let output = get_of(&registry.repository("t/a"), &image, fields.clone())
            .env("https_proxy", proxy.url())
            .run();
        output.fails();
        let last = told(&output).pop().unwrap();
        assert!(
            last.ends_with(" is an address that it must not lead to"),
            "{url}: {last}"
        );
    }
    assert!(near.requests().is_empty());
}
