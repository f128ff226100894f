//! What the other tests build and read is tested too: archives, images, trees, canaries, screens.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

mod common;

use common::{
    Authority, Canary, Fault, Identity, Program, Proxy, Registry, TempDir, assert_lines,
    assert_tree, gzip, image, index, layer, node, noise, normalise, sha256, tree,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fs, path::Path};

// Archives, against the parser of the `tar` crate.

/// Path, type flag, size, link target.
fn parsed(tar: &[u8]) -> Vec<(String, u8, u64, String)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let link = entry.link_name_bytes().unwrap_or_default();
            (
                String::from_utf8_lossy(&entry.path_bytes()).into_owned(),
                entry.header().entry_type().as_byte(),
                entry.size(),
                String::from_utf8_lossy(&link).into_owned(),
            )
        })
        .collect()
}

#[test]
fn entries_come_out_of_a_parser_as_they_went_in() {
    let long = format!("{}/end", "d".repeat(300));
    for gnu in [false, true] {
        let mut built = layer()
            .dir("etc")
            .file("etc/a", "old")
            .symlink("etc/l", &long)
            .hardlink("etc/h", "etc/a")
            .whiteout("etc/gone")
            .whiteout("top")
            .opaque("var/lib")
            .opaque("")
            .fifo("pipe")
            .device("null", 'c', 1, 3)
            .file(&long, "x");
        if gnu {
            built = built.gnu_names();
        }
        let expected = [
            ("etc/", b'5', 0, ""),
            ("etc/a", b'0', 3, ""),
            ("etc/l", b'2', 0, long.as_str()),
            ("etc/h", b'1', 0, "etc/a"),
            ("etc/.wh.gone", b'0', 0, ""),
            (".wh.top", b'0', 0, ""),
            ("var/lib/.wh..wh..opq", b'0', 0, ""),
            (".wh..wh..opq", b'0', 0, ""),
            ("pipe", b'6', 0, ""),
            ("null", b'3', 0, ""),
            (long.as_str(), b'0', 1, ""),
        ]
        .map(|(path, kind, size, link)| (path.to_owned(), kind, size, link.to_owned()));
        assert_eq!(parsed(&built.tar()), expected, "gnu names: {gnu}");
    }
}

#[test]
fn attributes_are_in_the_header_where_they_fit_and_in_pax_records_where_not() {
    let built = layer()
        .file("small", "")
        .mode(0o4755)
        .owner(12, 34)
        .mtime(1)
        .file("large", "")
        .owner(3_000_000_000, -1)
        .mtime_ns(-2, 750_000_000)
        .xattr("user.x", b"\0\n\xff")
        .pax("size", "0");
    let tar = built.tar();
    let mut archive = tar::Archive::new(tar.as_slice());
    let mut entries = archive.entries().unwrap();
    let small = entries.next().unwrap().unwrap();
    let header = small.header();
    assert_eq!(
        (
            header.mode().unwrap(),
            header.uid().unwrap(),
            header.gid().unwrap()
        ),
        (0o4755, 12, 34)
    );
    assert_eq!(header.mtime().unwrap(), 1);
    // The parser of the crate splits records at newlines; the format does not.
    let mut rest = &tar[1024..];
    let mut records = Vec::new();
    while rest[0] != 0 {
        let space = rest.iter().position(|b| *b == b' ').unwrap();
        let (record, next) = rest.split_at(text(&rest[..space]).parse().unwrap());
        let record = record[space + 1..].strip_suffix(b"\n").unwrap();
        let equals = record.iter().position(|b| *b == b'=').unwrap();
        records.push((
            text(&record[..equals]).to_owned(),
            record[equals + 1..].to_vec(),
        ));
        rest = next;
    }
    let expected: [(&str, &[u8]); 5] = [
        ("uid", b"3000000000"),
        ("gid", b"-1"),
        ("mtime", b"-1.250000000"),
        ("SCHILY.xattr.user.x", b"\0\n\xff"),
        ("size", b"0"),
    ];
    assert_eq!(
        records,
        expected.map(|(key, value)| (key.to_owned(), value.to_vec()))
    );
}

