//! `registry_mirror`: Docker Hub is a fixture behind a proxy here, and the mirror another one.

use crate::common::{
    Authority, Fault, Image, Program, Proxy, Registry, Tmpfs, Tokens, answer, free_port, image,
    index, layer, merge, noise,
};
use crate::help::{assert_arrived, small, told};
use serde_json::{Value, json};

struct World {
    hub: Registry,
    proxy: Proxy,
    authority: Authority,
}

/// Docker Hub, with the image as `team/app:1`.
fn world(image: &Image) -> World {
    let authority = Authority::new("private CA");
    let identity = authority.identity(&["index.docker.io"]);
    let hub = Registry::setup()
        .tls(identity.server())
        .name("index.docker.io")
        .bearer(&Tokens::new().user("alice", "origin-s3cret"))
        .realm("https://index.docker.io/token")
        .start();
    hub.put_image("team/app", "1", image);
    hub.put_image("library/app", "1", image);
    let proxy = Proxy::start(&hub);
    World {
        hub,
        proxy,
        authority,
    }
}

impl World {
    fn source(&self, mirror: Value, fields: Value) -> Value {
        let source = json!({
            "repository": "team/app",
            "tag": "1",
            "username": "alice",
            "password": "origin-s3cret",
            "ca_certs": [self.authority.pem()],
            "registry_mirror": mirror,
        });
        merge(source, fields)
    }

    fn check(&self, mirror: Value, fields: Value) -> Program {
        let source = self.source(mirror, fields);
        Program::check(json!({ "source": source })).env("https_proxy", self.proxy.url())
    }

    fn get(&self, image: &Image, mirror: Value, fields: Value) -> Program {
        let request = json!({
            "source": self.source(mirror, fields),
            "version": {"tag": "1", "digest": image.digest},
            "params": {"format": "oci-layout"},
        });
        Program::get(request).env("https_proxy", self.proxy.url())
    }
}

#[test]
fn a_mirror_that_serves_is_the_only_server_that_is_asked() {
    let image = small();
    let world = world(&image);
    let mirror = Registry::start();
    mirror.put_image("team/app", "1", &image);
    let host = json!({"host": mirror.host()});
    world.check(host.clone(), json!({})).run().succeeds();
    let output = world.get(&image, host, json!({})).against(&mirror).run();
    assert_arrived(&output, &image);
    assert_eq!(told(&output), [""; 0]);
    assert!(world.proxy.lines().is_empty(), "{:?}", world.proxy.lines());
    assert_eq!(output.file("repository"), "team/app");
    // The origin's credentials stay at home.
    assert!(
        mirror
            .requests()
            .iter()
            .all(|r| r.header("authorization").is_none())
    );
}

#[test]
fn a_mirror_may_have_a_path_and_credentials_of_its_own() {
    let image = small();
    let world = world(&image);
    let mirror = Registry::setup().basic("bob", "mirror-s3cret").start();
    mirror.put_image("cache/hub/team/app", "1", &image);
    mirror.put_image("cache/hub/library/app", "1", &image);
    for (host, repository) in [
        (format!("{}/cache/hub", mirror.host()), "team/app"),
        (format!("{}/cache/hub/", mirror.host()), "app"),
        (format!("{}/cache/hub", mirror.host()), "docker.io/app"),
    ] {
        let login = json!({"host": host, "username": "bob", "password": "mirror-s3cret\n"});
        let fields = json!({ "repository": repository });
        let output = world.get(&image, login, fields).run();
        assert_arrived(&output, &image);
        output.keeps_secret(["mirror-s3cret", "origin-s3cret"]);
        assert_eq!(output.file("repository"), repository);
    }
    assert!(world.hub.requests().is_empty());
}

#[test]
fn a_mirror_without_the_image_costs_one_request_and_a_warning() {
    let image = small();
    let world = world(&image);
    let mirror = Registry::start();
    let host = json!({"host": mirror.host()});
    let output = world.check(host.clone(), json!({})).against(&mirror).run();
    output.succeeds_with(json!([{"tag": "1", "digest": image.digest}]));
    output.says("warning: the mirror REGISTRY/team/app has nothing; asking the origin");
    assert_eq!(mirror.requests().len(), 1);

    let output = world.get(&image, host, json!({})).against(&mirror).run();
    assert_arrived(&output, &image);
    assert_eq!(
        told(&output),
        [format!(
            "warning: the mirror failed: REGISTRY/team/app: fetch manifest {digest}: \
             GET http://REGISTRY/v2/team/app/manifests/{digest}: 404 Not Found: NAME_UNKNOWN: \
             repository name not known to registry; using the origin",
            digest = image.digest
        )]
    );
    assert_eq!(mirror.requests().len(), 2);
}

