//! Public keys: the ids that name them, and the signatures they verify.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature;
use serde_json::{Map, Value};

use super::canonical::canonical_object;
use super::der::{self, Der};
use crate::oci::digest::Digest;

/// Object identifiers, as DER has them.
pub(super) const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
pub(super) const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
pub(super) const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// What signatures are made with, whatever wraps it: two keys with one core are one key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Core {
    /// The uncompressed point.
    P256(Vec<u8>),
    /// Nothing here signs with this curve, but others may.
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
    /// `RSAPublicKey` (RFC 8017, appendix A.1.1).
    Rsa(Vec<u8>),
}

impl Core {
    /// Reads a `SubjectPublicKeyInfo` (RFC 5280, section 4.1).
    pub(super) fn from_spki(bytes: &[u8]) -> Option<Self> {
        let mut spki = Der::new(bytes).enter(der::SEQUENCE)?;
        let mut algorithm = spki.enter(der::SEQUENCE)?;
        let name = algorithm.expect(der::OID)?;
        let key = spki.bits()?.to_vec();
        match name {
            EC_PUBLIC_KEY => match algorithm.expect(der::OID)? {
                P256 => Some(Core::P256(key)),
                P384 => Some(Core::P384(key)),
                _ => None,
            },
            RSA => Some(Core::Rsa(key)),
            _ => None,
        }
    }

    /// The key as TUF lists it when nothing wraps it: type and bytes.
    pub(super) fn plain(&self) -> (&'static str, Vec<u8>) {
        let null = der::element(0x05, &[]);
        let (algorithm, key) = match self {
            Core::Ed25519(key) => return ("ed25519", key.clone()),
            Core::P256(point) => ([EC_PUBLIC_KEY, P256].map(oid).concat(), point),
            Core::P384(point) => ([EC_PUBLIC_KEY, P384].map(oid).concat(), point),
            Core::Rsa(key) => ([oid(RSA), null].concat(), key),
        };
        let spki = der::sequence(&[&der::sequence(&[&algorithm]), &der::bit_string(key)]);
        match self {
            Core::Rsa(_) => ("rsa", spki),
            _ => ("ecdsa", spki),
        }
    }

    /// The id of the key when nothing wraps it: the name of its file at notary and docker.
    pub(super) fn id(&self) -> String {
        let (key_type, public) = self.plain();
        id_of(key_type, &STANDARD.encode(public))
    }

    /// Whether `signature` is one of this key over `message`. `method` is the signature's own word
    /// for how it was made; what does not fit the key is none.
    pub(super) fn verifies(&self, method: &str, message: &[u8], signature: &[u8]) -> bool {
        let by = |algorithm: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            let key = signature::UnparsedPublicKey::new(algorithm, key);
            key.verify(message, signature).is_ok()
        };
        match (self, method) {
            (Core::P256(point), "ecdsa") => by(&signature::ECDSA_P256_SHA256_FIXED, point),
            // TUF hashes with SHA-256 for every curve; ring has that pair in ASN.1 only.
            (Core::P384(point), "ecdsa") => {
                let Some(asn1) = asn1_signature(signature, 48) else {
                    return false;
                };
                signature::UnparsedPublicKey::new(&signature::ECDSA_P384_SHA256_ASN1, point)
                    .verify(message, &asn1)
                    .is_ok()
            }
            (Core::Ed25519(key), "eddsa") => by(&signature::ED25519, key),
            (Core::Rsa(key), "rsapss") => by(&signature::RSA_PSS_2048_8192_SHA256, key),
            (Core::Rsa(key), "rsapkcs1v15") => by(&signature::RSA_PKCS1_2048_8192_SHA256, key),
            _ => false,
        }
    }
}

fn oid(bytes: &[u8]) -> Vec<u8> {
    der::element(der::OID, bytes)
}

/// `r` and `s`, of `size` bytes each, as `ECDSA-Sig-Value` (RFC 3279, section 2.2.3).
fn asn1_signature(fixed: &[u8], size: usize) -> Option<Vec<u8>> {
    let integer = |bytes: &[u8]| {
        let zeros = bytes.iter().take_while(|b| **b == 0).count();
        let bytes = bytes.get(zeros..).unwrap_or_default();
        let sign: &[u8] = match bytes.first() {
            Some(1..=0x7f) => &[],
            _ => &[0],
        };
        der::element(der::INTEGER, &[sign, bytes].concat())
    };
    let (r, s) = fixed.split_at_checked(size)?;
    (s.len() == size).then(|| der::sequence(&[&integer(r), &integer(s)]))
}

