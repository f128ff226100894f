//! The distribution API of one repository (distribution-spec 1.1 and Docker Registry v2).
//!
//! Here are the retries: `http` makes one attempt, and nothing above this module tries again.

mod blobs;
mod images;
mod manifests;
mod tags;
mod uploads;

use std::sync::Mutex;

use crate::auth::{Authenticator, Credentials, Scope};
use crate::error::{Doing, Error, Result};
use crate::http::{Client, Request, Response, Scheme, Url, problem};
use crate::oci::reference::Repository;
use crate::report::Report;
use crate::retry::{Attempts, Clock, Gate, Patience};
use crate::secret::Secret;
use crate::workers::{Stop, lock};

pub(crate) use images::Image;
pub(crate) use manifests::Fetched;
pub(crate) use uploads::SendBytes;

/// New tokens for one request that writes. The first one may be another worker's, and end with it.
const RENEWALS: u32 = 3;

/// One repository of one registry.
pub(crate) struct Remote<'a> {
    client: &'a Client<'a>,
    repository: Repository,
    registry: Url,
    auth: Authenticator<'a>,
    gate: Gate,
    pieces: uploads::Pieces,
    /// There is another registry with the same images.
    is_mirror: bool,
    patience: Mutex<Patience>,
    /// Set when all that is asked for is in vain.
    stop: Stop,
}

/// What a request is for; decides what the token must allow.
#[derive(Clone, Copy, Debug)]
enum Access<'s> {
    Pull,
    Push,
    /// Writing here, and reading another repository of the same registry.
    Mount(&'s str),
}

impl<'a> Remote<'a> {
    pub(crate) fn new(
        client: &'a Client<'a>,
        repository: Repository,
        credentials: Credentials,
    ) -> Result<Self> {
        let registry = Url::at(Scheme::Https, repository.host(), "/v2/")
            .doing(|| format!("repository `{}`", repository.written()))?;
        Ok(Remote {
            client,
            auth: Authenticator::new(client, registry.clone(), credentials),
            repository,
            registry,
            gate: Gate::default(),
            pieces: uploads::Pieces::default(),
            is_mirror: false,
            patience: Mutex::new(Patience::REGISTRY),
            stop: client.new_stop(),
        })
    }

