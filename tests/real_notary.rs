//! `out` with `content_trust` against real notary servers: what we publish is believed by the notary
//! and docker CLIs, and what cannot be signed is refused before a tag moves.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

mod common;
#[path = "common/notary.rs"]
mod notary;

use std::fs;
use std::process::Command;

use common::{
    Authority, Fault, Gate, Image, Output, Program, Registry, free_port, image, index, layer,
    require, sha256,
};
use notary::{Between, First, Key, Notary, Signer, TARGETS, TokenServer, run};
use serde_json::{Value, json};

fn app(content: &str) -> Image {
    image([layer().file("app", content)]).oci()
}

/// A put that is to be signed with `key`.
struct Put<'t> {
    registry: &'t Registry,
    trust: Value,
    tags: Vec<String>,
    image: Image,
    debug: bool,
}

impl<'t> Put<'t> {
    fn new(registry: &'t Registry, notary: &Notary, key: &Key) -> Self {
        Put {
            registry,
            trust: json!({
                "server": notary.url,
                "repository_key_id": key.id,
                "repository_key": key.pem,
                "repository_passphrase": key.passphrase,
            }),
            tags: vec!["v1".to_owned()],
            image: app("new"),
            debug: true,
        }
    }

    fn tags<const N: usize>(mut self, tags: [&str; N]) -> Self {
        self.tags = tags.map(str::to_owned).to_vec();
        self
    }

    fn image(mut self, image: &Image) -> Self {
        self.image = image.clone();
        self
    }

    fn trust(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.trust[field] = value.into();
        self
    }

    /// Whole stderr is compared.
    fn quietly(mut self) -> Self {
        self.debug = false;
        self
    }

    fn program(self, notary: &Notary) -> Program {
        let request = json!({
            "source": {
                "repository": self.registry.repository("t/a"),
                "content_trust": self.trust,
                "ca_certs": [notary.ca],
                "debug": self.debug,
            },
            "params": {"image": "image", "additional_tags": "tags"},
        });
        let program = Program::put(request)
            .against(self.registry)
            .showing(&notary.url, "NOTARY")
            .source_file("tags", self.tags.join(" "));
        self.image
            .write_layout(&program.directory_argument().join("image"), None);
        program
    }

    fn run(self, notary: &Notary) -> Output {
        let secrets = secrets(&self.trust);
        let output = self.program(notary).run();
        for secret in &secrets {
            output.keeps_secret([secret]);
        }
        output
    }
}

/// Passphrases, passwords, and a piece of every key.
fn secrets(trust: &Value) -> Vec<String> {
    let text = |field: &str| trust[field].as_str().map(str::to_owned);
    let pieces = ["repository_key", "tls_key"].into_iter().filter_map(text);
    let pieces = pieces.filter_map(|pem| pem.lines().rev().nth(2).map(str::to_owned));
    let whole = ["repository_passphrase", "password"]
        .into_iter()
        .filter_map(text);
    pieces
        .chain(whole)
        .filter(|secret| secret.len() > 5)
        .collect()
}

fn hex(image: &Image) -> String {
    sha256(&image.manifest)
        .strip_prefix("sha256:")
        .unwrap()
        .to_owned()
}

/// A row of `notary list`.
fn row(tag: &str, image: &Image, role: &str) -> [String; 4] {
    let length = image.manifest.len().to_string();
    [tag.to_owned(), hex(image), length, role.to_owned()]
}

/// The owner's repository, whose snapshot the server signs.
fn initialised(notary: &Notary, registry: &Registry) -> String {
    let gun = registry.repository("t/a");
    notary.init(&gun);
    gun
}

