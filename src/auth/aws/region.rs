//! Regions, their partitions, and the names that services and registries have in them.

use crate::context::Env;
use crate::error::{Doing, Error, Result};
use crate::http::Url;

/// Partitions by how their regions start, the longest start first, and the domain of each
/// (partitions.json of the AWS SDKs).
const PARTITIONS: [(&str, &str); 6] = [
    ("us-isob-", "sc2s.sgov.gov"),
    ("us-isof-", "csp.hci.ic.gov"),
    ("eu-isoe-", "cloud.adc-e.uk"),
    ("us-iso-", "c2s.ic.gov"),
    ("eusc-", "amazonaws.eu"),
    ("cn-", "amazonaws.com.cn"),
];

/// The domain of the public partition, and of `aws-us-gov`.
const PUBLIC_DOMAIN: &str = "amazonaws.com";

/// `eu-west-1`: a name that can be part of a host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Region(String);

impl Region {
    /// Reads `source.aws_region`.
    ///
    /// # Errors
    /// Something that no region is called; an availability zone is told from its region.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| Error::config(format!("`source.aws_region` is `{text}`{why}"));
        let mut parts: Vec<&str> = text.split('-').collect();
        let number = parts.pop().unwrap_or_default();
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let word = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        if parts.len() < 2 || !parts.iter().all(word) {
            return Err(refuse(", which is not a region").advise("a region is like `eu-west-1`"));
        }
        if digits(number) {
            return Ok(Region(text.to_owned()));
        }
        let zone = number.trim_end_matches(|c: char| c.is_ascii_lowercase());
        match digits(zone) {
            true => Err(refuse(", which is an availability zone")
                .advise(format!("its region is `{}-{zone}`", parts.join("-")))),
            false => Err(refuse(", which is not a region").advise("a region is like `eu-west-1`")),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.0
    }

    fn domain(&self) -> &'static str {
        PARTITIONS
            .iter()
            .find(|(start, _)| self.0.starts_with(start))
            .map_or(PUBLIC_DOMAIN, |(_, domain)| domain)
    }

    /// The host of an account's registry.
    pub(super) fn registry(&self, account: &str) -> String {
        format!("{account}.dkr.ecr.{}.{}", self.0, self.domain())
    }
}

/// The region in the host of an ECR registry (`ACCOUNT.dkr.ecr.REGION.DOMAIN`, also its FIPS and
/// dual-stack forms); `None` where `host` is no such host.
pub(super) fn region_of_registry(host: &str) -> Option<&str> {
    let (account, rest) = host.split_once(".dkr")?;
    if account.is_empty() || !account.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let rest = [".ecr.", ".ecr-fips.", "-ecr.", "-ecr-fips."]
        .iter()
        .find_map(|service| rest.strip_prefix(service))?;
    rest.split('.').next()
}

/// Where the two services that are asked are.
pub(super) struct Endpoints {
    pub(super) ecr: Url,
    pub(super) sts: Url,
}

impl Endpoints {
    /// `AWS_ENDPOINT_URL_ECR`, `AWS_ENDPOINT_URL_STS` and `AWS_ENDPOINT_URL`, else the region's own.
    pub(super) fn new(env: &Env, region: &Region) -> Result<Self> {
        let named = |variable: &str, name: &str| {
            let set = env.first(&[variable, "AWS_ENDPOINT_URL"]);
            let ignored = env
                .get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
                .is_some_and(|value| value.eq_ignore_ascii_case("true"));
            match set.filter(|_| !ignored) {
                Some((variable, text)) => Url::parse(text.trim())
                    .map_err(|error| Error::config(error.to_string()))
                    .doing(|| format!("the environment's `{variable}`")),
                None => Url::parse(&format!(
                    "https://{name}.{}.{}/",
                    region.name(),
                    region.domain()
                )),
            }
        };
        Ok(Endpoints {
            ecr: named("AWS_ENDPOINT_URL_ECR", "api.ecr")?,
            sts: named("AWS_ENDPOINT_URL_STS", "sts")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_has_its_own_hosts() {
        for (region, ecr, sts, registry) in [
            (
                "eu-west-1",
                "https://api.ecr.eu-west-1.amazonaws.com/",
                "https://sts.eu-west-1.amazonaws.com/",
                "1.dkr.ecr.eu-west-1.amazonaws.com",
            ),
            (
                "cn-north-1",
                "https://api.ecr.cn-north-1.amazonaws.com.cn/",
                "https://sts.cn-north-1.amazonaws.com.cn/",
                "1.dkr.ecr.cn-north-1.amazonaws.com.cn",
            ),
            (
                "us-gov-west-1",
                "https://api.ecr.us-gov-west-1.amazonaws.com/",
                "https://sts.us-gov-west-1.amazonaws.com/",
                "1.dkr.ecr.us-gov-west-1.amazonaws.com",
            ),
            (
                "us-isob-east-1",
                "https://api.ecr.us-isob-east-1.sc2s.sgov.gov/",
                "https://sts.us-isob-east-1.sc2s.sgov.gov/",
                "1.dkr.ecr.us-isob-east-1.sc2s.sgov.gov",
            ),
        ] {
            let region = Region::parse(region).unwrap();
            let endpoints = Endpoints::new(&Env::default(), &region).unwrap();
            assert_eq!(endpoints.ecr.expose(), ecr);
            assert_eq!(endpoints.sts.expose(), sts);
            assert_eq!(region.registry("1"), registry);
            assert_eq!(region_of_registry(registry), Some(region.name()));
        }
    }

    #[test]
    fn a_region_that_is_none_is_refused() {
        for text in [
            "europe",
            "eu-west",
            "EU-WEST-1",
            "eu west 1",
            "eu-west-1/",
            "eu--1",
            "a.b-c-1",
            "-",
            "eu-west-",
            "eu-west-a",
        ] {
            let error = Region::parse(text).unwrap_err().to_string();
            assert!(error.ends_with("a region is like `eu-west-1`"), "{error}");
        }
        assert_eq!(
            Region::parse("eu-west-1b").unwrap_err().to_string(),
            "`source.aws_region` is `eu-west-1b`, which is an availability zone; \
             its region is `eu-west-1`"
        );
    }

    #[test]
    fn endpoints_come_from_the_environment_the_special_one_first() {
        let region = Region::parse("eu-west-1").unwrap();
        let env = Env::of(&[
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
            ("AWS_ENDPOINT_URL_STS", "https://sts.example:8443/x"),
        ]);
        let endpoints = Endpoints::new(&env, &region).unwrap();
        assert_eq!(endpoints.ecr.expose(), "http://127.0.0.1:1/");
        assert_eq!(endpoints.sts.expose(), "https://sts.example:8443/x");
        let env = Env::of(&[("AWS_ENDPOINT_URL", "localhost:1")]);
        let error = match Endpoints::new(&env, &region) {
            Ok(_) => "taken".to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(
            error,
            "the environment's `AWS_ENDPOINT_URL`: `localhost:1` is not a URL: it has no scheme"
        );
    }

    #[test]
    fn only_hosts_of_ecr_are_hosts_of_ecr() {
        for (host, region) in [
            ("1.dkr.ecr.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("1.dkr.ecr-fips.us-east-1.amazonaws.com", Some("us-east-1")),
            ("1.dkr-ecr.eu-west-1.on.aws", Some("eu-west-1")),
            ("team.app", None),
            ("x.dkr.ecr.eu-west-1.amazonaws.com", None),
            ("public.ecr.aws", None),
        ] {
            assert_eq!(region_of_registry(host), region, "{host}");
        }
    }
}
