//! A repository of content trust in memory, for unit tests: right in everything, or wrong in one
//! place.

use std::cell::RefCell;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::canonical::canonical_object;
use super::document::Meta;
use super::keys::tests::fresh;
use super::keys::{Keys, PrivateKey};
use super::listed::PublicKey;
use super::metadata::{Metadata, fetch};
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;
use crate::semver::Created;

pub(super) const GUN: &str = "localhost:5000/t/a";

/// Every kind of document that a fetch looks at.
pub(super) const ROLES: [&str; 5] = [
    "root",
    "timestamp",
    "snapshot",
    "targets",
    "targets/releases",
];

/// A change of what is signed.
pub(super) type Edit = fn(&mut Value);
/// A change of a whole document.
pub(super) type Spoil = fn(&mut Vec<u8>);

/// A repository with its keys, whose documents are made anew whenever they are read.
pub(super) struct Repository {
    pub(super) keys: BTreeMap<&'static str, PrivateKey>,
    pub(super) root_certificate: String,
    pub(super) signed: BTreeMap<&'static str, Value>,
    /// Done to a document before it is listed by the next one.
    pub(super) before: BTreeMap<&'static str, Spoil>,
    /// Done to what the one above says of a document.
    pub(super) listed: BTreeMap<&'static str, Edit>,
    /// Done to what the server hands out.
    pub(super) served: BTreeMap<&'static str, Spoil>,
    /// Older roots, by version.
    pub(super) roots: BTreeMap<u64, Vec<u8>>,
    /// A document that did not change keeps its signature: each signature is another one.
    pub(super) signatures: RefCell<BTreeMap<String, Vec<u8>>>,
    /// Who signs the root besides its own key.
    pub(super) also_root: Vec<(PrivateKey, String)>,
}

pub(super) fn tuf_key(key: &PrivateKey) -> Value {
    let (key_type, public) = key.core.plain();
    json!({"keytype": key_type, "keyval": {"private": null, "public": STANDARD.encode(public)}})
}

pub(super) fn certificate(key: &rcgen::KeyPair, name: &str, until: i32) -> Value {
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
    let pem = parameters.self_signed(key).unwrap().pem();
    json!({"keytype": "ecdsa-x509", "keyval": {"private": null, "public": STANDARD.encode(pem)}})
}

pub(super) fn id(key: &Value) -> String {
    PublicKey::from_json(key).unwrap().id
}

/// A root key in a certificate.
pub(super) fn root_key(name: &str, until: i32) -> (PrivateKey, Value) {
    let pair = rcgen::KeyPair::generate().unwrap();
    let pem = Secret::new(pair.serialize_pem());
    let keys = Keys::open(&pem, &Secret::new("")).unwrap();
    let key = keys.into_only();
    (key, certificate(&pair, name, until))
}

pub(super) fn sign(signed: &Value, keys: &[(&PrivateKey, &str)]) -> Vec<u8> {
    let message = canonical_object(signed.as_object().unwrap()).unwrap_or_default();
    let signatures: Vec<Value> = keys
        .iter()
        .map(|(key, id)| {
            let (method, signature) = key.sign(&message).unwrap();
            json!({"keyid": id, "method": method, "sig": STANDARD.encode(signature)})
        })
        .collect();
    serde_json::to_vec(&json!({"signed": signed, "signatures": signatures})).unwrap()
}

pub(super) fn now() -> Created {
    Created::parse("2026-11-25T00:00:00Z").unwrap()
}

impl Repository {
    pub(super) fn new() -> Self {
        let mut keys: BTreeMap<&str, PrivateKey> = ROLES.map(|role| (role, fresh())).into();
        let (root, certificate) = root_key(GUN, 2036);
        keys.insert("root", root);
        let mut listed = BTreeMap::from([(id(&certificate), certificate.clone())]);
        let mut roles = BTreeMap::from([("root", id(&certificate))]);
        for role in ["timestamp", "snapshot", "targets"] {
            let key = tuf_key(&keys[role]);
            roles.insert(role, id(&key));
            listed.insert(id(&key), key);
        }
        let roles: BTreeMap<&str, Value> = roles
            .into_iter()
            .map(|(role, id)| (role, json!({"keyids": [id], "threshold": 1})))
            .collect();
        let releases = tuf_key(&keys["targets/releases"]);
        let expires = "2027-01-01T00:00:00Z";
        let signed = BTreeMap::from([
            (
                "root",
                json!({"_type": "Root", "version": 3, "expires": expires, "consistent_snapshot": false,
                       "keys": listed, "roles": roles}),
            ),
            (
                "timestamp",
                json!({"_type": "Timestamp", "version": 3, "expires": expires, "meta": {}}),
            ),
            (
                "snapshot",
                json!({"_type": "Snapshot", "version": 3, "expires": expires, "meta": {}}),
            ),
            (
                "targets",
                json!({"_type": "Targets", "version": 3, "expires": expires, "targets": {},
                       "delegations": {
                           "keys": {id(&releases): releases},
                           "roles": [{"name": "targets/releases", "keyids": [id(&releases)],
                                      "threshold": 1, "paths": [""]}]}}),
            ),
            (
                "targets/releases",
                json!({"_type": "Targets", "version": 3, "expires": expires, "targets": {},
                       "delegations": {"keys": {}, "roles": []}}),
            ),
        ]);
        Repository {
            keys,
            root_certificate: id(&certificate),
            signed,
            before: BTreeMap::new(),
            listed: BTreeMap::new(),
            served: BTreeMap::new(),
            roots: BTreeMap::new(),
            signatures: RefCell::default(),
            also_root: Vec::new(),
        }
    }

