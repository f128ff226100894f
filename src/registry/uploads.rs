//! Uploads: a session, the bytes, the commit (distribution-spec, "Pushing blobs").

use std::io::{self, Read};

use super::{Access, Remote};
use crate::error::{Again, Doing, Error, Kind, Result};
use crate::http::{Payload, Request, Response, Scheme, Url};
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
                if let Ok(session) = self.session(&url, &response) {
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
        self.until_answered(|| {
            let start = self.url("blobs/uploads/")?;
            let response = self.send_once("POST", &start, Access::Push, |request| request)?;
            let response = self.successful("POST", &start, response)?;
            let mut session = self.session(&start, &response)?;
            let (digest, size) = bytes(&mut |reader, length| {
                session = self.send_bytes(&session, reader, length)?;
                Ok(())
            })?;
            self.commit(&session, &digest, size)?;
            Ok((digest, size))
        })
    }

    /// Appends to a session; where it goes on then.
    fn send_bytes(&self, session: &Url, reader: &mut dyn Read, length: Option<u64>) -> Result<Url> {
        let scope = self.scope(Access::Push);
        let authorization = self.authorization_for(session, &scope)?;
        let mut failure = None;
        let mut source = Source {
            inner: reader,
            failure: &mut failure,
        };
        let outcome = self.client.send(
            Request::new("PATCH", session)
                .header("content-type", "application/octet-stream")
                .authorization(authorization.as_ref())
                .may_be_plain()
                .payload(Payload::Stream {
                    reader: &mut source,
                    length,
                }),
        );
        // A file that cannot be read is not the connection's fault.
        if let Some(error) = failure {
            return Err(error);
        }
        let response = outcome?;
        let lost = Again::Later { after: None };
        match response.status {
            401 => {
                // The token ended on the way: a new one, and the session from its start.
                self.auth.renew(&response, &scope, authorization.as_ref())?;
                Err(self.problem("PATCH", session, response).again(lost))
            }
            404 => Err(self.problem("PATCH", session, response).again(lost)),
            _ => {
                let response = self.successful("PATCH", session, response)?;
                self.session(session, &response)
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
    fn session(&self, asked: &Url, response: &Response) -> Result<Url> {
        let location = response.header("location").ok_or_else(|| {
            Error::registry(format!(
                "{asked}: the registry started an upload without a Location"
            ))
        })?;
        let url = asked
            .join(location)
            .doing(|| format!("upload location of {asked}"))?;
        if asked.is_https() && !url.is_https() && !self.client.is_plain(&self.registry) {
            // Quirk(registries behind a TLS proxy): they name their own scheme. The host is the
            // same, so HTTPS is meant.
            return match url.host() == asked.host() {
                true => Url::at(Scheme::Https, &asked.authority(), url.target()),
                false => Err(Error::hostile(format!(
                    "{asked}: the upload is to go on at {url}, without TLS"
                ))),
            };
        }
        Ok(url)
    }
}

/// Keeps an error of the source apart from errors of the connection.
struct Source<'u> {
    inner: &'u mut dyn Read,
    failure: &'u mut Option<Error>,
}

impl Read for Source<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf).map_err(|error| {
            let error = Error::io(Kind::Local, error);
            let text = error.to_string();
            *self.failure = Some(error);
            io::Error::other(text)
        })
    }
}
