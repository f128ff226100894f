//! A version as people write it in a tag: `1.2.3`, `v1.2`, `2`, `1.2.3-rc.1`, `01.02.03`.
//!
//! Owns what counts as a version and which of two comes first. Whether a version is wanted is
//! decided elsewhere.

use std::cmp::Ordering;
use std::fmt;

/// Longer texts are no versions. A tag has at most 128 bytes; this is the limit of
/// Masterminds/semver 3.5, which users' constraints were written against.
const LENGTH_LIMIT: usize = 256;

/// Read loosely, as Masterminds/semver v3 `NewVersion` does: an optional `v`, one to three
/// numbers (leading zeros tolerated), a pre-release, build metadata.
///
/// No `Eq` and no `Ord`: `1.2` and `1.2.0` are different texts of equal precedence, and a reader
/// should see which of the two is compared.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    major: u64,
    minor: u64,
    patch: u64,
    pre: String,
    build: String,
    text: String,
}

impl Version {
    /// `None` for everything else: four numbers, `1.2.3-`, a number above 2⁶⁴−1, a numeric
    /// pre-release identifier with a leading zero (semver 2.0 §9), more than 256 bytes.
    pub(crate) fn parse(text: &str) -> Option<Version> {
        if text.len() > LENGTH_LIMIT {
            return None;
        }
        let mut rest = text.strip_prefix('v').unwrap_or(text);
        let mut numbers = [0; 3];
        for (at, number) in numbers.iter_mut().enumerate() {
            let candidate = match at {
                0 => rest,
                _ => match rest.strip_prefix('.') {
                    Some(after) => after,
                    None => break,
                },
            };
            let (digits, after) = split_run(candidate, |byte| byte.is_ascii_digit());
            // No sign can be here, so only an empty text and an overflow fail.
            *number = digits.parse().ok()?;
            rest = after;
        }
        let (pre, build, rest) = split_suffixes(rest);
        if !rest.is_empty() || pre.split('.').any(has_leading_zero) {
            return None;
        }
        let [major, minor, patch] = numbers;
        Some(Version {
            major,
            minor,
            patch,
            pre: pre.to_owned(),
            build: build.to_owned(),
            text: text.to_owned(),
        })
    }

    pub(crate) fn major(&self) -> u64 {
        self.major
    }

    pub(crate) fn minor(&self) -> u64 {
        self.minor
    }

    pub(crate) fn patch(&self) -> u64 {
        self.patch
    }

    /// The pre-release without its `-`; empty for a final version.
    pub(crate) fn pre(&self) -> &str {
        &self.pre
    }

    pub(crate) fn is_final(&self) -> bool {
        self.pre.is_empty()
    }

    /// Dots in the text: `1.2.3` says more than `1.2`, `1.0.0-rc.2` more than `1.0.0-rc`.
    pub(crate) fn dots(&self) -> usize {
        self.text.bytes().filter(|byte| *byte == b'.').count()
    }

    /// Semver 2.0 §11. Build metadata and the way of writing do not count. Numeric identifiers
    /// are compared as numbers whatever their length.
    pub(crate) fn precedence(&self, other: &Version) -> Ordering {
        let numbers = |version: &Version| (version.major, version.minor, version.patch);
        numbers(self)
            .cmp(&numbers(other))
            .then_with(|| compare_pre(&self.pre, &other.pre))
    }
}

/// Normalised: `X.Y.Z[-pre][+build]`, no `v`, no leading zeros.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        if !self.pre.is_empty() {
            write!(f, "-{}", self.pre)?;
        }
        if !self.build.is_empty() {
            write!(f, "+{}", self.build)?;
        }
        Ok(())
    }
}

/// `-PRE` and `+BUILD` from the front of a text: both without their sign, and what is left.
/// A sign that no identifier follows stays in the rest.
pub(super) fn split_suffixes(text: &str) -> (&str, &str, &str) {
    let (pre, text) = split_suffix(text, '-');
    let (build, rest) = split_suffix(text, '+');
    (pre, build, rest)
}

fn split_suffix(text: &str, sign: char) -> (&str, &str) {
    let Some(after) = text.strip_prefix(sign) else {
        return ("", text);
    };
    match after.split_at_checked(identifiers(after)) {
        None | Some(("", _)) => ("", text),
        Some(found) => found,
    }
}

/// The length of the dot-separated identifiers at the front. A dot belongs to them only where
/// another identifier follows it.
fn identifiers(text: &str) -> usize {
    let mut length = 0;
    let mut rest = text;
    loop {
        let (identifier, after) = split_run(rest, is_identifier_byte);
        if identifier.is_empty() {
            return length;
        }
        // The dot before every identifier but the first.
        length += usize::from(length > 0) + identifier.len();
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None => return length,
        }
    }
}

/// The longest run of such bytes at the front, and the rest. Only for sets of ASCII bytes.
pub(super) fn split_run(text: &str, belongs: impl Fn(u8) -> bool) -> (&str, &str) {
    let length = text.bytes().take_while(|byte| belongs(*byte)).count();
    text.split_at_checked(length).unwrap_or((text, ""))
}

fn is_identifier_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

pub(super) fn has_leading_zero(identifier: &str) -> bool {
    identifier.len() > 1 && identifier.starts_with('0') && is_numeric(identifier)
}

fn is_numeric(identifier: &str) -> bool {
    identifier.bytes().all(|byte| byte.is_ascii_digit())
}

