//! Waiting: the clock, the back-off policy, and the gate that all workers share when a registry
//! limits their rate. The only sleeper.

use std::time::{Duration, Instant};

/// Time as the program sees it, so that tests of retries take no seconds.
pub(crate) trait Clock: Sync {
    /// Time since the clock was made.
    fn elapsed(&self) -> Duration;
    fn sleep(&self, duration: Duration);
}

/// The machine's clock.
pub(crate) struct RealClock(Instant);

impl RealClock {
    pub(crate) fn start() -> Self {
        RealClock(Instant::now())
    }
}

impl Clock for RealClock {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}
