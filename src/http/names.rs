//! Name resolution: once per host and run, and not at all for hosts that a proxy resolves.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::proxy::Proxies;
use super::url::{Url, ip_literal};
use crate::error::{Again, Error, Kind, Result};
use crate::workers::lock;

/// Addresses tried for one host; a name may have more.
const MOST_ADDRESSES: usize = 8;

/// The run's resolver; clones share what they learned.
#[derive(Clone)]
pub(super) struct Names {
    proxies: Arc<Proxies>,
    known: Arc<Mutex<HashMap<String, Known>>>,
}

struct Known {
    addresses: Vec<IpAddr>,
    /// They were looked at before credentials or bytes of an image were entrusted to them: they
    /// stay as they are for the run.
    vetted: bool,
}

impl Known {
    fn used(&mut self, vetted: bool) -> Vec<IpAddr> {
        self.vetted |= vetted;
        self.addresses.clone()
    }
}

impl Names {
    pub(super) fn new(proxies: Arc<Proxies>) -> Self {
        Names {
            proxies,
            known: Arc::default(),
        }
    }

    /// The addresses of `host`, which may be a literal.
    ///
    /// # Errors
    /// [`Again::Unreachable`]: resolvers fail for a moment, and names appear late.
    pub(super) fn addresses(&self, host: &str) -> Result<Vec<IpAddr>> {
        self.look_up(host, false)
    }

    /// The same for whoever judges the addresses: connections go to these and no others.
    pub(super) fn vetted(&self, host: &str) -> Result<Vec<IpAddr>> {
        self.look_up(host, true)
    }

    fn look_up(&self, host: &str, vetted: bool) -> Result<Vec<IpAddr>> {
        if let Some(address) = ip_literal(host) {
            return Ok(vec![address]);
        }
        if let Some(known) = lock(&self.known).get_mut(host) {
            return Ok(known.used(vetted));
        }
        let unresolved = |why: String| {
            Error::new(
                Kind::Network,
                format!("the host `{host}` does not resolve: {why}"),
            )
            .again(Again::Unreachable)
            .advise("check the name and this worker's DNS")
        };
        let found = (host, 0)
            .to_socket_addrs()
            .map_err(|error| unresolved(Error::io(Kind::Network, error).to_string()))?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in found.map(|found| found.ip()).take(MOST_ADDRESSES) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(unresolved("it has no address".to_owned()));
        }
        let known = Known { addresses, vetted };
        // Of several that asked at the same time, the first one is right for all.
        let mut all = lock(&self.known);
        let known = all.entry(host.to_owned()).or_insert(known);
        Ok(known.used(vetted))
    }

    /// Nobody answers at these addresses: the name may have moved.
    pub(super) fn forget(&self, host: &str) {
        lock(&self.known).retain(|name, known| known.vetted || name != host);
    }

    pub(super) fn proxies(&self) -> &Proxies {
        &self.proxies
    }
}

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        _: NextTimeout,
    ) -> std::result::Result<ResolvedSocketAddrs, ureq::Error> {
        let url = Url::parse(&uri.to_string()).map_err(Error::into_io)?;
        let mut addresses = self.empty();
        if self.proxies.for_url(&url).is_some() {
            // The proxy resolves: in a closed network nobody else can.
            addresses.push(SocketAddr::from(([0, 0, 0, 0], 0)));
            return Ok(addresses);
        }
        for address in self.addresses(url.host()).map_err(Error::into_io)? {
            addresses.push(SocketAddr::new(address, url.port()));
        }
        Ok(addresses)
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}
