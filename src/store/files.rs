//! Where the files of an image on disk lie: in a directory, in a tarball, in a compressed tarball.
//!
//! Gives readers by name and by nothing else; what the names mean is for `layout` and `docker`.
//! Nothing is written, and no temporary file is made.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::members::{Extent, Forward, Members, Name, is_header};
use crate::error::{Doing, Error, Kind, Result};

/// What a client has to manage of a manifest is 4 MiB (distribution spec, "Pushing Manifests");
/// every document on disk may have twice that. In bytes.
pub(super) const DOCUMENT_LIMIT: u64 = 8 << 20;

/// The files of one image.
pub(super) enum Files {
    /// Its files may be symbolic links, as bazel makes them: they are the user's own. Only what
    /// they lead to must be a regular file.
    Directory(PathBuf),
    Tarball(Tarball),
}

/// A tar file that is read by offset, by several threads at once.
pub(super) struct Tarball {
    path: PathBuf,
    file: Arc<File>,
    members: Members,
}

impl Tarball {
    /// # Errors
    /// A file that is no tarball, or one that is cut off.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = Arc::new(File::open(path).doing(|| "open")?);
        let size = file.metadata().doing(|| "stat")?.len();
        let mut whole = Body::new(Arc::clone(&file), Extent { at: 0, size });
        let mut block = [0; 512];
        if whole.read_exact(&mut block).is_err() || !is_header(&block) {
            return Err(no_tarball(&block));
        }
        let mut whole = Body::new(Arc::clone(&file), Extent { at: 0, size });
        let members = Members::list(&mut whole)?;
        Ok(Tarball {
            path: path.to_owned(),
            file,
            members,
        })
    }
}

/// The reason why a file that starts with `block` is no tarball.
fn no_tarball(block: &[u8; 512]) -> Error {
    let packed = match block {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
        [b'B', b'Z', b'h', ..] => Some("bzip2"),
        _ => None,
    };
    match packed {
        Some(name) => Error::local(format!("it is compressed with {name}"))
            .advise("give a tarball that is plain, or compressed with gzip or zstd"),
        None => Error::local("it is neither a directory nor a tarball"),
    }
}

impl Files {
    /// Whether there is anything of this name.
    pub(super) fn has(&self, name: &Name) -> bool {
        match self {
            Files::Directory(directory) => directory.join(name.as_str()).exists(),
            Files::Tarball(tarball) => tarball.members.has(name),
        }
    }

    /// The size of a regular file; `None` where there is nothing of this name.
    pub(super) fn size(&self, name: &Name) -> Result<Option<u64>> {
        match self {
            Files::Directory(directory) => {
                let found = match fs::metadata(directory.join(name.as_str())) {
                    Ok(found) => found,
                    Err(error) if is_missing(&error) => return Ok(None),
                    Err(error) => return Err(Error::io(Kind::Local, error)),
                };
                match found.is_file() {
                    true => Ok(Some(found.len())),
                    false => Err(Error::local("it is not a regular file")),
                }
            }
            Files::Tarball(tarball) => Ok(tarball.members.find(name)?.map(|extent| extent.size)),
        }
        .doing(|| self.show(name))
    }

    /// The bytes of a regular file; `None` where there is nothing of this name.
    pub(super) fn open(&self, name: &Name) -> Result<Option<Body>> {
        let Some(size) = self.size(name)? else {
            return Ok(None);
        };
        match self {
            Files::Directory(directory) => {
                let file = File::open(directory.join(name.as_str()));
                let file = Arc::new(file.doing(|| self.show(name))?);
                Ok(Some(Body::new(file, Extent { at: 0, size })))
            }
            Files::Tarball(tarball) => {
                let extent = tarball.members.find(name)?;
                Ok(extent.map(|extent| Body::new(Arc::clone(&tarball.file), extent)))
            }
        }
    }

    /// All bytes of a document; `None` where there is nothing of this name.
    ///
    /// # Errors
    /// A file that is larger than any document.
    pub(super) fn document(&self, name: &Name) -> Result<Option<Vec<u8>>> {
        let Some(mut body) = self.open(name)? else {
            return Ok(None);
        };
        if body.left > DOCUMENT_LIMIT {
            return Err(Error::local(format!(
                "it has {} bytes; a document has at most {DOCUMENT_LIMIT}",
                body.left
            ))
            .doing(self.show(name)));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(body.left).unwrap_or_default());
        body.read_to_end(&mut bytes).doing(|| self.show(name))?;
        Ok(Some(bytes))
    }

    /// How messages name a file.
    pub(super) fn show(&self, name: &Name) -> String {
        match self {
            Files::Directory(directory) => {
                format!("`{}`", directory.join(name.as_str()).display())
            }
            Files::Tarball(tarball) => format!("`{name}` in `{}`", tarball.path.display()),
        }
    }

    /// The image's own name in messages.
    pub(super) fn path(&self) -> &Path {
        match self {
            Files::Directory(directory) => directory,
            Files::Tarball(tarball) => &tarball.path,
        }
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The bytes of one file or member. They are unbelieved: whoever knows their digest wraps this.
pub(crate) struct Body {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Body {
    fn new(file: Arc<File>, extent: Extent) -> Self {
        Body {
            file,
            at: extent.at,
            left: extent.size,
        }
    }

    /// Bytes that are still to come.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }
}

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buf.len(), |left| left.min(buf.len()));
        let buf = buf.get_mut(..most).unwrap_or_default();
        if buf.is_empty() {
            return Ok(0);
        }
        let n = self.file.read_at(buf, self.at)?;
        if n == 0 {
            return Err(Error::local(format!(
                "the file became shorter while it was read: {} bytes are missing",
                self.left
            ))
            .advise("do not write to the image while it is pushed")
            .into_io());
        }
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

impl Forward for Body {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        if bytes > self.left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += bytes;
        self.left -= bytes;
        Ok(())
    }
}
