//! Images on disk: what `put` reads, and the formats `oci` and `oci-layout` that `get` writes.
//!
//! A source is told apart by its content, never by its name. Names inside an archive never choose
//! where something is pushed (GHSA-cvxm-645q-p574): `RepoTags` and `ref.name` are not read.

mod docker;
mod files;
mod image_tar;
mod layout;
mod layout_writer;
mod members;
mod packed;
#[cfg(test)]
mod samples;
mod span;
mod writing;

use std::fs;
use std::path::Path;

use crate::error::{Doing, Error, Kind, Result};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::{Checked, Digest};
use crate::oci::manifest::Document;
use crate::workers::Workers;

use files::{Files, Tarball};
use members::Name;

pub(crate) use files::Body;
pub(crate) use image_tar::ImageTar;
pub(crate) use layout_writer::LayoutWriter;
pub(crate) use writing::BlobWriter;

/// The content of `oci-layout` (image-spec, image-layout.md).
const LAYOUT_VERSION: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// An image (or several, under an index) on disk, ready to be pushed.
pub(crate) struct Source {
    files: Files,
    image: Image,
}

/// What is to be pushed.
pub(crate) enum Image {
    /// Every digest is known: manifests go out byte for byte.
    Tree(Tree),
    /// A `docker save` tarball: its manifest is made when its layers have been compressed.
    Loose(Box<Loose>),
}

/// Documents and what they refer to.
#[derive(Default)]
pub(crate) struct Tree {
    /// Children before the index that lists them; the last one is the root, never absent.
    pub(crate) documents: Vec<Stored>,
    /// Configs and layers, each once. Foreign layers that are not on disk are left out.
    blobs: Vec<Blob>,
}

/// A stored document: a manifest or an index with its bytes. Made by
/// [`Stored::new`], which compares the digest, or where that was done.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) bytes: Vec<u8>,
    /// Media type to push it under, digest, size.
    pub(crate) descriptor: Descriptor,
    pub(crate) document: Document,
}

struct Blob {
    descriptor: Descriptor,
    name: Name,
}

/// An image of `docker save`, without a manifest of its own.
pub(crate) struct Loose {
    /// The config's bytes; its descriptor is what a manifest of this image says.
    pub(crate) config: Vec<u8>,
    pub(crate) config_descriptor: Descriptor,
    /// Lowest first; the same one may come twice.
    pub(crate) layers: Vec<Layer>,
    /// In which file the bytes of a layer lie, by the digest of `Layer::digest`.
    names: Vec<(Digest, Name)>,
}

/// One layer of a [`Loose`] image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Layer {
    /// Compressed already: pushed as it is.
    Ready(Descriptor),
    /// A plain tar of `size` bytes. What is pushed is its gzip, known when it has been made.
    Plain { diff_id: Digest, size: u64 },
    /// Not in the tarball: it stays where its `urls` say, and only the manifest names it.
    Foreign(Descriptor),
}

impl Source {
    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// A blob of a [`Tree`], or a layer of a [`Loose`] image (a plain one by its diff_id). May be
    /// called by several threads, and again for the same blob.
    ///
    /// The reader fails where the bytes are not those of `digest`, at its end; where the file
    /// becomes shorter while it is read, at that place.
    pub(crate) fn open(&self, digest: &Digest) -> Result<Checked<Body>> {
        let (name, size) = self
            .find(digest)
            .ok_or_else(|| Error::local(format!("{digest} is not in the image")))?;
        let body = self.files.open(name)?;
        let body =
            body.ok_or_else(|| Error::local("there is no such file").doing(self.files.show(name)))?;
        let size = size.unwrap_or_else(|| body.left());
        Ok(Checked::new(body, digest, Some(size)))
    }

    /// How many blobs may be read at once.
    pub(crate) fn readers(&self, workers: Workers) -> Workers {
        self.files.readers(workers)
    }

    /// Where blobs have to be read in their order: a number to order them by. Else 0.
    pub(crate) fn read_order(&self, digest: &Digest) -> u64 {
        self.find(digest)
            .map_or(0, |(name, _)| self.files.read_order(name))
    }

    /// How messages name the file behind a digest.
    pub(crate) fn show(&self, digest: &Digest) -> String {
        match self.find(digest) {
            Some((name, _)) => self.files.show(name),
            None => digest.to_string(),
        }
    }

    /// The file behind a digest, and its size where a descriptor says it.
    fn find(&self, digest: &Digest) -> Option<(&Name, Option<u64>)> {
        match &self.image {
            Image::Tree(tree) => {
                let mut blobs = tree.blobs.iter();
                let found = blobs.find(|blob| blob.descriptor.digest == *digest)?;
                Some((&found.name, Some(found.descriptor.size)))
            }
            Image::Loose(loose) => {
                let found = loose.names.iter().find(|(known, _)| known == digest)?;
                Some((&found.1, None))
            }
        }
    }
}

impl Tree {
    /// What is tagged in the end.
    ///
    /// # Errors
    /// None for a tree that [`open`] made.
    pub(crate) fn root(&self) -> Result<&Stored> {
        let root = self.documents.last();
        root.ok_or_else(|| Error::local("the image has no manifest"))
    }

    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.blobs.iter().map(|blob| &blob.descriptor)
    }
}

