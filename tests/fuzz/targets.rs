//! What the fuzzer does with bytes that somebody else made, and the replay of its corpus.
//!
//! Each target promises more than not to panic: what is read in one piece is read the same in many,
//! what is written and read again is the same, and limits hold. Compiled twice: into the fuzzer's
//! crate, and into the tests of the program.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read};

use crate::archive::members::{Forward, MemberKind, Members};
use crate::archive::whiteout::{Mark, mark};
use crate::archive::{Entries, EntryKind, decode, shown};
use crate::error::{Error, Kind, Result};
use crate::http::Url;
use crate::oci::config::ImageConfig;
use crate::oci::digest::{Digest, Hasher};
use crate::oci::manifest::Document;
use crate::oci::media_type::{ACCEPT, DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::oci::platform::Platform;
use crate::oci::reference::{Repository, Tag};

// Private to `auth`, and needs nothing else.
#[allow(clippy::duplicate_mod, reason = "the fuzzer's crate has no `auth`")]
#[path = "../../src/auth/challenge.rs"]
mod challenge;
use challenge::Challenge;

type Target = fn(&[u8]);

/// By name; the corpus of each is in the folder of that name.
pub(crate) const TARGETS: [(&str, Target); 7] = [
    ("challenge", challenge),
    ("config", config),
    ("layer", layer),
    ("manifest", manifest),
    ("reference", reference),
    ("tar", tar),
    ("url", url),
];

/// Plain bytes of a layer that are looked at; a few compressed bytes can make any number.
const PLAIN_LIMIT: u64 = 1 << 20;

/// A tar block (POSIX.1-2017, pax, "ustar Interchange Format").
const BLOCK: usize = 512;

/// A layer as a registry sends it: compressed or not.
fn layer(input: &[u8]) {
    let plain = |input: Trickle<'_>| walk(decode(input)?);
    same(plain(Trickle(input, usize::MAX)), plain(Trickle(input, 1)));
}

/// What is broken in two ways may be refused for either.
fn same(whole: Result<String>, pieces: Result<String>) {
    match (whole, pieces) {
        (Ok(whole), Ok(pieces)) => assert_eq!(whole, pieces),
        (Err(_), Err(_)) => {}
        (whole, pieces) => panic!("in one piece {whole:?}, in many {pieces:?}"),
    }
}

/// A tar whose checksums are right: no fuzzer guesses them.
fn tar(input: &[u8]) {
    let mut tar = input.to_vec();
    for block in tar.chunks_exact_mut(BLOCK) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    same(
        walk(tar.as_slice()),
        walk(BufReader::with_capacity(7, tar.as_slice())),
    );
    if let (Ok(entries), Ok(members)) = (files(&tar), members(&tar)) {
        assert_eq!(entries, members, "one tar, read in two ways");
    }
}

/// A manifest or index, under every content type.
fn manifest(input: &[u8]) {
    let types = [
        "",
        "text/plain; charset=utf-8",
        OCI_MANIFEST,
        OCI_INDEX,
        DOCKER_MANIFEST,
        DOCKER_LIST,
        ACCEPT,
    ];
    for content_type in types {
        match Document::parse(input, content_type) {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok(Document::Image(manifest)) => {
                let written = serde_json::to_vec(&manifest).unwrap();
                let again = Document::parse(&written, content_type).unwrap();
                assert_eq!(again, Document::Image(manifest.clone()));
                let _ = manifest.artifact_type();
                for layer in &manifest.layers {
                    assert!(layer.known_in("registry.example").count() <= 3);
                }
            }
            Ok(Document::Index(index)) => {
                for entry in &index.manifests {
                    let mut wanted = entry.platform.clone().unwrap_or_default();
                    let offered = index.entries_for(&wanted);
                    let names_platform = entry.platform.is_some() && !entry.is_attestation();
                    assert!(!names_platform || offered.len() == 1);
                    assert!(!offered.iter().any(|entry| entry.is_attestation()));
                    wanted.set_architecture("arm/v7");
                    let _ = index.entries_for(&wanted);
                }
                let _ = index.platforms().map(Platform::to_string).count();
            }
        }
    }
}

/// An image config.
fn config(input: &[u8]) {
    match ImageConfig::parse(input) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(config) => {
            let metadata = serde_json::to_string(&config.run_metadata()).unwrap();
            assert!(metadata.starts_with(r#"{"cmd":"#));
            let _ = config.platform().to_string();
            for diff_id in config.diff_ids() {
                assert_eq!(&Digest::parse(&diff_id.to_string()).unwrap(), diff_id);
            }
            assert!(config.labels().len() <= input.len());
        }
    }
}

/// `WWW-Authenticate`, a header in each line.
fn challenge(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let found = Challenge::parse_all(text.lines());
    assert!(found.len() <= 16);
    for challenge in found {
        assert!(!challenge.scheme.is_empty());
        assert_eq!(challenge.scheme, challenge.scheme.to_ascii_lowercase());
        for name in ["realm", "service", "scope"] {
            assert!(
                challenge
                    .get(name)
                    .is_none_or(|value| value.len() <= text.len())
            );
        }
    }
}

/// Repositories, tags and digests: text that becomes part of a URL or a path.
fn reference(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(repository) = Repository::parse(text) {
        let full = format!("{}/{}", repository.host(), repository.name());
        let again = Repository::parse(&full).unwrap();
        assert_eq!(again.host(), repository.host());
        assert_eq!(again.name(), repository.name());
        assert_eq!(
            Repository::parse(&repository.familiar_name())
                .unwrap()
                .name(),
            repository.name()
        );
        let odd = |part: &str| matches!(part, "" | "." | "..");
        assert!(!repository.name().split('/').any(odd), "{full}");
        assert!(full.bytes().all(|byte| byte.is_ascii_graphic()), "{full}");
    }
    if let Ok(tag) = Tag::parse(text) {
        assert_eq!(tag.as_str(), text);
        assert!(!text.contains('/') && !text.starts_with('.') && text.len() <= 128);
    }
    if let Ok(digest) = Digest::parse(text) {
        assert_eq!(digest.to_string(), text);
        assert!(matches!(text.len(), 71 | 135));
    }
}

/// A `Location`, a `Link` or a realm, as a reference from a URL of ours.
fn url(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let base = Url::parse("https://registry.example:5000/v2/a/b/tags/list?n=1000").unwrap();
    for url in [Url::parse(text), base.join(text)].into_iter().flatten() {
        let written = url.expose();
        let again = Url::parse(&written).unwrap();
        assert!(
            again == url,
            "`{text}` became {written}, then {}",
            again.expose()
        );
        // What would end the request's line or a header.
        assert!(
            !written.bytes().any(|byte| byte <= b' ' || byte == 0x7f),
            "{written}"
        );
        assert!(!url.host().is_empty());
        assert!(url.target().starts_with('/'), "{written}");
    }
}

/// Every entry in a line, when all of it can be read.
fn walk(tar: impl BufRead) -> Result<String> {
    let mut out = String::new();
    let mut tar = tar.take(PLAIN_LIMIT);
    let mut entries = Entries::new(&mut tar);
    while let Some((entry, data)) = entries.next()? {
        let extents = entry.extents();
        let _ = writeln!(
            out,
            "{:?} {} -> {} {:o} {}:{} {:?} {} {extents:?}",
            entry.kind,
            shown(entry.name()),
            shown(entry.link()),
            entry.mode,
            entry.uid,
            entry.gid,
            (entry.mtime.seconds, entry.mtime.nanoseconds),
            entry.size,
        );
        for (name, value) in entry.xattrs() {
            let _ = writeln!(out, " {}={}", name.escape_ascii(), Digest::of(value));
        }
        for component in entry.name().split(|byte| *byte == b'/') {
            if let Ok(Mark::Remove(name)) = mark(component) {
                assert!(!matches!(name, b"" | b"." | b".."));
            }
        }
        let mut announced = entry.size;
        if let Some(extents) = extents {
            let mut end = 0;
            for extent in extents {
                assert!(extent.offset >= end);
                end = extent.offset + extent.length;
            }
            assert!(end <= entry.size);
            announced = extents.iter().map(|extent| extent.length).sum();
        }
        let (digest, size) = stored(data)?;
        if entry.kind == EntryKind::File {
            assert_eq!(size, announced);
        }
        let _ = writeln!(out, " {size} {digest}");
    }
    // As a pull does: what is broken behind the end of the tar counts.
    io::copy(&mut tar, &mut io::sink()).map_err(|error| Error::io(Kind::Hostile, error))?;
    match tar.limit() {
        0 => Err(Error::hostile("too long to be compared")),
        _ => Ok(out),
    }
}

/// Digest and number of an entry's bytes.
fn stored<R: BufRead>(data: &mut crate::archive::Data<R>) -> Result<(Digest, u64)> {
    let (mut hasher, mut size) = (Hasher::new(crate::oci::digest::Algorithm::Sha256), 0);
    loop {
        let block = data.block()?;
        if block.is_empty() {
            return Ok((hasher.finish(), size));
        }
        hasher.update(block);
        let n = block.len();
        size += n as u64;
        data.consume(n);
    }
}

type Files = Vec<(String, u64)>;

/// Names and sizes of the files, when `entries` can read all of it.
fn files(tar: &[u8]) -> Result<Files> {
    let (mut entries, mut files) = (Entries::new(tar), Vec::new());
    while let Some((entry, _)) = entries.next()? {
        if entry.kind == EntryKind::File {
            files.push((shown(entry.name()), entry.size));
        }
    }
    Ok(files)
}

/// The same from `members`, which reads headers alone.
fn members(tar: &[u8]) -> Result<Files> {
    let (mut members, mut files) = (Members::new(Span(tar)), Vec::new());
    while let Some(member) = members.next()? {
        if member.kind == MemberKind::File {
            assert!(member.at + member.size <= tar.len() as u64);
            files.push((shown(&member.name), member.size));
        }
    }
    Ok(files)
}

/// At most so many bytes at a time.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = buffer.len().min(self.1);
        self.0.read(&mut buffer[..n])
    }
}

