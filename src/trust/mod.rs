//! Docker Content Trust: signs the tags of a put into a notary (v1) repository.
//!
//! Two steps: [`Signer::prepare`] before anything is pushed, so that what can be known to fail fails
//! before a tag moves; [`Signer::sign`] after it. What the server says is believed only as far as
//! signatures reach (`metadata`); no root key is ever made, and no repository.

mod canonical;
mod certificate;
mod decrypt;
mod der;
mod document;
mod keys;
mod metadata;
mod pem;
mod public;
mod server;
mod time;

use serde_json::{Map, Value};

use crate::auth::Credentials;
use crate::context::Context;
use crate::error::{Again, Doing, Error, Kind, Result};
use crate::http::{Client, Identity, Options, Url};
use crate::oci::reference::{Repository, Tag};
use crate::request::{ContentTrust, Login};
use crate::retry::{Attempts, Gate, Patience};
use document::{Meta, Signed, target_entry};
use keys::{Keys, PrivateKey};
use metadata::{Metadata, Role};
use server::{Published, Server};

/// The notary server of Docker Hub.
const DOCKER_HUB: &str = "https://notary.docker.io";

/// The delegation that docker believes before it believes `targets`.
const RELEASES: &str = "targets/releases";

/// A client for the notary server: that of the registry, with the certificate that the request
/// has for it.
///
/// # Errors
/// A server that is no URL; a certificate or key that cannot be read, or that do not belong
/// together.
pub(crate) fn client<'a>(
    context: &'a Context<'a>,
    options: Options,
    trust: &ContentTrust,
    repository: &Repository,
) -> Result<Client<'a>> {
    let server = server_of(trust, repository)?;
    let identity = trust.tls.as_ref().map(|(certificate, key)| Identity {
        server,
        certificate: certificate.clone(),
        key: key.clone(),
    });
    Client::new(
        context,
        &Options {
            identity,
            ..options
        },
    )
}

fn server_of(trust: &ContentTrust, repository: &Repository) -> Result<Url> {
    let field = "`source.content_trust.server`";
    let url = match &trust.server {
        Some(url) => Url::parse(url.trim()).map_err(|error| {
            Error::config(error.to_string())
                .doing(field)
                .advise("write it as `https://HOST`")
        })?,
        None if repository.is_docker_hub() => Url::parse(DOCKER_HUB)?,
        None => Url::parse(&format!("https://{}", repository.host()))?,
    };
    match url.target().contains('?') {
        true => Err(Error::config(format!("{field} has a query"))),
        false => Ok(url),
    }
}

/// Signs for one repository.
pub(crate) struct Signer<'a> {
    client: &'a Client<'a>,
    server: Server<'a>,
    /// Where that is, for people.
    place: String,
    /// The name that the repository has for TUF: `HOST[:PORT]/PATH`.
    gun: String,
    keys: Keys,
    key_id: String,
    metadata: Metadata,
    /// Roles and versions that this run published.
    published: Vec<(String, u64)>,
}

impl<'a> Signer<'a> {
    /// Opens the key, fetches and checks the repository's documents, and looks which roles the key
    /// may sign for `tags`. Nothing is changed.
    ///
    /// `source` is the login to use where the request has none of its own for the notary server.
    ///
    /// # Errors
    /// Whatever would make signing fail, as far as it can be known now.
    pub(crate) fn prepare(
        client: &'a Client<'a>,
        trust: &ContentTrust,
        source: &Login,
        repository: &Repository,
        tags: &[Tag],
    ) -> Result<Self> {
        let url = server_of(trust, repository)?;
        let place = url.to_string().trim_end_matches('/').to_owned();
        let gun = repository.to_string();
        let keys = Keys::open(&trust.repository_key, &trust.repository_passphrase)?;
        let key_id = trust.repository_key_id.trim().to_ascii_lowercase();
        let (login, advice) = match &trust.login {
            Login::Anonymous => (source, None),
            own => (
                own,
                Some(
                    "check `source.content_trust.username` and `source.content_trust.password`, and what they may do there",
                ),
            ),
        };
        let credentials = Credentials::from_login(login)?;
        let scopes = trust.scopes.as_deref();
        let server = Server::new(client, &url, &gun, credentials, scopes)?;
        let server = match advice {
            Some(advice) => server.advising(advice),
            None => server,
        };
        let doing = || doing(&gun, &place, &key_id);
        let metadata = fetch(client, &server, &gun, None).map_err(|error| match error.kind() {
            Kind::Missing => not_initialised(&gun, &error),
            _ => error,
        });
        let metadata = metadata.doing(doing)?;
        let signer = Signer {
            client,
            server,
            place,
            gun,
            keys,
            key_id,
            metadata,
            published: Vec::new(),
        };
        signer.check(tags).doing(|| signer.doing())?;
        Ok(signer)
    }

