//! Digests, and the readers that compare bytes with them.
//!
//! A [`Digest`] is parsed before it becomes part of a path or URL; a [`Verified`] exists only
//! where bytes were hashed to their end and compared.

use std::fmt;
use std::io::{self, BufRead, Read};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};

use crate::error::{Error, Kind, Result};

/// Algorithms the OCI image specification registers (descriptor.md, "Registered algorithms").
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

/// `sha256:<64 hex>` or `sha512:<128 hex>`, lower case. No other value of this type can exist.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

impl Digest {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let shown: String = text.chars().take(200).collect();
            Err(Error::config(format!("`{shown}` is not a digest: {why}")))
        };
        let Some((name, hex)) = text.split_once(':') else {
            return refuse("it has no `sha256:` before its hex digits");
        };
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return refuse("its algorithm is neither sha256 nor sha512"),
        };
        if hex.len() != algorithm.hex_len() {
            return refuse("the number of hex digits is not that of its algorithm");
        }
        if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return refuse("it has something else than lower-case hex digits");
        }
        Ok(Digest {
            algorithm,
            hex: hex.into(),
        })
    }

    /// The sha256 of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The algorithm and the first twelve digits, for people.
    pub(crate) fn short(&self) -> String {
        let digits = self.hex.get(..12).unwrap_or_default();
        format!("{}:{digits}…", self.algorithm.name())
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hex digits alone: a file name below `blobs/<algorithm>/`.
    pub(crate) fn hex(&self) -> &str {
        &self.hex
    }

    /// Hashes `bytes` with this digest's algorithm and compares.
    pub(crate) fn check(&self, bytes: &[u8]) -> Result<()> {
        let mut hasher = Hasher::new(self.algorithm);
        hasher.update(bytes);
        let found = hasher.finish();
        if found == *self {
            Ok(())
        } else {
            Err(mismatch(self, &found))
        }
    }
}

fn mismatch(expected: &Digest, found: &Digest) -> Error {
    Error::hostile(format!(
        "the bytes are not the ones asked for: their digest is {found}, not {expected}"
    ))
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Digest::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A running hash.
#[derive(Clone)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Sha512::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        let (algorithm, hex) = match self {
            Hasher::Sha256(hasher) => (Algorithm::Sha256, to_hex(&hasher.finalize())),
            Hasher::Sha512(hasher) => (Algorithm::Sha512, to_hex(&hasher.finalize())),
        };
        Digest {
            algorithm,
            hex: hex.into(),
        }
    }
}

fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let mut hex = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// Proof that a stream was read to its end and has the digest (and size) it should have.
/// Only [`Checked::finish`] makes one.
#[derive(Debug)]
pub(crate) struct Verified {
    digest: Digest,
    size: u64,
}

impl Verified {
    pub(crate) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Bytes that went through the hash.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

/// A reader whose bytes are unbelieved until [`Checked::finish`].
pub(crate) struct Checked<R> {
    inner: R,
    hasher: Hasher,
    expected: Digest,
    size: Option<u64>,
    read: u64,
}

impl<R: Read> Checked<R> {
    /// Expects `digest`, and exactly `size` bytes where the size is known.
    pub(crate) fn new(inner: R, digest: &Digest, size: Option<u64>) -> Self {
        Checked {
            inner,
            hasher: Hasher::new(digest.algorithm()),
            expected: digest.clone(),
            size,
            read: 0,
        }
    }

    /// Reads what is left.
    ///
    /// # Errors
    /// What the reader below says when it fails; [`Kind::Hostile`] when there is too much.
    pub(crate) fn drain(&mut self) -> Result<()> {
        let mut rest = [0; 16 * 1024];
        loop {
            match self.read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(Kind::Local, error)),
            }
        }
    }

    /// Reads what is left, then compares size and digest.
    ///
    /// # Errors
    /// [`Kind::Hostile`] when either differs; what the reader below says when it fails.
    pub(crate) fn finish(mut self) -> Result<Verified> {
        self.drain()?;
        if let Some(size) = self.size
            && self.read != size
        {
            return Err(Error::hostile(format!(
                "it ends after {} bytes; {size} were announced",
                self.read
            )));
        }
        let found = self.hasher.finish();
        if found != self.expected {
            return Err(mismatch(&self.expected, &found));
        }
        Ok(Verified {
            digest: found,
            size: self.read,
        })
    }
}

