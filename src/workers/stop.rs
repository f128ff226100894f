//! Giving up early: what is done after another job has failed is done for nobody.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Tells a running job that another one has failed, so that it can give up early.
#[derive(Clone, Default)]
pub(crate) struct Stop {
    set: Arc<AtomicBool>,
    /// What stops the parts of a job too.
    job: Option<Box<Stop>>,
    then: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Stop {
    /// One that calls `then` when it is set: for those who wait and cannot look at it.
    pub(crate) fn with(then: impl Fn() + Send + Sync + 'static) -> Self {
        Stop {
            then: Some(Arc::new(then)),
            ..Stop::default()
        }
    }

    /// For the parts of one job: set when one of them has failed, or when the job is to stop.
    pub(crate) fn for_parts(&self) -> Self {
        Stop {
            set: Arc::default(),
            job: Some(Box::new(self.clone())),
            then: None,
        }
    }

    /// # Errors
    /// Another job has failed. Nobody sees this error: that job's is the one that is returned.
    pub(crate) fn check(&self) -> Result<()> {
        match self.set.load(Ordering::Relaxed) {
            true => Err(Error::local("another job has failed")),
            false => self.job.as_ref().map_or(Ok(()), |job| job.check()),
        }
    }

    /// Reads from `inner` until another job fails.
    pub(crate) fn watch<R>(&self, inner: R) -> Watched<'_, R> {
        Watched { inner, stop: self }
    }

    pub(crate) fn set(&self) {
        let was_set = self.set.swap(true, Ordering::Relaxed);
        if let (false, Some(then)) = (was_set, &self.then) {
            then();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_cannot_look_is_called_once() {
        let (calls, called) = std::sync::mpsc::channel();
        let stop = Stop::with(move || calls.send(()).unwrap());
        stop.for_parts().set();
        assert!(called.try_recv().is_err(), "a part is not the job");
        stop.set();
        stop.clone().set();
        assert_eq!(called.try_iter().count(), 1);
    }

    #[test]
    fn a_part_stops_the_others_of_its_job_and_a_job_its_parts() {
        let job = Stop::default();
        let (one, other) = (job.for_parts(), job.for_parts());
        one.set();
        let reads = |stop: &Stop| stop.watch(io::empty()).read(&mut [0]).is_ok();
        assert_eq!([&job, &one, &other].map(reads), [true, false, true]);
        job.set();
        assert_eq!([&job, &one, &other].map(reads), [false; 3]);
    }
}
