//! TLS: which certificates are believed, and the connector that wraps a byte stream.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use super::certificates::{Blind, Trusting, refused};
use super::failure::io_error;
use super::options::{Identity, Options};
use super::url::Url;
use crate::context::Env;
use crate::error::{Again, Error, Kind, Result};
use crate::workers::lock;

/// Bundles of the distributions, in the order of how common they are; the first one there is read.
const BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// Single files with certificates; Concourse mounts its own there.
const FOLDER: &str = "/etc/ssl/certs";

/// A bundle larger than this is no bundle (Debian's is 200 KiB).
const BUNDLE_LIMIT: u64 = 16 << 20;

/// Files of one folder that are looked at; Debian's has 300.
const FOLDER_LIMIT: usize = 4096;

/// How long a host that may be plain HTTP has to answer a TLS hello at all. A server that speaks
/// no TLS often waits for the end of a line that never comes.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);

/// What is believed, settled before the first connection and loaded at the first TLS use.
#[derive(Clone)]
pub(super) struct Tls(Arc<Trust>);

struct Trust {
    extra: Vec<CertificateDer<'static>>,
    /// Nothing is verified (`insecure: true`).
    blind: bool,
    files: Vec<String>,
    folders: Vec<String>,
    config: OnceLock<Arc<ClientConfig>>,
    /// The origin that is shown a client certificate, and with what.
    identity: Option<(String, Arc<SingleCertAndKey>)>,
    with_identity: OnceLock<Arc<ClientConfig>>,
    /// Which hosts may turn out to speak plain HTTP.
    may_be_plain: Box<dyn Fn(&Url) -> bool + Send + Sync>,
    /// Origins whose port answered, but not with TLS.
    not_tls: Mutex<HashMap<String, &'static str>>,
    /// Held while a port is asked whether it speaks TLS.
    finding_out: Mutex<()>,
    /// Origins that TLS worked with: whatever happens later, they are no plain HTTP servers.
    spoken: Mutex<HashSet<String>>,
}

/// The one sure sign that a port speaks no TLS.
const SOMETHING_ELSE: &str = "its answer is something else";