    pub(super) fn edit(mut self, role: &'static str, edit: impl FnOnce(&mut Value)) -> Self {
        edit(self.signed.get_mut(role).unwrap());
        self
    }

    fn document(&self, role: &str, signed: &Value) -> Vec<u8> {
        let key = &self.keys[role];
        let id = match role {
            "root" => self.root_certificate.clone(),
            _ => key.id.clone(),
        };
        let mut keys = vec![(key, id.as_str())];
        if role == "root" {
            keys.extend(self.also_root.iter().map(|(key, id)| (key, id.as_str())));
        }
        let names: Vec<&str> = keys.iter().map(|(_, id)| *id).collect();
        let mut signatures = self.signatures.borrow_mut();
        let known = signatures.entry(format!("{names:?}{signed}"));
        let mut bytes = known.or_insert_with(|| sign(signed, &keys)).clone();
        if let Some(spoil) = self.before.get(role) {
            spoil(&mut bytes);
        }
        bytes
    }

    fn describe(&self, role: &str, bytes: &[u8]) -> Value {
        let mut meta = Meta::describe(bytes);
        if let Some(edit) = self.listed.get(role) {
            edit(&mut meta);
        }
        meta
    }

    /// All files by the names that the server has them under.
    pub(super) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut put = |name: String, role: &str, mut bytes: Vec<u8>| {
            if let Some(spoil) = self.served.get(role) {
                spoil(&mut bytes);
            }
            files.insert(name, bytes);
        };
        let mut snapshot = self.signed["snapshot"].clone();
        for role in ["root", "targets", "targets/releases"] {
            let bytes = self.document(role, &self.signed[role]);
            let meta = self.describe(role, &bytes);
            if let Some(meta) = Meta::read(&meta) {
                put(meta.file(role), role, bytes.clone());
            }
            if !meta.is_null() {
                snapshot["meta"][role] = meta;
            }
            if role == "root" {
                put("root.json".to_owned(), role, bytes);
            }
        }
        let bytes = self.document("snapshot", &snapshot);
        let meta = self.describe("snapshot", &bytes);
        if let Some(meta) = Meta::read(&meta) {
            put(meta.file("snapshot"), "snapshot", bytes);
        }
        let mut timestamp = self.signed["timestamp"].clone();
        if !meta.is_null() {
            timestamp["meta"]["snapshot"] = meta;
        }
        let bytes = self.document("timestamp", &timestamp);
        put("timestamp.json".to_owned(), "timestamp", bytes);
        for (version, bytes) in &self.roots {
            files.insert(format!("{version}.root.json"), bytes.clone());
        }
        files
    }

    pub(super) fn fetch(&self, known: Option<&Metadata>) -> Result<Metadata> {
        let files = self.files();
        let get = |name: &str, limit: u64| match files.get(name) {
            Some(bytes) if bytes.len() as u64 <= limit => Ok(bytes.clone()),
            Some(_) => Err(Error::hostile("the answer is longer than it may be")),
            None => Err(Error::new(Kind::Missing, format!("no {name}"))),
        };
        fetch(&get, GUN, now(), known)
    }

    /// What is wrong with `role`, as whoever wants to sign in it is told.
    pub(super) fn complaint(&self, role: &str) -> String {
        match self.fetch(None) {
            Err(error) => error.to_string(),
            Ok(metadata) => match metadata.role(role).and_then(|role| role.broken.clone()) {
                Some(broken) => format!("check `{role}`: {broken}"),
                None => panic!("{role}: nothing is wrong"),
            },
        }
    }
}
