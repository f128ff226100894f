//! A blob that breaks goes on where it stopped.

use crate::common::{Fault, Image, Registry, answer, noise};
use crate::help::{SIZE, app, assert_arrived, count, get, get_of, short, told};
use serde_json::json;

fn layer_path(image: &Image) -> String {
    format!("/v2/t/a/blobs/{}", image.layers[0].digest)
}

fn serving(image: &Image) -> Registry {
    let registry = Registry::start();
    registry.put_image("t/a", "1", image);
    registry
}

/// The `Range` of every request for the layer.
fn ranges(registry: &Registry, image: &Image) -> Vec<Option<String>> {
    let path = layer_path(image);
    let requests = registry.requests();
    let of_layer = requests.iter().filter(|request| request.head.path == path);
    of_layer
        .map(|request| request.header("range").map(str::to_owned))
        .collect()
}

#[test]
fn a_broken_blob_goes_on_at_the_byte_where_it_stopped() {
    let image = app();
    let size = image.layers[0].bytes.len() as u64;
    let offsets = [
        1,
        (64 << 10) - 1,
        64 << 10,
        (64 << 10) + 1,
        size / 2,
        size - 1,
    ];
    let broken: [fn(u64) -> Fault; 2] = [Fault::ResetAfter, Fault::CloseAfter];
    for at in offsets {
        for fault in broken {
            let registry = serving(&image);
            registry.on("GET", &layer_path(&image)).then(fault(at));
            let output = get(&registry, &image, json!({})).run();
            assert_arrived(&output, &image);
            let expected = [None, Some(format!("bytes={at}-"))];
            assert_eq!(ranges(&registry, &image), expected, "at {at}");
        }
    }
}

#[test]
fn a_blob_that_breaks_before_its_first_byte_is_asked_for_again_without_a_range() {
    let image = app();
    let registry = serving(&image);
    registry
        .on("GET", &layer_path(&image))
        .then(Fault::ResetAfter(0));
    assert_arrived(&get(&registry, &image, json!({})).run(), &image);
    assert_eq!(ranges(&registry, &image), [None, None]);
}

#[test]
fn a_blob_that_breaks_again_and_again_arrives_as_long_as_bytes_come() {
    let image = app();
    let registry = serving(&image);
    // Each connection carries 8 KiB: 128 breaks, more than patience without progress has room for.
    let times = SIZE / (8 << 10);
    let rule = registry.on("GET", &layer_path(&image)).times(times);
    rule.then(Fault::ResetAfter(8 << 10));
    let output = get(&registry, &image, json!({})).run();
    assert_arrived(&output, &image);
    let waits = output.messages();
    let waits = waits.lines().filter_map(|line| {
        let (_, time) = line.rsplit_once("trying again in ")?;
        time.strip_suffix(" s")?.parse::<f64>().ok()
    });
    let waits: Vec<f64> = waits.collect();
    assert_eq!(waits.len(), times);
    assert!(
        waits.iter().all(|wait| *wait <= 1.0),
        "the wait grows: {waits:?}"
    );
}

#[test]
fn a_server_without_ranges_is_read_from_the_start_and_the_known_bytes_are_dropped() {
    let image = app();
    let registry = serving(&image);
    let path = layer_path(&image);
    registry.on("GET", &path).then(Fault::ResetAfter(300_000));
    registry.on("GET", &path).then(Fault::IgnoreRange);
    assert_arrived(&get(&registry, &image, json!({})).run(), &image);
    assert_eq!(
        ranges(&registry, &image),
        [None, Some("bytes=300000-".to_owned())]
    );
}

