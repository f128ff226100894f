//! The choices a fixture registry is started with.

use super::Registry;
use super::auth::{Auth, Tokens};
use super::serve::accept;
use super::shared::Shared;
use super::store::Store;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

/// The choices a registry is started with: `Registry::setup().basic("me", "secret").start()`.
pub struct Setup {
    pub auth: Auth,
    pub tokens: Option<Tokens>,
    pub realm: Option<String>,
    pub challenges: Vec<String>,
    pub insufficient_is_403: bool,
    pub page_size: Option<usize>,
    pub most_tags_a_page: Option<usize>,
    pub absolute_links: bool,
    pub relative_locations: bool,
    pub mounts: bool,
    pub single_post: bool,
    pub deletes: bool,
    pub largest_body: Option<u64>,
    pub wants_lengths: bool,
    pub smallest_piece: Option<u64>,
    pub names: Vec<String>,
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub store: Option<Arc<Mutex<Store>>>,
}

impl Setup {
    pub fn new() -> Setup {
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
            largest_body: None,
            wants_lengths: false,
            smallest_piece: None,
            names: Vec::new(),
            tls: None,
            store: None,
        }
    }

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

    /// A longer body of a request is refused with 413 before it is read to its end, as nginx does.
    pub fn largest_body(mut self, bytes: u64) -> Setup {
        self.largest_body = Some(bytes);
        self
    }

    /// A body without Content-Length is refused with 411.
    pub fn wants_lengths(mut self) -> Setup {
        self.wants_lengths = true;
        self
    }

    /// `OCI-Chunk-Min-Length`: a smaller piece that is not the last one is an offence.
    pub fn smallest_piece(mut self, bytes: u64) -> Setup {
        self.smallest_piece = Some(bytes);
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
        let shared = Arc::new(Shared::new(address, self, store));
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
