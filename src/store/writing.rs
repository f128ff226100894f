//! A blob on its way to the disk: it becomes part of an image only with the proof that its bytes are
//! the right ones.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::error::{Doing, Error, Kind, Result};
use crate::oci::digest::{Digest, Verified};
use crate::workers::lock;

/// Digests of the blobs that are whole.
pub(super) type Done = Mutex<BTreeSet<Digest>>;

/// The place of one blob. Dropped without [`BlobWriter::commit`] it leaves nothing that counts.
pub(crate) struct BlobWriter<'a> {
    pub(super) file: Arc<File>,
    /// The file's name while it is written.
    pub(super) path: PathBuf,
    /// Where in the file the blob begins.
    pub(super) start: u64,
    pub(super) written: u64,
    pub(super) size: u64,
    pub(super) digest: Digest,
    /// For a blob that is a file of its own: its name when it is proven.
    pub(super) rename: Option<PathBuf>,
    pub(super) done: &'a Done,
}

impl BlobWriter<'_> {
    /// Makes the blob part of the image.
    ///
    /// # Errors
    /// A proof of other bytes; less written than proven.
    pub(crate) fn commit(mut self, proof: &Verified) -> Result<()> {
        let said = (&self.digest, self.size, self.size);
        if said != (proof.digest(), proof.size(), self.written) {
            return Err(Error::local(format!(
                "{} of {} bytes of {} were written, and {} of {} were verified",
                self.written,
                self.size,
                self.digest,
                proof.size(),
                proof.digest(),
            )));
        }
        if let Some(to) = self.rename.take() {
            fs::rename(&self.path, &to).doing(|| format!("rename `{}`", self.path.display()))?;
        }
        lock(self.done).insert(self.digest.clone());
        Ok(())
    }

    /// A write that failed; where the disk is full, with how much was needed.
    fn failed(&self, error: io::Error) -> Error {
        let full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        let error = Error::io(Kind::Local, error).doing(format!("write `{}`", self.path.display()));
        match full {
            true => error.noting(format!(
                "{} of its {} bytes found room",
                self.written, self.size
            )),
            false => error,
        }
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // In a tarball the next member begins there.
        if bytes.len() as u64 > self.size - self.written {
            return Err(Error::hostile(format!(
                "it is longer than the {} bytes that were announced",
                self.size
            ))
            .into_io());
        }
        let written = self.file.write_at(bytes, self.start + self.written);
        let n = written.map_err(|error| self.failed(error).into_io())?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        if self.rename.is_some() {
            // The step has failed already; the next run starts with a fresh directory.
            let _ = fs::remove_file(&self.path);
        }
    }
}