/// A key's id: the SHA-256 of its canonical description.
pub(super) fn id_of(key_type: &str, public: &str) -> String {
    let mut key = Map::new();
    key.insert("private".to_owned(), Value::Null);
    key.insert("public".to_owned(), public.into());
    let mut description = Map::new();
    description.insert("keytype".to_owned(), key_type.into());
    description.insert("keyval".to_owned(), Value::Object(key));
    // There are no numbers in it.
    let canonical = canonical_object(&description).unwrap_or_default();
    Digest::of(&canonical).hex().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by OpenSSL, over `message`.
    const P384_KEY: &str = "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAE6u5QlZ3qYKDu8qMQjIKt+LCaRnO7CvVPysY9rsMLUSQ37hq3Yn8vaOZU+hAPz3YwVAP8Xn1Sy7FBQm86H0rDHf1Q4/kYYRqeYQwVrJU2SKK86polsfo6yM3ULTRfGp5z";
    const P384_HIGH: &str = "vv7TjJ4x35iELsJ7Ujw8JEDC/L4IqnOv9cW0MNPXw091X1mjjJSEcIZQMAblbp9vJ5OHFZtLM9kK2IbNFRknw6x3LFFeeKFvFukksJY1kzc5Gds04a1PaITqbgXHWJgu";
    const P384_SHORT: &str = "AH3GgoXg0gj5XaTmQNZzW7gAtcHorDkswaoSqDYtV8fZC8XdQlcWWuI/aaJTvXNWMY/rxUZduoz8qo9u3RXRP+izY4dWHSBc2We8fD/JxwEEl0uAcOjcrd1tOF6bQCRQ";
    const RSA_KEY: &str = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA27yq6zg0M++I07NeqRTUye1YBf8E5plly9PUWiabX8VeYfAySz3HAIfTHoQaJ6aQkLrPrEQipLmFIZL1Nb/7urpUoOvGhv/7ygzNOUd61BwXnRHvYpcM37olaAlU9np1wfVQJRrNzyb0xPW9lMzFunN+2qyQ/MNqMfYwsM3Ng/+GqFHzwY8kJZjGSl/NUJjVrnEOgknukhj0GZzqGlWq9nfqOVMnSDeOiPqtmgkvpIfCzKIG7ZJzfQmcYECjCIl9/+XRVa6B/9vOOsMCSSgr5gnMll+QKOv6/73saSeJXTp6MhwD4c/xuMpluL2iPO+5Ny6aRhgsvA6dLYiv4ok0/wIDAQAB";
    const RSA_PKCS1: &str = "WsIK+790EhG6w9qbfRHAYSHTcchVQ++KPfdWt+UKU8TQ0vxGAcKlmMqs8WQjwugW+F58+lEMzoW6Mrw/jQ0I6Llx2YBrC2Nar7J4iK73Nzhh6wVybHvbLNf/ITuyFD75DTAuagL/D205/Poz477vbc5WZYManm2MASueFJj4IqlEIcC11lATVAJKQfSOGYJcJgoLghPELDJGq5sLsl3sVmBmSMpV7Ya0iQ9Cr5xe5sk8jrUqL/SNa056I6OZ8N5cTvSJ4rfVw9GdmdSiI4To4AUftFl6HbgRSJdN9x3lqvEDoMCqRv9X9Z9WJzrzL7DydMcTks6Jr8b9UvadNmZtRQ==";
    const RSA_PSS: &str = "Nw4qukJPpAaRlyxgmSJiCHlGCEWaFgWic1of0xYIXv6VGCthKFw+TtHpXsoSpsaKoMPJRIf0cJ7xAXM0FKTqNAl/O0pOkzfNYjtlUJQ9E2mqOXXbYiUL6Slbbee3CQe50L9a/Wwd8lIP7H6UpGa0Y1L0tV6USmYGGMAjkcaly5naQtFtP5a0WadbDsnBOE+BYesk5hs29AzM6+f8Jo/gtTGC0aucWZ8dOjioRiDHoo744zHnWIOB+Yv4jbTwkc9MjrKXlj5NhbYh6/C57RiRCi6zhuSuwBrH+ZFeq0+7ETkTvmn2rznTH0T2h/wYIIy717NcGPRWY6IzZgwrk7OmaQ==";

    #[test]
    fn signatures_of_others_verify() {
        for (key, method, signature) in [
            (P384_KEY, "ecdsa", P384_HIGH),
            (P384_KEY, "ecdsa", P384_SHORT),
            (RSA_KEY, "rsapkcs1v15", RSA_PKCS1),
            (RSA_KEY, "rsapss", RSA_PSS),
        ] {
            let core = Core::from_spki(&STANDARD.decode(key).unwrap()).unwrap();
            let signature = STANDARD.decode(signature).unwrap();
            assert!(core.verifies(method, b"message", &signature), "{method}");
            assert!(!core.verifies(method, b"massage", &signature), "{method}");
            for other in ["ecdsa", "eddsa", "rsapss", "rsapkcs1v15", ""] {
                let good = core.verifies(other, b"message", &signature);
                assert_eq!(good, other == method, "{method} {other}");
            }
            for length in [0, 1, signature.len() - 1] {
                assert!(!core.verifies(method, b"message", &signature[..length]));
            }
        }
    }
}
