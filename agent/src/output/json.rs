//! One JSON object per line on standard output: events as they happen, last the summary.

use std::io::{self, Write as _};

use serde::Serialize;
use transfer::progress::{Event, Observer};

/// Prints each event as one line.
pub(super) struct Json;

impl Observer for Json {
    fn event(&self, event: &Event) {
        line(event);
    }
}

/// Prints the summary line of a run that failed.
pub fn error_line(error: &str, kind: &str) {
    #[derive(Serialize)]
    struct Failed<'a> {
        event: &'static str,
        ok: bool,
        kind: &'a str,
        error: &'a str,
    }
    line(&Failed {
        event: "summary",
        ok: false,
        kind,
        error,
    });
}

/// Prints `value` as one line.
pub(super) fn line(value: &impl Serialize) {
    let text = serde_json::to_string(value).expect("events have string keys and no failing parts");
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "{text}").and_then(|()| output.flush());
}
