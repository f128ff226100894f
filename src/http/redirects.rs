//! Where a request may lead: redirects, and the addresses behind names.

use super::addresses::{is_link_local, is_loopback, is_public};
use super::client::Client;
use super::request::{Payload, Reach, Request};
use super::response::Response;
use super::url::Url;
use crate::error::{Error, Result};

/// Redirects followed for one request; curl and Go allow 50 and 10.
const REDIRECT_LIMIT: usize = 10;

impl Client<'_> {
    /// Sends a request and follows its redirects; gives the payload back.
    pub(super) fn follow<'p>(&self, request: Request<'p>) -> (Result<Response>, Payload<'p>) {
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
                    "{url} redirects to {next}, from HTTPS to plain HTTP: not followed"
                ));
                return (Err(error), payload);
            }
            let carries = bound || matches!(payload, Payload::Bytes(_));
            if carries && !next.same_origin(first) {
                let error = Error::registry(format!(
                    "{url} redirects to {next}, another server than the one that what is sent is for"
                ));
                return (Err(error), payload);
            }
            response.discard();
            url = next;
        }
        let error = Error::registry(format!(
            "{first}: more than {REDIRECT_LIMIT} redirects, the last to {url}"
        ));
        (Err(error), payload)
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
                    "{} leads to {url}, and {address} is an address that it must not lead to",
                    home.origin()
                )));
            }
        }
        Ok(())
    }
}
