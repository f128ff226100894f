//! Real servers of the field, each started by its test on a port of its own and ended with it.
//!
//! A missing program fails the test and names the package to install; only what Debian does not
//! have may be missing on a developer's machine.

use super::{Authority, Identity, TempDir};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Debian's package of each program that tests run.
const PACKAGES: [(&str, &str); 13] = [
    ("buildah", "buildah"),
    ("busybox", "busybox-static"),
    ("docker", "docker.io, or docker-cli where that has none"),
    ("docker-registry", "docker-registry"),
    ("dockerd", "docker.io"),
    ("htpasswd", "apache2-utils"),
    ("notary", "notary"),
    ("notary-server", "notary"),
    ("python3", "python3 python3-cryptography"),
    ("skopeo", "skopeo"),
    ("time", "time"),
    ("tinyproxy", "tinyproxy"),
    ("umoci", "umoci"),
];

/// A server that does not listen by then has failed.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The path of a program; fails the test with the package to install when it is missing.
pub fn require(program: &str) -> PathBuf {
    find(program).unwrap_or_else(|| {
        let package = PACKAGES.iter().find(|(name, _)| *name == program);
        let package = package.map_or(program, |(_, package)| package);
        panic!("this test needs `{program}`: apt-get install {package}")
    })
}

/// In the PATH, or where `scripts/test` puts what Debian does not have.
pub fn find(program: &str) -> Option<PathBuf> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools");
    let tools = ["crane", "zuul-registry"].map(|name| tools.join(name).join("bin"));
    std::env::split_paths(&places)
        .chain(system)
        .chain(tools)
        .map(|place| place.join(program))
        .find(|path| path.is_file())
}

/// A part of the machine that cannot be installed: skipping is for a developer's machine, and never
/// silent.
pub fn lacking<T>(what: &str) -> Option<T> {
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "{what}"
    );
    eprintln!("not tested here: {what}");
    None
}

/// Runs a command that has to succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    checked(command, output)
}

/// Fails the test, with all that the command printed, unless it succeeded.
pub fn checked(command: &Command, output: Output) -> Output {
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A port of 127.0.0.1 that nobody listens on at this moment.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A running program, killed when dropped; its output is shown when it does not start.
pub struct Server {
    child: Child,
    log: PathBuf,
    address: SocketAddr,
    directory: TempDir,
}

impl Server {
    /// Runs a program in a fresh directory and waits until it listens. `prepare` gets the
    /// directory and a free port, and gives the arguments and environment.
    pub fn start(program: &str, prepare: impl Fn(&TempDir, u16) -> Vec<String>) -> Server {
        let path = require(program);
        let mut said = String::new();
        // Another process may take the port between the choice and the bind.
        for _ in 0..3 {
            let directory = TempDir::new();
            let port = free_port();
            let log = directory.join("log");
            let output = File::create(&log).unwrap();
            let child = Command::new(&path)
                .args(prepare(&directory, port))
                .current_dir(directory.path())
                .stdin(Stdio::null())
                .stdout(output.try_clone().unwrap())
                .stderr(output)
                .spawn()
                .unwrap_or_else(|error| panic!("start {}: {error}", path.display()));
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let mut server = Server {
                child,
                log,
                address,
                directory,
            };
            match server.wait_until_it_listens() {
                Ok(()) => return server,
                Err(why) => said = format!("{why}\n{}", server.log()),
            }
        }
        panic!("`{program}` does not start: {said}")
    }

    fn wait_until_it_listens(&mut self) -> Result<(), String> {
        let limit = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Err(format!("it ended: {status}"));
            }
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            if Instant::now() > limit {
                return Err(format!("it does not listen on {}", self.address));
            }
            thread::sleep(Duration::from_millis(5)); // nothing tells when it listens
        }
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(20)..];
            eprintln!("the last words of {}:\n{}", self.address, last.join("\n"));
        }
    }
}

/// Debian's `docker-registry` (CNCF distribution, version 2).
pub struct DockerRegistry {
    server: Server,
    tokens: Option<Server>,
}

