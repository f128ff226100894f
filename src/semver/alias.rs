//! The tags of a `put`: which ones, in which order, each once.
//!
//! Owns the tags made of `source.tag`, `params.version`, its aliases and the additional tags.
//! It reads no file and asks no registry: everything that can be wrong in the request is found
//! by [`Wanted::check`], and only if [`WantedTags::needs_list`] says so are the registry's tags
//! looked at.

use super::version::Version;
use crate::error::{Doing, Error, Result};

/// A tag by the OCI distribution-spec 1.1 ("Pulling manifests"): a letter, a digit or `_`, then
/// up to 127 more of these, `.` or `-`.
const TAG_LIMIT: usize = 128;

/// Characters of a wrong tag that an error shows: the longest tag and a few more.
const SHOWN_LIMIT: usize = 160;

/// What the request says about tags. Empty texts are as absent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// `source.tag`
    pub(crate) tag: Option<&'a str>,
    /// `source.variant`
    pub(crate) variant: Option<&'a str>,
    /// `params.version`
    pub(crate) version: Option<&'a str>,
    /// `params.bump_aliases`
    pub(crate) bump_aliases: bool,
    /// The content of the file that `params.additional_tags` names. An empty file is a file:
    /// `Some("")`.
    pub(crate) additional: Option<&'a str>,
    /// What messages call that file.
    pub(crate) file: Option<&'a str>,
    /// `params.tag_prefix`
    pub(crate) prefix: Option<&'a str>,
}

/// The tags that do not depend on the registry, checked.
#[derive(Clone, Debug)]
pub(crate) struct WantedTags {
    tags: Vec<String>,
    /// Where aliases go among the tags, and what they are for.
    aliases: Option<(usize, Aliases)>,
    warnings: Vec<String>,
}

#[derive(Clone, Debug)]
struct Aliases {
    version: Version,
    /// Without the `-`; empty for none.
    variant: String,
}

impl<'a> Wanted<'a> {
    /// Errors name the tag or the version that is wrong, or say that there is none.
    pub(crate) fn check(&self) -> Result<WantedTags> {
        let variant = given(self.variant).unwrap_or_default();
        let mut tags = Vec::new();
        let mut aliases = None;
        let mut warnings = Vec::new();
        if let Some(tag) = given(self.tag) {
            tags.push(checked("tag", tag.to_owned())?);
        }
        if let Some(text) = given(self.version) {
            let version = Version::parse(text).ok_or_else(|| {
                Error::config(format!(
                    "version `{}`: not a version such as `1.2.3`, `1.2` or `1.2.3-rc.1`",
                    shown(text)
                ))
            })?;
            let written = version.to_string();
            let tag = written.replace('+', "_");
            if tag != written {
                warnings.push(format!(
                    "version `{written}`: a tag cannot hold `+`, the tag is `{tag}`"
                ));
            }
            tags.push(checked("version tag", with_variant(&tag, variant))?);
            if self.bump_aliases && version.is_final() {
                aliases = Some((
                    tags.len(),
                    Aliases {
                        version,
                        variant: variant.to_owned(),
                    },
                ));
            }
        }
        let prefix = given(self.prefix);
        match (self.additional, prefix) {
            (None, Some(_)) => {
                return Err(Error::config(
                    "`tag_prefix` is for `additional_tags`, and there are none",
                ));
            }
            (additional, _) => {
                let prefix = prefix.unwrap_or_default();
                for tag in additional.unwrap_or_default().split_whitespace() {
                    let tag = checked("additional tag", format!("{prefix}{tag}"));
                    tags.push(match self.file {
                        Some(file) => tag.doing(|| file)?,
                        None => tag?,
                    });
                }
            }
        }
        if tags.is_empty() {
            return Err(Error::config(
                "no tag specified - need either 'version:' in params or 'tag:' in source",
            ));
        }
        Ok(WantedTags {
            tags,
            aliases,
            warnings,
        })
    }
}

impl WantedTags {
    /// Whether the registry's tags decide about aliases.
    pub(crate) fn needs_list(&self) -> bool {
        self.aliases.is_some()
    }

