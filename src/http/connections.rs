//! The connections of a run: one pool, which can be cut while others wait for answers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ureq::Agent;
use ureq::unversioned::transport::Connector as _;

use super::dial::Dial;
use super::names::Names;
use super::request::{CONNECT_PATIENCE, STALL};
use super::tls::Tls;
use super::wire::{INPUT_BUFFER, OUTPUT_BUFFER, Wire};
use crate::context::{Context, Env};
use crate::workers::lock;

/// Idle connections that are kept at least: one for each of the 16 look-ups of tags, and some for
/// token servers and storage.
const IDLE_CONNECTIONS: usize = 20;

/// Shared by all who send.
#[derive(Clone)]
pub(super) struct Connections {
    how: Arc<How>,
    agent: Arc<Mutex<Agent>>,
    cuts: Arc<AtomicU64>,
}

/// How they are made.
struct How {
    names: Names,
    tls: Tls,
    idle: usize,
    connect: Duration,
    stall: Duration,
}

impl Connections {
    pub(super) fn new(context: &Context<'_>, names: Names, tls: Tls) -> Self {
        let how = How {
            names,
            tls,
            idle: context.workers.count().max(IDLE_CONNECTIONS),
            connect: limit(context.env, CONNECT_PATIENCE),
            stall: limit(context.env, STALL),
        };
        Connections {
            agent: Arc::new(Mutex::new(how.agent())),
            how: Arc::new(how),
            cuts: Arc::default(),
        }
    }

    /// What sends requests over them.
    pub(super) fn agent(&self) -> Agent {
        lock(&self.agent).clone()
    }

    /// How often they were cut: an error since is no word about the server.
    pub(super) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }

    /// Cuts all that are open: whoever waits for an answer gets an error at once. What is sent later
    /// goes over new ones.
    pub(super) fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::Relaxed);
        let old = std::mem::replace(&mut *lock(&self.agent), self.how.agent());
        old.shutdown();
    }
}

impl How {
    fn agent(&self) -> Agent {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .accept("")
            .accept_encoding("")
            .user_agent(concat!("registry-image/", env!("CARGO_PKG_VERSION")))
            .input_buffer_size(INPUT_BUFFER)
            .output_buffer_size(OUTPUT_BUFFER)
            .max_idle_connections(self.idle)
            .max_idle_connections_per_host(self.idle)
            .timeout_connect(Some(self.connect))
            .timeout_per_read(Some(self.stall))
            .timeout_per_write(Some(self.stall))
            .build();
        let connector = Dial::new(self.names.clone(), self.tls.clone())
            .chain(self.tls.clone())
            .chain(Wire);
        Agent::with_parts(config, connector, self.names.clone())
    }
}

/// A limit on the time that a connection may take. Tests of the debug build shorten it: the
/// number that `REGISTRY_IMAGE_TEST_CLOCK` holds divides it.
fn limit(env: &Env, real: Duration) -> Duration {
    let divisor = match cfg!(debug_assertions) {
        true => env.get("REGISTRY_IMAGE_TEST_CLOCK"),
        false => None,
    };
    let divisor = divisor.and_then(|text| text.parse().ok());
    real / divisor.filter(|n| *n > 0).unwrap_or(1)
}
