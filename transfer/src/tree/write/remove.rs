//! Removing entries with everything below them, but for what the source's rules exclude: that is the target's own. A
//! directory that holds some of it stays, and is refused.
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
use crate::tree::filter::Filter;
use crate::tree::moves::is_spared;

/// Levels of one chain that are kept open.
const LEVELS_OPEN_MAX: usize = 64;
/// Directories that stay and are named: of 100 bytes each, 6 MiB. A survey finds the others.
const STAYING_MAX: usize = 64 * 1024;

const ENTER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl TreeWriter {
    /// Removes the entry with everything below it that is not excluded; that it is not there is fine.
    ///
    /// # Errors
    /// The medium failed.
    pub fn remove(&mut self, path: &EntryPath) -> crate::error::Result<Vec<Refusal>> {
        let (refusals, _) = self.remove_but_excluded(path)?;
        Ok(refusals)
    }

    /// The same; names the directories that stay for what is excluded in them, too, up to a number.
    ///
    /// # Errors
    /// The medium failed.
    pub fn remove_but_excluded(
        &mut self,
        path: &EntryPath,
    ) -> crate::error::Result<(Vec<Refusal>, Vec<EntryPath>)> {
        let refused = |errno| Ok((vec![Refusal::new(Refused::Removal, errno)], Vec::new()));
        let Some((parent, name)) = path.split() else {
            return refused(Errno::BUSY);
        };
        let mut kept = Kept {
            // What was moved aside to go held nothing excluded under its own name.
            rules: self.rules.get().filter(|_| !is_spared(path)),
            path: parent.to_vec(),
            directories: Vec::new(),
        };
        let answer = self
            .parents
            .find(&self.tree, parent)
            .and_then(|directory| self.tree.remove_in(directory.as_fd(), name, &mut kept));
        match answer {
            Ok(Rest::Nothing) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                Ok((Vec::new(), Vec::new()))
            }
            Ok(Rest::Excluded) => Ok((vec![Refusal::holds_excluded(Refused::Removal)], kept.directories)),
            Err(errno) if is_medium(errno) => Err(self.failed("remove an entry", path, errno)),
            Err(errno) => refused(errno),
        }
    }

    /// Whether something below the entry is excluded, or cannot be looked at; with a new path for the entry only what is
    /// not excluded there.
    pub(super) fn holds_excluded(&self, path: &EntryPath, new: Option<&EntryPath>) -> bool {
        let Some(rules) = self.rules.get() else {
            return false;
        };
        let top = path.as_bytes();
        let stays_excluded = |path: &[u8], is_directory| {
            let at_new = |new: &EntryPath| [new.as_bytes(), &path[top.len()..]].concat();
            new.is_some_and(|new| rules.excludes(&at_new(new), is_directory))
        };
        let mut waiting = vec![top.to_vec()];
        while let Some(directory) = waiting.pop() {
            let open = sys::beneath::open(self.tree.root.as_fd(), &directory, ENTER, Mode::empty());
            let names = match open.and_then(|open| sys::directory::read_names(open.as_fd())) {
                Ok(names) => names,
                // No directory, so nothing is below it.
                Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => continue,
                Err(_) => return true,
            };
            for entry in names.iter() {
                let path = [&directory[..], b"/", entry.bytes()].concat();
                let may_be_directory = matches!(entry.file_type, FileType::Directory | FileType::Unknown);
                if rules.excludes(&path, may_be_directory) {
                    if !stays_excluded(&path, may_be_directory) {
                        return true;
                    }
                } else if may_be_directory {
                    waiting.push(path);
                }
            }
        }
        false
    }
}

/// What a removal keeps.
struct Kept<'a> {
    rules: Option<&'a Filter>,
    /// The directory that is being emptied.
    path: Vec<u8>,
    /// Those that stay for what is in them, the deepest first.
    directories: Vec<EntryPath>,
}

impl Kept<'_> {
    fn enter(&mut self, name: &[u8]) {
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
    }

    fn leave(&mut self) {
        let above = self.path.iter().rposition(|byte| *byte == b'/');
        self.path.truncate(above.unwrap_or(0));
    }

    /// The directory stays for what is in it.
    fn stays(&mut self) {
        // A path that is too long for the source is the target's own.
        if self.directories.len() < STAYING_MAX
            && let Ok(path) = EntryPath::parse(&self.path[..])
        {
            self.directories.push(path);
        }
    }

    /// Whether the rules exclude this entry of the directory.
    fn holds(&mut self, name: &[u8], is_directory: bool) -> bool {
        let Some(rules) = self.rules else {
            return false;
        };
        let len = self.path.len();
        self.enter(name);
        let excludes = rules.excludes(&self.path, is_directory);
        self.path.truncate(len);
        excludes
    }
}

