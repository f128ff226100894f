//! Which certificate of a server is believed, and how a refusal reads.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::{Error, Kind};
use crate::oci::digest::Digest;

type Verified<T> = std::result::Result<T, rustls::Error>;

/// webpki's word for a certificate that may sign others, where a server's own is expected.
const IS_AUTHORITY: &str = "CaUsedAsEndEntity";

/// Believes what the trusted certificates sign, and those themselves.
///
/// A registry that signs its certificate itself (`openssl req -x509` makes it an authority's) is
/// trusted by that certificate, as with Go and OpenSSL.
#[derive(Debug)]
pub(super) struct Trusting {
    chains: Arc<WebPkiServerVerifier>,
    /// Digests of the trusted certificates.
    trusted: BTreeSet<Digest>,
}

impl Trusting {
    /// Trusts the built-in roots and `certificates`, as far as they can be read.
    pub(super) fn new(
        provider: &Arc<CryptoProvider>,
        certificates: Vec<CertificateDer<'static>>,
    ) -> Self {
        let trusted = certificates
            .iter()
            .map(|certificate| Digest::of(certificate))
            .collect();
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        roots.add_parsable_certificates(certificates);
        let chains = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone());
        Trusting {
            chains: chains
                .build()
                .unwrap_or_else(|_| unreachable!("there are built-in roots")),
            trusted,
        }
    }
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Verified<ServerCertVerified> {
        let error = match self
            .chains
            .verify_server_cert(certificate, others, name, ocsp, now)
        {
            Err(error) => error,
            verified => return verified,
        };
        // Found after the certificate's own validity was: what is left to compare is the name.
        let by_no_authority = match &error {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => true,
            rustls::Error::InvalidCertificate(CertificateError::Other(why)) => {
                why.0.to_string() == IS_AUTHORITY
            }
            _ => false,
        };
        if !by_no_authority || !self.trusted.contains(&Digest::of(certificate)) {
            return Err(error);
        }
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        self.chains
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        self.chains
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Believes everything (`insecure: true`). Signatures are not compared either: whoever may show any
/// certificate may show one of a key of his own, and old servers have keys that cannot be read here.
#[derive(Debug)]
pub(super) struct Blind;

impl ServerCertVerifier for Blind {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Verified<ServerCertVerified> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Verified<HandshakeSignatureValid> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP521_SHA512,
            SignatureScheme::ED25519,
            SignatureScheme::ED448,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA512,
            SignatureScheme::ECDSA_SHA1_Legacy,
            SignatureScheme::RSA_PKCS1_SHA1,
        ]
    }
}

/// What is wrong with a server's certificate, and what to do where that is known.
pub(super) fn refused(why: &CertificateError) -> Error {
    let of = |text: &str| Error::new(Kind::Network, format!("the server's certificate {text}"));
    match why {
        CertificateError::UnknownIssuer => of("is signed by an authority that is not trusted")
            .advise("add the authority's certificate to `source.ca_certs`"),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            of("is for another name")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => of("has expired"),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            of("is not valid yet").advise("compare this worker's clock")
        }
        CertificateError::BadSignature => {
            of("has a signature that is wrong, or that is made with \
                                              a key too short (RSA has 2048 bits at least)")
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            of("is signed in a way that is not accepted, such as with SHA-1 or on the curve P-521")
        }
        CertificateError::Other(why) => match why.0.to_string().as_str() {
            IS_AUTHORITY => of("is an authority's, and not trusted")
                .advise("add this certificate itself to `source.ca_certs`"),
            "UnsupportedCertVersion" => {
                of("is of X.509 version 1 or 2; servers have certificates of version 3")
            }
            "UnsupportedCriticalExtension" => of("has a critical extension that is not known here"),
            other => of(&format!("is not valid: {other}")),
        },
        other => of(&format!("is not valid: {other}")),
    }
}
