//! What a command gets from the process around it: environment, clock, log and workers.
//! `main` makes it; nothing below reads the process itself.

use std::collections::BTreeMap;

use crate::report::Report;
use crate::retry::Clock;
use crate::workers::Workers;

/// The environment's variables that are text.
#[derive(Clone, Default)]
pub(crate) struct Env(BTreeMap<String, String>);

impl Env {
    pub(crate) fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Env(variables.into_iter().collect())
    }

    #[cfg(test)]
    pub(crate) fn of(variables: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Env::new(variables.iter().map(owned))
    }

    /// A variable's value; an empty one counts as not set.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    /// The first of `names` that is set, with its value.
    pub(crate) fn first<'a>(&self, names: &[&'a str]) -> Option<(&'a str, &str)> {
        names.iter().find_map(|name| Some((*name, self.get(name)?)))
    }
}

/// Handed down through every command.
pub(crate) struct Context<'a> {
    pub(crate) env: &'a Env,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) report: &'a Report,
    pub(crate) workers: Workers,
}
