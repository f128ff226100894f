//! The few texts that are needed from the XML answers of STS, by the names of their elements.
//!
//! No parser: the answers are flat, a wanted name stands in them once, and they come from the
//! service that holds the keys anyway. Prefixes and attributes are passed over, entities are read.

/// The text of the first element called `name`.
pub(super) fn text(document: &str, name: &str) -> Option<String> {
    let mut rest = document;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (tag, content) = after.split_once('>')?;
        rest = content;
        let called = tag.split_ascii_whitespace().next().unwrap_or_default();
        let local = called.rsplit(':').next().unwrap_or_default();
        if local == name && !called.starts_with(['/', '!', '?']) {
            let (text, _) = content.split_once('<')?;
            return Some(unescaped(text.trim()));
        }
    }
}

/// Longer than any entity that is known here.
const ENTITY_LIMIT: usize = 10;

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let known = after
            .split_once(';')
            .filter(|(entity, _)| entity.len() <= ENTITY_LIMIT)
            .and_then(|(entity, after)| Some((character(entity)?, after)));
        match known {
            Some((c, after)) => {
                out.push(c);
                rest = after;
            }
            None => {
                out.push('&');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

fn character(entity: &str) -> Option<char> {
    Some(match entity {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        _ => {
            let number = entity.strip_prefix('#')?;
            let number = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(number.ok()?)?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_elements_are_found_in_any_dress() {
        let document = "<?xml version=\"1.0\"?>\n<a:R xmlns:a=\"x\"><!-- <Code>no --><E a=\"1\">\
             <Code>\n A&amp;B&#x21;&#33; </Code><Message>x &lt; y &unknown; & z</Message></E></a:R>";
        assert_eq!(text(document, "Message").unwrap(), "x < y &unknown; & z");
        assert_eq!(text(document, "Missing"), None);
        assert_eq!(
            text("<R><a:Code x='1'>A&amp;B&#x21;&#33;</a:Code></R>", "Code").unwrap(),
            "A&B!!"
        );
        for rubbish in [
            "",
            "<",
            "<Code",
            "<Code>",
            "</Code>x<",
            "<Code>never closed",
        ] {
            assert_eq!(text(rubbish, "Code"), None, "{rubbish}");
        }
    }
}
