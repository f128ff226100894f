//! Keys of an identity, and what signs a request with them (Signature Version 4).

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;

use crate::context::Env;
use crate::error::{Error, Result};
use crate::http::Url;
use crate::secret::Secret;

/// An access key, and where it comes from.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) id: String,
    pub(super) secret: Secret,
    pub(super) token: Option<Secret>,
    /// Whose they are, for the log and for errors: a noun with its article.
    pub(super) whose: String,
}

/// The least length of a key id whose end may be shown: AWS makes them of 20 characters.
const SHOWABLE_ID: usize = 16;

impl Keys {
    /// Keys that somebody wrote down, with the last four characters of their id, as AWS's own
    /// pages show them.
    pub(super) fn written(
        id: &str,
        secret: Secret,
        token: Option<Secret>,
        place: &str,
    ) -> Result<Self> {
        let sendable = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        let whole = !id.is_empty()
            && sendable(id)
            && token.as_ref().is_none_or(|token| sendable(token.expose()));
        if !whole {
            return Err(Error::config(format!(
                "{place}: a key has a space or another character that no key has"
            )));
        }
        let end = id.len().saturating_sub(4);
        let shown = match id.get(end..) {
            Some(end) if id.len() >= SHOWABLE_ID => format!(" (…{end})"),
            _ => String::new(),
        };
        Ok(Keys {
            id: id.to_owned(),
            secret,
            token,
            whose: format!("the access key of {place}{shown}"),
        })
    }

    /// Those of `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`.
    ///
    /// # Errors
    /// Half a pair.
    pub(super) fn from_environment(env: &Env) -> Result<Option<Self>> {
        let lonely = |set: &str, missing: &str| {
            Err(Error::config(format!(
                "the environment's `{set}` is set, but `{missing}` is missing"
            )))
        };
        let [id, secret] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        match (env.get(id), env.get(secret)) {
            (None, None) => Ok(None),
            (Some(_), None) => lonely(id, secret),
            (None, Some(_)) => lonely(secret, id),
            (Some(id), Some(secret)) => Keys::written(
                id.trim(),
                Secret::new(secret.trim()),
                env.get("AWS_SESSION_TOKEN")
                    .map(|token| Secret::new(token.trim())),
                "the environment's `AWS_ACCESS_KEY_ID`",
            )
            .map(Some),
        }
    }

    /// What must not be shown of them.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        [&self.secret].into_iter().chain(&self.token)
    }
}

/// What is signed for whom, besides the request itself.
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    pub(super) time: SystemTime,
}

