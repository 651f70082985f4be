//! The source's story for a tree: connect, agree on the baseline, make rounds, verify; again after a lost link.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::compress::Governor;
use crate::courtesy::Courtesy;
use crate::error::{Error, Kind, Result};
use crate::link::auth::{self, Hello, Id, Role, VolumeKind};
use crate::link::{self, FrameWriter};
use crate::progress::{Event, Observer, Skipped, StopFlag, Summary, Verified};
use crate::protocol::{Order, Report};
use crate::signature::hex;
use crate::source::conversation::{Conversation, Findings, stopped, unexpected};
use crate::source::counters::{Counters, Meter, get};
use crate::source::{Rounds, SyncPlan, TreeSource};
use crate::tree::baseline::Baseline;
use crate::tree::capture::Directory;
use crate::tree::estimate::Estimate;
use crate::tree::filter::Filter;
use crate::tree::replica::Record;
use crate::tree::round::{self, Ground, Numbers, Session, Tally};
use crate::tree::track::Tracker;
use crate::tree::verify;

/// First pause before a lost link is taken up again; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause before a lost link is taken up again.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Differences repaired after a verification before it counts as failed.
const REPAIRS_MAX: u32 = 2;

/// Copies a tree.
///
/// # Errors
/// See the kinds of [`Kind`]; what is durable stays so, and the next run goes on from there.
pub fn sync(
    plan: &SyncPlan,
    source: &TreeSource,
    observer: &dyn Observer,
    stop: &StopFlag,
) -> Result<Summary> {
    let _lock = lock_state(&plan.state)?;
    let root = Directory::open_root(&source.root)
        .map_err(|error| Error::io("open the directory to copy", &source.root, error))?;
    let filter = Filter::parse(&source.excludes)?;
    let never = never_copied(source, &plan.state);
    let governor = Governor::new(plan.compression);
    let findings = Findings::default();
    let estimate = if source.estimate {
        Estimate::start(source)
    } else {
        Estimate::default()
    };
    let courtesy = Courtesy::new(plan.gives_way);
    let ground = Ground {
        courtesy: &courtesy,
        root: &root,
        filter: &filter,
        never: &never,
        cross_mounts: source.cross_mounts,
        state: &plan.state,
        governor: &governor,
        observer,
        findings: &findings,
        estimate: &estimate,
    };
    let migration = migration_id(&source.root)?;
    let mut run = Run {
        plan,
        ground: &ground,
        stop,
        migration,
        instance: auth::random_id()?,
        baseline: Baseline::open(&plan.state, migration)?,
        summary: Summary::default(),
        tracker: tracker_for(plan, source)?,
        walked: false,
        rounds_left: match plan.rounds {
            Rounds::Count(count) => count,
            Rounds::UntilClean { max } => max,
        },
        skipped: Vec::new(),
        begin: Instant::now(),
    };
    courtesy.during(|| run.until_done())?;
    Ok(run.finish())
}

/// What survives a lost link.
struct Run<'a> {
    plan: &'a SyncPlan,
    ground: &'a Ground<'a>,
    stop: &'a StopFlag,
    migration: Id,
    instance: Id,
    baseline: Baseline,
    summary: Summary,
    rounds_left: u32,
    /// Watches for changes between rounds, where there are several and the kernel can.
    tracker: Option<Tracker>,
    /// Whether a walk of everything has been sealed since the tracker was attached.
    walked: bool,
    /// What the last round could not read.
    skipped: Vec<Skipped>,
    begin: Instant,
}

