//! A stream that gets a thread of its own when there is a processor for it.

use std::io::{self, BufRead, Read};
use std::sync::mpsc;
use std::thread;

/// Bytes of one block that goes from the thread to its reader.
const BLOCK: usize = 256 << 10;

/// Blocks that may wait between them: with fewer both sides wait for each other, more bring
/// nothing.
const BLOCKS_WAITING: usize = 4;

/// One that is being filled, those that wait, and one that is being read.
const BLOCKS: usize = BLOCKS_WAITING + 2;

/// Lets `consume` read `source`. Whenever it has read all that `source` held ready, `helps` is asked
/// whether a second thread would help; from the first yes on, that thread reads `source` ahead.
///
/// What `consume` reads, errors of `source` included, is the same either way. When it returns
/// early, so does the thread, after the block that it is at.
pub(crate) fn read_ahead<S: BufRead + Send, T>(
    source: S,
    helps: impl Fn() -> bool,
    consume: impl FnOnce(&mut dyn BufRead) -> T,
) -> T {
    thread::scope(|scope| {
        consume(&mut Stream {
            source: Some(source),
            unread: 0,
            ahead: None,
            start: |source| {
                let (full, filled) = mpsc::sync_channel(BLOCKS_WAITING);
                let (empty, emptied) = mpsc::channel();
                scope.spawn(move || fill_blocks(source, &full, &emptied));
                Blocks {
                    filled,
                    empty,
                    block: Block::default(),
                    at: 0,
                }
            },
            helps,
        })
    })
}

struct Stream<S, H, F> {
    /// Until a thread takes it.
    source: Option<S>,
    /// Bytes that it held ready and that were not consumed.
    unread: usize,
    ahead: Option<Blocks>,
    helps: H,
    start: F,
}

impl<S: BufRead, H: Fn() -> bool, F: Fn(S) -> Blocks> BufRead for Stream<S, H, F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.unread == 0
            && (self.source.is_some() && (self.helps)())
            && let Some(source) = self.source.take()
        {
            self.ahead = Some((self.start)(source));
        }
        match (&mut self.source, &mut self.ahead) {
            (Some(source), _) => {
                let ready = source.fill_buf()?;
                self.unread = ready.len();
                Ok(ready)
            }
            (None, Some(ahead)) => ahead.fill_buf(),
            (None, None) => Ok(&[]),
        }
    }

    fn consume(&mut self, n: usize) {
        match (&mut self.source, &mut self.ahead) {
            (Some(source), _) => {
                source.consume(n);
                self.unread = self.unread.saturating_sub(n);
            }
            (None, Some(ahead)) => ahead.consume(n),
            (None, None) => {}
        }
    }
}

impl<S: BufRead, H: Fn() -> bool, F: Fn(S) -> Blocks> Read for Stream<S, H, F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    /// So many of them were read.
    filled: usize,
}

/// What the thread does: reads until the end, an error, or until nobody wants more.
fn fill_blocks(
    mut source: impl Read,
    full: &mpsc::SyncSender<io::Result<Block>>,
    emptied: &mpsc::Receiver<Block>,
) {
    for made in 1.. {
        let mut block = match made <= BLOCKS {
            true => Block {
                bytes: vec![0; BLOCK],
                filled: 0,
            },
            false => match emptied.recv() {
                Ok(block) => block,
                Err(_) => return,
            },
        };
        let outcome = block.fill(&mut source);
        let at_end = block.filled < BLOCK;
        if block.filled > 0 && full.send(Ok(block)).is_err() {
            return;
        }
        if let Err(error) = outcome {
            // Whoever has hung up does not miss it.
            let _ = full.send(Err(error));
            return;
        }
        if at_end {
            return;
        }
    }
}

impl Block {
    /// Fills it, or as much as there is before the end or an error.
    fn fill(&mut self, source: &mut impl Read) -> io::Result<()> {
        self.filled = 0;
        while let Some(room) = self.bytes.get_mut(self.filled..)
            && !room.is_empty()
        {
            match source.read(room) {
                Ok(0) => return Ok(()),
                Ok(n) => self.filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The reader's end.
struct Blocks {
    filled: mpsc::Receiver<io::Result<Block>>,
    empty: mpsc::Sender<Block>,
    block: Block,
    at: usize,
}

impl Blocks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.block.filled
            && let Ok(next) = self.filled.recv()
        {
            let old = std::mem::replace(&mut self.block, next?);
            self.at = 0;
            if !old.bytes.is_empty() {
                // A thread that is done needs no more blocks.
                let _ = self.empty.send(old);
            }
        }
        let filled = self.block.bytes.get(..self.block.filled);
        Ok(filled
            .and_then(|filled| filled.get(self.at..))
            .unwrap_or_default())
    }

    fn consume(&mut self, n: usize) {
        self.at = (self.at + n).min(self.block.filled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::io::BufReader;

    /// Says yes from the `n`th time on.
    fn from_the(n: usize) -> impl Fn() -> bool {
        let asked = Cell::new(0);
        move || {
            asked.set(asked.get() + 1);
            asked.get() >= n
        }
    }

    #[test]
    fn the_bytes_are_the_same_whenever_the_thread_takes_over() {
        let bytes: Vec<u8> = (0..5_000_000u32).map(|n| (n / 7) as u8).collect();
        for helps in [1, 2, 10, usize::MAX] {
            let source = BufReader::with_capacity(100_000, &bytes[..]);
            let read = read_ahead(source, from_the(helps), |stream| {
                let mut read = vec![0; 1000];
                stream.read_exact(&mut read)?;
                stream.read_to_end(&mut read).map(|_| read)
            });
            assert!(read.unwrap() == bytes, "{helps}");
        }
    }

    #[test]
    fn an_error_comes_after_the_bytes_before_it() {
        struct Broken(usize);
        impl Read for Broken {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                let n = self.0.min(buf.len());
                self.0 -= n;
                match n {
                    0 => Err(io::Error::other("broken")),
                    n => Ok(n),
                }
            }
        }
        for helps in [1, 3, usize::MAX] {
            let source = BufReader::new(Broken(1_000_000));
            let (read, error) = read_ahead(source, from_the(helps), |stream| {
                let mut read = Vec::new();
                let error = stream.read_to_end(&mut read).unwrap_err();
                (read.len(), error.to_string())
            });
            assert_eq!((read, error.as_str()), (1_000_000, "broken"));
        }
    }

    #[test]
    fn the_thread_ends_when_its_reader_leaves() {
        let endless = BufReader::new(io::repeat(7));
        let first = read_ahead(endless, || true, |stream| stream.fill_buf().map(|b| b[0]));
        assert_eq!(first.unwrap(), 7);
    }
}
