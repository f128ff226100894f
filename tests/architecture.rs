//! The shape of the program, read from its source text: which module may know which, and who
//! alone may touch threads, clocks, streams, the environment, TLS, layer markers, Docker Hub's rules.
//!
//! The tables below are the picture; a change of shape is a change of a table, in its own commit.
//! Code under `#[cfg(test)]`, comments and documentation are not looked at; strings are where a
//! rule says so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how it reports"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Every module of the crate and its rank: a module imports only modules of lower rank.
///
/// Within rank 1 is a short ladder: the log takes the workers' lock, waiting writes to the log,
/// and the context holds all three. The steps keep that from becoming a circle.
const RANKS: [(&str, f32); 21] = [
    ("error", 0.0),
    ("secret", 0.0),
    ("glob", 1.0),
    ("oci", 1.0),
    ("semver", 1.0),
    ("workers", 1.0),
    ("report", 1.1),
    ("retry", 1.2),
    ("context", 1.3),
    ("archive", 2.0),
    ("http", 2.0),
    ("request", 2.0),
    ("auth", 3.0),
    ("rootfs", 3.0),
    ("store", 3.0),
    ("registry", 4.0),
    ("pull", 5.0),
    ("push", 5.0),
    ("trust", 5.0),
    ("commands", 6.0),
    ("main", 7.0),
];

/// Importers that may know less than their rank allows.
const ONLY: [(&str, &[&str]); 1] = [
    // `context`, `retry`, `report`: what `main` makes and hands down.
    ("main", &["commands", "context", "error", "report", "retry"]),
];

/// Pairs that the ranks allow and the design does not.
const NEVER: [(&str, &str); 2] = [("registry", "rootfs"), ("registry", "store")];

