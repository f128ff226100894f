//! The outermost transport of every connection: sees that a broken connection is not taken for a
//! finished body, and that what a server says before it hangs up on an upload is heard.

use std::fmt;
use std::io;
use std::time::Duration;

use ureq::Body;
use ureq::http::{HeaderMap, HeaderName, HeaderValue};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

use super::tls;
use crate::error::{Again, Error, Kind};

/// Bytes of a connection's buffers, in and out. Larger ones bring no speed and are held by every
/// connection.
pub(super) const INPUT_BUFFER: usize = 64 << 10;
pub(super) const OUTPUT_BUFFER: usize = 64 << 10;

/// An answer that came before the end of its request: head and body together.
const EARLY_LIMIT: usize = 64 << 10;

/// What a server said before it hung up is there already, or nearly.
const EARLY_PATIENCE: Duration = Duration::from_secs(5);

/// The last connector of the chain.
#[derive(Debug)]
pub(super) struct Wire;

impl Connector<Box<dyn Transport>> for Wire {
    type Out = Guarded;

    fn connect(
        &self,
        _: &ConnectionDetails,
        chained: Option<Box<dyn Transport>>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        Ok(chained.map(|inner| Guarded {
            inner,
            broken: false,
        }))
    }
}

pub(super) struct Guarded {
    inner: Box<dyn Transport>,
    broken: bool,
}

impl Guarded {
    /// The answer of a server that does not read on; nothing where there is none.
    fn early_answer(&mut self, mut timeout: NextTimeout) -> Option<EarlyAnswer> {
        timeout.after = EARLY_PATIENCE.into();
        let mut read = Vec::new();
        loop {
            match EarlyAnswer::parse(&read) {
                Parsed::Whole(answer) => return Some(answer),
                Parsed::Part(_) if read.len() < EARLY_LIMIT => {}
                Parsed::Part(answer) => return answer,
            }
            let more = self.inner.await_input(timeout).unwrap_or(false);
            let input = self.inner.buffers().input();
            let n = input.len();
            read.extend_from_slice(input);
            self.inner.buffers().input_consume(n);
            if !more || n == 0 {
                return match EarlyAnswer::parse(&read) {
                    Parsed::Whole(answer) | Parsed::Part(Some(answer)) => Some(answer),
                    Parsed::Part(None) => None,
                };
            }
        }
    }
}

impl Transport for Guarded {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let sent = self.inner.transmit_output(amount, timeout);
        if let Err(ureq::Error::Io(error)) = &sent {
            self.broken = true;
            if is_hang_up(error.kind())
                && let Some(answer) = self.early_answer(timeout)
            {
                return Err(ureq::Error::Io(io::Error::other(answer)));
            }
        }
        sent
    }

    /// ureq takes a reset for the end of a body that has no length; a body that was cut off would
    /// be a whole one then.
    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        // ureq would read into no room, and take what it gets for the end of the connection.
        if self.inner.buffers().input_append_buf().is_empty() {
            self.broken = true;
            let why = format!(
                "the head of its answer, or of a chunk, is longer than {INPUT_BUFFER} bytes"
            );
            return Err(ureq::Error::Io(Error::registry(why).into_io()));
        }
        match self.inner.await_input(timeout) {
            Err(ureq::Error::Io(error)) if is_hang_up(error.kind()) => {
                self.broken = true;
                let why = match error.kind() {
                    // TLS was not ended as it has to be, so the end may be anybody's.
                    io::ErrorKind::UnexpectedEof => "the connection was closed too early",
                    _ => "connection reset by peer",
                };
                let error = Error::new(Kind::Network, why).again(Again::Later { after: None });
                Err(ureq::Error::Io(error.into_io()))
            }
            // A record that is not TLS: bytes were lost or changed on the way.
            Err(ureq::Error::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                self.broken = true;
                let error = tls::refusal_inside(&error).unwrap_or_else(|| {
                    Error::new(Kind::Network, format!("TLS: {error}"))
                        .again(Again::Later { after: None })
                });
                Err(ureq::Error::Io(error.into_io()))
            }
            outcome => outcome,
        }
    }

    fn is_open(&mut self) -> bool {
        !self.broken && self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.inner)
    }
}

fn is_hang_up(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}

