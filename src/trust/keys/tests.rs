//! Keys as notary, docker, Go and OpenSSL write them, and what is none.

use super::*;

/// A key file of `tests/cases/trust/keys`.
macro_rules! key_file {
    ($name:literal) => {
        include_str!(concat!("../../../tests/cases/trust/keys/", $name))
    };
}

fn open(pem: &str, passphrase: &str) -> Result<Keys> {
    Keys::open(&Secret::new(pem), &Secret::new(passphrase))
}

/// A fresh key, as unit tests sign with.
pub(in crate::trust) fn fresh() -> PrivateKey {
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    open(&pem, "").unwrap().keys.remove(0)
}

#[test]
fn every_form_of_key_opens_and_signs() {
    let ecdsa = "67232d9f87de031547f27534ac9bd0d154f8493e3cba1cdd62fcae2c5add4f2c";
    let ed25519 = "27a46e35704c98b8fff0ec5693d12f3c94f68ad27bbe182580e9ebd3c0423084";
    let rsa = "90e7fc9857a8465af05d2bc46e73f3eb973c58944e14384d59569622ce202675";
    let openssl = "4add8085a4095127a31c3a3e869a192bf10aeaf34e9252ffa77df988785f0e71";
    let ci = "ci-passphrase";
    for (name, pem, passphrase, id, method) in [
        (
            "docker's delegation",
            key_file!("delegation-ci-repopass12.key"),
            "repopass12",
            "e3877633d4e3a571377f392ace3b49d39868b77764bfd85669a556cd44ffa19a",
            "ecdsa",
        ),
        (
            "docker's targets",
            key_file!("targets-repopass12.key"),
            "repopass12",
            "9a803e23a889445198f4d0a3d3321af1764bf76281f0c5c7a9fdb10383f8d966",
            "ecdsa",
        ),
        ("PBES2", key_file!("ecdsa-pkcs8.pem"), ci, ecdsa, "ecdsa"),
        (
            "PBES2",
            key_file!("ed25519-pkcs8.pem"),
            ci,
            ed25519,
            "eddsa",
        ),
        ("PBES2", key_file!("rsa-pkcs8.pem"), ci, rsa, "rsapss"),
        ("DEK", key_file!("ecdsa-dek.pem"), ci, ecdsa, "ecdsa"),
        ("DEK", key_file!("ed25519-dek.pem"), ci, ed25519, "eddsa"),
        ("DEK", key_file!("rsa-dek.pem"), ci, rsa, "rsapss"),
        (
            "openssl, AES-128 and SHA-256",
            key_file!("ecdsa-openssl-aes128-sha256.pem"),
            ci,
            openssl,
            "ecdsa",
        ),
        (
            "openssl, not encrypted",
            key_file!("ecdsa-openssl-plain.pem"),
            "",
            openssl,
            "ecdsa",
        ),
        (
            "openssl, SEC 1",
            key_file!("ecdsa-openssl-sec1.pem"),
            "",
            openssl,
            "ecdsa",
        ),
        (
            "openssl",
            key_file!("ed25519-openssl.pem"),
            ci,
            "a2d78c56d46308067661446229c426c25d379e669926311eca16652564a59dfe",
            "eddsa",
        ),
        (
            "openssl",
            key_file!("rsa-openssl.pem"),
            ci,
            "9785d507f84e53a795a483acfeccb67aff642a578c03433a8976246628dfa647",
            "rsapss",
        ),
    ] {
        let keys = open(pem, passphrase).unwrap_or_else(|error| panic!("{name}: {error}"));
        let key = keys.with_id(id).unwrap_or_else(|| panic!("{name} {id}"));
        let (said, signature) = key.sign(b"message").unwrap();
        assert_eq!(said, method, "{name}");
        assert!(key.core.verifies(said, b"message", &signature), "{name}");
        assert!(!key.core.verifies(said, b"massage", &signature), "{name}");
        assert!(!key.core.verifies("none", b"message", &signature), "{name}");
    }
}

