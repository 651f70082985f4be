//! One round: walk, renames, send, links, directories; in this order, each phase behind the one before.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sys::open_files::FileId;

use crate::compress::Governor;
use crate::courtesy::Courtesy;
use crate::error::{Error, Result};
use crate::link::FrameWriter;
use crate::progress::{Event, Observer, StopFlag};
use crate::protocol::{Order, Report};
use crate::source::conversation::{Conversation, Findings, unexpected};
use crate::source::counters::{self, Meter};
use crate::tree::baseline::Baseline;
use crate::tree::capture::Directory;
use crate::tree::entry::{Entry, EntryPath, Time};
use crate::tree::estimate::Estimate;
use crate::tree::filter::Filter;
use crate::tree::links::{self, SeenLink};
use crate::tree::mounts::TreeMounts;
use crate::tree::moves::{self, Deferred, Move};
use crate::tree::operation::Operation;
use crate::tree::scan::Scan;
use crate::tree::scan::again::SetAside;
use crate::tree::send::{Sender, Shared};
use crate::tree::shared::Sharing;
use crate::tree::spool::Spool;
use crate::tree::tally::{Places, Tally};
use crate::tree::tasks::{Dispatcher, Item, Task, Work};
use crate::tree::track::{Changes, Tracker};

/// How often progress is told.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);
/// Threads of the walk: more only fight for the same directories' locks and seeks.
pub(super) const WALKERS_MAX: usize = 8;
/// Passes in search of renames; what is found later is sent anew.
const PASSES_MAX: u32 = 16;
/// How often what did not hold still is looked at again at the end of a round over everything: most of it does then.
const LOOKS_AGAIN_MAX: u32 = 2;
/// Renames that one sender takes at a time: a frame's worth with usual paths.
const RENAMES_PER_BATCH: usize = 4096;

/// What stays the same for all rounds of a run.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// The volume's root.
    pub root: &'a Directory,
    /// What is left alone on both sides.
    pub filter: &'a Filter,
    /// Directories that are never copied, by device and inode number.
    pub never: &'a HashSet<(u64, u64)>,
    /// Whether disk-backed file systems mounted inside are entered.
    pub cross_mounts: bool,
    /// The file systems of the tree.
    pub mounts: &'a TreeMounts,
    /// Whether nothing changes during the round, and nothing may be written to a disk.
    pub pace: Pace<'a>,
    /// Folder for temporary files.
    pub state: &'a Path,
    /// Level of compression.
    pub governor: &'a Governor,
    /// Who is told.
    pub observer: &'a dyn Observer,
    /// What the target told.
    pub findings: &'a Findings,
    /// Giving way to others.
    pub courtesy: &'a Courtesy,
    /// How much there is, while no baseline tells.
    pub estimate: &'a Estimate,
}

/// What goes on around a round.
#[derive(Clone, Copy, Debug)]
pub enum Pace<'a> {
    /// Everybody works on; so do we with our files.
    Lively,
    /// The file systems are frozen. Nothing is written back, nothing sealed in between; what was renamed is sent anew.
    Frozen {
        /// What was open for writing or mapped just before.
        busy: &'a Busy,
    },
}

/// Files that may be changing without moving their times, with a path to each.
pub type Busy = HashMap<FileId, PathBuf>;

impl Pace<'_> {
    pub(super) fn is_lively(self) -> bool {
        matches!(self, Self::Lively)
    }

    fn busy(self) -> Result<Busy> {
        match self {
            Self::Lively => busy_files(),
            Self::Frozen { busy } => {
                let failed = |error| Error::io("list open files", Path::new("/proc"), error);
                let mut all = sys::open_files::opened_for_write().map_err(failed)?;
                all.extend(busy.iter().map(|(id, path)| (*id, path.clone())));
                Ok(all)
            }
        }
    }
}

/// The frames and files of a session are numbered through all its rounds.
#[derive(Debug, Default)]
pub struct Numbers {
    /// Next frame.
    pub frames: AtomicU64,
    /// Next long file.
    pub long_files: AtomicU64,
    /// Frames below this one are sealed.
    pub sealed: AtomicU64,
}

/// The connections of a session.
pub struct Session<'a> {
    /// Orders and answers.
    pub conversation: &'a Conversation,
    /// Data connections.
    pub writers: &'a mut [FrameWriter],
    /// What is numbered through the session.
    pub numbers: &'a Numbers,
}

