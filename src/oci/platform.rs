//! Platforms in Go's names, and the choice of an index's entry.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::json::or_null;

/// An operating system and architecture as an index or config names them
/// (image-spec, image-index.md, `platform`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Platform {
    #[serde(default, deserialize_with = "or_null")]
    pub(crate) architecture: String,
    #[serde(default, deserialize_with = "or_null")]
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

impl Platform {
    /// The platform that this binary was built for.
    pub(crate) fn of_this_binary() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        let os = match std::env::consts::OS {
            "macos" => "darwin",
            other => other,
        };
        Platform {
            architecture: architecture.to_owned(),
            os: os.to_owned(),
            variant: None,
        }
    }

    /// Sets the architecture; `arm64/v8` is an architecture and a variant.
    pub(crate) fn set_architecture(&mut self, text: &str) {
        match text.split_once('/') {
            Some((architecture, variant)) => {
                self.architecture = architecture.to_owned();
                self.variant = Some(variant.to_owned());
            }
            None => {
                self.architecture = text.to_owned();
                self.variant = None;
            }
        }
    }

    /// Whether this is what BuildKit gives its attestations for a platform: `unknown/unknown`.
    pub(crate) fn is_attestation(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }

    /// How well `offered` serves somebody who wants `self`: the smaller the better, `None` not at
    /// all. Without a variant any will do, the usual one first (`v8` for arm64, `v7` then `v6`
    /// for arm); an offer without a variant stands for the usual one, as in containerd.
    /// Attestations serve nobody, whatever is wanted.
    pub(crate) fn preference(&self, offered: &Platform) -> Option<usize> {
        if offered.is_attestation()
            || offered.os != self.os
            || offered.architecture != self.architecture
        {
            return None;
        }
        let usual: &[&str] = match self.architecture.as_str() {
            "arm64" => &["v8"],
            "arm" => &["v7", "v6"],
            "amd64" => &["v1"],
            _ => &[],
        };
        let offered = offered.variant.as_deref().filter(|text| !text.is_empty());
        match self.variant.as_deref().filter(|text| !text.is_empty()) {
            Some(wanted) => {
                let stands_for = offered.or_else(|| usual.first().copied());
                (stands_for == Some(wanted)).then_some(usize::from(offered.is_none()))
            }
            None => match offered {
                None => Some(usual.len().min(1)),
                Some(variant) => Some(match usual.iter().position(|usual| *usual == variant) {
                    Some(0) => 0,
                    Some(at) => at + 1,
                    None => usual.len() + 2,
                }),
            },
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            None | Some("") => Ok(()),
            Some(variant) => write!(f, "/{variant}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let (os, architecture) = text.split_once('/').unwrap();
        let mut platform = Platform {
            os: os.to_owned(),
            ..Platform::default()
        };
        platform.set_architecture(architecture);
        platform
    }

    #[test]
    fn the_best_offer_is_the_usual_variant_and_never_another_system() {
        for (wanted, offers, best) in [
            (
                "linux/amd64",
                "linux/arm64 linux/amd64",
                Some("linux/amd64"),
            ),
            ("linux/amd64", "windows/amd64 unknown/unknown", None),
            ("unknown/unknown", "linux/amd64 unknown/unknown", None),
            (
                "linux/arm64",
                "linux/arm64/v9 linux/arm64/v8",
                Some("linux/arm64/v8"),
            ),
            (
                "linux/arm64",
                "linux/arm64/v9 linux/arm64",
                Some("linux/arm64"),
            ),
            ("linux/arm64", "linux/arm64/v9", Some("linux/arm64/v9")),
            ("linux/arm64/v8", "linux/arm64", Some("linux/arm64")),
            ("linux/arm64/v8", "linux/arm64/v9", None),
            (
                "linux/arm",
                "linux/arm/v5 linux/arm/v6 linux/arm/v7",
                Some("linux/arm/v7"),
            ),
            (
                "linux/arm",
                "linux/arm/v5 linux/arm/v6",
                Some("linux/arm/v6"),
            ),
            ("linux/arm", "linux/arm/v5", Some("linux/arm/v5")),
            (
                "linux/arm/v6",
                "linux/arm/v7 linux/arm/v6",
                Some("linux/arm/v6"),
            ),
            ("linux/arm/v6", "linux/arm", None),
            (
                "linux/amd64",
                "linux/amd64/v3 linux/amd64",
                Some("linux/amd64"),
            ),
            (
                "linux/amd64/v3",
                "linux/amd64 linux/amd64/v3",
                Some("linux/amd64/v3"),
            ),
        ] {
            let wanted = platform(wanted);
            let found = offers
                .split(' ')
                .map(platform)
                .filter_map(|offer| Some((wanted.preference(&offer)?, offer)))
                .min_by_key(|(preference, _)| *preference)
                .map(|(_, offer)| offer.to_string());
            assert_eq!(found.as_deref(), best, "{wanted} among {offers}");
        }
    }
}