#[test]
fn every_tag_is_signed_with_the_key_of_the_repository() {
    let notary = Notary::setup().with_signer().start();
    let registry = Registry::start();
    let gun = initialised(&notary, &registry);
    let (key, image) = (notary.key(&gun, "targets"), app("new"));
    let output = Put::new(&registry, &notary, &key)
        .tags(["v1", "latest"])
        .image(&image)
        .quietly()
        .run(&notary);
    output.succeeds();
    assert_eq!(
        output.messages().lines().last().unwrap(),
        "signed v1, latest into targets of REGISTRY/t/a at NOTARY"
    );
    let both = [
        row("latest", &image, "targets"),
        row("v1", &image, "targets"),
    ];
    assert_eq!(notary.list(&gun), both);
    assert_eq!(notary.owners_list(&gun), both);
    notary.verify(&gun, "v1", &image.manifest);
    notary.check_documents(&gun);

    // A second put adds to the first, and moves what it pushes again.
    let newer = app("newer");
    let output = Put::new(&registry, &notary, &key)
        .tags(["v2", "latest"])
        .image(&newer)
        .run(&notary);
    output.succeeds();
    let all = [
        row("latest", &newer, "targets"),
        row("v1", &image, "targets"),
        row("v2", &newer, "targets"),
    ];
    assert_eq!(notary.list(&gun), all);
    assert_eq!(notary.owners_list(&gun), all);
    notary.check_documents(&gun);

    // The owner goes on where we stopped.
    let file = notary.path("file");
    fs::write(&file, "else").unwrap();
    notary.notary(["add", "-p", &gun, "else", file.to_str().unwrap()]);
    assert_eq!(notary.list(&gun).len(), 4);
    notary.check_documents(&gun);
}

#[test]
fn of_an_index_the_index_is_signed() {
    let notary = Notary::start();
    let registry = Registry::start();
    let gun = initialised(&notary, &registry);
    let index = index([("linux/amd64", app("a")), ("linux/arm64", app("b"))]).oci();
    let output = Put::new(&registry, &notary, &notary.key(&gun, "targets"))
        .image(&index)
        .run(&notary);
    output.succeeds();
    assert_eq!(notary.list(&gun), [row("v1", &index, "targets")]);
    notary.verify(&gun, "v1", &index.manifest);
}

#[test]
fn delegations_are_signed_by_key_and_by_certificate() {
    let notary = Notary::setup().with_signer().start();
    for (algorithm, wrapped) in [("EC", false), ("EC", true), ("RSA", false), ("RSA", true)] {
        let registry = Registry::start();
        let gun = initialised(&notary, &registry);
        let signer = Signer::new(algorithm);
        let pem = match wrapped {
            false => &signer.public,
            true => &signer.certificate,
        };
        for role in ["targets/releases", "targets/ci"] {
            notary.delegate(&gun, role, pem, &[]);
        }
        let other = Signer::new("EC");
        notary.delegate(&gun, "targets/other", &other.public, &[]);
        let (first, second) = (app("first"), app("second"));
        for (tag, image) in [("v1", &first), ("v2", &second)] {
            Put::new(&registry, &notary, &signer.key)
                .tags([tag])
                .image(image)
                .run(&notary)
                .succeeds();
        }
        // docker and notary list a target once, in the first role that has it.
        let targets = |role: &str| notary.document(&gun, role)["signed"]["targets"].clone();
        for role in ["targets/releases", "targets/ci"] {
            let names: Vec<String> = targets(role).as_object().unwrap().keys().cloned().collect();
            assert_eq!(names, ["v1", "v2"], "{algorithm} {wrapped} {role}");
        }
        assert_eq!(targets("targets"), json!({}));
        let listed: Vec<[String; 2]> = notary
            .list(&gun)
            .into_iter()
            .map(|[tag, digest, ..]| [tag, digest])
            .collect();
        let expected = [
            ["v1".to_owned(), hex(&first)],
            ["v2".to_owned(), hex(&second)],
        ];
        assert_eq!(listed, expected, "{algorithm} {wrapped}");
        notary.verify(&gun, "v2", &second.manifest);
        notary.check_documents(&gun);

        // By the id that the certificate has in the repository.
        let delegations = &notary.document(&gun, "targets")["signed"]["delegations"];
        let id = delegations["roles"][0]["keyids"][0].as_str().unwrap();
        assert_eq!(id == signer.key.id, !wrapped);
        Put::new(&registry, &notary, &signer.key)
            .trust("repository_key_id", id)
            .tags(["v3"])
            .run(&notary)
            .succeeds();
        assert_eq!(notary.list(&gun).len(), 3);
    }
}