/// What a rule looks for.
enum Seen {
    /// A name anywhere in code: a crate, a keyword.
    Name(&'static str),
    /// Consecutive parts of a path, also of a `use` tree: `thread::spawn`.
    Path(&'static [&'static str]),
    /// A function of `std::fs`, however much of the path is written.
    PathFunction(&'static str),
    /// A macro, without its `!`.
    Macro(&'static str),
    /// Part of a string or byte string.
    Text(&'static str),
    /// A method call with anything but a literal between its parentheses; `thread.join()` is none.
    Call(&'static str),
}

struct Rule {
    seen: Seen,
    /// Files, or folders with a slash at the end, where it may be.
    owners: &'static [&'static str],
    because: &'static str,
}

const RULES: &[Rule] = &[
    // One attempt of one request.
    rule(Seen::Name("ureq"), &["src/http/"], HTTP),
    rule(Seen::Name("rustls"), &["src/http/"], HTTP),
    rule(Seen::Name("webpki_roots"), &["src/http/"], HTTP),
    // Threads.
    rule(
        Seen::Path(&["thread", "spawn"]),
        &["src/workers.rs", "src/workers/"],
        THREADS,
    ),
    rule(
        Seen::Path(&["thread", "scope"]),
        &["src/workers.rs", "src/workers/"],
        THREADS,
    ),
    rule(
        Seen::Path(&["thread", "Builder"]),
        &["src/workers.rs", "src/workers/"],
        THREADS,
    ),
    rule(Seen::Path(&["thread", "*"]), &[], GLOBS),
    // Waiting.
    rule(Seen::Path(&["thread", "sleep"]), &["src/retry.rs"], SLEEP),
    rule(Seen::Path(&["thread", "park_timeout"]), &[], SLEEP),
    rule(
        Seen::Path(&["SystemTime", "now"]),
        &["src/main.rs", "src/retry.rs"],
        CLOCK,
    ),
    rule(
        Seen::Path(&["Instant", "now"]),
        // Progress bars show a rate and are drawn seldom; no decision depends on their clock.
        &["src/retry.rs", "src/report/progress.rs"],
        CLOCK,
    ),
    rule(Seen::Path(&["time", "*"]), &[], GLOBS),
    // Streams of the process.
    rule(Seen::Macro("eprint"), &["src/report.rs"], STDERR),
    rule(Seen::Macro("eprintln"), &["src/report.rs"], STDERR),
    rule(Seen::Macro("dbg"), &[], STDERR),
    rule(Seen::Path(&["io", "stderr"]), &["src/report.rs"], STDERR),
    rule(Seen::Macro("print"), &[], MAIN),
    rule(Seen::Macro("println"), &[], MAIN),
    rule(Seen::Path(&["io", "stdout"]), &["src/main.rs"], MAIN),
    rule(Seen::Path(&["io", "stdin"]), &["src/main.rs"], MAIN),
    rule(Seen::Path(&["io", "*"]), &[], GLOBS),
    rule(Seen::Path(&["process", "exit"]), &["src/main.rs"], MAIN),
    rule(Seen::Path(&["process", "abort"]), &[], MAIN),
    rule(
        Seen::Path(&["process", "Command"]),
        &[],
        "no external program is ever run",
    ),
    rule(Seen::Path(&["process", "*"]), &[], GLOBS),
    // The environment; `env::consts` is known when the program is built.
    rule(Seen::Path(&["env", "var"]), &["src/main.rs"], MAIN),
    rule(Seen::Path(&["env", "var_os"]), &["src/main.rs"], MAIN),
    rule(Seen::Path(&["env", "vars"]), &["src/main.rs"], MAIN),
    rule(Seen::Path(&["env", "vars_os"]), &["src/main.rs"], MAIN),
    rule(Seen::Path(&["env", "args"]), &["src/main.rs"], MAIN),
    rule(Seen::Path(&["env", "args_os"]), &["src/main.rs"], MAIN),
    rule(Seen::Path(&["env", "current_dir"]), &["src/main.rs"], MAIN),
    rule(Seen::Path(&["env", "set_current_dir"]), &[], MAIN),
    rule(Seen::Path(&["env", "current_exe"]), &["src/main.rs"], MAIN),
    rule(Seen::Path(&["env", "home_dir"]), &["src/main.rs"], MAIN),
    rule(
        Seen::Path(&["env", "temp_dir"]),
        &[],
        "the program needs no `/tmp`",
    ),
    rule(Seen::Path(&["env", "*"]), &[], GLOBS),
    // Names of the field.
    rule(
        Seen::Text(".wh."),
        &["src/archive/"],
        "whiteouts are read in one place",
    ),
    rule(Seen::Text("docker.io"), &["src/oci/reference.rs"], HUB),
    rule(Seen::Text("library/"), &["src/oci/reference.rs"], HUB),
    // Everything else.
    rule(Seen::Name("unsafe"), &[], "the crate forbids it"),
    rule(Seen::Name("unsafe_code"), &[], "the crate forbids it"),
];

/// Rules for some folders only.
const FOLDER_RULES: &[(&str, Rule)] = &[
    ("src/archive/", rule(Seen::Call("join"), &[], NAMES)),
    ("src/rootfs/", rule(Seen::Call("join"), &[], NAMES)),
    ("src/rootfs/", by_name("create_dir_all", &[])),
    ("src/rootfs/", by_name("canonicalize", &[])),
    ("src/rootfs/", by_name("copy", &[])),
    ("src/rootfs/", by_name("create_dir", &[])),
    ("src/rootfs/", by_name("hard_link", &[])),
    ("src/rootfs/", by_name("metadata", &[])),
    ("src/rootfs/", by_name("read", &[])),
    ("src/rootfs/", by_name("read_dir", &[])),
    ("src/rootfs/", by_name("read_link", &[])),
    ("src/rootfs/", by_name("remove_dir", &[])),
    ("src/rootfs/", by_name("remove_dir_all", &[])),
    ("src/rootfs/", by_name("remove_file", &[])),
    ("src/rootfs/", by_name("rename", &[])),
    ("src/rootfs/", by_name("set_permissions", &[])),
    ("src/rootfs/", by_name("symlink_metadata", &[])),
    ("src/rootfs/", by_name("write", &[])),
    ("src/rootfs/", rule(Seen::Path(&["fs", "*"]), &[], GLOBS)),
];

const HTTP: &str = "only `http` speaks HTTP and TLS";
const THREADS: &str = "only `workers` makes threads";
const SLEEP: &str = "only `retry` sleeps";
const CLOCK: &str = "time comes from the `Clock` that is handed down";
const STDERR: &str = "only `report` writes stderr";
const MAIN: &str = "only `main` knows the process around the program";
const GLOBS: &str = "a glob import hides who uses what";
const HUB: &str = "Docker Hub's rules are in `oci/reference.rs`";
const NAMES: &str = "names of an image reach the disk through directory descriptors only";

const fn rule(seen: Seen, owners: &'static [&'static str], because: &'static str) -> Rule {
    Rule {
        seen,
        owners,
        because,
    }
}

/// A function of `std::fs`, which takes a path and not a descriptor.
const fn by_name(function: &'static str, owners: &'static [&'static str]) -> Rule {
    rule(Seen::PathFunction(function), owners, NAMES)
}

#[test]
fn the_source_keeps_to_the_architecture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    read(root, Path::new("src"), &mut files);
    assert!(
        files.len() > 5,
        "the source was not found below {}",
        root.display()
    );
    let complaints = check(&files);
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

fn read(root: &Path, below: &Path, files: &mut Vec<(String, String)>) {
    let mut names: Vec<_> = fs::read_dir(root.join(below))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    for name in names {
        let path = below.join(name);
        if root.join(&path).is_dir() {
            read(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(root.join(&path)).unwrap();
            files.push((path.to_str().unwrap().to_owned(), text));
        }
    }
}

/// Everything that is wrong, as `path:line: what (why)`.
fn check(files: &[(String, String)]) -> Vec<String> {
    let parsed: Vec<(&str, &str, Vec<Token>)> = files
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str(), tokens(text)))
        .collect();
    let tests: BTreeSet<String> = parsed
        .iter()
        .flat_map(|(path, _, tokens)| test_files(path, tokens))
        .collect();
    let mut complaints = Vec::new();
    let modules: BTreeSet<Vec<&str>> = files.iter().map(|(path, _)| place(path)).collect();
    let mut imports = BTreeSet::new();
    for (path, text, tokens) in parsed {
        let is_test =
            |test: &String| path == format!("{test}.rs") || path.starts_with(&format!("{test}/"));
        if tests.iter().any(is_test) {
            continue;
        }
        if !text.starts_with("//!") {
            complaints.push(format!(
                "{path}:1: no `//!` at its head says what the file owns"
            ));
        }
        let tokens = without_tests(tokens);
        let paths = paths(&tokens);
        check_imports(path, &tokens, &paths, &mut complaints);
        imports.extend(
            paths
                .iter()
                .filter_map(|found| import(path, found, &modules)),
        );
        let everywhere = RULES.iter();
        let here = FOLDER_RULES
            .iter()
            .filter(|(folder, _)| path.starts_with(folder));
        for rule in everywhere.chain(here.map(|(_, rule)| rule)) {
            if !rule
                .owners
                .iter()
                .any(|owner| path == *owner || in_folder(path, owner))
            {
                check_rule(path, rule, &tokens, &paths, &mut complaints);
            }
        }
    }
    check_circles(&imports, &mut complaints);
    complaints
}

/// `src/http/url.rs` is `http`, `url`; `src/http/mod.rs` and `src/http.rs` are `http`.
fn place(path: &str) -> Vec<&str> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let parts = inner.split('/');
    parts
        .filter(|part| !matches!(*part, "mod" | "main"))
        .collect()
}

/// Which two modules of one folder a path ties together: the one that it is written in (or below),
/// and the one that it names (or something below it).
fn import(path: &str, found: &Found, modules: &BTreeSet<Vec<&str>>) -> Option<(String, String)> {
    let own = place(path);
    let parts: Vec<&str> = found.parts.iter().map(String::as_str).collect();
    let supers = parts.iter().take_while(|part| **part == "super").count();
    let named = match parts.split_first()? {
        (&"crate", rest) => rest.to_vec(),
        _ if supers > 0 => [own.get(..own.len().checked_sub(supers)?)?, &parts[supers..]].concat(),
        _ => return None,
    };
    // What follows the module is an item of it.
    let module = (0..=named.len()).rev().map(|end| &named[..end]);
    let module = module.into_iter().find(|part| modules.contains(*part))?;
    let common = own.iter().zip(module).take_while(|(a, b)| a == b).count();
    // A module and what lies in it are one.
    let (from, to) = (own.get(..=common)?, module.get(..=common)?);
    Some((from.join("/"), to.join("/")))
}

/// Modules of one folder that import each other in a circle cannot be read one after another.
fn check_circles(imports: &BTreeSet<(String, String)>, complaints: &mut Vec<String>) {
    let leads_to = |from: &String, goal: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(module) = next.pop() {
            if seen.insert(module) {
                let imported = imports.iter().filter(|(from, _)| from == module);
                next.extend(imported.map(|(_, to)| to));
            }
        }
        seen.contains(goal)
    };
    let tied = imports.iter().filter(|(from, to)| leads_to(to, from));
    complaints
        .extend(tied.map(|(from, to)| format!("src/{from}: in a circle of imports with `{to}`")));
}

