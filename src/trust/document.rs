//! Signed TUF documents: `{"signed": …, "signatures": […]}`.
//!
//! A [`Signed`] is unbelieved until [`Signed::verify`]. Members that are not known here are kept,
//! and signed again with the rest.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256, Sha512};

use super::canonical::canonical_object;
use super::keys::PrivateKey;
use super::listed::PublicKey;
use super::public::Core;
use crate::error::{Error, Result};
use crate::oci::json;
use crate::semver::Created;

/// Signatures of one document that are looked at; a root that is rotated has a handful.
const MOST_SIGNATURES: usize = 64;

/// A document that somebody signed.
#[derive(Clone, Debug)]
pub(super) struct Signed {
    bytes: Vec<u8>,
    envelope: Map<String, Value>,
    signed: Map<String, Value>,
    /// What is signed.
    message: Vec<u8>,
    pub(super) version: u64,
    expires: String,
}

/// Who signs a role: its keys, and how many of them it takes.
#[derive(Clone, Debug, Default)]
pub(super) struct Signers {
    pub(super) keys: Vec<PublicKey>,
    pub(super) threshold: u64,
}

impl Signers {
    /// Reads a role as root and delegations list it; `keys` are those of the same document.
    pub(super) fn read(role: &Value, keys: Option<&Value>) -> Result<Self> {
        let missing = |what: &str| Error::hostile(format!("a role without {what}"));
        let threshold = role.get("threshold").and_then(Value::as_u64);
        let threshold = threshold.ok_or_else(|| missing("threshold"))?;
        if threshold == 0 {
            return Err(Error::hostile("a role that needs no signature"));
        }
        let ids = role.get("keyids").and_then(Value::as_array);
        let mut signers = Signers {
            keys: Vec::new(),
            threshold,
        };
        for id in ids.ok_or_else(|| missing("key ids"))? {
            let id = id.as_str().unwrap_or_default();
            let key = keys.and_then(|keys| PublicKey::from_json(keys.get(id)?));
            let Some(key) = key else {
                return Err(Error::hostile(format!("a role's key `{id}` is not listed")));
            };
            if key.id != id {
                return Err(Error::hostile(format!(
                    "the key listed as `{id}` is another one, {}",
                    key.id
                )));
            }
            signers.keys.push(key);
        }
        Ok(signers)
    }

    /// The ids under which the key with this core may sign.
    pub(super) fn ids_of(&self, core: &Core) -> Vec<&str> {
        let keys = self.keys.iter();
        let keys = keys.filter(|key| key.core.as_ref() == Some(core));
        keys.map(|key| key.id.as_str()).collect()
    }

    /// All key ids, for people.
    pub(super) fn listed(&self) -> String {
        let ids: Vec<&str> = self.keys.iter().map(|key| key.id.as_str()).collect();
        ids.join(", ")
    }
}

impl Signed {
    /// Reads a document; nothing of it is believed yet.
    pub(super) fn parse(bytes: Vec<u8>) -> Result<Self> {
        let odd = |why: &str| Error::hostile(format!("it is no TUF document: {why}"));
        let mut envelope: Map<String, Value> = json::object(&bytes).map_err(|why| odd(&why))?;
        let Some(Value::Object(signed)) = envelope.remove("signed") else {
            return Err(odd("`signed` is missing"));
        };
        let message = canonical_object(&signed).map_err(|why| odd(&why))?;
        let version = signed.get("version").and_then(Value::as_u64);
        let expires = signed.get("expires").and_then(Value::as_str);
        Ok(Signed {
            version: version.ok_or_else(|| odd("`version` is missing"))?,
            expires: expires
                .ok_or_else(|| odd("`expires` is missing"))?
                .to_owned(),
            bytes,
            envelope,
            message,
            signed,
        })
    }

    /// Signatures, kind, version, expiry: in this order, so that nothing is said of a document's
    /// content that is not its signers'.
    pub(super) fn verify(&self, kind: &str, signers: &Signers, now: Created) -> Result<()> {
        self.verify_signatures(signers)?;
        self.verify_content(kind, now)
    }

    /// Enough signatures, each of another key.
    pub(super) fn verify_signatures(&self, signers: &Signers) -> Result<()> {
        let signatures = self.envelope.get("signatures").and_then(Value::as_array);
        let signatures = signatures.map(Vec::as_slice).unwrap_or_default();
        // One key under two ids is one key.
        let mut good: Vec<&Core> = Vec::new();
        for signature in signatures.iter().take(MOST_SIGNATURES) {
            let text = |name: &str| signature.get(name).and_then(Value::as_str);
            let (Some(id), Some(method), Some(encoded)) =
                (text("keyid"), text("method"), text("sig"))
            else {
                continue;
            };
            let key = signers.keys.iter().find(|key| key.id == id);
            let Some(core) = key.and_then(|key| key.core.as_ref()) else {
                continue;
            };
            let method = method.to_ascii_lowercase();
            let is_good = STANDARD
                .decode(encoded)
                .is_ok_and(|bytes| core.verifies(&method, &self.message, &bytes));
            if is_good && !good.contains(&core) {
                good.push(core);
            }
        }
        if (good.len() as u64) < signers.threshold {
            return Err(Error::hostile(format!(
                "{} of {} signatures that it needs are good",
                good.len(),
                signers.threshold
            )));
        }
        Ok(())
    }

