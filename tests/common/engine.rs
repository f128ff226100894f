//! A Docker engine of our own, as Debian packages it.

use super::real::{lacking, require};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long the engine may take to start on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A Docker engine of our own; it needs root, but neither a network nor an init system.
pub struct Engine {
    process: Child,
    socket: String,
}

impl Engine {
    /// `None`, said aloud, where the tests do not run as root or the machine does not let it start; in
    /// CI that fails the test.
    pub fn start(dir: &Path) -> Option<Engine> {
        if !rustix::process::geteuid().is_root() {
            return lacking("a Docker engine of our own needs root");
        }
        require("dockerd");
        let at = |name: &str| dir.join(name).display().to_string();
        let socket = format!("unix://{}", at("d.sock"));
        let process = Command::new("unshare")
            .args(["-m", "dockerd"]) // a mount namespace: what it mounts ends with it
            .args([
                "--iptables=false",
                "--ip6tables=false",
                "--bridge=none",
                "--storage-driver=vfs",
            ])
            .args([
                "--data-root",
                &at("data"),
                "--exec-root",
                &at("exec"),
                "--pidfile",
                &at("d.pid"),
                "-H",
                &socket,
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut engine = Engine { process, socket };
        match line_with("API listen on ", engine.process.stderr.take().unwrap()) {
            Ok(_) => Some(engine),
            Err(log) => lacking(&format!("dockerd does not start here:\n{log}")),
        }
    }

    pub fn docker(&self) -> Command {
        let mut command = Command::new(require("docker"));
        command
            .args(["-H", &self.socket])
            .env("DOCKER_BUILDKIT", "0");
        command
    }
}

impl Drop for Engine {
    /// By the signal that lets it unmount its file systems and end its containerd.
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.process.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

/// The first line of the log that holds `text`; or all of the log, if the server ends or `START` is over before.
/// The log is read on to its end: a full pipe would stop the server.
fn line_with(text: &'static str, log: ChildStderr) -> Result<String, String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let deadline = Instant::now() + START;
    let mut seen = String::new();
    while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if line.contains(text) {
            return Ok(line);
        }
        seen.push_str(&line);
        seen.push('\n');
    }
    Err(seen)
}
