//! How many jobs run side by side: as many as there are processors, and one more each time that these
//! are seen idle.
//!
//! Jobs that wait for a network leave a processor idle, and then another job should run. Jobs that
//! find all that they need at once get slower by it, and what is done first helps those that come
//! later.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::{cores, lock};

/// How long the processors are watched: connecting takes the first tens of milliseconds.
const WATCH: Duration = Duration::from_millis(100);

/// Busy processors work for this much of the time at least, in eighths. Seven were measured with a
/// registry on the same machine, which needs its own share.
const BUSY_EIGHTHS: u32 = 5;

/// A moment: time since some start, and processor time that the process has used until then.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    pub(crate) elapsed: Duration,
    pub(crate) used: Duration,
}

pub(crate) struct Pace {
    processors: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    running: usize,
    allowed: usize,
    /// When the processors were looked at last.
    watched: Moment,
}

/// A job that runs; dropped at its end.
pub(crate) struct Running<'p>(&'p Pace);

impl Pace {
    pub(crate) fn new(now: Moment) -> Self {
        Pace::on(cores(), now)
    }

    fn on(processors: usize, now: Moment) -> Self {
        Pace {
            processors,
            state: Mutex::new(State {
                running: 0,
                allowed: processors,
                watched: now,
            }),
            changed: Condvar::new(),
        }
    }

    /// Waits until a job may run: when another one has ended, or when the processors are seen idle.
    pub(crate) fn start(&self, now: impl Fn() -> Moment) -> Running<'_> {
        let mut state = lock(&self.state);
        while state.running >= state.allowed {
            let waited = self.changed.wait_timeout(state, WATCH);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.running >= state.allowed {
                state.watch(self.processors, now());
            }
        }
        state.running += 1;
        Running(self)
    }
}

impl State {
    fn watch(&mut self, processors: usize, now: Moment) {
        let elapsed = now.elapsed.saturating_sub(self.watched.elapsed);
        // Others watch too.
        if elapsed < WATCH {
            return;
        }
        let used = now.used.saturating_sub(self.watched.used);
        let processors = u32::try_from(processors).unwrap_or(1);
        if used * 8 < elapsed * BUSY_EIGHTHS * processors {
            self.allowed += 1;
        }
        self.watched = now;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).running -= 1;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::*;

    fn at(elapsed: u64, used: u64) -> Moment {
        Moment {
            elapsed: Duration::from_millis(elapsed),
            used: Duration::from_millis(used),
        }
    }

    #[test]
    fn more_may_run_while_processors_are_idle() {
        let pace = Pace::on(2, at(1_000, 500));
        let allowed = |now| {
            let mut state = lock(&pace.state);
            state.watch(pace.processors, now);
            state.allowed
        };
        assert_eq!(allowed(at(1_050, 500)), 2, "too short");
        assert_eq!(allowed(at(1_200, 750)), 2, "busy");
        assert_eq!(allowed(at(1_400, 990)), 3, "idle");
        assert_eq!(allowed(at(1_450, 990)), 3, "watched just now");
        assert_eq!(allowed(at(1_600, 1_240)), 3, "busy again");
        assert_eq!(allowed(at(1_700, 1_240)), 4, "idle again");
    }

    #[test]
    fn a_job_starts_when_another_ends_or_a_processor_is_idle() {
        for idle in [false, true] {
            let pace = Pace::on(1, at(0, 0));
            // Every look at the clock is a second later.
            let looks = AtomicU64::new(0);
            let now = || {
                let elapsed = 1_000 * (1 + looks.fetch_add(1, Ordering::Relaxed));
                at(elapsed, if idle { 0 } else { elapsed })
            };
            let first = pace.start(now);
            thread::scope(|scope| {
                let second = scope.spawn(|| drop(pace.start(now)));
                while !idle && looks.load(Ordering::Relaxed) < 3 {
                    assert!(!second.is_finished());
                    thread::yield_now();
                }
                if !idle {
                    drop(first);
                }
                second.join().unwrap();
            });
        }
    }
}