fn in_folder(path: &str, owner: &str) -> bool {
    owner.ends_with('/') && path.starts_with(owner)
}

fn rank(module: &str) -> Option<f32> {
    RANKS
        .iter()
        .find(|(name, _)| *name == module)
        .map(|(_, rank)| *rank)
}

/// `src/http/url.rs` belongs to `http`, and lies two deep: `super::super` is the crate.
fn module_of(path: &str) -> (&str, usize) {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let module = inner.split('/').next().unwrap();
    let depth = match inner {
        "main" | "lib" => 0,
        _ => inner.split('/').filter(|part| *part != "mod").count(),
    };
    (module, depth)
}

fn check_imports(path: &str, tokens: &[Token], paths: &[Found], complaints: &mut Vec<String>) {
    let (module, depth) = module_of(path);
    let Some(own) = rank(module) else {
        complaints.push(format!(
            "{path}:1: module `{module}` has no rank in this test"
        ));
        return;
    };
    // A `mod` line at the crate's root names a module even before it has a file.
    for pair in tokens.windows(2) {
        if let (0, "mod", Kind::Name) = (depth, pair[0].text.as_str(), &pair[1].kind)
            && rank(&pair[1].text).is_none()
        {
            let (line, name) = (pair[1].line, &pair[1].text);
            complaints.push(format!(
                "{path}:{line}: module `{name}` has no rank in this test"
            ));
        }
    }
    for found in paths {
        let parts: Vec<&str> = found.parts.iter().map(String::as_str).collect();
        let supers = parts.iter().take_while(|part| **part == "super").count();
        let imported = match parts.as_slice() {
            ["crate", imported, ..] => *imported,
            [..] if supers > 0 && supers == depth => parts.get(supers).copied().unwrap_or("*"),
            // In the root file a module needs no `crate::`.
            [imported, _, ..] if depth == 0 && rank(imported).is_some() => *imported,
            _ => continue,
        };
        if imported == module || (imported == "self" && depth == 0) {
            continue;
        }
        let line = found.line;
        let Some(rank) = rank(imported) else {
            // Items of the root file itself: there are none to share.
            complaints.push(format!(
                "{path}:{line}: `crate::{imported}` is no module with a rank"
            ));
            continue;
        };
        if rank >= own {
            complaints.push(format!(
                "{path}:{line}: `{module}` (rank {own}) imports `{imported}` (rank {rank})"
            ));
        }
        let narrow = ONLY.iter().find(|(importer, _)| *importer == module);
        if narrow.is_some_and(|(_, allowed)| !allowed.contains(&imported))
            || NEVER.contains(&(module, imported))
        {
            complaints.push(format!(
                "{path}:{line}: `{module}` may not know `{imported}`"
            ));
        }
    }
}