/// How a handshake failed.
enum Failed {
    /// The port does not speak TLS: nothing of it was ever seen.
    NotTls(&'static str),
    Tls(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed::Tls(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Failed::Tls(io_error(error))
    }
}

impl Tls {
    /// # Errors
    /// An element of `ca_certs` without a certificate in it; a client certificate or key that
    /// cannot be read.
    pub(super) fn new(
        env: &Env,
        options: &Options,
        may_be_plain: impl Fn(&Url) -> bool + Send + Sync + 'static,
    ) -> Result<Self> {
        let mut extra = Vec::new();
        for (at, text) in options.ca_certs.iter().enumerate() {
            extra.extend(certificates(text.as_bytes()).map_err(|why| {
                Error::config(format!("`source.ca_certs[{at}]` {why}"))
                    .advise("write the certificate in PEM, with its BEGIN and END lines")
            })?);
        }
        // Each variable stands for its own default, as with Go and OpenSSL.
        let files = match env.get("SSL_CERT_FILE") {
            Some(file) => vec![file.to_owned()],
            None => BUNDLES.map(str::to_owned).to_vec(),
        };
        let folders = match env.get("SSL_CERT_DIR") {
            Some(folders) => folders.split(':').map(str::to_owned).collect(),
            None => vec![FOLDER.to_owned()],
        };
        Ok(Tls(Arc::new(Trust {
            extra,
            blind: options.insecure,
            files,
            folders,
            config: OnceLock::new(),
            identity: match &options.identity {
                Some(identity) => Some((identity.server.origin(), client_key(identity)?)),
                None => None,
            },
            with_identity: OnceLock::new(),
            may_be_plain: Box::new(may_be_plain),
            not_tls: Mutex::default(),
            finding_out: Mutex::default(),
            spoken: Mutex::default(),
        })))
    }

    /// The proxy of `url` makes no tunnel to it, as many make none but to port 443. Where nothing
    /// is verified, plain HTTP is as good, and needs none.
    pub(super) fn refuses_tunnels(&self, url: &Url) {
        if self.0.blind {
            lock(&self.0.not_tls).insert(url.origin(), "the proxy makes no tunnel to it");
        }
    }

    /// Whether a connection to the server of `url` failed because its port speaks no TLS at all.
    pub(super) fn is_not_tls(&self, url: &Url) -> bool {
        lock(&self.0.not_tls).contains_key(&url.origin())
    }

    /// Plain HTTP failed there too: the next connection asks anew.
    pub(super) fn forget_not_tls(&self, url: &Url) {
        lock(&self.0.not_tls).remove(&url.origin());
    }

    /// Whether such a port said something, so that it was not only too slow.
    pub(super) fn is_something_else(&self, url: &Url) -> bool {
        lock(&self.0.not_tls).get(&url.origin()) == Some(&SOMETHING_ELSE)
    }

    /// Whether TLS with the server of `url` worked before.
    pub(super) fn is_spoken_by(&self, url: &Url) -> bool {
        lock(&self.0.spoken).contains(&url.origin())
    }

    /// Makes the TLS connection to the host of `details.uri` over `stream`.
    pub(super) fn wrap(
        &self,
        details: &ConnectionDetails,
        stream: Box<dyn Transport>,
    ) -> Result<Box<dyn Transport>> {
        let url = Url::parse(&details.uri.to_string())?;
        let host = url.host().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Error::new(Kind::Network, format!("`{host}` is not a host name")))?;
        let config = self.0.config_for(&url);
        let mut conn = ClientConnection::new(Arc::clone(config), name)
            .map_err(|error| Error::new(Kind::Network, format!("TLS: {error}")))?;
        let mut sock = TransportAdapter::new(stream, details.current_time.clone());
        let may_be_plain = (self.0.may_be_plain)(&url) && !self.is_spoken_by(&url);
        // One connection finds out for those that are made at the same time.
        let _finding_out = may_be_plain.then(|| lock(&self.0.finding_out));
        let found = lock(&self.0.not_tls).get(&url.origin()).copied();
        if let Some(why) = found.filter(|_| may_be_plain) {
            return Err(not_tls(why));
        }
        let mut first = details.timeout;
        if may_be_plain && *first.after > HELLO_PATIENCE {
            first.after = HELLO_PATIENCE.into();
        }
        sock.set_timeout(first);
        match handshake(&mut conn, &mut sock, details.timeout, may_be_plain) {
            Ok(()) => {
                lock(&self.0.spoken).insert(url.origin());
                lock(&self.0.not_tls).remove(&url.origin());
            }
            Err(Failed::Tls(error)) => return Err(error),
            Err(Failed::NotTls(why)) => {
                lock(&self.0.not_tls).insert(url.origin(), why);
                return Err(not_tls(why));
            }
        }
        Ok(Box::new(TlsTransport {
            buffers: LazyBuffers::new(
                details.config.input_buffer_size(),
                details.config.output_buffer_size(),
            ),
            stream: StreamOwned::new(conn, sock),
        }))
    }
}

fn not_tls(why: &str) -> Error {
    Error::new(
        Kind::Network,
        format!("the server does not speak TLS: {why}"),
    )
    .advise("set `source.insecure: true` if it is a plain HTTP registry")
}

/// Runs the handshake, and tells a server that speaks no TLS from one whose TLS fails.
fn handshake(
    conn: &mut ClientConnection,
    sock: &mut TransportAdapter,
    timeout: NextTimeout,
    may_be_plain: bool,
) -> std::result::Result<(), Failed> {
    let mut heard = false;
    while conn.is_handshaking() {
        while conn.wants_write() {
            match conn.write_tls(sock) {
                Ok(_) => {}
                Err(error) if may_be_plain && !heard && is_reset(&error) => {
                    return Err(Failed::NotTls("it closed the connection"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        if !conn.is_handshaking() {
            break;
        }
        match conn.read_tls(sock) {
            Ok(0) if may_be_plain && !heard => {
                return Err(Failed::NotTls("it closed the connection"));
            }
            Ok(0) => {
                let why = "the connection was closed in the TLS handshake";
                let error = Error::new(Kind::Network, why);
                return Err(error.again(Again::Later { after: None }).into());
            }
            Ok(_) => {}
            Err(error) if may_be_plain && !heard && (is_reset(&error) || is_timeout(&error)) => {
                return Err(Failed::NotTls("it does not answer the hello"));
            }
            Err(error) => return Err(error.into()),
        }
        match conn.process_new_packets() {
            Ok(_) => {}
            Err(rustls::Error::InvalidMessage(_)) if !heard => {
                return Err(Failed::NotTls(SOMETHING_ELSE));
            }
            Err(error) => {
                // The alert tells the server why; whether it arrives does not matter.
                let _ = conn.write_tls(sock);
                return Err(tls_error(&error).into());
            }
        }
        if !heard {
            heard = true;
            sock.set_timeout(timeout);
        }
    }
    while conn.wants_write() {
        conn.write_tls(sock)?;
    }
    Ok(())
}

fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
    )
}

fn is_timeout(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(ureq::Error::Timeout(_)))
}

fn tls_error(error: &rustls::Error) -> Error {
    match error {
        rustls::Error::InvalidCertificate(why) => refused(why),
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            let why = "the server speaks no TLS from version 1.2 on";
            Error::new(Kind::Network, format!("TLS: {why}"))
        }
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            let why = "the server has no cipher or kind of key in common with us";
            Error::new(Kind::Network, format!("TLS: {why}"))
                .advise("keys on the curve P-521 are not supported")
        }
        rustls::Error::AlertReceived(alert) => client_refused(*alert)
            .unwrap_or_else(|| Error::new(Kind::Network, format!("TLS: {error}"))),
        other => Error::new(Kind::Network, format!("TLS: {other}")),
    }
}

/// What a server says of a client's certificate. In TLS 1.3 it says so after the handshake, where
/// the first answer is read.
pub(super) fn refusal_inside(error: &io::Error) -> Option<Error> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::AlertReceived(alert) => client_refused(*alert),
        _ => None,
    }
}

