//! Azure Container Registry: from the identity of a machine to a refresh token of a registry.
//!
//! A metadata service gives a token for the identity, the registry exchanges it for a refresh token
//! of its own, and with that the usual token server is asked.
//!
//! Source: "How to use managed identities on a VM to acquire an access token", "App Service: REST
//! endpoint reference", and the ACR team's `AAD-OAuth.md`.

use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use serde::Deserialize;
use serde_json::Value;

use super::patiently;
use crate::error::{Again, Doing, Error, Kind, Result};
use crate::http::{Client, Payload, Request, Response, Scheme, Url, Waits, encode, problem_saying};
use crate::oci::json;
use crate::oci::reference::Repository;
use crate::request::AzureLogin;
use crate::retry::Patience;
use crate::secret::Secret;
use crate::workers::lock;

/// The user name that goes with a refresh token of ACR where a password is wanted.
pub(super) const USERNAME: &str = "00000000-0000-0000-0000-000000000000";

/// The metadata service of a virtual machine.
const METADATA: &str = "http://169.254.169.254/metadata/identity/oauth2/token";
const METADATA_VERSION: &str = "2018-02-01";

/// The version of App Service's identity endpoint (also Functions, Container Apps).
const APP_SERVICE_VERSION: &str = "2019-08-01";

/// The service is on the machine itself, but gets the first token from a server elsewhere.
const WAITS: Waits = Waits {
    connect: Duration::from_secs(2),
    answer: Duration::from_secs(5),
};

/// Tokens have a few KiB.
const ANSWER_LIMIT: u64 = 1 << 20;
const ERROR_LIMIT: u64 = 64 << 10;

/// A refresh token is renewed this long before its end (it lasts three hours).
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// The tenant that stands for the identity's own.
const ANY_TENANT: &str = "common";

/// What the registry's challenge says.
#[derive(Clone, Copy, Default)]
pub(super) struct Challenge<'c> {
    pub(super) service: Option<&'c str>,
    pub(super) tenant: Option<&'c str>,
}

/// The login of a machine's identity at one registry, which can be done again.
pub(crate) struct Acr {
    login: AzureLogin,
    /// The registry's `/oauth2/exchange`.
    exchange: Url,
    resource: &'static str,
    current: Mutex<Option<Grant>>,
}

#[derive(Clone)]
struct Grant {
    token: Secret,
    /// In time of the run's clock; `None` where the token does not say.
    renew_at: Option<Duration>,
}

impl Acr {
    pub(super) fn new(login: &AzureLogin, repository: &Repository) -> Result<Self> {
        let host = repository.host();
        if repository.is_docker_hub() {
            return Err(Error::config(format!(
                "`source.azure_acr` is set, and `source.repository` is `{}`, which names no registry",
                repository.written()
            ))
            .advise("write it as `NAME.azurecr.io/REPOSITORY`"));
        }
        Ok(Acr {
            login: login.clone(),
            exchange: Url::at(Scheme::Https, host, "/oauth2/exchange")?,
            resource: resource(login.environment.as_deref(), host),
            current: Mutex::default(),
        })
    }

    /// A refresh token for which `is_refused` is false, where one can be had, and whether it is new.
    pub(super) fn refresh_token(
        &self,
        client: &Client<'_>,
        challenge: &Challenge<'_>,
        is_refused: impl Fn(&Secret) -> bool,
    ) -> Result<(Secret, bool)> {
        // Held while a token is fetched, so that workers that need one wait for it.
        let mut current = lock(&self.current);
        let now = client.context().clock.elapsed();
        if let Some(grant) = &*current
            && grant.renew_at.is_none_or(|at| now < at)
            && !is_refused(&grant.token)
        {
            return Ok((grant.token.clone(), false));
        }
        let whose = self.whose();
        let step = || format!("log in to {} with {whose}", self.exchange.authority());
        let identity = self.identity_token(client).doing(step)?;
        let grant = self.exchange(client, challenge, &identity).doing(step)?;
        let verb = match current.is_some() {
            true => "renewed the login",
            false => "logged in",
        };
        client.context().report.info(format!(
            "Azure Container Registry: {verb} to {} with {whose}",
            self.exchange.authority()
        ));
        let token = grant.token.clone();
        *current = Some(grant);
        Ok((token, true))
    }

    fn whose(&self) -> String {
        match &self.login.client_id {
            Some(id) => format!("the identity `{id}`"),
            None => "this machine's own identity".to_owned(),
        }
    }

