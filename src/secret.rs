//! Text that must never be shown: passwords, tokens, keys.
//!
//! The type has neither `Debug` nor `Display`, so that a secret cannot slip into a log line or an
//! error; every use is a call of [`Secret::expose`], which a reviewer finds with one search.

/// A password, token or key.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for putting into a request and nothing else.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}