#[test]
fn a_record_counts_its_own_length() {
    for value in [0, 1, 84, 85, 86, 90, 984, 985, 990, 9984] {
        let tar = layer().file("f", "").pax("k", "v".repeat(value)).tar();
        let record = &tar[512..];
        let length: usize = record
            .split(|b| *b == b' ')
            .next()
            .map(text)
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(record[length - 1], b'\n', "value of {value} bytes");
        assert_eq!(record[length], 0, "value of {value} bytes");
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn old_gnu_sparse_files_carry_their_map() {
    let pieces: Vec<(u64, Vec<u8>)> = (0..30)
        .map(|n| (n * 4096, vec![n as u8 + 1; 512]))
        .collect();
    let borrowed: Vec<(u64, &[u8])> = pieces.iter().map(|(at, p)| (*at, p.as_slice())).collect();
    let tar = layer().gnu_sparse("sparse", 30 * 4096, &borrowed).tar();
    let mut archive = tar::Archive::new(tar.as_slice());
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    let mut content = Vec::new();
    entry.read_to_end(&mut content).unwrap();
    assert_eq!(content.len(), 30 * 4096);
    for (at, piece) in &pieces {
        let at = *at as usize;
        assert_eq!(&content[at..at + 512], piece);
        assert!(content[at + 512..at + 4096].iter().all(|byte| *byte == 0));
    }
}

/// GNU tar is the judge of PAX sparse files, and of all formats at once.
#[test]
fn gnu_tar_reads_what_we_write() {
    let directory = TempDir::new();
    let middle = [b'm'; 512];
    let pieces: [(u64, &[u8]); 2] = [(4096, &middle), (20_000, b"end")];
    let built = layer()
        .pax_sparse("0.0", "s00", 20_003, &pieces)
        .pax_sparse("0.1", "s01", 20_003, &pieces)
        .pax_sparse("1.0", "s10", 20_003, &pieces)
        .gnu_sparse("old", 20_003, &pieces)
        .gnu_sparse("hole", 1 << 20, &pieces[..1])
        .file("plain", "text")
        .mtime_ns(7, 5);
    let archive = directory.write("a.tar", built.tar());
    let out = directory.join("out");
    fs::create_dir(&out).unwrap();
    let run = std::process::Command::new("tar")
        .args([
            "-C",
            out.to_str().unwrap(),
            "-xf",
            archive.to_str().unwrap(),
        ])
        .output()
        .expect("GNU tar runs");
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let mut expected = vec![0; 20_003];
    expected[4096..4608].copy_from_slice(&middle);
    expected[20_000..].copy_from_slice(b"end");
    for name in ["s00", "s01", "s10", "old"] {
        assert!(fs::read(out.join(name)).unwrap() == expected, "{name}");
    }
    assert_eq!(fs::metadata(out.join("hole")).unwrap().len(), 1 << 20);
    assert_eq!(node(&out, "plain").mtime, (7, 5));
}

#[test]
fn hostile_headers_are_written_as_asked() {
    let tar = layer()
        .file("../../etc/passwd", "x")
        .file("/abs", "")
        .size(1 << 40)
        .entry(b'Z', "odd")
        .raw(vec![1; 512])
        .file("sum", "")
        .bad_checksum()
        .file("tweaked", "")
        .tweak(|header| header[156] = b'7')
        .file("raw", "")
        .raw_pax("not a record")
        .end("")
        .tar();
    assert_eq!(&tar[..17], b"../../etc/passwd\0");
    assert_eq!(&tar[1024..1029], b"/abs\0");
    // 1 TiB does not fit eleven octal digits.
    assert_eq!(
        &tar[1024 + 124..1024 + 136],
        b"\x80\0\0\0\0\0\x01\0\0\0\0\0"
    );
    assert_eq!((tar[1536 + 156], tar[2048]), (b'Z', 1));
    assert_eq!(tar[3072 + 156], b'7');
    assert_eq!(&tar[4096..4108], b"not a record");
    assert_eq!(tar.len(), 5120, "no end marker");
    let header = |at: usize| tar::Header::from_byte_slice(&tar[at..at + 512]).clone();
    let computed = |at: usize| -> u32 {
        let block = &tar[at..at + 512];
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        sum(&block[..148]) + 256 + sum(&block[156..])
    };
    assert_eq!(header(0).cksum().unwrap(), computed(0));
    assert_eq!(header(2560).cksum().unwrap(), computed(2560) + 1);
}

#[test]
fn compressions_are_what_the_tools_of_the_field_read() {
    let directory = TempDir::new();
    let built = layer().noise("n", 100_000).file("t", "text");
    let tar = built.tar();
    for (name, bytes, tool) in [
        ("one.gz", built.clone().gzip().bytes(), Some("gzip")),
        (
            "three.gz",
            built.clone().gzip_members(3).bytes(),
            Some("gzip"),
        ),
        ("plain", built.clone().plain().bytes(), None),
    ] {
        let path = directory.write(name, &bytes);
        let Some(tool) = tool else {
            assert_eq!(bytes, tar);
            continue;
        };
        let run = std::process::Command::new(tool)
            .arg("-dc")
            .arg(path)
            .output()
            .unwrap();
        assert!(
            run.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&run.stderr)
        );
        assert!(run.stdout == tar, "{name}");
    }
    let mut plain = Vec::with_capacity(tar.len());
    zstd_safe::decompress(&mut plain, &built.clone().zstd().bytes()).unwrap();
    assert!(plain == tar);
    assert_eq!(built.diff_id(), sha256(&tar));
    assert_eq!(gzip(b"").len(), 20);
}

// Images.

#[test]
fn an_image_describes_its_objects() {
    let base = layer().file("etc/a", "old");
    let image = image([base.clone(), layer().whiteout("etc/a").zstd()])
        .config(json!({"Env": ["A=b"]}))
        .label("l", "v")
        .annotation("n", "v")
        .platform("linux/arm/v7")
        .edit_config(|config| config["history"] = json!([]))
        .oci();
    let manifest = image.document();
    assert_eq!(manifest["layers"][0], image.layers[0].descriptor());
    assert_eq!(
        manifest["layers"][1]["mediaType"],
        json!("application/vnd.oci.image.layer.v1.tar+zstd")
    );
    assert_eq!(manifest["annotations"], json!({"n": "v"}));
    assert_eq!(image.digest, sha256(&image.manifest));
    let config: Value = serde_json::from_slice(&image.config.as_ref().unwrap().bytes).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"][0], json!(base.diff_id()));
    assert_eq!(
        config["config"],
        json!({"Env": ["A=b"], "Labels": {"l": "v"}})
    );
    assert_eq!(
        (&config["variant"], &config["history"]),
        (&json!("v7"), &json!([]))
    );
    let lie = image
        .clone()
        .lie(|manifest| manifest["layers"][0]["size"] = json!(1));
    assert_ne!(lie.digest, image.digest);
    assert_eq!(lie.document()["layers"][0]["size"], json!(1));
}

#[test]
fn an_index_lists_platforms_and_attestations() {
    let [one, two] = ["1", "2"].map(|text| image([layer().file("f", text)]).docker());
    let list = index([("linux/amd64", one.clone()), ("linux/arm64/v8", two)])
        .attested()
        .docker();
    let document = list.document();
    let platforms: Vec<String> = document["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["platform"]["architecture"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(platforms, ["amd64", "arm64", "unknown", "unknown"]);
    let reference = &document["manifests"][2]["annotations"]["vnd.docker.reference.digest"];
    assert_eq!(reference, &json!(one.digest));
    let registry = Registry::start();
    registry.put_image("a", "1", &list);
    assert!(list.objects().keys().all(|digest| {
        registry.blob("a", digest).is_some() || registry.manifest("a", digest).is_some()
    }));
}

/// Files of a tar, symlinks as `-> target`.
fn files(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(tar);
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if let Some(link) = entry.link_name_bytes() {
            bytes = [b"-> ", &*link].concat();
        }
        files.insert(
            String::from_utf8_lossy(&entry.path_bytes()).into_owned(),
            bytes,
        );
    }
    files
}

#[test]
fn archives_hold_what_their_manifests_name() {
    let twice = layer().file("f", "1");
    let image = image([twice.clone(), layer().file("g", "2"), twice]).oci();
    let old = files(&image.docker_save(&["a:1"]));
    let new = files(&image.docker_save_oci(&["a:1"]));
    for files in [&old, &new] {
        let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"], json!(["a:1"]));
        let config = manifest[0]["Config"].as_str().unwrap();
        assert_eq!(files[config], image.config.as_ref().unwrap().bytes);
        for (n, path) in manifest[0]["Layers"].as_array().unwrap().iter().enumerate() {
            let mut bytes = &files[path.as_str().unwrap()];
            if let Some(target) = bytes.strip_prefix(b"-> ../") {
                assert_eq!(n, 2, "only the repeated layer is a symlink");
                bytes = &files[text(target)];
            }
            assert!(bytes == &image.layers[n].tar);
        }
    }
    assert!(old.contains_key("manifest.json") && !old.contains_key("oci-layout"));
    let listed: Value = serde_json::from_slice(&new["index.json"]).unwrap();
    let digest = listed["manifests"][0]["digest"].as_str().unwrap();
    let manifest = &new[&format!("blobs/{}", digest.replace(':', "/"))];
    assert_eq!(sha256(manifest), digest);
}

#[test]
fn layouts_hold_every_object_under_its_digest() {
    let list = index([("linux/amd64", image([layer().file("f", "1")]).oci())]).oci();
    let directory = TempDir::new();
    list.write_layout(directory.path(), Some("tag"));
    for (digest, bytes) in list.objects() {
        let path = directory.join(format!("blobs/{}", digest.replace(':', "/")));
        assert_eq!(fs::read(path).unwrap(), bytes);
    }
    let listed: Value =
        serde_json::from_slice(&fs::read(directory.join("index.json")).unwrap()).unwrap();
    assert_eq!(listed["manifests"][0]["digest"], json!(list.digest));
    let archive = files(&list.oci_archive(Some("tag")));
    assert_eq!(
        archive["index.json"],
        fs::read(directory.join("index.json")).unwrap()
    );
    let got = TempDir::new();
    list.write_get_layout(got.path());
    assert_eq!(fs::read(got.join("index.json")).unwrap(), list.manifest);
    let got = TempDir::new();
    list.children[0].write_get_layout(got.path());
    assert_eq!(
        fs::read_to_string(got.join("single-image-digest")).unwrap(),
        list.children[0].digest
    );
}

// Trees.

#[test]
fn a_tree_is_read_with_all_that_can_be_kept() {
    let directory = TempDir::new();
    let path = directory.write("etc/a", "text");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4711)).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::new(5, 6);
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(time)
        .unwrap();
    fs::hard_link(&path, directory.join("etc/b")).unwrap();
    symlink("/no/where", directory.join("link")).unwrap();
    fs::create_dir(directory.join("empty")).unwrap();
    let fifo = directory.join("pipe");
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    let has_xattrs =
        rustix::fs::lsetxattr(&path, "user.x", b"\xff", rustix::fs::XattrFlags::empty()).is_ok();
    for name in ["etc", "empty"] {
        fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let me = fs::metadata(directory.path()).unwrap();
    let (uid, gid) = (me.uid(), me.gid());
    let xattr = if has_xattrs { " user.x=ff" } else { "" };
    let hash = &sha256(b"text")[..19];
    assert_lines(
        directory.path(),
        [
            format!("d0755 {uid}:{gid} empty").as_str(),
            &format!("d0755 {uid}:{gid} etc"),
            &format!("-4711 {uid}:{gid} etc/a 4 {hash}{xattr}"),
            &format!("-4711 {uid}:{gid} etc/b 4 {hash} =etc/a{xattr}"),
            &format!("l0777 {uid}:{gid} link -> /no/where"),
            &format!("p0600 {uid}:{gid} pipe"),
        ],
    );
    assert!(
        node(directory.path(), "etc/a")
            .full_line()
            .ends_with("@5.000000006")
    );
    assert_eq!(tree(directory.path())[0].path, "");
    assert_tree(
        directory.path(),
        [
            ("empty/", ""),
            ("etc/a", "text"),
            ("etc/b", "text"),
            ("link", "-> /no/where"),
            ("pipe", "|"),
        ],
    );
    let wrong = panic_of(|| assert_tree(directory.path(), [("etc/a", "text")]));
    assert!(
        wrong.contains("differs") && wrong.contains("\"empty/\""),
        "{wrong}"
    );
}

