//! One request and its answer on one connection.

use std::fmt;
use std::io::Read;
use std::time::Duration;

use ureq::http;
use ureq::{AsSendBody, Body, SendBody};

use super::client::Client;
use super::dial;
use super::failure::network_error;
use super::request::{Payload, Waits};
use super::response::Response;
use super::url::Url;
use super::wire::EarlyAnswer;
use crate::error::{Again, Error, Result};
use crate::secret::Secret;

impl Client<'_> {
    fn run<S: AsSendBody>(
        &self,
        request: http::Request<S>,
        waits: Waits,
    ) -> std::result::Result<http::Response<Body>, ureq::Error> {
        let agent = self.connections.agent();
        if waits == Waits::USUAL {
            return agent.run(request);
        }
        let config = agent.configure_request(request);
        let config = config.timeout_connect(Some(waits.connect));
        let config = config.timeout_recv_response(Some(waits.answer));
        let config = config.timeout_recv_body(Some(waits.answer));
        agent.run(config.build())
    }

    pub(super) fn exchange(
        &self,
        method: &'static str,
        url: &Url,
        headers: &[(&'static str, String)],
        authorization: Option<&Secret>,
        payload: &mut Payload<'_>,
        waits: Waits,
    ) -> Result<Response> {
        let builder = head(method, url, headers, authorization, payload);
        let mut rest: &[u8];
        let body: Option<&mut dyn Read> = match payload {
            Payload::Empty => None,
            Payload::Bytes(bytes) => {
                rest = *bytes;
                Some(&mut rest)
            }
            Payload::Stream { reader, .. } => Some(*reader),
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
        let log = |outcome: &dyn fmt::Display| self.log(method, url, authorization, took, outcome);
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
            hidden: self.context.report.hidden().clone(),
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
                    Some(error) => Err(error.doing(format!("{method} {url}"))),
                    None => Ok(response),
                }
            }
            Err(error) => {
                let error = in_time(error, waits);
                log(&error);
                Err(error.doing(format!("{method} {url}")))
            }
        }
    }

    /// A line of `debug`, without anything secret.
    fn log(
        &self,
        method: &str,
        url: &Url,
        authorization: Option<&Secret>,
        took: Duration,
        outcome: &dyn fmt::Display,
    ) {
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
    }
}

fn head(
    method: &str,
    url: &Url,
    headers: &[(&'static str, String)],
    authorization: Option<&Secret>,
    payload: &Payload<'_>,
) -> http::request::Builder {
    let mut builder = http::Request::builder().method(method).uri(url.expose());
    for (name, value) in headers {
        builder = builder.header(*name, value);
    }
    if let Some(secret) = authorization {
        builder = builder.header("authorization", secret.expose());
    }
    let length = match payload {
        Payload::Empty if matches!(method, "POST" | "PUT" | "PATCH") => Some(0),
        Payload::Empty => None,
        Payload::Bytes(bytes) => Some(bytes.len() as u64),
        Payload::Stream { length, .. } => *length,
    };
    match length {
        Some(length) => builder.header("content-length", length.to_string()),
        None => builder,
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
