//! The documents of one repository, each checked by the one before it: root, timestamp, snapshot,
//! targets, delegations. Nothing that is not checked leaves this file.
//!
//! The root is believed as the server gives it for the first time, for a put remembers nothing; it
//! must be signed by its own keys, in certificates that name the repository. From then on, within
//! the run, a root follows only from the one before, and no version goes back.

use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::{Map, Value};

use super::document::{Meta, Signed, Signers};
use crate::error::{Doing, Error, Kind, Result};
use crate::semver::Created;

/// A root or timestamp is read this far; notary's own limit for a timestamp.
const SMALL_LIMIT: u64 = 1 << 20;

/// A snapshot or list of targets is read this far: 200,000 tags. notary itself stops at 100 MiB.
const LARGE_LIMIT: u64 = 32 << 20;

/// Roles of one repository that are looked at, and how deep they nest.
const MOST_ROLES: usize = 256;
const MOST_LEVELS: usize = 8;

/// Roots that one run follows from one to the next; each is somebody rotating keys by hand.
const MOST_ROOTS: u64 = 32;

/// Reads a file of the repository at the server: its name, and the most bytes it may have.
pub(super) type Get<'g> = &'g dyn Fn(&str, u64) -> Result<Vec<u8>>;

/// All documents of a repository at one moment.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    root: Root,
    timestamp: Signed,
    pub(super) snapshot: Signed,
    /// `targets` first, then the delegations, parents before their children.
    pub(super) roles: Vec<Role>,
}

/// `targets`, or a delegation.
#[derive(Clone, Debug)]
pub(super) struct Role {
    pub(super) name: String,
    pub(super) signers: Signers,
    /// The beginnings of targets' names that it is for: its own, and those of all above it.
    paths: Vec<Vec<String>>,
    /// `None` for a delegation into which nothing was signed so far.
    pub(super) document: Option<Signed>,
    /// Why its document is not believed; then there is none.
    pub(super) broken: Option<String>,
}

impl Role {
    /// Whether a target of this name may be in it.
    pub(super) fn is_for(&self, target: &str) -> bool {
        self.paths
            .iter()
            .all(|level| level.iter().any(|start| target.starts_with(start.as_str())))
    }
}

#[derive(Clone, Debug)]
struct Root {
    document: Signed,
    root: Signers,
    timestamp: Signers,
    snapshot: Signers,
    targets: Signers,
}

impl Metadata {
    /// Whether nobody published between the two.
    pub(super) fn is_same(&self, other: &Metadata) -> bool {
        self.root.document.bytes() == other.root.document.bytes()
            && self.snapshot.bytes() == other.snapshot.bytes()
    }

    /// Who signs the snapshot.
    pub(super) fn snapshot_signers(&self) -> &Signers {
        &self.root.snapshot
    }

    pub(super) fn role(&self, name: &str) -> Option<&Role> {
        self.roles.iter().find(|role| role.name == name)
    }
}

/// Fetches and checks everything. `gun` is the name that the root is for, `known` what was there
/// before in this run.
///
/// # Errors
/// [`Kind::Missing`] when the repository has no root. A document that is expired, or that is not
/// what it should be: these are fetched once more, since somebody may publish in this moment.
pub(super) fn fetch(
    get: Get<'_>,
    gun: &str,
    now: Created,
    known: Option<&Metadata>,
) -> Result<Metadata> {
    let cache = Cache::new(get, known);
    let fetch = Fetch {
        cache: &cache,
        gun,
        now,
        known,
    };
    // The root that is known is most likely still the one.
    if let Some(known) = known {
        match fetch.below(known.root.clone()) {
            Err(error) if error.kind() == Kind::Hostile => {}
            outcome => return outcome,
        }
    }
    match fetch.through_root() {
        Err(error) if error.kind() == Kind::Hostile => fetch.through_root(),
        outcome => outcome,
    }
}

struct Fetch<'f> {
    cache: &'f Cache<'f>,
    gun: &'f str,
    now: Created,
    known: Option<&'f Metadata>,
}

