//! Real notary servers, each a copy of its own on a port of its own, and the notary CLI that sets up
//! repositories in them and says what it believes afterwards.

#![allow(unreachable_pub, reason = "a module of tests, as `common` is")]

use crate::common::{Authority, Server, TempDir, require};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

/// Passphrases of the owner's keys.
const ROOT: &str = "root-passphrase";
pub const TARGETS: &str = "targets-passphrase";
const SNAPSHOT: &str = "snapshot-passphrase";

/// A server about to be started.
pub struct Setup<'t> {
    signer: bool,
    plain: bool,
    mutual: bool,
    one_passphrase: bool,
    tokens: Option<&'t TokenServer>,
}

pub struct Notary {
    work: TempDir,
    _server: Server,
    _signer: Option<Server>,
    snapshot_passphrase: &'static str,
    pub url: String,
    pub port: u16,
    /// PEM of the authority that signed its certificate; also the one that its clients need.
    pub ca: String,
    /// PEM of a client certificate and its key.
    pub client: (String, String),
}

/// A key as a request has it.
#[derive(Clone, Debug)]
pub struct Key {
    pub id: String,
    pub pem: String,
    pub passphrase: String,
}

impl Notary {
    pub fn setup<'t>() -> Setup<'t> {
        Setup {
            signer: false,
            plain: false,
            mutual: false,
            one_passphrase: false,
            tokens: None,
        }
    }

    pub fn start() -> Notary {
        Notary::setup().start()
    }

    /// The notary CLI of the repositories' owner; it must succeed.
    pub fn notary<const N: usize>(&self, arguments: [&str; N]) -> String {
        self.client_in("owner", &arguments, None)
    }

    /// Somebody who sees the repository for the first time.
    pub fn stranger<const N: usize>(&self, arguments: [&str; N], stdin: &[u8]) -> String {
        let seen = format!("stranger-{}", unique());
        self.client_in(&seen, &arguments, Some(stdin))
    }

    fn client_in(&self, folder: &str, arguments: &[&str], stdin: Option<&[u8]>) -> String {
        let mut command = Command::new(require("notary"));
        command
            .arg("-d")
            .arg(self.work.join(folder))
            .args(["-s", &self.url, "--tlscacert"])
            .arg(self.work.join("ca.crt"))
            .arg("--tlscert")
            .arg(self.work.join("server.crt"))
            .arg("--tlskey")
            .arg(self.work.join("server.key"))
            .args(arguments)
            .env_clear()
            .env("HOME", self.work.path())
            .env("NOTARY_ROOT_PASSPHRASE", ROOT)
            .env("NOTARY_TARGETS_PASSPHRASE", TARGETS)
            .env("NOTARY_SNAPSHOT_PASSPHRASE", self.snapshot_passphrase)
            // `alice:s3cret`
            .env("NOTARY_AUTH", "YWxpY2U6czNjcmV0");
        run(command, stdin.unwrap_or_default())
    }

    /// A repository whose snapshot the server signs.
    pub fn init(&self, gun: &str) {
        self.notary(["init", "-p", gun]);
        self.notary(["key", "rotate", gun, "snapshot", "-r"]);
    }

