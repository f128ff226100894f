//! Where the first keys come from: the places of AWS's default chain, in its order.

use super::Aws;
use super::keys::Keys;
use super::metadata;
use super::profile::{self, Profiles};
use super::sts::{self, Role};
use crate::auth::file;
use crate::error::{Doing, Error, Result};
use crate::request::EcrLogin;

/// The keys of the first place that has any. A place that is there and broken is an error: going
/// on would quietly use another identity.
pub(super) fn find(aws: &Aws<'_>, login: &EcrLogin) -> Result<Keys> {
    // 1. The source, because its author means exactly this identity.
    if let Some(keys) = &login.static_keys {
        return Keys::written(
            &keys.access_key_id,
            keys.secret_access_key.clone(),
            keys.session_token.clone(),
            "`source.aws_access_key_id`",
        );
    }
    // 2. The environment.
    if let Some(keys) = Keys::from_environment(aws.env())? {
        return Ok(keys);
    }
    aws.debug(|| "no keys in the environment");
    // 3. A web identity (IRSA).
    if let Some(keys) = web_identity(aws)? {
        return Ok(keys);
    }
    // 4. The container's role (ECS, EKS Pod Identity).
    if let Some(keys) = metadata::container(aws)? {
        return Ok(keys);
    }
    aws.debug(|| "no web identity and no container credentials in the environment");
    // 5. The shared files.
    let profiles = Profiles::read(aws.env())?;
    let (name, named) = profile::chosen(aws.env());
    if profiles.gives_keys(name) || named {
        return match profiles.has(name) {
            true => profiles.keys(aws, name),
            false => Err(Error::config(format!(
                "the environment's `AWS_PROFILE` is `{name}`, and there is no such profile (looked in {})",
                profiles.looked_at
            ))),
        };
    }
    aws.debug(|| {
        format!(
            "no keys in profile `{name}` (looked in {})",
            profiles.looked_at
        )
    });
    // 6. The machine's role.
    metadata::instance(aws)
        .map_err(|error| {
            error.advise(
                "set `source.aws_access_key_id` and `source.aws_secret_access_key`, or give this worker a role",
            )
        })
        .doing(|| {
            format!(
                "no keys in `source`, the environment or a profile (looked in {}), so the machine's",
                profiles.looked_at
            )
        })
}

fn web_identity(aws: &Aws<'_>) -> Result<Option<Keys>> {
    let Some(path) = aws.env().get("AWS_WEB_IDENTITY_TOKEN_FILE") else {
        return Ok(None);
    };
    let Some(arn) = aws.env().get("AWS_ROLE_ARN") else {
        return Err(Error::config(
            "the environment's `AWS_WEB_IDENTITY_TOKEN_FILE` is set, but `AWS_ROLE_ARN` is missing",
        ));
    };
    let mut role = Role::parse(arn, "the environment's `AWS_ROLE_ARN`")?;
    role.session = aws.env().get("AWS_ROLE_SESSION_NAME").map(str::to_owned);
    let token = file::token(path).doing(|| "the environment's `AWS_WEB_IDENTITY_TOKEN_FILE`")?;
    sts::assume_with_token(aws, &token, path, &role).map(Some)
}