    /// Signs `manifest`, the bytes that were pushed, under all `tags`, publishes that, and reads it
    /// back.
    pub(crate) fn sign(mut self, tags: &[Tag], manifest: &[u8]) -> Result<()> {
        let signed = self.publish(tags, manifest);
        let signed = signed.and_then(|()| self.read_back(tags, manifest));
        signed
            .map_err(|error| error.noting("the tags are pushed, but not signed"))
            .doing(|| self.doing())
    }

    fn doing(&self) -> String {
        doing(&self.gun, &self.place, &self.key_id)
    }

    /// Whether everything there is to sign can be signed.
    fn check(&self, tags: &[Tag]) -> Result<()> {
        let plan = self.plan(tags)?;
        for role in &plan.roles {
            role.signable()?;
        }
        let signers = self.metadata.snapshot_signers();
        let probe = match plan.snapshot_key {
            // Who may not publish is told by this request as well.
            Some(_) => "timestamp",
            None => "snapshot",
        };
        let theirs = self.server.key_of(probe)?;
        let report = self.client.context().report;
        match (plan.snapshot_key, theirs.and_then(|key| key.core)) {
            (None, Some(core)) if signers.ids_of(&core).is_empty() => {
                let locked = match self.keys.locked() {
                    [] => String::new(),
                    locked => format!(
                        "; the passphrase does not open {} in `repository_key`",
                        locked.join(", ")
                    ),
                };
                return Err(Error::config(format!(
                    "role `snapshot`: its key {} is neither at the server nor in `source.content_trust.repository_key`{locked}",
                    signers.listed()
                ))
                .advise(format!(
                    "give it to the server (`notary key rotate {} snapshot -r`)",
                    self.gun
                )));
            }
            _ => {}
        }
        let names: Vec<&str> = plan
            .roles
            .iter()
            .map(|role| role.role.name.as_str())
            .collect();
        report.debug(|| format!("{}: {}", self.doing(), names.join(", ")));
        Ok(())
    }

