//! Undoing the encryption of private keys: PBES2 (RFC 8018, section 6.2) as notary and docker write
//! it, and `DEK-Info` (RFC 1421 and OpenSSL's `EVP_BytesToKey`), as they wrote it before.

use std::num::NonZeroU32;

use aes::cipher::{Array, BlockCipherDecrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256};
use md5::{Digest as _, Md5};
use ring::pbkdf2;
use zeroize::Zeroizing;

use super::der::{self, Der};
use super::pem::Block;

/// Rounds of PBKDF2 that are made for a key; notary writes 2,048, careful people some 100,000.
const MOST_ROUNDS: u32 = 10_000_000;

/// Object identifiers, as DER has them.
const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0c];
const HMAC_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x07];
const HMAC_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x09];
const HMAC_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x0b];
const AES_128_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x02];
const AES_192_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x16];
const AES_256_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2a];

/// Why there are no plain bytes.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Locked {
    /// Nearly always; rarely a file whose encrypted part is damaged.
    WrongPassphrase,
    /// Whatever the passphrase is.
    Unreadable(String),
}

fn unreadable<T>(why: &str) -> Result<T, Locked> {
    Err(Locked::Unreadable(why.to_owned()))
}

/// What an `EncryptedPrivateKeyInfo` holds (RFC 5958, section 3).
pub(super) fn pkcs8(bytes: &[u8], passphrase: &str) -> Result<Zeroizing<Vec<u8>>, Locked> {
    let Some(parameters) = Pbes2::read(bytes) else {
        return unreadable("is encrypted in another way than with PBES2, PBKDF2 and AES-CBC");
    };
    let rounds = NonZeroU32::new(parameters.rounds).filter(|rounds| rounds.get() <= MOST_ROUNDS);
    let Some(rounds) = rounds else {
        return unreadable("asks for a number of PBKDF2 rounds that nobody uses");
    };
    let mut key = Zeroizing::new(vec![0; parameters.cipher.key_length()]);
    pbkdf2::derive(
        parameters.hash,
        rounds,
        parameters.salt,
        passphrase.as_bytes(),
        &mut key,
    );
    parameters
        .cipher
        .decrypt(&key, parameters.iv, parameters.data)
}

/// What a block with `DEK-Info` holds.
pub(super) fn dek(
    block: &Block,
    info: &str,
    passphrase: &str,
) -> Result<Zeroizing<Vec<u8>>, Locked> {
    let (name, iv) = info.split_once(',').unwrap_or((info, ""));
    let cipher = match name.trim() {
        "AES-128-CBC" => Cipher::Aes128,
        "AES-192-CBC" => Cipher::Aes192,
        "AES-256-CBC" => Cipher::Aes256,
        other => {
            return unreadable(&format!(
                "is encrypted with `{other}`, which is not known here"
            ));
        }
    };
    let Some(iv) = from_hex(iv.trim()).filter(|iv| iv.len() == BLOCK) else {
        return unreadable("has a `DEK-Info` without its 16 bytes in hexadecimal");
    };
    let salt = iv.get(..8).unwrap_or_default();
    // EVP_BytesToKey: each digest is of the one before, the passphrase and the salt.
    let mut key = Zeroizing::new(Vec::with_capacity(48));
    let mut last = Zeroizing::new(Vec::new());
    while key.len() < cipher.key_length() {
        let mut md5 = Md5::new();
        md5.update(last.as_slice());
        md5.update(passphrase.as_bytes());
        md5.update(salt);
        *last = md5.finalize().to_vec();
        key.extend_from_slice(&last);
    }
    key.truncate(cipher.key_length());
    cipher.decrypt(&key, &iv, &block.bytes)
}

struct Pbes2<'a> {
    hash: pbkdf2::Algorithm,
    rounds: u32,
    salt: &'a [u8],
    cipher: Cipher,
    iv: &'a [u8],
    data: &'a [u8],
}

