//! The static binary where nothing else is: a root directory with `/opt/resource` alone, and the image of
//! `Dockerfile.scratch` in a Docker engine. Real registry, real engine; `REGISTRY_IMAGE_STATIC` names the binary inside the
//! tree that `scripts/build-static` laid out (`scripts/test` sets it).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where it is surprised, and says what it leaves out"
)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{DockerRegistry, Engine, TempDir, checked, image, lacking, layer, run};
use serde_json::{Value, json};

/// The whole content of the image: what `Dockerfile.scratch` promises.
const TREE: [&str; 6] = [
    "opt",
    "opt/resource",
    "opt/resource/check",
    "opt/resource/in",
    "opt/resource/out",
    "opt/resource/registry-image",
];

#[test]
fn check_in_and_out_work_in_a_root_that_holds_only_them() {
    let Some(tree) = static_tree() else { return };
    if !can_enter() {
        lacking::<()>("neither root nor user namespaces: no chroot");
        return;
    }
    let work = TempDir::new();
    let root = work.join("root");
    run(Command::new("cp").arg("-a").arg(&tree).arg(&root));
    assert_eq!(names_below(&root), TREE);
    fs::create_dir(root.join("dest")).unwrap();
    work.write("root/src/image.tar", docker_tarball());
    let registry = DockerRegistry::start();

    round_trip(
        &registry,
        "empty-root",
        &root.join("dest"),
        |name, directory| {
            let mut command = enter(&root);
            command.arg(format!("/opt/resource/{name}")).args(directory);
            command
        },
    );

    let strays: Vec<String> = names_below(&root)
        .into_iter()
        .filter(|name| {
            !name.starts_with("dest") && !name.starts_with("src") && !TREE.contains(&name.as_str())
        })
        .collect();
    assert!(strays.is_empty(), "left in the root: {strays:?}");
}

#[test]
fn the_scratch_image_holds_only_them_and_works_read_only_without_privileges() {
    let Some(tree) = static_tree() else { return };
    let work = TempDir::new();
    let Some(engine) = Engine::start(work.path()) else {
        return;
    };
    let context = work.join("context");
    fs::create_dir_all(context.join("dist")).unwrap();
    run(Command::new("cp")
        .args(["Dockerfile.scratch", ".dockerignore"])
        .arg(&context)
        .current_dir(env!("CARGO_MANIFEST_DIR")));
    run(Command::new("cp")
        .arg("-a")
        .arg(&tree)
        .arg(context.join("dist")));
    let name = tree.file_name().unwrap().to_str().unwrap();
    let arch = name.trim_start_matches("rootfs-");
    run(engine
        .docker()
        .args(["build", "-q", "-t", "registry-image:test"])
        .args(["-f", "Dockerfile.scratch"])
        .args(["--build-arg", &format!("ARCH={arch}"), "."])
        .current_dir(&context));

    let saved = work.join("saved.tar");
    run(engine
        .docker()
        .args(["save", "-o"])
        .arg(&saved)
        .arg("registry-image:test"));
    assert_eq!(names_in_layers(&saved), TREE);

    work.write("src/image.tar", docker_tarball());
    let dest = work.join("dest");
    fs::create_dir(&dest).unwrap();
    let nobody = 65534;
    chown(&dest, Some(nobody), Some(nobody)).unwrap();
    let registry = DockerRegistry::start();

    round_trip(&registry, "scratch", &dest, |name, directory| {
        let mut command = engine.docker();
        command
            .args([
                "run",
                "--rm",
                "-i",
                "--network=host",
                "--read-only",
                "--cap-drop=ALL",
                "--user=65534:65534",
            ])
            .args(["-v", &format!("{}:/src:ro", work.join("src").display())])
            .args(["-v", &format!("{}:/dest", dest.display())])
            .arg("registry-image:test")
            .arg(format!("/opt/resource/{name}"))
            .args(directory);
        command
    });
}

