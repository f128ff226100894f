//! From an index to the image for a platform, and from an image to its config.

use super::{Fetched, Remote};
use crate::error::{Doing, Error, Result};
use crate::oci::config::ImageConfig;
use crate::oci::manifest::{DOCUMENT_LIMIT, Document, Manifest, NESTING_LIMIT};
use crate::oci::platform::Platform;

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
        let mut fetched = fetched.clone();
        for _ in 0..=NESTING_LIMIT {
            let entry = match &fetched.document {
                Document::Image(manifest) => {
                    let manifest = Manifest::clone(manifest);
                    return Ok(Image { fetched, manifest });
                }
                Document::Index(index) => index
                    .entry_for(platform)
                    .doing(|| format!("{}@{}", self.repository, fetched.digest))?,
            };
            fetched = self.child(&entry.clone())?;
        }
        Err(Error::hostile(format!(
            "{}: its indexes are nested deeper than {NESTING_LIMIT} levels",
            self.repository
        )))
    }

    /// The config of an image, verified and parsed.
    pub(crate) fn config(&self, manifest: &Manifest) -> Result<ImageConfig> {
        let bytes = self.small_blob(&manifest.config, DOCUMENT_LIMIT)?;
        ImageConfig::parse(&bytes)
            .doing(|| format!("{}: {}", self.repository, manifest.config.digest))
    }
}
