//! Blobs: a reader that goes on where a broken connection stopped.

use std::io::{self, Read};

use super::{Access, Remote};
use crate::error::{Again, Doing, Error, Kind, Result};
use crate::http::{BodyReader, Reach, Request, Response, Url};
use crate::oci::descriptor::Descriptor;
use crate::retry::Attempts;
use crate::workers::Stop;

/// The bytes of one blob, not yet believed: whoever reads wraps it in
/// [`crate::oci::digest::Checked`].
///
/// A connection that breaks is made again with `Range`; where the server does not honour it, the
/// bytes that were delivered already are read again and dropped.
pub(crate) struct BlobReader<'r, 'a> {
    remote: &'r Remote<'a>,
    /// The digest, for people.
    name: String,
    size: u64,
    source: Source,
    body: Option<BodyReader>,
    /// Bytes delivered so far.
    at: u64,
    attempts: Attempts<'r>,
}

/// Where a blob comes from.
enum Source {
    Registry(Url),
    /// A URL of the descriptor of a foreign layer.
    Foreign(Url),
}

impl<'a> Remote<'a> {
    /// Whether the repository has the blob. Where the registry refuses to say, it counts as
    /// missing: sending it works, or brings the reason, which no answer to HEAD has.
    ///
    /// # Errors
    /// No answer, or no login.
    pub(crate) fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        let url = self.blob_url(descriptor)?;
        self.until_answered(|| {
            let response = self.send_once("HEAD", &url, Access::Pull, |request| request)?;
            match self.successful("HEAD", &url, response) {
                Ok(_) => Ok(true),
                Err(error) if error.is_missing() => Ok(false),
                Err(error) if error.can_try_again() == Again::Never => {
                    self.report()
                        .debug(|| format!("{error}; taken for missing"));
                    Ok(false)
                }
                Err(error) => Err(error),
            }
        })
        .doing(|| format!("{}: look up {}", self.repository, descriptor.digest))
    }

    /// Opens a blob. A foreign layer (with `urls`) that the registry does not have is fetched
    /// from its URLs: without credentials, and from public addresses only. Waits between tries end
    /// soon after `stop` is set.
    pub(crate) fn open<'r>(
        &'r self,
        descriptor: &Descriptor,
        stop: &'r Stop,
    ) -> Result<BlobReader<'r, 'a>> {
        let registry = Source::Registry(self.blob_url(descriptor)?);
        let mut failure = match self.open_at(registry, descriptor, stop) {
            Ok(reader) => return Ok(reader),
            Err(error) if error.is_missing() && !descriptor.urls.is_empty() => error,
            Err(error) => return Err(error),
        };
        for url in &descriptor.urls {
            let opened = Url::parse(url).and_then(|url| {
                self.report().info(format!(
                    "fetching the foreign layer {} from {url}",
                    descriptor.digest
                ));
                self.open_at(Source::Foreign(url), descriptor, stop)
            });
            match opened {
                Ok(reader) => return Ok(reader),
                Err(error) => failure = error.doing("foreign layer"),
            }
        }
        Err(failure)
    }

    fn open_at<'r>(
        &'r self,
        source: Source,
        descriptor: &Descriptor,
        stop: &'r Stop,
    ) -> Result<BlobReader<'r, 'a>> {
        let mut reader = BlobReader {
            remote: self,
            name: descriptor.digest.short(),
            size: descriptor.size,
            source,
            body: None,
            at: 0,
            attempts: self.attempts().until(stop),
        };
        reader.connect()?;
        Ok(reader)
    }

    fn blob_url(&self, descriptor: &Descriptor) -> Result<Url> {
        self.url(&format!("blobs/{}", descriptor.digest))
    }
}

impl BlobReader<'_, '_> {
    /// Makes a connection that delivers the byte at `self.at` next, trying until it works or
    /// cannot.
    fn connect(&mut self) -> Result<()> {
        loop {
            self.attempts.begin(&self.remote.gate)?;
            match self.connect_once() {
                Ok(body) => {
                    self.body = Some(body);
                    return Ok(());
                }
                Err(error) => self.wait_after(error)?,
            }
        }
    }

    fn connect_once(&self) -> Result<BodyReader> {
        let range = (self.at > 0).then(|| format!("bytes={}-", self.at));
        let response = self.request(range.as_deref())?;
        if range.is_some() {
            match (response.status, Part::of(&response)) {
                (206, Some(part)) if part.first == self.at => {
                    self.check_size(part.total)?;
                    return Ok(response.into_reader());
                }
                // Whatever it is, it is not the part that was asked for: all of it, then. The body
                // of a 416 is left alone (Quirk(distribution 2.8): it is shorter than it says).
                // Servers that know no ranges have other statuses for that.
                (206 | 400 | 405 | 416 | 501, _) => {
                    drop(response);
                    return self.skip(self.request(None)?);
                }
                _ => {}
            }
        }
        self.skip(response)
    }

