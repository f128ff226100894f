//! A Concourse resource for container images: `check`, `in` and `out`.

mod auth;
mod context;
mod error;
mod http;
mod oci;
mod registry;
mod report;
mod request;
mod retry;
mod secret;
mod workers;

fn main() {}
