//! What the integration tests share: a scripted registry, builders of images, a runner of the real
//! program, and readers of directory trees.
//!
//! ```ignore
//! mod common;
//! use common::{Fault, Program, Registry, assert_tree, image, layer};
//! use serde_json::json;
//!
//! #[test]
//! fn a_broken_download_resumes_where_it_stopped() {
//!     let registry = Registry::start();
//!     let image = image([layer().file("etc/a", "new")]).oci();
//!     let digest = registry.put_image("team/app", "1", &image);
//!     registry
//!         .on("GET", &format!("/v2/team/app/blobs/{}", image.layers[0].digest))
//!         .then(Fault::ResetAfter(100));
//!     let version = json!({"tag": "1", "digest": digest});
//!     let output = Program::get(json!({
//!         "source": {"repository": registry.repository("team/app"), "tag": "1"},
//!         "version": version,
//!     }))
//!     .against(&registry)
//!     .run();
//!     output.succeeds();
//!     assert_tree(output.destination().join("rootfs"), [("etc/a", "new")]);
//! } // the registry fails the test here if it saw a request that the specification forbids
//! ```
//!
//! A rule with [`Fault::Answer`] makes any path answer, so a fixture also stands in for other HTTP
//! services: `registry.on("POST", "/").then(Fault::Answer(answer(200).json(&body)))`.
//!
//! Order of events is made by the script ([`Gate`], [`Registry::wait_for`]), never by sleeping.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "each test binary compiles this module and uses a part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test code: a panic is how it reports"
)]

mod engine;
mod image;
mod layer;
mod mount;
mod program;
mod proxy;
mod real;
mod registry;
mod secrets;
mod temp;
mod tls;
mod tree;

pub use engine::Engine;
pub use image::{Blob, Image, ImageBuilder, attestation, image, index};
pub use layer::{Compression, Entry, Layer, gzip, layer, zstd};
pub use mount::Tmpfs;
pub use program::{Output, Program, normalise};
pub use proxy::Proxy;
pub use real::{
    DockerRegistry, RealSetup, RealTokens, Server, checked, find, free_port, lacking, require, run,
};
pub use registry::{
    Answer, Fault, Gate, Offence, Registry, Request, Scripted, Setup, Tokens, answer,
};
pub use temp::TempDir;
pub use tls::{Authority, Identity};
pub use tree::{Canary, Node, assert_lines, assert_tree, node, tree};

use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha512};
use std::fmt::Write as _;

/// The object `into` with the fields of another one added, or in the place of its own.
pub fn merge(mut into: Value, fields: Value) -> Value {
    let Value::Object(fields) = fields else {
        panic!("fields are an object")
    };
    into.as_object_mut().unwrap().extend(fields);
    into
}

/// `sha256:<hex>` of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// `sha512:<hex>` of some bytes.
pub fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex(&Sha512::digest(bytes)))
}

/// Whether `digest` is one of the two algorithms we know, and that of these bytes.
pub fn digest_matches(digest: &str, bytes: &[u8]) -> bool {
    digest == sha256(bytes) || digest == sha512(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Bytes that do not compress and are the same for the same seed (xorshift).
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
