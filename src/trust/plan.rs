//! Which roles sign which tags with the key of a request, and the documents that come of it. No
//! network, no time: the same metadata and keys give the same plan.

use serde_json::{Map, Value};

use super::document::{Meta, Signed, target_entry};
use super::keys::{Keys, PrivateKey};
use super::metadata::{Metadata, Role};
use crate::error::{Doing, Error, Result};
use crate::oci::reference::Tag;

/// What is to be signed.
pub(super) struct Plan<'p> {
    metadata: &'p Metadata,
    shares: Vec<Share<'p>>,
    snapshot: Option<(&'p PrivateKey, Vec<&'p str>)>,
}

/// The part of one role.
struct Share<'p> {
    role: &'p Role,
    key: &'p PrivateKey,
    /// The ids that the key has in this role.
    ids: Vec<&'p str>,
    tags: Vec<&'p Tag>,
}

impl<'p> Plan<'p> {
    /// Every tag goes into all delegations that the key may sign and that are for its name; where
    /// there is none, into `targets`, if that is the key's.
    ///
    /// # Errors
    /// A key that is not the one the request names; a tag that it may not sign in any role; a role
    /// that one signature is not enough for, or whose document is not believed.
    pub(super) fn of(
        metadata: &'p Metadata,
        keys: &'p Keys,
        key_id: &str,
        tags: &'p [Tag],
    ) -> Result<Self> {
        let key = named_key(metadata, keys, key_id)?;
        let Some((targets, delegations)) = metadata.roles.split_first() else {
            return Err(Error::hostile("there is no `targets`"));
        };
        let share = |role: &'p Role, tags: Vec<&'p Tag>| {
            let ids = role.signers.ids_of(&key.core);
            (!ids.is_empty() && !tags.is_empty()).then_some(Share {
                role,
                key,
                ids,
                tags,
            })
        };
        let mut shares: Vec<Share<'p>> = delegations
            .iter()
            .filter_map(|role| {
                let tags = tags.iter().filter(|tag| role.is_for(tag.as_str()));
                share(role, tags.collect())
            })
            .collect();
        let is_left = |tag: &&Tag| !shares.iter().any(|share| share.tags.contains(tag));
        let left: Vec<&Tag> = tags.iter().filter(is_left).collect();
        if !left.is_empty() {
            let refused = may_not(metadata, &left);
            shares.push(share(targets, left).ok_or(refused)?);
        }
        for share in &shares {
            share.check()?;
        }
        Ok(Plan {
            metadata,
            shares,
            snapshot: snapshot_key(metadata, keys)?,
        })
    }

    /// The roles that sign.
    pub(super) fn roles(&self) -> impl Iterator<Item = &'p str> {
        self.shares.iter().map(|share| share.role.name.as_str())
    }

    /// Whether the snapshot is signed by us: else it is the server's.
    pub(super) fn signs_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// The new documents of all roles that sign, each with its name, and of the snapshot where that
    /// is ours.
    pub(super) fn documents(
        &self,
        manifest: &[u8],
        expires: &str,
    ) -> Result<Vec<(String, Signed)>> {
        let mut documents = Vec::new();
        for share in &self.shares {
            let name = &share.role.name;
            let entries = share.tags.iter();
            let entries = entries.map(|tag| (tag.as_str().to_owned(), target_entry(manifest)));
            let entries: Map<String, Value> = entries.collect();
            let first = Signed::empty_targets();
            let current = share.role.document.as_ref().unwrap_or(&first);
            let next = current.next("targets", entries, expires, share.key, &share.ids);
            documents.push((name.clone(), next.doing(|| format!("role `{name}`"))?));
        }
        if let Some((key, ids)) = &self.snapshot {
            let listed = documents.iter();
            let listed = listed.map(|(role, next)| (role.clone(), Meta::describe(next.bytes())));
            let listed: Map<String, Value> = listed.collect();
            let snapshot = &self.metadata.snapshot;
            let next = snapshot.next("meta", listed, expires, key, ids);
            documents.push(("snapshot".to_owned(), next.doing(|| "role `snapshot`")?));
        }
        Ok(documents)
    }

    /// Whether every role that signs has what is to be signed.
    pub(super) fn is_done(&self, manifest: &[u8]) -> bool {
        let entry = target_entry(manifest);
        self.shares.iter().all(|share| {
            let document = share.role.document.as_ref();
            let found = |tag: &&Tag| document.and_then(|document| document.target(tag.as_str()));
            share.tags.iter().all(|tag| found(tag) == Some(&entry))
        })
    }
}

