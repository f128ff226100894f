//! The notary server's API for one repository: reading files, asking for its keys, publishing.
//!
//! Here are the retries and the login of content trust.

use serde::Deserialize;
use serde_json::Value;

use super::listed::PublicKey;
use crate::auth::{Authenticator, Credentials, Scope};
use crate::error::{Again, Doing, Error, Kind, Result};
use crate::http::{Client, Payload, Request, Response, Url, encode, problem, problem_saying};
use crate::oci::json;
use crate::retry::{Attempts, Gate, Patience};
use crate::secret::Secret;

/// What a client is allowed to ask for where `scopes` says nothing else.
const ACTIONS: &str = "push,pull";

/// A public key, or what a server says to a refused upload.
const ANSWER_LIMIT: u64 = 64 << 10;

/// One repository at a notary server.
pub(super) struct Server<'a> {
    client: &'a Client<'a>,
    auth: Authenticator<'a>,
    /// `/v2/GUN/_trust/tuf/`
    base: Url,
    scope: Scope,
    gate: Gate,
    /// What to try when the login is refused, where it is another one than the source's.
    advice: Option<&'static str>,
}

/// What became of an upload.
pub(super) enum Published {
    Done,
    /// It does not fit what is there: so it was made of something else, or it is wrong.
    Refused(Error),
    /// Somebody published in between: what was sent is older than what is there.
    TooOld,
}

impl<'a> Server<'a> {
    /// `url` is the server's; it may have a path. `actions` is the user's choice of them.
    pub(super) fn new(
        client: &'a Client<'a>,
        url: &Url,
        gun: &str,
        credentials: Credentials,
        actions: Option<&str>,
    ) -> Result<Self> {
        let actions = actions.map(str::trim).filter(|actions| !actions.is_empty());
        let actions = actions.unwrap_or(ACTIONS);
        let good = |b: u8| b.is_ascii_lowercase() || matches!(b, b',' | b'*');
        if !actions.bytes().all(good) {
            return Err(Error::config(format!(
                "`source.content_trust.scopes` is `{actions}`; it is a list of actions such as `push,pull`"
            )));
        }
        // A host's port keeps its colon; an IPv6 address must lose its brackets.
        let segments: Vec<String> = gun
            .split('/')
            .map(|segment| encode(segment).replace("%3A", ":"))
            .collect();
        let prefix = url.target().trim_end_matches('/');
        let base = url.join(&format!("{prefix}/v2/{}/_trust/tuf/", segments.join("/")))?;
        Ok(Server {
            client,
            auth: Authenticator::new(client, url.clone(), credentials).with_near_realm(),
            base,
            scope: Scope::actions(gun, actions),
            gate: Gate::default(),
            advice: None,
        })
    }

    /// Says what to try when the login is refused.
    pub(super) fn advising(mut self, advice: &'static str) -> Self {
        self.advice = Some(advice);
        self
    }

    /// A file of the repository.
    ///
    /// # Errors
    /// [`Kind::Missing`] when there is none; more than `limit` bytes.
    pub(super) fn get(&self, file: &str, limit: u64) -> Result<Vec<u8>> {
        let url = self.base.join(file)?;
        self.until_answered(|| {
            let response = self.send_once("GET", &url, |request| {
                // Root and timestamp may lie in caches for five minutes.
                request.header("cache-control", "no-cache")
            })?;
            let response = self.successful("GET", &url, response)?;
            let announced = response.content_length();
            let bytes = response.bytes(limit)?;
            match announced {
                Some(length) if length != bytes.len() as u64 => Err(Error::new(
                    Kind::Network,
                    format!("GET {url}: the answer was cut off"),
                )
                .again(Again::Later { after: None })),
                _ => Ok(bytes),
            }
        })
    }

