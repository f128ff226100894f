//! Whole lines for what a user can get wrong about the call, the request and the way to a registry.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

mod common;

use common::{
    Authority, Fault, Output, Program, Registry, Tokens, answer, free_port, image, layer, merge,
};
use serde_json::{Value, json};

fn check(fields: Value) -> Program {
    let source = json!({"repository": "registry.test/t/a", "tag": "1"});
    Program::check(json!({"source": merge(source, fields)}))
}

/// The last line, without what waits and tries differ in.
fn last_line(output: &Output) -> String {
    output.fails();
    let messages = output.messages();
    let line = messages.lines().last().unwrap().to_owned();
    let Some((start, rest)) = line.rsplit_once(" tries without progress") else {
        return line;
    };
    let start = start.trim_end_matches(|c: char| c.is_ascii_digit());
    format!("{start}N tries without progress{rest}")
}

#[test]
fn help_and_version_are_answered_whatever_else_is_there() {
    for arguments in [
        vec!["--help"],
        vec!["-h"],
        vec!["check", "--help"],
        vec!["in", "-h"],
        vec!["out", "--help"],
    ] {
        let program = Program::new([]).stdin("no JSON");
        let output = arguments.iter().fold(program, Program::argument).run();
        assert!(output.status.success(), "{arguments:?}");
        assert!(
            output
                .stdout
                .starts_with("registry-image: a Concourse resource")
                && output.stdout.contains("REGISTRY_IMAGE_WORKERS"),
            "{arguments:?}: {}",
            output.stdout
        );
        assert_eq!(output.stderr, "", "{arguments:?}");
    }
    let version = format!("registry-image {}\n", env!("CARGO_PKG_VERSION"));
    for arguments in [vec!["--version"], vec!["-V"], vec!["check", "-V"]] {
        let output = arguments
            .iter()
            .fold(Program::new([]), Program::argument)
            .run();
        assert!(output.status.success(), "{arguments:?}");
        assert_eq!(output.stdout, version, "{arguments:?}");
    }
    Program::new([])
        .run()
        .fails_with("a command is missing; see `registry-image --help`");
    Program::new(["get"])
        .run()
        .fails_with("`get` is not a command; see `registry-image --help`");
}

#[test]
fn every_command_can_be_called_by_a_link() {
    let registry = Registry::start();
    let source = json!({"repository": registry.repository("t/a"), "tag": "1"});
    let app = image([layer().file("a", "1")]).oci();
    let program = Program::put(json!({"source": source, "params": {"image": "image"}}));
    app.write_layout(&program.directory_argument().join("image"), None);
    let pushed = program.by_link("out").against(&registry).run().succeeds();
    assert_eq!(pushed["version"]["digest"], app.digest);
    let request = json!({"source": source, "version": pushed["version"]});
    let fetched = Program::get(request).by_link("in").against(&registry).run();
    assert_eq!(fetched.succeeds()["version"], pushed["version"]);
    Program::check(json!({ "source": source }))
        .by_link("check")
        .against(&registry)
        .run()
        .succeeds_with(json!([pushed["version"]]));
}

#[test]
fn debug_has_a_line_for_each_entry_of_a_layer() {
    let registry = Registry::start();
    let app = image([layer().dir("d").file("d/a", "1").symlink("l", "d/a")]).oci();
    let digest = registry.put_image("t/a", "1", &app);
    let source = json!({"repository": registry.repository("t/a"), "debug": true});
    let request = json!({"source": source, "version": {"tag": "1", "digest": digest}});
    let output = Program::get(request).against(&registry).run();
    output.succeeds();
    let messages = output.messages();
    for entry in ["Directory `d/`", "File `d/a`", "Symlink `l`"] {
        let lines = messages.lines().filter(|line| line.contains(entry));
        assert_eq!(lines.count(), 1, "{entry}: {messages}");
    }
}

#[test]
fn a_request_that_is_too_large_is_told_so() {
    let start = br#"{"source":{"repository":"a"}}"#;
    let mut request = vec![b' '; (64 << 20) + 1];
    request[..start.len()].copy_from_slice(start);
    Program::new(["check"])
        .stdin(request)
        .run()
        .fails_with("the request on stdin has more than 64 MiB");
}

#[test]
fn a_number_of_workers_that_is_none_names_the_variable() {
    for text in ["0", "65", "6500", "-1", "many"] {
        check(json!({}))
            .env("REGISTRY_IMAGE_WORKERS", text)
            .run()
            .fails_with(&format!(
                "check: the environment's `REGISTRY_IMAGE_WORKERS` is `{text}`; \
                 it is a number from 1 to 64"
            ));
    }
}

#[test]
fn a_file_of_tags_is_named_with_what_is_wrong_in_it() {
    for (content, why) in [
        ("a\0b", "it is not a text file"),
        (
            "ok feature/x",
            "additional tag `p-feature/x`: a tag may hold letters, digits, `_`, `.` and `-`",
        ),
    ] {
        Program::put(json!({
            "source": {"repository": "registry.test/t/a"},
            "params": {"image": "image", "additional_tags": "tags/list", "tag_prefix": "p-"},
        }))
        .source_file("tags/list", content)
        .run()
        .fails_with(&format!(
            "put: `params.additional_tags` (`tags/list`): {why}"
        ));
    }
}

