//! What `check` reports when it follows versions.
//!
//! Owns which tags are worth a look-up and which of them are the answer, oldest first. It asks
//! nothing itself. The steps, with what the caller does between them:
//!
//! 1. [`Candidates::choose`] reads the tags under the rules. If it has a
//!    [`Candidates::decisive`] tag (the one of the given version), its digest is asked for.
//! 2. [`Candidates::narrow`] takes that digest and knows what else is needed:
//!    [`Lookups::tags`], all at once, and perhaps whether [`Lookups::old_digest`] still exists.
//! 3. [`Lookups::answer`] picks and orders.
//!
//! Digests belong to tags by position, so the order in which look-ups finish cannot matter.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use super::constraint::Constraint;
use super::version::Version;

/// What a pre-release may begin with whatever the source says; other suffixes are variants.
const PRE_RELEASE_PREFIXES: [&str; 3] = ["alpha", "beta", "rc"];

/// The part of `source` that says which versions are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules<'a> {
    /// The empty text is none.
    pub(crate) variant: Option<&'a str>,
    pub(crate) constraint: Option<&'a Constraint>,
    pub(crate) pre_releases: bool,
    /// In addition to `alpha`, `beta`, `rc`. With any of these a `-` inside a pre-release is no
    /// longer the sign of a variant.
    pub(crate) pre_release_prefixes: &'a [String],
    /// The bare tag is never reported.
    pub(crate) semver_only: bool,
}

/// The version that `check` was called with. One without tag or digest is none at all.
#[derive(Clone, Debug)]
pub(crate) struct Given<D> {
    pub(crate) tag: String,
    pub(crate) digest: D,
}

/// The tags that may be reported.
#[derive(Clone, Debug)]
pub(crate) struct Candidates<D> {
    listed: Vec<Candidate>,
    given: Option<(Candidate, D)>,
}

/// What is to be asked, and what is known already.
#[derive(Clone, Debug)]
pub(crate) struct Lookups<D> {
    wanted: Vec<Candidate>,
    /// The given version's tag with the digest it has now.
    decided: Option<(Candidate, D)>,
    /// The given version, whose digest its tag no longer has.
    old: Option<(Candidate, D)>,
}

#[derive(Clone, Debug)]
struct Candidate {
    tag: String,
    /// `None` for the bare tag.
    version: Option<Version>,
    /// Where the registry listed it; `None` for a tag that is gone.
    place: Option<usize>,
}

impl<'a> Rules<'a> {
    fn variant(&self) -> Option<&'a str> {
        self.variant.filter(|variant| !variant.is_empty())
    }

    /// The tag without a version that stands for the newest one.
    pub(crate) fn bare_tag(&self) -> &'a str {
        self.variant().unwrap_or("latest")
    }

    /// The version in a tag, or `Some(None)` for the bare tag; `None` if it is never reported.
    fn read(&self, tag: &str) -> Option<Option<Version>> {
        if tag == self.bare_tag() {
            let reported = self.constraint.is_none() && !self.semver_only;
            return reported.then_some(None);
        }
        let text = match self.variant() {
            Some(variant) => tag.strip_suffix(variant)?.strip_suffix('-')?,
            None => tag,
        };
        let version = Version::parse(text)?;
        let wanted = (version.is_final() || self.wants_pre_release(version.pre()))
            && self
                .constraint
                .is_none_or(|constraint| constraint.allows(&version));
        wanted.then_some(Some(version))
    }

    fn wants_pre_release(&self, pre: &str) -> bool {
        let custom = self.pre_release_prefixes;
        let mut prefixes = custom
            .iter()
            .map(String::as_str)
            .chain(PRE_RELEASE_PREFIXES);
        self.pre_releases
            && (!custom.is_empty() || !pre.contains('-'))
            && prefixes.any(|prefix| pre.starts_with(prefix))
    }
}

impl<D: Clone + Eq + Hash> Candidates<D> {
    /// Reads the tags as the registry lists them. A given version whose tag the rules do not
    /// want is as none.
    pub(crate) fn choose(
        tags: impl IntoIterator<Item = String>,
        rules: &Rules<'_>,
        given: Option<Given<D>>,
    ) -> Candidates<D> {
        let mut listed = Vec::new();
        for (place, tag) in tags.into_iter().enumerate() {
            if let Some(version) = rules.read(&tag) {
                listed.push(Candidate {
                    tag,
                    version,
                    place: Some(place),
                });
            }
        }
        let given = given.and_then(|Given { tag, digest }| {
            let version = rules.read(&tag)?;
            let place = listed
                .iter()
                .find(|listed| listed.tag == tag)
                .and_then(|it| it.place);
            Some((
                Candidate {
                    tag,
                    version,
                    place,
                },
                digest,
            ))
        });
        Candidates { listed, given }
    }

    /// The tag whose digest decides what else is needed; to be asked for first.
    pub(crate) fn decisive(&self) -> Option<&str> {
        let (given, _) = self.given.as_ref()?;
        given.place.is_some().then_some(given.tag.as_str())
    }