#[test]
fn a_canary_feels_every_touch() {
    type Touch = fn(&Path);
    let touches: [(&str, Touch); 8] = [
        ("write", |root| {
            fs::write(root.join("file"), "dead").unwrap()
        }),
        ("create", |root| fs::write(root.join("new"), "").unwrap()),
        ("remove", |root| {
            fs::remove_file(root.join("dir/inner")).unwrap()
        }),
        ("remove a directory", |root| {
            fs::remove_dir(root.join("empty")).unwrap()
        }),
        ("link", |root| {
            fs::hard_link(root.join("setuid"), root.with_extension("x")).unwrap()
        }),
        ("same mode again", |root| {
            fs::set_permissions(root.join("setuid"), fs::Permissions::from_mode(0o4755)).unwrap();
        }),
        ("times", |root| {
            let file = fs::File::open(root.join("file")).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }),
        ("all", |root| fs::remove_dir_all(root).unwrap()),
    ];
    for (what, touch) in touches {
        let directory = TempDir::new();
        let canary = Canary::beside(&directory.join("dest"));
        canary.assert_unharmed();
        touch(canary.path());
        let message = panic_of(|| drop(canary));
        assert!(message.contains("WAS TOUCHED"), "{what}: {message}");
    }
    drop(Canary::new());
}

