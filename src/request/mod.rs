//! The Concourse request and answer. A request is read whole and strictly before any connection
//! is made; what comes out are values that need no further check.

mod answer;
mod expression;
mod fields;
mod params;
mod source;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::oci::digest::Digest;

pub(crate) use answer::{Metadata, Produced, found, produced};
pub(crate) use params::{Format, GetParams, PutParams};
pub(crate) use source::{AzureLogin, ContentTrust, EcrLogin, Follow, Login, Source};

use fields::Fields;

/// `{tag, digest}` as Concourse hands it in; users may pin either one alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Version {
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<String>,
}

/// The request of `check`.
pub(crate) struct CheckRequest {
    pub(crate) source: Source,
    pub(crate) version: Option<Version>,
}

/// The request of `in`.
pub(crate) struct GetRequest {
    pub(crate) source: Source,
    pub(crate) version: Version,
    pub(crate) digest: Digest,
    pub(crate) params: GetParams,
}

/// The request of `out`.
pub(crate) struct PutRequest {
    pub(crate) source: Source,
    pub(crate) params: PutParams,
}

impl CheckRequest {
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        let mut fields = document(text)?;
        let source = Source::read(fields.object("source")?)?;
        let version = Version::read(fields.object("version")?)?;
        fields.finish()?;
        Ok(CheckRequest { source, version })
    }
}

impl GetRequest {
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        let mut fields = document(text)?;
        let source = Source::read(fields.object("source")?)?;
        let version = Version::read(fields.object("version")?)?.unwrap_or_default();
        let params = GetParams::read(fields.object("params")?, &source)?;
        fields.finish()?;
        let Some(digest) = &version.digest else {
            return Err(Error::config("`version.digest` is missing")
                .advise("a get step fetches exactly the digest of its version"));
        };
        let digest = Digest::parse(digest).map_err(|error| error.doing("`version.digest`"))?;
        Ok(GetRequest {
            source,
            version,
            digest,
            params,
        })
    }
}

impl PutRequest {
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        let mut fields = document(text)?;
        let source = Source::read(fields.object("source")?)?;
        let params = PutParams::read(fields.object("params")?)?;
        fields.finish()?;
        Ok(PutRequest { source, params })
    }
}

impl Version {
    fn read(fields: Option<Fields>) -> Result<Option<Self>> {
        let Some(mut fields) = fields else {
            return Ok(None);
        };
        let version = Version {
            tag: fields.text("tag")?,
            digest: fields.text("digest")?,
        };
        fields.finish()?;
        Ok(Some(version))
    }
}

