//! Large layers: how many are unpacked at once, and what of them is not made because layers above
//! replace it.

use crate::common::{Fault, Gate, Image, Layer, Registry, image, layer, tree};
use crate::{assert_same_for_any_number_of_workers, get};
use serde_json::{Value, json};

#[test]
fn more_layers_than_processors_wait_for_a_slow_registry() {
    let processors = std::thread::available_parallelism().unwrap().get();
    // More than 64 workers there never are.
    let count = (processors + 2).min(64);
    let layers = (0..count).map(|n| layer().noise(&n.to_string(), 1_100_000));
    let image = image(layers).oci();
    let registry = Registry::start();
    let digest = registry.put_image("t/a", "1", &image);
    let all = Gate::meeting(count);
    for layer in &image.layers {
        registry
            .on("GET", &format!("/v2/t/a/blobs/{}", layer.digest))
            .then(Fault::Hold(all.clone()));
    }
    let output = get(&registry, &digest, json!({}), json!({}))
        .env("REGISTRY_IMAGE_WORKERS", count.to_string())
        .real_clock()
        .run();
    output.succeeds();
    assert_eq!(tree(output.destination().join("rootfs")).len(), 1 + count);
}

/// Large ones, which are looked at while others are unpacked.
#[test]
fn the_result_is_the_same_whoever_replaces_what_meanwhile() {
    let registry = Registry::start();
    let layers: Vec<Layer> = (0..6u64)
        .map(|n| {
            let mut layer = layer().noise(&format!("{n}"), 1_100_000);
            for directory in 0..10 {
                layer = layer.dir(format!("{directory}"));
                for file in (0..20u64).filter(|file| (file + n) % 3 > 0) {
                    layer = layer.file(format!("{directory}/f{file}"), format!("{n}"));
                }
                layer = match n {
                    // Needs what lies below it.
                    3 => layer.hardlink(format!("{directory}/hard"), "0/f4"),
                    _ => layer.hardlink(format!("{directory}/hard"), format!("{directory}/f10")),
                };
            }
            layer
        })
        .collect();
    assert_same_for_any_number_of_workers(&registry, layers);
}

/// A layer of more than 1 MiB, of which `etc/a` is `data`.
fn large(data: &str) -> Layer {
    let layer = layer().noise("noise", 1_200_000);
    layer.dir("etc").file("etc/a", data)
}

fn times_fetched(registry: &Registry, image: &Image) -> Vec<usize> {
    let requests = registry.requests();
    let times = image.layers.iter().map(|layer| {
        let blob = format!("GET /v2/t/a/blobs/{} 200", layer.digest);
        let requests = requests.iter().map(|request| request.line());
        requests.filter(|line| *line == blob).count()
    });
    times.collect()
}

/// Large layers are unpacked from the top by one worker, and what a layer replaces is not made
/// below it.
#[test]
fn a_layer_that_needs_what_was_not_made_is_fetched_once_more() {
    for (lower, fetched) in [
        (large("old").file("kept", "old"), [1, 1]),
        (large("old").hardlink("kept", "etc/a"), [2, 1]),
    ] {
        let registry = Registry::start();
        let image = image([lower, large("new")]).oci();
        let digest = registry.put_image("t/a", "1", &image);
        let run = |source: Value| {
            let output = get(&registry, &digest, source, json!({}))
                .env("REGISTRY_IMAGE_WORKERS", "1")
                .run();
            output.succeeds();
            assert_eq!(output.file("rootfs/etc/a"), "new");
            assert_eq!(output.file("rootfs/kept"), "old");
            output.messages()
        };
        let messages = run(json!({}));
        assert_eq!(times_fetched(&registry, &image), fetched, "{messages}");
        assert_eq!(
            messages.contains("once more"),
            fetched != [1, 1],
            "{messages}"
        );
        let messages = run(json!({"debug": true}));
        let not_made = "`etc/a` is not made: layer 2 replaces it";
        assert!(messages.contains(not_made), "{messages}");
    }
}

#[test]
fn an_image_of_which_a_layer_needs_what_was_not_made_below_is_fetched_once_more() {
    let image = image([
        large("old"),
        layer().noise("other", 1_200_000).hardlink("kept", "etc/a"),
        large("new"),
        layer().file("last", ""),
    ])
    .oci();
    let [lower, middle, _, last] =
        [0, 1, 2, 3].map(|at| format!("/v2/t/a/blobs/{}", image.layers[at].digest));
    let registry = Registry::start();
    let digest = registry.put_image("t/a", "1", &image);
    // The middle one stops on its way while the lowest is unpacked: its link comes afterwards.
    let (begun, unpacked) = (Gate::new(), Gate::new());
    registry.on("GET", &lower).then(Fault::Hold(begun.clone()));
    registry.on("GET", &middle).then(Fault::ResetAfter(600_000));
    registry
        .on("GET", &middle)
        .nth(2)
        .then(Fault::Hold(unpacked.clone()));
    let running = get(&registry, &digest, json!({}), json!({}))
        .env("REGISTRY_IMAGE_WORKERS", "2")
        .start();
    let wait_for = |path: &str, times: usize| {
        registry.wait_for(path, |requests| {
            let paths = requests.iter().map(|request| &request.head.path);
            paths.filter(|found| *found == path).count() >= times
        });
    };
    unpacked.wait_for(1);
    begun.open();
    // The worker that has unpacked the lowest goes on to the last.
    wait_for(&last, 1);
    unpacked.open();
    let output = running.wait();
    output.succeeds();
    assert_eq!(output.file("rootfs/etc/a"), "new");
    assert_eq!(output.file("rootfs/kept"), "old");
    let messages = output.messages();
    assert!(
        messages.contains("the image needs files that were not made"),
        "{messages}"
    );
    // The first answer for the middle one broke off.
    assert_eq!(times_fetched(&registry, &image), [2, 1, 2, 2], "{messages}");
}

#[test]
fn what_a_layer_needs_is_not_guessed_of_one_that_has_not_begun() {
    let registry = Registry::start();
    let image = image([large("old"), layer().file("implied/x", ""), large("new")]).oci();
    let digest = registry.put_image("t/a", "1", &image);
    let output = get(&registry, &digest, json!({}), json!({}))
        .env("REGISTRY_IMAGE_WORKERS", "1")
        .run();
    output.succeeds();
    assert_eq!(times_fetched(&registry, &image), [1, 1, 1]);
}