/// What a round knows from its begin.
struct Round<'a> {
    ground: &'a Ground<'a>,
    tally: &'a Tally,
    meter: Meter,
    t0: Time,
    changes: Option<Changes>,
    busy: HashSet<FileId>,
    /// What did not hold still, when this is another look at it.
    again: Option<HashSet<EntryPath>>,
    sharing: Sharing,
    /// File systems entered, by device number.
    entered: Mutex<HashSet<u64>>,
}

/// What the walks of a round gather for later.
struct Found {
    links: Mutex<Spool<SeenLink>>,
    directories: Mutex<Spool<Entry>>,
    deferred: Deferred,
    /// Renamed directories that were walked under their new names.
    walked: Mutex<HashSet<EntryPath>>,
    /// Renames that the target was asked for. One that is found again is one that it cannot make.
    tried: Mutex<HashSet<Move>>,
}

/// What the walk of a pass is over.
enum Walk {
    /// Everything, or what the tracker named.
    Everything,
    /// Directories that were renamed.
    Renamed(Vec<EntryPath>),
}

/// Sends everything that differs from the baseline. When this returns, all frames have been sent; what came before and
/// with renames is sealed, the rest is not. A round that follows a tracker looks at `places`, too.
///
/// # Errors
/// The session broke: the caller asks the conversation why.
pub fn run(
    ground: &Ground<'_>,
    session: &mut Session<'_>,
    baseline: &mut Baseline,
    tracker: Option<&mut Tracker>,
    places: &Places,
    tally: &Tally,
) -> Result<()> {
    let t0 = now();
    if ground.pace.is_lively() {
        write_back(ground)?;
    }
    let busy = ground.pace.busy()?;
    let changes = tracker
        .map(|tracker| tracker.take(ground.mounts.inside(), &busy))
        .transpose()?
        .map(|changes| changes.with(places.paths()));
    let looks_again = changes.is_none() && ground.pace.is_lively();
    let busy = busy.into_keys().collect();
    let mut round = Round {
        ground,
        tally,
        meter: Meter::default(),
        t0,
        changes,
        busy,
        again: None,
        sharing: Sharing::new(ground.state)?,
        entered: Mutex::default(),
    };
    round.look(session, baseline)?;
    for _ in 0..LOOKS_AGAIN_MAX {
        let Some(again) = looks_again.then(|| tally.begin_look()).flatten() else {
            break;
        };
        // The baseline has to know what the target has by now.
        seal(session, baseline)?;
        let covered = tally.counters.covered();
        // The round's time stays: since then nothing was written back, so that what is newer proves nothing.
        round = Round {
            changes: Some(Changes::default().with(&again)),
            busy: HashSet::new(),
            again: Some(again),
            sharing: Sharing::new(ground.state)?,
            ..round
        };
        round.look(session, baseline)?;
        tally.counters.uncover(covered);
    }
    Ok(())
}

/// Has the target make everything sent so far durable; both sides then agree on what it holds.
///
/// # Errors
/// The session broke, or a disk failed.
pub fn seal(session: &Session<'_>, baseline: &mut Baseline) -> Result<()> {
    let Numbers { frames, sealed, .. } = session.numbers;
    let frames = frames.load(Ordering::Acquire);
    if sealed.load(Ordering::Acquire) == frames {
        return Ok(());
    }
    session.conversation.order(&Order::EndRound { frames })?;
    match session.conversation.report()? {
        Report::RoundDone { version } => baseline.seal(version, session.conversation)?,
        report => return Err(unexpected(report)),
    }
    sealed.store(frames, Ordering::Release);
    Ok(())
}