impl Share<'_> {
    /// Whether a signature of this key makes a good document.
    fn check(&self) -> Result<()> {
        let name = &self.role.name;
        if let Some(why) = &self.role.broken {
            return Err(Error::registry(format!("check `{name}`: {why}")));
        }
        one_is_enough(name, self.role.signers.threshold)
    }
}

fn one_is_enough(role: &str, threshold: u64) -> Result<()> {
    match threshold {
        0 | 1 => Ok(()),
        n => Err(Error::config(format!(
            "role `{role}` needs {n} signatures; one key cannot give them"
        ))),
    }
}

/// The key that the request names, by its own id or by that of a certificate around it.
fn named_key<'p>(metadata: &Metadata, keys: &'p Keys, id: &str) -> Result<&'p PrivateKey> {
    let listed = metadata.roles.iter().flat_map(|role| &role.signers.keys);
    let named = listed.filter(|key| key.id == id);
    let mut cores = named.filter_map(|key| key.core.as_ref());
    let wrapped = || cores.find_map(|core| keys.with_core(core));
    keys.with_id(id).or_else(wrapped).ok_or_else(|| {
        let held: Vec<String> = keys.iter().map(|key| format!("`{}`", key.id)).collect();
        Error::config(format!(
            "`source.content_trust.repository_key_id` is `{id}`, and `repository_key` holds {}",
            held.join(", ")
        ))
    })
}

/// The key of the snapshot, where we have it.
fn snapshot_key<'p>(
    metadata: &'p Metadata,
    keys: &'p Keys,
) -> Result<Option<(&'p PrivateKey, Vec<&'p str>)>> {
    let signers = metadata.snapshot_signers();
    let held = keys.iter().find_map(|key| {
        let ids = signers.ids_of(&key.core);
        (!ids.is_empty()).then_some((key, ids))
    });
    if held.is_some() {
        one_is_enough("snapshot", signers.threshold)?;
    }
    Ok(held)
}