    pub(super) fn verify_content(&self, kind: &str, now: Created) -> Result<()> {
        let said = self.signed.get("_type").and_then(Value::as_str);
        if !said.is_some_and(|said| said.eq_ignore_ascii_case(kind)) {
            let said = said.unwrap_or_default();
            return Err(Error::hostile(format!("it is `{said}`, not `{kind}`")));
        }
        if self.version == 0 {
            return Err(Error::hostile("its version is 0"));
        }
        match Created::parse(&self.expires) {
            Ok(expires) if expires >= now => Ok(()),
            Ok(_) => Err(Error::registry(format!("it expired at {}", self.expires))),
            Err(error) => Err(error.doing("`expires`")),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A member of what is signed.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.signed.get(name)
    }

    /// What `meta` says of another document.
    pub(super) fn meta(&self, role: &str) -> Option<Meta> {
        Meta::read(self.signed.get("meta")?.get(role)?)
    }

    /// The entry of a target.
    pub(super) fn target(&self, name: &str) -> Option<&Value> {
        self.signed.get("targets")?.get(name)
    }

    /// The first document of a delegation.
    pub(super) fn empty_targets() -> Self {
        let signed = json!({
            "_type": "Targets",
            "delegations": {"keys": {}, "roles": []},
            "targets": {},
        });
        Signed {
            bytes: Vec::new(),
            envelope: Map::new(),
            signed: signed.as_object().cloned().unwrap_or_default(),
            message: Vec::new(),
            version: 0,
            expires: String::new(),
        }
    }

    /// The next version: with these members in one of its objects (`targets`, `meta`), a new
    /// expiry, and signed anew by `key` under `ids`. All else stays as it is.
    pub(super) fn next(
        &self,
        object: &str,
        members: Map<String, Value>,
        expires: &str,
        key: &PrivateKey,
        ids: &[&str],
    ) -> Result<Self> {
        let odd = |why: String| Error::hostile(format!("it cannot be signed: {why}"));
        let mut signed = self.signed.clone();
        let version = self.version.checked_add(1);
        let version = version.ok_or_else(|| odd("its version cannot be raised".to_owned()))?;
        match signed.entry(object).or_insert_with(|| json!({})) {
            Value::Object(known) => known.extend(members),
            // Go writes an empty map as null.
            other if other.is_null() => *other = Value::Object(members),
            _ => return Err(odd(format!("`{object}` is no object"))),
        }
        signed.insert("version".to_owned(), version.into());
        signed.insert("expires".to_owned(), expires.into());
        let message = canonical_object(&signed).map_err(odd)?;
        let mut signatures = Vec::new();
        for id in ids {
            let (method, signature) = key.sign(&message)?;
            let signature = STANDARD.encode(signature);
            signatures.push(json!({"keyid": id, "method": method, "sig": signature}));
        }
        let mut envelope = self.envelope.clone();
        envelope.insert("signatures".to_owned(), Value::Array(signatures));
        // What is signed comes first, as others write it.
        let rest = readable(&envelope).map_err(odd)?;
        let rest = rest.strip_prefix(b"{").unwrap_or_default();
        let first = readable(&signed).map_err(odd)?;
        let bytes = [b"{\"signed\":", first.as_slice(), b",", rest].concat();
        Ok(Signed {
            bytes,
            envelope,
            signed,
            message,
            version,
            expires: expires.to_owned(),
        })
    }
}

/// The canonical form, where that is JSON: it has control characters as they are, and then nobody
/// could read it. Readers make the canonical form anew in any case.
fn readable(object: &Map<String, Value>) -> std::result::Result<Vec<u8>, String> {
    let canonical = canonical_object(object)?;
    match canonical.iter().any(u8::is_ascii_control) {
        true => serde_json::to_vec(object).map_err(|error| error.to_string()),
        false => Ok(canonical),
    }
}

/// Length and hashes of a document, as another one lists them.
#[derive(Clone, Debug)]
pub(super) struct Meta {
    pub(super) length: u64,
    sha256: Option<Vec<u8>>,
    sha512: Option<Vec<u8>>,
}

impl Meta {
    pub(super) fn read(value: &Value) -> Option<Self> {
        let hashes = value.get("hashes")?;
        let hash = |name: &str| match hashes.get(name) {
            None => Some(None),
            Some(text) => STANDARD.decode(text.as_str()?).ok().map(Some),
        };
        let meta = Meta {
            length: value.get("length")?.as_u64()?,
            sha256: hash("sha256")?,
            sha512: hash("sha512")?,
        };
        (meta.sha256.is_some() || meta.sha512.is_some()).then_some(meta)
    }

    /// The entry for a document.
    pub(super) fn describe(bytes: &[u8]) -> Value {
        json!({
            "hashes": {
                "sha256": STANDARD.encode(Sha256::digest(bytes)),
                "sha512": STANDARD.encode(Sha512::digest(bytes)),
            },
            "length": bytes.len(),
        })
    }

    /// The name under which the server has exactly this document.
    pub(super) fn file(&self, role: &str) -> String {
        let hash = self.sha256.as_ref().or(self.sha512.as_ref());
        format!(
            "{role}.{}.json",
            hex(hash.map(Vec::as_slice).unwrap_or_default())
        )
    }

    /// Every hash that is listed has to fit.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 != self.length {
            return Err(Error::hostile(format!(
                "it has {} bytes, {} are listed",
                bytes.len(),
                self.length
            )));
        }
        let fits = |listed: &Option<Vec<u8>>, found: &[u8]| {
            listed.as_ref().is_none_or(|listed| listed == found)
        };
        if !fits(&self.sha256, &Sha256::digest(bytes))
            || !fits(&self.sha512, &Sha512::digest(bytes))
        {
            return Err(Error::hostile("its hash is another one than is listed"));
        }
        Ok(())
    }
}

/// The entry of an image in `targets`: docker lists the SHA-256 alone.
pub(super) fn target_entry(manifest: &[u8]) -> Value {
    json!({
        "hashes": {"sha256": STANDARD.encode(Sha256::digest(manifest))},
        "length": manifest.len(),
    })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
