//! A fixed-size pool of scoped threads; the only spawner of threads.
//!
//! Work comes as a list, results keep the list's order, the first error stops the rest and is
//! the error. No thread outlives the call that started it.

mod ahead;
mod pace;
mod stop;

use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::error::{Error, Result};

pub(crate) use ahead::read_ahead;
pub(crate) use pace::{Moment, Pace};
pub(crate) use stop::Stop;

/// How many jobs run side by side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workers(NonZeroUsize);

/// What a running job can see of the others.
pub(crate) struct Others<'s> {
    stop: &'s Stop,
    /// Jobs that are not done, this one included.
    left: AtomicUsize,
    cores: usize,
}

impl<'s> Others<'s> {
    fn new(jobs: usize, stop: &'s Stop) -> Self {
        Others {
            stop,
            left: AtomicUsize::new(jobs),
            cores: cores(),
        }
    }

    /// Set when one of them has failed.
    pub(crate) fn stop(&self) -> &'s Stop {
        self.stop
    }

    /// Whether there are fewer jobs left than processors.
    pub(crate) fn leave_a_core_idle(&self) -> bool {
        self.left.load(Ordering::Relaxed) < self.cores
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

impl Workers {
    /// Workers beyond this cost memory and bring no speed: a job is a TLS connection and its buffers.
    pub(crate) const MOST: usize = 64;

    /// `n` workers; 0 means 1, and there is an upper limit of [`Workers::MOST`].
    pub(crate) fn new(n: usize) -> Self {
        Workers(NonZeroUsize::new(n.min(Self::MOST)).unwrap_or(NonZeroUsize::MIN))
    }

    /// Twice the processors, at least 2 and at most 8: layers wait for the network as much as for
    /// a processor, and each worker costs about 2 MiB.
    pub(crate) fn for_this_machine() -> Self {
        Workers::new((2 * cores()).clamp(2, 8))
    }

    pub(crate) fn count(self) -> usize {
        self.0.get()
    }

    /// No more than processors: for jobs that need much memory, or wait for nothing.
    pub(crate) fn at_most_one_a_core(self) -> Self {
        Workers::new(self.count().min(cores()))
    }

    /// Runs `job` for every item; `results[i]` belongs to `items[i]`.
    ///
    /// After the first failure no new item is started, running jobs can see it ([`Others::stop`]),
    /// and that failure is returned.
    pub(crate) fn map<T, R>(
        self,
        items: &[T],
        job: impl Fn(&T, &Others<'_>) -> Result<R> + Sync,
    ) -> Result<Vec<R>>
    where
        T: Sync,
        R: Send,
    {
        self.map_until(&Stop::default(), items, job)
    }

    /// The same with a [`Stop`] that others watch too. It is set when the failure is known as the
    /// one to return, so that whoever gives up because of it is not taken for the failure. Set by
    /// somebody else, it ends this too, with an error.
    pub(crate) fn map_until<T, R>(
        self,
        stop: &Stop,
        items: &[T],
        job: impl Fn(&T, &Others<'_>) -> Result<R> + Sync,
    ) -> Result<Vec<R>>
    where
        T: Sync,
        R: Send,
    {
        let next = AtomicUsize::new(0);
        let others = Others::new(items.len(), stop);
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        let done: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::with_capacity(items.len()));
        let work = || {
            while others.stop.check().is_ok() {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(at) else { return };
                match job(item, &others) {
                    Ok(result) => lock(&done).push((at, result)),
                    Err(error) => {
                        lock(&failure).get_or_insert(error);
                        others.stop.set();
                    }
                }
                others.left.fetch_sub(1, Ordering::Relaxed);
            }
        };
        let threads = self.count().min(items.len());
        if threads <= 1 {
            work();
        } else {
            thread::scope(|scope| {
                for _ in 1..threads {
                    scope.spawn(work);
                }
                work();
            });
        }
        if let Some(error) = into_inner(failure) {
            return Err(error);
        }
        let mut done = into_inner(done);
        if done.len() < items.len() {
            stop.check()?;
        }
        done.sort_unstable_by_key(|(at, _)| *at);
        Ok(done.into_iter().map(|(_, result)| result).collect())
    }
}

impl Workers {
    /// Works on a stream: `read` gives its blocks one after another (`None` at the end), each worker
    /// makes results of some of them, and `consume` gets the results in the order of the blocks.
    ///
    /// One worker does everything on the calling thread. More of them are threads, and so is
    /// `read`; then up to three blocks and two results a worker are held at once. An error of
    /// `read` or of a worker comes out of `next` where its block would have come; when `consume`
    /// returns, the rest stops.
    pub(crate) fn in_order<B, R, W, T>(
        self,
        mut read: impl FnMut() -> Result<Option<B>> + Send,
        worker: impl Fn() -> W + Sync,
        consume: impl FnOnce(&mut dyn FnMut() -> Result<Option<R>>) -> Result<T>,
    ) -> Result<T>
    where
        B: Send,
        R: Send,
        W: FnMut(B) -> Result<R>,
    {
        if self.count() == 1 {
            let mut work = worker();
            return consume(&mut || read()?.map(&mut work).transpose());
        }
        thread::scope(|scope| {
            // Dealt out in turns, block n is worker n's (modulo their number), and so is result n:
            // no numbers, no sorting, no lock.
            let mut inputs = Vec::with_capacity(self.count());
            let mut outputs = Vec::with_capacity(self.count());
            for _ in 0..self.count() {
                let (input, blocks) = mpsc::sync_channel::<Result<B>>(1);
                let (results, output) = mpsc::sync_channel::<Result<R>>(1);
                inputs.push(input);
                outputs.push(output);
                let worker = &worker;
                scope.spawn(move || {
                    let mut work = worker();
                    for block in blocks {
                        if results.send(block.and_then(&mut work)).is_err() {
                            return;
                        }
                    }
                });
            }
            scope.spawn(move || {
                for input in inputs.iter().cycle() {
                    let Some(block) = read().transpose() else {
                        return;
                    };
                    let failed = block.is_err();
                    if input.send(block).is_err() || failed {
                        return;
                    }
                }
            });
            let mut turn = 0;
            let mut next = || {
                let output = outputs.get(turn % outputs.len());
                turn += 1;
                // A worker that has hung up had no block for this turn: the stream is at its end.
                output.and_then(|output| output.recv().ok()).transpose()
            };
            let done = consume(&mut next);
            // Whoever still wants to hand over a result sees that nobody takes it.
            drop(outputs);
            done
        })
    }
}

/// A job that panics ends the process (`panic = "abort"`); in tests the data behind a poisoned
/// lock is still whole, because every critical section is a single push or insert.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_the_items_for_any_number_of_workers() {
        let items: Vec<u32> = (0..1000).collect();
        for workers in [0, 1, 2, 16, 1000] {
            let doubled = Workers::new(workers).map(&items, |n, _| Ok(n * 2));
            assert_eq!(
                doubled.unwrap(),
                (0..1000).map(|n| n * 2).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn the_first_failure_is_the_error_and_stops_the_rest() {
        let items: Vec<usize> = (0..100_000).collect();
        let started = AtomicUsize::new(0);
        let error = Workers::new(4)
            .map(&items, |n, _| {
                started.fetch_add(1, Ordering::Relaxed);
                match n {
                    10 => Err(Error::local("item ten")),
                    _ => Ok(()),
                }
            })
            .unwrap_err();
        assert_eq!(error.to_string(), "item ten");
        assert!(started.into_inner() < items.len());
    }

    #[test]
    fn a_stream_is_worked_on_side_by_side_and_comes_out_in_order() {
        for workers in [1, 2, 7] {
            for blocks in [0_usize, 1, 6, 7, 8, 1000] {
                let mut read = 0..blocks;
                let results = Workers::new(workers).in_order(
                    || Ok(read.next()),
                    || |n: usize| Ok(n * 2),
                    |next| {
                        let mut results = Vec::new();
                        while let Some(result) = next()? {
                            results.push(result);
                        }
                        assert!(next()?.is_none(), "the end stays the end");
                        Ok(results)
                    },
                );
                let expected: Vec<usize> = (0..blocks).map(|n| n * 2).collect();
                assert_eq!(results.unwrap(), expected);
            }
        }
    }

    #[test]
    fn errors_in_a_stream_come_out_in_their_turn() {
        for workers in [1, 2, 7] {
            for in_read in [true, false] {
                let mut read = 0_usize..;
                let mut seen = 0;
                let failed = Workers::new(workers).in_order(
                    || match read.next() {
                        Some(10) if in_read => Err(Error::local("block ten")),
                        next => Ok(next),
                    },
                    || {
                        |n: usize| match n {
                            10 => Err(Error::local("block ten")),
                            n => Ok(n),
                        }
                    },
                    |next| {
                        while next()?.is_some() {
                            seen += 1;
                        }
                        Ok(())
                    },
                );
                assert_eq!(failed.unwrap_err().to_string(), "block ten");
                assert_eq!(seen, 10);
            }
        }
    }

    #[test]
    fn an_endless_stream_stops_when_its_consumer_does() {
        let mut read = 0_u64..;
        let first = Workers::new(4).in_order(|| Ok(read.next()), || Ok, |next| next());
        assert_eq!(first.unwrap(), Some(0));
    }
}
