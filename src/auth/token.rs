//! Token servers: the Docker token protocol (GET) and its OAuth2 form (POST).

use std::time::Duration;

use serde::Deserialize;

use super::azure::{self, Acr};
use super::challenge::Challenge;
use super::{Credentials, patiently};
use crate::error::{Doing, Error, Kind, Result};
use crate::http::{
    Client, Payload, Request, Response, Url, encode, is_private_literal, is_this_machine, problem,
};
use crate::oci::json;
use crate::retry::Patience;
use crate::secret::Secret;

/// The most a token server's answer is read; an ECR or ACR token has a few KiB.
const ANSWER_LIMIT: u64 = 1 << 20;

/// A token without `expires_in` is good for this long (distribution, "Token Authentication
/// Specification").
const DEFAULT_LIFE: Duration = Duration::from_secs(60);

/// A token is renewed after this long whatever the server says; no step takes longer.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Tokens are renewed this long before their end: a request may take a while to arrive.
const MARGIN: Duration = Duration::from_secs(10);

/// Who this client is, for a token server's log.
const CLIENT_ID: &str = "registry-image";

/// Where tokens come from.
#[derive(Clone)]
pub(super) struct Realm {
    url: Url,
    /// The registry that named it, where it is not on the registry's own host: it may lead to no
    /// other address than a redirect may.
    named_by: Option<Url>,
    service: Option<String>,
    /// A scope of the challenge that is none of ours, such as a registry-wide one.
    scope: Option<String>,
}

impl Realm {
    /// # Errors
    /// A realm that credentials must not go to: plain HTTP while the registry is HTTPS, or this
    /// machine and its neighbours, unless the registry itself is there.
    pub(super) fn from_challenge(
        challenge: &Challenge,
        registry: &Url,
        client: &Client<'_>,
        near: bool,
    ) -> Result<Self> {
        let refuse = |why: &str| {
            let realm = challenge.get("realm").unwrap_or_default();
            let realm = realm.split('?').next().unwrap_or_default();
            let realm = realm.rsplit('@').next().unwrap_or_default();
            let realm: String = realm.chars().take(200).collect();
            Err(Error::hostile(format!(
                "{} sends us to the token server `{realm}`, {why}",
                registry.authority()
            )))
        };
        let Some(Ok(url)) = challenge.get("realm").map(Url::parse) else {
            return refuse("which is not a URL");
        };
        let loopback = |url: &Url| is_this_machine(url.host());
        let stays_here = near && loopback(&url) && loopback(registry);
        if !url.is_https() && !client.is_plain(registry) && !stays_here {
            return refuse("which is plain HTTP: a password would be readable on its way");
        }
        let own_host = url.host() == registry.host() || (loopback(&url) && loopback(registry));
        if is_private_literal(url.host()) && !own_host {
            return refuse("a private address that is not the registry's own");
        }
        Ok(Realm {
            named_by: (url.host() != registry.host()).then(|| registry.clone()),
            url,
            service: challenge.get("service").map(str::to_owned),
            scope: challenge
                .get("scope")
                .filter(|scope| !scope.is_empty() && !scope.starts_with("repository:"))
                .map(str::to_owned),
        })
    }

    fn request<'r>(&self, method: &'static str, url: &Url) -> Request<'r> {
        let request = Request::new(method, url);
        match &self.named_by {
            Some(registry) => request.named_by(registry),
            None => request,
        }
    }
}

/// A bearer token and when it ends, in time of the run's clock.
#[derive(Clone)]
pub(super) struct Token {
    bearer: Secret,
    renew_at: Duration,
}

impl Token {
    pub(super) fn bearer(&self) -> Secret {
        self.bearer.clone()
    }

