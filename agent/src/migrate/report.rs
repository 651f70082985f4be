//! What the control plane is told while a migration runs: progress in one number, speed, time left, a message.

use std::sync::{Arc, Mutex};

use transfer::progress::{Event, Observer, Progress};

use crate::units;

/// Share of the whole that each stage is worth, in percent of progress: where it begins and where it ends.
const PREPARE: (f64, f64) = (0.0, 2.0);
const FULL_ROUND: (f64, f64) = (2.0, 85.0);
const FURTHER_ROUNDS: (f64, f64) = (85.0, 90.0);
const VERIFYING: (f64, f64) = (90.0, 98.0);

/// The state of a migration as the control plane is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// 0 to 99; the end is reported with the result.
    pub percent: f64,
    /// The latest message.
    pub message: String,
    /// Wire rate in KB/s.
    pub speed_kbs: u64,
    /// Estimated minutes left, rounded up, when known.
    pub minutes_left: Option<u64>,
}

/// Watches a run and keeps the report; hands every event on to whoever shows it.
pub struct Reporter {
    report: Mutex<Report>,
    shown: Arc<dyn Observer>,
}

impl Reporter {
    /// A reporter that hands events on to `shown`.
    pub fn new(shown: Arc<dyn Observer>) -> Self {
        Self {
            report: Mutex::default(),
            shown,
        }
    }

    /// The report of this moment.
    pub fn now(&self) -> Report {
        self.lock().clone()
    }

    /// Says what is being done outside of the data plane.
    pub fn say(&self, message: impl Into<String>) {
        let message = message.into();
        tracing::info!("{message}");
        self.lock().message = message;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Report> {
        self.report
            .lock()
            .expect("no thread panics while it holds the report")
    }
}

impl Observer for Reporter {
    fn event(&self, event: &Event) {
        log(event);
        self.lock().take(event);
        self.shown.event(event);
    }
}

fn log(event: &Event) {
    match event {
        Event::Retrying {
            error,
            attempt,
            delay_ms,
        } => tracing::warn!(attempt, delay_ms, "connection lost: {error}"),
        Event::Warning { message } => tracing::warn!("{message}"),
        Event::RoundFinished { round, progress } => tracing::info!(
            round,
            sent = progress.sent,
            deleted = progress.deleted,
            bytes_read = progress.bytes_read,
            bytes_wire = progress.bytes_wire,
            seconds = progress.seconds,
            "round finished"
        ),
        _ => {}
    }
}

impl Report {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Connected { target, .. } => {
                self.advance(PREPARE, 1.0);
                self.message = format!("connected to {target}");
            }
            Event::RoundStarted { round, .. } => {
                self.message = format!("round {round} started");
            }
            Event::Progress(progress) => self.progress(progress),
            Event::RoundFinished { round, progress } => {
                self.advance(if *round <= 1 { FULL_ROUND } else { FURTHER_ROUNDS }, 1.0);
                self.message = format!(
                    "round {round} finished: {} sent, {} over the wire",
                    units::count(progress.sent),
                    units::bytes(progress.bytes_wire)
                );
            }
            Event::Verifying { bytes, bytes_total } => {
                self.advance(VERIFYING, share(*bytes, *bytes_total));
                self.message = "verifying".to_owned();
            }
            Event::Retrying { error, .. } => self.message = format!("connection lost, trying again: {error}"),
            Event::Warning { message } => self.message.clone_from(message),
        }
    }

    fn progress(&mut self, progress: &Progress) {
        let stage = if progress.round <= 1 {
            FULL_ROUND
        } else {
            FURTHER_ROUNDS
        };
        self.advance(stage, share(progress.bytes_done, progress.bytes_total));
        self.speed_kbs = progress.rate / 1024;
        self.minutes_left = progress.eta_seconds.map(|seconds| seconds.div_ceil(60));
    }

    /// Progress never goes back: an estimate that grew is not the user's business.
    fn advance(&mut self, stage: (f64, f64), share: f64) {
        self.percent = self.percent.max(stage.0 + (stage.1 - stage.0) * share);
    }
}

fn share(done: u64, total: u64) -> f64 {
    if total == 0 {
        0.0
    } else {
        (done as f64 / total as f64).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_rises_through_the_stages_and_never_falls() {
        let mut report = Report::default();
        let mut seen = Vec::new();
        let progress = |round, bytes_done, bytes_total| {
            Event::Progress(Progress {
                round,
                bytes_done,
                bytes_total,
                rate: 2 << 20,
                eta_seconds: Some(61),
                ..Progress::default()
            })
        };
        for event in [
            Event::Connected {
                target: "t".into(),
                connections: 1,
            },
            progress(1, 50, 100),
            progress(1, 50, 400),
            progress(1, 400, 400),
            progress(2, 0, 0),
            Event::Verifying {
                bytes: 1,
                bytes_total: 2,
            },
            Event::Verifying {
                bytes: 2,
                bytes_total: 2,
            },
        ] {
            report.take(&event);
            seen.push(report.percent);
        }
        assert_eq!(seen, [2.0, 43.5, 43.5, 85.0, 85.0, 94.0, 98.0]);
        assert_eq!((report.speed_kbs, report.minutes_left), (2048, Some(2)));
    }
}
