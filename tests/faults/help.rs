//! What the tests of faults share: an image with a layer that is worth breaking, runs of the
//! three commands, and what they said without what differs from run to run.

use crate::common::{Image, Output, Program, Registry, image, layer, merge, noise};
use serde_json::{Value, json};

/// Bytes of the layer; several buffers of the program and of the kernel.
pub const SIZE: usize = 1 << 20;

/// A layer of noise, so that every byte counts.
pub fn app() -> Image {
    image([layer().file("noise", noise(7, SIZE)).plain()]).oci()
}

/// An image of one file.
pub fn small() -> Image {
    image([layer().file("a", "a")]).oci()
}

/// A registry without a login, where `t/a:1` is this image.
pub fn serving(image: &Image) -> Registry {
    let registry = Registry::start();
    registry.put_image("t/a", "1", image);
    registry
}

/// Where the first layer of an image is fetched.
pub fn layer_path(image: &Image) -> String {
    format!("/v2/t/a/blobs/{}", image.layers[0].digest)
}

/// `in` of this image, as an OCI layout.
pub fn get(registry: &Registry, image: &Image, source: Value) -> Program {
    get_of(&registry.repository("t/a"), image, source).against(registry)
}

pub fn get_of(repository: &str, image: &Image, source: Value) -> Program {
    let source = merge(json!({"repository": repository, "tag": "1"}), source);
    Program::get(json!({
        "source": source,
        "version": {"tag": "1", "digest": image.digest},
        "params": {"format": "oci-layout"},
    }))
}

/// `check` of the tag `1`, or of all versions where the source says so.
pub fn check(registry: &Registry, source: Value) -> Program {
    let source = merge(json!({"repository": registry.repository("t/a")}), source);
    Program::check(json!({ "source": source })).against(registry)
}

/// `out` of this image under the tag `1`.
pub fn put(registry: &Registry, image: &Image, source: Value) -> Program {
    let source = merge(
        json!({"repository": registry.repository("t/a"), "tag": "1"}),
        source,
    );
    let program = Program::put(json!({"source": source, "params": {"image": "image"}}));
    image.write_layout(&program.directory_argument().join("image"), None);
    program.against(registry)
}

/// The layer arrived whole.
pub fn assert_arrived(output: &Output, image: &Image) {
    output.succeeds();
    for (digest, bytes) in image.objects() {
        let path = format!("oci/blobs/{}", digest.replace(':', "/"));
        let found = std::fs::read(output.destination().join(&path)).unwrap();
        assert!(found == bytes, "{path} has other bytes");
    }
}

/// The lines of stderr without progress: waits read `T`, upload sessions `SESSION`.
pub fn told(output: &Output) -> Vec<String> {
    let messages = output.messages();
    let lines = messages.lines().filter(|line| {
        let bar = line.starts_with("sha") && line.contains(" [");
        let end = line.contains("/s)");
        !bar && !end
    });
    lines.map(without_times).collect()
}

fn without_times(line: &str) -> String {
    let line = match line.split_once("/uploads/upload-") {
        Some((start, rest)) => {
            let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{start}/uploads/SESSION{rest}")
        }
        None => line.to_owned(),
    };
    match line.rsplit_once("trying again in ") {
        Some((start, time)) => {
            let seconds = time.strip_suffix(" s").unwrap_or("?");
            assert!(seconds.parse::<f64>().is_ok(), "{line}");
            format!("{start}trying again in T")
        }
        None => line,
    }
}

/// How many requests with this method and path (a `*` at its end stands for anything) came.
pub fn count(registry: &Registry, method: &str, path: &str) -> usize {
    let fits = |found: &str| match path.strip_suffix('*') {
        Some(start) => found.starts_with(start),
        None => found == path,
    };
    let requests = registry.requests();
    let mut fitting = requests.iter().collect::<Vec<_>>();
    fitting.retain(|request| request.head.method == method && fits(&request.head.path));
    fitting.len()
}

/// The digest as the program shows it.
pub fn short(digest: &str) -> String {
    let (algorithm, hex) = digest.split_once(':').unwrap();
    format!("{algorithm}:{}…", &hex[..12])
}
