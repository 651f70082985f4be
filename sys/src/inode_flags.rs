//! Inode flags, as `chattr` sets them (FS_IOC_GETFLAGS, FS_IOC_SETFLAGS). Values from linux/fs.h.

use std::os::fd::BorrowedFd;

use rustix::fs::IFlags;
use rustix::io::{Errno, Result};

/// Secure deletion (s); kept by ext4 without effect.
pub const SECURE_REMOVAL: u32 = 0x1;
/// Undeletable (u); kept by ext4 without effect.
pub const UNDELETE: u32 = 0x2;
/// Compress (c).
pub const COMPRESS: u32 = 0x4;
/// Synchronous updates (S).
pub const SYNC: u32 = 0x8;
/// Immutable (i).
pub const IMMUTABLE: u32 = 0x10;
/// Append only (a).
pub const APPEND: u32 = 0x20;
/// No dump (d).
pub const NO_DUMP: u32 = 0x40;
/// Do not update the access time (A).
pub const NO_ATIME: u32 = 0x80;
/// Do not compress (m).
pub const NO_COMPRESS: u32 = 0x400;
/// Journal the data, too (j).
pub const JOURNAL_DATA: u32 = 0x4000;
/// Do not merge tails (t).
pub const NO_TAIL: u32 = 0x8000;
/// Synchronous directory updates (D).
pub const DIRECTORY_SYNC: u32 = 0x1_0000;
/// Top of a directory hierarchy (T).
pub const TOP_DIRECTORY: u32 = 0x2_0000;
/// No copy on write (C). On btrfs it can be changed only while the file is empty.
pub const NO_COW: u32 = 0x80_0000;
/// Direct access to persistent memory (x). Stored even where the medium has none.
pub const DAX: u32 = 0x200_0000;
/// New children get the project id (P).
pub const PROJECT_INHERIT: u32 = 0x2000_0000;

/// The flags a copy keeps: what a user can set. Not copied: what describes the layout (extents, inline data, index), what
/// the content itself must have been written with (encryption, verity), and casefolding, which changes which names a
/// directory holds and can be set only where the target was made with that feature.
pub const COPIED: u32 = SECURE_REMOVAL
    | UNDELETE
    | COMPRESS
    | SYNC
    | IMMUTABLE
    | APPEND
    | NO_DUMP
    | NO_ATIME
    | NO_COMPRESS
    | JOURNAL_DATA
    | NO_TAIL
    | DIRECTORY_SYNC
    | TOP_DIRECTORY
    | NO_COW
    | DAX
    | PROJECT_INHERIT;

/// The flags that forbid changes, to root as well: set last, cleared first.
pub const SEALING: u32 = IMMUTABLE | APPEND;

/// The flags that decide how data is stored: they must stand before the first byte is written.
pub const STORAGE: u32 = NO_COW | COMPRESS | NO_COMPRESS;

/// The flags of an open file or directory; `None` where its file system has none.
///
/// # Errors
/// What the ioctl gives, but for "not supported".
pub fn get(fd: BorrowedFd<'_>) -> Result<Option<u32>> {
    match rustix::fs::ioctl_getflags(fd) {
        Ok(flags) => Ok(Some(flags.bits())),
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets all flags at once; those that cannot be set must be given as [`get`] returned them.
///
/// # Errors
/// `EOPNOTSUPP` where the file system does not have one of the flags, and what the ioctl gives.
pub fn set(fd: BorrowedFd<'_>, flags: u32) -> Result<()> {
    rustix::fs::ioctl_setflags(fd, IFlags::from_bits_retain(flags))
}
