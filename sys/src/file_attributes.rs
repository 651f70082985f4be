//! The attributes XFS brought to Linux, project id among them (FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR).
//! Struct and values from linux/fs.h.
//!
//! An ioctl needs an open file or directory. Since Linux 6.17, `file_getattr` and `file_setattr` reach all other entries:
//! their project ids count when they are renamed or linked.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::{Errno, Result};

use crate::inode_flags;
use crate::xattr::ProcPath;

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

/// Number of `file_getattr` on x86_64 and on all architectures with the generic table.
const SYS_FILE_GETATTR: libc::c_long = 468;
/// Number of `file_setattr`.
const SYS_FILE_SETATTR: libc::c_long = 469;

/// `struct file_attr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FileAttr {
    xflags: u64,
    extent_size: u32,
    extent_count: u32,
    project: u32,
    cow_extent_size: u32,
}

const _: () = assert!(size_of::<FileAttr>() == 24);
const _: () = assert!(std::mem::offset_of!(FileAttr, project) == 16);

/// Which entry, without opening it.
#[derive(Clone, Copy, Debug)]
pub enum Unopened<'a> {
    /// One opened with `O_PATH`.
    Pinned(BorrowedFd<'a>),
    /// The entry `name` of a directory, not followed if it is a symbolic link.
    Named {
        /// The directory.
        directory: BorrowedFd<'a>,
        /// The entry's name.
        name: &'a CStr,
    },
}

impl Unopened<'_> {
    /// Path and flags for the system calls, which do not take an `O_PATH` descriptor with an empty path.
    fn address(self) -> (ProcPath, libc::c_int) {
        match self {
            Self::Pinned(fd) => (ProcPath::of(fd, c""), 0),
            Self::Named { directory, name } => (ProcPath::of(directory, name), libc::AT_SYMLINK_NOFOLLOW),
        }
    }
}

/// The project id of any entry; `None` where the kernel or the file system does not tell.
///
/// # Errors
/// What the system call gives, but for "not supported".
pub fn project_of(entry: Unopened<'_>) -> Result<Option<u32>> {
    match get_unopened(entry) {
        Ok(attributes) => Ok(Some(attributes.project)),
        Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::PERM) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets the project id of any entry.
///
/// # Errors
/// `ENOSYS` before Linux 6.17, and what the system calls give.
pub fn set_project_of(entry: Unopened<'_>, project: u32) -> Result<()> {
    let attributes = FileAttr {
        project,
        ..get_unopened(entry)?
    };
    let (path, flags) = entry.address();
    let name = path.as_c_str().as_ptr();
    let (pointer, size) = (&raw const attributes, size_of::<FileAttr>());
    // SAFETY: the kernel reads the path up to its NUL and one `struct file_attr`, whose layout is asserted above.
    let answer = unsafe { libc::syscall(SYS_FILE_SETATTR, libc::AT_FDCWD, name, pointer, size, flags) };
    crate::answer(if answer == 0 { 0 } else { -1 }).map(drop)
}

fn get_unopened(entry: Unopened<'_>) -> Result<FileAttr> {
    let (path, flags) = entry.address();
    let name = path.as_c_str().as_ptr();
    let mut attributes = FileAttr::default();
    let (pointer, size) = (&raw mut attributes, size_of::<FileAttr>());
    // SAFETY: the kernel reads the path up to its NUL and writes one `struct file_attr`, whose layout is asserted above.
    let answer = unsafe { libc::syscall(SYS_FILE_GETATTR, libc::AT_FDCWD, name, pointer, size, flags) };
    crate::answer(if answer == 0 { 0 } else { -1 })?;
    Ok(attributes)
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
