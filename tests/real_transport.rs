//! The way to a real registry: through real proxies, from a real mirror, over connections that
//! break.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "test code: a panic is how it reports"
)]

mod common;

#[path = "real_transport/relay.rs"]
mod relay;

use common::{
    Authority, DockerRegistry, Identity, Image, Output, Program, Proxy, RealSetup, RealTokens,
    Registry, Server, TempDir, free_port, image, layer, merge, noise, require, run,
};
use relay::{Plan, Relay};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

fn app(bytes: usize) -> Image {
    let layers = [
        layer().file("base", noise(1, 1000)),
        layer().file("noise", noise(2, bytes)).plain(),
    ];
    image(layers).oci()
}

fn put(repository: &str, image: &Image, fields: &Value) -> Program {
    let source = merge(
        json!({"repository": repository, "tag": "1"}),
        fields.clone(),
    );
    let program = Program::put(json!({"source": source, "params": {"image": "image"}}));
    image.write_layout(&program.directory_argument().join("image"), None);
    program
}

fn get(repository: &str, image: &Image, fields: &Value) -> Program {
    let source = merge(
        json!({"repository": repository, "tag": "1"}),
        fields.clone(),
    );
    Program::get(json!({
        "source": source,
        "version": {"tag": "1", "digest": image.digest},
        "params": {"format": "oci-layout"},
    }))
}

fn check(repository: &str, fields: &Value) -> Program {
    let source = merge(
        json!({"repository": repository, "tag": "1"}),
        fields.clone(),
    );
    Program::check(json!({ "source": source }))
}

fn assert_arrived(output: &Output, image: &Image) {
    output.succeeds();
    for (digest, bytes) in image.objects() {
        let path = format!("oci/blobs/{}", digest.replace(':', "/"));
        let found = fs::read(output.destination().join(&path)).unwrap();
        assert!(found == bytes, "{path} has other bytes");
    }
}

fn tinyproxy(connect_port: u16, login: Option<(&str, &str)>) -> Server {
    Server::start("tinyproxy", |directory, port| {
        let login = login.map_or(String::new(), |(user, password)| {
            format!("BasicAuth {user} {password}\n")
        });
        let config = format!(
            "Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nConnectPort {connect_port}\n{login}"
        );
        let path = directory.write("tinyproxy.conf", config);
        vec!["-d".to_owned(), "-c".to_owned(), path.display().to_string()]
    })
}

/// Knows `registry.test` as this machine.
fn squid(user: &str, password: &str) -> Server {
    let entry = Command::new(require("htpasswd"))
        .args(["-mbn", user, password])
        .output()
        .unwrap();
    Server::start("squid", |directory, port| {
        // Squid gives up root for a user of its own, who has to read these files.
        use std::os::unix::fs::PermissionsExt as _;
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(directory.path(), open).unwrap();
        let hosts = directory.write("hosts", "127.0.0.1 localhost registry.test\n");
        let passwords = directory.write("passwords", &entry.stdout);
        let config = format!(
            "http_port 127.0.0.1:{port}\npid_filename none\nvisible_hostname squid.test\n\
             hosts_file {hosts}\ncache deny all\ncache_log /dev/null\naccess_log none\n\
             logfile_rotate 0\ncoredump_dir {directory}\nshutdown_lifetime 1 seconds\n\
             auth_param basic program /usr/lib/squid/basic_ncsa_auth {passwords}\n\
             acl users proxy_auth REQUIRED\nhttp_access allow users\nhttp_access deny all\n",
            hosts = hosts.display(),
            directory = directory.path().display(),
            passwords = passwords.display(),
        );
        let path = directory.write("squid.conf", config);
        vec!["-N".to_owned(), "-f".to_owned(), path.display().to_string()]
    })
}

