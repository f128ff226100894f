//! A private certificate authority, and servers that are right or wrong in one way each.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::sync::Arc;

/// Signs certificates; its PEM goes into `ca_certs`.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key, as a server (or a client) uses it.
pub struct Identity {
    pub certificate_pem: String,
    pub key_pem: String,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::self_signed(parameters, key).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these DNS names and IP addresses, for servers and clients.
    pub fn identity(&self, names: &[&str]) -> Identity {
        self.sign(parameters(names))
    }

    /// The same, valid until 2001 only.
    pub fn expired(&self, names: &[&str]) -> Identity {
        let mut parameters = parameters(names);
        parameters.not_before = date_time_ymd(2000, 1, 1);
        parameters.not_after = date_time_ymd(2001, 1, 1);
        self.sign(parameters)
    }

    fn sign(&self, parameters: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.0).unwrap();
        Identity::new(&certificate, &key)
    }
}

fn parameters(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).unwrap();
    parameters
        .distinguished_name
        .push(DnType::CommonName, "fixture");
    parameters.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    parameters
}

impl Identity {
    fn new(certificate: &rcgen::Certificate, key: &KeyPair) -> Identity {
        Identity {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
        }
    }

    /// Signed by itself: trusted by nobody.
    pub fn self_signed(names: &[&str]) -> Identity {
        let key = KeyPair::generate().unwrap();
        Identity::new(&parameters(names).self_signed(&key).unwrap(), &key)
    }

    /// The same as `openssl req -x509` makes it: it may sign others.
    pub fn self_signed_authority(names: &[&str]) -> Identity {
        let mut parameters = parameters(names);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Identity::new(&parameters.self_signed(&key).unwrap(), &key)
    }

    /// What somebody else made.
    pub fn of_pem(certificate: &str, key: &str) -> Identity {
        Identity {
            certificate: CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap(),
            key: PrivateKeyDer::from_pem_slice(key.as_bytes())
                .unwrap()
                .secret_der()
                .to_vec(),
            certificate_pem: certificate.to_owned(),
            key_pem: key.to_owned(),
        }
    }

    /// For `Setup::tls`: TLS 1.2 and 1.3, no client certificates.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.configure(rustls::ALL_VERSIONS, None)
    }

    /// TLS 1.2 only, as older registries speak.
    pub fn server_tls12(&self) -> Arc<ServerConfig> {
        self.configure(&[&rustls::version::TLS12], None)
    }

    /// Turns away clients without a certificate of this authority.
    pub fn server_for_clients_of(&self, authority: &Authority) -> Arc<ServerConfig> {
        self.configure(rustls::ALL_VERSIONS, Some(authority))
    }

    fn configure(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        clients: Option<&Authority>,
    ) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.0.der().clone()).unwrap();
                let roots = Arc::new(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        Arc::new(
            builder
                .with_single_cert(vec![self.certificate.clone()], key)
                .unwrap(),
        )
    }
}