impl Run<'_> {
    /// Sessions until one goes through.
    fn until_done(&mut self) -> Result<()> {
        let mut failures = 0;
        loop {
            let wire_before = self.summary.bytes_wire;
            let error = match self.session() {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == Kind::Retry && !self.stop.is_stopped() => error,
                Err(error) => return Err(error),
            };
            // A session that moved data was a success of its own.
            failures = if self.summary.bytes_wire > wire_before {
                1
            } else {
                failures + 1
            };
            if !self.plan.retry.allows(failures) {
                return Err(error);
            }
            let pause = PAUSE_MAX.min(PAUSE_MIN * 2u32.saturating_pow(failures - 1));
            self.summary.resumes += 1;
            self.ground.observer.event(&Event::Retrying {
                error: error.describe(),
                attempt: failures,
                delay_ms: pause.as_millis() as u64,
            });
            if self.stop.sleep(pause) {
                return Err(stopped());
            }
        }
    }

    /// One session on one set of connections.
    fn session(&mut self) -> Result<()> {
        let connections = self.plan.connections.clamp(1, crate::limits::CONNECTIONS_MAX);
        let hello = Hello {
            protocol: auth::PROTOCOL,
            session: auth::random_id()?,
            instance: self.instance,
            migration: self.migration,
            role: Role::Control,
            data_connections: connections as u16,
            volume: VolumeKind::Tree,
        };
        let link = link::connect(&self.plan.target, &self.plan.secret, &hello, &self.plan.throttle)?;
        let (conversation, report, mut writers) = Conversation::new(link);
        let (findings, stop) = (self.ground.findings, self.stop);
        std::thread::scope(|scope| {
            scope.spawn(|| conversation.listen(report, findings));
            scope.spawn(|| conversation.watch(stop));
            let told = self.converse(&conversation, &mut writers);
            conversation.finish();
            told
        })
    }

    /// The story of a session.
    fn converse(&mut self, conversation: &Conversation, writers: &mut [FrameWriter]) -> Result<()> {
        let version = match conversation.report()? {
            Report::Opened { version } => version,
            report => return Err(unexpected(report)),
        };
        self.baseline.reconcile(version, conversation)?;
        let (target, connections) = (conversation.target.to_string(), writers.len());
        self.ground
            .observer
            .event(&Event::Connected { target, connections });
        let numbers = Numbers::default();
        let until_clean = matches!(self.plan.rounds, Rounds::UntilClean { .. });
        while self.rounds_left > 0 {
            // Some changes make no event: the last round looks at everything.
            let tracked = self.walked && self.rounds_left > 1 && self.tracker.is_some();
            let settled = self.round(conversation, writers, &numbers, tracked)?;
            self.rounds_left -= 1;
            if settled && until_clean {
                self.rounds_left = if tracked { 1 } else { 0 };
            }
        }
        if !self.plan.verify {
            return Ok(());
        }
        let mut repaired = 0;
        for _ in 0..=REPAIRS_MAX {
            let differences = self.verify(conversation)?;
            if let Some(verified) = self.summary.verified.as_mut() {
                verified.repaired = repaired;
            }
            if differences.is_empty() {
                return Ok(());
            }
            repaired += differences.len() as u64;
            self.round(conversation, writers, &numbers, false)?;
        }
        let differing = self.verify(conversation)?;
        self.skipped.extend(differing);
        Ok(())
    }

    /// One round, sealed on both sides. Returns whether nothing is left for another one.
    fn round(
        &mut self,
        conversation: &Conversation,
        writers: &mut [FrameWriter],
        numbers: &Numbers,
        tracked: bool,
    ) -> Result<bool> {
        let number = self.summary.rounds + 1;
        self.ground.observer.event(&Event::RoundStarted {
            round: number,
            tracked,
        });
        let tally = Tally {
            round: number,
            ..Tally::default()
        };
        let meter = Meter::default();
        let frames_before = numbers.frames.load(Ordering::Acquire);
        let control_before = conversation.control_bytes.load(Ordering::Relaxed);
        let mut session = Session {
            conversation,
            writers,
            numbers,
        };
        let tracker = self.tracker.as_mut().filter(|_| tracked);
        let sent = round::run(self.ground, &mut session, &mut self.baseline, tracker, &tally)
            .and_then(|()| round::seal(&session, &mut self.baseline));
        let Tally {
            counters, skipped, ..
        } = tally;
        let frames = numbers.frames.load(Ordering::Acquire);
        let control = conversation.control_bytes.load(Ordering::Relaxed) - control_before;
        self.account(&counters, control);
        sent?;
        self.summary.rounds = number;
        self.skipped = skipped.into_inner().expect("not poisoned");
        if let Some(tracker) = &mut self.tracker {
            tracker.settle();
        }
        self.walked = true;
        let entries = get(&counters.scanned);
        if !tracked {
            self.summary.files = entries;
            self.summary.bytes_total = get(&counters.bytes_total);
        }
        let durable = self.ground.findings.durable_bytes.load(Ordering::Relaxed);
        let progress = meter.progress(&counters, number, (entries, self.summary.bytes_total), durable);
        self.ground.observer.event(&Event::RoundFinished {
            round: number,
            progress,
        });
        Ok(frames == frames_before && get(&counters.unsettled) == 0)
    }

    fn account(&mut self, counters: &Counters, control: u64) {
        let summary = &mut self.summary;
        summary.sent += get(&counters.sent);
        summary.deleted += get(&counters.deleted);
        summary.renamed += get(&counters.renamed);
        summary.bytes_read += get(&counters.bytes_read);
        summary.bytes_data += get(&counters.bytes_data);
        summary.bytes_wire += get(&counters.bytes_wire) + control;
    }

    /// Has the target re-read its medium. Returns what differs; the baseline then knows those contents as unknown.
    fn verify(&mut self, conversation: &Conversation) -> Result<Vec<Skipped>> {
        conversation.order(&Order::Verify)?;
        let mut differing = Vec::new();
        loop {
            match conversation.report()? {
                Report::VerifyProgress { bytes, bytes_total } => {
                    self.ground
                        .observer
                        .event(&Event::Verifying { bytes, bytes_total });
                }
                Report::Differs { path, what } => {
                    self.baseline.with(|replica| {
                        replica.append(&[Record::Intent {
                            path: path.clone(),
                            chunks: Vec::new(),
                        }])
                    })?;
                    let why = "the target's medium holds something else".to_owned();
                    differing.push(Skipped {
                        path: path.display(),
                        what,
                        why,
                    });
                }
                Report::Verified {
                    root,
                    compared,
                    bytes,
                    differences,
                    version,
                } => {
                    if differences != differing.len() as u64 {
                        return Err(unexpected("another count of differences"));
                    }
                    if differences > 0 {
                        self.baseline.seal(version, conversation)?;
                    }
                    let own = self
                        .baseline
                        .with(|replica| verify::root_of(&replica.snapshot()))?;
                    if differences == 0 && own.0 != root {
                        return Err(Error::new(
                            Kind::Corrupt,
                            "verify: the root digests of source and target differ",
                        ));
                    }
                    let root = hex(&root);
                    self.summary.verified = Some(Verified {
                        root,
                        compared,
                        bytes,
                        repaired: 0,
                    });
                    return Ok(differing);
                }
                report => return Err(unexpected(report)),
            }
        }
    }

    fn finish(self) -> Summary {
        let sealed = self.baseline.with(|replica| Ok(replica.version()));
        let mut summary = self.summary;
        summary.sealed = sealed.ok().map(Into::into);
        summary.skipped = self.skipped;
        let refused = std::mem::take(&mut *self.ground.findings.skipped.lock().expect("not poisoned"));
        for skipped in refused {
            if !summary.skipped.contains(&skipped) {
                summary.skipped.push(skipped);
            }
        }
        let findings = self.ground.findings;
        summary.bytes_shared = findings.shared_bytes.load(Ordering::Relaxed);
        summary.bytes_not_shared = findings.apart_bytes.load(Ordering::Relaxed);
        summary.backed_off = self.ground.courtesy.backed_off();
        summary.ok = summary.skipped.is_empty();
        summary.seconds = self.begin.elapsed().as_secs_f64();
        summary
    }
}