/// A TLS registry that proxies know as `0.0.0.0` (which is not loopback by its name, so that it is
/// proxied, and leads to this machine) and as `registry.test`.
fn tls_registry() -> (DockerRegistry, Value) {
    let authority = Authority::new("private CA");
    let identity = authority.identity(&["0.0.0.0", "registry.test"]);
    let registry = DockerRegistry::with(&RealSetup {
        tls: Some(&identity),
        ..RealSetup::default()
    });
    (registry, json!({"ca_certs": [authority.pem()]}))
}

/// Certificates that no verifier reads, and a kind of key that is not known here.
#[test]
fn insecure_takes_whatever_certificate_a_server_has() {
    let work = TempDir::new();
    let openssl = |arguments: &str| {
        let mut command = Command::new(require("openssl"));
        run(command.args(arguments.split(' ')).current_dir(work.path()))
    };
    work.write("plain.cnf", "[req]\ndistinguished_name = dn\n[dn]\n");
    let image = app(1000);
    for (key, kind) in [
        ("-newkey rsa:2048", "-config plain.cnf"), // X.509 version 1
        ("-newkey ec -pkeyopt ec_paramgen_curve:P-521", "-sha512"),
    ] {
        openssl(&format!(
            "req -x509 {key} -nodes -keyout key -out certificate -days 9 -subj /CN=x {kind}"
        ));
        let read = |name: &str| fs::read_to_string(work.join(name)).unwrap();
        let registry = DockerRegistry::with(&RealSetup {
            tls: Some(&Identity::of_pem(&read("certificate"), &read("key"))),
            ..RealSetup::default()
        });
        let repository = registry.repository("t/a");
        let fields = json!({"insecure": true});
        put(&repository, &image, &fields).run().succeeds();
        assert_arrived(&get(&repository, &image, &fields).run(), &image);
        put(&repository, &image, &json!({})).run().fails();
    }
}

#[test]
fn tinyproxy_tunnels_with_and_without_a_login() {
    let image = app(300_000);
    let (registry, fields) = tls_registry();
    let port = registry.address().port();
    let repository = format!("0.0.0.0:{port}/t/a");
    for login in [None, Some(("puser", "p-pass"))] {
        let proxy = tinyproxy(port, login);
        let userinfo = login.map_or(String::new(), |(u, p)| format!("{u}:{p}@"));
        let url = format!("http://{userinfo}{}", proxy.host());
        put(&repository, &image, &fields)
            .env("https_proxy", &url)
            .run()
            .succeeds();
        let output = get(&repository, &image, &fields)
            .env("HTTPS_PROXY", &url)
            .run();
        assert_arrived(&output, &image);
        assert!(proxy.log().contains("CONNECT 0.0.0.0"), "{}", proxy.log());
    }
}

#[test]
fn tinyproxy_forwards_plain_http_with_and_without_a_login() {
    let image = app(300_000);
    let registry = DockerRegistry::start();
    let port = registry.address().port();
    let repository = format!("0.0.0.0:{port}/t/a");
    let fields = json!({"insecure": true});
    for login in [None, Some(("puser", "p-pass"))] {
        let proxy = tinyproxy(port, login);
        let userinfo = login.map_or(String::new(), |(u, p)| format!("{u}:{p}@"));
        let url = format!("http://{userinfo}{}", proxy.host());
        put(&repository, &image, &fields)
            .env("all_proxy", &url)
            .run()
            .succeeds();
        let output = get(&repository, &image, &fields)
            .env("ALL_PROXY", &url)
            .run();
        assert_arrived(&output, &image);
        assert!(
            proxy.log().contains("GET http://0.0.0.0"),
            "{}",
            proxy.log()
        );
    }
}

