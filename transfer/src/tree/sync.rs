//! The source's story for a tree: connect, agree on the baseline, make rounds, verify; again after a lost link.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::compress::Governor;
use crate::courtesy::Courtesy;
use crate::error::{Error, Kind, Result};
use crate::link::auth::{self, Hello, Id, Role, VolumeKind};
use crate::link::{self, FrameWriter};
use crate::lock;
use crate::progress::{Event, Observer, Skipped, StopFlag, Summary, Verified};
use crate::protocol::{Order, Report};
use crate::signature::hex;
use crate::source::conversation::{Conversation, Findings, stopped, unexpected};
use crate::source::counters::{Counters, Meter, get};
use crate::source::migration::migration_id;
use crate::source::skips::Skips;
use crate::source::{Course, Lead, Next, Standing, SyncPlan, TreeSource};
use crate::tree::baseline::Baseline;
use crate::tree::capture::Directory;
use crate::tree::estimate::Estimate;
use crate::tree::filter::Filter;
use crate::tree::mounts::{self, TreeMounts};
use crate::tree::round::{self, Ground, Numbers, Pace, Session};
use crate::tree::tally::{Noted, Places, Tally};
use crate::tree::track::Tracker;
use crate::tree::verify;

/// First pause before a lost link is taken up again; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause before a lost link is taken up again.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often differences are repaired before a verification counts as failed.
const REPAIRS_MAX: u32 = 2;

/// Copies a tree.
///
/// # Errors
/// See the kinds of [`Kind`]; what is durable stays so, and the next run goes on from there.
pub fn sync(
    plan: &SyncPlan,
    source: &TreeSource,
    lead: &dyn Lead,
    observer: &dyn Observer,
    stop: &StopFlag,
) -> Result<Summary> {
    let _lock = lock::state_folder(&plan.state)?;
    let root = Directory::open_root(&source.root)
        .map_err(|error| Error::io("open the directory to copy", &source.root, error))?;
    let filter = Filter::parse(&source.excludes)?;
    let never = never_copied(source, &plan.state);
    let governor = Governor::new(plan.compression);
    let findings = Findings::default();
    let mut silent = HashSet::new();
    if source.cross_mounts {
        mounts::wake(&source.root, &mut silent)?;
    }
    let mounts = TreeMounts::look(&source.root, source.cross_mounts)?;
    let estimate = if source.estimate {
        Estimate::start(source.root.clone(), &mounts)
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
        mounts: &mounts,
        pace: Pace::Lively,
        state: &plan.state,
        governor: &governor,
        observer,
        findings: &findings,
        estimate: &estimate,
    };
    let migration = migration_id("go2cloud tree migration 1", [source.root.as_path()])?;
    let mut run = Run {
        plan,
        source,
        ground: &ground,
        stop,
        migration,
        instance: auth::random_id()?,
        baseline: Baseline::open(&plan.state, migration)?,
        summary: Summary::default(),
        tracker: tracker_for(lead, source, &mounts)?,
        mounts: mounts.clone(),
        silent,
        walked: false,
        last_sending: Duration::ZERO,
        handed_over: false,
        course: Course::new(lead),
        skipped: Skips::default(),
        places: Places::default(),
        begin: Instant::now(),
    };
    courtesy.during(|| run.until_done())?;
    Ok(run.finish())
}

/// What survives a lost link.
pub(super) struct Run<'a> {
    plan: &'a SyncPlan,
    pub(super) source: &'a TreeSource,
    pub(super) ground: &'a Ground<'a>,
    stop: &'a StopFlag,
    migration: Id,
    instance: Id,
    pub(super) baseline: Baseline,
    pub(super) summary: Summary,
    /// The rounds before cutover and verification.
    course: Course<'a>,
    /// Watches for changes between rounds, where there are several and the kernel can.
    pub(super) tracker: Option<Tracker>,
    /// The file systems of the tree when the last round began.
    pub(super) mounts: TreeMounts,
    /// Automounts that do not answer.
    silent: HashSet<std::path::PathBuf>,
    /// Whether a walk of everything has been sealed since the tracker was attached.
    walked: bool,
    /// How long the last round looked and sent.
    pub(super) last_sending: Duration,
    /// Whether the cutover is over.
    pub(super) handed_over: bool,
    /// What the last round could not read, or what did not hold still in it.
    skipped: Skips,
    /// Where that is.
    places: Places,
    begin: Instant,
}

/// A round under way.
pub(super) struct Round {
    tally: Tally,
    meter: Meter,
    tracked: bool,
    frames_before: u64,
    control_before: u64,
}

