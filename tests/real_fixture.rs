//! The real servers that other tests use: they start, answer as configured, and end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

mod common;

use common::{Authority, DockerRegistry, RealSetup, RealTokens, Server, require};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::panic::catch_unwind;

/// The answer to `GET /v2/` of a plain registry.
fn ask(registry: &DockerRegistry, header: &str) -> String {
    let mut socket = TcpStream::connect(registry.address()).unwrap();
    let host = registry.host();
    let request = format!("GET /v2/ HTTP/1.1\r\nHost: {host}\r\n{header}Connection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer);
    answer
}

#[test]
fn a_plain_registry_answers_until_it_is_dropped() {
    let registry = DockerRegistry::start();
    assert!(
        ask(&registry, "").starts_with("HTTP/1.1 200 OK"),
        "{}",
        registry.log()
    );
    let address = registry.address();
    drop(registry);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_registry_asks_for_passwords_or_tokens() {
    let basic = DockerRegistry::with(&RealSetup {
        basic: Some(("alice", "s3cret")),
        ..RealSetup::default()
    });
    assert!(ask(&basic, "").contains(r#"Www-Authenticate: Basic realm="basic-realm""#));
    let right = ask(&basic, "Authorization: Basic YWxpY2U6czNjcmV0\r\n");
    assert!(right.starts_with("HTTP/1.1 200 OK"), "{right}");

    let tokens = RealTokens {
        users: &[("alice", "s3cret")],
        anonymous_pull: true,
        seconds: 60,
    };
    let bearer = DockerRegistry::with(&RealSetup {
        tokens: Some(tokens),
        ..RealSetup::default()
    });
    let refused = ask(&bearer, "");
    let realm = refused
        .split("realm=\"http://")
        .nth(1)
        .unwrap()
        .split('/')
        .next()
        .unwrap();
    let mut socket = TcpStream::connect(realm).unwrap();
    let request = format!(
        "GET /token?service=test-registry HTTP/1.1\r\nHost: {realm}\r\nConnection: close\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let token = answer
        .split("\"token\": \"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let accepted = ask(&bearer, &format!("Authorization: Bearer {token}\r\n"));
    assert!(
        accepted.starts_with("HTTP/1.1 200 OK"),
        "{accepted}\n{}",
        bearer.log()
    );
}

#[test]
fn a_registry_speaks_tls_and_mirrors() {
    let authority = Authority::new("test CA");
    let identity = authority.identity(&["localhost", "127.0.0.1"]);
    let secure = DockerRegistry::with(&RealSetup {
        tls: Some(&identity),
        ..RealSetup::default()
    });
    let answer = ask(&secure, "");
    assert!(
        answer.contains("Client sent an HTTP request to an HTTPS server"),
        "{answer}"
    );

    let origin = DockerRegistry::start();
    let url = format!("http://{}", origin.host());
    let mirror = DockerRegistry::with(&RealSetup {
        mirror_of: Some(&url),
        ..RealSetup::default()
    });
    assert!(
        ask(&mirror, "").starts_with("HTTP/1.1 200 OK"),
        "{}",
        mirror.log()
    );
}

#[test]
fn what_is_missing_or_does_not_start_fails_the_test_with_a_reason() {
    let missing = catch_unwind(|| require("no-such-program")).unwrap_err();
    let missing = missing.downcast_ref::<String>().unwrap();
    assert_eq!(
        missing,
        "this test needs `no-such-program`: apt-get install no-such-program"
    );
    let broken = catch_unwind(|| {
        Server::start("docker-registry", |_, _| {
            vec!["serve".into(), "no-file".into()]
        })
    });
    let broken = broken.err().unwrap();
    let broken = broken.downcast_ref::<String>().unwrap();
    assert!(
        broken.contains("no-file: no such file or directory"),
        "{broken}"
    );
}
