//! One request, as it is put together.

use std::io::Read;
use std::time::Duration;

use super::url::Url;
use crate::secret::Secret;

/// Time for a connection to come about: TCP, proxy and TLS.
pub(super) const CONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// Without a byte for this long a connection is broken.
pub(super) const STALL: Duration = Duration::from_secs(60);

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
    pub(super) method: &'static str,
    pub(super) url: Url,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) authorization: Option<Secret>,
    pub(super) payload: Payload<'a>,
    pub(super) reach: Reach,
    /// The server that named the URL, where the user did not.
    pub(super) named_by: Option<Url>,
    pub(super) may_be_plain: bool,
    pub(super) waits: Waits,
    pub(super) bound: bool,
    pub(super) secrets: Vec<Secret>,
}

/// How long a server has to accept a connection, and then to begin its answer and to end it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Waits {
    pub(crate) connect: Duration,
    pub(crate) answer: Duration,
}

impl Waits {
    pub(super) const USUAL: Waits = Waits {
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

    /// The same without its payload, once more and to another URL.
    pub(super) fn once_more<'b>(&self, url: Url) -> Request<'b> {
        Request {
            method: self.method,
            url,
            headers: self.headers.clone(),
            authorization: self.authorization.clone(),
            payload: Payload::Empty,
            reach: self.reach,
            named_by: self.named_by.clone(),
            may_be_plain: false,
            waits: self.waits,
            bound: self.bound,
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
