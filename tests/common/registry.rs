//! The scripted fixture registry: small, strict, in memory, on a free port of 127.0.0.1.
//!
//! Speaks distribution-spec 1.1 and Docker Registry v2 as the specifications say, records every
//! request, fails the test on a request that they forbid, and does wrong only what a test scripts.

mod api;
mod auth;
mod fault;
mod store;
mod wire;

pub use auth::{Auth, Tokens};
pub use fault::{Answer, Fault, Gate, Installed, Scripted, answer};
pub use store::{Manifest, Store};
pub use wire::Head;

use crate::common::{Image, sha256};
use fault::{Delivery, Rule};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use wire::{BodyRead, Connection, Next, Offences, Stream};

/// What a client must not do. A test that provokes one on purpose says [`Registry::allow`].
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Offence {
    /// Accept-Encoding other than identity for a manifest or blob.
    AcceptEncoding,
    BadHeader,
    /// Not JSON, a `mediaType` that is not the Content-Type, a size that is not the object's.
    BadManifest,
    /// A repository name, tag or digest that the grammar does not have.
    BadName,
    /// Range, Content-Range or `n` that make no sense.
    BadRange,
    /// The request line: two spaces, not HTTP/1.1, a target without `/`.
    BadRequestLine,
    /// Manifest types in the Accept of a blob.
    BlobAccept,
    /// A manifest put before what it refers to.
    BlobsMissing,
    BodyNotAllowed,
    /// A connection that ended in the middle of a request.
    BrokenRequest,
    /// Credentials of the wrong kind, unknown tokens, credentials to storage.
    ForeignAuthorization,
    /// An upload request that lost the query of `Location`.
    LocationNotFollowed,
    /// Manifest GET or HEAD without the full Accept list.
    ManifestAccept,
    NoBodyLength,
    NoContentType,
    NoDigest,
    NoSuchUpload,
    TokenRequest,
    /// Credentials before a challenge, or where none are asked for.
    UnaskedAuthorization,
    UnknownEndpoint,
    /// Bytes put under a digest that is not theirs.
    WrongDigest,
    WrongHost,
}

impl Offence {
    pub const ALL: [Offence; 22] = [
        Offence::AcceptEncoding,
        Offence::BadHeader,
        Offence::BadManifest,
        Offence::BadName,
        Offence::BadRange,
        Offence::BadRequestLine,
        Offence::BlobAccept,
        Offence::BlobsMissing,
        Offence::BodyNotAllowed,
        Offence::BrokenRequest,
        Offence::ForeignAuthorization,
        Offence::LocationNotFollowed,
        Offence::ManifestAccept,
        Offence::NoBodyLength,
        Offence::NoContentType,
        Offence::NoDigest,
        Offence::NoSuchUpload,
        Offence::TokenRequest,
        Offence::UnaskedAuthorization,
        Offence::UnknownEndpoint,
        Offence::WrongDigest,
        Offence::WrongHost,
    ];
}

/// One request as it came, and how it ended.
#[derive(Clone, Debug)]
pub struct Request {
    pub head: Head,
    pub body: Vec<u8>,
    /// 1 for the first connection of the registry.
    pub connection: u64,
    pub peer: SocketAddr,
    pub at: Instant,
    /// Status, or `reset`, `close`, `stall`, `garbage`; a body cut off is `200 reset@1000`.
    pub outcome: String,
}

impl Request {
    /// `GET /v2/a/blobs/sha256:… [bytes=5-] 206`; the query as sent.
    pub fn line(&self) -> String {
        let range = self
            .head
            .header("range")
            .map_or(String::new(), |r| format!(" [{r}]"));
        format!(
            "{} {}{range} {}",
            self.head.method, self.head.target, self.outcome
        )
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }
}

