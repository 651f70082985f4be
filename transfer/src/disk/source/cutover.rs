//! The cutover: rounds until the last one is short enough, then freeze, last round, thaw.
//!
//! While anything is frozen this process writes nothing: no digest, no log line, no progress. The thaw comes as soon as
//! the last chunk was read and queued; that it is durable is waited for afterwards.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sys::block_device::BlockDevice;
use sys::block_tracker::CHUNK_LEN;
use sys::freeze::{FreezePoint, Frozen, Thawed};

use crate::disk::source::disk::SourceDisk;
use crate::disk::source::freeze_points::freeze_points;
use crate::disk::source::session::Session;
use crate::disk::source::{Freeze, Run};
use crate::error::{Error, Kind, Result};
use crate::progress::Event;

/// Part of the frozen time that does not depend on the amount of data: freezing itself takes 30 to 150 ms.
const FIXED: Duration = Duration::from_millis(100);
/// Rounds whose forecast may fail to get 10 % better before it counts as not improving.
const STALLS_MAX: u32 = 3;
/// Freezes that may miss the deadline.
const ATTEMPTS_MAX: u32 = 3;
/// Further readings while frozen, for writers beneath the file systems.
const RAW_ROUNDS_MAX: u32 = 3;
/// Rounds shorter than this say nothing about the pace.
const PACE_BYTES_MIN: u64 = 4 << 20;

/// How fast chunks are looked at and sent.
#[derive(Debug, Default)]
pub struct Pace {
    bytes_per_second: Option<f64>,
}

impl Pace {
    /// A round took so long.
    pub fn add(&mut self, bytes: u64, took: Duration) {
        if bytes >= PACE_BYTES_MIN || (self.bytes_per_second.is_none() && bytes > 0) {
            self.bytes_per_second = Some(bytes as f64 / took.as_secs_f64().max(0.000_1));
        }
    }

    /// How long `bytes` will take, frozen.
    pub fn forecast(&self, bytes: u64) -> Duration {
        let seconds = self.bytes_per_second.map_or(0.0, |pace| bytes as f64 / pace);
        FIXED + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX - FIXED)
    }
}

