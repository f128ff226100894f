//! The scripted fixture registry: small, strict, in memory, on a free port of 127.0.0.1.
//!
//! Speaks distribution-spec 1.1 and Docker Registry v2 as the specifications say, records every
//! request, fails the test on a request that they forbid, and does wrong only what a test scripts.

mod api;
mod auth;
mod fault;
mod log;
mod serve;
mod setup;
mod shared;
mod store;
mod uploads;
mod wire;

pub use auth::{Auth, Tokens};
pub use fault::{Answer, Fault, Gate, Installed, Scripted, answer};
pub use log::{Offence, Request};
pub use setup::Setup;
pub use shared::Shared;
pub use store::{Manifest, Store};
pub use wire::{Head, reset};

use crate::common::{Image, sha256};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

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
        Setup::new()
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

    /// Lets go of every request so far that stalls or will: its connection closes.
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
        state.most_at_once = 0;
    }

    /// Waits until the log satisfies a condition; fails the test after 30 seconds. The condition
    /// must not ask the registry: it holds the log.
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

    /// The most requests that were under way at the same time. A [`Gate::meeting`] proves that so
    /// many are made at once, this that no more are.
    pub fn most_at_once(&self) -> usize {
        self.shared.state().most_at_once
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
        self.shared.allow(offence);
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

    fn store(&self) -> MutexGuard<'_, Store> {
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
