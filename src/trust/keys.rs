//! Private keys: out of the PEM that notary and docker write, decrypted, ready to sign.
//!
//! What is decrypted is wiped when it is no longer needed; ring keeps what it signs with until the
//! [`PrivateKey`] goes. Nothing of a key but its id is ever shown.

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PSS_SHA256,
    RsaKeyPair,
};
use zeroize::Zeroizing;

use super::decrypt::{self, Locked};
use super::der::{self, Der};
use super::pem::{self, Block};
use super::public::{Core, EC_PUBLIC_KEY, P256, RSA};
use crate::error::{Error, Result};
use crate::secret::Secret;

/// Ed25519 as notary names it (1.3.6.1.4.1.11591.15.1), and as RFC 8410 does.
const NOTARY_ED25519: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// Bytes of a number of P-256, and of a seed of Ed25519.
const NUMBER: usize = 32;

/// The keys of one request.
pub(super) struct Keys {
    keys: Vec<PrivateKey>,
    /// What the PEM says of blocks that this passphrase does not open.
    locked: Vec<String>,
}

impl Keys {
    /// Reads `repository_key`: one PEM block, or several as `notary key export` writes them. Of
    /// several, one must open with the passphrase.
    ///
    /// # Errors
    /// No key that can be read. The text holds nothing of key or passphrase.
    pub(super) fn open(pem: &Secret, passphrase: &Secret) -> Result<Self> {
        let field = "`source.content_trust.repository_key`";
        let blocks =
            pem::blocks(pem.expose()).map_err(|why| Error::config(format!("{field} {why}")))?;
        let blocks = blocks
            .iter()
            .filter(|block| block.label.ends_with("PRIVATE KEY"));
        let (mut keys, mut locked, mut unreadable) = (Vec::new(), Vec::new(), None);
        for block in blocks {
            match PrivateKey::open(block, passphrase.expose()) {
                Ok(key) => keys.push(key),
                Err(Locked::WrongPassphrase) => {
                    let name = block.header("path").or(block.header("role"));
                    locked.push(name.unwrap_or("it").to_owned());
                }
                Err(Locked::Unreadable(why)) => unreadable = Some(why),
            }
        }
        match (keys.is_empty(), locked.is_empty(), unreadable) {
            (false, ..) => Ok(Keys { keys, locked }),
            (true, false, _) => Err(Error::config(format!(
                "{field} does not open with `source.content_trust.repository_passphrase`"
            ))
            .advise("the passphrase is that of this key, not of the root key")),
            (true, true, Some(why)) => Err(Error::config(format!("{field} {why}"))),
            (true, true, None) => Err(Error::config(format!("{field} has no private key in it"))
                .advise("it is the content of the key file, with its BEGIN and END lines")),
        }
    }

    /// The key with this core.
    pub(super) fn with_core(&self, core: &Core) -> Option<&PrivateKey> {
        self.keys.iter().find(|key| key.core == *core)
    }

