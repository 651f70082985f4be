//! A JSON document as a flat list of dotted keys, with messages that say where.

use std::path::Path;

use serde_json::Value;

use crate::refusal::Refusals;

/// The values of a document by dotted key, in the order in which they are asked for.
pub(super) struct Document<'a> {
    path: &'a Path,
    text: &'a str,
    leaves: Vec<(String, Value)>,
}

impl<'a> Document<'a> {
    /// Parses `text`; an error names line and column.
    pub(super) fn parse(path: &'a Path, text: &'a str, refusals: &mut Refusals) -> Option<Self> {
        // A byte order mark is what some editors leave; an empty file sets nothing.
        let text = text.trim_start_matches('\u{feff}');
        if text.trim().is_empty() {
            return None;
        }
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => {
                let mut leaves = Vec::new();
                flatten("", &Value::Object(map), &mut leaves);
                Some(Self { path, text, leaves })
            }
            Ok(_) => {
                refusals.add(format!("{}:1:1: expected an object, `{{ … }}`", path.display()));
                None
            }
            Err(error) => {
                let message = error.to_string();
                let message = message.split(" at line ").next().unwrap_or_default();
                refusals.add(format!(
                    "{}:{}:{}: {message}",
                    path.display(),
                    error.line(),
                    error.column()
                ));
                None
            }
        }
    }

    /// Takes the value of the first of `keys` that is there.
    fn take(&mut self, keys: &[&str]) -> Option<(String, Value)> {
        let at = self
            .leaves
            .iter()
            .position(|(key, _)| keys.iter().any(|known| known.eq_ignore_ascii_case(key)))?;
        Some(self.leaves.remove(at))
    }

    /// A string; numbers are taken as such. Empty is absent.
    pub(super) fn text(&mut self, keys: &[&str], refusals: &mut Refusals) -> Option<String> {
        match self.take(keys)? {
            (_, Value::String(text)) => Some(text).filter(|text| !text.trim().is_empty()),
            (_, Value::Number(number)) => Some(number.to_string()),
            (_, Value::Null) => None,
            (key, _) => {
                refusals.add(self.at(&key, "must be a string"));
                None
            }
        }
    }

    /// A switch: `true`, `false`, or either as a string.
    pub(super) fn switch(&mut self, keys: &[&str], refusals: &mut Refusals) -> Option<bool> {
        match self.take(keys)? {
            (_, Value::Bool(on)) => Some(on),
            (_, Value::Null) => None,
            (_, Value::String(text)) if text.is_empty() => None,
            (_, Value::String(text)) if text.eq_ignore_ascii_case("true") => Some(true),
            (_, Value::String(text)) if text.eq_ignore_ascii_case("false") => Some(false),
            (key, _) => {
                refusals.add(self.at(&key, "must be true or false"));
                None
            }
        }
    }

    /// Whether any key begins with `prefix`; takes them all.
    pub(super) fn ignore(&mut self, prefix: &str) -> bool {
        let before = self.leaves.len();
        self.leaves.retain(|(key, _)| {
            !key.get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        });
        self.leaves.len() < before
    }

    /// Refuses what nobody asked for.
    pub(super) fn finish(self, known: &[&str], refusals: &mut Refusals) {
        for (key, _) in &self.leaves {
            let nearest = known
                .iter()
                .map(|known| (crate::cli::flags::distance(key, known), known))
                .min()
                .filter(|(distance, _)| *distance <= (key.len() / 3).max(2));
            refusals.add(match nearest {
                Some((_, nearest)) => self.at(key, &format!("is unknown; did you mean `{nearest}`?")),
                None => self.at(key, "is unknown"),
            });
        }
    }

    fn at(&self, key: &str, what: &str) -> String {
        let (line, column) = self.position(key);
        format!("{}:{line}:{column}: `{key}` {what}", self.path.display())
    }

    /// Line and column of a key: each part of it is looked for after the one before.
    fn position(&self, key: &str) -> (usize, usize) {
        let mut from = 0;
        for part in key.split('.') {
            let quoted = Value::String(part.to_owned()).to_string();
            match self.text[from..].find(&quoted) {
                Some(at) => from += at,
                None => break,
            }
        }
        let before = &self.text[..from];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|letter| *letter != '\n').count() + 1;
        (line, column)
    }
}

fn flatten(prefix: &str, value: &Value, leaves: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                flatten(&key, value, leaves);
            }
        }
        leaf => leaves.push((prefix.to_owned(), leaf.clone())),
    }
}
