//! The one error of the program: a sentence with causes, and questions for callers.
//!
//! Owns how a failure reads at a Concourse build page. It knows nothing of HTTP or files: whoever
//! makes an error says what kind it is and whether the same attempt may succeed later.

use std::fmt;
use std::io;
use std::time::Duration;

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// The request (source, params, version) asks for something that cannot be.
    Config,
    /// The registry or another service does not let this identity do it.
    Denied,
    /// Bytes, names or documents that nobody honest would send.
    Hostile,
    /// This machine: disk, memory, permissions, files handed to us.
    Local,
    /// What was asked for is not there.
    Missing,
    /// The connection: names, sockets, TLS, proxies.
    Network,
    /// The service answered, and the answer is an error or makes no sense.
    Registry,
}

/// Whether the same attempt may succeed later.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Again {
    /// Trying again gives the same answer.
    #[default]
    Never,
    /// The host does not resolve or refuses connections: a typo, or a service that is just starting.
    Unreachable,
    /// A fault that passes (a reset, a 503). `after` is what the server asked us to wait.
    Later { after: Option<Duration> },
    /// The server limits our rate (429): everybody who talks to it waits.
    Limited { after: Option<Duration> },
}

/// A failure: what was being done, to what, why it failed, and what to try.
///
/// `Display` gives the whole chain on one line, outermost first. One word wide, so that
/// `Result` stays small.
pub(crate) struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    again: Again,
    /// What was being done, innermost first.
    doing: Vec<String>,
    why: String,
    advice: Option<String>,
}

impl Error {
    #[cold]
    pub(crate) fn new(kind: Kind, why: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            again: Again::Never,
            doing: Vec::new(),
            why: why.into(),
            advice: None,
        }))
    }

    pub(crate) fn config(why: impl Into<String>) -> Self {
        Error::new(Kind::Config, why)
    }

    pub(crate) fn hostile(why: impl Into<String>) -> Self {
        Error::new(Kind::Hostile, why)
    }

    pub(crate) fn local(why: impl Into<String>) -> Self {
        Error::new(Kind::Local, why)
    }

    pub(crate) fn registry(why: impl Into<String>) -> Self {
        Error::new(Kind::Registry, why)
    }

    /// An error of the operating system or of a reader. One of ours that went through
    /// `std::io::Read` comes out as it went in.
    #[cold]
    pub(crate) fn io(kind: Kind, error: io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(ours) => ours,
            Err(other) => Error::new(kind, describe_io(&other)),
        }
    }

    /// What can be done about it; only where we are sure.
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.0.advice.get_or_insert_with(|| advice.into());
        self
    }

    /// The same, in the place of what somebody below advised.
    pub(crate) fn advise_instead(mut self, advice: impl Into<String>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// Adds a remark in brackets, such as how often it was tried.
    pub(crate) fn noting(mut self, remark: impl fmt::Display) -> Self {
        self.0.why = format!("{} ({remark})", self.0.why);
        self
    }

    pub(crate) fn again(mut self, again: Again) -> Self {
        self.0.again = again;
        self
    }

    /// Adds what the caller was doing.
    pub(crate) fn doing(mut self, what: impl Into<String>) -> Self {
        self.0.doing.push(what.into());
        self
    }

    /// The same failure, seen from where it is somebody else's fault.
    pub(crate) fn of_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The same where what is missing is not what the caller looks for.
    pub(crate) fn of_something_else(self) -> Self {
        match self.is_missing() {
            true => self.of_kind(Kind::Registry),
            false => self,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.0.kind
    }

    pub(crate) fn is_missing(&self) -> bool {
        self.0.kind == Kind::Missing
    }

    pub(crate) fn is_denied(&self) -> bool {
        self.0.kind == Kind::Denied
    }

    /// Whether trying again may help, and when.
    pub(crate) fn can_try_again(&self) -> Again {
        self.0.again
    }

    /// Passes this error through a `std::io` interface; [`Error::io`] takes it out again.
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}

/// The text of an I/O error without Rust's ` (os error 2)`.
fn describe_io(error: &io::Error) -> String {
    let text = error.to_string();
    let text = match text.rfind(" (os error ") {
        Some(at) => text.get(..at).unwrap_or(&text).to_owned(),
        None => text,
    };
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for doing in self.0.doing.iter().rev() {
            write!(f, "{doing}: ")?;
        }
        f.write_str(&self.0.why)?;
        if let Some(advice) = &self.0.advice {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}: {self}", self.0.kind, self.0.again)
    }
}

impl std::error::Error for Error {}

/// Adds verb and object to a failure on its way up.
pub(crate) trait Doing<T> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Doing<T> for Result<T> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| error.doing(what()))
    }
}

/// For calls on this machine: an `io::Error` there is [`Kind::Local`].
impl<T> Doing<T> for io::Result<T> {
    fn doing<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::io(Kind::Local, error).doing(what()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_reads_from_the_outside_in_and_ends_with_the_advice() {
        let error = Error::new(Kind::Denied, "401 Unauthorized")
            .advise("check `source.password`")
            .doing("fetch manifest")
            .doing("get");
        assert_eq!(
            error.to_string(),
            "get: fetch manifest: 401 Unauthorized; check `source.password`"
        );
    }

    #[test]
    fn an_error_comes_out_of_a_reader_as_it_went_in() {
        let error = Error::hostile("digest differs").again(Again::Later { after: None });
        let back = Error::io(Kind::Local, error.into_io());
        assert_eq!(back.kind(), Kind::Hostile);
        assert_eq!(back.can_try_again(), Again::Later { after: None });
    }

    #[test]
    fn system_errors_are_lower_case_without_numbers() {
        let error = Error::io(Kind::Local, io::Error::from_raw_os_error(2));
        assert_eq!(error.to_string(), "no such file or directory");
    }
}
