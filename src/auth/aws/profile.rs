//! The shared config and credentials files, and what a profile in them means.
//!
//! Source: "Configuration and credential file settings" of the AWS SDKs reference guide.

use std::collections::BTreeMap;

use super::Aws;
use super::keys::Keys;
use super::sts::{self, Role};
use crate::auth::file;
use crate::context::Env;
use crate::error::{Doing, Error, Result};
use crate::secret::Secret;

/// Bytes of such a file; one with a hundred profiles has 20 KiB.
const FILE_LIMIT: u64 = 1 << 20;

/// Profiles that one may lead to through `source_profile`.
const MOST_SOURCES: usize = 8;

/// The settings of one profile; names in lower case.
type Settings = BTreeMap<String, String>;

/// The profiles of both files.
#[derive(Default)]
pub(super) struct Profiles {
    profiles: BTreeMap<String, Settings>,
    /// The files that were looked for, for messages.
    pub(super) looked_at: String,
}

/// The profile that is meant: the environment's, and whether it says so.
pub(super) fn chosen(env: &Env) -> (&str, bool) {
    match env.first(&["AWS_PROFILE", "AWS_DEFAULT_PROFILE"]) {
        Some((_, name)) => (name, true),
        None => ("default", false),
    }
}

impl Profiles {
    pub(super) fn read(env: &Env) -> Result<Self> {
        let mut profiles = Profiles::default();
        let mut looked_at = Vec::new();
        let files = [
            ("AWS_CONFIG_FILE", "config", true),
            ("AWS_SHARED_CREDENTIALS_FILE", "credentials", false),
        ];
        for (variable, name, is_config) in files {
            let path = match (env.get(variable), env.get("HOME")) {
                (Some(path), Some(home)) => match path.strip_prefix("~/") {
                    Some(rest) => format!("{home}/{rest}"),
                    None => path.to_owned(),
                },
                (Some(path), None) => path.to_owned(),
                (None, Some(home)) => format!("{home}/.aws/{name}"),
                (None, None) => continue,
            };
            if let Some(text) = file::read_if_there(&path, FILE_LIMIT)? {
                profiles.add(&text, is_config);
            }
            looked_at.push(format!("`{path}`"));
        }
        profiles.looked_at = match looked_at.is_empty() {
            true => "no files, as neither `HOME` nor `AWS_CONFIG_FILE` is set".to_owned(),
            false => looked_at.join(" and "),
        };
        Ok(profiles)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.profiles.contains_key(name)
    }

    /// Adds the profiles of one file; what is there already stays unless this file says otherwise.
    fn add(&mut self, text: &str, is_config: bool) {
        for (section, settings) in sections(text) {
            let name = match section.split_once([' ', '\t']) {
                Some(("profile", name)) if is_config => name.trim(),
                // Only `default` goes without the word; `sso-session x` and `services x` are no profiles.
                _ if is_config && section != "default" => continue,
                _ => section.as_str(),
            };
            let name = name.trim_matches(['"', '\'']).to_owned();
            self.profiles.entry(name).or_default().extend(settings);
        }
    }

    /// The keys of a profile, through the roles and sources that it names.
    pub(super) fn keys(&self, aws: &Aws<'_>, name: &str) -> Result<Keys> {
        self.resolve(aws, name, &mut Vec::new())
            .doing(|| format!("AWS profile `{name}`"))
    }

    fn resolve(&self, aws: &Aws<'_>, name: &str, passed: &mut Vec<String>) -> Result<Keys> {
        let Some(profile) = self.profiles.get(name) else {
            return Err(Error::config(format!(
                "there is no profile `{name}` (looked in {})",
                self.looked_at
            )));
        };
        if passed.len() >= MOST_SOURCES {
            return Err(Error::config(format!(
                "`source_profile` leads on more than {MOST_SOURCES} times"
            )));
        }
        let get = |key: &str| {
            profile
                .get(key)
                .map(String::as_str)
                .filter(|v| !v.is_empty())
        };
        let Some(arn) = get("role_arn") else {
            return match static_keys(name, profile)? {
                Some(keys) => Ok(keys),
                None => Err(unusable(name, profile)),
            };
        };
        let mut role = Role::parse(arn, &format!("`role_arn` of profile `{name}`"))?;
        role.session = get("role_session_name").map(str::to_owned);
        role.external_id = get("external_id").map(str::to_owned);
        role.duration = get("duration_seconds").map(str::to_owned);
        if get("mfa_serial").is_some() {
            return Err(Error::config(format!(
                "profile `{name}` has `mfa_serial`, and nobody is here to type a code"
            )));
        }
        if let Some(path) = get("web_identity_token_file") {
            let token = file::token(path)?;
            return sts::assume_with_token(aws, &token, path, &role);
        }
        let keys = match (get("source_profile"), get("credential_source")) {
            (Some(_), Some(_)) => {
                return Err(Error::config(format!(
                    "profile `{name}` has both `source_profile` and `credential_source`; use one of them"
                )));
            }
            (Some(source), None) if source == name => {
                static_keys(name, profile)?.ok_or_else(|| {
                    Error::config(format!(
                        "profile `{name}` is its own `source_profile` and has no keys"
                    ))
                })?
            }
            (Some(source), None) => {
                if passed.iter().any(|seen| seen == source) {
                    return Err(Error::config(format!(
                        "`source_profile` leads round in a circle: {} → {name} → {source}",
                        passed.join(" → ")
                    )));
                }
                passed.push(name.to_owned());
                self.resolve(aws, source, passed)?
            }
            (None, Some("Environment")) => Keys::from_environment(aws.env())?.ok_or_else(|| {
                Error::config(format!(
                    "profile `{name}` has `credential_source = Environment`, but `AWS_ACCESS_KEY_ID` is not set"
                ))
            })?,
            (None, Some("Ec2InstanceMetadata")) => super::metadata::instance(aws)?,
            (None, Some("EcsContainer")) => super::metadata::container(aws)?.ok_or_else(|| {
                Error::config(format!(
                    "profile `{name}` has `credential_source = EcsContainer`, but neither `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` nor `AWS_CONTAINER_CREDENTIALS_FULL_URI` is set"
                ))
            })?,
            (None, Some(other)) => {
                return Err(Error::config(format!(
                    "profile `{name}` has `credential_source = {other}`; it can be `Environment`, `Ec2InstanceMetadata` or `EcsContainer`"
                )));
            }
            (None, None) => {
                return Err(Error::config(format!(
                    "profile `{name}` has `role_arn`, but neither `source_profile`, `credential_source` nor `web_identity_token_file`"
                )));
            }
        };
        sts::assume(aws, &keys, &role)
    }
}