    /// A token of Entra ID for the identity, from the service next to us.
    fn identity_token(&self, client: &Client<'_>) -> Result<Secret> {
        let place = Place::of(client)?;
        let mut query = vec![("api-version", place.version), ("resource", self.resource)];
        if let Some(id) = &self.login.client_id {
            query.push(("client_id", id));
        }
        let url = place.url.with_query(&query);
        client
            .context()
            .report
            .debug(|| format!("Azure: ask {url} for a token for {}", self.resource));
        let (name, value) = &place.header;
        let body = patiently(client, Patience::STARTING_METADATA, || {
            let request = Request::new("GET", &url)
                .header(name, value.expose())
                .header("accept", "application/json")
                .within(WAITS)
                .holding(value);
            let response = client.send(request)?;
            if response.is_success() {
                return response.bytes(ANSWER_LIMIT);
            }
            let status = response.status;
            let clock = client.context().clock;
            let error = problem_saying("GET", &url, response, clock, said);
            let error = match status {
                400..=403 => error.advise(self.identity_advice()),
                502..=504 if client.is_proxied(&url) => {
                    error.advise(format!("add `{}` to `no_proxy`", url.host()))
                }
                _ => error,
            };
            Err(match error.can_try_again() {
                // While it starts or is renewed, it answers so (at most 70 s, says its page).
                Again::Never if matches!(status, 404 | 410 | 500..=599) => {
                    error.again(Again::Later { after: None })
                }
                _ => error,
            })
        })
        .map_err(|error| match error.kind() {
            Kind::Network => error.advise(format!(
                "managed identities work on machines in Azure, where {} can be reached, without a proxy",
                url.host()
            )),
            _ => error,
        })
        .doing(|| "get a token for it")?;
        token(&body, |answer| answer.access_token).map_err(|why| {
            Error::registry(format!("{url} answers {why}")).doing("get a token for it")
        })
    }

    fn identity_advice(&self) -> &'static str {
        match self.login.client_id {
            Some(_) => "check that `source.azure_client_id` is an identity of this machine",
            None => {
                "give this machine an identity, or name one of several in `source.azure_client_id`"
            }
        }
    }

    /// The registry's own refresh token for a token of Entra ID.
    fn exchange(
        &self,
        client: &Client<'_>,
        challenge: &Challenge<'_>,
        identity: &Secret,
    ) -> Result<Grant> {
        let url = &self.exchange;
        let own = url.authority();
        let tenant = match &self.login.tenant_id {
            Some(tenant) => tenant,
            None => challenge.tenant.unwrap_or(ANY_TENANT),
        };
        let context = client.context();
        context
            .report
            .debug(|| format!("Azure: exchange it at {url}, tenant {tenant}"));
        let form = [
            ("grant_type", "access_token"),
            ("service", challenge.service.unwrap_or(&own)),
            ("tenant", tenant),
            ("access_token", identity.expose()),
        ];
        let form: Vec<String> = form
            .iter()
            .map(|(name, value)| format!("{name}={}", encode(value)))
            .collect();
        let form = form.join("&");
        let asked = context.clock.elapsed();
        let body = patiently(client, Patience::SERVICE, || {
            let request = Request::new("POST", url)
                .header("accept", "application/json")
                .header("content-type", "application/x-www-form-urlencoded")
                .payload(Payload::Bytes(form.as_bytes()))
                .may_be_plain()
                .holding(identity);
            let response = client.send(request)?;
            if response.is_success() {
                return response.bytes(ANSWER_LIMIT);
            }
            let error = problem_saying("POST", url, response, context.clock, said);
            Err(match error.kind() {
                Kind::Denied => error.advise(format!(
                    "give the identity the role `AcrPull` or `AcrPush` on the registry, and check that its tenant is `{tenant}`"
                )),
                Kind::Missing => error.advise("check that this is a registry of Azure"),
                _ => error,
            })
        })
        .doing(|| "exchange the token")?;
        let token = token(&body, |answer| answer.refresh_token).map_err(|why| {
            Error::registry(format!("{url} answers {why}")).doing("exchange the token")
        })?;
        let life = life(client, &token);
        Ok(Grant {
            renew_at: life.map(|life| asked + life),
            token,
        })
    }
}

/// What a token is asked for: the management service of the cloud that the registry is in.
fn resource(environment: Option<&str>, host: &str) -> &'static str {
    let name = host.split(':').next().unwrap_or_default();
    match environment {
        Some("AzureGovernment") => "https://management.usgovcloudapi.net",
        Some("AzureChina") => "https://management.chinacloudapi.cn",
        None if name.ends_with(".azurecr.us") => "https://management.usgovcloudapi.net",
        None if name.ends_with(".azurecr.cn") => "https://management.chinacloudapi.cn",
        _ => "https://management.azure.com",
    }
}

