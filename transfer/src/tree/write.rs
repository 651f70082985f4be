//! Target side: makes entries as the source described them, beneath one root and nowhere else.
//!
//! Every path is resolved from the root's descriptor without following symbolic links, whatever an earlier entry or
//! another process has put into the tree. What the target's file system refuses to hold is returned as [`Refusal`]s and
//! the rest of the entry is made; what the medium refuses (full, read-only, broken) is an error that ends the session.
//!
//! Making, replacing, renaming and removing entries moves the times of their directories: finish a directory after them.
//!
//! All operations may be repeated: an entry that is already there is replaced or adjusted. Ordering is the caller's part:
//! an operation on an entry and one on a directory above it must not run at the same time.
//!
//! Metadata go on in the order that survives the kernel's side effects: flags that decide how data are stored, data,
//! owner, mode, other flags, attributes, project id, times, and last the flags that seal the entry.

mod create;
mod fresh;
mod held;
mod link;
mod long_file;
mod metadata;
mod parents;
mod refusal;
mod remove;
mod rename;
mod seal;
mod share;

pub use link::LinkOutcome;
pub use long_file::{LongFile, Prepared};
pub use metadata::LABEL;
pub use refusal::{Refusal, Refused};
pub use rename::RenameOutcome;
pub use share::Shared;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::tree::capture::{Directory, Stat};
use crate::tree::entry::EntryPath;
use crate::tree::filter::Filter;
use parents::{Generation, Parents};
use seal::Place;

/// File systems in one target tree, btrfs subvolumes counted each. One descriptor is kept of each; a server has a handful.
const FILE_SYSTEMS_MAX: usize = 256;

/// Attempts at an operation whose surroundings changed under it.
const ATTEMPTS_MAX: u32 = 8;

/// What becomes of a directory that should be on the way to an entry and is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    /// It is made; what is in its place goes.
    Make,
    /// It stays missing, and so is the entry.
    Leave,
}

/// Writes one tree. Clones share the tree and the rules; each has its own cache of open directories: one for each thread.
#[derive(Clone)]
pub struct TreeWriter {
    tree: Arc<Tree>,
    parents: Parents,
    /// What they exclude is never removed.
    rules: Arc<OnceLock<Filter>>,
}

/// What all writers of one tree share.
struct Tree {
    root: OwnedFd,
    root_path: PathBuf,
    generation: Generation,
    /// Held while a sealed directory is open for a change, so that two threads do not restore each other's seal.
    unsealing: Mutex<()>,
    /// One descriptor of each file system in the tree, opened before it was written to, so that it sees write-back errors.
    file_systems: Mutex<Vec<(u64, Arc<OwnedFd>)>>,
    /// Permission bits that this process never gives to what it makes; `None` where the kernel does not tell.
    umask: Option<u32>,
}