fn static_keys(name: &str, profile: &Settings) -> Result<Option<Keys>> {
    let get = |key: &str| {
        profile
            .get(key)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    };
    let place = format!("profile `{name}`");
    let lonely = |set: &str, missing: &str| {
        Err(Error::config(format!(
            "{place} has `{set}`, but `{missing}` is missing"
        )))
    };
    match (get("aws_access_key_id"), get("aws_secret_access_key")) {
        (Some(id), Some(secret)) => Keys::written(
            id,
            Secret::new(secret),
            get("aws_session_token").map(Secret::new),
            &place,
        )
        .map(Some),
        (None, None) => Ok(None),
        (Some(_), None) => lonely("aws_access_key_id", "aws_secret_access_key"),
        (None, Some(_)) => lonely("aws_secret_access_key", "aws_access_key_id"),
    }
}

/// Why nothing can be done with a profile that has neither keys nor a role.
fn unusable(name: &str, profile: &Settings) -> Error {
    let has = |key: &str| profile.contains_key(key);
    if has("credential_process") {
        return Error::config(format!(
            "profile `{name}` has `credential_process`; no program is run here"
        ));
    }
    if has("sso_session") || has("sso_start_url") {
        return Error::config(format!(
            "profile `{name}` logs in by IAM Identity Center (SSO), which needs a person and a browser"
        ));
    }
    Error::config(format!("profile `{name}` has no keys and no role"))
}

/// Whether a profile can give keys at all; the default one often holds only a region.
impl Profiles {
    pub(super) fn gives_keys(&self, name: &str) -> bool {
        let wanted = [
            "aws_access_key_id",
            "aws_secret_access_key",
            "role_arn",
            "credential_process",
            "sso_session",
            "sso_start_url",
        ];
        self.profiles
            .get(name)
            .is_some_and(|profile| wanted.iter().any(|key| profile.contains_key(*key)))
    }
}

/// The sections of an INI file, in order. A line that means nothing is passed over, as AWS's own
/// tools do.
fn sections(text: &str) -> Vec<(String, Settings)> {
    let mut sections: Vec<(String, Settings)> = Vec::new();
    // How far the last setting was indented: what is indented further belongs to it.
    let mut indent = None;
    for line in text.trim_start_matches('\u{feff}').lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = trimmed.strip_prefix('[') {
            let name = rest.split(']').next().unwrap_or_default().trim();
            sections.push((name.to_owned(), Settings::new()));
            indent = None;
            continue;
        }
        let here = line.len() - line.trim_start().len();
        if indent.is_some_and(|indent| here > indent) {
            continue;
        }
        let (Some((key, value)), Some((_, settings))) =
            (trimmed.split_once('='), sections.last_mut())
        else {
            continue;
        };
        indent = Some(here);
        // A comment behind a value has a space before its mark; a key may hold the mark itself.
        let end = [" #", " ;", "\t#", "\t;"]
            .iter()
            .filter_map(|mark| value.find(mark))
            .min();
        let value = value.get(..end.unwrap_or(value.len())).unwrap_or(value);
        settings.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_the_aws_tools_read_it() {
        let read = sections(
            "# comment\nstray = 1\n[default]\naws_access_key_id=A\n AWS_Secret_Access_Key = b=c#d ; note\n\
             [profile \"two words\"]\r\n  role_arn = r # comment\r\n  s3 =\r\n    max = 1\r\n  region=x\r\n\
             [ services x ]\nnot a setting\n[unclosed\na=1",
        );
        let shown: Vec<String> = read
            .iter()
            .map(|(name, settings)| format!("{name} {settings:?}"))
            .collect();
        assert_eq!(
            shown,
            [
                r#"default {"aws_access_key_id": "A"}"#,
                r#"profile "two words" {"region": "x", "role_arn": "r", "s3": ""}"#,
                "services x {}",
                r#"unclosed {"a": "1"}"#,
            ]
        );
    }

    #[test]
    fn the_credentials_file_wins_over_the_config_file_setting_by_setting() {
        let mut profiles = Profiles::default();
        profiles.add(
            "[default]\nregion=r\naws_access_key_id=old\n[profile a]\nx=1\n[a]\ny=1\n[sso-session s]\nz=1",
            true,
        );
        profiles.add(
            "[default]\naws_access_key_id=new\n[a]\nw=1\n[profile b]\nv=1",
            false,
        );
        let shown: Vec<String> = profiles
            .profiles
            .iter()
            .map(|(name, settings)| format!("{name} {settings:?}"))
            .collect();
        assert_eq!(
            shown,
            [
                r#"a {"w": "1", "x": "1"}"#,
                r#"default {"aws_access_key_id": "new", "region": "r"}"#,
                r#"profile b {"v": "1"}"#,
            ]
        );
    }
}
