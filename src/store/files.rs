//! Where the files of an image on disk lie: in a directory, in a tarball, in a compressed tarball.
//!
//! Gives readers by name and by nothing else; what the names mean is for `layout` and `docker`.
//! Nothing is written, and no temporary file is made.

use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::members::{Extent, Members, Name};
use super::packed::{Packed, Stream};
use super::span::{Span, at_most, shorter, start};
use crate::archive::members::is_tar;
use crate::error::{Doing, Error, Kind, Result};
use crate::oci::manifest::DOCUMENT_LIMIT;
use crate::workers::Workers;

/// The files of one image.
pub(super) enum Files {
    /// Its files may be symbolic links, as bazel makes them: they are the user's own. Only what
    /// they lead to must be a regular file.
    Directory(PathBuf),
    Tarball(Tarball),
}

/// A tar file, read by several threads at once.
pub(super) struct Tarball {
    path: PathBuf,
    file: Span,
    /// For a compressed one: how to get to a place in the plain stream.
    packed: Option<Packed>,
    members: Members,
}

impl Tarball {
    /// # Errors
    /// A file that is no tarball, or one that is cut off.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = Span::whole(path)?;
        let (packed, members) = match Packed::index(&file)? {
            Some((packed, members)) => (Some(packed), members),
            None if is_tar(&start(file.clone())?) => (None, Members::list(file.clone())?),
            None => return Err(Error::local("it is neither a directory nor a tarball")),
        };
        Ok(Tarball {
            path: path.to_owned(),
            file,
            packed,
            members,
        })
    }

    fn body(&self, extent: Extent) -> Result<Body> {
        let Some(packed) = &self.packed else {
            return Ok(Body::Span(self.file.other(extent)));
        };
        match packed.head(extent) {
            // Nothing is read for it, and the stream stays where it is for the next.
            _ if extent.size == 0 => Ok(Body::Kept(Cursor::default())),
            Some(all) if all.len() as u64 == extent.size => Ok(Body::Kept(Cursor::new(all))),
            _ => Ok(Body::Stream(packed.open(&self.file, extent)?, extent.size)),
        }
    }

    /// The first bytes at least.
    fn head(&self, extent: Extent) -> Result<Body> {
        let head = self.packed.as_ref().and_then(|packed| packed.head(extent));
        match head {
            Some(head) => Ok(Body::Kept(Cursor::new(head))),
            None => self.body(extent),
        }
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

    /// How many readers may be at work at once.
    pub(super) fn readers(&self, workers: Workers) -> Workers {
        match self.sequential() {
            Some(_) => Workers::new(1),
            None => workers,
        }
    }

    /// Where files have to be read in their order: a number to order them by. Else 0.
    pub(super) fn read_order(&self, name: &Name) -> u64 {
        let found = self.sequential().map(|tarball| tarball.members.find(name));
        match found {
            Some(Ok(Some(extent))) => extent.at,
            _ => 0,
        }
    }

    fn sequential(&self) -> Option<&Tarball> {
        match self {
            Files::Directory(_) => None,
            Files::Tarball(tarball) => {
                let packed = tarball.packed.as_ref();
                packed.is_some_and(Packed::is_sequential).then_some(tarball)
            }
        }
    }

    /// Enough of a regular file to tell its compression; `None` where there is nothing of this name.
    pub(super) fn head(&self, name: &Name) -> Result<Option<Body>> {
        match self {
            Files::Directory(_) => self.open(name),
            Files::Tarball(tarball) => {
                let extent = tarball.members.find(name);
                let head =
                    extent.and_then(|extent| extent.map(|extent| tarball.head(extent)).transpose());
                head.doing(|| self.show(name))
            }
        }
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
                Ok(Some(Body::Span(Span::new(file, Extent { at: 0, size }))))
            }
            Files::Tarball(tarball) => {
                let extent = tarball.members.find(name)?;
                let body = extent.map(|extent| tarball.body(extent)).transpose();
                body.doing(|| self.show(name))
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
        if body.left() > DOCUMENT_LIMIT {
            return Err(Error::local(format!(
                "it has {} bytes; a document has at most {DOCUMENT_LIMIT}",
                body.left()
            ))
            .doing(self.show(name)));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(body.left()).unwrap_or_default());
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
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The bytes of one file or member. They are unbelieved: whoever knows their digest wraps this.
pub(crate) enum Body {
    Kept(Cursor<Arc<[u8]>>),
    Span(Span),
    Stream(Stream, u64),
}

impl Body {
    /// Bytes that are still to come.
    pub(crate) fn left(&self) -> u64 {
        match self {
            Body::Kept(bytes) => (bytes.get_ref().len() as u64).saturating_sub(bytes.position()),
            Body::Span(span) => span.left(),
            Body::Stream(_, left) => *left,
        }
    }
}

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (stream, left) = match self {
            Body::Kept(bytes) => return bytes.read(buf),
            Body::Span(span) => return span.read(buf),
            Body::Stream(stream, left) => (stream, left),
        };
        let buf = at_most(buf, *left);
        if buf.is_empty() {
            return Ok(0);
        }
        match stream.read(buf)? {
            0 => Err(shorter(*left)),
            n => {
                *left -= n as u64;
                if *left == 0 {
                    // The next one may go on from here.
                    *self = Body::Kept(Cursor::default());
                }
                Ok(n)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::digest::Digest;
    use crate::store::docker;
    use crate::store::layout::named;
    use crate::store::samples::{Parts, Scratch, config, gzip, key, layer, letters, zstd};
    use serde_json::json;

    fn zstd_tarball(scratch: &Scratch, parts: &Parts) -> Tarball {
        let path = scratch.path().join("packed");
        fs::write(&path, zstd(&parts.tar())).unwrap();
        Tarball::open(&path).unwrap()
    }

    fn parked_at(tarball: &Tarball) -> Option<u64> {
        tarball.packed.as_ref().unwrap().parked_at()
    }

    #[test]
    fn members_that_are_not_read_to_an_end_let_the_next_go_on() {
        let mut parts = Parts::default();
        for at in 0..3_u8 {
            parts.file(&at.to_string(), vec![at; 100_000]);
        }
        parts.file("1-empty", "");
        let scratch = Scratch::new();
        let tarball = zstd_tarball(&scratch, &parts);
        let find = |name: &str| {
            tarball
                .members
                .find(&named(name).unwrap())
                .unwrap()
                .unwrap()
        };
        let extent = find("0");
        io::copy(&mut tarball.body(extent).unwrap(), &mut io::sink()).unwrap();
        assert_eq!(parked_at(&tarball), Some(extent.at + extent.size));
        // Only its first byte.
        let extent = find("1");
        tarball.body(extent).unwrap().read_exact(&mut [0]).unwrap();
        assert_eq!(parked_at(&tarball), Some(extent.at + 1));
        let empty = find("1-empty");
        assert_eq!(tarball.body(empty).unwrap().read(&mut [0]).unwrap(), 0);
        assert_eq!(parked_at(&tarball), Some(extent.at + 1));
    }

    #[test]
    fn layers_are_hashed_in_the_order_of_the_file() {
        let layers = [1, 2, 3].map(|seed| layer(&letters(seed, 200_000)));
        let mut parts = Parts::default();
        parts.json("config.json", &config(&layers));
        // The first layer comes last in the file.
        let names = ["c.tar", "b.tar", "a.tar"];
        for (name, tar) in names.iter().zip(&layers) {
            parts.file(name, gzip(tar));
        }
        let saved = json!([{"Config": "config.json", "Layers": names}]);
        parts.json("manifest.json", &saved);
        let scratch = Scratch::new();
        let files = Files::Tarball(zstd_tarball(&scratch, &parts));
        let image = docker::read(&files, Workers::new(2)).unwrap();
        let crate::store::Image::Loose(loose) = image else {
            panic!("it has no manifest");
        };
        let digests: Vec<Digest> = loose.layers.iter().map(key).cloned().collect();
        assert_eq!(digests, layers.map(|tar| Digest::of(&gzip(&tar))));
        let Files::Tarball(tarball) = &files else {
            panic!("it is a tarball");
        };
        let last = tarball
            .members
            .find(&named("c.tar").unwrap())
            .unwrap()
            .unwrap();
        assert_eq!(parked_at(tarball), Some(last.at + last.size));
    }
}
