//! What no line may show.

use std::sync::{Arc, Mutex};

use crate::secret::Secret;
use crate::workers::lock;

/// A text shorter than this protects nothing, and is a part of too many words and numbers.
const SHORTEST: usize = 4;

/// From this length on it is no word of a sentence, and is hidden inside of longer words too.
const LONG: usize = 12;

/// Everything that a run proved itself with. Servers repeat it, in their words and in the URLs that
/// they make: no line shows it, whoever wrote it. Clones share what they learn.
#[derive(Clone, Default)]
pub(crate) struct Hidden(Arc<Mutex<Vec<Secret>>>);

impl Hidden {
    /// Hides `text` from now on; whether it is new.
    pub(crate) fn add(&self, text: &str) -> bool {
        let mut known = lock(&self.0);
        if text.len() < SHORTEST || known.iter().any(|known| known.expose() == text) {
            return false;
        }
        // The longest first: what is a part of another one would leave the rest of that one.
        let at = known.partition_point(|known| known.expose().len() >= text.len());
        known.insert(at, Secret::new(text));
        true
    }

    /// `text` without these.
    pub(crate) fn in_text(&self, text: String) -> String {
        lock(&self.0)
            .iter()
            .fold(text, |text, secret| without(text, secret.expose()))
    }
}

/// A short secret may be a word of ours (`latest`), or a part of one.
fn without(text: String, secret: &str) -> String {
    if !text.contains(secret) {
        return text;
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once(secret) {
        let touches = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        shown.push_str(before);
        let is_part = touches(shown.chars().next_back()) || touches(after.chars().next());
        shown.push_str(match is_part && secret.len() < LONG {
            true => secret,
            false => "…",
        });
        rest = after;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_as_words_and_long_ones_everywhere() {
        let hidden = Hidden::default();
        for secret in ["hunter2", "hunter2-and-a-token", "pw1x", "e", "late"] {
            hidden.add(secret);
        }
        for (text, shown) in [
            ("u:pw1x is wrong", "u:… is wrong"),
            ("GET /v2/hunter2/x?a=hunter2", "GET /v2/…/x?a=…"),
            ("hunter2-and-a-token", "…"),
            ("xhunter2-and-a-tokenx", "x…x"),
            ("hunter22 latest", "hunter22 latest"),
            ("the repository", "the repository"),
            ("hunter2hunter2", "hunter2hunter2"),
            ("hunter2", "…"),
            ("", ""),
        ] {
            assert_eq!(hidden.in_text(text.to_owned()), shown, "{text}");
        }
    }
}