    /// Where the decisive tag still has the given digest, the tags of that version and of lower
    /// ones are not asked for. `found` is the decisive tag's digest; `None` if there is no such
    /// tag, or it has no manifest.
    pub(crate) fn narrow(self, found: Option<D>) -> Lookups<D> {
        let mut wanted = self.listed;
        let Some((given, digest)) = self.given else {
            return Lookups {
                wanted,
                decided: None,
                old: None,
            };
        };
        wanted.retain(|candidate| candidate.tag != given.tag);
        let unchanged = found.as_ref() == Some(&digest);
        if let (true, Some(floor)) = (unchanged, &given.version) {
            let is_above = |version: &Version| version.precedence(floor).is_gt();
            wanted.retain(|candidate| candidate.version.as_ref().is_none_or(is_above));
        }
        let old = (!unchanged).then(|| (given.clone(), digest));
        let decided = found.map(|found| (given, found));
        Lookups {
            wanted,
            decided,
            old,
        }
    }
}

impl<D: Clone + Eq + Hash> Lookups<D> {
    /// The tags to look up, as the registry lists them.
    pub(crate) fn tags(&self) -> impl ExactSizeIterator<Item = &str> {
        self.wanted.iter().map(|candidate| candidate.tag.as_str())
    }

    /// The digest of the given version, where the registry is to be asked if it still exists.
    pub(crate) fn old_digest(&self) -> Option<&D> {
        self.old.as_ref().map(|(_, digest)| digest)
    }

    /// `found[i]` belongs to `tags()[i]`; a tag without a manifest has `None` and is left out.
    ///
    /// Each digest once, under: a final version before a pre-release, then the tag with more
    /// dots, then the tag of the given version, then what is listed first. Ordered by precedence;
    /// equals by their dots, so that the most specific is the last, then as listed. The bare tag
    /// is the last, if its digest is under no version. The given version's old digest is
    /// reported where no other tag is reported with it, before the new one of its tag.
    pub(crate) fn answer(
        self,
        found: impl IntoIterator<Item = Option<D>>,
        old_exists: bool,
    ) -> Vec<(String, D)> {
        let found = self.wanted.into_iter().zip(found);
        let found = found.filter_map(|(candidate, digest)| Some((candidate, digest?)));
        // The given version's tag comes first: between equals the first keeps the digest.
        let (versions, mut bare): (Vec<_>, Vec<_>) = self
            .decided
            .into_iter()
            .chain(found)
            .partition(|(candidate, _)| candidate.version.is_some());
        let mut best: HashMap<D, Candidate> = HashMap::new();
        for (candidate, digest) in versions {
            match best.entry(digest) {
                Entry::Vacant(entry) => {
                    entry.insert(candidate);
                }
                Entry::Occupied(mut entry) => {
                    if candidate.weight() > entry.get().weight() {
                        entry.insert(candidate);
                    }
                }
            }
        }
        bare.retain(|(_, digest)| !best.contains_key(digest));
        // The old digest has the least claim: with it everything else stays as it is.
        let is_reported =
            |old: &D| best.contains_key(old) || bare.iter().any(|(_, digest)| digest == old);
        let old = self
            .old
            .filter(|(_, digest)| old_exists && !is_reported(digest));
        let current = best
            .into_iter()
            .map(|(digest, it)| (it, digest))
            .chain(bare);
        let mut answer: Vec<_> = old.into_iter().chain(current).collect();
        // Stable, so that the old digest stays before the new one of the same tag. All others
        // have different places, so the order of the map never shows.
        answer.sort_by(|(one, _), (other, _)| one.order(other));
        answer
            .into_iter()
            .map(|(it, digest)| (it.tag, digest))
            .collect()
    }
}

impl Candidate {
    /// The greater one keeps a digest that two versions share.
    fn weight(&self) -> (bool, usize) {
        let weight = |version: &Version| (version.is_final(), version.dots());
        self.version.as_ref().map_or((false, 0), weight)
    }

    fn order(&self, other: &Candidate) -> Ordering {
        let precedence = match (&self.version, &other.version) {
            (Some(one), Some(other)) => one.precedence(other),
            (one, other) => one.is_none().cmp(&other.is_none()),
        };
        precedence
            .then_with(|| self.weight().cmp(&other.weight()))
            .then_with(|| self.place.cmp(&other.place))
    }
}

/// The answer where `source.tag` is followed: nothing when the tag is gone; its digest; before
/// that the given one, if it is another and still exists. `old` is `None` where it does not, or
/// where no version was given.
pub(crate) fn one_tag<D: Eq>(tag: &str, current: Option<D>, old: Option<D>) -> Vec<(String, D)> {
    let Some(current) = current else {
        return Vec::new();
    };
    let old = old.filter(|old| *old != current);
    let digests = old.into_iter().chain([current]);
    digests.map(|digest| (tag.to_owned(), digest)).collect()
}

#[cfg(test)]
mod tests;
