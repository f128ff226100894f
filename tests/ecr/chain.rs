//! Where credentials come from: the places, their order, and roles on the way.

use crate::aws::{ID, ROLE, SECRET, aws, open, whose};
use crate::clouds::{Seen, Server, reply};
use serde_json::json;

#[test]
fn places_are_asked_in_order_and_the_first_with_keys_is_used() {
    let metadata = Server::start(|seen| match seen.line().as_str() {
        "GET /container" => reply(
            200,
            json!({"AccessKeyId": "ASIACONTAINER0000000", "SecretAccessKey": "container-secret",
                   "Token": "container-token", "Expiration": "2050-01-01T00:00:00Z"})
            .to_string(),
        ),
        _ => reply(404, ""),
    });
    let aws = aws(open);
    let prepared = || {
        let program = aws.check(json!({}));
        let home = program.beside("home");
        std::fs::create_dir_all(home.join(".aws")).unwrap();
        std::fs::write(
            home.join(".aws/credentials"),
            "[default]\naws_access_key_id = AKIADEFAULTPROFILE00\naws_secret_access_key = p\n\
             [other]\naws_access_key_id = AKIAOTHERPROFILE0000\naws_secret_access_key = p\n",
        )
        .unwrap();
        let token = program.beside("web-token");
        std::fs::write(&token, "web.identity.token\n").unwrap();
        (program.env("HOME", home), token)
    };

    let (program, _) = prepared();
    let output = program.run();
    output.succeeds_with(aws.version());
    assert_eq!(
        whose(&output),
        "the access key of profile `default` (…LE00)"
    );

    let (program, _) = prepared();
    let output = program.env("AWS_PROFILE", "other").run();
    assert_eq!(whose(&output), "the access key of profile `other` (…0000)");

    let (program, _) = prepared();
    let full = format!("{}/container", metadata.url());
    let program = program.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &full);
    assert_eq!(whose(&program.run()), "the container's role");

    let (program, token) = prepared();
    let program = program
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &full)
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", &token)
        .env("AWS_ROLE_ARN", ROLE);
    assert_eq!(whose(&program.run()), format!("the role {ROLE}"));

    let (program, token) = prepared();
    let program = program
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", &token)
        .env("AWS_ROLE_ARN", ROLE)
        .env("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT00000")
        .env("AWS_SECRET_ACCESS_KEY", "e");
    assert_eq!(
        whose(&program.run()),
        "the access key of the environment's `AWS_ACCESS_KEY_ID` (…0000)"
    );

    assert_eq!(
        aws.signers(),
        [
            "AKIADEFAULTPROFILE00 ecr",
            "AKIAOTHERPROFILE0000 ecr",
            "ASIACONTAINER0000000 ecr",
            "nobody",
            "ASIASESSION300000000 ecr",
            "AKIAENVIRONMENT00000 ecr"
        ]
    );
}

#[test]
fn roles_are_assumed_one_with_the_other() {
    let aws = aws(open);
    let other = "arn:aws:iam::210987654321:role/path/other";
    let output = aws
        .keyed(json!({"aws_role_arns": [ROLE, other], "debug": true}))
        .run();
    output.succeeds_with(aws.version());
    output.keeps_secret(["session-secret", "session-token", SECRET]);
    assert_eq!(
        whose(&output),
        format!(
            "the role {other} (through the role {ROLE} (through the access key of \
             `source.aws_access_key_id` (…MPLE)))"
        )
    );
    assert_eq!(
        aws.signers(),
        [
            format!("{ID} sts"),
            "ASIASESSION300000000 sts".to_owned(),
            "ASIASESSION100000000 ecr".to_owned()
        ]
    );
    let seen = aws.services.seen();
    let fields = ["Action", "Version", "RoleArn", "RoleSessionName"];
    let form = |seen: &Seen| fields.map(|name| seen.field(name).unwrap_or_default());
    assert_eq!(
        form(&seen[0]),
        ["AssumeRole", "2011-06-15", ROLE, "registry-image"]
    );
    assert_eq!(
        seen[1].header("x-amz-security-token"),
        Some("session-token-3==")
    );
    assert_eq!(
        seen[2].header("x-amz-security-token"),
        Some("session-token-1==")
    );
}

