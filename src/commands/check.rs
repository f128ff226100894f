//! `check`: the versions that there are, oldest first.

use std::collections::HashSet;

use super::{Call, session};
use crate::error::{Doing, Result};
use crate::oci::digest::Digest;
use crate::oci::reference::{Reference, Tag};
use crate::registry::{Fetched, Remote};
use crate::report::Report;
use crate::request::{CheckRequest, Follow, Source, Version, found};
use crate::semver::{Candidates, Constraint, Created, Given, Rules, oldest_first, one_tag};
use crate::workers::Workers;

/// Look-ups side by side: they cost round trips, not processor time.
const LOOKUPS: usize = 16;

type Versions = Vec<(String, Digest)>;
/// A version and when its image was made.
type Dated = ((String, Digest), Option<Created>);

pub(super) fn run(call: &Call<'_>) -> Result<String> {
    let request = CheckRequest::parse(call.request)?;
    let source = &request.source;
    let report = session::report(call, source);
    let constraint = constraint(source, &report)?;
    let context = session::context(call, &report)?;
    let client = session::client(&context, source)?;
    let origin = session::origin(&client, source)?;
    let check = Check {
        source,
        constraint,
        given: given(request.version.as_ref(), &report),
        report: &report,
    };
    if let Some(mirror) = session::mirror(&client, source)? {
        match check.ask(&mirror) {
            Ok(versions) if !versions.is_empty() => return Ok(found(&versions)),
            Ok(_) => report.warn(format!(
                "the mirror {} has nothing; asking the origin",
                mirror.repository()
            )),
            Err(error) => session::mirror_failed(&report, error, "asking the origin"),
        }
    }
    Ok(found(&check.ask(&origin)?))
}

/// The constraint, and warnings about fields that do not go together.
fn constraint(source: &Source, report: &Report) -> Result<Option<Constraint>> {
    let semver_fields = source.semver_constraint.is_some()
        || source.pre_releases
        || !source.pre_release_prefixes.is_empty();
    match source.follow() {
        Follow::Tag(_) if source.tag_regex.is_some() => {
            report.warn("`source.tag_regex` has no effect: `source.tag` is followed");
        }
        Follow::Tag(_) if semver_fields => {
            report.warn("`source.tag` is followed; the fields about versions have no effect");
        }
        Follow::Regex(_) if semver_fields => {
            report.warn("`source.tag_regex` is followed; the fields about versions have no effect");
        }
        _ => {}
    }
    if source.created_at_sort && !matches!(source.follow(), Follow::Regex(_)) {
        report.warn("`source.created_at_sort` has no effect without `source.tag_regex`");
    }
    match &source.semver_constraint {
        Some(text) => Constraint::parse(text)
            .map(Some)
            .doing(|| "`source.semver_constraint`"),
        None => Ok(None),
    }
}

/// The version that Concourse knows; half a version is none.
fn given(version: Option<&Version>, report: &Report) -> Option<Given<Digest>> {
    let version = version?;
    let digest = version.digest.as_ref()?;
    match Digest::parse(digest) {
        Ok(digest) => Some(Given {
            tag: version.tag.clone().unwrap_or_default(),
            digest,
        }),
        Err(error) => {
            report.warn(format!("`version.digest`: {error}"));
            None
        }
    }
}

struct Check<'a> {
    source: &'a Source,
    constraint: Option<Constraint>,
    given: Option<Given<Digest>>,
    report: &'a Report,
}

