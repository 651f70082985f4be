//! Blocks that files of the source share (reflinks): noted when a file is sent, given to the target at the end of a round.
//!
//! Content always travels; afterwards the target lets equal ranges share blocks again, where its file system can. Files that
//! are sent in one round are brought together; a file that shares with one that was sent earlier keeps blocks of its own.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::tree::capture::{Stat, shared_extents};
use crate::tree::entry::EntryPath;
use crate::tree::operation::{Operation, SharedRange};
use crate::tree::spool::Spool;
use crate::tree::tasks::{Dispatcher, Task, Work};

/// Shorter files are not looked at: sharing saves little, and the question costs a system call each.
const FILE_LEN_MIN: u64 = 16 * 1024;
/// Ranges of one operation: some 20 bytes each.
const RANGES_MAX: usize = 4096;

/// A stretch of blocks in use by several files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stretch {
    file_system: u64,
    physical: u64,
    len: u64,
    path: EntryPath,
    offset: u64,
}

impl Stretch {
    fn physical_end(&self) -> u64 {
        self.physical.saturating_add(self.len)
    }
}

/// What is shared, as far as it was seen in a round.
pub struct Sharing {
    stretches: Mutex<Spool<Stretch>>,
    /// Whether files of a file system, by device number, can share blocks.
    can: Mutex<HashMap<u64, bool>>,
}

impl Sharing {
    /// Nothing yet; the spool lies in `state`.
    ///
    /// # Errors
    /// No file can be made there.
    pub fn new(state: &Path) -> Result<Self> {
        Ok(Self {
            stretches: Mutex::new(Spool::new(state)?),
            can: Mutex::default(),
        })
    }

    /// Notes which blocks of a file that is sent are shared. What cannot be found out is not shared at the target.
    ///
    /// # Errors
    /// The disk is full.
    pub fn note(&self, file: BorrowedFd<'_>, stat: &Stat, file_system: u64, path: &EntryPath) -> Result<()> {
        if stat.size < FILE_LEN_MIN || !self.can_share(file, stat.dev) {
            return Ok(());
        }
        let mut at = 0;
        while let Ok(extents) = shared_extents(file, at..stat.size) {
            let Some(last) = extents.last() else {
                break;
            };
            at = last.logical_end();
            let mut stretches = self.stretches.lock().expect("not poisoned");
            for extent in &extents {
                stretches.push(&Stretch {
                    file_system,
                    physical: extent.physical,
                    len: extent.len.min(stat.size.saturating_sub(extent.logical)),
                    path: path.clone(),
                    offset: extent.logical,
                })?;
            }
        }
        Ok(())
    }

    fn can_share(&self, file: BorrowedFd<'_>, dev: u64) -> bool {
        let mut can = self.can.lock().expect("not poisoned");
        *can.entry(dev)
            .or_insert_with(|| sys::file_system::can_share_blocks(file.as_fd()).unwrap_or(false))
    }

    /// Queues what the target is to share.
    ///
    /// # Errors
    /// The disk is full, or the session broke.
    pub fn dispatch(&self, dispatcher: &Dispatcher, state: &Path) -> Result<bool> {
        let fresh = Spool::new(state)?;
        let stretches = std::mem::replace(&mut *self.stretches.lock().expect("not poisoned"), fresh);
        if stretches.is_empty() {
            return Ok(false);
        }
        let mut work = Work::new(dispatcher);
        let mut pair = Pair::default();
        let mut leader: Option<Stretch> = None;
        for stretch in stretches.sorted(by_place)? {
            let stretch = stretch?;
            let over = match &leader {
                Some(leader) if leader.file_system == stretch.file_system => {
                    let len = stretch
                        .physical_end()
                        .min(leader.physical_end())
                        .saturating_sub(stretch.physical);
                    if len > 0
                        && let Some(operation) = pair.add(leader, &stretch, len)
                    {
                        work.push(Task::Operation(Box::new(operation)))?;
                    }
                    stretch.physical_end() > leader.physical_end()
                }
                _ => true,
            };
            if over {
                leader = Some(stretch);
            }
        }
        if let Some(operation) = pair.take() {
            work.push(Task::Operation(Box::new(operation)))?;
        }
        work.finish()?;
        Ok(true)
    }
}

/// By place on the medium, so that whoever shares comes together.
fn by_place(a: &Stretch, b: &Stretch) -> Ordering {
    (a.file_system, a.physical)
        .cmp(&(b.file_system, b.physical))
        .then_with(|| a.path.as_bytes().cmp(b.path.as_bytes()))
        .then_with(|| a.offset.cmp(&b.offset))
}

/// Gathers ranges of the same two files.
#[derive(Default)]
struct Pair {
    files: Option<(EntryPath, EntryPath)>,
    ranges: Vec<SharedRange>,
}

impl Pair {
    /// Adds a range of `len` bytes at the beginning of `follower`; gives back an operation that is complete.
    fn add(&mut self, leader: &Stretch, follower: &Stretch, len: u64) -> Option<Operation> {
        let range = SharedRange {
            from_offset: leader.offset + (follower.physical - leader.physical),
            to_offset: follower.offset,
            len,
        };
        let files = (leader.path.clone(), follower.path.clone());
        let complete = if self.files.as_ref() == Some(&files) && self.ranges.len() < RANGES_MAX {
            None
        } else {
            self.take()
        };
        self.files = Some(files);
        self.ranges.push(range);
        complete
    }

    fn take(&mut self) -> Option<Operation> {
        let ranges = std::mem::take(&mut self.ranges);
        let (from, to) = self.files.take()?;
        Some(Operation::Share { from, to, ranges })
    }
}