/// What is left after a removal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Nothing,
    /// Something excluded, and the directories above it.
    Excluded,
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
    /// Whether something in it stays, and it, too.
    rest: Rest,
}

impl Tree {
    /// Removes the entry `name` of `directory` with everything below it that `kept` does not hold.
    ///
    /// # Errors
    /// `EBUSY` at a mount point, and what `unlinkat` gives.
    fn remove_in(&self, directory: BorrowedFd<'_>, name: &[u8], kept: &mut Kept<'_>) -> Result<Rest> {
        match self.unlink(directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {}
            answer => return answer.map(|()| Rest::Nothing),
        }
        // From here on, cached descriptors may name what is no longer at their path.
        let emptied = self.remove_tree(directory, name, kept);
        self.generation.move_on();
        emptied
    }

    fn remove_tree(&self, base: BorrowedFd<'_>, name: &[u8], kept: &mut Kept<'_>) -> Result<Rest> {
        let mut chain: Vec<Level> = Vec::new();
        let mut rest = Rest::Nothing;
        chain.extend(self.enter(base, name, kept)?);
        while let Some(top) = chain.last_mut() {
            let Some(child) = take_last(&mut top.pending) else {
                rest = self.leave(base, &mut chain, kept)?;
                continue;
            };
            let fd = top.fd.as_ref().ok_or(Errno::BADF)?;
            let entered = self.enter(fd.as_fd(), &child, kept)?;
            chain.extend(entered);
            if let Some(far) = chain.len().checked_sub(LEVELS_OPEN_MAX + 1) {
                chain[far].fd = None;
            }
        }
        Ok(rest)
    }

    /// Opens the directory `name` and removes all that is not a directory from it; `None` when it is gone.
    fn enter(&self, parent: BorrowedFd<'_>, name: &[u8], kept: &mut Kept<'_>) -> Result<Option<Level>> {
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
        kept.enter(name);
        let (pending, rest) = self.empty(fd.as_fd(), kept)?;
        Ok(Some(Level {
            fd: Some(fd),
            identity: (stat.dev, stat.ino),
            name: name.to_vec(),
            pending,
            attempts: 0,
            rest,
        }))
    }

    /// Removes all that is not a directory and returns the names of the directories, and whether something stays.
    fn empty(&self, directory: BorrowedFd<'_>, kept: &mut Kept<'_>) -> Result<(Vec<u8>, Rest)> {
        let names = sys::directory::read_names(directory)?;
        let mut pending = Vec::new();
        let mut rest = Rest::Nothing;
        for entry in names.iter() {
            let is_directory = match entry.file_type {
                FileType::Directory => true,
                FileType::Unknown => is_directory(directory, entry.bytes())?.unwrap_or(false),
                _ => false,
            };
            if kept.holds(entry.bytes(), is_directory) {
                rest = Rest::Excluded;
            } else if is_directory {
                pending.extend_from_slice(entry.c_str.to_bytes_with_nul());
            } else {
                match self.unlink(directory, entry.bytes(), AtFlags::empty()) {
                    Err(Errno::ISDIR) => pending.extend_from_slice(entry.c_str.to_bytes_with_nul()),
                    answer => answer?,
                }
            }
        }
        Ok((pending, rest))
    }

    /// Removes the last directory of the chain, unless something stays in it, and opens the one above it again if it was
    /// closed.
    fn leave(&self, base: BorrowedFd<'_>, chain: &mut Vec<Level>, kept: &mut Kept<'_>) -> Result<Rest> {
        let Some(mut level) = chain.pop() else {
            return Ok(Rest::Nothing);
        };
        if level.rest == Rest::Excluded {
            kept.stays();
        }
        kept.leave();
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
        if level.rest == Rest::Excluded {
            if let Some(above) = chain.last_mut() {
                above.rest = Rest::Excluded;
            }
            return Ok(Rest::Excluded);
        }
        let above = chain
            .last()
            .and_then(|level| level.fd.as_ref())
            .map_or(base, AsFd::as_fd);
        match self.unlink(above, &level.name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) if level.attempts < ATTEMPTS_MAX => {
                let attempts = level.attempts + 1;
                let again = self.enter(above, &level.name, kept)?;
                chain.extend(again.map(|level| Level { attempts, ..level }));
                Ok(Rest::Nothing)
            }
            answer => answer.map(|()| Rest::Nothing),
        }
    }

    /// Removes one name; that it is not there is fine. A directory gives `EISDIR` unless `flags` ask for one.
    pub(super) fn unlink(&self, directory: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> Result<()> {
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
