//! What a running migration tells its observer: a terminal, a log, a control plane.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

/// Receives events from any thread; must return quickly.
pub trait Observer: Send + Sync {
    /// Takes one event.
    fn event(&self, event: &Event);
}

/// An observer that ignores everything.
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: &Event) {}
}

/// One thing that happened. Serialised, it is one line of `--json` output.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The session is up and both sides have proven that they know the secret.
    Connected {
        /// Address of the target.
        target: String,
        /// Data connections in use.
        connections: usize,
    },
    /// A round begins.
    RoundStarted {
        /// 1 is the full round of this run.
        round: u32,
        /// Whether a change tracker names what to look at; otherwise everything is looked at.
        tracked: bool,
    },
    /// At most every 200 ms while a round runs.
    Progress(Progress),
    /// A round ended; everything it sent is durable at the target.
    RoundFinished {
        /// Its number.
        round: u32,
        /// What it did.
        progress: Progress,
    },
    /// The target re-reads its medium.
    Verifying {
        /// Bytes read back so far.
        bytes: u64,
        /// Bytes to read back.
        bytes_total: u64,
    },
    /// The link or the peer failed; the run goes on by itself after `delay_ms`.
    Retrying {
        /// What happened.
        error: String,
        /// How many times in a row this is tried without progress.
        attempt: u32,
        /// Pause before the next attempt.
        delay_ms: u64,
    },
    /// Something odd that did not stop the run.
    Warning {
        /// What and what to do.
        message: String,
    },
}

/// Counters of one round.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq)]
pub struct Progress {
    /// Round these counters belong to.
    pub round: u32,
    /// Entries looked at (tree) or chunks looked at (disk).
    pub scanned: u64,
    /// Entries or chunks sent.
    pub sent: u64,
    /// Entries deleted at the target.
    pub deleted: u64,
    /// Content bytes covered so far, holes and unchanged parts included: what a bar shows.
    pub bytes_done: u64,
    /// Estimate of the content bytes of the round; 0 while unknown.
    pub bytes_total: u64,
    /// Estimate of the entries of the round; 0 while unknown.
    pub entries_total: u64,
    /// Bytes read from the source's medium.
    pub bytes_read: u64,
    /// Bytes written to the link after compression, frames' headers included.
    pub bytes_wire: u64,
    /// Content bytes that the target has made durable.
    pub bytes_durable: u64,
    /// Seconds since the round began.
    pub seconds: f64,
    /// Wire rate over the last seconds, bytes per second.
    pub rate: u64,
    /// Estimated seconds to the end of the round, when known.
    pub eta_seconds: Option<u64>,
}

/// An entry or a range that could not be copied as it is, and why.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Skipped {
    /// Path below the volume's root or range of a disk; not valid UTF-8 is shown lossy.
    pub path: String,
    /// What was refused or left out: content, owner, an attribute …
    pub what: String,
    /// Why, as the system said it.
    pub why: String,
}

/// What a run did: the last line of `--json` output, and the material of the receipt.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// Whether everything was copied: no entry skipped, every comparison equal.
    pub ok: bool,
    /// Entries (tree) or used chunks (disk) that the target now holds.
    pub files: u64,
    /// Entries or chunks sent in all rounds.
    pub sent: u64,
    /// Entries deleted at the target.
    pub deleted: u64,
    /// Entries renamed at the target; a directory counts once, whatever is in it.
    pub renamed: u64,
    /// Content bytes of the volume.
    pub bytes_total: u64,
    /// Bytes read from the source's medium.
    pub bytes_read: u64,
    /// File data sent, before compression, in bytes: 0 when nothing but metadata changed.
    pub bytes_data: u64,
    /// Bytes written to the link.
    pub bytes_wire: u64,
    /// Bytes of files that share blocks at the target as they do at the source (reflinks).
    pub bytes_shared: u64,
    /// Bytes that share blocks at the source and not at the target: it cannot, or they changed meanwhile.
    pub bytes_not_shared: u64,
    /// Duration in seconds.
    pub seconds: f64,
    /// Rounds made.
    pub rounds: u32,
    /// How often the link was lost and resumed.
    pub resumes: u32,
    /// Milliseconds for which the source's file systems were frozen; `None` without a freeze.
    pub frozen_ms: Option<u64>,
    /// What was in use at the cutover and could not be frozen: it may not be of that moment.
    pub not_frozen: Vec<String>,
    /// What the boot check before the cutover saw; `None` without one.
    pub boot_check: Option<serde_json::Value>,
    /// Result of re-reading the target's medium; `None` when it was not asked for.
    pub verified: Option<Verified>,
    /// What the target's journal has sealed at the end; `None` when nothing was sealed.
    pub sealed: Option<Sealed>,
    /// For how long reading paused because others of the source's machine were under pressure.
    pub backed_off: BackedOff,
    /// What was not copied as it is.
    pub skipped: Vec<Skipped>,
}

/// Pauses of reading, by what others had to wait for.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq)]
pub struct BackedOff {
    /// Processors, in seconds.
    pub cpu_seconds: f64,
    /// Memory, in seconds.
    pub memory_seconds: f64,
    /// Disks, in seconds.
    pub io_seconds: f64,
}

impl std::ops::Add for BackedOff {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds + more.cpu_seconds,
            memory_seconds: self.memory_seconds + more.memory_seconds,
            io_seconds: self.io_seconds + more.io_seconds,
        }
    }
}

impl BackedOff {
    /// All of them together, in seconds.
    pub fn seconds(&self) -> f64 {
        self.cpu_seconds + self.memory_seconds + self.io_seconds
    }
}

/// Which contents a journal has sealed. Equal on both sides: they hold the same.
#[derive(Clone, Debug, Default, Serialize, serde::Deserialize, PartialEq, Eq)]
pub struct Sealed {
    /// Number of sealed generations.
    pub generation: u64,
    /// What tells this generation from others of the same number, hexadecimal: a digest of a tree's history, a random
    /// mark of disks.
    pub state: String,
}

/// Result of a verification that re-read the medium.
#[derive(Clone, Debug, Default, Serialize, serde::Deserialize, PartialEq, Eq)]
pub struct Verified {
    /// Root digest over the whole volume, hexadecimal; equal on both sides.
    pub root: String,
    /// Entries or chunks compared.
    pub compared: u64,
    /// Bytes re-read.
    pub bytes: u64,
    /// Differences found, repaired and found equal afterwards.
    pub repaired: u64,
}

/// A request to stop, or the news that something is over, shared between threads: set once, never unset.
#[derive(Debug, Default)]
pub struct StopFlag {
    flag: AtomicBool,
    /// Held by those who set the flag or are about to sleep, so that no news falls between.
    lock: Mutex<()>,
    news: Condvar,
}

impl StopFlag {
    /// Asks everybody to stop at the next safe point.
    pub fn stop(&self) {
        let _held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.flag.store(true, Ordering::Release);
        self.news.notify_all();
    }

    /// Whether somebody asked.
    pub fn is_stopped(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// Sleeps for `duration`, or until somebody asks to stop. Returns whether to stop.
    pub fn sleep(&self, duration: Duration) -> bool {
        let held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            self.news
                .wait_timeout_while(held, duration, |()| !self.is_stopped()),
        );
        self.is_stopped()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_sleep_ends_with_the_news() {
        let flag = StopFlag::default();
        assert!(!flag.sleep(Duration::from_millis(1)));
        let begin = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(flag.sleep(Duration::from_secs(60))));
            flag.stop();
        });
        assert!(flag.sleep(Duration::from_secs(60)));
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
}
