//! What a failed exchange means for whoever may try again.

use std::fmt;
use std::io;

use super::request::{STALL, Waits};
use crate::error::{Again, Error, Kind};

/// A failure that ureq reports; `waits` are those of the request.
pub(super) fn network_error(error: ureq::Error, waits: Waits) -> Error {
    let later = |why: &str| Error::new(Kind::Network, why).again(Again::Later { after: None });
    match error {
        ureq::Error::Io(error) => io_error(error),
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => later(&format!(
            "no connection within {} s",
            waits.connect.as_secs()
        )),
        ureq::Error::Timeout(ureq::Timeout::RecvResponse) => {
            later(&format!("no answer within {} s", waits.answer.as_secs()))
        }
        ureq::Error::Timeout(ureq::Timeout::RecvBody) => later("the answer did not end in time"),
        ureq::Error::Timeout(_) => later(&format!("not a byte for {} s", STALL.as_secs())),
        ureq::Error::ConnectionFailed => later("the connection failed"),
        ureq::Error::BodyStalled => later("the connection was closed too early"),
        ureq::Error::Protocol(error) => no_http(&error),
        error @ (ureq::Error::Http(_) | ureq::Error::LargeResponseHeader(..)) => no_http(&error),
        other => Error::new(Kind::Network, other.to_string()),
    }
}

fn no_http(why: &dyn fmt::Display) -> Error {
    Error::registry(format!("the answer is not valid HTTP: {why}"))
}

/// A failure of a stream; what ureq or we ourselves have put into it is taken out.
pub(super) fn io_error(error: io::Error) -> Error {
    let error = match error.downcast::<ureq::Error>() {
        Ok(inner) => return network_error(inner, Waits::USUAL),
        Err(error) => error,
    };
    let again = match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::NetworkUnreachable => Again::Unreachable,
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected
        | io::ErrorKind::TimedOut
        | io::ErrorKind::WouldBlock
        | io::ErrorKind::UnexpectedEof => Again::Later { after: None },
        _ => Again::Never,
    };
    // ureq's words for a connection that ended in the middle of an answer.
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Error::new(Kind::Network, "the connection was closed too early").again(again);
    }
    let is_ours = error.get_ref().is_some_and(|inner| inner.is::<Error>());
    let error = Error::io(Kind::Network, error);
    match (is_ours, again) {
        (true, _) => error,
        (false, Again::Unreachable) => error
            .again(again)
            .advise("check the host and port, and that the server is up"),
        (false, _) => error.again(again),
    }
}
