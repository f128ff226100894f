//! Which certificates are believed, and who may speak plain HTTP.

use crate::common::image as image_of;
use crate::common::{Authority, Fault, Identity, Program, Proxy, Registry, Tokens, layer, merge};
use crate::help::{app, assert_arrived, get, get_of, put, small, told};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;

fn check_at(repository: &str, fields: Value) -> Program {
    let source = merge(json!({"repository": repository, "tag": "1"}), fields);
    Program::check(json!({ "source": source }))
}

fn serving(identity: &Identity) -> Registry {
    let registry = Registry::setup().tls(identity.server()).start();
    registry.put_image("t/a", "1", &small());
    registry
}

#[test]
fn a_private_authority_is_believed_where_ca_certs_or_the_system_name_it() {
    let authority = Authority::new("private CA");
    let registry = serving(&authority.identity(&["127.0.0.1"]));
    let repository = registry.repository("t/a");
    let folder = crate::common::TempDir::new();
    let bundle = folder.write("bundle.pem", authority.pem());
    let other = Authority::new("another").pem();
    let both = format!("# two of them\n{other}\n{}", authority.pem());
    let links = crate::common::TempDir::new();
    std::os::unix::fs::symlink(&bundle, links.join("linked.crt")).unwrap();

    check_at(&repository, json!({"ca_certs": [authority.pem()]}))
        .run()
        .succeeds();
    check_at(&repository, json!({"ca_certs": [other, both]}))
        .run()
        .succeeds();
    check_at(&repository, json!({}))
        .env("SSL_CERT_FILE", &bundle)
        .run()
        .succeeds();
    for folder in [folder.path(), links.path()] {
        check_at(&repository, json!({}))
            .env("SSL_CERT_DIR", folder)
            .run()
            .succeeds();
    }
    // A file that is not there leaves the folder, and the other way round.
    check_at(&repository, json!({}))
        .env("SSL_CERT_FILE", "/nowhere")
        .env("SSL_CERT_DIR", folder.path())
        .run()
        .succeeds();
    assert_eq!(registry.plain_requests(), 0);
}

#[test]
fn a_certificate_that_is_not_right_is_an_error_that_says_what_is_wrong() {
    let authority = Authority::new("private CA");
    for (identity, says) in [
        (
            Identity::self_signed(&["127.0.0.1"]),
            "the server's certificate is signed by an authority that is not trusted; add the \
             authority's certificate to `source.ca_certs`",
        ),
        (
            authority.identity(&["registry.test"]),
            "the server's certificate is for another name",
        ),
        (
            authority.expired(&["127.0.0.1"]),
            "the server's certificate has expired",
        ),
    ] {
        let registry = serving(&identity);
        let output = check_at(
            &registry.repository("t/a"),
            json!({"ca_certs": [authority.pem()]}),
        )
        .against(&registry)
        .run();
        output.fails_with(&format!(
            "check: REGISTRY/t/a: look up 1: HEAD https://REGISTRY/v2/t/a/manifests/1: {says}"
        ));
        // A loopback registry may speak plain HTTP, but this one does not.
        assert_eq!(registry.plain_requests(), 0);
        // With `insecure` nobody looks.
        check_at(&registry.repository("t/a"), json!({"insecure": true}))
            .run()
            .succeeds();
        assert_eq!(registry.plain_requests(), 0);
    }
}