    fn request(&self, range: Option<&str>) -> Result<Response> {
        let ranged = |request: Request<'static>| match range {
            Some(range) => request.header("range", range),
            None => request,
        };
        match &self.source {
            Source::Registry(url) => self.remote.send_once("GET", url, Access::Pull, ranged),
            Source::Foreign(url) => {
                let request = Request::new("GET", url).reach(Reach::Public);
                self.remote.client.send(ranged(request))
            }
        }
    }

    /// The body of a whole answer, without the bytes that were delivered already.
    fn skip(&self, response: Response) -> Result<BodyReader> {
        let url = self.url();
        let response = self.remote.successful("GET", url, response)?;
        let starts = match response.status {
            200 | 203 => true,
            206 => Part::of(&response).is_some_and(|part| part.first == 0),
            _ => false,
        };
        if !starts {
            return Err(Error::registry(format!(
                "GET {}: status {} for a whole blob",
                self.remote.as_reached(url),
                response.status
            )));
        }
        match response.status {
            206 => self.check_size(Part::of(&response).and_then(|part| part.total))?,
            _ => self.check_size(response.content_length())?,
        }
        let mut body = response.into_reader();
        let skipped = io::copy(&mut (&mut body).take(self.at), &mut io::sink())
            .map_err(|error| Error::io(Kind::Network, error))?;
        match skipped == self.at {
            true => Ok(body),
            false => Err(cut_off(skipped)),
        }
    }

    /// A server that has another number of bytes has another blob: trying again cannot help.
    fn check_size(&self, has: Option<u64>) -> Result<()> {
        match has {
            Some(has) if has != self.size => Err(Error::registry(format!(
                "GET {}: the server has {has} bytes for it, its descriptor says {}",
                self.remote.as_reached(self.url()),
                self.size
            ))),
            _ => Ok(()),
        }
    }

    fn url(&self) -> &Url {
        let (Source::Registry(url) | Source::Foreign(url)) = &self.source;
        url
    }

    fn wait_after(&mut self, error: Error) -> Result<()> {
        let error = match self.at {
            0 => error,
            at => error.doing(format!("read {} at byte {at} of {}", self.name, self.size)),
        };
        self.attempts
            .wait_after(error, &self.remote.gate, self.remote.report())
    }
}

impl Read for BlobReader<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let Some(body) = &mut self.body else {
                if self.at >= self.size {
                    return Ok(0);
                }
                self.connect().map_err(Error::into_io)?;
                continue;
            };
            let error = match body.read(buf) {
                Ok(0) if self.at < self.size => cut_off(self.at),
                Ok(n) => {
                    self.at += n as u64;
                    self.attempts.progress();
                    return Ok(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // All bytes are there: how the connection ends is nobody's concern.
                Err(_) if self.at >= self.size => {
                    self.body = None;
                    return Ok(0);
                }
                Err(error) => Error::io(Kind::Network, error),
            };
            self.body = None;
            self.wait_after(error).map_err(Error::into_io)?;
        }
    }
}

fn cut_off(at: u64) -> Error {
    Error::new(
        Kind::Network,
        format!("the connection ended after {at} bytes"),
    )
    .again(Again::Later { after: None })
}

/// What a 206 delivers (RFC 9110, section 14.4).
struct Part {
    first: u64,
    /// The size of the whole, where the server says it.
    total: Option<u64>,
}

impl Part {
    fn of(response: &Response) -> Option<Self> {
        let range = response.header("content-range")?.trim();
        let (unit, range) = range.split_once(' ')?;
        let (part, total) = range.trim().split_once('/')?;
        let (first, _) = part.split_once('-')?;
        Some(Part {
            first: first.trim().parse().ok()?,
            total: total.trim().parse().ok(),
        })
        .filter(|_| unit.eq_ignore_ascii_case("bytes"))
    }
}

impl Remote<'_> {
    /// The whole of a small blob, verified. Waits between tries end soon after `stop` is set.
    ///
    /// # Errors
    /// More than `limit` bytes announced; bytes that are not the ones asked for, also at a second
    /// try.
    pub(crate) fn small_blob(
        &self,
        descriptor: &Descriptor,
        limit: u64,
        stop: &Stop,
    ) -> Result<Vec<u8>> {
        let fetch = || {
            if descriptor.size > limit {
                return Err(Error::hostile(format!(
                    "it has {} bytes; {limit} is the most that is accepted",
                    descriptor.size
                )));
            }
            let mut bytes = Vec::new();
            let mut reader = self.open(descriptor, stop)?.take(descriptor.size + 1);
            reader
                .read_to_end(&mut bytes)
                .map_err(|error| Error::io(Kind::Network, error))?;
            if bytes.len() as u64 != descriptor.size {
                return Err(Error::hostile(format!(
                    "it has more than the {} bytes that were announced",
                    descriptor.size
                )));
            }
            descriptor.digest.check(&bytes)?;
            Ok(bytes)
        };
        match fetch() {
            Err(error) if error.kind() == Kind::Hostile && descriptor.size <= limit => {
                self.report().info(format!(
                    "{}: {error}: fetching it once more",
                    descriptor.digest.short()
                ));
                fetch()
            }
            outcome => outcome,
        }
    }
}
