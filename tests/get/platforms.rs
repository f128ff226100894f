//! Which image of an index is taken for a platform.

use crate::common::{Image, Registry, image, index, layer};
use crate::get;
use serde_json::json;

#[test]
fn an_index_is_resolved_by_platform() {
    let registry = Registry::start();
    let of = |platform: &str| {
        image([layer().file("platform", platform)])
            .platform(platform)
            .oci()
    };
    let index = index([
        ("linux/amd64", of("linux/amd64")),
        ("linux/arm64/v8", of("linux/arm64/v8")),
        ("linux/arm/v6", of("linux/arm/v6")),
        ("linux/arm/v7", of("linux/arm/v7")),
    ])
    .attested()
    .oci();
    let digest = registry.put_image("t/a", "1", &index);
    for (architecture, expected) in [
        ("amd64", "linux/amd64"),
        ("arm64", "linux/arm64/v8"),
        ("arm", "linux/arm/v7"),
        ("arm/v6", "linux/arm/v6"),
    ] {
        let platform = json!({"architecture": architecture, "os": "linux"});
        let output = get(&registry, &digest, json!({"platform": platform}), json!({})).run();
        output.succeeds();
        assert_eq!(output.file("rootfs/platform"), expected);
        // The step's own platform wins over the source's.
        let other = json!({"platform": {"architecture": "s390x"}});
        let output = get(&registry, &digest, other, json!({"platform": platform})).run();
        output.succeeds();
        assert_eq!(output.file("rootfs/platform"), expected);
    }
    let other = json!({"platform": {"architecture": "s390x", "os": "linux"}});
    let output = get(&registry, &digest, other, json!({}))
        .showing(&digest, "DIGEST")
        .run();
    output.fails_with(
        "get: REGISTRY/t/a@DIGEST: there is no image for linux/s390x; \
         there is linux/amd64, linux/arm64/v8, linux/arm/v6, linux/arm/v7",
    );
}

/// Entries of an index that say nothing of a platform are looked at in turn.
#[test]
fn an_image_is_found_where_entries_name_no_platform() {
    let of = |platform: &str| {
        let layer = layer().file("platform", platform);
        image([layer]).platform(platform).oci()
    };
    let unnamed = |index: Image, entries: &[usize]| {
        index.lie(|document| {
            for at in entries {
                document["manifests"][*at]
                    .as_object_mut()
                    .unwrap()
                    .remove("platform");
            }
        })
    };
    let (amd64, arm64) = ("linux/amd64", "linux/arm64");
    let only = |platform: &str| index([(platform, of(platform))]).oci();
    let artifact = || {
        of(amd64)
            .lie(|manifest| manifest["artifactType"] = json!("application/spdx+json"))
            .lie(|manifest| {
                manifest["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json")
            })
    };
    // So many artifacts, and then the image.
    let many = |artifacts: usize, typed: bool| {
        let each = (0..artifacts).map(|n| artifact().lie(|manifest| manifest["n"] = json!(n)));
        let all = each.chain([of(amd64)]).map(|image| (amd64, image));
        let index = unnamed(index(all).oci(), &(0..=artifacts).collect::<Vec<_>>());
        index.lie(|document| {
            for entry in document["manifests"]
                .as_array_mut()
                .unwrap()
                .iter_mut()
                .take(artifacts)
            {
                if typed {
                    entry["artifactType"] = json!("application/spdx+json");
                }
            }
        })
    };
    // As docker/distribution 2.3 stored it where the storage did not know the type.
    let old = image([layer().file("platform", amd64)])
        .docker()
        .lie(|manifest| {
            manifest["config"]["mediaType"] = json!("application/octet-stream");
        });
    let none = "there is no image for linux/amd64; there is linux/arm64";
    for (index, outcome) in [
        (old, Ok(())),
        (unnamed(only(amd64), &[0]), Ok(())),
        (
            unnamed(
                index([(amd64, only(arm64)), (amd64, only(amd64))]).oci(),
                &[0, 1],
            ),
            Ok(()),
        ),
        (
            unnamed(index([(arm64, of(arm64)), (amd64, artifact())]).oci(), &[1]),
            Err(none),
        ),
        (
            unnamed(
                index([(amd64, artifact()), (amd64, of(amd64))]).oci(),
                &[0, 1],
            ),
            Ok(()),
        ),
        (
            unnamed(
                index([(amd64, only(arm64)), (amd64, only(arm64))]).oci(),
                &[0, 1],
            ),
            Err(none),
        ),
        (
            unnamed(index([(amd64, artifact())]).oci(), &[0]),
            Err("is no image, but an artifact of type `application/spdx+json`"),
        ),
        (
            unnamed(index([(arm64, of(arm64))]).attested().oci(), &[1]),
            Err(none),
        ),
        // Their configs tell them apart; an image that is the only one is taken as it is.
        (
            unnamed(
                index([(amd64, of(arm64)), (amd64, of(amd64))]).oci(),
                &[0, 1],
            ),
            Ok(()),
        ),
        // Artifacts that say so in the index are not asked for, and of others no more than eight.
        (many(20, true), Ok(())),
        (
            many(8, false),
            Err("there is no image for linux/amd64 among the first 8 entries without a platform"),
        ),
        (many(7, false), Ok(())),
        (
            unnamed(index([(amd64, index([]).oci())]).oci(), &[]),
            Err("the index lists no image"),
        ),
    ] {
        let registry = Registry::start();
        let digest = registry.put_image("t/a", "1", &index);
        let platform = json!({"platform": {"architecture": "amd64", "os": "linux"}});
        let output = get(&registry, &digest, platform, json!({})).run();
        match outcome {
            Ok(()) => {
                output.succeeds();
                assert_eq!(output.file("rootfs/platform"), amd64);
            }
            Err(why) => {
                output.fails();
                assert!(output.messages().contains(why), "{}", output.messages());
            }
        }
    }
}