#[test]
fn a_profile_may_lead_through_roles_and_sources() {
    let aws = aws(open);
    let run = |name: &str| {
        let program = aws.check(json!({}));
        let config = program.beside("config");
        let token = program.beside("web-token");
        std::fs::write(&token, "web.identity.token").unwrap();
        std::fs::write(
            &config,
            format!(
                "[profile base]\naws_access_key_id = AKIABASEPROFILE00000\naws_secret_access_key = b\n\
                 [profile middle]\nrole_arn = {ROLE}\nsource_profile = base\nexternal_id = ext=1\n\
                 role_session_name = my-session\nduration_seconds = 900\n\
                 [profile top]\nrole_arn = arn:aws:iam::1:role/tops\nsource_profile = middle\n\
                 [profile env]\nrole_arn = {ROLE}\ncredential_source = Environment\n\
                 [profile self]\nrole_arn = {ROLE}\nsource_profile = self\n\
                 aws_access_key_id = AKIASELFPROFILE00000\naws_secret_access_key = b\n\
                 [profile web]\nrole_arn = {ROLE}\nweb_identity_token_file = {token}\n\
                 [profile a]\nrole_arn = {ROLE}\nsource_profile = b\n\
                 [profile b]\nrole_arn = {ROLE}\nsource_profile = a\n\
                 [profile lost]\nrole_arn = {ROLE}\nsource_profile = nowhere\n\
                 [profile mfa]\nrole_arn = {ROLE}\nsource_profile = base\nmfa_serial = x\n\
                 [profile run]\ncredential_process = /bin/true\n\
                 [profile sso]\nsso_session = x\n\
                 [profile half]\naws_access_key_id = x\n\
                 [profile both]\nrole_arn = {ROLE}\nsource_profile = base\ncredential_source = Environment\n\
                 [profile odd]\nrole_arn = {ROLE}\ncredential_source = Moon\n\
                 [profile none]\nrole_arn = {ROLE}\n\
                 [profile empty]\nregion = x\n",
                token = token.display(),
            ),
        )
        .unwrap();
        program
            .env("AWS_CONFIG_FILE", config)
            .env("AWS_PROFILE", name)
            .run()
    };
    let output = run("top");
    output.succeeds_with(aws.version());
    assert_eq!(
        aws.signers(),
        [
            "AKIABASEPROFILE00000 sts",
            "ASIASESSION300000000 sts",
            "ASIASESSION400000000 ecr"
        ]
    );
    let seen = &aws.services.seen()[0];
    let field = |name| seen.field(name).unwrap();
    assert_eq!(field("ExternalId"), "ext=1");
    assert_eq!(field("RoleSessionName"), "my-session");
    assert_eq!(field("DurationSeconds"), "900");
    assert_eq!(whose(&run("self")), format!("the role {ROLE}"));
    assert_eq!(whose(&run("web")), format!("the role {ROLE}"));
    for (name, why) in [
        ("a", "`source_profile` leads round in a circle: a → b → a"),
        (
            "lost",
            "there is no profile `nowhere` (looked in `TMP/config`)",
        ),
        (
            "mfa",
            "profile `mfa` has `mfa_serial`, and nobody is here to type a code",
        ),
        (
            "run",
            "profile `run` has `credential_process`; no program is run here",
        ),
        (
            "sso",
            "profile `sso` logs in by IAM Identity Center (SSO), which needs a person and a browser",
        ),
        (
            "half",
            "profile `half` has `aws_access_key_id`, but `aws_secret_access_key` is missing",
        ),
        (
            "both",
            "profile `both` has both `source_profile` and `credential_source`; use one of them",
        ),
        (
            "odd",
            "profile `odd` has `credential_source = Moon`; it can be `Environment`, `Ec2InstanceMetadata` or `EcsContainer`",
        ),
        (
            "none",
            "profile `none` has `role_arn`, but neither `source_profile`, `credential_source` nor `web_identity_token_file`",
        ),
        ("empty", "profile `empty` has no keys and no role"),
        (
            "env",
            "profile `env` has `credential_source = Environment`, but `AWS_ACCESS_KEY_ID` is not set",
        ),
    ] {
        run(name).fails_with(&format!(
            "check: log in to Amazon ECR: AWS profile `{name}`: {why}"
        ));
    }
    run("nobody").fails_with(
        "check: log in to Amazon ECR: the environment's `AWS_PROFILE` is `nobody`, and there is no \
         such profile (looked in `TMP/config`)",
    );
}

#[test]
fn without_any_credentials_every_place_is_named() {
    let aws = aws(open);
    aws.check(json!({})).env("HOME", "/nowhere").run().fails_with(
        "check: log in to Amazon ECR: no keys in `source`, the environment or a profile (looked in \
         `/nowhere/.aws/config` and `/nowhere/.aws/credentials`), so the machine's: the EC2 \
         metadata service is not asked, as the environment's `AWS_EC2_METADATA_DISABLED` says; set \
         `source.aws_access_key_id` and `source.aws_secret_access_key`, or give this worker a role",
    );
}
