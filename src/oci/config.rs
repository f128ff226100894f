//! Image configs (image-spec config.md): what a container starts with, and the layers' diff_ids.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::json;
use super::manifest::or_null;
use super::platform::Platform;
use crate::error::{Error, Result};

/// The part of an image config that this program reads.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ImageConfig {
    #[serde(default, deserialize_with = "or_null")]
    architecture: String,
    #[serde(default, deserialize_with = "or_null")]
    os: String,
    #[serde(default)]
    variant: Option<String>,
    /// RFC 3339, as its author wrote it.
    #[serde(default)]
    pub(crate) created: Option<String>,
    #[serde(default, deserialize_with = "or_null")]
    config: Execution,
    #[serde(default, deserialize_with = "or_null")]
    rootfs: Rootfs,
}

/// `config` of an image config: the defaults of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Execution {
    #[serde(rename = "Cmd")]
    cmd: Option<Vec<String>>,
    #[serde(rename = "Entrypoint")]
    entrypoint: Option<Vec<String>>,
    #[serde(rename = "Env")]
    env: Option<Vec<String>>,
    #[serde(rename = "User", deserialize_with = "or_null")]
    user: String,
    #[serde(rename = "Labels", deserialize_with = "or_null")]
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Rootfs {
    #[serde(default, deserialize_with = "or_null")]
    diff_ids: Vec<Digest>,
}

/// `metadata.json`: what Concourse passes on to the container that runs the image.
#[derive(Debug, Serialize)]
pub(crate) struct RunMetadata<'a> {
    cmd: Option<&'a [String]>,
    entrypoint: Option<&'a [String]>,
    env: Option<&'a [String]>,
    user: &'a str,
}

impl ImageConfig {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        json::object(bytes)
            .map_err(|why| Error::hostile(format!("the image config cannot be read: {why}")))
    }

    pub(crate) fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            variant: self.variant.clone(),
        }
    }

    /// Digests of the uncompressed layers, lowest first.
    pub(crate) fn diff_ids(&self) -> &[Digest] {
        &self.rootfs.diff_ids
    }

    pub(crate) fn labels(&self) -> &BTreeMap<String, String> {
        &self.config.labels
    }

    pub(crate) fn run_metadata(&self) -> RunMetadata<'_> {
        RunMetadata {
            cmd: self.config.cmd.as_deref(),
            entrypoint: self.config.entrypoint.as_deref(),
            env: self.config.env.as_deref(),
            user: &self.config.user,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(config: &str) -> String {
        let config = ImageConfig::parse(config.as_bytes()).unwrap();
        serde_json::to_string(&config.run_metadata()).unwrap()
    }

    #[test]
    fn absent_lists_are_null_in_the_run_metadata() {
        for config in [
            "{}",
            r#"{"config":null,"rootfs":null}"#,
            r#"{"architecture":null,"os":null,"variant":null,"created":null}"#,
            r#"{"architecture":"amd64","os":"linux","config":{"Cmd":null,"User":null,"Labels":null}}"#,
        ] {
            assert_eq!(
                metadata(config),
                r#"{"cmd":null,"entrypoint":null,"env":null,"user":""}"#
            );
        }
        assert_eq!(
            metadata(r#"{"config":{"Cmd":["sh"],"Entrypoint":[],"Env":["A=b"],"User":"1:2"}}"#),
            r#"{"cmd":["sh"],"entrypoint":[],"env":["A=b"],"user":"1:2"}"#
        );
    }

    #[test]
    fn a_config_with_something_else_than_digests_is_refused() {
        assert!(ImageConfig::parse(br#"{"rootfs":{"diff_ids":["../x"]}}"#).is_err());
        assert!(ImageConfig::parse(b"[]").is_err());
        assert!(ImageConfig::parse(b"").is_err());
    }
}
