//! The Concourse request and answer. A request is read whole and strictly before any connection
//! is made; what comes out are values that need no further check.

mod answer;
mod expression;
mod fields;
mod names;
mod params;
mod source;

use crate::error::{Doing, Error, Result};
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
        let mut fields = document(text, names::CHECK)?;
        Ok(CheckRequest {
            source: Source::read(&mut fields)?,
            version: Version::read(&mut fields)?,
        })
    }
}

impl GetRequest {
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        let mut fields = document(text, names::GET)?;
        let source = Source::read(&mut fields)?;
        let version = Version::read(&mut fields)?;
        let params = GetParams::read(&mut fields, &source)?;
        let missing = |what: &str| {
            Error::config(format!("`{what}` is missing"))
                .advise("a get step fetches exactly the digest of its version")
        };
        let version = version.ok_or_else(|| missing("version"))?;
        let digest = version.digest.as_deref();
        let digest = digest.ok_or_else(|| missing("version.digest"))?;
        let digest = Digest::parse(digest).doing(|| "`version.digest`")?;
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
        let mut fields = document(text, names::PUT)?;
        Ok(PutRequest {
            source: Source::read(&mut fields)?,
            params: PutParams::read(&mut fields)?,
        })
    }
}

impl Version {
    fn read(request: &mut Fields) -> Result<Option<Self>> {
        let Some(mut fields) = request.object("version", names::VERSION)? else {
            return Ok(None);
        };
        Ok(Some(Version {
            tag: fields.text("tag")?,
            digest: fields.text("digest")?,
        }))
    }
}

