//! HTTP URLs: parsed once, compared by parts, shown without what may be secret.

use std::fmt;
use std::net::IpAddr;

use crate::error::{Error, Result};

/// Longer than any URL that storage services sign (a few KiB).
const URL_LIMIT: usize = 64 << 10;

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// An absolute `http:` or `https:` URL without userinfo or fragment (RFC 3986).
///
/// `Display` leaves out the query: a presigned query is a password.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Url {
    scheme: Scheme,
    /// Lower case; an IPv6 address keeps its brackets.
    host: String,
    port: Option<u16>,
    /// Path and query, starting with `/`.
    target: String,
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            // What stands before an `@` may be a password, what follows a `?` a signature.
            let shown = text.split('?').next().unwrap_or_default();
            let shown = shown.rsplit('@').next().unwrap_or_default();
            let shown: String = shown.chars().take(200).collect();
            Err(Error::registry(format!("`{shown}` is not a URL: {why}")))
        };
        if text.len() > URL_LIMIT {
            return refuse("it is too long");
        }
        if text.bytes().any(|b| b <= b' ' || b == 0x7f || b == b'\\') {
            return refuse("it has a character that no URL has");
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return refuse("it has no scheme");
        };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return refuse("its scheme is neither http nor https"),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        // Userinfo in a URL that a server sends has no use but to mislead.
        let authority = authority.rsplit('@').next().unwrap_or_default();
        let Some((host, port)) = split_authority(authority) else {
            return refuse("its host or port is none");
        };
        let target = target.split('#').next().unwrap_or_default();
        Ok(Url {
            scheme,
            host: host.to_ascii_lowercase(),
            port: port.filter(|port| *port != scheme.default_port()),
            target: match target.starts_with('/') {
                true => target.to_owned(),
                false => format!("/{target}"),
            },
        })
    }

    /// The URL of `target` (path and query) at `host`, which may have a port.
    pub(crate) fn at(scheme: Scheme, host: &str, target: &str) -> Result<Self> {
        Url::parse(&format!("{}://{host}{target}", scheme.name()))
    }

    /// What `reference` means in a document at this URL (RFC 3986, section 5.2).
    pub(crate) fn join(&self, reference: &str) -> Result<Self> {
        if reference.contains("://") && !reference.starts_with(['/', '?', '.']) {
            return Url::parse(reference);
        }
        if let Some(rest) = reference.strip_prefix("//") {
            return Url::parse(&format!("{}://{rest}", self.scheme.name()));
        }
        let path = self.target.split('?').next().unwrap_or_default();
        let target = if reference.is_empty() {
            self.target.clone()
        } else if reference.starts_with('?') {
            format!("{path}{reference}")
        } else if reference.starts_with('/') {
            remove_dots(reference)
        } else {
            let folder = path
                .rfind('/')
                .map_or("/", |at| path.get(..=at).unwrap_or("/"));
            remove_dots(&format!("{folder}{reference}"))
        };
        Url::parse(&format!("{}{target}", self.origin()))
    }

    /// The same URL with more query parameters, percent-encoded.
    pub(crate) fn with_query(&self, parameters: &[(&str, &str)]) -> Self {
        let mut url = self.clone();
        for (name, value) in parameters {
            let separator = if url.target.contains('?') { '&' } else { '?' };
            url.target.push(separator);
            url.target.push_str(&encode(name));
            url.target.push('=');
            url.target.push_str(&encode(value));
        }
        url
    }

    /// The value of a query parameter, as it stands there.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        let mut parameters = self.parameters();
        parameters
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// Names and values of the query, as they stand there.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        let query = self.target.split_once('?').map(|(_, query)| query);
        let pairs = query.into_iter().flat_map(|query| query.split('&'));
        pairs.filter_map(|pair| pair.split_once('='))
    }

    pub(crate) fn with_scheme(&self, scheme: Scheme) -> Self {
        Url {
            scheme,
            ..self.clone()
        }
    }

    pub(crate) fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub(crate) fn is_https(&self) -> bool {
        self.scheme == Scheme::Https
    }

    /// The host without its port; an IPv6 address in brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.unwrap_or(self.scheme.default_port())
    }

    pub(crate) fn has_port(&self) -> bool {
        self.port.is_some()
    }

    /// Host, and port where it is not the scheme's own.
    pub(crate) fn authority(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }

    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", self.scheme.name(), self.authority())
    }

    /// Path and query.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    /// Whether credentials made for one may be sent to the other: scheme, host and port agree.
    pub(crate) fn same_origin(&self, other: &Url) -> bool {
        self.scheme == other.scheme && self.host == other.host && self.port() == other.port()
    }

    /// The whole URL, for sending; never for showing.
    pub(crate) fn expose(&self) -> String {
        format!("{}{}", self.origin(), self.target)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or_default();
        write!(f, "{}{path}", self.origin())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The address that `host` is, when it is no name.
pub(crate) fn ip_literal(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok()
}

/// Splits `host[:port]`; an IPv6 address is in brackets.
pub(crate) fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.rfind(']') {
        Some(end) => {
            let (host, rest) = authority.split_at(end + 1);
            ip_literal(host)?;
            (host, rest)
        }
        None => match authority.find(':') {
            Some(at) => authority.split_at(at),
            None => (authority, ""),
        },
    };
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if host.is_empty() || (!host.starts_with('[') && !host.bytes().all(good)) {
        return None;
    }
    // Resolvers read `127.1`, `0x7f.1` and `2130706433` as addresses; a host that ends in a number
    // and is no address as we read them is no host at all (the URL standard's host parser).
    let last = host.trim_end_matches('.').rsplit('.').next();
    let number = |label: &str| {
        let hex = label.strip_prefix("0x").or(label.strip_prefix("0X"));
        hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
            || (!label.is_empty() && label.bytes().all(|b| b.is_ascii_digit()))
    };
    if last.is_some_and(number) && ip_literal(host).is_none() {
        return None;
    }
    match port.strip_prefix(':') {
        None if port.is_empty() => Some((host, None)),
        // RFC 3986, section 3.2.3: the port may be empty.
        Some("") => Some((host, None)),
        Some(port) => Some((host, Some(port.parse().ok()?))),
        None => None,
    }
}

