//! One attempt of one request: connections, proxies, TLS, redirects. The only user of ureq and
//! rustls. It never tries again: whoever asks decides that by [`crate::error::Again`].

mod dial;
mod names;
mod problem;
mod proxy;
mod tls;
mod url;

use std::collections::HashSet;
use std::io::{self, Read};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ureq::http::{self, HeaderMap};
use ureq::{Agent, AsSendBody, Body, SendBody};

use crate::context::Context;
use crate::error::{Again, Error, Kind, Result};
use crate::secret::Secret;
use crate::workers::lock;

pub(crate) use problem::{problem, problem_saying};
pub(crate) use url::{Scheme, Url, encode, ip_literal};

use names::Names;
use proxy::Proxies;
use tls::Tls;

/// Time for a connection to come about: TCP, proxy and TLS.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// Without a byte for this long a connection is broken.
const STALL: Duration = Duration::from_secs(60);

/// Redirects followed for one request; curl and Go allow 50 and 10.
const REDIRECT_LIMIT: usize = 10;

/// Idle connections that are kept: one a worker and look-up.
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
    may_be_plain: bool,
    waits: Waits,
    bound: bool,
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
            may_be_plain: false,
            waits: Waits::USUAL,
            bound: false,
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
}

/// An answer, of whatever status.
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Where it came from, after redirects.
    pub(crate) url: Url,
    headers: HeaderMap,
    body: Body,
}

