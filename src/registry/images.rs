//! From an index to the image for a platform, and from an image to its config.

use super::{Fetched, Remote};
use crate::error::{Doing, Error, Result};
use crate::oci::config::ImageConfig;
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::manifest::{
    DOCUMENT_LIMIT, Document, Index, Manifest, NESTING_LIMIT, nested_too_deep,
};
use crate::oci::platform::Platform;

/// Entries of indexes without a platform that are fetched to find one image.
const MOST_UNNAMED: usize = 8;

/// Platforms that an error names, and characters of each.
const MOST_PLATFORMS: usize = 32;
const LONGEST_PLATFORM: usize = 64;

/// One image, out of an index where it was in one.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) fetched: Fetched,
    pub(crate) manifest: Manifest,
}

impl Remote<'_> {
    /// The image that `fetched` is or, where it is an index, has for `platform`.
    ///
    /// # Errors
    /// No match, with a list of the platforms that there are.
    pub(crate) fn image(&self, fetched: &Fetched, platform: &Platform) -> Result<Image> {
        let index = match &fetched.document {
            Document::Image(manifest) => {
                return Ok(Image {
                    fetched: fetched.clone(),
                    manifest: Manifest::clone(manifest),
                });
            }
            Document::Index(index) => index,
        };
        let mut search = Search {
            remote: self,
            platform,
            index: fetched.digest.clone(),
            next: Vec::new(),
            unnamed: 0,
            there: Vec::new(),
            more: false,
            other: None,
            artifact: None,
        };
        search.list(index, 0)?;
        search.find()
    }

    /// The config of an image, verified: its bytes, and what they say.
    pub(crate) fn config(&self, manifest: &Manifest) -> Result<(Vec<u8>, ImageConfig)> {
        let bytes = self
            .small_blob(&manifest.config, DOCUMENT_LIMIT, &self.stop)
            .doing(|| format!("{}: fetch {}", self.repository, manifest.config.digest))?;
        let config = ImageConfig::parse(&bytes)
            .doing(|| format!("{}: {}", self.repository, manifest.config.digest))?;
        Ok((bytes, config))
    }
}

/// A search for the image of one platform.
struct Search<'s> {
    remote: &'s Remote<'s>,
    platform: &'s Platform,
    /// The index that should have the image.
    index: Digest,
    /// What may be it, or have it; the next one comes last.
    next: Vec<Candidate>,
    /// Entries without a platform that were fetched.
    unnamed: usize,
    /// Other platforms that were seen, and whether there were more of them.
    there: Vec<String>,
    more: bool,
    /// The first image of another platform, and the first artifact, under an entry without a platform.
    other: Option<Image>,
    artifact: Option<Image>,
}

struct Candidate {
    entry: Descriptor,
    /// How many indexes lead to it.
    depth: usize,
    /// Whether there is another one beside it, so that its config has to tell its platform.
    is_one_of_several: bool,
}

impl Search<'_> {
    /// Adds the entries of an index that may be the image, or have it.
    fn list(&mut self, index: &Index, depth: usize) -> Result<()> {
        if depth == NESTING_LIMIT {
            return Err(Error::hostile(format!(
                "{}: {}",
                self.remote.repository,
                nested_too_deep()
            )));
        }
        for platform in index.platforms() {
            if self.platform.preference(platform).is_none() {
                self.name(platform);
            }
        }
        let entries = index.entries_for(self.platform);
        let is_one_of_several = entries.len() > 1;
        // One more than will be looked at tells that there are too many.
        let entries = entries.into_iter().take(MOST_UNNAMED + 1);
        let candidates = entries.map(|entry| Candidate {
            entry: entry.clone(),
            depth: depth + 1,
            is_one_of_several,
        });
        let at = self.next.len();
        self.next.extend(candidates);
        if let Some(added) = self.next.get_mut(at..) {
            added.reverse();
        }
        Ok(())
    }

    fn find(mut self) -> Result<Image> {
        while let Some(candidate) = self.next.pop() {
            let is_named = candidate.entry.platform.is_some();
            if !is_named {
                if self.unnamed == MOST_UNNAMED {
                    return Err(self.nothing(&format!(
                        " among the first {MOST_UNNAMED} entries without a platform"
                    )));
                }
                self.unnamed += 1;
            }
            let fetched = self.remote.child(&candidate.entry)?;
            let manifest = match &fetched.document {
                Document::Image(manifest) => Manifest::clone(manifest),
                Document::Index(index) => {
                    if is_named {
                        self.index = fetched.digest.clone();
                    }
                    self.list(index, candidate.depth)?;
                    continue;
                }
            };
            let image = Image { fetched, manifest };
            if is_named {
                return Ok(image);
            }
            if image.manifest.artifact_type().is_some() {
                self.artifact.get_or_insert(image);
                continue;
            }
            if candidate.is_one_of_several && !self.is_for_platform(&image)? {
                self.other.get_or_insert(image);
                continue;
            }
            return Ok(image);
        }
        match (self.other.take(), self.artifact.take()) {
            (Some(image), _) => Ok(image),
            // There is nothing else: whoever wanted an image hears what it is.
            (None, Some(artifact)) if self.there.is_empty() => Ok(artifact),
            (None, _) => Err(self.nothing("")),
        }
    }

    fn is_for_platform(&mut self, image: &Image) -> Result<bool> {
        let (_, config) = self.remote.config(&image.manifest)?;
        let platform = config.platform();
        let fits = platform.os.is_empty() || self.platform.preference(&platform).is_some();
        if !fits {
            self.name(&platform);
        }
        Ok(fits)
    }

    fn name(&mut self, platform: &Platform) {
        let name: String = platform
            .to_string()
            .chars()
            .take(LONGEST_PLATFORM)
            .collect();
        if self.there.contains(&name) {
            return;
        }
        match self.there.len() < MOST_PLATFORMS {
            true => self.there.push(name),
            false => self.more = true,
        }
    }

    fn nothing(&self, place: &str) -> Error {
        let there = match (self.there.join(", "), self.more) {
            (there, _) if there.is_empty() && place.is_empty() => {
                ": the index lists no image".to_owned()
            }
            (there, _) if there.is_empty() => String::new(),
            (there, false) => format!("; there is {there}"),
            (there, true) => format!("; there is {there}, and others"),
        };
        Error::config(format!(
            "{}@{}: there is no image for {}{place}{there}",
            self.remote.repository, self.index, self.platform
        ))
    }
}
