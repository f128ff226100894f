//! Two threads with a bounded stream of bytes between them.

use std::io::{self, BufRead, Read, Write};
use std::sync::mpsc;
use std::thread;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
