//! Every document wrong in every way, one at a time.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::*;
use crate::trust::canonical::canonical_object;
use crate::trust::keys::PrivateKey;
use crate::trust::keys::tests::fresh;
use crate::trust::testing::*;

#[test]
fn a_good_repository_is_believed() {
    let metadata = Repository::new().fetch(None).unwrap();
    let names: Vec<&str> = metadata.roles.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["targets", "targets/releases"]);
    for role in &metadata.roles {
        assert!(role.document.is_some() && role.broken.is_none());
        assert!(role.is_for("any"));
    }
}

#[test]
fn every_field_of_every_document_is_checked() {
    let edits: [(&str, Edit, &str); 6] = [
        (
            "expired",
            |signed| signed["expires"] = json!("2026-11-24T23:59:59.999Z"),
            "it expired at 2026-11-24T23:59:59.999Z",
        ),
        (
            "no date",
            |signed| signed["expires"] = json!("soon"),
            "`expires`: created `soon`: not a date and time of RFC 3339",
        ),
        (
            "no expiry",
            |signed| drop(signed.as_object_mut().unwrap().remove("expires")),
            "it is no TUF document: `expires` is missing",
        ),
        (
            "version 0",
            |signed| signed["version"] = json!(0),
            "its version is 0",
        ),
        (
            "no version",
            |signed| signed["version"] = json!(-1),
            "it is no TUF document: `version` is missing",
        ),
        (
            "no integer",
            |signed| signed["more"] = json!([0.5]),
            "it is no TUF document: it has the number 0.5, which is no integer",
        ),
    ];
    for role in ROLES {
        for (what, edit, why) in edits {
            let said = Repository::new().edit(role, edit).complaint(role);
            assert_eq!(said, format!("check `{role}`: {why}"), "{role} {what}");
        }
        let other = if role == "snapshot" {
            "Targets"
        } else {
            "Snapshot"
        };
        let repository = Repository::new().edit(role, |signed| signed["_type"] = json!(other));
        let kind = Repository::new().signed[role]["_type"].clone();
        let kind = kind.as_str().unwrap();
        assert_eq!(
            repository.complaint(role),
            format!("check `{role}`: it is `{other}`, not `{kind}`")
        );
    }
}

fn change(bytes: &mut Vec<u8>, change: impl FnOnce(&mut Value)) {
    let mut document: Value = serde_json::from_slice(bytes).unwrap();
    change(&mut document);
    *bytes = serde_json::to_vec(&document).unwrap();
}

#[test]
fn every_document_needs_a_signature_of_its_own_role() {
    let spoils: [(&str, Spoil); 9] = [
        ("content", |bytes| {
            change(bytes, |document| document["signed"]["version"] = json!(4));
        }),
        ("unknown member", |bytes| {
            change(bytes, |document| document["signed"]["more"] = json!("x"));
        }),
        ("signature", |bytes| {
            change(bytes, |document| {
                let sig = &mut document["signatures"][0]["sig"];
                let mut raw = STANDARD.decode(sig.as_str().unwrap()).unwrap();
                raw[5] ^= 1;
                *sig = json!(STANDARD.encode(raw));
            });
        }),
        ("empty signature", |bytes| {
            change(bytes, |document| {
                document["signatures"][0]["sig"] = json!("")
            });
        }),
        ("key id", |bytes| {
            change(bytes, |document| {
                document["signatures"][0]["keyid"] = json!("0".repeat(64));
            });
        }),
        ("method", |bytes| {
            change(bytes, |document| {
                document["signatures"][0]["method"] = json!("eddsa");
            });
        }),
        ("no signature", |bytes| {
            change(bytes, |document| document["signatures"] = json!([]));
        }),
        ("no list", |bytes| {
            change(bytes, |document| document["signatures"] = json!("x"));
        }),
        ("another's signature", |bytes| {
            change(bytes, |document| {
                let message = canonical_object(document["signed"].as_object().unwrap()).unwrap();
                let (_, signature) = fresh().sign(&message).unwrap();
                document["signatures"][0]["sig"] = json!(STANDARD.encode(signature));
            });
        }),
    ];
    for role in ROLES {
        for (what, spoil) in spoils {
            let mut repository = Repository::new();
            repository.before.insert(role, spoil);
            assert_eq!(
                repository.complaint(role),
                format!("check `{role}`: 0 of 1 signatures that it needs are good"),
                "{role} {what}"
            );
        }
        let mut repository = Repository::new();
        repository
            .before
            .insert(role, |bytes| bytes.truncate(bytes.len() - 1));
        let said = repository.complaint(role);
        let start = format!("check `{role}`: it is no TUF document: ");
        assert!(said.starts_with(&start), "{said}");
    }
}