    /// The owner's keys for a role of a repository.
    pub fn keys(&self, gun: &str, role: &str) -> Vec<Key> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.work.join("owner/private")).unwrap() {
            let path = entry.unwrap().path();
            let pem = fs::read_to_string(&path).unwrap();
            let has = |header: String| pem.lines().any(|line| line == header);
            if has(format!("role: {role}")) && has(format!("gun: {gun}")) {
                found.push(Key {
                    id: path.file_stem().unwrap().to_str().unwrap().to_owned(),
                    pem,
                    passphrase: TARGETS.to_owned(),
                });
            }
        }
        found
    }

    /// The owner's only key for a role.
    pub fn key(&self, gun: &str, role: &str) -> Key {
        let mut keys = self.keys(gun, role);
        assert_eq!(keys.len(), 1, "{keys:?}");
        keys.remove(0)
    }

    /// Lets `pem` (a public key or a certificate) sign in a role.
    pub fn delegate(&self, gun: &str, role: &str, pem: &str, paths: &[&str]) {
        let file = self.work.join(format!("delegate-{}.pem", unique()));
        fs::write(&file, pem).unwrap();
        let mut arguments = vec!["delegation", "add", "-p", gun, role, file.to_str().unwrap()];
        match paths {
            [] => arguments.push("--all-paths"),
            paths => arguments.extend(paths.iter().flat_map(|path| ["--paths", path])),
        }
        self.client_in("owner", &arguments, None);
    }

    /// Name, sha256, length and role of all targets, as a stranger sees them; sorted.
    pub fn list(&self, gun: &str) -> Vec<[String; 4]> {
        targets(&self.stranger(["list", gun], b""))
    }

    /// The same as the owner sees it, who remembers earlier versions.
    pub fn owners_list(&self, gun: &str) -> Vec<[String; 4]> {
        targets(&self.notary(["list", gun]))
    }

    /// A stranger compares `bytes` with a target.
    pub fn verify(&self, gun: &str, target: &str, bytes: &[u8]) {
        let shown = self.stranger(["verify", "-q", gun, target], bytes);
        assert_eq!(shown, "", "{gun} {target}");
    }

    /// A file of a repository at the server.
    pub fn file(&self, gun: &str, name: &str) -> Vec<u8> {
        let mut command = Command::new("curl");
        command
            .args(["-sSf", "--noproxy", "*", "--cacert"])
            .arg(self.work.join("ca.crt"))
            .arg("--cert")
            .arg(self.work.join("server.crt"))
            .arg("--key")
            .arg(self.work.join("server.key"))
            .arg(format!("{}/v2/{gun}/_trust/tuf/{name}", self.url));
        run(command, b"").into_bytes()
    }

    /// What a document of a repository says.
    pub fn document(&self, gun: &str, role: &str) -> Value {
        serde_json::from_slice(&self.file(gun, &format!("{role}.json"))).unwrap()
    }

    /// A check of all documents by other code than ours: canonical form, key ids, signatures,
    /// hashes.
    pub fn check_documents(&self, gun: &str) {
        let folder = self.work.join(format!("tuf-{}", unique()));
        fs::create_dir(&folder).unwrap();
        let snapshot = self.document(gun, "snapshot");
        let mut roles: BTreeSet<&str> = ["timestamp", "snapshot"].into();
        roles.extend(
            snapshot["signed"]["meta"]
                .as_object()
                .unwrap()
                .keys()
                .map(String::as_str),
        );
        for role in roles {
            let name = format!("{}.json", role.replace('/', "%"));
            let bytes = self.file(gun, &format!("{role}.json"));
            fs::write(folder.join(name), bytes).unwrap();
        }
        let mut command = Command::new("python3");
        command
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/common/verify_tuf.py"
            ))
            .arg(&folder);
        run(command, b"");
    }

    /// A path below the server's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }
}

