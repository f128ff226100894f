//! One record of a PAX extended header (POSIX.1-2017, pax, "Extended Header"), and the forms of its
//! value.

use std::ops::Range;

use super::header::Mtime;
use crate::error::{Error, Result};

/// `LENGTH KEYWORD=VALUE\n` at the start of `text`: where keyword and value are.
pub(super) fn record(text: &[u8]) -> Option<(Range<usize>, Range<usize>)> {
    /// Digits of the largest length.
    const DIGITS: usize = 7;
    let space = text
        .iter()
        .take(DIGITS + 1)
        .position(|byte| *byte == b' ')?;
    let digits = std::str::from_utf8(text.get(..space)?).ok()?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let length: usize = digits.parse().ok()?;
    let body = text.get(space + 1..length.checked_sub(1)?)?;
    if text.get(length - 1) != Some(&b'\n') {
        return None;
    }
    let equals = body.iter().position(|byte| *byte == b'=')?;
    let keyword = space + 1..space + 1 + equals;
    let value = keyword.end + 1..length - 1;
    (!keyword.is_empty()).then_some((keyword, value))
}

/// A name, which ends nowhere but at its end.
pub(super) fn name(value: &[u8]) -> Result<&[u8]> {
    if value.contains(&0) {
        return Err(Error::hostile("a PAX name holds a NUL"));
    }
    Ok(value)
}

/// A decimal number; `None` for an empty value.
pub(super) fn number<N: std::str::FromStr>(keyword: &[u8], value: &[u8]) -> Result<Option<N>> {
    if value.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(value).ok();
    // `+1` is a number for Rust and none for POSIX.
    let number = text.filter(|text| !text.starts_with('+'));
    let number = number.and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        let (keyword, value) = (keyword.escape_ascii(), value.escape_ascii());
        Error::hostile(format!(
            "PAX `{keyword}` is no number that can be: `{value}`"
        ))
    })
}

/// Seconds since 1970 with any number of decimals; those beyond nanoseconds are dropped.
pub(super) fn time(value: &[u8]) -> Result<Option<Mtime>> {
    let (whole, fraction) = match value.iter().position(|byte| *byte == b'.') {
        Some(at) => value.split_at(at),
        None => (value, &b""[..]),
    };
    let Some(seconds) = number::<i64>(b"mtime", whole)? else {
        return Ok(None);
    };
    let digits = fraction.get(1..).unwrap_or_default();
    if !digits.iter().all(u8::is_ascii_digit) {
        number::<i64>(b"mtime", digits)?;
        return Err(Error::hostile("PAX `mtime` is no time"));
    }
    let mut nanoseconds = 0;
    for at in 0..9 {
        let digit = digits.get(at).map_or(0, |digit| u32::from(digit - b'0'));
        nanoseconds = nanoseconds * 10 + digit;
    }
    // -1.25 lies 0.75 s after -2.
    if whole.starts_with(b"-") && nanoseconds > 0 {
        let seconds = seconds.checked_sub(1);
        let seconds = seconds.ok_or_else(|| Error::hostile("PAX `mtime` is no time"))?;
        return Ok(Some(Mtime {
            seconds,
            nanoseconds: 1_000_000_000 - nanoseconds,
        }));
    }
    Ok(Some(Mtime {
        seconds,
        nanoseconds,
    }))
}

/// `LENGTH KEYWORD=VALUE\n`, where the length counts its own digits.
pub(super) fn written(keyword: &str, value: &str) -> String {
    let rest = format!(" {keyword}={value}\n");
    let mut length = rest.len() + 1;
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}")
}
