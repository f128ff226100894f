//! A Concourse resource for container images: `check`, `in` and `out`.
//!
//! Looks at the name it was called by, runs that command, prints its answer or one error line,
//! and exits. The process around the program (arguments, environment, stdin, stdout) ends here.

mod archive;
mod auth;
mod commands;
mod context;
mod error;
mod glob;
mod http;
mod oci;
mod pull;
mod push;
mod registry;
mod report;
mod request;
mod retry;
mod rootfs;
mod secret;
mod semver;
mod store;
mod trust;
mod workers;

/// What the fuzzer does with the parsers, for the replay of its corpus.
#[cfg(test)]
#[path = "../tests/fuzz/targets.rs"]
mod fuzz;

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use commands::{Call, Command};
use context::Env;
use error::{Doing as _, Error, Result};
use report::{Hidden, Report};
use retry::{Clock, RealClock};

const USAGE: &str = "\
registry-image: a Concourse resource for container images

usage:
  check           < request.json    the versions of a repository, oldest first
  in DIRECTORY    < request.json    fetches an image into the directory
  out DIRECTORY   < request.json    pushes an image from the directory

The commands are names of this program (links to it), or its first argument:
  registry-image check < request.json
  registry-image --help | --version

Environment: REGISTRY_IMAGE_WORKERS is how many blobs are worked on side by side at
most, 1 to 64 (default: twice the processors, 2 to 8).

The request is one JSON document on stdin, the answer one on stdout; all else is
on stderr. The exit status is 0, or 1 when the step failed.
";

/// A request that holds more than this is a mistake (a file piped into the wrong program).
const REQUEST_LIMIT: u64 = 64 << 20;

fn main() -> ExitCode {
    let hidden = Hidden::default();
    let written = run(env::args_os().collect(), &hidden).and_then(|answer| {
        let written = io::stdout().write_all(answer.as_bytes());
        written.doing(|| "write the answer")
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            Report::new(false, hidden).failure(&error);
            ExitCode::FAILURE
        }
    }
}

/// What is to be printed on stdout.
fn run(arguments: Vec<OsString>, hidden: &Hidden) -> Result<String> {
    let mut arguments = arguments.into_iter();
    let program = arguments.next().unwrap_or_default();
    let command = match named(&program) {
        Some(command) => command,
        None => match arguments.next() {
            None => return Err(usage_error("a command is missing".to_owned())),
            Some(word) => match (word.to_str(), named(&word)) {
                (Some("--help" | "-h"), _) => return Ok(USAGE.to_owned()),
                (Some("--version" | "-V"), _) => return Ok(version()),
                (_, Some(command)) => command,
                (_, None) => {
                    let word = word.to_string_lossy();
                    return Err(usage_error(format!("`{word}` is not a command")));
                }
            },
        },
    };
    let directory = arguments.next();
    match directory.as_deref().and_then(OsStr::to_str) {
        Some("--help" | "-h") => return Ok(USAGE.to_owned()),
        Some("--version" | "-V") => return Ok(version()),
        _ => {}
    }
    let mut request = Vec::new();
    io::stdin()
        .take(REQUEST_LIMIT + 1)
        .read_to_end(&mut request)
        .doing(|| "read the request")?;
    if request.len() as u64 > REQUEST_LIMIT {
        return Err(Error::config(format!(
            "the request on stdin has more than {} MiB",
            REQUEST_LIMIT >> 20
        )));
    }
    let variables = env::vars_os();
    let variables = variables
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let env = Env::new(variables);
    let mut answer = command.run(&Call {
        clock: &*clock(&env),
        env: &env,
        hidden,
        request: &request,
        directory,
    })?;
    answer.push('\n');
    Ok(answer)
}

fn named(program: &OsStr) -> Option<Command> {
    Command::from_name(Path::new(program).file_name()?.to_str()?)
}

fn usage_error(why: String) -> Error {
    Error::config(why).advise("see `registry-image --help`")
}

fn version() -> String {
    format!("registry-image {}\n", env!("CARGO_PKG_VERSION"))
}

/// Tests of the debug build can let waits take no time.
fn clock(env: &Env) -> Box<dyn Clock> {
    #[cfg(debug_assertions)]
    if env.get("REGISTRY_IMAGE_TEST_CLOCK").is_some() {
        return Box::new(retry::SkippingClock::start());
    }
    let _ = env;
    Box::new(RealClock::start())
}
