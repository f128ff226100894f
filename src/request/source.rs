//! `source`: which repository, which tags, and how to get in.

use regex_lite::Regex;

use super::expression::{self, Alphabet};
use super::fields::Fields;
use super::names;
use crate::error::{Doing, Error, Result};
use crate::oci::platform::Platform;
use crate::oci::reference::{Repository, Tag};
use crate::secret::Secret;

/// `source` of a request, checked as far as it can be without a connection.
pub(crate) struct Source {
    pub(crate) repository: Repository,
    pub(crate) insecure: bool,
    pub(crate) tag: Option<Tag>,
    pub(crate) tag_regex: Option<Regex>,
    pub(crate) created_at_sort: bool,
    pub(crate) variant: Option<Tag>,
    pub(crate) semver_constraint: Option<String>,
    pub(crate) pre_releases: bool,
    pub(crate) pre_release_prefixes: Vec<String>,
    pub(crate) semver_only: bool,
    pub(crate) login: Login,
    pub(crate) platform: Platform,
    pub(crate) debug: bool,
    pub(crate) mirror: Option<Mirror>,
    pub(crate) content_trust: Option<ContentTrust>,
    /// PEM texts, trusted for every connection of the run.
    pub(crate) ca_certs: Vec<String>,
    pub(crate) label_regex: Option<Regex>,
    pub(crate) annotation_regex: Option<Regex>,
    /// What was odd about the request; for the log once there is one.
    pub(crate) warnings: Vec<String>,
}

/// Which tags `check` follows.
pub(crate) enum Follow<'a> {
    Regex(&'a Regex),
    Semver,
    Tag(&'a Tag),
}

/// How to log in to the registry.
pub(crate) enum Login {
    Anonymous,
    Azure(AzureLogin),
    Ecr(Box<EcrLogin>),
    Password { username: String, password: Secret },
}

impl Login {
    /// Whether this login says which registry is meant: then a bare name is not Docker Hub's.
    pub(crate) fn names_registry(&self) -> bool {
        matches!(self, Login::Ecr(_))
    }
}

/// The `aws_…` fields.
#[derive(Clone)]
pub(crate) struct EcrLogin {
    pub(crate) region: String,
    pub(crate) static_keys: Option<AwsKeys>,
    pub(crate) role_arns: Vec<String>,
    pub(crate) account_id: Option<String>,
}

#[derive(Clone)]
pub(crate) struct AwsKeys {
    pub(crate) access_key_id: String,
    pub(crate) secret_access_key: Secret,
    pub(crate) session_token: Option<Secret>,
}

/// The `azure_…` fields.
#[derive(Clone)]
pub(crate) struct AzureLogin {
    pub(crate) client_id: Option<String>,
    pub(crate) tenant_id: Option<String>,
    pub(crate) environment: Option<String>,
}

/// `registry_mirror`.
pub(crate) struct Mirror {
    pub(crate) host: String,
    pub(crate) login: Login,
}

/// `content_trust`.
pub(crate) struct ContentTrust {
    pub(crate) server: Option<String>,
    pub(crate) repository_key_id: String,
    pub(crate) repository_key: Secret,
    pub(crate) repository_passphrase: Secret,
    /// Client certificate and key, PEM.
    pub(crate) tls: Option<(String, Secret)>,
    pub(crate) login: Login,
    pub(crate) scopes: Option<String>,
}

impl Source {
    pub(super) fn read(request: &mut Fields) -> Result<Self> {
        let fields = request.object("source", names::SOURCE)?;
        let mut fields = fields.ok_or_else(|| request.missing("source"))?;
        let mut warnings = Vec::new();
        let repository = fields.string("repository")?;
        let repository = repository.ok_or_else(|| fields.missing("repository"))?;
        let source = Source {
            repository: Repository::parse(&repository)?,
            insecure: fields.flag("insecure")?,
            tag: tag(&mut fields, "tag")?,
            tag_regex: regex(&mut fields, "tag_regex", Alphabet::Ascii)?,
            created_at_sort: fields.flag("created_at_sort")?,
            variant: variant(&mut fields)?,
            semver_constraint: fields.text("semver_constraint")?,
            pre_releases: fields.flag("pre_releases")?,
            pre_release_prefixes: fields.strings("pre_release_prefixes")?,
            semver_only: fields.flag("semver_only")?,
            login: read_login(&mut fields, &mut warnings)?,
            platform: read_platform(&mut fields)?.unwrap_or_else(Platform::of_this_binary),
            debug: fields.flag("debug")?,
            mirror: Mirror::read(&mut fields, &mut warnings)?,
            content_trust: ContentTrust::read(&mut fields, &mut warnings)?,
            ca_certs: fields.strings("ca_certs")?,
            label_regex: regex(&mut fields, "label_regex", Alphabet::Unicode)?,
            annotation_regex: regex(&mut fields, "annotation_regex", Alphabet::Unicode)?,
            warnings: Vec::new(),
        };
        Ok(Source { warnings, ..source })
    }

    pub(crate) fn follow(&self) -> Follow<'_> {
        match (&self.tag, &self.tag_regex) {
            (Some(tag), _) => Follow::Tag(tag),
            (None, Some(regex)) => Follow::Regex(regex),
            (None, None) => Follow::Semver,
        }
    }
}

