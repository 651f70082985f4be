//! Somebody who writes to a file system all the time, and so notices when it is frozen and when it thaws.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bed::{Bed, Run, finished};
use crate::dice::Dice;

/// Bytes written at a time; each part begins with its number, little-endian.
pub const PART_LEN: usize = 65_536;
/// Longest wait for a freeze or a thaw.
const PATIENCE: Duration = Duration::from_secs(60);

/// A writer, which waits while its file system is frozen.
#[derive(Debug, Default)]
pub struct Writer {
    beats: AtomicU64,
    stop: AtomicBool,
}

impl Writer {
    /// Fills a file of `len` bytes again and again while `act` runs, each time with something else that does not compress.
    ///
    /// # Panics
    /// The file cannot be written, or `act` panics.
    pub fn during<T>(&self, path: &Path, len: u64, act: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            scope.spawn(|| self.run(path, len));
            let _stop = Stop(self);
            act()
        })
    }

    fn run(&self, path: &Path, len: u64) {
        let file = fs::File::create(path).expect("a file");
        let mut bytes = vec![0; len as usize];
        Dice::new(len).fill(&mut bytes);
        let mut number = 0u64;
        while !self.stop.load(Ordering::Acquire) {
            for (at, part) in bytes.chunks_mut(PART_LEN).enumerate() {
                number += 1;
                part[..8].copy_from_slice(&number.to_le_bytes());
                file.write_all_at(part, (at * PART_LEN) as u64).expect("room");
                self.beats.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    fn beats(&self) -> u64 {
        self.beats.load(Ordering::Acquire)
    }

    /// Waits until nothing could be written for a while although the watchdog of the agent, a process id, is there.
    ///
    /// # Panics
    /// The agent ends before, or does not freeze within a minute.
    pub fn wait_for_freeze(&self, agent: u32) {
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            assert!(is_running(agent), "the agent ended before");
            let beats = self.beats();
            std::thread::sleep(Duration::from_millis(150));
            if self.beats() == beats && has_child(agent) {
                return;
            }
        }
        panic!("no freeze in a minute");
    }

    /// How long it takes until something can be written again.
    ///
    /// # Panics
    /// It takes more than a minute.
    pub fn wait_for_thaw(&self) -> Duration {
        let (beats, since) = (self.beats(), Instant::now());
        while self.beats() == beats {
            assert!(since.elapsed() < PATIENCE, "frozen for a minute");
            std::thread::sleep(Duration::from_millis(5));
        }
        since.elapsed()
    }

    /// Kills one agent in its freeze, and stops another one in its: both times its watchdog thaws, at once or at a deadline of
    /// seven seconds. `command` starts one; its output goes to files of `bed`. Returns the one that stands still.
    ///
    /// # Panics
    /// Something stays frozen for too long, or not for as long as it should.
    pub fn outlive<'a>(&self, bed: &'a Bed, command: impl Fn() -> Command) -> Stopped<'a> {
        let start = |name: &str| {
            let file = |kind: &str| fs::File::create(bed.path(&format!("{name}.{kind}"))).expect("a file");
            let mut command = command();
            command.stdout(file("events")).stderr(file("errors"));
            command.spawn().expect("the agent starts")
        };
        let mut killed = start("killed");
        self.wait_for_freeze(killed.id());
        signal(&killed, "KILL");
        let thawed = self.wait_for_thaw();
        assert!(
            thawed < Duration::from_secs(4),
            "thawed {thawed:?} after the agent's death"
        );
        killed.wait().expect("its end");
        let agent = start("stopped");
        self.wait_for_freeze(agent.id());
        signal(&agent, "STOP");
        let thawed = self.wait_for_thaw();
        assert!(
            thawed > Duration::from_secs(3) && thawed < Duration::from_secs(12),
            "thawed {thawed:?} after the agent was stopped"
        );
        Stopped { agent, bed }
    }
}

/// An agent that was stopped in its freeze, which its watchdog has ended since.
#[derive(Debug)]
pub struct Stopped<'a> {
    agent: Child,
    bed: &'a Bed,
}

impl Stopped<'_> {
    /// Lets it go on and waits for its end.
    ///
    /// # Panics
    /// It fails, or takes the freeze that was ended for a good one.
    #[must_use]
    pub fn go_on(mut self) -> Run {
        signal(&self.agent, "CONT");
        let read = |kind: &str| fs::read(self.bed.path(&format!("stopped.{kind}"))).expect("a file");
        let done = finished(Output {
            status: self.agent.wait().expect("its end"),
            stdout: read("events"),
            stderr: read("errors"),
        });
        done.assert_done();
        let is_retry = |event: &Value| event["message"].to_string().contains("was ended: trying again");
        assert!(
            done.events.iter().any(is_retry),
            "the ended freeze must not count: {done:?}"
        );
        assert!(done.number("frozen_ms") < 7000);
        done
    }
}

/// Sends a signal, by its name without `SIG`.
fn signal(process: &Child, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name, &process.id().to_string()])
        .status();
    assert!(status.is_ok_and(|status| status.success()), "kill -s {name}");
}

/// Lets a writer end when its file is full once more, also when a test fails.
struct Stop<'a>(&'a Writer);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Release);
    }
}

/// What follows a process's name in /proc: its state, its parent, and more.
fn stat(process: &str) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    after_name.split_whitespace().map(str::to_owned).collect()
}

fn is_running(process: u32) -> bool {
    let stat = stat(&process.to_string());
    stat.first().is_some_and(|state| state != "Z")
}

/// Whether a process has children: the agent has one only while it freezes.
fn has_child(parent: u32) -> bool {
    let parent = parent.to_string();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            let name = entry.file_name();
            name.to_str()
                .is_some_and(|name| stat(name).get(1) == Some(&parent))
        })
}
