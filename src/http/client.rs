//! The client of a run: what it believes, and which registries speak plain HTTP.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use super::addresses::is_near;
use super::connections::Connections;
use super::names::Names;
use super::options::Options;
use super::problem::{hide, hide_authorization};
use super::proxy::Proxies;
use super::request::Request;
use super::response::Response;
use super::tls::Tls;
use super::url::{Scheme, Url};
use crate::context::Context;
use crate::error::{Again, Error, Result};
use crate::workers::{Stop, lock};

/// The HTTP client of a run: one pool of connections, shared by all workers.
pub(crate) struct Client<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) connections: Connections,
    pub(super) names: Names,
    tls: Tls,
    insecure: bool,
    /// Origins (of `https`) whose registry turned out to speak plain HTTP.
    plain: Mutex<HashSet<String>>,
}

impl<'a> Client<'a> {
    /// # Errors
    /// A proxy variable or a CA certificate that cannot be read.
    pub(crate) fn new(context: &'a Context<'a>, options: &Options) -> Result<Self> {
        let names = Names::new(Arc::new(Proxies::from_env(context.env)?));
        for authorization in names.proxies().authorizations() {
            hide_authorization(context.report.hidden(), authorization);
        }
        let insecure = options.insecure;
        let tls = Tls::new(context.env, options, move |url| {
            insecure || is_near(url.host())
        })?;
        Ok(Client {
            context,
            connections: Connections::new(context, names.clone(), tls.clone()),
            names,
            tls,
            insecure,
            plain: Mutex::default(),
        })
    }

    pub(crate) fn context(&self) -> &'a Context<'a> {
        self.context
    }

    /// A stop for jobs that wait for answers: when it is set, their connections are cut.
    pub(crate) fn new_stop(&self) -> Stop {
        let connections = self.connections.clone();
        Stop::with(move || connections.cut())
    }

    /// Whether the registry at `url` is known to speak plain HTTP.
    pub(crate) fn is_plain(&self, url: &Url) -> bool {
        !url.is_https() || lock(&self.plain).contains(&url.origin())
    }

    /// Whether `url` is on `server`, by HTTPS or, where that speaks plain HTTP, by that.
    pub(crate) fn is_at(&self, server: &Url, url: &Url) -> bool {
        url.same_origin(server)
            || (self.is_plain(server) && url.same_origin(&server.with_scheme(Scheme::Http)))
    }

    /// Sends one request and follows its redirects.
    ///
    /// # Errors
    /// No answer. An answer with an error status is no error here. When the connections were cut
    /// meanwhile, nothing is tried again.
    pub(crate) fn send(&self, request: Request<'_>) -> Result<Response> {
        let cuts = self.connections.cuts();
        self.send_before(cuts, request)
            .map_err(|error| match self.connections.cuts() == cuts {
                true => error,
                false => Error::local("its connection was cut"),
            })
    }

    /// The same, for as long as the connections are not cut.
    fn send_before(&self, cuts: u64, mut request: Request<'_>) -> Result<Response> {
        let hidden = self.context.report.hidden();
        for secret in request.secrets.drain(..) {
            hide(hidden, secret.expose());
        }
        if let Some(authorization) = &request.authorization {
            hide_authorization(hidden, authorization);
        }
        let may_be_plain = request.may_be_plain
            && request.url.is_https()
            && (self.insecure || is_near(request.url.host()))
            // Never back from what worked: that would be somebody's wish.
            && !self.tls.is_spoken_by(&request.url);
        if !may_be_plain {
            return self.follow(request).0;
        }
        let secure = request.url.clone();
        let plain = secure.with_scheme(Scheme::Http);
        if self.is_plain(&secure) {
            request.url = plain;
            return self.follow(request).0;
        }
        // A handshake that fails sends nothing of the request: it can go out again as it is.
        let again = request.once_more(plain);
        let (outcome, payload) = self.follow(request);
        let error = match outcome {
            Err(error)
                if self.connections.cuts() == cuts && self.speaks_no_tls(&secure, &error) =>
            {
                error
            }
            outcome => return outcome,
        };
        self.context
            .report
            .debug(|| format!("{error}; plain HTTP instead"));
        let failed = match self.follow(again.payload(payload)).0 {
            // A server that does speak TLS, and was only too slow, says so in words.
            Ok(answer)
                if answer.status == 400
                    && !answer.is_json()
                    && !self.tls.is_something_else(&secure) =>
            {
                error.again(Again::Later { after: None })
            }
            Ok(answer) => {
                lock(&self.plain).insert(secure.origin());
                return Ok(answer);
            }
            Err(plain) if plain.can_try_again() == Again::Unreachable => error,
            Err(plain) => plain,
        };
        self.tls.forget_not_tls(&secure);
        Err(failed)
    }

    /// Whether HTTPS failed because nothing there speaks it: another protocol on the port, or
    /// nobody on the default port while plain HTTP has another one.
    fn speaks_no_tls(&self, url: &Url, error: &Error) -> bool {
        self.tls.is_not_tls(url) || (!url.has_port() && error.can_try_again() == Again::Unreachable)
    }

    /// Whether requests to `url` go through a proxy.
    pub(crate) fn is_proxied(&self, url: &Url) -> bool {
        self.names.proxies().for_url(url).is_some()
    }
}