/// Who lists whom.
fn lister(role: &str) -> &'static str {
    match role {
        "snapshot" => "timestamp",
        _ => "snapshot",
    }
}

#[test]
fn every_document_has_the_length_and_the_hashes_that_are_listed() {
    let lists: [(&str, Edit, &str); 7] = [
        (
            "longer",
            |meta| meta["length"] = json!(10_000),
            "bytes, 10000 are listed",
        ),
        ("shorter", |meta| meta["length"] = json!(10), ""),
        (
            "sha256",
            |meta| meta["hashes"]["sha256"] = json!(STANDARD.encode([0; 32])),
            "",
        ),
        (
            "sha512",
            |meta| meta["hashes"]["sha512"] = json!(STANDARD.encode([0; 64])),
            "its hash is another one than is listed",
        ),
        (
            "no length",
            |meta| meta["length"] = json!(null),
            "can be checked",
        ),
        (
            "no hash",
            |meta| meta["hashes"] = json!({}),
            "can be checked",
        ),
        (
            "no base64",
            |meta| meta["hashes"]["sha256"] = json!("!"),
            "can be checked",
        ),
    ];
    for role in ["root", "snapshot", "targets", "targets/releases"] {
        for (what, edit, why) in lists {
            let mut repository = Repository::new();
            repository.listed.insert(role, edit);
            if role == "targets/releases" && why == "can be checked" {
                // A delegation that is not listed has nothing in it.
                let metadata = repository.fetch(None).unwrap();
                assert!(metadata.role(role).unwrap().document.is_none());
                continue;
            }
            let said = repository.complaint(role);
            assert!(said.starts_with("check `"), "{role} {what}: {said}");
            assert!(said.contains(why), "{role} {what}: {said}");
        }
        let mut repository = Repository::new();
        repository.listed.insert(role, |meta| *meta = Value::Null);
        if role != "targets/releases" {
            let said = repository.complaint(role);
            let list = lister(role);
            let why = format!("`{list}` lists no `{role}` that can be checked");
            assert!(said.ends_with(&why), "{said}");
        }
        let mut repository = Repository::new();
        repository.served.insert(role, |bytes| bytes.push(b'\n'));
        repository.complaint(role);
        let mut repository = Repository::new();
        repository.served.insert(role, |bytes| {
            let end = bytes.len() - 1;
            bytes[end / 2] ^= 1;
        });
        repository.complaint(role);
    }
}

#[test]
fn what_is_too_large_is_not_fetched() {
    let mut repository = Repository::new();
    repository
        .listed
        .insert("targets", |meta| meta["length"] = json!(LARGE_LIMIT + 1));
    assert_eq!(
        repository.complaint("targets"),
        "check `targets`: it has 33554433 bytes; 33554432 are the most that is read"
    );
}