/// The choices a registry is started with: `Registry::setup().basic("me", "secret").start()`.
pub struct Setup {
    auth: Auth,
    tokens: Option<Tokens>,
    realm: Option<String>,
    challenges: Vec<String>,
    insufficient_is_403: bool,
    page_size: Option<usize>,
    most_tags_a_page: Option<usize>,
    absolute_links: bool,
    relative_locations: bool,
    mounts: bool,
    single_post: bool,
    deletes: bool,
    names: Vec<String>,
    tls: Option<Arc<rustls::ServerConfig>>,
    store: Option<Arc<Mutex<Store>>>,
}

impl Setup {
    /// One user; call again for more.
    pub fn basic(mut self, user: &str, password: &str) -> Setup {
        let mut users = match self.auth {
            Auth::Basic(users) => users,
            Auth::None | Auth::Bearer(_) => BTreeMap::new(),
        };
        users.insert(user.to_owned(), password.to_owned());
        self.auth = Auth::Basic(users);
        self
    }

    /// Bearer tokens, issued at `/token` of this same server unless [`Setup::realm`] says otherwise.
    pub fn bearer(mut self, tokens: &Tokens) -> Setup {
        self.auth = Auth::Bearer(tokens.clone());
        self.serve_tokens(tokens)
    }

    /// Issues tokens at `/token`, for another fixture that accepts them.
    pub fn serve_tokens(mut self, tokens: &Tokens) -> Setup {
        self.tokens = Some(tokens.clone());
        self
    }

    /// The realm that challenges name.
    pub fn realm(mut self, url: impl Into<String>) -> Setup {
        self.realm = Some(url.into());
        self
    }

    /// The WWW-Authenticate headers of a 401, with `{realm}`, `{service}`, `{scope}` to fill in.
    pub fn challenges<const N: usize>(mut self, headers: [&str; N]) -> Setup {
        self.challenges = headers.map(str::to_owned).to_vec();
        self
    }

    /// A token without the scope gets 403 DENIED instead of 401 with `insufficient_scope`.
    pub fn insufficient_is_403(mut self) -> Setup {
        self.insufficient_is_403 = true;
        self
    }

    /// Tag pages hold at most this many, whatever `n` asks.
    pub fn page_size(mut self, tags: usize) -> Setup {
        self.page_size = Some(tags);
        self
    }

    /// A larger `n` is refused with 400; with 0, any `n` is.
    pub fn most_tags_a_page(mut self, tags: usize) -> Setup {
        self.most_tags_a_page = Some(tags);
        self
    }

    /// `Link` holds a whole URL (default: a path).
    pub fn absolute_links(mut self) -> Setup {
        self.absolute_links = true;
        self
    }

    /// `Location` of uploads is a path (default: a whole URL).
    pub fn relative_locations(mut self) -> Setup {
        self.relative_locations = true;
        self
    }

    /// Mounts are answered 202 with an upload session.
    pub fn without_mounts(mut self) -> Setup {
        self.mounts = false;
        self
    }

    /// `POST ?digest=` commits a blob in one request.
    pub fn single_post(mut self) -> Setup {
        self.single_post = true;
        self
    }

    pub fn without_deletes(mut self) -> Setup {
        self.deletes = false;
        self
    }

    /// A `Host` (with port where not the default) that is right besides the registry's own.
    pub fn name(mut self, host: &str) -> Setup {
        self.names.push(host.to_owned());
        self
    }

    pub fn tls(mut self, config: Arc<rustls::ServerConfig>) -> Setup {
        self.tls = Some(config);
        self
    }

    /// Shows and changes the same blobs, manifests, tags and uploads as another fixture.
    pub fn same_store_as(mut self, other: &Registry) -> Setup {
        self.store = Some(Arc::clone(&other.shared.store));
        self
    }

    pub fn start(mut self) -> Registry {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let store = self.store.take().unwrap_or_default();
        let shared = Arc::new(Shared {
            address,
            setup: self,
            store,
            script: Mutex::new(Vec::new()),
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || accept(&listener, &shared))
        };
        Registry {
            shared,
            acceptor: Some(acceptor),
        }
    }
}

