//! The distribution API (distribution-spec 1.1, with Docker Registry v2 where older), strictly.

use super::auth::{self, Auth};
use super::fault::{Answer, answer};
use super::store::{Repository, Store};
use super::wire::{Head, Offences};
use super::{Offence, Request, Shared, uploads};
use crate::common::{digest_matches, sha256};
use serde_json::{Value, json};
use std::sync::Arc;

/// What a client that can read everything we write asks for.
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Paths: `/v2/`, `/v2/NAME/manifests/REFERENCE`, …
enum Endpoint {
    Base,
    Manifest { name: String, reference: String },
    Blob { name: String, digest: String },
    Uploads { name: String },
    Upload { name: String, id: String },
    Tags { name: String },
    Referrers { name: String, digest: String },
}

/// The regular answer to a request. `expired`: as though its token had just expired.
pub fn respond(
    shared: &Shared,
    request: &Request,
    expired: bool,
    offences: &mut Offences,
) -> Answer {
    let head = &request.head;
    if let ("/token", Some(tokens)) = (head.path.as_str(), &shared.setup.tokens) {
        return auth::token(tokens, request, offences);
    }
    let Some(endpoint) = parse_path(&head.path, offences) else {
        return served(shared, head, offences);
    };
    let method = head.method.as_str();
    let needs = needs(&endpoint, method);
    let needs: Vec<(&str, &str)> = needs.iter().map(|(n, a)| (n.as_str(), *a)).collect();
    if let Err(refused) = auth::authorise(shared, head, &needs, expired, offences) {
        return refused;
    }
    if matches!(shared.setup.auth, Auth::None) && head.header("authorization").is_some() {
        let text = "Authorization to a registry that asks for none".to_owned();
        offences.push((Offence::UnaskedAuthorization, text));
    }
    if matches!(method, "GET" | "HEAD" | "DELETE") && !request.body.is_empty() {
        offences.push((
            Offence::BodyNotAllowed,
            format!("{} bytes", request.body.len()),
        ));
    }
    let mut store = shared.store.lock().unwrap();
    let answer = match (&endpoint, method) {
        (Endpoint::Base, "GET" | "HEAD") => answer(200).json(&json!({})),
        (Endpoint::Manifest { name, reference }, "GET" | "HEAD") => {
            manifest(&store, head, name, reference, offences)
        }
        (Endpoint::Manifest { name, reference }, "PUT") => {
            put_manifest(&mut store, request, name, reference, offences)
        }
        (Endpoint::Manifest { name, reference }, "DELETE") => {
            delete_manifest(shared, &mut store, name, reference)
        }
        (Endpoint::Blob { name, digest }, "GET" | "HEAD") => {
            check_blob_headers(head, offences);
            match store.blob(name, digest) {
                Some(bytes) => content(head, &bytes, offences)
                    .with("Docker-Content-Digest", digest)
                    .with("Content-Type", "application/octet-stream"),
                None => unknown("BLOB_UNKNOWN", "blob unknown to registry"),
            }
        }
        (Endpoint::Blob { name, digest }, "DELETE") => {
            match store.repository(name).blobs.remove(digest) {
                Some(_) => answer(202),
                None => unknown("BLOB_UNKNOWN", "blob unknown to registry"),
            }
        }
        (Endpoint::Uploads { name }, "POST") => {
            uploads::open(shared, &mut store, request, name, offences)
        }
        (Endpoint::Upload { name, id }, "GET" | "PATCH" | "PUT" | "DELETE") => {
            uploads::serve(shared, &mut store, request, name, id, offences)
        }
        (Endpoint::Tags { name }, "GET") => tags(shared, &store, head, name, offences),
        (Endpoint::Referrers { .. }, "GET") => answer(404)
            .with("Content-Type", "text/plain; charset=utf-8")
            .body("404 page not found\n"),
        _ => {
            offences.push((
                Offence::UnknownEndpoint,
                format!("{method} is not for this path"),
            ));
            answer(405).error("UNSUPPORTED", "the operation is unsupported")
        }
    };
    answer.with("Docker-Distribution-Api-Version", "registry/2.0")
}

