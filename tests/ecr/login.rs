//! The login of a registry: keys of the source, the account and region of its name, and what is asked where.

use crate::aws::{HOST, ID, PASSWORD, ROLE, SECRET, aws, login, open, small, whose};
use crate::clouds::{Server, reply};
use crate::common::{Authority, Fault, Program, Registry};
use serde_json::json;

#[test]
fn keys_of_the_source_log_in_and_the_repository_is_called_by_its_registry() {
    let aws = aws(open);
    let output = aws
        .keyed(json!({"debug": true, "aws_session_token": "source-session-token"}))
        .run();
    output.succeeds_with(aws.version());
    output.keeps_secret([SECRET, PASSWORD, ID, "source-session-token"]);
    assert_eq!(
        whose(&output),
        "the access key of `source.aws_access_key_id` (…MPLE)"
    );
    let seen = aws.services.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        seen[0].header("x-amz-security-token"),
        Some("source-session-token")
    );
    let put = aws
        .program(
            |mut request| {
                request["params"] = json!({"image": "image.tar"});
                Program::put(request)
            },
            json!({"tag": "2", "aws_access_key_id": ID, "aws_secret_access_key": SECRET}),
        )
        .source_file("image.tar", small().docker_save(&["x:1"]))
        .run();
    let answer = put.succeeds();
    assert_eq!(
        answer["metadata"][0],
        json!({"name": "repository", "value": format!("{HOST}/team/app")})
    );
    let get = aws
        .program(
            |mut request| {
                request["version"] = answer["version"].clone();
                Program::get(request)
            },
            json!({"tag": "2", "aws_access_key_id": ID, "aws_secret_access_key": SECRET}),
        )
        .run();
    assert_eq!(
        get.succeeds()["metadata"][0],
        json!({"name": "repository", "value": format!("{HOST}/team/app")})
    );
    assert_eq!(get.file("repository"), format!("{HOST}/team/app"));
    assert_eq!(get.file("rootfs/a"), "b");
}

#[test]
fn a_repository_may_be_written_with_its_registry_and_a_dotted_name_is_a_name() {
    let aws = aws(open);
    aws.registry.put_image("my.team/app", "1", &small());
    for (repository, path) in [
        (format!("{HOST}/team/app"), "/v2/team/app/"),
        ("my.team/app".to_owned(), "/v2/my.team/app/"),
    ] {
        aws.registry.forget_requests();
        aws.keyed(json!({"repository": repository}))
            .run()
            .succeeds_with(aws.version());
        assert!(aws.registry.requests()[0].head.path.starts_with(path));
    }
    aws.keyed(json!({"aws_account_id": "123456789012", "aws_ecr_registry_id": "1"}))
        .run()
        .succeeds_with(aws.version())
        .says(&format!(
            "warning: `source.aws_ecr_registry_id` is no longer needed; the repository names its \
             registry\nAmazon ECR: logged in to {HOST} with the access key of \
             `source.aws_access_key_id` (…MPLE)"
        ));
}

#[test]
fn a_mirror_of_docker_hub_is_not_asked_for_a_bare_name_in_ecr() {
    let aws = aws(open);
    aws.keyed(json!({"registry_mirror": {"host": "mirror.example.com"}}))
        .run()
        .succeeds_with(aws.version());
}

#[test]
fn the_account_names_the_registry_in_its_partition() {
    let aws = aws(open);
    let output = aws
        .keyed(json!({"aws_region": "cn-north-1", "aws_account_id": "210987654321"}))
        .run();
    output.fails();
    let tunnels = aws.proxy.lines();
    assert_eq!(
        tunnels[0],
        "CONNECT 210987654321.dkr.ecr.cn-north-1.amazonaws.com.cn:443"
    );
}

