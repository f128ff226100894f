//! Amazon ECR against scripted services: where credentials come from, what is sent to whom, and
//! every refusal's whole line. The signatures themselves are checked in `real_ecr.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

mod clouds;
mod common;

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clouds::{Reply, Seen, Server, reply};
use common::{Authority, Fault, Output, Program, Registry, image, layer};
use serde_json::{Value, json};

const HOST: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
const ID: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const PASSWORD: &str = "ecr-password-0123456789";
const ROLE: &str = "arn:aws:iam::123456789012:role/ci";

/// AWS, and a registry of ECR behind a proxy.
struct Aws {
    registry: Registry,
    services: Server,
    proxy: Server,
    ca: String,
    digest: String,
}

/// What ECR gives: a password, good for so many seconds.
fn login(password: &str, seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let ends = now.as_secs() as i64 + seconds;
    json!({"authorizationData": [{
        "authorizationToken": BASE64_STANDARD.encode(format!("AWS:{password}")),
        "expiresAt": ends as f64 + 0.25,
        "proxyEndpoint": format!("https://{HOST}"),
    }]})
    .to_string()
}

/// What STS gives for the n-th role.
fn session(n: usize) -> String {
    format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
         <AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/x</Arn></AssumedRoleUser><Credentials>\
         <AccessKeyId>ASIASESSION{n}00000000</AccessKeyId><SecretAccessKey>session-secret-{n}\
         </SecretAccessKey><SessionToken>session-token-{n}==</SessionToken>\
         <Expiration>2050-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult>\
         </AssumeRoleResponse>"
    )
}

fn is_ecr(seen: &Seen) -> bool {
    seen.header("x-amz-target")
        == Some("AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken")
        && seen.header("content-type") == Some("application/x-amz-json-1.1")
        && seen.body == "{}"
}

/// Services that let everybody in.
fn open(seen: &Seen) -> Reply {
    match (is_ecr(seen), seen.field("RoleArn")) {
        (true, _) => reply(200, login(PASSWORD, 43_200)),
        (false, Some(arn)) => reply(200, session(arn.len() % 10)),
        (false, None) => reply(404, ""),
    }
}

