//! From an index to the image for a platform, and from an image to its config.

use super::{Fetched, Remote};
use crate::error::{Doing, Error, Result};
use crate::oci::config::ImageConfig;
use crate::oci::manifest::{DOCUMENT_LIMIT, Document, Manifest, NESTING_LIMIT};
use crate::oci::platform::Platform;

/// Manifests and indexes that are fetched to find one image: more than one only where entries name no
/// platform.
const MOST_LOOKED_AT: usize = 32;

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
        let mut search = Search {
            remote: self,
            platform,
            there: Vec::new(),
            artifact: None,
            left: MOST_LOOKED_AT,
        };
        if let Some(image) = search.below(fetched.clone(), 0)? {
            return Ok(image);
        }
        let there = search.there.join(", ");
        let why = match search.artifact {
            // There is nothing else: whoever wanted an image hears what it is.
            Some(artifact) if there.is_empty() => return Ok(artifact),
            _ if there.is_empty() => ": the index lists no image".to_owned(),
            _ => format!("; there is {there}"),
        };
        Err(Error::config(format!(
            "{}@{}: there is no image for {platform}{why}",
            self.repository, fetched.digest
        )))
    }

    /// The config of an image, verified: its bytes, and what they say.
    pub(crate) fn config(&self, manifest: &Manifest) -> Result<(Vec<u8>, ImageConfig)> {
        let bytes = self.small_blob(&manifest.config, DOCUMENT_LIMIT, &self.stop)?;
        let config = ImageConfig::parse(&bytes)
            .doing(|| format!("{}: {}", self.repository, manifest.config.digest))?;
        Ok((bytes, config))
    }
}

/// A search for the image of one platform.
struct Search<'s> {
    remote: &'s Remote<'s>,
    platform: &'s Platform,
    /// Platforms seen that are other ones.
    there: Vec<String>,
    /// What no image was, where no platform was named.
    artifact: Option<Image>,
    /// How many more manifests and indexes are fetched.
    left: usize,
}

impl Search<'_> {
    fn below(&mut self, fetched: Fetched, depth: usize) -> Result<Option<Image>> {
        let index = match &fetched.document {
            Document::Image(manifest) => {
                let manifest = Manifest::clone(manifest);
                return Ok(Some(Image { fetched, manifest }));
            }
            Document::Index(_) if depth == NESTING_LIMIT => {
                return Err(Error::hostile(format!(
                    "{}: its indexes are nested deeper than {NESTING_LIMIT} levels",
                    self.remote.repository
                )));
            }
            Document::Index(index) => index,
        };
        for platform in index.platforms() {
            let name = platform.to_string();
            if self.platform.preference(platform).is_none() && !self.there.contains(&name) {
                self.there.push(name);
            }
        }
        for entry in index.entries_for(self.platform) {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            let child = self.remote.child(entry)?;
            match self.below(child, depth + 1)? {
                Some(image)
                    if entry.platform.is_none() && image.manifest.artifact_type().is_some() =>
                {
                    self.artifact.get_or_insert(image);
                }
                Some(image) => return Ok(Some(image)),
                // Another one that names no platform may have it.
                None => {}
            }
        }
        Ok(None)
    }
}