    /// Which roles sign which tags.
    fn plan<'p>(&'p self, tags: &'p [Tag]) -> Result<Plan<'p>> {
        let key = self.key()?;
        let mut plan = Plan {
            roles: Vec::new(),
            snapshot_key: self.snapshot_key()?,
        };
        let mine = |role: &'p Role| {
            let ids = role.signers.ids_of(&key.core);
            (!ids.is_empty()).then_some(ids)
        };
        let mut covered = vec![false; tags.len()];
        let (targets, delegations) = match self.metadata.roles.split_first() {
            Some(split) => split,
            None => return Err(Error::hostile("there is no `targets`")),
        };
        for role in delegations {
            let Some(ids) = mine(role) else { continue };
            let fits = |tag: &&Tag| role.is_for(tag.as_str());
            let for_it: Vec<&Tag> = tags.iter().filter(fits).collect();
            if for_it.is_empty() {
                continue;
            }
            for (tag, covered) in tags.iter().zip(&mut covered) {
                *covered |= for_it.contains(&tag);
            }
            plan.roles.push(Share {
                role,
                key,
                ids,
                tags: for_it,
            });
        }
        let left = tags.iter().zip(&covered);
        let left: Vec<&Tag> = left
            .filter(|(_, done)| !**done)
            .map(|(tag, _)| tag)
            .collect();
        if left.is_empty() {
            return Ok(plan);
        }
        match mine(targets) {
            Some(ids) => plan.roles.push(Share {
                role: targets,
                key,
                ids,
                tags: left,
            }),
            None => return Err(self.may_not(&left)),
        }
        Ok(plan)
    }

    /// The key that the request names, by its own id or by that of a certificate around it.
    fn key(&self) -> Result<&PrivateKey> {
        if let Some(key) = self.keys.with_id(&self.key_id) {
            return Ok(key);
        }
        let listed = self
            .metadata
            .roles
            .iter()
            .flat_map(|role| &role.signers.keys);
        let named = listed.filter(|key| key.id == self.key_id);
        let mut cores = named.filter_map(|key| key.core.as_ref());
        if let Some(key) = cores.find_map(|core| self.keys.with_core(core)) {
            return Ok(key);
        }
        let held: Vec<String> = self
            .keys
            .iter()
            .map(|key| format!("`{}`", key.id))
            .collect();
        Err(Error::config(format!(
            "`source.content_trust.repository_key_id` is `{}`, and `repository_key` holds {}",
            self.key_id,
            held.join(", ")
        )))
    }

    /// The key of the snapshot, where we have it: then the snapshot is ours to sign.
    fn snapshot_key(&self) -> Result<Option<(&PrivateKey, Vec<&str>)>> {
        let signers = self.metadata.snapshot_signers();
        let held = self.keys.iter().find_map(|key| {
            let ids = signers.ids_of(&key.core);
            (!ids.is_empty()).then_some((key, ids))
        });
        match held {
            Some(_) if signers.threshold > 1 => Err(Error::config(format!(
                "role `snapshot` needs {} signatures; one key cannot give them",
                signers.threshold
            ))),
            held => Ok(held),
        }
    }

    fn may_not(&self, tags: &[&Tag]) -> Error {
        let roles: Vec<String> = self
            .metadata
            .roles
            .iter()
            .map(|role| format!("`{}` is signed by {}", role.name, role.signers.listed()))
            .collect();
        Error::config(format!(
            "this key may not sign {} in any role: {}",
            listed(tags),
            roles.join("; ")
        ))
    }

    fn publish(&mut self, tags: &[Tag], manifest: &[u8]) -> Result<()> {
        let context = self.client.context();
        let mut attempts = Attempts::new(context.clock, Patience::SERVICE);
        let mut refused: Option<Error> = None;
        let mut is_first = true;
        loop {
            let now = fetch(self.client, &self.server, &self.gun, Some(&self.metadata))?;
            let is_changed = !now.is_same(&self.metadata);
            self.metadata = now;
            if let Some(error) = refused.take().filter(|_| !is_changed) {
                return Err(error);
            }
            // The answer to an upload may have been lost, and the next told us that it is too old.
            if !is_first && self.is_signed(tags, manifest)? {
                return Ok(());
            }
            is_first = false;
            let documents = self.next(tags, manifest)?;
            let parts: Vec<(&str, &[u8])> = documents
                .iter()
                .map(|(role, document)| (role.as_str(), document.bytes()))
                .collect();
            let roles: Vec<&str> = parts.iter().map(|(role, _)| *role).collect();
            let outcome = self.server.publish(&parts);
            let doing = || format!("publish {}", roles.join(", "));
            match outcome.doing(doing)? {
                Published::Done => {
                    let tags: Vec<&Tag> = tags.iter().collect();
                    context.report.info(format!(
                        "signed {} into {} of {} at {}",
                        listed(&tags),
                        roles.join(", "),
                        self.gun,
                        self.place
                    ));
                    self.warn_of_releases(&tags, manifest, &roles);
                    let versions = documents.iter();
                    let versions =
                        versions.map(|(role, document)| (role.clone(), document.version));
                    self.published = versions.collect();
                    return Ok(());
                }
                // What it was made of may have changed: then it is made again.
                Published::Refused(error) => refused = Some(error.doing(doing())),
                Published::TooOld => {
                    let error = Error::registry("somebody else published in between")
                        .again(Again::Later { after: None });
                    attempts.wait_after(error, &Gate::default(), context.report)?;
                }
            }
        }
    }

    /// The new documents of all roles that sign, and of the snapshot where that is ours.
    fn next(&self, tags: &[Tag], manifest: &[u8]) -> Result<Vec<(String, Signed)>> {
        let plan = self.plan(tags)?;
        let now = self.client.context().clock.now();
        let expires = time::rfc3339(now + time::LIFE);
        let mut documents = Vec::new();
        for share in &plan.roles {
            share.signable()?;
            let entries: Map<String, Value> = share
                .tags
                .iter()
                .map(|tag| (tag.as_str().to_owned(), target_entry(manifest)))
                .collect();
            let first = Signed::empty_targets();
            let current = share.role.document.as_ref().unwrap_or(&first);
            let next = current.next("targets", entries, &expires, share.key, &share.ids);
            let next = next.doing(|| format!("role `{}`", share.role.name))?;
            documents.push((share.role.name.clone(), next));
        }
        if let Some((key, ids)) = plan.snapshot_key {
            let listed = documents
                .iter()
                .map(|(role, document)| (role.clone(), Meta::describe(document.bytes())));
            let listed: Map<String, Value> = listed.collect();
            let snapshot = &self.metadata.snapshot;
            let next = snapshot.next("meta", listed, &expires, key, &ids);
            documents.push(("snapshot".to_owned(), next.doing(|| "role `snapshot`")?));
        }
        Ok(documents)
    }

    /// Whether every role that is to sign has what is to be signed.
    fn is_signed(&self, tags: &[Tag], manifest: &[u8]) -> Result<bool> {
        let entry = target_entry(manifest);
        Ok(self.plan(tags)?.roles.iter().all(|share| {
            let document = share.role.document.as_ref();
            let has = |tag: &&Tag| {
                let found = document.and_then(|document| document.target(tag.as_str()));
                found == Some(&entry)
            };
            share.tags.iter().all(has)
        }))
    }

    /// Waits until what was published is what a client sees.
    fn read_back(&mut self, tags: &[Tag], manifest: &[u8]) -> Result<()> {
        let context = self.client.context();
        let mut attempts = Attempts::new(context.clock, Patience::SERVICE);
        loop {
            self.metadata = fetch(self.client, &self.server, &self.gun, Some(&self.metadata))?;
            if self.is_signed(tags, manifest)? {
                return Ok(());
            }
            if self.is_overtaken() {
                context.report.warn(format!(
                    "somebody else signed other images into {} meanwhile",
                    self.gun
                ));
                return Ok(());
            }
            let error = Error::registry("it was published, but cannot be read back")
                .again(Again::Later { after: None });
            attempts.wait_after(error, &Gate::default(), context.report)?;
        }
    }

    /// Whether a role has a newer version than the one that this run published.
    fn is_overtaken(&self) -> bool {
        self.published.iter().any(|(name, version)| {
            let role = self.metadata.role(name);
            let document = role.and_then(|role| role.document.as_ref());
            document.is_some_and(|document| document.version > *version)
        })
    }

    /// docker looks into `targets/releases` first: what an older put left there hides what is new
    /// in `targets`.
    fn warn_of_releases(&self, tags: &[&Tag], manifest: &[u8], signed: &[&str]) {
        let releases = self
            .metadata
            .role(RELEASES)
            .and_then(|role| role.document.as_ref());
        let (Some(releases), false) = (releases, signed.contains(&RELEASES)) else {
            return;
        };
        let entry = target_entry(manifest);
        for tag in tags {
            let hides = |found: &Value| *found != entry;
            if releases.target(tag.as_str()).is_some_and(hides) {
                self.client.context().report.warn(format!(
                    "`{RELEASES}` of {} has another image as {tag}, which docker believes first; this key may not sign there",
                    self.gun
                ));
            }
        }
    }
}

