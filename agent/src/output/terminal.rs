//! A progress bar on the terminal, with state changes as lines above it.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use transfer::progress::{Event, Observer, Progress};

use super::{figures, sentence};
use crate::units;

/// Redraws per second.
const RATE_HZ: u8 = 5;

/// Draws to standard error.
pub(super) struct Terminal {
    bar: ProgressBar,
}

impl Terminal {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(RATE_HZ));
        bar.set_style(unknown_total());
        Self { bar }
    }

    fn show(&self, prefix: String, done: u64, total: u64, message: String) {
        if total > 0 {
            self.bar.set_style(known_total());
            self.bar.set_length(total.max(done));
        } else {
            self.bar.set_style(unknown_total());
        }
        self.bar.set_position(done);
        self.bar.set_prefix(prefix);
        self.bar.set_message(message);
    }
}

impl Observer for Terminal {
    fn event(&self, event: &Event) {
        match event {
            Event::Progress(progress) => self.show(
                format!("round {}", progress.round),
                progress.bytes_done,
                progress.bytes_total,
                if progress.bytes_total > 0 {
                    brief(progress)
                } else {
                    figures(progress)
                },
            ),
            Event::Verifying { bytes, bytes_total } => self.show(
                "verifying".to_owned(),
                *bytes,
                *bytes_total,
                format!("{} of {}", units::bytes(*bytes), units::bytes(*bytes_total)),
            ),
            other => {
                if let Some(text) = sentence(other) {
                    self.bar.println(text);
                }
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// What fits beside a bar on 80 columns: files, bytes, wire bytes, rate, remaining time. The bar shows the share.
fn brief(progress: &Progress) -> String {
    let eta = progress
        .eta_seconds
        .map_or_else(|| "?".to_owned(), units::seconds);
    format!(
        "{} files, {}, wire {}, {}/s, ETA {eta}",
        units::count(progress.scanned),
        units::bytes(progress.bytes_done),
        units::bytes(progress.bytes_wire),
        units::bytes(progress.rate),
    )
}

fn known_total() -> ProgressStyle {
    style("{prefix} [{wide_bar}] {percent:>3}% {msg}")
}

fn unknown_total() -> ProgressStyle {
    style("{prefix} {spinner} {wide_msg}")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates are constants of this file")
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_valid_and_events_are_taken() {
        let terminal = Terminal::new();
        terminal.event(&Event::Progress(Default::default()));
        terminal.event(&Event::Verifying {
            bytes: 1,
            bytes_total: 2,
        });
        assert_eq!(terminal.bar.position(), 1);
        assert_eq!(terminal.bar.length(), Some(2));
    }
}
