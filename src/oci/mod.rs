//! The nouns of the OCI specifications, pure: no network, no files.

pub(crate) mod config;
pub(crate) mod digest;
pub(crate) mod json;
pub(crate) mod manifest;
pub(crate) mod platform;
pub(crate) mod reference;
