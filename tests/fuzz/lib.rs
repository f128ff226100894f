//! The program's parsers, compiled into the fuzzer's own crate: the program is a binary and has no library.
//!
//! Owns which modules those are. What is done with them is in `targets`, which the program's suite shares.

#![allow(dead_code, unused_imports, reason = "of each module only the part that parses is called")]

// The folder is the program's, so that every module finds its own files.
#[path = "../../src"]
mod src {
    pub(crate) mod archive;
    pub(crate) mod error;
    pub(crate) mod oci;
    pub(crate) mod workers;
    pub(crate) mod http {
        mod url;
        pub(crate) use url::{Scheme, Url};
    }
}

// As the modules know each other: `crate::error`.
use src::{archive, error, http, oci, workers};

mod targets;

/// Does with `input` what the target of that name does. It panics where a promise is broken.
pub fn run(target: &str, input: &[u8]) {
    let found = targets::TARGETS.iter().find(|(name, _)| *name == target);
    let (_, run) = found.expect("a target of that name");
    run(input);
}
