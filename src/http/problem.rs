//! What an answer with an error status means: whose fault, what the server says, and whether
//! trying again may help. What a status means to the protocol alone (201, 206, 413, 416) is read where
//! it is used.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::Response;
use super::url::{Url, decode, encode};
use crate::error::{Again, Error, Kind};
use crate::oci::json;
use crate::report::Hidden;
use crate::retry::Clock;
use crate::secret::Secret;

/// An error body is read this far; a registry's envelope is a few hundred bytes.
const BODY_LIMIT: u64 = 64 << 10;

/// Of a message that a server sends, this many characters are shown.
const MESSAGE_LIMIT: usize = 500;

/// Query parameters that anybody may read: ours, which say what is asked for, and those of presigned
/// URLs that are words or numbers.
const PUBLIC_PARAMETERS: [&str; 20] = [
    "account",
    "api-version",
    "client_id",
    "digest",
    "from",
    "last",
    "mount",
    "n",
    "resource",
    "scope",
    "service",
    "Expires",
    "X-Amz-Algorithm",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "se",
    "sp",
    "sr",
    "sv",
];

/// More parameters than any URL has: of a server that sends more, no words are shown.
const MOST_PARAMETERS: usize = 64;

/// The error envelope of the distribution specification (spec.md, "Error codes").
#[derive(Deserialize)]
struct Envelope {
    errors: Vec<Entry>,
}

/// Code and message are texts; some registries send numbers.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: serde_json::Value,
    #[serde(default)]
    message: serde_json::Value,
}

/// The error that `response` is, with the server's own words.
///
/// `asked` is what was asked for: redirects may have led elsewhere.
pub(crate) fn problem(method: &str, asked: &Url, response: Response, clock: &dyn Clock) -> Error {
    problem_saying(method, asked, response, clock, spoken)
}

/// The same for a server whose errors have a form of their own: `read` finds their words.
pub(crate) fn problem_saying(
    method: &str,
    asked: &Url,
    response: Response,
    clock: &dyn Clock,
    read: impl FnOnce(Response) -> String,
) -> Error {
    let status = response.status;
    let after = retry_after(&response, clock);
    let limit = rate_limit(&response);
    let from = match response.url.same_origin(asked) {
        true => String::new(),
        false => format!(", redirected to {}", response.url.origin()),
    };
    let via = match &response.via {
        Some(proxy) => format!(" through the proxy {proxy}"),
        None => String::new(),
    };
    let hidden = response.hidden.clone();
    let made = match method {
        "HEAD" => None,
        _ => made_by_server(&response.url),
    };
    let (said, limit) = match made {
        None => (String::new(), limit.map(|limit| hidden.in_text(limit))),
        Some(made) => {
            // Before it is cut: half a secret would not be found in the line.
            let words = |text: String| made.in_text(hidden.in_text(text));
            (shorten(&words(read(response))), limit.map(words))
        }
    };
    let mut why = format!("{method} {asked}{from}{via}: {}", status_text(status));
    if !said.is_empty() {
        why = format!("{why}: {said}");
    }
    if let Some(limit) = limit {
        why = format!("{why} ({})", shorten(&limit));
    }
    let kind = match status {
        // No other login has more room.
        403 if is_about_room(method, &said) => Kind::Registry,
        401 | 403 => Kind::Denied,
        404 | 410 => Kind::Missing,
        _ => Kind::Registry,
    };
    Error::new(kind, why).again(match status {
        429 => Again::Limited { after },
        408 | 425 | 499 | 500 | 502..=504 | 520..=524 | 529 => Again::Later { after },
        _ => Again::Never,
    })
}

/// Whether a refusal to write is about how much there may be, and not about who asks.
///
/// Quirk(Harbor): a quota of storage that is used up is answered 403 DENIED.
fn is_about_room(method: &str, said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    // As words: a repository may be called `team/quota-api`.
    let mut words = said.split(|c: char| c.is_whitespace() || matches!(c, ',' | '.' | ':' | ';'));
    let full =
        words.any(|word| matches!(word, "quota" | "quotas" | "exceed" | "exceeds" | "exceeded"));
    matches!(method, "PATCH" | "POST" | "PUT")
        && (full
            || ["storage limit", "size limit"]
                .iter()
                .any(|limit| said.contains(limit)))
}

fn status_text(status: u16) -> String {
    match ureq::http::StatusCode::from_u16(status) {
        Ok(code) => match code.canonical_reason() {
            Some(reason) => format!("{status} {reason}"),
            None => format!("status {status}"),
        },
        Err(_) => format!("status {status}"),
    }
}

/// Hides the value of an `Authorization`, which a server reads as user and password as well.
pub(super) fn hide_authorization(hidden: &Hidden, value: &Secret) {
    let (scheme, proof) = match value.expose().rsplit_once(' ') {
        Some((scheme, proof)) => (scheme, proof),
        None => ("", value.expose()),
    };
    if !hidden.add(proof.trim_end_matches('=')) || !scheme.eq_ignore_ascii_case("basic") {
        return;
    }
    let decoded = STANDARD.decode(proof);
    let pair = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some((_, password)) = pair.as_deref().and_then(|pair| pair.split_once(':')) {
        hide(hidden, password);
    }
}