/// The `platform` of `source` or `params`.
pub(super) fn read_platform(object: &mut Fields) -> Result<Option<Platform>> {
    let Some(mut fields) = object.object("platform", names::PLATFORM)? else {
        return Ok(None);
    };
    let mut platform = Platform::of_this_binary();
    if let Some(architecture) = fields.string("architecture")? {
        platform.set_architecture(&architecture);
    }
    if let Some(os) = fields.string("os")? {
        platform.os = os;
    }
    if let Some(variant) = fields.string("variant")? {
        platform.variant = Some(variant);
    }
    Ok(Some(platform))
}

fn read_login(fields: &mut Fields, warnings: &mut Vec<String>) -> Result<Login> {
    let aws = read_aws(fields, warnings)?;
    let azure = read_azure(fields, warnings)?;
    let password = read_password(fields, warnings)?;
    match (aws, azure) {
        (Some(_), Some(_)) => Err(Error::config(
            "`source.aws_region` and `source.azure_acr` are both set: a registry is in one cloud",
        )),
        (Some(aws), None) => Ok(Login::Ecr(Box::new(aws))),
        (None, Some(azure)) => Ok(Login::Azure(azure)),
        (None, None) => Ok(password),
    }
}

fn read_password(fields: &mut Fields, warnings: &mut Vec<String>) -> Result<Login> {
    let username = trimmed(fields, "username", warnings)?;
    let password = trimmed(fields, "password", warnings)?;
    match both_or_neither(fields, ("username", username), ("password", password))? {
        Some((username, password)) => Ok(Login::Password {
            username,
            password: Secret::new(password),
        }),
        None => Ok(Login::Anonymous),
    }
}