fn panic_of<T>(action: impl FnOnce() -> T) -> String {
    let panic = catch_unwind(AssertUnwindSafe(action))
        .err()
        .expect("a panic");
    panic.downcast_ref::<String>().unwrap().clone()
}

// Runs.

#[test]
fn a_run_is_compared_whole() {
    let registry = Registry::start();
    let digest = registry.put_image("a", "1", &image([]).oci());
    let request = json!({"source": {"repository": registry.repository("a"), "tag": "1"}});
    let check = |request: &Value| Program::check(request.clone()).against(&registry).run();
    let output = check(&request);
    output
        .succeeds_with(json!([{"tag": "1", "digest": digest}]))
        .keeps_secret(["s3cret"]);
    Program::check(request.clone())
        .by_link("check")
        .unprivileged()
        .run()
        .succeeds();

    let wrong = panic_of(|| output.succeeds_with(json!([])));
    for part in [
        "=== expected\n[]",
        "=== command",
        "=== requests to REGISTRY",
        "/v2/a/manifests/1 200",
    ] {
        assert!(wrong.contains(part), "{part}: {wrong}");
    }
    assert!(panic_of(|| output.fails()).contains("expected exit 1"));
    assert!(panic_of(|| output.says("no")).contains("stderr differs"));
    assert!(panic_of(|| output.keeps_secret(["sha256:"])).contains("is printed"));

    let failed = Program::check(json!({"sauce": {}})).run();
    failed.fails();
    assert!(panic_of(|| failed.succeeds()).contains("expected success"));
    let last = failed.messages().lines().last().unwrap().to_owned();
    failed.fails_ending_with(&last);
    assert!(panic_of(|| failed.fails_ending_with("no")).contains("last line"));
}

