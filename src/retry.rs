//! Waiting: the clock, the back-off policy, and the gate that all workers share when a registry
//! limits their rate. The only sleeper.

use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use rustix::time::{ClockId, clock_gettime};

use crate::error::{Again, Error, Result};
use crate::report::Report;
use crate::workers::{Stop, lock};

/// Time as the program sees it, so that tests of retries take no seconds.
pub(crate) trait Clock: Sync {
    /// Time since the clock was made.
    fn elapsed(&self) -> Duration;
    /// Processor time that this process has used.
    fn used(&self) -> Duration {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        Duration::try_from(used).unwrap_or_default()
    }
    /// The time of day, for dates that a server sends.
    fn now(&self) -> SystemTime;
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

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// A clock whose sleeps take no time but are counted: tests of the binary run on it.
#[cfg(any(test, debug_assertions))]
pub(crate) struct SkippingClock {
    real: RealClock,
    slept: Mutex<Duration>,
}

#[cfg(any(test, debug_assertions))]
impl SkippingClock {
    pub(crate) fn start() -> Self {
        SkippingClock {
            real: RealClock::start(),
            slept: Mutex::new(Duration::ZERO),
        }
    }
}

#[cfg(any(test, debug_assertions))]
impl Clock for SkippingClock {
    fn elapsed(&self) -> Duration {
        self.real.elapsed() + *lock(&self.slept)
    }

    fn now(&self) -> SystemTime {
        self.real.now() + *lock(&self.slept)
    }

    fn sleep(&self, duration: Duration) {
        *lock(&self.slept) += duration;
    }
}

/// How long to go on after failures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Upper bound of the first wait; each further one may be twice as long.
    first: Duration,
    /// No wait is longer, except one that the server asks for.
    cap: Duration,
    /// In all, since the last progress.
    total: Duration,
    /// In all, while the host does not resolve or refuses connections.
    unreachable: Duration,
}

impl Patience {
    /// A registry: a pull of an hour should survive a restart of it.
    pub(crate) const REGISTRY: Patience = Patience {
        first: Duration::from_secs(1),
        cap: Duration::from_secs(60),
        total: Duration::from_secs(600),
        unreachable: Duration::from_secs(30),
    };

    /// What was pushed is read back: the push is done, and a person waits.
    pub(crate) const READ_BACK: Patience = Patience {
        first: Duration::from_secs(1),
        cap: Duration::from_secs(5),
        total: Duration::from_secs(60),
        unreachable: Duration::from_secs(30),
    };

    /// A mirror: the origin has the same images, and a person waits.
    pub(crate) const MIRROR: Patience = Patience {
        first: Duration::from_secs(1),
        cap: Duration::from_secs(5),
        total: Duration::from_secs(15),
        unreachable: Duration::from_secs(3),
    };

    /// Token servers, notary, AWS and identity services: nobody waits ten minutes for a login.
    pub(crate) const SERVICE: Patience = Patience {
        first: Duration::from_secs(1),
        cap: Duration::from_secs(20),
        total: Duration::from_secs(60),
        unreachable: Duration::from_secs(30),
    };

    /// A metadata service of the machine: where nobody answers at once there is none.
    pub(crate) const METADATA: Patience = Patience {
        first: Duration::from_millis(250),
        cap: Duration::from_secs(2),
        total: Duration::from_secs(10),
        unreachable: Duration::ZERO,
    };

    /// The same where there has to be one, which may just be starting.
    pub(crate) const STARTING_METADATA: Patience = Patience {
        unreachable: Duration::ZERO,
        ..Patience::SERVICE
    };
}

/// A wait that may have to end early is made of pieces of this length.
const NAP: Duration = Duration::from_millis(200);

