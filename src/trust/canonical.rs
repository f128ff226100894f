//! Canonical JSON, the form that signatures of content trust are made of: keys in the order of
//! their bytes, no spaces, integers only, and in strings only `"` and `\` escaped; control
//! characters and all else stand as they are (docker/go, `canonical/json`).

use serde_json::{Map, Value};

/// The canonical bytes of an object.
///
/// # Errors
/// A number that is no integer: it has no canonical form.
pub(super) fn canonical_object(object: &Map<String, Value>) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    write_object(object, &mut out)?;
    Ok(out)
}

/// The depth is bounded by serde_json, which reads 128 levels.
fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), String> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => {
            let text = number.to_string();
            if !is_integer(&text) {
                return Err(format!("it has the number {text}, which is no integer"));
            }
            out.extend_from_slice(text.as_bytes());
        }
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(object) => write_object(object, out)?,
    }
    Ok(())
}

fn write_object(object: &Map<String, Value>, out: &mut Vec<u8>) -> Result<(), String> {
    out.push(b'{');
    // serde_json keeps members in the order of their names' bytes (without `preserve_order`).
    for (at, (name, value)) in object.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_string(name, out);
        out.push(b':');
        write(value, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// Numbers keep the text they were written with (serde_json, `arbitrary_precision`).
fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    is_plain && (!digits.starts_with('0') || text == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<String, String> {
        let value: Value = serde_json::from_str(text).unwrap();
        let mut out = Vec::new();
        write(&value, &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_canonical_form_is_exact() {
        for (text, expected) in [
            (
                r#" { "b" : [ 1 , -2, 0 ] , "a" : null , "B":true,"c":false } "#,
                r#"{"B":true,"a":null,"b":[1,-2,0],"c":false}"#,
            ),
            // Only the quote and the backslash are escaped.
            (
                r#"{"\u0001\n\t/<>&\u2028\u00e9\"\\":"\u001f"}"#,
                "{\"\u{1}\n\t/<>&\u{2028}é\\\"\\\\\":\"\u{1f}\"}",
            ),
            // Bytes decide the order, not letters: Z < a < é < 🦀.
            (
                r#"{"🦀":1,"é":2,"a":3,"Z":4,"":5,"aa":6,"a/b":7}"#,
                r#"{"":5,"Z":4,"a":3,"a/b":7,"aa":6,"é":2,"🦀":1}"#,
            ),
            ("[]", "[]"),
            ("{}", "{}"),
            (
                "123456789012345678901234567890",
                "123456789012345678901234567890",
            ),
        ] {
            assert_eq!(of(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn numbers_without_a_canonical_form_are_refused() {
        for text in ["1.5", "1.0", "1e3", "-0", r#"{"a":[0.1]}"#] {
            assert!(of(text).is_err(), "{text}");
        }
    }
}
