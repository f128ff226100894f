//! AWS as these tests see it: services that answer from a script, and a registry of ECR behind a proxy.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::clouds::{Reply, Seen, Server, reply};
use crate::common::{Authority, Output, Program, Registry, image, layer, merge};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

pub const HOST: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";
pub const ID: &str = "AKIAIOSFODNN7EXAMPLE";
pub const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
pub const PASSWORD: &str = "ecr-password-0123456789";
pub const ROLE: &str = "arn:aws:iam::123456789012:role/ci";

/// AWS, and a registry of ECR behind a proxy.
pub struct Aws {
    pub registry: Registry,
    pub services: Server,
    pub proxy: Server,
    pub ca: String,
    pub digest: String,
}

/// What ECR gives: a password, good for so many seconds.
pub fn login(password: &str, seconds: i64) -> String {
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
pub fn session(n: usize) -> String {
    format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
         <AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/x</Arn></AssumedRoleUser><Credentials>\
         <AccessKeyId>ASIASESSION{n}00000000</AccessKeyId><SecretAccessKey>session-secret-{n}\
         </SecretAccessKey><SessionToken>session-token-{n}==</SessionToken>\
         <Expiration>2050-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult>\
         </AssumeRoleResponse>"
    )
}

pub fn is_ecr(seen: &Seen) -> bool {
    seen.header("x-amz-target")
        == Some("AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken")
        && seen.header("content-type") == Some("application/x-amz-json-1.1")
        && seen.body == "{}"
}

/// Services that let everybody in.
pub fn open(seen: &Seen) -> Reply {
    match (is_ecr(seen), seen.field("RoleArn")) {
        (true, _) => reply(200, login(PASSWORD, 43_200)),
        (false, Some(arn)) => reply(200, session(arn.len() % 10)),
        (false, None) => reply(404, ""),
    }
}

pub fn aws(services: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Aws {
    aws_with(PASSWORD, services, |_| reply(502, ""))
}

pub fn aws_with(
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

pub fn small() -> crate::common::Image {
    image([layer().file("a", "b")]).oci()
}

impl Aws {
    pub fn program(&self, make: impl Fn(Value) -> Program, fields: Value) -> Program {
        let source = json!({
            "repository": "team/app",
            "tag": "1",
            "aws_region": "eu-west-1",
            "ca_certs": [self.ca],
        });
        self.proxy
            .program(make, merge(source, fields))
            .env("AWS_ENDPOINT_URL", self.services.url())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .against(&self.registry)
            .showing(&format!(" through the proxy {}", self.proxy.url()), "")
    }

    pub fn check(&self, fields: Value) -> Program {
        self.program(Program::check, fields)
    }

    /// With keys in the source.
    pub fn keyed(&self, fields: Value) -> Program {
        let keys = json!({"aws_access_key_id": ID, "aws_secret_access_key": SECRET});
        self.check(merge(keys, fields))
    }

    pub fn version(&self) -> Value {
        json!([{"tag": "1", "digest": self.digest}])
    }

    /// The key ids that signed, in order, each with the service it signed for.
    pub fn signers(&self) -> Vec<String> {
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
pub fn whose(output: &Output) -> String {
    let messages = output.messages();
    let line = messages
        .lines()
        .find_map(|line| line.strip_prefix(&format!("Amazon ECR: logged in to {HOST} with ")));
    line.unwrap_or_else(|| panic!("nobody logged in:\n{messages}"))
        .to_owned()
}

/// An instance metadata service that wants its session token.
pub fn instance(seen: &Seen) -> Reply {
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
