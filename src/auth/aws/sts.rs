//! STS: roles, assumed with keys or with the token of a web identity.

use super::Aws;
use super::call::{Call, Proof, Refused, Service};
use super::keys::Keys;
use super::xml;
use crate::error::{Error, Result};
use crate::http::encode;
use crate::secret::Secret;

/// STS has had one version of its interface.
const VERSION: &str = "2011-06-15";

/// What CloudTrail shows a session as, where nobody names it.
const SESSION: &str = "registry-image";

/// A role and how to ask for it.
#[derive(Clone)]
pub(super) struct Role {
    pub(super) arn: String,
    pub(super) session: Option<String>,
    pub(super) external_id: Option<String>,
    /// Seconds, as the profile says.
    pub(super) duration: Option<String>,
}

impl Role {
    /// `place` is where the ARN was read, for the error.
    ///
    /// # Errors
    /// A text that is no role's ARN (`arn:PARTITION:iam::ACCOUNT:role/PATH`).
    pub(super) fn parse(arn: &str, place: &str) -> Result<Self> {
        let arn = arn.trim();
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let good = match parts.as_slice() {
            ["arn", _, "iam", "", account, resource] => {
                !account.is_empty()
                    && account.bytes().all(|b| b.is_ascii_digit())
                    && resource
                        .strip_prefix("role/")
                        .is_some_and(|name| !name.is_empty())
            }
            _ => false,
        };
        match good && arn.bytes().all(|b| b.is_ascii_graphic()) {
            true => Ok(Role {
                arn: arn.to_owned(),
                session: None,
                external_id: None,
                duration: None,
            }),
            false => Err(Error::config(format!(
                "{place} is `{arn}`, which is not a role; a role is like `arn:aws:iam::123456789012:role/NAME`"
            ))),
        }
    }

    fn session(&self) -> String {
        // `[\w+=,.@-]{2,64}` (AssumeRole, "RoleSessionName").
        let allowed = |c: &char| {
            c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '=' | ',' | '.' | '@' | '-')
        };
        let wanted = self.session.as_deref().unwrap_or(SESSION);
        let name: String = wanted.chars().filter(allowed).take(64).collect();
        match name.len() {
            0 | 1 => SESSION.to_owned(),
            _ => name,
        }
    }
}

/// The keys of a session in `role`, which `keys` ask for.
pub(super) fn assume(aws: &Aws<'_>, keys: &Keys, role: &Role) -> Result<Keys> {
    let session = role.session();
    let mut form = vec![
        ("Action", "AssumeRole"),
        ("Version", VERSION),
        ("RoleArn", &role.arn),
        ("RoleSessionName", &session),
    ];
    form.extend(role.external_id.as_deref().map(|id| ("ExternalId", id)));
    form.extend(role.duration.as_deref().map(|s| ("DurationSeconds", s)));
    aws.debug(|| format!("assume {} with {}", role.arn, keys.whose));
    let call = Call {
        service: Service::Sts,
        content_type: "application/x-www-form-urlencoded; charset=utf-8",
        target: None,
        body: encoded(&form),
        proof: Proof::Signature(keys),
    };
    let step = || format!("assume the role {} with {}", role.arn, keys.whose);
    let answer = call.send(aws).map_err(|refused| {
        let advice = match refused.code.as_str() {
            "AccessDenied" | "AccessDeniedException" => Some(
                "the role's trust policy must name this identity, and the identity must be allowed `sts:AssumeRole` on the role"
                    .to_owned(),
            ),
            _ => None,
        };
        refused.of(keys, advice).doing(step())
    })?;
    read(&answer, role).map_err(|error| error.doing(step()))
}

/// The keys of a session in `role`, which a token in the file at `path` stands for.
pub(super) fn assume_with_token(
    aws: &Aws<'_>,
    token: &Secret,
    path: &str,
    role: &Role,
) -> Result<Keys> {
    let session = role.session();
    let form = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", VERSION),
        ("RoleArn", &role.arn),
        ("RoleSessionName", &session),
        ("WebIdentityToken", token.expose()),
    ];
    aws.debug(|| format!("assume {} with the token in `{path}`", role.arn));
    let call = Call {
        service: Service::Sts,
        content_type: "application/x-www-form-urlencoded; charset=utf-8",
        target: None,
        body: encoded(&form),
        proof: Proof::Token(token),
    };
    let step = || format!("assume the role {} with the token in `{path}`", role.arn);
    let answer = call.send(aws).map_err(|Refused { code, error }| {
        match code.as_str() {
            "AccessDenied" | "AccessDeniedException" => error.advise(
                "the role's trust policy must name the token's issuer, audience and subject for `sts:AssumeRoleWithWebIdentity`",
            ),
            "ExpiredTokenException" | "ExpiredToken" => {
                error.advise("the token's time is over: whoever mounts that file must renew it")
            }
            "InvalidIdentityToken" => error.advise(
                "the account of the role must know the token's issuer as an identity provider",
            ),
            _ => error,
        }
        .doing(step())
    })?;
    read(&answer, role).map_err(|error| error.doing(step()))
}

fn read(answer: &[u8], role: &Role) -> Result<Keys> {
    let document = String::from_utf8_lossy(answer);
    let found = |name: &str| {
        let text = xml::text(&document, name).filter(|text| !text.is_empty());
        text.ok_or_else(|| Error::registry(format!("STS answers without a `{name}`")))
    };
    let id = found("AccessKeyId")?;
    let secret = Secret::new(found("SecretAccessKey")?);
    let token = Secret::new(found("SessionToken")?);
    let mut keys = Keys::written(&id, secret, Some(token), "STS")?;
    keys.whose = format!("the role {}", role.arn);
    Ok(keys)
}

fn encoded(form: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = form
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
        .collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_arns_of_roles_are_roles() {
        for arn in [
            "arn:aws:iam::123456789012:role/ci",
            "arn:aws-cn:iam::123456789012:role/path/to/ci",
            " arn:aws-us-gov:iam::123456789012:role/ci\n",
        ] {
            assert!(Role::parse(arn, "x").is_ok(), "{arn}");
        }
        for arn in [
            "ci",
            "arn:aws:iam::123456789012:user/ci",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam::me:role/ci",
            "arn:aws:sts::123456789012:assumed-role/ci/x",
            "arn:aws:iam::123456789012:role/c i",
        ] {
            assert!(Role::parse(arn, "x").is_err(), "{arn}");
        }
    }

    #[test]
    fn a_session_name_has_only_what_sts_takes() {
        let named = |session: Option<&str>| {
            let mut role = Role::parse("arn:aws:iam::1:role/x", "x").unwrap();
            role.session = session.map(str::to_owned);
            role.session()
        };
        assert_eq!(named(None), "registry-image");
        assert_eq!(named(Some("team/main build")), "teammainbuild");
        assert_eq!(named(Some("/")), "registry-image");
        assert_eq!(named(Some(&"x".repeat(100))).len(), 64);
    }
}
