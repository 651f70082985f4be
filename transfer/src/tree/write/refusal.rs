//! What a target's file system would not take, and how that is told from a failing medium.

use std::fmt;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

/// One thing the target refused; everything else of the entry has been done.
#[derive(Debug)]
pub struct Refusal {
    /// What.
    pub what: Refused,
    /// As the system said it.
    pub error: std::io::Error,
}

/// The part of an entry that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The entry itself: it is not there.
    Entry,
    /// Its removal: it is still there.
    Removal,
    /// Owner and group. Set-id bits were left out, for they would be another owner's.
    Owner,
    /// Permission bits.
    Mode,
    /// The list of extended attributes.
    Xattrs,
    /// One extended attribute, by name: it is missing, has another value, or should not be there.
    Xattr(Vec<u8>),
    /// These inode flags, as in [`sys::inode_flags`].
    Flags(u32),
    /// The project id.
    Project,
    /// The times, which were rounded or cut off.
    Times,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry => f.write_str("the entry itself"),
            Self::Removal => f.write_str("its removal"),
            Self::Owner => f.write_str("owner"),
            Self::Mode => f.write_str("mode"),
            Self::Xattrs => f.write_str("extended attributes"),
            Self::Xattr(name) => write!(f, "extended attribute {}", String::from_utf8_lossy(name)),
            Self::Flags(flags) => write!(f, "inode flags {flags:#x}"),
            Self::Project => f.write_str("project id"),
            Self::Times => f.write_str("times"),
        }
    }
}

impl Refusal {
    /// Whether the entry as such is missing, and not only a property of it.
    pub fn is_of_entry(&self) -> bool {
        self.what == Refused::Entry
    }

    /// There is something else where the entry should be.
    pub(super) fn another_kind() -> Self {
        Self {
            what: Refused::Entry,
            error: std::io::Error::other("an entry of another kind is in its place"),
        }
    }

    /// Its first name does not hold what it should.
    pub(in crate::tree) fn another_content() -> Self {
        Self {
            what: Refused::Entry,
            error: std::io::Error::other("its first name holds something else"),
        }
    }

    /// A directory cannot go because of what is the target's own in it.
    pub(super) fn holds_excluded(what: Refused) -> Self {
        Self {
            what,
            error: std::io::Error::other("not empty: it holds what is excluded"),
        }
    }

    pub(super) fn new(what: Refused, errno: Errno) -> Self {
        Self {
            what,
            error: errno.into(),
        }
    }
}

/// Free bytes below which "no space" is believed to mean the file system and not one entry's room for attributes.
const FULL_BELOW: u64 = 16 * 1024 * 1024;

/// Whether an error speaks of the medium or of our own means, so that going on makes no sense.
pub(super) fn is_medium(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOSPC
            | Errno::DQUOT
            | Errno::IO
            | Errno::ROFS
            | Errno::UCLEAN
            | Errno::STALE
            | Errno::NODEV
            | Errno::NXIO
            | Errno::NOMEM
            | Errno::MFILE
            | Errno::NFILE
            | Errno::BADF
            | Errno::FAULT
    )
}

/// The same for a failed write of an attribute: there, `ENOSPC` also means that the entry's own room is used up.
pub(super) fn is_medium_for_xattr(errno: Errno, fd: BorrowedFd<'_>) -> bool {
    if errno != Errno::NOSPC {
        return is_medium(errno);
    }
    rustix::fs::fstatvfs(fd).map_or(true, |status| {
        status.f_bfree.saturating_mul(status.f_frsize) < FULL_BELOW
    })
}