fn client_refused(alert: AlertDescription) -> Option<Error> {
    let why = match alert {
        AlertDescription::CertificateRequired => "the server wants a client certificate".to_owned(),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => {
            format!("the server refuses the client certificate, or wants one ({alert:?})")
        }
        _ => return None,
    };
    Some(Error::new(Kind::Denied, why))
}

/// A client certificate with its key, which belong together.
fn client_key(identity: &Identity) -> Result<Arc<SingleCertAndKey>> {
    let fields = "source.content_trust";
    let chain = certificates(identity.certificate.as_bytes())
        .map_err(|why| Error::config(format!("`{fields}.tls_cert` {why}")))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.expose().as_bytes()).map_err(|_| {
        Error::config(format!("`{fields}.tls_key` has no private key in it"))
            .advise("it is PEM without encryption, with its BEGIN and END lines")
    })?;
    let provider = rustls::crypto::ring::default_provider();
    let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => Error::config(format!(
            "`{fields}.tls_key` is not the key of the certificate in `tls_cert`"
        )),
        error => Error::config(format!("`{fields}.tls_key`: {error}")),
    })?;
    Ok(Arc::new(SingleCertAndKey::from(certified)))
}

impl Trust {
    fn config_for(&self, url: &Url) -> &Arc<ClientConfig> {
        match &self.identity {
            Some((origin, key)) if *origin == url.origin() => {
                self.with_identity.get_or_init(|| {
                    let mut config = self.build();
                    config.client_auth_cert_resolver = Arc::clone(key) as _;
                    Arc::new(config)
                })
            }
            _ => self.config.get_or_init(|| Arc::new(self.build())),
        }
    }

    fn build(&self) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(rustls::ALL_VERSIONS);
        let builder = match builder {
            Ok(builder) => builder,
            // The provider is compiled in and has suites for both versions.
            Err(_) => ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .unwrap_or_else(|_| unreachable!("ring has cipher suites")),
        };
        let verifier: Arc<dyn ServerCertVerifier> = match self.blind {
            true => Arc::new(Blind),
            false => {
                let mut certificates = self.system();
                certificates.extend(self.extra.iter().cloned());
                Arc::new(Trusting::new(&provider, certificates))
            }
        };
        builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth()
    }

    /// Certificates of the root filesystem; what cannot be read is not there.
    fn system(&self) -> Vec<CertificateDer<'static>> {
        let mut found = Vec::new();
        for file in &self.files {
            let more = read_bundle(file);
            let enough = !more.is_empty();
            found.extend(more);
            if enough {
                break;
            }
        }
        for folder in &self.folders {
            let Ok(entries) = fs::read_dir(folder) else {
                continue;
            };
            for entry in entries.flatten().take(FOLDER_LIMIT) {
                let path = entry.path();
                // Debian's links to single certificates repeat its bundle. A folder that the user
                // names may be a mounted secret, whose files are links.
                let is_file = match folder == FOLDER {
                    true => entry.file_type().is_ok_and(|kind| kind.is_file()),
                    false => fs::metadata(&path).is_ok_and(|found| found.is_file()),
                };
                if is_file
                    && !self
                        .files
                        .iter()
                        .any(|file| path.as_os_str() == file.as_str())
                {
                    found.extend(read_bundle(&path.to_string_lossy()));
                }
            }
        }
        found
    }
}

fn read_bundle(path: &str) -> Vec<CertificateDer<'static>> {
    let mut text = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(BUNDLE_LIMIT).read_to_end(&mut text));
    match read {
        Ok(_) => CertificateDer::pem_slice_iter(&text).flatten().collect(),
        Err(_) => Vec::new(),
    }
}

/// The certificates of a PEM text.
fn certificates(text: &[u8]) -> std::result::Result<Vec<CertificateDer<'static>>, &'static str> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text) {
        let certificate = certificate.map_err(|_| "is not valid PEM")?;
        RootCertStore::empty()
            .add(certificate.clone())
            .map_err(|_| "has a certificate that cannot be read")?;
        found.push(certificate);
    }
    match found.is_empty() {
        true => Err("has no certificate in it"),
        false => Ok(found),
    }
}

/// The last connector of the chain: TLS where the URL says `https`.
impl Connector<Box<dyn Transport>> for Tls {
    type Out = Box<dyn Transport>;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<Box<dyn Transport>>,
    ) -> std::result::Result<Option<Self::Out>, ureq::Error> {
        match chained {
            Some(stream) if details.needs_tls() => {
                Ok(Some(self.wrap(details, stream).map_err(Error::into_io)?))
            }
            other => Ok(other),
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(
        &mut self,
        amount: usize,
        timeout: NextTimeout,
    ) -> std::result::Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        self.stream.write_all(output)?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> std::result::Result<bool, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}
