//! What is shown of what servers say: their words, their secrets, and the lines of `debug`.

use crate::common::{Fault, Registry, Tokens, answer};
use crate::help::{check, get, put, serving, small};
use serde_json::json;

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

#[test]
fn a_server_is_not_quoted_with_the_signature_that_it_was_sent() {
    let image = small();
    let digest = &image.layers[0].digest;
    let query = "X-Amz-Signature=0123456789abcdef&sig=a%2Fb%26c&Expires=3600&digest=sha256:00";
    let words =
        "Cannot GET /o?X-Amz-Signature=0123456789abcdef&sig=a%2Fb%26c, sig a/b&c, digest sha256:00";
    let shown = "Cannot GET /o?X-Amz-Signature=…&sig=…, sig …, digest sha256:00";
    for debug in [false, true] {
        let storage = Registry::start();
        let registry = serving(&image);
        registry
            .on("GET", &format!("/v2/t/a/blobs/{digest}"))
            .always()
            .then(Fault::Redirect(307, storage.url(&format!("/o?{query}"))));
        storage
            .on("GET", "/o*")
            .then(Fault::Answer(answer(500).body(words)));
        let again = storage.on("GET", "/o*").nth(2);
        again.then(Fault::Answer(answer(404).body(words)));
        let output = get(&registry, &image, json!({ "debug": debug }))
            .against(&storage)
            .run();
        output.fails_ending_with(&format!(
            "get: REGISTRY/t/a@{}: fetch {digest}: GET http://REGISTRY/v2/t/a/blobs/{digest}, \
             redirected to http://REGISTRY2: 404 Not Found: {shown}",
            image.digest
        ));
        output.keeps_secret(["0123456789abcdef", "a%2Fb%26c", "a/b&c"]);
    }

    // The state of an upload, in the words about the upload itself.
    let registry = Registry::start();
    registry
        .on("POST", "/v2/t/a/blobs/uploads/*")
        .always()
        .then(Fault::Answer(answer(202).with(
            "Location",
            "/v2/t/a/blobs/uploads/1?_state=s3cret-state",
        )));
    registry
        .on("*", "/v2/t/a/blobs/uploads/1*")
        .always()
        .then(Fault::Answer(answer(400).body(
            "PATCH /v2/t/a/blobs/uploads/1?_state=s3cret-state is wrong",
        )));
    let output = put(&registry, &image, json!({"debug": true})).run();
    output.fails();
    output.keeps_secret(["s3cret-state"]);
    let said = "PATCH /v2/t/a/blobs/uploads/1?_state=… is wrong";
    assert!(output.messages().contains(said), "{}", output.messages());
}
