//! The attributes XFS brought to Linux, project id among them (FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR).
//! Struct and values from linux/fs.h.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::{Errno, Result};

use crate::inode_flags;

/// `_IOR('X', 31, struct fsxattr)`
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801C_581F;
/// `_IOW('X', 32, struct fsxattr)`
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401C_5820;

const XFLAG_IMMUTABLE: u32 = 0x8;
const XFLAG_APPEND: u32 = 0x10;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileAttributes {
    /// FS_XFLAG_*.
    xflags: u32,
    /// Extent size hint, in bytes.
    extent_size: u32,
    /// Number of extents (only read).
    extent_count: u32,
    /// Project id, 0 when none.
    pub project: u32,
    /// Extent size hint for copy on write, in bytes.
    cow_extent_size: u32,
    padding: [u8; 8],
}

const _: () = assert!(size_of::<FileAttributes>() == 28);
const _: () = assert!(std::mem::offset_of!(FileAttributes, project) == 12);

impl FileAttributes {
    /// The sealing flags among them, in the terms of [`inode_flags`].
    pub fn seal(&self) -> u32 {
        let immutable = if self.xflags & XFLAG_IMMUTABLE != 0 {
            inode_flags::IMMUTABLE
        } else {
            0
        };
        let append = if self.xflags & XFLAG_APPEND != 0 {
            inode_flags::APPEND
        } else {
            0
        };
        immutable | append
    }

    /// Replaces the sealing flags by those in `flags`, given in the terms of [`inode_flags`]; other bits do not matter.
    pub fn set_seal(&mut self, flags: u32) {
        self.xflags &= !(XFLAG_IMMUTABLE | XFLAG_APPEND);
        if flags & inode_flags::IMMUTABLE != 0 {
            self.xflags |= XFLAG_IMMUTABLE;
        }
        if flags & inode_flags::APPEND != 0 {
            self.xflags |= XFLAG_APPEND;
        }
    }
}

/// The attributes of an open file or directory; `None` where its file system has none.
///
/// # Errors
/// What the ioctl gives, but for "not supported".
pub fn get(fd: BorrowedFd<'_>) -> Result<Option<FileAttributes>> {
    let mut attributes = FileAttributes::default();
    // SAFETY: the kernel writes one `struct fsxattr`, whose size and layout are asserted above.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut attributes) };
    match crate::answer(answer) {
        Ok(_) => Ok(Some(attributes)),
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets all attributes at once: change those that [`get`] returned.
///
/// # Errors
/// What the ioctl gives.
pub fn set(fd: BorrowedFd<'_>, attributes: &FileAttributes) -> Result<()> {
    // SAFETY: the kernel reads one `struct fsxattr`, whose size and layout are asserted above.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_FSSETXATTR, std::ptr::from_ref(attributes)) };
    crate::answer(answer).map(drop)
}
