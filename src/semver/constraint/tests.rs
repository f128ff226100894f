//! The grammar against what Masterminds/semver 3.5 was seen to do, and against its own rules.

use super::*;
use crate::semver::testing::Random;

/// Constraint, `valid` or `invalid`, the versions of the second line that satisfy it.
const TABLE: &str = include_str!("../../../tests/cases/semver_constraints.tsv");

fn allowed<'a>(constraint: &Constraint, versions: &[&'a str]) -> Vec<&'a str> {
    let allows = |text: &str| constraint.allows(&Version::parse(text).expect(text));
    versions
        .iter()
        .copied()
        .filter(|text| allows(text))
        .collect()
}

#[test]
fn every_line_of_the_recorded_table_holds() {
    let versions = TABLE
        .lines()
        .find_map(|line| line.strip_prefix("# versions: "));
    let versions: Vec<&str> = versions.expect("the second line").split(' ').collect();
    let mut lines = 0;
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let mut columns = line.split('\t');
        let (text, valid) = (columns.next().expect(line), columns.next().expect(line));
        let expected: Vec<&str> = columns
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        match Constraint::parse(text) {
            Ok(constraint) => {
                assert_eq!(valid, "valid", "{line}");
                assert_eq!(allowed(&constraint, &versions), expected, "{line}");
            }
            Err(error) => assert_eq!(valid, "invalid", "{line}: {error}"),
        }
        lines += 1;
    }
    assert_eq!(lines, 249, "lines of the table");
}

#[test]
fn partial_versions_stand_for_all_they_begin() {
    let versions = [
        "1.1.9", "1.2", "1.2.0", "1.2.9", "1.3.0", "2.0.0", "0.0.5", "0.3.0",
    ];
    for (text, expected) in [
        (">1.2", "1.3.0 2.0.0"),
        (">1", "2.0.0"),
        ("<=1.2", "1.1.9 1.2 1.2.0 1.2.9 0.0.5 0.3.0"),
        ("<1.2", "1.1.9 0.0.5 0.3.0"),
        ("!=1.2", "1.1.9 1.3.0 2.0.0 0.0.5 0.3.0"),
        ("!=1.x.9", "2.0.0 0.0.5 0.3.0"),
        ("1.2", "1.2 1.2.0 1.2.9"),
        ("<=*", "0.0.5"),
        ("^*", ""),
        ("~0.0.0", "1.1.9 1.2 1.2.0 1.2.9 1.3.0 2.0.0 0.0.5 0.3.0"),
        ("~0.0", "0.0.5"),
        ("^0", "0.0.5 0.3.0"),
        ("*.x.X", "1.1.9 1.2 1.2.0 1.2.9 1.3.0 2.0.0 0.0.5 0.3.0"),
        ("x.9x.|", "1.1.9 1.2 1.2.0 1.2.9 1.3.0 2.0.0 0.0.5 0.3.0"),
        ("1.x.99999999999999999999", "1.1.9 1.2 1.2.0 1.2.9 1.3.0"),
    ] {
        let constraint = Constraint::parse(text).expect(text);
        assert_eq!(
            allowed(&constraint, &versions).join(" "),
            expected,
            "{text}"
        );
    }
}

#[test]
fn pre_releases_count_only_where_the_same_group_names_one() {
    let versions = ["1.2.0-rc.1", "1.2.0", "1.3.0-rc.1", "2.0.0-rc.1", "2.0.0"];
    for (text, expected) in [
        (">=1.0", "1.2.0 2.0.0"),
        (">=1.0-0", "1.2.0-rc.1 1.2.0 1.3.0-rc.1 2.0.0-rc.1 2.0.0"),
        (">=1.0 <2.0.0-0", "1.2.0-rc.1 1.2.0 1.3.0-rc.1"),
        (">=1.0 || 9.0.0-0", "1.2.0 2.0.0"),
        (">=2.0.0-0 || <=1.3", "1.2.0 2.0.0-rc.1 2.0.0"),
        ("*-0", "1.2.0-rc.1 1.2.0 1.3.0-rc.1 2.0.0-rc.1 2.0.0"),
        (
            "1.2.0-rc.1 - 2",
            "1.2.0-rc.1 1.2.0 1.3.0-rc.1 2.0.0-rc.1 2.0.0",
        ),
        ("!=1.2-rc.1, <2", "1.2.0 1.3.0-rc.1 2.0.0-rc.1"),
    ] {
        let constraint = Constraint::parse(text).expect(text);
        assert_eq!(
            allowed(&constraint, &versions).join(" "),
            expected,
            "{text}"
        );
    }
}