/// As with Go and OpenSSL: a registry that signs its certificate itself is trusted by that.
#[test]
fn a_certificate_is_believed_where_ca_certs_have_it_itself() {
    let authority = Authority::new("private CA");
    let here = &["127.0.0.1"];
    let elsewhere = Identity::self_signed_authority(&["registry.test"]);
    for (identity, says) in [
        (Identity::self_signed(here), None),
        (Identity::self_signed_authority(here), None),
        (authority.identity(here), None),
        (elsewhere, Some("is for another name")),
        (authority.expired(here), Some("has expired")),
    ] {
        let registry = serving(&identity);
        let ca_certs = json!({"ca_certs": [identity.certificate_pem]});
        let output = check_at(&registry.repository("t/a"), ca_certs).run();
        match says {
            None => drop(output.succeeds()),
            Some(why) => {
                output.fails();
                let said = output.messages();
                assert!(
                    said.trim_end().ends_with(&format!("certificate {why}")),
                    "{said}"
                );
            }
        }
    }
    let registry = serving(&Identity::self_signed_authority(here));
    let output = check_at(&registry.repository("t/a"), json!({}))
        .against(&registry)
        .run();
    output.fails_with(
        "check: REGISTRY/t/a: look up 1: HEAD https://REGISTRY/v2/t/a/manifests/1: the server's \
         certificate is an authority's, and not trusted; add this certificate itself to \
         `source.ca_certs`",
    );
}

#[test]
fn every_connection_of_the_run_believes_ca_certs() {
    let authority = Authority::new("private CA");
    let identity = authority.identity(&["127.0.0.1"]);
    let tokens = Tokens::new().user("alice", "s3cret").anonymous_pull(false);
    let issuer = Registry::setup()
        .tls(identity.server())
        .serve_tokens(&tokens)
        .start();
    let storage = Registry::setup().tls(identity.server_tls12()).start();
    let registry = Registry::setup()
        .tls(identity.server())
        .bearer(&tokens)
        .realm(issuer.url("/token"))
        .start();
    let image = app();
    registry.put_image("t/a", "1", &image);
    let digest = &image.layers[0].digest;
    storage.put_blob_as("x", digest, &image.layers[0].bytes);
    registry
        .on("GET", &format!("/v2/t/a/blobs/{digest}"))
        .with_header("authorization", "Bearer *")
        .then(Fault::RedirectBelow(307, storage.url("/storage/")));
    let fields = json!({"username": "alice", "password": "s3cret", "ca_certs": [authority.pem()]});
    let output = get(&registry, &image, fields).run();
    assert_arrived(&output, &image);
    assert_eq!(issuer.requests().len(), 1);
    assert_eq!(storage.requests().len(), 1);
}

#[test]
fn a_plain_registry_nearby_is_tried_with_tls_once_and_then_spoken_to_plainly() {
    let registry = Registry::start();
    let image = app();
    registry.put_image("t/a", "1", &image);
    let output = get(&registry, &image, json!({})).run();
    assert_arrived(&output, &image);
    assert_eq!(registry.tls_hellos(), 1);

    // Also where many ask at the same time.
    let many = image_of((0..20).map(|n| layer().file("n", [n]))).oci();
    let registry = Registry::start();
    let program = put(&registry, &many, json!({})).env("REGISTRY_IMAGE_WORKERS", "8");
    program.run().succeeds();
    assert_eq!(registry.tls_hellos(), 1);
}

#[test]
fn a_server_that_is_far_away_is_never_spoken_to_plainly() {
    let registry = Registry::setup().name("registry.test").start();
    registry.put_image("t/a", "1", &small());
    let proxy = Proxy::start(&registry);
    let output = check_at("registry.test/t/a", json!({}))
        .env("https_proxy", proxy.url())
        .env("http_proxy", proxy.url())
        .run();
    output.fails_with(
        "check: registry.test/t/a: look up 1: HEAD https://registry.test/v2/t/a/manifests/1: \
         the server does not speak TLS: its answer is something else; set `source.insecure: true` \
         if it is a plain HTTP registry",
    );
    assert!(registry.requests().is_empty());
    // With `insecure` it is.
    let output = check_at("registry.test/t/a", json!({"insecure": true}))
        .env("https_proxy", proxy.url())
        .env("http_proxy", proxy.url())
        .run();
    output.succeeds();
    assert_eq!(
        proxy.lines()[1..],
        [
            "CONNECT registry.test:443 200",
            "HEAD http://registry.test/v2/t/a/manifests/1 200"
        ]
    );
}