#[test]
fn a_delegation_gets_only_the_names_that_it_is_for() {
    let notary = Notary::start();
    let registry = Registry::start();
    let gun = initialised(&notary, &registry);
    let signer = Signer::new("EC");
    notary.delegate(&gun, "targets/releases", &signer.public, &["v"]);
    notary.delegate(&gun, "targets/nightly", &signer.public, &["nightly-"]);
    let image = app("new");
    Put::new(&registry, &notary, &signer.key)
        .tags(["v1", "nightly-2"])
        .image(&image)
        .run(&notary)
        .succeeds();
    assert_eq!(
        notary.list(&gun),
        [
            row("nightly-2", &image, "targets/nightly"),
            row("v1", &image, "targets/releases")
        ]
    );
    let output = Put::new(&registry, &notary, &signer.key)
        .tags(["v2", "edge"])
        .image(&app("else"))
        .quietly()
        .run(&notary);
    let targets = notary.key(&gun, "targets");
    let id = &signer.key.id;
    output.fails_with(&format!(
        "put: sign REGISTRY/t/a at NOTARY with key {id}: this key may not sign edge in any role: `targets` is signed by {}; `targets/releases` is signed by {id}; `targets/nightly` is signed by {id}",
        targets.id
    ));
    assert_eq!(registry.tags("t/a").len(), 2, "a tag has moved");
}

#[test]
fn the_snapshot_is_signed_where_its_key_is_ours() {
    let notary = Notary::setup().with_signer().start();
    let registry = Registry::start();
    let gun = registry.repository("t/a");
    notary.notary(["init", "-p", &gun]);
    let (targets, snapshot) = (notary.key(&gun, "targets"), notary.key(&gun, "snapshot"));

    // Neither the server nor we have its key.
    let output = Put::new(&registry, &notary, &targets)
        .quietly()
        .run(&notary);
    let error = |locked: &str| {
        format!(
            "put: sign REGISTRY/t/a at NOTARY with key {}: role `snapshot`: its key {} is neither at the server nor in `source.content_trust.repository_key`{locked}; give it to the server (`notary key rotate REGISTRY/t/a snapshot -r`)",
            targets.id, snapshot.id
        )
    };
    output.fails_with(&error(""));
    // It is there, but under another passphrase.
    let both = format!("{}{}", targets.pem, snapshot.pem);
    let output = Put::new(&registry, &notary, &targets)
        .trust("repository_key", both)
        .quietly()
        .run(&notary);
    output.fails_with(&error(
        "; the passphrase does not open snapshot in `repository_key`",
    ));
    assert_eq!(registry.tags("t/a"), [], "a tag has moved");

    // It is there.
    let same = Notary::setup().one_passphrase().start();
    same.notary(["init", "-p", &gun]);
    let (targets, snapshot) = (same.key(&gun, "targets"), same.key(&gun, "snapshot"));
    let both = format!("{}{}", snapshot.pem, targets.pem);
    let image = app("new");
    for tag in ["v1", "v2"] {
        Put::new(&registry, &same, &targets)
            .trust("repository_key", both.clone())
            .tags([tag])
            .image(&image)
            .run(&same)
            .succeeds();
        same.check_documents(&gun);
    }
    let rows = [row("v1", &image, "targets"), row("v2", &image, "targets")];
    assert_eq!(same.list(&gun), rows);
    assert_eq!(same.owners_list(&gun), rows);
}

#[test]
fn keys_may_be_rotated_between_two_puts() {
    let notary = Notary::setup().with_signer().start();
    let registry = Registry::start();
    let gun = initialised(&notary, &registry);
    let old = notary.key(&gun, "targets");
    let image = app("new");
    let put = |key: &Key, tag: &str| {
        Put::new(&registry, &notary, key)
            .tags([tag])
            .image(&image)
            .quietly()
            .run(&notary)
    };
    put(&old, "v1").succeeds();
    notary.notary(["key", "rotate", &gun, "root"]);
    put(&old, "v2").succeeds();
    notary.notary(["key", "rotate", &gun, "targets"]);
    let new = notary.keys(&gun, "targets");
    let new = new.iter().find(|key| key.id != old.id).unwrap();
    put(&old, "v3").fails_with(&format!(
        "put: sign REGISTRY/t/a at NOTARY with key {}: this key may not sign v3 in any role: `targets` is signed by {}",
        old.id, new.id
    ));
    put(new, "v3").succeeds();
    let expected = ["v1", "v2", "v3"].map(|tag| row(tag, &image, "targets"));
    assert_eq!(notary.list(&gun), expected);
    assert_eq!(notary.owners_list(&gun), expected);
    notary.check_documents(&gun);
}

