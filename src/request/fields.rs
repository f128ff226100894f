//! A JSON object whose fields are taken by name; what is left over at the end is a mistake.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// One object of the request.
///
/// `null` and the empty text count as absent: pipelines fill fields from variables that may be
/// empty.
pub(super) struct Fields {
    path: String,
    map: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Fields {
    /// `path` is how messages call the object; empty for the document itself.
    pub(super) fn new(path: String, map: Map<String, Value>) -> Self {
        Fields {
            path,
            map,
            known: Vec::new(),
        }
    }

    /// The full name of a field, as messages show it.
    pub(super) fn path_of(&self, name: &str) -> String {
        match self.path.is_empty() {
            true => name.to_owned(),
            false => format!("{}.{name}", self.path),
        }
    }

    /// A text.
    pub(super) fn string(&mut self, name: &'static str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.mistyped(name, "a text", &other)),
        }
    }

    /// A text for which YAML authors forget the quotes: a number stands for the characters it was
    /// written with.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>> {
        match self.take(name) {
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.mistyped(name, "a text", &other)),
        }
    }

    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(self.mistyped(name, "true or false", &other)),
        }
    }

    pub(super) fn strings(&mut self, name: &'static str) -> Result<Vec<String>> {
        let list = match self.take(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list,
            Some(other) => return Err(self.mistyped(name, "a list of texts", &other)),
        };
        let mut texts = Vec::with_capacity(list.len());
        for (at, value) in list.into_iter().enumerate() {
            match value {
                Value::String(text) => texts.push(text),
                other => return Err(self.mistyped(&format!("{name}[{at}]"), "a text", &other)),
            }
        }
        Ok(texts)
    }

    pub(super) fn object(&mut self, name: &'static str) -> Result<Option<Fields>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields::new(self.path_of(name), map))),
            Some(other) => Err(self.mistyped(name, "an object", &other)),
        }
    }

    /// # Errors
    /// Names a field that nobody asked for, with its path, and the nearest one there is.
    pub(super) fn finish(self) -> Result<()> {
        let Some(unknown) = self.map.keys().next() else {
            return Ok(());
        };
        let error = Error::config(format!(
            "`{}` is not a field of the request",
            self.path_of(unknown)
        ));
        Err(match self.nearest(unknown) {
            Some(known) => error.advise(format!("did you mean `{}`?", self.path_of(known))),
            None => error,
        })
    }

    /// The known field that is nearest to `unknown`, where it is near at all.
    fn nearest(&self, unknown: &str) -> Option<&'static str> {
        let unknown = unknown.to_lowercase().replace('-', "_");
        self.known
            .iter()
            .map(|known| (strsim::osa_distance(&unknown, known), *known))
            .filter(|(distance, known)| {
                *distance <= known.len().div_ceil(3) || known.starts_with(unknown.as_str())
            })
            .min()
            .map(|(_, known)| known)
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        match self.map.remove(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.is_empty() => None,
            Some(value) => Some(value),
        }
    }

    /// The value itself is not shown: it may be a secret in the wrong place.
    fn mistyped(&self, name: &str, wanted: &str, found: &Value) -> Error {
        let found = match found {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        Error::config(format!(
            "`{}` must be {wanted}, not {found}",
            self.path_of(name)
        ))
    }
}
