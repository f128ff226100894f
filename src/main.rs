//! A Concourse resource for container images: `check`, `in` and `out`.

mod error;
mod oci;
mod report;
mod request;
mod retry;
mod secret;
mod workers;

fn main() {}
