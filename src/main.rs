//! A Concourse resource for container images: `check`, `in` and `out`.

mod error;
mod oci;
mod report;
mod retry;
mod secret;
mod store;
mod workers;

fn main() {}