/// A tracker, where later rounds can use one. A volume that crosses mounts is walked: a mount may come at any time.
fn tracker_for(plan: &SyncPlan, source: &TreeSource) -> Result<Option<Tracker>> {
    if source.cross_mounts || plan.rounds == Rounds::Count(1) {
        return Ok(None);
    }
    Tracker::attach(&source.root, &[])
}

/// Which migration this is: this machine and this directory, so that a lost state folder changes nothing.
fn migration_id(root: &Path) -> Result<Id> {
    let canonical = root
        .canonicalize()
        .map_err(|error| Error::io("find the directory to copy", root, error))?;
    let machine = std::fs::read("/etc/machine-id").or_else(|_| std::fs::read("/proc/sys/kernel/hostname"));
    let mut hasher = blake3::Hasher::new_derive_key("go2cloud tree migration 1");
    hasher.update(machine.unwrap_or_default().trim_ascii());
    hasher.update(&[0]);
    hasher.update(canonical.as_os_str().as_bytes());
    let mut id = Id::default();
    hasher.finalize_xof().fill(&mut id);
    Ok(id)
}

/// The state folder and what the caller named: found by inode, so that no spelling of a path gets around it.
fn never_copied(source: &TreeSource, state: &Path) -> HashSet<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let named = source
        .never
        .iter()
        .map(std::path::PathBuf::as_path)
        .chain([state]);
    let found = named.filter_map(|path| std::fs::metadata(path).ok());
    found.map(|metadata| (metadata.dev(), metadata.ino())).collect()
}

/// One run per state folder.
fn lock_state(state: &Path) -> Result<std::fs::File> {
    std::fs::create_dir_all(state).map_err(|error| Error::io("make the state folder", state, error))?;
    let path = state.join("lock");
    let file = std::fs::File::create(&path)
        .map_err(|error| Error::io("make a file in the state folder", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(_) => Err(
            Error::new(Kind::Usage, "use the state folder: another go2cloud is using it")
                .on(state)
                .remedy("wait for it to end, or give this run a --state folder of its own"),
        ),
    }
}