impl TreeWriter {
    /// Takes hold of an existing directory as the root of the target tree.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(root: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let failed = |errno: Errno| Error::io("open the target directory", root, errno.into());
        let fd = rustix::fs::open(root, flags, Mode::empty()).map_err(failed)?;
        let tree = Tree {
            root: fd,
            root_path: root.to_owned(),
            generation: Generation::default(),
            unsealing: Mutex::new(()),
            file_systems: Mutex::new(Vec::new()),
            umask: sys::umask::get(),
        };
        tree.note_file_system(tree.root.as_fd()).map_err(failed)?;
        Ok(Self {
            tree: Arc::new(tree),
            parents: Parents::default(),
            rules: Arc::default(),
        })
    }

    /// Whether the tree is the one in `directory`: something else may have been mounted or moved to its path.
    ///
    /// # Errors
    /// The medium failed.
    pub fn writes_to(&self, directory: &Directory) -> Result<bool> {
        let identity = |fd: BorrowedFd<'_>| Stat::of_fd(fd).map(|stat| (stat.dev, stat.ino));
        let both = identity(self.tree.root.as_fd())
            .and_then(|ours| identity(directory.as_fd()).map(|theirs| ours == theirs));
        both.map_err(|errno| Error::io("look at the target directory", &self.tree.root_path, errno.into()))
    }

    /// A writer of the same tree with rules of its own, which [`Self::exclude`] sets for it and its clones.
    #[must_use]
    pub fn without_rules(&self) -> Self {
        Self {
            rules: Arc::default(),
            ..self.clone()
        }
    }

    /// From here on nothing that `rules` exclude is removed. Whether these are the first rules; others count for nothing.
    pub fn exclude(&self, rules: Filter) -> bool {
        self.rules.set(rules).is_ok()
    }

    /// The rules, if there are any.
    pub fn rules(&self) -> Option<&Filter> {
        self.rules.get()
    }

    /// Makes everything written so far durable, on every file system that the tree consists of.
    ///
    /// # Errors
    /// The medium failed, now or in write-back since the tree was opened.
    pub fn sync(&self) -> Result<()> {
        // Copied, not held: other writers must not wait for the medium when they enter a directory.
        let file_systems = self
            .tree
            .file_systems
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for (_, fd) in &file_systems {
            rustix::fs::syncfs(fd)
                .map_err(|errno| Error::io("make the target durable", &self.tree.root_path, errno.into()))?;
        }
        Ok(())
    }

    /// Where an entry lies, for messages.
    fn full_path(&self, path: &EntryPath) -> PathBuf {
        self.tree.full_path(path)
    }

    fn failed(&self, operation: &str, path: &EntryPath, errno: Errno) -> Error {
        Error::io(operation, self.full_path(path), errno.into())
    }

    /// Runs `act` with the directory that holds `path` and the entry's name.
    ///
    /// The inner result holds what is not the medium's fault.
    fn in_parent<T>(
        &mut self,
        path: &EntryPath,
        missing: Missing,
        operation: &str,
        act: impl FnMut(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<rustix::io::Result<T>> {
        self.in_parent_beside(path, missing, operation, None, act)
    }

    /// The same for an operation on two entries, the other of which is at `other`.
    fn in_parent_beside<T>(
        &mut self,
        path: &EntryPath,
        missing: Missing,
        operation: &str,
        other: Option<Place<'_>>,
        mut act: impl FnMut(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<rustix::io::Result<T>> {
        let Some((parent, name)) = path.split() else {
            return Ok(Err(Errno::BUSY));
        };
        let mut stale = 0;
        loop {
            let found = match missing {
                Missing::Make => self.parents.make(&self.tree, parent),
                Missing::Leave => self.parents.find(&self.tree, parent),
            };
            let directory = match found {
                Ok(directory) => directory,
                Err(errno) => return self.sort_out(operation, path, errno),
            };
            let directory = directory.as_fd();
            let answer = match act(directory, name) {
                Err(Errno::PERM | Errno::ACCESS) => {
                    let place = Place { directory, name };
                    let places = [place, other.unwrap_or(place)];
                    self.tree.unsealed(&places, || act(directory, name))
                }
                answer => answer,
            };
            match answer {
                Ok(value) => return Ok(Ok(value)),
                // The directory was removed, and perhaps made anew, since it was cached.
                Err(Errno::NOENT) if stale < ATTEMPTS_MAX => {
                    stale += 1;
                    if !self.parents.forget(parent) {
                        return Ok(Err(Errno::NOENT));
                    }
                }
                Err(errno) => return self.sort_out(operation, path, errno),
            }
        }
    }

    fn sort_out<T>(&self, operation: &str, path: &EntryPath, errno: Errno) -> Result<rustix::io::Result<T>> {
        if refusal::is_medium(errno) {
            Err(self.failed(operation, path, errno))
        } else {
            Ok(Err(errno))
        }
    }
}

impl Tree {
    fn full_path(&self, path: &EntryPath) -> PathBuf {
        if path.is_root() {
            self.root_path.clone()
        } else {
            self.root_path.join(OsStr::from_bytes(path.as_bytes()))
        }
    }

    /// Remembers the file system of `directory` for [`TreeWriter::sync`].
    fn note_file_system(&self, directory: BorrowedFd<'_>) -> rustix::io::Result<()> {
        let dev = Stat::of_fd(directory)?.dev;
        let mut known = self.file_systems.lock().unwrap_or_else(PoisonError::into_inner);
        if known.iter().any(|(other, _)| *other == dev) {
            return Ok(());
        }
        if known.len() >= FILE_SYSTEMS_MAX {
            return Err(Errno::MFILE);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(directory, c".", flags, Mode::empty())?;
        known.push((dev, Arc::new(fd)));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
