//! The source side of the disk engine: the story of a run.
//!
//! open the disks (tracker first, then the map) → connect → bring the digests into step → rounds → cutover → verify →
//! finish. A lost link leads back to *connect*: the trackers stay attached, and what was not done yet stays to be done.

pub mod baseline;
pub mod copy;
pub mod cutover;
pub mod disk;
pub mod jobs;
pub mod read;
pub mod receipt;
pub mod reconcile;
pub mod session;
pub mod unreadable;
pub mod verify;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sys::block_device::Access;

use crate::compress::Governor;
use crate::courtesy::Courtesy;
use crate::disk::medium::DiskMedium;
use crate::disk::message::{DISKS_MAX, DiskOrder, DiskReport};
use crate::disk::source::baseline::Baseline;
use crate::disk::source::copy::{Counters, copy};
use crate::disk::source::disk::{Marks, SourceDisk};
use crate::disk::source::reconcile::{
    Restored, RoundEnd, end_round, look_again_at_wanted, reconcile, restore,
};
use crate::disk::source::session::{Session, out_of_turn, with_session};
use crate::disk::used_map::{Effort, Survey, survey};
use crate::error::{Error, Kind, Result};
use crate::link::auth::{Hello, Id, PROTOCOL, Role, VolumeKind, random_id};
use crate::lock;
use crate::progress::{BackedOff, Event, Observer, Progress, Skipped, StopFlag, Summary, Verified};
use crate::protocol::Position;
use crate::source::cutover::HandedOver;
use crate::source::migration::migration_id;
use crate::source::{Course, Freeze, Lead, Next, Standing, SyncPlan};

/// Attempts to bring the digests of both sides into step before giving up.
const RECONCILE_MAX: u32 = 3;
/// Pauses between attempts to connect: the first, and the longest.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Disks to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisksSource {
    /// Block devices, whole disks or partitions; the first goes to the target's first disk, and so on.
    pub disks: Vec<PathBuf>,
    /// Whether the run ends with a cutover.
    pub freeze: Option<Freeze>,
}

/// Copies disks as `plan` says.
///
/// # Errors
/// A disk cannot be read at all, the target refuses, the link stays lost, or somebody asked to stop. What is durable at
/// the target is kept for the next run.
pub fn run(
    plan: &SyncPlan,
    source: &DisksSource,
    lead: &dyn Lead,
    observer: &dyn Observer,
    stop: &StopFlag,
) -> Result<Summary> {
    let mut run = Run::open(plan, source, lead, observer, stop)?;
    let mut failures = 0;
    let mut durable_before = 0;
    loop {
        let error = match run.session() {
            Ok(()) => return run.finish(),
            Err(error) if error.kind() == Kind::Retry => error,
            Err(error) => return Err(error),
        };
        let progressed = run.counters.bytes_data.load(Ordering::Relaxed);
        failures = if progressed > durable_before {
            1
        } else {
            failures + 1
        };
        durable_before = progressed;
        if !plan.retry.allows(failures) {
            return Err(error);
        }
        run.resumes += 1;
        let pause = PAUSE.saturating_mul(1 << (failures - 1).min(10)).min(PAUSE_MAX);
        observer.event(&Event::Retrying {
            error: error.describe(),
            attempt: failures,
            delay_ms: pause.as_millis() as u64,
        });
        if stop.sleep(pause) {
            return Err(Error::new(Kind::Stopped, "connect again: asked to stop"));
        }
    }
}

/// How a round ended.
struct Sealed {
    /// Chunks sent.
    sent: u64,
    /// Times that the target turned out to hold something else than was thought, so that chunks were read again.
    corrections: u32,
}