impl<R: BufRead> BufRead for Checked<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let ready = self.inner.fill_buf()?;
        if let Some(size) = self.size
            && self.read + ready.len() as u64 > size
        {
            return Err(too_long(size));
        }
        Ok(ready)
    }

    fn consume(&mut self, n: usize) {
        // What `fill_buf` handed out is still there: asking again reads nothing.
        if let Ok(ready) = self.inner.fill_buf() {
            self.hasher.update(ready.get(..n).unwrap_or_default());
        }
        self.read += n as u64;
        self.inner.consume(n);
    }
}

/// Reading on would let the peer fill the disk with bytes that are refused anyway.
fn too_long(size: u64) -> io::Error {
    Error::hostile(format!(
        "it is longer than the {size} bytes that were announced"
    ))
    .into_io()
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.read += n as u64;
        if let Some(size) = self.size
            && self.read > size
        {
            return Err(too_long(size));
        }
        self.hasher.update(buf.get(..n).unwrap_or_default());
        Ok(n)
    }
}

/// A reader that learns the sha256 and size of what goes through it.
pub(crate) struct Hashed<R> {
    inner: R,
    hasher: Hasher,
    read: u64,
}

impl<R: Read> Hashed<R> {
    pub(crate) fn new(inner: R) -> Self {
        Hashed {
            inner,
            hasher: Hasher::new(Algorithm::Sha256),
            read: 0,
        }
    }

    /// Digest and size of what was read so far.
    pub(crate) fn finish(self) -> (Digest, u64) {
        (self.hasher.finish(), self.read)
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(buf.get(..n).unwrap_or_default());
        self.read += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_is_a_known_algorithm_and_its_number_of_lower_case_hex_digits() {
        assert_eq!(Digest::parse(EMPTY).unwrap().to_string(), EMPTY);
        let sha512 = format!("sha512:{}", "0f".repeat(64));
        assert_eq!(Digest::parse(&sha512).unwrap().to_string(), sha512);
        for bad in [
            "",
            "latest",
            "sha256:",
            "sha256:abc",
            &EMPTY.to_uppercase(),
            &EMPTY.replace("e3", "E3"),
            &EMPTY.replace("e3", ".."),
            &format!("{EMPTY}0"),
            &format!("md5:{}", "0".repeat(32)),
            &format!("sha512:{}", "0".repeat(64)),
            "sha256:../../../../../../../../../../../../../../../../../../etc/passwd",
        ] {
            assert!(Digest::parse(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn only_bytes_of_the_right_digest_and_size_are_verified() {
        let digest = Digest::of(b"hello");
        let read = |bytes: &'static [u8], size| Checked::new(bytes, &digest, size).finish();
        assert_eq!(read(b"hello", Some(5)).unwrap().size(), 5);
        assert_eq!(read(b"hello", None).unwrap().digest(), &digest);
        for (bytes, size, why) in [
            (&b"hellO"[..], Some(5), "the bytes are not the ones"),
            (b"hell", Some(5), "it ends after 4 bytes"),
            (b"hello", Some(4), "it is longer than the 4 bytes"),
            (b"hello world", Some(5), "it is longer than the 5 bytes"),
            (b"", Some(5), "it ends after 0 bytes"),
        ] {
            let error = read(bytes, size).unwrap_err();
            assert_eq!(error.kind(), Kind::Hostile);
            assert!(error.to_string().starts_with(why), "{error}");
        }
    }
}