fn may_not(metadata: &Metadata, tags: &[&Tag]) -> Error {
    let roles = metadata.roles.iter();
    let roles = roles.map(|role| format!("`{}` is signed by {}", role.name, role.signers.listed()));
    let roles: Vec<String> = roles.collect();
    let tags: Vec<&str> = tags.iter().map(|tag| tag.as_str()).collect();
    Error::config(format!(
        "this key may not sign {} in any role: {}",
        tags.join(", "),
        roles.join("; ")
    ))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use super::*;
    use crate::trust::testing::{Repository, Spoil, now};

    const EXPIRES: &str = "2029-11-25T00:00:00Z";

    fn tags<const N: usize>(names: [&str; N]) -> Vec<Tag> {
        names.map(|name| Tag::parse(name).unwrap()).to_vec()
    }

    /// The keys of these roles.
    fn keys<const N: usize>(repository: &mut Repository, roles: [&str; N]) -> (Keys, String) {
        let keys = roles.map(|role| repository.keys.remove(role).unwrap());
        let id = keys[0].id.clone();
        (Keys::of(keys), id)
    }

    #[test]
    fn what_is_signed_verifies_and_keeps_what_it_does_not_know() {
        let mut repository = Repository::new().edit("targets/releases", |signed| {
            signed["x-unknown"] = json!({"b": [1, null], "a": "<&\u{1}é"});
            signed["targets"] = json!({
                "old": {"hashes": {"sha256": "AAAA"}, "length": 3, "custom": {"n": 12345678901234567890u64}},
                "v1": {"hashes": {"sha256": "AAAA", "sha512": "BBBB"}, "length": 4, "custom": {}},
            });
        });
        let spoil: Spoil = |bytes| {
            let mut document: Value = serde_json::from_slice(bytes).unwrap();
            document["x-envelope"] = json!(7);
            *bytes = serde_json::to_vec(&document).unwrap();
        };
        repository.before.insert("targets/releases", spoil);
        let metadata = repository.fetch(None).unwrap();
        let before = repository.signed["targets/releases"].clone();
        let (keys, id) = keys(&mut repository, ["targets/releases"]);
        let tags = tags(["v1", "v2"]);
        let plan = Plan::of(&metadata, &keys, &id, &tags).unwrap();
        assert!(!plan.is_done(b"manifest") && !plan.signs_snapshot());
        let mut documents = plan.documents(b"manifest", EXPIRES).unwrap();
        let (name, document) = documents.remove(0);
        assert!(documents.is_empty());
        assert_eq!(name, "targets/releases");

        let again = Signed::parse(document.bytes().to_vec()).unwrap();
        let signers = &metadata.role(&name).unwrap().signers;
        again.verify("Targets", signers, now()).unwrap();
        let mut expected = before;
        let entry = json!({
            "hashes": {"sha256": STANDARD.encode(<sha2::Sha256 as sha2::Digest>::digest(b"manifest"))},
            "length": 8,
        });
        expected["version"] = json!(4);
        expected["expires"] = json!(EXPIRES);
        expected["targets"]["v1"] = entry.clone();
        expected["targets"]["v2"] = entry;
        let whole: Value = serde_json::from_slice(document.bytes()).unwrap();
        assert_eq!(whole["signed"], expected);
        assert_eq!(whole["x-envelope"], json!(7));
        assert!(
            document
                .bytes()
                .starts_with(br#"{"signed":{"_type":"Targets","#)
        );
    }

    #[test]
    fn the_first_document_of_a_delegation_is_version_one() {
        let mut repository = Repository::new();
        repository
            .listed
            .insert("targets/releases", |meta| *meta = Value::Null);
        let metadata = repository.fetch(None).unwrap();
        let (keys, id) = keys(&mut repository, ["targets/releases"]);
        let tags = tags(["v1"]);
        let plan = Plan::of(&metadata, &keys, &id, &tags).unwrap();
        let documents = plan.documents(b"manifest", EXPIRES).unwrap();
        let whole: Value = serde_json::from_slice(documents[0].1.bytes()).unwrap();
        let signed = &whole["signed"];
        assert_eq!(signed["version"], json!(1));
        assert_eq!(signed["_type"], json!("Targets"));
        assert_eq!(signed["delegations"], json!({"keys": {}, "roles": []}));
    }

    #[test]
    fn the_snapshot_lists_what_is_signed_where_its_key_is_ours() {
        let mut repository = Repository::new();
        let metadata = repository.fetch(None).unwrap();
        let (keys, id) = keys(&mut repository, ["targets", "snapshot"]);
        let tags = tags(["v1"]);
        let plan = Plan::of(&metadata, &keys, &id, &tags).unwrap();
        assert!(plan.signs_snapshot());
        let documents = plan.documents(b"manifest", EXPIRES).unwrap();
        let names: Vec<&str> = documents.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["targets", "snapshot"]);
        let (targets, snapshot) = (&documents[0].1, &documents[1].1);
        snapshot
            .verify("Snapshot", metadata.snapshot_signers(), now())
            .unwrap();
        assert_eq!(snapshot.version, metadata.snapshot.version + 1);
        snapshot
            .meta("targets")
            .unwrap()
            .check(targets.bytes())
            .unwrap();
        for other in ["root", "targets/releases"] {
            let file = |signed: &Signed| signed.meta(other).unwrap().file(other);
            assert_eq!(file(snapshot), file(&metadata.snapshot));
        }
    }

    #[test]
    fn what_one_good_signature_does_not_make_good_is_refused() {
        let refused = |mut repository: Repository, role: &'static str| {
            let metadata = repository.fetch(None).unwrap();
            let (keys, id) = keys(&mut repository, [role]);
            let tags = tags(["v1"]);
            let error = Plan::of(&metadata, &keys, &id, &tags).err().unwrap();
            error.to_string()
        };
        let expired = Repository::new().edit("targets/releases", |signed| {
            signed["expires"] = json!("2026-01-01T00:00:00Z");
        });
        assert_eq!(
            refused(expired, "targets/releases"),
            "check `targets/releases`: it expired at 2026-01-01T00:00:00Z"
        );
        let mut unsigned = Repository::new();
        unsigned
            .listed
            .insert("targets/releases", |meta| *meta = Value::Null);
        let two = unsigned.edit("targets", |signed| {
            signed["delegations"]["roles"][0]["threshold"] = json!(2);
        });
        assert_eq!(
            refused(two, "targets/releases"),
            "role `targets/releases` needs 2 signatures; one key cannot give them"
        );
        // What is another's may be broken.
        let expired = Repository::new().edit("targets/releases", |signed| {
            signed["expires"] = json!("2026-01-01T00:00:00Z");
        });
        let mut repository = expired;
        let metadata = repository.fetch(None).unwrap();
        let (keys, id) = keys(&mut repository, ["targets"]);
        let tags = tags(["v1"]);
        let plan = Plan::of(&metadata, &keys, &id, &tags).unwrap();
        assert_eq!(plan.roles().collect::<Vec<_>>(), ["targets"]);
    }
}
