//! Passwords of the registry: how long they last, and when they are renewed.

use std::sync::Mutex;

use crate::aws::{Aws, HOST, ID, ROLE, SECRET, aws, aws_with, is_ecr, login, open};
use crate::clouds::reply;
use crate::common::{Fault, Program, image, layer};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

#[test]
fn a_password_is_renewed_when_it_ends_and_when_it_is_refused() {
    let logins = Mutex::new(vec![
        login("second-password", 43_200),
        login("first-password", 1),
    ]);
    let aws = aws_with(
        "second-password",
        move |_| reply(200, logins.lock().unwrap().pop().unwrap()),
        |_| reply(502, ""),
    );
    // The registry takes only the second password: the first is refused, and renewed.
    let output = aws.keyed(json!({})).run();
    output.succeeds_with(aws.version());
    output.keeps_secret(["first-password", "second-password"]);
    assert!(output.messages().ends_with(
        "Amazon ECR: renewed the login with the access key of `source.aws_access_key_id` (…MPLE)\n"
    ));

    // A password that stays the same is not asked for again and again.
    let stubborn = aws_with(
        "right",
        |_| reply(200, login("wrong-password", -1)),
        |_| reply(502, ""),
    );
    let output = stubborn.keyed(json!({})).run();
    output.fails_ending_with(&format!(
        "check: {HOST}/team/app: look up 1: GET https://{HOST}/v2/team/app/manifests/1: 401 Unauthorized: \
         UNAUTHORIZED: authentication required; check what the repository's policy and this \
         identity's own (`ecr:…`) allow"
    ));
    assert_eq!(stubborn.services.lines().len(), 2);
}

/// A registry that takes `second-password`, and an ECR that gives these, one a login.
fn giving(passwords: &'static [&'static str]) -> Aws {
    let given = Mutex::new(passwords.iter());
    aws_with(
        "second-password",
        move |_| {
            let password = given.lock().unwrap().next().unwrap();
            reply(200, login(password, 43_200))
        },
        |_| reply(502, ""),
    )
}

fn basic(password: &str) -> String {
    format!(
        "Basic {}",
        BASE64_STANDARD.encode(format!("AWS:{password}"))
    )
}

#[test]
fn a_password_that_ends_in_the_middle_may_be_answered_403_and_is_renewed() {
    let expired = || {
        let text = "Your authorization token has expired. Reauthenticate and try again.";
        Fault::error(403, "DENIED", text)
    };
    let aws = giving(&["first-password", "second-password"]);
    aws.registry
        .on("*", "/v2/team/app/*")
        .with_header("authorization", &basic("first-password"))
        .then(expired());
    let output = aws.keyed(json!({})).run();
    output.succeeds_with(aws.version());
    assert_eq!(
        aws.registry.lines(),
        [
            "HEAD /v2/team/app/manifests/1 401",
            "HEAD /v2/team/app/manifests/1 403",
            "HEAD /v2/team/app/manifests/1 200",
        ]
    );

    // In the middle of an upload too; what is given then is refused in the usual way.
    let aws = giving(&["second-password", "third-password", "second-password"]);
    aws.registry
        .on("PATCH", "*")
        .with_header("authorization", &basic("second-password"))
        .then(expired());
    let put = aws.program(
        |mut request| {
            request["params"] = json!({"image": "image"});
            Program::put(request)
        },
        json!({"aws_access_key_id": ID, "aws_secret_access_key": SECRET, "tag": "2"}),
    );
    let image = image([layer().file("b", "c")]).oci();
    image.write_layout(&put.directory_argument().join("image"), None);
    put.env("REGISTRY_IMAGE_WORKERS", "1").run().succeeds();
    assert_eq!(aws.services.lines().len(), 3);
}

#[test]
fn a_403_that_a_new_password_does_not_change_is_a_refusal() {
    let aws = giving(&["first-password", "second-password"]);
    aws.registry
        .on("*", "/v2/*")
        .with_header("authorization", "*")
        .always()
        .then(Fault::error(403, "DENIED", "User is not authorized"));
    let output = aws.keyed(json!({})).run();
    output.fails_ending_with(&format!(
        "check: {HOST}/team/app: look up 1: GET https://{HOST}/v2/team/app/manifests/1: 403 \
         Forbidden: DENIED: User is not authorized; check what the repository's policy and this \
         identity's own (`ecr:…`) allow"
    ));
    assert_eq!(aws.services.lines().len(), 2);
}

#[test]
fn an_answer_that_is_no_login_is_refused() {
    for (body, why) in [
        ("[]", "with something else than a login"),
        ("{}", "without a login in it"),
        (r#"{"authorizationData":[]}"#, "without a login in it"),
        (
            r#"{"authorizationData":[{"authorizationToken":"!"}]}"#,
            "with a login that is no user and password",
        ),
        (
            r#"{"authorizationData":[{"authorizationToken":"QVdT"}]}"#,
            "with a login that is no user and password",
        ),
    ] {
        let aws = aws(move |_| reply(200, body));
        aws.keyed(json!({})).run().fails_with(&format!(
            "check: log in to Amazon ECR: ask ECR in eu-west-1 for a login with the access key of \
             `source.aws_access_key_id` (…MPLE): ECR answers {why}"
        ));
    }
    let aws = aws(|seen| match is_ecr(seen) {
        true => open(seen),
        false => reply(200, "<AssumeRoleResponse><AccessKeyId>x</AccessKeyId>"),
    });
    aws.keyed(json!({"aws_role_arn": ROLE}))
        .run()
        .fails_with(&format!(
            "check: log in to Amazon ECR: assume the role {ROLE} with the access key of \
         `source.aws_access_key_id` (…MPLE): STS answers without a `SecretAccessKey`"
        ));
}
