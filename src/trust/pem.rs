//! PEM as key files have it: the textual encoding of RFC 7468, with the headers of RFC 1421 that
//! notary writes (`role:`, `gun:`, `path:`) and older OpenSSL too (`Proc-Type:`, `DEK-Info:`).

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

/// As RFC 7468 reads it: padding may be missing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Blocks of one text that are looked at; an export has one a key.
const MOST_BLOCKS: usize = 64;

/// Labels that are shown. Where the line breaks of a text were lost, what stands in the place of a label
/// is the key.
const LABELS: [&str; 10] = [
    "CERTIFICATE",
    "DSA PRIVATE KEY",
    "EC PARAMETERS",
    "EC PRIVATE KEY",
    "ED25519 PRIVATE KEY",
    "ENCRYPTED PRIVATE KEY",
    "OPENSSH PRIVATE KEY",
    "PRIVATE KEY",
    "PUBLIC KEY",
    "RSA PRIVATE KEY",
];

/// How errors name a block.
pub(super) fn shown(label: &str) -> String {
    match LABELS.contains(&label) {
        true => format!("a PEM block `{label}`"),
        false => "a PEM block".to_owned(),
    }
}

/// One `BEGIN`–`END` block.
pub(super) struct Block {
    /// Such as `ENCRYPTED PRIVATE KEY`.
    pub(super) label: String,
    headers: Vec<(String, String)>,
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

impl Block {
    /// The value of a header; its name's case does not matter.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// All blocks of a text, in order.
///
/// # Errors
/// A block that does not end, or whose content is not base64.
pub(super) fn blocks(text: &str) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(label) = boundary(line, "-----BEGIN ") else {
            continue;
        };
        if blocks.len() == MOST_BLOCKS {
            return Err(format!("has more than {MOST_BLOCKS} PEM blocks"));
        }
        let mut headers = Vec::new();
        let mut encoded = Zeroizing::new(String::with_capacity(text.len()));
        loop {
            let Some(line) = lines.next() else {
                return Err(match LABELS.contains(&label) {
                    true => format!("has {} that does not end", shown(label)),
                    false => "has a PEM block whose lines do not end: a line break belongs before \
                              and after `-----BEGIN …-----` and `-----END …-----`"
                        .to_owned(),
                });
            };
            if let Some(end) = boundary(line, "-----END ") {
                if end != label {
                    return Err(format!("has {} that ends as {}", shown(label), shown(end)));
                }
                break;
            }
            // Base64 has no colon.
            match line.split_once(':') {
                Some((name, value)) => {
                    headers.push((name.trim().to_owned(), value.trim().to_owned()));
                }
                None => encoded.push_str(line),
            }
        }
        let bytes = BASE64.decode(encoded.as_bytes());
        let bytes = bytes.map_err(|_| format!("has {} that is not base64", shown(label)))?;
        blocks.push(Block {
            label: label.to_owned(),
            headers,
            bytes: Zeroizing::new(bytes),
        });
    }
    Ok(blocks)
}

fn boundary<'l>(line: &'l str, start: &str) -> Option<&'l str> {
    line.strip_prefix(start)?.strip_suffix("-----")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_with_their_headers() {
        let text = "ignored\r\n-----BEGIN A KEY-----\r\nrole: ci\r\nGun:  h:1/a\r\n\r\nAQID\r\nBA==\r\n-----END A KEY-----\r\n-----BEGIN B-----\nBA\n-----END B-----\n";
        let blocks = blocks(text).unwrap();
        assert_eq!(blocks.len(), 2);
        assert_eq!(blocks[0].label, "A KEY");
        assert_eq!(*blocks[0].bytes, [1, 2, 3, 4]);
        assert_eq!(blocks[0].header("Role"), Some("ci"));
        assert_eq!(blocks[0].header("gun"), Some("h:1/a"));
        assert_eq!(blocks[0].header("path"), None);
        assert_eq!(
            (blocks[1].label.as_str(), &**blocks[1].bytes),
            ("B", &[4][..])
        );
    }

    #[test]
    fn a_broken_block_is_an_error() {
        for text in [
            "-----BEGIN A-----\nAQID\n",
            "-----BEGIN A-----\nAQ!D\n-----END A-----",
            "-----BEGIN A-----\nAQID\n-----END B-----",
            &"-----BEGIN A-----\nAQID\n-----END A-----\n".repeat(MOST_BLOCKS + 1),
        ] {
            assert!(blocks(text).is_err(), "{text:.60}");
        }
        assert!(blocks("no key at all").unwrap().is_empty());
    }
}