#[test]
fn a_threshold_counts_keys_and_not_signatures() {
    // Two signatures are wanted, and one key signs twice: under the same id, and under another.
    let twice = |bytes: &mut Vec<u8>| {
        change(bytes, |document| {
            let again = document["signatures"][0].clone();
            document["signatures"].as_array_mut().unwrap().push(again);
        });
    };
    for role in ["timestamp", "snapshot", "targets"] {
        let mut repository = Repository::new().edit("root", |root| {
            root["roles"][role]["threshold"] = json!(2);
        });
        repository.before.insert(role, twice);
        assert_eq!(
            repository.complaint(role),
            format!("check `{role}`: 1 of 2 signatures that it needs are good")
        );
    }
    let pair = rcgen::KeyPair::generate().unwrap();
    let pem = crate::secret::Secret::new(pair.serialize_pem());
    let key = crate::trust::keys::Keys::open(&pem, &crate::secret::Secret::new(""))
        .unwrap()
        .into_only();
    let wrapped = certificate(&pair, "wrapped", 2036);
    let (plain_id, wrapped_id) = (key.id.clone(), id(&wrapped));
    let mut repository = Repository::new().edit("root", |root| {
        root["keys"][&plain_id] = tuf_key(&key);
        root["keys"][&wrapped_id] = wrapped.clone();
        root["roles"]["timestamp"] = json!({"keyids": [plain_id, wrapped_id], "threshold": 2});
    });
    repository.keys.insert("timestamp", key);
    let files = repository.files();
    let timestamp: Value = serde_json::from_slice(&files["timestamp.json"]).unwrap();
    let key = &repository.keys["timestamp"];
    let both = sign(
        &timestamp["signed"],
        &[(key, &plain_id), (key, &wrapped_id)],
    );
    let document = Signed::parse(both).unwrap();
    let root: Value = serde_json::from_slice(&files["root.json"]).unwrap();
    let root = &root["signed"];
    let signers = Signers::read(&root["roles"]["timestamp"], Some(&root["keys"])).unwrap();
    let error = document.verify_signatures(&signers).unwrap_err();
    assert_eq!(
        error.to_string(),
        "1 of 2 signatures that it needs are good"
    );
}

#[test]
fn a_root_is_for_its_repository_and_lists_its_keys() {
    let cases: [(Edit, &str); 7] = [
        (
            |root| drop(root["roles"].as_object_mut().unwrap().remove("targets")),
            "role `targets`: it is not listed",
        ),
        (
            |root| root["roles"]["snapshot"]["threshold"] = json!(0),
            "role `snapshot`: a role that needs no signature",
        ),
        (
            |root| root["roles"]["snapshot"]["threshold"] = json!(null),
            "role `snapshot`: a role without threshold",
        ),
        (
            |root| root["roles"]["timestamp"]["keyids"] = json!(["abc"]),
            "role `timestamp`: a role's key `abc` is not listed",
        ),
        (
            |root| root["roles"]["timestamp"]["keyids"] = json!(null),
            "role `timestamp`: a role without key ids",
        ),
        (
            // A key under the id of another one.
            |root| {
                let id = root["roles"]["targets"]["keyids"][0].clone();
                let other = root["roles"]["snapshot"]["keyids"][0].clone();
                let key = root["keys"][other.as_str().unwrap()].clone();
                root["keys"][id.as_str().unwrap()] = key;
            },
            "role `targets`: the key listed as `",
        ),
        (
            |root| root["roles"]["root"] = root["roles"]["targets"].clone(),
            "it has no key whose certificate is for `localhost:5000/t/a`",
        ),
    ];
    for (edit, why) in cases {
        let said = Repository::new().edit("root", edit).complaint("root");
        assert!(said.starts_with(&format!("check `root`: {why}")), "{said}");
    }
    for (name, until, why) in [
        (
            "localhost:5000/t/b",
            2036,
            "it has no key whose certificate is for `localhost:5000/t/a`",
        ),
        (GUN, 2026, "the certificate of its key has expired"),
    ] {
        let (key, certificate) = root_key(name, until);
        let repository = with_root_key(Repository::new(), key, &certificate);
        assert_eq!(repository.complaint("root"), format!("check `root`: {why}"));
    }
}

