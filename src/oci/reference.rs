//! Repositories and tags as users write them. Docker Hub's own rules live here and nowhere else.

use std::fmt;

use super::digest::Digest;
use crate::error::{Error, Result};

/// The registry that is meant where a repository names none; `docker.io` means it too.
const DOCKER_HUB: &str = "index.docker.io";

/// The longest repository name that the distribution specification allows (spec.md, "Pulling manifests").
const NAME_LIMIT: usize = 255;

/// A repository: a registry's host and a name in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Repository {
    host: String,
    name: String,
    written: String,
}

impl Repository {
    /// Reads `source.repository`. The first segment is a registry's host when it has a `.` or `:`
    /// or is `localhost`; else the repository is Docker Hub's, where a single segment gets
    /// `library/` before it.
    pub(crate) fn parse(written: &str) -> Result<Self> {
        let refuse = |why: &str| Error::config(format!("repository `{written}`: {why}"));
        if written.is_empty() {
            return Err(Error::config("`source.repository` is empty"));
        }
        if written.trim() != written {
            return Err(Error::config(
                "`source.repository` begins or ends with a space or a newline",
            )
            .advise("leave it out"));
        }
        // What stands before an `@` that begins no digest may be a password, and is not shown.
        if let Some((_, after)) = written.split_once('@')
            && !["sha256:", "sha512:"]
                .iter()
                .any(|name| after.starts_with(name))
        {
            return Err(Error::config("`source.repository` has a user in it")
                .advise("set `source.username` and `source.password`"));
        }
        if written.contains("://") {
            return Err(refuse("it is a URL").advise("leave out the scheme"));
        }
        if let Some((name, _)) = written.split_once('@') {
            let name = match name.rsplit_once(':') {
                Some((name, tag)) if !tag.contains('/') => name,
                _ => name,
            };
            return Err(refuse("it has a digest")
                .advise(format!("write `{name}` and pin the digest with a version")));
        }
        let (host, rest) = match written.split_once('/') {
            Some((first, rest)) if is_host(first) => (Some(first), rest),
            _ => (None, written),
        };
        if let Some((name, tag)) = rest.rsplit_once(':')
            && !tag.contains('/')
        {
            let name = match host {
                Some(host) => format!("{host}/{name}"),
                None => name.to_owned(),
            };
            return Err(match tag.is_empty() {
                true => refuse("its tag is empty").advise(format!("write `repository: {name}`")),
                false => refuse("it has a tag")
                    .advise(format!("write `repository: {name}` and `tag: \"{tag}\"`")),
            });
        }
        let hub = match host {
            None => true,
            Some(host) => {
                let means = |hub: &str| host.eq_ignore_ascii_case(hub);
                means("docker.io") || means(DOCKER_HUB)
            }
        };
        let name = match hub && !rest.contains('/') {
            true => format!("library/{rest}"),
            false => rest.to_owned(),
        };
        check_name(&name).map_err(|why| refuse(&why))?;
        let host = match host {
            Some(host) if !hub => host.to_ascii_lowercase(),
            _ => DOCKER_HUB.to_owned(),
        };
        check_host(&host).map_err(|why| refuse(&why))?;
        Ok(Repository {
            host,
            name,
            written: written.to_owned(),
        })
    }

    /// The registry's host, with a port where one was written.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The name below `/v2/`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What the user wrote.
    pub(crate) fn written(&self) -> &str {
        &self.written
    }

    pub(crate) fn is_docker_hub(&self) -> bool {
        self.host == DOCKER_HUB
    }

    /// The notary server that its signatures are at, where nobody says another.
    pub(crate) fn notary_host(&self) -> &str {
        match self.is_docker_hub() {
            true => "notary.docker.io",
            false => &self.host,
        }
    }

    /// The same repository as another registry has it: a mirror, or a cloud's own host.
    pub(crate) fn on_host(&self, host: &str, name: String) -> Result<Self> {
        let host = host.to_ascii_lowercase();
        check_host(&host)
            .and_then(|()| check_name(&name))
            .map_err(Error::config)?;
        Ok(Repository {
            host,
            name,
            written: self.written.clone(),
        })
    }

    /// The name that `docker load` gives an image: Docker Hub's without host, official ones
    /// without `library/`, as far as that still names the same repository.
    pub(crate) fn familiar_name(&self) -> String {
        if !self.is_docker_hub() {
            return format!("{}/{}", self.host, self.name);
        }
        match (
            self.name.strip_prefix("library/"),
            self.name.split_once('/'),
        ) {
            (Some(official), _) if !official.contains('/') => official.to_owned(),
            // Alone it would name another registry.
            (_, Some((first, _))) if is_host(first) => format!("docker.io/{}", self.name),
            _ => self.name.clone(),
        }
    }
}

