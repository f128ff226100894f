//! One attempt of one request: connections, proxies, TLS, redirects. The only user of ureq and
//! rustls. It never tries again: whoever asks decides that by [`crate::error::Again`].

mod addresses;
mod certificates;
mod client;
mod connections;
mod dial;
mod exchange;
mod failure;
mod names;
mod options;
mod problem;
mod proxy;
mod redirects;
mod request;
mod response;
mod tls;
mod url;
mod wire;

pub(crate) use addresses::{is_private_literal, is_this_machine};
pub(crate) use client::Client;
pub(crate) use options::{Identity, Options};
pub(crate) use problem::{problem, problem_saying};
pub(crate) use request::{Payload, Reach, Request, Waits};
pub(crate) use response::{BodyReader, Response};
pub(crate) use url::{Scheme, Url, encode};
