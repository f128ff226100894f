//! What the fixture registry holds: blobs, manifests, tags and upload sessions, in memory.

use crate::common::sha256;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

#[derive(Default)]
pub struct Store {
    pub repositories: BTreeMap<String, Repository>,
    pub uploads: HashMap<String, Upload>,
    /// Paths outside the registry's API, with what they answer.
    pub served: HashMap<String, Vec<u8>>,
    next_upload: u64,
}

#[derive(Default)]
pub struct Repository {
    pub blobs: HashMap<String, Arc<[u8]>>,
    pub manifests: HashMap<String, Manifest>,
    /// Tag and digest, in the order of their first push.
    pub tags: Vec<(String, String)>,
}

/// A manifest as it was put.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Manifest {
    pub digest: String,
    pub media_type: String,
    pub bytes: Vec<u8>,
}

pub struct Upload {
    pub repository: String,
    pub bytes: Vec<u8>,
    /// Changes with every request, so that a client that does not follow `Location` is seen.
    pub state: u64,
    /// A piece came that only the last one may be.
    pub ended: bool,
}

impl Store {
    pub fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_owned()).or_default()
    }

    pub fn blob(&self, repository: &str, digest: &str) -> Option<Arc<[u8]>> {
        self.repositories
            .get(repository)?
            .blobs
            .get(digest)
            .cloned()
    }

    /// By tag or digest.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<&Manifest> {
        let repository = self.repositories.get(repository)?;
        let digest = repository.digest_of(reference).unwrap_or(reference);
        repository.manifests.get(digest)
    }

    pub fn open_upload(&mut self, repository: &str) -> String {
        self.next_upload += 1;
        let id = format!("upload-{}", self.next_upload);
        let upload = Upload {
            repository: repository.to_owned(),
            bytes: Vec::new(),
            state: 1,
            ended: false,
        };
        self.uploads.insert(id.clone(), upload);
        id
    }

    /// Any blob of any repository.
    pub fn any_blob(&self, digest: &str) -> Option<Arc<[u8]>> {
        self.repositories
            .values()
            .find_map(|r| r.blobs.get(digest).cloned())
    }
}

impl Repository {
    pub fn digest_of(&self, tag: &str) -> Option<&str> {
        self.tags
            .iter()
            .find(|(name, _)| name == tag)
            .map(|(_, digest)| digest.as_str())
    }

    pub fn tag(&mut self, tag: &str, digest: &str) {
        match self.tags.iter_mut().find(|(name, _)| name == tag) {
            Some((_, old)) => digest.clone_into(old),
            None => self.tags.push((tag.to_owned(), digest.to_owned())),
        }
    }

    /// Keeps a manifest under its own digest, or under the one given; gives that digest.
    pub fn put_manifest(&mut self, digest: Option<&str>, media_type: &str, bytes: &[u8]) -> String {
        let digest = digest.map_or_else(|| sha256(bytes), str::to_owned);
        let manifest = Manifest {
            digest: digest.clone(),
            media_type: media_type.to_owned(),
            bytes: bytes.to_vec(),
        };
        self.manifests.insert(digest.clone(), manifest);
        digest
    }
}