#[test]
fn without_an_endpoint_the_regions_own_hosts_are_asked() {
    let aws = aws(open);
    let output = aws
        .keyed(json!({"aws_role_arn": ROLE}))
        .env("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
        .run();
    output.fails_with(
        &format!(
            "check: log in to Amazon ECR: assume the role {ROLE} with the access key of \
         `source.aws_access_key_id` (…MPLE): POST https://sts.eu-west-1.amazonaws.com/: proxy \
         PROXY: it refuses to connect to sts.eu-west-1.amazonaws.com:443 (status 403)",
        )
        .replace("PROXY", &aws.proxy.url()),
    );
    aws.keyed(json!({}))
        .env("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
        .run()
        .fails();
    assert_eq!(
        aws.proxy.lines(),
        [
            "CONNECT sts.eu-west-1.amazonaws.com:443",
            "CONNECT api.ecr.eu-west-1.amazonaws.com:443"
        ]
    );
}

#[test]
fn mistakes_in_the_request_and_the_environment_are_found_before_any_connection() {
    let aws = aws(open);
    for (fields, why) in [
        (
            json!({"aws_region": "europe"}),
            "`source.aws_region` is `europe`, which is not a region; a region is like `eu-west-1`",
        ),
        (
            json!({"aws_region": "eu-west-1a"}),
            "`source.aws_region` is `eu-west-1a`, which is an availability zone; its region is `eu-west-1`",
        ),
        (
            json!({"aws_account_id": "12345"}),
            "`source.aws_account_id` is `12345`; an account has 12 digits",
        ),
        (
            json!({"aws_role_arn": "ci"}),
            "the role in `source` is `ci`, which is not a role; a role is like `arn:aws:iam::123456789012:role/NAME`",
        ),
        (
            json!({"aws_role_arns": [ROLE, "arn:aws:iam::1:user/x"]}),
            "`source.aws_role_arns[1]` is `arn:aws:iam::1:user/x`, which is not a role; a role is like `arn:aws:iam::123456789012:role/NAME`",
        ),
        (
            json!({"repository": "123456789012.dkr.ecr.us-east-1.amazonaws.com/team/app"}),
            "`source.repository` is in `us-east-1`, and `source.aws_region` is `eu-west-1`",
        ),
        (
            json!({"repository": format!("{HOST}/team/app"), "aws_account_id": "210987654321"}),
            "`source.repository` is in account `123456789012`, and `source.aws_account_id` is `210987654321`",
        ),
        (
            json!({"aws_access_key_id": "AKIA X"}),
            "log in to Amazon ECR: `source.aws_access_key_id`: a key has a space or another character that no key has",
        ),
    ] {
        aws.keyed(fields).run().fails_with(&format!("check: {why}"));
    }
    for (variables, why) in [
        (
            &[("AWS_ACCESS_KEY_ID", "x")][..],
            "the environment's `AWS_ACCESS_KEY_ID` is set, but `AWS_SECRET_ACCESS_KEY` is missing",
        ),
        (
            &[("AWS_SECRET_ACCESS_KEY", "x")],
            "the environment's `AWS_SECRET_ACCESS_KEY` is set, but `AWS_ACCESS_KEY_ID` is missing",
        ),
        (
            &[("AWS_WEB_IDENTITY_TOKEN_FILE", "/x")],
            "the environment's `AWS_WEB_IDENTITY_TOKEN_FILE` is set, but `AWS_ROLE_ARN` is missing",
        ),
        (
            &[
                ("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/t"),
                ("AWS_ROLE_ARN", ROLE),
            ],
            "the environment's `AWS_WEB_IDENTITY_TOKEN_FILE`: read `/nowhere/t`: no such file or directory",
        ),
        (
            &[
                ("AWS_WEB_IDENTITY_TOKEN_FILE", "/dev/zero"),
                ("AWS_ROLE_ARN", ROLE),
            ],
            "the environment's `AWS_WEB_IDENTITY_TOKEN_FILE`: read `/dev/zero`: it is longer than 65536 bytes",
        ),
        (
            &[
                ("AWS_WEB_IDENTITY_TOKEN_FILE", "/dev/null"),
                ("AWS_ROLE_ARN", ROLE),
            ],
            "the environment's `AWS_WEB_IDENTITY_TOKEN_FILE`: `/dev/null` does not hold a token",
        ),
    ] {
        let mut program = aws.check(json!({}));
        for (name, value) in variables {
            program = program.env(name, value);
        }
        program
            .run()
            .fails_with(&format!("check: log in to Amazon ECR: {why}"));
    }
    assert!(aws.services.lines().is_empty());
}

#[test]
fn the_bundle_of_the_environment_is_trusted() {
    let authority = Authority::new("bundle CA");
    let services = Registry::setup()
        .name("api.ecr.eu-west-1.amazonaws.com")
        .tls(
            authority
                .identity(&["api.ecr.eu-west-1.amazonaws.com"])
                .server(),
        )
        .start();
    services.on("POST", "/").then(Fault::Answer(
        crate::common::answer(200).body(login(PASSWORD, 43_200)),
    ));
    let aws = aws(open);
    let proxy = Server::with_tunnels(
        &[
            ("api.ecr.eu-west-1.amazonaws.com:443", services.address()),
            (&format!("{HOST}:443"), aws.registry.address()),
        ],
        |_| reply(502, ""),
    );
    let run = |bundle: Option<&str>| {
        let program = aws.keyed(json!({}));
        let path = program.beside("bundle.pem");
        std::fs::write(&path, authority.pem()).unwrap();
        let program = program
            .env("AWS_ENDPOINT_URL", "")
            .env("https_proxy", proxy.url());
        match bundle {
            None => program.run(),
            Some("") => program.env("AWS_CA_BUNDLE", path).run(),
            Some(other) => program.env("AWS_CA_BUNDLE", other).run(),
        }
    };
    run(None).fails();
    run(Some("")).succeeds_with(aws.version());
    run(Some("/nowhere/bundle.pem")).fails_with(
        "check: the environment's `AWS_CA_BUNDLE`: read `/nowhere/bundle.pem`: no such file or directory",
    );
}