fn check_rule(
    path: &str,
    rule: &Rule,
    tokens: &[Token],
    paths: &[Found],
    complaints: &mut Vec<String>,
) {
    let mut tell = |line: usize, what: String| {
        complaints.push(format!("{path}:{line}: {what} ({})", rule.because));
    };
    match rule.seen {
        Seen::Name(name) => {
            for token in tokens
                .iter()
                .filter(|t| t.kind == Kind::Name && t.text == name)
            {
                tell(token.line, format!("`{name}`"));
            }
        }
        Seen::Path(wanted) => {
            for found in paths {
                if found
                    .parts
                    .windows(wanted.len())
                    .any(|parts| parts == wanted)
                {
                    tell(found.line, format!("`{}`", wanted.join("::")));
                }
                // `use std::thread as t` would hide every later use.
                let module = &wanted[..wanted.len() - 1];
                if found.renamed
                    && found
                        .parts
                        .ends_with(&module.iter().map(|m| (*m).to_owned()).collect::<Vec<_>>())
                {
                    tell(
                        found.line,
                        format!("`{}` under another name", module.join("::")),
                    );
                }
            }
        }
        Seen::PathFunction(function) => {
            for found in paths {
                let parts: Vec<&str> = found.parts.iter().map(String::as_str).collect();
                // `rustix::fs` has functions of these names that take a descriptor.
                if parts.ends_with(&["fs", function]) && !parts.starts_with(&["rustix"]) {
                    tell(found.line, format!("`fs::{function}`"));
                }
            }
        }
        Seen::Macro(name) => {
            for pair in tokens.windows(2) {
                if pair[0].kind == Kind::Name && pair[0].text == name && pair[1].text == "!" {
                    tell(pair[0].line, format!("`{name}!`"));
                }
            }
        }
        Seen::Text(text) => {
            for token in tokens
                .iter()
                .filter(|t| t.kind == Kind::Text && t.text.contains(text))
            {
                tell(token.line, format!("the text `{text}`"));
            }
        }
        Seen::Call(name) => {
            for four in tokens.windows(4) {
                let [dot, called, open, argument] = four else {
                    continue;
                };
                let is_call = dot.text == "." && called.text == name && open.text == "(";
                let harmless = argument.text == ")" || argument.kind == Kind::Text;
                if is_call && called.kind == Kind::Name && !harmless {
                    tell(called.line, format!("`.{name}({}…)`", argument.text));
                }
            }
        }
    }
}

// Reading Rust, as far as this needs it.

#[derive(Clone, Debug, Eq, PartialEq)]
enum Kind {
    Name,
    /// A string, byte string or C string; the text is what stands between the quotes.
    Text,
    /// A character, number or lifetime.
    Literal,
    Sign,
}

#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    text: String,
    line: usize,
}

/// A path as it is written, or one leaf of a `use` tree.
struct Found {
    parts: Vec<String>,
    line: usize,
    renamed: bool,
}