/// A run with everything that outlives a session.
struct Run<'a> {
    plan: &'a SyncPlan,
    /// Of the state folder.
    _lock: File,
    source: &'a DisksSource,
    observer: &'a dyn Observer,
    stop: &'a StopFlag,
    began: Instant,
    instance: Id,
    migration: Id,
    disks: Vec<SourceDisk>,
    /// What the digests were in step with when this run began.
    baseline: Option<Baseline>,
    counters: Counters,
    governor: Arc<Governor>,
    /// Rounds begun.
    round: u32,
    /// Whether the last round begun has not been sealed yet.
    round_open: bool,
    /// Of each disk, whether the last round looked at everything.
    looked_at_all: Vec<bool>,
    round_began: Instant,
    sent_before_round: u64,
    done_before_round: u64,
    wire_before_round: u64,
    /// The rounds before cutover and verification.
    course: Course<'a>,
    /// While file systems are frozen nothing may be written, to a log or a terminal either.
    quiet: AtomicBool,
    last_progress: std::sync::Mutex<Instant>,
    pace: cutover::Pace,
    resumes: u32,
    /// The cutover, if the run ended so.
    frozen: Option<HandedOver>,
    /// For how long reading paused for the sake of others.
    backed_off: BackedOff,
    verified: Option<Verified>,
    repaired: u64,
    /// How each disk was read again for the verification.
    readings: Vec<receipt::Reading>,
    position: Position,
    /// Whether the target changed its copy after the last seal.
    adapted: bool,
}

impl<'a> Run<'a> {
    fn open(
        plan: &'a SyncPlan,
        source: &'a DisksSource,
        lead: &'a dyn Lead,
        observer: &'a dyn Observer,
        stop: &'a StopFlag,
    ) -> Result<Self> {
        if source.disks.is_empty() || source.disks.len() > DISKS_MAX {
            return Err(Error::new(
                Kind::Usage,
                format!("copy {} disks in one run", source.disks.len()),
            )
            .remedy(format!("name 1 to {DISKS_MAX} disks")));
        }
        let lock = lock::state_folder(&plan.state)?;
        let baseline = baseline::take(&plan.state)?;
        let disks = source
            .disks
            .iter()
            .enumerate()
            .map(|(number, path)| SourceDisk::open(path, &baseline::digests_path(&plan.state, number)))
            .collect::<Result<Vec<_>>>()?;
        for disk in disks.iter().filter(|disk| !disk.is_tracked()) {
            observer.event(&Event::Warning {
                message: format!(
                    "{}: {}; every further round reads all of it",
                    disk.medium.path.display(),
                    disk.tracking()
                ),
            });
        }
        let paths = source.disks.iter().map(PathBuf::as_path);
        Ok(Self {
            plan,
            _lock: lock,
            source,
            observer,
            stop,
            began: Instant::now(),
            instance: random_id()?,
            migration: migration_id("go2cloud disk migration 1", paths)?,
            baseline: baseline.filter(|baseline| baseline.disks == identity(&disks)),
            disks,
            counters: Counters::default(),
            governor: Arc::new(Governor::new(plan.compression)),
            round: 0,
            round_open: false,
            looked_at_all: Vec::new(),
            round_began: Instant::now(),
            sent_before_round: 0,
            done_before_round: 0,
            wire_before_round: 0,
            course: Course::new(lead),
            quiet: AtomicBool::new(false),
            last_progress: std::sync::Mutex::new(Instant::now()),
            pace: cutover::Pace::default(),
            resumes: 0,
            frozen: None,
            backed_off: BackedOff::default(),
            verified: None,
            repaired: 0,
            readings: Vec::new(),
            position: Position::default(),
            adapted: false,
        })
    }

    /// One session, from connecting to the goodbye.
    fn session(&mut self) -> Result<()> {
        let hello = Hello {
            protocol: PROTOCOL,
            session: random_id()?,
            instance: self.instance,
            migration: self.migration,
            role: Role::Control,
            data_connections: self.plan.connections as u16,
            volume: VolumeKind::Disks,
        };
        let link = crate::link::connect(&self.plan.target, &self.plan.secret, &hello, &self.plan.throttle)?;
        let target = link.target.to_string();
        let wire = std::mem::take(&mut self.counters.bytes_wire);
        let durable = Arc::clone(&self.counters.bytes_durable);
        let stop = self.stop;
        let governor = Arc::clone(&self.governor);
        let result = with_session(link, &wire, durable, &governor, stop, |session| {
            session.order(&DiskOrder::Open {
                disks: self.disks.iter().map(|disk| disk.facts.clone()).collect(),
            })?;
            let DiskReport::Opened {
                position,
                lens,
                changed,
            } = session.report()?
            else {
                return Err(out_of_turn());
            };
            if lens.len() != self.disks.len() {
                return Err(out_of_turn());
            }
            for (disk, len) in self.disks.iter().zip(lens) {
                disk.copy_only(len)?;
            }
            self.observer.event(&Event::Connected {
                target,
                connections: self.plan.connections,
            });
            if changed > 0 {
                self.repaired += changed;
                self.say(&Event::Warning {
                    message: format!(
                        "the copy was changed since the last run, in {changed} places of 64 KiB: it was read again, and they \
                         are copied again"
                    ),
                });
            }
            self.converse(session, position, &wire)
        });
        self.counters.bytes_wire = wire;
        result
    }