fn read_aws(fields: &mut Fields, warnings: &mut Vec<String>) -> Result<Option<EcrLogin>> {
    let key_id = trimmed(fields, "aws_access_key_id", warnings)?;
    let secret = trimmed(fields, "aws_secret_access_key", warnings)?;
    let session_token = trimmed(fields, "aws_session_token", warnings)?;
    let region = fields.string("aws_region")?;
    let role_arn = fields.string("aws_role_arn")?;
    let role_arns = fields.strings("aws_role_arns")?;
    let account_id = fields.string("aws_account_id")?;
    if fields.string("aws_ecr_registry_id")?.is_some() {
        warnings.push(
            "`source.aws_ecr_registry_id` is no longer needed; the repository names its registry"
                .to_owned(),
        );
    }
    let Some(region) = region else {
        let needs_region = [
            ("aws_access_key_id", key_id.is_some()),
            ("aws_secret_access_key", secret.is_some()),
            ("aws_session_token", session_token.is_some()),
            ("aws_role_arn", role_arn.is_some()),
            ("aws_role_arns", !role_arns.is_empty()),
            ("aws_account_id", account_id.is_some()),
        ];
        return match needs_region.iter().find(|(_, set)| *set) {
            Some((name, _)) => Err(lonely(fields, name, "aws_region")
                .advise("set it to the region of the ECR registry")),
            None => Ok(None),
        };
    };
    if role_arn.is_some() && !role_arns.is_empty() {
        return Err(Error::config(
            "`source.aws_role_arn` and `source.aws_role_arns` are both set; use one of them",
        ));
    }
    let static_keys = both_or_neither(
        fields,
        ("aws_access_key_id", key_id),
        ("aws_secret_access_key", secret),
    )?;
    if static_keys.is_none() && session_token.is_some() {
        return Err(lonely(fields, "aws_session_token", "aws_access_key_id"));
    }
    Ok(Some(EcrLogin {
        region,
        static_keys: static_keys.map(|(access_key_id, secret)| AwsKeys {
            access_key_id,
            secret_access_key: Secret::new(secret),
            session_token: session_token.map(Secret::new),
        }),
        role_arns: role_arn.into_iter().chain(role_arns).collect(),
        account_id,
    }))
}

fn read_azure(fields: &mut Fields, warnings: &mut Vec<String>) -> Result<Option<AzureLogin>> {
    let on = fields.switch("azure_acr")?;
    let login = AzureLogin {
        client_id: fields.string("azure_client_id")?,
        tenant_id: fields.string("azure_tenant_id")?,
        environment: fields.string("azure_environment")?,
    };
    if let Some(environment) = &login.environment
        && !matches!(
            environment.as_str(),
            "AzurePublic" | "AzureGovernment" | "AzureChina"
        )
    {
        return Err(Error::config(format!(
            "`source.azure_environment` is `{environment}`; it can be `AzurePublic`, `AzureGovernment` or `AzureChina`"
        )));
    }
    if on == Some(true) {
        return Ok(Some(login));
    }
    let needs_azure = [
        ("azure_client_id", login.client_id.is_some()),
        ("azure_tenant_id", login.tenant_id.is_some()),
        ("azure_environment", login.environment.is_some()),
    ];
    let set = needs_azure.iter().find(|(_, set)| *set);
    match set {
        None => Ok(None),
        // Said to be off: a pipeline for registries in Azure and elsewhere.
        Some((name, _)) if on == Some(false) => {
            warnings.push(format!(
                "`{}` has no effect: `{}` is false",
                fields.path_of(name),
                fields.path_of("azure_acr")
            ));
            Ok(None)
        }
        Some((name, _)) => {
            Err(lonely(fields, name, "azure_acr").advise("set it to true for a registry in Azure"))
        }
    }
}

impl Mirror {
    fn read(source: &mut Fields, warnings: &mut Vec<String>) -> Result<Option<Self>> {
        let Some(mut fields) = source.object("registry_mirror", names::MIRROR)? else {
            return Ok(None);
        };
        // An empty host is that of a pipeline which is used with a mirror and without.
        let left_empty = fields.has("host");
        let host = match fields.string("host")? {
            Some(host) => host,
            None if left_empty => return Ok(None),
            None => return Err(fields.missing("host")),
        };
        // Whatever stands before an `@` may be a password.
        if host.contains('@') {
            return Err(
                Error::config(format!("`{}` has a user in it", fields.path_of("host"))).advise(
                    "set `source.registry_mirror.username` and `source.registry_mirror.password`",
                ),
            );
        }
        if host.contains("://") {
            return Err(Error::config(format!(
                "`{}` is `{host}`: it is a host, not a URL",
                fields.path_of("host")
            ))
            .advise("leave out the scheme"));
        }
        let login = read_password(&mut fields, warnings)?;
        Ok(Some(Mirror { host, login }))
    }
}

