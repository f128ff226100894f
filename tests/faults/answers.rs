//! What registries answer: redirects, limits, odd forms, and the lines of `debug`.

use crate::common::{
    Authority, Fault, Gate, Image, Proxy, Registry, Tokens, answer, image, layer, noise, sha256,
};
use crate::help::{app, assert_arrived, check, count, get, get_of, put, told};
use serde_json::json;

fn small() -> Image {
    image([layer().file("a", "a")]).oci()
}

fn serving(image: &Image) -> Registry {
    let registry = Registry::start();
    registry.put_image("t/a", "1", image);
    registry
}

fn layer_path(image: &Image) -> String {
    format!("/v2/t/a/blobs/{}", image.layers[0].digest)
}

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
                "get: REGISTRY/t/a: fetch {digest}: http://REGISTRY/v2/t/a/blobs/{digest}: \
                 more than 10 redirects, the last to http://REGISTRY{target}"
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
        "get: REGISTRY/t/a: fetch {digest}: https://REGISTRY/v2/t/a/blobs/{digest} redirects to \
         http://REGISTRY2/storage/{digest}, from HTTPS to plain HTTP: not followed"
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
fn errors_are_shown_in_the_servers_words_and_nothing_else_of_it() {
    let json = |body: &str| {
        answer(400)
            .with("Content-Type", "application/json")
            .body(body)
    };
    for (answer, shown) in [
        (
            json(r#"{"errors":[{"code":"NAME_INVALID","message":"bad name"},{"code":"X"}]}"#),
            "400 Bad Request: NAME_INVALID: bad name; X",
        ),
        (
            json(r#"{"errors":[{"message":"only text"}]}"#),
            "400 Bad Request: only text",
        ),
        (
            json(r#"{"errors":[{"code":12,"message":34}]}"#),
            "400 Bad Request: 12: 34",
        ),
        (json(r#"{"errors":[]}"#), "400 Bad Request"),
        (
            json(r#"{"errors":null,"message":"other"}"#),
            "400 Bad Request: other",
        ),
        (
            json(r#"{"details":"token expired"}"#),
            "400 Bad Request: token expired",
        ),
        (
            json(r#"{"error":"invalid_grant","error_description":"long ago"}"#),
            "400 Bad Request: long ago",
        ),
        (
            json(r#"{"error":{"code":400,"message":"inside","status":"X"}}"#),
            "400 Bad Request: inside",
        ),
        (json("{"), "400 Bad Request: {"),
        (
            answer(400).with("Content-Type", "application/xml").body(
                "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Request has \
                       expired</Message><StringToSign>AWS4 s3cret</StringToSign></Error>",
            ),
            "400 Bad Request: AccessDenied: Request has expired",
        ),
        (
            answer(400)
                .with("Content-Type", "text/html")
                .body("<h1>Oops</h1>"),
            "400 Bad Request: an HTML page instead of an answer",
        ),
        (
            answer(400).body("\u{feff}\n<!doctype HTML><p>Oops"),
            "400 Bad Request: an HTML page instead of an answer",
        ),
        (
            answer(400).body("plain\x1b[2J\nwords\n"),
            "400 Bad Request: plain\\u{1b}[2J\\nwords",
        ),
        (answer(418), "status 418"),
    ] {
        let image = small();
        let registry = serving(&image);
        let path = format!("/v2/t/a/manifests/{}", image.digest);
        registry.on("GET", &path).then(Fault::Answer(answer));
        let output = get(&registry, &image, json!({})).run();
        let shown = shown.replace("status 418", "418 I'm a teapot");
        output.fails_with(&format!(
            "get: REGISTRY/t/a: fetch manifest {}: GET http://REGISTRY{path}: {shown}",
            image.digest
        ));
    }
}

#[test]
fn a_server_that_repeats_what_it_was_sent_is_not_quoted() {
    let image = small();
    let tokens = Tokens::new().user("alice", "s3cret").anonymous_pull(false);
    let registry = Registry::setup().bearer(&tokens).start();
    registry.put_image("t/a", "1", &image);
    registry
        .on("GET", "/v2/t/a/manifests/*")
        .with_header("authorization", "Bearer *")
        .then(Fault::error(400, "BAD", "what is `Bearer token-1`?"));
    let login = json!({"username": "alice", "password": "s3cret"});
    let output = get(&registry, &image, login).run();
    output.fails();
    output.keeps_secret(["token-1", "s3cret"]);
    assert!(output.messages().contains("BAD: what is `Bearer …`?"));

    // User and password as a server reads them, alone, encoded for a URL, and where the text is
    // cut off; the token server's in the words of the registry too.
    let password = "pass/word ünd mehr";
    let encoded = "pass%2Fword%20%C3%BCnd%20mehr";
    let long = format!("{} {password}", "x".repeat(480));
    let limit = format!("1;p={encoded}");
    for (said, shown) in [
        (format!("alice:{password} is wrong"), "alice:… is wrong"),
        (format!("no `{password}`"), "no `…`"),
        (format!("no {encoded}"), "no …"),
        (long, &format!("{} …", "x".repeat(480))),
    ] {
        for setup in [
            Registry::setup().basic("alice", password),
            Registry::setup().bearer(&Tokens::new().user("alice", password)),
        ] {
            let registry = setup.start();
            let refusal = answer(400)
                .with("Content-Type", "application/json")
                .json(&json!({"errors": [{"code": "BAD", "message": said}]}));
            registry
                .on("GET", "/v2/t/a/manifests/*")
                .with_header("authorization", "*")
                .then(Fault::Answer(refusal));
            let login = json!({"username": "alice", "password": password});
            let output = get(&registry, &image, login).run();
            output.keeps_secret([password, encoded, "pass/"]);
            output.fails_ending_with(&format!(
                "get: REGISTRY/t/a: fetch manifest {digest}: \
                 GET http://REGISTRY/v2/t/a/manifests/{digest}: 400 Bad Request: BAD: {shown}",
                digest = image.digest
            ));
        }
    }
    // In a header, in the target of a redirect, and by a token server that was sent a form.
    for (at, fault) in [
        (
            "/v2/*",
            Fault::Answer(answer(429).retry_after(9999).with("ratelimit-limit", limit)),
        ),
        (
            "/v2/*",
            Fault::Redirect(302, format!("http://169.254.1.1/{encoded}")),
        ),
        (
            "/token",
            Fault::error(400, "BAD", &format!("{encoded} is wrong")),
        ),
    ] {
        let tokens = Tokens::new().user("alice", password).get_answers(404);
        let registry = Registry::setup().bearer(&tokens).start();
        let rule = registry.on("*", at);
        match at {
            "/token" => rule.nth(2).then(fault),
            _ => rule.with_header("authorization", "*").then(fault),
        };
        let login = json!({"username": "alice", "password": password, "debug": true});
        let output = get(&registry, &image, login).run();
        output.fails();
        output.keeps_secret([password, encoded]);
        assert!(output.messages().contains('…'), "{}", output.messages());
    }
    // In URLs that the server makes: where an upload goes on, and where a list is.
    let uploads = Fault::Answer(answer(202).with("Location", format!("/v2/t/b/{encoded}")));
    let refused = Fault::error(400, "BAD", "no");
    for (rules, is_put) in [
        (
            vec![
                ("POST", "/v2/t/b/blobs/uploads/", uploads),
                ("PATCH", "/v2/t/b/*", refused),
            ],
            true,
        ),
        (
            vec![
                (
                    "GET",
                    "/v2/t/a/tags/list",
                    Fault::Redirect(302, format!("/else/{encoded}")),
                ),
                ("GET", "/else/*", Fault::Answer(answer(200).body("{}"))),
            ],
            false,
        ),
    ] {
        let registry = Registry::setup().basic("alice", password).start();
        for (method, path, fault) in rules {
            registry
                .on(method, path)
                .with_header("authorization", "*")
                .always()
                .then(fault);
        }
        let mut source = json!({"username": "alice", "password": password});
        let output = match is_put {
            true => {
                source["repository"] = json!(registry.repository("t/b"));
                put(&registry, &image, source).run()
            }
            false => check(&registry, source).run(),
        };
        output.fails();
        output.keeps_secret([password, encoded, "pass%2Fword"]);
        assert!(output.messages().contains("/…"), "{}", output.messages());
    }
}

#[test]
fn a_quota_that_is_used_up_is_nothing_that_a_login_changes() {
    let image = small();
    let registry = serving(&image);
    let said = "adding 1.2 GiB of storage resource will exceed the configured upper limit";
    registry
        .on("POST", "/v2/t/b/blobs/uploads/")
        .always()
        .then(Fault::error(403, "DENIED", said));
    let repository = json!({"repository": registry.repository("t/b")});
    let output = put(&registry, &image, repository).run();
    output.fails();
    let last = told(&output).pop().unwrap();
    assert!(
        last.ends_with(&format!("403 Forbidden: DENIED: {said}")),
        "{last}"
    );
    // The name of a repository is no quota, and reading takes no room.
    for (method, path, said) in [
        (
            "POST",
            "/v2/t/quota/blobs/uploads/",
            "access to t/quota is denied",
        ),
        (
            "GET",
            "/v2/t/quota/manifests/*",
            "your quota of pulls is used up",
        ),
    ] {
        let registry = serving(&image);
        registry
            .on(method, path)
            .always()
            .then(Fault::error(403, "DENIED", said));
        let repository = json!({"repository": registry.repository("t/quota")});
        let output = match method {
            "GET" => get(&registry, &image, repository).run(),
            _ => put(&registry, &image, repository).run(),
        };
        output.fails();
        let last = told(&output).pop().unwrap();
        let advice = "; set `source.username` and `source.password`";
        assert!(last.ends_with(&format!("{said}{advice}")), "{last}");
    }
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
fn answers_in_odd_forms_are_answers() {
    let image = app();
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
    ] {
        let registry = serving(&image);
        registry.on("HEAD", "/v2/t/a/manifests/1").then(refusal);
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

#[test]
fn a_registry_that_limits_us_is_left_in_peace_by_every_worker() {
    let tags: Vec<String> = (0..40).map(|n| format!("1.{n}.0")).collect();
    let registry = Registry::start();
    for tag in &tags {
        let image = image([layer().file("tag", tag)]).oci();
        registry.put_image("t/a", tag, &image);
    }
    registry.on("HEAD", "*").nth(5).then(Fault::too_many(2));
    let output = check(&registry, json!({"tag_regex": "."}))
        .real_clock()
        .run();
    assert_eq!(output.succeeds().as_array().unwrap().len(), 40);
    let requests = registry.requests();
    let limited = requests
        .iter()
        .find(|request| request.outcome == "429")
        .unwrap()
        .at;
    // Those that were on their way are the only ones that come before the gate opens.
    let early = requests.iter().filter(|request| {
        let after = request.at.saturating_duration_since(limited).as_secs_f64();
        (0.2..1.9).contains(&after)
    });
    assert_eq!(early.count(), 0, "{:?}", registry.lines());
}

#[test]
fn a_wait_that_is_too_long_ends_the_step_and_says_what_the_limit_is() {
    let image = small();
    let path = format!("/v2/t/a/manifests/{}", image.digest);
    let registry = serving(&image);
    let limited = answer(429)
        .retry_after(21600)
        .with("ratelimit-limit", "100;w=21600")
        .with("ratelimit-remaining", "0;w=21600")
        .error("TOOMANYREQUESTS", "You have reached your pull rate limit");
    registry.on("GET", &path).then(Fault::Answer(limited));
    let output = get(&registry, &image, json!({})).run();
    output.fails_with(&format!(
        "get: REGISTRY/t/a: fetch manifest {}: GET http://REGISTRY{path}: 429 Too Many Requests: \
         TOOMANYREQUESTS: You have reached your pull rate limit (ratelimit-limit: 100;w=21600, \
         ratelimit-remaining: 0;w=21600) (tried once; the server asks to wait 21600.0 s)",
        image.digest
    ));
}

#[test]
fn a_server_that_says_zero_is_not_asked_in_a_tight_loop() {
    let image = small();
    let path = format!("/v2/t/a/manifests/{}", image.digest);
    let registry = serving(&image);
    registry.on("GET", &path).always().then(Fault::too_many(0));
    get(&registry, &image, json!({})).run().fails();
    let tries = count(&registry, "GET", &path);
    assert!((10..100).contains(&tries), "{tries}");
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

#[test]
fn debug_has_a_line_for_each_request() {
    let image = small();
    let tokens = Tokens::new().user("alice", "s3cret").anonymous_pull(false);
    let registry = Registry::setup().bearer(&tokens).start();
    registry.put_image("t/a", "1", &image);
    let fields = json!({"tag": "1", "debug": true, "username": "alice", "password": "s3cret"});
    let output = check(&registry, fields).run();
    output.succeeds();
    let lines: Vec<String> = output
        .messages()
        .lines()
        .map(|line| match line.rsplit_once(" ms") {
            Some((start, rest)) => {
                let start = start.trim_end_matches(|c: char| c.is_ascii_digit());
                format!("{start}N ms{rest}")
            }
            None => line.to_owned(),
        })
        .collect();
    let length = registry.manifest("t/a", "1").unwrap().bytes.len();
    let first = &lines[0];
    assert!(
        first.starts_with("debug: HEAD https://REGISTRY/v2/t/a/manifests/1: the server"),
        "{first}"
    );
    let requests = &lines[lines.len() - 3..];
    assert_eq!(
        requests,
        [
            "debug: HEAD http://REGISTRY/v2/t/a/manifests/1: 401, 86 bytes, N ms".to_owned(),
            "debug: GET http://REGISTRY/token: 200, 36 bytes, N ms, with a password".to_owned(),
            format!(
                "debug: HEAD http://REGISTRY/v2/t/a/manifests/1: 200, {length} bytes, N ms, with a token"
            ),
        ]
    );
}

#[test]
fn one_pool_of_connections_serves_the_run() {
    let image = crate::common::image((0..8).map(|n| layer().file("n", n.to_string()))).oci();
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

#[test]
fn a_secret_in_any_log_of_the_suite_fails_its_test() {
    // A tag that is quoted in an error, and is the password too.
    let request = json!({"source": {
        "repository": "team/app", "tag": "not a tag hunter2", "username": "u", "password": "hunter2",
    }});
    let run = std::panic::catch_unwind(|| crate::common::Program::check(request).run());
    let message = run.err().unwrap();
    let message = message.downcast_ref::<String>().unwrap();
    assert!(
        message.starts_with("the secret `hunter2` is printed"),
        "{message}"
    );
}
