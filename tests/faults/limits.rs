//! Registries that limit us: how long they are left in peace, and what is said of it.

use crate::common::{Fault, Registry, answer, image, layer};
use crate::help::{check, count, get, put, serving, small, told};
use serde_json::json;

#[test]
fn a_quota_that_is_used_up_is_nothing_that_a_login_changes() {
    let image = small();
    let registry = serving(&image);
    let said = "adding 1.2 GiB of storage resource will exceed the configured upper limit";
    registry
        .on("POST", "/v2/t/b/blobs/uploads/")
        .always()
        .then(Fault::error(403, "DENIED", said));
    let repository = json!({"repository": registry.repository("t/b")});
    let output = put(&registry, &image, repository).run();
    output.fails();
    let last = told(&output).pop().unwrap();
    assert!(
        last.ends_with(&format!("403 Forbidden: DENIED: {said}")),
        "{last}"
    );
    // The name of a repository is no quota, and reading takes no room.
    for (method, path, said) in [
        (
            "POST",
            "/v2/t/quota/blobs/uploads/",
            "access to t/quota is denied",
        ),
        (
            "GET",
            "/v2/t/quota/manifests/*",
            "your quota of pulls is used up",
        ),
    ] {
        let registry = serving(&image);
        registry
            .on(method, path)
            .always()
            .then(Fault::error(403, "DENIED", said));
        let repository = json!({"repository": registry.repository("t/quota")});
        let output = match method {
            "GET" => get(&registry, &image, repository).run(),
            _ => put(&registry, &image, repository).run(),
        };
        output.fails();
        let last = told(&output).pop().unwrap();
        let advice = "; set `source.username` and `source.password`";
        assert!(last.ends_with(&format!("{said}{advice}")), "{last}");
    }
}

#[test]
fn a_registry_that_limits_us_is_left_in_peace_by_every_worker() {
    let tags: Vec<String> = (0..200).map(|n| format!("1.{n}.0")).collect();
    let registry = Registry::start();
    for tag in &tags {
        let image = image([layer().file("tag", tag)]).oci();
        registry.put_image("t/a", tag, &image);
    }
    registry.on("HEAD", "*").nth(5).then(Fault::too_many(2));
    let output = check(&registry, json!({"tag_regex": "."}))
        .real_clock()
        .run();
    assert_eq!(output.succeeds().as_array().unwrap().len(), 200);
    let requests = registry.requests();
    let limited = requests
        .iter()
        .find(|request| request.outcome == "429")
        .unwrap()
        .at;
    // Those that were on their way, one a worker, are the only ones that come before the gate opens.
    let early = requests.iter().filter(|request| {
        let after = request.at.saturating_duration_since(limited).as_secs_f64();
        (0.0..1.9).contains(&after)
    });
    let early = early.count();
    assert!(early < 60, "{early}");
}

#[test]
fn a_wait_that_is_too_long_ends_the_step_and_says_what_the_limit_is() {
    let image = small();
    let path = format!("/v2/t/a/manifests/{}", image.digest);
    let registry = serving(&image);
    let limited = answer(429)
        .retry_after(21600)
        .with("ratelimit-limit", "100;w=21600")
        .with("ratelimit-remaining", "0;w=21600")
        .error("TOOMANYREQUESTS", "You have reached your pull rate limit");
    registry.on("GET", &path).then(Fault::Answer(limited));
    let output = get(&registry, &image, json!({})).run();
    output.fails_with(&format!(
        "get: REGISTRY/t/a: fetch manifest {}: GET http://REGISTRY{path}: 429 Too Many Requests: \
         TOOMANYREQUESTS: You have reached your pull rate limit (ratelimit-limit: 100;w=21600, \
         ratelimit-remaining: 0;w=21600) (tried once; the server asks to wait 21600.0 s)",
        image.digest
    ));
}

#[test]
fn a_server_that_says_zero_is_not_asked_in_a_tight_loop() {
    let image = small();
    let path = format!("/v2/t/a/manifests/{}", image.digest);
    let registry = serving(&image);
    registry.on("GET", &path).always().then(Fault::too_many(0));
    get(&registry, &image, json!({})).run().fails();
    let tries = count(&registry, "GET", &path);
    assert!((10..100).contains(&tries), "{tries}");
}