#[test]
fn a_wrong_login_at_a_real_proxy_names_the_proxy() {
    let (registry, fields) = tls_registry();
    let port = registry.address().port();
    let tiny = tinyproxy(port, Some(("puser", "p-pass")));
    let squid = squid("puser", "p-pass");
    let plain = DockerRegistry::start();
    // tinyproxy answers 407 without a login and 401 with a wrong one; squid 407 to both.
    for (proxy, host, login, status) in [
        (&tiny, "0.0.0.0", "", 407),
        (&tiny, "0.0.0.0", "puser:wr0ng@", 401),
        (&squid, "registry.test", "", 407),
        (&squid, "registry.test", "puser:wr0ng@", 407),
    ] {
        let url = format!("http://{login}{}", proxy.host());
        let says = format!(
            "proxy http://PROXY: it wants a user and password that it knows (status {status}); \
             put them into the proxy's URL: http://user:password@host:port"
        );
        let tls = check(&format!("{host}:{port}/t/a"), &fields)
            .env("https_proxy", &url)
            .showing(&proxy.host(), "PROXY")
            .run();
        tls.fails_with(&format!(
            "check: {host}:{port}/t/a: look up 1: \
             HEAD https://{host}:{port}/v2/t/a/manifests/1: {says}"
        ));
        let port = plain.address().port();
        let plain = check(&format!("0.0.0.0:{port}/t/a"), &json!({"insecure": true}))
            .env("http_proxy", &url)
            .showing(&proxy.host(), "PROXY")
            .run();
        plain.fails();
        let last = plain.messages().lines().last().unwrap().to_owned();
        assert!(last.ends_with(&says), "{last}");
    }
}

#[test]
fn squid_tunnels_and_forwards_with_a_login() {
    let image = app(300_000);
    let squid = squid("puser", "p-pass");
    let url = format!("http://puser:p-pass@{}", squid.host());
    let (tls, fields) = tls_registry();
    let plain = DockerRegistry::start();
    for (registry, fields) in [(&tls, fields), (&plain, json!({"insecure": true}))] {
        let repository = format!("registry.test:{}/t/a", registry.address().port());
        put(&repository, &image, &fields)
            .env("all_proxy", &url)
            .run()
            .succeeds();
        let output = get(&repository, &image, &fields)
            .env("all_proxy", &url)
            .run();
        assert_arrived(&output, &image);
    }
}

#[test]
fn a_server_that_a_real_proxy_cannot_reach_is_named_after_half_a_minute() {
    let squid = squid("puser", "p-pass");
    let port = free_port();
    let output = check(&format!("registry.test:{port}/t/a"), &json!({}))
        .env(
            "https_proxy",
            format!("http://puser:p-pass@{}", squid.host()),
        )
        .showing(&squid.host(), "PROXY")
        .showing(&port.to_string(), "PORT")
        .run();
    output.fails();
    let last = output.messages().lines().last().unwrap().to_owned();
    let start = "check: registry.test:PORT/t/a: look up 1: \
                 HEAD https://registry.test:PORT/v2/t/a/manifests/1: \
                 proxy http://PROXY: it cannot connect to registry.test:PORT (status 503) (";
    assert!(last.starts_with(start), "{last}");
}

#[test]
fn a_real_mirror_pulls_through_and_the_origin_is_left_alone() {
    let image = app(300_000);
    let upstream = DockerRegistry::start();
    put(&upstream.repository("team/app"), &image, &json!({}))
        .run()
        .succeeds();
    let mirror = DockerRegistry::with(&RealSetup {
        mirror_of: Some(&format!("http://{}", upstream.host())),
        ..RealSetup::default()
    });
    // Docker Hub itself: whoever asks it comes by here.
    let hub = Registry::start();
    let proxy = Proxy::start(&hub);
    let fields = json!({"registry_mirror": {"host": mirror.host()}});
    check("team/app", &fields)
        .env("https_proxy", proxy.url())
        .run()
        .succeeds_with(json!([{"tag": "1", "digest": image.digest}]));
    let output = get("team/app", &image, &fields)
        .env("https_proxy", proxy.url())
        .run();
    assert_arrived(&output, &image);
    assert_eq!(output.file("repository"), "team/app");
    assert!(proxy.lines().is_empty(), "{:?}", proxy.lines());

    // Through connections that break: the mirror's first answer to a Range is the whole blob.
    let second = DockerRegistry::with(&RealSetup {
        mirror_of: Some(&format!("http://{}", upstream.host())),
        ..RealSetup::default()
    });
    let relay = Relay::start(
        second.address(),
        Plan::Connections(vec![u64::MAX, 150_000, 90_000]),
        1,
    );
    let fields = json!({"registry_mirror": {"host": relay.host()}});
    let output = get("team/app", &image, &fields)
        .env("https_proxy", proxy.url())
        .env("REGISTRY_IMAGE_WORKERS", "1")
        .run();
    assert_arrived(&output, &image);
    assert!(proxy.lines().is_empty(), "{:?}", proxy.lines());
}

