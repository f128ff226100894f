//! `semver_constraint`: the grammar of Masterminds/semver 3.5.
//!
//! Owns how a constraint is read and which versions it lets through, to the letter of that
//! library where a pipeline could notice; its behaviour was recorded in
//! `tests/cases/semver_constraints.tsv`. Whether pre-releases are wanted at all is not decided
//! here.
//!
//! ```text
//! constraint = group *( "||" group )                any group suffices
//! group      = comparator *( separator comparator ) all of them must hold
//! separator  = blanks, or a comma with or without blanks
//! comparator = [operator] [blanks] ["v"] number ["." number ["." number]] ["-" pre] ["+" build]
//! number     = digits, or one of "x" "X" "*"
//! range      = version blanks "-" blanks version    short for ">= version, <= version"
//! ```

use std::borrow::Cow;
use std::cmp::Ordering;

use super::version::{Version, has_leading_zero, split_run, split_suffixes};
use crate::error::{Error, Result};

/// Bytes of a constraint. Masterminds/semver 3.5 has the same limit; with it no input is slow.
const LENGTH_LIMIT: usize = 512;

/// Alternatives between `||`; Masterminds/semver 3.5 has the same limit.
const GROUP_LIMIT: usize = 32;

/// Longest first, so that `>=` is not read as `>`.
const OPERATORS: [(&str, Operator); 11] = [
    ("!=", Operator::NotEqual),
    (">=", Operator::AtLeast),
    ("=>", Operator::AtLeast),
    ("<=", Operator::AtMost),
    ("=<", Operator::AtMost),
    ("~>", Operator::Tilde),
    ("=", Operator::Equal),
    (">", Operator::Greater),
    ("<", Operator::Less),
    ("~", Operator::Tilde),
    ("^", Operator::Caret),
];

/// Which versions are wanted.
#[derive(Clone, Debug)]
pub(crate) struct Constraint {
    any_of: Vec<Group>,
}

#[derive(Clone, Debug)]
struct Group {
    all_of: Vec<Comparator>,
    /// One of the comparators names a pre-release: only then does the group match any.
    pre_releases: bool,
}

#[derive(Clone, Debug)]
struct Comparator {
    operator: Operator,
    written: Written,
    /// What was not written, or stands behind a wildcard, is 0.
    version: Version,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Operator {
    AtLeast,
    AtMost,
    Caret,
    Equal,
    Greater,
    Less,
    NotEqual,
    Tilde,
}

/// How much of a version stands before the first wildcard or the end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Written {
    Nothing,
    Major,
    Minor,
    Patch,
}

impl Constraint {
    /// Errors quote the constraint and the part that is not understood. The empty text is an
    /// error: no constraint is the absence of one.
    pub(crate) fn parse(text: &str) -> Result<Constraint> {
        if text.len() > LENGTH_LIMIT {
            return Err(Error::config(format!(
                "a semver constraint of {} bytes is too long: the limit is {LENGTH_LIMIT}",
                text.len()
            )));
        }
        let plain = replace_ranges(text);
        let fail = |why: String| {
            let error = Error::config(format!("semver constraint `{}`: {why}", shown(text)));
            match plain {
                Cow::Borrowed(_) => error,
                Cow::Owned(_) => error.advise(
                    "a range `A - B` has no operator and stands first, or after a comma, \
                     or with blanks between it and `||`",
                ),
            }
        };
        let groups = plain.split("||");
        if groups.clone().count() > GROUP_LIMIT {
            return Err(fail(format!("more than {GROUP_LIMIT} alternatives")));
        }
        let any_of = groups
            .map(Group::parse)
            .collect::<std::result::Result<_, _>>();
        any_of.map(|any_of| Constraint { any_of }).map_err(fail)
    }

    /// Whether a version satisfies it. A pre-release does only in a group where one of the
    /// comparators has a pre-release too.
    pub(crate) fn allows(&self, version: &Version) -> bool {
        self.any_of.iter().any(|group| {
            (version.is_final() || group.pre_releases)
                && group
                    .all_of
                    .iter()
                    .all(|comparator| comparator.allows(version))
        })
    }
}

impl Group {
    fn parse(text: &str) -> std::result::Result<Group, String> {
        let mut all_of = Vec::new();
        let mut rest = skip_blanks(text);
        if rest.is_empty() {
            return Err(match text {
                "" => "it is empty, or a `||` has nothing beside it".to_owned(),
                _ => "it is blank, or a `||` has nothing beside it".to_owned(),
            });
        }
        loop {
            let (comparator, after) = Comparator::parse(rest)?;
            all_of.push(comparator);
            let next = skip_blanks(after);
            if next.is_empty() {
                break;
            }
            rest = match next.strip_prefix(',') {
                Some(next) => skip_blanks(next),
                None if next.len() < after.len() => next,
                None => return Err(format!("`{}` is not expected there", shown(next))),
            };
            if rest.is_empty() {
                return Err("nothing follows the last comma".to_owned());
            }
        }
        let pre_releases = all_of
            .iter()
            .any(|comparator| !comparator.version.is_final());
        Ok(Group {
            all_of,
            pre_releases,
        })
    }
}