fn parse_path(path: &str, offences: &mut Offences) -> Option<Endpoint> {
    let rest = path.strip_prefix("/v2/")?;
    if rest.is_empty() {
        return Some(Endpoint::Base);
    }
    let parts: Vec<&str> = rest.split('/').collect();
    let (name, endpoint) = match parts.as_slice() {
        [name @ .., "manifests", reference] => {
            let (name, reference) = (name.join("/"), (*reference).to_owned());
            if !is_tag(&reference) && !is_digest(&reference) {
                offences.push((Offence::BadName, format!("reference `{reference}`")));
            }
            (name.clone(), Endpoint::Manifest { name, reference })
        }
        [name @ .., "blobs", "uploads"] => {
            let text = "`blobs/uploads` without the slash at its end".to_owned();
            offences.push((Offence::UnknownEndpoint, text));
            let name = name.join("/");
            (name.clone(), Endpoint::Uploads { name })
        }
        [name @ .., "blobs", "uploads", ""] => {
            let name = name.join("/");
            (name.clone(), Endpoint::Uploads { name })
        }
        [name @ .., "blobs", "uploads", id] => {
            let (name, id) = (name.join("/"), (*id).to_owned());
            (name.clone(), Endpoint::Upload { name, id })
        }
        [name @ .., "blobs", digest] => {
            let (name, digest) = (name.join("/"), (*digest).to_owned());
            if !is_digest(&digest) {
                offences.push((Offence::BadName, format!("digest `{digest}`")));
            }
            (name.clone(), Endpoint::Blob { name, digest })
        }
        [name @ .., "tags", "list"] => {
            let name = name.join("/");
            (name.clone(), Endpoint::Tags { name })
        }
        [name @ .., "referrers", digest] => {
            let (name, digest) = (name.join("/"), (*digest).to_owned());
            (name.clone(), Endpoint::Referrers { name, digest })
        }
        _ => return None,
    };
    if !is_name(&name) {
        offences.push((Offence::BadName, format!("repository name `{name}`")));
    }
    Some(endpoint)
}