#[test]
fn a_real_registry_behind_connections_that_break_gives_the_image_once() {
    let size = 8 << 20;
    let image = app(size);
    let registry = DockerRegistry::start();
    put(&registry.repository("t/a"), &image, &json!({}))
        .run()
        .succeeds();
    // The first connection is the TLS hello. Five cuts, all inside the large layer.
    let cuts = vec![u64::MAX, 1 << 20, 2 << 20, 1_000_003, 65_536, 300_000];
    let relay = Relay::start(registry.address(), Plan::Connections(cuts), 1);
    let repository = format!("{}/t/a", relay.host());
    let output = get(&repository, &image, &json!({}))
        .env("REGISTRY_IMAGE_WORKERS", "1")
        .run();
    assert_arrived(&output, &image);
    assert_eq!(relay.cuts(), 5);
    let times = relay.bytes_from_server() as f64 / size as f64;
    // What was in the kernel's buffers at each cut is lost.
    assert!(times < 2.0, "the server sent {times} times the image");
    let lines = output.messages();
    let waits = lines
        .lines()
        .filter(|line| line.contains("; trying again in "));
    assert_eq!(waits.count(), 5, "{lines}");
}

#[test]
fn a_push_to_a_real_registry_over_connections_that_break_arrives() {
    let image = app(3 << 20);
    let registry = DockerRegistry::start();
    let relay = Relay::start(registry.address(), Plan::OneAnswerIn(5), 7);
    let mut cuts = 0;
    for n in 0..5 {
        let repository = format!("{}/t/a{n}", relay.host());
        put(&repository, &image, &json!({})).run().succeeds();
        let output = get(&registry.repository(&format!("t/a{n}")), &image, &json!({})).run();
        assert_arrived(&output, &image);
        cuts = relay.cuts();
    }
    assert!(cuts > 0);
}

/// How often the image is fetched; more by hand than here.
fn runs() -> u64 {
    let asked = std::env::var("TRANSPORT_RUNS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(12)
}

#[test]
fn one_answer_in_five_is_cut_at_a_random_byte_and_every_run_is_right() {
    let image = app(1 << 20);
    let registry = DockerRegistry::start();
    put(&registry.repository("t/a"), &image, &json!({}))
        .run()
        .succeeds();
    let mut cuts = 0;
    for seed in 1..=runs() {
        let relay = Relay::start(registry.address(), Plan::OneAnswerIn(5), seed);
        let repository = format!("{}/t/a", relay.host());
        let output = get(&repository, &image, &json!({})).run();
        assert_arrived(&output, &image);
        cuts += relay.cuts();
    }
    assert!(cuts > 0);
    eprintln!("{} runs, {cuts} cuts", runs());
}

#[test]
fn real_tokens_that_end_in_the_middle_are_renewed() {
    let image = app(4 << 20);
    let registry = DockerRegistry::with(&RealSetup {
        tokens: Some(RealTokens {
            users: &[("alice", "s3cret")],
            anonymous_pull: false,
            seconds: 60,
        }),
        ..RealSetup::default()
    });
    let login = json!({"username": "alice", "password": "s3cret"});
    let repository = registry.repository("t/a");
    put(&repository, &image, &login).run().succeeds();
    let output = get(&repository, &image, &login).run();
    assert_arrived(&output, &image);
    let wrong = json!({"username": "alice", "password": "wr0ng"});
    check(&repository, &wrong).run().fails();
    check(&repository, &json!({})).run().fails();
}
