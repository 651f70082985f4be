//! Removing entries with everything below them.
//!
//! Never follows a link and never enters a mount point: what is mounted in the target tree is not ours to empty. Memory
//! and descriptors do not grow with depth: of a long chain only the last levels are kept open, and the way back up is
//! checked against the identity noted on the way down.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};

use super::parents::is_directory;
use super::refusal::{Refusal, Refused, is_medium};
use super::seal::Place;
use super::{ATTEMPTS_MAX, Tree, TreeWriter, seal};
use crate::tree::capture::Stat;
use crate::tree::entry::EntryPath;

/// Levels of one chain that are kept open.
const LEVELS_OPEN_MAX: usize = 64;

const ENTER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl TreeWriter {
    /// Removes the entry with everything below it; that it is not there is fine.
    ///
    /// # Errors
    /// The medium failed.
    pub fn remove(&mut self, path: &EntryPath) -> crate::error::Result<Vec<Refusal>> {
        let refused = |errno| Ok(vec![Refusal::new(Refused::Removal, errno)]);
        let Some((parent, name)) = path.split() else {
            return refused(Errno::BUSY);
        };
        let answer = self
            .parents
            .find(&self.tree, parent)
            .and_then(|directory| self.tree.remove_in(directory.as_fd(), name));
        match answer {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(Vec::new()),
            Err(errno) if is_medium(errno) => Err(self.failed("remove an entry", path, errno)),
            Err(errno) => refused(errno),
        }
    }
}

/// A directory that is being emptied.
struct Level {
    /// Closed while the chain below is long.
    fd: Option<OwnedFd>,
    identity: (u64, u64),
    name: Vec<u8>,
    /// Directories in it that are still to be emptied, each with its NUL.
    pending: Vec<u8>,
    attempts: u32,
}

impl Tree {
    /// Removes the entry `name` of `directory` with everything below it.
    ///
    /// # Errors
    /// `EBUSY` at a mount point, and what `unlinkat` gives.
    pub(super) fn remove_in(&self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        match self.unlink(directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {}
            answer => return answer,
        }
        // From here on, cached descriptors may name what is no longer at their path.
        let emptied = self.remove_tree(directory, name);
        self.generation.move_on();
        emptied
    }

    fn remove_tree(&self, base: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        let mut chain: Vec<Level> = Vec::new();
        chain.extend(self.enter(base, name)?);
        while let Some(top) = chain.last_mut() {
            let Some(child) = take_last(&mut top.pending) else {
                self.leave(base, &mut chain)?;
                continue;
            };
            let fd = top.fd.as_ref().ok_or(Errno::BADF)?;
            let entered = self.enter(fd.as_fd(), &child)?;
            chain.extend(entered);
            if let Some(far) = chain.len().checked_sub(LEVELS_OPEN_MAX + 1) {
                chain[far].fd = None;
            }
        }
        Ok(())
    }

    /// Opens the directory `name` and removes all that is not a directory from it; `None` when it is gone.
    fn enter(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Level>> {
        let fd = match rustix::fs::openat(parent, name, ENTER, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return self.unlink(parent, name, AtFlags::empty()).map(|()| None);
            }
            Err(error) => return Err(error),
        };
        let stat = Stat::of_fd(fd.as_fd())?;
        let crosses = || -> Result<bool> { Ok(stat.dev != Stat::of_fd(parent)?.dev) };
        if stat.is_mount_root.map_or_else(crosses, Ok)? {
            return Err(Errno::BUSY);
        }
        seal::clear(fd.as_fd())?;
        let pending = self.empty(fd.as_fd())?;
        Ok(Some(Level {
            fd: Some(fd),
            identity: (stat.dev, stat.ino),
            name: name.to_vec(),
            pending,
            attempts: 0,
        }))
    }

    /// Removes all that is not a directory and returns the names of the directories.
    fn empty(&self, directory: BorrowedFd<'_>) -> Result<Vec<u8>> {
        let names = sys::directory::read_names(directory)?;
        let mut pending = Vec::new();
        for entry in names.iter() {
            let is_directory = match entry.file_type {
                FileType::Directory => true,
                FileType::Unknown => is_directory(directory, entry.bytes())?.unwrap_or(false),
                _ => false,
            };
            if is_directory {
                pending.extend_from_slice(entry.c_str.to_bytes_with_nul());
            } else {
                match self.unlink(directory, entry.bytes(), AtFlags::empty()) {
                    Err(Errno::ISDIR) => pending.extend_from_slice(entry.c_str.to_bytes_with_nul()),
                    answer => answer?,
                }
            }
        }
        Ok(pending)
    }

    /// Removes the last directory of the chain, which is empty now, and opens the one above it again if it was closed.
    fn leave(&self, base: BorrowedFd<'_>, chain: &mut Vec<Level>) -> Result<()> {
        let Some(mut level) = chain.pop() else {
            return Ok(());
        };
        let own = level.fd.take().ok_or(Errno::BADF)?;
        if let Some(above) = chain.last_mut()
            && above.fd.is_none()
        {
            let fd = rustix::fs::openat(&own, c"..", ENTER, Mode::empty())?;
            let stat = Stat::of_fd(fd.as_fd())?;
            // Somebody moved it while we were below: what lies above it now is not ours.
            if (stat.dev, stat.ino) != above.identity {
                return Err(Errno::BUSY);
            }
            above.fd = Some(fd);
        }
        let above = chain
            .last()
            .and_then(|level| level.fd.as_ref())
            .map_or(base, AsFd::as_fd);
        match self.unlink(above, &level.name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) if level.attempts < ATTEMPTS_MAX => {
                let attempts = level.attempts + 1;
                let again = self.enter(above, &level.name)?;
                chain.extend(again.map(|level| Level { attempts, ..level }));
                Ok(())
            }
            answer => answer,
        }
    }

    /// Removes one name; that it is not there is fine. A directory gives `EISDIR` unless `flags` ask for one.
    fn unlink(&self, directory: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> Result<()> {
        let act = || rustix::fs::unlinkat(directory, name, flags);
        let answer = match act() {
            Err(Errno::PERM | Errno::ACCESS) => self.unsealed(&[Place { directory, name }], act),
            answer => answer,
        };
        match answer {
            Err(Errno::NOENT) => Ok(()),
            answer => answer,
        }
    }
}

/// Takes the last NUL-terminated name off.
fn take_last(names: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = names.len().checked_sub(1)?;
    let start = names[..end]
        .iter()
        .rposition(|byte| *byte == 0)
        .map_or(0, |nul| nul + 1);
    let name = CStr::from_bytes_with_nul(&names[start..])
        .ok()?
        .to_bytes()
        .to_vec();
    names.truncate(start);
    Some(name)
}
