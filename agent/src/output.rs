//! What the user sees: lines on the terminal or in a log, a progress bar, JSON.
//!
//! Progress and complaints go to standard error, results to standard output. A reader that went away must not end a
//! migration: failed writes to both are ignored.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;

use transfer::progress::{Event, Observer, Silent};

mod json;
mod lines;
mod summary;
mod terminal;

pub use json::error_line;
pub use summary::{print_error, print_summary};

/// Prints a result.
pub fn say(text: &str) {
    let mut output = io::stdout().lock();
    let _ = writeln!(output, "{}", text.trim_end());
}

/// Prints a complaint or a remark about progress.
pub fn complain(text: &str) {
    let mut output = io::stderr().lock();
    let _ = writeln!(output, "{}", text.trim_end());
}

/// Tells what happens: a sentence for people, an event for programs.
pub fn remark(style: Style, text: &str) {
    #[derive(serde::Serialize)]
    struct Remark<'a> {
        event: &'static str,
        text: &'a str,
    }
    match style {
        Style::People => say(text),
        Style::Json => json::line(&Remark {
            event: "remark",
            text,
        }),
        Style::Quiet => {}
    }
}

/// How a run is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A bar if somebody watches, lines otherwise.
    People,
    /// One JSON object per line.
    Json,
    /// Errors only.
    Quiet,
}

/// The observer for `style`.
pub fn observer(style: Style) -> Arc<dyn Observer> {
    match style {
        Style::Quiet => Arc::new(Silent),
        Style::Json => Arc::new(json::Json),
        Style::People if io::stderr().is_terminal() => Arc::new(terminal::Terminal::new()),
        Style::People => Arc::new(lines::Lines::default()),
    }
}

/// One event as a sentence, for logs; `None` for those that only move a bar.
fn sentence(event: &Event) -> Option<String> {
    use crate::units;
    Some(match event {
        Event::Connected { target, connections } => {
            format!("connected to {target}, {connections} connections")
        }
        Event::RoundStarted { round, tracked: true } => format!("round {round}: what the tracker saw change"),
        Event::RoundStarted {
            round,
            tracked: false,
        } => format!("round {round}: looking at everything"),
        Event::RoundFinished { round, progress } => format!(
            "round {round} done in {}: {} looked at, {} sent, {} deleted, {} over the wire",
            units::seconds(progress.seconds as u64),
            units::count(progress.scanned),
            units::count(progress.sent),
            units::count(progress.deleted),
            units::bytes(progress.bytes_wire),
        ),
        Event::Retrying {
            error,
            attempt,
            delay_ms,
        } => {
            let seconds = *delay_ms as f64 / 1000.0;
            format!("{error}; attempt {attempt} follows in {seconds:.1} s")
        }
        Event::Warning { message } => format!("warning: {message}"),
        Event::Progress(_) | Event::Verifying { .. } => return None,
    })
}

/// The figures of a round in one line.
fn figures(progress: &transfer::progress::Progress) -> String {
    use crate::units;
    let mut text = format!("{} entries", units::count(progress.scanned));
    if progress.entries_total > 0 {
        text.push_str(&format!(" of {}", units::count(progress.entries_total)));
    }
    text.push_str(&format!(", {}", units::bytes(progress.bytes_done)));
    if progress.bytes_total > 0 {
        text.push_str(&format!(" of {}", units::bytes(progress.bytes_total)));
    }
    text.push_str(&format!(
        ", wire {}, {}/s",
        units::bytes(progress.bytes_wire),
        units::bytes(progress.rate)
    ));
    if let Some(eta) = progress.eta_seconds {
        text.push_str(&format!(", {} left", units::seconds(eta)));
    }
    text
}