#[test]
fn certificates_that_are_none_name_the_field() {
    let right = Authority::new("CA").pem();
    let key = Authority::new("CA").identity(&["a"]).key_pem;
    let cut = right.replace("-----END CERTIFICATE-----", "");
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (certs, says) in [
        (
            json!(["not PEM"]),
            "`source.ca_certs[0]` has no certificate in it",
        ),
        (
            json!([right, ""]),
            "`source.ca_certs[1]` has no certificate in it",
        ),
        (
            json!([key]),
            "`source.ca_certs[0]` has no certificate in it",
        ),
        (json!([cut]), "`source.ca_certs[0]` is not valid PEM"),
        (
            json!([garbage]),
            "`source.ca_certs[0]` has a certificate that cannot be read",
        ),
    ] {
        check(json!({"ca_certs": certs})).run().fails_with(&format!(
            "check: {says}; write the certificate in PEM, with its BEGIN and END lines"
        ));
    }
    check(json!({"ca_certs": right}))
        .run()
        .fails_with("check: `source.ca_certs` must be a list of texts, not a text");
}

#[test]
fn a_proxy_that_is_none_names_the_variable_and_nothing_of_its_value() {
    for (variable, url, says) in [
        (
            "https_proxy",
            "socks5://u:hunter2@p:1080",
            "its scheme is neither http nor https",
        ),
        (
            "HTTPS_PROXY",
            "http://u:hunter2@p:port",
            "its host or port is none",
        ),
        (
            "http_proxy",
            "http://u:hunter2@",
            "its host or port is none",
        ),
        (
            "all_proxy",
            "ftp://p",
            "its scheme is neither http nor https",
        ),
        (
            "HTTP_PROXY",
            "http://u:hunter2%zz@p:1",
            "its user or password has a `%` that encodes nothing",
        ),
    ] {
        let output = check(json!({})).env(variable, url).run();
        output.fails_with(&format!(
            "check: the environment's `{variable}` is not a proxy URL: {says}; \
             write it as `http://[user:password@]host:port`"
        ));
    }
}

#[test]
fn a_mirror_that_is_none_names_the_field() {
    for (mirror, says) in [
        (
            json!({"host": "https://mirror.test"}),
            "`source.registry_mirror.host` is `https://mirror.test`: it is a host, not a URL; \
             leave out the scheme",
        ),
        (
            json!({"host": "https://user:s3cret@mirror.test"}),
            "`source.registry_mirror.host` has a user in it; set \
             `source.registry_mirror.username` and `source.registry_mirror.password`",
        ),
        (json!({}), "`source.registry_mirror.host` is missing"),
        (
            json!({"host": "mirror.test:port"}),
            "`source.registry_mirror.host`: `mirror.test:port` is not a host",
        ),
        (
            json!({"host": "mirror.test/Upper"}),
            "`source.registry_mirror.host`: `Upper` has upper-case letters; \
             repository names have none",
        ),
        (
            json!({"host": "mirror.test", "username": "u"}),
            "`source.registry_mirror.username` is set, but `source.registry_mirror.password` is \
             missing",
        ),
        (
            json!({"host": "mirror.test", "hots": "x"}),
            "`source.registry_mirror.hots` is not a field of the request; did you mean `source.registry_mirror.host`?",
        ),
    ] {
        check(json!({"repository": "team/app", "registry_mirror": mirror}))
            .run()
            .fails_with(&format!("check: {says}"));
    }
}

#[test]
fn a_host_that_does_not_resolve_is_named_after_half_a_minute() {
    let output = check(json!({"repository": "no-such-host.invalid/t/a"})).run();
    let line = last_line(&output);
    let start = "check: no-such-host.invalid/t/a: look up 1: \
                 HEAD https://no-such-host.invalid/v2/t/a/manifests/1: \
                 the host `no-such-host.invalid` does not resolve: ";
    assert!(line.starts_with(start), "{line}");
    let end = " (N tries without progress); check the name and this worker's DNS";
    assert!(line.ends_with(end), "{line}");
    let tries = output.messages().lines().count();
    assert!((4..15).contains(&tries), "{tries}");
}

#[test]
fn a_host_that_refuses_is_named_after_half_a_minute() {
    let host = format!("127.0.0.1:{}", free_port());
    let output = check(json!({"repository": format!("{host}/t/a")}))
        .showing(&host, "HOST")
        .run();
    assert_eq!(
        last_line(&output),
        "check: HOST/t/a: look up 1: HEAD https://HOST/v2/t/a/manifests/1: connection refused \
         (N tries without progress); check the host and port, and that the server is up"
    );
    let tries = output.messages().lines().count();
    assert!((4..15).contains(&tries), "{tries}");
}

