//! The nouns of the OCI specifications, pure: no network, no files.

pub(crate) mod config;
pub(crate) mod descriptor;
pub(crate) mod digest;
pub(crate) mod json;
pub(crate) mod manifest;
pub(crate) mod media_type;
pub(crate) mod platform;
pub(crate) mod reference;