fn with_root_key(mut repository: Repository, key: PrivateKey, certificate: &Value) -> Repository {
    let new = id(certificate);
    repository.keys.insert("root", key);
    repository.root_certificate = new.clone();
    repository.edit("root", |root| {
        root["keys"][&new] = certificate.clone();
        root["roles"]["root"]["keyids"] = json!([new]);
    })
}

#[test]
fn a_repository_without_a_root_is_missing_and_one_without_the_rest_is_broken() {
    let empty = |name: &str, _: u64| -> Result<Vec<u8>> {
        Err(Error::new(Kind::Missing, format!("no {name}")))
    };
    assert!(fetch(&empty, GUN, now(), None).unwrap_err().is_missing());
    let files = Repository::new().files();
    for hidden in ["timestamp.json", "snapshot.", "targets."] {
        let get = |name: &str, _: u64| match files.get(name) {
            Some(bytes) if !name.starts_with(hidden) => Ok(bytes.clone()),
            _ => empty(name, 0),
        };
        let error = fetch(&get, GUN, now(), None).unwrap_err();
        assert_eq!(error.kind(), Kind::Hostile, "{hidden}");
    }
}

#[test]
fn no_version_goes_back_within_a_run() {
    let repository = Repository::new();
    let known = repository.fetch(None).unwrap();
    repository.fetch(Some(&known)).unwrap();
    let mut repository = repository;
    for role in ["timestamp", "snapshot", "targets"] {
        repository = repository.edit(role, |signed| signed["version"] = json!(2));
        let error = repository.fetch(Some(&known)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("check `{role}`: its version went back from 3 to 2")
        );
        repository = repository.edit(role, |signed| signed["version"] = json!(4));
        repository.fetch(Some(&known)).unwrap();
    }
    let repository = repository.edit("root", |root| root["version"] = json!(2));
    let error = repository.fetch(Some(&known)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "check `root`: its version went back from 3 to 2"
    );
}

#[test]
fn a_root_follows_only_from_the_one_before() {
    let first = Repository::new();
    let known = first.fetch(None).unwrap();

    // Changed under the same version.
    let repository = first.edit("root", |root| root["more"] = json!(1));
    let error = repository.fetch(Some(&known)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "check `root`: it changed, and its version is still 3"
    );

    // A new key that the old one does not know of.
    let old_key = repository.keys["root"].id.clone();
    let old_id = repository.root_certificate.clone();
    let (key, certificate) = root_key(GUN, 2036);
    let mut repository = repository;
    let old = repository.keys.remove("root").unwrap();
    assert_eq!(old.id, old_key);
    let repository = with_root_key(repository, key, &certificate)
        .edit("root", |root| root["version"] = json!(4));
    let error = repository.fetch(Some(&known)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "check `root`: signatures of the root before: 0 of 1 signatures that it needs are good"
    );

    // One that it does know of.
    let mut repository = repository;
    repository.also_root.push((old, old_id));
    repository.fetch(Some(&known)).unwrap();

    // Two steps at once: the one between is asked for.
    let between = repository.files()["root.json"].clone();
    repository.also_root.clear();
    let mut repository = repository.edit("root", |root| root["version"] = json!(5));
    let error = repository.fetch(Some(&known)).unwrap_err();
    assert!(error.to_string().contains("no 4.root.json"), "{error}");
    repository.roots.insert(4, between);
    let metadata = repository.fetch(Some(&known)).unwrap();
    assert_eq!(metadata.root.document.version, 5);
}