/// An answer with an error status to a request that was not read to its end.
pub(super) struct EarlyAnswer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    body: Vec<u8>,
}

enum Parsed {
    Whole(EarlyAnswer),
    /// More may come; what there is so far, if it is an answer already.
    Part(Option<EarlyAnswer>),
}

impl EarlyAnswer {
    /// The one inside an error, or the error.
    pub(super) fn from_error(error: ureq::Error) -> Result<Self, ureq::Error> {
        match error {
            ureq::Error::Io(error) => error.downcast().map_err(ureq::Error::Io),
            other => Err(other),
        }
    }

    pub(super) fn into_body(self) -> Body {
        Body::builder().data(self.body)
    }

    /// RFC 9112, sections 4 to 6, as far as an error needs it.
    fn parse(mut read: &[u8]) -> Parsed {
        let (head, body) = loop {
            let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else {
                return Parsed::Part(None);
            };
            let (head, rest) = read.split_at(end);
            let rest = rest.get(4..).unwrap_or_default();
            if !head.starts_with(b"HTTP/1.1 1") {
                break (head, rest);
            }
            // An interim answer (100 Continue): the real one follows.
            read = rest;
        };
        let head = String::from_utf8_lossy(head);
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1."))
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|status| status.parse().ok());
        // Success of a request that was not read is nothing to rely on.
        let Some(status @ 400..=599) = status else {
            return Parsed::Part(None);
        };
        let mut headers = HeaderMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if let (Ok(name), Ok(value)) = (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::from_str(value.trim()),
            ) {
                headers.append(name, value);
            }
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (body, whole) = match text("transfer-encoding") {
            Some(_) => first_chunk(body),
            None => {
                let length = text("content-length").and_then(|text| text.parse().ok());
                (
                    body,
                    length.is_some_and(|length: usize| body.len() >= length),
                )
            }
        };
        let answer = EarlyAnswer {
            status,
            body: body.to_vec(),
            headers,
        };
        match whole {
            true => Parsed::Whole(answer),
            false => Parsed::Part(Some(answer)),
        }
    }
}

/// An error's text fits into one chunk.
fn first_chunk(body: &[u8]) -> (&[u8], bool) {
    let line_end = body.windows(2).position(|two| two == b"\r\n");
    let size = line_end
        .and_then(|end| std::str::from_utf8(body.get(..end)?).ok())
        .and_then(|size| usize::from_str_radix(size.split(';').next()?.trim(), 16).ok());
    let (Some(end), Some(size)) = (line_end, size) else {
        return (&[], false);
    };
    let rest = body.get(end + 2..).unwrap_or_default();
    match rest.get(..size) {
        Some(chunk) => (chunk, true),
        None => (rest, false),
    }
}

impl fmt::Debug for EarlyAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)
    }
}

impl fmt::Display for EarlyAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)
    }
}

impl std::error::Error for EarlyAnswer {}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(read: &str) -> String {
        let show = |answer: &EarlyAnswer| {
            format!(
                "{} {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            )
        };
        match EarlyAnswer::parse(read.as_bytes()) {
            Parsed::Whole(answer) => format!("whole {}", show(&answer)),
            Parsed::Part(Some(answer)) => format!("part {}", show(&answer)),
            Parsed::Part(None) => "nothing".to_owned(),
        }
    }

    #[test]
    fn an_early_answer_is_read_as_far_as_it_came() {
        for (read, expect) in [
            ("", "nothing"),
            ("HTTP/1.1 413 Too Large\r\n", "nothing"),
            ("HTTP/1.1 413 Too Large\r\n\r\n", "part 413 "),
            (
                "HTTP/1.1 413 x\r\nContent-Length: 2\r\n\r\nab",
                "whole 413 ab",
            ),
            (
                "HTTP/1.1 413 x\r\ncontent-length: 3\r\n\r\nab",
                "part 413 ab",
            ),
            (
                "HTTP/1.1 403 x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
                "whole 403 ab",
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 401 x\r\nContent-Length: 0\r\n\r\n",
                "whole 401 ",
            ),
            (
                "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
                "nothing",
            ),
            ("SSH-2.0-x\r\n\r\n", "nothing"),
        ] {
            assert_eq!(shown(read), expect, "{read}");
        }
    }
}
