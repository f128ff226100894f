//! Small files of the machine that belong to a login: token files, profiles, bundles.

use std::fs::File;
use std::io::Read as _;

use crate::error::{Doing, Error, Result};
use crate::secret::Secret;

/// Bytes of a token file; STS takes 20,000 characters.
const TOKEN_LIMIT: u64 = 64 << 10;

/// The text of a file that is not longer than `limit` bytes.
///
/// # Errors
/// Whatever the system says; a file that is longer or no text. The path is named, the content is not.
pub(super) fn read(path: &str, limit: u64) -> Result<String> {
    read_bounded(path, limit).doing(|| format!("read `{path}`"))
}

/// The same for a file that need not be there.
pub(super) fn read_if_there(path: &str, limit: u64) -> Result<Option<String>> {
    let missing = match std::fs::metadata(path) {
        Ok(_) => false,
        Err(error) => matches!(
            error.kind(),
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
        ),
    };
    match missing {
        true => Ok(None),
        false => read(path, limit).map(Some),
    }
}

/// The token in a file, without the white space around it.
pub(super) fn token(path: &str) -> Result<Secret> {
    let text = read(path, TOKEN_LIMIT)?;
    let token = text.trim();
    match !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(Secret::new(token)),
        false => Err(Error::local(format!("`{path}` does not hold a token"))),
    }
}

fn read_bounded(path: &str, limit: u64) -> Result<String> {
    let file = File::open(path).map_err(local)?;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(local)?;
    if bytes.len() as u64 > limit {
        return Err(Error::local(format!("it is longer than {limit} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| Error::local("it is not text"))
}

fn local(error: std::io::Error) -> Error {
    Error::io(crate::error::Kind::Local, error)
}
