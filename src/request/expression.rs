//! Regular expressions in the syntax of RE2, as users of the Go resource have them.
//!
//! The engine here reads the syntax of Rust's `regex`, which takes some of RE2's letters for
//! something else. Every part that the two read in different ways is written out for the engine;
//! all others go through, so that what is wrong is told by the engine.

use std::str::Chars;

use regex_lite::Regex;

/// What an expression is matched with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Alphabet {
    /// Tags: a class of Unicode's is its ASCII part.
    Ascii,
    /// Labels and annotations: their names hold what their author likes.
    Unicode,
}

/// # Errors
/// What the engine does not understand.
pub(super) fn compile(expression: &str, alphabet: Alphabet) -> Result<Regex, regex_lite::Error> {
    let mut translation = Translation {
        rest: expression.chars(),
        alphabet,
        plain: String::with_capacity(expression.len()),
    };
    translation.expression();
    Regex::new(&translation.plain)
}

struct Translation<'a> {
    rest: Chars<'a>,
    alphabet: Alphabet,
    plain: String,
}

/// What an escape stands for.
enum Escaped {
    Character(char),
    /// In the engine's words, for use between brackets: `\d`, `[:alpha:]`.
    Class(String),
    /// Something else, or nothing.
    Other(char),
}

impl Translation<'_> {
    fn expression(&mut self) {
        while let Some(character) = self.rest.next() {
            match character {
                '[' => self.class(),
                '\\' if self.skip("Q") => self.quoted(),
                '\\' => match self.escape() {
                    Some(Escaped::Character(character)) => self.literal(character),
                    Some(Escaped::Class(class)) => self.push(&["[", &class, "]"]),
                    Some(Escaped::Other(letter)) => self.verbatim(letter),
                    None => self.plain.push('\\'),
                },
                // What begins no repetition is a brace.
                '{' if !begins_repetition(self.rest.as_str()) => self.literal('{'),
                other => self.plain.push(other),
            }
        }
    }

    /// `\Q…\E`, or up to the end.
    fn quoted(&mut self) {
        let rest = self.rest.as_str();
        let (quoted, after) = rest.split_once("\\E").unwrap_or((rest, ""));
        self.plain.push_str(&regex_lite::escape(quoted));
        self.rest = after.chars();
    }

    /// A bracketed class, behind its bracket. RE2 knows no classes in classes and no operators in
    /// them, and a `-` at which no range can be is a character.
    fn class(&mut self) {
        self.plain.push('[');
        if self.skip("^") {
            self.plain.push('^');
        }
        let mut first = true;
        loop {
            let rest = self.rest.as_str();
            if rest.is_empty() {
                return;
            }
            if !first && self.skip("]") {
                return self.plain.push(']');
            }
            first = false;
            // `[:alpha:]`; one of an unknown name is an error as it stands.
            if rest.starts_with("[:")
                && let Some((name, after)) = rest.split_once(":]")
            {
                self.push(&[name, ":]"]);
                self.rest = after.chars();
                continue;
            }
            match self.class_character() {
                Some(Escaped::Character(low)) => self.range(low),
                Some(Escaped::Class(class)) => self.plain.push_str(&class),
                Some(Escaped::Other(letter)) => self.verbatim(letter),
                None => return,
            }
        }
    }

    /// What follows the character `low` in a class may make a range of it.
    fn range(&mut self, low: char) {
        self.literal(low);
        let rest = self.rest.as_str();
        if !rest.starts_with('-') || rest.starts_with("-]") || rest == "-" {
            return;
        }
        self.rest.next();
        self.plain.push('-');
        match self.class_character() {
            Some(Escaped::Character(high)) => self.literal(high),
            // No range ends with a class, and the engine says so.
            Some(Escaped::Class(_)) => self.verbatim('w'),
            Some(Escaped::Other(letter)) => self.verbatim(letter),
            None => {}
        }
    }

    fn class_character(&mut self) -> Option<Escaped> {
        match self.rest.next()? {
            '\\' => self.escape(),
            other => Some(Escaped::Character(other)),
        }
    }

    /// An escape, behind its backslash; `None` where the expression ends.
    fn escape(&mut self) -> Option<Escaped> {
        let letter = self.rest.next()?;
        let character = match letter {
            'd' | 'D' | 's' | 'S' | 'w' | 'W' => {
                return Some(Escaped::Class(format!("\\{letter}")));
            }
            'p' | 'P' => return Some(self.group(letter)),
            'a' => Some('\x07'),
            'f' => Some('\x0c'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\x0b'),
            'x' => self.hexadecimal(),
            '0'..='7' => self.octal(letter),
            other => (other.is_ascii() && !other.is_ascii_alphanumeric()).then_some(other),
        };
        Some(character.map_or(Escaped::Other(letter), Escaped::Character))
    }

    /// `\x41` or `\x{41}`, behind the `x`.
    fn hexadecimal(&mut self) -> Option<char> {
        let rest = self.rest.as_str();
        let (digits, after) = match rest.strip_prefix('{') {
            Some(braced) => braced.split_once('}')?,
            None => rest.split_at_checked(2)?,
        };
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let character = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
        self.rest = after.chars();
        Some(character)
    }

    /// `\0`, or up to three digits; any other single digit would be a reference to a group.
    fn octal(&mut self, first: char) -> Option<char> {
        let mut value = first.to_digit(8)?;
        let mut digits = 1;
        while digits < 3
            && let Some(digit) = self.rest.clone().next().and_then(|next| next.to_digit(8))
        {
            self.rest.next();
            value = value * 8 + digit;
            digits += 1;
        }
        (first == '0' || digits > 1).then(|| char::from_u32(value))?
    }

    /// A class of Unicode's, behind its `p` or `P`: `L`, `{L}`, `{^L}`.
    fn group(&mut self, letter: char) -> Escaped {
        let rest = self.rest.as_str();
        let split = match rest.strip_prefix('{') {
            Some(braced) => braced.split_once('}'),
            None => rest.split_at_checked(1),
        };
        let Some((name, after)) = split.filter(|_| self.alphabet == Alphabet::Ascii) else {
            return Escaped::Other(letter);
        };
        let (name, negated) = match name.strip_prefix('^') {
            Some(name) => (name, letter == 'p'),
            None => (name, letter == 'P'),
        };
        let ascii = match name {
            "L" | "Latin" => "alpha",
            "Ll" => "lower",
            "Lu" => "upper",
            "N" | "Nd" => "digit",
            // The engine says that it has no such classes.
            _ => return Escaped::Other(letter),
        };
        self.rest = after.chars();
        Escaped::Class(format!("[:{}{ascii}:]", if negated { "^" } else { "" }))
    }

    /// A character that stands for itself, in a class and outside.
    fn literal(&mut self, character: char) {
        let mut bytes = [0; 4];
        self.plain
            .push_str(&regex_lite::escape(character.encode_utf8(&mut bytes)));
    }

    fn verbatim(&mut self, letter: char) {
        self.plain.push('\\');
        self.plain.push(letter);
    }

    fn push(&mut self, parts: &[&str]) {
        self.plain.extend(parts.iter().copied());
    }

    fn skip(&mut self, prefix: &str) -> bool {
        match self.rest.as_str().strip_prefix(prefix) {
            Some(after) => {
                self.rest = after.chars();
                true
            }
            None => false,
        }
    }
}