fn aws(services: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Aws {
    aws_with(PASSWORD, services, |_| reply(502, ""))
}

fn aws_with(
    password: &str,
    services: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    metadata: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
) -> Aws {
    let authority = Authority::new("aws CA");
    let registry = Registry::setup()
        .basic("AWS", password)
        .name(HOST)
        .relative_locations()
        .tls(authority.identity(&[HOST]).server())
        .start();
    let digest = registry.put_image("team/app", "1", &small());
    let proxy = Server::with_tunnels(&[(&format!("{HOST}:443"), registry.address())], metadata);
    Aws {
        registry,
        services: Server::start(services),
        proxy,
        ca: authority.pem(),
        digest,
    }
}

fn small() -> common::Image {
    image([layer().file("a", "b")]).oci()
}

impl Aws {
    fn program(&self, make: impl Fn(Value) -> Program, fields: Value) -> Program {
        let mut source = json!({
            "repository": "team/app",
            "tag": "1",
            "aws_region": "eu-west-1",
            "ca_certs": [self.ca],
        });
        for (name, value) in fields.as_object().unwrap() {
            source[name] = value.clone();
        }
        make(json!({"source": source}))
            .env("http_proxy", self.proxy.url())
            .env("https_proxy", self.proxy.url())
            .env("AWS_ENDPOINT_URL", self.services.url())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .against(&self.registry)
            .showing(&format!(" through the proxy {}", self.proxy.url()), "")
    }

    fn check(&self, fields: Value) -> Program {
        self.program(Program::check, fields)
    }

    /// With keys in the source.
    fn keyed(&self, fields: Value) -> Program {
        let mut all = json!({"aws_access_key_id": ID, "aws_secret_access_key": SECRET});
        for (name, value) in fields.as_object().unwrap() {
            all[name] = value.clone();
        }
        self.check(all)
    }

    fn version(&self) -> Value {
        json!([{"tag": "1", "digest": self.digest}])
    }

    /// The key ids that signed, in order, each with the service it signed for.
    fn signers(&self) -> Vec<String> {
        let seen = self.services.seen();
        let signer = |seen: &Seen| {
            let Some(value) = seen.header("authorization") else {
                return "nobody".to_owned();
            };
            let credential = value.split("Credential=").nth(1).unwrap();
            let mut parts = credential.split('/');
            let id = parts.next().unwrap();
            format!("{id} {}", parts.nth(2).unwrap())
        };
        seen.iter().map(signer).collect()
    }
}

/// `logged in … with WHOSE` of the log.
fn whose(output: &Output) -> String {
    let messages = output.messages();
    let line = messages
        .lines()
        .find_map(|line| line.strip_prefix(&format!("Amazon ECR: logged in to {HOST} with ")));
    line.unwrap_or_else(|| panic!("nobody logged in:\n{messages}"))
        .to_owned()
}

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

/// An instance metadata service that wants its session token.
fn instance(seen: &Seen) -> Reply {
    const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
    let known = seen.header("x-aws-ec2-metadata-token") == Some("imds-session");
    match (seen.method.as_str(), seen.target.as_str()) {
        ("PUT", "/latest/api/token")
            if seen.header("x-aws-ec2-metadata-token-ttl-seconds") == Some("21600") =>
        {
            reply(200, "imds-session")
        }
        ("PUT", _) => reply(400, ""),
        _ if !known => reply(401, ""),
        ("GET", ROLES) => reply(200, "ci role\n"),
        ("GET", target) if target == format!("{ROLES}ci%20role") => reply(
            200,
            json!({"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIAINSTANCE00000000",
                   "SecretAccessKey": "instance-secret", "Token": "instance-token"})
            .to_string(),
        ),
        _ => reply(404, ""),
    }
}

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
    assert!(started.elapsed() < Duration::from_secs(4));
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
fn without_any_credentials_every_place_is_named() {
    let aws = aws(open);
    aws.check(json!({})).env("HOME", "/nowhere").run().fails_with(
        "check: log in to Amazon ECR: no keys in `source`, the environment or a profile (looked in \
         `/nowhere/.aws/config` and `/nowhere/.aws/credentials`), so the machine's: the EC2 \
         metadata service is not asked, as the environment's `AWS_EC2_METADATA_DISABLED` says; set \
         `source.aws_access_key_id` and `source.aws_secret_access_key`, or give this worker a role",
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

#[test]
fn refusals_name_the_step_the_identity_the_code_and_what_to_try() {
    let key = "the access key of `source.aws_access_key_id` (…MPLE)";
    let ecr = format!("ask ECR in eu-west-1 for a login with {key}");
    let role = format!("assume the role {ROLE} with {key}");
    type Case<'a> = (&'a str, u16, &'a str, &'a str, &'a str);
    let cases: [Case<'_>; 9] = [
        (
            "ecr",
            400,
            r#"{"__type":"AccessDeniedException","Message":"User x is not authorized"}"#,
            "AccessDeniedException: User x is not authorized",
            "allow this identity `ecr:GetAuthorizationToken`",
        ),
        (
            "ecr",
            400,
            r#"{"__type":"com.amazonaws#ExpiredTokenException","message":"The token is expired"}"#,
            "ExpiredTokenException: The token is expired",
            "the session of IDENTITY is over; renew it",
        ),
        (
            "ecr",
            400,
            r#"{"__type":"UnrecognizedClientException","message":"The token is invalid."}"#,
            "UnrecognizedClientException: The token is invalid.",
            "check the key id; a temporary key (ASIA…) needs its session token as well",
        ),
        (
            "ecr",
            400,
            r#"{"__type":"InvalidSignatureException","message":"It differs.\n\nThe Canonical String for this request should have been 'x-amz-security-token:SECRETS"}"#,
            "InvalidSignatureException: It differs.",
            "check the secret access key",
        ),
        ("ecr", 403, "<html>go away</html>", "", ""),
        (
            "ecr",
            418,
            r#"{"__type":"Odd","message":"your secret is wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}"#,
            "Odd: your secret is …",
            "",
        ),
        (
            "sts",
            403,
            "<ErrorResponse><Error><Code>AccessDenied</Code><Message>User: arn:x is not authorized \
             to perform: sts:AssumeRole</Message></Error></ErrorResponse>",
            "AccessDenied: User: arn:x is not authorized to perform: sts:AssumeRole",
            "the role's trust policy must name this identity, and the identity must be allowed \
             `sts:AssumeRole` on the role",
        ),
        (
            "sts",
            403,
            "<E><Code>RegionDisabledException</Code><Message>not active</Message></E>",
            "RegionDisabledException: not active",
            "switch STS on for this region in the account's settings",
        ),
        (
            "sts",
            403,
            "<E><Code>InvalidClientTokenId</Code><Message>unknown</Message></E>",
            "InvalidClientTokenId: unknown",
            "check the key id; a temporary key (ASIA…) needs its session token as well",
        ),
    ];
    for (service, status, body, said, advice) in cases {
        let fails_at_sts = service == "sts";
        let body = body.to_owned();
        let aws = aws(move |seen| match is_ecr(seen) == fails_at_sts {
            true => open(seen),
            false => reply(status, body.as_str()),
        });
        let fields = match fails_at_sts {
            true => json!({"aws_role_arn": ROLE}),
            false => json!({}),
        };
        let reason = match status {
            400 => "400 Bad Request",
            418 => "418 I'm a teapot",
            _ => "403 Forbidden",
        };
        let step = if fails_at_sts { &role } else { &ecr };
        let mut expect = format!(
            "check: log in to Amazon ECR: {step}: POST {}/: {reason}",
            aws.services.url()
        );
        if !said.is_empty() {
            expect += &format!(": {said}");
        }
        if !advice.is_empty() {
            expect += &format!("; {}", advice.replace("IDENTITY", key));
        }
        let output = aws.keyed(fields).run();
        output.fails_with(&expect);
        output.keeps_secret([SECRET, "SECRETS"]);
        assert_eq!(aws.services.lines().len(), 1, "{said} is not tried again");
    }
}

#[test]
fn throttling_is_waited_for_whatever_its_status() {
    let answers = Mutex::new(vec![
        (503, "<E><Code>ServiceUnavailable</Code></E>"),
        (500, ""),
        (400, r#"{"__type":"RequestTimeout"}"#),
        (
            400,
            r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#,
        ),
        (429, ""),
    ]);
    let aws = aws(move |seen| match answers.lock().unwrap().pop() {
        Some((status, body)) => reply(status, body),
        None => open(seen),
    });
    aws.keyed(json!({})).run().succeeds_with(aws.version());
    assert_eq!(aws.services.lines().len(), 6);

    let throttled = aws_throttled();
    let output = throttled.keyed(json!({})).run();
    output.fails();
    let messages = output.messages();
    let last = messages.lines().last().unwrap();
    assert!(
        last.contains(": 400 Bad Request: ThrottlingException: Rate exceeded (")
            && last.ends_with(" tries without progress)"),
        "{last}"
    );
}

fn aws_throttled() -> Aws {
    aws(|_| {
        reply(
            400,
            r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#,
        )
    })
}

#[test]
fn a_clock_that_is_wrong_is_said_to_be() {
    let date =
        |seconds: u64| httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(seconds));
    for (code, ago, why) in [
        (
            "SignatureDoesNotMatch",
            3630,
            " (this worker's clock is 60 minutes ahead of AWS's, which takes 5); set this worker's clock",
        ),
        ("RequestTimeTooSkewed", 0, "; set this worker's clock"),
        ("SignatureDoesNotMatch", 0, "; check the secret access key"),
    ] {
        let aws = aws(move |_| {
            reply(
                403,
                format!("<E><Code>{code}</Code><Message>no</Message></E>"),
            )
            .with("Date", date(ago))
        });
        aws.keyed(json!({})).run().fails_with(&format!(
            "check: log in to Amazon ECR: ask ECR in eu-west-1 for a login with the access key of \
             `source.aws_access_key_id` (…MPLE): POST {}/: 403 Forbidden: {code}: no{why}",
            aws.services.url()
        ));
    }
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
        common::answer(200).body(login(PASSWORD, 43_200)),
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