impl Run<'_> {
    /// Rounds until the forecast is short enough, then the frozen round.
    pub(super) fn cut_over(&mut self, session: &Session<'_>, wire: &AtomicU64) -> Result<()> {
        let Some(freeze) = self.source.freeze.clone() else {
            return Ok(());
        };
        let (mut best, mut stalls, mut missed) = (Duration::MAX, 0, 0);
        loop {
            if self.round_open {
                self.next_round(session, wire)?;
            }
            let since_last_round = self.round_began;
            let (bytes, forecast) = self.forecast();
            if forecast <= freeze.max {
                if self.frozen_round(&freeze, session, wire)? {
                    return Ok(());
                }
                missed += 1;
            } else if forecast.as_secs_f64() > best.as_secs_f64() * 0.9 {
                stalls += 1;
            }
            best = best.min(forecast);
            if stalls >= STALLS_MAX || missed >= ATTEMPTS_MAX {
                return Err(too_busy(&freeze, forecast, bytes, since_last_round.elapsed()));
            }
            self.next_round(session, wire)?;
        }
    }

    /// Bytes of the last round if it began now, and how long it would take.
    fn forecast(&self) -> (u64, Duration) {
        let bytes = self.disks.iter().map(SourceDisk::peek).sum::<u64>() * CHUNK_LEN;
        (bytes, self.pace.forecast(bytes))
    }

    /// Returns whether the round was made in one freeze.
    fn frozen_round(&mut self, freeze: &Freeze, session: &Session<'_>, wire: &AtomicU64) -> Result<bool> {
        let after = AfterFreeze(freeze.after.as_deref());
        run_command("--pre-freeze", freeze.before.as_deref())?;
        self.synchronised_points()?;
        // What the command and the synchronisation wrote is sent before the freeze.
        self.next_round(session, wire)?;
        let points = self.synchronised_points()?;
        let (_, forecast) = self.forecast();
        if forecast > freeze.max {
            self.say(&Event::Warning {
                message: format!(
                    "no freeze yet: too much was written meanwhile, the last round would take {:.1} s",
                    forecast.as_secs_f64()
                ),
            });
            return Ok(false);
        }
        self.disks.iter().for_each(|disk| disk.digests.hold());
        self.quiet.store(true, Ordering::Release);
        let result = self.freeze_and_copy(points, freeze.max, session, wire);
        self.quiet.store(false, Ordering::Release);
        let released = self
            .disks
            .iter()
            .map(|disk| disk.digests.release())
            .fold(Ok(()), std::io::Result::and);
        drop(after);
        released.map_err(|error| Error::new(Kind::Medium, "keep the digests").because(error))?;
        let (thawed, raw_writers) = result?;
        if raw_writers {
            self.say(&Event::Warning {
                message: "something writes to the disk beneath its frozen file systems: these ranges are not of one \
                          moment; stop it with --pre-freeze"
                    .to_owned(),
            });
        }
        if self.end_round(session, wire)?.corrections > 0 {
            // What was sent again was read after the thaw.
            return Ok(false);
        }
        if !thawed.thawed_early.is_empty() {
            self.say(&Event::Warning {
                message: format!(
                    "the freeze took longer than {} s and was ended: trying again",
                    freeze.max.as_secs()
                ),
            });
            return Ok(false);
        }
        self.frozen = Some(thawed.frozen_for);
        Ok(true)
    }

    /// The file systems to freeze, written back. Looked for anew each time: the command may unmount some.
    fn synchronised_points(&self) -> Result<Vec<FreezePoint>> {
        let devices: Vec<&BlockDevice> = self
            .disks
            .iter()
            .filter_map(|disk| disk.medium.device.as_ref())
            .collect();
        let failed = |error| Error::new(Kind::Medium, "find the file systems to freeze").because(error);
        let points = freeze_points(&devices).map_err(failed)?;
        for point in &points {
            point
                .synchronise()
                .map_err(|error| Error::new(Kind::Medium, "synchronise the file system").because(error))?;
        }
        Ok(points)
    }

    /// Everything between freeze and thaw. Nothing in here may write to a disk.
    fn freeze_and_copy(
        &mut self,
        points: Vec<FreezePoint>,
        deadline: Duration,
        session: &Session<'_>,
        wire: &AtomicU64,
    ) -> Result<(Thawed, bool)> {
        let failed = |error| {
            Error::new(Kind::Medium, "freeze the file systems")
                .because(error)
                .remedy("another program may hold a freeze: fsfreeze --unfreeze ends it")
        };
        let frozen = Frozen::freeze(points, deadline).map_err(failed)?;
        let mut raw_writers = false;
        self.begin_round()?;
        self.copy(session, wire)?;
        for round in 0..=RAW_ROUNDS_MAX {
            if !self.disks.iter().any(SourceDisk::was_written_now) {
                break;
            }
            raw_writers = round == RAW_ROUNDS_MAX;
            self.copy(session, wire)?;
        }
        let thawed = frozen.thaw().map_err(|error| {
            Error::new(Kind::Medium, "thaw the file systems")
                .because(error)
                .remedy("fsfreeze --unfreeze each of them")
        })?;
        Ok((thawed, raw_writers))
    }
}

fn too_busy(freeze: &Freeze, forecast: Duration, bytes: u64, since: Duration) -> Error {
    let churn = bytes as f64 / since.as_secs_f64().max(0.001) / 1e6;
    let needed = bytes as f64 / freeze.max.saturating_sub(FIXED).as_secs_f64().max(0.001) / 1e6;
    Error::new(Kind::Usage, format!("freeze for at most {} s", freeze.max.as_secs_f64())).remedy(format!(
        "the last round would take {:.1} s and does not get shorter: {:.1} MB changed in the last {:.1} s ({churn:.1} \
         MB/s); it would need {needed:.1} MB/s from disk to disk. Raise --freeze-max, quieten the source with \
         --pre-freeze, or raise the bandwidth. What is durable at the target is kept",
        forecast.as_secs_f64(),
        bytes as f64 / 1e6,
        since.as_secs_f64(),
    ))
}

/// Runs the command after the freeze, whatever happens in between.
struct AfterFreeze<'a>(Option<&'a str>);

impl Drop for AfterFreeze<'_> {
    fn drop(&mut self) {
        if let Err(error) = run_command("--post-freeze", self.0) {
            tracing::error!(%error, "the command after the freeze failed");
        }
    }
}

fn run_command(flag: &str, command: Option<&str>) -> Result<()> {
    let Some(command) = command else { return Ok(()) };
    let began = Instant::now();
    let failed = || Error::new(Kind::Usage, format!("run the {flag} command `{command}`"));
    // Its output belongs to the terminal, not into the events on standard output.
    let status = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .stdin(std::process::Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .map_err(|error| failed().because(error))?;
    if status.success() {
        return Ok(());
    }
    Err(failed().because(format!(
        "it ended with {status} after {:.1} s",
        began.elapsed().as_secs_f64()
    )))
}