/// Opens the image at `path`: an OCI layout directory, or a tarball that holds an OCI layout, what
/// `docker save` writes, or both.
///
/// Documents are read and compared with their digests here; of blobs only that they are there, with
/// the right size. The layers of a `docker save` tarball that are compressed and have no digest for
/// a name are hashed here, on `workers`.
///
/// # Errors
/// Anything else, with what it is where that can be told; an image that is not complete; several
/// images in a `docker save` tarball, with their names.
pub(crate) fn open(path: &Path, workers: Workers) -> Result<Source> {
    read(path, workers).doing(|| format!("read image `{}`", path.display()))
}

fn read(path: &Path, workers: Workers) -> Result<Source> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::new(Kind::Missing, "there is no such file"));
        }
        Err(error) => return Err(Error::io(Kind::Local, error)),
    };
    if found.is_dir() {
        return directory(path);
    }
    if !found.is_file() {
        return Err(Error::local("it is neither a directory nor a tarball"));
    }
    let files = Files::Tarball(Tarball::open(path)?);
    let has = |name: &str| Ok::<_, Error>(files.has(&layout::named(name)?));
    let image = match (has("manifest.json")?, has("index.json")?) {
        (true, _) => docker::read(&files, workers)?,
        (false, true) => Image::Tree(layout::read(&files)?),
        (false, false) if has("repositories")? => {
            return Err(Error::local(
                "it is a `docker save` tarball of before Docker 1.10, without `manifest.json`",
            )
            .advise("load and save it with a newer Docker"));
        }
        (false, false) => {
            return Err(Error::local(
                "the tarball is no image: it has neither `index.json` (OCI layout) nor `manifest.json` (`docker save`)",
            ));
        }
    };
    Ok(Source { files, image })
}

fn directory(path: &Path) -> Result<Source> {
    if path.join("index.json").is_file() {
        let files = Files::Directory(path.to_owned());
        let image = Image::Tree(layout::read(&files)?);
        return Ok(Source { files, image });
    }
    let error = Error::local("the directory is no OCI layout: it has no `index.json`");
    let shown = path.display();
    Err(if path.join("image.tar").is_file() {
        error.advise(format!("did you mean `{shown}/image.tar`?"))
    } else if path.join("oci/index.json").is_file() {
        error.advise(format!("did you mean `{shown}/oci`?"))
    } else if path.join("rootfs").is_dir() {
        error.advise("a `rootfs` cannot be pushed: fetch it with `format: oci` or `oci-layout`")
    } else if path.join("manifest.json").is_file() && path.join("version").is_file() {
        error.advise("`skopeo copy` from its `dir:` to `oci:` or `oci-archive:` makes one")
    } else if path.join("manifest.json").is_file() {
        error.advise("an unpacked `docker save` tarball has to be packed again")
    } else {
        error
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use samples::{Parts, Scratch};

    #[test]
    fn what_is_no_image_is_told_with_what_it_is() {
        type Make<'a> = &'a dyn Fn(&Path);
        let write = |path: &Path, bytes: &[u8]| fs::write(path, bytes).unwrap();
        let below = |path: &Path, name: &str| {
            let file = path.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "x").unwrap();
        };
        let cases: [(Make<'_>, &str); 11] = [
            (&|_| {}, "there is no such file"),
            (
                &|path| write(path, b""),
                "it is neither a directory nor a tarball",
            ),
            (
                &|path| write(path, &[b'x'; 2000]),
                "it is neither a directory nor a tarball",
            ),
            (
                &|path| write(path, b"\xfd7zXZ\0"),
                "it is compressed with xz; image layers are compressed with gzip or zstd, or not at all",
            ),
            (
                &|path| write(path, &[0; 1024]),
                "the tarball is no image: it has neither `index.json` (OCI layout) nor `manifest.json` (`docker save`)",
            ),
            (
                &|path| fs::create_dir(path).unwrap(),
                "the directory is no OCI layout: it has no `index.json`",
            ),
            (
                &|path| below(path, "image.tar"),
                "the directory is no OCI layout: it has no `index.json`; did you mean `/x/image.tar`?",
            ),
            (
                &|path| below(path, "oci/index.json"),
                "the directory is no OCI layout: it has no `index.json`; did you mean `/x/oci`?",
            ),
            (
                &|path| below(path, "rootfs/bin/sh"),
                "the directory is no OCI layout: it has no `index.json`; a `rootfs` cannot be pushed: fetch it with `format: oci` or `oci-layout`",
            ),
            (
                &|path| {
                    let mut parts = Parts::default();
                    parts.file("a", vec![0; 4096]);
                    write(path, &parts.tar()[..2048]);
                },
                "tar member at byte 0: the tar ends in the middle",
            ),
            (
                &|path| {
                    let mut parts = Parts::default();
                    parts.file("a", "x");
                    let mut tar = parts.tar();
                    tar[1024..1027].copy_from_slice(b"xyz");
                    write(path, &tar);
                },
                "tar member at byte 1024: a tar header's checksum is wrong: the stream is broken, or no tar",
            ),
        ];
        for (make, expected) in cases {
            let scratch = Scratch::new();
            let path = scratch.path().join("x");
            make(&path);
            let text = scratch.text(open(&path, Workers::new(1)));
            assert_eq!(text, format!("read image `/x`: {expected}"));
        }
    }
}
