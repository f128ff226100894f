//! Runs the real binary as Concourse does, and compares all that it prints.

use super::registry::Shared;
use super::secrets;
use super::{Offence, Registry, TempDir};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

/// The binary that is tested.
const BINARY: &str = env!("CARGO_BIN_EXE_registry-image");

/// A run that takes longer hangs, and is killed.
const LIMIT: Duration = Duration::from_secs(60);

/// Makes sleeps of the debug build take no time.
const TEST_CLOCK: &str = "REGISTRY_IMAGE_TEST_CLOCK";

/// User and group of a run without privileges (`nobody`).
const NOBODY: u32 = 65534;

/// One run of the program, being prepared. Nothing of the test's environment is handed down.
#[must_use = "nothing happens until `run`"]
pub struct Program {
    arguments: Vec<OsString>,
    by_link: Option<&'static str>,
    stdin: Vec<u8>,
    environment: BTreeMap<String, OsString>,
    directory: TempDir,
    destination: Option<PathBuf>,
    limit: Duration,
    unprivileged: bool,
    unread: Option<usize>,
    registries: Vec<(Arc<Shared>, String)>,
    replacements: Vec<(String, String)>,
}

impl Program {
    pub fn check(request: Value) -> Program {
        Program::new(["check"]).stdin(request.to_string())
    }

    /// `in DEST`, where DEST is a fresh directory: [`Output::destination`].
    pub fn get(request: Value) -> Program {
        let program = Program::new(["in"]).stdin(request.to_string());
        let destination = program.directory.join("dest");
        fs::create_dir(&destination).unwrap();
        program.destination(destination)
    }

    /// `out SRC`, where SRC is a fresh directory, filled with [`Program::source_file`].
    pub fn put(request: Value) -> Program {
        let program = Program::new(["out"]).stdin(request.to_string());
        let source = program.directory.join("src");
        fs::create_dir(&source).unwrap();
        program.destination(source)
    }

    /// Any arguments, empty stdin. Waits between tries take no time; see [`Program::real_clock`].
    pub fn new<const N: usize>(arguments: [&str; N]) -> Program {
        Program {
            arguments: arguments.map(OsString::from).to_vec(),
            by_link: None,
            stdin: Vec::new(),
            environment: BTreeMap::from([(TEST_CLOCK.to_owned(), OsString::from("1"))]),
            directory: TempDir::new(),
            destination: None,
            limit: LIMIT,
            unprivileged: false,
            unread: None,
            registries: Vec::new(),
            replacements: Vec::new(),
        }
    }