/// A running fixture registry; it stops, and its offences fail the test, when it is dropped.
pub struct Registry {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Registry {
    /// Plain HTTP, no authentication.
    pub fn start() -> Registry {
        Registry::setup().start()
    }

    pub fn setup() -> Setup {
        Setup {
            auth: Auth::None,
            tokens: None,
            realm: None,
            challenges: Vec::new(),
            insufficient_is_403: false,
            page_size: None,
            most_tags_a_page: None,
            absolute_links: false,
            relative_locations: false,
            mounts: true,
            single_post: false,
            deletes: true,
            names: Vec::new(),
            tls: None,
            store: None,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.shared.address.to_string()
    }

    /// `127.0.0.1:PORT/NAME`, for `source.repository`.
    pub fn repository(&self, name: &str) -> String {
        format!("{}/{name}", self.shared.address)
    }

    /// `http://127.0.0.1:PORT/…`
    pub fn url(&self, path: &str) -> String {
        self.shared.url(path)
    }

    // What it holds.

    /// Keeps a blob; gives its digest.
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        self.put_blob_as(repository, &digest, bytes);
        digest
    }

    /// Keeps bytes under any digest, also one that is not theirs.
    pub fn put_blob_as(&self, repository: &str, digest: &str, bytes: &[u8]) {
        let mut store = self.store();
        store
            .repository(repository)
            .blobs
            .insert(digest.to_owned(), Arc::from(bytes));
    }

    /// Keeps a manifest, unchecked; gives its digest.
    pub fn put_manifest(&self, repository: &str, media_type: &str, bytes: &[u8]) -> String {
        self.store()
            .repository(repository)
            .put_manifest(None, media_type, bytes)
    }

    /// Keeps a manifest under any digest, also one that is not its own.
    pub fn put_manifest_as(&self, repository: &str, digest: &str, media_type: &str, bytes: &[u8]) {
        self.store()
            .repository(repository)
            .put_manifest(Some(digest), media_type, bytes);
    }

    /// Keeps an image or index with all below it, and tags it; gives its digest.
    pub fn put_image(&self, repository: &str, tag: &str, image: &Image) -> String {
        let digest = self.put_untagged(repository, image);
        self.tag(repository, tag, &digest);
        digest
    }

    /// Like [`Registry::put_image`], without a tag.
    pub fn put_untagged(&self, repository: &str, image: &Image) -> String {
        for child in &image.children {
            self.put_untagged(repository, child);
        }
        for blob in image.blobs() {
            self.put_blob_as(repository, &blob.digest, &blob.bytes);
        }
        self.put_manifest_as(
            repository,
            &image.digest,
            &image.media_type,
            &image.manifest,
        );
        image.digest.clone()
    }

    pub fn tag(&self, repository: &str, tag: &str, digest: &str) {
        self.store().repository(repository).tag(tag, digest);
    }

    pub fn delete_tag(&self, repository: &str, tag: &str) {
        self.store()
            .repository(repository)
            .tags
            .retain(|(name, _)| name != tag);
    }

    pub fn delete_manifest(&self, repository: &str, digest: &str) {
        let mut store = self.store();
        let repository = store.repository(repository);
        repository.manifests.remove(digest);
        repository.tags.retain(|(_, of)| of != digest);
    }

    /// Removes a manifest and keeps the tags that name it: listed, and not there.
    pub fn lose_manifest(&self, repository: &str, digest: &str) {
        self.store().repository(repository).manifests.remove(digest);
    }

    pub fn delete_blob(&self, repository: &str, digest: &str) {
        self.store().repository(repository).blobs.remove(digest);
    }

    pub fn blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        self.store()
            .blob(repository, digest)
            .map(|bytes| bytes.to_vec())
    }

