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
mod listed;
mod metadata;
mod pem;
mod plan;
mod public;
mod server;
#[cfg(test)]
mod testing;
mod time;

use serde_json::Value;

use crate::auth::{self, Credentials};
use crate::context::Context;
use crate::error::{Again, Doing, Error, Kind, Result};
use crate::http::{Client, Identity, Options, Url};
use crate::oci::reference::{Repository, Tag};
use crate::request::{ContentTrust, Login};
use crate::retry::{Attempts, Gate, Patience};
use document::target_entry;
use keys::Keys;
use metadata::Metadata;
use plan::Plan;
use server::{Published, Server};

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
        None => Url::parse(&format!("https://{}", repository.notary_host()))?,
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
        let key_id = key_id(trust)?;
        let keys = Keys::open(&trust.repository_key, &trust.repository_passphrase)?;
        let (login, advice) = match &trust.login {
            Login::Anonymous => (source, None),
            own => (
                own,
                Some(
                    "check `source.content_trust.username` and `source.content_trust.password`, and what they may do there",
                ),
            ),
        };
        let credentials = credentials(client, login, &url, repository)?;
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

    fn plan<'p>(&'p self, tags: &'p [Tag]) -> Result<Plan<'p>> {
        Plan::of(&self.metadata, &self.keys, &self.key_id, tags)
    }

    /// Whether everything there is to sign can be signed.
    fn check(&self, tags: &[Tag]) -> Result<()> {
        let plan = self.plan(tags)?;
        let report = self.client.context().report;
        let roles: Vec<&str> = plan.roles().collect();
        report.debug(|| format!("{}: {}", self.doing(), roles.join(", ")));
        if plan.signs_snapshot() {
            // Who may not publish is told by this request.
            return self.server.key_of("timestamp").map(drop);
        }
        // A server that does not hold this key makes another one, and nobody uses it.
        let theirs = self.server.key_of("snapshot")?.and_then(|key| key.core);
        let signers = self.metadata.snapshot_signers();
        match theirs {
            Some(core) if signers.ids_of(&core).is_empty() => Err(self.lost_snapshot_key()),
            _ => Ok(()),
        }
    }

    fn lost_snapshot_key(&self) -> Error {
        let locked = match self.keys.locked() {
            [] => String::new(),
            locked => format!(
                "; the passphrase does not open {} in `repository_key`",
                locked.join(", ")
            ),
        };
        let why = format!(
            "role `snapshot`: its key {} is neither at the server nor in `source.content_trust.repository_key`{locked}",
            self.metadata.snapshot_signers().listed()
        );
        Error::config(why).advise(format!(
            "give it to the server (`notary key rotate {} snapshot -r`)",
            self.gun
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
            if let Some(error) = refused.take() {
                if !is_changed {
                    return Err(error);
                }
                let error = error.again(Again::Later { after: None });
                attempts.wait_after(error, &Gate::default(), context.report)?;
            }
            // The answer to an upload may have been lost, and the next told us that it is too old.
            let plan = self.plan(tags)?;
            if !is_first && plan.is_done(manifest) {
                return Ok(());
            }
            is_first = false;
            let expires = time::rfc3339(context.clock.now() + time::LIFE);
            let documents = plan.documents(manifest, &expires)?;
            let parts: Vec<(&str, &[u8])> = documents
                .iter()
                .map(|(role, document)| (role.as_str(), document.bytes()))
                .collect();
            let roles: Vec<&str> = parts.iter().map(|(role, _)| *role).collect();
            let outcome = self.server.publish(&parts);
            let doing = || format!("publish {}", roles.join(", "));
            match outcome.doing(doing)? {
                Published::Done => {
                    let names: Vec<&str> = tags.iter().map(Tag::as_str).collect();
                    context.report.info(format!(
                        "signed {} into {} of {} at {}",
                        names.join(", "),
                        roles.join(", "),
                        self.gun,
                        self.place
                    ));
                    self.warn_of_releases(tags, manifest, &roles);
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

    /// Waits until what was published is what a client sees.
    fn read_back(&mut self, tags: &[Tag], manifest: &[u8]) -> Result<()> {
        let context = self.client.context();
        let mut attempts = Attempts::new(context.clock, Patience::SERVICE);
        loop {
            self.metadata = fetch(self.client, &self.server, &self.gun, Some(&self.metadata))?;
            if self.plan(tags)?.is_done(manifest) {
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
    fn warn_of_releases(&self, tags: &[Tag], manifest: &[u8], signed: &[&str]) {
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

/// The login of a cloud is for its registry: a notary server elsewhere does not see it.
fn credentials(
    client: &Client<'_>,
    login: &Login,
    server: &Url,
    repository: &Repository,
) -> Result<Credentials> {
    let is_cloud = matches!(login, Login::Azure(_) | Login::Ecr(_));
    let registry = Url::parse(&format!("https://{}", repository.host()))?;
    match is_cloud && !server.same_origin(&registry) {
        true => Ok(Credentials::Anonymous),
        false => Ok(auth::log_in(client, login, repository)?.1),
    }
}

/// The id of the key to sign with. What is none may be the key itself, and is not shown.
fn key_id(trust: &ContentTrust) -> Result<String> {
    let id = trust.repository_key_id.trim().to_ascii_lowercase();
    match id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(id),
        false => Err(Error::config(
            "`source.content_trust.repository_key_id` is not the id of a key",
        )
        .advise("it has 64 hexadecimal digits, as `notary key list` shows them")),
    }
}

fn doing(gun: &str, place: &str, key_id: &str) -> String {
    format!("sign {gun} at {place} with key {key_id}")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn the_server_is_the_one_named_or_the_registrys() {
        let server = |repository: &str, server: Option<&str>| {
            let trust = ContentTrust {
                server: server.map(str::to_owned),
                repository_key_id: String::new(),
                repository_key: Secret::new(""),
                repository_passphrase: Secret::new(""),
                tls: None,
                login: Login::Anonymous,
                scopes: None,
            };
            let repository = Repository::parse(repository).unwrap();
            match server_of(&trust, &repository) {
                Ok(url) => format!("{} {repository}", url.expose()),
                Err(error) => error.to_string(),
            }
        };
        for (repository, named, expected) in [
            (
                "busybox",
                None,
                "https://notary.docker.io/ docker.io/library/busybox",
            ),
            ("a/b", None, "https://notary.docker.io/ docker.io/a/b"),
            (
                "docker.io/a/b",
                None,
                "https://notary.docker.io/ docker.io/a/b",
            ),
            ("ghcr.io/a/b", None, "https://ghcr.io/ ghcr.io/a/b"),
            (
                "localhost:5000/a",
                None,
                "https://localhost:5000/ localhost:5000/a",
            ),
            ("[::1]:5000/a", None, "https://[::1]:5000/ [::1]:5000/a"),
            (
                "a/b",
                Some(" https://notary.example.com:4443/x/ "),
                "https://notary.example.com:4443/x/ docker.io/a/b",
            ),
            (
                "a/b",
                Some("https://notary.example.com?x"),
                "`source.content_trust.server` has a query",
            ),
            (
                "a/b",
                Some("notary.example.com"),
                "`source.content_trust.server`: `notary.example.com` is not a URL: it has no scheme; write it as `https://HOST`",
            ),
        ] {
            assert_eq!(
                server(repository, named),
                expected,
                "{repository} {named:?}"
            );
        }
    }
}
