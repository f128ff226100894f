//! What the user says of TLS.

use super::url::Url;
use crate::secret::Secret;

/// What a client believes and how it connects.
#[derive(Clone, Default)]
pub(crate) struct Options {
    /// PEM texts trusted besides the system's and the built-in roots.
    pub(crate) ca_certs: Vec<String>,
    /// Certificates are not verified, and any host may turn out to be plain HTTP.
    pub(crate) insecure: bool,
    /// Shown to one server that asks for a client certificate.
    pub(crate) identity: Option<Identity>,
}

/// A client certificate. Like a password it is for one server and for no other.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) server: Url,
    /// PEM: the certificate, and those between it and its authority.
    pub(crate) certificate: String,
    /// PEM, not encrypted.
    pub(crate) key: Secret,
}
