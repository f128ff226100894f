//! JSON documents that somebody else wrote.

use serde::Deserialize;

/// Reads a document that is an object. (serde would read a list as well, as the fields of a
/// struct in their order.)
pub(crate) fn object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err("it is not a JSON object".to_owned());
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}
