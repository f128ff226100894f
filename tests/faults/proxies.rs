//! Proxies of the environment: which is taken, what it hears, and what it may do wrong.

use crate::common::{Authority, Fault, Image, Program, Proxy, Registry, answer, free_port, merge};
use crate::help::{app, assert_arrived, get_of, small, told};
use serde_json::{Value, json};

fn check_of(repository: &str, fields: Value) -> Program {
    let source = merge(json!({"repository": repository, "tag": "1"}), fields);
    Program::check(json!({ "source": source }))
}

/// A TLS registry with an invented name, and what its certificate is signed by.
fn far_away(image: &Image) -> (Registry, Value) {
    let authority = Authority::new("private CA");
    let identity = authority.identity(&["registry.test"]);
    let registry = Registry::setup()
        .tls(identity.server())
        .name("registry.test")
        .start();
    registry.put_image("t/a", "1", image);
    (registry, json!({"ca_certs": [authority.pem()]}))
}

#[test]
fn https_goes_through_a_tunnel_and_the_password_only_to_the_proxy() {
    let image = app();
    for variable in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        let (registry, fields) = far_away(&image);
        let proxy = Proxy::with_credentials(&registry, "us@er", "p:ss word");
        let url = format!("http://us%40er:p%3Ass%20word@{}", proxy.host());
        let fields = merge(fields, json!({"debug": true}));
        let output = get_of("registry.test/t/a", &image, fields)
            .env(variable, url)
            .run();
        assert_arrived(&output, &image);
        output.keeps_secret(["p:ss", "p%3Ass", "dXNAZXI"]);
        assert!(
            output
                .stderr
                .contains(&format!("proxy http://{}", proxy.host()))
        );
        assert!(
            proxy
                .lines()
                .iter()
                .all(|line| line == "CONNECT registry.test:443 200")
        );
        assert!(proxy.lines().len() <= 3, "{:?}", proxy.lines());
        for request in registry.requests() {
            assert_eq!(request.header("proxy-authorization"), None);
        }
    }
}

#[test]
fn plain_http_is_forwarded_whole() {
    let registry = Registry::setup()
        .name("registry.test:5000")
        .relative_locations()
        .start();
    let image = app();
    registry.put_image("t/a", "1", &image);
    let proxy = Proxy::with_credentials(&registry, "user", "s3cret");
    let output = get_of("registry.test:5000/t/a", &image, json!({"insecure": true}))
        .env("all_proxy", format!("http://user:s3cret@{}", proxy.host()))
        .run();
    assert_arrived(&output, &image);
    let lines = proxy.lines();
    assert_eq!(lines[0], "CONNECT registry.test:5000 200");
    let plain = |line: &String| line.starts_with("GET http://registry.test:5000/v2/t/a/");
    assert!(lines[1..].iter().all(plain), "{lines:?}");
    // An upload too: the body follows a head that was rewritten.
    let output = Program::put(json!({
        "source": {"repository": "registry.test:5000/t/b", "tag": "1", "insecure": true},
        "params": {"image": "image"},
    }))
    .env("all_proxy", format!("http://user:s3cret@{}", proxy.host()));
    image.write_layout(&output.directory_argument().join("image"), None);
    output.run().succeeds();
    let pushed = registry.blob("t/b", &image.layers[0].digest);
    assert!(pushed.unwrap() == image.layers[0].bytes);
}

#[test]
fn a_proxy_that_wants_another_password_is_named() {
    let (registry, fields) = far_away(&small());
    let proxy = Proxy::with_credentials(&registry, "user", "s3cret");
    let shown = format!("http://{}", proxy.host());
    for login in ["", "user:wr0ng@"] {
        let output = check_of("registry.test/t/a", fields.clone())
            .env("https_proxy", format!("http://{login}{}", proxy.host()))
            .showing(&shown, "PROXY")
            .run();
        output.fails_with(
            "check: registry.test/t/a: look up 1: \
             HEAD https://registry.test/v2/t/a/manifests/1: proxy PROXY: it wants a user and \
             password that it knows (status 407); put them into the proxy's URL: \
             http://user:password@host:port",
        );
        output.keeps_secret(["wr0ng", "dXNlcjp3cjBuZw"]);
        let fields = merge(fields.clone(), json!({"insecure": true}));
        let output = check_of("registry.test/t/a", fields)
            .env("http_proxy", format!("http://{login}{}", proxy.host()))
            .env("https_proxy", format!("http://127.0.0.1:{}", free_port()))
            .showing(&shown, "PROXY")
            .run();
        output.fails();
        let last = told(&output).pop().unwrap();
        assert!(
            last.contains("http://registry.test/v2/t/a/manifests/1: proxy PROXY: it wants a user"),
            "{last}"
        );
    }
    assert!(registry.requests().is_empty());
}

