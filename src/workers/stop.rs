//! Giving up early: what is done after another job has failed is done for nobody.

use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Tells a running job that another one has failed, so that it can give up early.
#[derive(Default)]
pub(crate) struct Stop(AtomicBool);

impl Stop {
    /// # Errors
    /// Another job has failed. Nobody sees this error: that job's is the one that is returned.
    pub(crate) fn check(&self) -> Result<()> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(Error::local("another job has failed")),
            false => Ok(()),
        }
    }

    /// Reads from `inner` until another job fails.
    pub(crate) fn watch<R>(&self, inner: R) -> Watched<'_, R> {
        Watched { inner, stop: self }
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A reader that fails when its job is to stop.
pub(crate) struct Watched<'s, R> {
    inner: R,
    stop: &'s Stop,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stop.check().map_err(Error::into_io)?;
        self.inner.read(buf)
    }
}

impl<R: BufRead> BufRead for Watched<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.stop.check().map_err(Error::into_io)?;
        self.inner.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.inner.consume(n);
    }
}
