//! Opening what is immutable or append-only for a moment.
//!
//! The source may change an entry in an immutable directory, link to an immutable file, or rename one (by clearing the
//! flag meanwhile). At the target the flag is still there when the operation arrives.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::PoisonError;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};
use sys::inode_flags;

use super::Tree;

/// An entry whose sealing flags have been cleared.
pub(super) struct Unsealed {
    fd: OwnedFd,
    flags: u32,
}

impl Unsealed {
    /// Clears the sealing flags of `name`; `None` where it has none.
    ///
    /// # Errors
    /// What opening it and the ioctl give.
    pub(super) fn open(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Self>> {
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        // Opening a device could do something; no other kind has flags.
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && kind != FileType::RegularFile {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(directory, name, flags, Mode::empty())?;
        let flags = clear(fd.as_fd())?;
        Ok(flags.map(|flags| Self { fd, flags }))
    }

    fn still_exists(&self) -> bool {
        rustix::fs::fstat(&self.fd).is_ok_and(|stat| stat.st_nlink > 0)
    }

    /// Sets the flags again.
    ///
    /// # Errors
    /// What the ioctl gives.
    pub(super) fn reseal(&self) -> Result<()> {
        inode_flags::set(self.fd.as_fd(), self.flags)
    }
}

/// Clears the sealing flags of an open file or directory and returns all its flags as they were; `None` where it has none.
///
/// # Errors
/// What the ioctl gives.
pub(super) fn clear(fd: BorrowedFd<'_>) -> Result<Option<u32>> {
    match inode_flags::get(fd)? {
        Some(flags) if flags & inode_flags::SEALING != 0 => {
            inode_flags::set(fd, flags & !inode_flags::SEALING)?;
            Ok(Some(flags))
        }
        _ => Ok(None),
    }
}

/// An entry and the directory it is in.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) directory: BorrowedFd<'a>,
    pub(super) name: &'a [u8],
}

impl Tree {
    /// Runs `act` once more, which was not permitted, while the entries at `places` and their directories are not sealed;
    /// then all of them that are still there are sealed as before, wherever they are.
    ///
    /// # Errors
    /// What `act` gives.
    pub(super) fn unsealed<T>(&self, places: &[Place<'_>], act: impl FnOnce() -> Result<T>) -> Result<T> {
        let _one_at_a_time = self.unsealing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unsealed = Vec::with_capacity(2 * places.len());
        let mut opened = Ok(());
        for place in places {
            for name in [&b"."[..], place.name] {
                match Unsealed::open(place.directory, name) {
                    Ok(found) => unsealed.extend(found),
                    Err(error) => opened = Err(error),
                }
            }
        }
        let answer = opened.and_then(|()| act());
        let restored = unsealed
            .iter()
            .filter(|unsealed| unsealed.still_exists())
            .try_for_each(Unsealed::reseal);
        answer.and_then(|value| restored.map(|()| value))
    }
}
