//! What the fixture saw: requests, and what a client must not do.

use super::wire::Head;
use std::net::SocketAddr;
use std::time::Instant;

/// What a client must not do. A test that provokes one on purpose says [`Registry::allow`].
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Offence {
    /// Accept-Encoding other than identity for a manifest or blob.
    AcceptEncoding,
    BadHeader,
    /// Not JSON, a `mediaType` that is not the Content-Type, a size that is not the object's.
    BadManifest,
    /// A repository name, tag or digest that the grammar does not have.
    BadName,
    /// Range, Content-Range or `n` that make no sense.
    BadRange,
    /// The request line: two spaces, not HTTP/1.1, a target without `/`.
    BadRequestLine,
    /// Manifest types in the Accept of a blob.
    BlobAccept,
    /// A manifest put before what it refers to.
    BlobsMissing,
    BodyNotAllowed,
    /// A head or a body that is none.
    BrokenRequest,
    /// A connection that ended in the middle of a body.
    CutBody,
    /// Credentials of the wrong kind, unknown tokens, credentials to storage.
    ForeignAuthorization,
    /// An upload request that lost the query of `Location`.
    LocationNotFollowed,
    /// Manifest GET or HEAD without the full Accept list.
    ManifestAccept,
    NoBodyLength,
    NoContentType,
    NoDigest,
    NoSuchUpload,
    TokenRequest,
    /// Credentials before a challenge, or where none are asked for.
    UnaskedAuthorization,
    UnknownEndpoint,
    /// Bytes put under a digest that is not theirs.
    WrongDigest,
    WrongHost,
}

impl Offence {
    pub const ALL: [Offence; 23] = [
        Offence::AcceptEncoding,
        Offence::BadHeader,
        Offence::BadManifest,
        Offence::BadName,
        Offence::BadRange,
        Offence::BadRequestLine,
        Offence::BlobAccept,
        Offence::BlobsMissing,
        Offence::BodyNotAllowed,
        Offence::BrokenRequest,
        Offence::CutBody,
        Offence::ForeignAuthorization,
        Offence::LocationNotFollowed,
        Offence::ManifestAccept,
        Offence::NoBodyLength,
        Offence::NoContentType,
        Offence::NoDigest,
        Offence::NoSuchUpload,
        Offence::TokenRequest,
        Offence::UnaskedAuthorization,
        Offence::UnknownEndpoint,
        Offence::WrongDigest,
        Offence::WrongHost,
    ];
}

/// One request as it came, and how it ended.
#[derive(Clone, Debug)]
pub struct Request {
    pub head: Head,
    pub body: Vec<u8>,
    /// 1 for the first connection of the registry.
    pub connection: u64,
    pub peer: SocketAddr,
    pub at: Instant,
    /// Status, or `reset`, `close`, `stall`, `garbage`; a body cut off is `200 reset@1000`.
    pub outcome: String,
}

impl Request {
    /// `GET /v2/a/blobs/sha256:… [bytes=5-] 206`; the query as sent.
    pub fn line(&self) -> String {
        let range = self
            .head
            .header("range")
            .map_or(String::new(), |r| format!(" [{r}]"));
        format!(
            "{} {}{range} {}",
            self.head.method, self.head.target, self.outcome
        )
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }
}

/// `…/uploads/upload-3?_state=2&digest=…` → `…/uploads/SESSION?digest=…`
pub fn shorten_sessions(line: &str) -> String {
    let Some((start, rest)) = line.split_once("/blobs/uploads/upload-") else {
        return line.to_owned();
    };
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = match rest.strip_prefix("?_state=") {
        Some(rest) => {
            let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            rest.strip_prefix('&')
                .map_or(rest.to_owned(), |rest| format!("?{rest}"))
        }
        None => rest.to_owned(),
    };
    format!("{start}/blobs/uploads/SESSION{rest}")
}
