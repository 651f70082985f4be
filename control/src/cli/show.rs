//! Answers for people, as tables, and for programs, as JSON.

use std::io::Write as _;

use comfy_table::{Table, presets::NOTHING};
use serde_json::Value;

/// How to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// A column: its heading, and where its text is found.
pub(super) type Column = (&'static str, &'static str);

/// The text of a value found by a JSON pointer.
fn text(row: &Value, pointer: &str) -> String {
    match row.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| text(item, ""))
            .collect::<Vec<_>>()
            .join(" "),
        Some(other) => other.to_string(),
    }
}

/// Writes a line to standard output; a closed pipe is no failure.
pub(super) fn line(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

impl Output {
    /// Shows a list.
    pub(super) fn list(self, rows: &[Value], columns: &[Column]) -> anyhow::Result<()> {
        if self == Self::Json {
            return line(&serde_json::to_string_pretty(rows)?);
        }
        let mut table = Table::new();
        table
            .load_style(NOTHING)
            .set_header(columns.iter().map(|(heading, _)| *heading));
        for row in rows {
            table.add_row(columns.iter().map(|(_, pointer)| text(row, pointer)));
        }
        line(&table.to_string())
    }

    /// Shows one thing with all its members.
    pub(super) fn one(self, value: &Value) -> anyhow::Result<()> {
        if self == Self::Json {
            return line(&serde_json::to_string(value)?);
        }
        let mut table = Table::new();
        table.load_style(NOTHING);
        for (name, member) in value.as_object().into_iter().flatten() {
            let shown = text(member, "");
            if !shown.is_empty() {
                table.add_row([name.as_str(), &shown]);
            }
        }
        line(&table.to_string())
    }

    /// Says that something was done.
    pub(super) fn done(self, what: &str) -> anyhow::Result<()> {
        match self {
            Self::Json => line("{}"),
            Self::Table => line(what),
        }
    }
}
