//! Keys of the role that a container or a machine runs with, from the services next to it.

use std::time::Duration;

use serde::Deserialize;

use super::Aws;
use super::keys::Keys;
use crate::auth::{file, patiently};
use crate::error::{Again, Doing, Error, Kind, Result};
use crate::http::{Request, Url, Waits, encode, is_this_machine, problem};
use crate::oci::json;
use crate::retry::Patience;
use crate::secret::Secret;

/// An answer has a few KiB.
const ANSWER_LIMIT: u64 = 64 << 10;

/// These services are one hop away, or not there.
const WAITS: Waits = Waits {
    connect: Duration::from_secs(2),
    answer: Duration::from_secs(2),
};

/// The host of relative URIs (ECS task metadata).
const CONTAINER_HOST: &str = "http://169.254.170.2";

/// The hosts besides loopback to which plain HTTP may carry a container's token: ECS and EKS Pod
/// Identity (SDKs reference guide, "Container credential provider").
const CONTAINER_HOSTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];

/// The instance metadata service by IPv4 and IPv6.
const INSTANCE_V4: &str = "http://169.254.169.254";
const INSTANCE_V6: &str = "http://[fd00:ec2::254]";

/// Life of the session token that IMDSv2 wants, the longest it gives; one run needs a second.
const SESSION_SECONDS: &str = "21600";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    access_key_id: Option<String>,
    #[serde(default)]
    secret_access_key: Option<String>,
    #[serde(default)]
    token: Option<String>,
}

/// The keys of the container's role; `None` where the environment names no place for them.
pub(super) fn container(aws: &Aws<'_>) -> Result<Option<Keys>> {
    let env = aws.env();
    let names = [
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ];
    let Some((variable, text)) = env.first(&names) else {
        return Ok(None);
    };
    let place = || format!("the environment's `{variable}`");
    let url = match variable == names[0] {
        true if !text.starts_with('/') => {
            return Err(Error::config(format!("it is `{text}`, not a path")).doing(place()));
        }
        true => format!("{CONTAINER_HOST}{text}"),
        false => text.to_owned(),
    };
    let url = Url::parse(&url)
        .map_err(|error| Error::config(error.to_string()))
        .doing(place)?;
    if !url.is_https() && !is_near(&url) {
        return Err(Error::config(format!(
            "{} is plain HTTP to a host that is neither this machine nor ECS or EKS",
            url.origin()
        ))
        .doing(place()));
    }
    let token = container_token(aws)?;
    aws.debug(|| format!("ask {url} for the container's credentials"));
    let body = patiently(aws.client, Patience::METADATA, || {
        let request = Request::new("GET", &url)
            .header("accept", "application/json")
            .authorization(token.as_ref())
            .within(WAITS)
            .bound_to_origin();
        fetch(aws, "GET", &url, request)
    });
    let keys = body
        .and_then(|body| keys(&body, "the container's role"))
        .doing(|| "container credentials")?;
    Ok(Some(keys))
}

/// What the service wants to see: the content of a file, which is renewed while we run, or a text.
fn container_token(aws: &Aws<'_>) -> Result<Option<Secret>> {
    const FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";
    const TEXT: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN";
    if let Some(path) = aws.env().get(FILE) {
        let token = file::token(path).doing(|| format!("the environment's `{FILE}`"))?;
        return Ok(Some(token));
    }
    let Some(token) = aws.env().get(TEXT).map(str::trim) else {
        return Ok(None);
    };
    // `Basic abc` has a space; a line break would be another header.
    match token.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        true => Ok(Some(Secret::new(token))),
        false => Err(Error::config(format!(
            "the environment's `{TEXT}` has a character that no token has"
        ))),
    }
}

fn is_near(url: &Url) -> bool {
    is_this_machine(url.host()) || CONTAINER_HOSTS.contains(&url.host())
}

