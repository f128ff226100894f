//! What `check` reports, against the recorded scenarios and against its own rules.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::*;
use crate::semver::testing::Random;
use crate::semver::{Created, oldest_first};

/// One scenario a line: `tags`, `created`, `deleted`, `source`, `version`, `expect`.
const TABLE: &str = include_str!("../../../tests/cases/check.jsonl");

/// A registry in memory that counts what it is asked.
#[derive(Default)]
struct Registry {
    tags: Vec<(String, String)>,
    /// Digests that exist although no tag has them.
    untagged: HashSet<String>,
    asked: Vec<String>,
}

impl Registry {
    fn new(tags: &[(&str, &str)]) -> Registry {
        let tags = tags
            .iter()
            .map(|(tag, digest)| (tag.to_string(), digest.to_string()));
        Registry {
            tags: tags.collect(),
            ..Registry::default()
        }
    }

    /// An empty digest stands for a tag that is listed but has no manifest.
    fn head(&mut self, tag: &str) -> Option<String> {
        self.asked.push(tag.to_owned());
        let found = self.tags.iter().find(|(listed, _)| listed == tag)?;
        Some(found.1.clone()).filter(|digest| !digest.is_empty())
    }

    fn exists(&self, digest: &str) -> bool {
        self.untagged.contains(digest) || self.tags.iter().any(|(_, tagged)| tagged == digest)
    }

    fn check(&mut self, rules: &Rules<'_>, given: Option<(&str, &str)>) -> Vec<(String, String)> {
        let given = given.map(|(tag, digest)| Given {
            tag: tag.into(),
            digest: digest.into(),
        });
        let listed: Vec<String> = self.tags.iter().map(|(tag, _)| tag.clone()).collect();
        let candidates = Candidates::choose(listed, rules, given);
        let decisive = candidates.decisive().map(str::to_owned);
        let lookups = candidates.narrow(decisive.and_then(|tag| self.head(&tag)));
        let wanted: Vec<String> = lookups.tags().map(str::to_owned).collect();
        // Asked backwards: only the position of a digest may count.
        let mut found: Vec<_> = wanted.iter().rev().map(|tag| self.head(tag)).collect();
        found.reverse();
        let old_exists = lookups
            .old_digest()
            .is_some_and(|digest| self.exists(digest));
        lookups.answer(found, old_exists)
    }
}

fn pairs(value: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let pair = |pair: &Value| (text(&pair[0]), text(&pair[1]));
    value.as_array().expect("a list").iter().map(pair).collect()
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .map(|text| text.as_str().expect("a text").to_owned())
        .collect()
}

/// The expressions of the table by hand; matching them is not this module's.
fn matches(expression: &str, tag: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match expression {
        ".*" => true,
        "nothing" | "rc" => tag.contains(expression),
        "ubuntu$" => tag.ends_with("ubuntu"),
        "^1\\." => tag.starts_with("1."),
        "^\\d+$" => digits(tag),
        "^(edge|main)$" => tag == "edge" || tag == "main",
        "-(rc|beta)" => tag.contains("-rc") || tag.contains("-beta"),
        "[a-z]+" => tag.bytes().any(|byte| byte.is_ascii_lowercase()),
        "^v?\\d+\\.\\d+\\.\\d+$" => {
            let numbers: Vec<&str> = tag.strip_prefix('v').unwrap_or(tag).split('.').collect();
            numbers.len() == 3 && numbers.into_iter().all(digits)
        }
        other => panic!("write `{other}` by hand"),
    }
}

fn follow_expression(case: &Value, tags: Vec<(String, String)>) -> Vec<(String, String)> {
    let expression = case["source"]["tag_regex"].as_str().expect("an expression");
    let tags = tags.into_iter().filter(|(tag, _)| matches(expression, tag));
    if case["source"]["created_at_sort"] != true {
        return tags.collect();
    }
    let created = |label: &str| {
        let text = case["created"][label].as_str()?;
        Some(Created::parse(text).expect(text))
    };
    let created = tags.map(|(tag, label)| {
        let created = created(&label);
        ((tag, label), created)
    });
    oldest_first(created.collect())
}