/// Whether `{` and this are `{n}`, `{n,}` or `{n,m}`, of numbers without leading zeros.
fn begins_repetition(rest: &str) -> bool {
    let is_number = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|digit| digit.is_ascii_digit())
            && (text == "0" || !text.starts_with('0'))
    };
    let Some((inside, _)) = rest.split_once('}') else {
        return false;
    };
    match inside.split_once(',') {
        Some((least, most)) => is_number(least) && (most.is_empty() || is_number(most)),
        None => is_number(inside),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Go's `regexp` finds the same.
    #[test]
    fn an_expression_finds_what_re2_finds() {
        for (expression, found, not_found) in [
            (r"^\Q1.2\E", "1.2-x", "1x2-x"),
            (r"\Qa.b", "xa.b", "xaxb"),
            (r"\Qa\E.\Qb\E", "a-b", "ab"),
            (r"\\\Qa.b\E", r"\a.b", r"\axb"),
            (r"\\Qa", r"\Qa", "Qa"),
            (r"^[\w-.]+$", "1.2-rc_1", "a+b"),
            (r"^[\d-_]+$", "1-2_3", "1.2"),
            (r"^[[a]+$", "[a", "]"),
            (r"^[a[b]+$", "a[b", "]"),
            (r"^[a&&b]+$", "a&b", "c"),
            (r"^[a~~b]+$", "a~b", "c"),
            (r"^[+--]+$", "+,-", "."),
            (r"^[--/]+$", "-./", ","),
            (r"^[a-]+$", "a-", "b"),
            (r"^[-a]+$", "a-", "b"),
            (r"^[^-a]+$", "b", "-"),
            (r"^[]a]+$", "]a", "b"),
            (r"^[^]a]+$", "b", "]"),
            (r"^[^^]+$", "b", "^"),
            (r"^[[:digit:]-x]+$", "1-x", "a"),
            (r"^[[:^digit:]]+$", "a", "1"),
            (r"^[a-c\]]+$", "b]", "d"),
            (r"(?i)^[\x41-\x43]+$", "aBc", "d"),
            (r"(?i)^\x41\101$", "aA", "ab"),
            (r"a{,2}", "a{,2}", "aa"),
            (r"^\d{,3}$", "1{,3}", "12"),
            (r"{", "a{b", "ab"),
            (r"^a{x}$", "a{x}", "ax"),
            (r"^a{01}$", "a{01}", "a"),
            (r"^a{2}$", "aa", "a"),
            (r"^a{2,}$", "aaa", "a"),
            (r"^a{1,2}$", "aa", "aaa"),
            (r"^a\{2}$", "a{2}", "aa"),
            (r"^\pL+$", "ab", "1"),
            (r"^\p{Lu}\p{Ll}$", "Ab", "ab"),
            (r"^\p{^L}+$", "1", "a"),
            (r"^\PN+$", "a-", "1"),
            (r"^[\pN.]+$", "1.2", "a"),
            (r"^[\P{L}]+$", "1.2", "a"),
            (r"^[^\pL]+$", "1.2", "a"),
            (r"^\101\60\x{2d}$", "A0-", "A0"),
            (r"^\<\_\/$", "<_/", "a"),
            (r"\ba\b", "x-a", "xa"),
            (r"^\b{$", "", "a"),
        ] {
            let regex = match compile(expression, Alphabet::Ascii) {
                Ok(regex) => regex,
                Err(error) => unreachable!("{expression}: {error}"),
            };
            // An empty row is one that only has to be read.
            let finds = found.is_empty() || regex.is_match(found);
            assert!(finds, "{expression} in {found}: {regex}");
            assert!(
                !regex.is_match(not_found),
                "{expression} in {not_found}: {regex}"
            );
        }
    }

    #[test]
    fn what_cannot_be_matched_rightly_is_an_error() {
        let classes = "Unicode character classes are not supported";
        for (expression, alphabet, why) in [
            (r"\pL", Alphabet::Unicode, classes),
            (r"[\p{L}]", Alphabet::Unicode, classes),
            (r"\p{Greek}", Alphabet::Ascii, classes),
            (r"\p", Alphabet::Ascii, classes),
            (
                r"(a)\1",
                Alphabet::Ascii,
                "backreferences are not supported",
            ),
            (r"(?=a)", Alphabet::Ascii, "look-around is not supported"),
            (
                r"[a-\d]",
                Alphabet::Ascii,
                "character class ranges must start and end with a single character",
            ),
            (
                r"[.-\pL]",
                Alphabet::Ascii,
                "character class ranges must start and end with a single character",
            ),
            (
                r"[b-a]",
                Alphabet::Ascii,
                "invalid range in character class",
            ),
            (
                r"[a",
                Alphabet::Ascii,
                "non-empty character class has no closing bracket",
            ),
            (
                "[a-",
                Alphabet::Ascii,
                "non-empty character class has no closing bracket",
            ),
            ("[", Alphabet::Ascii, "found unclosed character class"),
            (
                r"[[:foo:]]",
                Alphabet::Ascii,
                "nested character classes are not supported",
            ),
            (
                "\\",
                Alphabet::Ascii,
                "saw start of escape sequence, but saw end of pattern before it finished",
            ),
            (r"\y", Alphabet::Ascii, "unrecognized escape sequence"),
            (
                "{2}",
                Alphabet::Ascii,
                "counted repetition operator must be applied to a sub-expression",
            ),
        ] {
            let error = compile(expression, alphabet).map(|regex| regex.to_string());
            let error = error.map_err(|error| error.to_string());
            assert_eq!(error, Err(why.to_owned()), "{expression}");
        }
    }
}