impl Comparator {
    /// From the front of a text without blanks before it; the rest is returned.
    fn parse(text: &str) -> std::result::Result<(Comparator, &str), String> {
        let (operator, after) = OPERATORS
            .iter()
            .find_map(|(sign, operator)| Some((*operator, text.strip_prefix(sign)?)))
            .unwrap_or((Operator::Equal, text));
        let pattern = skip_blanks(after);
        let Some((parts, rest)) = Parts::split(pattern) else {
            return Err(match pattern.len() {
                0 => format!("`{}` has no version behind it", shown(text)),
                _ => format!("`{}` does not begin with a version", shown(pattern)),
            });
        };
        let (written, version) = parts.version()?;
        let comparator = Comparator {
            operator,
            written,
            version,
        };
        Ok((comparator, rest))
    }

    /// Of numbers and identifiers alone; the rule for pre-releases is the group's.
    fn allows(&self, version: &Version) -> bool {
        let ours = &self.version;
        let order = version.precedence(ours);
        let major = version.major().cmp(&ours.major());
        let minor = major.then(version.minor().cmp(&ours.minor()));
        match self.operator {
            Operator::Equal if self.written == Written::Patch => order.is_eq(),
            Operator::Equal | Operator::Tilde => order.is_ge() && self.tilde(major, minor),
            Operator::Caret => order.is_ge() && self.caret(version, major, minor),
            // A partial version stands for all that it begins: `>1.2` is `>=1.3`.
            // Quirk(Masterminds/semver 3.5): a bare wildcard is 0.0.0 here, and `<=*` is `<=0.0`.
            Operator::NotEqual => match self.written {
                Written::Major => major.is_ne(),
                Written::Minor => minor.is_ne() || version.pre() != ours.pre(),
                Written::Nothing | Written::Patch => order.is_ne(),
            },
            Operator::Greater => match self.written {
                Written::Major => major.is_gt(),
                Written::Minor => minor.is_gt(),
                Written::Nothing | Written::Patch => order.is_gt(),
            },
            Operator::AtMost => match self.written {
                Written::Major => major.is_le(),
                Written::Minor | Written::Nothing => minor.is_le(),
                Written::Patch => order.is_le(),
            },
            Operator::AtLeast => order.is_ge(),
            Operator::Less => order.is_lt(),
        }
    }

    /// `~1.2.3` and `~1.2` stay in 1.2, `~1` stays in 1.
    fn tilde(&self, major: Ordering, minor: Ordering) -> bool {
        let zero = (
            self.version.major(),
            self.version.minor(),
            self.version.patch(),
        ) == (0, 0, 0);
        match self.written {
            Written::Nothing => true,
            // Quirk(Masterminds/semver 3.5): `~0.0.0` has no upper end.
            Written::Patch if zero => true,
            Written::Major => major.is_eq(),
            Written::Minor | Written::Patch => minor.is_eq(),
        }
    }

    /// `^1.2.3` stays in 1; below 1.0.0 the first number that is not 0 stays:
    /// `^0.2.3` in 0.2, `^0.0.3` in 0.0.3; `^0.0` in 0.0 and `^0` in 0.
    fn caret(&self, version: &Version, major: Ordering, minor: Ordering) -> bool {
        if self.version.major() > 0 || self.written == Written::Major {
            major.is_eq()
        } else if self.version.minor() > 0 || self.written == Written::Minor {
            minor.is_eq()
        } else {
            // Quirk(Masterminds/semver 3.5): `^*` comes here too and means 0.0.0 alone.
            minor.is_eq() && version.patch() == self.version.patch()
        }
    }
}

/// A version with wildcards, cut but not yet understood.
struct Parts<'a> {
    text: &'a str,
    major: &'a str,
    minor: Option<&'a str>,
    patch: Option<&'a str>,
    pre: &'a str,
}

impl<'a> Parts<'a> {
    /// From the front of a text, as much as fits; the rest is returned.
    fn split(text: &'a str) -> Option<(Parts<'a>, &'a str)> {
        let (major, mut rest) = split_run(text.strip_prefix('v').unwrap_or(text), is_number_byte);
        if major.is_empty() {
            return None;
        }
        let mut number = || {
            let (number, after) = split_run(rest.strip_prefix('.')?, is_number_byte);
            if number.is_empty() {
                return None;
            }
            rest = after;
            Some(number)
        };
        let minor = number();
        let patch = minor.and_then(|_| number());
        let (pre, _, rest) = split_suffixes(rest);
        let text = text.strip_suffix(rest).unwrap_or(text);
        Some((
            Parts {
                text,
                major,
                minor,
                patch,
                pre,
            },
            rest,
        ))
    }

