//! The schedules of `in`: an unpacked `rootfs`, and the formats that keep an image as it is.

mod formats;
mod rootfs;

use std::io::{self, Read};

use crate::report::Progress;

pub(crate) use formats::{image_tar, layout};
pub(crate) use rootfs::rootfs;

/// Tells the progress bar of every byte.
struct Counted<'c, R> {
    inner: R,
    progress: &'c Progress<'c>,
    at: usize,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.progress.advance(self.at, n as u64);
        Ok(n)
    }
}
