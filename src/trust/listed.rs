//! Keys as TUF documents list them, some of them in certificates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::certificate::Certificate;
use super::public::{Core, id_of};

/// A key as a TUF document lists it.
#[derive(Clone, Debug)]
pub(super) struct PublicKey {
    /// What signatures name it by. For a key in a certificate this is another id than that of the
    /// key alone.
    pub(super) id: String,
    /// `None` for kinds of keys that are not known here: nothing verifies with them.
    pub(super) core: Option<Core>,
    /// What wraps the key, where something does.
    pub(super) certificate: Option<Certificate>,
}

impl PublicKey {
    /// Reads an entry of `keys`, or the answer to a request for a server's key.
    pub(super) fn from_json(value: &Value) -> Option<Self> {
        let key_type = value.get("keytype")?.as_str()?;
        let public = value.get("keyval")?.get("public")?.as_str()?;
        let bytes = STANDARD.decode(public).ok()?;
        let certificate = match key_type {
            "ecdsa-x509" | "rsa-x509" => Certificate::from_pem(&bytes),
            _ => None,
        };
        let core = match key_type {
            "ecdsa" | "rsa" => Core::from_spki(&bytes),
            "ecdsa-x509" | "rsa-x509" => certificate.as_ref().and_then(|c| c.key.clone()),
            "ed25519" => Some(Core::Ed25519(bytes)),
            _ => None,
        };
        // A key is used as what it says it is.
        let core = core.filter(|core| match core {
            Core::P256(_) | Core::P384(_) => key_type.starts_with("ecdsa"),
            Core::Rsa(_) => key_type.starts_with("rsa"),
            Core::Ed25519(_) => key_type == "ed25519",
        });
        Some(PublicKey {
            id: id_of(key_type, public),
            core,
            certificate,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const P384_KEY: &str = "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAE6u5QlZ3qYKDu8qMQjIKt+LCaRnO7CvVPysY9rsMLUSQ37hq3Yn8vaOZU+hAPz3YwVAP8Xn1Sy7FBQm86H0rDHf1Q4/kYYRqeYQwVrJU2SKK86polsfo6yM3ULTRfGp5z";
    const RSA_KEY: &str = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA27yq6zg0M++I07NeqRTUye1YBf8E5plly9PUWiabX8VeYfAySz3HAIfTHoQaJ6aQkLrPrEQipLmFIZL1Nb/7urpUoOvGhv/7ygzNOUd61BwXnRHvYpcM37olaAlU9np1wfVQJRrNzyb0xPW9lMzFunN+2qyQ/MNqMfYwsM3Ng/+GqFHzwY8kJZjGSl/NUJjVrnEOgknukhj0GZzqGlWq9nfqOVMnSDeOiPqtmgkvpIfCzKIG7ZJzfQmcYECjCIl9/+XRVa6B/9vOOsMCSSgr5gnMll+QKOv6/73saSeJXTp6MhwD4c/xuMpluL2iPO+5Ny6aRhgsvA6dLYiv4ok0/wIDAQAB";

    fn listed(key_type: &str, public: &str) -> PublicKey {
        let key = json!({"keytype": key_type, "keyval": {"private": null, "public": public}});
        PublicKey::from_json(&key).unwrap()
    }

    #[test]
    fn a_key_is_what_it_says_it_is_or_nothing_verifies() {
        let id = "8f7bacfb67f8239850882be6167003b15a053aa3e32d15d8761fb2bb1d004994";
        let root: Value =
            serde_json::from_str(include_str!("../../tests/cases/trust/tuf/root.json")).unwrap();
        let root = PublicKey::from_json(&root["signed"]["keys"][id]).unwrap();
        assert_eq!(root.id, id);
        assert!(root.core.is_some());
        for (key_type, public) in [
            ("rsa", P384_KEY),
            ("ecdsa", RSA_KEY),
            ("ecdsa-x509", P384_KEY),
            ("rsa-x509", RSA_KEY),
            ("dsa", RSA_KEY),
            ("ecdsa", ""),
        ] {
            assert!(listed(key_type, public).core.is_none(), "{key_type}");
        }
    }
}