/// The keys of the role of the machine (EC2), by IMDSv2: version 1 gives them to any request that
/// can be tricked out of a container, and is not asked.
pub(super) fn instance(aws: &Aws<'_>) -> Result<Keys> {
    let env = aws.env();
    let disabled = env
        .get("AWS_EC2_METADATA_DISABLED")
        .is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if disabled {
        return Err(Error::config(
            "the EC2 metadata service is not asked, as the environment's `AWS_EC2_METADATA_DISABLED` says",
        ));
    }
    let endpoint = env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    let mode = env.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE");
    let base = match (endpoint, mode) {
        (Some(endpoint), _) => endpoint.trim(),
        (None, Some(mode)) if mode.eq_ignore_ascii_case("ipv6") => INSTANCE_V6,
        (None, _) => INSTANCE_V4,
    };
    let base = base.trim_end_matches('/');
    let at = |path: &str| {
        Url::parse(&format!("{base}{path}"))
            .map_err(|error| Error::config(error.to_string()))
            .doing(|| "the environment's `AWS_EC2_METADATA_SERVICE_ENDPOINT`")
    };
    let session = session(aws, &at("/latest/api/token")?).map_err(|error| {
        let error = match error.kind() {
            Kind::Network => error.advise(
                "on EC2, a container needs a metadata hop limit of 2 (`http-put-response-hop-limit`); elsewhere set `source.aws_access_key_id` and `source.aws_secret_access_key`",
            ),
            _ => error,
        };
        error.doing("EC2 instance metadata")
    })?;
    let get = |url: &Url| {
        patiently(aws.client, Patience::METADATA, || {
            let request = Request::new("GET", url)
                .header("x-aws-ec2-metadata-token", session.expose())
                .within(WAITS)
                .holding(&session);
            fetch(aws, "GET", url, request).map_err(|error| match error.is_missing() {
                true => error.advise("give the instance a role (an instance profile)"),
                false => error,
            })
        })
        .doing(|| "EC2 instance metadata")
    };
    let roles = at("/latest/meta-data/iam/security-credentials/")?;
    let listed = get(&roles)?;
    let listed = String::from_utf8_lossy(&listed);
    let name = listed.lines().next().unwrap_or_default().trim();
    if name.is_empty() {
        return Err(Error::new(Kind::Missing, "the instance has no role")
            .advise("give the instance a role (an instance profile)")
            .doing("EC2 instance metadata"));
    }
    let body = get(&roles.join(&encode(name))?)?;
    keys(&body, &format!("the instance's role `{name}`")).doing(|| "EC2 instance metadata")
}

fn session(aws: &Aws<'_>, url: &Url) -> Result<Secret> {
    aws.debug(|| format!("ask {url} for a session"));
    let body = patiently(aws.client, Patience::METADATA, || {
        let request = Request::new("PUT", url)
            .header("x-aws-ec2-metadata-token-ttl-seconds", SESSION_SECONDS)
            .within(WAITS)
            .bound_to_origin();
        fetch(aws, "PUT", url, request)
    })?;
    match String::from_utf8(body) {
        Ok(token) if !token.is_empty() && token.trim().bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(Secret::new(token.trim()))
        }
        _ => Err(Error::registry(format!("{url} answers without a token"))),
    }
}

fn fetch(aws: &Aws<'_>, method: &str, url: &Url, request: Request<'_>) -> Result<Vec<u8>> {
    let response = aws.client.send(request)?;
    if response.is_success() {
        return response.bytes(ANSWER_LIMIT);
    }
    let error = problem(method, url, response, aws.client.context().clock);
    // Where a proxy answers for a service that only this machine can reach, it stays so.
    match (aws.client.is_proxied(url), error.can_try_again()) {
        (true, Again::Later { .. }) => {
            let host = url.host();
            Err(error
                .again(Again::Unreachable)
                .advise(format!("add `{host}` to `no_proxy`")))
        }
        _ => Err(error),
    }
}

fn keys(body: &[u8], whose: &str) -> Result<Keys> {
    let unreadable = |why: &str| Error::registry(format!("the answer {why}"));
    let answer: Answer = json::object(body).map_err(|_| unreadable("is no credentials"))?;
    if let Some(code) = answer.code.filter(|code| code != "Success") {
        let message = answer.message.unwrap_or_default();
        return Err(Error::new(Kind::Denied, format!("{code}: {message}")).doing(whose.to_owned()));
    }
    let found = |value: Option<String>, name: &str| {
        value
            .filter(|value| !value.is_empty())
            .ok_or_else(|| unreadable(&format!("has no `{name}`")))
    };
    let id = found(answer.access_key_id, "AccessKeyId")?;
    let secret = Secret::new(found(answer.secret_access_key, "SecretAccessKey")?);
    let token = answer.token.filter(|token| !token.is_empty());
    let mut keys = Keys::written(&id, secret, token.map(Secret::new), whose)?;
    keys.whose = whose.to_owned();
    Ok(keys)
}