    /// What the user should know although nothing is wrong.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The tags to push, at least one, each once, in order. `existing` is what the registry
    /// lists; it is not looked at unless [`WantedTags::needs_list`]. A repository that does not
    /// exist has none. An alias that cannot be a tag is an error.
    pub(crate) fn tags<S: AsRef<str>>(
        self,
        existing: impl IntoIterator<Item = S>,
    ) -> Result<Vec<String>> {
        let mut tags = self.tags;
        if let Some((place, aliases)) = self.aliases {
            let bumped = aliases.bumped(existing)?;
            let place = place.min(tags.len());
            tags.splice(place..place, bumped);
        }
        let mut once = std::collections::HashSet::new();
        tags.retain(|tag| once.insert(tag.clone()));
        Ok(tags)
    }
}

impl Aliases {
    /// `latest` (or the variant), `X`, `X.Y`: each unless a greater final version of the same
    /// variant exists overall, with this X, with this X.Y.
    fn bumped<S: AsRef<str>>(&self, existing: impl IntoIterator<Item = S>) -> Result<Vec<String>> {
        let ours = &self.version;
        let (mut overall, mut major, mut minor) = (true, true, true);
        for tag in existing {
            let Some(other) = self.version_of(tag.as_ref()) else {
                continue;
            };
            if other.precedence(ours).is_gt() {
                let same_major = other.major() == ours.major();
                overall = false;
                major &= !same_major;
                minor &= !(same_major && other.minor() == ours.minor());
            }
        }
        let newest = if self.variant.is_empty() {
            "latest"
        } else {
            &self.variant
        };
        let aliases = [
            (overall, newest.to_owned()),
            (
                major,
                with_variant(&ours.major().to_string(), &self.variant),
            ),
            (
                minor,
                with_variant(&format!("{}.{}", ours.major(), ours.minor()), &self.variant),
            ),
        ];
        let bumped = aliases.into_iter().filter(|(bump, _)| *bump);
        bumped.map(|(_, tag)| checked("alias", tag)).collect()
    }

    /// The final version of our variant in a tag. A pre-release may be another variant.
    fn version_of(&self, tag: &str) -> Option<Version> {
        let text = match self.variant.as_str() {
            "" => tag,
            variant => tag.strip_suffix(variant)?.strip_suffix('-')?,
        };
        Version::parse(text).filter(Version::is_final)
    }
}

fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn with_variant(tag: &str, variant: &str) -> String {
    match variant {
        "" => tag.to_owned(),
        variant => format!("{tag}-{variant}"),
    }
}

fn checked(what: &str, tag: String) -> Result<String> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let why = if tag
        .bytes()
        .any(|byte| !is_word(byte) && byte != b'.' && byte != b'-')
    {
        "a tag may hold letters, digits, `_`, `.` and `-`".to_owned()
    } else if !tag.bytes().next().is_some_and(is_word) {
        "a tag begins with a letter, a digit or `_`".to_owned()
    } else if tag.len() > TAG_LIMIT {
        format!(
            "a tag has at most {TAG_LIMIT} characters, this one has {}",
            tag.len()
        )
    } else {
        return Ok(tag);
    };
    Err(Error::config(format!("{what} `{}`: {why}", shown(&tag))))
}

