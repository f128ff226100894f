//! Connections: TCP to the server, or to its proxy and on from there.
//!
//! HTTPS goes through a proxy by CONNECT (RFC 9110, section 9.3.6); plain HTTP is forwarded by it,
//! with the whole URL in the request line (RFC 9112, section 3.2.2).

use std::fmt;
use std::io::Write as _;
use std::sync::Arc;

use ureq::http::Uri;
use ureq::unversioned::resolver::Resolver as _;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport, TransportAdapter,
};

use super::failure::{io_error, network_error};
use super::names::Names;
use super::proxy::Proxy;
use super::request::Waits;
use super::tls::Tls;
use super::url::Url;
use crate::error::{Again, Error, Kind, Result};

/// The answer of a proxy to CONNECT; more than any sends.
const CONNECT_ANSWER_LIMIT: usize = 16 << 10;

/// Answers to one CONNECT: some may be interim ones before the last.
const CONNECT_ANSWERS: usize = 8;

/// The first connector of the chain: what comes out is a byte stream to the server, not yet TLS.
pub(super) struct Dial {
    names: Names,
    tls: Tls,
}

impl Dial {
    pub(super) fn new(names: Names, tls: Tls) -> Self {
        Dial { names, tls }
    }

    fn connect_to_proxy(
        &self,
        details: &ConnectionDetails,
        proxy: &Proxy,
    ) -> std::result::Result<Box<dyn Transport>, ureq::Error> {
        let uri: Uri = match proxy.url.expose().parse() {
            Ok(uri) => uri,
            Err(_) => return Err(ureq::Error::InvalidProxyUrl),
        };
        let mut addrs = self.names.empty();
        for address in self
            .names
            .addresses(proxy.url.host())
            .map_err(|error| of_proxy(error, proxy).into_io())?
        {
            addrs.push((address, proxy.url.port()).into());
        }
        let to_proxy = ConnectionDetails {
            uri: &uri,
            addrs,
            config: details.config,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: Arc::clone(&details.run_connector),
            register_shutdown: Arc::clone(&details.register_shutdown),
        };
        let stream = tcp(&to_proxy).map_err(|error| of_proxy(error, proxy).into_io())?;
        match proxy.url.is_https() {
            true => Ok(self
                .tls
                .wrap(&to_proxy, stream)
                .map_err(|error| of_proxy(error, proxy).into_io())?),
            false => Ok(stream),
        }
    }
}

impl Connector<()> for Dial {
    type Out = Box<dyn Transport>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        _: Option<()>,
    ) -> std::result::Result<Option<Self::Out>, ureq::Error> {
        let url = Url::parse(&details.uri.to_string()).map_err(Error::into_io)?;
        let Some(proxy) = self.names.proxies().for_url(&url) else {
            let connected = tcp(details);
            if connected.is_err() {
                self.names.forget(url.host());
            }
            return Ok(Some(connected.map_err(Error::into_io)?));
        };
        let stream = self.connect_to_proxy(details, proxy)?;
        if url.is_https() {
            let tunnel = tunnel(details, stream, &url, proxy, &self.tls);
            let stream = tunnel.map_err(Error::into_io)?;
            return Ok(Some(Box::new(Tunnel(stream))));
        }
        Ok(Some(Box::new(Forward::new(stream, &url, proxy))))
    }
}

/// A TCP connection to the first of the addresses that answers.
fn tcp(details: &ConnectionDetails) -> Result<Box<dyn Transport>> {
    let connected = Connector::<()>::connect(&TcpConnector::default(), details, None);
    match connected {
        Ok(Some(stream)) => Ok(Box::new(stream)),
        Ok(None) => Err(Error::new(Kind::Network, "the host has no address")),
        Err(error) => Err(network_error(error, waits(details))),
    }
}

fn waits(details: &ConnectionDetails) -> Waits {
    let connect = details.config.timeouts().connect;
    Waits {
        connect: connect.unwrap_or(Waits::USUAL.connect),
        ..Waits::USUAL
    }
}

pub(super) fn login_refused(status: u16) -> Error {
    Error::new(
        Kind::Denied,
        format!("it wants a user and password that it knows (status {status})"),
    )
    .advise("put them into the proxy's URL: http://user:password@host:port")
}

fn of_proxy(error: Error, proxy: &Proxy) -> Error {
    error.doing(format!("proxy {}", proxy.url.origin()))
}

