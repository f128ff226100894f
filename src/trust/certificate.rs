//! The certificates that keys of content trust come in (X.509, RFC 5280): the key, whose it is, and
//! until when. No chain is followed: TUF's own signatures say which certificate is believed.

use super::der::{self, Der};
use super::pem;
use super::public::Core;
use crate::semver::Created;

/// The attribute `commonName` (2.5.4.3).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// What is read of a certificate.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) common_name: Option<String>,
    not_after: Created,
    /// `None` for kinds of keys that are not known here.
    pub(super) key: Option<Core>,
}

impl Certificate {
    /// The first certificate of a PEM text, which is the leaf where there are more.
    pub(super) fn from_pem(text: &[u8]) -> Option<Self> {
        let blocks = pem::blocks(std::str::from_utf8(text).ok()?).ok()?;
        let first = blocks.iter().find(|block| block.label == "CERTIFICATE")?;
        Self::from_der(&first.bytes)
    }

    fn from_der(bytes: &[u8]) -> Option<Self> {
        let mut certificate = Der::new(bytes).enter(der::SEQUENCE)?;
        let mut to_be_signed = certificate.enter(der::SEQUENCE)?;
        // Version 1 has no version in it.
        let _ = to_be_signed.expect(der::explicit(0));
        to_be_signed.expect(der::INTEGER)?;
        let _algorithm = to_be_signed.enter(der::SEQUENCE)?;
        let _issuer = to_be_signed.enter(der::SEQUENCE)?;
        let mut validity = to_be_signed.enter(der::SEQUENCE)?;
        let subject = to_be_signed.enter(der::SEQUENCE)?;
        let key = to_be_signed.expect(der::SEQUENCE)?;
        let _not_before = time(&mut validity)?;
        Some(Certificate {
            common_name: common_name(subject),
            not_after: time(&mut validity)?,
            key: Core::from_spki(&der::element(der::SEQUENCE, key)),
        })
    }

    /// Its beginning is not looked at: clocks differ, and a new certificate is no weaker one.
    pub(super) fn has_ended(&self, now: Created) -> bool {
        self.not_after < now
    }
}

/// The last common name of a distinguished name: the one that counts where there are several.
fn common_name(mut subject: Der<'_>) -> Option<String> {
    let mut found = None;
    while let Some(mut attributes) = subject.enter(der::SET) {
        while let Some(mut attribute) = attributes.enter(der::SEQUENCE) {
            let name = attribute.expect(der::OID)?;
            let (_, value) = attribute.any()?;
            if name == COMMON_NAME {
                found = String::from_utf8(value.to_vec()).ok();
            }
        }
    }
    found
}

/// `UTCTime` or `GeneralizedTime` in the one form that RFC 5280 (section 4.1.2.5) leaves of each.
fn time(validity: &mut Der<'_>) -> Option<Created> {
    let (tag, text) = validity.any()?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let text = match tag {
        der::GENERALIZED_TIME => text.to_owned(),
        der::UTC_TIME => {
            let century = if text.get(..2)? < "50" { "20" } else { "19" };
            format!("{century}{text}")
        }
        _ => return None,
    };
    let part = |from: usize| text.get(from..from + 2);
    let (year, month, day) = (text.get(..4)?, part(4)?, part(6)?);
    let (hour, minute, second) = (part(8)?, part(10)?, part(12)?);
    Created::parse(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_says_whose_it_is_and_until_when() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::default();
        let name = "127.0.0.1:5601/t/signed";
        parameters
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, "somebody");
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2051, 1, 1);
        let pem = parameters.self_signed(&key).unwrap().pem();
        let certificate = Certificate::from_pem(pem.as_bytes()).unwrap();
        assert_eq!(certificate.common_name.as_deref(), Some(name));
        assert_eq!(
            certificate.key,
            Some(Core::P256(key.public_key_raw().to_vec()))
        );
        let ended = |text| certificate.has_ended(Created::parse(text).unwrap());
        assert!(!ended("2051-01-01T00:00:00Z"));
        assert!(ended("2051-01-01T00:00:01Z"));
    }

    #[test]
    fn what_is_no_certificate_is_none() {
        for text in [
            "",
            "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----",
            "-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----",
        ] {
            assert!(Certificate::from_pem(text.as_bytes()).is_none(), "{text}");
        }
    }
}