    /// By tag or digest.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<Manifest> {
        self.store().manifest(repository, reference).cloned()
    }

    /// Tags and their digests, in the order of `tags/list`.
    pub fn tags(&self, repository: &str) -> Vec<(String, String)> {
        self.store()
            .repositories
            .get(repository)
            .map_or(Vec::new(), |r| r.tags.clone())
    }

    /// Upload sessions that are neither committed nor cancelled.
    pub fn open_uploads(&self) -> usize {
        self.store().uploads.len()
    }

    /// Serves bytes at a path outside the API, with `Range`. `/storage/DIGEST` serves every blob
    /// without this call.
    pub fn serve(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.store().served.insert(path.to_owned(), bytes.into());
    }

    // What it does wrong.

    /// Scripts a fault. `*` in the pattern stands for any text, `*` as method for any method; a
    /// pattern with `?` is compared with path and query, else with the path alone.
    pub fn on(&self, method: &str, pattern: &str) -> Scripted<'_> {
        Scripted::new(&self.shared, method, pattern)
    }

    /// Lets go of everything that stalls: those connections close.
    pub fn release(&self) {
        self.shared.state().releases += 1;
        self.shared.changed.notify_all();
    }

    // What it saw.

    /// All requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// The log in compact form, with [`Registry::alias`] names and upload sessions shortened.
    pub fn lines(&self) -> Vec<String> {
        self.shared.lines()
    }

    /// [`Registry::lines`] for requests whose order is left to the scheduler.
    pub fn sorted_lines(&self) -> Vec<String> {
        let mut lines = self.lines();
        lines.sort();
        lines
    }

    /// Shows `text` (a digest) as `<name>` in [`Registry::lines`].
    pub fn alias(&self, text: &str, name: &str) {
        self.shared
            .state()
            .aliases
            .push((text.to_owned(), format!("<{name}>")));
    }

    /// Shows the digests of an image as `<name>`, `<name.config>`, `<name.layer0>` …, those of an
    /// index's children as `<name.0>` ….
    pub fn alias_image(&self, image: &Image, name: &str) {
        self.alias(&image.digest, name);
        if let Some(config) = &image.config {
            self.alias(&config.digest, &format!("{name}.config"));
        }
        for (n, layer) in image.layers.iter().enumerate() {
            self.alias(&layer.digest, &format!("{name}.layer{n}"));
        }
        for (n, child) in image.children.iter().enumerate() {
            self.alias_image(child, &format!("{name}.{n}"));
        }
    }

    /// Forgets the log and that it ever sent a challenge, as for a program that starts anew.
    pub fn forget_requests(&self) {
        let mut state = self.shared.state();
        state.forgotten += state.requests.len();
        state.requests.clear();
        state.challenged = false;
        state.tls_hellos = 0;
    }

    /// Waits until the log satisfies a condition; fails the test after 30 seconds.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&[Request]) -> bool) {
        let limit = Duration::from_secs(30);
        let state = self.shared.state();
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, limit, |state| !condition(&state.requests))
            .unwrap();
        let met = condition(&state.requests);
        drop(state);
        assert!(
            met,
            "waited 30 s for {what}; requests:\n{}",
            self.lines().join("\n")
        );
    }

    /// TCP connections that were opened, without those that began with TLS on a plain port.
    pub fn connections(&self) -> usize {
        let state = self.shared.state();
        let numbers: BTreeSet<u64> = state.requests.iter().map(|r| r.connection).collect();
        numbers.len()
    }

    /// Connections to this plain registry that began with a TLS handshake.
    pub fn tls_hellos(&self) -> usize {
        self.shared.state().tls_hellos
    }

    /// Plain requests to this TLS registry.
    pub fn plain_requests(&self) -> usize {
        self.shared.state().plain_requests
    }

    /// TLS handshakes that failed, with what the client said (an alert) or did.
    pub fn tls_failures(&self) -> Vec<String> {
        self.shared.state().tls_failures.clone()
    }

    /// The test provokes this on purpose.
    pub fn allow(&self, offence: Offence) {
        self.shared.state().allowed.insert(offence);
    }

    /// Offences so far, and faults of the script that did not happen.
    pub fn complaints(&self) -> Vec<String> {
        self.shared.complaints()
    }

    /// Panics with [`Registry::complaints`] and the log, if there are any.
    pub fn assert_clean(&self) {
        let complaints = self.complaints();
        assert!(
            complaints.is_empty(),
            "the fixture registry complains:\n  {}\nrequests:\n  {}",
            complaints.join("\n  "),
            self.lines().join("\n  ")
        );
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    fn store(&self) -> std::sync::MutexGuard<'_, Store> {
        self.shared
            .store
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        if thread::panicking() {
            let complaints = self.complaints();
            if !complaints.is_empty() {
                eprintln!(
                    "the fixture registry complains:\n  {}",
                    complaints.join("\n  ")
                );
            }
        } else {
            self.assert_clean();
        }
    }
}

