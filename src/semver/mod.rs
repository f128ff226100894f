//! Versions written in tags: reading them, constraining them, choosing what `check` reports and
//! what `put` pushes.
//!
//! Pure: text and digests in, text and digests out. Nothing here knows registries, requests or
//! files; whoever calls asks the questions between two steps.

mod alias;
mod constraint;
mod created;
mod select;
mod version;

pub(crate) use alias::{Wanted, WantedTags};
pub(crate) use constraint::Constraint;
pub(crate) use created::{Created, oldest_first};
pub(crate) use select::{Candidates, Given, Rules, one_tag};

#[cfg(test)]
mod testing;
