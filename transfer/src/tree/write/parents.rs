//! Open directories of the target: a small cache for each writer, and making those that are missing.
//!
//! A cached descriptor names an inode, not a path. Whoever renames or removes a directory moves the tree's generation on,
//! and all caches are dropped at their next use.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};

use super::fresh::{Fresh, Precision};
use super::seal::Place;
use super::{ATTEMPTS_MAX, Tree};

/// Directories kept open by one writer. Entries arrive directory by directory: a few serve all, and 32 writers together
/// stay far below the usual limit of 1,024 descriptors.
const CACHED_MAX: usize = 12;

/// How a directory is held: no read permission needed, nothing but a starting point.
const HOLD: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Counts renames and removals of directories.
#[derive(Default)]
pub(super) struct Generation(AtomicU64);

impl Generation {
    /// Drops all cached directories of all writers.
    pub(super) fn move_on(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// An open directory, and what is known of entries made in it.
#[derive(Debug)]
pub(super) struct Held {
    fd: OwnedFd,
    /// What its new files have in common, once one has been made.
    pub(super) fresh: OnceLock<Fresh>,
    /// Whether its file system keeps times as they are.
    pub(super) precision: Precision,
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The cache of one writer, the last used one in front.
#[derive(Default)]
pub(super) struct Parents {
    generation: u64,
    open: Vec<(Vec<u8>, Arc<Held>)>,
}

impl Clone for Parents {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Parents {
    /// The directory `path`, if it is there.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR` or `ELOOP` when it is not.
    pub(super) fn find(&mut self, tree: &Tree, path: &[u8]) -> Result<Arc<Held>> {
        if let Some(known) = self.cached(tree, path) {
            return Ok(known);
        }
        let fd = sys::beneath::open(tree.root.as_fd(), path, HOLD, Mode::empty())?;
        self.keep(tree, path, fd)
    }

    /// The directory `path`; it and those above it are made where they are missing or something else is in their place.
    ///
    /// # Errors
    /// What `mkdirat` and removing an entry give.
    pub(super) fn make(&mut self, tree: &Tree, path: &[u8]) -> Result<Arc<Held>> {
        match self.find(tree, path) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            answer => return answer,
        }
        let mut at: Option<OwnedFd> = None;
        for name in path.split(|byte| *byte == b'/') {
            let directory = at.as_ref().map_or(tree.root.as_fd(), AsFd::as_fd);
            at = Some(step(tree, directory, name)?);
        }
        let fd = at.ok_or(Errno::NOENT)?;
        self.keep(tree, path, fd)
    }

    /// Drops one directory from the cache and tells whether it was there.
    pub(super) fn forget(&mut self, path: &[u8]) -> bool {
        let before = self.open.len();
        self.open.retain(|(known, _)| known != path);
        self.open.len() < before
    }

    /// The directory `path`, if it is open already.
    pub(super) fn cached(&mut self, tree: &Tree, path: &[u8]) -> Option<Arc<Held>> {
        let generation = tree.generation.0.load(Ordering::Acquire);
        if generation != self.generation {
            self.open.clear();
            self.generation = generation;
        }
        let index = self.open.iter().position(|(known, _)| known == path)?;
        self.open[..=index].rotate_right(1);
        self.open.first().map(|(_, fd)| Arc::clone(fd))
    }

    fn keep(&mut self, tree: &Tree, path: &[u8], fd: OwnedFd) -> Result<Arc<Held>> {
        tree.note_file_system(fd.as_fd())?;
        let held = Arc::new(Held {
            fd,
            fresh: OnceLock::new(),
            precision: Precision::default(),
        });
        self.open.truncate(CACHED_MAX - 1);
        self.open.insert(0, (path.to_vec(), Arc::clone(&held)));
        Ok(held)
    }
}

/// Enters the directory `name`, which is made where it is missing.
fn step(tree: &Tree, directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    for _ in 0..ATTEMPTS_MAX {
        match rustix::fs::openat(directory, name, HOLD, Mode::empty()) {
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => match tree.unlink(directory, name, AtFlags::empty()) {
                // Somebody made the directory meanwhile.
                Ok(()) | Err(Errno::ISDIR) => {}
                Err(error) => return Err(error),
            },
            answer => return answer,
        }
        let make = || rustix::fs::mkdirat(directory, name, Mode::RWXU);
        match make() {
            Err(Errno::PERM | Errno::ACCESS) => tree.unsealed(&[Place { directory, name }], make)?,
            // Another writer was faster.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::LOOP)
}

/// Whether `name` is a directory; `None` when it is not there.
pub(super) fn is_directory(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<bool>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