/// `out` of `/src/image.tar`, `check`, and `in` to `/dest`, which is `dest` outside.
fn round_trip<F>(registry: &DockerRegistry, name: &str, dest: &Path, command: F)
where
    F: Fn(&str, Option<&str>) -> Command,
{
    let source = json!({"repository": registry.repository(name), "tag": "one"});
    let put = ask(
        command("out", Some("/src")),
        &json!({"source": source, "params": {"image": "image.tar"}}),
    );
    let version = &put["version"];
    assert_eq!(version["tag"], "one");

    let found = ask(
        command("check", None),
        &json!({"source": source, "version": null}),
    );
    assert_eq!(found, json!([version]));

    let got = ask(
        command("in", Some("/dest")),
        &json!({"source": source, "version": version}),
    );
    assert_eq!(&got["version"], version);
    let text = |name: &str| fs::read_to_string(dest.join(name)).unwrap();
    assert_eq!(text("tag"), "one");
    assert_eq!(text("digest"), version["digest"].as_str().unwrap());
    assert_eq!(text("repository"), source["repository"].as_str().unwrap());
    assert_eq!(text("rootfs/etc/greeting"), "hello\n");
    assert_eq!(
        fs::read_link(dest.join("rootfs/etc/link")).unwrap(),
        Path::new("/etc/greeting")
    );
}

/// The tree that holds the binary, or `None` (said aloud) on a machine that is not CI.
fn static_tree() -> Option<PathBuf> {
    match std::env::var_os("REGISTRY_IMAGE_STATIC") {
        Some(binary) => Some(Path::new(&binary).ancestors().nth(3).unwrap().to_path_buf()),
        None => lacking(
            "REGISTRY_IMAGE_STATIC is not set: scripts/build-static makes it, scripts/test sets it",
        ),
    }
}

fn can_enter() -> bool {
    let probe = Command::new("unshare").args(["-r", "true"]).output();
    rustix::process::geteuid().is_root() || probe.is_ok_and(|output| output.status.success())
}

/// `chroot`, in a user namespace where the tests do not run as root.
fn enter(root: &Path) -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("chroot")
    } else {
        let mut command = Command::new("unshare");
        command.args(["-r", "chroot"]);
        command
    };
    command.arg(root);
    command
}

fn ask(mut command: Command, request: &Value) -> Value {
    let mut child = command
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Who fails early does not read its request; the exit status tells.
    let _ = child
        .stdin
        .take()
        .unwrap()
        .write_all(request.to_string().as_bytes());
    let output = checked(&command, child.wait_with_output().unwrap());
    serde_json::from_slice(&output.stdout).unwrap()
}

fn names_below(root: &Path) -> Vec<String> {
    let output = run(Command::new("find")
        .arg(root)
        .args(["-mindepth", "1", "-printf", "%P\n"]));
    let mut names: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_string)
        .collect();
    names.sort();
    names
}

fn names_in_layers(image: &Path) -> Vec<String> {
    let manifest = run(Command::new("tar")
        .arg("-xOf")
        .arg(image)
        .arg("manifest.json"))
    .stdout;
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let mut names = Vec::new();
    for layer in manifest[0]["Layers"].as_array().unwrap() {
        let layer = run(Command::new("tar")
            .arg("-xOf")
            .arg(image)
            .arg(layer.as_str().unwrap()))
        .stdout;
        for entry in tar::Archive::new(layer.as_slice()).entries().unwrap() {
            let path = entry
                .unwrap()
                .path()
                .unwrap()
                .to_str()
                .unwrap()
                .trim_end_matches('/')
                .to_string();
            names.push(path);
        }
    }
    names.sort();
    names
}

/// An image of one uncompressed layer, as `docker save` writes it.
fn docker_tarball() -> Vec<u8> {
    let files = layer()
        .file("etc/greeting", "hello\n")
        .symlink("etc/link", "/etc/greeting")
        .plain();
    image([files]).docker().docker_save(&["t:1"])
}