/// Asks the proxy for a tunnel to the server of `url`.
fn tunnel(
    details: &ConnectionDetails,
    stream: Box<dyn Transport>,
    url: &Url,
    proxy: &Proxy,
    tls: &Tls,
) -> Result<Box<dyn Transport>> {
    let target = format!("{}:{}", url.host(), url.port());
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(authorization) = &proxy.authorization {
        head.push_str(&format!(
            "Proxy-Authorization: {}\r\n",
            authorization.expose()
        ));
    }
    head.push_str("\r\n");
    let mut stream = TransportAdapter::new(stream, details.current_time.clone());
    stream.set_timeout(details.timeout);
    let broken = |error| of_proxy(io_error(error), proxy);
    stream.write_all(head.as_bytes()).map_err(broken)?;
    let mut stream = stream.into_inner();
    let status = (0..CONNECT_ANSWERS)
        .map(|_| read_connect_answer(&mut *stream, details))
        .find(|answer| !matches!(answer, Ok(100..=199)))
        .unwrap_or_else(|| Err(Error::registry("its answer to CONNECT does not end")))
        .map_err(|error| of_proxy(error, proxy))?;
    match status {
        200..=299 => Ok(stream),
        // Quirk(tinyproxy): a wrong password is answered 401, not 407.
        401 | 407 => Err(of_proxy(login_refused(status), proxy)),
        // The server does not resolve or refuses: what we would be told without a proxy.
        500..=599 => Err(of_proxy(
            Error::new(
                Kind::Network,
                format!("it cannot connect to {target} (status {status})"),
            )
            .again(Again::Unreachable),
            proxy,
        )),
        _ => {
            let why = format!("it refuses to connect to {target} (status {status})");
            let error = of_proxy(Error::new(Kind::Network, why), proxy);
            if matches!(status, 408 | 425 | 429) {
                return Err(error.again(Again::Later { after: None }));
            }
            tls.refuses_tunnels(url);
            Err(error)
        }
    }
}

/// Reads the head of the answer to CONNECT, and not a byte more.
fn read_connect_answer(stream: &mut dyn Transport, details: &ConnectionDetails) -> Result<u16> {
    let mut head: Vec<u8> = Vec::new();
    loop {
        if !stream.buffers().can_use_input() {
            let more = stream
                .await_input(details.timeout)
                .map_err(|error| network_error(error, waits(details)))?;
            if !more {
                return Err(Error::new(
                    Kind::Network,
                    "it closed the connection instead of answering CONNECT",
                )
                .again(Again::Later { after: None }));
            }
        }
        let input = stream.buffers().input();
        let mut used = 0;
        for byte in input {
            used += 1;
            head.push(*byte);
            if head.ends_with(b"\r\n\r\n") || head.ends_with(b"\n\n") {
                break;
            }
        }
        stream.buffers().input_consume(used);
        if head.ends_with(b"\r\n\r\n") || head.ends_with(b"\n\n") {
            break;
        }
        if head.len() > CONNECT_ANSWER_LIMIT {
            return Err(Error::registry("its answer to CONNECT does not end"));
        }
    }
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|status| status.trim().parse().ok());
    status.ok_or_else(|| Error::registry("its answer to CONNECT is not HTTP"))
}

/// A tunnel through a proxy: a new connection, not yet TLS even where the way to the proxy is.
#[derive(Debug)]
struct Tunnel(Box<dyn Transport>);

impl Transport for Tunnel {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(
        &mut self,
        amount: usize,
        timeout: NextTimeout,
    ) -> std::result::Result<(), ureq::Error> {
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> std::result::Result<bool, ureq::Error> {
        self.0.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }
}

/// A connection to a proxy that forwards plain HTTP: every request line gets the server's name
/// before its path, and the proxy's own credentials behind it.
struct Forward {
    inner: Box<dyn Transport>,
    origin: String,
    header: String,
    /// What goes out next is the start of a request head: nothing was sent yet, or an answer was
    /// read since.
    at_head: bool,
}

impl Forward {
    fn new(inner: Box<dyn Transport>, url: &Url, proxy: &Proxy) -> Self {
        let header = match &proxy.authorization {
            Some(value) => format!("Proxy-Authorization: {}\r\n", value.expose()),
            None => String::new(),
        };
        Forward {
            inner,
            origin: url.origin(),
            header,
            at_head: true,
        }
    }

    /// The head in the output buffer as a proxy wants it.
    fn rewritten(&mut self, amount: usize) -> Option<Vec<u8>> {
        let head = self.inner.buffers().output().get(..amount)?;
        let space = head.iter().position(|b| *b == b' ')? + 1;
        let line_end = head.windows(2).position(|two| two == b"\r\n")? + 2;
        let mut out = Vec::with_capacity(amount + self.origin.len() + self.header.len());
        out.extend_from_slice(head.get(..space)?);
        out.extend_from_slice(self.origin.as_bytes());
        out.extend_from_slice(head.get(space..line_end)?);
        out.extend_from_slice(self.header.as_bytes());
        out.extend_from_slice(head.get(line_end..)?);
        Some(out)
    }
}

impl Transport for Forward {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(
        &mut self,
        amount: usize,
        timeout: NextTimeout,
    ) -> std::result::Result<(), ureq::Error> {
        if self.at_head
            && let Some(head) = self.rewritten(amount)
        {
            self.at_head = false;
            let mut rest = head.as_slice();
            while !rest.is_empty() {
                let room = self.inner.buffers().output();
                let n = room.len().min(rest.len());
                let (now, later) = rest.split_at(n);
                if let Some(room) = room.get_mut(..n) {
                    room.copy_from_slice(now);
                }
                self.inner.transmit_output(n, timeout)?;
                rest = later;
            }
            return Ok(());
        }
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> std::result::Result<bool, ureq::Error> {
        self.at_head = true;
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Forward({})", self.origin)
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}