/// Splits source text into tokens; comments are gone.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let (mut index, mut line) = (0, 1);
    while index < chars.len() {
        let (start, first_line) = (index, line);
        let mut push = |kind: Kind, text: String| {
            found.push(Token {
                kind,
                text,
                line: first_line,
            });
        };
        match at(index) {
            '\n' => {
                line += 1;
                index += 1;
            }
            c if c.is_whitespace() => index += 1,
            '/' if at(index + 1) == '/' => {
                while index < chars.len() && at(index) != '\n' {
                    index += 1;
                }
            }
            '/' if at(index + 1) == '*' => {
                let mut depth = 0;
                while index < chars.len() {
                    match (at(index), at(index + 1)) {
                        ('/', '*') => {
                            depth += 1;
                            index += 2;
                        }
                        ('*', '/') => {
                            depth -= 1;
                            index += 2;
                        }
                        (c, _) => {
                            line += usize::from(c == '\n');
                            index += 1;
                        }
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            '"' => {
                let text = plain_string(&chars, &mut index, &mut line);
                push(Kind::Text, text);
            }
            // A character, or a lifetime: 'a' or 'a.
            '\'' => {
                if at(index + 1) == '\\' {
                    index += 3;
                    while index < chars.len() && at(index) != '\'' {
                        index += 1;
                    }
                    index += 1;
                } else if at(index + 2) == '\'' {
                    index += 3;
                } else {
                    index += 1;
                    while is_word(at(index)) {
                        index += 1;
                    }
                }
                push(
                    Kind::Literal,
                    chars[start..index.min(chars.len())].iter().collect(),
                );
            }
            c if c.is_ascii_digit() => {
                while is_word(at(index)) || (at(index) == '.' && at(index + 1).is_ascii_digit()) {
                    index += 1;
                }
                push(Kind::Literal, chars[start..index].iter().collect());
            }
            c if is_word(c) => {
                while is_word(at(index)) {
                    index += 1;
                }
                let word: String = chars[start..index].iter().collect();
                let hashes = (0..).take_while(|n| at(index + n) == '#').count();
                match (word.as_str(), at(index), at(index + hashes)) {
                    ("b" | "c", '"', _) => {
                        let text = plain_string(&chars, &mut index, &mut line);
                        push(Kind::Text, text);
                    }
                    ("r" | "br" | "cr", _, '"') => {
                        index += hashes + 1;
                        let end: String = format!("\"{}", "#".repeat(hashes));
                        let from = index;
                        while index < chars.len()
                            && !end.chars().enumerate().all(|(n, c)| at(index + n) == c)
                        {
                            line += usize::from(at(index) == '\n');
                            index += 1;
                        }
                        push(
                            Kind::Text,
                            chars[from..index.min(chars.len())].iter().collect(),
                        );
                        index += end.len();
                    }
                    ("b", '\'', _) => {
                        index += 1 + usize::from(at(index + 1) == '\\');
                        index += 1;
                        while index < chars.len() && at(index) != '\'' {
                            index += 1;
                        }
                        index += 1;
                        push(Kind::Literal, "byte".to_owned());
                    }
                    // A raw name: `r#type`.
                    ("r", '#', _) => index += 1,
                    _ => push(Kind::Name, word),
                }
            }
            c => {
                index += 1;
                push(Kind::Sign, c.to_string());
            }
        }
    }
    found
}

/// From the opening quote to behind the closing one; escapes stay as they are written, but a
/// newline that is escaped away goes with the spaces after it.
fn plain_string(chars: &[char], index: &mut usize, line: &mut usize) -> String {
    let mut text = String::new();
    *index += 1;
    while let Some(c) = chars.get(*index) {
        *index += 1;
        match c {
            '"' => break,
            '\\' if chars.get(*index) == Some(&'\n') => {
                while chars.get(*index).is_some_and(|c| c.is_whitespace()) {
                    *line += usize::from(chars[*index] == '\n');
                    *index += 1;
                }
            }
            '\\' => {
                text.push('\\');
                text.extend(chars.get(*index));
                *index += 1;
            }
            c => {
                *line += usize::from(*c == '\n');
                text.push(*c);
            }
        }
    }
    text
}

/// Where an attribute (its `#`, `[`, …) that means "only in tests" starts and ends.
fn test_attribute(tokens: &[Token], at: usize) -> Option<usize> {
    let word = |n: usize| tokens.get(at + n).map(|t| t.text.as_str());
    if (word(0), word(1)) != (Some("#"), Some("[")) {
        return None;
    }
    let end = closing(tokens, at + 1)?;
    let inner: Vec<&str> = tokens[at + 2..end]
        .iter()
        .map(|t| t.text.as_str())
        .collect();
    // `any(test, …)` is code of the program too.
    let only_tests = matches!(inner.as_slice(), ["cfg", "(", "test", ")"] | ["test"])
        || inner.starts_with(&["cfg", "(", "all", "(", "test", ","]);
    only_tests.then_some(end + 1)
}

/// The index of the bracket that closes the one at `open`.
fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        if token.kind != Kind::Sign {
            continue;
        }
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return Some(index);
        }
    }
    None
}

/// The end of the item that starts here: behind its `;`, or behind the block that is its body.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            _ if tokens[at].kind != Kind::Sign => at += 1,
            ";" | "," => return at + 1,
            "{" => return closing(tokens, at).map_or(tokens.len(), |end| end + 1),
            "(" | "[" => at = closing(tokens, at).map_or(tokens.len(), |end| end + 1),
            _ => at += 1,
        }
    }
    at
}