    pub(super) fn is_fresh(&self, now: Duration) -> bool {
        now < self.renew_at
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<serde_json::Value>,
}

/// Fetches a token for `scopes`.
pub(super) fn fetch(
    client: &Client<'_>,
    realm: &Realm,
    scopes: &[String],
    credentials: &Credentials,
) -> Result<Token> {
    let with = |credentials: &Credentials| {
        patiently(client, Patience::SERVICE, || {
            fetch_once(client, realm, scopes, credentials)
                .doing(|| format!("log in at {}", realm.url.authority()))
        })
    };
    let outcome = match credentials {
        Credentials::Acr(acr) => with_grant(acr, realm, client, with),
        _ => with(credentials),
    };
    outcome.map_err(|error| match error.is_denied() {
        true => error.advise(credentials.advice()),
        false => error,
    })
}

/// With a refresh token that the registry itself gives; one that it gave before may have ended.
fn with_grant(
    acr: &Acr,
    realm: &Realm,
    client: &Client<'_>,
    with: impl Fn(&Credentials) -> Result<Token>,
) -> Result<Token> {
    let challenge = azure::Challenge {
        service: realm.service.as_deref(),
        tenant: realm.url.query("tenant").filter(|t| !t.is_empty()),
    };
    let (grant, is_new) = acr.refresh_token(client, &challenge, |_| false)?;
    let outcome = with(&Credentials::RefreshToken(grant.clone()));
    let refused =
        matches!(&outcome, Err(error) if matches!(error.kind(), Kind::Denied | Kind::Registry));
    if is_new || !refused {
        return outcome;
    }
    let (renewed, _) = acr.refresh_token(client, &challenge, |token| *token == grant)?;
    with(&Credentials::RefreshToken(renewed))
}

fn fetch_once(
    client: &Client<'_>,
    realm: &Realm,
    scopes: &[String],
    credentials: &Credentials,
) -> Result<Token> {
    let scopes: Vec<&str> = scopes
        .iter()
        .chain(&realm.scope)
        .map(String::as_str)
        .collect();
    let asked = client.context().clock.elapsed();
    let mut method = "GET";
    let response = match credentials {
        Credentials::RefreshToken(token) => {
            method = "POST";
            let grant = [("grant_type", "refresh_token")];
            post(client, realm, &scopes, &grant, ("refresh_token", token))?
        }
        // The clouds' logins come here as what they gave.
        _ => {
            let response = get(client, realm, &scopes, credentials)?;
            match (response.status, credentials) {
                // Token servers that know OAuth2 alone.
                (404 | 405, Credentials::Password { username, password }) => {
                    response.discard();
                    method = "POST";
                    let grant = [("grant_type", "password"), ("username", username)];
                    post(client, realm, &scopes, &grant, ("password", password))?
                }
                _ => response,
            }
        }
    };
    if !response.is_success() {
        let error = problem(method, &realm.url, response, client.context().clock);
        return Err(error);
    }
    let body = response.bytes(ANSWER_LIMIT)?;
    let unreadable = |why: &str| Error::registry(format!("the token server {} {why}", realm.url));
    let answer: Answer =
        json::object(&body).map_err(|_| unreadable("answers with something else than a token"))?;
    let token = answer
        .token
        .filter(|token| !token.is_empty())
        .or(answer.access_token)
        .filter(|token| !token.is_empty())
        .ok_or_else(|| unreadable("answers without a token in it"))?;
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(unreadable("answers with a token that cannot be sent"));
    }
    let life = match answer.expires_in {
        Some(value) => {
            let text = value.to_string();
            let seconds = text.trim_matches('"').parse::<f64>().unwrap_or(60.0);
            Duration::try_from_secs_f64(seconds.clamp(1.0, LONGEST_LIFE.as_secs_f64()))
                .unwrap_or(DEFAULT_LIFE)
        }
        None => DEFAULT_LIFE,
    };
    Ok(Token {
        bearer: Secret::new(format!("Bearer {token}")),
        // A short life has a short margin, or no token would ever be fresh.
        renew_at: asked + life - MARGIN.min(life / 2),
    })
}

fn get(
    client: &Client<'_>,
    realm: &Realm,
    scopes: &[&str],
    credentials: &Credentials,
) -> Result<Response> {
    let mut query: Vec<(&str, &str)> = Vec::new();
    if let Some(service) = &realm.service {
        query.push(("service", service));
    }
    query.extend(scopes.iter().map(|scope| ("scope", *scope)));
    let url = realm.url.with_query(&query);
    let basic = credentials.basic(client, None)?;
    client.send(
        realm
            .request("GET", &url)
            .header("accept", "application/json")
            .authorization(basic.as_ref()),
    )
}

fn post(
    client: &Client<'_>,
    realm: &Realm,
    scopes: &[&str],
    grant: &[(&str, &str)],
    (field, secret): (&str, &Secret),
) -> Result<Response> {
    let mut form: Vec<(&str, &str)> = grant.to_vec();
    form.push((field, secret.expose()));
    form.push(("client_id", CLIENT_ID));
    if let Some(service) = &realm.service {
        form.push(("service", service));
    }
    let scope = scopes.join(" ");
    form.push(("scope", &scope));
    let body: Vec<String> = form
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
        .collect();
    let body = body.join("&");
    client.send(
        realm
            .request("POST", &realm.url)
            .header("accept", "application/json")
            .header("content-type", "application/x-www-form-urlencoded")
            .payload(Payload::Bytes(body.as_bytes()))
            .holding(secret),
    )
}
