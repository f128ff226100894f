//! Logging in: what a registry challenges for, and the tokens and passwords that answer it.
//!
//! Credentials are bound to the registry they were given for. Tokens are cached for the run, one
//! for each scope, and renewed before they expire. The clouds (`aws`, `azure`) are two more ways to
//! come by credentials, and nothing outside of this module knows them.

mod aws;
mod azure;
mod challenge;
mod file;
mod token;

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;

use crate::context::Env;
use crate::error::{Again, Error, Kind, Result};
use crate::http::{Client, Response, Url};
use crate::oci::reference::Repository;
use crate::request::Login;
use crate::retry::{Attempts, Gate, Patience};
use crate::secret::Secret;
use crate::workers::lock;

use aws::Ecr;
use azure::Acr;
use challenge::Challenge;
use token::{Realm, Token};

/// The user name that stands for "the password is a refresh token" (Docker's credential stores).
const TOKEN_USER: &str = "<token>";

/// A token server that gave none is not asked again for this long.
const FAILURE_LIFE: Duration = Duration::from_secs(30);

/// A password that was given less than this ago has not ended yet.
const YOUNG: Duration = Duration::from_secs(60);

/// What is known of the user.
pub(crate) enum Credentials {
    Anonymous,
    /// A refresh token that the registry gives for the identity of a machine in Azure.
    Acr(Box<Acr>),
    /// A password that ECR gives for an identity in AWS.
    Ecr(Box<Ecr>),
    /// For the OAuth2 endpoint of the token server.
    RefreshToken(Secret),
    Password {
        username: String,
        password: Secret,
    },
}

impl Credentials {
    /// The credentials that a request itself holds.
    pub(crate) fn from_login(login: &Login) -> Result<Self> {
        Ok(match login {
            Login::Anonymous => Credentials::Anonymous,
            Login::Password { username, password } if username == TOKEN_USER => {
                Credentials::RefreshToken(password.clone())
            }
            Login::Password { username, password } => Credentials::Password {
                username: username.clone(),
                password: password.clone(),
            },
            Login::Ecr(_) | Login::Azure(_) => {
                return Err(Error::config(
                    "the login of a cloud is for its registry and nothing else",
                ));
            }
        })
    }

    /// The value of `Authorization` for Basic (RFC 7617); where it can be had, another one than
    /// `refused`.
    fn basic(&self, client: &Client<'_>, refused: Option<&Secret>) -> Result<Option<Secret>> {
        Ok(match self {
            Credentials::Password { username, password } => Some(basic(username, password)),
            Credentials::Ecr(ecr) => {
                let (username, password) = ecr.password(client, |username, password| {
                    refused == Some(&basic(username, password))
                })?;
                Some(basic(&username, &password))
            }
            Credentials::Acr(acr) => {
                let refused = |token: &Secret| refused == Some(&basic(azure::USERNAME, token));
                let (token, _) =
                    acr.refresh_token(client, &azure::Challenge::default(), refused)?;
                Some(basic(azure::USERNAME, &token))
            }
            Credentials::RefreshToken(_) | Credentials::Anonymous => None,
        })
    }

    /// What a refused user may try.
    fn advice(&self) -> &'static str {
        match self {
            Credentials::Anonymous => "set `source.username` and `source.password`",
            Credentials::Password { .. } | Credentials::RefreshToken(_) => {
                "check `source.username` and `source.password`, and what they may do there"
            }
            Credentials::Ecr(_) => {
                "check what the repository's policy and this identity's own (`ecr:…`) allow"
            }
            Credentials::Acr(_) => {
                "give the identity the role `AcrPull` or `AcrPush` on the registry"
            }
        }
    }
}

/// Logs in where that needs more than the request holds, and says which repository is meant: a
/// cloud's login knows the registry that a bare name is in.
///
/// # Errors
/// No identity, or one that may not log in. Azure's login waits for the registry's challenge and
/// fails with the first request.
pub(crate) fn log_in(
    client: &Client<'_>,
    login: &Login,
    repository: &Repository,
) -> Result<(Repository, Credentials)> {
    match login {
        Login::Ecr(login) => {
            let (repository, ecr) = Ecr::log_in(client, login, repository)?;
            Ok((repository, Credentials::Ecr(Box::new(ecr))))
        }
        Login::Azure(login) => {
            let acr = Acr::new(login, repository)?;
            Ok((repository.clone(), Credentials::Acr(Box::new(acr))))
        }
        Login::Anonymous | Login::Password { .. } => {
            Ok((repository.clone(), Credentials::from_login(login)?))
        }
    }
}