impl Fetch<'_> {
    fn through_root(&self) -> Result<Metadata> {
        let root = self.root().map_err(|error| match error.is_missing() {
            true => error,
            false => error.doing("check `root`"),
        });
        self.below(root?)
    }

    fn root(&self) -> Result<Root> {
        let read = |name: &str| -> Result<Root> {
            let document = Signed::parse((self.cache.get)(name, SMALL_LIMIT)?)?;
            Root::read(document, self.gun, self.now)
        };
        let newest = read("root.json")?;
        let Some(known) = self.known else {
            newest.check_expiry(self.now)?;
            return Ok(newest);
        };
        let (from, to) = (known.root.document.version, newest.document.version);
        if to < from {
            return Err(went_back(from, to));
        }
        if to - from > MOST_ROOTS {
            return Err(Error::hostile(format!(
                "its version was {from} a moment ago and is {to} now"
            )));
        }
        let mut before = known.root.clone();
        for version in from + 1..to {
            let next = read(&format!("{version}.root.json")).map_err(lacking)?;
            next.follows(&before)?;
            before = next;
        }
        newest.follows(&before)?;
        newest.check_expiry(self.now)?;
        Ok(newest)
    }

    /// Everything that a root leads to.
    fn below(&self, root: Root) -> Result<Metadata> {
        let now = self.now;
        let timestamp = || -> Result<Signed> {
            let bytes = (self.cache.get)("timestamp.json", SMALL_LIMIT);
            let document = Signed::parse(bytes.map_err(lacking)?)?;
            document.verify("Timestamp", &root.timestamp, now)?;
            self.check_version(&document, |known| Some(&known.timestamp))?;
            Ok(document)
        };
        let timestamp = timestamp().doing(|| "check `timestamp`")?;
        let snapshot = || -> Result<Signed> {
            let document = self.listed(&timestamp, "snapshot", "timestamp")?;
            document.verify("Snapshot", &root.snapshot, now)?;
            self.check_version(&document, |known| Some(&known.snapshot))?;
            Ok(document)
        };
        let snapshot = snapshot().doing(|| "check `snapshot`")?;
        let listed = meta(&snapshot, "root", "snapshot").doing(|| "check `snapshot`")?;
        let fits = listed.check(root.document.bytes());
        fits.doing(|| "check `root` against `snapshot`")?;
        let roles = self.roles(&root, &snapshot)?;
        Ok(Metadata {
            root,
            timestamp,
            snapshot,
            roles,
        })
    }

    fn roles(&self, root: &Root, snapshot: &Signed) -> Result<Vec<Role>> {
        let mut targets = Role {
            name: "targets".to_owned(),
            signers: root.targets.clone(),
            paths: Vec::new(),
            document: None,
            broken: None,
        };
        let document = self.targets(&targets, snapshot);
        targets.document = Some(document.doing(|| "check `targets`")?);
        let mut seen = HashSet::new();
        let mut roles = Vec::new();
        let mut waiting = VecDeque::from([targets]);
        while let Some(role) = waiting.pop_front() {
            for mut child in delegations(&role) {
                if 1 + roles.len() + waiting.len() >= MOST_ROLES || !seen.insert(child.name.clone())
                {
                    continue;
                }
                if child.broken.is_none() && snapshot.meta(&child.name).is_some() {
                    match self.targets(&child, snapshot) {
                        Ok(document) => child.document = Some(document),
                        // Others may have broken what is not ours; whoever signs looks at it.
                        Err(error) if matches!(error.kind(), Kind::Hostile | Kind::Registry) => {
                            child.broken = Some(error.to_string());
                        }
                        Err(error) => return Err(error.doing(format!("check `{}`", child.name))),
                    }
                }
                waiting.push_back(child);
            }
            roles.push(role);
        }
        Ok(roles)
    }

    fn targets(&self, role: &Role, snapshot: &Signed) -> Result<Signed> {
        let document = self.listed(snapshot, &role.name, "snapshot")?;
        document.verify("Targets", &role.signers, self.now)?;
        self.check_version(&document, |known| known.role(&role.name)?.document.as_ref())?;
        Ok(document)
    }

    /// A document as another one lists it.
    fn listed(&self, list: &Signed, role: &str, name: &str) -> Result<Signed> {
        let meta = meta(list, role, name)?;
        Signed::parse(self.cache.exactly(role, &meta)?)
    }

    /// No version goes back while this run looks.
    fn check_version<'k>(
        &'k self,
        document: &Signed,
        known: impl FnOnce(&'k Metadata) -> Option<&'k Signed>,
    ) -> Result<()> {
        match self.known.and_then(known) {
            Some(known) if document.version < known.version => {
                Err(went_back(known.version, document.version))
            }
            _ => Ok(()),
        }
    }
}

fn went_back(from: u64, to: u64) -> Error {
    Error::hostile(format!("its version went back from {from} to {to}"))
}

fn meta(list: &Signed, role: &str, name: &str) -> Result<Meta> {
    let meta = list.meta(role);
    meta.ok_or_else(|| Error::hostile(format!("`{name}` lists no `{role}` that can be checked")))
}

impl Root {
    /// A root whose own keys signed it, for this repository. Whether it is still good is for the
    /// caller: on the way to a newer one it need not be.
    fn read(document: Signed, gun: &str, now: Created) -> Result<Self> {
        let keys = document.get("keys");
        let role = |name: &str| {
            let role = document.get("roles").and_then(|roles| roles.get(name));
            let role = role.ok_or_else(|| Error::hostile("it is not listed"));
            role.and_then(|role| Signers::read(role, keys))
                .doing(|| format!("role `{name}`"))
        };
        let root = role("root")?;
        let root = Root {
            timestamp: role("timestamp")?,
            snapshot: role("snapshot")?,
            targets: role("targets")?,
            root: Signers {
                keys: root.keys.clone(),
                threshold: root.threshold,
            },
            document,
        };
        root.document
            .verify_signatures(&root.root.named(gun, now)?)?;
        Ok(root)
    }

