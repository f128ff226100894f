//! Who gets credentials, in which form, and how often.

use std::time::Duration;

use crate::common::{Fault, Gate, Registry, Setup, Tokens, answer, image, layer};
use crate::help::{app, assert_arrived, check, count, get, put, small, told};
use serde_json::{Value, json};

fn alice() -> Value {
    json!({"tag": "1", "username": "alice", "password": "s3cret"})
}

fn tokens() -> Tokens {
    Tokens::new().user("alice", "s3cret").anonymous_pull(false)
}

fn serving(setup: Setup) -> Registry {
    let registry = setup.start();
    registry.put_image("t/a", "1", &small());
    registry
}

/// The identities that the registry and its token server saw, in order.
fn identities(registry: &Registry) -> Vec<String> {
    let requests = registry.requests();
    let shown = requests.iter().map(|request| {
        let scheme = request.header("authorization").unwrap_or("-");
        let scheme = scheme.split(' ').next().unwrap();
        let target = request.head.target.split('?').next().unwrap();
        format!("{} {target} {scheme}", request.head.method)
    });
    shown.collect()
}

#[test]
fn nobody_is_told_a_password_before_it_is_asked_for() {
    let registry = serving(Registry::setup());
    check(&registry, alice()).run().succeeds();
    assert_eq!(identities(&registry), ["HEAD /v2/t/a/manifests/1 -"]);
}

#[test]
fn basic_costs_one_request_more() {
    let registry = serving(Registry::setup().basic("alice", "s3cret"));
    let output = get(&registry, &small(), alice()).run();
    assert_arrived(&output, &small());
    let seen = identities(&registry);
    let digest = small().digest;
    assert_eq!(seen[0], format!("GET /v2/t/a/manifests/{digest} -"));
    assert!(
        seen[1..].iter().all(|line| line.ends_with(" Basic")),
        "{seen:?}"
    );
}

#[test]
fn a_token_is_asked_for_once_and_the_connection_is_used_again() {
    let registry = serving(Registry::setup().bearer(&tokens()));
    let output = get(&registry, &small(), alice())
        .env("REGISTRY_IMAGE_WORKERS", "1")
        .run();
    assert_arrived(&output, &small());
    let seen = identities(&registry);
    let digest = small().digest;
    assert_eq!(
        seen[..3],
        [
            format!("GET /v2/t/a/manifests/{digest} -"),
            "GET /token Basic".to_owned(),
            format!("GET /v2/t/a/manifests/{digest} Bearer"),
        ]
    );
    assert_eq!(count(&registry, "GET", "/token"), 1);
    assert_eq!(registry.connections(), 1, "{:?}", registry.lines());
}

#[test]
fn scopes_are_pull_for_reading_and_pull_and_push_for_writing() {
    let registry = serving(Registry::setup().bearer(&tokens()));
    check(&registry, alice()).run().succeeds();
    put(&registry, &app(), alice()).run().succeeds();
    let scopes: Vec<String> = registry
        .requests()
        .iter()
        .filter_map(|request| request.head.query("scope").map(str::to_owned))
        .collect();
    assert_eq!(
        scopes,
        [
            "repository:t/a:pull",
            "repository:t/a:pull",
            "repository:t/a:pull,push"
        ]
    );
}