/// What the threads of one registry share.
pub struct Shared {
    address: SocketAddr,
    setup: Setup,
    store: Arc<Mutex<Store>>,
    script: Mutex<Vec<Rule>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    forgotten: usize,
    offences: Vec<(Offence, String)>,
    /// Bugs of the fixture and gates that nobody opened.
    troubles: Vec<String>,
    allowed: BTreeSet<Offence>,
    aliases: Vec<(String, String)>,
    challenged: bool,
    stopping: bool,
    releases: usize,
    sockets: HashMap<u64, TcpStream>,
    tls_hellos: usize,
    plain_requests: usize,
    tls_failures: Vec<String>,
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn url(&self, path: &str) -> String {
        let scheme = if self.setup.tls.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}{path}", self.address)
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn challenged(&self) -> bool {
        self.state().challenged
    }

    pub fn note_challenge(&self) {
        self.state().challenged = true;
    }

    pub fn lines(&self) -> Vec<String> {
        let state = self.state();
        let show = |request: &Request| {
            let mut line = shorten_sessions(&request.line());
            for (text, name) in &state.aliases {
                line = line
                    .replace(text, name)
                    .replace(&text.replace(':', "%3A"), name);
            }
            line
        };
        state.requests.iter().map(show).collect()
    }

    fn complaints(&self) -> Vec<String> {
        let state = self.state();
        let offences = state
            .offences
            .iter()
            .filter(|(offence, _)| !state.allowed.contains(offence))
            .map(|(offence, text)| format!("{offence:?}: {text}"));
        let mut complaints: Vec<String> = offences.chain(state.troubles.iter().cloned()).collect();
        drop(state);
        let script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = script.iter().filter_map(Rule::left_over);
        complaints.extend(unused.map(|text| format!("scripted fault: {text}")));
        complaints
    }

    fn stop(&self) {
        let mut state = self.state();
        state.stopping = true;
        for socket in state.sockets.values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        drop(state);
        self.changed.notify_all();
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
    }

    fn stopping(&self) -> bool {
        self.state().stopping
    }

    /// Waits; false when the registry stops meanwhile.
    fn pause(&self, time: Duration) -> bool {
        let state = self.state();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, time, |state| !state.stopping)
            .unwrap();
        !state.stopping
    }

    fn stall(&self) {
        let state = self.state();
        let releases = state.releases;
        drop(
            self.changed
                .wait_while(state, |s| !s.stopping && s.releases == releases)
                .unwrap(),
        );
    }

    fn accuse(&self, head: Option<&Head>, offences: Offences) {
        let mut state = self.state();
        // A request that the end of the test cut off is nobody's fault.
        if state.stopping {
            return;
        }
        let place = head.map_or(String::new(), |head| {
            format!("{} {}: ", head.method, shorten_sessions(&head.target))
        });
        let told = offences
            .into_iter()
            .map(|(offence, text)| (offence, format!("{place}{text}")));
        state.offences.extend(told);
    }

    fn trouble(&self, text: String) {
        self.state().troubles.push(text);
    }
}

