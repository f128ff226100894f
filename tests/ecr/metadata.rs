//! The metadata services of instances and containers.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::aws::{PASSWORD, ROLE, aws, aws_with, instance, open, whose};
use crate::clouds::{Reply, Seen, Server, reply};
use crate::common::Program;
use serde_json::json;

#[test]
fn an_instances_role_is_asked_for_with_a_session() {
    let aws = aws(open);
    let metadata = Server::start(instance);
    let run = |program: Program| {
        program
            .env("AWS_EC2_METADATA_DISABLED", "false")
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url() + "/")
            .run()
    };
    let output = run(aws.check(json!({"debug": true})));
    output.succeeds_with(aws.version());
    output.keeps_secret([
        "instance-secret",
        "instance-token",
        "imds-session",
        PASSWORD,
    ]);
    assert_eq!(whose(&output), "the instance's role `ci role`");
    assert_eq!(
        metadata.lines(),
        [
            "PUT /latest/api/token",
            "GET /latest/meta-data/iam/security-credentials/",
            "GET /latest/meta-data/iam/security-credentials/ci%20role"
        ]
    );
    let program = aws.check(json!({}));
    let config = program.beside("config");
    std::fs::write(
        &config,
        format!("[default]\nrole_arn = {ROLE}\ncredential_source = Ec2InstanceMetadata\n"),
    )
    .unwrap();
    let output = run(program.env("AWS_CONFIG_FILE", config));
    assert_eq!(whose(&output), format!("the role {ROLE}"));
    assert_eq!(aws.signers()[1], "ASIAINSTANCE00000000 sts");
}

#[test]
fn a_metadata_service_that_is_busy_is_asked_again_and_one_without_a_role_is_not() {
    let aws = aws(open);
    let answers = Mutex::new(vec![503, 500]);
    let metadata = Server::start(move |seen| match answers.lock().unwrap().pop() {
        Some(status) => reply(status, ""),
        None => instance(seen),
    });
    let program = |metadata: &Server| {
        aws.check(json!({}))
            .env("AWS_EC2_METADATA_DISABLED", "")
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url())
    };
    program(&metadata).run().succeeds_with(aws.version());
    assert_eq!(metadata.lines().len(), 5);

    let roleless = Server::start(|seen| match seen.method.as_str() {
        "PUT" => reply(200, "imds-session"),
        _ => reply(404, ""),
    });
    let start = "check: log in to Amazon ECR: no keys in `source`, the environment or a profile \
                 (looked in no files, as neither `HOME` nor `AWS_CONFIG_FILE` is set), so the \
                 machine's:";
    program(&roleless).run().fails_ending_with(&format!(
        "{start} EC2 instance metadata: GET \
         {}/latest/meta-data/iam/security-credentials/: 404 Not Found; give the instance a role \
         (an instance profile)",
        roleless.url()
    ));
    assert_eq!(roleless.lines().len(), 2);

    let broken = Server::start(|seen| match instance(seen) {
        Reply::Answer { body, .. } if body.contains("Success") => reply(
            200,
            r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"EC2 cannot assume the role"}"#,
        ),
        other => other,
    });
    program(&broken).run().fails_ending_with(&format!(
        "{start} EC2 instance metadata: the instance's role `ci role`: \
         AssumeRoleUnauthorizedAccess: EC2 cannot assume the role; set \
         `source.aws_access_key_id` and `source.aws_secret_access_key`, or give this worker a role",
    ));
}