impl Round {
    /// Whether nothing moved while it was read.
    pub(super) fn is_settled(&self) -> bool {
        self.tally.is_settled()
    }
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
        self.agree(conversation)?;
        let (target, connections) = (conversation.target.to_string(), writers.len());
        self.ground
            .observer
            .event(&Event::Connected { target, connections });
        let numbers = Numbers::default();
        let mut session = Session {
            conversation,
            writers,
            numbers: &numbers,
        };
        while let Some(next) = self.course.next()? {
            // Some changes make no event: the last round looks at everything.
            let tracked = next == Next::Round && self.is_tracked();
            let clean = match next {
                Next::Moment => {
                    self.make_moment(&mut session)?;
                    false
                }
                _ => self.round(&mut session, tracked)?,
            };
            self.course.made(Standing {
                rounds: self.summary.rounds,
                clean,
                exhaustive: !tracked,
            });
        }
        self.cut_over(&mut session)?;
        if !self.plan.verify {
            return Ok(());
        }
        let (mut repairs, mut repaired) = (0, 0);
        loop {
            let differing = self.verify(conversation)?;
            if let Some(verified) = self.summary.verified.as_mut() {
                verified.repaired = repaired;
            }
            if differing.total() == 0 || repairs == REPAIRS_MAX {
                self.skipped.merge(differing);
                return Ok(());
            }
            repairs += 1;
            repaired += differing.total();
            // What is repaired is of now, not of the freeze before.
            self.handed_over = false;
            self.round(&mut session, false)?;
            self.cut_over(&mut session)?;
        }
    }

    /// Makes the target's journal list what is in its tree, and the baseline what is in the journal.
    fn agree(&mut self, conversation: &Conversation) -> Result<()> {
        let Report::Opened { .. } = conversation.report()? else {
            return Err(unexpected("something else than that the session is open"));
        };
        let excludes = self.source.excludes.clone();
        conversation.order(&Order::Survey { excludes })?;
        let version = match conversation.report()? {
            Report::Surveyed { version } => version,
            report => return Err(unexpected(report)),
        };
        if !self.baseline.reconcile(version, conversation)? {
            // The target may lack what no event names.
            self.walked = false;
        }
        Ok(())
    }

    /// Whether the next round can rely on the tracker.
    fn is_tracked(&self) -> bool {
        self.walked && self.tracker.is_some()
    }

    /// One round, sealed on both sides. Returns whether nothing is left for another one.
    pub(super) fn round(&mut self, session: &mut Session<'_>, tracked: bool) -> Result<bool> {
        let round = self.begin_round(session, tracked)?;
        let sent = self.send(&round, session, self.ground);
        self.end_round(round, session, sent)
    }

    /// Begins a round: over what the tracker names, if it is to be `tracked` and can be, else over everything.
    pub(super) fn begin_round(&mut self, session: &Session<'_>, tracked: bool) -> Result<Round> {
        self.look_at_mounts()?;
        let tracked = tracked && self.is_tracked() && !self.places.are_too_many();
        if !tracked {
            // What is still refused is tried and named again.
            *self.ground.findings.skipped.lock().expect("not poisoned") = Skips::default();
        }
        let number = self.summary.rounds + 1;
        self.ground.observer.event(&Event::RoundStarted {
            round: number,
            tracked,
        });
        Ok(Round {
            tally: Tally::new(number),
            meter: Meter::default(),
            tracked,
            frames_before: session.numbers.frames.load(Ordering::Acquire),
            control_before: session.conversation.control_bytes.load(Ordering::Relaxed),
        })
    }

    /// What is mounted or unmounted inside makes no event: where the walk crosses, nothing is left to a tracker from then on.
    fn look_at_mounts(&mut self) -> Result<()> {
        let crosses = self.source.cross_mounts;
        if crosses {
            mounts::wake(&self.source.root, &mut self.silent)?;
        }
        let mounts = TreeMounts::look(&self.source.root, crosses)?;
        if crosses && mounts != self.mounts && self.tracker.take().is_some() {
            let message = "something was mounted or unmounted: every further round looks at everything";
            self.ground.observer.event(&Event::Warning {
                message: message.to_owned(),
            });
        }
        self.mounts = mounts;
        Ok(())
    }

    /// Looks and sends; when this returns, all that was to be read was read.
    pub(super) fn send(
        &mut self,
        round: &Round,
        session: &mut Session<'_>,
        ground: &Ground<'_>,
    ) -> Result<()> {
        let began = Instant::now();
        let ground = Ground {
            mounts: &self.mounts,
            ..*ground
        };
        let tracker = self.tracker.as_mut().filter(|_| round.tracked);
        let sent = round::run(
            &ground,
            session,
            &mut self.baseline,
            tracker,
            &self.places,
            &round.tally,
        );
        self.last_sending = began.elapsed();
        sent
    }

    /// Seals a round in which everything was `sent`. Returns whether nothing is left for another one.
    pub(super) fn end_round(
        &mut self,
        round: Round,
        session: &Session<'_>,
        sent: Result<()>,
    ) -> Result<bool> {
        let sealed = sent.and_then(|()| round::seal(session, &mut self.baseline));
        let is_settled = round.is_settled();
        let number = round.tally.round;
        let (counters, noted) = round.tally.finish();
        let frames = session.numbers.frames.load(Ordering::Acquire);
        let control = session.conversation.control_bytes.load(Ordering::Relaxed) - round.control_before;
        self.account(&counters, control);
        sealed?;
        self.summary.rounds = number;
        let Noted { skips, places, moved } = noted;
        (self.skipped, self.places, self.summary.unsettled.last) = (skips, places, moved);
        if let Some(tracker) = &mut self.tracker {
            tracker.settle();
        }
        self.walked = true;
        let entries = get(&counters.scanned);
        if !round.tracked {
            self.summary.files = entries;
            self.summary.bytes_total = get(&counters.bytes_total);
        }
        let durable = self.ground.findings.durable_bytes.load(Ordering::Relaxed);
        let totals = (entries, self.summary.bytes_total);
        let progress = round.meter.progress(&counters, number, totals, durable);
        self.ground.observer.event(&Event::RoundFinished {
            round: number,
            progress,
        });
        Ok(frames == round.frames_before && is_settled)
    }

    fn account(&mut self, counters: &Counters, control: u64) {
        let summary = &mut self.summary;
        summary.sent += get(&counters.sent);
        summary.deleted += get(&counters.deleted);
        summary.renamed += get(&counters.renamed);
        summary.bytes_read += get(&counters.bytes_read);
        summary.bytes_data += get(&counters.bytes_data);
        summary.bytes_wire += get(&counters.bytes_wire) + control;
        summary.unsettled.changed += get(&counters.changed);
        summary.unsettled.vanished += get(&counters.vanished);
        summary.unsettled.replaced += get(&counters.replaced);
    }

    /// Has the target re-read its medium. Returns what differs; the baseline then counts that as unknown.
    fn verify(&mut self, conversation: &Conversation) -> Result<Skips> {
        conversation.order(&Order::Verify)?;
        let mut known = self.baseline.with(|replica| Ok(replica.snapshot().cursor()))?;
        let (mut differing, mut count) = (Skips::default(), 0);
        loop {
            match conversation.report()? {
                Report::VerifyProgress { bytes, bytes_total } => {
                    self.ground
                        .observer
                        .event(&Event::Verifying { bytes, bytes_total });
                }
                Report::Differs { path, part, what } => {
                    let why = "the target's medium holds something else".to_owned();
                    count += 1;
                    differing.add(Skipped {
                        path: path.display(),
                        what,
                        why,
                    });
                    let record = verify::record_of(path, part, &mut known)?;
                    self.baseline.with(|replica| replica.append(&[record]))?;
                }
                Report::Verified {
                    root,
                    compared,
                    bytes,
                    differences,
                    version,
                } => {
                    if differences != count {
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
        let findings = self.ground.findings;
        let mut skipped = self.skipped;
        skipped.merge(std::mem::take(
            &mut *findings.skipped.lock().expect("not poisoned"),
        ));
        summary.ok = skipped.total() == 0;
        summary.skipped_total = skipped.total();
        summary.skipped = skipped.into_listed();
        summary.bytes_shared = findings.shared_bytes.load(Ordering::Relaxed);
        summary.bytes_not_shared = findings.apart_bytes.load(Ordering::Relaxed);
        summary.backed_off = self.ground.courtesy.backed_off();
        summary.seconds = self.begin.elapsed().as_secs_f64();
        summary
    }
}

/// A tracker, where later rounds can use one. What crosses mounts is tracked for the sake of a short freeze only.
fn tracker_for(lead: &dyn Lead, source: &TreeSource, mounts: &TreeMounts) -> Result<Option<Tracker>> {
    let is_of_use = match &source.freeze {
        Some(_) => mounts.are_distinct(),
        None => !source.cross_mounts && !lead.is_single(),
    };
    if !is_of_use {
        return Ok(None);
    }
    Tracker::attach(&source.root, mounts.inside())
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
