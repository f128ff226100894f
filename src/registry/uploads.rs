//! Uploads: a session, the bytes, the commit (distribution-spec, "Pushing blobs").

use std::io::{self, Read};

use super::{Access, Remote};
use crate::error::{Again, Doing, Error, Kind, Result};
use crate::http::{Payload, Response, Url};
use crate::oci::digest::Digest;
use crate::oci::manifest::Descriptor;

/// Sends the bytes of a reader, and their number where it is known, to an upload session.
pub(crate) type Send<'s> = dyn FnMut(&mut dyn Read, Option<u64>) -> Result<()> + 's;

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
    /// called again, from the first byte on, when a session breaks.
    pub(crate) fn upload(
        &self,
        mut bytes: impl FnMut(&mut Send<'_>) -> Result<(Digest, u64)>,
    ) -> Result<(Digest, u64)> {
        let mut attempts = self.attempts();
        let mut farthest = 0;
        let mut renewed = false;
        loop {
            self.gate.pass(self.clock());
            let mut upload = Upload {
                remote: self,
                sent: 0,
                renewed: &mut renewed,
            };
            match upload.run(&mut bytes) {
                Ok(committed) => return Ok(committed),
                Err(error) => {
                    // A session that came farther than any before it is progress: the blob is
                    // large, and the connection breaks now and then.
                    if upload.sent > farthest {
                        farthest = upload.sent;
                        attempts.progress();
                    }
                    attempts.wait_after(error, &self.gate, self.report())?;
                }
            }
        }
    }

    fn commit(&self, session: &Url, digest: &Digest, size: u64) -> Result<()> {
        let url = session.with_query(&[("digest", &digest.to_string())]);
        let committed = self
            .send_once("PUT", &url, Access::Push, |request| {
                request.header("content-type", "application/octet-stream")
            })
            .and_then(|response| self.successful("PUT", &url, response));
        let error = match committed {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        // The answer may be lost and the blob there all the same.
        let descriptor = Descriptor::of(digest.clone(), size);
        match self.has_blob(&descriptor) {
            Ok(true) => Ok(()),
            _ if error.is_missing() => Err(error.again(Again::Later { after: None })),
            _ => Err(error),
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

/// One attempt at an upload.
struct Upload<'u, 'a> {
    remote: &'u Remote<'a>,
    /// Bytes that went out.
    sent: u64,
    /// The login was renewed in the middle, which helps once.
    renewed: &'u mut bool,
}

impl Upload<'_, '_> {
    fn run(
        &mut self,
        bytes: &mut impl FnMut(&mut Send<'_>) -> Result<(Digest, u64)>,
    ) -> Result<(Digest, u64)> {
        let remote = self.remote;
        let start = remote.url("blobs/uploads/")?;
        let response = remote.send_once("POST", &start, Access::Push, |request| request)?;
        let response = remote.successful("POST", &start, response)?;
        let mut session = remote.session(&response)?;
        let (digest, size) = bytes(&mut |reader, length| {
            session = self.append(&session, reader, length)?;
            Ok(())
        })?;
        remote.commit(&session, &digest, size)?;
        Ok((digest, size))
    }

    /// Appends to a session; where it goes on then.
    fn append(&mut self, session: &Url, reader: &mut dyn Read, length: Option<u64>) -> Result<Url> {
        let remote = self.remote;
        let scope = remote.scope(Access::Push);
        let authorization = remote.authorization_for(session, &scope)?;
        let mut failure = None;
        let mut source = Source {
            inner: reader,
            read: 0,
            length,
            failure: &mut failure,
        };
        let outcome = remote.client.send(
            remote
                .request("PATCH", session)
                .header("content-type", "application/octet-stream")
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
            401 if !*self.renewed => {
                // The token ended on the way: a new one, and the session from its start.
                *self.renewed = true;
                let other = remote
                    .auth
                    .renew(&response, &scope, authorization.as_ref())?;
                let error = remote.problem("PATCH", session, response);
                Err(match other {
                    Some(_) => error.again(lost),
                    None => error,
                })
            }
            404 => Err(remote.problem("PATCH", session, response).again(lost)),
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