impl<'a> Pbes2<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut info = Der::new(bytes).enter(der::SEQUENCE)?;
        let mut algorithm = info.enter(der::SEQUENCE)?;
        let data = info.expect(der::OCTET_STRING)?;
        if algorithm.expect(der::OID)? != PBES2 {
            return None;
        }
        let mut parameters = algorithm.enter(der::SEQUENCE)?;
        let mut derivation = parameters.enter(der::SEQUENCE)?;
        let mut encryption = parameters.enter(der::SEQUENCE)?;
        if derivation.expect(der::OID)? != PBKDF2 {
            return None;
        }
        let mut derivation = derivation.enter(der::SEQUENCE)?;
        let salt = derivation.expect(der::OCTET_STRING)?;
        let rounds = derivation.small_integer()?;
        // The length of the key is the cipher's own.
        let _ = derivation.small_integer();
        let hash = match derivation.enter(der::SEQUENCE) {
            None => pbkdf2::PBKDF2_HMAC_SHA1,
            Some(mut hash) => match hash.expect(der::OID)? {
                HMAC_SHA1 => pbkdf2::PBKDF2_HMAC_SHA1,
                HMAC_SHA256 => pbkdf2::PBKDF2_HMAC_SHA256,
                HMAC_SHA512 => pbkdf2::PBKDF2_HMAC_SHA512,
                _ => return None,
            },
        };
        let cipher = match encryption.expect(der::OID)? {
            AES_128_CBC => Cipher::Aes128,
            AES_192_CBC => Cipher::Aes192,
            AES_256_CBC => Cipher::Aes256,
            _ => return None,
        };
        let iv = encryption.expect(der::OCTET_STRING)?;
        (iv.len() == BLOCK).then_some(Pbes2 {
            hash,
            rounds,
            salt,
            cipher,
            iv,
            data,
        })
    }
}

/// Bytes of a block of AES.
const BLOCK: usize = 16;

#[derive(Clone, Copy)]
enum Cipher {
    Aes128,
    Aes192,
    Aes256,
}

impl Cipher {
    fn key_length(self) -> usize {
        match self {
            Cipher::Aes128 => 16,
            Cipher::Aes192 => 24,
            Cipher::Aes256 => 32,
        }
    }

    fn decrypt(self, key: &[u8], iv: &[u8], data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Locked> {
        match self {
            Cipher::Aes128 => decrypt_cbc::<Aes128>(key, iv, data),
            Cipher::Aes192 => decrypt_cbc::<Aes192>(key, iv, data),
            Cipher::Aes256 => decrypt_cbc::<Aes256>(key, iv, data),
        }
    }
}

/// Cipher block chaining (NIST SP 800-38A, section 6.2) with the padding of PKCS #7.
fn decrypt_cbc<C>(key: &[u8], iv: &[u8], data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Locked>
where
    C: KeyInit + BlockCipherDecrypt<BlockSize = aes::cipher::consts::U16>,
{
    let Ok(cipher) = C::new_from_slice(key) else {
        return unreadable("has a key of a wrong length");
    };
    if data.is_empty() || !data.len().is_multiple_of(BLOCK) {
        return unreadable("has an encrypted part that is cut off");
    }
    let mut plain = Zeroizing::new(Vec::with_capacity(data.len()));
    let mut before = iv;
    for encrypted in data.chunks_exact(BLOCK) {
        let mut block = Array::try_from(encrypted).unwrap_or_default();
        cipher.decrypt_block(&mut block);
        plain.extend(block.iter().zip(before).map(|(byte, mask)| byte ^ mask));
        block.fill(0);
        before = encrypted;
    }
    let padding = usize::from(plain.last().copied().unwrap_or_default());
    let length = plain.len().checked_sub(padding);
    let padded = length.and_then(|length| plain.get(length..));
    match (length, padded) {
        (Some(length), Some(tail))
            if (1..=BLOCK).contains(&padding)
                && tail.iter().all(|b| usize::from(*b) == padding) =>
        {
            plain.truncate(length);
            Ok(plain)
        }
        _ => Err(Locked::WrongPassphrase),
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}
