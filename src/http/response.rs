//! An answer and its body.

use std::io::{self, Read};

use ureq::Body;
use ureq::http::{HeaderMap, HeaderValue};

use super::failure::io_error;
use super::url::Url;
use crate::error::{Doing, Error, Result};
use crate::report::Hidden;

/// A body that is read to its end for nothing but the connection's next use; closing it is cheaper
/// from here on.
const SHORT_BODY: u64 = 64 << 10;

/// An answer, of whatever status.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(super) method: &'static str,
    /// Where it came from, after redirects.
    pub(crate) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    /// The proxy that forwarded it, which may have answered itself.
    pub(super) via: Option<String>,
    /// What a server that repeats it is not quoted with.
    pub(super) hidden: Hidden,
}

impl Response {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header of this name that is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        text(self.headers.get(name)?)
    }

    pub(super) fn is_json(&self) -> bool {
        self.header("content-type")
            .is_some_and(|value| value.contains("json"))
    }

    /// All headers of this name that are text.
    pub(crate) fn headers<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let values = self.headers.get_all(name);
        values.iter().filter_map(text)
    }

    /// The number of bytes that the body is announced to have.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    pub(crate) fn into_reader(self) -> BodyReader {
        BodyReader(self.body.into_with_config().limit(u64::MAX).reader())
    }

    /// The whole body.
    ///
    /// # Errors
    /// More than `limit` bytes; a broken connection.
    pub(crate) fn bytes(self, limit: u64) -> Result<Vec<u8>> {
        let asked = format!("{} {}", self.method, self.url);
        match self.bytes_up_to(limit + 1) {
            Ok(bytes) if bytes.len() as u64 > limit => Err(Error::hostile(format!(
                "{asked}: the answer is longer than {limit} bytes, the most that is accepted"
            ))),
            bytes => bytes.doing(|| asked),
        }
    }

    /// The same with its body in memory, as far as it is short: the connection is free again.
    pub(crate) fn settled(mut self) -> Self {
        let mut bytes = Vec::new();
        let body = std::mem::replace(&mut self.body, Body::builder().data(""));
        let mut body = body.into_with_config().limit(u64::MAX).reader();
        // What cannot be read of an error is not shown.
        let _ = (&mut body).take(SHORT_BODY).read_to_end(&mut bytes);
        self.body = Body::builder().data(bytes);
        self
    }

    /// Reads what is left of a short body, so that the connection can be used again.
    pub(crate) fn discard(self) {
        // Nobody wants these bytes: that they cannot be read is no failure.
        let _ = self.bytes_up_to(SHORT_BODY);
    }

    /// At most the first `limit` bytes of the body.
    pub(crate) fn bytes_up_to(self, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.into_reader().take(limit).read_to_end(&mut bytes);
        match read {
            Ok(_) => Ok(bytes),
            Err(error) => Err(io_error(error)),
        }
    }
}

/// A header as text: `to_str` takes ASCII alone, and names of realms have umlauts.
fn text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

/// A body as it arrives; its errors are [`Error`]s inside `io::Error`.
pub(crate) struct BodyReader(ureq::BodyReader<'static>);

impl Read for BodyReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).map_err(|error| io_error(error).into_io())
    }
}