fn document(text: &[u8]) -> Result<Fields> {
    if text.trim_ascii().is_empty() {
        return Err(Error::config("the request on stdin is empty")
            .advise("send a JSON document with `source` in it"));
    }
    let value: Value = serde_json::from_slice(text).map_err(|error| {
        Error::config(format!("the request on stdin is not valid JSON: {error}"))
    })?;
    match value {
        Value::Object(map) => Ok(Fields::new(String::new(), map)),
        _ => Err(Error::config("the request on stdin is not a JSON object")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        match PutRequest::parse(text.as_bytes()) {
            Ok(_) => format!("{text} was taken"),
            Err(error) => error.to_string(),
        }
    }

    fn source_refusal(source: &str) -> String {
        refusal(&format!(
            r#"{{"source":{{"repository":"a",{source}}},"params":{{"image":"x"}}}}"#
        ))
    }

    #[test]
    fn a_request_that_cannot_be_read_is_refused_with_the_place() {
        for (text, why) in [
            (
                "",
                "the request on stdin is empty; send a JSON document with `source` in it",
            ),
            (
                r#"{"source":{"#,
                "the request on stdin is not valid JSON: EOF while parsing an object at line 1 column 11",
            ),
            ("[]", "the request on stdin is not a JSON object"),
            ("{}", "`source` is missing"),
            (r#"{"source":null}"#, "`source` is missing"),
            (r#"{"source":[]}"#, "`source` must be an object, not a list"),
            (r#"{"source":{}}"#, "`source.repository` is missing"),
            (
                r#"{"source":{"repository":"a"},"parms":{}}"#,
                "`params.image` is missing; it is the path of the image to push",
            ),
            (
                r#"{"source":{"repository":"a"},"params":{"image":"x"},"parms":{}}"#,
                "`parms` is not a field of the request; did you mean `params`?",
            ),
        ] {
            assert_eq!(refusal(text), why, "{text}");
        }
    }

    #[test]
    fn a_source_field_that_makes_no_sense_is_refused_by_its_path() {
        for (source, why) in [
            (
                r#""tga":"1""#,
                "`source.tga` is not a field of the request; did you mean `source.tag`?",
            ),
            (
                r#""zzzzzzzzzz":1"#,
                "`source.zzzzzzzzzz` is not a field of the request",
            ),
            (
                r#""platform":{"arch":"amd64"}"#,
                "`source.platform.arch` is not a field of the request; did you mean `source.platform.architecture`?",
            ),
            (
                r#""insecure":"true""#,
                "`source.insecure` must be true or false, not a text",
            ),
            (
                r#""repository":7"#,
                "`source.repository` must be a text, not a number",
            ),
            (
                r#""ca_certs":"PEM""#,
                "`source.ca_certs` must be a list of texts, not a text",
            ),
            (
                r#""ca_certs":[1]"#,
                "`source.ca_certs[0]` must be a text, not a number",
            ),
            (
                r#""username":"u""#,
                "`source.username` is set, but `source.password` is missing",
            ),
            (
                r#""password":"u""#,
                "`source.password` is set, but `source.username` is missing",
            ),
            (
                r#""tag":"a/b""#,
                "`source.tag`: tag `a/b`: a tag may hold letters, digits, `_`, `.` and `-`",
            ),
            (
                r#""variant":"a/b""#,
                "`source.variant`: tag `a/b`: a tag may hold letters, digits, `_`, `.` and `-`",
            ),
        ] {
            assert_eq!(source_refusal(source), why, "{source}");
        }
    }

    #[test]
    fn a_number_keeps_the_text_it_was_written_as() {
        let request = CheckRequest::parse(
            br#"{"source":{"repository":"a","tag":1.10},"version":{"tag":1.160,"digest":"x"}}"#,
        )
        .unwrap();
        let Follow::Tag(tag) = request.source.follow() else {
            unreachable!("a tag is set");
        };
        assert_eq!(tag.as_str(), "1.10");
        assert_eq!(request.version.unwrap().tag.as_deref(), Some("1.160"));
    }

    #[test]
    fn null_and_empty_fields_are_absent() {
        let request = CheckRequest::parse(
            br#"{"source":{"repository":"a","tag":null,"username":"","password":""},"version":null}"#,
        )
        .unwrap();
        assert!(matches!(request.source.follow(), Follow::Semver));
        assert!(matches!(request.source.login, Login::Anonymous));
        assert!(request.version.is_none());
    }

    #[test]
    fn one_newline_at_the_end_of_a_secret_is_dropped_with_a_warning() {
        let request = CheckRequest::parse(
            br#"{"source":{"repository":"a","username":"u","password":"p\n"}}"#,
        )
        .unwrap();
        let Login::Password { password, .. } = &request.source.login else {
            unreachable!("both are set");
        };
        assert_eq!(password.expose(), "p");
        assert_eq!(
            request.source.warnings,
            ["`source.password` ends with a newline, which was dropped"]
        );
    }

    #[test]
    fn a_get_needs_a_digest_and_a_known_format() {
        let get = |rest: &str| {
            let text = format!(r#"{{"source":{{"repository":"a"}}{rest}}}"#);
            match GetRequest::parse(text.as_bytes()) {
                Ok(_) => format!("{text} was taken"),
                Err(error) => error.to_string(),
            }
        };
        let version = format!(r#","version":{{"digest":"sha256:{}"}}"#, "0".repeat(64));
        for (rest, why) in [
            (
                String::new(),
                "`version.digest` is missing; a get step fetches exactly the digest of its version",
            ),
            (
                r#","version":{"digest":"latest"}"#.to_owned(),
                "`version.digest`: `latest` is not a digest: it has no `sha256:` before its hex digits",
            ),
            (
                format!(r#"{version},"params":{{"format":"tar"}}"#),
                "`params.format` is `tar`; it can be `rootfs`, `oci` or `oci-layout`",
            ),
            (
                format!(r#"{version},"params":{{"skip_downlod":true}}"#),
                "`params.skip_downlod` is not a field of the request; did you mean `params.skip_download`?",
            ),
        ] {
            assert_eq!(get(&rest), why);
        }
    }
}
