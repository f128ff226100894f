//! `WWW-Authenticate` (RFC 9110, section 11.6.1): several challenges, in one header or in many.

/// One challenge: a scheme and its parameters.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Challenge {
    /// Lower case.
    pub(super) scheme: String,
    parameters: Vec<(String, String)>,
}

/// Challenges of one answer beyond this are not looked at.
const MOST_CHALLENGES: usize = 16;

impl Challenge {
    /// The value of a parameter; its name is in lower case.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// All challenges of these headers, in order. What cannot be read is passed over.
    pub(super) fn parse_all<'a>(headers: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
        let mut challenges = Vec::new();
        for header in headers {
            parse_header(header, &mut challenges);
        }
        challenges.truncate(MOST_CHALLENGES);
        challenges
    }
}

/// A header is a list of `scheme [name=value, …]`, where the comma separates parameters as well
/// as challenges: a word that is not followed by `=` starts a new challenge.
fn parse_header(header: &str, challenges: &mut Vec<Challenge>) {
    let mut rest = header;
    while challenges.len() < MOST_CHALLENGES {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let word_end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word_end);
        if word.is_empty() {
            // A stray `=` or the end.
            match after.strip_prefix('=') {
                Some(after) => rest = after,
                None => return,
            }
            continue;
        }
        let spaced = after.trim_start_matches([' ', '\t']);
        match spaced.strip_prefix('=') {
            Some(value) => {
                let (value, after) = parse_value(value.trim_start_matches([' ', '\t']));
                if let Some(challenge) = challenges.last_mut() {
                    challenge
                        .parameters
                        .push((word.to_ascii_lowercase(), value));
                }
                rest = after;
            }
            None => {
                challenges.push(Challenge {
                    scheme: word.to_ascii_lowercase(),
                    parameters: Vec::new(),
                });
                rest = after;
            }
        }
    }
}

/// A token or a quoted string, and what follows it.
fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(headers: &[&str]) -> String {
        let challenges = Challenge::parse_all(headers.iter().copied());
        let one = |challenge: &Challenge| {
            let parameters: Vec<String> = challenge
                .parameters
                .iter()
                .map(|(name, value)| format!("{name}=<{value}>"))
                .collect();
            format!("{} {}", challenge.scheme, parameters.join(" "))
        };
        let all: Vec<String> = challenges.iter().map(one).collect();
        all.join("; ")
    }

    #[test]
    fn challenges_are_read_in_any_form() {
        for (headers, expect) in [
            (&[r#"Basic realm="x""#][..], "basic realm=<x>"),
            (
                &[r#"Bearer realm="https://a/t?x=1,2",service="s",scope="repository:a:pull,push""#],
                "bearer realm=<https://a/t?x=1,2> service=<s> scope=<repository:a:pull,push>",
            ),
            (
                &[r#"BEARER Realm = "r" , SERVICE=s, Basic realm="y""#],
                "bearer realm=<r> service=<s>; basic realm=<y>",
            ),
            (
                &["Negotiate", "Basic realm=z"],
                "negotiate ; basic realm=<z>",
            ),
            (
                &["Negotiate, Bearer realm=\"q\\\"q\""],
                "negotiate ; bearer realm=<q\"q>",
            ),
            (&[r#"Bearer realm="unclosed"#], "bearer realm=<unclosed>"),
            (&["", ",,", "=x", "a=b"], "x a=<b>"),
        ] {
            assert_eq!(shown(headers), expect, "{headers:?}");
        }
    }

    #[test]
    fn a_header_of_rubbish_ends() {
        shown(&[
            &"x ".repeat(100_000),
            &"=".repeat(100_000),
            &"a=\"".repeat(10_000),
        ]);
    }
}