#[test]
fn challenges_are_understood_in_any_number_order_and_case() {
    let headers: [&[&str]; 7] = [
        &[r#"Basic realm="Büro", Bearer realm="{realm}",service="{service}""#],
        &[r#"Basic realm="x", Bearer realm="{realm}",service="{service}",scope="{scope}""#],
        &[r#"Bearer realm="{realm}",service="{service}",scope="{scope}", Basic realm="x""#],
        &[
            r#"Negotiate"#,
            r#"Basic realm="x""#,
            r#"bearer  REALM="{realm}" , Service="{service}""#,
        ],
        &[
            r#"BEARER service="{service}",realm="{realm}""#,
            r#"Basic realm="x""#,
        ],
        &[r#"Bearer error="insufficient_scope",realm="{realm}",service={service}"#],
        &[
            r#"Negotiate abcd==, Digest realm="a, b", nonce="c=", Bearer realm="{realm}",service="{service}""#,
        ],
    ];
    for headers in headers {
        let setup = Registry::setup().bearer(&tokens());
        let setup = match headers {
            [one] => setup.challenges([one]),
            [one, two] => setup.challenges([one, two]),
            [one, two, three] => setup.challenges([one, two, three]),
            _ => unreachable!(),
        };
        let registry = serving(setup);
        check(&registry, alice()).run().succeeds();
        assert_eq!(registry.requests().len(), 3, "{headers:?}");
    }
}

#[test]
fn a_password_goes_where_no_token_can_be_had_and_the_registry_takes_both() {
    let both = r#"Bearer realm="{realm}",service="{service}", Basic realm="x""#;
    let broken = || Fault::Answer(answer(400).body("broken"));
    let refused = || Fault::error(401, "UNAUTHORIZED", "who are you?");
    let log_in = "log in at REGISTRY: GET http://REGISTRY/token: ";
    type Case = (
        &'static str,
        Option<fn() -> Fault>,
        Result<String, &'static str>,
    );
    let cases: [Case; 3] = [
        (
            r#"Bearer, Basic realm="x""#,
            None,
            Ok("REGISTRY sends us to the token server ``, which is not a URL".to_owned()),
        ),
        (
            both,
            Some(broken),
            Ok(format!("{log_in}400 Bad Request: broken")),
        ),
        (
            both,
            Some(refused),
            Err("401 Unauthorized: UNAUTHORIZED: who are you?"),
        ),
    ];
    for (challenge, token, expect) in cases {
        let setup = Registry::setup().basic("alice", "s3cret");
        let registry = serving(setup.challenges([challenge]));
        if let Some(token) = token {
            registry.on("GET", "/token").then(token());
        }
        let output = check(&registry, alice()).run();
        match expect {
            Ok(why) => {
                output.succeeds();
                output.says(&format!("{why}; sending the password instead"));
                let seen = identities(&registry);
                assert_eq!(seen.last().unwrap(), "HEAD /v2/t/a/manifests/1 Basic");
            }
            Err(why) => {
                output.fails();
                assert!(output.messages().contains(why), "{}", output.messages());
                assert_eq!(identities(&registry).len(), 2);
            }
        }
    }
}

#[test]
fn a_refresh_token_goes_out_by_post_and_as_nothing_else() {
    let tokens = tokens().refresh_token("r-e-f-r-e-s-h", "alice");
    let registry = serving(Registry::setup().bearer(&tokens));
    let login = json!({"tag": "1", "username": "<token>", "password": "r-e-f-r-e-s-h"});
    let output = check(&registry, login).run();
    output.succeeds();
    output.keeps_secret(["r-e-f-r-e-s-h"]);
    assert_eq!(
        identities(&registry),
        [
            "HEAD /v2/t/a/manifests/1 -",
            "POST /token -",
            "HEAD /v2/t/a/manifests/1 Bearer",
        ]
    );
    let body = String::from_utf8(registry.requests()[1].body.clone()).unwrap();
    assert_eq!(
        body,
        "grant_type=refresh_token&refresh_token=r-e-f-r-e-s-h&client_id=registry-image&\
         service=fixture&scope=repository%3At%2Fa%3Apull"
    );
}

#[test]
fn a_token_server_that_knows_no_get_is_asked_by_post() {
    for status in [404, 405] {
        let registry = serving(Registry::setup().bearer(&tokens().get_answers(status)));
        check(&registry, alice()).run().succeeds();
        assert_eq!(count(&registry, "GET", "/token"), 1);
        assert_eq!(count(&registry, "POST", "/token"), 1);
    }
}

#[test]
fn a_token_may_be_called_access_token_and_have_no_life_that_is_said() {
    for tokens in [
        tokens().field("access_token"),
        tokens().expires_in(None),
        tokens().expires_in(Some(0)),
        tokens().expires_in(Some(u64::MAX)),
    ] {
        let registry = serving(Registry::setup().bearer(&tokens));
        check(&registry, alice()).run().succeeds();
        assert_eq!(registry.requests().len(), 3);
    }
}

#[test]
fn a_token_is_renewed_before_it_ends() {
    // Tokens of 60 s, and a registry that makes us wait for 100 s.
    let registry = serving(Registry::setup().bearer(&tokens().expires_in(Some(60))));
    registry
        .on("HEAD", "/v2/t/a/manifests/1")
        .with_header("authorization", "Bearer *")
        .then(Fault::too_many(100));
    check(&registry, alice()).run().succeeds();
    assert_eq!(count(&registry, "GET", "/token"), 2);
    // It was not tried with the old one first.
    assert_eq!(count(&registry, "HEAD", "/v2/t/a/manifests/1"), 3);
}

#[test]
fn a_token_that_ends_in_the_middle_of_a_pull_is_renewed() {
    let registry = Registry::setup().bearer(&tokens().uses(2)).start();
    let image = app();
    registry.put_image("t/a", "1", &image);
    let path = format!("/v2/t/a/blobs/{}", image.layers[0].digest);
    registry.on("GET", &path).optional().then(Fault::Expired);
    registry
        .on("GET", &path)
        .optional()
        .then(Fault::ResetAfter(400_000));
    registry
        .on("GET", &path)
        .with_header("range", "bytes=400000-")
        .then(Fault::Expired);
    let output = get(&registry, &image, alice())
        .env("REGISTRY_IMAGE_WORKERS", "1")
        .run();
    assert_arrived(&output, &image);
    assert_eq!(told(&output).len(), 1, "{:?}", told(&output));
}

#[test]
fn a_token_server_that_fails_is_asked_for_a_minute_and_not_by_every_worker_in_turn() {
    let registry = Registry::setup().bearer(&tokens()).start();
    for tag in 0..20 {
        registry.put_image("t/a", &format!("1.{tag}.0"), &small());
    }
    // The token for the list is good once; then nobody issues any more.
    registry
        .on("GET", "/token")
        .nth(2)
        .always()
        .then(Fault::Answer(answer(503)));
    registry
        .on("*", "/v2/t/a/manifests/*")
        .always()
        .then(Fault::Answer(answer(401).with(
            "WWW-Authenticate",
            format!(
                r#"Bearer realm="{}",service="fixture""#,
                registry.url("/token")
            ),
        )));
    let output = check(
        &registry,
        json!({"username": "alice", "password": "s3cret"}),
    )
    .run();
    output.fails();
    let tries = count(&registry, "GET", "/token");
    assert!(
        (5..40).contains(&tries),
        "{tries} requests to the token server"
    );
}

#[test]
fn a_login_that_is_refused_says_so_in_the_registrys_words() {
    let wrong = json!({"tag": "1", "username": "alice", "password": "wr0ng"});
    let registry = serving(Registry::setup().basic("alice", "s3cret"));
    let output = check(&registry, wrong.clone()).run();
    output.fails_with(
        "check: REGISTRY/t/a: look up 1: GET http://REGISTRY/v2/t/a/manifests/1: \
         401 Unauthorized: UNAUTHORIZED: authentication required; check `source.username` and \
         `source.password`, and what they may do there",
    );
    output.keeps_secret(["wr0ng"]);

    let registry = serving(Registry::setup().bearer(&tokens()));
    let output = check(&registry, wrong).run();
    output.fails_with(
        "check: REGISTRY/t/a: look up 1: HEAD http://REGISTRY/v2/t/a/manifests/1: log in at REGISTRY: \
         GET http://REGISTRY/token: 401 Unauthorized: UNAUTHORIZED: \
         authentication required; check `source.username` and `source.password`, and what they may do there",
    );

    let registry = serving(Registry::setup().basic("alice", "s3cret"));
    let output = check(&registry, json!({"tag": "1"})).run();
    output.fails_with(
        "check: REGISTRY/t/a: look up 1: GET http://REGISTRY/v2/t/a/manifests/1: \
         401 Unauthorized: UNAUTHORIZED: authentication required; set `source.username` and \
         `source.password`",
    );
}

#[test]
fn a_token_that_may_not_do_it_is_a_refusal() {
    for setup in [Registry::setup(), Registry::setup().insufficient_is_403()] {
        let registry = serving(setup.bearer(&tokens().deny("t/a", "pull")));
        let output = check(&registry, alice()).run();
        output.fails();
        let last = told(&output).pop().unwrap();
        assert!(
            last.ends_with(
                "check `source.username` and `source.password`, and what they may do there"
            ),
            "{last}"
        );
        assert!(
            count(&registry, "GET", "/token") <= 3,
            "{:?}",
            registry.lines()
        );
    }
}

#[test]
fn a_realm_that_credentials_must_not_go_to_is_not_asked() {
    let elsewhere = Registry::start();
    for (realm, why) in [
        (
            "http://169.254.169.254/token",
            "a private address that is not the registry's own",
        ),
        (
            "http://10.1.2.3/token",
            "a private address that is not the registry's own",
        ),
        (
            "https://[fe80::1]/token",
            "a private address that is not the registry's own",
        ),
        (
            "https://[::ffff:10.1.2.3]/token",
            "a private address that is not the registry's own",
        ),
        ("ftp://example.com/token", "which is not a URL"),
        ("https://2130706433/token", "which is not a URL"),
        ("/token", "which is not a URL"),
        ("", "which is not a URL"),
    ] {
        let registry = serving(Registry::setup().bearer(&tokens()).realm(realm));
        let output = check(&registry, alice()).run();
        output.fails_with(&format!(
            "check: REGISTRY/t/a: look up 1: HEAD http://REGISTRY/v2/t/a/manifests/1: \
             REGISTRY sends us to the token server `{realm}`, {why}"
        ));
    }
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn a_token_server_on_another_port_of_the_registrys_own_host_is_its_own() {
    let tokens = tokens();
    let issuer = Registry::setup().serve_tokens(&tokens).start();
    for realm in [
        issuer.url("/token"),
        format!("http://localhost:{}/token", issuer.address().port()),
    ] {
        let registry = serving(Registry::setup().bearer(&tokens).realm(realm));
        check(&registry, alice()).run().succeeds();
    }
    assert_eq!(issuer.requests().len(), 2);
}

#[test]
fn a_challenge_of_the_storage_gets_no_credentials() {
    let image = app();
    for challenge in [
        "Basic realm=\"x\"",
        "Bearer realm=\"{thief}/token\",service=\"x\"",
    ] {
        let thief = Registry::start();
        let storage = Registry::start();
        let registry = Registry::setup().bearer(&tokens()).start();
        registry.put_image("t/a", "1", &image);
        let path = format!("/v2/t/a/blobs/{}", image.layers[0].digest);
        let asks = answer(401).with(
            "WWW-Authenticate",
            challenge.replace("{thief}", &thief.url("")),
        );
        storage.on("GET", "/storage/*").then(Fault::Answer(asks));
        registry
            .on("GET", &path)
            .with_header("authorization", "Bearer *")
            .then(Fault::RedirectBelow(307, storage.url("/storage/")));
        let output = get(&registry, &image, alice()).against(&storage).run();
        output.fails();
        let last = told(&output).pop().unwrap();
        assert!(
            last.ends_with("redirected to http://REGISTRY2: 401 Unauthorized"),
            "{last}"
        );
        assert!(thief.requests().is_empty());
        assert!(
            storage
                .requests()
                .iter()
                .all(|r| r.header("authorization").is_none())
        );
    }
}

#[test]
fn a_token_server_that_redirects_a_grant_elsewhere_gets_no_second_one() {
    let tokens = tokens().refresh_token("r-e-f-r-e-s-h", "alice");
    let thief = Registry::start();
    let registry = serving(Registry::setup().bearer(&tokens));
    registry
        .on("POST", "/token")
        .always()
        .then(Fault::Redirect(307, thief.url("/steal")));
    let login = json!({"tag": "1", "username": "<token>", "password": "r-e-f-r-e-s-h"});
    let output = check(&registry, login).against(&thief).run();
    output.fails_ending_with(
        "check: REGISTRY/t/a: look up 1: HEAD http://REGISTRY/v2/t/a/manifests/1: log in at REGISTRY: \
         http://REGISTRY/token redirects to http://REGISTRY2/steal, \
         another server than the one that what is sent is for",
    );
    assert!(thief.requests().is_empty());
}

#[test]
fn a_redirect_that_comes_back_carries_no_credentials() {
    let image = app();
    let registry = Registry::setup().basic("alice", "s3cret").start();
    registry.put_image("t/a", "1", &image);
    let other = Registry::start();
    let digest = &image.layers[0].digest;
    let path = format!("/v2/t/a/blobs/{digest}");
    registry
        .on("GET", &path)
        .with_header("authorization", "Basic *")
        .then(Fault::Redirect(307, other.url("/back")));
    other.on("GET", "/back").then(Fault::Redirect(
        307,
        registry.url(&format!("/storage/{digest}")),
    ));
    let output = get(&registry, &image, alice()).against(&other).run();
    assert_arrived(&output, &image);
    let last = registry.requests();
    let last = last
        .iter()
        .find(|r| r.head.path.starts_with("/storage/"))
        .unwrap();
    assert_eq!(last.header("authorization"), None);
    assert_eq!(other.requests()[0].header("authorization"), None);
}

#[test]
fn one_newline_at_the_end_of_a_secret_is_dropped_with_a_warning() {
    let registry = serving(Registry::setup().basic("alice", "s3cret"));
    let login = json!({"tag": "1", "username": "alice\n", "password": "s3cret\n"});
    let output = check(&registry, login).run();
    output.succeeds();
    output.says(
        "warning: `source.username` ends with a newline, which was dropped\n\
         warning: `source.password` ends with a newline, which was dropped",
    );
    // Only one, and no other space: they may be part of a password.
    let registry = serving(Registry::setup().basic("alice", " s3cret \n"));
    let login = json!({"tag": "1", "username": "alice", "password": " s3cret \n\n"});
    check(&registry, login).run().succeeds();
}

#[test]
fn a_username_or_password_alone_is_an_error_before_any_request() {
    let registry = Registry::start();
    for (fields, set, missing) in [
        (json!({"username": "alice"}), "username", "password"),
        (json!({"password": "s3cret"}), "password", "username"),
        (
            json!({"username": "alice", "password": ""}),
            "username",
            "password",
        ),
        (
            json!({"username": "alice", "password": "\n"}),
            "username",
            "password",
        ),
    ] {
        let output = check(&registry, fields).run();
        output.fails();
        let last = told(&output).pop().unwrap();
        assert_eq!(
            last,
            format!("check: `source.{set}` is set, but `source.{missing}` is missing")
        );
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_wait_for_a_token_ends_when_another_layer_has_failed_for_good() {
    let image = image([
        layer().noise("small", 1_000),
        layer().noise("large", 3_000_000),
    ])
    .oci();
    let [small, large] = [0, 1].map(|at| format!("/v2/t/a/blobs/{}", image.layers[at].digest));
    let tokens = Tokens::new().user("alice", "s3cret");
    let registry = Registry::setup().bearer(&tokens).start();
    registry.put_image("t/a", "1", &image);
    let (both, gate) = (Gate::meeting(2), Gate::new());
    registry
        .on("GET", &large)
        .then(Fault::Hold(both.clone()))
        .and(Fault::Expired);
    registry
        .on("GET", &small)
        .then(Fault::Hold(both))
        .and(Fault::Hold(gate.clone()))
        .and(Fault::error(404, "BLOB_UNKNOWN", "gone"));
    registry.on("GET", "/token*").nth(2).then(Fault::Stall);
    let login = json!({"username": "alice", "password": "s3cret"});
    let running = get(&registry, &image, login)
        .env("REGISTRY_IMAGE_WORKERS", "2")
        .real_clock()
        .limit(Duration::from_secs(30))
        .start();
    registry.wait_for("a second token", |requests| {
        let paths = requests.iter().map(|request| &request.head.path);
        paths.filter(|path| path.starts_with("/token")).count() >= 2
    });
    gate.open();
    let output = running.wait();
    output.fails();
    assert_eq!(told(&output).len(), 1, "{:?}", told(&output));
}