/// RFC 3986, section 5.2.4.
fn remove_dots(target: &str) -> String {
    let (path, query) = match target.find('?') {
        Some(at) => target.split_at(at),
        None => (target, ""),
    };
    let mut out: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                out.pop();
            }
            _ => out.push(segment),
        }
        if last && matches!(segment, "." | "..") {
            out.push("");
        }
    }
    format!("/{}{query}", out.join("/"))
}

/// Undoes percent-encoding; `None` where it is none.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(out)
}

/// Percent-encodes everything but unreserved characters (RFC 3986, section 2.3).
pub(crate) fn encode(text: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_query_and_userinfo() {
        for (text, shown, whole) in [
            ("https://a/b?sig=x", "https://a/b", "https://a/b?sig=x"),
            ("HTTPS://u:p@A.B:443/c#d", "https://a.b/c", "https://a.b/c"),
            (
                "http://[::1]:5000",
                "http://[::1]:5000/",
                "http://[::1]:5000/",
            ),
            ("http://h?x", "http://h/", "http://h/?x"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(url.expose(), whole);
        }
    }

    #[test]
    fn what_is_no_url_is_refused_without_showing_its_secrets() {
        for text in [
            "",
            "a/b",
            "ftp://a/",
            "https://",
            "https:///x",
            "https://a:x/",
            "https://a b/",
            "https://a\r\nHost: b/",
            "https://a:99999/",
            "https://[::1/",
            "https://a\\b/",
            "https://127.1/",
            "https://0x7f000001/",
            "https://2130706433/",
            "https://127.0.0.01/",
            "https://127.0.0.1./",
        ] {
            assert!(Url::parse(text).is_err(), "{text} was taken");
        }
        let error = Url::parse("gopher://u:secret@h/?token=secret").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn references_resolve_as_the_rfc_says() {
        let base = Url::parse("https://h:1/v2/a/blobs/uploads/7?_state=1").unwrap();
        for (reference, whole) in [
            ("http://o/x?y", "http://o/x?y"),
            ("//o/x", "https://o/x"),
            ("/v2/x", "https://h:1/v2/x"),
            ("8?z=1", "https://h:1/v2/a/blobs/uploads/8?z=1"),
            ("?z", "https://h:1/v2/a/blobs/uploads/7?z"),
            ("../../x", "https://h:1/v2/a/x"),
            ("/a/../../../b/.", "https://h:1/b/"),
            ("", "https://h:1/v2/a/blobs/uploads/7?_state=1"),
            ("/cb?next=http://o/", "https://h:1/cb?next=http://o/"),
        ] {
            assert_eq!(base.join(reference).unwrap().expose(), whole, "{reference}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let url = |text| Url::parse(text).unwrap();
        assert!(url("https://a/x").same_origin(&url("https://A:443/y")));
        for other in ["http://a/", "https://a:444/", "https://b.a/", "https://b/"] {
            assert!(!url("https://a/x").same_origin(&url(other)), "{other}");
        }
        let with = url("https://a/x?b=1").with_query(&[("scope", "repository:a/b:pull,push")]);
        assert_eq!(
            with.expose(),
            "https://a/x?b=1&scope=repository%3Aa%2Fb%3Apull%2Cpush"
        );
        assert_eq!(with.query("b"), Some("1"));
        assert_eq!(
            with.query("scope"),
            Some("repository%3Aa%2Fb%3Apull%2Cpush")
        );
        assert_eq!(url("https://a/b=1").query("b"), None);
    }
}