/// What to put into its configuration; `RealSetup::default()` is plain HTTP, open to all.
#[derive(Default)]
pub struct RealSetup<'a> {
    pub tls: Option<&'a Identity>,
    /// One user by htpasswd.
    pub basic: Option<(&'a str, &'a str)>,
    /// Users of a token server, which lets everybody pull if `anonymous_pull`.
    pub tokens: Option<RealTokens<'a>>,
    /// Pulls through from this URL; pushes are refused.
    pub mirror_of: Option<&'a str>,
    /// More lines of YAML, at the top level.
    pub more: &'a str,
}

pub struct RealTokens<'a> {
    pub users: &'a [(&'a str, &'a str)],
    pub anonymous_pull: bool,
    pub seconds: u32,
}

impl DockerRegistry {
    /// Plain HTTP, open to all, with deletes.
    pub fn start() -> DockerRegistry {
        DockerRegistry::with(&RealSetup::default())
    }

    pub fn with(setup: &RealSetup<'_>) -> DockerRegistry {
        let tokens = setup.tokens.as_ref().map(token_server);
        let server = Server::start("docker-registry", |directory, port| {
            let config = config(setup, directory, port, tokens.as_ref());
            let path = directory.write("config.yml", config);
            vec!["serve".to_owned(), path.display().to_string()]
        });
        DockerRegistry { server, tokens }
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        self.server.host()
    }

    /// `127.0.0.1:PORT/NAME`, for `source.repository`.
    pub fn repository(&self, name: &str) -> String {
        format!("{}/{name}", self.server.host())
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The access log and whatever else it printed.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Where it keeps blobs and manifests.
    pub fn storage(&self) -> PathBuf {
        self.server.directory().join("data/docker/registry/v2")
    }
}

fn config(
    setup: &RealSetup<'_>,
    directory: &TempDir,
    port: u16,
    tokens: Option<&Server>,
) -> String {
    let place = |name: &str| directory.join(name).display().to_string();
    let mut text = format!(
        "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
         delete: {{enabled: true}}\nhttp:\n  addr: 127.0.0.1:{port}\n",
        place("data")
    );
    if let Some(identity) = setup.tls {
        let certificate = directory.write("server.crt", &identity.certificate_pem);
        let key = directory.write("server.key", &identity.key_pem);
        let (certificate, key) = (certificate.display(), key.display());
        let _ = writeln!(text, "  tls: {{certificate: {certificate}, key: {key}}}");
    }
    if let Some((user, password)) = setup.basic {
        let entry = Command::new(require("htpasswd"))
            .args(["-Bbn", user, password])
            .output()
            .unwrap();
        assert!(
            entry.status.success(),
            "{}",
            String::from_utf8_lossy(&entry.stderr)
        );
        let path = directory.write("htpasswd", entry.stdout);
        let path = path.display();
        let _ = writeln!(
            text,
            "auth:\n  htpasswd: {{realm: basic-realm, path: {path}}}"
        );
    }
    if let Some(server) = tokens {
        let certificates = server.directory().join("token.crt");
        let _ = writeln!(
            text,
            "auth:\n  token: {{realm: \"http://{}/token\", service: test-registry, \
             issuer: test-issuer, rootcertbundle: {}}}",
            server.host(),
            certificates.display()
        );
    }
    if let Some(url) = setup.mirror_of {
        let _ = writeln!(text, "proxy: {{remoteurl: \"{url}\"}}");
    }
    text + setup.more
}

/// `tokensrv.py`, whose certificate `docker-registry` trusts.
fn token_server(tokens: &RealTokens<'_>) -> Server {
    let signer = Authority::new("token CA").identity(&["token"]);
    let users: Vec<String> = tokens
        .users
        .iter()
        .map(|(name, password)| format!("{name}:{password}"))
        .collect();
    Server::start("python3", |directory, port| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/tokensrv.py");
        let key = directory.write("token.key", &signer.key_pem);
        let certificate = directory.write("token.crt", &signer.certificate_pem);
        vec![
            script.display().to_string(),
            port.to_string(),
            key.display().to_string(),
            certificate.display().to_string(),
            users.join(","),
            tokens.seconds.to_string(),
            if tokens.anonymous_pull {
                "anonymous-pull"
            } else {
                "users-only"
            }
            .to_owned(),
        ]
    })
}
