//! The members of a tarball on disk: their names, and where their bytes lie.
//!
//! One pass over the headers; no member's bytes are kept. Only what an image is made of is listed
//! (regular files and links), and names lead to other members, never to files outside.

use std::collections::HashMap;

use crate::archive::members::{Forward, Member, MemberKind};
use crate::error::{Error, Result};

/// An image has a member or two for each layer and document; a tarball with more is something
/// else (the files of a root filesystem), and its list would cost memory.
const MEMBERS_LIMIT: usize = 65_536;

/// A member whose name is longer than any builder's is not listed. In bytes.
const NAME_LIMIT: usize = 1024;

/// Links that lead to links: builders make chains of one.
const LINKS_LIMIT: usize = 16;

/// The name of a file in an image on disk: relative, `/` between its parts, none of them `.` or `..`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Name(String);

impl Name {
    /// Cleans a name that stands in a document or a tar header. `None` where it is empty or climbs
    /// out of the image.
    pub(super) fn clean(text: &str) -> Option<Name> {
        Name::below(&[], text)
    }

    fn below(directory: &[&str], text: &str) -> Option<Name> {
        let mut parts = match text.starts_with('/') {
            true => Vec::new(),
            false => directory.to_vec(),
        };
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop()?;
                }
                part => parts.push(part),
            }
        }
        (!parts.is_empty()).then(|| Name(parts.join("/")))
    }

    /// What a symbolic link of this name means by `target`.
    fn link(&self, target: &str) -> Option<Name> {
        let mut directory: Vec<&str> = self.0.split('/').collect();
        directory.pop();
        Name::below(&directory, target)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a regular member's bytes lie in the plain tar stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Extent {
    pub(super) at: u64,
    pub(super) size: u64,
}

#[derive(Debug)]
enum Found {
    File(Extent),
    Hard(String),
    Symbolic(String),
}

/// The members of one tarball. Where a name comes twice the later one counts, as it does when
/// `tar` or `docker load` unpack the file.
#[derive(Debug)]
pub(super) struct Members(HashMap<Name, Found>);

impl Members {
    /// Walks the headers of `tar` to its end marker.
    ///
    /// # Errors
    /// Something that is no tar, is cut off, or has more members than an image.
    pub(super) fn list(tar: impl Forward) -> Result<Members> {
        let mut headers = crate::archive::members::Members::new(tar);
        let mut members = HashMap::new();
        while let Some(member) = headers.next()? {
            if let Some(name) = member_name(&member.name)
                && let Some(found) = found(member)
            {
                members.insert(name, found);
            }
            if members.len() > MEMBERS_LIMIT {
                return Err(Error::local(format!(
                    "it has more than {MEMBERS_LIMIT} members, and no image has as many"
                )));
            }
        }
        Ok(Members(members))
    }

    /// Where the regular file of this name lies, links followed inside the tarball.
    ///
    /// # Errors
    /// A link that leads nowhere or in a circle.
    pub(super) fn find(&self, name: &Name) -> Result<Option<Extent>> {
        let mut at = name.clone();
        for _ in 0..LINKS_LIMIT {
            let (target, text) = match self.0.get(&at) {
                Some(Found::File(extent)) => return Ok(Some(*extent)),
                Some(Found::Hard(target)) => (Name::clean(target), target),
                Some(Found::Symbolic(target)) => (at.link(target), target),
                None if at == *name => return Ok(None),
                None => {
                    return Err(Error::local(format!(
                        "`{name}` is a link to `{at}`, which is not in the tarball"
                    )));
                }
            };
            let Some(target) = target else {
                return Err(Error::local(format!(
                    "`{at}` is a link to `{text}`, outside the tarball"
                )));
            };
            at = target;
        }
        Err(Error::local(format!(
            "`{name}` is a link that leads to itself"
        )))
    }

    /// Whether a member of this name is listed.
    pub(super) fn has(&self, name: &Name) -> bool {
        self.0.contains_key(name)
    }
}

fn member_name(bytes: &[u8]) -> Option<Name> {
    let text = std::str::from_utf8(bytes).ok()?;
    Name::clean(text).filter(|_| bytes.len() <= NAME_LIMIT)
}

fn found(member: Member) -> Option<Found> {
    let link = || String::from_utf8(member.link).ok();
    match member.kind {
        MemberKind::File => Some(Found::File(Extent {
            at: member.at,
            size: member.size,
        })),
        MemberKind::HardLink => link().map(Found::Hard),
        MemberKind::Symlink => link().map(Found::Symbolic),
        MemberKind::Other => None,
    }
}