#[test]
fn keys_may_be_rotated_and_others_may_sign_while_the_image_is_pushed() {
    let notary = Notary::setup().with_signer().start();
    let registry = Registry::start();
    let gun = initialised(&notary, &registry);
    let key = notary.key(&gun, "targets");
    let gate = Gate::new();
    registry
        .on("PUT", "/v2/t/a/manifests/v1")
        .then(Fault::Hold(gate.clone()));
    let image = app("new");
    let running = Put::new(&registry, &notary, &key)
        .image(&image)
        .program(&notary)
        .start();
    gate.wait_for(1);
    let file = notary.path("file");
    fs::write(&file, "else").unwrap();
    notary.notary(["add", "-p", &gun, "else", file.to_str().unwrap()]);
    notary.notary(["key", "rotate", &gun, "root"]);
    notary.notary(["key", "rotate", &gun, "root"]);
    gate.open();
    running.wait().succeeds();
    let names: Vec<String> = notary.list(&gun).into_iter().map(|[tag, ..]| tag).collect();
    assert_eq!(names, ["else", "v1"]);
    notary.check_documents(&gun);
}

#[test]
fn a_lost_race_is_signed_again() {
    let notary = Notary::setup().plain().start();
    let registry = Registry::start();
    let gun = initialised(&notary, &registry);
    let key = notary.key(&gun, "targets");
    let image = app("new");
    let file = notary.path("file");
    fs::write(&file, "else").unwrap();
    let file = file.to_str().unwrap().to_owned();
    let port = notary.port;
    std::thread::scope(|scope| {
        let (ready, go) = std::sync::mpsc::channel::<()>();
        let (done, published) = std::sync::mpsc::channel::<()>();
        let between = Between::start(
            port,
            First::After(Box::new(move || {
                ready.send(()).unwrap();
                published.recv().unwrap();
            })),
        );
        let put = Put::new(&registry, &notary, &key)
            .image(&image)
            .quietly()
            .trust("server", between.url.clone())
            .program(&notary)
            .showing(&between.url, "BETWEEN");
        let (notary, gun, file) = (&notary, &gun, &file);
        let owner = scope.spawn(move || {
            go.recv().unwrap();
            notary.notary(["add", "-p", gun, "else", file]);
            done.send(()).unwrap();
        });
        let output = put.run();
        owner.join().unwrap();
        output.succeeds();
        let messages = output.messages();
        assert!(
            messages.contains("somebody else published in between; trying again in "),
            "{messages}"
        );
    });
    let names: Vec<String> = notary.list(&gun).into_iter().map(|[tag, ..]| tag).collect();
    assert_eq!(names, ["else", "v1"]);
    notary.check_documents(&gun);
}

#[test]
fn a_key_that_is_taken_away_in_the_last_moment_is_told() {
    let notary = Notary::setup().plain().start();
    let registry = Registry::start();
    let gun = initialised(&notary, &registry);
    let key = notary.key(&gun, "targets");
    let (ready, go) = std::sync::mpsc::channel::<()>();
    let (done, rotated) = std::sync::mpsc::channel::<()>();
    let between = Between::start(
        notary.port,
        First::After(Box::new(move || {
            ready.send(()).unwrap();
            rotated.recv().unwrap();
        })),
    );
    let running = Put::new(&registry, &notary, &key)
        .quietly()
        .trust("server", between.url.clone())
        .program(&notary)
        .showing(&between.url, "BETWEEN")
        .start();
    go.recv().unwrap();
    notary.notary(["key", "rotate", &gun, "targets"]);
    done.send(()).unwrap();
    let new = notary.keys(&gun, "targets");
    let new = new.iter().find(|new| new.id != key.id).unwrap();
    running.wait().fails_ending_with(&format!(
        "put: sign REGISTRY/t/a at BETWEEN with key {}: this key may not sign v1 in any role: `targets` is signed by {} (the tags are pushed, but not signed)",
        key.id, new.id
    ));
    assert_eq!(notary.list(&gun), [] as [[String; 4]; 0]);
}

#[test]
fn a_lost_answer_is_not_signed_twice() {
    let notary = Notary::setup().plain().start();
    let registry = Registry::start();
    let gun = initialised(&notary, &registry);
    let before = notary.document(&gun, "targets")["signed"]["version"].clone();
    let between = Between::start(notary.port, First::Unanswered);
    let image = app("new");
    Put::new(&registry, &notary, &notary.key(&gun, "targets"))
        .image(&image)
        .trust("server", between.url.clone())
        .run(&notary)
        .succeeds();
    assert_eq!(notary.list(&gun), [row("v1", &image, "targets")]);
    let after = notary.document(&gun, "targets")["signed"]["version"].clone();
    assert_eq!(after.as_u64().unwrap(), before.as_u64().unwrap() + 1);
}