    /// Bytes of stdin as they are.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Program {
        self.stdin = bytes.into();
        self
    }

    /// One more argument.
    pub fn argument(mut self, argument: impl Into<OsString>) -> Program {
        self.arguments.push(argument.into());
        self
    }

    /// Called through a link of this name (`check`, `in`, `out`) instead of by first argument.
    pub fn by_link(mut self, name: &'static str) -> Program {
        self.by_link = Some(name);
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Program {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    /// The directory argument, in the place of the fresh one.
    pub fn destination(mut self, path: impl Into<PathBuf>) -> Program {
        let path = path.into();
        self.arguments.truncate(1);
        self.arguments.push(path.clone().into());
        self.destination = Some(path);
        self
    }

    /// Writes a file below the directory argument.
    pub fn source_file(self, name: &str, bytes: impl AsRef<[u8]>) -> Program {
        let path = self.directory_argument().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        self
    }

    /// The directory argument, to put more into it before the run.
    pub fn directory_argument(&self) -> &Path {
        self.destination
            .as_deref()
            .expect("`check` has no directory")
    }

    /// A path in the run's temporary directory, beside the directory argument.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Talks to this registry: its log is shown when an expectation fails, and its address reads
    /// as `REGISTRY` in stderr. Call again for more: `REGISTRY2` …
    pub fn against(mut self, registry: &Registry) -> Program {
        let name = match self.registries.len() {
            0 => "REGISTRY".to_owned(),
            n => format!("REGISTRY{}", n + 1),
        };
        self.replacements.push((registry.host(), name.clone()));
        let localhost = format!("localhost:{}", registry.address().port());
        self.replacements.push((localhost, format!("LOCAL{name}")));
        self.registries.push((registry.shared(), name));
        self
    }

    /// Shows a text that differs from run to run as `name` in stderr.
    pub fn showing(mut self, text: &str, name: &str) -> Program {
        self.replacements.push((text.to_owned(), name.to_owned()));
        self
    }

    /// Waits take the time they take.
    pub fn real_clock(mut self) -> Program {
        self.environment.remove(TEST_CLOCK);
        self
    }

    pub fn limit(mut self, limit: Duration) -> Program {
        self.limit = limit;
        self
    }

    /// As user `nobody` when the test runs as root.
    pub fn unprivileged(mut self) -> Program {
        self.unprivileged = true;
        self
    }

    /// stderr is a pipe of so many bytes, which nobody reads before the program has ended.
    pub fn unread_stderr(mut self, bytes: usize) -> Program {
        self.unread = Some(bytes);
        self
    }

    pub fn run(self) -> Output {
        self.start().wait()
    }

    /// Starts it and comes back at once, for tests that do something meanwhile.
    pub fn start(self) -> Running {
        let mut binary = PathBuf::from(BINARY);
        let drop_privileges = self.unprivileged && rustix::process::geteuid().is_root();
        if drop_privileges {
            // The build directory may be closed to others. Another process copies: what is open for
            // writing here, a fork in another thread would hold open, and the file be busy.
            let copy = self.directory.join("registry-image");
            let copied = Command::new("cp").arg(&binary).arg(&copy).status();
            assert!(copied.unwrap().success());
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
            binary = copy;
            chown(self.directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
            if let Some(directory) = &self.destination {
                chown(directory, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        let mut arguments = self.arguments.as_slice();
        if let Some(name) = self.by_link {
            let link = self.directory.join(name);
            symlink(&binary, &link).unwrap();
            binary = link;
            if arguments.first().is_some_and(|first| first == name) {
                arguments = &arguments[1..];
            }
        }
        let mut command = Command::new(&binary);
        command
            .args(arguments)
            .env_clear()
            .envs(&self.environment)
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if drop_privileges {
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = self.stdin.clone();
        // A program that fails early need not read its request: a broken pipe is fine.
        thread::spawn(move || drop(stdin.write_all(&input)));
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = child.stderr.take().unwrap();
        let (stderr, unread) = match self.unread {
            Some(bytes) => {
                rustix::pipe::fcntl_setpipe_size(&stderr, bytes).unwrap();
                (None, Some(stderr))
            }
            None => (collect(stderr), None),
        };
        let deadline = Instant::now() + self.limit;
        Running {
            program: self,
            child: Some(child),
            stdout,
            stderr,
            unread,
            deadline,
        }
    }
}

type Collector = Option<thread::JoinHandle<Vec<u8>>>;

fn collect(mut pipe: impl Read + Send + 'static) -> Collector {
    Some(thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    }))
}

/// A run under way; killed when dropped.
pub struct Running {
    program: Program,
    child: Option<Child>,
    stdout: Collector,
    stderr: Collector,
    unread: Option<ChildStderr>,
    deadline: Instant,
}

impl Running {
    /// The directory argument.
    pub fn directory_argument(&self) -> &Path {
        self.program.directory_argument()
    }

    pub fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Ends it with SIGKILL, and waits.
    pub fn kill(mut self) -> Output {
        self.child.as_mut().unwrap().kill().unwrap();
        self.finish(false)
    }

    /// Ends it with a signal (15 is SIGTERM), and waits.
    pub fn signal(mut self, signal: rustix::process::Signal) -> Output {
        let id = rustix::process::Pid::from_child(self.child.as_ref().unwrap());
        rustix::process::kill_process(id, signal).unwrap();
        self.wait_for_exit();
        self.finish(false)
    }

    /// Waits for its end; kills it and fails the test when the limit passes.
    pub fn wait(mut self) -> Output {
        let in_time = self.wait_for_exit();
        self.finish(!in_time)
    }

    fn wait_for_exit(&mut self) -> bool {
        let child = self.child.as_mut().unwrap();
        // The standard library cannot wait with a limit.
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > self.deadline {
                child.kill().unwrap();
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
        true
    }

    fn finish(&mut self, too_late: bool) -> Output {
        let status = self.child.take().unwrap().wait().unwrap();
        if let Some(stderr) = self.unread.take() {
            self.stderr = collect(stderr);
        }
        let text = |collector: &mut Collector| {
            let bytes = collector.take().unwrap().join().unwrap();
            String::from_utf8(bytes).unwrap_or_else(|error| {
                format!("NOT UTF-8: {}", String::from_utf8_lossy(error.as_bytes()))
            })
        };
        let (stdout, stderr) = (text(&mut self.stdout), text(&mut self.stderr));
        let program = std::mem::replace(&mut self.program, Program::new([]));
        if !status.success() {
            // A step that has failed ends what its other workers are in the middle of.
            for (registry, _) in &program.registries {
                registry.allow(Offence::CutBody);
            }
        }
        let output = Output {
            status,
            stdout,
            stderr,
            program,
        };
        assert!(
            !too_late,
            "the program did not end in time{}",
            output.story()
        );
        output.keeps_all_secrets();
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a run did. The temporary directory lives as long as this.
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    /// As written, with escapes; [`Output::messages`] is what a person sees.
    pub stderr: String,
    program: Program,
}

impl Output {
    /// The directory argument.
    pub fn destination(&self) -> &Path {
        self.program.directory_argument()
    }

    /// A file of the directory argument, as text.
    pub fn file(&self, name: &str) -> String {
        let path = self.destination().join(name);
        match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => panic!("{}: {error}{}", path.display(), self.story()),
        }
    }

    /// stderr as a person sees it in the end: redraws done, escapes gone, addresses and temporary
    /// paths under the names given to them.
    pub fn messages(&self) -> String {
        let mut text = normalise(&self.stderr);
        for (from, to) in &self.program.replacements {
            text = text.replace(from, to);
        }
        text.replace(&self.program.directory.path().display().to_string(), "TMP")
    }

    /// Exit 0 and one JSON document and a newline on stdout, equal to this; stderr may be anything.
    pub fn succeeds_with(&self, expected: Value) -> &Output {
        let answer = self.succeeds();
        if answer != expected {
            self.mismatch("stdout", &pretty(&expected), &pretty(&answer));
        }
        self
    }

    /// Exit 0; gives the JSON of stdout.
    pub fn succeeds(&self) -> Value {
        if self.status.code() != Some(0) {
            panic!("expected success{}", self.story());
        }
        let document = self.stdout.strip_suffix('\n').unwrap_or_default();
        match serde_json::from_str(document) {
            Ok(answer) if !document.ends_with(char::is_whitespace) => answer,
            _ => panic!(
                "stdout is not one JSON document and a newline{}",
                self.story()
            ),
        }
    }

    /// Whole stderr, as [`Output::messages`] shows it.
    pub fn says(&self, expected: &str) -> &Output {
        let messages = self.messages();
        if messages.trim_end_matches('\n') != expected.trim_end_matches('\n') {
            self.mismatch("stderr", expected, &messages);
        }
        self
    }

    /// Exit 1, nothing on stdout, and this whole stderr.
    pub fn fails_with(&self, expected: &str) -> &Output {
        self.fails();
        self.says(expected)
    }

    /// Exit 1, nothing on stdout, and this as last line of stderr.
    pub fn fails_ending_with(&self, expected: &str) -> &Output {
        self.fails();
        let messages = self.messages();
        let last = messages.lines().last().unwrap_or_default();
        if last != expected {
            self.mismatch("last line of stderr", expected, last);
        }
        self
    }

    /// Exit 1, nothing on stdout, some words on stderr, none of them a panic's.
    pub fn fails(&self) -> &Output {
        let panicked =
            self.stderr.contains("panicked at") || self.stderr.contains("RUST_BACKTRACE");
        let silent = self.stderr.trim().is_empty();
        if self.status.code() != Some(1) || !self.stdout.is_empty() || panicked || silent {
            panic!(
                "expected exit 1, empty stdout and an error line{}",
                self.story()
            );
        }
        self
    }

    /// None of these texts is anywhere in what the program printed or wrote.
    pub fn keeps_secret<const N: usize>(&self, secrets: [&str; N]) -> &Output {
        for secret in secrets {
            let printed = self.stdout.contains(secret) || self.stderr.contains(secret);
            assert!(!printed, "the secret `{secret}` is printed{}", self.story());
        }
        self
    }

    /// Nothing that this run was given or sent as a secret is in what it printed.
    fn keeps_all_secrets(&self) {
        let mut all = secrets::of_run(&self.program.stdin, &self.program.environment);
        for (registry, _) in &self.program.registries {
            for request in &registry.state().requests {
                all.extend(secrets::seen_by(&request.head.headers));
            }
        }
        for secret in &all {
            self.keeps_secret([secret.as_str()]);
        }
    }

    fn mismatch(&self, what: &str, expected: &str, got: &str) -> ! {
        panic!(
            "{what} differs\n=== expected\n{expected}\n=== got\n{got}{}",
            self.story()
        )
    }

    /// Everything there is to know about a run that went wrong.
    fn story(&self) -> String {
        let mut story = format!("\n=== command\n{:?}\n", self.program.arguments);
        for (name, value) in &self.program.environment {
            story += &format!("{name}={value:?}\n");
        }
        story += &format!(
            "=== stdin\n{}\n",
            String::from_utf8_lossy(&self.program.stdin)
        );
        let signal = self
            .status
            .signal()
            .map_or(String::new(), |s| format!(" (signal {s})"));
        story += &format!("=== status\n{:?}{signal}\n", self.status.code());
        story += &format!(
            "=== stdout\n{}\n=== stderr\n{}\n",
            self.stdout,
            self.messages()
        );
        for (registry, name) in &self.program.registries {
            story += &format!("=== requests to {name}\n{}\n", registry.lines().join("\n"));
        }
        story += "=== files\n";
        let mut files = Vec::new();
        let _ = list(self.program.directory.path(), Path::new(""), &mut files);
        let more = files.len().saturating_sub(200);
        files.truncate(200);
        story += &files.join("\n");
        if more > 0 {
            story += &format!("\n… and {more} more");
        }
        story
    }
}

fn list(root: &Path, below: &Path, names: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        names.push(path.display().to_string());
        if entry.file_type()?.is_dir() {
            list(root, &path, names)?;
        }
    }
    Ok(())
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

/// What a terminal of endless width and height shows in the end: carriage returns, cursor moves
/// and erasures are carried out, colours dropped, spaces at line ends cut.
pub fn normalise(text: &str) -> String {
    let mut screen: Vec<Vec<char>> = vec![Vec::new()];
    let (mut row, mut column) = (0_usize, 0_usize);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => {
                row += 1;
                column = 0;
            }
            '\r' => column = 0,
            '\u{8}' => column = column.saturating_sub(1),
            '\u{1b}' => {
                if chars.next_if_eq(&'[').is_none() {
                    continue;
                }
                let mut parameters = String::new();
                while let Some(c) = chars.next_if(|c| !('\u{40}'..='\u{7e}').contains(c)) {
                    parameters.push(c);
                }
                let count = parameters.parse::<usize>().ok();
                let steps = count.unwrap_or(1).max(1);
                match chars.next() {
                    Some('A' | 'F') if row < steps => row = 0,
                    Some('A') => row -= steps,
                    Some('F') => (row, column) = (row - steps, 0),
                    Some('B') => row += steps,
                    Some('E') => (row, column) = (row + steps, 0),
                    Some('C') => column += steps,
                    Some('D') => column = column.saturating_sub(steps),
                    Some('G') => column = steps - 1,
                    Some('K') => {
                        grow(&mut screen, row);
                        match count.unwrap_or(0) {
                            0 => screen[row].truncate(column),
                            1 => screen[row]
                                .iter_mut()
                                .take(column + 1)
                                .for_each(|c| *c = ' '),
                            _ => screen[row].clear(),
                        }
                    }
                    Some('J') => {
                        grow(&mut screen, row);
                        screen[row].truncate(column);
                        screen.truncate(row + 1);
                    }
                    _ => {}
                }
            }
            c => {
                grow(&mut screen, row);
                if screen[row].len() < column {
                    screen[row].resize(column, ' ');
                }
                match screen[row].get_mut(column) {
                    Some(cell) => *cell = c,
                    None => screen[row].push(c),
                }
                column += 1;
            }
        }
    }
    let lines: Vec<String> = screen
        .iter()
        .map(|line| line.iter().collect::<String>().trim_end().to_owned())
        .collect();
    let text = lines.join("\n");
    let text = text.trim_end_matches('\n');
    if text.is_empty() {
        String::new()
    } else {
        format!("{text}\n")
    }
}

fn grow(screen: &mut Vec<Vec<char>>, row: usize) {
    if screen.len() <= row {
        screen.resize(row + 1, Vec::new());
    }
}