    /// What stands behind a wildcard is dropped unread, the pre-release is not.
    fn version(&self) -> std::result::Result<(Written, Version), String> {
        let sign = if self.pre.is_empty() { "" } else { "-" };
        let pre = self.pre;
        let wildcard = |number: &&str| matches!(*number, "x" | "X" | "*");
        let minor = self.minor.filter(|number| !wildcard(number));
        let patch = self.patch.filter(|number| !wildcard(number));
        let (written, plain) = match (self.major, minor, patch) {
            (major, _, _) if wildcard(&major) => (Written::Nothing, format!("0.0.0{sign}{pre}")),
            (major, None, _) => (Written::Major, format!("{major}.0.0{sign}{pre}")),
            (major, Some(minor), None) => (Written::Minor, format!("{major}.{minor}.0{sign}{pre}")),
            (_, Some(_), Some(_)) => (Written::Patch, self.text.to_owned()),
        };
        match Version::parse(&plain) {
            Some(version) => Ok((written, version)),
            None => Err(self.fault(written)),
        }
    }

    /// Why that is no version.
    fn fault(&self, written: Written) -> String {
        let numbers = [Some(self.major), self.minor, self.patch];
        let used = match written {
            Written::Nothing => 0,
            Written::Major => 1,
            Written::Minor => 2,
            Written::Patch => 3,
        };
        let mut numbers = numbers.into_iter().flatten().take(used);
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(bar) = self.text.split('|').nth(1).map(|_| self.text) {
            format!("`{bar}`: alternatives are separated by `||`")
        } else if let Some(bad) = numbers.clone().find(|number| !is_number(number)) {
            format!(
                "`{bad}` in `{}` is neither a number nor a wildcard",
                self.text
            )
        } else if let Some(large) = numbers.find(|number| number.parse::<u64>().is_err()) {
            format!("`{large}` is too large for a version number")
        } else if let Some(zero) = self.pre.split('.').find(|part| has_leading_zero(part)) {
            format!(
                "`{zero}` in `{}`: a number in a pre-release has no leading zero",
                self.text
            )
        } else {
            format!("`{}` is too long for a version", self.text)
        }
    }
}

/// Quirk(Masterminds/semver 3.5): `|` counts as part of a number. It is never a valid one, but
/// behind a wildcard nobody looks, and it decides how far a range's ends reach.
fn is_number_byte(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'x' | b'X' | b'*' | b'|')
}

/// Blanks as RE2's `\s` knows them: a vertical tab or a no-break space is none.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\x0c' | b'\r')
}

fn skip_blanks(text: &str) -> &str {
    split_run(text, is_blank).1
}

/// User input inside backticks, on one line.
fn shown(text: &str) -> impl std::fmt::Display {
    text.escape_debug()
}

/// Writes each range `A - B` as `>= A, <= B `.
///
/// Quirk(Masterminds/semver 3.5): ranges are replaced in the text, with the blanks around them,
/// before anything else is understood. So a range needs a comma or `||` before it (`1 2 - 3` is
/// no constraint), and an end that touches `||` takes the next number along:
/// `1||2 - 3` is `>= 1||2, <= 3`.
fn replace_ranges(text: &str) -> Cow<'_, str> {
    let mut plain = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        match range(rest) {
            Some((from, to, after)) => {
                plain.push_str(text.get(copied..at).unwrap_or_default());
                plain.push_str(&format!(">= {from}, <= {to} "));
                at = text.len() - after.len();
                copied = at;
            }
            None => at += rest.chars().next().map_or(1, char::len_utf8),
        }
    }
    match text.get(copied..) {
        Some(rest) if copied > 0 => Cow::Owned(plain + rest),
        _ => Cow::Borrowed(text),
    }
}

/// Both ends of a range at the front of a text, and what follows its trailing blanks.
fn range(text: &str) -> Option<(&str, &str, &str)> {
    let (from, rest) = Parts::split(skip_blanks(text))?;
    let dash = skip_blanks(rest);
    let behind = dash.strip_prefix('-')?;
    let end = skip_blanks(behind);
    if dash.len() == rest.len() || end.len() == behind.len() {
        return None;
    }
    let (to, rest) = Parts::split(end)?;
    Some((from.text, to.text, skip_blanks(rest)))
}

#[cfg(test)]
mod tests;