#[test]
fn ranges_stand_alone_or_behind_a_comma_or_bars() {
    let versions = ["1.0.0", "2.0.0", "3.0.0", "4.0.0", "5.0.0"];
    for (text, expected) in [
        ("2 - 3", "2.0.0 3.0.0"),
        ("\t2 \n-\r 3 ", "2.0.0 3.0.0"),
        ("v2 - v3", "2.0.0 3.0.0"),
        ("2 - 3 || 5", "2.0.0 3.0.0 5.0.0"),
        ("2 - 3||5", "2.0.0 3.0.0 5.0.0"),
        ("1 || 3 - 4", "1.0.0 3.0.0 4.0.0"),
        ("1|| 3 - 4", "1.0.0 3.0.0 4.0.0"),
        ("1 - 2 || 4 - 5", "1.0.0 2.0.0 4.0.0 5.0.0"),
        ("!=3, 2 - 4", "2.0.0 4.0.0"),
        ("2 - 4 !=3", "2.0.0 4.0.0"),
        ("2 - 4!=3", "2.0.0 4.0.0"),
        ("2 - 4,!=3", "2.0.0 4.0.0"),
        ("* - 2", "1.0.0 2.0.0"),
        ("3 - 2", ""),
        ("1||2 - 3", "1.0.0 2.0.0 3.0.0 4.0.0 5.0.0"),
    ] {
        let constraint = Constraint::parse(text).expect(text);
        assert_eq!(
            allowed(&constraint, &versions).join(" "),
            expected,
            "{text}"
        );
    }
    for text in [
        "2 -3",
        "2- 3",
        "2 - ",
        " - 3",
        "2 - 3 - 4",
        ">=2 - 3",
        "1 2 - 3",
        "2 - >3",
        "1 ||2 - 3",
        "1.0 - 1.5||2.0 - 2.5",
        "2 - 3 || ",
        "2 - 3.4.5.6",
    ] {
        assert!(Constraint::parse(text).is_err(), "{text}");
    }
}

#[test]
fn errors_quote_the_constraint_and_the_part() {
    for (text, message) in [
        (
            "",
            "semver constraint ``: it is empty, or a `||` has nothing beside it",
        ),
        (
            "1 || ",
            "semver constraint `1 || `: it is blank, or a `||` has nothing beside it",
        ),
        (
            ">=1,",
            "semver constraint `>=1,`: nothing follows the last comma",
        ),
        (
            ">=",
            "semver constraint `>=`: `>=` has no version behind it",
        ),
        (
            ">=1 >>2",
            "semver constraint `>=1 >>2`: `>2` does not begin with a version",
        ),
        (
            "latest",
            "semver constraint `latest`: `latest` does not begin with a version",
        ),
        (
            "1.2.3.4",
            "semver constraint `1.2.3.4`: `.4` is not expected there",
        ),
        (
            "1.2.3-",
            "semver constraint `1.2.3-`: `-` is not expected there",
        ),
        (
            "1 | 2",
            "semver constraint `1 | 2`: `|`: alternatives are separated by `||`",
        ),
        (
            "^1.2b",
            "semver constraint `^1.2b`: `b` is not expected there",
        ),
        (
            "^1.2x",
            "semver constraint `^1.2x`: `2x` in `1.2x` is neither a number nor a wildcard",
        ),
        (
            "<99999999999999999999",
            "semver constraint `<99999999999999999999`: `99999999999999999999` is too large \
             for a version number",
        ),
        (
            "1.2.3-rc.01",
            "semver constraint `1.2.3-rc.01`: `01` in `1.2.3-rc.01`: a number in a \
             pre-release has no leading zero",
        ),
        (
            "1.2.3\u{b}\n2",
            "semver constraint `1.2.3\\u{b}\\n2`: `\\u{b}\\n2` is not expected there",
        ),
        (
            "1 2 - 3",
            "semver constraint `1 2 - 3`: `>= 2, <= 3 ` is not expected there; a range \
             `A - B` has no operator and stands first, or after a comma, or with blanks \
             between it and `||`",
        ),
    ] {
        assert_eq!(
            Constraint::parse(text).expect_err(text).to_string(),
            message
        );
    }
}