/// Hides a password, or a token in a header or form of its own, as it is and as it may stand in a URL,
/// in JSON and in HTML.
pub(super) fn hide(hidden: &Hidden, text: &str) {
    let quoted = serde_json::Value::from(text).to_string();
    let in_json = quoted
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let in_json = in_json.unwrap_or(text);
    // As Go writes it.
    let in_gos_json = in_json
        .replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e");
    let in_html = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let by_number = in_html.replace('"', "&#34;").replace('\'', "&#39;");
    let by_name = in_html.replace('"', "&quot;").replace('\'', "&#x27;");
    let ascii: String = in_json.chars().map(escaped_in_ascii).collect();
    let in_url = encode(text);
    let in_path = in_url.replace("%2F", "/");
    let in_base64 = STANDARD.encode(text);
    for form in [
        text,
        &in_url,
        &in_lower_case(&in_url),
        &in_path,
        in_json,
        &in_gos_json,
        &ascii,
        &by_number,
        &by_name,
        in_base64.trim_end_matches('='),
    ] {
        hidden.add(form);
    }
}

/// Percent-encoding with small letters.
fn in_lower_case(encoded: &str) -> String {
    let mut parts = encoded.split('%');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| match part.split_at_checked(2) {
        Some((code, rest)) => format!("{text}%{}{rest}", code.to_ascii_lowercase()),
        None => format!("{text}%{part}"),
    })
}

/// A character as JSON of ASCII alone has it.
fn escaped_in_ascii(c: char) -> String {
    match c.is_ascii() {
        true => c.to_string(),
        false => {
            let mut units = [0; 2];
            let units = c.encode_utf16(&mut units);
            units.iter().map(|unit| format!("\\u{unit:04x}")).collect()
        }
    }
}

/// What of a URL's query the server made itself: the signature of a presigned URL, the state of an
/// upload. Whoever has it may do what it allows. `None` where it is too much to look for.
fn made_by_server(url: &Url) -> Option<Hidden> {
    let hidden = Hidden::default();
    let theirs = url
        .parameters()
        .filter(|(name, _)| !PUBLIC_PARAMETERS.contains(name));
    for (at, (_, value)) in theirs.enumerate() {
        if at == MOST_PARAMETERS {
            return None;
        }
        hidden.add(value);
        if let Some(text) = decode(value).and_then(|bytes| String::from_utf8(bytes).ok()) {
            hide(&hidden, &text);
        }
    }
    Some(hidden)
}

/// What the body says: `CODE: message` of each error, or its text where it is short and plain.
fn spoken(response: Response) -> String {
    let kind = response.header("content-type").unwrap_or_default();
    let (is_html, is_xml) = (kind.contains("html"), kind.contains("xml"));
    let Ok(body) = response.bytes_up_to(BODY_LIMIT) else {
        return String::new();
    };
    if let Ok(envelope) = serde_json::from_slice::<Envelope>(&body) {
        let spoken: Vec<String> = envelope
            .errors
            .into_iter()
            .map(|entry| code_and_message(&text(&entry.code), &text(&entry.message)))
            .filter(|text| !text.is_empty())
            .collect();
        if !spoken.is_empty() {
            return spoken.join("; ");
        }
    }
    if let Ok(serde_json::Value::Object(map)) = serde_json::from_slice(&body) {
        // OAuth2 servers (RFC 6749, section 5.2) and many others.
        let text = ["error_description", "message", "details", "error"]
            .iter()
            .find_map(|name| match map.get(*name)? {
                // Google's services.
                serde_json::Value::Object(inner) => inner.get("message")?.as_str(),
                value => value.as_str(),
            });
        return text.unwrap_or_default().to_owned();
    }
    if is_html || json::is_page(&body) {
        return "an HTML page instead of an answer".to_owned();
    }
    let body = String::from_utf8_lossy(&body);
    let body = body.trim_start_matches('\u{feff}').trim();
    if is_xml || body.starts_with("<?xml") {
        // Storage services; the rest of their text repeats the signature of the request.
        return code_and_message(element(body, "Code"), element(body, "Message"));
    }
    body.to_owned()
}

fn code_and_message(code: &str, message: &str) -> String {
    match (code, message) {
        (code, "") => code.to_owned(),
        ("", message) => message.to_owned(),
        (code, message) => format!("{code}: {message}"),
    }
}

fn text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The text of the first element of this name.
fn element<'x>(xml: &'x str, name: &str) -> &'x str {
    let found = || {
        let (_, rest) = xml.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0.trim())
    };
    found().unwrap_or_default()
}

fn shorten(text: &str) -> String {
    let mut chars = text.chars();
    let short: String = chars.by_ref().take(MESSAGE_LIMIT).collect();
    match chars.next() {
        Some(_) => format!("{short}…"),
        None => short,
    }
}

/// `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date, which is compared with the
/// server's own `Date` where there is one, as clocks differ.
fn retry_after(response: &Response, clock: &dyn Clock) -> Option<Duration> {
    let value = response.header("retry-after")?.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds.ceil()).ok();
    }
    let then = httpdate::parse_http_date(value).ok()?;
    let now = response
        .header("date")
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .unwrap_or_else(|| clock.now());
    Some(then.duration_since(now).unwrap_or_default())
}

/// The limit that a registry announces (Docker Hub: `ratelimit-limit: 100;w=21600`).
fn rate_limit(response: &Response) -> Option<String> {
    let names = ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"];
    let said: Vec<String> = names
        .iter()
        .filter_map(|name| Some(format!("{name}: {}", response.header(name)?)))
        .collect();
    (response.status == 429 && !said.is_empty()).then(|| said.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_hidden_as_it_is_written_in_urls_json_and_html() {
        let hidden = Hidden::default();
        hide(&hidden, "pa\"ss&word");
        for form in [
            "pa\"ss&word",
            "pa%22ss%26word",
            "pa\\\"ss&word",
            "pa\\\"ss\\u0026word",
            "pa&#34;ss&amp;word",
            "pa&quot;ss&amp;word",
            "cGEic3Mmd29yZA",
        ] {
            assert_eq!(hidden.in_text(format!("no `{form}`")), "no `…`");
        }
    }
}