/// Bytes in memory as a file that can be sought in.
struct Span<'a>(&'a [u8]);

impl Read for Span<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Forward for Span<'_> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.0 = self.0.get(bytes..).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc::{RecvTimeoutError, channel};
    use std::time::Duration;
    use std::{fs, thread};

    use super::*;

    /// A thousand times what the slowest takes; nothing waits for it but a target that hangs.
    const DEADLINE: Duration = Duration::from_secs(60);

    #[test]
    fn every_input_of_the_corpus_is_read_in_time_and_without_a_panic() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
        let mut failed = Vec::new();
        for (name, run) in TARGETS {
            let inputs: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().collect();
            assert!(!inputs.is_empty(), "{name} has no corpus");
            for input in inputs {
                let path = input.unwrap().path();
                let bytes = fs::read(&path).unwrap();
                let (done, outcome) = channel();
                thread::spawn(move || {
                    run(&bytes);
                    done.send(()).unwrap();
                });
                match outcome.recv_timeout(DEADLINE) {
                    Ok(()) => {}
                    Err(RecvTimeoutError::Timeout) => failed.push((path, "takes too long")),
                    Err(RecvTimeoutError::Disconnected) => failed.push((path, "panics")),
                }
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }

    #[test]
    fn every_corpus_belongs_to_a_target() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
        for folder in fs::read_dir(corpus).unwrap() {
            let name = folder.unwrap().file_name().into_string().unwrap();
            assert!(TARGETS.iter().any(|(target, _)| *target == name), "{name}");
        }
    }
}
