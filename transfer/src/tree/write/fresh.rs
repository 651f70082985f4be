//! What a new regular file of a directory is like before anything is applied to it: looked at once, on the first.
//!
//! Owner, mode, flags, attributes and project id of a new file follow from its directory and this process alone. Where they
//! are plain, and what is wanted is plain, too, a file needs no look at its own: made with its mode, given its times, and
//! its owner where that is another. What a directory bequeaths can change only when its metadata are applied; from then on
//! it is looked at anew (see [`TreeWriter::finish_directory`]).

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::Mode;
use rustix::io::Result;
use sys::xattr::Subject;
use sys::{file_attributes, inode_flags};

use super::TreeWriter;
use super::parents::Held;
use crate::tree::capture::Stat;
use crate::tree::entry::{EntryPath, Meta, Time};

/// Permission bits that a plain file may be made with; the set-id and sticky bits need more care.
const PLAIN_MODE: u32 = 0o777;
/// Seconds since 1970 that every file system can hold which holds a time of this kind at all.
const COMMON_SECONDS: std::ops::RangeInclusive<i64> = 0..=0x7fff_ffff;

/// What new files of a directory have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fresh {
    /// Their owner.
    pub(super) uid: u32,
    /// Their group.
    pub(super) gid: u32,
    /// No attributes, no flags that are copied, no project id: nothing of these to take away.
    plain: bool,
}

impl Fresh {
    /// Looks at a file that has just been made.
    ///
    /// # Errors
    /// What the system calls give.
    pub(super) fn of(file: BorrowedFd<'_>) -> Result<Self> {
        let stat = Stat::of_fd(file)?;
        let flags = inode_flags::get(file)?.unwrap_or(0);
        let project = file_attributes::get(file)?.map_or(0, |attributes| attributes.project);
        let mut names = Vec::new();
        sys::xattr::list(Subject::Open(file), &mut names)?;
        Ok(Self {
            uid: stat.uid,
            gid: stat.gid,
            plain: flags & inode_flags::COPIED == 0 && project == 0 && names.is_empty(),
        })
    }
}

/// A new file whose present state is known without a look.
pub(super) struct Known {
    /// Its directory.
    pub(super) held: Arc<Held>,
    /// Its owner and group.
    pub(super) fresh: Fresh,
    /// The mode that it was made with.
    pub(super) mode: u32,
}

impl TreeWriter {
    /// What is known of a file that is about to be made at `path` with `meta`; `None` when it must be looked at.
    pub(super) fn known_before(&mut self, path: &EntryPath, meta: &Meta) -> Option<Known> {
        let is_plain = meta.xattrs.is_empty()
            && meta.flags & inode_flags::COPIED == 0
            && meta.project == 0
            && meta.mode & !PLAIN_MODE == 0;
        let umask = self.tree.umask.filter(|_| is_plain)?;
        let (parent, _) = path.split()?;
        let held = self.parents.cached(&self.tree, parent)?;
        let fresh = *held.fresh.get().filter(|fresh| fresh.plain)?;
        Some(Known {
            held,
            fresh,
            mode: meta.mode & !umask,
        })
    }

    /// Looks at the first new file of a directory for all others.
    ///
    /// # Errors
    /// What the system calls give.
    pub(super) fn learn(&mut self, path: &EntryPath, file: BorrowedFd<'_>) -> Result<()> {
        let held = path
            .split()
            .and_then(|(parent, _)| self.parents.cached(&self.tree, parent));
        if let Some(held) = held
            && held.fresh.get().is_none()
        {
            let fresh = Fresh::of(file)?;
            // Nobody else learns for this writer's cache.
            let _ = held.fresh.set(fresh);
        }
        Ok(())
    }
}

/// Whether times that were set can be relied upon to be kept: learnt by reading one back that is finer than a microsecond.
#[derive(Debug, Default)]
pub(super) struct Precision(AtomicBool);

impl Precision {
    /// Whether `times` need not be read back.
    pub(super) fn is_proven_for(&self, times: [Time; 2]) -> bool {
        self.0.load(Ordering::Relaxed) && times.iter().all(|time| COMMON_SECONDS.contains(&time.sec))
    }

    /// `times` were set and read back as they are.
    pub(super) fn learn(&self, times: [Time; 2]) {
        if times.iter().all(|time| time.nsec % 1000 != 0) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Whether a directory with `meta` makes its new files unlike those of any other.
pub(super) fn bequeaths(meta: &Meta) -> bool {
    const SET_GROUP: u32 = 0o2000;
    !meta.xattrs.is_empty()
        || meta.flags & inode_flags::COPIED != 0
        || meta.project != 0
        || meta.mode & SET_GROUP != 0
}

/// The mode to make a file with.
pub(super) fn mode_of(known: Option<&Known>, meta: &Meta) -> Mode {
    match known {
        Some(_) => Mode::from_raw_mode(meta.mode & PLAIN_MODE),
        None => Mode::RUSR | Mode::WUSR,
    }
}
