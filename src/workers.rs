//! A fixed-size pool of scoped threads; the only spawner of threads.
//!
//! Work comes as a list, results keep the list's order, the first error stops the rest and is
//! the error. No thread outlives the call that started it.

use std::io::{self, BufRead, Read, Write};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;

use crate::error::{Error, Result};

/// Workers beyond this cost memory and bring no speed: a job is a TLS connection and its buffers.
const MOST: usize = 64;

/// How many jobs run side by side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workers(NonZeroUsize);

/// Tells a running job that another one has failed, so that it can give up early.
pub(crate) struct Stop(AtomicBool);

impl Stop {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Workers {
    /// `n` workers; 0 means 1, and there is an upper limit of 64.
    pub(crate) fn new(n: usize) -> Self {
        Workers(NonZeroUsize::new(n.min(MOST)).unwrap_or(NonZeroUsize::MIN))
    }

    /// Twice the processors, at least 2 and at most 8: layers wait for the network as much as for
    /// a processor, and each worker costs about 2 MiB.
    pub(crate) fn for_this_machine() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Workers::new((2 * cores).clamp(2, 8))
    }

    pub(crate) fn count(self) -> usize {
        self.0.get()
    }

    /// Runs `job` for every item; `results[i]` belongs to `items[i]`.
    ///
    /// After the first failure no new item is started, running jobs see [`Stop`], and that
    /// failure is returned.
    pub(crate) fn map<T, R>(
        self,
        items: &[T],
        job: impl Fn(&T, &Stop) -> Result<R> + Sync,
    ) -> Result<Vec<R>>
    where
        T: Sync,
        R: Send,
    {
        let next = AtomicUsize::new(0);
        let stop = Stop(AtomicBool::new(false));
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        let done: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::with_capacity(items.len()));
        let work = || {
            while !stop.is_set() {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(at) else { return };
                match job(item, &stop) {
                    Ok(result) => lock(&done).push((at, result)),
                    Err(error) => {
                        lock(&failure).get_or_insert(error);
                        stop.set();
                    }
                }
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
        done.sort_unstable_by_key(|(at, _)| *at);
        Ok(done.into_iter().map(|(_, result)| result).collect())
    }
}

/// Bytes of one block that goes from a producer to its consumer.
const BLOCK: usize = 256 << 10;

/// Blocks that may wait between them: with fewer both sides wait for each other, more bring
/// nothing.
const BLOCKS_WAITING: usize = 4;

/// Runs `produce` on a thread of its own and `consume` on this one; the bytes that the one writes
/// are what the other reads.
///
/// A consumer that returns early makes the producer's next write fail with
/// [`io::ErrorKind::BrokenPipe`]. A producer that returns early ends the consumer's stream: its
/// result tells why.
pub(crate) fn pipe<P: Send, C>(
    produce: impl FnOnce(&mut BlockWriter) -> P + Send,
    consume: impl FnOnce(&mut BlockReader) -> C,
) -> (P, C) {
    let (full, filled) = mpsc::sync_channel(BLOCKS_WAITING);
    let (empty, emptied) = mpsc::channel();
    let mut writer = BlockWriter {
        full,
        emptied,
        made: 0,
        block: Vec::new(),
    };
    let mut reader = BlockReader {
        filled,
        empty,
        block: Vec::new(),
        at: 0,
    };
    thread::scope(|scope| {
        let producer = scope.spawn(move || {
            let result = produce(&mut writer);
            // The last block is not full; if nobody wants it any more, nobody misses it.
            let _ = writer.flush();
            result
        });
        let consumed = consume(&mut reader);
        drop(reader);
        match producer.join() {
            Ok(produced) => (produced, consumed),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The producing end of a [`pipe`].
pub(crate) struct BlockWriter {
    full: mpsc::SyncSender<Vec<u8>>,
    emptied: mpsc::Receiver<Vec<u8>>,
    made: usize,
    block: Vec<u8>,
}

impl BlockWriter {
    /// Lets `fill` write into the free part of the current block, which it is given zeroed or
    /// with old bytes in it; returns what `fill` returns, the number of bytes written.
    pub(crate) fn fill_with(
        &mut self,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.block.capacity() == 0 {
            self.block = self.fresh();
        }
        let used = self.block.len();
        self.block.resize(BLOCK, 0);
        let free = self.block.get_mut(used..).unwrap_or_default();
        let result = fill(free);
        let n = *result.as_ref().unwrap_or(&0);
        self.block.truncate(used + n);
        if self.block.len() == BLOCK {
            self.flush()?;
        }
        result
    }

    /// A block that came back, or a new one while there are fewer than can be under way.
    fn fresh(&mut self) -> Vec<u8> {
        let returned = match self.made < BLOCKS_WAITING + 2 {
            true => self.emptied.try_recv().ok(),
            false => self.emptied.recv().ok(),
        };
        returned.unwrap_or_else(|| {
            self.made += 1;
            Vec::with_capacity(BLOCK)
        })
    }
}

impl Write for BlockWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.fill_with(|free| {
            let n = free.len().min(buf.len());
            for (to, from) in free.iter_mut().zip(buf) {
                *to = *from;
            }
            Ok(n)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let block = std::mem::take(&mut self.block);
        self.full
            .send(block)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The consuming end of a [`pipe`].
pub(crate) struct BlockReader {
    filled: mpsc::Receiver<Vec<u8>>,
    empty: mpsc::Sender<Vec<u8>>,
    block: Vec<u8>,
    at: usize,
}

impl BufRead for BlockReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.block.len()
            && let Ok(block) = self.filled.recv()
        {
            let mut old = std::mem::replace(&mut self.block, block);
            self.at = 0;
            old.clear();
            // A producer that is done needs no more blocks.
            let _ = self.empty.send(old);
        }
        Ok(self.block.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, n: usize) {
        self.at = (self.at + n).min(self.block.len());
    }
}

impl Read for BlockReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
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
    fn what_one_end_of_a_pipe_writes_the_other_reads() {
        let bytes: Vec<u8> = (0..5_000_000u32).map(|n| (n / 7) as u8).collect();
        let (written, read) = pipe(
            |writer| writer.write_all(&bytes),
            |reader| {
                let mut read = Vec::new();
                reader.read_to_end(&mut read).map(|_| read)
            },
        );
        written.unwrap();
        assert!(read.unwrap() == bytes);
    }

    #[test]
    fn a_consumer_that_leaves_stops_the_producer_and_the_other_way_round() {
        let (written, _) = pipe(
            |writer| loop {
                if let Err(error) = writer.write_all(&[0; 1000]) {
                    break error.kind();
                }
            },
            |_| (),
        );
        assert_eq!(written, io::ErrorKind::BrokenPipe);
        let (_, read) = pipe(|_| (), |reader| reader.read(&mut [0; 10]).unwrap());
        assert_eq!(read, 0);
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
}