#[test]
fn every_scenario_of_the_recorded_table_holds() {
    let mut seen = HashMap::new();
    for line in TABLE.lines() {
        let case: Value = serde_json::from_str(line).expect(line);
        let source = &case["source"];
        let given = case["version"].as_array().map(|_| {
            let version = &case["version"];
            (
                version[0].as_str().expect("a tag"),
                version[1].as_str().expect("a label"),
            )
        });
        let mut registry = Registry {
            tags: pairs(&case["tags"]),
            ..Registry::default()
        };
        registry.untagged.extend(texts(&case["gone"]));
        let (mode, answer) = if let Some(tag) = source["tag"].as_str() {
            let current = registry.head(tag);
            let old = given.map(|(_, digest)| digest.to_owned());
            (
                "tag",
                one_tag(tag, current, old.filter(|old| registry.exists(old))),
            )
        } else if source["tag_regex"].is_string() {
            ("expression", follow_expression(&case, registry.tags))
        } else {
            let constraint = source["semver_constraint"].as_str();
            let constraint = constraint.map(|text| Constraint::parse(text).expect(text));
            let rules = Rules {
                variant: source["variant"].as_str(),
                constraint: constraint.as_ref(),
                pre_releases: source["pre_releases"] == true,
                pre_release_prefixes: &texts(&source["pre_release_prefixes"]),
                semver_only: false,
            };
            ("versions", registry.check(&rules, given))
        };
        assert_eq!(answer, pairs(&case["expect"]), "{line}");
        *seen.entry(mode).or_insert(0) += 1;
    }
    assert_eq!(seen.values().sum::<i32>(), 240, "lines of the table");
    assert!(seen.len() == 3, "{seen:?}");
}

