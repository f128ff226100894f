//! Versions written in tags: reading them, constraining them, choosing what `check` reports and
//! what `put` pushes.
//!
//! Pure: text and digests in, text and digests out. Nothing here knows registries, requests or
//! files; whoever calls asks the questions between two steps.

// Nothing calls these modules yet; goes when the commands are wired.
#![allow(dead_code, unused_imports)]

mod alias;
mod constraint;
mod created;
mod select;
mod version;

pub(crate) use alias::{Wanted, WantedTags};
pub(crate) use constraint::Constraint;
pub(crate) use created::{Created, oldest_first};
pub(crate) use select::{Candidates, Given, Lookups, Rules, one_tag};
pub(crate) use version::Version;

#[cfg(test)]
mod testing;