#[test]
fn a_passphrase_that_is_wrong_is_told_and_not_shown() {
    let refused = |pem: &str, passphrase: &str| {
        let error = open(pem, passphrase).err().unwrap();
        assert_eq!(
            error.to_string(),
            "`source.content_trust.repository_key` does not open with \
             `source.content_trust.repository_passphrase`; the passphrase is that of this key, \
             not of the root key"
        );
    };
    for pem in [
        key_file!("delegation-ci-repopass12.key"),
        key_file!("ed25519-pkcs8.pem"),
        key_file!("rsa-pkcs8.pem"),
        key_file!("ecdsa-openssl-aes128-sha256.pem"),
        key_file!("rsa-dek.pem"),
        key_file!("ed25519-dek.pem"),
    ] {
        refused(pem, "");
        refused(pem, "not this");
    }
    // Among many wrong passphrases are some that leave what looks like padding.
    for n in 0..2000 {
        refused(key_file!("ecdsa-dek.pem"), &format!("not this {n}"));
    }
}

#[test]
fn of_an_export_the_keys_open_that_the_passphrase_is_for() {
    let export = key_file!("notary-export-targetspass12-snappass12.pem");
    let targets = "6d3b514e036966d5b72ab55d731bfbde0f620a2364bca6b9dd5a1cb8687e644c";
    let snapshot = "fe2c2c46142715f6284f3c5d863df82ee006bb47d76eca5a27a5e5b44dc90cc9";
    let keys = open(export, "targetspass12").unwrap();
    assert!(keys.with_id(targets).is_some() && keys.with_id(snapshot).is_none());
    assert_eq!(keys.locked(), [snapshot]);
    let keys = open(export, "snappass12").unwrap();
    assert!(keys.with_id(targets).is_none() && keys.with_id(snapshot).is_some());
    assert!(open(export, "neither").is_err());
}

#[test]
fn what_is_no_key_for_us_is_told() {
    let field = "`source.content_trust.repository_key`";
    for (pem, why) in [
        (
            "",
            "has no private key in it; it is the content of the key file, with its BEGIN and END lines",
        ),
        (
            "-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----",
            "has no private key in it; it is the content of the key file, with its BEGIN and END lines",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nMAA=",
            "has a PEM block `PRIVATE KEY` that does not end",
        ),
        // The line breaks were lost: what follows BEGIN is the key.
        (
            "-----BEGIN PRIVATE KEY----- MAA= -----END PRIVATE KEY-----",
            "has a PEM block whose lines do not end: a line break belongs before and after \
             `-----BEGIN …-----` and `-----END …-----`",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END MAA= KEY-----",
            "has a PEM block `PRIVATE KEY` that ends as a PEM block",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----",
            "has a PEM block `PRIVATE KEY` that cannot be read",
        ),
        (
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----",
            "is encrypted in another way than with PBES2, PBKDF2 and AES-CBC",
        ),
        (
            key_file!("ecdsa-openssl-des3.pem"),
            "is encrypted with `DES-EDE3-CBC`, which is not known here",
        ),
        (key_file!("p384.pem"), "is on another curve than P-256"),
        (key_file!("rsa-1024.pem"), "is no RSA key: TooSmall"),
    ] {
        let error = open(pem, "ci-passphrase").err().unwrap();
        assert_eq!(error.to_string(), format!("{field} {why}"));
    }
}

#[test]
fn a_damaged_key_never_panics() {
    let pem = key_file!("ecdsa-openssl-plain.pem");
    let block = pem::blocks(pem).unwrap().remove(0);
    for at in 0..block.bytes.len() {
        for bit in 0..8 {
            let mut bytes = block.bytes.clone();
            bytes[at] ^= 1 << bit;
            let _ = from_pkcs8(&bytes);
            let _ = from_sec1(&bytes, Some(P256));
            let _ = from_pkcs1(&bytes);
        }
        let _ = from_pkcs8(&block.bytes[..at]);
    }
}