/// The tokens without items that exist in tests only.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match test_attribute(&tokens, at) {
            Some(mut next) => {
                // Further attributes of the same item.
                while tokens
                    .get(next)
                    .is_some_and(|t| t.text == "#" && t.kind == Kind::Sign)
                {
                    next = closing(&tokens, next + 1).map_or(tokens.len(), |end| end + 1);
                }
                at = item_end(&tokens, next);
            }
            None => {
                kept.push(tokens[at].clone());
                at += 1;
            }
        }
    }
    kept
}

/// Files (without `.rs`) that `#[cfg(test)] mod name;` in this file brings in.
fn test_files(path: &str, tokens: &[Token]) -> Vec<String> {
    let stem = path.trim_end_matches(".rs");
    let folder = match stem.rsplit_once('/') {
        Some((folder, "mod" | "main" | "lib")) => folder,
        _ => stem,
    };
    (0..tokens.len())
        .filter_map(|at| {
            let next = test_attribute(tokens, at)?;
            let word = |n: usize| tokens.get(next + n).map(|t| t.text.as_str());
            match (word(0)?, word(2)?) {
                ("mod", ";") => Some(format!("{folder}/{}", word(1)?)),
                _ => None,
            }
        })
        .collect()
}

/// All paths of the code; a `use` tree gives one for each leaf.
fn paths(tokens: &[Token]) -> Vec<Found> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let token = &tokens[at];
        if token.kind == Kind::Name && token.text == "use" {
            at += 1;
            use_tree(tokens, &mut at, &[], &mut found);
        } else if token.kind == Kind::Name {
            let mut parts = vec![token.text.clone()];
            let line = token.line;
            at += 1;
            while is_colons(tokens, at) && tokens.get(at + 2).is_some_and(|t| t.kind == Kind::Name)
            {
                parts.push(tokens[at + 2].text.clone());
                at += 3;
            }
            found.push(Found {
                parts,
                line,
                renamed: false,
            });
        } else {
            at += 1;
        }
    }
    found
}

fn is_colons(tokens: &[Token], at: usize) -> bool {
    let colon = |n: usize| tokens.get(at + n).is_some_and(|t| t.text == ":");
    colon(0) && colon(1)
}

fn use_tree(tokens: &[Token], at: &mut usize, before: &[String], found: &mut Vec<Found>) {
    let mut parts = before.to_vec();
    let line = tokens.get(*at).map_or(0, |t| t.line);
    while let Some(token) = tokens.get(*at) {
        match token.text.as_str() {
            "{" => {
                *at += 1;
                while tokens.get(*at).is_some_and(|t| t.text != "}") {
                    use_tree(tokens, at, &parts, found);
                    if tokens.get(*at).is_some_and(|t| t.text == ",") {
                        *at += 1;
                    }
                }
                *at += 1;
                return;
            }
            ":" => *at += 1,
            "as" => {
                // `as _` imports a trait for its methods and hides nothing.
                let renamed = tokens.get(*at + 1).is_some_and(|t| t.text != "_");
                *at += 2;
                found.push(Found {
                    parts,
                    line,
                    renamed,
                });
                return;
            }
            "," | "}" | ";" => {
                found.push(Found {
                    parts,
                    line,
                    renamed: false,
                });
                return;
            }
            // `use a::{self}` is `use a`.
            "self" if !parts.is_empty() => *at += 1,
            text => {
                parts.push(text.to_owned());
                *at += 1;
            }
        }
    }
}

// The checker, seen to fail.

/// Complaints about files of these paths and texts, each text after a proper head.
fn complaints<const N: usize>(files: [(&str, &str); N]) -> Vec<String> {
    let files = files.map(|(path, text)| (path.to_owned(), format!("//! Owns it.\n{text}")));
    check(&files)
}

#[test]
fn a_module_without_a_rank_is_a_mistake() {
    assert_eq!(
        complaints([
            ("src/helper.rs", ""),
            ("src/util/mod.rs", ""),
            ("src/main.rs", "mod later;")
        ]),
        [
            "src/helper.rs:1: module `helper` has no rank in this test",
            "src/util/mod.rs:1: module `util` has no rank in this test",
            "src/main.rs:2: module `later` has no rank in this test",
        ]
    );
}

#[test]
fn a_file_says_what_it_owns() {
    let file = ("src/error.rs".to_owned(), "fn f() {}".to_owned());
    assert_eq!(
        check(&[file]),
        ["src/error.rs:1: no `//!` at its head says what the file owns"]
    );
}

