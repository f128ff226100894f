//! A JSON object whose fields are taken by name. One that nobody knows is told first: what is
//! missing may be what was misspelt.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::names;
use crate::error::{Error, Result};

/// Characters of an unknown field's name that a message shows; longer ones are no typing errors.
const SHOWN_LIMIT: usize = 60;

/// Values as they were written: a parsed number would have lost its text (`1e3`, `1.10`).
type Values = BTreeMap<String, Box<RawValue>>;

/// One object of the request.
///
/// `null` and the empty text count as absent: pipelines fill fields from variables that may be
/// empty.
pub(super) struct Fields {
    path: String,
    values: Values,
    known: &'static [&'static str],
}

/// What a value is, told by its first character.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Shape {
    Flag,
    List,
    Null,
    Number,
    Object,
    Text,
}

impl Shape {
    fn of(value: &RawValue) -> Self {
        match value.get().bytes().next() {
            Some(b'{') => Shape::Object,
            Some(b'[') => Shape::List,
            Some(b'"') => Shape::Text,
            Some(b't' | b'f') => Shape::Flag,
            Some(b'n') => Shape::Null,
            _ => Shape::Number,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Shape::Flag => "true or false",
            Shape::List => "a list",
            Shape::Null => "null",
            Shape::Number => "a number",
            Shape::Object => "an object",
            Shape::Text => "a text",
        }
    }
}

impl Fields {
    /// Reads the document, whose fields are `known`.
    ///
    /// # Errors
    /// Names a field that is not known, with its path, and the nearest one that is.
    pub(super) fn document(text: &[u8], known: &'static [&'static str]) -> Result<Self> {
        let invalid =
            |error| Error::config(format!("the request on stdin is not valid JSON: {error}"));
        let document: Box<RawValue> = serde_json::from_slice(text).map_err(invalid)?;
        if Shape::of(&document) != Shape::Object {
            return Err(Error::config("the request on stdin is not a JSON object"));
        }
        let values = serde_json::from_slice(document.get().as_bytes()).map_err(invalid)?;
        Fields::of(String::new(), values, known)
    }

    /// `path` is how messages call the object; empty for the document itself.
    fn of(path: String, values: Values, known: &'static [&'static str]) -> Result<Self> {
        let fields = Fields {
            path,
            values,
            known,
        };
        let mut names = fields.values.keys();
        match names.find(|name| !known.contains(&name.as_str())) {
            Some(unknown) => Err(fields.unknown(unknown)),
            None => Ok(fields),
        }
    }

    fn unknown(&self, name: &str) -> Error {
        let mut shown: String = name.chars().take(SHOWN_LIMIT).collect();
        if shown.len() < name.len() {
            shown.push('…');
        }
        let error = Error::config(format!(
            "`{}` is not a field of the request",
            self.path_of(&shown)
        ));
        if let Some(object) = names::belongs_in(name, &self.path) {
            return error.advise(format!("it belongs in `{object}`"));
        }
        match self.nearest(name) {
            Some(known) => error.advise(format!("did you mean `{}`?", self.path_of(known))),
            None => error,
        }
    }

    /// The known field that is nearest to `unknown`, where it is near at all.
    fn nearest(&self, unknown: &str) -> Option<&'static str> {
        let unknown = unknown.to_lowercase().replace('-', "_");
        if unknown.is_empty() {
            return None;
        }
        self.known
            .iter()
            .map(|known| (strsim::osa_distance(&unknown, known), *known))
            .filter(|(distance, known)| {
                *distance <= known.len().div_ceil(3) || known.starts_with(unknown.as_str())
            })
            .min()
            .map(|(_, known)| known)
    }

    /// The full name of a field, as messages show it.
    pub(super) fn path_of(&self, name: &str) -> String {
        match self.path.is_empty() {
            true => name.to_owned(),
            false => format!("{}.{name}", self.path),
        }
    }

    /// Whether the field was written at all, were it as nothing.
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The error for a field without which nothing can be done.
    pub(super) fn missing(&self, name: &str) -> Error {
        Error::config(format!("`{}` is missing", self.path_of(name)))
    }

    /// A text.
    pub(super) fn string(&mut self, name: &'static str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => self.read(name, "a text", Shape::Text, &value).map(Some),
        }
    }

    /// A text for which YAML authors forget the quotes: a number stands for the characters it was
    /// written with.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(value) if Shape::of(&value) == Shape::Number => Ok(Some(value.get().to_owned())),
            Some(value) => self.read(name, "a text", Shape::Text, &value).map(Some),
        }
    }

    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool> {
        Ok(self.switch(name)?.unwrap_or_default())
    }

    /// A flag for which `false` says more than nothing.
    pub(super) fn switch(&mut self, name: &'static str) -> Result<Option<bool>> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => {
                let flag = self.read(name, "true or false", Shape::Flag, &value)?;
                Ok(Some(flag))
            }
        }
    }

    pub(super) fn strings(&mut self, name: &'static str) -> Result<Vec<String>> {
        let Some(list) = self.take(name) else {
            return Ok(Vec::new());
        };
        let list: Vec<Box<RawValue>> = self.read(name, "a list of texts", Shape::List, &list)?;
        let texts = list
            .iter()
            .enumerate()
            .map(|(at, value)| self.read(&format!("{name}[{at}]"), "a text", Shape::Text, value));
        texts.collect()
    }

    /// An object, whose fields are `known`.
    pub(super) fn object(
        &mut self,
        name: &'static str,
        known: &'static [&'static str],
    ) -> Result<Option<Fields>> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => {
                let values = self.read(name, "an object", Shape::Object, &value)?;
                Fields::of(self.path_of(name), values, known).map(Some)
            }
        }
    }

    fn take(&mut self, name: &'static str) -> Option<Box<RawValue>> {
        debug_assert!(self.known.contains(&name), "`{name}` is in no list");
        let value = self.values.remove(name)?;
        let absent = Shape::of(&value) == Shape::Null || value.get() == r#""""#;
        (!absent).then_some(value)
    }

    /// The value itself is not shown: it may be a secret in the wrong place.
    fn read<'a, T: Deserialize<'a>>(
        &self,
        name: &str,
        wanted: &str,
        shape: Shape,
        value: &'a RawValue,
    ) -> Result<T> {
        let found = Shape::of(value);
        if found != shape {
            return Err(Error::config(format!(
                "`{}` must be {wanted}, not {}",
                self.path_of(name),
                found.name()
            )));
        }
        serde_json::from_slice(value.get().as_bytes()).map_err(|error| {
            Error::config(format!(
                "`{}` is not valid JSON: {error}",
                self.path_of(name)
            ))
        })
    }
}