    /// The phases of a session.
    fn converse(
        &mut self,
        session: &Session<'_>,
        position: Position,
        wire: &std::sync::atomic::AtomicU64,
    ) -> Result<()> {
        let baseline = self.baseline.take();
        if baseline.is_none_or(|baseline| baseline.position != position) {
            self.bring_into_step(session, position)?;
        }
        while let Some(next) = self.course.next()? {
            let sent = match next {
                Next::Moment => self.make_moment(session, wire)?,
                _ => self.next_round(session, wire)?,
            };
            self.course.made(Standing {
                rounds: self.round,
                clean: sent == 0,
                exhaustive: true,
            });
        }
        let ends_with_round = !self.plan.verify && self.source.freeze.is_none();
        if ends_with_round && (self.round_open || self.disks.iter().any(|disk| disk.todo().0 > 0)) {
            // The target turned out to lack it when the rounds were over; or the link broke before this round was sealed.
            self.next_round(session, wire)?;
        }
        if self.plan.verify && self.verified.is_none() && self.frozen.is_none() {
            self.rescan(session, wire)?;
        }
        if self.source.freeze.is_some() && self.frozen.is_none() {
            self.cut_over(session, wire)?;
        }
        if self.plan.verify && self.verified.is_none() {
            self.verify(session, wire)?;
        }
        session.order(&DiskOrder::Finish)?;
        let DiskReport::Finished { changes } = session.report()? else {
            return Err(out_of_turn());
        };
        self.adapted = !changes.is_empty();
        for message in changes {
            self.observer.event(&Event::Warning { message });
        }
        Ok(())
    }

    /// Brings the digests of both sides into step. What the target turns out to lack of a frozen moment is sent again, and where
    /// the source has moved on, the run is cut over once more; all else is left to what follows.
    fn bring_into_step(&mut self, session: &Session<'_>, position: Position) -> Result<()> {
        if self.frozen.is_some() {
            let restored = restore(&self.disks, session, &self.counters, &self.governor)?;
            if restored == Restored::default() && position == self.position {
                return Ok(());
            }
            self.verified = None;
            let Restored { missing, gone } = self.seal_frozen(restored, session)?;
            if gone == 0 {
                return Ok(());
            }
            self.say(&Event::Warning {
                message: format!(
                    "the target has lost {missing} places of 64 KiB of the frozen moment, and the source has changed {gone} of \
                     them since: it is cut over again"
                ),
            });
            self.frozen = None;
            self.readings.clear();
        }
        if reconcile(&self.disks, session)? > 0 {
            self.verified = None;
        }
        Ok(())
    }

    /// Makes a round, or goes on with the one that was interrupted. Returns how many chunks it sent.
    fn next_round(&mut self, session: &Session<'_>, wire: &std::sync::atomic::AtomicU64) -> Result<u64> {
        self.begin_round(wire)?;
        self.copy(session, wire)?;
        Ok(self.end_round(session, wire)?.sent)
    }

    /// Reads everything again, whatever the trackers say.
    fn rescan(&mut self, session: &Session<'_>, wire: &std::sync::atomic::AtomicU64) -> Result<()> {
        for disk in &self.disks {
            disk.begin_rescan(Effort::Copy)?;
        }
        self.looked_at_all = vec![true; self.disks.len()];
        self.announce_round(wire);
        self.copy(session, wire)?;
        self.end_round(session, wire).map(drop)
    }

