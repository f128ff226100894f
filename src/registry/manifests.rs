//! Manifests and indexes: asking for a digest, fetching, pushing.

use std::time::Duration;

use super::{Access, Remote};
use crate::error::{Again, Doing, Error, Kind, Result};
use crate::http::{Payload, Response, Url};
use crate::oci::descriptor::Descriptor;
use crate::oci::digest::Digest;
use crate::oci::manifest::{DOCUMENT_LIMIT, Document};
use crate::oci::media_type::ACCEPT;
use crate::oci::reference::{Reference, Tag};

/// Registries are eventually consistent: a manifest that was just put may be missing for a moment.
const CONSISTENCY: Duration = Duration::from_secs(15);

/// Pause between two looks at a manifest that is not there yet.
const CONSISTENCY_PAUSE: Duration = Duration::from_secs(1);

/// A manifest or index whose bytes have its digest.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) document: Document,
}

impl Remote<'_> {
    /// The digest that `reference` has now; `None` when there is no such manifest.
    ///
    /// One HEAD where the registry says the digest; else the manifest is fetched and hashed.
    pub(crate) fn digest_of(&self, reference: Reference<'_>) -> Result<Option<Digest>> {
        let doing = || format!("{}: look up {reference}", self.repository);
        // Without an answer (no connection, no login) there is none to GET either.
        match self.head(reference).doing(doing)?.doing(doing) {
            Ok(Some(digest)) => Ok(Some(digest)),
            Err(error) if error.is_missing() => Ok(None),
            // HEAD is not allowed, breaks, or says too little: GET has an answer, or the reason.
            Ok(None) => self.digest_by_get(reference),
            Err(error) if matches!(error.kind(), Kind::Registry | Kind::Denied | Kind::Network) => {
                self.report()
                    .debug(|| format!("{error}; asking with GET instead"));
                self.digest_by_get(reference)
            }
            Err(error) => Err(error),
        }
    }

    /// The digest that the answer says, or the error that the answer is.
    fn head(&self, reference: Reference<'_>) -> Result<Result<Option<Digest>>> {
        let url = self.manifest_url(reference)?;
        let response = self.until_answered(|| {
            let later = |error: &Error| matches!(error.can_try_again(), Again::Later { .. });
            let sent = self.exchange("HEAD", &url, Access::Pull, |request| {
                request.header("accept", ACCEPT)
            });
            match sent {
                // A limit holds for GET too; every other failure may be HEAD's alone.
                Ok(Ok(response)) if response.status == 429 => {
                    Err(self.problem("HEAD", &url, response))
                }
                Ok(Err(error)) if later(&error) || error.kind() == Kind::Registry => Ok(Err(error)),
                Err(error) if later(&error) => Ok(Err(error)),
                sent => sent?.map(Ok),
            }
        })?;
        let response = match response {
            Ok(response) => response,
            Err(error) => return Ok(Err(error)),
        };
        if response.status == 410 {
            // Unlike a 404 it need not be about the manifest: GET is the judge.
            return Ok(Ok(None));
        }
        let response = match self.successful("HEAD", &url, response) {
            Ok(response) => response,
            Err(error) => return Ok(Err(error)),
        };
        let digest = response
            .header("docker-content-digest")
            .and_then(|text| Digest::parse(text).ok());
        Ok(Ok(match (reference, digest) {
            // The header of another digest than the one asked for proves nothing.
            (Reference::Digest(asked), Some(said)) if *asked != said => None,
            (_, digest) => digest,
        }))
    }

    fn digest_by_get(&self, reference: Reference<'_>) -> Result<Option<Digest>> {
        match self.get(reference) {
            Ok((bytes, media_type)) => {
                // A page of a captive portal has a digest too.
                Document::parse(&bytes, &media_type)
                    .doing(|| format!("{}: look up {reference}", self.repository))?;
                let digest = Digest::of(&bytes);
                Ok(match reference {
                    Reference::Digest(asked) => asked.check(&bytes).is_ok().then(|| asked.clone()),
                    Reference::Tag(_) => Some(digest),
                })
            }
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error.doing(format!("{}: look up {reference}", self.repository))),
        }
    }

    /// Fetches the manifest or index with this digest.
    ///
    /// # Errors
    /// Bytes of another digest, also at a second try; a document that is no manifest.
    pub(crate) fn manifest(&self, digest: &Digest) -> Result<Fetched> {
        self.manifest_by_digest(digest, None)
            .doing(|| format!("{}: fetch manifest {digest}", self.repository))
    }

    /// Fetches what a descriptor of an index points to.
    pub(crate) fn child(&self, descriptor: &Descriptor) -> Result<Fetched> {
        self.manifest_by_digest(&descriptor.digest, Some(descriptor.size))
            .doing(|| format!("{}: fetch manifest {}", self.repository, descriptor.digest))
    }

    /// Fetches what a tag points to now; `None` when there is no such tag.
    pub(crate) fn tagged_manifest(&self, tag: &Tag) -> Result<Option<Fetched>> {
        let fetch = || -> Result<Fetched> {
            let (bytes, media_type) = self.get(Reference::Tag(tag))?;
            let document = Document::parse(&bytes, &media_type)?;
            Ok(Fetched {
                digest: Digest::of(&bytes),
                bytes,
                media_type,
                document,
            })
        };
        match fetch() {
            Err(error) if error.is_missing() => Ok(None),
            fetched => fetched
                .map(Some)
                .doing(|| format!("{}: fetch `{tag}`", self.repository)),
        }
    }

    fn manifest_by_digest(&self, digest: &Digest, size: Option<u64>) -> Result<Fetched> {
        let (mut bytes, mut media_type) = self.get_when_consistent(digest)?;
        if let Err(error) = digest.check(&bytes) {
            self.report().info(format!(
                "{}: manifest: {error}: fetching it once more",
                self.repository
            ));
            (bytes, media_type) = self.get_when_consistent(digest)?;
            digest.check(&bytes)?;
        }
        if let Some(size) = size
            && size != bytes.len() as u64
        {
            return Err(Error::hostile(format!(
                "it has {} bytes, its descriptor says {size}",
                bytes.len()
            )));
        }
        let document = Document::parse(&bytes, &media_type)?;
        Ok(Fetched {
            bytes,
            digest: digest.clone(),
            media_type,
            document,
        })
    }

    fn get_when_consistent(&self, digest: &Digest) -> Result<(Vec<u8>, String)> {
        let started = self.clock().elapsed();
        let mut told = false;
        loop {
            match self.get(Reference::Digest(digest)) {
                // What a mirror does not have, the origin may.
                Err(error) if error.is_missing() && !self.is_mirror => {
                    let waited = self.clock().elapsed().saturating_sub(started);
                    if waited + CONSISTENCY_PAUSE > CONSISTENCY {
                        return Err(error);
                    }
                    if !std::mem::replace(&mut told, true) {
                        self.report().info(format!(
                            "{}: {digest} is not there (yet): looking again for {} s",
                            self.repository,
                            CONSISTENCY.as_secs()
                        ));
                    }
                    self.clock().sleep(CONSISTENCY_PAUSE);
                }
                answer => return answer,
            }
        }
    }

    /// The bytes of a manifest and the media type they were served as.
    fn get(&self, reference: Reference<'_>) -> Result<(Vec<u8>, String)> {
        let url = self.manifest_url(reference)?;
        self.until_answered(|| {
            let response = self.send_once("GET", &url, Access::Pull, |request| {
                request.header("accept", ACCEPT)
            })?;
            let response = self.successful("GET", &url, response)?;
            let media_type = response
                .header("content-type")
                .unwrap_or_default()
                .to_owned();
            Ok((response.bytes(DOCUMENT_LIMIT)?, media_type))
        })
    }

    /// Puts a manifest under a tag or its digest. What it refers to must be there already.
    ///
    /// # Errors
    /// The registry's refusal; an answer that names another digest.
    pub(crate) fn put_manifest(
        &self,
        reference: Reference<'_>,
        bytes: &[u8],
        media_type: &str,
    ) -> Result<()> {
        let url = self.manifest_url(reference)?;
        let response = self
            .send("PUT", &url, Access::Push, |request| {
                request
                    .header("content-type", media_type)
                    .payload(Payload::Bytes(bytes))
            })
            .doing(|| format!("{}: push {reference}", self.repository))?;
        check_answer(&response, bytes, reference)
    }

    fn manifest_url(&self, reference: Reference<'_>) -> Result<Url> {
        self.url(&format!("manifests/{reference}"))
    }
}

/// The digest that the registry says it stored must be that of what was sent, whatever algorithm it
/// prefers.
fn check_answer(response: &Response, sent: &[u8], reference: Reference<'_>) -> Result<()> {
    let said = response
        .header("docker-content-digest")
        .and_then(|text| Digest::parse(text).ok());
    match said {
        Some(said) if said.check(sent).is_err() => {
            let expected = match reference {
                Reference::Digest(digest) => digest.clone(),
                Reference::Tag(_) => Digest::of(sent),
            };
            Err(Error::hostile(format!(
                "PUT {}: the registry stored {said} instead of {expected}",
                response.url
            )))
        }
        _ => Ok(()),
    }
}