/// What is to be signed.
struct Plan<'p> {
    roles: Vec<Share<'p>>,
    snapshot_key: Option<(&'p PrivateKey, Vec<&'p str>)>,
}

/// The part of one role.
struct Share<'p> {
    role: &'p Role,
    key: &'p PrivateKey,
    /// The ids that the key has in this role.
    ids: Vec<&'p str>,
    tags: Vec<&'p Tag>,
}

impl Share<'_> {
    /// Whether a signature of this key makes a good document.
    fn signable(&self) -> Result<()> {
        let name = &self.role.name;
        if let Some(why) = &self.role.broken {
            return Err(Error::registry(format!("check `{name}`: {why}")));
        }
        match self.role.signers.threshold {
            0 | 1 => Ok(()),
            n => Err(Error::config(format!(
                "role `{name}` needs {n} signatures; one key cannot give them"
            ))),
        }
    }
}

fn doing(gun: &str, place: &str, key_id: &str) -> String {
    format!("sign {gun} at {place} with key {key_id}")
}

fn listed(tags: &[&Tag]) -> String {
    let tags: Vec<&str> = tags.iter().map(|tag| tag.as_str()).collect();
    tags.join(", ")
}

fn not_initialised(gun: &str, error: &Error) -> Error {
    Error::new(
        Kind::Missing,
        format!("the repository has no trust data ({error})"),
    )
    .advise(format!(
        "initialise it once: `notary init -p {gun}` and `notary key rotate {gun} snapshot -r`, or `docker trust sign`"
    ))
}

fn fetch(
    client: &Client<'_>,
    server: &Server<'_>,
    gun: &str,
    known: Option<&Metadata>,
) -> Result<Metadata> {
    let now = time::comparable(client.context().clock.now());
    metadata::fetch(&|file, limit| server.get(file, limit), gun, now, known)
}
