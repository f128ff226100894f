//! Which proxy a connection goes through, from the environment's variables.

use std::net::IpAddr;

use base64::Engine as _;

use super::url::{Scheme, Url, decode, ip_literal, split_authority};
use crate::context::Env;
use crate::error::{Error, Result};
use crate::secret::Secret;

/// A proxy: where it is, and what it wants to hear.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(super) url: Url,
    /// The value of `Proxy-Authorization`.
    pub(super) authorization: Option<Secret>,
}

/// The proxies of a run.
#[derive(Clone, Default)]
pub(crate) struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    except: Vec<Except>,
}

/// One entry of `no_proxy`.
#[derive(Clone, Debug)]
enum Except {
    All,
    /// The domain itself and everything below it; with a dot or `*.` before it only what is below.
    Domain {
        name: String,
        only_below: bool,
        port: Option<u16>,
    },
    Network {
        address: IpAddr,
        prefix: u8,
        port: Option<u16>,
    },
}

impl Proxies {
    /// Reads `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` in either case of letters.
    ///
    /// # Errors
    /// A proxy URL that is none; the variable is named and nothing of its value is shown, as it
    /// may hold a password.
    pub(crate) fn from_env(env: &Env) -> Result<Self> {
        let except = env
            .first(&["NO_PROXY", "no_proxy"])
            .map(|(_, text)| text.split([',', ' ']).filter_map(Except::parse).collect());
        let http = read(env, "HTTP_PROXY", "http_proxy")?;
        let https = read(env, "HTTPS_PROXY", "https_proxy")?;
        let all = match read(env, "ALL_PROXY", "all_proxy") {
            // The one for all may be of a kind that we do not know, where another one is meant for us.
            Err(_) if http.is_some() || https.is_some() => None,
            all => all?,
        };
        Ok(Proxies {
            http: http.or_else(|| all.clone()),
            https: https.or(all),
            except: except.unwrap_or_default(),
        })
    }

    /// What the proxies want to hear.
    pub(super) fn authorizations(&self) -> impl Iterator<Item = &Secret> {
        let both = [&self.http, &self.https].into_iter().flatten();
        both.filter_map(|proxy| proxy.authorization.as_ref())
    }

    /// The proxy for a connection to `url`. Loopback is never proxied.
    pub(crate) fn for_url(&self, url: &Url) -> Option<&Proxy> {
        let proxy = match url.scheme() {
            Scheme::Http => self.http.as_ref(),
            Scheme::Https => self.https.as_ref(),
        }?;
        let excepted = is_loopback(url.host())
            || self
                .except
                .iter()
                .any(|except| except.covers(url.host(), url.port()));
        (!excepted).then_some(proxy)
    }
}

/// Whether `host` (a name or literal, no port) is this machine by its very name.
pub(crate) fn is_loopback(host: &str) -> bool {
    match ip_literal(host) {
        Some(address) => address.to_canonical().is_loopback(),
        None => {
            let host = host.trim_end_matches('.');
            host == "localhost" || host.ends_with(".localhost")
        }
    }
}

fn read(env: &Env, upper: &str, lower: &str) -> Result<Option<Proxy>> {
    let Some((name, text)) = env.first(&[upper, lower]) else {
        return Ok(None);
    };
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let refuse = |why: &str| {
        Err(Error::config(format!(
            "the environment's `{name}` is not a proxy URL: {why}"
        ))
        .advise("write it as `http://[user:password@]host:port`"))
    };
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    if !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
        return refuse("its scheme is neither http nor https");
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (userinfo, host) = match authority.rsplit_once('@') {
        Some((userinfo, host)) => (Some(userinfo), host),
        None => (None, authority),
    };
    if split_authority(host).is_none() {
        return refuse("its host or port is none");
    }
    let Ok(url) = Url::parse(&format!("{scheme}://{host}/")) else {
        return refuse("its host or port is none");
    };
    let authorization = match userinfo {
        None => None,
        Some(userinfo) => {
            let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
            let (Some(mut plain), Some(password)) = (decode(user), decode(password)) else {
                return refuse("its user or password has a `%` that encodes nothing");
            };
            plain.push(b':');
            plain.extend(password);
            let encoded = base64::engine::general_purpose::STANDARD.encode(plain);
            Some(Secret::new(format!("Basic {encoded}")))
        }
    };
    Ok(Some(Proxy { url, authorization }))
}

impl Except {
    fn parse(entry: &str) -> Option<Self> {
        let entry = entry.trim().to_ascii_lowercase();
        if entry.is_empty() {
            return None;
        }
        if entry == "*" {
            return Some(Except::All);
        }
        if let Some((address, prefix)) = entry.split_once('/') {
            let address: IpAddr = address.parse().ok()?;
            let prefix: u8 = prefix.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            return (prefix <= most).then_some(Except::Network {
                address,
                prefix,
                port: None,
            });
        }
        let (host, port) = match entry.parse::<std::net::Ipv6Addr>() {
            Ok(_) => (entry.as_str(), None),
            Err(_) => {
                let bare = entry.trim_start_matches("*.").trim_start_matches('.');
                let (_, port) = split_authority(bare)?;
                let host = match port {
                    Some(_) => entry.rsplit_once(':')?.0,
                    None => entry.trim_end_matches(':'),
                };
                (host, port)
            }
        };
        if let Some(address) = ip_literal(host) {
            let prefix = if address.is_ipv4() { 32 } else { 128 };
            return Some(Except::Network {
                address,
                prefix,
                port,
            });
        }
        let below = host.strip_prefix("*.").or_else(|| host.strip_prefix('.'));
        Some(Except::Domain {
            name: below.unwrap_or(host).trim_end_matches('.').to_owned(),
            only_below: below.is_some(),
            port,
        })
    }

