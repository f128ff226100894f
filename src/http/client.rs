//! The client of a run: what it believes, and which registries speak plain HTTP.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ureq::Agent;

use super::addresses::is_near;
use super::dial::Dial;
use super::names::Names;
use super::options::Options;
use super::problem::{hide, hide_authorization};
use super::proxy::Proxies;
use super::request::{CONNECT_PATIENCE, Payload, Request, STALL};
use super::response::Response;
use super::tls::Tls;
use super::url::{Scheme, Url};
use super::wire::{INPUT_BUFFER, OUTPUT_BUFFER, Wire};
use crate::context::{Context, Env};
use crate::error::{Again, Error, Result};
use crate::workers::lock;

/// Idle connections that are kept at least: one for each of the 16 look-ups of tags, and some for
/// token servers and storage.
const IDLE_CONNECTIONS: usize = 20;

/// The HTTP client of a run: one pool of connections, shared by all workers.
pub(crate) struct Client<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) agent: Agent,
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
        let idle = context.workers.count().max(IDLE_CONNECTIONS);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .accept("")
            .accept_encoding("")
            .user_agent(concat!("registry-image/", env!("CARGO_PKG_VERSION")))
            .input_buffer_size(INPUT_BUFFER)
            .output_buffer_size(OUTPUT_BUFFER)
            .max_idle_connections(idle)
            .max_idle_connections_per_host(idle)
            .timeout_connect(Some(limit(context.env, CONNECT_PATIENCE)))
            .timeout_per_read(Some(limit(context.env, STALL)))
            .timeout_per_write(Some(limit(context.env, STALL)))
            .build();
        use ureq::unversioned::transport::Connector as _;
        let connector = Dial::new(names.clone(), tls.clone())
            .chain(tls.clone())
            .chain(Wire);
        Ok(Client {
            context,
            agent: Agent::with_parts(config, connector, names.clone()),
            names,
            tls,
            insecure,
            plain: Mutex::default(),
        })
    }

    pub(crate) fn context(&self) -> &'a Context<'a> {
        self.context
    }

    /// Whether the registry at `url` is known to speak plain HTTP.
    pub(crate) fn is_plain(&self, url: &Url) -> bool {
        !url.is_https() || lock(&self.plain).contains(&url.origin())
    }

    /// Sends one request and follows its redirects.
    ///
    /// # Errors
    /// No answer. An answer with an error status is no error here.
    pub(crate) fn send(&self, mut request: Request<'_>) -> Result<Response> {
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
        let again = Request {
            method: request.method,
            url: plain,
            headers: request.headers.clone(),
            authorization: request.authorization.clone(),
            payload: Payload::Empty,
            reach: request.reach,
            named_by: request.named_by.clone(),
            may_be_plain: false,
            waits: request.waits,
            bound: request.bound,
            secrets: Vec::new(),
        };
        let (outcome, payload) = self.follow(request);
        match outcome {
            Err(error) if self.speaks_no_tls(&secure, &error) => {
                self.context
                    .report
                    .debug(|| format!("{error}; plain HTTP instead"));
                match self.follow(again.payload(payload)).0 {
                    // A server that does speak TLS, and was only too slow, says so in words.
                    Ok(answer)
                        if answer.status == 400
                            && !answer.is_json()
                            && !self.tls.is_something_else(&secure) =>
                    {
                        Err(error.again(Again::Later { after: None }))
                    }
                    Ok(answer) => {
                        lock(&self.plain).insert(secure.origin());
                        Ok(answer)
                    }
                    Err(plain) if plain.can_try_again() == Again::Unreachable => Err(error),
                    Err(plain) => Err(plain),
                }
            }
            outcome => outcome,
        }
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

/// A limit on the time that a connection may take. Tests of the debug build shorten it: the
/// number that `REGISTRY_IMAGE_TEST_CLOCK` holds divides it.
fn limit(env: &Env, real: Duration) -> Duration {
    let divisor = match cfg!(debug_assertions) {
        true => env.get("REGISTRY_IMAGE_TEST_CLOCK"),
        false => None,
    };
    let divisor = divisor.and_then(|text| text.parse().ok());
    real / divisor.filter(|n| *n > 0).unwrap_or(1)
}