#[test]
fn a_run_that_hangs_is_ended_and_told() {
    let registry = Registry::start();
    registry.on("*", "/v2/*").always().then(Fault::Stall);
    let request = json!({"source": {"repository": registry.repository("a"), "tag": "1"}});
    let limit = Duration::from_millis(300);
    let run = || {
        Program::check(request.clone())
            .against(&registry)
            .limit(limit)
            .run()
    };
    let late = panic_of(run);
    assert!(
        late.contains("did not end in time") && late.contains("stall"),
        "{late}"
    );
    let running = Program::check(request).start();
    registry.wait_for("a second request", |requests| requests.len() >= 2);
    assert_eq!(running.kill().status.code(), None);
}

// Screens.

#[test]
fn a_screen_shows_what_a_person_sees_in_the_end() {
    for (written, seen) in [
        ("", ""),
        ("one\ntwo\n", "one\ntwo\n"),
        ("no newline", "no newline\n"),
        ("10 %\r20 %\r100 %\ndone\n", "100 %\ndone\n"),
        ("longer\rab\n", "abnger\n"),
        ("longer\r\x1b[Kab\n", "ab\n"),
        ("\x1b[1;31mred\x1b[0m\n", "red\n"),
        ("a\nb\n\x1b[2A\x1b[2KA\n\x1b[2KB\nend\n", "A\nB\nend\n"),
        ("a\nb\n\x1b[2F\x1b[Jend\n", "end\n"),
        ("a\x1b[1Gb\x1b[3Cc\n", "b   c\n"),
        ("a\n\x1b[9Ab\n", "b\n"),
        ("\x1b[?25la\x1b[?25h\n", "a\n"),
        ("spaces   \n\n\n", "spaces\n"),
    ] {
        assert_eq!(normalise(written), seen, "{written:?}");
    }
}