impl Round<'_> {
    /// Passes until nothing more was renamed.
    fn look(&self, session: &mut Session<'_>, baseline: &mut Baseline) -> Result<()> {
        let state = self.ground.state;
        let found = Found {
            links: Mutex::new(Spool::new(state)?),
            directories: Mutex::new(Spool::new(state)?),
            deferred: Deferred::new(state)?,
            walked: Mutex::default(),
            tried: Mutex::default(),
        };
        let mut walk = Walk::Everything;
        for pass in 1.. {
            let last = pass >= PASSES_MAX;
            let moves = self.stage(session, baseline, |phases| {
                phases.walk(&found, std::mem::replace(&mut walk, Walk::Everything), last)
            })?;
            if moves.is_empty() {
                break;
            }
            // A generation of their own, for its renames count as before everything else in it.
            seal(session, baseline)?;
            let ordered = moves::order(&moves);
            self.stage(session, baseline, |phases| phases.rename(&found, &ordered))?;
            seal(session, baseline)?;
            found
                .tried
                .lock()
                .expect("not poisoned")
                .extend(moves.iter().cloned());
            let moves = moves.into_iter().filter(|one| !moves::is_aside(&one.to));
            let directories = moves
                .inspect(|_| counters::add(&self.tally.counters.renamed, 1))
                .filter(|one| one.is_directory);
            walk = Walk::Renamed(directories.map(|one| one.to).collect());
        }
        Ok(())
    }

    /// Runs `act` while senders work on what it makes; the baseline stays the same meanwhile.
    fn stage<T>(
        &self,
        session: &mut Session<'_>,
        baseline: &Baseline,
        act: impl FnOnce(&Phases<'_>) -> Result<T>,
    ) -> Result<T> {
        let Session {
            conversation,
            writers,
            numbers,
        } = session;
        let (conversation, numbers) = (*conversation, *numbers);
        let (snapshot, totals) =
            baseline.with(|replica| Ok((replica.snapshot(), (replica.entries(), replica.content_len()))))?;
        let dispatcher = Dispatcher::new(writers.len());
        let phase_after = AtomicU64::new(numbers.frames.load(Ordering::Acquire));
        let links = Mutex::new(Some(Spool::<Operation>::new(self.ground.state)?));
        let shared = Shared {
            dispatcher: &dispatcher,
            governor: self.ground.governor,
            frames: &numbers.frames,
            long_files: &numbers.long_files,
            phase_after: &phase_after,
            baseline,
            links: &links,
            counters: &self.tally.counters,
            tally: self.tally,
            courtesy: self.ground.courtesy,
            sharing: &self.sharing,
            t0: self.t0,
            pace: self.ground.pace,
            snapshot: &snapshot,
        };
        let phases = Phases {
            round: self,
            shared: &shared,
            // Nothing can have been renamed that the target does not have.
            may_defer: totals.0 > 0,
        };
        let over = StopFlag::default();
        std::thread::scope(|scope| {
            for writer in writers.iter_mut() {
                scope.spawn(|| {
                    let sent = Sender::new(&shared, writer).and_then(|mut sender| sender.run());
                    if let Err(error) = sent {
                        conversation.fail(error);
                        dispatcher.close();
                    }
                });
            }
            scope.spawn(|| {
                loop {
                    if conversation.is_over() {
                        dispatcher.close();
                    }
                    tell(self.ground, &self.meter, self.tally, totals);
                    if over.sleep(PROGRESS_PERIOD) {
                        break;
                    }
                }
            });
            let acted = act(&phases);
            dispatcher.close();
            over.stop();
            acted.map_err(|error| {
                conversation.fail(error);
                conversation.verdict()
            })
        })
    }
}

/// Tells the observer how far the round is; `totals` are the baseline's entries and bytes.
fn tell(ground: &Ground<'_>, meter: &Meter, tally: &Tally, totals: (u64, u64)) {
    let durable = ground.findings.durable_bytes.load(Ordering::Relaxed);
    let totals = if totals.0 > 0 {
        totals
    } else {
        ground.estimate.totals()
    };
    let progress = meter.progress(&tally.counters, tally.round, totals, durable);
    ground.observer.event(&Event::Progress(progress));
}

/// The time by the clock that file systems go by.
pub fn now() -> Time {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Time {
        sec: now.tv_sec,
        nsec: now.tv_nsec as u32,
    }
}

/// Has dirty pages written back after the round's time was taken: a later store to one of them moves the file's times.
fn write_back(ground: &Ground<'_>) -> Result<()> {
    let failed = |path: &Path, error| Error::io("write back the source's file system", path, error);
    rustix::fs::syncfs(ground.root.as_fd()).map_err(|error| failed(Path::new("."), error.into()))?;
    for mount in ground.mounts.inside() {
        // One that was unmounted meanwhile has nothing left to write.
        if let Ok(directory) = ground.root.open_beneath(mount) {
            let synchronised = rustix::fs::syncfs(directory.as_fd());
            synchronised.map_err(|error| failed(Path::new(&mount.display()), error.into()))?;
        }
    }
    Ok(())
}

/// How many threads walk.
fn walkers() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(WALKERS_MAX)
}

/// What is open for writing or mapped at this moment.
///
/// # Errors
/// `/proc` is not mounted.
pub fn busy_files() -> Result<Busy> {
    sys::open_files::open_for_write().map_err(|error| Error::io("list open files", Path::new("/proc"), error))
}

struct Phases<'a> {
    round: &'a Round<'a>,
    shared: &'a Shared<'a>,
    may_defer: bool,
}

