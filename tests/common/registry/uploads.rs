//! Upload sessions of the fixture registry (distribution-spec, "Pushing blobs").

use super::api::{range_refused, unknown};
use super::auth;
use super::fault::{Answer, answer};
use super::store::{Store, Upload};
use super::wire::Offences;
use super::{Offence, Request, Shared};
use crate::common::{digest_matches, sha256};
use std::sync::Arc;

/// `POST /v2/NAME/blobs/uploads/`
pub fn open(
    shared: &Shared,
    store: &mut Store,
    request: &Request,
    name: &str,
    offences: &mut Offences,
) -> Answer {
    let head = &request.head;
    if let Some(digest) = head.query("mount") {
        let from = head.query("from").unwrap_or_default();
        let found = match shared.setup.mounts && auth::can_pull(shared, head, from) {
            true => store.blob(from, digest),
            false => None,
        };
        if let Some(bytes) = found {
            store
                .repository(name)
                .blobs
                .insert(digest.to_owned(), bytes);
            return created(shared, name, digest);
        }
    } else if let Some(digest) = head.query("digest").filter(|_| shared.setup.single_post) {
        check_upload_type(request, offences);
        return commit(shared, store, name, digest, &request.body, offences);
    } else if !request.body.is_empty() && head.query("digest").is_none() {
        offences.push((
            Offence::BodyNotAllowed,
            "body when opening an upload".to_owned(),
        ));
    }
    let id = store.open_upload(name);
    store.repository(name);
    session(shared, 202, name, &id, &store.uploads[&id])
}

fn session(shared: &Shared, status: u16, name: &str, id: &str, upload: &Upload) -> Answer {
    let path = format!("/v2/{name}/blobs/uploads/{id}?_state={}", upload.state);
    let location = if shared.setup.relative_locations {
        path
    } else {
        shared.url(&path)
    };
    let answer = match shared.setup.smallest_piece {
        Some(least) if status == 202 => {
            answer(status).with("OCI-Chunk-Min-Length", least.to_string())
        }
        _ => answer(status),
    };
    answer
        .with("Location", location)
        .with(
            "Range",
            format!("0-{}", upload.bytes.len().saturating_sub(1)),
        )
        .with("Docker-Upload-UUID", id)
}

fn created(shared: &Shared, name: &str, digest: &str) -> Answer {
    let path = format!("/v2/{name}/blobs/{digest}");
    let location = if shared.setup.relative_locations {
        path
    } else {
        shared.url(&path)
    };
    answer(201)
        .with("Location", location)
        .with("Docker-Content-Digest", digest)
}

/// A session: its status, more bytes, the commit, the cancel.
pub fn serve(
    shared: &Shared,
    store: &mut Store,
    request: &Request,
    name: &str,
    id: &str,
    offences: &mut Offences,
) -> Answer {
    let head = &request.head;
    let Some(upload) = store.uploads.get_mut(id).filter(|u| u.repository == name) else {
        let text = format!("no upload session `{id}` in {name}");
        offences.push((Offence::NoSuchUpload, text));
        return unknown("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
    };
    if head.query("_state") != Some(&upload.state.to_string()) {
        let text = format!(
            "_state {:?}, Location said {}",
            head.query("_state"),
            upload.state
        );
        offences.push((Offence::LocationNotFollowed, text));
    }
    match head.method.as_str() {
        "GET" => session(shared, 204, name, id, upload),
        "DELETE" => {
            store.uploads.remove(id);
            answer(204)
        }
        "PATCH" => {
            check_upload_type(request, offences);
            if let Some(range) = head.header("content-range") {
                let start = upload.bytes.len();
                let end = (start + request.body.len()).saturating_sub(1);
                if range != format!("{start}-{end}") {
                    let text = format!("Content-Range `{range}`, expected {start}-{end}");
                    offences.push((Offence::BadRange, text));
                    return range_refused(start as u64);
                }
                let least = shared.setup.smallest_piece.unwrap_or_default();
                if std::mem::replace(&mut upload.ended, (request.body.len() as u64) < least) {
                    let text = format!("a piece before {range} had less than {least} bytes");
                    offences.push((Offence::BadRange, text));
                }
            }
            upload.bytes.extend_from_slice(&request.body);
            upload.state += 1;
            session(shared, 202, name, id, upload)
        }
        _ => {
            let Some(digest) = head.query("digest") else {
                let text = "blob PUT without `digest`".to_owned();
                offences.push((Offence::NoDigest, text));
                return answer(400).error("DIGEST_INVALID", "no digest");
            };
            if !request.body.is_empty() {
                check_upload_type(request, offences);
            }
            let mut bytes = std::mem::take(&mut upload.bytes);
            bytes.extend_from_slice(&request.body);
            store.uploads.remove(id);
            commit(shared, store, name, digest, &bytes, offences)
        }
    }
}

fn check_upload_type(request: &Request, offences: &mut Offences) {
    let sent = request.head.header("content-type");
    if sent != Some("application/octet-stream") {
        let text = format!("Content-Type {sent:?} of uploaded bytes");
        offences.push((Offence::NoContentType, text));
    }
}

fn commit(
    shared: &Shared,
    store: &mut Store,
    name: &str,
    digest: &str,
    bytes: &[u8],
    offences: &mut Offences,
) -> Answer {
    if !digest_matches(digest, bytes) {
        let text = format!(
            "{} bytes put as {digest} are {}",
            bytes.len(),
            sha256(bytes)
        );
        offences.push((Offence::WrongDigest, text));
        return answer(400).error("DIGEST_INVALID", "provided digest did not match content");
    }
    store
        .repository(name)
        .blobs
        .insert(digest.to_owned(), Arc::from(bytes));
    created(shared, name, digest)
}
