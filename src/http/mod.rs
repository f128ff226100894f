//! One attempt of one request: connections, proxies, TLS, redirects. The only user of ureq and
//! rustls. It never tries again: whoever asks decides that by [`crate::error::Again`].

mod addresses;
mod dial;
mod names;
mod problem;
mod proxy;
mod tls;
mod url;
mod wire;

use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ureq::http::{self, HeaderMap, HeaderValue};
use ureq::{Agent, AsSendBody, Body, SendBody};

use crate::context::{Context, Env};
use crate::error::{Again, Doing, Error, Kind, Result};
use crate::secret::Secret;
use crate::workers::lock;

pub(crate) use addresses::is_private_literal;
pub(crate) use problem::{problem, problem_saying};
pub(crate) use url::{Scheme, Url, encode, ip_literal};

use addresses::{is_link_local, is_loopback, is_near, is_public};
use names::Names;
use problem::Sent;
use proxy::Proxies;
use tls::Tls;
use wire::{EarlyAnswer, Wire};

/// Time for a connection to come about: TCP, proxy and TLS.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// Without a byte for this long a connection is broken.
const STALL: Duration = Duration::from_secs(60);

/// Redirects followed for one request; curl and Go allow 50 and 10.
const REDIRECT_LIMIT: usize = 10;

/// Idle connections that are kept at least: one for each of the 16 look-ups of tags, and some for
/// token servers and storage.
const IDLE_CONNECTIONS: usize = 20;

/// Bytes of a connection's buffers, in and out. Larger ones bring no speed and are held by every
/// connection.
const INPUT_BUFFER: usize = 64 << 10;
const OUTPUT_BUFFER: usize = 64 << 10;

/// What a client believes and how it connects.
#[derive(Clone, Default)]
pub(crate) struct Options {
    /// PEM texts trusted besides the system's and the built-in roots.
    pub(crate) ca_certs: Vec<String>,
    /// Certificates are not verified, and any host may turn out to be plain HTTP.
    pub(crate) insecure: bool,
    /// Shown to one server that asks for a client certificate.
    pub(crate) identity: Option<Identity>,
}

/// A client certificate. Like a password it is for one server and for no other.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) server: Url,
    /// PEM: the certificate, and those between it and its authority.
    pub(crate) certificate: String,
    /// PEM, not encrypted.
    pub(crate) key: Secret,
}

/// The HTTP client of a run: one pool of connections, shared by all workers.
pub(crate) struct Client<'a> {
    context: &'a Context<'a>,
    agent: Agent,
    names: Names,
    tls: Tls,
    insecure: bool,
    sent: Sent,
    /// Origins (of `https`) whose registry turned out to speak plain HTTP.
    plain: Mutex<HashSet<String>>,
}

/// What goes out behind the head of a request.
pub(crate) enum Payload<'a> {
    Bytes(&'a [u8]),
    Empty,
    /// Sent as it is read; chunked where the length is not known.
    Stream {
        reader: &'a mut dyn Read,
        length: Option<u64>,
    },
}

/// Where a request, or a redirect of it, may lead.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reach {
    /// A server that the user named, and what it redirects to: nothing link-local, and loopback
    /// only where the server itself is on loopback.
    Named,
    /// A server that an image named: public addresses only.
    Public,
}

/// One request.
pub(crate) struct Request<'a> {
    method: &'static str,
    url: Url,
    headers: Vec<(&'static str, String)>,
    authorization: Option<Secret>,
    payload: Payload<'a>,
    reach: Reach,
    /// The server that named the URL, where the user did not.
    named_by: Option<Url>,
    may_be_plain: bool,
    waits: Waits,
    bound: bool,
    secrets: Vec<Secret>,
}

/// How long a server has to accept a connection, and then to begin its answer and to end it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Waits {
    pub(crate) connect: Duration,
    pub(crate) answer: Duration,
}

impl Waits {
    const USUAL: Waits = Waits {
        connect: CONNECT_PATIENCE,
        answer: STALL,
    };
}