/// The attempts at one thing.
pub(crate) struct Attempts<'a> {
    clock: &'a dyn Clock,
    patience: Patience,
    /// When the last progress was made.
    since: Duration,
    /// When the attempt under way began.
    began: Duration,
    /// When the host stopped to answer at all.
    unreachable_since: Option<Duration>,
    tries: u32,
    /// What ends a wait early.
    stop: Option<&'a Stop>,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(clock: &'a dyn Clock, patience: Patience) -> Self {
        let now = clock.elapsed();
        Attempts {
            clock,
            patience,
            since: now,
            began: now,
            unreachable_since: None,
            tries: 0,
            stop: None,
        }
    }

    /// The same, whose waits end with an error soon after another job has failed.
    pub(crate) fn until(mut self, stop: &'a Stop) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Before an attempt: waits until the gate is open.
    ///
    /// # Errors
    /// Another job has failed meanwhile.
    pub(crate) fn begin(&mut self, gate: &Gate) -> Result<()> {
        self.check_stop()?;
        loop {
            let wait = gate.opens_in(self.clock);
            if wait.is_zero() {
                self.began = self.clock.elapsed();
                return Ok(());
            }
            self.sleep(wait)?;
        }
    }

    /// The attempt under way did reach the host; a later failure to reach it is timed from now.
    pub(crate) fn reached(&mut self) {
        self.began = self.clock.elapsed();
    }

    /// Bytes arrived: the count and the time start again.
    pub(crate) fn progress(&mut self) {
        self.since = self.clock.elapsed();
        self.began = self.since;
        self.unreachable_since = None;
        self.tries = 0;
    }

    /// After a failed attempt: waits and returns, or gives the error back when trying again
    /// cannot help or has taken too long. Every wait is a line in the log.
    pub(crate) fn wait_after(&mut self, error: Error, gate: &Gate, report: &Report) -> Result<()> {
        self.check_stop()?;
        self.tries += 1;
        let now = self.clock.elapsed();
        let mut left = self.patience.total.saturating_sub(now - self.since);
        let asked = match error.can_try_again() {
            Again::Never => return Err(error),
            Again::Unreachable => {
                // A resolver that took long to say no was a part of the wait.
                let since = *self.unreachable_since.get_or_insert(self.began);
                left = left.min(self.patience.unreachable.saturating_sub(now - since));
                None
            }
            Again::Later { after } | Again::Limited { after } => {
                self.unreachable_since = None;
                // A server that asks for no wait at all is not to be asked in a tight loop.
                after.filter(|asked| *asked >= self.patience.first)
            }
        };
        let wait = match asked {
            Some(asked) => asked,
            // The last attempt comes at the very end of our patience.
            None => self.back_off().min(left),
        };
        if left.is_zero() || wait > left {
            return Err(self.give_up(error, asked));
        }
        report.info(format!("{error}; trying again in {}", seconds(wait)));
        if matches!(error.can_try_again(), Again::Limited { .. }) {
            gate.close_for(self.clock, wait);
        }
        self.sleep(wait)?;
        self.began = self.clock.elapsed();
        Ok(())
    }

    fn check_stop(&self) -> Result<()> {
        self.stop.map_or(Ok(()), Stop::check)
    }

    fn sleep(&self, mut wait: Duration) -> Result<()> {
        let Some(stop) = self.stop else {
            self.clock.sleep(wait);
            return Ok(());
        };
        while !wait.is_zero() {
            stop.check()?;
            let nap = wait.min(NAP);
            self.clock.sleep(nap);
            wait -= nap;
        }
        stop.check()
    }

    fn give_up(&self, error: Error, asked: Option<Duration>) -> Error {
        let tries = match self.tries {
            1 => "tried once".to_owned(),
            n => format!("{n} tries without progress"),
        };
        match asked {
            Some(asked) => error.noting(format!(
                "{tries}; the server asks to wait {}",
                seconds(asked)
            )),
            None => error.noting(tries),
        }
    }

    /// Exponential with full jitter: anything between nothing and the bound, so that clients that
    /// failed together do not come back together.
    fn back_off(&self) -> Duration {
        let doublings = self.tries.saturating_sub(1).min(16);
        let bound = self.patience.first.saturating_mul(1 << doublings);
        bound.min(self.patience.cap).mul_f64(random_fraction())
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// A number in 0..1 that differs from run to run; nothing secret hangs on it.
fn random_fraction() -> f64 {
    let bits = RandomState::new().hash_one(0u8);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Closed while a registry limits our rate: all workers wait for the same moment.
#[derive(Default)]
pub(crate) struct Gate {
    opens: Mutex<Duration>,
}

impl Gate {
    fn opens_in(&self, clock: &dyn Clock) -> Duration {
        lock(&self.opens).saturating_sub(clock.elapsed())
    }

    fn close_for(&self, clock: &dyn Clock, wait: Duration) {
        let until = clock.elapsed().saturating_add(wait);
        let mut opens = lock(&self.opens);
        *opens = (*opens).max(until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Hidden;

    fn run_out(patience: Patience, again: Again) -> (String, Duration) {
        let clock = SkippingClock::start();
        let report = Report::new(false, Hidden::default());
        let mut attempts = Attempts::new(&clock, patience);
        let gate = Gate::default();
        loop {
            let error = Error::registry("503").again(again);
            if let Err(error) = attempts.wait_after(error, &gate, &report) {
                return (error.to_string(), clock.elapsed());
            }
        }
    }

    #[test]
    fn patience_ends() {
        let (text, took) = run_out(Patience::SERVICE, Again::Later { after: None });
        assert!(
            text.starts_with("503 (") && text.ends_with(" tries without progress)"),
            "{text}"
        );
        assert!(took < Duration::from_secs(61), "{took:?}");
        let (_, took) = run_out(Patience::REGISTRY, Again::Unreachable);
        assert!(took < Duration::from_secs(31), "{took:?}");
        let (text, took) = run_out(Patience::REGISTRY, Again::Never);
        assert_eq!(text, "503");
        assert!(took < Duration::from_secs(1));
    }

    #[test]
    fn a_wait_that_the_server_asks_for_is_kept_to() {
        let after = Some(Duration::from_secs(250));
        let (text, took) = run_out(Patience::REGISTRY, Again::Limited { after });
        assert_eq!(
            text,
            "503 (3 tries without progress; the server asks to wait 250.0 s)"
        );
        assert!(took >= Duration::from_secs(500));
    }

    #[test]
    fn a_server_that_asks_for_no_wait_is_not_asked_in_a_tight_loop() {
        let after = Some(Duration::ZERO);
        let (text, _) = run_out(Patience::REGISTRY, Again::Limited { after });
        let tries: u32 = text
            .trim_start_matches("503 (")
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        assert!((10..100).contains(&tries), "{text}");
    }

    #[test]
    fn patience_counts_from_the_last_progress_and_each_class_from_its_own_start() {
        let clock = SkippingClock::start();
        let report = Report::new(false, Hidden::default());
        let gate = Gate::default();
        let mut attempts = Attempts::new(&clock, Patience::REGISTRY);
        let wait = |attempts: &mut Attempts<'_>, again| {
            attempts.wait_after(Error::registry("x").again(again), &gate, &report)
        };
        // An hour of reading without a fault.
        clock.sleep(Duration::from_secs(3600));
        attempts.progress();
        let later = Again::Later { after: None };
        wait(&mut attempts, later).unwrap();
        clock.sleep(Duration::from_secs(300));
        wait(&mut attempts, later).unwrap();
        // Five minutes of 503, and then nobody listens: that has its own 30 seconds.
        let closed = clock.elapsed();
        while wait(&mut attempts, Again::Unreachable).is_ok() {}
        let took = clock.elapsed() - closed;
        assert!((29..31).contains(&took.as_secs()), "{took:?}");
    }

    #[test]
    fn the_time_that_a_failed_attempt_took_is_a_part_of_the_wait_and_time_at_the_gate_is_not() {
        let clock = SkippingClock::start();
        let report = Report::new(false, Hidden::default());
        let gate = Gate::default();
        // A resolver that says no after 20 seconds, for a worker that was held up before.
        for (held_up, connected_before) in [(0, false), (250, false), (0, true), (250, true)] {
            let mut attempts = Attempts::new(&clock, Patience::REGISTRY);
            if connected_before {
                clock.sleep(Duration::from_secs(3600));
                attempts.progress();
            }
            gate.close_for(&clock, Duration::from_secs(held_up));
            attempts.begin(&gate).unwrap();
            let began = clock.elapsed();
            let mut tries = 0;
            loop {
                attempts.begin(&gate).unwrap();
                clock.sleep(Duration::from_secs(20));
                tries += 1;
                let error = Error::registry("no such host").again(Again::Unreachable);
                if attempts.wait_after(error, &gate, &report).is_err() {
                    break;
                }
            }
            let took = clock.elapsed() - began;
            assert_eq!(tries, 2);
            assert!((40..51).contains(&took.as_secs()), "{took:?}");
        }
    }

    #[test]
    fn a_wait_ends_when_another_job_has_failed() {
        /// Another job fails in the middle of the second sleep.
        struct Failing(SkippingClock, Stop);
        impl Clock for Failing {
            fn elapsed(&self) -> Duration {
                self.0.elapsed()
            }
            fn now(&self) -> SystemTime {
                self.0.now()
            }
            fn sleep(&self, duration: Duration) {
                if self.elapsed() >= NAP {
                    self.1.set();
                }
                self.0.sleep(duration);
            }
        }
        let minute = Duration::from_secs(60);
        let limited = Again::Limited {
            after: Some(minute),
        };
        let report = Report::new(false, Hidden::default());
        for gated in [false, true] {
            let clock = Failing(SkippingClock::start(), Stop::default());
            let gate = Gate::default();
            let mut attempts = Attempts::new(&clock, Patience::REGISTRY).until(&clock.1);
            let waited = match gated {
                true => {
                    gate.close_for(&clock, minute);
                    attempts.begin(&gate)
                }
                false => attempts.wait_after(Error::registry("429").again(limited), &gate, &report),
            };
            assert!(waited.is_err());
            assert!(clock.elapsed() < Duration::from_secs(1));
        }
    }

    #[test]
    fn a_closed_gate_holds_everybody() {
        let clock = SkippingClock::start();
        let gate = Gate::default();
        gate.close_for(&clock, Duration::from_secs(5));
        let mut attempts = Attempts::new(&clock, Patience::REGISTRY);
        attempts.begin(&gate).unwrap();
        assert!(clock.elapsed() >= Duration::from_secs(5));
    }
}