/// `…/uploads/upload-3?_state=2&digest=…` → `…/uploads/SESSION?digest=…`
fn shorten_sessions(line: &str) -> String {
    let Some((start, rest)) = line.split_once("/blobs/uploads/upload-") else {
        return line.to_owned();
    };
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = match rest.strip_prefix("?_state=") {
        Some(rest) => {
            let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            rest.strip_prefix('&')
                .map_or(rest.to_owned(), |rest| format!("?{rest}"))
        }
        None => rest.to_owned(),
    };
    format!("{start}/blobs/uploads/SESSION{rest}")
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    for (number, socket) in (1..).zip(listener.incoming()) {
        if shared.stopping() {
            break;
        }
        let Ok(socket) = socket else { continue };
        let _ = socket.set_nodelay(true);
        let Ok(handle) = socket.try_clone() else {
            continue;
        };
        shared.state().sockets.insert(number, handle);
        let shared = Arc::clone(shared);
        threads.push(thread::spawn(move || connection(&shared, number, socket)));
    }
    shared.stop_sockets();
    for thread in threads {
        if thread.join().is_err() {
            shared.trouble("a thread of the fixture panicked; its message is above".to_owned());
        }
    }
}

impl Shared {
    /// Sockets accepted while the stop was under way.
    fn stop_sockets(&self) {
        for socket in self.state().sockets.values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Drops the handle that [`Shared::stop`] uses, so that the thread holds the last one.
    fn forget_socket(&self, number: u64) {
        self.state().sockets.remove(&number);
    }
}

fn connection(shared: &Shared, number: u64, socket: TcpStream) {
    let Ok(peer) = socket.peer_addr() else {
        return shared.forget_socket(number);
    };
    let mut connection = match open(shared, socket) {
        Ok(Some(connection)) => connection,
        Ok(None) => return shared.forget_socket(number),
        Err(error) => {
            shared.state().tls_failures.push(error.to_string());
            return shared.forget_socket(number);
        }
    };
    let next = loop {
        match serve(shared, &mut connection, number, peer) {
            Next::Request => {}
            next => break next,
        }
    };
    if next == Next::Stall {
        shared.stall();
    }
    if next == Next::Reset {
        connection.wait_until_received();
    }
    shared.forget_socket(number);
    match next {
        Next::Reset => connection.reset(),
        _ => connection.close(),
    }
}

/// Looks at the first byte: a client may speak TLS to a plain registry, and the other way round.
fn open(shared: &Shared, socket: TcpStream) -> io::Result<Option<Connection>> {
    let mut first = [0];
    // A connection that closes or breaks before its first byte is no TLS failure.
    let Ok(1) = socket.peek(&mut first) else {
        return Ok(None);
    };
    let speaks_tls = first == [0x16];
    match &shared.setup.tls {
        None if speaks_tls => {
            shared.state().tls_hellos += 1;
            let mut connection = Connection::new(Stream::Plain(socket));
            // As servers written in Go answer.
            connection.write_raw(
                b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
                  Connection: close\r\n\r\n400 Bad Request",
            )?;
            connection.close();
            Ok(None)
        }
        None => Ok(Some(Connection::new(Stream::Plain(socket)))),
        Some(_) if !speaks_tls => {
            shared.state().plain_requests += 1;
            let mut connection = Connection::new(Stream::Plain(socket));
            connection.write_raw(
                b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
            )?;
            connection.close();
            Ok(None)
        }
        Some(config) => {
            let server = rustls::ServerConnection::new(Arc::clone(config)).unwrap();
            let mut tls = rustls::StreamOwned::new(server, socket);
            while tls.conn.is_handshaking() {
                tls.conn.complete_io(&mut tls.sock)?;
            }
            Ok(Some(Connection::new(Stream::Tls(Box::new(tls)))))
        }
    }
}

/// One request of a connection.
fn serve(shared: &Shared, connection: &mut Connection, number: u64, peer: SocketAddr) -> Next {
    let mut offences = Offences::new();
    let head = match connection.read_head(&mut offences) {
        Ok(Some(head)) => head,
        Ok(None) => return Next::Close,
        Err(error) => {
            if is_request_error(&error) {
                shared.accuse(None, vec![(Offence::BrokenRequest, error.to_string())]);
            }
            return Next::Close;
        }
    };
    check_host(shared, &head, &mut offences);
    let request = Request {
        head,
        body: Vec::new(),
        connection: number,
        peer,
        at: Instant::now(),
        outcome: "…".to_owned(),
    };
    let index = {
        let mut state = shared.state();
        state.requests.push(request.clone());
        state.forgotten + state.requests.len() - 1
    };
    shared.changed.notify_all();
    let faults = fault::choose(&mut shared.script.lock().unwrap(), &request.head);
    let mut exchange = Exchange {
        shared,
        index,
        request,
        offences,
        faults,
    };
    let next = exchange.run(connection);
    let Exchange {
        request, offences, ..
    } = exchange;
    shared.accuse(Some(&request.head), offences);
    next
}

/// Errors that the wire made itself say that the client broke the rules; those of the system
/// (resets, shutdowns) only that it went away.
fn is_request_error(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other
}

fn check_host(shared: &Shared, head: &Head, offences: &mut Offences) {
    if head.method.is_empty() {
        return;
    }
    let port = shared.address.port();
    let right = [shared.address.to_string(), format!("localhost:{port}")];
    let host = head.header("host").unwrap_or_default();
    if !right
        .iter()
        .chain(&shared.setup.names)
        .any(|name| name == host)
    {
        offences.push((Offence::WrongHost, format!("Host `{host}`")));
    }
}

struct Exchange<'a> {
    shared: &'a Shared,
    /// Counted from the first request of the registry.
    index: usize,
    request: Request,
    offences: Offences,
    faults: Vec<Arc<Fault>>,
}