impl Phases<'_> {
    /// The story of a pass: walks, and goes on to the end of the round unless something was renamed, which it gives back.
    fn walk(&self, found: &Found, walk: Walk, last: bool) -> Result<Vec<Move>> {
        let renamed = matches!(walk, Walk::Renamed(_));
        let threads = walkers();
        let defers = self.may_defer && !last;
        let scan = self.scan(found, defers.then_some(&found.deferred));
        match walk {
            Walk::Everything => scan.run_tracked(threads)?,
            Walk::Renamed(directories) => {
                let walked = scan.run_renamed(directories, threads)?;
                found.walked.lock().expect("not poisoned").extend(walked);
            }
        }
        self.end_phase()?;
        if defers && self.round.ground.pace.is_lively() {
            let mut moves = moves::find(&scan, &found.deferred)?;
            let tried = found.tried.lock().expect("not poisoned");
            moves.retain(|one| !tried.contains(one));
            drop(tried);
            if !moves.is_empty() {
                return Ok(moves);
            }
        }
        let scan = self.scan(found, None);
        let (arrivals, departures) = found.deferred.take()?;
        if !(arrivals.is_empty() && departures.is_empty()) {
            let set_aside = SetAside {
                arrivals,
                departures,
                walked: std::mem::take(&mut *found.walked.lock().expect("not poisoned")),
                renamed,
            };
            scan.look_again(set_aside, threads)?;
            self.end_phase()?;
        }
        self.finish(found, &scan)?;
        Ok(Vec::new())
    }

    fn scan<'s>(&'s self, found: &'s Found, deferred: Option<&'s Deferred>) -> Scan<'s> {
        let (ground, shared) = (self.round.ground, self.shared);
        Scan {
            root: ground.root,
            snapshot: shared.snapshot,
            filter: ground.filter,
            never: ground.never,
            cross_mounts: ground.cross_mounts,
            elsewhere: ground.mounts.elsewhere(),
            t0: shared.t0,
            dispatcher: shared.dispatcher,
            counters: shared.counters,
            links: &found.links,
            directories: &found.directories,
            tally: shared.tally,
            again: self.round.again.as_ref(),
            entered: &self.round.entered,
            changes: self.round.changes.as_ref(),
            busy: &self.round.busy,
            deferred,
            courtesy: ground.courtesy,
        }
    }

    /// Sends renames, each after those before it.
    fn rename(&self, found: &Found, ordered: &[(EntryPath, EntryPath)]) -> Result<()> {
        for some in ordered.chunks(RENAMES_PER_BATCH) {
            let task = |(from, to): &(EntryPath, EntryPath)| {
                Task::Operation(Box::new(Operation::Rename {
                    from: from.clone(),
                    to: to.clone(),
                }))
            };
            // A batch stays with one sender, in order; the next one follows when it has been sent.
            self.shared
                .dispatcher
                .push(Item::Tasks(some.iter().map(task).collect()))?;
            self.end_phase()?;
        }
        if ordered.iter().any(|(_, to)| moves::is_aside(to)) {
            // Names in the root were used, which moved its time.
            self.scan(found, None).finish_root()?;
        }
        Ok(())
    }

    /// Everything that comes after the walk.
    fn finish(&self, found: &Found, scan: &Scan<'_>) -> Result<()> {
        let state = self.round.ground.state;
        let fresh = Spool::new(state)?;
        let groups = std::mem::replace(&mut *found.links.lock().expect("not poisoned"), fresh);
        if !groups.is_empty() {
            links::dispatch(scan, groups, state)?;
            self.end_phase()?;
        }
        let links = self.shared.links.lock().expect("not poisoned").take();
        if let Some(links) = links.filter(|links| !links.is_empty()) {
            self.send_all(links.read()?)?;
            self.end_phase()?;
        }
        if self.round.sharing.dispatch(self.shared.dispatcher, state)? {
            self.end_phase()?;
        }
        let fresh = Spool::new(state)?;
        let directories = std::mem::replace(&mut *found.directories.lock().expect("not poisoned"), fresh);
        if !directories.is_empty() {
            self.send_all(
                directories
                    .read()?
                    .map(|entry| entry.map(Operation::FinishDirectory)),
            )?;
            self.end_phase()?;
        }
        Ok(())
    }

    fn send_all(&self, operations: impl Iterator<Item = Result<Operation>>) -> Result<()> {
        let mut work = Work::new(self.shared.dispatcher);
        for operation in operations {
            work.push(Task::Operation(Box::new(operation?)))?;
        }
        work.finish()
    }

    /// Waits until everything has been sent; what follows is applied after it.
    fn end_phase(&self) -> Result<()> {
        self.shared.dispatcher.wait_idle()?;
        self.shared
            .phase_after
            .store(self.shared.frames.load(Ordering::Acquire), Ordering::Release);
        Ok(())
    }
}
