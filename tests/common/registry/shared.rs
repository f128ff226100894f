//! What the threads of one fixture registry share: its script, its store, its log.

use super::fault::Rule;
use super::log::{Offence, Request, shorten_sessions};
use super::setup::Setup;
use super::store::Store;
use super::wire::{Head, Offences};
use std::collections::{BTreeSet, HashMap};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the threads of one registry share.
pub struct Shared {
    pub address: SocketAddr,
    pub setup: Setup,
    pub store: Arc<Mutex<Store>>,
    pub script: Mutex<Vec<Rule>>,
    pub state: Mutex<State>,
    pub changed: Condvar,
}

#[derive(Default)]
pub struct State {
    pub requests: Vec<Request>,
    pub forgotten: usize,
    pub offences: Vec<(Offence, String)>,
    /// Bugs of the fixture and gates that nobody opened.
    pub troubles: Vec<String>,
    pub allowed: BTreeSet<Offence>,
    pub aliases: Vec<(String, String)>,
    pub challenged: bool,
    pub stopping: bool,
    pub releases: usize,
    pub sockets: HashMap<u64, TcpStream>,
    pub tls_hellos: usize,
    pub plain_requests: usize,
    pub tls_failures: Vec<String>,
    /// Requests that have come and are not answered.
    pub under_way: usize,
    pub most_at_once: usize,
}

impl Shared {
    pub fn new(address: SocketAddr, setup: Setup, store: Arc<Mutex<Store>>) -> Shared {
        Shared {
            address,
            setup,
            store,
            script: Mutex::new(Vec::new()),
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
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

    pub fn allow(&self, offence: Offence) {
        self.state().allowed.insert(offence);
    }

    pub fn complaints(&self) -> Vec<String> {
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

    pub fn stop(&self) {
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

    pub fn stopping(&self) -> bool {
        self.state().stopping
    }

    /// Waits; false when the registry stops meanwhile.
    pub fn pause(&self, time: Duration) -> bool {
        let state = self.state();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, time, |state| !state.stopping)
            .unwrap();
        !state.stopping
    }

    /// Waits until the registry stops, or a release that came after this count of them.
    pub fn stall(&self, releases: usize) {
        let state = self.state();
        drop(
            self.changed
                .wait_while(state, |s| !s.stopping && s.releases == releases)
                .unwrap(),
        );
    }

    pub fn accuse(&self, head: Option<&Head>, offences: Offences) {
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

    pub fn trouble(&self, text: String) {
        self.state().troubles.push(text);
    }

    /// Sockets accepted while the stop was under way.
    pub fn stop_sockets(&self) {
        for socket in self.state().sockets.values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Drops the handle that [`Shared::stop`] uses, so that the thread holds the last one.
    pub fn forget_socket(&self, number: u64) {
        self.state().sockets.remove(&number);
    }
}