fn document(text: &[u8], known: &'static [&'static str]) -> Result<Fields> {
    // Editors and shells of Windows begin a file with it (RFC 8259, section 8.1: may be ignored).
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    if text.trim_ascii().is_empty() {
        return Err(Error::config("the request on stdin is empty")
            .advise("send a JSON document with `source` in it"));
    }
    Fields::document(text, known)
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
                "`parms` is not a field of the request; did you mean `params`?",
            ),
            (
                r#"{"source":{"repository":"a"}}"#,
                "`params.image` is missing; it is the path of the image to push",
            ),
            (
                "\u{feff} ",
                "the request on stdin is empty; send a JSON document with `source` in it",
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
    fn an_unknown_field_is_told_before_what_is_missing() {
        let source = |fields: &str| format!(r#"{{"source":{{"repository":"a",{fields}}}}}"#);
        let long = format!(r#"{{"source":{{"{}":1}}}}"#, "x".repeat(300));
        for (text, name, advice) in [
            (
                r#"{"sourc":{"repository":"a"}}"#.to_owned(),
                "sourc",
                "did you mean `source`?",
            ),
            (
                r#"{"source":{"repositry":"a"}}"#.to_owned(),
                "source.repositry",
                "did you mean `source.repository`?",
            ),
            (
                source(r#""user":"u""#),
                "source.user",
                "did you mean `source.username`?",
            ),
            (
                source(r#""registry_mirror":{"hots":"h"}"#),
                "source.registry_mirror.hots",
                "did you mean `source.registry_mirror.host`?",
            ),
            (
                source(r#""content_trust":{"repository_key_idd":"k"}"#),
                "source.content_trust.repository_key_idd",
                "did you mean `source.content_trust.repository_key_id`?",
            ),
            (
                source(r#""skip_download":true"#),
                "source.skip_download",
                "it belongs in `params`",
            ),
            (
                source(r#""version":"1""#),
                "source.version",
                "it belongs in `params`",
            ),
            (
                r#"{"source":{"repository":"a"},"params":{"image":"x","tag":"1"}}"#.to_owned(),
                "params.tag",
                "it belongs in `source`",
            ),
            (
                r#"{"repository":"a"}"#.to_owned(),
                "repository",
                "it belongs in `source`",
            ),
            (source(r#""":1"#), "source.", ""),
            (long, &format!("source.{}…", "x".repeat(60)), ""),
        ] {
            let error = format!("`{name}` is not a field of the request");
            let error = match advice {
                "" => error,
                advice => format!("{error}; {advice}"),
            };
            assert_eq!(refusal(&text), error, "{text}");
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
                r#""variant":"-x""#,
                "`source.variant` is `-x`: write it without the `-`",
            ),
            (
                r#""azure_client_id":"c""#,
                "`source.azure_client_id` is set, but `source.azure_acr` is missing; set it to true for a registry in Azure",
            ),
            (
                r#""azure_environment":"AzurePublic""#,
                "`source.azure_environment` is set, but `source.azure_acr` is missing; set it to true for a registry in Azure",
            ),
            (
                r#""aws_role_arn":"r""#,
                "`source.aws_role_arn` is set, but `source.aws_region` is missing; set it to the region of the ECR registry",
            ),
            (
                r#""aws_region":"r","aws_role_arn":"a","aws_role_arns":["b"]"#,
                "`source.aws_role_arn` and `source.aws_role_arns` are both set; use one of them",
            ),
            (
                r#""aws_region":"r","azure_acr":true"#,
                "`source.aws_region` and `source.azure_acr` are both set: a registry is in one cloud",
            ),
            (
                r#""username":"\ud800","password":"p""#,
                "`source.username` is not valid JSON: unexpected end of hex escape at line 1 column 8",
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
        for number in ["1.10", "1.160", "1e3", "1E3", "1.5E+2"] {
            let request = CheckRequest::parse(
                format!(
                    r#"{{"source":{{"repository":"a","tag":{number}}},"version":{{"tag":{number}}}}}"#
                )
                .as_bytes(),
            );
            let version = match &request {
                Ok(request) => request.version.as_ref().and_then(|v| v.tag.as_deref()),
                Err(error) => {
                    // `+` is in no tag: the refusal shows the number.
                    assert!(
                        error.to_string().contains(&format!("`{number}`")),
                        "{error}"
                    );
                    continue;
                }
            };
            assert_eq!(version, Some(number));
            let source = &request.as_ref().unwrap().source;
            assert_eq!(source.tag.as_ref().map(|tag| tag.as_str()), Some(number));
        }
    }

    #[test]
    fn a_document_may_begin_with_a_byte_order_mark_and_say_a_field_twice() {
        let request = CheckRequest::parse(
            b"\xef\xbb\xbf{\"source\":{\"repository\":\"a\",\"repository\":\"b\"}}",
        );
        assert_eq!(request.unwrap().source.repository.written(), "b");
    }

    #[test]
    fn what_is_nested_deeply_or_no_text_is_refused() {
        let deep = format!(
            r#"{{"source":{}{}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert_eq!(refusal(&deep), "`source` must be an object, not a list");
        let broken = CheckRequest::parse(b"{\"source\":{\"repository\":\"\xff\"}}");
        assert_eq!(
            broken.err().map(|error| error.to_string()).as_deref(),
            Some(
                "the request on stdin is not valid JSON: invalid unicode code point at line 1 column 26"
            )
        );
    }

    #[test]
    fn an_azure_login_that_is_switched_off_is_told() {
        let request = CheckRequest::parse(
            br#"{"source":{"repository":"a","azure_acr":false,"azure_tenant_id":"t"}}"#,
        )
        .unwrap();
        assert!(matches!(request.source.login, Login::Anonymous));
        assert_eq!(
            request.source.warnings,
            ["`source.azure_tenant_id` has no effect: `source.azure_acr` is false"]
        );
    }

    #[test]
    fn an_empty_host_is_no_mirror() {
        for host in [r#""""#, "null"] {
            let text = format!(
                r#"{{"source":{{"repository":"a","registry_mirror":{{"host":{host},"username":""}}}}}}"#
            );
            let request = CheckRequest::parse(text.as_bytes()).unwrap();
            assert!(request.source.mirror.is_none());
        }
    }

    #[test]
    fn a_platform_has_a_variant_of_its_own_or_in_its_architecture() {
        for (platform, expected) in [
            (r#"{"architecture":"arm","variant":"v6"}"#, "linux/arm/v6"),
            (r#"{"architecture":"arm/v6"}"#, "linux/arm/v6"),
            (
                r#"{"architecture":"arm64/v8","variant":"v9","os":"freebsd"}"#,
                "freebsd/arm64/v9",
            ),
        ] {
            let text = format!(r#"{{"source":{{"repository":"a","platform":{platform}}}}}"#);
            let request = CheckRequest::parse(text.as_bytes()).unwrap();
            assert_eq!(request.source.platform.to_string(), expected, "{platform}");
        }
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
                "`version` is missing; a get step fetches exactly the digest of its version",
            ),
            (
                r#","version":{"tag":"1"}"#.to_owned(),
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
