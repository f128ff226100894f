//! Image configs (image-spec config.md): what a container starts with, and the layers' diff_ids.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::json::{self, bounded, named_texts, or_null, texts};
use super::platform::Platform;
use crate::error::{Error, Result};

/// More variables than any image sets: the kernel starts no program with more than some megabytes
/// of them, and each is kept in memory and written to `metadata.json`.
const ENV_LIMIT: usize = 4096;

/// More labels than any builder writes; each is kept in memory and may become a line of metadata.
const LABELS_LIMIT: usize = 4096;

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
    #[serde(rename = "Cmd", deserialize_with = "texts")]
    cmd: Option<Vec<String>>,
    #[serde(rename = "Entrypoint", deserialize_with = "texts")]
    entrypoint: Option<Vec<String>>,
    #[serde(rename = "Env", deserialize_with = "texts")]
    env: Option<Vec<String>>,
    #[serde(rename = "User", deserialize_with = "or_null")]
    user: String,
    #[serde(rename = "Labels", deserialize_with = "named_texts")]
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
        let config: Self = json::object(bytes)
            .map_err(|why| Error::hostile(format!("the image config cannot be read: {why}")))?;
        let env = config.config.env.as_ref().map_or(0, Vec::len);
        bounded("image config", env, ENV_LIMIT, "environment variables")?;
        bounded(
            "image config",
            config.labels().len(),
            LABELS_LIMIT,
            "labels",
        )?;
        Ok(config)
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
    fn a_null_in_a_list_or_map_is_the_empty_text() {
        let text =
            r#"{"config":{"Cmd":[null],"Entrypoint":["a",null],"Env":[null],"Labels":{"a":null}}}"#;
        assert_eq!(
            metadata(text),
            r#"{"cmd":[""],"entrypoint":["a",""],"env":[""],"user":""}"#
        );
        let labels = ImageConfig::parse(text.as_bytes())
            .unwrap()
            .labels()
            .clone();
        assert_eq!(labels, BTreeMap::from([("a".to_owned(), String::new())]));
    }

    #[test]
    fn more_variables_or_labels_than_any_image_has_are_refused() {
        let config = |env: usize, labels: usize| {
            let env = vec![r#""A=b""#; env].join(",");
            let labels: Vec<String> = (0..labels).map(|n| format!(r#""{n}":"""#)).collect();
            let labels = labels.join(",");
            let text = format!(r#"{{"config":{{"Env":[{env}],"Labels":{{{labels}}}}}}}"#);
            ImageConfig::parse(text.as_bytes())
                .err()
                .map(|error| error.to_string())
        };
        assert_eq!(config(4096, 4096), None);
        assert_eq!(
            config(4097, 0).as_deref(),
            Some(
                "the image config has 4097 environment variables; 4096 is the most that is accepted"
            )
        );
        assert_eq!(
            config(0, 4097).as_deref(),
            Some("the image config has 4097 labels; 4096 is the most that is accepted")
        );
    }

    #[test]
    fn a_config_with_something_else_than_digests_is_refused() {
        assert!(ImageConfig::parse(br#"{"rootfs":{"diff_ids":["../x"]}}"#).is_err());
        assert!(ImageConfig::parse(b"[]").is_err());
        assert!(ImageConfig::parse(b"").is_err());
    }
}