#[test]
fn delegations_are_found_below_delegations_and_odd_ones_are_not() {
    let releases = Repository::new();
    let key = id(&tuf_key(&releases.keys["targets/releases"]));
    let entry = |name: &str, paths: Value| json!({"name": name, "keyids": [key], "threshold": 1, "paths": paths});
    let repository = Repository { ..releases }
        .edit("targets", |targets| {
            let roles = targets["delegations"]["roles"].as_array_mut().unwrap();
            roles[0]["paths"] = json!(["v", "w"]);
            for name in [
                "targets/../x",
                "targets/A",
                "targets/",
                "targets",
                "root",
                "targets/a/b",
                "targets/a?b",
                "other/a",
                &format!("targets/{}", "a".repeat(250)),
            ] {
                roles.push(entry(name, json!([""])));
            }
            roles.push(
                json!({"name": "targets/nokey", "keyids": ["x"], "threshold": 1, "paths": [""]}),
            );
            roles.push(entry("targets/nopaths", json!(null)));
        })
        .edit("targets/releases", |_| {});
    let keys = repository.signed["targets"]["delegations"]["keys"].clone();
    let repository = repository.edit("targets/releases", |signed| {
        signed["delegations"] =
            json!({"keys": keys, "roles": [entry("targets/releases/qa", json!(["v1", "x"]))]});
    });
    let metadata = repository.fetch(None).unwrap();
    let names: Vec<&str> = metadata.roles.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "targets",
            "targets/releases",
            "targets/nokey",
            "targets/nopaths",
            "targets/releases/qa"
        ]
    );
    let role = |name| metadata.role(name).unwrap();
    assert!(role("targets/nokey").broken.is_some());
    assert!(!role("targets/nopaths").is_for("v1"));
    assert!(role("targets/releases").is_for("w") && !role("targets/releases").is_for("x"));
    // Below, only what is allowed on every level.
    let qa = role("targets/releases/qa");
    assert!(qa.is_for("v1.2") && !qa.is_for("v2") && !qa.is_for("x"));
}

#[test]
fn the_number_of_delegations_is_bounded() {
    let repository = Repository::new().edit("targets", |targets| {
        let roles = targets["delegations"]["roles"].as_array_mut().unwrap();
        let entry = roles[0].clone();
        for n in 0..10_000 {
            let mut entry = entry.clone();
            entry["name"] = json!(format!("targets/n{n}"));
            roles.push(entry);
        }
    });
    assert_eq!(repository.fetch(None).unwrap().roles.len(), MOST_ROLES);
}

/// What a real server had.
#[test]
fn the_recorded_repository_is_believed_until_it_expires() {
    let files: BTreeMap<&str, &str> = [
        (
            "root",
            include_str!("../../../tests/cases/trust/tuf/root.json"),
        ),
        (
            "timestamp",
            include_str!("../../../tests/cases/trust/tuf/timestamp.json"),
        ),
        (
            "snapshot",
            include_str!("../../../tests/cases/trust/tuf/snapshot.json"),
        ),
        (
            "targets",
            include_str!("../../../tests/cases/trust/tuf/targets.json"),
        ),
        (
            "targets/ci",
            include_str!("../../../tests/cases/trust/tuf/targets-ci.json"),
        ),
        (
            "targets/releases",
            include_str!("../../../tests/cases/trust/tuf/targets-releases.json"),
        ),
    ]
    .into();
    let get = |name: &str, _: u64| {
        let role = name.split('.').next().unwrap();
        Ok(files[role].as_bytes().to_vec())
    };
    let gun = "127.0.0.1:5601/t/signed";
    let at = |text: &str| fetch(&get, gun, Created::parse(text).unwrap(), None);
    let metadata = at("2026-11-25T00:00:00Z").unwrap();
    let names: Vec<&str> = metadata.roles.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["targets", "targets/ci", "targets/releases"]);
    for role in &metadata.roles {
        assert!(role.document.is_some(), "{}: {:?}", role.name, role.broken);
    }
    for (time, why) in [
        (
            "2026-12-08T00:00:00Z",
            "check `timestamp`: it expired at 2026-12-07T13:10:30.606784889Z",
        ),
        (
            "2036-11-20T13:09:51Z",
            "check `root`: the certificate of its key has expired",
        ),
    ] {
        assert_eq!(at(time).unwrap_err().to_string(), why);
    }
    let error = fetch(&get, "127.0.0.1:5601/t/other", now(), None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "check `root`: it has no key whose certificate is for `127.0.0.1:5601/t/other`"
    );
}
