//! The three commands, each readable from top to bottom.

mod check;
mod get;
mod put;
mod session;

use std::ffi::OsString;
use std::path::Path;

use crate::context::Env;
use crate::error::{Doing, Error, Result};
use crate::report::Hidden;
use crate::retry::Clock;

/// What the program can be called as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Command {
    Check,
    Get,
    Put,
}

/// What a command is given by the process around it.
pub(crate) struct Call<'a> {
    pub(crate) env: &'a Env,
    pub(crate) clock: &'a dyn Clock,
    /// What the step proves itself with is put here: no line of the process may show it.
    pub(crate) hidden: &'a Hidden,
    /// The JSON document on stdin.
    pub(crate) request: &'a [u8],
    /// The directory that `in` fills or `out` reads.
    pub(crate) directory: Option<OsString>,
}

impl Command {
    /// The command of a file name or first argument: `check`, `in`, `out`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "check" => Some(Command::Check),
            "in" => Some(Command::Get),
            "out" => Some(Command::Put),
            _ => None,
        }
    }

    /// The step's name as a pipeline has it; the first word of its error line.
    pub(crate) fn step(self) -> &'static str {
        match self {
            Command::Check => "check",
            Command::Get => "get",
            Command::Put => "put",
        }
    }

    /// Runs the command; the answer is one JSON document.
    pub(crate) fn run(self, call: &Call<'_>) -> Result<String> {
        let directory = |what: &str| {
            let given = call.directory.as_deref().filter(|path| !path.is_empty());
            let path = given.map(Path::new);
            path.ok_or_else(|| Error::config(format!("{what} path not specified")))
        };
        let outcome = match self {
            Command::Check => check::run(call),
            Command::Get => directory("destination").and_then(|path| get::run(call, path)),
            Command::Put => directory("source").and_then(|path| put::run(call, path)),
        };
        outcome.doing(|| self.step())
    }
}
