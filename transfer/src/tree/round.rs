//! One round: walk, send, links, directories; in this order, each phase behind the one before.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sys::open_files::FileId;

use crate::compress::Governor;
use crate::error::{Error, Result};
use crate::link::FrameWriter;
use crate::progress::{Event, Observer, Skipped};
use crate::source::conversation::{Conversation, Findings};
use crate::source::counters::{Counters, Meter};
use crate::tree::baseline::Baseline;
use crate::tree::capture::Directory;
use crate::tree::entry::{Entry, Time};
use crate::tree::estimate::Estimate;
use crate::tree::filter::Filter;
use crate::tree::links;
use crate::tree::operation::Operation;
use crate::tree::scan::Scan;
use crate::tree::send::{Sender, Shared};
use crate::tree::spool::Spool;
use crate::tree::tasks::{Dispatcher, Task, Work};
use crate::tree::track::{Changes, Tracker};

/// How often progress is told.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);
/// Threads of the walk: more only fight for the same directories' locks and seeks.
const WALKERS_MAX: usize = 8;

/// What stays the same for all rounds of a run.
pub struct Ground<'a> {
    /// The volume's root.
    pub root: &'a Directory,
    /// What is left alone on both sides.
    pub filter: &'a Filter,
    /// Directories that are never copied, by device and inode number.
    pub never: &'a HashSet<(u64, u64)>,
    /// Whether disk-backed file systems mounted inside are entered.
    pub cross_mounts: bool,
    /// Folder for temporary files.
    pub state: &'a Path,
    /// Level of compression.
    pub governor: &'a Governor,
    /// Who is told.
    pub observer: &'a dyn Observer,
    /// What the target told.
    pub findings: &'a Findings,
    /// How much there is, while no baseline tells.
    pub estimate: &'a Estimate,
}

/// The frames and files of a session are numbered through all its rounds.
#[derive(Debug, Default)]
pub struct Numbers {
    /// Next frame.
    pub frames: AtomicU64,
    /// Next long file.
    pub long_files: AtomicU64,
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

/// What a round counts and names.
#[derive(Debug, Default)]
pub struct Tally {
    /// Its number.
    pub round: u32,
    /// What it did.
    pub counters: Counters,
    /// What could not be read.
    pub skipped: Mutex<Vec<Skipped>>,
}

/// Sends everything that differs from the baseline. When this returns, all frames have been sent; nothing is sealed.
///
/// # Errors
/// The session broke: the caller asks the conversation why.
pub fn run(
    ground: &Ground<'_>,
    session: &mut Session<'_>,
    baseline: &Baseline,
    tracker: Option<&mut Tracker>,
    tally: &Tally,
) -> Result<()> {
    let Session {
        conversation,
        writers,
        numbers,
    } = session;
    let (conversation, numbers) = (*conversation, *numbers);
    let t0 = begin(ground.root)?;
    let changes = tracker.map(|tracker| tracker.take(&[])).transpose()?;
    let busy = match &changes {
        Some(changes) => changes.busy.clone(),
        None => busy_files()?,
    };
    let (snapshot, totals) =
        baseline.with(|replica| Ok((replica.snapshot(), (replica.entries(), replica.content_len()))))?;
    let dispatcher = Dispatcher::new(writers.len());
    let phase_after = AtomicU64::new(numbers.frames.load(Ordering::Acquire));
    let links = Mutex::new(Some(Spool::<Operation>::new(ground.state)?));
    let shared = Shared {
        dispatcher: &dispatcher,
        governor: ground.governor,
        frames: &numbers.frames,
        long_files: &numbers.long_files,
        phase_after: &phase_after,
        baseline,
        links: &links,
        counters: &tally.counters,
        skipped: &tally.skipped,
        t0,
        snapshot: &snapshot,
    };
    let phases = Phases {
        ground,
        shared: &shared,
        changes: changes.as_ref(),
        busy: &busy,
    };
    let over = AtomicU64::new(0);
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
            let meter = Meter::default();
            while over.load(Ordering::Acquire) == 0 {
                if conversation.is_over() {
                    dispatcher.close();
                }
                tell(ground, &meter, tally, totals);
                nap(PROGRESS_PERIOD, &over);
            }
        });
        let walked = phases.run();
        dispatcher.close();
        over.store(1, Ordering::Release);
        walked.map_err(|error| {
            conversation.fail(error);
            conversation.verdict()
        })
    })
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

/// Sleeps, but not past the end.
fn nap(period: Duration, over: &AtomicU64) {
    let step = Duration::from_millis(10);
    let mut left = period;
    while !left.is_zero() && over.load(Ordering::Acquire) == 0 {
        std::thread::sleep(step.min(left));
        left = left.saturating_sub(step);
    }
}

/// Takes the round's time, then has dirty pages written back: a later store to one of them moves the file's times.
fn begin(root: &Directory) -> Result<Time> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let t0 = Time {
        sec: now.tv_sec,
        nsec: now.tv_nsec as u32,
    };
    rustix::fs::syncfs(root.as_fd()).map_err(|error| {
        Error::io(
            "write back the source's file system",
            Path::new("."),
            error.into(),
        )
    })?;
    Ok(t0)
}

/// Files that may be changing at this moment without moving their times.
fn busy_files() -> Result<HashSet<FileId>> {
    let busy = sys::open_files::open_for_write();
    let busy = busy.map_err(|error| Error::io("list open files", Path::new("/proc"), error))?;
    Ok(busy.into_keys().collect())
}

struct Phases<'a> {
    ground: &'a Ground<'a>,
    shared: &'a Shared<'a>,
    changes: Option<&'a Changes>,
    busy: &'a HashSet<FileId>,
}

impl Phases<'_> {
    /// The story of a round.
    fn run(&self) -> Result<()> {
        let (ground, shared) = (self.ground, self.shared);
        let links = Mutex::new(Spool::new(ground.state)?);
        let directories = Mutex::new(Spool::<Entry>::new(ground.state)?);
        let entered = Mutex::new(HashSet::new());
        let scan = Scan {
            root: ground.root,
            snapshot: shared.snapshot,
            filter: ground.filter,
            never: ground.never,
            cross_mounts: ground.cross_mounts,
            t0: shared.t0,
            dispatcher: shared.dispatcher,
            counters: shared.counters,
            links: &links,
            directories: &directories,
            skipped: shared.skipped,
            entered: &entered,
            changes: self.changes,
            busy: self.busy,
        };
        let walkers = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(WALKERS_MAX);
        scan.run_tracked(walkers)?;
        self.end_phase()?;
        let groups = std::mem::replace(
            &mut *links.lock().expect("not poisoned"),
            Spool::new(ground.state)?,
        );
        if !groups.is_empty() {
            links::dispatch(&scan, groups, ground.state)?;
            self.end_phase()?;
        }
        let links = shared.links.lock().expect("not poisoned").take();
        if let Some(links) = links.filter(|links| !links.is_empty()) {
            self.send_all(links.read()?)?;
            self.end_phase()?;
        }
        let directories = directories.into_inner().expect("not poisoned");
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