#[test]
fn a_proxy_that_is_not_there_is_named_after_half_a_minute() {
    let port = free_port();
    let output = check_of("registry.test/t/a", json!({}))
        .env(
            "https_proxy",
            format!("http://user:s3cret@127.0.0.1:{port}"),
        )
        .showing(&format!("127.0.0.1:{port}"), "PROXY")
        .run();
    output.fails();
    output.keeps_secret(["s3cret"]);
    let lines = told(&output);
    let start = "check: registry.test/t/a: look up 1: HEAD https://registry.test/v2/t/a/manifests/1: \
                 proxy http://PROXY: connection refused (";
    let last = lines.last().unwrap();
    assert!(last.starts_with(start), "{last}");
    assert!((4..15).contains(&lines.len()), "{}", lines.len());
}

#[test]
fn a_server_that_the_proxy_cannot_reach_is_one_that_is_not_there() {
    // Every proxy's words for a name that does not resolve or a port that is closed.
    for status in [500, 502, 503, 504] {
        let server = Answering::start(status);
        let output = check_of("registry.test/t/a", json!({}))
            .env("https_proxy", format!("http://127.0.0.1:{}", server.port))
            .showing(&format!("127.0.0.1:{}", server.port), "PROXY")
            .run();
        output.fails();
        let lines = told(&output);
        let last = lines.last().unwrap();
        let start = format!(
            "check: registry.test/t/a: look up 1: HEAD https://registry.test/v2/t/a/manifests/1: \
             proxy http://PROXY: it cannot connect to registry.test:443 (status {status}) ("
        );
        assert!(last.starts_with(&start), "{last}");
        assert!(lines.len() < 15, "{}", lines.len());
    }
    let server = Answering::start(403);
    let output = check_of("registry.test/t/a", json!({}))
        .env("https_proxy", format!("http://127.0.0.1:{}", server.port))
        .showing(&format!("127.0.0.1:{}", server.port), "PROXY")
        .run();
    output.fails_with(
        "check: registry.test/t/a: look up 1: HEAD https://registry.test/v2/t/a/manifests/1: \
         proxy http://PROXY: it refuses to connect to registry.test:443 (status 403)",
    );
}

#[test]
fn a_proxy_that_limits_its_tunnels_is_asked_again() {
    let server = Answering::start(429);
    let output = check_of("registry.test/t/a", json!({}))
        .env("https_proxy", format!("http://127.0.0.1:{}", server.port))
        .run();
    output.fails();
    assert!(told(&output).len() > 10, "{}", output.messages());
}

#[test]
fn a_proxy_that_makes_no_tunnels_forwards_to_a_plain_registry() {
    let registry = Registry::setup().name("registry.test:5000").start();
    registry.put_image("t/a", "1", &small());
    let proxy = Proxy::start(&registry);
    let without_tunnels = Answering::start(403);
    let check = |fields: Value| {
        check_of("registry.test:5000/t/a", fields)
            .env(
                "https_proxy",
                format!("http://127.0.0.1:{}", without_tunnels.port),
            )
            .env("http_proxy", proxy.url())
            .run()
    };
    check(json!({"insecure": true})).succeeds();
    assert_eq!(registry.lines(), ["HEAD /v2/t/a/manifests/1 200"]);
    check(json!({})).fails();
    assert_eq!(registry.lines().len(), 1);
}