#[test]
fn a_part_that_was_not_asked_for_is_not_taken() {
    let image = app();
    type Case = (&'static str, fn() -> Fault);
    let cases: [Case; 8] = [
        ("an earlier part", || Fault::OtherRange(1000, 700_000)),
        ("a later part", || Fault::OtherRange(300_001, 700_000)),
        ("no place", || Fault::Without("Content-Range")),
        ("another unit", || {
            Fault::Header("Content-Range", "items 300000-1/2".to_owned())
        }),
        ("a refusal", || Fault::RangeRefused),
        ("a refusal of the header", || Fault::Answer(answer(400))),
        ("a refusal of another kind", || Fault::Answer(answer(405))),
        ("no ranges", || Fault::Answer(answer(501))),
    ];
    for (name, fault) in cases {
        let registry = serving(&image);
        let path = layer_path(&image);
        registry.on("GET", &path).then(Fault::ResetAfter(300_000));
        registry.on("GET", &path).then(fault());
        assert_arrived(&get(&registry, &image, json!({})).run(), &image);
        let expected = [None, Some("bytes=300000-".to_owned()), None];
        assert_eq!(ranges(&registry, &image), expected, "{name}");
    }
}

#[test]
fn the_body_of_a_416_is_not_read() {
    let image = app();
    let registry = serving(&image);
    let path = layer_path(&image);
    registry.on("GET", &path).then(Fault::ResetAfter(300_000));
    // As docker-registry does: it announces the whole blob and sends a few bytes.
    registry
        .on("GET", &path)
        .then(Fault::RangeRefused)
        .and(Fault::SayLength(SIZE as u64))
        .and(Fault::StallAfter(10));
    let output = get(&registry, &image, json!({})).run();
    assert_arrived(&output, &image);
    assert_eq!(told(&output).len(), 1, "{:?}", told(&output));
}

#[test]
fn a_part_that_ends_early_is_gone_on_from() {
    let image = app();
    let registry = serving(&image);
    let path = layer_path(&image);
    registry.on("GET", &path).then(Fault::ResetAfter(1000));
    registry
        .on("GET", &path)
        .then(Fault::OtherRange(1000, 1999));
    assert_arrived(&get(&registry, &image, json!({})).run(), &image);
    let expected = [
        None,
        Some("bytes=1000-".to_owned()),
        Some("bytes=2000-".to_owned()),
    ];
    assert_eq!(ranges(&registry, &image), expected);
}

#[test]
fn a_size_that_is_not_the_descriptors_is_an_error_at_once() {
    let image = app();
    let size = image.layers[0].bytes.len();
    let digest = &image.layers[0].digest;
    type Faults = fn() -> Vec<Fault>;
    let cases: [(usize, u64, Faults); 3] = [
        (1, size as u64 + 5, || vec![Fault::Longer(5)]),
        (1, size as u64 - 5, || vec![Fault::Shorter(5)]),
        // The resumed part says it.
        (2, 7, || {
            let range = "bytes 1000-1048575/7".to_owned();
            vec![
                Fault::ResetAfter(1000),
                Fault::Header("Content-Range", range),
            ]
        }),
    ];
    for (requests, says, faults) in cases {
        let registry = serving(&image);
        for fault in faults() {
            registry.on("GET", &layer_path(&image)).then(fault);
        }
        let output = get(&registry, &image, json!({})).run();
        output.fails();
        let last = told(&output).pop().unwrap();
        let place = match requests {
            1 => String::new(),
            _ => format!("read {} at byte 1000 of {size}: ", short(digest)),
        };
        assert_eq!(
            last,
            format!(
                "get: REGISTRY/t/a@{}: fetch {digest}: {place}GET http://REGISTRY/v2/t/a/blobs/{digest}: \
                 the server has {says} bytes for it, its descriptor says {size}",
                image.digest
            )
        );
        assert_eq!(count(&registry, "GET", &layer_path(&image)), requests);
    }
}

#[test]
fn wrong_bytes_are_fetched_once_more_from_the_first_and_then_the_step_fails() {
    let image = app();
    let digest = &image.layers[0].digest;
    let faults: [fn() -> Fault; 2] = [|| Fault::FlipByte(5), || Fault::WrongBytes];
    for fault in faults {
        let registry = serving(&image);
        registry.on("GET", &layer_path(&image)).then(fault());
        assert_arrived(&get(&registry, &image, json!({})).run(), &image);
        assert_eq!(ranges(&registry, &image), [None, None]);

        let registry = serving(&image);
        registry
            .on("GET", &layer_path(&image))
            .times(2)
            .then(fault());
        let output = get(&registry, &image, json!({})).run();
        output.fails();
        let lines = told(&output);
        assert!(lines[0].ends_with("fetching it once more"), "{lines:?}");
        let last = lines.last().unwrap();
        let start = format!("get: REGISTRY/t/a@{}: fetch {digest}: ", image.digest);
        assert!(
            last.starts_with(&start) && last.contains("digest"),
            "{last}"
        );
        assert_eq!(ranges(&registry, &image), [None, None]);
        assert!(!output.destination().join("digest").exists());
    }
}

#[test]
fn bytes_that_broke_and_then_prove_wrong_are_fetched_anew_as_a_whole() {
    let image = app();
    let registry = serving(&image);
    let path = layer_path(&image);
    registry
        .on("GET", &path)
        .then(Fault::ResetAfter(5000))
        .and(Fault::FlipByte(7));
    assert_arrived(&get(&registry, &image, json!({})).run(), &image);
    let expected = [None, Some("bytes=5000-".to_owned()), None];
    assert_eq!(ranges(&registry, &image), expected);
}

#[test]
fn a_body_may_come_in_chunks_or_end_with_its_connection() {
    let image = app();
    let size = image.layers[0].bytes.len() as u64;
    let framings: [fn() -> Fault; 2] = [|| Fault::Chunked, || Fault::CloseDelimited];
    for framing in framings {
        for cut in [None, Some(500_000), Some(size)] {
            let registry = serving(&image);
            let rule = registry.on("GET", &layer_path(&image)).then(framing());
            if let Some(at) = cut {
                rule.and(Fault::CloseAfter(at));
            }
            let output = get(&registry, &image, json!({})).run();
            assert_arrived(&output, &image);
            // What is missing after the last byte is nobody's concern.
            let expected = match cut {
                Some(500_000) => vec![None, Some("bytes=500000-".to_owned())],
                _ => vec![None],
            };
            assert_eq!(ranges(&registry, &image), expected, "{cut:?}");
        }
    }
}

#[test]
fn a_reset_of_a_body_without_a_length_is_no_end_of_it() {
    let image = app();
    let registry = serving(&image);
    let path = format!("/v2/t/a/manifests/{}", image.digest);
    registry
        .on("GET", &path)
        .then(Fault::CloseDelimited)
        .and(Fault::ResetAfter(20));
    let output = get(&registry, &image, json!({})).run();
    assert_arrived(&output, &image);
    assert_eq!(
        told(&output),
        [format!(
            "GET http://REGISTRY{path}: connection reset by peer; trying again in T"
        )]
    );
}

#[test]
fn a_blob_from_storage_resumes_through_the_registry() {
    let image = app();
    let storage = Registry::start();
    let registry = serving(&image);
    let digest = &image.layers[0].digest;
    storage.put_blob_as("x", digest, &image.layers[0].bytes);
    registry
        .on("GET", &layer_path(&image))
        .always()
        .then(Fault::RedirectBelow(307, storage.url("/storage/")));
    let stored = format!("/storage/{digest}");
    storage.on("GET", &stored).then(Fault::ResetAfter(400_000));
    storage.on("GET", &stored).then(Fault::Answer(answer(503)));
    let output = get(&registry, &image, json!({})).against(&storage).run();
    assert_arrived(&output, &image);
    let expected = [
        None,
        Some("bytes=400000-".to_owned()),
        Some("bytes=400000-".to_owned()),
    ];
    // A presigned URL may have ended meanwhile: the registry gives a new one each time.
    assert_eq!(ranges(&registry, &image), expected);
    let name = short(digest);
    let size = image.layers[0].bytes.len();
    assert_eq!(
        told(&output),
        [
            format!(
                "read {name} at byte 400000 of {size}: connection reset by peer; \
                 trying again in T"
            ),
            format!(
                "read {name} at byte 400000 of {size}: GET http://REGISTRY/v2/t/a/blobs/{digest}, \
                 redirected to http://REGISTRY2: 503 Service Unavailable; trying again in T"
            ),
        ]
    );
}

#[test]
fn a_blob_that_never_comes_farther_ends_the_step_after_ten_minutes() {
    let image = app();
    let registry = serving(&image);
    let path = layer_path(&image);
    registry.on("GET", &path).then(Fault::ResetAfter(1000));
    registry.on("GET", &path).always().then(Fault::Reset);
    let output = get(&registry, &image, json!({})).run();
    output.fails();
    let lines = told(&output);
    let digest = &image.layers[0].digest;
    let size = image.layers[0].bytes.len();
    let last = lines.last().unwrap();
    let start = format!(
        "get: REGISTRY/t/a@{}: fetch {digest}: read {} at byte 1000 of {size}: \
         GET http://REGISTRY{path}: connection reset by peer (",
        image.digest,
        short(digest)
    );
    assert!(last.starts_with(&start), "{last}");
    assert!(last.ends_with(" tries without progress)"), "{last}");
    // Every wait is a line: with full jitter up to 60 s they fill ten minutes.
    assert_eq!(count(&registry, "GET", &path), lines.len());
    assert!((15..60).contains(&lines.len()), "{}", lines.len());
}

#[test]
fn a_transfer_that_is_slow_and_moves_never_times_out() {
    let image = app();
    let registry = serving(&image);
    // 16 pieces with 0.2 s between them: three times the limit for silence.
    let pause = std::time::Duration::from_millis(200);
    registry
        .on("GET", &layer_path(&image))
        .then(Fault::Slowly(SIZE / 15, pause));
    let output = get(&registry, &image, json!({}))
        .env("REGISTRY_IMAGE_TEST_CLOCK", "60")
        .run();
    assert_arrived(&output, &image);
    assert_eq!(told(&output), [""; 0]);
}

#[test]
fn a_blob_of_no_bytes_is_a_blob() {
    let image = crate::common::image([crate::common::layer().file("a", noise(1, 10))])
        .oci()
        .lie(|manifest| {
            manifest["layers"][0]["size"] = json!(0);
            manifest["layers"][0]["digest"] = json!(crate::common::sha256(b""));
        });
    let registry = Registry::start();
    registry.put_image("t/a", "1", &image);
    registry.put_blob("t/a", b"");
    get_of(&registry.repository("t/a"), &image, json!({}))
        .against(&registry)
        .run()
        .succeeds();
}