/// Certificates (PEM) that this login's environment says to trust, besides the request's.
pub(crate) fn ca_certs(env: &Env, login: &Login) -> Result<Option<String>> {
    match login {
        Login::Ecr(_) => aws::ca_bundle(env),
        Login::Azure(_) | Login::Anonymous | Login::Password { .. } => Ok(None),
    }
}

fn basic(username: &str, password: &Secret) -> Secret {
    let plain = format!("{username}:{}", password.expose());
    let encoded = base64::engine::general_purpose::STANDARD.encode(plain);
    Secret::new(format!("Basic {encoded}"))
}

/// Runs `attempt` at a service until it succeeds or trying again cannot help.
///
/// # Errors
/// The last failure, as one of the login: it was tried long enough, so whoever asked for the login
/// does not try again, and what is missing at the service is not what they look for.
fn patiently<T>(
    client: &Client<'_>,
    patience: Patience,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let context = client.context();
    let mut attempts = Attempts::new(context.clock, patience);
    let gate = Gate::default();
    loop {
        attempts.begin(&gate)?;
        match attempt() {
            Ok(answer) => return Ok(answer),
            Err(error) => attempts
                .wait_after(error, &gate, context.report)
                .map_err(|error| error.of_something_else().again(Again::Never))?,
        }
    }
}

/// What a request needs to be allowed to do, in the token server's words
/// (distribution, "Token Scope Documentation").
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Scope(Vec<String>);

impl Scope {
    pub(crate) fn pull(repository: &str) -> Self {
        Scope(vec![format!("repository:{repository}:pull")])
    }

    pub(crate) fn push(repository: &str) -> Self {
        Scope(vec![format!("repository:{repository}:pull,push")])
    }

    /// What a user says to ask for: actions with commas between them.
    pub(crate) fn actions(repository: &str, actions: &str) -> Self {
        Scope(vec![format!("repository:{repository}:{actions}")])
    }

    /// Also reading another repository, for a mount from it.
    pub(crate) fn and_pull(mut self, other: &str) -> Self {
        self.0.push(format!("repository:{other}:pull"));
        self
    }
}

/// Answers the challenges of one registry.
pub(crate) struct Authenticator<'a> {
    client: &'a Client<'a>,
    registry: Url,
    credentials: Credentials,
    /// How the registry wants to be talked to; known after its first challenge.
    method: Mutex<Method>,
    tokens: Mutex<HashMap<Scope, Token>>,
    /// Held while a token is fetched, so that workers that need the same one wait for it.
    fetching: Mutex<()>,
    /// How and when that failed the last time.
    failures: Mutex<HashMap<Scope, Failure>>,
    /// The password that the last 403 was answered with, and when.
    after_403: Mutex<Option<(Secret, Duration)>>,
    near_realm: bool,
}

struct Failure {
    at: Duration,
    kind: Kind,
    why: String,
}

#[derive(Clone, Default)]
enum Method {
    /// Nothing was asked for so far.
    #[default]
    Open,
    Basic,
    Bearer(Realm),
}

impl<'a> Authenticator<'a> {
    pub(crate) fn new(client: &'a Client<'a>, registry: Url, credentials: Credentials) -> Self {
        Authenticator {
            client,
            registry,
            credentials,
            method: Mutex::default(),
            tokens: Mutex::default(),
            fetching: Mutex::default(),
            failures: Mutex::default(),
            after_403: Mutex::default(),
            near_realm: false,
        }
    }

    /// A server on loopback may send us to a token server on loopback that speaks plain HTTP: what
    /// does not leave this machine crosses no network.
    pub(crate) fn with_near_realm(mut self) -> Self {
        self.near_realm = true;
        self
    }

    /// The `Authorization` to send, as far as the registry has asked for one.
    pub(crate) fn authorization(&self, scope: &Scope) -> Result<Option<Secret>> {
        let method = lock(&self.method).clone();
        match method {
            Method::Open => Ok(None),
            Method::Basic => self.credentials.basic(self.client, None),
            Method::Bearer(realm) => Ok(Some(self.token(&realm, scope, None)?.bearer())),
        }
    }

    /// Whether another login may change this answer.
    ///
    /// Quirk(ECR): a password that has ended is answered 403, as what it may not do.
    pub(crate) fn can_answer(&self, response: &Response) -> bool {
        response.status == 401
            || (response.status == 403 && matches!(self.credentials, Credentials::Ecr(_)))
    }

