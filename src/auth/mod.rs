//! Logging in: what a registry challenges for, and the tokens and passwords that answer it.
//!
//! Credentials are bound to the registry they were given for. Tokens are cached for the run, one
//! for each scope, and renewed before they expire.

mod challenge;
mod token;

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;

use crate::error::{Error, Kind, Result};
use crate::http::{Client, Response, Url};
use crate::request::Login;
use crate::secret::Secret;
use crate::workers::lock;

use challenge::Challenge;
use token::{Realm, Token};

/// The user name that stands for "the password is a refresh token" (Docker's credential stores).
const TOKEN_USER: &str = "<token>";

/// What is known of the user.
pub(crate) enum Credentials {
    Anonymous,
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
            Login::Ecr(_) => {
                return Err(Error::config(
                    "`source.aws_region`: ECR is not supported yet",
                ));
            }
            Login::Azure(_) => {
                return Err(Error::config(
                    "`source.azure_acr`: ACR is not supported yet",
                ));
            }
        })
    }

    fn is_anonymous(&self) -> bool {
        matches!(self, Credentials::Anonymous)
    }

    /// The value of `Authorization` for Basic (RFC 7617).
    fn basic(&self) -> Option<Secret> {
        match self {
            Credentials::Password { username, password } => {
                let plain = format!("{username}:{}", password.expose());
                let encoded = base64::engine::general_purpose::STANDARD.encode(plain);
                Some(Secret::new(format!("Basic {encoded}")))
            }
            Credentials::RefreshToken(_) | Credentials::Anonymous => None,
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
    near_realm: bool,
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
            Method::Basic => Ok(self.credentials.basic()),
            Method::Bearer(realm) => Ok(Some(self.token(&realm, scope, None)?.bearer())),
        }
    }

    /// Answers a 401: a new token, or a password where none was sent.
    ///
    /// `sent` is what the refused request carried.
    ///
    /// # Errors
    /// [`Kind::Denied`] when there is nothing more that could be sent.
    pub(crate) fn renew(
        &self,
        response: &Response,
        scope: &Scope,
        sent: Option<&Secret>,
    ) -> Result<Secret> {
        let challenges = Challenge::parse_all(response.headers("www-authenticate"));
        let bearer = challenges.iter().find(|c| c.scheme == "bearer");
        let basic = challenges.iter().any(|c| c.scheme == "basic");
        // Credentials travel only to the registry itself; a redirect's own login is not ours.
        if !response.url.same_origin(&self.registry) && !self.client.is_plain(&self.registry) {
            return Err(self.denied("another server asks for a login"));
        }
        if let Some(challenge) = bearer {
            let realm =
                Realm::from_challenge(challenge, &self.registry, self.client, self.near_realm)?;
            *lock(&self.method) = Method::Bearer(realm.clone());
            return Ok(self.token(&realm, scope, sent)?.bearer());
        }
        if basic {
            return match self.credentials.basic() {
                Some(value) if sent != Some(&value) => {
                    *lock(&self.method) = Method::Basic;
                    Ok(value)
                }
                Some(_) => Err(self.denied("the registry does not accept this login")),
                None => Err(self.denied("the registry wants a login")),
            };
        }
        Err(self.denied("the registry refuses, without saying how to log in"))
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
        let token = token::fetch(self.client, realm, &scope.0, &self.credentials)?;
        lock(&self.tokens).insert(scope.clone(), token.clone());
        Ok(token)
    }

    fn cached(&self, scope: &Scope, refused: Option<&Secret>) -> Option<Token> {
        let now = self.now();
        let token = lock(&self.tokens).get(scope).cloned()?;
        (token.is_fresh(now) && refused != Some(&token.bearer())).then_some(token)
    }

    fn now(&self) -> Duration {
        self.client.context().clock.elapsed()
    }

    fn denied(&self, why: &str) -> Error {
        self.advise(Error::new(
            Kind::Denied,
            format!("{}: {why}", self.registry.authority()),
        ))
    }

    /// Adds to a refusal what its reader may try.
    pub(crate) fn advise(&self, error: Error) -> Error {
        error.advise(match self.credentials.is_anonymous() {
            true => "set `source.username` and `source.password`",
            false => "check `source.username` and `source.password`, and what they may do there",
        })
    }
}