impl Check<'_> {
    fn ask(&self, remote: &Remote<'_>) -> Result<Versions> {
        match self.source.follow() {
            Follow::Tag(tag) => self.follow_tag(remote, tag),
            Follow::Regex(regex) => {
                let tags = self.list(remote, |tag| regex.is_match(tag))?;
                match self.source.created_at_sort {
                    true => self.by_creation(remote, &tags),
                    false => self.with_digests(remote, &tags),
                }
            }
            Follow::Semver => self.follow_versions(remote),
        }
    }

    fn follow_tag(&self, remote: &Remote<'_>, tag: &Tag) -> Result<Versions> {
        let current = remote.digest_of(Reference::Tag(tag))?;
        let old = self.given.as_ref().map(|given| &given.digest);
        let changed = old.filter(|old| current.as_ref().is_some_and(|current| current != *old));
        let old = changed.filter(|old| self.still_exists(remote, old));
        Ok(one_tag(tag.as_str(), current, old.cloned()))
    }

    fn follow_versions(&self, remote: &Remote<'_>) -> Result<Versions> {
        let source = self.source;
        let rules = Rules {
            variant: source.variant.as_ref().map(Tag::as_str),
            constraint: self.constraint.as_ref(),
            pre_releases: source.pre_releases,
            pre_release_prefixes: &source.pre_release_prefixes,
            semver_only: source.semver_only,
        };
        let tags = self.list(remote, |_| true)?;
        let tags = tags.into_iter().map(|tag| tag.as_str().to_owned());
        let candidates = Candidates::choose(tags, &rules, self.given.clone());
        let decisive = match candidates.decisive() {
            Some(tag) => remote.digest_of(Reference::Tag(&Tag::parse(tag)?))?,
            None => None,
        };
        let lookups = candidates.narrow(decisive);
        let tags: Vec<Tag> = lookups.tags().map(Tag::parse).collect::<Result<_>>()?;
        let found = self.look_up(remote, &tags)?;
        let old_exists = lookups
            .old_digest()
            .is_some_and(|old| self.still_exists(remote, old));
        Ok(lookups.answer(found, old_exists))
    }

    /// The registry's tags that are wanted, each once, in its order.
    fn list(&self, remote: &Remote<'_>, wanted: impl Fn(&str) -> bool) -> Result<Vec<Tag>> {
        let Some(names) = remote.tags()? else {
            self.report.warn(format!(
                "the registry does not know the repository {}",
                remote.repository()
            ));
            return Ok(Vec::new());
        };
        let mut seen = HashSet::new();
        let mut tags = Vec::new();
        let mut odd = 0;
        for name in names {
            match Tag::parse(&name) {
                Ok(tag) if wanted(&name) && seen.insert(name) => tags.push(tag),
                Ok(_) => {}
                Err(_) => odd += 1,
            }
        }
        if odd > 0 {
            self.report.warn(format!(
                "the registry lists {odd} names that cannot be tags"
            ));
        }
        Ok(tags)
    }

    /// `result[i]` belongs to `tags[i]`; a tag without a manifest is told of and has none.
    fn look_up(&self, remote: &Remote<'_>, tags: &[Tag]) -> Result<Vec<Option<Digest>>> {
        Workers::new(LOOKUPS).map_until(remote.stop(), tags, |tag, _| {
            let digest = remote.digest_of(Reference::Tag(tag))?;
            if digest.is_none() {
                self.warn_of_missing(remote, tag);
            }
            Ok(digest)
        })
    }

    fn with_digests(&self, remote: &Remote<'_>, tags: &[Tag]) -> Result<Versions> {
        let digests = self.look_up(remote, tags)?;
        let pairs = tags.iter().zip(digests);
        Ok(pairs
            .filter_map(|(tag, digest)| Some((tag.as_str().to_owned(), digest?)))
            .collect())
    }

    fn by_creation(&self, remote: &Remote<'_>, tags: &[Tag]) -> Result<Versions> {
        let found = Workers::new(LOOKUPS).map_until(remote.stop(), tags, |tag, _| {
            self.with_creation(remote, tag)
        })?;
        Ok(oldest_first(found.into_iter().flatten().collect()))
    }

    /// A tag's version, and when its image was made.
    fn with_creation(&self, remote: &Remote<'_>, tag: &Tag) -> Result<Option<Dated>> {
        let Some(fetched) = remote.tagged_manifest(tag)? else {
            self.warn_of_missing(remote, tag);
            return Ok(None);
        };
        let created = self
            .created(remote, &fetched)
            .doing(|| format!("creation time of `{tag}`"))?;
        Ok(Some(((tag.as_str().to_owned(), fetched.digest), created)))
    }

    /// When the image was made; `None` where it does not say.
    fn created(&self, remote: &Remote<'_>, fetched: &Fetched) -> Result<Option<Created>> {
        let image = remote.image(fetched, &self.source.platform)?;
        if image.manifest.artifact_type().is_some() {
            return Ok(None);
        }
        let (_, config) = remote.config(&image.manifest)?;
        match config.created.as_deref() {
            None | Some("") => Ok(None),
            Some(text) => Created::parse(text).map(Some),
        }
    }

    /// Whether the version that Concourse knows can still be fetched. It never fails the check:
    /// the versions that there are matter more.
    fn still_exists(&self, remote: &Remote<'_>, old: &Digest) -> bool {
        match remote.digest_of(Reference::Digest(old)) {
            Ok(found) => found.is_some(),
            Err(error) => {
                self.report
                    .warn(format!("the given version is left out: {error}"));
                false
            }
        }
    }

    fn warn_of_missing(&self, remote: &Remote<'_>, tag: &Tag) {
        self.report.warn(format!(
            "{}: the tag `{tag}` is listed, but has no manifest; left out",
            remote.repository()
        ));
    }
}