#[test]
fn puts_at_the_same_time_all_sign() {
    let notary = Notary::setup().with_signer().start();
    let registry = Registry::start();
    let gun = initialised(&notary, &registry);
    let key = notary.key(&gun, "targets");
    let image = app("new");
    let tags = ["a", "b", "c", "d", "e"];
    let running: Vec<_> = tags
        .iter()
        .map(|tag| {
            Put::new(&registry, &notary, &key)
                .tags([tag])
                .image(&image)
                .program(&notary)
                .start()
        })
        .collect();
    for running in running {
        running.wait().succeeds();
    }
    assert_eq!(
        notary.list(&gun),
        tags.map(|tag| row(tag, &image, "targets"))
    );
    notary.check_documents(&gun);
}

#[test]
fn what_cannot_be_signed_is_refused_before_a_tag_moves() {
    let notary = Notary::start();
    let registry = Registry::start();
    let gun = registry.repository("t/a");
    let stranger = Signer::new("EC").key;
    let put = |key: &Key| Put::new(&registry, &notary, key).quietly();
    let wrong = format!(
        "put: sign REGISTRY/t/a at NOTARY with key {}: ",
        stranger.id
    );

    put(&stranger).run(&notary).fails_with(&format!(
        "{wrong}the repository has no trust data (GET NOTARY/v2/REGISTRY/t/a/_trust/tuf/root.json: 404 Not Found: METADATA_NOT_FOUND: You have requested metadata that does not exist.); initialise it once: `notary init -p REGISTRY/t/a` and `notary key rotate REGISTRY/t/a snapshot -r`, or `docker trust sign`"
    ));
    notary.init(&gun);
    let key = notary.key(&gun, "targets");
    put(&stranger).run(&notary).fails_with(&format!(
        "{wrong}this key may not sign v1 in any role: `targets` is signed by {}",
        key.id
    ));
    put(&key)
        .trust("repository_passphrase", "not this one")
        .run(&notary)
        .fails_with("put: `source.content_trust.repository_key` does not open with `source.content_trust.repository_passphrase`; the passphrase is that of this key, not of the root key");
    put(&key)
        .trust("repository_key_id", stranger.id.clone())
        .run(&notary)
        .fails_with(&format!(
            "{wrong}`source.content_trust.repository_key_id` is `{}`, and `repository_key` holds `{}`",
            stranger.id, key.id
        ));
    put(&key)
        .trust("repository_key", "no key")
        .run(&notary)
        .fails_with("put: `source.content_trust.repository_key` has no private key in it; it is the content of the key file, with its BEGIN and END lines");
    put(&key)
        .trust("server", "localhost:4443")
        .run(&notary)
        .fails_with("put: `source.content_trust.server`: `localhost:4443` is not a URL: it has no scheme; write it as `https://HOST`");
    put(&key)
        .trust("scopes", "push pull")
        .run(&notary)
        .fails_with("put: `source.content_trust.scopes` is `push pull`; it is a list of actions such as `push,pull`");

    // Nobody is there.
    let nobody = format!("https://localhost:{}", free_port());
    let output = put(&key)
        .trust("server", nobody.clone())
        .program(&notary)
        .showing(&nobody, "NOBODY")
        .run();
    output.fails();
    let messages = output.messages();
    let last = messages.lines().last().unwrap();
    let start = format!(
        "put: sign REGISTRY/t/a at NOBODY with key {}: check `root`: GET NOBODY/v2/REGISTRY/t/a/_trust/tuf/root.json: ",
        key.id
    );
    assert!(last.starts_with(&start), "{last}");
    // Its certificate is nobody's.
    let mut untrusted = put(&key).program(&notary);
    untrusted = untrusted.stdin(
        json!({
            "source": {"repository": gun, "tag": "v1", "content_trust": {
                "server": notary.url, "repository_key_id": key.id, "repository_key": key.pem,
                "repository_passphrase": TARGETS}},
            "params": {"image": "image"},
        })
        .to_string(),
    );
    untrusted.run().fails_with(&format!(
        "put: sign REGISTRY/t/a at NOTARY with key {}: check `root`: GET NOTARY/v2/REGISTRY/t/a/_trust/tuf/root.json: the server's certificate is signed by an authority that is not trusted; add the authority's certificate to `source.ca_certs`",
        key.id
    ));
    assert_eq!(registry.tags("t/a"), [], "a tag has moved");
    assert_eq!(notary.list(&gun).len(), 0);
}