fn compare_pre(ours: &str, theirs: &str) -> Ordering {
    match (ours.is_empty(), theirs.is_empty()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => {
            let (mut ours, mut theirs) = (ours.split('.'), theirs.split('.'));
            loop {
                let order = match (ours.next(), theirs.next()) {
                    (None, None) => return Ordering::Equal,
                    (None, Some(_)) => Ordering::Less,
                    (Some(_), None) => Ordering::Greater,
                    (Some(one), Some(other)) => compare_identifiers(one, other),
                };
                if order != Ordering::Equal {
                    return order;
                }
            }
        }
    }
}

fn compare_identifiers(one: &str, other: &str) -> Ordering {
    match (is_numeric(one), is_numeric(other)) {
        // Without leading zeros the longer number is the greater one.
        (true, true) => one.len().cmp(&other.len()).then_with(|| one.cmp(other)),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => one.cmp(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semver::testing::Random;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap_or_else(|| panic!("`{text}` is a version"))
    }

    #[test]
    fn tags_are_read_loosely_and_normalised() {
        for (text, normalised) in [
            ("1.2.3", "1.2.3"),
            ("v1.2.3", "1.2.3"),
            ("1.2", "1.2.0"),
            ("v1", "1.0.0"),
            ("0", "0.0.0"),
            ("01.02.03", "1.2.3"),
            ("20240101", "20240101.0.0"),
            ("2024-01-01", "2024.0.0-01-01"),
            ("1-0", "1.0.0-0"),
            ("1.2.3--x", "1.2.3--x"),
            ("1.2.3-rc.1+b.5", "1.2.3-rc.1+b.5"),
            ("1.2.3+b.05", "1.2.3+b.05"),
            ("1.2.3-0a", "1.2.3-0a"),
            ("1.2.3-00a.0", "1.2.3-00a.0"),
            ("18446744073709551615.0.1", "18446744073709551615.0.1"),
            ("00000000000000000000000001", "1.0.0"),
        ] {
            let read = version(text);
            assert_eq!(
                (read.to_string().as_str(), read.text.as_str()),
                (normalised, text),
                "{text}"
            );
        }
    }

    #[test]
    fn other_texts_are_no_versions() {
        let long = format!("1.2.3-{}", "a".repeat(LENGTH_LIMIT));
        for text in [
            "",
            "v",
            "V1",
            "vv1",
            "latest",
            "1.",
            ".1",
            "1..2",
            "1.2.",
            "1.2.3.",
            "1.2.3.4",
            "1.2.3-",
            "1.2.3+",
            "1.2.3-+",
            "1.2.3-a.",
            "1.2.3-.a",
            "1.2.3-a..b",
            "1.2.3-a_b",
            "1.2.3_1",
            "1.2.3-01",
            "1.2.3-rc.01",
            "1.2.3-00",
            "1.2.3+a+b",
            "1.2.3-a ",
            " 1.2.3",
            "1.2.3\n",
            "1,2",
            "+1",
            "-1",
            "1.x",
            "*",
            "1.-2",
            "１.2",
            "1.2.3-é",
            "1.2.3\0",
            "18446744073709551616",
            "1.99999999999999999999",
            "1.2.99999999999999999999",
            long.as_str(),
        ] {
            assert!(Version::parse(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn precedence_follows_section_11() {
        let rising = [
            "0.0.0-0",
            "0.0.0",
            "0.9",
            "1.0.0-1",
            "1.0.0-2",
            "1.0.0-10",
            "1.0.0-99999999999999999999",
            "1.0.0-100000000000000000000",
            "1.0.0--1",
            "1.0.0-1a",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc",
            "1.0.0-rc.1",
            "1.0.0-rc.1.0",
            "1.0.0-rc1",
            "1",
            "1.0.1",
            "1.1",
            "v1.2",
            "1.10",
            "2.0.0",
            "20240101",
            "18446744073709551615",
        ];
        for (i, low) in rising.iter().enumerate() {
            for (j, high) in rising.iter().enumerate() {
                assert_eq!(
                    version(low).precedence(&version(high)),
                    i.cmp(&j),
                    "{low} {high}"
                );
            }
        }
    }

    #[test]
    fn build_metadata_and_spelling_do_not_count() {
        for (one, other) in [("1.2.3+a", "1.2.3+b"), ("1", "v1.0.0"), ("01.2", "1.02.0")] {
            assert_eq!(version(one).precedence(&version(other)), Ordering::Equal);
        }
    }

    #[test]
    fn any_text_can_be_read_and_what_was_read_reads_the_same_again() {
        let mut random = Random::new(1);
        let mut read = 0;
        for _ in 0..200_000 {
            let text = random.text("0123456789.-+vxrcab", 14);
            if let Some(version) = Version::parse(&text) {
                let again = Version::parse(&version.to_string()).expect(&text);
                assert_eq!(version.precedence(&again), Ordering::Equal, "{text}");
                assert_eq!(version.to_string(), again.to_string(), "{text}");
                read += 1;
            }
            let bytes = random.bytes(20);
            Version::parse(&String::from_utf8_lossy(&bytes));
        }
        assert!(read > 1000, "only {read} texts were versions");
    }

    #[test]
    fn precedence_is_a_total_order() {
        let mut random = Random::new(2);
        let versions: Vec<Version> = std::iter::repeat_with(|| {
            let pre = random.text("019ab-.", 6);
            format!("{}.{}-{pre}", random.below(2), random.below(2))
        })
        .filter_map(|text| Version::parse(&text))
        .take(80)
        .collect();
        for a in &versions {
            for b in &versions {
                assert_eq!(a.precedence(b), b.precedence(a).reverse());
                for c in &versions {
                    if a.precedence(b).is_le() && b.precedence(c).is_le() {
                        assert!(a.precedence(c).is_le(), "{a} {b} {c}");
                    }
                }
            }
        }
    }
}
