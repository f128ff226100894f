//! What `out` takes of memory: the static binary, a large image in every form, a real registry. GNU time tells the peak.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: a panic is how it reports"
)]

mod common;

use std::fs;
use std::process::Command;

use common::{DockerRegistry, TempDir, image, lacking, layer, noise, require, run};
use serde_json::json;

/// KiB. Neither the size of a layer nor their number adds to it.
const PEAK: u64 = 24 << 10;

#[test]
fn a_put_of_any_form_stays_within_its_memory() {
    let Some(binary) = std::env::var_os("REGISTRY_IMAGE_STATIC") else {
        lacking::<()>("REGISTRY_IMAGE_STATIC is not set: scripts/test sets it");
        return;
    };
    let work = TempDir::new();
    let part = noise(1, 1 << 20);
    let large = |seed: u8, parts: usize| {
        let mut bytes = part.repeat(parts);
        bytes[0] = seed;
        layer().file("large", bytes).plain()
    };
    let layers = (0..5).map(|seed| large(seed, 8));
    let saved = image(layers.chain([large(5, 40)])).docker();
    let path = work.write("saved", saved.docker_save(&["x:1"]));
    for (compress, level, end) in [("gzip", "-1", "gz"), ("zstd", "-1", "zst")] {
        let packed = run(Command::new(require(compress))
            .args([level, "-c"])
            .arg(&path));
        fs::write(work.join(format!("saved.{end}")), packed.stdout).unwrap();
    }
    saved.write_layout(&work.join("layout"), None);

    let registry = DockerRegistry::start();
    for form in ["saved", "saved.gz", "saved.zst", "layout"] {
        let request = json!({
            "source": {"repository": registry.repository(form), "tag": "v1"},
            "params": {"image": form},
        });
        let request = work.write("request", request.to_string());
        let peak = work.join("peak");
        run(Command::new(require("time"))
            .args(["-f", "%M", "-o"])
            .arg(&peak)
            .arg(&binary)
            .arg("out")
            .arg(work.path())
            .env("REGISTRY_IMAGE_WORKERS", "4") // as on two processors
            .stdin(fs::File::open(request).unwrap()));
        let peak: u64 = fs::read_to_string(peak).unwrap().trim().parse().unwrap();
        assert!(peak <= PEAK, "{form}: {peak} KiB");
    }
}