#[test]
fn a_realm_that_passwords_would_be_readable_at_is_refused() {
    let authority = Authority::new("CA");
    let identity = authority.identity(&["127.0.0.1"]);
    let tokens = Tokens::new().user("alice", "s3cret");
    let plain = Registry::setup().serve_tokens(&tokens).start();
    let registry = Registry::setup()
        .tls(identity.server())
        .bearer(&tokens)
        .realm(plain.url("/token?x=1"))
        .start();
    let output = check(json!({
        "repository": registry.repository("t/a"),
        "ca_certs": [authority.pem()],
        "username": "alice",
        "password": "s3cret",
    }))
    .against(&registry)
    .against(&plain)
    .run();
    output.fails_with(
        "check: REGISTRY/t/a: look up 1: HEAD https://REGISTRY/v2/t/a/manifests/1: \
         REGISTRY sends us to the token server `http://REGISTRY2/token`, \
         which is plain HTTP: a password would be readable on its way",
    );
    assert!(plain.requests().is_empty());
}

#[test]
fn a_token_answer_that_is_none_names_the_token_server() {
    for (body, says) in [
        (
            "<html>please log in</html>",
            "answers with something else than a token",
        ),
        ("", "answers with something else than a token"),
        ("[]", "answers with something else than a token"),
        (r#"{"token":5}"#, "answers with something else than a token"),
        ("{}", "answers without a token in it"),
        (r#"{"token":""}"#, "answers without a token in it"),
        (
            r#"{"token":"a\r\nb"}"#,
            "answers with a token that cannot be sent",
        ),
    ] {
        let registry = Registry::setup().bearer(&Tokens::new()).start();
        registry.on("GET", "/token").always().then(Fault::Answer(
            answer(200).with("Content-Type", "text/html").body(body),
        ));
        let output = check(json!({"repository": registry.repository("t/a")}))
            .against(&registry)
            .run();
        output.fails_with(&format!(
            "check: REGISTRY/t/a: look up 1: HEAD http://REGISTRY/v2/t/a/manifests/1: log in at REGISTRY: \
             the token server http://REGISTRY/token {says}"
        ));
    }
}

#[test]
fn a_redirect_loop_names_its_start_and_its_end() {
    let registry = Registry::start();
    for (from, to) in [
        ("/v2/t/a/manifests/1", "/b?s3cret=1"),
        ("/b", "/v2/t/a/manifests/1"),
    ] {
        registry
            .on("*", from)
            .always()
            .then(Fault::Redirect(307, to.to_owned()));
    }
    let output = check(json!({"repository": registry.repository("t/a")}))
        .against(&registry)
        .run();
    output.fails_with(
        "check: REGISTRY/t/a: look up 1: http://REGISTRY/v2/t/a/manifests/1: \
         more than 10 redirects, the last to http://REGISTRY/b",
    );
}

#[test]
fn a_server_that_speaks_something_else_is_said_to() {
    let registry = Registry::start();
    registry
        .on("*", "*")
        .always()
        .then(Fault::Garbage(b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec()));
    let output = check(json!({"repository": registry.repository("t/a")}))
        .against(&registry)
        .run();
    output.fails();
    let line = last_line(&output);
    let start = "check: REGISTRY/t/a: look up 1: GET http://REGISTRY/v2/t/a/manifests/1: \
                 the answer is not valid HTTP: ";
    assert!(line.starts_with(start), "{line}");
}

#[test]
fn a_repository_that_does_not_know_us_says_what_to_set() {
    let registry = Registry::setup().basic("alice", "s3cret").start();
    check(json!({"repository": registry.repository("t/a")}))
        .against(&registry)
        .run()
        .fails_with(
            "check: REGISTRY/t/a: look up 1: GET http://REGISTRY/v2/t/a/manifests/1: \
             401 Unauthorized: UNAUTHORIZED: authentication required; set `source.username` and \
             `source.password`",
        );
}

/// A key that lost its line breaks, or stands in the field beside it, is not shown.
#[test]
fn a_signing_key_in_the_wrong_form_or_place_is_in_no_line() {
    let registry = Registry::start();
    let key = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n\
               -----END PRIVATE KEY-----\n";
    let joined = key.replace('\n', " ");
    let id = "0".repeat(64);
    for (id, key, why) in [
        (
            id.as_str(),
            joined.as_str(),
            "`source.content_trust.repository_key` has a PEM block whose lines do not end: a line \
             break belongs before and after `-----BEGIN …-----` and `-----END …-----`",
        ),
        (
            key,
            key,
            "`source.content_trust.repository_key_id` is not the id of a key; it has 64 hexadecimal \
             digits, as `notary key list` shows them",
        ),
    ] {
        let request = json!({
            "source": {
                "repository": registry.repository("t/a"),
                "tag": "1",
                "debug": true,
                "content_trust": {
                    "server": registry.url(""),
                    "repository_key_id": id,
                    "repository_key": key,
                    "repository_passphrase": "ci-passphrase",
                },
            },
            "params": {"image": "image"},
        });
        let program = Program::put(request).against(&registry);
        let image = image([layer().file("a", "a")]).oci();
        image.write_layout(&program.directory_argument().join("image"), None);
        let output = program.run();
        output.keeps_secret(["MIGHAgEAMBMG", "mighageambmg"]);
        output.fails_ending_with(&format!("put: {why}"));
    }
}