    /// The key that the server itself signs this role with; `None` where it does not say.
    ///
    /// # Errors
    /// A login that may not publish.
    pub(super) fn key_of(&self, role: &str) -> Result<Option<PublicKey>> {
        let read = || -> Result<Vec<u8>> { self.get(&format!("{role}.key"), ANSWER_LIMIT) };
        match read() {
            Ok(bytes) => {
                let value: Option<Value> = json::object(&bytes).ok();
                Ok(value.and_then(|value| PublicKey::from_json(&value)))
            }
            // Other servers than notary's have no such request; one that is down was asked for long.
            Err(error)
                if matches!(error.kind(), Kind::Missing | Kind::Registry)
                    && error.can_try_again() == Again::Never =>
            {
                self.client
                    .context()
                    .report
                    .debug(|| format!("{error}; publishing will tell"));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Publishes documents, each under its role, all of them or none.
    pub(super) fn publish(&self, documents: &[(&str, &[u8])]) -> Result<Published> {
        let (content_type, body) = multipart(documents);
        self.until_answered(|| {
            let response = self.send_once("POST", &self.base, |request| {
                request
                    .header("content-type", content_type.clone())
                    .payload(Payload::Bytes(&body))
            })?;
            if response.is_success() {
                return Ok(Published::Done);
            }
            let mut refusal = Refusal::default();
            let error = problem_saying("POST", &self.base, response, self.clock(), |response| {
                refusal = response
                    .bytes_up_to(ANSWER_LIMIT)
                    .map(|body| Refusal::read(&body))
                    .unwrap_or_default();
                refusal.words.clone()
            });
            match refusal.code {
                Code::TooOld => Ok(Published::TooOld),
                Code::Invalid => Ok(Published::Refused(error)),
                Code::Other => Err(self.advised(error)),
            }
        })
    }

    fn clock(&self) -> &'a dyn crate::retry::Clock {
        self.client.context().clock
    }

    /// Runs `attempt` until it succeeds or fails for good.
    fn until_answered<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let report = self.client.context().report;
        let mut attempts = Attempts::new(self.clock(), Patience::SERVICE);
        loop {
            attempts.begin(&self.gate)?;
            match attempt() {
                Ok(answer) => return Ok(answer),
                Err(error) => attempts.wait_after(error, &self.gate, report)?,
            }
        }
    }

    /// One attempt, with the login that the server wants; one 401 is answered with a new one.
    fn send_once<'r>(
        &self,
        method: &'static str,
        url: &Url,
        make: impl Fn(Request<'r>) -> Request<'r>,
    ) -> Result<Response> {
        let authorization = self.auth.authorization(&self.scope);
        let mut authorization: Option<Secret> = authorization.map_err(|e| self.advised(e))?;
        let mut renewed = false;
        loop {
            let request = make(Request::new(method, url)).authorization(authorization.as_ref());
            let response = self.client.send(request)?;
            if response.status != 401 || renewed {
                return Ok(response);
            }
            renewed = true;
            let response = response.settled();
            let renewal = self
                .auth
                .renew(&response, &self.scope, authorization.as_ref())
                .doing(|| format!("{method} {url}"));
            let Some(renewal) = renewal.map_err(|e| self.advised(e))? else {
                return Ok(response);
            };
            authorization = Some(renewal);
        }
    }

    fn successful(&self, method: &'static str, url: &Url, response: Response) -> Result<Response> {
        match response.is_success() {
            true => Ok(response),
            false => Err(self.advised(problem(method, url, response, self.clock()))),
        }
    }

    fn advised(&self, error: Error) -> Error {
        match (error.is_denied(), self.advice) {
            (true, Some(advice)) => error.advise_instead(advice),
            (true, None) => self.auth.advise(error),
            (false, _) => error,
        }
    }
}

/// `multipart/form-data` (RFC 7578) with a file for each document: its content type and itself.
fn multipart(documents: &[(&str, &[u8])]) -> (String, Vec<u8>) {
    let mut boundary = "registry-image-boundary".to_owned();
    let is_inside = |boundary: &str| {
        let boundary = boundary.as_bytes();
        documents
            .iter()
            .any(|(_, bytes)| bytes.windows(boundary.len()).any(|part| part == boundary))
    };
    while is_inside(&boundary) {
        boundary.push('x');
    }
    let mut body = Vec::new();
    for (role, bytes) in documents {
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"files\"; filename=\"{role}\"\r\nContent-Type: application/octet-stream\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

/// What a server says of documents that it does not take.
#[derive(Debug, Default, Eq, PartialEq)]
struct Refusal {
    words: String,
    code: Code,
}

#[derive(Debug, Default, Eq, PartialEq)]
enum Code {
    #[default]
    Other,
    Invalid,
    TooOld,
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    detail: Value,
}

impl Refusal {
    fn read(body: &[u8]) -> Self {
        let Ok(envelope) = json::object::<Envelope>(body) else {
            return Refusal {
                words: String::from_utf8_lossy(body).trim().to_owned(),
                code: Code::Other,
            };
        };
        let words: Vec<String> = envelope.errors.iter().map(Entry::words).collect();
        let has = |code: &str| envelope.errors.iter().any(|entry| entry.code == code);
        Refusal {
            words: words.join("; "),
            code: match (has("VERSION"), has("INVALID_UPDATE")) {
                (true, _) => Code::TooOld,
                (false, true) => Code::Invalid,
                (false, false) => Code::Other,
            },
        }
    }
}

impl Entry {
    fn words(&self) -> String {
        // The reason proper: `{"Name": "ErrBadTargets", "Error": {"Msg": …}}`.
        let reason = self.detail.pointer("/Error/Msg").and_then(Value::as_str);
        let parts = [&self.code, &self.message, reason.unwrap_or_default()];
        let parts = parts.map(|part| part.trim().trim_end_matches('.'));
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join(": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_sent_as_files_of_a_form() {
        let inside = b"--registry-image-boundary\r\n";
        let (content_type, body) = multipart(&[("targets", b"{}"), ("targets/a", inside)]);
        assert_eq!(
            content_type,
            "multipart/form-data; boundary=registry-image-boundaryx"
        );
        let expected = "--registry-image-boundaryx\r\n\
            Content-Disposition: form-data; name=\"files\"; filename=\"targets\"\r\n\
            Content-Type: application/octet-stream\r\n\r\n\
            {}\r\n\
            --registry-image-boundaryx\r\n\
            Content-Disposition: form-data; name=\"files\"; filename=\"targets/a\"\r\n\
            Content-Type: application/octet-stream\r\n\r\n\
            --registry-image-boundary\r\n\r\n\
            --registry-image-boundaryx--\r\n";
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }

    #[test]
    fn a_refusal_is_told_with_its_reason() {
        for (body, words, code) in [
            (
                r#"{"errors":[{"code":"INVALID_UPDATE","message":"Update sent by the client is invalid.","detail":{"Name":"ErrBadTargets","Error":{"Msg":"valid signatures did not meet threshold for targets"}}}]}"#,
                "INVALID_UPDATE: Update sent by the client is invalid: valid signatures did not meet threshold for targets",
                Code::Invalid,
            ),
            (
                r#"{"errors":[{"code":"VERSION","message":"A newer version of metadata is already available.","detail":{}}]}"#,
                "VERSION: A newer version of metadata is already available",
                Code::TooOld,
            ),
            (
                r#"{"errors":[{"code":"A"},{"message":"b","detail":null}]}"#,
                "A; b",
                Code::Other,
            ),
            ("{}", "", Code::Other),
            (" VERSION ", "VERSION", Code::Other),
            (r#"["VERSION"]"#, r#"["VERSION"]"#, Code::Other),
        ] {
            let words = words.to_owned();
            assert_eq!(Refusal::read(body.as_bytes()), Refusal { words, code });
        }
    }
}