#[test]
fn lengths_are_bounded() {
    let at_limit = format!("1.0.0{}", " ".repeat(LENGTH_LIMIT - 5));
    assert!(Constraint::parse(&at_limit).is_ok());
    let error = Constraint::parse(&format!("{at_limit} ")).expect_err("one more");
    assert_eq!(
        error.to_string(),
        "a semver constraint of 513 bytes is too long: the limit is 512"
    );
    assert!(Constraint::parse(&vec!["1"; GROUP_LIMIT].join("||")).is_ok());
    assert!(Constraint::parse(&vec!["1"; GROUP_LIMIT + 1].join("||")).is_err());
    assert!(Constraint::parse(&format!("1.2.3-{}", "a".repeat(300))).is_err());
    for long in ["|", " ", "1 - ", "1 ", ",", "x.", "-", "é", ">"] {
        let text = long.repeat(1 << 20);
        assert!(Constraint::parse(&text).is_err(), "{long:?}");
        let fits = text.floor_char_boundary(LENGTH_LIMIT);
        let _ = Constraint::parse(&text[..fits]);
    }
}

#[test]
fn any_text_ends_in_a_constraint_or_an_error() {
    let mut random = Random::new(3);
    let parts = [
        "1",
        "2.",
        ".3",
        "x",
        "*",
        "X",
        "v",
        "-",
        " - ",
        "||",
        "|",
        ",",
        " ",
        ">",
        "<",
        "=",
        "!",
        "~",
        "^",
        "+",
        "rc.1",
        "01",
        "0",
        "é",
        "\0",
        "\u{a0}",
        "18446744073709551616",
    ];
    let probe = Version::parse("1.2.3-rc.1").expect("a version");
    let mut valid = 0;
    for _ in 0..100_000 {
        let pieces = (0..random.below(9)).map(|_| random.pick(&parts));
        let text: String = pieces.collect();
        if let Ok(constraint) = Constraint::parse(&text) {
            constraint.allows(&probe);
            valid += 1;
        }
        let _ = Constraint::parse(&String::from_utf8_lossy(&random.bytes(40)));
    }
    assert!(valid > 1000, "only {valid} were valid");
}

/// With whole versions every comparator is a half-line or a point, whatever the spelling.
#[test]
fn opposite_comparators_part_the_versions() {
    let mut random = Random::new(4);
    for _ in 0..5_000 {
        let mut number = || {
            format!(
                "{}.{}.{}",
                random.below(3),
                random.below(3),
                random.below(3)
            )
        };
        let (bound, version) = (number(), number());
        let version = Version::parse(&version).expect("a version");
        let holds = |sign: &str| {
            let text = format!("{sign}{bound}");
            Constraint::parse(&text).expect(&text).allows(&version)
        };
        assert_ne!(holds("<"), holds(">="), "{bound} {version}");
        assert_ne!(holds(">"), holds("<="), "{bound} {version}");
        assert_ne!(holds("="), holds("!="), "{bound} {version}");
        assert_eq!(holds("=>"), holds(">") || holds("="), "{bound} {version}");
        assert_eq!(holds("=<"), holds("<") || holds("="), "{bound} {version}");
        assert!(!holds("^") || holds(">="), "{bound} {version}");
        assert!(!holds("~") || holds(">="), "{bound} {version}");
        assert_eq!(holds("~"), holds("~>"), "{bound} {version}");
    }
}