// TLS.

/// One request by a client that trusts `authority` and expects `name`.
fn https(registry: &Registry, authority: &Authority, name: &str) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap())
        .unwrap();
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(registry.address()).unwrap();
    let mut stream = StreamOwned::new(client, socket);
    let request = format!(
        "GET /v2/ HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        registry.host()
    );
    stream
        .write_all(request.as_bytes())
        .map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .map_err(|error| error.to_string())?;
    Ok(answer)
}

#[test]
fn a_tls_registry_is_trusted_for_its_own_names_only() {
    let authority = Authority::new("fixture CA");
    let names = ["localhost", "127.0.0.1"];
    for identity in [
        authority.identity(&names).server(),
        authority.identity(&names).server_tls12(),
    ] {
        let registry = Registry::setup().tls(identity).start();
        assert!(registry.url("/").starts_with("https://127.0.0.1:"));
        for name in names {
            let answer = https(&registry, &authority, name).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        }
        assert_eq!(registry.lines(), ["GET /v2/ 200", "GET /v2/ 200"]);
    }
    for (identity, error) in [
        (authority.identity(&["other.test"]), "NotValidForName"),
        (authority.expired(&names), "expired"),
        (Identity::self_signed(&names), "UnknownIssuer"),
        (Authority::new("other CA").identity(&names), "UnknownIssuer"),
    ] {
        let registry = Registry::setup().tls(identity.server()).start();
        let refused = https(&registry, &authority, "127.0.0.1").unwrap_err();
        let shown = refused.replace("not valid for name", "NotValidForName");
        assert!(shown.contains(error), "{error}: {refused}");
        registry.wait_for("nothing", |requests| requests.is_empty());
    }
    let identity = authority.identity(&names);
    let registry = Registry::setup()
        .tls(identity.server_for_clients_of(&authority))
        .start();
    assert!(
        https(&registry, &authority, "localhost")
            .unwrap_err()
            .contains("CertificateRequired")
    );
}

#[test]
fn a_plain_request_to_a_tls_registry_is_told_so() {
    let authority = Authority::new("fixture CA");
    let registry = Registry::setup()
        .tls(authority.identity(&["localhost"]).server())
        .start();
    let mut socket = TcpStream::connect(registry.address()).unwrap();
    socket
        .write_all(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(
        answer.ends_with("Client sent an HTTP request to an HTTPS server.\n"),
        "{answer}"
    );
    assert_eq!(
        (registry.plain_requests(), registry.requests().len()),
        (1, 0)
    );
}

// Proxies.

#[test]
fn a_proxy_leads_every_name_to_the_fixture() {
    let authority = Authority::new("fixture CA");
    let identity = authority.identity(&["registry.test"]);
    let secure = Registry::setup()
        .tls(identity.server())
        .name("registry.test")
        .start();
    let digest = secure.put_image("a", "1", &image([]).oci());
    let request = json!({"source": {"repository": "registry.test/a", "tag": "1",
                                    "ca_certs": [authority.pem()]}});
    let proxy = Proxy::with_credentials(&secure, "user", "pass");
    let url = proxy.url().replace("http://", "http://user:pass@");
    let output = Program::check(request.clone())
        .env("https_proxy", url)
        .against(&secure)
        .run();
    output.succeeds_with(json!([{"tag": "1", "digest": digest}]));
    assert_eq!(proxy.lines(), ["CONNECT registry.test:443 200"]);
    Program::check(request)
        .env("https_proxy", proxy.url())
        .run()
        .fails();
    assert_eq!(proxy.lines()[1], "CONNECT registry.test:443 407");

    let plain = Registry::setup().name("registry.test").start();
    let proxy = Proxy::start(&plain);
    let mut client = TcpStream::connect(proxy.host()).unwrap();
    let request = "GET http://registry.test/v2/ HTTP/1.1\r\nHost: registry.test\r\n\r\n";
    client.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert_eq!(proxy.lines(), ["GET http://registry.test/v2/ 200"]);
    assert_eq!(plain.lines(), ["GET /v2/ 200"]);
}

#[test]
fn noise_is_the_same_for_the_same_seed() {
    assert_eq!(noise(7, 100), noise(7, 100));
    assert_ne!(noise(7, 100), noise(8, 100));
}