#[test]
fn imports_of_the_same_or_a_higher_rank_are_found_however_they_are_written() {
    for text in [
        "use crate::commands;",
        "use crate::commands::check;",
        "use crate::{error::Error, commands::{self}};",
        "use crate::{\n    commands as c,\n};",
        "fn f() { crate::commands::run(); }",
        "fn f() -> super::super::commands::Command {}",
        "use super::super::{commands::Command};",
        "pub(crate) use crate::commands::*;",
        "type T = Vec<crate::commands::Registry>;",
    ] {
        let text = format!("use crate::auth::x;\nuse crate::http;\n{text}");
        let found = complaints([("src/auth/token.rs", text.as_str())]);
        assert!(
            matches!(found.as_slice(), [one] if one.contains("`commands` (rank 6)")),
            "{text}: {found:?}"
        );
    }
    assert_eq!(
        complaints([(
            "src/oci/digest.rs",
            "use crate::semver::Version;\nuse super::manifest;"
        )]),
        ["src/oci/digest.rs:2: `oci` (rank 1) imports `semver` (rank 1)"]
    );
    assert_eq!(
        complaints([("src/glob.rs", "use super::http;\nuse super::error::Error;")]),
        ["src/glob.rs:2: `glob` (rank 1) imports `http` (rank 2)"]
    );
    assert_eq!(
        complaints([("src/glob.rs", "use crate::no_module;")]),
        ["src/glob.rs:2: `crate::no_module` is no module with a rank"]
    );
}

#[test]
fn circles_of_imports_are_found_within_a_module_too() {
    assert_eq!(
        complaints([
            ("src/auth/mod.rs", "use token::A;"),
            (
                "src/auth/token.rs",
                "use super::aws::{keys, x};\nuse super::Own;"
            ),
            ("src/auth/aws/mod.rs", "use super::Own;\nuse keys::B;"),
            (
                "src/auth/aws/keys.rs",
                "use super::{chain::A, C};\nfn f() { super::super::token::f() }"
            ),
            ("src/auth/aws/chain.rs", "use crate::auth::file::read;"),
            (
                "src/auth/file.rs",
                "#[cfg(test)]\nmod tests {\n    use super::super::token;\n}"
            ),
        ]),
        [
            "src/auth/aws: in a circle of imports with `auth/token`",
            "src/auth/token: in a circle of imports with `auth/aws`",
        ]
    );
}

#[test]
fn some_modules_may_know_less_than_their_rank_allows() {
    assert_eq!(
        complaints([(
            "src/registry/mod.rs",
            "use crate::{store, rootfs::Root, http, auth};"
        )]),
        [
            "src/registry/mod.rs:2: `registry` may not know `store`",
            "src/registry/mod.rs:2: `registry` may not know `rootfs`",
        ]
    );
    assert_eq!(
        complaints([(
            "src/main.rs",
            "use commands::Command;\nuse registry::Registry;\nuse std::io;"
        )]),
        ["src/main.rs:3: `main` may not know `registry`"]
    );
}

#[test]
fn single_owners_are_found_in_code_and_strings() {
    let cases = [
        ("src/auth/mod.rs", "use ureq::Agent;", "`ureq`"),
        ("src/auth/mod.rs", "fn f() { rustls::x(); }", "`rustls`"),
        (
            "src/pull.rs",
            "fn f() { std::thread::spawn(|| 1); }",
            "`thread::spawn`",
        ),
        (
            "src/pull.rs",
            "use std::{thread::{scope, Builder}};",
            "`thread::scope`",
        ),
        (
            "src/pull.rs",
            "use std::thread as t;",
            "`thread` under another name",
        ),
        ("src/pull.rs", "use std::thread::*;", "`thread::*`"),
        (
            "src/workers.rs",
            "fn f() { thread::sleep(x) }",
            "`thread::sleep`",
        ),
        (
            "src/http/mod.rs",
            "fn f() { eprintln!(\"\"); }",
            "`eprintln!`",
        ),
        (
            "src/http/mod.rs",
            "fn f() { let _ = io::stderr(); }",
            "`io::stderr`",
        ),
        ("src/report.rs", "fn f() { dbg!(1); }", "`dbg!`"),
        (
            "src/commands/mod.rs",
            "use std::io::{self, stdout};",
            "`io::stdout`",
        ),
        (
            "src/commands/mod.rs",
            "fn f() { std::process::exit(1) }",
            "`process::exit`",
        ),
        (
            "src/auth/aws.rs",
            "fn f() { env::var(\"A\"); }",
            "`env::var`",
        ),
        (
            "src/auth/aws.rs",
            "fn f() { SystemTime::now(); }",
            "`SystemTime::now`",
        ),
        (
            "src/auth/aws.rs",
            "fn f() { std::time::Instant::now(); }",
            "`Instant::now`",
        ),
        (
            "src/rootfs/merge.rs",
            "const W: &[u8] = b\".wh.\";",
            "the text `.wh.`",
        ),
        (
            "src/rootfs/merge.rs",
            "const W: &str = r#\"\".wh.\"\"#;",
            "the text `.wh.`",
        ),
        (
            "src/trust/mod.rs",
            "fn f() { \"a library/x\"; }",
            "the text `library/`",
        ),
        (
            "src/oci/mod.rs",
            "const H: &str = \"https://docker.io\";",
            "the text `docker.io`",
        ),
        (
            "src/rootfs/tree.rs",
            "fn f() { root.join(name); }",
            "`.join(name…)`",
        ),
        (
            "src/archive/mod.rs",
            "fn f() { root\n  .join(&name); }",
            "`.join(&…)`",
        ),
        (
            "src/rootfs/tree.rs",
            "fn f() { fs::write(p, b) }",
            "`fs::write`",
        ),
        ("src/error.rs", "fn f() { unsafe { x() } }", "`unsafe`"),
        ("src/error.rs", "#![allow(unsafe_code)]", "`unsafe_code`"),
        (
            "src/error.rs",
            "fn f() { Command::new(x); }\nuse std::process::Command;",
            "`process::Command`",
        ),
    ];
    for (path, text, what) in cases {
        let found = complaints([(path, text)]);
        let named = found
            .iter()
            .any(|complaint| complaint.contains(&format!(": {what} (")));
        assert!(named, "{text}: {found:?}");
    }
}

