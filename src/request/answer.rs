//! Answers on stdout: one JSON document.

use serde::Serialize;

use crate::oci::digest::Digest;

/// A version as `check` reports it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Found<'a> {
    pub(crate) tag: &'a str,
    pub(crate) digest: &'a Digest,
}

/// A line of a step's metadata in the Concourse UI.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl Metadata {
    pub(crate) fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Metadata {
            name: name.into(),
            value: value.into(),
        }
    }
}

/// The answer of `check`, oldest first.
pub(crate) fn found<T: AsRef<str>>(versions: &[(T, Digest)]) -> String {
    let versions: Vec<Found<'_>> = versions
        .iter()
        .map(|(tag, digest)| Found {
            tag: tag.as_ref(),
            digest,
        })
        .collect();
    to_json(&versions)
}

/// The version that `in` and `out` answer with.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Produced<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tag: Option<&'a str>,
    pub(crate) digest: &'a Digest,
}

/// The answer of `in` and `out`.
pub(crate) fn produced(version: &Produced<'_>, metadata: &[Metadata]) -> String {
    #[derive(Serialize)]
    struct Answer<'a> {
        version: &'a Produced<'a>,
        metadata: &'a [Metadata],
    }
    to_json(&Answer { version, metadata })
}

fn to_json(value: &impl Serialize) -> String {
    // Texts and lists always have a JSON form; there is nothing that could fail.
    serde_json::to_string(value).unwrap_or_default()
}