impl Exchange<'_> {
    fn run(&mut self, connection: &mut Connection) -> Next {
        if self.request.head.method.is_empty() {
            return self.send(connection, fault::answer(400), Delivery::default());
        }
        let mut read_at_most = None;
        for fault in &self.faults.clone() {
            match &**fault {
                Fault::Hold(gate) if !gate.pass(&|| self.shared.stopping()) => {
                    let line = self.request.head.target.clone();
                    self.shared
                        .trouble(format!("a gate stayed shut for 30 s: {line}"));
                }
                Fault::AnswerEarly(answer) => {
                    let way = Delivery {
                        close: Some(true),
                        ..Delivery::default()
                    };
                    return self.send(connection, answer.clone(), way);
                }
                Fault::ResetInRequest(at) => read_at_most = Some((*at, Next::Reset, "reset")),
                Fault::StallInRequest(at) => read_at_most = Some((*at, Next::Stall, "stall")),
                _ => {}
            }
        }
        let limit = read_at_most.map(|(at, ..)| at);
        let body = match connection.read_body(&self.request.head, limit, &mut self.offences) {
            Ok(BodyRead::Whole(body)) => body,
            Ok(BodyRead::Part(body)) => {
                let (_, next, outcome) = read_at_most.unwrap_or((0, Next::Close, "close"));
                self.finish(outcome.to_owned(), body);
                return next;
            }
            Err(error) => {
                if is_request_error(&error) {
                    self.offences
                        .push((Offence::BrokenRequest, error.to_string()));
                }
                self.finish("broken".to_owned(), Vec::new());
                return Next::Close;
            }
        };
        if let Some((at, ..)) = read_at_most {
            let line = format!("{} {}", self.request.head.method, self.request.head.target);
            let had = body.len();
            self.shared
                .trouble(format!("{line}: the body ended at {had}, before byte {at}"));
        }
        self.set_body(body);
        self.respond(connection)
    }

    fn respond(&mut self, connection: &mut Connection) -> Next {
        let faults = self.faults.clone();
        for fault in &faults {
            match &**fault {
                Fault::Reset => return self.end("reset", Next::Reset),
                Fault::Close => return self.end("close", Next::Close),
                Fault::Stall => return self.end("stall", Next::Stall),
                Fault::Garbage(bytes) => {
                    self.set_outcome("garbage".to_owned());
                    let _ = connection.write_raw(bytes);
                    return Next::Close;
                }
                _ => {}
            }
        }
        let scripted = faults.iter().find_map(|fault| match &**fault {
            Fault::Answer(answer) => Some(answer.clone()),
            Fault::Redirect(status, to) => Some(fault::answer(*status).with("Location", to)),
            Fault::RedirectBelow(status, prefix) => {
                let last = self
                    .request
                    .head
                    .path
                    .rsplit('/')
                    .next()
                    .unwrap_or_default();
                Some(fault::answer(*status).with("Location", format!("{prefix}{last}")))
            }
            _ => None,
        });
        let mut request = self.request.clone();
        let mut answer = match scripted {
            Some(answer) => answer,
            None => {
                let refused = faults.iter().any(|f| matches!(&**f, Fault::RangeRefused));
                let expired = faults.iter().any(|f| matches!(&**f, Fault::Expired));
                for fault in &faults {
                    fault::reread(fault, &mut request.head);
                }
                if refused {
                    request
                        .head
                        .headers
                        .retain(|(n, _)| !n.eq_ignore_ascii_case("range"));
                }
                let answer = api::respond(self.shared, &request, expired, &mut self.offences);
                if refused {
                    api::range_refused(answer.body.len() as u64)
                } else {
                    answer
                }
            }
        };
        if faults
            .iter()
            .any(|fault| matches!(&**fault, Fault::DoneThenReset))
        {
            return self.end("reset", Next::Reset);
        }
        let mut way = Delivery::default();
        for fault in &faults {
            answer = fault::shape(fault, &request, answer, &mut way);
        }
        self.send(connection, answer, way)
    }

    fn send(&mut self, connection: &mut Connection, answer: Answer, mut way: Delivery) -> Next {
        let wants_close = |value: &str| value.eq_ignore_ascii_case("close");
        if self
            .request
            .head
            .header("connection")
            .is_some_and(wants_close)
        {
            way.close.get_or_insert(true);
        }
        if answer.status == 401 && answer.header("www-authenticate").is_some() {
            self.shared.note_challenge();
        }
        let mut outcome = answer.status.to_string();
        if let Some((at, cut)) = way.cut {
            let length = answer.body.len() as u64;
            if at > length {
                let target = &self.request.head.target;
                self.shared
                    .trouble(format!("{target}: cut at {at} of a body of {length}"));
            }
            outcome += &format!(" {}@{at}", format!("{cut:?}").to_lowercase());
        }
        // Before the client can see the answer, so that a test that saw it finds it in the log.
        self.set_outcome(outcome);
        let offences = std::mem::take(&mut self.offences);
        self.shared.accuse(Some(&self.request.head), offences);
        let wait = |time: Duration| self.shared.pause(time);
        connection
            .write(&self.request.head.method, &answer, &way, &wait)
            .unwrap_or(Next::Close)
    }

    fn end(&mut self, outcome: &str, next: Next) -> Next {
        self.set_outcome(outcome.to_owned());
        next
    }

    fn finish(&mut self, outcome: String, body: Vec<u8>) {
        self.set_body(body);
        self.set_outcome(outcome);
    }

    fn set_body(&mut self, body: Vec<u8>) {
        self.request.body = body;
        self.log();
    }

    fn set_outcome(&mut self, outcome: String) {
        self.request.outcome = outcome;
        self.log();
    }

    /// `forget_requests` may have taken the entry away.
    fn log(&self) {
        let mut state = self.shared.state();
        let entry = self.index.checked_sub(state.forgotten);
        if let Some(entry) = entry.and_then(|at| state.requests.get_mut(at)) {
            entry.clone_from(&self.request);
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}