impl<'a> Request<'a> {
    pub(crate) fn new(method: &'static str, url: &Url) -> Self {
        Request {
            method,
            url: url.clone(),
            headers: Vec::new(),
            authorization: None,
            payload: Payload::Empty,
            reach: Reach::Named,
            named_by: None,
            may_be_plain: false,
            waits: Waits::USUAL,
            bound: false,
            secrets: Vec::new(),
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Sends `value` as `Authorization`, to the origin of the URL and nowhere else.
    pub(crate) fn authorization(mut self, value: Option<&Secret>) -> Self {
        self.authorization = value.cloned();
        self
    }

    pub(crate) fn payload(mut self, payload: Payload<'a>) -> Self {
        self.payload = payload;
        self
    }

    pub(crate) fn reach(mut self, reach: Reach) -> Self {
        self.reach = reach;
        self
    }

    /// The URL is what a server answered (an upload's `Location`): it may lead to no other place
    /// than a redirect by `server` may.
    pub(crate) fn named_by(mut self, server: &Url) -> Self {
        self.named_by = Some(server.clone());
        self
    }

    /// The host is a registry that may turn out to speak plain HTTP: where the rules allow it and
    /// the port speaks no TLS, the request goes out again without it.
    pub(crate) fn may_be_plain(mut self) -> Self {
        self.may_be_plain = true;
        self
    }

    /// For a server that is near or not there at all: one that is silent for longer than this is
    /// [`Again::Unreachable`].
    pub(crate) fn within(mut self, waits: Waits) -> Self {
        self.waits = waits;
        self
    }

    /// Headers or payload hold secrets: a redirect to another origin is refused.
    pub(crate) fn bound_to_origin(mut self) -> Self {
        self.bound = true;
        self
    }

    /// A header or the payload holds this secret: the same, and a server that repeats it is not
    /// quoted.
    pub(crate) fn holding(mut self, secret: &Secret) -> Self {
        self.secrets.push(secret.clone());
        self.bound_to_origin()
    }
}

/// An answer, of whatever status.
pub(crate) struct Response {
    pub(crate) status: u16,
    method: &'static str,
    /// Where it came from, after redirects.
    pub(crate) url: Url,
    headers: HeaderMap,
    body: Body,
    /// The proxy that forwarded it, which may have answered itself.
    via: Option<String>,
    /// What requests proved themselves with; a server that repeats it is not quoted.
    sent: Sent,
}

impl Response {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header of this name that is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        text(self.headers.get(name)?)
    }

    fn is_json(&self) -> bool {
        self.header("content-type")
            .is_some_and(|value| value.contains("json"))
    }

    /// All headers of this name that are text.
    pub(crate) fn headers<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let values = self.headers.get_all(name);
        values.iter().filter_map(text)
    }

    /// The number of bytes that the body is announced to have.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    pub(crate) fn into_reader(self) -> BodyReader {
        BodyReader(self.body.into_with_config().limit(u64::MAX).reader())
    }

    /// The whole body.
    ///
    /// # Errors
    /// More than `limit` bytes; a broken connection.
    pub(crate) fn bytes(self, limit: u64) -> Result<Vec<u8>> {
        let asked = format!("{} {}", self.method, self.url);
        match self.bytes_up_to(limit + 1) {
            Ok(bytes) if bytes.len() as u64 > limit => Err(Error::hostile(format!(
                "{asked}: the answer is longer than {limit} bytes, the most that is accepted"
            ))),
            bytes => bytes.doing(|| asked),
        }
    }

    /// The same with its body in memory, as far as it is short: the connection is free again.
    pub(crate) fn settled(mut self) -> Self {
        let mut bytes = Vec::new();
        let body = std::mem::replace(&mut self.body, Body::builder().data(""));
        let mut body = body.into_with_config().limit(u64::MAX).reader();
        // What cannot be read of an error is not shown.
        let _ = (&mut body)
            .take(INPUT_BUFFER as u64)
            .read_to_end(&mut bytes);
        self.body = Body::builder().data(bytes);
        self
    }

    /// Reads what is left of a short body, so that the connection can be used again.
    pub(crate) fn discard(self) {
        // Nobody wants these bytes: that they cannot be read is no failure.
        let _ = self.bytes_up_to(INPUT_BUFFER as u64);
    }

    /// At most the first `limit` bytes of the body.
    pub(crate) fn bytes_up_to(self, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.into_reader().take(limit).read_to_end(&mut bytes);
        match read {
            Ok(_) => Ok(bytes),
            Err(error) => Err(io_error(error)),
        }
    }
}

