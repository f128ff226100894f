//! The fields of a request, by the object that they are in.

pub(super) const CHECK: &[&str] = &["source", "version"];
pub(super) const GET: &[&str] = &["params", "source", "version"];
pub(super) const PUT: &[&str] = &["params", "source"];

pub(super) const VERSION: &[&str] = &["digest", "tag"];

pub(super) const SOURCE: &[&str] = &[
    "annotation_regex",
    "aws_access_key_id",
    "aws_account_id",
    "aws_ecr_registry_id",
    "aws_region",
    "aws_role_arn",
    "aws_role_arns",
    "aws_secret_access_key",
    "aws_session_token",
    "azure_acr",
    "azure_client_id",
    "azure_environment",
    "azure_tenant_id",
    "ca_certs",
    "content_trust",
    "created_at_sort",
    "debug",
    "insecure",
    "label_regex",
    "password",
    "platform",
    "pre_release_prefixes",
    "pre_releases",
    "registry_mirror",
    "repository",
    "semver_constraint",
    "semver_only",
    "tag",
    "tag_regex",
    "username",
    "variant",
];

pub(super) const PLATFORM: &[&str] = &["architecture", "os", "variant"];

pub(super) const MIRROR: &[&str] = &["host", "password", "username"];

pub(super) const CONTENT_TRUST: &[&str] = &[
    "password",
    "repository_key",
    "repository_key_id",
    "repository_passphrase",
    "scopes",
    "server",
    "tls_cert",
    "tls_key",
    "username",
];

pub(super) const GET_PARAMS: &[&str] = &["format", "platform", "skip_download"];

pub(super) const PUT_PARAMS: &[&str] = &[
    "additional_tags",
    "bump_aliases",
    "image",
    "tag_prefix",
    "version",
];

/// The object that a field belongs in which somebody wrote into the one at `path`.
pub(super) fn belongs_in(name: &str, path: &str) -> Option<&'static str> {
    let objects = [
        ("source", SOURCE),
        ("params", GET_PARAMS),
        ("params", PUT_PARAMS),
    ];
    let mut others = objects.iter().filter(|(object, _)| *object != path);
    let (object, _) = others.find(|(_, names)| names.contains(&name))?;
    Some(object)
}