/// Accepts connections and hands each to `serve`, with its number.
fn server(serve: impl Fn(usize, std::net::TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for (number, socket) in listener.incoming().flatten().enumerate() {
            serve(number, socket);
        }
    });
    port
}

#[test]
fn a_server_that_closes_or_resets_at_a_tls_hello_may_be_a_plain_one() {
    for resets in [false, true] {
        let port = server(move |number, mut socket| {
            let mut hello = [0; 8];
            socket.read_exact(&mut hello).unwrap();
            if number == 0 {
                if resets {
                    rustix::net::sockopt::set_socket_linger(
                        &socket,
                        Some(std::time::Duration::ZERO),
                    )
                    .unwrap();
                }
                return;
            }
            assert_eq!(&hello[..5], b"HEAD ");
            socket
                .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                .unwrap();
        });
        let repository = format!("127.0.0.1:{port}/t/a");
        check_at(&repository, json!({}))
            .run()
            .succeeds_with(json!([]));
    }
}

/// TLS works at the first connection, and all others are cut off at their hello: somebody wants to
/// be spoken to plainly.
#[test]
fn a_server_that_spoke_tls_is_never_spoken_to_plainly_afterwards() {
    let authority = Authority::new("private CA");
    let registry = serving(&authority.identity(&["127.0.0.1"]));
    registry
        .on("HEAD", "/v2/t/a/manifests/1")
        .then(Fault::Reset);
    let target = registry.address();
    let (plainly, first_bytes) = std::sync::mpsc::channel();
    let port = server(move |number, mut socket| {
        if number > 0 {
            let mut hello = [0; 1];
            let _ = socket.read_exact(&mut hello);
            plainly.send(hello[0]).unwrap();
            return;
        }
        let mut there = TcpStream::connect(target).unwrap();
        let (mut from, mut to) = (there.try_clone().unwrap(), socket.try_clone().unwrap());
        let up = thread::spawn(move || {
            let _ = std::io::copy(&mut socket, &mut there);
        });
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Both);
        let _ = up.join();
    });
    registry.allow(crate::common::Offence::WrongHost);
    let fields = json!({"ca_certs": [authority.pem()]});
    let output = check_at(&format!("127.0.0.1:{port}/t/a"), fields).run();
    output.fails();
    assert!(
        !output.messages().contains(" http://"),
        "{}",
        output.messages()
    );
    let first_bytes: Vec<u8> = first_bytes.try_iter().collect();
    assert!(first_bytes.len() > 5);
    assert!(
        first_bytes.iter().all(|first| *first == 0x16),
        "{first_bytes:?}"
    );
}

#[test]
fn certificates_are_read_at_the_first_use_of_tls_and_not_before() {
    let folder = crate::common::TempDir::new();
    let pipe = folder.join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    // Whoever opened the pipe would wait for ever.
    let request = json!({
        "source": {"repository": "127.0.0.1:1/t/a"},
        "version": {"tag": "1", "digest": small().digest},
        "params": {"skip_download": true},
    });
    Program::get(request)
        .env("SSL_CERT_FILE", &pipe)
        .limit(std::time::Duration::from_secs(20))
        .run()
        .succeeds();
}

#[test]
fn a_proxy_may_speak_tls_itself() {
    // The proxy's own certificate is believed by the same rules.
    let authority = Authority::new("private CA");
    let registry = serving(&authority.identity(&["127.0.0.1", "registry.test"]));
    let output = get_of(
        "registry.test/t/a",
        &small(),
        json!({"ca_certs": [authority.pem()]}),
    )
    // A TLS server that is no proxy: it answers CONNECT with an error of its own.
    .env("https_proxy", registry.url(""))
    .run();
    output.fails();
    let last = told(&output).pop().unwrap();
    assert!(last.contains("proxy https://127.0.0.1:"), "{last}");
    registry.allow(crate::common::Offence::BadRequestLine);
    registry.allow(crate::common::Offence::WrongHost);
}