#[test]
fn a_metadata_service_that_does_not_answer_is_given_up_in_two_seconds() {
    let aws = aws_with(PASSWORD, open, |_| Reply::Silence);
    let started = Instant::now();
    let output = aws
        .check(json!({}))
        .env("AWS_EC2_METADATA_DISABLED", "")
        .real_clock()
        .run();
    output.fails_with(
        "check: log in to Amazon ECR: no keys in `source`, the environment or a profile (looked in \
         no files, as neither `HOME` nor `AWS_CONFIG_FILE` is set), so the machine's: EC2 instance \
         metadata: PUT http://169.254.169.254/latest/api/token: no answer within 2 s (tried once); \
         on EC2, a container needs a metadata hop limit of 2 (`http-put-response-hop-limit`); \
         elsewhere set `source.aws_access_key_id` and `source.aws_secret_access_key`",
    );
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_metadata_service_that_does_not_end_its_answer_is_given_up_in_seconds() {
    let aws = aws_with(PASSWORD, open, |_| Reply::Unfinished);
    let started = Instant::now();
    let output = aws
        .check(json!({}))
        .env("AWS_EC2_METADATA_DISABLED", "")
        .real_clock()
        .run();
    output.fails();
    assert!(
        output.messages().contains("the answer did not end in time"),
        "{}",
        output.messages()
    );
    assert!(started.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_proxy_that_cannot_reach_the_metadata_service_is_named() {
    let aws = aws_with(PASSWORD, open, |_| reply(504, ""));
    let output = aws
        .check(json!({}))
        .env("AWS_EC2_METADATA_DISABLED", "")
        .run();
    output.fails();
    let messages = output.messages();
    let last = messages.lines().last().unwrap();
    assert!(
        last.contains("PUT http://169.254.169.254/latest/api/token: 504 Gateway Timeout (")
            && last.ends_with("); add `169.254.169.254` to `no_proxy`"),
        "{last}"
    );
}

#[test]
fn a_containers_role_is_asked_for_with_its_token() {
    let answer = |seen: &Seen| match seen.header("authorization") {
        Some("Basic container-auth" | "file-auth") => reply(
            200,
            json!({"AccessKeyId": "ASIACONTAINER0000000", "SecretAccessKey": "container-secret",
                   "Token": "container-token"})
            .to_string(),
        ),
        _ => reply(403, r#"{"code":"AccessDenied","message":"who are you"}"#),
    };
    let aws = aws_with(PASSWORD, open, answer);
    const TEXT: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN";
    const FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
    const RELATIVE: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
    const FULL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";

    let output = aws
        .check(json!({"debug": true}))
        .env(RELATIVE, "/v2/credentials/uuid")
        .env(TEXT, "Basic container-auth")
        .run();
    output.succeeds_with(aws.version());
    output.keeps_secret(["container-auth", "container-secret", "container-token"]);
    assert_eq!(whose(&output), "the container's role");
    assert_eq!(
        aws.proxy.lines()[0],
        "GET http://169.254.170.2/v2/credentials/uuid"
    );

    let program = aws.check(json!({}));
    let file = program.beside("token");
    std::fs::write(&file, "file-auth\n").unwrap();
    program
        .env(FULL, "http://169.254.170.23/v1/credentials")
        .env(FILE, file)
        .env(TEXT, "Basic ignored")
        .run()
        .succeeds_with(aws.version());

    let step = "check: log in to Amazon ECR: container credentials:";
    aws.check(json!({}))
        .env(RELATIVE, "/x")
        .run()
        .fails_with(&format!(
            "{step} GET http://169.254.170.2/x: 403 Forbidden: who are you"
        ));
    for (variable, value, why) in [
        (
            FULL,
            "http://evil.example/x",
            "the environment's `AWS_CONTAINER_CREDENTIALS_FULL_URI`: http://evil.example is plain \
             HTTP to a host that is neither this machine nor ECS or EKS",
        ),
        (
            FULL,
            "169.254.170.2",
            "the environment's `AWS_CONTAINER_CREDENTIALS_FULL_URI`: `169.254.170.2` is not a URL: \
             it has no scheme",
        ),
        (
            RELATIVE,
            "@evil.example/x",
            "the environment's `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`: it is `@evil.example/x`, \
             not a path",
        ),
    ] {
        aws.check(json!({}))
            .env(variable, value)
            .run()
            .fails_with(&format!("check: log in to Amazon ECR: {why}"));
    }
    aws.check(json!({}))
        .env(RELATIVE, "/x")
        .env(TEXT, "a\r\nHost: evil")
        .run()
        .fails_with(
            "check: log in to Amazon ECR: the environment's `AWS_CONTAINER_AUTHORIZATION_TOKEN` \
             has a character that no token has",
        );
    aws.check(json!({}))
        .env(RELATIVE, "/x")
        .env(FILE, "/nowhere/token")
        .run()
        .fails_with(
            "check: log in to Amazon ECR: the environment's \
             `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE`: read `/nowhere/token`: no such file or \
             directory",
        );
}