/// distribution-spec, "Pulling manifests": the grammar of `<name>`.
fn is_name(name: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !name.is_empty()
        && name.len() <= 255
        && name.split('/').all(|part| {
            let bytes = part.as_bytes();
            let ends = bytes.first().is_some_and(|b| alphanumeric(*b))
                && bytes.last().is_some_and(|b| alphanumeric(*b));
            let separators = part.split(|c: char| alphanumeric(c as u8) && c.is_ascii());
            ends && part.is_ascii()
                && separators.into_iter().all(|between| {
                    matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-')
                })
        })
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_digest(digest: &str) -> bool {
    let length = match digest.split_once(':') {
        Some(("sha256", _)) => 64,
        Some(("sha512", _)) => 128,
        _ => return false,
    };
    let hex = &digest[7..];
    hex.len() == length
        && hex
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn needs(endpoint: &Endpoint, method: &str) -> Vec<(String, &'static str)> {
    let (name, blob_or_manifest) = match endpoint {
        Endpoint::Base => return Vec::new(),
        Endpoint::Manifest { name, .. } | Endpoint::Blob { name, .. } => (name, true),
        Endpoint::Uploads { name } | Endpoint::Upload { name, .. } => (name, false),
        Endpoint::Tags { name } | Endpoint::Referrers { name, .. } => (name, true),
    };
    match method {
        "GET" | "HEAD" if blob_or_manifest => vec![(name.clone(), "pull")],
        "DELETE" if blob_or_manifest => vec![(name.clone(), "delete")],
        _ => vec![(name.clone(), "pull"), (name.clone(), "push")],
    }
}

pub fn unknown(code: &str, message: &str) -> Answer {
    answer(404).error(code, message)
}

/// Paths outside the API: storage that blobs are redirected to.
fn served(shared: &Shared, head: &Head, offences: &mut Offences) -> Answer {
    if head.header("authorization").is_some() {
        let text = "Authorization to a path outside the registry's API".to_owned();
        offences.push((Offence::ForeignAuthorization, text));
    }
    if head.header("cookie").is_some() {
        offences.push((Offence::ForeignAuthorization, "a cookie".to_owned()));
    }
    let store = shared.store.lock().unwrap();
    let blob = head
        .path
        .strip_prefix("/storage/")
        .and_then(|digest| store.any_blob(digest));
    let bytes = store
        .served
        .get(&head.path)
        .or_else(|| store.served.get(&head.target));
    let bytes = bytes.map(|b| Arc::from(b.as_slice())).or(blob);
    match (bytes, head.method.as_str()) {
        (Some(bytes), "GET" | "HEAD") => {
            content(head, &bytes, offences).with("Content-Type", "application/octet-stream")
        }
        (Some(_), method) => {
            offences.push((
                Offence::UnknownEndpoint,
                format!("{method} is not for this path"),
            ));
            answer(405)
        }
        (None, _) => {
            offences.push((
                Offence::UnknownEndpoint,
                "nothing is at this path".to_owned(),
            ));
            answer(404)
                .with("Content-Type", "text/plain")
                .body("404 page not found\n")
        }
    }
}

/// Bytes, or the part of them that `Range` asks for (RFC 9110, section 14).
fn content(head: &Head, bytes: &[u8], offences: &mut Offences) -> Answer {
    let length = bytes.len() as u64;
    let whole = || answer(200).with("Accept-Ranges", "bytes").body(bytes);
    let Some(range) = head.header("range") else {
        return whole();
    };
    let parsed = range
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'));
    let number = |text: &str| match text {
        "" => Some(None),
        text if text.bytes().all(|b| b.is_ascii_digit()) => text.parse::<u64>().ok().map(Some),
        _ => None,
    };
    let (first, last) = match parsed.map(|(first, last)| (number(first), number(last))) {
        Some((Some(Some(first)), Some(last))) if last.is_none_or(|last| first <= last) => (
            first,
            last.unwrap_or(u64::MAX).min(length.saturating_sub(1)),
        ),
        Some((Some(None), Some(Some(suffix)))) if suffix > 0 => {
            (length.saturating_sub(suffix), length.saturating_sub(1))
        }
        _ => {
            offences.push((Offence::BadRange, format!("Range `{range}`")));
            return whole();
        }
    };
    if first >= length {
        return range_refused(length);
    }
    answer(206)
        .with("Accept-Ranges", "bytes")
        .with("Content-Range", format!("bytes {first}-{last}/{length}"))
        .body(&bytes[first as usize..=last as usize])
}

pub fn range_refused(length: u64) -> Answer {
    answer(416)
        .with("Content-Range", format!("bytes */{length}"))
        .error("RANGE_INVALID", "invalid content range")
}

fn check_encoding(head: &Head, offences: &mut Offences) {
    let asked = head.header("accept-encoding").unwrap_or("identity");
    if !asked.is_empty() && asked != "identity" {
        let text = format!("Accept-Encoding `{asked}`: digests are of the bytes as they are");
        offences.push((Offence::AcceptEncoding, text));
    }
}

fn check_blob_headers(head: &Head, offences: &mut Offences) {
    check_encoding(head, offences);
    if let Some(accept) = head
        .header("accept")
        .filter(|a| a.contains("manifest") || a.contains("index"))
    {
        offences.push((Offence::BlobAccept, format!("Accept `{accept}` for a blob")));
    }
}

fn manifest(
    store: &Store,
    head: &Head,
    name: &str,
    reference: &str,
    offences: &mut Offences,
) -> Answer {
    check_encoding(head, offences);
    if head.header("range").is_some() {
        offences.push((Offence::BadRange, "Range for a manifest".to_owned()));
    }
    let values = head
        .headers
        .iter()
        .filter(|(n, _)| n.eq_ignore_ascii_case("accept"));
    let accepted: Vec<&str> = values
        .flat_map(|(_, value)| value.split(','))
        .map(|item| item.split(';').next().unwrap_or_default().trim())
        .collect();
    for wanted in MANIFEST_TYPES {
        if !accepted.contains(&wanted) {
            offences.push((Offence::ManifestAccept, format!("Accept lacks `{wanted}`")));
        }
    }
    match store.manifest(name, reference) {
        Some(found) => answer(200)
            .with("Content-Type", &found.media_type)
            .with("Docker-Content-Digest", &found.digest)
            .body(found.bytes.as_slice()),
        None if !store.repositories.contains_key(name) => {
            unknown("NAME_UNKNOWN", "repository name not known to registry")
        }
        None => unknown("MANIFEST_UNKNOWN", "manifest unknown"),
    }
}

fn put_manifest(
    store: &mut Store,
    request: &Request,
    name: &str,
    reference: &str,
    offences: &mut Offences,
) -> Answer {
    let invalid = |message: &str| answer(400).error("MANIFEST_INVALID", message);
    let bytes = request.body.as_slice();
    let Some(content_type) = request.head.header("content-type") else {
        offences.push((
            Offence::NoContentType,
            "manifest PUT without Content-Type".to_owned(),
        ));
        return invalid("no Content-Type");
    };
    let Ok(document) = serde_json::from_slice::<Value>(bytes) else {
        offences.push((Offence::BadManifest, "not JSON".to_owned()));
        return invalid("not JSON");
    };
    if document["mediaType"]
        .as_str()
        .is_some_and(|inside| inside != content_type)
    {
        let text = format!(
            "Content-Type `{content_type}`, mediaType {}",
            document["mediaType"]
        );
        offences.push((Offence::BadManifest, text));
        return invalid("mediaType differs from Content-Type");
    }
    if is_digest(reference) && !digest_matches(reference, bytes) {
        let text = format!("put as {reference}, is {}", sha256(bytes));
        offences.push((Offence::WrongDigest, text));
        return answer(400).error("DIGEST_INVALID", "provided digest did not match content");
    }
    let repository = store.repository(name);
    let missing = missing(repository, &document, offences);
    if !missing.is_empty() {
        let text = format!("refers to absent {}", missing.join(", "));
        offences.push((Offence::BlobsMissing, text));
        let errors: Vec<Value> = missing
            .iter()
            .map(|digest| {
                json!({"code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown to registry",
                       "detail": {"digest": digest}})
            })
            .collect();
        return answer(400).json(&json!({ "errors": errors }));
    }
    let by_digest = is_digest(reference).then_some(reference);
    let digest = repository.put_manifest(by_digest, content_type, bytes);
    if by_digest.is_none() {
        repository.tag(reference, &digest);
    }
    let mut answer = answer(201)
        .with("Location", format!("/v2/{name}/manifests/{digest}"))
        .with("Docker-Content-Digest", &digest);
    if let Some(subject) = document["subject"]["digest"].as_str() {
        answer = answer.with("OCI-Subject", subject);
    }
    answer
}

/// The digests a manifest refers to that the repository does not hold, or holds in another size.
fn missing(repository: &Repository, document: &Value, offences: &mut Offences) -> Vec<String> {
    let mut absent = Vec::new();
    let layers = document["layers"].as_array().map_or(&[][..], Vec::as_slice);
    let config = document.get("config");
    for blob in config.into_iter().chain(layers) {
        if blob["urls"].as_array().is_some_and(|urls| !urls.is_empty()) {
            continue;
        }
        let digest = blob["digest"].as_str().unwrap_or_default();
        match repository.blobs.get(digest) {
            Some(bytes) => check_size(blob, bytes.len(), offences),
            None => absent.push(digest.to_owned()),
        }
    }
    for child in document["manifests"]
        .as_array()
        .map_or(&[][..], Vec::as_slice)
    {
        let digest = child["digest"].as_str().unwrap_or_default();
        match repository.manifests.get(digest) {
            Some(manifest) => check_size(child, manifest.bytes.len(), offences),
            None => absent.push(digest.to_owned()),
        }
    }
    absent
}

fn check_size(descriptor: &Value, size: usize, offences: &mut Offences) {
    if descriptor["size"].as_u64() != Some(size as u64) {
        let text = format!("descriptor {descriptor} of an object of {size} bytes");
        offences.push((Offence::BadManifest, text));
    }
}

fn delete_manifest(shared: &Shared, store: &mut Store, name: &str, reference: &str) -> Answer {
    if !shared.setup.deletes {
        return answer(405).error("UNSUPPORTED", "the operation is unsupported");
    }
    let repository = store.repository(name);
    let before = (repository.tags.len(), repository.manifests.len());
    repository
        .tags
        .retain(|(tag, digest)| tag != reference && digest != reference);
    repository.manifests.remove(reference);
    match before == (repository.tags.len(), repository.manifests.len()) {
        true => unknown("MANIFEST_UNKNOWN", "manifest unknown"),
        false => answer(202),
    }
}

fn tags(
    shared: &Shared,
    store: &Store,
    head: &Head,
    name: &str,
    offences: &mut Offences,
) -> Answer {
    let Some(repository) = store.repositories.get(name) else {
        return unknown("NAME_UNKNOWN", "repository name not known to registry");
    };
    let asked = match head.query("n").map(str::parse::<usize>) {
        Some(Err(_)) => {
            offences.push((Offence::BadRange, format!("n={:?}", head.query("n"))));
            return answer(400).error("PAGINATION_NUMBER_INVALID", "invalid number of results");
        }
        Some(Ok(n)) => Some(n),
        None => None,
    };
    if let (Some(asked), Some(most)) = (asked, shared.setup.most_tags_a_page)
        && asked > most
    {
        return answer(400).error(
            "PAGINATION_NUMBER_INVALID",
            "invalid number of results requested",
        );
    }
    let names: Vec<&str> = repository
        .tags
        .iter()
        .map(|(tag, _)| tag.as_str())
        .collect();
    let start = match head.query("last") {
        None => 0,
        Some(last) => match names.iter().position(|name| *name == last) {
            Some(at) => at + 1,
            None => names
                .iter()
                .position(|name| *name > last)
                .unwrap_or(names.len()),
        },
    };
    let page = asked
        .unwrap_or(usize::MAX)
        .min(shared.setup.page_size.unwrap_or(usize::MAX));
    let end = start.saturating_add(page).min(names.len());
    let listed = &names[start..end];
    let mut answer = answer(200).json(&json!({"name": name, "tags": listed}));
    if let (true, Some(last)) = (end < names.len(), listed.last()) {
        let mut path = format!("/v2/{name}/tags/list?last={last}");
        if let Some(asked) = asked {
            path += &format!("&n={asked}");
        }
        let link = if shared.setup.absolute_links {
            shared.url(&path)
        } else {
            path
        };
        answer = answer.with("Link", format!("<{link}>; rel=\"next\""));
    }
    answer
}
