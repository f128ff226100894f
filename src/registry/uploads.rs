//! Uploads: a session, the bytes, the commit (distribution-spec, "Pushing blobs").

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Access, RENEWALS, Remote};
use crate::error::{Again, Doing, Error, Kind, Result};
use crate::http::{Payload, Response, Url};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;

/// Sends the bytes of a reader, and their number where it is known, to an upload session.
pub(crate) type SendBytes<'s> = dyn FnMut(&mut dyn Read, Option<u64>) -> Result<()> + 's;

/// Bytes that go out in one request after a larger one was refused. Cloudflare takes 100 MB;
/// smaller pieces cost a round trip each.
const PIECE_MOST: u64 = 32 << 20;

/// nginx takes 1 MiB where nobody has configured more (`client_max_body_size`).
const PIECE_LEAST: u64 = 1 << 20;

/// A commit is asked for so often before the blob is sent anew: sending it costs more.
const COMMIT_TRIES: u32 = 3;

impl Remote<'_> {
    /// Mounts a blob of another repository of the same registry, where the registry can.
    pub(crate) fn mount(&self, descriptor: &Descriptor, from: &str) -> Result<bool> {
        let digest = descriptor.digest.to_string();
        let url = self
            .url("blobs/uploads/")?
            .with_query(&[("mount", &digest), ("from", from)]);
        let mounted = self.send("POST", &url, Access::Mount(from), |request| request);
        match mounted {
            Ok(response) if response.status == 201 => Ok(true),
            Ok(response) => {
                // 202: a session that nobody needs. It ends by itself where this is not allowed.
                if let Ok(session) = self.session(&response) {
                    let _ = self.send_once("DELETE", &session, Access::Push, |request| request);
                }
                Ok(false)
            }
            Err(error) if matches!(error.kind(), Kind::Network) => Err(error),
            Err(error) => {
                self.report()
                    .debug(|| format!("{error}; uploading instead"));
                Ok(false)
            }
        }
    }

    /// Uploads one blob and commits it.
    ///
    /// `bytes` sends the blob's bytes, once, and returns the digest and size to commit. It is
    /// called again, from the first byte on, when a session breaks, or when the registry wants to
    /// know the length before the bytes.
    pub(crate) fn upload(
        &self,
        mut bytes: impl FnMut(&mut SendBytes<'_>) -> Result<(Digest, u64)>,
    ) -> Result<(Digest, u64)> {
        let mut attempts = self.attempts();
        let mut farthest = 0;
        let mut renewals = 0;
        let mut length = None;
        loop {
            attempts.begin(&self.gate)?;
            let mut upload = Upload {
                remote: self,
                sent: 0,
                renewals: &mut renewals,
                length,
                least: 0,
                refused: None,
            };
            let error = match upload.run(&mut bytes) {
                Ok(committed) => return Ok(committed),
                Err(error) => error,
            };
            // A session that came farther than any before it is progress: the blob is large, and
            // the connection breaks now and then.
            if upload.sent > 0 {
                attempts.reached();
            }
            if upload.sent > farthest {
                farthest = upload.sent;
                attempts.progress();
            }
            match upload.refused {
                Some(refused) if refused.can_be_met(&self.pieces, length) => {
                    let pieces = self.pieces.shown();
                    self.report().info(format!("{error}; {pieces}"));
                    if length.is_none() {
                        length = Some(measure(&mut bytes)?);
                    }
                }
                _ => attempts.wait_after(error, &self.gate, self.report())?,
            }
        }
    }

    /// Ends the session. A commit whose answer is an error, or is lost, may have come about all the
    /// same, at once or a moment later.
    fn commit(&self, session: &Url, digest: &Digest, size: u64) -> Result<()> {
        let url = session.with_query(&[("digest", &digest.to_string())]);
        let descriptor = Descriptor::of(digest.clone(), size);
        let lost = Again::Later { after: None };
        let mut attempts = self.attempts();
        let mut tries = 0;
        loop {
            tries += 1;
            attempts.begin(&self.gate)?;
            let committed = self
                .send_once("PUT", &url, Access::Push, |request| {
                    request.header("content-type", "application/octet-stream")
                })
                .and_then(|response| self.successful("PUT", &url, response));
            let mut error = match committed {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if let Ok(true) = self.has_blob(&descriptor) {
                return Ok(());
            }
            // A refusal is believed the first time. Later the session may be what an interrupted
            // commit has left of it.
            let unclear = error.can_try_again() != Again::Never;
            if !unclear && (tries > 1 || error.is_missing()) {
                error = error.again(lost);
            }
            if tries == COMMIT_TRIES {
                return Err(error);
            }
            attempts.wait_after(error, &self.gate, self.report())?;
        }
    }

    /// Where the session goes on, from the `Location` of an answer.
    fn session(&self, response: &Response) -> Result<Url> {
        let location = response.header("location").ok_or_else(|| {
            Error::registry(format!(
                "POST {}: the registry started an upload without a Location",
                response.url
            ))
        })?;
        let url = response
            .url
            .join(location)
            .doing(|| format!("upload location of {}", response.url))?;
        let url = self.with_own_scheme(url);
        if response.url.is_https() && !url.is_https() {
            return Err(Error::hostile(format!(
                "{}: the upload is to go on at {url}, without TLS",
                response.url
            )));
        }
        Ok(url)
    }
}

/// The largest body that the registry, or a proxy before it, takes: shared by all uploads.
pub(super) struct Pieces(AtomicU64);

impl Default for Pieces {
    fn default() -> Self {
        Pieces(AtomicU64::new(u64::MAX))
    }
}

impl Pieces {
    fn most(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// A body of `length` bytes was too large. Whether smaller ones are left to try.
    fn shrink_below(&self, length: u64) -> bool {
        let mut piece = PIECE_MOST;
        while piece >= length {
            piece /= 2;
        }
        if piece < PIECE_LEAST {
            return false;
        }
        self.0.fetch_min(piece, Ordering::Relaxed);
        true
    }

    fn shown(&self) -> String {
        match self.most() {
            u64::MAX => "sending its length first".to_owned(),
            most => format!("sending at most {} MiB at a time", most >> 20),
        }
    }
}

/// What a registry has against a body.
#[derive(Clone, Copy)]
enum Refused {
    /// 411: it wants to know the length.
    NoLength,
    /// 413, of a body of so many bytes, where that was known.
    TooLarge(Option<u64>),
}

impl Refused {
    /// `length` is that of the blob, where it was known.
    fn can_be_met(self, pieces: &Pieces, length: Option<u64>) -> bool {
        match self {
            Refused::NoLength => length.is_none(),
            Refused::TooLarge(body) => pieces.shrink_below(body.unwrap_or(u64::MAX)),
        }
    }
}

/// The number of bytes that `bytes` sends. A blob that is compressed on its way is compressed twice
/// then: keeping a piece of it in memory would cost each worker its size.
fn measure(bytes: &mut impl FnMut(&mut SendBytes<'_>) -> Result<(Digest, u64)>) -> Result<u64> {
    let (_, size) = bytes(&mut |reader, _| {
        io::copy(reader, &mut io::sink())
            .map(drop)
            .map_err(|error| Error::io(Kind::Local, error))
    })?;
    Ok(size)
}

/// One attempt at an upload.
struct Upload<'u, 'a> {
    remote: &'u Remote<'a>,
    /// Bytes that went out.
    sent: u64,
    /// How often the login was renewed in the middle.
    renewals: &'u mut u32,
    /// The blob's, where an earlier attempt has found it out.
    length: Option<u64>,
    /// The smallest piece, but for the last one, that the registry takes.
    least: u64,
    refused: Option<Refused>,
}

impl Upload<'_, '_> {
    fn run(
        &mut self,
        bytes: &mut impl FnMut(&mut SendBytes<'_>) -> Result<(Digest, u64)>,
    ) -> Result<(Digest, u64)> {
        let remote = self.remote;
        let start = remote.url("blobs/uploads/")?;
        let response = remote.send_once("POST", &start, Access::Push, |request| request)?;
        let response = remote.successful("POST", &start, response)?;
        self.least = least_piece(&response);
        let mut session = remote.session(&response)?;
        let (digest, size) = bytes(&mut |reader, length| {
            session = self.send_all(&session, reader, length)?;
            Ok(())
        })?;
        remote.commit(&session, &digest, size)?;
        Ok((digest, size))
    }

    /// Sends a blob, in pieces where it is too large for one request; where the session goes on
    /// then.
    fn send_all(
        &mut self,
        session: &Url,
        reader: &mut dyn Read,
        length: Option<u64>,
    ) -> Result<Url> {
        let piece = self.remote.pieces.most().max(self.least);
        let length = match length.or(self.length) {
            Some(length) if length > piece => length,
            length => return self.append(session, reader, length, None),
        };
        let mut session = session.clone();
        let mut at = 0;
        while at < length {
            let size = piece.min(length - at);
            let mut part = Read::take(&mut *reader, size);
            session = self.append(&session, &mut part, Some(size), Some(at))?;
            at += size;
        }
        Ok(session)
    }

    /// Appends to a session; where it goes on then. `at` is the offset of a piece.
    fn append(
        &mut self,
        session: &Url,
        reader: &mut dyn Read,
        length: Option<u64>,
        at: Option<u64>,
    ) -> Result<Url> {
        let remote = self.remote;
        remote.attempts().begin(&remote.gate)?;
        let scope = remote.scope(Access::Push);
        let authorization = remote.authorization_for(session, &scope)?;
        let mut failure = None;
        let mut source = Source {
            inner: reader,
            read: 0,
            length,
            failure: &mut failure,
        };
        let mut request = remote
            .request("PATCH", session)
            .header("content-type", "application/octet-stream");
        if let (Some(at), Some(length)) = (at, length) {
            // Without a unit, unlike RFC 9110: distribution-spec, "Pushing a blob in chunks".
            let last = (at + length).saturating_sub(1);
            request = request.header("content-range", format!("{at}-{last}"));
        }
        let outcome = remote
            .client
            .send(
                request
                    .authorization(authorization.as_ref())
                    .payload(Payload::Stream {
                        reader: &mut source,
                        length,
                    }),
            );
        self.sent += source.read;
        // A file that cannot be read is not the connection's fault.
        if let Some(error) = failure {
            return Err(error);
        }
        let response = outcome?;
        let lost = Again::Later { after: None };
        match response.status {
            status if *self.renewals < renewals(status) && remote.auth.can_answer(&response) => {
                // The token ended on the way: a new one, and the session from its start.
                *self.renewals += 1;
                let other = remote
                    .auth
                    .renew(&response, &scope, authorization.as_ref())?;
                let error = remote.problem("PATCH", session, response);
                Err(match other {
                    Some(_) => error.again(lost),
                    None => error,
                })
            }
            // 416: the registry has other bytes of this session than were sent.
            404 | 416 => Err(remote.problem("PATCH", session, response).again(lost)),
            411 => {
                self.refused = Some(Refused::NoLength);
                Err(remote.problem("PATCH", session, response))
            }
            // Who takes nothing smaller either cannot be helped.
            413 if length.is_none_or(|length| length > self.least) => {
                self.refused = Some(Refused::TooLarge(length));
                Err(remote.problem("PATCH", session, response))
            }
            _ => {
                let response = remote.successful("PATCH", session, response)?;
                match response.header("location") {
                    Some(_) => remote.session(&response),
                    None => Ok(session.clone()),
                }
            }
        }
    }
}

/// How often a login is renewed for one upload. A token ends; a password of ECR lasts longer than
/// any upload, so one that is refused for the second time has not ended.
fn renewals(status: u16) -> u32 {
    match status {
        403 => 1,
        _ => RENEWALS,
    }
}

/// The smallest piece, but for the last one, that the registry takes (distribution-spec,
/// "Pushing a blob in chunks").
fn least_piece(response: &Response) -> u64 {
    let least = response.header("oci-chunk-min-length");
    least
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or_default()
}

/// Keeps an error of the source apart from errors of the connection.
struct Source<'u> {
    inner: &'u mut dyn Read,
    read: u64,
    /// What the request's head promised.
    length: Option<u64>,
    failure: &'u mut Option<Error>,
}

impl Read for Source<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = match self.inner.read(buf) {
            // ureq would ask for the missing bytes for ever.
            Ok(0) if !buf.is_empty() && self.length.is_some_and(|length| self.read < length) => {
                let missing = self.length.unwrap_or_default() - self.read;
                let error = Error::local(format!("{missing} bytes are missing at the end"));
                Err(error.into_io())
            }
            read => read,
        };
        read.map_err(|error| {
            let error = Error::io(Kind::Local, error);
            let text = error.to_string();
            *self.failure = Some(error);
            io::Error::other(text)
        })
        .inspect(|n| self.read += *n as u64)
    }
}