impl ContentTrust {
    fn read(source: &mut Fields, warnings: &mut Vec<String>) -> Result<Option<Self>> {
        let Some(mut fields) = source.object("content_trust", names::CONTENT_TRUST)? else {
            return Ok(None);
        };
        let required = |value: Option<String>, fields: &Fields, name: &str| {
            value.ok_or_else(|| fields.missing(name))
        };
        let key_id = fields.string("repository_key_id")?;
        let key = fields.string("repository_key")?;
        let passphrase = trimmed(&mut fields, "repository_passphrase", warnings)?;
        let certificate = fields.string("tls_cert")?;
        let tls_key = fields.string("tls_key")?;
        let tls = both_or_neither(&fields, ("tls_cert", certificate), ("tls_key", tls_key))?;
        let trust = ContentTrust {
            server: fields.string("server")?,
            repository_key_id: required(key_id, &fields, "repository_key_id")?,
            repository_key: Secret::new(required(key, &fields, "repository_key")?),
            repository_passphrase: Secret::new(required(
                passphrase,
                &fields,
                "repository_passphrase",
            )?),
            tls: tls.map(|(certificate, key)| (certificate, Secret::new(key))),
            login: read_password(&mut fields, warnings)?,
            scopes: fields.string("scopes")?,
        };
        Ok(Some(trust))
    }
}

fn tag(fields: &mut Fields, name: &'static str) -> Result<Option<Tag>> {
    let path = fields.path_of(name);
    match fields.text(name)? {
        Some(text) => Ok(Some(Tag::parse(&text).doing(|| format!("`{path}`"))?)),
        None => Ok(None),
    }
}

fn variant(fields: &mut Fields) -> Result<Option<Tag>> {
    let path = fields.path_of("variant");
    match fields.text("variant")? {
        None => Ok(None),
        Some(text) if text.starts_with('-') => Err(Error::config(format!(
            "`{path}` is `{text}`: write it without the `-`"
        ))),
        Some(text) => Ok(Some(Tag::parse(&text).doing(|| format!("`{path}`"))?)),
    }
}

fn regex(fields: &mut Fields, name: &'static str, alphabet: Alphabet) -> Result<Option<Regex>> {
    let path = fields.path_of(name);
    match fields.string(name)? {
        None => Ok(None),
        Some(text) => match expression::compile(&text, alphabet) {
            Ok(regex) => Ok(Some(regex)),
            Err(error) => Err(Error::config(format!(
                "`{path}` is `{text}`, which is not a regular expression that is understood here: {error}"
            ))),
        },
    }
}

/// A text that may come from a mounted file: one newline at its end is dropped.
fn trimmed(
    fields: &mut Fields,
    name: &'static str,
    warnings: &mut Vec<String>,
) -> Result<Option<String>> {
    let path = fields.path_of(name);
    let Some(text) = fields.text(name)? else {
        return Ok(None);
    };
    let Some(line) = text.strip_suffix('\n') else {
        return Ok(Some(text));
    };
    let line = line.strip_suffix('\r').unwrap_or(line);
    warnings.push(format!("`{path}` ends with a newline, which was dropped"));
    Ok(Some(line.to_owned()).filter(|line| !line.is_empty()))
}

fn both_or_neither(
    fields: &Fields,
    (first_name, first): (&str, Option<String>),
    (second_name, second): (&str, Option<String>),
) -> Result<Option<(String, String)>> {
    match (first, second) {
        (Some(first), Some(second)) => Ok(Some((first, second))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(lonely(fields, first_name, second_name)),
        (None, Some(_)) => Err(lonely(fields, second_name, first_name)),
    }
}

fn lonely(fields: &Fields, set: &str, missing: &str) -> Error {
    Error::config(format!(
        "`{}` is set, but `{}` is missing",
        fields.path_of(set),
        fields.path_of(missing)
    ))
}
