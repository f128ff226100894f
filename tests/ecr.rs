//! Amazon ECR against scripted services: where credentials come from, what is sent to whom, and
//! every refusal's whole line. The signatures themselves are checked in `real_ecr.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "test code: a panic is how it reports"
)]

mod clouds;
mod common;

#[path = "ecr/aws.rs"]
mod aws;
#[path = "ecr/chain.rs"]
mod chain;
#[path = "ecr/login.rs"]
mod login;
#[path = "ecr/metadata.rs"]
mod metadata;
#[path = "ecr/passwords.rs"]
mod passwords;
#[path = "ecr/refusals.rs"]
mod refusals;