#[test]
fn a_mirror_that_is_down_is_given_up_on_in_seconds() {
    let image = small();
    let world = world(&image);
    let port = free_port();
    let host = json!({"host": format!("127.0.0.1:{port}")});
    let started = std::time::Instant::now();
    let output = world
        .get(&image, host, json!({}))
        .showing(&format!("127.0.0.1:{port}"), "MIRROR")
        .real_clock()
        .run();
    assert_arrived(&output, &image);
    let took = started.elapsed().as_secs_f64();
    assert!((2.0..14.0).contains(&took), "{took} s");
    let last = told(&output).pop().unwrap();
    let start = format!(
        "warning: the mirror failed: MIRROR/team/app: fetch manifest {digest}: \
         GET https://MIRROR/v2/team/app/manifests/{digest}: connection refused (",
        digest = image.digest
    );
    assert!(last.starts_with(&start), "{last}");
    assert!(last.ends_with("; using the origin"), "{last}");
}

#[test]
fn a_mirror_that_fails_is_told_with_its_cause_and_the_origin_is_asked() {
    let image = small();
    type Case = (fn() -> Fault, &'static str);
    let faults: [Case; 4] = [
        (|| Fault::Answer(answer(503)), "503 Service Unavailable"),
        (
            || Fault::error(403, "DENIED", "not yours"),
            "403 Forbidden: DENIED: not yours",
        ),
        (|| Fault::Reset, "connection reset by peer"),
        (|| Fault::Body(b"{}".to_vec()), "digest"),
    ];
    for (fault, cause) in faults {
        let world = world(&image);
        let mirror = Registry::start();
        mirror.put_image("team/app", "1", &image);
        mirror.on("GET", "*").always().then(fault());
        let host = json!({"host": mirror.host()});
        let output = world.get(&image, host, json!({})).against(&mirror).run();
        assert_arrived(&output, &image);
        let warning = told(&output).pop().unwrap();
        assert!(
            warning.starts_with("warning: the mirror failed: "),
            "{warning}"
        );
        assert!(warning.contains(cause), "{warning}");
        assert!(mirror.requests().len() < 40, "{}", mirror.requests().len());
        for request in mirror.requests() {
            assert_eq!(request.header("authorization"), None);
        }
    }
}

#[test]
fn the_origin_is_not_asked_for_what_it_cannot_change() {
    let image = small();
    let world = world(&image);
    let mirror = Registry::start();
    mirror.put_image("team/app", "1", &image);
    let host = json!({"host": mirror.host()});
    // The disk is this machine's own.
    let get = world.get(&image, host.clone(), json!({}));
    let file = get.beside("file");
    std::fs::write(&file, "").unwrap();
    let output = get.destination(file.join("dest")).run();
    output.fails_with("get: create `TMP/file/dest`: not a directory");

    // With the same digest the origin has the same platforms.
    let both = index([("linux/arm64", image)]).oci();
    mirror.put_image("team/app", "2", &both);
    let request = json!({
        "source": world.source(host, json!({})),
        "version": {"tag": "2", "digest": both.digest},
        "params": {"platform": {"architecture": "s390x", "os": "linux"}},
    });
    let get = Program::get(request).env("https_proxy", world.proxy.url());
    let output = get.against(&mirror).run();
    output.fails_with(&format!(
        "get: REGISTRY/team/app@{}: there is no image for linux/s390x; there is linux/arm64",
        both.digest
    ));
    assert!(world.proxy.lines().is_empty(), "{:?}", world.proxy.lines());
}

#[test]
fn what_a_mirrors_bytes_ask_of_this_machine_the_origins_need_not() {
    let image = image([layer().noise("a", 1 << 20).plain()]).oci();
    let world = world(&image);
    let mirror = Registry::start();
    mirror.put_image("team/app", "1", &image);
    // No filesystem has such a name.
    let mut other = layer().file("x".repeat(300), "").tar();
    other.resize(image.layers[0].bytes.len(), 0);
    let path = format!("/v2/team/app/blobs/{}", image.layers[0].digest);
    mirror.on("GET", &path).always().then(Fault::Body(other));
    let request = json!({
        "source": world.source(json!({"host": mirror.host()}), json!({})),
        "version": {"tag": "1", "digest": image.digest},
    });
    let get = Program::get(request).env("https_proxy", world.proxy.url());
    let output = get.against(&mirror).showing(&image.digest, "IMAGE").run();
    output.succeeds();
    let warnings = told(&output).into_iter();
    let warnings: Vec<String> = warnings
        .filter(|line| line.starts_with("warning"))
        .collect();
    assert_eq!(
        warnings,
        [format!(
            "warning: the mirror failed: REGISTRY/team/app@IMAGE: layer 1 of 1 ({}…): \
             create `{}`: file name too long; using the origin",
            &image.layers[0].digest[..19],
            "x".repeat(300)
        )]
    );
    let file = output.destination().join("rootfs/a");
    assert_eq!(std::fs::metadata(file).unwrap().len(), 1 << 20);
}

/// Of a blob that is kept as it is no more comes than its descriptor says, whoever serves it.
#[test]
fn a_disk_that_is_too_small_for_a_blob_is_too_small_for_the_origins() {
    let image = image([layer().noise("a", 1 << 20)]).oci();
    let world = world(&image);
    let mirror = Registry::start();
    mirror.put_image("team/app", "1", &image);
    let Some(disk) = Tmpfs::mount("size=512k") else {
        return;
    };
    let get = world.get(&image, json!({"host": mirror.host()}), json!({}));
    let output = get.against(&mirror).destination(disk.path()).run();
    output.fails();
    let last = told(&output).pop().unwrap();
    assert!(last.contains("no space left on device"), "{last}");
    assert!(world.proxy.lines().is_empty(), "{:?}", world.proxy.lines());
}

#[test]
fn when_mirror_and_origin_fail_both_causes_are_told() {
    let image = small();
    let world = world(&image);
    let mirror = Registry::start();
    world
        .hub
        .on("*", "/v2/*")
        .always()
        .then(Fault::error(403, "DENIED", "not yours"));
    let host = json!({"host": mirror.host()});
    let output = world.get(&image, host, json!({})).against(&mirror).run();
    output.fails();
    let lines = told(&output);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("warning: the mirror failed: ") && lines[0].contains("404"));
    assert_eq!(
        lines[1],
        format!(
            "get: docker.io/team/app: fetch manifest {digest}: \
             GET https://index.docker.io/v2/team/app/manifests/{digest}: 403 Forbidden: DENIED: \
             not yours; check `source.username` and `source.password`, and what they may do there",
            digest = image.digest
        )
    );
}