/// The headers that a request needs besides the ones it has: date, session token, authorization.
///
/// Source: "AWS Signature Version 4 for API requests" in the IAM user guide.
pub(super) fn signed(
    method: &str,
    url: &Url,
    headers: &[(&'static str, String)],
    body: &[u8],
    keys: &Keys,
    scope: &Scope<'_>,
) -> Result<Vec<(&'static str, Secret)>> {
    // The errors of the crate hold the request; nothing of them is shown.
    let failed = || Error::config(format!("a request cannot be signed with {}", keys.whose));
    let identity = Credentials::new(
        keys.id.as_str(),
        keys.secret.expose(),
        keys.token.as_ref().map(|token| token.expose().to_owned()),
        None,
        "registry-image",
    )
    .into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(scope.region)
        .name(scope.service)
        .time(scope.time)
        .settings(SigningSettings::default())
        .build()
        .map_err(|_| failed())?
        .into();
    let request = SignableRequest::new(
        method,
        url.expose(),
        headers.iter().map(|(name, value)| (*name, value.as_str())),
        SignableBody::Bytes(body),
    )
    .map_err(|_| failed())?;
    let (instructions, _) = sign(request, &params).map_err(|_| failed())?.into_parts();
    let (headers, _) = instructions.into_parts();
    Ok(headers
        .into_iter()
        .map(|header| (header.name(), Secret::new(header.value())))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// The published "AWS Signature Version 4 test suite": its keys, region, service and date.
    fn signature(
        method: &str,
        target: &str,
        headers: &[(&'static str, &str)],
        body: &str,
        token: Option<&str>,
    ) -> (String, String) {
        let keys = Keys::written(
            "AKIDEXAMPLE",
            Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            token.map(Secret::new),
            "the suite",
        )
        .unwrap();
        let scope = Scope {
            region: "us-east-1",
            service: "service",
            // 2015-08-30T12:36:00Z
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_440_938_160),
        };
        let url = Url::parse(&format!("https://example.amazonaws.com{target}")).unwrap();
        let headers: Vec<(&'static str, String)> = headers
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        let signed = signed(method, &url, &headers, body.as_bytes(), &keys, &scope).unwrap();
        let header = |name: &str| {
            let found = signed.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.expose().to_owned())
        };
        assert_eq!(header("x-amz-date").unwrap(), "20150830T123600Z");
        assert_eq!(header("x-amz-security-token").as_deref(), token);
        let authorization = header("authorization").unwrap();
        let rest = authorization
            .strip_prefix(
                "AWS4-HMAC-SHA256 \
                 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=",
            )
            .unwrap();
        let (names, signature) = rest.split_once(", Signature=").unwrap();
        (names.to_owned(), signature.to_owned())
    }

    #[test]
    fn signatures_are_those_of_the_published_suite() {
        type Case = (
            &'static str,
            &'static str,
            &'static str,
            &'static [(&'static str, &'static str)],
            &'static str,
            &'static str,
            &'static str,
        );
        let cases: [Case; 7] = [
            (
                "get-vanilla",
                "GET",
                "/",
                &[],
                "",
                "host;x-amz-date",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "get-vanilla-query-order-key-case",
                "GET",
                "/?Param2=value2&Param1=value1",
                &[],
                "",
                "host;x-amz-date",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            (
                "get-header-value-trim",
                "GET",
                "/",
                &[("my-header1", " value1"), ("my-header2", " \"a   b   c\"")],
                "",
                "host;my-header1;my-header2;x-amz-date",
                "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
            ),
            (
                "post-vanilla",
                "POST",
                "/",
                &[],
                "",
                "host;x-amz-date",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "post-header-key-sort",
                "POST",
                "/",
                &[("my-header1", "value1")],
                "",
                "host;my-header1;x-amz-date",
                "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
            ),
            (
                "post-x-www-form-urlencoded",
                "POST",
                "/",
                &[("content-type", "application/x-www-form-urlencoded")],
                "Param1=value1",
                "content-type;host;x-amz-date",
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
            (
                "get-unreserved",
                "GET",
                "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
                &[],
                "",
                "host;x-amz-date",
                "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
            ),
        ];
        for (name, method, target, headers, body, names, expect) in cases {
            let made = signature(method, target, headers, body, None);
            assert_eq!(made, (names.to_owned(), expect.to_owned()), "{name}");
        }
    }

    #[test]
    fn a_session_token_is_signed() {
        // post-sts-header-before of the suite.
        let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        assert_eq!(
            signature("POST", "/", &[], "", Some(token)),
            (
                "host;x-amz-date;x-amz-security-token".to_owned(),
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead".to_owned()
            )
        );
    }

    #[test]
    fn of_a_key_only_the_end_is_shown_and_a_key_with_a_newline_is_refused() {
        let keys = |id, token: Option<&str>| {
            Keys::written(id, Secret::new("s"), token.map(Secret::new), "`x`")
        };
        let whose = |id| keys(id, None).map(|keys| keys.whose).unwrap_or_default();
        assert_eq!(
            whose("AKIAIOSFODNN7EXAMPLE"),
            "the access key of `x` (…MPLE)"
        );
        assert_eq!(whose("short"), "the access key of `x`");
        assert!(keys("AKIA\r\nHost: x", None).is_err());
        assert!(keys("AKIA", Some("a\nb")).is_err());
    }
}
