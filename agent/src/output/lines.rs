//! Plain lines for logs and pipes: state changes at once, progress every ten seconds.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use transfer::progress::{Event, Observer};

use super::{complain, figures, sentence};
use crate::units;

/// Pause between two lines about progress.
const PAUSE: Duration = Duration::from_secs(10);

/// Prints lines to standard error.
#[derive(Default)]
pub(super) struct Lines {
    last: Mutex<Option<Instant>>,
}

impl Lines {
    /// Whether it is time for another line about progress.
    fn is_due(&self, now: Instant) -> bool {
        let mut last = self
            .last
            .lock()
            .expect("no thread panics while it holds the clock");
        let due = last.is_none_or(|last| now.duration_since(last) >= PAUSE);
        if due {
            *last = Some(now);
        }
        due
    }

    fn restart(&self, now: Instant) {
        *self
            .last
            .lock()
            .expect("no thread panics while it holds the clock") = Some(now);
    }
}

impl Observer for Lines {
    fn event(&self, event: &Event) {
        let now = Instant::now();
        match event {
            Event::Progress(progress) if self.is_due(now) => {
                complain(&format!("round {}: {}", progress.round, figures(progress)));
            }
            Event::Verifying { bytes, bytes_total } if self.is_due(now) => complain(&format!(
                "verifying: {} of {} read back",
                units::bytes(*bytes),
                units::bytes(*bytes_total)
            )),
            Event::Progress(_) | Event::Verifying { .. } => {}
            other => {
                self.restart(now);
                if let Some(text) = sentence(other) {
                    complain(&text);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_lines_come_every_ten_seconds() {
        let lines = Lines::default();
        let start = Instant::now();
        let due: Vec<u64> = (0..35)
            .filter(|second| lines.is_due(start + Duration::from_secs(*second)))
            .collect();
        assert_eq!(due, [0, 10, 20, 30]);
    }
}