impl<'t> Setup<'t> {
    /// Timestamps and snapshots are signed by a notary-signer, with ECDSA, as on Docker Hub.
    pub fn with_signer(mut self) -> Setup<'t> {
        self.signer = true;
        self
    }

    /// Without TLS.
    pub fn plain(mut self) -> Setup<'t> {
        self.plain = true;
        self
    }

    /// Clients need a certificate.
    pub fn mutual_tls(mut self) -> Setup<'t> {
        self.mutual = true;
        self
    }

    /// The owner's keys of targets and snapshot have the same passphrase.
    pub fn one_passphrase(mut self) -> Setup<'t> {
        self.one_passphrase = true;
        self
    }

    /// Clients need a token of this server.
    pub fn tokens(mut self, tokens: &'t TokenServer) -> Setup<'t> {
        self.tokens = Some(tokens);
        self
    }

    pub fn start(self) -> Notary {
        let authority = Authority::new("notary test authority");
        let identity = authority.identity(&["localhost", "127.0.0.1"]);
        let prepare = |directory: &TempDir, name: &str, config: &Value| {
            directory.write("ca.crt", authority.pem());
            directory.write("server.crt", &identity.certificate_pem);
            directory.write("server.key", &identity.key_pem);
            let path = directory.write(name, config.to_string());
            path.display().to_string()
        };
        require("notary-server");
        let signer = self.signer.then(|| {
            // `env` becomes the signer.
            Server::start("env", |directory, port| {
                let config = json!({
                    "server": {"grpc_addr": format!("127.0.0.1:{port}"), "tls_cert_file": "./server.crt",
                               "tls_key_file": "./server.key", "client_ca_file": "./ca.crt"},
                    "logging": {"level": "info"}, "storage": {"backend": "memory"},
                });
                let config = prepare(directory, "signer.json", &config);
                [
                    "NOTARY_SIGNER_DEFAULT_ALIAS=timestamp_1",
                    "NOTARY_SIGNER_TIMESTAMP_1=signer-passphrase",
                    "notary-signer",
                    "-config",
                    &config,
                ]
                .map(str::to_owned)
                .to_vec()
            })
        });
        let service = match &signer {
            None => json!({"type": "local", "key_algorithm": "ed25519"}),
            Some(signer) => json!({
                "type": "remote", "hostname": "localhost", "key_algorithm": "ecdsa",
                "port": signer.address().port().to_string(), "tls_ca_file": "./ca.crt",
                "tls_client_cert": "./server.crt", "tls_client_key": "./server.key",
            }),
        };
        let server = Server::start("notary-server", |directory, port| {
            let mut config = json!({
                "server": {"http_addr": format!("127.0.0.1:{port}")},
                "trust_service": service,
                "storage": {"backend": "memory"},
                "logging": {"level": "info"},
            });
            if !self.plain {
                config["server"]["tls_cert_file"] = json!("./server.crt");
                config["server"]["tls_key_file"] = json!("./server.key");
            }
            if self.mutual {
                config["server"]["client_ca_file"] = json!("./ca.crt");
            }
            if let Some(tokens) = &self.tokens {
                config["auth"] = json!({"type": "token", "options": {
                    "realm": tokens.realm(), "service": "test-notary", "issuer": "test-issuer",
                    "rootcertbundle": directory.write("tokens.crt", &tokens.certificate),
                }});
            }
            vec![
                "-config".to_owned(),
                prepare(directory, "server.json", &config),
            ]
        });
        let port = server.address().port();
        Notary {
            url: match self.plain {
                true => format!("http://127.0.0.1:{port}"),
                false => format!("https://localhost:{port}"),
            },
            port,
            snapshot_passphrase: match self.one_passphrase {
                true => TARGETS,
                false => SNAPSHOT,
            },
            ca: authority.pem(),
            work: {
                let work = TempDir::new();
                prepare(&work, "unused.json", &Value::Null);
                work
            },
            client: (identity.certificate_pem, identity.key_pem),
            _server: server,
            _signer: signer,
        }
    }
}

/// A token server, and the certificate that its tokens are signed with.
pub struct TokenServer {
    server: Server,
    certificate: String,
}

impl TokenServer {
    /// One that knows `alice` with `s3cret`, and lets everybody pull.
    pub fn start() -> TokenServer {
        let signer = Authority::new("token CA").identity(&["token"]);
        let server = Server::start("python3", |directory, port| {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/tokensrv.py");
            let port = port.to_string();
            let key = directory.write("token.key", &signer.key_pem);
            let certificate = directory.write("token.crt", &signer.certificate_pem);
            let words = [&script, Path::new(&port), &key, &certificate];
            let words = words.map(|word| word.display().to_string()).into_iter();
            let rest = ["alice:s3cret", "300", "anonymous-pull"].map(str::to_owned);
            words.chain(rest).collect()
        });
        TokenServer {
            server,
            certificate: signer.certificate_pem,
        }
    }

    pub fn host(&self) -> String {
        self.server.host()
    }

    pub fn realm(&self) -> String {
        format!("http://{}/token", self.server.host())
    }

    /// The requests that it had.
    pub fn log(&self) -> String {
        self.server.log()
    }
}

fn unique() -> usize {
    static NEXT: Mutex<usize> = Mutex::new(0);
    let mut next = NEXT.lock().unwrap();
    *next += 1;
    *next
}

