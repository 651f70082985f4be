//! `go2cloud status`: what a running agent is doing. The agent writes it to its folder; nobody has to be asked.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cli::StatusArgs;
use crate::exit::{self, Exit};
use crate::output::say;
use crate::state::{self, State};
use crate::units;

/// Name of the file in the state folder.
const FILE: &str = "status.json";
/// Pause between two looks of `--watch`.
const PAUSE: Duration = Duration::from_secs(2);

/// What an agent is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Whether an agent runs now; filled in by the reader.
    #[serde(default)]
    pub running: bool,
    /// Its process.
    pub process: u32,
    /// When it wrote this.
    pub updated: String,
    /// Id of this machine at the control plane.
    pub source: String,
    /// The job that it carries out.
    pub job: Option<String>,
    /// 0 to 100.
    pub percent: f64,
    /// What it does.
    pub message: String,
    /// Wire rate in KB/s.
    pub speed_kbs: u64,
    /// Estimated minutes left.
    pub minutes_left: Option<u64>,
}

impl Status {
    /// Leaves the status for readers. One that cannot be written is not worth ending a migration for.
    pub fn write(mut self, state: &State) {
        self.process = std::process::id();
        self.updated = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        if let Err(error) = state.write(FILE, &self) {
            tracing::debug!("cannot write {}: {error}", state.path(FILE).display());
        }
    }

    /// Whether the agent that is this process works with the folder now.
    pub fn is_of(state: &State, process: u32) -> bool {
        Self::read(state).is_some_and(|status| status.running && status.process == process)
    }

    /// What the agent that works with the folder now is doing.
    pub fn of_running(state: &State) -> Option<Self> {
        Self::read(state).filter(|status| status.running)
    }

    fn read(state: &State) -> Option<Self> {
        let mut status: Self = state.read(FILE)?;
        status.running = state.running().is_some();
        Some(status)
    }
}

/// Prints the status, once or until interrupted. The exit code tells whether an agent runs: 0, else 1.
pub fn run(args: &StatusArgs) -> Exit {
    let root = args.state.clone().unwrap_or_else(|| PathBuf::from(state::ROOT));
    let state = State::at(root);
    loop {
        let status = Status::read(&state);
        match &status {
            Some(status) if args.json => {
                say(&serde_json::to_string(status).expect("a status has string keys and no failing parts"));
            }
            Some(status) => say(&text(status)),
            None if args.json => say(r#"{"running":false}"#),
            None => say("No agent has run here."),
        }
        let running = status.is_some_and(|status| status.running);
        if !args.watch || !running {
            return if running { exit::DONE } else { exit::FAILED };
        }
        std::thread::sleep(PAUSE);
    }
}

fn text(status: &Status) -> String {
    if !status.running {
        return format!(
            "No agent runs. The last one, at {}: {}",
            status.updated, status.message
        );
    }
    let mut text = format!("Agent {}", status.process);
    if !status.source.is_empty() {
        text.push_str(&format!(" as source {}", status.source));
    }
    text.push_str(": ");
    if let Some(job) = &status.job {
        text.push_str(&format!("job {job}, "));
    }
    if status.job.is_none() && status.percent == 0.0 {
        text.push_str(&status.message);
        return text;
    }
    text.push_str(&format!("{:.0} %, {}", status.percent, status.message));
    text.push_str(&format!(", {}/s", units::bytes(status.speed_kbs * 1024)));
    if let Some(minutes) = status.minutes_left {
        text.push_str(&format!(", {} left", units::seconds(minutes * 60)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_whether_its_agent_still_runs() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::at(folder.path());
        assert_eq!(Status::read(&state), None);
        let status = Status {
            source: "src-1".into(),
            job: Some("job-1".into()),
            percent: 41.6,
            message: "round 1".into(),
            speed_kbs: 2048,
            minutes_left: Some(3),
            ..Status::default()
        };
        let lock = state.lock().unwrap();
        status.write(&state);
        let read = Status::read(&state).unwrap();
        assert_eq!(
            text(&read),
            format!(
                "Agent {} as source src-1: job job-1, 42 %, round 1, 2.00 MiB/s, 3m00s left",
                std::process::id()
            )
        );
        let without_job = |percent| Status {
            running: true,
            source: String::new(),
            job: None,
            percent,
            ..read.clone()
        };
        let process = std::process::id();
        assert_eq!(
            text(&without_job(41.6)),
            format!("Agent {process}: 42 %, round 1, 2.00 MiB/s, 3m00s left")
        );
        assert_eq!(text(&without_job(0.0)), format!("Agent {process}: round 1"));
        drop(lock);
        assert!(text(&Status::read(&state).unwrap()).starts_with("No agent runs."));
    }
}
