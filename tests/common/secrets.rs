//! The secrets of a run: what it was given and what servers gave it. No line of any log may hold
//! one; every run of the suite is read for them.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

/// A shorter text is a word of some sentence.
const SHORTEST: usize = 5;

/// The fields of a request that hold secrets, wherever they are.
const FIELDS: [&str; 6] = [
    "aws_secret_access_key",
    "aws_session_token",
    "password",
    "repository_key",
    "repository_passphrase",
    "tls_key",
];

/// Everything that must not be printed by a run with this request and environment.
pub fn of_run(stdin: &[u8], environment: &BTreeMap<String, OsString>) -> BTreeSet<String> {
    let mut secrets = BTreeSet::new();
    if let Ok(request) = serde_json::from_slice(stdin) {
        of_request(&request, &mut secrets);
    }
    for (name, value) in environment {
        let value = value.to_string_lossy();
        if name.to_lowercase().ends_with("_proxy")
            && let Some((login, _)) = value.rsplit_once('@')
            && let Some((_, password)) = login.rsplit_once(':')
        {
            secrets.insert(password.to_owned());
        }
        if ["SECRET", "TOKEN"].iter().any(|word| name.contains(word)) && !name.contains("FILE") {
            secrets.insert(value.into_owned());
        }
    }
    keep_long(secrets)
}

fn of_request(value: &Value, secrets: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member.as_str() {
                    Some(text) if FIELDS.contains(&name.as_str()) => {
                        secrets.insert(text.trim().to_owned());
                    }
                    _ => of_request(member, secrets),
                }
            }
        }
        Value::Array(elements) => elements.iter().for_each(|e| of_request(e, secrets)),
        _ => {}
    }
}

/// What a registry was sent as `Authorization`, as it came and decoded, and what it redirected to.
pub fn seen_by(headers: &[(String, String)]) -> BTreeSet<String> {
    let mut secrets = BTreeSet::new();
    for (name, value) in headers {
        if !name.to_lowercase().ends_with("authorization") {
            continue;
        }
        let (scheme, secret) = value.split_once(' ').unwrap_or(("", value));
        secrets.insert(secret.to_owned());
        let decoded = BASE64_STANDARD.decode(secret).unwrap_or_default();
        if let (true, Ok(text)) = (scheme == "Basic", String::from_utf8(decoded))
            && let Some((_, password)) = text.split_once(':')
        {
            secrets.insert(password.to_owned());
        }
    }
    keep_long(secrets)
}

fn keep_long(mut secrets: BTreeSet<String>) -> BTreeSet<String> {
    secrets.retain(|secret| secret.len() >= SHORTEST);
    secrets
}
