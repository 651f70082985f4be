//! The source side's front door: what to copy, whereto, and how.

pub mod conversation;
pub mod counters;
pub(crate) mod cutover;
pub(crate) mod freeze_points;
mod lead;
pub(crate) mod migration;
pub mod skips;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

pub use self::cutover::Freeze;
pub(crate) use self::lead::Course;
pub use self::lead::{Lead, Next, Standing};
pub use crate::disk::source::DisksSource;
use crate::error::Result;
use crate::progress::{Observer, StopFlag, Summary};
use crate::secret::Secret;
use crate::throttle::Throttle;

/// Copies a volume to a target, in the rounds of the plan, and says what was done. Lost links are taken up again as the plan
/// allows.
///
/// # Errors
/// [`crate::Kind`] says what the caller can do. What the target had made durable stays, and the next run goes on from
/// there.
pub fn sync(plan: &SyncPlan, observer: &dyn Observer, stop: &StopFlag) -> Result<Summary> {
    sync_led(plan, &plan.rounds, observer, stop)
}

/// The same, in the rounds that `lead` wants.
///
/// # Errors
/// As [`sync`], and what `lead` ends the run with.
pub fn sync_led(
    plan: &SyncPlan,
    lead: &dyn Lead,
    observer: &dyn Observer,
    stop: &StopFlag,
) -> Result<Summary> {
    match &plan.volume {
        SourceVolume::Tree(source) => crate::tree::sync::sync(plan, source, lead, observer, stop),
        SourceVolume::Disks(source) => crate::disk::source::run(plan, source, lead, observer, stop),
    }
}

/// A run of the source side. Built by the agent after all checks; everything in it is valid.
pub struct SyncPlan {
    /// Addresses of the target's receiver, tried in order.
    pub target: Vec<SocketAddr>,
    /// What both peers know.
    pub secret: Secret,
    /// Data connections, 1 to [`crate::limits::CONNECTIONS_MAX`].
    pub connections: usize,
    /// What is copied.
    pub volume: SourceVolume,
    /// Folder of the baseline; made when missing. Never migrated.
    pub state: PathBuf,
    /// Shared bandwidth limit; may be changed while running.
    pub throttle: Arc<Throttle>,
    /// How frames are compressed.
    pub compression: Compression,
    /// Whether the target re-reads its medium after the last round and both sides compare.
    pub verify: bool,
    /// How many rounds.
    pub rounds: Rounds,
    /// How often a lost link is taken up again.
    pub retry: Retry,
    /// Whether reading gives way to others of this machine: background priority, pauses under pressure.
    pub gives_way: bool,
}

/// What is copied.
pub enum SourceVolume {
    /// The contents of a directory.
    Tree(TreeSource),
    /// Disks or partitions, block by block.
    Disks(DisksSource),
}

/// A directory to copy.
pub struct TreeSource {
    /// The directory whose contents go to the root of the target.
    pub root: PathBuf,
    /// Whether disk-backed file systems mounted below the root are copied, too. Pseudo and network file systems never are.
    pub cross_mounts: bool,
    /// Exclude rules in rsync's syntax, in order: the lines of all `--exclude-from` files. Names are bytes, and so are these.
    pub excludes: Vec<Vec<u8>>,
    /// Absolute paths that are never copied whatever the rules say: the agent's own folder, the state folder.
    pub never: Vec<PathBuf>,
    /// Whether to count in the background how much there is, so that progress can tell the remaining time.
    pub estimate: bool,
    /// Whether the run ends with a cutover: its last round is made while the file systems are frozen.
    pub freeze: Option<Freeze>,
}

/// How frames are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// The level follows the bottleneck, frame by frame.
    Auto,
    /// Never.
    Off,
    /// A fixed zstd level, 1 to 19.
    Level(i32),
}

/// How many rounds a run makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounds {
    /// So many.
    Count(u32),
    /// Until a round finds nothing to send, at most so many.
    UntilClean {
        /// Upper bound.
        max: u32,
    },
}

/// How a lost link is taken up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The first failure ends the run.
    Never,
    /// So many times in a row without progress, with growing pauses.
    Times(u32),
    /// Until somebody says stop.
    Always,
}

impl Retry {
    /// Whether to try again after so many failures in a row.
    pub fn allows(self, failures: u32) -> bool {
        match self {
            Self::Never => false,
            Self::Times(times) => failures <= times,
            Self::Always => true,
        }
    }
}
