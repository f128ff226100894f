//! What every command needs before its first request: log, client, and the registries to ask.

use super::Call;
use crate::auth::{self, Credentials};
use crate::context::Context;
use crate::error::{Doing, Error, Result};
use crate::http::{Client, Options};
use crate::oci::reference::Repository;
use crate::registry::Remote;
use crate::report::Report;
use crate::request::Source;
use crate::trust;
use crate::workers::Workers;

/// The variable that sets the number of workers.
const WORKERS: &str = "REGISTRY_IMAGE_WORKERS";

/// The log of a run, with what the request already gave reason to say.
pub(super) fn report(call: &Call<'_>, source: &Source) -> Report {
    let report = Report::new(source.debug, call.hidden.clone());
    for warning in &source.warnings {
        report.warn(warning);
    }
    report
}

pub(super) fn context<'a>(call: &Call<'a>, report: &'a Report) -> Result<Context<'a>> {
    let workers = match call.env.get(WORKERS) {
        None => Workers::for_this_machine(),
        Some(text) => match text.trim().parse() {
            Ok(n @ 1..=Workers::MOST) => Workers::new(n),
            _ => {
                return Err(Error::config(format!(
                    "the environment's `{WORKERS}` is `{text}`; it is a number from 1 to {}",
                    Workers::MOST
                )));
            }
        },
    };
    Ok(Context {
        env: call.env,
        clock: call.clock,
        report,
        workers,
    })
}

pub(super) fn client<'a>(context: &'a Context<'a>, source: &Source) -> Result<Client<'a>> {
    Client::new(context, &options(context, source)?)
}

/// The client for the notary server, where the put is to be signed.
pub(super) fn notary<'a>(
    context: &'a Context<'a>,
    source: &Source,
    repository: &Repository,
) -> Result<Option<Client<'a>>> {
    match &source.content_trust {
        Some(trust) => {
            let options = options(context, source)?;
            trust::client(context, options, trust, repository).map(Some)
        }
        None => Ok(None),
    }
}

fn options(context: &Context<'_>, source: &Source) -> Result<Options> {
    let of_login = auth::ca_certs(context.env, &source.login)?;
    Ok(Options {
        ca_certs: source.ca_certs.iter().cloned().chain(of_login).collect(),
        insecure: source.insecure,
        identity: None,
    })
}

/// The repository at its own registry. Its name there is the remote's: a cloud's login may add the
/// registry to what the user wrote.
pub(super) fn origin<'a>(client: &'a Client<'a>, source: &Source) -> Result<Remote<'a>> {
    let (repository, credentials) = auth::log_in(client, &source.login, &source.repository)?;
    Remote::new(client, repository, credentials)
}

/// The repository at its mirror; only Docker Hub's repositories have one.
pub(super) fn mirror<'a>(client: &'a Client<'a>, source: &Source) -> Result<Option<Remote<'a>>> {
    let Some(mirror) = &source.mirror else {
        return Ok(None);
    };
    if !source.repository.is_docker_hub() || source.login.names_registry() {
        return Ok(None);
    }
    let written = mirror.host.trim_end_matches('/');
    let (host, prefix) = written.split_once('/').unwrap_or((written, ""));
    let name = match prefix.is_empty() {
        true => source.repository.name().to_owned(),
        false => format!("{prefix}/{}", source.repository.name()),
    };
    let repository = source
        .repository
        .on_host(host, name)
        .doing(|| "`source.registry_mirror.host`")?;
    let credentials = Credentials::from_login(&mirror.login)?;
    Remote::of_mirror(client, repository, credentials).map(Some)
}

/// Tells that a mirror failed. Its login has fields of its own.
pub(super) fn mirror_failed(report: &Report, error: Error, instead: &str) {
    let error = match error.is_denied() {
        true => error.advise_instead(
            "check `source.registry_mirror.username` and `source.registry_mirror.password`",
        ),
        false => error,
    };
    report.warn(format!("the mirror failed: {error}; {instead}"));
}