    /// Answers a 401 (and ECR's 403): a new token, or a password where none was sent; nothing where
    /// there is nothing more that could be sent.
    ///
    /// `sent` is what the refused request carried.
    ///
    /// # Errors
    /// A token server that credentials must not go to, or that gives no token.
    pub(crate) fn renew(
        &self,
        response: &Response,
        scope: &Scope,
        sent: Option<&Secret>,
    ) -> Result<Option<Secret>> {
        // Credentials travel only to the registry itself; a redirect's own login is not ours.
        if !self.is_registry(&response.url) {
            return Ok(None);
        }
        if response.status == 403 {
            return self.renew_ended(sent);
        }
        let challenges = Challenge::parse_all(response.headers("www-authenticate"));
        let bearer = challenges.iter().find(|c| c.scheme == "bearer");
        let basic = challenges.iter().any(|c| c.scheme == "basic");
        if let Some(challenge) = bearer {
            return match self.answer_bearer(challenge, scope, sent) {
                // The registry takes a password as well, and the token server has not refused it.
                Err(error) if basic && !error.is_denied() => match self.answer_basic(sent)? {
                    Some(value) => {
                        let report = self.client.context().report;
                        report.info(format!("{error}; sending the password instead"));
                        Ok(Some(value))
                    }
                    None => Err(error),
                },
                answered => answered.map(Some),
            };
        }
        match basic {
            true => self.answer_basic(sent),
            false => Ok(None),
        }
    }

    fn answer_bearer(
        &self,
        challenge: &Challenge,
        scope: &Scope,
        sent: Option<&Secret>,
    ) -> Result<Secret> {
        let realm = Realm::from_challenge(challenge, &self.registry, self.client, self.near_realm)?;
        let token = self.token(&realm, scope, sent)?;
        // Not before there is one: others would ask the same server, and have no other way.
        *lock(&self.method) = Method::Bearer(realm);
        Ok(token.bearer())
    }

    fn answer_basic(&self, sent: Option<&Secret>) -> Result<Option<Secret>> {
        let value = self.credentials.basic(self.client, sent)?;
        let value = value.filter(|value| sent != Some(value));
        if value.is_some() {
            *lock(&self.method) = Method::Basic;
        }
        Ok(value)
    }

    /// A password in the place of one that may have ended. Where the new one gets a 403 too, it is
    /// a refusal, and nothing that a third one would change.
    fn renew_ended(&self, sent: Option<&Secret>) -> Result<Option<Secret>> {
        let now = self.now();
        let is_young = lock(&self.after_403)
            .as_ref()
            .is_some_and(|(young, since)| sent == Some(young) && now < *since + YOUNG);
        if sent.is_none() || is_young {
            return Ok(None);
        }
        let other = match self.credentials.basic(self.client, sent) {
            Ok(other) => other.filter(|other| sent != Some(other)),
            // The registry's refusal says more than why there is no other password.
            Err(error) => {
                let report = self.client.context().report;
                report.debug(|| format!("{error}; the refusal stands"));
                None
            }
        };
        if let Some(other) = &other {
            *lock(&self.after_403) = Some((other.clone(), self.now()));
        }
        Ok(other)
    }

    fn is_registry(&self, url: &Url) -> bool {
        self.client.is_at(&self.registry, url)
    }

    /// A token for `scope` from the cache or the token server, and another one than `refused`.
    fn token(&self, realm: &Realm, scope: &Scope, refused: Option<&Secret>) -> Result<Token> {
        if let Some(token) = self.cached(scope, refused) {
            return Ok(token);
        }
        // One of the workers fetches, and the others find what it got.
        let _fetching = lock(&self.fetching);
        if let Some(token) = self.cached(scope, refused) {
            return Ok(token);
        }
        // What it got may be a failure after long tries: the others do not wait one by one.
        if let Some(failure) = lock(&self.failures).get(scope)
            && self.now().saturating_sub(failure.at) < FAILURE_LIFE
        {
            return Err(Error::new(failure.kind, failure.why.clone()));
        }
        let fetched = token::fetch(self.client, realm, &scope.0, &self.credentials);
        match &fetched {
            Ok(token) => {
                lock(&self.tokens).insert(scope.clone(), token.clone());
            }
            Err(error) => {
                let failure = Failure {
                    at: self.now(),
                    kind: error.kind(),
                    why: error.to_string(),
                };
                lock(&self.failures).insert(scope.clone(), failure);
            }
        }
        fetched
    }

    fn cached(&self, scope: &Scope, refused: Option<&Secret>) -> Option<Token> {
        let now = self.now();
        let token = lock(&self.tokens).get(scope).cloned()?;
        (token.is_fresh(now) && refused != Some(&token.bearer())).then_some(token)
    }

    fn now(&self) -> Duration {
        self.client.context().clock.elapsed()
    }

    /// Adds to a refusal what its reader may try.
    pub(crate) fn advise(&self, error: Error) -> Error {
        error.advise(self.credentials.advice())
    }
}