fn answer(registry: &mut Registry, rules: &Rules<'_>, given: Option<(&str, &str)>) -> String {
    let answer = registry.check(rules, given).into_iter();
    answer
        .map(|(tag, digest)| format!("{tag}@{digest}"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn a_given_version_whose_digest_changed_comes_first_among_those_of_its_tag() {
    let tags = [
        ("1.0.0", "a"),
        ("1.2.3", "new"),
        ("latest", "l"),
        ("2.0.0", "c"),
    ];
    let rules = Rules::default();
    let mut registry = Registry::new(&tags);
    let changed = Some(("1.2.3", "old"));
    assert_eq!(
        answer(&mut registry, &rules, changed),
        "1.0.0@a 1.2.3@new 2.0.0@c latest@l",
        "its digest cannot be fetched"
    );
    registry.untagged.insert("old".into());
    assert_eq!(
        answer(&mut registry, &rules, changed),
        "1.0.0@a 1.2.3@old 1.2.3@new 2.0.0@c latest@l"
    );
    assert_eq!(
        answer(&mut registry, &rules, Some(("1.5", "old"))),
        "1.0.0@a 1.2.3@new 1.5@old 2.0.0@c latest@l",
        "its tag is gone"
    );
    assert_eq!(
        answer(&mut registry, &rules, Some(("latest", "old"))),
        "1.0.0@a 1.2.3@new 2.0.0@c latest@old latest@l",
        "the bare tag moved"
    );
    assert_eq!(
        answer(&mut registry, &rules, Some(("edge", "old"))),
        "1.0.0@a 1.2.3@new 2.0.0@c latest@l",
        "its tag is no version"
    );
    let constraint = Constraint::parse("^2").expect("a constraint");
    let narrow = Rules {
        constraint: Some(&constraint),
        ..Rules::default()
    };
    assert_eq!(
        answer(&mut registry, &narrow, changed),
        "2.0.0@c",
        "its tag is not wanted"
    );
}

#[test]
fn the_old_digest_of_a_given_version_displaces_nothing() {
    let rules = Rules::default();
    let tags = [
        ("1.2", "b"),
        ("1.2.3", "a"),
        ("1.2.4", "b"),
        ("1.1", "c"),
        ("latest", "l"),
    ];
    for given in [
        ("1.2", "a"),
        ("1.1", "b"),
        ("1.2.4", "a"),
        ("1.2.5", "c"),
        ("1.2.5", "l"),
    ] {
        let answer = answer(&mut Registry::new(&tags), &rules, Some(given));
        assert_eq!(answer, "1.1@c 1.2.3@a 1.2.4@b latest@l", "{given:?}");
    }
}

#[test]
fn tags_up_to_an_unchanged_given_version_cost_no_request() {
    let tags = [
        ("1.0.0", "a"),
        ("edge", "e"),
        ("1.2", "b"),
        ("1.2.0", "c"),
        ("1.2.1", "d"),
        ("v1.2.0", "f"),
        ("latest", "l"),
        ("1.3.0-rc.1", "r"),
    ];
    let mut registry = Registry::new(&tags);
    let rules = Rules::default();
    assert_eq!(
        answer(&mut registry, &rules, Some(("1.2", "b"))),
        "1.2@b 1.2.1@d latest@l"
    );
    assert_eq!(registry.asked, ["1.2", "latest", "1.2.1"]);

    let mut registry = Registry::new(&tags);
    answer(&mut registry, &rules, Some(("1.2", "old")));
    assert_eq!(
        registry.asked,
        ["1.2", "latest", "v1.2.0", "1.2.1", "1.2.0", "1.0.0"]
    );

    let mut registry = Registry::new(&tags);
    let constraint = Constraint::parse("~1.2.1").expect("a constraint");
    let rules = Rules {
        constraint: Some(&constraint),
        ..Rules::default()
    };
    assert_eq!(answer(&mut registry, &rules, None), "1.2.1@d");
    assert_eq!(
        registry.asked,
        ["1.2.1"],
        "the bare tag is of no use with a constraint"
    );
}

#[test]
fn a_digest_is_reported_under_its_best_tag() {
    for (tags, given, expected) in [
        (
            vec![("1", "a"), ("1.2", "a"), ("1.2.3", "a")],
            None,
            "1.2.3@a",
        ),
        (
            vec![("1.2.3", "a"), ("1.2", "a"), ("1", "a")],
            None,
            "1.2.3@a",
        ),
        (vec![("1.0.0-rc.1", "a"), ("1", "a")], None, "1@a"),
        (
            vec![("1.0.0-rc", "a"), ("1.0.0-rc.2", "a")],
            None,
            "1.0.0-rc.2@a",
        ),
        (vec![("2.0.0", "a"), ("1.0.0", "a")], None, "2.0.0@a"),
        (
            vec![("2.0.0", "a"), ("1.0.0", "a")],
            Some(("1.0.0", "a")),
            "1.0.0@a",
        ),
        (
            vec![("1.0.0", "a"), ("2.0.0", "a")],
            Some(("2.0.0", "a")),
            "2.0.0@a",
        ),
        (
            vec![("1.2", "a"), ("1.2.3", "a")],
            Some(("1.2", "a")),
            "1.2.3@a",
        ),
        (vec![("latest", "a"), ("1.2", "a")], None, "1.2@a"),
        (vec![("latest", "a"), ("1.2", "")], None, "latest@a"),
        (vec![("latest", ""), ("1.2", "a")], None, "1.2@a"),
        (vec![("1.2", ""), ("1.3", "b")], Some(("1.2", "b")), "1.3@b"),
        (
            vec![("latest", "a"), ("1.2", "b")],
            Some(("latest", "a")),
            "1.2@b latest@a",
        ),
    ] {
        let rules = Rules {
            pre_releases: true,
            ..Rules::default()
        };
        let answer = answer(&mut Registry::new(&tags), &rules, given);
        assert_eq!(answer, expected, "{tags:?} {given:?}");
    }
}

#[test]
fn equal_precedence_goes_by_dots_and_then_as_listed() {
    let rules = Rules::default();
    let tags = [
        ("v1.2.0", "a"),
        ("1.2.0", "b"),
        ("1.2", "c"),
        ("01.2.0", "d"),
        ("v1.2", "e"),
    ];
    let expected = "1.2@c v1.2@e v1.2.0@a 1.2.0@b 01.2.0@d";
    assert_eq!(answer(&mut Registry::new(&tags), &rules, None), expected);
    let given = Some(("01.2.0", "gone"));
    assert_eq!(answer(&mut Registry::new(&tags), &rules, given), expected);
}

#[test]
fn variants_and_pre_releases_are_told_apart() {
    let tags = [
        "1.0.0",
        "1.0.0-rc.1",
        "1.0.0-rc.1-foo",
        "1.0.0-foo",
        "1.0.0-dev.1",
        "1.0.0-dev-1",
        "1.0.0-rc.1-bar-foo",
        "foo",
        "-foo",
        "latest",
        "1.0.0-barfoo",
        "1-foo-foo",
        "v2-foo",
        "1.0.0-RC.1",
        "1.0.0-rcfoo",
        "latest-foo",
        "1.2-foo",
    ];
    let none: &[&str] = &[];
    for (variant, pre_releases, prefixes, expected) in [
        ("", false, none, "1.0.0 latest"),
        ("", true, none, "1.0.0-rc.1 1.0.0-rcfoo 1.0.0 latest"),
        (
            "",
            true,
            &["dev"],
            "1.0.0-dev.1 1.0.0-dev-1 1.0.0-rc.1 1.0.0-rc.1-bar-foo 1.0.0-rc.1-foo \
             1.0.0-rcfoo 1.0.0 latest",
        ),
        ("", false, &["dev"], "1.0.0 latest"),
        ("foo", false, none, "1.0.0-foo 1.2-foo v2-foo foo"),
        (
            "foo",
            true,
            none,
            "1.0.0-rc.1-foo 1.0.0-foo 1.2-foo v2-foo foo",
        ),
        (
            "foo",
            true,
            &["bar"],
            "1.0.0-rc.1-foo 1.0.0-rc.1-bar-foo 1.0.0-foo 1.2-foo v2-foo foo",
        ),
        ("bar-foo", true, none, "1.0.0-rc.1-bar-foo"),
        ("foo-foo", false, none, "1-foo-foo"),
        // A variant that reads like a version is the bare tag all the same.
        ("1.0.0", false, none, "1.0.0"),
    ] {
        let prefixes: Vec<String> = prefixes.iter().map(|prefix| prefix.to_string()).collect();
        let rules = Rules {
            variant: Some(variant),
            pre_releases,
            pre_release_prefixes: &prefixes,
            ..Rules::default()
        };
        let tags: Vec<_> = tags.iter().map(|tag| (*tag, *tag)).collect();
        let answer = Registry::new(&tags).check(&rules, None);
        let answer: Vec<_> = answer.into_iter().map(|(tag, _)| tag).collect();
        assert_eq!(
            answer.join(" "),
            expected,
            "{variant:?} {pre_releases} {prefixes:?}"
        );
    }
}

#[test]
fn the_bare_tag_can_be_left_out_and_is_then_not_asked_for() {
    let tags = [("latest", "l"), ("1.0.0", "a")];
    let rules = Rules {
        semver_only: true,
        ..Rules::default()
    };
    let mut registry = Registry::new(&tags);
    assert_eq!(answer(&mut registry, &rules, None), "1.0.0@a");
    assert_eq!(
        answer(&mut registry, &rules, Some(("latest", "l"))),
        "1.0.0@a"
    );
    assert_eq!(registry.asked, ["1.0.0", "1.0.0"]);
}

#[test]
fn one_tag_is_reported_with_the_given_digest_before_it() {
    for (current, old, expected) in [
        (None, None, vec![]),
        (None, Some("old"), vec![]),
        (Some("new"), None, vec!["new"]),
        (Some("new"), Some("new"), vec!["new"]),
        (Some("new"), Some("old"), vec!["old", "new"]),
    ] {
        let answer = one_tag("edge", current, old);
        let expected: Vec<_> = expected
            .into_iter()
            .map(|digest| ("edge".into(), digest))
            .collect();
        assert_eq!(answer, expected, "{current:?} {old:?}");
    }
}

#[test]
fn any_registry_is_answered_by_the_rules() {
    let mut random = Random::new(6);
    let constraint = Constraint::parse(">=1 <9 || 0.x-0").expect("a constraint");
    let prefixes = ["dev".to_owned()];
    let tag = |random: &mut Random| {
        let numbers: Vec<String> = (0..=random.below(3))
            .map(|_| random.below(3).to_string())
            .collect();
        let suffix = random.pick(&[
            "",
            "",
            "",
            "-rc.1",
            "-foo",
            "-rc.1-foo",
            "-dev",
            "-alpha-foo",
        ]);
        let sign = random.pick(&["", "", "v"]);
        match random.below(12) {
            0 => "latest".to_owned(),
            1 => "foo".to_owned(),
            2 => random.text("0123456789.-vrcfo", 8),
            _ => format!("{sign}{}{suffix}", numbers.join(".")),
        }
    };
    let mut answered = 0;
    for round in 0..5_000 {
        let rules = Rules {
            variant: random.chance(3).then_some("foo"),
            constraint: random.chance(3).then_some(&constraint),
            pre_releases: random.chance(2),
            pre_release_prefixes: if random.chance(2) { &prefixes } else { &[] },
            semver_only: random.chance(4),
        };
        let mut registry = Registry::default();
        for _ in 0..random.below(30) {
            let (tag, digest) = (tag(&mut random), random.text("abcdefgh", 1));
            if registry.tags.iter().all(|(listed, _)| *listed != tag) {
                registry.tags.push((tag, digest));
            }
        }
        registry.untagged.insert("h".into());
        let given = random.chance(2).then(|| match registry.tags.len() {
            0 => (tag(&mut random), "h".to_owned()),
            many => {
                let (tag, digest) = registry.tags[random.below(many)].clone();
                let digest = if random.chance(2) {
                    "h".to_owned()
                } else {
                    digest
                };
                (tag, digest)
            }
        });
        let given = given
            .as_ref()
            .map(|(tag, digest)| (tag.as_str(), digest.as_str()));
        let given = given.filter(|(_, digest)| !digest.is_empty());
        let answer = registry.check(&rules, given);
        let context = format!(
            "round {round}: {:?} {given:?} {rules:?} {answer:?}",
            registry.tags
        );
        answered += answer.len();

        let asked: HashSet<_> = registry.asked.iter().collect();
        assert_eq!(
            asked.len(),
            registry.asked.len(),
            "nothing is asked twice: {context}"
        );
        assert!(
            asked.iter().all(|tag| rules.read(tag).is_some()),
            "{context}"
        );
        let digests: HashSet<_> = answer.iter().map(|(_, digest)| digest).collect();
        assert_eq!(digests.len(), answer.len(), "no digest twice: {context}");
        for (tag, digest) in &answer {
            assert!(!digest.is_empty(), "{context}");
            let now = registry.tags.contains(&(tag.clone(), digest.clone()));
            assert!(now || given == Some((tag, digest)), "{context}");
        }
        let versions: Vec<_> = answer
            .iter()
            .map(|(tag, _)| rules.read(tag).expect(tag))
            .collect();
        for pair in versions.windows(2) {
            let ordered = match (&pair[0], &pair[1]) {
                (Some(one), Some(next)) => one.precedence(next).is_le(),
                (one, next) => one.is_some() || next.is_none(),
            };
            assert!(ordered, "{context}");
        }
        if let Some((tag, digest)) = given
            && let Some(version) = rules.read(tag)
        {
            let unchanged = registry.tags.contains(&(tag.to_owned(), digest.to_owned()));
            assert!(
                digests.contains(&digest.to_owned()) || !registry.exists(digest),
                "{context}"
            );
            if let (true, Some(floor)) = (unchanged, version) {
                let low = |version: &Option<Version>| {
                    version
                        .as_ref()
                        .is_some_and(|version| version.precedence(&floor).is_lt())
                };
                assert!(!versions.iter().any(low), "{context}");
                assert!(
                    !asked.iter().any(|tag| low(&rules.read(tag).expect(tag))),
                    "{context}"
                );
            }
        }
        assert_eq!(
            registry.check(&rules, given),
            answer,
            "the same again: {context}"
        );
    }
    assert!(answered > 5_000, "only {answered} versions");
}

/// Quadratic work would take minutes here.
#[test]
fn a_hundred_thousand_tags_are_few() {
    let mut random = Random::new(7);
    let mut tags: Vec<String> = (0..100_000)
        .map(|i| format!("{}.{}.{}-rc.{i}", i % 7, i % 11, i % 13))
        .collect();
    random.shuffle(&mut tags);
    let rules = Rules {
        pre_releases: true,
        ..Rules::default()
    };
    let given = Given {
        tag: tags[50_000].clone(),
        digest: 1,
    };
    let candidates = Candidates::choose(tags, &rules, Some(given));
    let lookups = candidates.narrow(Some(2));
    let asked = lookups.tags().len();
    let answer = lookups.answer((0..asked).map(|i| Some(i % 60_000 + 10)), true);
    assert_eq!((asked, answer.len()), (99_999, 60_002));
}
