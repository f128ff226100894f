//! `out` of what real tools make, to a real registry, and back out of it with real tools: skopeo,
//! umoci, buildah, a Docker engine.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use common::{
    DockerRegistry, Engine, Image, Output, Program, TempDir, gzip, image, index, layer, require,
    run, sha256, zstd,
};
use serde_json::{Value, json};

/// An image that runs and says `hello`.
fn app() -> Image {
    let busybox = fs::read(require("busybox")).unwrap();
    image([
        layer()
            .dir("bin")
            .file("bin/busybox", busybox)
            .mode(0o755)
            .symlink("bin/cat", "busybox")
            .dir("etc")
            .file("etc/greeting", "old")
            .file("etc/gone", "gone"),
        layer()
            .dir("etc")
            .file("etc/greeting", "hello\n")
            .whiteout("etc/gone"),
    ])
    .config(json!({"Cmd": ["/bin/cat", "/etc/greeting"]}))
    .oci()
}

fn source(registry: &DockerRegistry, name: &str) -> Value {
    json!({"repository": registry.repository(name), "tag": "v1"})
}

/// `out` of the file or directory at `path`.
fn push(registry: &DockerRegistry, name: &str, path: &Path) -> Output {
    let file = path.file_name().unwrap().to_str().unwrap();
    let request = json!({"source": source(registry, name), "params": {"image": file}});
    Program::put(request)
        .destination(path.parent().unwrap())
        .real_clock()
        .run()
}

/// The digest that `out` says, which `check` and skopeo find too.
fn pushed(registry: &DockerRegistry, name: &str, path: &Path) -> String {
    let version = push(registry, name, path).succeeds()["version"].clone();
    let request = json!({"source": source(registry, name)});
    let found = Program::check(request).run().succeeds();
    assert_eq!(found, json!([version]));
    let digest = version["digest"].as_str().unwrap().to_owned();
    let raw = run(skopeo(&["inspect", "--raw", "--tls-verify=false"])
        .arg(format!("docker://{}:v1", registry.repository(name))));
    assert_eq!(sha256(&raw.stdout), digest);
    digest
}

/// `in` as a rootfs finds the files of [`app`].
fn assert_says_hello(registry: &DockerRegistry, name: &str, digest: &str) {
    let request = json!({
        "source": source(registry, name),
        "version": {"tag": "v1", "digest": digest},
    });
    let output = Program::get(request).run();
    output.succeeds();
    assert_eq!(output.file("rootfs/etc/greeting"), "hello\n");
    assert!(!output.destination().join("rootfs/etc/gone").exists());
}

fn skopeo(arguments: &[&str]) -> Command {
    let mut command = Command::new(require("skopeo"));
    command.arg("--insecure-policy").args(arguments);
    command
}

/// Copies between two of skopeo's places, each a transport and a path.
fn copy(from: &str, to: &str) {
    run(&mut skopeo(&["copy", "-q", from, to]));
}

fn place(transport: &str, path: &Path) -> String {
    format!("{transport}:{}", path.display())
}

/// [`app`] as a layout, for the tools to start from.
fn layout(work: &TempDir) -> (Image, String) {
    let app = app();
    let path = work.join("app");
    app.write_layout(&path, Some("one"));
    (app, place("oci", &path) + ":one")
}

#[test]
fn what_skopeo_writes_is_pushed_as_it_is_and_pulled_by_skopeo() {
    let work = TempDir::new();
    let (app, from) = layout(&work);
    let registry = DockerRegistry::start();
    for (name, to, keeps) in [
        ("layout", place("oci", &work.join("layout")) + ":x", true),
        (
            "archive",
            place("oci-archive", &work.join("archive")) + ":x",
            true,
        ),
        (
            "saved",
            place("docker-archive", &work.join("saved")) + ":a/b:c",
            false,
        ),
    ] {
        copy(&from, &to);
        let digest = pushed(&registry, name, &work.join(name));
        assert_eq!(digest == app.digest, keeps, "{name}");
        assert_says_hello(&registry, name, &digest);
        let pulled = work.join(format!("{name}-pulled"));
        run(skopeo(&["copy", "-q", "--src-tls-verify=false"])
            .arg(format!("docker://{}:v1", registry.repository(name)))
            .arg(place("oci", &pulled) + ":x"));
    }
    // skopeo's fourth form has no standard: the message says how to make one that has.
    copy(&from, &place("dir", &work.join("dir")));
    let shown = work.path().display().to_string();
    let output = push(&registry, "dir", &work.join("dir"));
    output.fails();
    assert_eq!(
        output.messages().replace(&shown, "WORK").trim_end(),
        "put: read image `WORK/dir`: the directory is no OCI layout: it has no `index.json`; \
         `skopeo copy` from its `dir:` to `oci:` or `oci-archive:` makes one"
    );
}