    fn begin_round(&mut self, wire: &std::sync::atomic::AtomicU64) -> Result<()> {
        if self.round_open {
            return Ok(());
        }
        let mut looked_at_all = vec![true; self.disks.len()];
        if self.round > 0 {
            let marks = if self.quiet.load(Ordering::Acquire) {
                Marks::Take
            } else {
                Marks::Sift
            };
            for (disk, all) in self.disks.iter().zip(&mut looked_at_all) {
                let doubt = disk.begin_round(marks)?;
                *all = doubt.is_some();
                if let Some(doubt) = doubt
                    && disk.is_tracked()
                {
                    let path = disk.medium.path.display();
                    self.say(&Event::Warning {
                        message: format!("{path}: {doubt}; this round reads all of it"),
                    });
                }
            }
        }
        self.looked_at_all = looked_at_all;
        self.announce_round(wire);
        Ok(())
    }

    fn announce_round(&mut self, wire: &std::sync::atomic::AtomicU64) {
        let tracked = self.round > 0 && self.disks.iter().all(SourceDisk::is_tracked);
        self.round += 1;
        self.round_open = true;
        self.round_began = Instant::now();
        self.sent_before_round = self.counters.sent.load(Ordering::Relaxed);
        self.done_before_round = self.counters.bytes_done.load(Ordering::Relaxed);
        self.wire_before_round = wire.load(Ordering::Relaxed);
        self.say(&Event::RoundStarted {
            round: self.round,
            tracked,
        });
    }

    fn copy(&mut self, session: &Session<'_>, wire: &std::sync::atomic::AtomicU64) -> Result<()> {
        let began = Instant::now();
        let bytes_before = self.counters.bytes_done.load(Ordering::Relaxed);
        let watch = || self.report_progress(wire);
        // While everything is frozen everybody waits for the thaw, and nobody may log that reading pauses.
        let is_frozen = self.quiet.load(Ordering::Acquire);
        let courtesy = Courtesy::new(self.plan.gives_way && !is_frozen);
        let copied = copy(
            &self.disks,
            session,
            &self.counters,
            &self.governor,
            &courtesy,
            &watch,
        );
        self.backed_off = self.backed_off + courtesy.backed_off();
        copied?;
        let bytes = self.counters.bytes_done.load(Ordering::Relaxed) - bytes_before;
        self.pace.add(bytes, began.elapsed());
        Ok(())
    }

    /// Seals the round; differences that the target finds in its digests are sent again.
    fn end_round(&mut self, session: &Session<'_>, wire: &std::sync::atomic::AtomicU64) -> Result<Sealed> {
        for corrections in 0..RECONCILE_MAX {
            if let RoundEnd::Sealed(position) = end_round(&self.disks, session)? {
                self.position = position;
                self.round_open = false;
                let progress = self.progress(wire);
                self.say(&Event::RoundFinished {
                    round: self.round,
                    progress,
                });
                return Ok(Sealed {
                    sent: self.counters.sent.load(Ordering::Relaxed) - self.sent_before_round,
                    corrections,
                });
            }
            let wanted = look_again_at_wanted(&self.disks, session)?;
            let other = reconcile(&self.disks, session)?;
            if wanted + other > 0 {
                self.say(&Event::Warning {
                    message: format!(
                        "the target held something else than expected in {} places of 64 KiB: they are copied again",
                        wanted + other
                    ),
                });
            }
            self.copy(session, wire)?;
        }
        Err(out_of_step())
    }

    fn say(&self, event: &Event) {
        if !self.quiet.load(Ordering::Acquire) {
            self.observer.event(event);
        }
    }

    fn report_progress(&self, wire: &std::sync::atomic::AtomicU64) {
        let mut last = self.last_progress.lock().expect("reporting does not panic");
        if self.quiet.load(Ordering::Acquire) || last.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        *last = Instant::now();
        drop(last);
        self.say(&Event::Progress(self.progress(wire)));
    }

