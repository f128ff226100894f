//! A Concourse resource for container images: `check`, `in` and `out`.
//!
//! Looks at the name it was called by, runs that command, prints its answer or one error line,
//! and exits. The process around the program (arguments, environment, stdin, stdout) ends here.

mod archive;
mod auth;
mod context;
mod error;
mod glob;
mod http;
mod oci;
mod registry;
mod report;
mod request;
mod retry;
mod rootfs;
mod secret;
mod semver;
mod store;
mod workers;

fn main() {}