/// User input inside backticks, on one line and of bearable length.
fn shown(text: &str) -> String {
    let mut characters = text.escape_debug();
    let mut shown: String = characters.by_ref().take(SHOWN_LIMIT).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::semver::testing::Random;

    /// `existing`, `source`, `params`, `additional_tags_file`; `tags` and `version_tag`, or
    /// `error`.
    const TABLE: &str = include_str!("../../tests/cases/put_tags.jsonl");

    fn tags(wanted: Wanted<'_>, existing: &[&str]) -> Result<Vec<String>> {
        wanted.check()?.tags(existing)
    }

    #[test]
    fn every_line_of_the_recorded_table_holds() {
        let mut lines = 0;
        for line in TABLE.lines() {
            let case: Value = serde_json::from_str(line).expect(line);
            let (source, params) = (&case["source"], &case["params"]);
            let wanted = Wanted {
                tag: source["tag"].as_str(),
                variant: source["variant"].as_str(),
                version: params["version"].as_str(),
                bump_aliases: params["bump_aliases"] == true,
                additional: params["additional_tags"]
                    .as_str()
                    .and(case["additional_tags_file"].as_str()),
                prefix: params["tag_prefix"].as_str(),
                ..Wanted::default()
            };
            let texts = |value: &Value| -> Vec<String> {
                let list = value.as_array().expect(line).iter();
                list.map(|text| text.as_str().expect(line).to_owned())
                    .collect()
            };
            let answer = wanted
                .check()
                .and_then(|checked| checked.tags(texts(&case["existing"])));
            match answer {
                Ok(answer) => {
                    assert_ne!(case["error"], true, "{line}: {answer:?}");
                    assert_eq!(answer, texts(&case["tags"]), "{line}");
                    assert_eq!(answer[0], case["version_tag"], "{line}");
                }
                Err(error) => assert_eq!(case["error"], true, "{line}: {error}"),
            }
            lines += 1;
        }
        assert_eq!(lines, 76, "lines of the table");
    }

    #[test]
    fn aliases_are_bumped_up_to_the_first_greater_version() {
        for (version, variant, existing, expected) in [
            ("1.2.3", "", vec![], "1.2.3 latest 1 1.2"),
            (
                "1.2.3",
                "",
                vec!["1.2.3", "1.2", "1", "latest"],
                "1.2.3 latest 1 1.2",
            ),
            ("1.2.3", "", vec!["1.2.4"], "1.2.3"),
            ("1.2.3", "", vec!["1.3"], "1.2.3 1.2"),
            ("1.2.3", "", vec!["v2"], "1.2.3 1 1.2"),
            (
                "1.2.3",
                "",
                vec!["2.0.0-rc.1", "2.0.0-foo", "1.2.3.4", "9x"],
                "1.2.3 latest 1 1.2",
            ),
            ("1.2.3-rc.1", "", vec![], "1.2.3-rc.1"),
            (
                "1.2.3",
                "foo",
                vec!["2.0.0", "1.2.4-bar"],
                "1.2.3-foo foo 1-foo 1.2-foo",
            ),
            ("1.2.3", "foo", vec!["1.2.4-foo"], "1.2.3-foo"),
            (
                "1.2.3",
                "foo",
                vec!["1.2.4-rc.1-foo", "foo"],
                "1.2.3-foo foo 1-foo 1.2-foo",
            ),
            ("0", "", vec!["0.0.0"], "0.0.0 latest 0 0.0"),
        ] {
            let wanted = Wanted {
                version: Some(version),
                variant: Some(variant),
                bump_aliases: true,
                ..Wanted::default()
            };
            let answer = tags(wanted, &existing).expect(version).join(" ");
            assert_eq!(answer, expected, "{version} {variant} {existing:?}");
        }
    }

    #[test]
    fn the_list_is_needed_for_aliases_of_a_final_version_alone() {
        for (version, bump_aliases, needed) in [
            (Some("1.2.3"), true, true),
            (Some("1.2.3+b"), true, true),
            (Some("1.2.3"), false, false),
            (Some("1.2.3-rc.1"), true, false),
            (Some(""), true, false),
            (None, true, false),
        ] {
            let wanted = Wanted {
                tag: Some("edge"),
                version,
                bump_aliases,
                ..Wanted::default()
            };
            let checked = wanted.check().expect("a tag");
            assert_eq!(checked.needs_list(), needed, "{version:?} {bump_aliases}");
        }
    }

    #[test]
    fn tags_come_in_order_and_each_once() {
        let wanted = Wanted {
            tag: Some("1.2"),
            version: Some("v1.02.3"),
            bump_aliases: true,
            additional: Some(" a\n\tlatest\r\na 1.2.3\u{a0}b "),
            ..Wanted::default()
        };
        let answer = tags(wanted, &[]).expect("tags");
        assert_eq!(answer, ["1.2", "1.2.3", "latest", "1", "a", "b"]);
    }

    #[test]
    fn build_metadata_becomes_part_of_the_tag_with_a_warning() {
        let wanted = Wanted {
            version: Some("v1.2.3-rc.1+build.5"),
            variant: Some("foo"),
            ..Wanted::default()
        };
        let checked = wanted.check().expect("a version");
        assert_eq!(
            checked.warnings(),
            [
                "version `1.2.3-rc.1+build.5`: a tag cannot hold `+`, the tag is \
              `1.2.3-rc.1_build.5`"
            ]
        );
        assert_eq!(
            checked.tags([""; 0]).expect("tags"),
            ["1.2.3-rc.1_build.5-foo"]
        );
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let long = "a".repeat(TAG_LIMIT + 1);
        let additional = |text| Wanted {
            additional: Some(text),
            ..Wanted::default()
        };
        let version = |text| Wanted {
            version: Some(text),
            ..Wanted::default()
        };
        let variant = |text| Wanted {
            variant: Some(text),
            ..version("1")
        };
        let bumped = |text| Wanted {
            bump_aliases: true,
            ..variant(text)
        };
        let none = "no tag specified - need either 'version:' in params or 'tag:' in source";
        let letters = "a tag may hold letters, digits, `_`, `.` and `-`";
        let begin = "a tag begins with a letter, a digit or `_`";
        for (wanted, message) in [
            (Wanted::default(), none.to_owned()),
            (additional(" \n"), none.to_owned()),
            (
                Wanted {
                    bump_aliases: true,
                    tag: Some(""),
                    ..version("")
                },
                none.to_owned(),
            ),
            (
                Wanted {
                    tag: Some("a b"),
                    ..version("1")
                },
                format!("tag `a b`: {letters}"),
            ),
            (
                additional("ok feature/x"),
                format!("additional tag `feature/x`: {letters}"),
            ),
            (
                Wanted {
                    file: Some("tags/list"),
                    ..additional("a/b")
                },
                format!("tags/list: additional tag `a/b`: {letters}"),
            ),
            (
                additional("\u{feff}a"),
                format!("additional tag `\\u{{feff}}a`: {letters}"),
            ),
            (
                Wanted {
                    prefix: Some("-"),
                    ..additional("x")
                },
                format!("additional tag `-x`: {begin}"),
            ),
            (additional(".x"), format!("additional tag `.x`: {begin}")),
            (
                additional(&long),
                format!(
                    "additional tag `{long}`: a tag has at most 128 characters, this one has 129"
                ),
            ),
            (
                variant("a+b"),
                format!("version tag `1.0.0-a+b`: {letters}"),
            ),
            (bumped("-b"), format!("alias `-b`: {begin}")),
            (
                version("1.2.3.4\n"),
                "version `1.2.3.4\\n`: not a version such as `1.2.3`, `1.2` or `1.2.3-rc.1`".into(),
            ),
            (
                Wanted {
                    prefix: Some("p-"),
                    ..version("1")
                },
                "`tag_prefix` is for `additional_tags`, and there are none".into(),
            ),
        ] {
            let error = tags(wanted, &[]).expect_err(&message);
            assert_eq!(error.to_string(), message);
        }
        let error = tags(additional(&"/".repeat(1 << 20)), &[]).expect_err("a long tag");
        assert!(error.to_string().len() < 300);
    }

    #[test]
    fn any_request_gives_valid_tags_each_once_or_an_error() {
        let mut random = Random::new(8);
        let alphabet = "0123.-_+vab/ \n";
        let mut pushed = 0;
        for _ in 0..50_000 {
            let mut text = |longest| random.text(alphabet, longest);
            let texts = [text(4), text(3), text(6), text(12), text(2)];
            let existing: Vec<String> = (0..4).map(|_| text(6)).collect();
            let [tag, variant, version, additional, prefix] = &texts;
            let wanted = Wanted {
                tag: random.chance(2).then_some(tag),
                variant: random.chance(2).then_some(variant),
                version: random.chance(2).then_some(version),
                bump_aliases: random.chance(2),
                file: None,
                additional: random.chance(2).then_some(additional),
                prefix: random.chance(4).then_some(prefix),
            };
            let Ok(tags) = wanted.check().and_then(|checked| checked.tags(&existing)) else {
                continue;
            };
            assert!(!tags.is_empty(), "{wanted:?}");
            for (i, tag) in tags.iter().enumerate() {
                assert!(checked("tag", tag.clone()).is_ok(), "{wanted:?} {tag}");
                assert!(!tags[..i].contains(tag), "{wanted:?} {tags:?}");
                pushed += 1;
            }
        }
        assert!(pushed > 5_000, "only {pushed} tags");
    }
}
