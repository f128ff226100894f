//! `out`: pushes an image from a directory.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::{Call, session};
use crate::error::{Doing, Error, Kind, Result};
use crate::glob::glob;
use crate::oci::reference::Tag;
use crate::push;
use crate::request::{Metadata, Produced, PutParams, PutRequest, Source, produced};
use crate::semver::{Wanted, WantedTags};
use crate::store;
use crate::trust::Signer;

/// A file of tags larger than this is another file.
const TAGS_LIMIT: u64 = 1 << 20;

/// Files that match a glob, of which a message names so many.
const LISTED: usize = 20;

pub(super) fn run(call: &Call<'_>, directory: &Path) -> Result<String> {
    let request = PutRequest::parse(call.request)?;
    let (source, params) = (&request.source, &request.params);
    let report = session::report(call, source);
    let context = session::context(call, &report)?;
    let wanted = wanted_tags(source, params, directory)?;
    for warning in wanted.warnings() {
        report.warn(warning);
    }
    let path = image_path(directory, &params.image)?;
    let image = store::open(&path, context.workers)?;
    let client = session::client(&context, source)?;
    let remote = session::origin(&client, source)?;
    let existing = match wanted.needs_list() {
        // A repository that does not exist yet has no tags.
        true => remote.tags()?.unwrap_or_default(),
        false => Vec::new(),
    };
    let names = wanted.tags(&existing)?;
    let tags = names
        .iter()
        .map(|name| Tag::parse(name))
        .collect::<Result<Vec<_>>>()?;
    // A put that is asked for a signature and gives none has not succeeded: what can be known to
    // fail fails before a tag moves.
    let notary = session::notary(&context, source, remote.repository())?;
    let signer = match (&source.content_trust, &notary) {
        (Some(trust), Some(notary)) => Some(Signer::prepare(
            notary,
            trust,
            &source.login,
            remote.repository(),
            &tags,
        )?),
        _ => None,
    };
    let pushed = push::push(&context, &remote, &image, &tags)?;
    if let Some(signer) = signer {
        signer.sign(&tags, &pushed.bytes)?;
    }
    let version = Produced {
        tag: names.first().map(String::as_str),
        digest: &pushed.descriptor.digest,
    };
    let metadata = [
        Metadata::new("repository", remote.repository().written()),
        Metadata::new("tags", names.join(" ")),
    ];
    Ok(produced(&version, &metadata))
}

/// The tags that the request asks for, before the registry is asked anything.
fn wanted_tags(source: &Source, params: &PutParams, directory: &Path) -> Result<WantedTags> {
    let name = params.additional_tags.as_deref();
    let file = name.map(|name| format!("`params.additional_tags` (`{name}`)"));
    let additional = match (name, &file) {
        (Some(name), Some(file)) => {
            Some(read_tags(&directory.join(name.trim_start_matches('/'))).doing(|| file.as_str())?)
        }
        _ => None,
    };
    Wanted {
        tag: source.tag.as_ref().map(Tag::as_str),
        variant: source.variant.as_ref().map(Tag::as_str),
        version: params.version.as_deref(),
        bump_aliases: params.bump_aliases,
        additional: additional.as_deref(),
        file: file.as_deref(),
        prefix: params.tag_prefix.as_deref(),
    }
    .check()
}

fn read_tags(path: &Path) -> Result<String> {
    let io = |error| Error::io(Kind::Local, error);
    let found = fs::metadata(path).map_err(io)?;
    // Nobody may ever write to a pipe.
    if !found.is_file() && !found.is_dir() {
        return Err(Error::local("it is not a regular file"));
    }
    let file = fs::File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    file.take(TAGS_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    if bytes.len() as u64 > TAGS_LIMIT {
        return Err(Error::local(format!("it has more than {TAGS_LIMIT} bytes")));
    }
    // No text has a NUL; a binary that happens to be UTF-8 is not listed tag by tag.
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(Error::local("it is not a text file")),
    }
}

/// The one file or directory that `params.image` names.
fn image_path(directory: &Path, pattern: &str) -> Result<PathBuf> {
    let mut found = glob(directory, pattern).doing(|| format!("`params.image` (`{pattern}`)"))?;
    match (found.pop(), found.is_empty()) {
        (Some(path), true) => Ok(path),
        (None, _) => Err(Error::new(
            Kind::Missing,
            format!("`params.image`: no files match glob `{pattern}`"),
        )
        .advise("the path is relative to the step's source directory; is the artifact an input of the put?")),
        (Some(last), false) => {
            found.push(last);
            let mut names: Vec<String> = found
                .iter()
                .take(LISTED)
                .map(|path| {
                    let below = path.strip_prefix(directory).unwrap_or(path);
                    format!("`{}`", below.display())
                })
                .collect();
            if let Some(more) = found.len().checked_sub(LISTED).filter(|more| *more > 0) {
                names.push(format!("and {more} more"));
            }
            Err(Error::config(format!(
                "`params.image`: too many files match glob `{pattern}`: {}",
                names.join(", ")
            )))
        }
    }
}