    fn covers(&self, host: &str, to: u16) -> bool {
        let same_port = |port: &Option<u16>| port.is_none_or(|port| port == to);
        match self {
            Except::All => true,
            Except::Domain {
                name,
                only_below,
                port,
            } => {
                let host = host.trim_end_matches('.');
                let below = host
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.ends_with('.'));
                same_port(port) && (below || (!only_below && host == name))
            }
            Except::Network {
                address,
                prefix,
                port,
            } => {
                same_port(port)
                    && ip_literal(host).is_some_and(|host| in_network(host, *address, *prefix))
            }
        }
    }
}

fn in_network(host: IpAddr, network: IpAddr, prefix: u8) -> bool {
    match (host.to_canonical(), network) {
        (IpAddr::V4(host), IpAddr::V4(network)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            host.to_bits() & mask == network.to_bits() & mask
        }
        (IpAddr::V6(host), IpAddr::V6(network)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            host.to_bits() & mask == network.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::from_env(&Env::of(variables)).unwrap()
    }

    fn chosen(proxies: &Proxies, url: &str) -> Option<String> {
        let url = Url::parse(url).unwrap();
        proxies.for_url(&url).map(|proxy| proxy.url.origin())
    }

    #[test]
    fn the_proxy_is_the_one_of_the_scheme_and_else_the_one_for_all() {
        let all = proxies(&[("all_proxy", "http://all:1"), ("HTTP_PROXY", "plain:3128")]);
        assert_eq!(
            chosen(&all, "http://x/").as_deref(),
            Some("http://plain:3128")
        );
        assert_eq!(chosen(&all, "https://x/").as_deref(), Some("http://all:1"));
        assert_eq!(chosen(&proxies(&[("https_proxy", "")]), "https://x/"), None);
        let unused = proxies(&[
            ("ALL_PROXY", "socks5://s:1"),
            ("http_proxy", "HTTP://plain:1"),
            ("https_proxy", "http://tls:1"),
        ]);
        assert_eq!(
            chosen(&unused, "https://x/").as_deref(),
            Some("http://tls:1")
        );
        let one = proxies(&[
            ("ALL_PROXY", "socks5://s:1"),
            ("https_proxy", "http://tls:1"),
        ]);
        assert_eq!(chosen(&one, "https://x/").as_deref(), Some("http://tls:1"));
        assert_eq!(chosen(&one, "http://x/"), None);
    }

    #[test]
    fn no_proxy_takes_domains_addresses_networks_and_ports() {
        for (no_proxy, url, proxied) in [
            ("", "https://example.com/", true),
            ("*", "https://example.com/", false),
            ("example.com", "https://example.com/", false),
            ("example.com", "https://a.example.com/", false),
            ("example.com", "https://notexample.com/", true),
            (".example.com", "https://example.com/", true),
            (".example.com", "https://a.example.com/", false),
            ("*.example.com", "https://a.example.com/", false),
            ("example.com:8443", "https://example.com/", true),
            ("example.com:443", "https://example.com/", false),
            ("Example.COM, other", "https://EXAMPLE.com/", false),
            ("10.0.0.0/8", "https://10.1.2.3/", false),
            ("10.0.0.0/8", "https://11.1.2.3/", true),
            ("10.1.2.3", "https://10.1.2.3:8443/", false),
            ("10.1.2.3:443", "https://10.1.2.3:8443/", true),
            ("fd00::/8", "https://[fd00::1]/", false),
            ("fd00::1", "https://[fd00::1]/", false),
            ("0.0.0.0/0", "https://10.1.2.3/", false),
            ("bad/99,/,::", "https://10.1.2.3/", true),
            ("", "https://localhost:5000/", false),
            ("", "https://127.0.0.9/", false),
            ("", "https://[::1]/", false),
            ("", "https://169.254.169.254/", true),
        ] {
            let proxies = proxies(&[("https_proxy", "http://p:1"), ("no_proxy", no_proxy)]);
            assert_eq!(
                chosen(&proxies, url).is_some(),
                proxied,
                "{no_proxy}: {url}"
            );
        }
    }

    #[test]
    fn user_and_password_of_a_proxy_are_decoded_and_a_bad_url_shows_nothing() {
        let with_login = proxies(&[("https_proxy", "http://us%40er:p%3Ass@p:1/")]);
        let proxy = with_login.https.unwrap();
        // us@er:p:ss
        assert_eq!(
            proxy.authorization.unwrap().expose(),
            "Basic dXNAZXI6cDpzcw=="
        );
        for bad in [
            "socks5://u:hunter2@p:1",
            "http://u:hunter2@p:x",
            "http://u:hunter2%@p",
        ] {
            let error = match Proxies::from_env(&Env::of(&[("HTTPS_PROXY", bad)])) {
                Ok(_) => "taken".to_owned(),
                Err(error) => error.to_string(),
            };
            assert!(
                error.starts_with("the environment's `HTTPS_PROXY` is not"),
                "{error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
