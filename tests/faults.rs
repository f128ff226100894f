//! What goes wrong between us and the servers, and what that costs: requests are counted, the
//! lines that a user sees are compared whole, and waits take no time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "test code: a panic is how it reports"
)]

mod common;

#[path = "faults/answers.rs"]
mod answers;
#[path = "faults/help.rs"]
mod help;
#[path = "faults/limits.rs"]
mod limits;
#[path = "faults/login.rs"]
mod login;
#[path = "faults/manners.rs"]
mod manners;
#[path = "faults/matrix.rs"]
mod matrix;
#[path = "faults/mirrors.rs"]
mod mirrors;
#[path = "faults/proxies.rs"]
mod proxies;
#[path = "faults/redirects.rs"]
mod redirects;
#[path = "faults/resume.rs"]
mod resume;
#[path = "faults/tls.rs"]
mod tls;
#[path = "faults/uploads.rs"]
mod uploads;
#[path = "faults/words.rs"]
mod words;