#[test]
fn a_blob_that_the_mirror_breaks_for_good_comes_from_the_origin() {
    let image = crate::help::app();
    let world = world(&image);
    let mirror = Registry::start();
    mirror.put_image("team/app", "1", &image);
    let path = format!("/v2/team/app/blobs/{}", image.layers[0].digest);
    mirror.on("GET", &path).then(Fault::ResetAfter(5000));
    mirror
        .on("GET", &path)
        .always()
        .then(Fault::Answer(answer(500)));
    let host = json!({"host": mirror.host()});
    let output = world.get(&image, host, json!({})).run();
    assert_arrived(&output, &image);
}

#[test]
fn what_a_mirror_has_begun_the_origin_does_anew() {
    let layers = [
        layer().file("a", "a").file("gone", "gone"),
        layer().file("b", noise(5, 1 << 20)).whiteout("gone"),
    ];
    let image = image(layers).oci();
    for format in ["rootfs", "oci"] {
        let world = world(&image);
        let mirror = Registry::start();
        mirror.put_image("team/app", "1", &image);
        let path = format!("/v2/team/app/blobs/{}", image.layers[1].digest);
        mirror.on("GET", &path).then(Fault::ResetAfter(500_000));
        let broken = Fault::Answer(answer(500));
        mirror.on("GET", &path).always().then(broken);
        let host = json!({"host": mirror.host()});
        let request = json!({
            "source": world.source(host, json!({})),
            "version": {"tag": "1", "digest": image.digest},
            "params": {"format": format},
        });
        let get = Program::get(request).env("https_proxy", world.proxy.url());
        let output = get.run();
        output.succeeds();
        assert_eq!(output.file("digest"), image.digest);
        if format == "rootfs" {
            let rootfs = output.destination().join("rootfs");
            assert!(std::fs::read(rootfs.join("b")).unwrap() == noise(5, 1 << 20));
            assert!(rootfs.join("a").exists() && !rootfs.join("gone").exists());
        }
    }
}

#[test]
fn the_mirror_is_for_docker_hub_alone_and_never_for_a_put() {
    let image = small();
    let world = world(&image);
    let mirror = Registry::start();
    let other = Registry::start();
    other.put_image("t/a", "1", &image);
    let host = json!({"host": mirror.host()});
    let source = json!({
        "repository": other.repository("t/a"),
        "tag": "1",
        "registry_mirror": host,
    });
    Program::check(json!({ "source": source })).run().succeeds();
    let source = world.source(host, json!({}));
    let put = Program::put(json!({"source": source, "params": {"image": "image"}}))
        .env("https_proxy", world.proxy.url());
    image.write_layout(&put.directory_argument().join("image"), None);
    put.run().succeeds();
    assert!(mirror.requests().is_empty());
    assert!(!world.hub.requests().is_empty());
}