/// A proxy that answers every CONNECT with this status.
struct Answering {
    port: u16,
}

impl Answering {
    fn start(status: u16) -> Answering {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for mut socket in listener.incoming().flatten() {
                let mut head = [0; 4096];
                let _ = socket.read(&mut head);
                let text = format!("HTTP/1.0 {status} No\r\nContent-Length: 0\r\n\r\n");
                let _ = socket.write_all(text.as_bytes());
            }
        });
        Answering { port }
    }
}

#[test]
fn loopback_and_what_no_proxy_names_are_not_proxied() {
    let registry = Registry::start();
    registry.put_image("t/a", "1", &small());
    let nobody = format!("http://127.0.0.1:{}", free_port());
    for repository in [
        registry.repository("t/a"),
        format!("localhost:{}/t/a", registry.address().port()),
    ] {
        check_of(&repository, json!({}))
            .env("all_proxy", &nobody)
            .run()
            .succeeds();
    }
    // What `no_proxy` names is resolved here, and there is no such host here.
    let (registry, fields) = far_away(&small());
    let proxy = Proxy::start(&registry);
    let output = check_of("registry.test/t/a", fields.clone())
        .env("https_proxy", proxy.url())
        .env("no_proxy", "other.example, .test")
        .run();
    output.fails();
    assert!(proxy.lines().is_empty());
    check_of("registry.test/t/a", fields)
        .env("https_proxy", proxy.url())
        .env("no_proxy", "other.example,registry.test:8443")
        .run()
        .succeeds();
    assert_eq!(proxy.lines(), ["CONNECT registry.test:443 200"]);
}

#[test]
fn an_error_that_came_through_a_forwarding_proxy_says_so() {
    let registry = Registry::setup().name("registry.test").start();
    let proxy = Proxy::start(&registry);
    let page = answer(403)
        .with("Content-Type", "text/html")
        .body("<html>blocked</html>");
    registry
        .on("*", "/v2/t/a/manifests/1")
        .always()
        .then(Fault::Answer(page));
    let output = check_of("registry.test/t/a", json!({"insecure": true}))
        .env("all_proxy", proxy.url())
        .showing(&proxy.url(), "PROXY")
        .run();
    output.fails_with(
        "check: registry.test/t/a: look up 1: GET http://registry.test/v2/t/a/manifests/1 through \
         the proxy PROXY: 403 Forbidden: an HTML page instead of an answer; set \
         `source.username` and `source.password`",
    );
}

#[test]
fn a_redirect_of_a_far_server_does_not_lead_to_this_machine() {
    let image = app();
    let authority = Authority::new("private CA");
    let identity = authority.identity(&["registry.test", "127.0.0.1", "localhost"]);
    let secret = Registry::setup().tls(identity.server()).start();
    for host in [
        format!("127.0.0.1:{}", secret.address().port()),
        format!("localhost:{}", secret.address().port()),
        format!("0.0.0.0:{}", secret.address().port()),
        "169.254.169.254".to_owned(),
        "[::1]".to_owned(),
        "[64:ff9b::a9fe:a9fe]".to_owned(),
    ] {
        let registry = Registry::setup()
            .tls(identity.server())
            .name("registry.test")
            .start();
        registry.put_image("t/a", "1", &image);
        let digest = &image.layers[0].digest;
        registry
            .on("GET", &format!("/v2/t/a/blobs/{digest}"))
            .then(Fault::Redirect(307, format!("https://{host}/internal?x=1")));
        let proxy = Proxy::start(&registry);
        let fields = json!({"ca_certs": [authority.pem()]});
        let output = get_of("registry.test/t/a", &image, fields)
            .env("https_proxy", proxy.url())
            .run();
        output.fails();
        let last = told(&output).pop().unwrap();
        let expected = format!(
            "get: registry.test/t/a@{}: fetch {digest}: https://registry.test leads to \
             https://{host}/internal, and ",
            image.digest
        );
        assert!(last.starts_with(&expected), "{last}");
        assert!(
            last.ends_with(" is an address that it must not lead to"),
            "{last}"
        );
    }
    assert!(secret.requests().is_empty());
}