    fn check_expiry(&self, now: Created) -> Result<()> {
        self.document.verify_content("Root", now)
    }

    /// A new root is signed by the keys of the one before, too.
    fn follows(&self, before: &Root) -> Result<()> {
        let (old, new) = (&before.document, &self.document);
        if old.version == new.version {
            return match old.bytes() == new.bytes() {
                true => Ok(()),
                false => Err(Error::hostile(format!(
                    "it changed, and its version is still {}",
                    new.version
                ))),
            };
        }
        if new.version != old.version + 1 {
            return Err(Error::hostile(format!(
                "version {} follows version {}",
                new.version, old.version
            )));
        }
        new.verify_signatures(&before.root)
            .doing(|| "signatures of the root before")
    }
}

impl Signers {
    /// Those of a root's keys whose certificates are for this repository and have not ended: as
    /// notary does it, no others count.
    fn named(&self, gun: &str, now: Created) -> Result<Signers> {
        let mut ended = false;
        let mut named = Signers {
            threshold: self.threshold,
            ..Signers::default()
        };
        for key in &self.keys {
            let certificate = key.certificate.as_ref();
            let certificate = certificate.filter(|c| c.common_name.as_deref() == Some(gun));
            match certificate {
                Some(certificate) if certificate.has_ended(now) => ended = true,
                Some(_) => named.keys.push(key.clone()),
                None => {}
            }
        }
        match (named.keys.is_empty(), ended) {
            (false, _) => Ok(named),
            (true, true) => Err(Error::registry("the certificate of its key has expired")),
            (true, false) => Err(Error::hostile(format!(
                "it has no key whose certificate is for `{gun}`"
            ))),
        }
    }
}

/// The delegations that a role's document lists. What is listed wrongly is none, or broken.
fn delegations(role: &Role) -> Vec<Role> {
    let Some(delegations) = role.document.as_ref().and_then(|d| d.get("delegations")) else {
        return Vec::new();
    };
    let keys = delegations.get("keys");
    let listed = delegations.get("roles").and_then(Value::as_array);
    let listed = listed.map(Vec::as_slice).unwrap_or_default();
    let mut found = Vec::new();
    for entry in listed.iter().filter_map(Value::as_object) {
        let name = entry.get("name").and_then(Value::as_str);
        let Some(name) = name.filter(|name| is_child(&role.name, name)) else {
            continue;
        };
        let (signers, broken) = match Signers::read(&Value::Object(entry.clone()), keys) {
            Ok(signers) => (signers, None),
            Err(error) => (Signers::default(), Some(error.to_string())),
        };
        let mut paths = role.paths.clone();
        paths.push(starts(entry));
        found.push(Role {
            name: name.to_owned(),
            signers,
            paths,
            document: None,
            broken,
        });
    }
    found
}

fn starts(entry: &Map<String, Value>) -> Vec<String> {
    let paths = entry.get("paths").and_then(Value::as_array);
    let paths = paths.into_iter().flatten().filter_map(Value::as_str);
    paths.map(str::to_owned).collect()
}

/// Whether `name` is a delegation right below `parent`, in the letters that notary allows. It
/// becomes part of a URL.
fn is_child(parent: &str, name: &str) -> bool {
    let leaf = name
        .strip_prefix(parent)
        .and_then(|rest| rest.strip_prefix('/'));
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    leaf.is_some_and(|leaf| !leaf.is_empty() && leaf.bytes().all(good))
        && name.len() < 256
        && name.split('/').count() <= MOST_LEVELS
}

/// Only a repository without a root is missing; one without the rest is broken.
fn lacking(error: Error) -> Error {
    match error.is_missing() {
        true => Error::hostile(error.to_string()),
        false => error,
    }
}

/// Documents that are known by their hash need not be fetched again.
struct Cache<'g> {
    get: Get<'g>,
    known: HashMap<&'g str, &'g Signed>,
}

impl<'g> Cache<'g> {
    fn new(get: Get<'g>, known: Option<&'g Metadata>) -> Self {
        let mut cache = HashMap::new();
        if let Some(known) = known {
            cache.insert("snapshot", &known.snapshot);
            for role in &known.roles {
                cache.extend(role.document.as_ref().map(|d| (role.name.as_str(), d)));
            }
        }
        Cache { get, known: cache }
    }

    /// The bytes of a role's document that `meta` is of.
    fn exactly(&self, role: &str, meta: &Meta) -> Result<Vec<u8>> {
        if let Some(known) = self.known.get(role)
            && meta.check(known.bytes()).is_ok()
        {
            return Ok(known.bytes().to_vec());
        }
        if meta.length > LARGE_LIMIT {
            return Err(Error::hostile(format!(
                "it has {} bytes; {LARGE_LIMIT} are the most that is read",
                meta.length
            )));
        }
        let bytes = (self.get)(&meta.file(role), meta.length).map_err(lacking)?;
        meta.check(&bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