#[test]
fn an_error_of_the_server_is_one_line() {
    let notary = Notary::start();
    let registry = Registry::start();
    let gun = initialised(&notary, &registry);
    let key = notary.key(&gun, "targets");
    // A registry that is asked for what only a notary server has.
    let fake = Registry::start();
    let put = || {
        Put::new(&registry, &notary, &key)
            .quietly()
            .trust("server", fake.url("").trim_end_matches('/'))
            .program(&notary)
            .against(&fake)
            .run()
    };
    let root = format!("/v2/{gun}/_trust/tuf/root.json");
    let line = |why: &str| {
        format!(
            "put: sign REGISTRY/t/a at http://REGISTRY2 with key {}: check `root`: GET http://REGISTRY2/v2/REGISTRY/t/a/_trust/tuf/root.json: {why}",
            key.id
        )
    };
    fake.on("GET", &root)
        .then(Fault::error(403, "DENIED", "not you"));
    put().fails_with(&line(
        "403 Forbidden: DENIED: not you; set `source.username` and `source.password`",
    ));
    fake.on("GET", &root)
        .always()
        .then(Fault::error(503, "UNAVAILABLE", "later"));
    let output = put();
    output.fails();
    let messages = output.messages();
    let last = messages.lines().last().unwrap();
    assert!(
        last.starts_with(&line("503 Service Unavailable: UNAVAILABLE: later ("))
            && last.ends_with(" tries without progress)"),
        "{last}"
    );
    assert_eq!(registry.tags("t/a"), [], "a tag has moved");
}

#[test]
fn a_client_certificate_is_shown_where_the_server_wants_one() {
    let notary = Notary::setup().mutual_tls().start();
    let registry = Registry::start();
    let gun = initialised(&notary, &registry);
    let key = notary.key(&gun, "targets");
    let put = || Put::new(&registry, &notary, &key).quietly();
    let (certificate, tls_key) = notary.client.clone();
    let line = |why: &str| {
        format!(
            "put: sign REGISTRY/t/a at NOTARY with key {}: check `root`: GET NOTARY/v2/REGISTRY/t/a/_trust/tuf/root.json: {why}",
            key.id
        )
    };
    let refused = |output: Output| {
        output.fails();
        let messages = output.messages();
        let last = messages.lines().last().unwrap().to_owned();
        // The server may close the connection before its alert is read; the next try shows it.
        assert!(
            last.starts_with(&line(
                "the server refuses the client certificate, or wants one ("
            )) || last == line("the server wants a client certificate"),
            "{last}"
        );
    };
    refused(put().run(&notary));
    let other = Authority::new("another").identity(&["localhost"]);
    refused(
        put()
            .trust("tls_cert", other.certificate_pem.clone())
            .trust("tls_key", other.key_pem.clone())
            .run(&notary),
    );
    put()
        .trust("tls_cert", certificate.clone())
        .trust("tls_key", other.key_pem.clone())
        .run(&notary)
        .fails_with(
            "put: `source.content_trust.tls_key` is not the key of the certificate in `tls_cert`",
        );
    put()
        .trust("tls_cert", "none")
        .trust("tls_key", tls_key.clone())
        .run(&notary)
        .fails_with("put: `source.content_trust.tls_cert` has no certificate in it");
    put()
        .trust("tls_cert", certificate.clone())
        .trust("tls_key", "none")
        .run(&notary)
        .fails_with("put: `source.content_trust.tls_key` has no private key in it; it is PEM without encryption, with its BEGIN and END lines");
    assert_eq!(registry.tags("t/a"), [], "a tag has moved");

    let image = app("new");
    put()
        .image(&image)
        .trust("tls_cert", certificate)
        .trust("tls_key", tls_key)
        .run(&notary)
        .succeeds();
    notary.verify(&gun, "v1", &image.manifest);
}

