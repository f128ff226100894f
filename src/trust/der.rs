//! The few forms of ASN.1 DER (X.690) that keys and certificates are made of: a reader over
//! borrowed bytes, and the two public keys that have to be written.
//!
//! It knows no secrets of its own: whoever reads a key wipes it.

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// The tag of an explicitly tagged, constructed member: `[0]`, `[1]` …
pub(super) const fn explicit(number: u8) -> u8 {
    0xa0 | number
}

/// Reads one element after the other; `None` where the bytes are not what was expected.
#[derive(Clone, Copy)]
pub(super) struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Der(bytes)
    }

    /// The tag and the content of the next element.
    pub(super) fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        // Tags above 30 have more bytes; nothing here has them.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = bytes.iter().fold(0, |sum, b| (sum << 8) | usize::from(*b));
                (length, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next element, which has this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let (found, content) = ahead.any()?;
        (found == tag).then(|| {
            *self = ahead;
            content
        })
    }

    /// A reader of the next element's members; it is constructed and has this tag.
    pub(super) fn enter(&mut self, tag: u8) -> Option<Der<'a>> {
        self.expect(tag).map(Der)
    }

    /// A bit string of whole bytes.
    pub(super) fn bits(&mut self) -> Option<&'a [u8]> {
        self.expect(BIT_STRING)?.strip_prefix(&[0])
    }

    /// A positive integer that fits.
    pub(super) fn small_integer(&mut self) -> Option<u32> {
        let bytes = self.expect(INTEGER)?;
        let is_negative = bytes.first()? & 0x80 != 0;
        let bytes = bytes.strip_prefix(&[0]).unwrap_or(bytes);
        (!is_negative && bytes.len() <= 4)
            .then(|| bytes.iter().fold(0, |sum, b| (sum << 8) | u32::from(*b)))
    }
}

/// One element.
pub(super) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let zeros = bytes.iter().take_while(|b| **b == 0).count();
            let bytes = bytes.get(zeros..).unwrap_or_default();
            // A length has at most eight bytes.
            out.push(0x80 | u8::try_from(bytes.len()).unwrap_or_default());
            out.extend_from_slice(bytes);
        }
    }
    out.extend_from_slice(content);
    out
}

/// A sequence of elements.
pub(super) fn sequence(members: &[&[u8]]) -> Vec<u8> {
    element(SEQUENCE, &members.concat())
}

/// A bit string of whole bytes.
pub(super) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    element(BIT_STRING, &[&[0], bytes].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        for length in [0, 1, 127, 128, 255, 256, 70_000] {
            let content = vec![7; length];
            let bytes = sequence(&[&element(OCTET_STRING, &content), &bit_string(&content)]);
            let mut reader = Der::new(&bytes);
            let mut members = reader.enter(SEQUENCE).unwrap();
            assert!(reader.any().is_none());
            assert_eq!(members.expect(OCTET_STRING).unwrap(), content);
            assert_eq!(members.bits().unwrap(), content);
            assert!(members.any().is_none());
        }
    }

    #[test]
    fn what_is_no_der_is_not_read() {
        for bytes in [
            &[][..],
            &[0x30],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x02, 0],
            &[0x04, 0x81],
            &[0x04, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x04, 0x85, 0, 0, 0, 0, 1, 0],
            &[0x1f, 0x81, 0x01, 0],
        ] {
            assert!(Der::new(bytes).any().is_none(), "{bytes:?}");
        }
        assert_eq!(Der::new(&[2, 2, 8, 0]).small_integer(), Some(2048));
        assert_eq!(Der::new(&[2, 1, 0x80]).small_integer(), None);
        assert_eq!(Der::new(&[2, 5, 1, 0, 0, 0, 0]).small_integer(), None);
    }
}