#[test]
fn archives_may_be_compressed_and_have_any_name() {
    let work = TempDir::new();
    let (app, from) = layout(&work);
    let registry = DockerRegistry::start();
    let mut digests = Vec::new();
    for (name, transport) in [("archive", "oci-archive"), ("saved", "docker-archive")] {
        let path = work.join(name);
        copy(&from, &(place(transport, &path) + ":x:1"));
        let plain = fs::read(&path).unwrap();
        let forms = [
            ("plain.tgz", plain.clone()),
            ("gz.tar", gzip(&plain)),
            ("zst", zstd(&plain)),
        ];
        for (end, bytes) in forms {
            let name = format!("{name}-{end}");
            digests.push(pushed(&registry, &name, &work.write(&name, bytes)));
        }
    }
    assert_eq!(digests[..3], vec![app.digest; 3]);
    assert_eq!(digests[3..], vec![digests[3].clone(); 3]);
}

#[test]
fn an_index_that_skopeo_copied_whole_keeps_its_digest() {
    let work = TempDir::new();
    let index = index([("linux/amd64", app()), ("linux/arm64", app())])
        .attested()
        .oci();
    index.write_layout(&work.join("index"), Some("one"));
    let registry = DockerRegistry::start();
    for (name, transport) in [("layout", "oci"), ("archive", "oci-archive")] {
        let path = work.join(name);
        run(skopeo(&["copy", "-q", "--all"])
            .arg(place("oci", &work.join("index")) + ":one")
            .arg(place(transport, &path) + ":x"));
        assert_eq!(pushed(&registry, name, &path), index.digest);
        assert_says_hello(&registry, name, &index.digest);
    }
}

#[test]
fn what_umoci_makes_is_pushed_as_it_is() {
    let work = TempDir::new();
    work.write("greeting", "hello\n");
    let path = work.join("layout");
    let umoci = |command: &str, more: &[&str]| {
        let mut umoci = Command::new(require("umoci"));
        umoci.arg(command).args(more);
        run(umoci.current_dir(work.path()));
    };
    umoci("init", &["--layout", "layout"]);
    umoci("new", &["--image", "layout:one"]);
    umoci(
        "insert",
        &[
            "--rootless",
            "--image",
            "layout:one",
            "greeting",
            "/etc/greeting",
        ],
    );
    let listed: Value =
        serde_json::from_slice(&fs::read(path.join("index.json")).unwrap()).unwrap();
    let registry = DockerRegistry::start();
    let digest = pushed(&registry, "umoci", &path);
    assert_eq!(listed["manifests"][0]["digest"], digest.as_str());
    assert_says_hello(&registry, "umoci", &digest);
}