#[test]
fn tokens_are_asked_for_with_the_login_and_the_scopes_of_content_trust() {
    let tokens = TokenServer::start();
    let notary = Notary::setup().tokens(&tokens).start();
    let registry = Registry::start();
    let gun = initialised(&notary, &registry);
    let key = notary.key(&gun, "targets");
    let put = || Put::new(&registry, &notary, &key).quietly();

    // A token without `push` does for reading, and is refused before the push.
    let output = put().run(&notary);
    let line = format!("put: sign REGISTRY/t/a at NOTARY with key {}: ", key.id);
    output.fails_with(&format!(
        "{line}GET NOTARY/v2/REGISTRY/t/a/_trust/tuf/snapshot.key: 401 Unauthorized: UNAUTHORIZED: authentication required; set `source.username` and `source.password`"
    ));
    let output = put()
        .trust("username", "alice")
        .trust("password", "s3cret")
        .trust("scopes", "pull")
        .run(&notary);
    output.fails_with(&format!(
        "{line}GET NOTARY/v2/REGISTRY/t/a/_trust/tuf/snapshot.key: 401 Unauthorized: UNAUTHORIZED: authentication required; check `source.content_trust.username` and `source.content_trust.password`, and what they may do there"
    ));
    let output = put()
        .trust("username", "alice")
        .trust("password", "wrong-password")
        .run(&notary);
    output.fails_with(&format!(
        "{line}check `root`: GET NOTARY/v2/REGISTRY/t/a/_trust/tuf/root.json: log in at {}: GET {}: 401 Unauthorized: UNAUTHORIZED: authentication required; check `source.content_trust.username` and `source.content_trust.password`, and what they may do there",
        tokens.host(),
        tokens.realm()
    ));
    assert_eq!(registry.tags("t/a"), [], "a tag has moved");

    let image = app("new");
    put()
        .image(&image)
        .trust("username", "alice")
        .trust("password", "s3cret")
        .run(&notary)
        .succeeds();
    assert_eq!(notary.list(&gun), [row("v1", &image, "targets")]);
    // The log of the token server has what was asked for.
    let log = tokens.log();
    let scope = format!(
        "scope=repository%3A{}%3Apush%2Cpull",
        gun.replace(':', "%3A").replace('/', "%2F")
    );
    assert!(log.contains(&scope), "{scope}\n{log}");
    assert!(!log.contains("catalog"), "{log}");
}

#[test]
fn docker_trust_sets_up_what_we_sign_and_believes_it() {
    let notary = Notary::setup().with_signer().start();
    let registry = Registry::start();
    let gun = registry.repository("t/a");
    let home = common::TempDir::new();
    let host = notary.url.trim_start_matches("https://");
    let tls = home.join("tls").join(host);
    fs::create_dir_all(&tls).unwrap();
    fs::write(tls.join("ca.crt"), &notary.ca).unwrap();
    let docker = |arguments: &[&str]| {
        let mut command = Command::new(require("docker"));
        command
            .arg("--config")
            .arg(home.path())
            .args(arguments)
            .current_dir(home.path())
            .env("DOCKER_CONTENT_TRUST_SERVER", &notary.url)
            .env(
                "DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE",
                "docker-root-passphrase",
            )
            .env(
                "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE",
                "docker-passphrase",
            );
        run(command, b"")
    };
    docker(&["trust", "key", "generate", "ci"]);
    docker(&["trust", "signer", "add", "--key", "ci.pub", "ci", &gun]);
    let mut private = fs::read_dir(home.join("trust/private")).unwrap();
    let key = private.find_map(|entry| {
        let path = entry.unwrap().path();
        let pem = fs::read_to_string(&path).unwrap();
        pem.contains("role: ci").then(|| Key {
            id: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            pem,
            passphrase: "docker-passphrase".to_owned(),
        })
    });
    let image = app("new");
    Put::new(&registry, &notary, &key.unwrap())
        .image(&image)
        .tags(["v1", "v2"])
        .run(&notary)
        .succeeds();
    let seen: Value = serde_json::from_str(&docker(&["trust", "inspect", &gun])).unwrap();
    let tag = |name: &str| json!({"SignedTag": name, "Digest": hex(&image), "Signers": ["ci"]});
    assert_eq!(seen[0]["SignedTags"], json!([tag("v1"), tag("v2")]));
    notary.check_documents(&gun);
}