    fn progress(&self, wire: &std::sync::atomic::AtomicU64) -> Progress {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (chunks_left, bytes_left) = self
            .disks
            .iter()
            .map(SourceDisk::todo)
            .fold((0, 0), |sum, todo| (sum.0 + todo.0, sum.1 + todo.1));
        let seconds = self.round_began.elapsed().as_secs_f64();
        let done = load(&self.counters.bytes_done);
        // Of this round: there may have been pauses before it.
        let pace = (done - self.done_before_round) as f64 / seconds.max(0.001);
        let wire_pace = load(wire).saturating_sub(self.wire_before_round) as f64 / seconds.max(0.001);
        Progress {
            round: self.round,
            scanned: load(&self.counters.scanned),
            sent: load(&self.counters.sent),
            deleted: 0,
            unsettled: 0,
            bytes_done: done,
            bytes_total: done + bytes_left,
            entries_total: load(&self.counters.scanned) + chunks_left,
            bytes_read: load(&self.counters.bytes_read),
            bytes_wire: load(wire),
            bytes_durable: load(&self.counters.bytes_durable),
            seconds,
            rate: wire_pace as u64,
            eta_seconds: (pace > 0.0).then(|| (bytes_left as f64 / pace) as u64),
        }
    }

    /// After the last session: the baseline, the receipt, the summary.
    fn finish(self) -> Result<Summary> {
        if !self.adapted {
            for disk in &self.disks {
                disk.digests
                    .sync()
                    .map_err(|error| Error::io("keep the digests", &self.plan.state, error))?;
            }
            baseline::put(
                &self.plan.state,
                &Baseline::new(self.position, identity(&self.disks)),
            )?;
        }
        let proof = receipt::Proof {
            frozen: self.frozen.as_ref(),
            verified: self.verified.as_ref(),
            readings: &self.readings,
        };
        receipt::write(&self.plan.state, &self.disks, &proof)?;
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let skipped: Vec<Skipped> = self.disks.iter().flat_map(unreadable).collect();
        Ok(Summary {
            ok: skipped.is_empty(),
            files: self.disks.iter().map(|disk| disk.present().count()).sum(),
            sent: load(&self.counters.sent),
            bytes_total: self.disks.iter().map(|disk| disk.survey().map.bytes()).sum(),
            bytes_read: load(&self.counters.bytes_read),
            bytes_data: load(&self.counters.bytes_data),
            bytes_wire: load(&self.counters.bytes_wire),
            seconds: self.began.elapsed().as_secs_f64(),
            rounds: self.round,
            resumes: self.resumes,
            frozen_ms: self.frozen.as_ref().and_then(HandedOver::frozen_ms),
            not_frozen: self.frozen.map_or_else(Vec::new, |frozen| frozen.not_frozen),
            backed_off: self.backed_off,
            verified: self.verified,
            sealed: Some(self.position.into()),
            skipped_total: skipped.len() as u64,
            skipped,
            ..Summary::default()
        })
    }
}

fn out_of_step() -> Error {
    Error::new(Kind::Corrupt, "bring source and target into step")
        .remedy("the target's digests change by themselves: check its journal's disk, then run again")
}

fn identity(disks: &[SourceDisk]) -> Vec<(PathBuf, crate::disk::message::DiskFacts)> {
    disks
        .iter()
        .map(|disk| (disk.medium.path.clone(), disk.facts.clone()))
        .collect()
}

fn unreadable(disk: &SourceDisk) -> Vec<Skipped> {
    disk.unreadable()
        .into_iter()
        .map(|(range, in_place)| Skipped {
            path: format!(
                "{} bytes {}-{}",
                disk.medium.path.display(),
                range.start,
                range.end - 1
            ),
            what: format!("content; {in_place} in its place"),
            why: "the disk returns a read error".to_owned(),
        })
        .collect()
}

/// What is known of a disk before a run.
#[derive(Clone, Debug)]
pub struct Examined {
    /// Whether its changes can be tracked.
    pub is_tracked: bool,
    /// How, or why not.
    pub tracking: String,
    /// What it holds.
    pub survey: Survey,
}

/// What a run would do with a disk: for checks beforehand. Attaches a tracker for a moment, reads a few blocks, disturbs nothing.
///
/// # Errors
/// The disk cannot be opened or read.
pub fn examine(path: &Path) -> Result<Examined> {
    let medium = DiskMedium::open(path, Access::Read)?;
    let (tracker, tracking) = disk::attach(&medium);
    Ok(Examined {
        is_tracked: tracker.is_some(),
        tracking,
        survey: survey(&medium, Effort::Look)?,
    })
}