    /// The same repository at a mirror: what fails there is asked for elsewhere, so nobody waits
    /// long for it.
    pub(crate) fn of_mirror(
        client: &'a Client<'a>,
        repository: Repository,
        credentials: Credentials,
    ) -> Result<Self> {
        Ok(Remote {
            is_mirror: true,
            patience: Mutex::new(Patience::MIRROR),
            ..Remote::new(client, repository, credentials)?
        })
    }

    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    fn clock(&self) -> &'a dyn Clock {
        self.client.context().clock
    }

    fn report(&self) -> &'a Report {
        self.client.context().report
    }

    /// How long it is tried from now on.
    pub(crate) fn set_patience(&self, patience: Patience) {
        *lock(&self.patience) = patience;
    }

    /// Whoever sets it says that all that is asked for is in vain: nobody waits any more, neither to
    /// try again nor for an answer.
    pub(crate) fn stop(&self) -> &Stop {
        &self.stop
    }

    /// A stop for jobs of their own, which may be done again after it was set.
    pub(crate) fn new_stop(&self) -> Stop {
        self.client.new_stop()
    }

    fn attempts(&self) -> Attempts<'_> {
        Attempts::new(self.clock(), *lock(&self.patience)).until(&self.stop)
    }

    /// `/v2/NAME/REST` at the registry.
    fn url(&self, rest: &str) -> Result<Url> {
        self.registry
            .join(&format!("/v2/{}/{rest}", self.repository.name()))
    }

    /// Sends a request until it is answered with success, or trying again cannot help.
    ///
    /// `make` builds each attempt anew.
    fn send<'r>(
        &self,
        method: &'static str,
        url: &Url,
        access: Access<'_>,
        make: impl Fn(Request<'r>) -> Request<'r>,
    ) -> Result<Response> {
        self.until_answered(|| {
            let response = self.send_once(method, url, access, &make)?;
            self.successful(method, url, response)
        })
    }

    /// Runs `attempt` until it succeeds or fails for good.
    fn until_answered<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let mut attempts = self.attempts();
        loop {
            attempts.begin(&self.gate)?;
            match attempt() {
                Ok(answer) => return Ok(answer),
                Err(error) => attempts.wait_after(error, &self.gate, self.report())?,
            }
        }
    }

    /// One attempt, with the login that the registry wants. A token or password may have ended
    /// meanwhile, so a refusal is answered with a new one.
    fn send_once<'r>(
        &self,
        method: &'static str,
        url: &Url,
        access: Access<'_>,
        make: impl Fn(Request<'r>) -> Request<'r>,
    ) -> Result<Response> {
        self.exchange(method, url, access, make)?
    }

    /// The same; a failure of the exchange itself is apart from one of the login.
    fn exchange<'r>(
        &self,
        method: &'static str,
        url: &Url,
        access: Access<'_>,
        make: impl Fn(Request<'r>) -> Request<'r>,
    ) -> Result<Result<Response>> {
        let scope = self.scope(access);
        let mut authorization = self.authorization_for(url, &scope)?;
        let mut left = match access {
            Access::Pull => 1,
            Access::Push | Access::Mount(_) => RENEWALS,
        };
        let mut left_of_403 = 1;
        loop {
            let request = make(self.request(method, url)).authorization(authorization.as_ref());
            let response = match self.client.send(request) {
                Ok(response) => response,
                Err(error) => return Ok(Err(error)),
            };
            let left = match response.status {
                403 => &mut left_of_403,
                _ => &mut left,
            };
            if *left == 0 || !self.auth.can_answer(&response) {
                return Ok(Ok(response));
            }
            *left -= 1;
            let response = response.settled();
            let other = self
                .auth
                .renew(&response, &scope, authorization.as_ref())
                .doing(|| format!("{method} {}", self.as_reached(url)))?;
            let Some(other) = other else {
                return Ok(Ok(response));
            };
            authorization = Some(other);
        }
    }

    /// A request to the registry itself, or to where it says that an upload goes on.
    fn request<'r>(&self, method: &'static str, url: &Url) -> Request<'r> {
        match self.is_own(url) {
            true => Request::new(method, url).may_be_plain(),
            false => Request::new(method, url).named_by(&self.own_url()),
        }
    }

    /// The registry as it is reached.
    fn own_url(&self) -> Url {
        match self.client.is_plain(&self.registry) {
            true => self.registry.with_scheme(Scheme::Http),
            false => self.registry.clone(),
        }
    }

    /// `url` as it was asked for: a registry may turn out to speak plain HTTP.
    fn as_reached(&self, url: &Url) -> Url {
        match self.is_own(url) {
            true => url.with_scheme(self.own_url().scheme()),
            false => url.clone(),
        }
    }

    /// `url`, which the registry named, with the scheme that it is reached by.
    ///
    /// Quirk(registries behind a TLS proxy): they name their own scheme. The host is the same, so
    /// HTTPS is meant.
    fn with_own_scheme(&self, url: Url) -> Url {
        let own = self.own_url();
        let same_place = url.host() == own.host()
            && (!url.has_port() || url.port() == own.port() || !own.has_port());
        match own.is_https() && !url.is_https() && same_place {
            true => own.join(url.target()).unwrap_or(url),
            false => url,
        }
    }

    fn scope(&self, access: Access<'_>) -> Scope {
        let name = self.repository.name();
        match access {
            Access::Pull => Scope::pull(name),
            Access::Push => Scope::push(name),
            Access::Mount(from) => Scope::push(name).and_pull(from),
        }
    }

    /// Credentials go to the registry and nowhere else, whatever a `Location` says.
    fn authorization_for(&self, url: &Url, scope: &Scope) -> Result<Option<Secret>> {
        match self.is_own(url) {
            true => self.auth.authorization(scope),
            false => Ok(None),
        }
    }

    /// Whether `url` is on the registry itself.
    fn is_own(&self, url: &Url) -> bool {
        self.client.is_at(&self.registry, url)
    }

    fn successful(&self, method: &'static str, url: &Url, response: Response) -> Result<Response> {
        match response.is_success() {
            true => Ok(response),
            false => Err(self.problem(method, url, response)),
        }
    }

    fn problem(&self, method: &'static str, url: &Url, response: Response) -> Error {
        let own = self.is_own(&response.url);
        let error = problem(method, &self.as_reached(url), response, self.clock());
        // Another server's refusal has nothing to do with this login.
        match error.is_denied() && own {
            true => self.auth.advise(error),
            false => error,
        }
    }
}