#[test]
fn what_buildah_commits_is_pushed_in_each_of_its_forms() {
    let work = TempDir::new();
    let greeting = work.write("greeting", "hello\n");
    let buildah = |arguments: &[&str]| {
        let mut buildah = Command::new(require("buildah"));
        buildah
            .args(["--storage-driver", "vfs", "--root"])
            .arg(work.join("root"))
            .arg("--runroot")
            .arg(work.join("run"))
            .args(arguments);
        let output = run(&mut buildah);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let container = buildah(&["from", "scratch"]);
    buildah(&[
        "copy",
        "-q",
        &container,
        greeting.to_str().unwrap(),
        "/etc/greeting",
    ]);
    let registry = DockerRegistry::start();
    for (name, transport, format) in [
        ("layout", "oci", "oci"),
        ("archive", "oci-archive", "oci"),
        ("docker-layout", "oci", "docker"),
        ("saved", "docker-archive", "docker"),
        ("saved-oci", "docker-archive", "oci"),
    ] {
        let path = work.join(name);
        let to = place(transport, &path) + ":x:1";
        buildah(&["commit", "-q", "--format", format, &container, &to]);
        let digest = pushed(&registry, name, &path);
        assert_says_hello(&registry, name, &digest);
    }
}

#[test]
fn a_docker_engine_saves_what_is_pushed_and_pulls_and_runs_it() {
    let work = TempDir::new();
    let Some(engine) = Engine::start(work.path()) else {
        return;
    };
    let docker = |arguments: &[&str]| {
        let output = run(engine.docker().args(arguments));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    fs::copy(require("busybox"), work.write("context/busybox", "")).unwrap();
    work.write("context/greeting", "hello\n");
    work.write(
        "context/Dockerfile",
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY greeting /etc/greeting\n\
         CMD [\"/bin/busybox\", \"cat\", \"/etc/greeting\"]\n",
    );
    let context = work.join("context").display().to_string();
    docker(&["build", "-q", "-t", "app:1", &context]);
    let saved = work.join("saved.tar");
    docker(&["save", "-o", saved.to_str().unwrap(), "app:1"]);
    let id = docker(&["inspect", "--format", "{{.Id}}", "app:1"]);
    let several = work.join("several.tar");
    docker(&["build", "-q", "-t", "next:1", "--label", "a=b", &context]);
    docker(&["save", "-o", several.to_str().unwrap(), "app:1", "next:1"]);

    let registry = DockerRegistry::start();
    let digest = pushed(&registry, "saved", &saved);
    assert_says_hello(&registry, "saved", &digest);
    // The same input gives the same bytes, whatever the number of workers.
    let request = json!({"source": source(&registry, "again"), "params": {"image": "saved.tar"}});
    let again = Program::put(request)
        .destination(work.path())
        .env("REGISTRY_IMAGE_WORKERS", "1")
        .run();
    assert_eq!(again.succeeds()["version"]["digest"], digest.as_str());

    docker(&["rmi", "-f", "app:1", "next:1"]);
    let name = format!("{}:v1", registry.repository("saved"));
    docker(&["pull", "-q", &name]);
    assert_eq!(docker(&["inspect", "--format", "{{.Id}}", &name]), id);
    assert_eq!(docker(&["run", "--rm", "--network=host", &name]), "hello");

    // What `in` makes of it is what the engine loads and runs, and what `out` pushes unchanged.
    let request = json!({
        "source": source(&registry, "saved"),
        "version": {"tag": "v1", "digest": digest},
        "params": {"format": "oci"},
    });
    let got = Program::get(request).run();
    got.succeeds();
    let tarball = got.destination().join("image.tar");
    docker(&["rmi", "-f", &name]);
    docker(&["load", "-q", "-i", tarball.to_str().unwrap()]);
    assert_eq!(docker(&["run", "--rm", "--network=host", &id]), "hello");
    assert_eq!(pushed(&registry, "loaded", &tarball), digest);

    // A layer that comes twice is saved as a symlink the second time.
    let hello = || layer().dir("etc").file("etc/greeting", "hello\n").plain();
    let old = layer().dir("etc").file("etc/greeting", "old").plain();
    let repeated = image([hello(), old, hello()]).docker();
    let path = work.write("repeated.tar", repeated.docker_save(&["repeated:1"]));
    docker(&["load", "-q", "-i", path.to_str().unwrap()]);
    docker(&["save", "-o", path.to_str().unwrap(), "repeated:1"]);
    let listed = run(Command::new("tar").arg("-tvf").arg(&path)).stdout;
    let listed = String::from_utf8(listed).unwrap();
    assert!(listed.contains("/layer.tar -> ../"), "{listed}");
    let digest = pushed(&registry, "repeated", &path);
    assert_says_hello(&registry, "repeated", &digest);

    let output = push(&registry, "several", &several);
    output.fails();
    let shown = work.path().display().to_string();
    // The engine saves images in an order of its own, another one each time.
    let saved = run(Command::new("tar").args(["-xOf", several.to_str().unwrap(), "manifest.json"]));
    let saved: Value = serde_json::from_slice(&saved.stdout).unwrap();
    let tag = |image: usize| saved[image]["RepoTags"][0].as_str().unwrap();
    assert_eq!(
        output.messages().replace(&shown, "WORK").trim_end(),
        format!(
            "put: read image `WORK/several.tar`: the tarball holds 2 images: `{}`; `{}`; \
             save one image alone",
            tag(0),
            tag(1)
        )
    );
}

#[test]
fn a_layout_of_symbolic_links_is_a_layout() {
    // As bazel lays out its outputs.
    let work = TempDir::new();
    let (app, _) = layout(&work);
    let linked = work.join("linked");
    fs::create_dir_all(linked.join("blobs/sha256")).unwrap();
    for name in ["oci-layout", "index.json"] {
        symlink(work.join("app").join(name), linked.join(name)).unwrap();
    }
    for digest in app.objects().keys() {
        let name = format!("blobs/{}", digest.replace(':', "/"));
        symlink(work.join("app").join(&name), linked.join(&name)).unwrap();
    }
    let registry = DockerRegistry::start();
    assert_eq!(pushed(&registry, "linked", &linked), app.digest);
}
