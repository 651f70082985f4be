//! Moving entries with everything below them.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;

use super::link::same_inode;
use super::refusal::is_medium;
use super::seal::Place;
use super::{ATTEMPTS_MAX, Missing, TreeWriter};
use crate::error::Result;
use crate::tree::entry::EntryPath;
use crate::tree::moves::{is_aside, is_spared};

/// What became of a rename.
#[derive(Debug)]
pub enum RenameOutcome {
    /// The entry is at its new path.
    Renamed,
    /// Nothing was at the old path and something is at the new one: an earlier attempt got that far.
    AlreadyDone,
    /// Nothing is at either path: the caller sends the whole entry.
    Missing,
    /// The target cannot: other file systems, other project quota, a directory into itself, onto one that holds what is
    /// excluded, or away from where the rules exclude something in it. The caller sends the entry anew and removes the old one.
    NotPossible(std::io::Error),
}

impl TreeWriter {
    /// Moves an entry with everything below it; whatever is at `to` goes, and parents of `to` are made.
    ///
    /// # Errors
    /// The medium failed.
    pub fn rename(&mut self, from: &EntryPath, to: &EntryPath) -> Result<RenameOutcome> {
        let Some((old_parent, old_name)) = from.split() else {
            return Ok(RenameOutcome::NotPossible(Errno::BUSY.into()));
        };
        if to.is_below(from) || from.is_below(to) {
            return Ok(RenameOutcome::NotPossible(Errno::INVAL.into()));
        }
        // What goes there is removed later, whatever its name was.
        let new = (!is_spared(to)).then_some(to);
        // What comes back was let through when it was moved aside.
        if !is_aside(from) && self.holds_excluded(from, new) {
            return Ok(RenameOutcome::NotPossible(Errno::NOTEMPTY.into()));
        }
        let old = match self.parents.find(&self.tree, old_parent) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return self.look_at(to),
            Err(errno) => return Err(self.failed("find the entry to rename", from, errno)),
        };
        let old = old.as_fd();
        if from == to {
            return self.look_at(to);
        }
        let other = Place {
            directory: old,
            name: old_name,
        };
        for _ in 0..ATTEMPTS_MAX {
            let moved = self.in_parent_beside(
                to,
                Missing::Make,
                "rename an entry",
                Some(other),
                |directory, name| move_to(old, old_name, directory, name),
            )?;
            match moved {
                Ok(()) => {
                    self.tree.generation.move_on();
                    return Ok(RenameOutcome::Renamed);
                }
                Err(Errno::EXIST) if self.holds_excluded(to, None) => {
                    return Ok(RenameOutcome::NotPossible(Errno::NOTEMPTY.into()));
                }
                Err(Errno::EXIST) => drop(self.remove(to)?),
                Err(Errno::NOENT) => return self.look_at(to),
                Err(errno) if is_medium(errno) => return Err(self.failed("rename an entry", from, errno)),
                Err(errno) => return Ok(RenameOutcome::NotPossible(errno.into())),
            }
        }
        Ok(RenameOutcome::NotPossible(Errno::EXIST.into()))
    }

    fn look_at(&mut self, to: &EntryPath) -> Result<RenameOutcome> {
        let Some((parent, name)) = to.split() else {
            return Ok(RenameOutcome::Missing);
        };
        let found = self
            .parents
            .find(&self.tree, parent)
            .and_then(|directory| rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW));
        match found {
            Ok(_) => Ok(RenameOutcome::AlreadyDone),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(RenameOutcome::Missing),
            Err(errno) => Err(self.failed("find the renamed entry", to, errno)),
        }
    }
}

/// Renames; `EEXIST` when something other than another name of the same inode is there.
fn move_to(
    old: BorrowedFd<'_>,
    old_name: &[u8],
    new: BorrowedFd<'_>,
    new_name: &[u8],
) -> rustix::io::Result<()> {
    match rename_to_free_name(old, old_name, new, new_name) {
        Err(Errno::EXIST) if same_inode(old, old_name, new, new_name) => {
            let stat = rustix::fs::statat(old, old_name, AtFlags::SYMLINK_NOFOLLOW)?;
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if stat.st_nlink > 1 && !is_directory {
                // Two names of one inode: rename(2) would do nothing and keep both.
                rustix::fs::unlinkat(old, old_name, AtFlags::empty())
            } else {
                // One name, written in two ways, where the file system does not tell capitals.
                rustix::fs::renameat(old, old_name, new, new_name)
            }
        }
        answer => answer,
    }
}

fn rename_to_free_name(
    old: BorrowedFd<'_>,
    old_name: &[u8],
    new: BorrowedFd<'_>,
    new_name: &[u8],
) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(old, old_name, new, new_name, RenameFlags::NOREPLACE) {
        // Kernels before 3.15, and file systems that do not know the flag: look, then rename. First at the old name: if it
        // is gone, what is at the new one is what was to get there.
        Err(Errno::NOSYS | Errno::INVAL) => {
            rustix::fs::statat(old, old_name, AtFlags::SYMLINK_NOFOLLOW)?;
            match rustix::fs::statat(new, new_name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Err(Errno::EXIST),
                Err(Errno::NOENT) => rustix::fs::renameat(old, old_name, new, new_name),
                Err(error) => Err(error),
            }
        }
        answer => answer,
    }
}