/// Runs a program that must succeed; gives its stdout.
pub fn run(mut command: Command, stdin: &[u8]) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // What is not read need not be.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{stdout}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

fn targets(table: &str) -> Vec<[String; 4]> {
    let rows = table.lines().filter(|line| !line.starts_with("---"));
    let mut rows: Vec<[String; 4]> = rows
        .filter_map(|line| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            words.try_into().ok()
        })
        .filter(|row: &[String; 4]| row[0] != "NAME" && row[1].len() == 64)
        .collect();
    rows.sort();
    rows
}

/// A key that openssl makes, encrypted with `passphrase`, with what a repository's owner is given
/// of it.
pub struct Signer {
    pub key: Key,
    /// PEM of the public key, and of a certificate around it.
    pub public: String,
    pub certificate: String,
}

impl Signer {
    /// `algorithm` is `EC` or `RSA`.
    pub fn new(algorithm: &str) -> Signer {
        let folder = TempDir::new();
        let passphrase = "delegation-passphrase".to_owned();
        let option = match algorithm {
            "EC" => "ec_paramgen_curve:P-256",
            _ => "rsa_keygen_bits:2048",
        };
        let openssl = |arguments: &[&str]| {
            let mut command = Command::new("openssl");
            command.args(arguments).current_dir(folder.path());
            run(command, b"")
        };
        openssl(&[
            "genpkey",
            "-quiet",
            "-algorithm",
            algorithm,
            "-pkeyopt",
            option,
            "-out",
            "key",
        ]);
        let public = openssl(&["pkey", "-in", "key", "-pubout"]);
        let certificate = openssl(&[
            "req",
            "-x509",
            "-new",
            "-key",
            "key",
            "-days",
            "30",
            "-subj",
            "/CN=signer",
            "-addext",
            "extendedKeyUsage=codeSigning",
        ]);
        let pass = format!("pass:{passphrase}");
        let pem = openssl(&[
            "pkcs8",
            "-topk8",
            "-v2",
            "aes-256-cbc",
            "-in",
            "key",
            "-passout",
            &pass,
        ]);
        openssl(&[
            "pkey", "-in", "key", "-pubout", "-outform", "DER", "-out", "der",
        ]);
        let der = fs::read(folder.join("der")).unwrap();
        Signer {
            key: Key {
                id: key_id(algorithm, &der),
                pem,
                passphrase,
            },
            public,
            certificate,
        }
    }
}

/// The id that TUF gives a key.
fn key_id(algorithm: &str, spki: &[u8]) -> String {
    use base64::Engine as _;
    let key_type = match algorithm {
        "EC" => "ecdsa",
        _ => "rsa",
    };
    let public = base64::engine::general_purpose::STANDARD.encode(spki);
    let text =
        format!(r#"{{"keytype":"{key_type}","keyval":{{"private":null,"public":"{public}"}}}}"#);
    let digest = crate::common::sha256(text.as_bytes());
    digest.strip_prefix("sha256:").unwrap().to_owned()
}

/// Stands between a client and a plain server, and may do something with the first POST.
pub struct Between {
    pub url: String,
}

/// What is done with the first POST.
pub enum First {
    /// This happens before it is passed on.
    After(Box<dyn FnOnce() + Send>),
    /// It is passed on, and the answer is lost.
    Unanswered,
}

impl Between {
    pub fn start(upstream: u16, first: First) -> Between {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let mut first = Some(first);
            // One after the other is enough: the program asks notary one thing at a time.
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let _ = pass(stream, upstream, &mut first);
            }
        });
        Between { url }
    }
}

/// One request and its answer.
fn pass(client: TcpStream, upstream: u16, first: &mut Option<First>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut client = client;
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut is_lost = false;
    if head.starts_with("POST") {
        match first.take() {
            Some(First::After(action)) => action(),
            Some(First::Unanswered) => is_lost = true,
            None => {}
        }
    }
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    server.write_all(head.as_bytes())?;
    server.write_all(b"Connection: close\r\n\r\n")?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    if !is_lost {
        client.write_all(&answer)?;
    }
    client.shutdown(Shutdown::Both)
}