impl Response {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header of this name that is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All headers of this name that are text.
    pub(crate) fn headers<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let values = self.headers.get_all(name);
        values.iter().filter_map(|value| value.to_str().ok())
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
        let url = self.url.clone();
        let bytes = self.bytes_up_to(limit + 1)?;
        if bytes.len() as u64 > limit {
            return Err(Error::hostile(format!(
                "{url}: the answer is longer than {limit} bytes, the most that is accepted"
            )));
        }
        Ok(bytes)
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
        let insecure = options.insecure;
        let tls = Tls::new(context.env, options, move |url| {
            insecure || is_near(url.host())
        })?;
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
            .max_idle_connections(IDLE_CONNECTIONS)
            .max_idle_connections_per_host(IDLE_CONNECTIONS)
            .timeout_connect(Some(CONNECT_PATIENCE))
            .timeout_per_read(Some(STALL))
            .timeout_per_write(Some(STALL))
            .build();
        use ureq::unversioned::transport::Connector as _;
        let connector = dial::Dial::new(names.clone(), tls.clone()).chain(tls.clone());
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
        let may_be_plain = request.may_be_plain
            && request.url.is_https()
            && (self.insecure || is_near(request.url.host()));
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
            may_be_plain: false,
            waits: request.waits,
            bound: request.bound,
        };
        let (outcome, payload) = self.follow(request);
        match outcome {
            Err(error) if self.speaks_no_tls(&secure, &error) => {
                self.context
                    .report
                    .debug(|| format!("{error}; plain HTTP instead"));
                let answer = self.follow(again.payload(payload)).0;
                if answer.is_ok() {
                    lock(&self.plain).insert(secure.origin());
                }
                answer.map_err(|plain_error| match plain_error.can_try_again() {
                    Again::Unreachable => error,
                    _ => plain_error,
                })
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
            ..
        } = request;
        let first = &first;
        let mut url = first.clone();
        for _ in 0..=REDIRECT_LIMIT {
            if (reach == Reach::Public || !url.same_origin(first))
                && let Err(error) = self.check_reach(first, &url, reach)
            {
                return (Err(error), payload);
            }
            let secret = authorization.as_ref().filter(|_| url.same_origin(first));
            let outcome = self.exchange(method, &url, &headers, secret, &mut payload, waits);
            let response = match outcome {
                Ok(response) => response,
                Err(error) => return (Err(error), payload),
            };
            let replayable = matches!(payload, Payload::Empty | Payload::Bytes(_));
            let redirects = match response.status {
                301..=303 => matches!(method, "GET" | "HEAD"),
                307 | 308 => replayable,
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
                let error = Error::hostile(format!(
                    "{url} redirects to {next}, from HTTPS to plain HTTP: not followed"
                ));
                return (Err(error), payload);
            }
            if bound && !next.same_origin(first) {
                let error = Error::hostile(format!(
                    "{url} redirects to {next}, another server, and what was sent is only for the first"
                ));
                return (Err(error), payload);
            }
            // What is left of a short body is read, so that the connection can be used again.
            let _ = response.bytes_up_to(INPUT_BUFFER as u64);
            url = next;
        }
        let error = Error::registry(format!(
            "{first}: more than {REDIRECT_LIMIT} redirects, the last to {url}"
        ));
        (Err(error), payload)
    }

    /// Refuses servers that a redirect, an upload location or an image must not lead to. Names
    /// are resolved first; the connection uses the same addresses.
    fn check_reach(&self, first: &Url, url: &Url, reach: Reach) -> Result<()> {
        let addresses = match self.names.proxies().for_url(url) {
            // The proxy resolves, and has rules of its own.
            Some(_) => ip_literal(url.host()).into_iter().collect(),
            None => self.names.addresses(url.host())?,
        };
        let home = || {
            let first = self.names.addresses(first.host()).unwrap_or_default();
            first
                .iter()
                .any(|address| address.to_canonical().is_loopback())
        };
        for address in addresses {
            let refused = match reach {
                Reach::Public => !is_public(address),
                Reach::Named => {
                    is_link_local(address) || (address.to_canonical().is_loopback() && !home())
                }
            };
            if refused {
                return Err(Error::hostile(format!(
                    "{} leads to {url}, and {address} is an address that it must not lead to",
                    first.origin()
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
        let unsendable = |error: http::Error| Error::registry(format!("{method} {url}: {error}"));
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
                    "{method} {url}: {outcome}, {} ms{identity}{proxy}",
                    took.as_millis()
                )
            });
        };
        match answer {
            Ok(answer) => {
                let (parts, body) = answer.into_parts();
                let response = Response {
                    status: parts.status.as_u16(),
                    url: url.clone(),
                    headers: parts.headers,
                    body,
                };
                match response.content_length() {
                    Some(length) => log(&format!("{}, {length} bytes", response.status)),
                    None => log(&response.status),
                }
                Ok(response)
            }
            Err(error) => {
                let error = in_time(network_error(error, waits), waits);
                log(&error);
                Err(error.doing(format!("{method} {url}")))
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

/// Hosts that may speak plain HTTP without `insecure`: this machine, `*.local`, and private IPv4
/// addresses. Everything else is HTTPS only.
fn is_near(host: &str) -> bool {
    proxy::is_loopback(host)
        || host.ends_with(".local")
        || matches!(ip_literal(host), Some(IpAddr::V4(address)) if address.is_private())
}

fn is_link_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Whether an address belongs to the public internet (RFC 6890 lists the ones that do not).
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            // RFC 6598: shared address space of carriers, 100.64.0.0/10.
            let shared = a == 100 && (64..128).contains(&b);
            !(address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast()
                || a == 0
                || a >= 240
                || shared)
        }
        IpAddr::V6(address) => {
            !(address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unique_local()
                || address.is_unicast_link_local())
        }
    }
}

/// Whether `host` is an address literal that only this machine or its neighbours mean.
pub(crate) fn is_private_literal(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || ip_literal(host).is_some_and(|address| !is_public(address))
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
    if let Some(error) = tls::error_inside(&error) {
        return error;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_public_are_known() {
        for (address, public) in [
            ("8.8.8.8", true),
            ("2606:4700::1", true),
            ("10.0.0.1", false),
            ("172.16.0.1", false),
            ("192.168.1.1", false),
            ("100.64.0.1", false),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("224.0.0.1", false),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:10.0.0.1", false),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }

    #[test]
    fn only_near_hosts_may_speak_plain_http() {
        for host in [
            "localhost",
            "a.localhost",
            "127.0.0.1",
            "[::1]",
            "nas.local",
            "10.1.2.3",
        ] {
            assert!(is_near(host), "{host}");
        }
        for host in [
            "example.com",
            "11.1.2.3",
            "[fd00::1]",
            "localhost.example.com",
            "local",
        ] {
            assert!(!is_near(host), "{host}");
        }
    }
}