/// A header as text: `to_str` takes ASCII alone, and names of realms have umlauts.
fn text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

/// A body as it arrives; its errors are [`Error`]s inside `io::Error`.
pub(crate) struct BodyReader(ureq::BodyReader<'static>);

impl Read for BodyReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).map_err(|error| io_error(error).into_io())
    }
}

impl<'a> Client<'a> {
    /// # Errors
    /// A proxy variable or a CA certificate that cannot be read.
    pub(crate) fn new(context: &'a Context<'a>, options: &Options) -> Result<Self> {
        let names = Names::new(Arc::new(Proxies::from_env(context.env)?));
        let sent = Sent::default();
        for authorization in names.proxies().authorizations() {
            sent.authorization(authorization);
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
        let connector = dial::Dial::new(names.clone(), tls.clone())
            .chain(tls.clone())
            .chain(Wire);
        Ok(Client {
            context,
            agent: Agent::with_parts(config, connector, names.clone()),
            names,
            tls,
            insecure,
            sent,
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
        for secret in request.secrets.drain(..) {
            self.sent.secret(secret.expose());
        }
        if let Some(authorization) = &request.authorization {
            self.sent.authorization(authorization);
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

    /// Sends a request and follows its redirects; gives the payload back.
    fn follow<'p>(&self, request: Request<'p>) -> (Result<Response>, Payload<'p>) {
        let Request {
            method,
            url: first,
            headers,
            authorization,
            mut payload,
            reach,
            waits,
            bound,
            named_by,
            ..
        } = request;
        let first = &first;
        let home = named_by.as_ref().unwrap_or(first);
        let mut url = first.clone();
        let mut authorization = authorization;
        for _ in 0..=REDIRECT_LIMIT {
            if (reach == Reach::Public || !url.same_origin(home))
                && let Err(error) = self.check_reach(home, &url, reach)
            {
                return (Err(error), payload);
            }
            // A server on the way may not send us back with credentials to a place of its choice.
            if !url.same_origin(first) {
                authorization = None;
            }
            let secret = authorization.as_ref();
            let outcome = self.exchange(method, &url, &headers, secret, &mut payload, waits);
            let response = match outcome {
                Ok(response) => response,
                Err(error) => return (Err(error), payload),
            };
            let redirects = match response.status {
                301..=303 => matches!(method, "GET" | "HEAD"),
                307 | 308 => matches!(payload, Payload::Empty | Payload::Bytes(_)),
                _ => false,
            };
            let Some(location) = response.header("location").filter(|_| redirects) else {
                return (Ok(response), payload);
            };
            let next = match url.join(location) {
                Ok(next) => next,
                Err(error) => return (Err(error.doing(format!("redirect of {url}"))), payload),
            };
            if url.is_https() && !next.is_https() {
                let error = Error::registry(format!(
                    "{url} redirects to {}, from HTTPS to plain HTTP: not followed",
                    self.shown(&next)
                ));
                return (Err(error), payload);
            }
            let carries = bound || matches!(payload, Payload::Bytes(_));
            if carries && !next.same_origin(first) {
                let error = Error::registry(format!(
                    "{url} redirects to {}, another server than the one that what is sent is for",
                    self.shown(&next)
                ));
                return (Err(error), payload);
            }
            response.discard();
            url = next;
        }
        let error = Error::registry(format!(
            "{first}: more than {REDIRECT_LIMIT} redirects, the last to {}",
            self.shown(&url)
        ));
        (Err(error), payload)
    }

    /// A URL that a server made, which may have put into it what it was sent.
    fn shown(&self, url: &Url) -> String {
        self.sent.hidden_in(url.to_string())
    }

    /// Refuses servers that a redirect, an upload location or an image must not lead to. Names
    /// are resolved first; the connection uses the same addresses.
    fn check_reach(&self, home: &Url, url: &Url, reach: Reach) -> Result<()> {
        let proxied = self.names.proxies().for_url(url).is_some();
        let addresses = match self.names.vetted(url.host()) {
            // The proxy resolves, and has rules of its own.
            Err(_) if proxied => Vec::new(),
            addresses => addresses?,
        };
        let is_at_home = || {
            let home = self.names.addresses(home.host()).unwrap_or_default();
            home.iter().any(|address| is_loopback(*address))
        };
        for address in addresses {
            let refused = match reach {
                Reach::Public => !is_public(address),
                Reach::Named => is_link_local(address) || (is_loopback(address) && !is_at_home()),
            };
            if refused {
                return Err(Error::registry(format!(
                    "{} leads to {}, and {address} is an address that it must not lead to",
                    home.origin(),
                    self.shown(url)
                )));
            }
        }
        Ok(())
    }

    /// Whether requests to `url` go through a proxy.
    pub(crate) fn is_proxied(&self, url: &Url) -> bool {
        self.names.proxies().for_url(url).is_some()
    }

    fn run<S: AsSendBody>(
        &self,
        request: http::Request<S>,
        waits: Waits,
    ) -> std::result::Result<http::Response<Body>, ureq::Error> {
        if waits == Waits::USUAL {
            return self.agent.run(request);
        }
        let config = self.agent.configure_request(request);
        let config = config.timeout_connect(Some(waits.connect));
        let config = config.timeout_recv_response(Some(waits.answer));
        let config = config.timeout_recv_body(Some(waits.answer));
        self.agent.run(config.build())
    }

    fn exchange(
        &self,
        method: &'static str,
        url: &Url,
        headers: &[(&'static str, String)],
        authorization: Option<&Secret>,
        payload: &mut Payload<'_>,
        waits: Waits,
    ) -> Result<Response> {
        let mut rest: &[u8];
        let mut builder = http::Request::builder().method(method).uri(url.expose());
        for (name, value) in headers {
            builder = builder.header(*name, value);
        }
        if let Some(secret) = authorization {
            builder = builder.header("authorization", secret.expose());
        }
        let body: Option<&mut dyn Read> = match payload {
            Payload::Empty => {
                if matches!(method, "POST" | "PUT" | "PATCH") {
                    builder = builder.header("content-length", "0");
                }
                None
            }
            Payload::Bytes(bytes) => {
                builder = builder.header("content-length", bytes.len().to_string());
                rest = *bytes;
                Some(&mut rest)
            }
            Payload::Stream { reader, length } => {
                if let Some(length) = length {
                    builder = builder.header("content-length", length.to_string());
                }
                Some(*reader)
            }
        };
        let shown = self.shown(url);
        let unsendable = |error: http::Error| Error::registry(format!("{method} {shown}: {error}"));
        let started = self.context.clock.elapsed();
        let answer = match body {
            None => self.run(builder.body(()).map_err(unsendable)?, waits),
            Some(reader) => {
                let body = SendBody::from_reader(reader);
                self.run(builder.body(body).map_err(unsendable)?, waits)
            }
        };
        let took = self.context.clock.elapsed().saturating_sub(started);
        let log = |outcome: &dyn std::fmt::Display| {
            self.context.report.debug(|| {
                let identity = match authorization {
                    Some(secret) => match secret.expose().split(' ').next() {
                        Some("Basic") => ", with a password",
                        _ => ", with a token",
                    },
                    None => "",
                };
                let proxy = match self.names.proxies().for_url(url) {
                    Some(proxy) => format!(", proxy {}", proxy.url.origin()),
                    None => String::new(),
                };
                format!(
                    "{method} {shown}: {outcome}, {} ms{identity}{proxy}",
                    took.as_millis()
                )
            });
        };
        // What comes through a tunnel is the server's own.
        let via = self
            .names
            .proxies()
            .for_url(url)
            .filter(|_| !url.is_https());
        let via = via.map(|proxy| proxy.url.origin());
        let respond = |status, headers, body| Response {
            status,
            method,
            url: url.clone(),
            headers,
            body,
            via: via.clone(),
            sent: self.sent.clone(),
        };
        let answer = match answer {
            Ok(answer) => {
                let (parts, body) = answer.into_parts();
                Ok(respond(parts.status.as_u16(), parts.headers, body))
            }
            Err(error) => match EarlyAnswer::from_error(error) {
                Ok(early) => {
                    let (status, headers) = (early.status, early.headers.clone());
                    Ok(respond(status, headers, early.into_body()))
                }
                Err(error) => Err(network_error(error, waits)),
            },
        };
        match answer {
            Ok(response) => {
                match response.content_length() {
                    Some(length) => log(&format!("{}, {length} bytes", response.status)),
                    None => log(&response.status),
                }
                match refused_by_proxy(&response) {
                    Some(error) => Err(error.doing(format!("{method} {shown}"))),
                    None => Ok(response),
                }
            }
            Err(error) => {
                let error = in_time(error, waits);
                log(&error);
                Err(error.doing(format!("{method} {shown}")))
            }
        }
    }
}

/// Whoever has only a moment is not there when it is over.
fn in_time(error: Error, waits: Waits) -> Error {
    match error.can_try_again() {
        Again::Later { after: None } if waits != Waits::USUAL => error.again(Again::Unreachable),
        _ => error,
    }
}

/// A proxy that forwards plain HTTP answers in the server's place when it wants a login.
fn refused_by_proxy(response: &Response) -> Option<Error> {
    let proxy = response.via.as_ref()?;
    let server = response.header("server").unwrap_or_default();
    let refuses = match response.status {
        407 => true,
        // Quirk(tinyproxy 1.11): a wrong password is answered 401, as by the server itself.
        401 => server.starts_with("tinyproxy/"),
        _ => false,
    };
    refuses.then(|| dial::login_refused(response.status).doing(format!("proxy {proxy}")))
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

/// What a failed exchange means for whoever may try again.
fn network_error(error: ureq::Error, waits: Waits) -> Error {
    let later = |why: &str| Error::new(Kind::Network, why).again(Again::Later { after: None });
    match error {
        ureq::Error::Io(error) => io_error(error),
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => later(&format!(
            "no connection within {} s",
            waits.connect.as_secs()
        )),
        ureq::Error::Timeout(ureq::Timeout::RecvResponse) => {
            later(&format!("no answer within {} s", waits.answer.as_secs()))
        }
        ureq::Error::Timeout(ureq::Timeout::RecvBody) => later("the answer did not end in time"),
        ureq::Error::Timeout(_) => later(&format!("not a byte for {} s", STALL.as_secs())),
        ureq::Error::ConnectionFailed => later("the connection failed"),
        ureq::Error::BodyStalled => later("the connection was closed too early"),
        ureq::Error::Protocol(error) => {
            Error::registry(format!("the answer is not valid HTTP: {error}"))
        }
        other => Error::new(Kind::Network, other.to_string()),
    }
}

fn io_error(error: io::Error) -> Error {
    let error = match error.downcast::<ureq::Error>() {
        Ok(inner) => return network_error(inner, Waits::USUAL),
        Err(error) => error,
    };
    let again = match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::NetworkUnreachable => Again::Unreachable,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected
        | io::ErrorKind::TimedOut
        | io::ErrorKind::WouldBlock
        | io::ErrorKind::UnexpectedEof => Again::Later { after: None },
        _ => Again::Never,
    };
    // ureq's words for a connection that ended in the middle of an answer.
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Error::new(Kind::Network, "the connection was closed too early").again(again);
    }
    let is_ours = error.get_ref().is_some_and(|inner| inner.is::<Error>());
    let error = Error::io(Kind::Network, error);
    match (is_ours, again) {
        (true, _) => error,
        (false, Again::Unreachable) => error
            .again(again)
            .advise("check the host and port, and that the server is up"),
        (false, _) => error.again(again),
    }
}