    /// The key with this id.
    pub(super) fn with_id(&self, id: &str) -> Option<&PrivateKey> {
        self.keys.iter().find(|key| key.id == id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &PrivateKey> {
        self.keys.iter()
    }

    #[cfg(test)]
    pub(super) fn of<const N: usize>(keys: [PrivateKey; N]) -> Self {
        Keys {
            keys: keys.into(),
            locked: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn into_only(mut self) -> PrivateKey {
        self.keys.remove(0)
    }

    /// What the PEM says of keys that did not open.
    pub(super) fn locked(&self) -> &[String] {
        &self.locked
    }
}

/// A key that signs.
pub(super) struct PrivateKey {
    /// The id of the key alone: the name of its file.
    pub(super) id: String,
    pub(super) core: Core,
    pair: Pair,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl PrivateKey {
    fn open(block: &Block, passphrase: &str) -> std::result::Result<Self, Locked> {
        let dek_info = block.header("dek-info");
        let decrypted = match (block.label.as_str(), dek_info) {
            ("ENCRYPTED PRIVATE KEY", _) => decrypt::pkcs8(&block.bytes, passphrase)?,
            (_, Some(info)) => decrypt::dek(block, info, passphrase)?,
            (_, None) => block.bytes.clone(),
        };
        let key = match block.label.as_str() {
            "ENCRYPTED PRIVATE KEY" | "PRIVATE KEY" => from_pkcs8(&decrypted),
            "EC PRIVATE KEY" => from_sec1(&decrypted, None),
            "RSA PRIVATE KEY" => from_pkcs1(&decrypted),
            "ED25519 PRIVATE KEY" => from_notary_ed25519(&decrypted),
            _ => None,
        };
        let is_encrypted = dek_info.is_some() || block.label == "ENCRYPTED PRIVATE KEY";
        match key {
            Some(Ok((core, pair))) => Ok(PrivateKey {
                id: core.id(),
                core,
                pair,
            }),
            Some(Err(why)) => Err(Locked::Unreadable(why)),
            // One wrong passphrase in 256 leaves what looks like padding, but no key.
            None if is_encrypted => Err(Locked::WrongPassphrase),
            None => Err(Locked::Unreadable(format!(
                "has {} that cannot be read",
                pem::shown(&block.label)
            ))),
        }
    }

    /// A signature over `message`, and how TUF calls its kind.
    pub(super) fn sign(&self, message: &[u8]) -> Result<(&'static str, Vec<u8>)> {
        let random = SystemRandom::new();
        let failed = |_| Error::local("the system has no random numbers to sign with");
        match &self.pair {
            // TUF has r and s one after the other, not in ASN.1.
            Pair::Ecdsa(pair) => {
                let signature = pair.sign(&random, message).map_err(failed)?;
                Ok(("ecdsa", signature.as_ref().to_vec()))
            }
            Pair::Ed25519(pair) => Ok(("eddsa", pair.sign(message).as_ref().to_vec())),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PSS_SHA256, &random, message, &mut signature)
                    .map_err(failed)?;
                Ok(("rsapss", signature))
            }
        }
    }
}

/// `None`: no key of this form. `Err`: one, but not for us.
type Parsed = Option<std::result::Result<(Core, Pair), String>>;

/// `PrivateKeyInfo` (RFC 5208), of whatever version.
fn from_pkcs8(bytes: &[u8]) -> Parsed {
    let mut info = Der::new(bytes).enter(der::SEQUENCE)?;
    // Quirk(notary, 0.7): version 1 without the public key that version 1 is there for.
    info.small_integer()?;
    let mut algorithm = info.enter(der::SEQUENCE)?;
    let key = info.expect(der::OCTET_STRING)?;
    match algorithm.expect(der::OID)? {
        EC_PUBLIC_KEY => from_sec1(key, algorithm.expect(der::OID)),
        RSA => from_pkcs1(key),
        NOTARY_ED25519 => from_notary_ed25519(key),
        ED25519 => from_seed(Der::new(key).expect(der::OCTET_STRING)?),
        _ => Some(Err("is of a kind that is not known here".to_owned())),
    }
}

/// `ECPrivateKey` (RFC 5915). `curve` is what stands around it.
fn from_sec1(bytes: &[u8], curve: Option<&[u8]>) -> Parsed {
    let mut key = Der::new(bytes).enter(der::SEQUENCE)?;
    key.small_integer()?;
    let number = key.expect(der::OCTET_STRING)?;
    let own_curve = key
        .enter(der::explicit(0))
        .and_then(|mut curve| curve.expect(der::OID));
    let point = key
        .enter(der::explicit(1))
        .and_then(|mut point| point.bits());
    if curve.or(own_curve)? != P256 {
        return Some(Err("is on another curve than P-256".to_owned()));
    }
    let Some(point) = point else {
        return Some(Err("lacks its public half".to_owned()));
    };
    // Leading zeros may be left out.
    let missing = NUMBER.checked_sub(number.len())?;
    let number = Zeroizing::new([vec![0; missing], number.to_vec()].concat());
    let pair = EcdsaKeyPair::from_private_key_and_public_key(
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        &number,
        point,
        &SystemRandom::new(),
    );
    let pair = pair.map_err(|error| format!("is no key of P-256: {error}"));
    Some(pair.map(|pair| (Core::P256(point.to_vec()), Pair::Ecdsa(pair))))
}

/// `RSAPrivateKey` (RFC 8017, appendix A.1.2).
fn from_pkcs1(bytes: &[u8]) -> Parsed {
    let mut key = Der::new(bytes).enter(der::SEQUENCE)?;
    key.small_integer()?;
    let [modulus, exponent] = [key.expect(der::INTEGER)?, key.expect(der::INTEGER)?];
    let public = [modulus, exponent].map(|number| der::element(der::INTEGER, number));
    let public = der::sequence(&[&public.concat()]);
    let pair = RsaKeyPair::from_der(bytes).map_err(|error| format!("is no RSA key: {error}"));
    Some(pair.map(|pair| (Core::Rsa(public), Pair::Rsa(pair))))
}

/// The public key, then the private one, which is the seed and again the public key.
fn from_notary_ed25519(bytes: &[u8]) -> Parsed {
    let (public, private) = bytes.split_at_checked(NUMBER)?;
    let (seed, again) = private.split_at_checked(NUMBER)?;
    match (from_seed(seed)?, public == again) {
        (Ok((core, pair)), true) if core == Core::Ed25519(public.to_vec()) => {
            Some(Ok((core, pair)))
        }
        _ => None,
    }
}

fn from_seed(seed: &[u8]) -> Parsed {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
    let core = Core::Ed25519(pair.public_key().as_ref().to_vec());
    Some(Ok((core, Pair::Ed25519(pair))))
}

#[cfg(test)]
pub(super) mod tests;
