//! `go2cloud bandwidth`: changes the limit of a running migration, which takes it within a second.
//!
//! The command leaves a request in the state folder; what runs there looks for it four times a second and answers. The
//! latest word counts, whoever said it: the command, the control plane, the flags at the start. A request is for what
//! runs when it is made: whoever starts later does not find it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use transfer::progress::StopFlag;
use transfer::throttle::Throttle;

use crate::cli::BandwidthArgs;
use crate::exit::{self, Exit};
use crate::output::{complain, say};
use crate::refusal::Refusals;
use crate::state::{self, State};
use crate::sync::plan::number;

/// Highest limit that can be asked for, in KB/s.
pub const LIMIT_MAX: u64 = 25_600;
/// Names of the request and of the answer in the state folder.
const REQUEST: &str = "bandwidth.json";
const ANSWER: &str = "bandwidth.taken.json";
/// Pause between two looks for a request.
const LOOK: Duration = Duration::from_millis(250);
/// How long the command waits for an answer, which a busy disk may hold up; the limit is changed before it.
const WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    /// KB/s, 0 for none.
    limit: u64,
    /// Nanoseconds since 1970; names the request.
    made_at: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    made_at: u64,
    process: u32,
}

/// Asks what runs to change its limit, and says whether it did.
pub fn run(args: &BandwidthArgs) -> Exit {
    let mut refusals = Refusals::default();
    let limit = number(
        &Some(args.limit.clone()),
        "bandwidth",
        0..=LIMIT_MAX,
        &mut refusals,
    );
    let Some(limit) = limit else {
        return refusals.print();
    };
    let root = args.state.clone().unwrap_or_else(|| PathBuf::from(state::ROOT));
    let state = State::at(root);
    let made_at = now_ns();
    if let Err(error) = state.write(REQUEST, &Request { limit, made_at }) {
        complain(&format!(
            "go2cloud: cannot write {}: {error}",
            state.path(REQUEST).display()
        ));
        return exit::FAILED;
    }
    let end = Instant::now() + WAIT;
    while Instant::now() < end {
        let answer = state.read::<Answer>(ANSWER);
        if let Some(answer) = answer.filter(|answer| answer.made_at == made_at) {
            say(&match limit {
                0 => format!("Process {}: no limit.", answer.process),
                limit => format!("Process {}: {limit} KB/s.", answer.process),
            });
            return exit::DONE;
        }
        std::thread::sleep(LOOK / 5);
    }
    if let Err(error) = state.remove(REQUEST) {
        tracing::debug!("cannot remove {}: {error}", state.path(REQUEST).display());
    }
    complain(&format!(
        "go2cloud: nothing runs with the state folder {}; name the one that it was given as --state",
        state.path("").display()
    ));
    exit::FAILED
}

fn now_ns() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A limit that several may set: the latest word counts.
#[derive(Debug)]
pub struct Limit {
    throttle: Arc<Throttle>,
    /// The order that is repeated, in KB/s.
    ordered: Mutex<Option<u64>>,
}

impl Limit {
    /// Rules over `throttle`.
    pub fn new(throttle: Arc<Throttle>) -> Self {
        Self {
            throttle,
            ordered: Mutex::new(None),
        }
    }

    /// Takes an order in KB/s that may be repeated: only one that differs from the one before is a new word.
    pub fn order(&self, limit: u64) {
        let mut ordered = self
            .ordered
            .lock()
            .expect("nothing panics while it holds the order");
        if ordered.replace(limit) != Some(limit) {
            self.set(limit);
        }
    }

    /// Sets the limit in KB/s, 0 for none.
    pub fn set(&self, limit: u64) {
        let bytes = limit.saturating_mul(1024);
        if self.throttle.limit() != bytes {
            tracing::info!(bytes_per_second = bytes, "new bandwidth limit");
            self.throttle.set(bytes);
        }
    }
}

/// Looks for requests as long as it lives.
pub struct Watch {
    end: Arc<StopFlag>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Looks in the state folders `roots`. Without a thread the limit stays as it is.
    pub fn start(roots: Vec<PathBuf>, limit: Arc<Limit>) -> Self {
        let end = Arc::new(StopFlag::default());
        let since = now_ns();
        let flag = Arc::clone(&end);
        let watch = move || {
            let mut last = since;
            while !flag.sleep(LOOK) {
                for root in &roots {
                    last = look(&State::at(root), last, &limit);
                }
            }
        };
        let thread = std::thread::Builder::new().name("bandwidth".into()).spawn(watch);
        if let Err(error) = &thread {
            tracing::warn!("the bandwidth limit cannot be changed while this runs: {error}");
        }
        Self {
            end,
            thread: thread.ok(),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end.stop();
        if let Some(thread) = self.thread.take() {
            // A watch that panicked has nothing left to end.
            let _ = thread.join();
        }
    }
}

/// Takes a request that was made after `last`. Returns when the last one was made.
fn look(state: &State, last: u64, limit: &Limit) -> u64 {
    let Some(request) = state
        .read::<Request>(REQUEST)
        .filter(|request| request.made_at > last)
    else {
        return last;
    };
    limit.set(request.limit.min(LIMIT_MAX));
    let answer = Answer {
        made_at: request.made_at,
        process: std::process::id(),
    };
    if let Err(error) = state.write(ANSWER, &answer) {
        tracing::debug!("cannot write {}: {error}", state.path(ANSWER).display());
    }
    request.made_at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_word_counts_and_an_order_repeated_is_none() {
        let throttle = Arc::new(Throttle::new(0));
        let limit = Limit::new(Arc::clone(&throttle));
        limit.order(10);
        limit.set(5);
        limit.order(10);
        assert_eq!(throttle.limit(), 5 * 1024);
        limit.order(20);
        assert_eq!(throttle.limit(), 20 * 1024);
        limit.order(0);
        assert_eq!(throttle.limit(), 0);
    }

    #[test]
    fn a_request_is_taken_by_what_runs_and_not_by_what_starts_later() {
        let folder = tempfile::tempdir().unwrap();
        let args = |limit: &str| BandwidthArgs {
            limit: limit.to_owned(),
            state: Some(folder.path().to_owned()),
        };
        let throttle = Arc::new(Throttle::new(0));
        let limit = Arc::new(Limit::new(Arc::clone(&throttle)));
        let watch = Watch::start(vec![folder.path().to_owned()], Arc::clone(&limit));
        assert_eq!(run(&args("300")), exit::DONE);
        assert_eq!(throttle.limit(), 300 * 1024);
        drop(watch);
        throttle.set(0);
        let _later = Watch::start(vec![folder.path().to_owned()], limit);
        std::thread::sleep(2 * LOOK);
        assert_eq!(throttle.limit(), 0);
        assert_eq!(run(&args("25601")), exit::USAGE);
        assert_eq!(run(&args("much")), exit::USAGE);
    }

    #[test]
    fn where_nothing_runs_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let args = BandwidthArgs {
            limit: "1".into(),
            state: Some(folder.path().to_owned()),
        };
        assert_eq!(run(&args), exit::FAILED);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