#[test]
fn owners_comments_tests_and_harmless_words_are_left_alone() {
    for (path, text) in [
        ("src/http/tls.rs", "use rustls::ClientConfig;"),
        (
            "src/workers.rs",
            "use std::thread;\nfn f() { thread::scope(|s| s.spawn(g).join()); }",
        ),
        (
            "src/retry.rs",
            "fn f() { thread::sleep(x); SystemTime::now(); Instant::now(); }",
        ),
        ("src/report.rs", "fn f() { io::stderr(); }"),
        (
            "src/main.rs",
            "fn main() { env::args_os(); io::stdout(); std::process::exit(1) }",
        ),
        ("src/archive/names.rs", "const W: &[u8] = b\".wh.\";"),
        (
            "src/oci/reference.rs",
            "const H: &str = \"index.docker.io\";",
        ),
        (
            "src/oci/platform.rs",
            "fn f() { std::env::consts::ARCH; env!(\"X\"); }",
        ),
        (
            "src/rootfs/tree.rs",
            "fn f() { names.join(\"/\"); thread.join(); join(a, b); }",
        ),
        (
            "src/rootfs/mod.rs",
            "use rustix::fs::read_dir;\nfn f() { rustix::fs::open(d) }",
        ),
        (
            "src/error.rs",
            "// unsafe { ureq }\n/* thread::spawn /* \".wh.\" */ eprintln!() */",
        ),
        (
            "src/error.rs",
            "/// See `std::env::var` and \"docker.io\"\nfn f() {}",
        ),
        (
            "src/error.rs",
            "const S: &str = \"unsafe ureq::x thread::spawn // \\\" \";",
        ),
        (
            "src/error.rs",
            "fn f<'a>(c: char) -> bool { c == '\"' || c == '\\'' || c == 'a' }",
        ),
        (
            "src/error.rs",
            "const S: &str = r##\"a \"# unsafe { \"##; const B: u8 = b'\"';",
        ),
        (
            "src/error.rs",
            "#[cfg(test)]\nmod tests { use std::env; fn f() { env::var(\"}\"); } }",
        ),
        (
            "src/error.rs",
            "#[cfg(test)]\n#[allow(x)]\npub(crate) fn f(a: [u8; 2]) { dbg!(a) }",
        ),
        (
            "src/error.rs",
            "#[cfg(all(test, unix))]\nuse crate::commands;\nfn g() {}",
        ),
        (
            "src/error.rs",
            "struct S { #[cfg(test)] a: crate::http::H, b: u8 }",
        ),
    ] {
        assert_eq!(complaints([(path, text)]), Vec::<String>::new(), "{text}");
    }
    // What comes after a test item is looked at again.
    let found = complaints([(
        "src/error.rs",
        "#[cfg(test)]\nuse a::b;\nfn f() { ureq::x() }",
    )]);
    assert_eq!(
        found,
        ["src/error.rs:4: `ureq` (only `http` speaks HTTP and TLS)"]
    );
    let found = complaints([("src/error.rs", "#[cfg(any(test, x))]\nfn f() { ureq::x() }")]);
    assert_eq!(found.len(), 1, "code of debug builds is code: {found:?}");
}

#[test]
fn files_of_test_modules_are_tests() {
    let bad = "fn f() { eprintln!(\"\") }";
    let found = complaints([
        ("src/oci/mod.rs", "#[cfg(test)]\nmod samples;"),
        ("src/oci/samples.rs", bad),
        ("src/oci/samples/deep.rs", bad),
        ("src/glob.rs", "#[cfg(test)]\nmod tests;"),
        ("src/glob/tests.rs", bad),
        ("src/glob/rules.rs", bad),
    ]);
    assert_eq!(
        found,
        ["src/glob/rules.rs:2: `eprintln!` (only `report` writes stderr)"]
    );
}