/// Shown in messages: host and name.
impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_docker_hub() {
            true => write!(f, "docker.io/{}", self.name),
            false => write!(f, "{}/{}", self.host, self.name),
        }
    }
}

fn is_host(segment: &str) -> bool {
    segment.contains(['.', ':']) || segment == "localhost"
}

fn check_host(host: &str) -> std::result::Result<(), String> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (
                "",
                port.strip_prefix(':').or((port.is_empty()).then_some("0")),
            ),
            _ => return Err(format!("`{host}` is not a host")),
        },
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, Some("0")),
        },
    };
    // A `.` at the end is that of the root of all names.
    let mut labels = name.strip_suffix('.').unwrap_or(name).split('.');
    let good_name = host.starts_with('[') || labels.all(is_label);
    let good_port = port.is_some_and(|port| port.parse::<u16>().is_ok());
    match good_name && good_port {
        true => Ok(()),
        false => Err(format!("`{host}` is not a host")),
    }
}

/// A part of a host's name (RFC 1123, section 2.1); some inside a company have a `_` as well.
fn is_label(label: &str) -> bool {
    let ends_with_dash = label.starts_with('-') || label.ends_with('-');
    let is_good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    !label.is_empty() && !ends_with_dash && label.bytes().all(is_good)
}

/// Whether this may be the name of a repository; what is none must not become part of a scope.
pub(crate) fn is_name(text: &str) -> bool {
    check_name(text).is_ok()
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` between slashes (distribution spec, "Pulling manifests").
fn check_name(name: &str) -> std::result::Result<(), String> {
    if name.len() > NAME_LIMIT {
        return Err(format!("a name has at most {NAME_LIMIT} characters"));
    }
    for segment in name.split('/') {
        if segment.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(format!(
                "`{segment}` has upper-case letters; repository names have none"
            ));
        }
        let separators = segment.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let mut parts = separators.collect::<Vec<_>>();
        // What stands before the first and after the last letter or digit must be nothing.
        let ends = [parts.first().copied(), parts.pop()];
        let good = parts.iter().all(|separator| {
            matches!(*separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        });
        if segment.is_empty() || !good || ends.iter().any(|end| *end != Some("")) {
            return Err(match segment.is_empty() {
                true => "a part of the name is empty".to_owned(),
                false => format!("`{segment}` is not a name that a registry knows"),
            });
        }
    }
    Ok(())
}

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}` (distribution spec, "Pulling manifests").
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Tag(String);

impl Tag {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            let shown: String = text.chars().take(200).collect();
            Err(Error::config(format!("tag `{shown}`: {why}")))
        };
        if text.is_empty() {
            return refuse("a tag has at least one character");
        }
        if text.len() > 128 {
            return refuse("a tag has at most 128 characters");
        }
        if text.starts_with(['.', '-']) {
            return refuse("a tag starts with a letter, a digit or `_`");
        }
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if !text.bytes().all(good) {
            return refuse("a tag may hold letters, digits, `_`, `.` and `-`");
        }
        Ok(Tag(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a manifest is asked for by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reference<'a> {
    Digest(&'a Digest),
    Tag(&'a Tag),
}

impl fmt::Display for Reference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Digest(digest) => digest.fmt(f),
            Reference::Tag(tag) => tag.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_segment_is_a_host_when_it_looks_like_one() {
        for (written, host, name) in [
            ("busybox", DOCKER_HUB, "library/busybox"),
            ("concourse/concourse", DOCKER_HUB, "concourse/concourse"),
            ("docker.io/busybox", DOCKER_HUB, "library/busybox"),
            ("Docker.IO/busybox", DOCKER_HUB, "library/busybox"),
            ("index.docker.io/a/b", DOCKER_HUB, "a/b"),
            ("registry-1.docker.io/a/b", "registry-1.docker.io", "a/b"),
            ("ghcr.io/package/image", "ghcr.io", "package/image"),
            ("localhost/x", "localhost", "x"),
            ("localhost:5000/x/y", "localhost:5000", "x/y"),
            ("127.0.0.1:5000/x", "127.0.0.1:5000", "x"),
            ("[::1]:5000/x", "[::1]:5000", "x"),
            ("host_1.test./x", "host_1.test.", "x"),
            ("Registry.Example.COM/x", "registry.example.com", "x"),
            ("a/b/c__d.e-f--g", DOCKER_HUB, "a/b/c__d.e-f--g"),
        ] {
            let repository = Repository::parse(written).unwrap();
            assert_eq!(
                (repository.host(), repository.name()),
                (host, name),
                "{written}"
            );
            assert_eq!(repository.written(), written);
        }
    }

    #[test]
    fn what_is_no_repository_is_told_with_the_reason() {
        for (written, why) in [
            ("", "`source.repository` is empty"),
            (
                "busybox:1.36",
                "repository `busybox:1.36`: it has a tag; write `repository: busybox` and `tag: \"1.36\"`",
            ),
            (
                "localhost:5000/x:latest",
                "repository `localhost:5000/x:latest`: it has a tag; write `repository: localhost:5000/x` and `tag: \"latest\"`",
            ),
            (
                "busybox@sha256:00",
                "repository `busybox@sha256:00`: it has a digest; write `busybox` and pin the digest with a version",
            ),
            (
                "robot:hunter2@r.example.com/a",
                "`source.repository` has a user in it; set `source.username` and `source.password`",
            ),
            (
                "https://robot:hunter2@r.example.com/a",
                "`source.repository` has a user in it; set `source.username` and `source.password`",
            ),
            (
                "busybox:1@sha256:00",
                "repository `busybox:1@sha256:00`: it has a digest; write `busybox` and pin the digest with a version",
            ),
            (
                "localhost:5000/x@sha256:00",
                "repository `localhost:5000/x@sha256:00`: it has a digest; write `localhost:5000/x` and pin the digest with a version",
            ),
            (
                "host.test/a:",
                "repository `host.test/a:`: its tag is empty; write `repository: host.test/a`",
            ),
            (
                " a",
                "`source.repository` begins or ends with a space or a newline; leave it out",
            ),
            (
                "host.test/a\n",
                "`source.repository` begins or ends with a space or a newline; leave it out",
            ),
            ("../a", "repository `../a`: `..` is not a host"),
            (
                "-h.test/a",
                "repository `-h.test/a`: `-h.test` is not a host",
            ),
            (
                "h-.test/a",
                "repository `h-.test/a`: `h-.test` is not a host",
            ),
            (
                "host..test/a",
                "repository `host..test/a`: `host..test` is not a host",
            ),
            (
                ".host.test/a",
                "repository `.host.test/a`: `.host.test` is not a host",
            ),
            (
                "host.test..:5000/a",
                "repository `host.test..:5000/a`: `host.test..:5000` is not a host",
            ),
            (
                "https://ghcr.io/a/b",
                "repository `https://ghcr.io/a/b`: it is a URL; leave out the scheme",
            ),
            ("a//b", "repository `a//b`: a part of the name is empty"),
            (
                "ghcr.io/",
                "repository `ghcr.io/`: a part of the name is empty",
            ),
            (
                "a/../b",
                "repository `a/../b`: `..` is not a name that a registry knows",
            ),
            (
                "a/-b",
                "repository `a/-b`: `-b` is not a name that a registry knows",
            ),
            (
                "a/b_",
                "repository `a/b_`: `b_` is not a name that a registry knows",
            ),
            (
                "a/b?c",
                "repository `a/b?c`: `b?c` is not a name that a registry knows",
            ),
            (
                "a/b c",
                "repository `a/b c`: `b c` is not a name that a registry knows",
            ),
            (
                "ghcr.io/A/b",
                "repository `ghcr.io/A/b`: `A` has upper-case letters; repository names have none",
            ),
            (
                "ghcr.io:x/a",
                "repository `ghcr.io:x/a`: `ghcr.io:x` is not a host",
            ),
            (
                "user.name:/a",
                "repository `user.name:/a`: `user.name:` is not a host",
            ),
        ] {
            assert_eq!(Repository::parse(written).unwrap_err().to_string(), why);
        }
        assert!(Repository::parse(&"a".repeat(300)).is_err());
    }

    #[test]
    fn a_familiar_name_names_the_same_repository() {
        for (written, familiar) in [
            ("docker.io/library/busybox", "busybox"),
            ("concourse/concourse", "concourse/concourse"),
            ("docker.io/library/a/b", "library/a/b"),
            ("docker.io/ghcr.io/x", "docker.io/ghcr.io/x"),
            ("ghcr.io/a/b", "ghcr.io/a/b"),
        ] {
            let repository = Repository::parse(written).unwrap();
            assert_eq!(repository.familiar_name(), familiar);
            let again = Repository::parse(familiar).unwrap();
            assert_eq!(again.to_string(), repository.to_string());
        }
    }

    #[test]
    fn a_tag_is_what_the_specification_allows() {
        for good in ["latest", "_x", "1.2.3-rc.1", &"a".repeat(128)] {
            assert_eq!(Tag::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", ".a", "-a", "a/b", "a b", "a+b", "ü", &"a".repeat(129)] {
            assert!(Tag::parse(bad).is_err(), "{bad} was taken");
        }
    }
}
