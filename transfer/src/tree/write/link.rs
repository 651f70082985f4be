//! Further names of an inode.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::TreeWriter;
use super::refusal::is_medium;
use super::seal::Place;
use crate::error::Result;
use crate::tree::capture::Stat;
use crate::tree::entry::EntryPath;

/// What became of a link.
#[derive(Debug)]
pub enum LinkOutcome {
    /// Both names are the same inode.
    Linked,
    /// The inode has as many names as the target's file system allows: the caller copies, and reports it.
    TooManyLinks,
    /// The target cannot link these two: other file systems, or one without links. The caller copies, and reports it.
    NotPossible(std::io::Error),
    /// There is nothing at the leader's path: the caller sends the whole entry.
    LeaderMissing,
}

impl TreeWriter {
    /// Makes `path` another name of the inode at `leader`, of whatever kind but a directory; whatever is in its place goes.
    ///
    /// # Errors
    /// The medium failed.
    pub fn link(&mut self, leader: &EntryPath, path: &EntryPath) -> Result<LinkOutcome> {
        let Some((leader_parent, leader_name)) = leader.split() else {
            return Ok(LinkOutcome::LeaderMissing);
        };
        let from = match self.parents.find(&self.tree, leader_parent) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(LinkOutcome::LeaderMissing),
            Err(errno) => return Err(self.failed("find the first name of a file", leader, errno)),
        };
        let from = from.as_fd();
        if leader == path {
            return Ok(exists(from, leader_name));
        }
        // An immutable or append-only inode takes no further names: it is unsealed, too, if need be.
        let other = Place {
            directory: from,
            name: leader_name,
        };
        let linked =
            self.create_beside(
                path,
                "link a file",
                Some(other),
                |directory, name| match rustix::fs::linkat(
                    from,
                    leader_name,
                    directory,
                    name,
                    AtFlags::empty(),
                ) {
                    Err(Errno::EXIST) if same_inode(from, leader_name, directory, name) => Ok(()),
                    answer => answer,
                },
            )?;
        match linked {
            Ok(()) => Ok(LinkOutcome::Linked),
            Err(Errno::MLINK) => Ok(LinkOutcome::TooManyLinks),
            Err(Errno::NOENT) => Ok(LinkOutcome::LeaderMissing),
            Err(errno) if is_medium(errno) => Err(self.failed("link a file", path, errno)),
            Err(errno) => Ok(LinkOutcome::NotPossible(errno.into())),
        }
    }
}

fn exists(directory: BorrowedFd<'_>, name: &[u8]) -> LinkOutcome {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => LinkOutcome::Linked,
        Err(_) => LinkOutcome::LeaderMissing,
    }
}

/// Whether both names are the same inode.
pub(super) fn same_inode(a: BorrowedFd<'_>, a_name: &[u8], b: BorrowedFd<'_>, b_name: &[u8]) -> bool {
    let identity = |directory: BorrowedFd<'_>, name: &[u8]| {
        let name = std::ffi::CString::new(name).ok()?;
        Stat::of_entry(directory, &name)
            .ok()
            .map(|stat| (stat.dev, stat.ino))
    };
    let a = identity(a, a_name);
    a.is_some() && a == identity(b, b_name)
}