/// Where a token for the identity comes from, and what shows that we are on the machine.
struct Place {
    url: Url,
    version: &'static str,
    header: (&'static str, Secret),
}

impl Place {
    /// App Service's endpoint where the environment names one, else the virtual machine's.
    fn of(client: &Client<'_>) -> Result<Self> {
        let env = client.context().env;
        let lonely = |set: &str, missing: &str| {
            Err(Error::config(format!(
                "the environment's `{set}` is set, but `{missing}` is missing"
            )))
        };
        match (env.get("IDENTITY_ENDPOINT"), env.get("IDENTITY_HEADER")) {
            (None, None) => Ok(Place {
                url: Url::parse(METADATA)?,
                version: METADATA_VERSION,
                header: ("metadata", Secret::new("true")),
            }),
            (Some(_), None) => lonely("IDENTITY_ENDPOINT", "IDENTITY_HEADER"),
            (None, Some(_)) => lonely("IDENTITY_HEADER", "IDENTITY_ENDPOINT"),
            (Some(endpoint), Some(header)) => {
                let header = header.trim();
                if !header.bytes().all(|b| b.is_ascii_graphic()) {
                    return Err(Error::config(
                        "the environment's `IDENTITY_HEADER` has a character that no header has",
                    ));
                }
                Ok(Place {
                    url: Url::parse(endpoint.trim())
                        .map_err(|error| Error::config(error.to_string()))
                        .doing(|| "the environment's `IDENTITY_ENDPOINT`")?,
                    version: APP_SERVICE_VERSION,
                    header: ("x-identity-header", Secret::new(header)),
                })
            }
        }
    }
}

#[derive(Default, Deserialize)]
struct Answer {
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    refresh_token: Option<String>,
}

/// The token in an answer, or what the answer is instead.
fn token(
    body: &[u8],
    which: impl FnOnce(Answer) -> Option<String>,
) -> std::result::Result<Secret, &'static str> {
    let answer: Answer = json::object(body).map_err(|_| "with something else than a token")?;
    let token = which(answer).filter(|token| !token.is_empty());
    let token = token.ok_or("without a token in it")?;
    match token.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(Secret::new(token)),
        false => Err("with a token that cannot be sent"),
    }
}

/// How long a refresh token is good, less the margin: it is a JWT (RFC 7519), and says so itself.
/// One that has ended is good for nothing but the request that it was got for.
fn life(client: &Client<'_>, token: &Secret) -> Option<Duration> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let payload = token.expose().split('.').nth(1)?;
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(payload.trim_end_matches('='))
        .ok()?;
    let claims: Claims = json::object(&payload).ok()?;
    let ends = UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(claims.exp).ok()?)?;
    let life = ends.duration_since(client.context().clock.now());
    let life = life.unwrap_or_default();
    Some(life - MARGIN.min(life / 2))
}

/// What an error answer says: code and message, in one of the forms that these services have.
fn said(response: Response) -> String {
    match response.bytes_up_to(ERROR_LIMIT) {
        Ok(body) => spoken(&body),
        Err(_) => String::new(),
    }
}

fn spoken(body: &[u8]) -> String {
    let Ok(document) = serde_json::from_slice::<Value>(body) else {
        return String::new();
    };
    // Registry: `errors: [{code, message}]`. OAuth2: `error`, `error_description`. App Service:
    // `statusCode`, `message`, or `error: {code, message}`.
    let entry = match (document.pointer("/errors/0"), document.get("error")) {
        (Some(first), _) => first,
        (None, Some(error)) if error.is_object() => error,
        (None, _) => &document,
    };
    let find = |names: [&str; 2]| {
        let found = names.iter().find_map(|name| entry.get(*name)?.as_str());
        found.unwrap_or_default()
    };
    let code = find(["code", "error"]);
    let message = find(["message", "error_description"]);
    let message = message.lines().next().unwrap_or_default().trim();
    match (code, message) {
        ("", message) => message.to_owned(),
        (code, "") => code.to_owned(),
        (code, message) => format!("{code}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cloud_is_the_one_that_is_named_and_else_the_hosts() {
        for (environment, host, cloud) in [
            (None, "x.azurecr.io", "azure.com"),
            (None, "x.azurecr.us", "usgovcloudapi.net"),
            (None, "x.azurecr.cn:443", "chinacloudapi.cn"),
            (None, "registry.example.com", "azure.com"),
            (None, "azurecr.us.example.com", "azure.com"),
            (Some("AzurePublic"), "x.azurecr.us", "azure.com"),
            (Some("AzureGovernment"), "x.azurecr.io", "usgovcloudapi.net"),
            (Some("AzureChina"), "x.azurecr.io", "chinacloudapi.cn"),
        ] {
            let expect = format!("https://management.{cloud}");
            assert_eq!(
                resource(environment, host),
                expect,
                "{environment:?} {host}"
            );
        }
    }

    #[test]
    fn refusals_are_read_in_every_form() {
        for (body, shown) in [
            (
                r#"{"error":"invalid_request","error_description":"Identity not found\r\nTrace"}"#,
                "invalid_request: Identity not found",
            ),
            (
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#,
                "UNAUTHORIZED: no",
            ),
            (r#"{"statusCode":400,"message":"bad"}"#, "bad"),
            (r#"{"error":{"code":"X","message":"y"}}"#, "X: y"),
            (r#"{"error":"only"}"#, "only"),
            ("<html>", ""),
            ("[]", ""),
        ] {
            assert_eq!(spoken(body.as_bytes()), shown);
        }
    }
}
