//! JSON documents that somebody else wrote.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::error::{self, Error};

/// Reads a document that is an object. (serde would read a list as well, as the fields of a
/// struct in their order.)
pub(crate) fn object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err("it is not a JSON object".to_owned());
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// Whether it is a web page, with which proxies and login pages answer in place of a registry.
pub(crate) fn is_page(bytes: &[u8]) -> bool {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = text.trim_ascii_start();
    let begins = |with: &[u8]| {
        let start = text.get(..with.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(with))
    };
    begins(b"<!doctype html") || begins(b"<html")
}

/// Go's encoders write an absent list or map as `null`.
pub(super) fn or_null<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A list of texts, where there is one. Go's decoders take a `null` in it for the empty text.
pub(super) fn texts<'de, D>(deserializer: D) -> Result<Option<Vec<String>>, D::Error>
where
    D: Deserializer<'de>,
{
    let list = Option::<Vec<Option<String>>>::deserialize(deserializer)?;
    Ok(list.map(|list| list.into_iter().map(Option::unwrap_or_default).collect()))
}

/// As [`texts`], a map of them: annotations, labels.
pub(super) fn named_texts<'de, D>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    let map = Option::<BTreeMap<String, Option<String>>>::deserialize(deserializer)?;
    let entries = map.into_iter().flatten();
    Ok(entries
        .map(|(name, text)| (name, text.unwrap_or_default()))
        .collect())
}

/// Refuses `count` things of a document, called `what`, where that is more than anybody needs.
pub(super) fn bounded(document: &str, count: usize, limit: usize, what: &str) -> error::Result<()> {
    match count > limit {
        true => Err(Error::hostile(format!(
            "the {document} has {count} {what}; {limit} is the most that is accepted"
        ))),
        false => Ok(()),
    }
}
