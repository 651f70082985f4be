//! Extended attributes of any entry, symbolic links and special files included.
//!
//! Entries that cannot be opened are reached through `/proc/self/fd`, which pins the directory or the inode: there is no
//! path that could be swapped or be too long. An entry or file system without attributes has an empty list.

use std::ffi::CStr;
use std::io::Write as _;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::buffer::spare_capacity;
use rustix::fs::XattrFlags;
use rustix::io::{Errno, Result};

/// Longest path made here: `/proc/self/fd/`, ten digits, `/`, a name of 255 bytes, NUL.
const PROC_PATH_LEN_MAX: usize = 14 + 10 + 1 + 255 + 1;

/// First guess of a list's length, in bytes: most entries have none or a handful of attributes.
const LIST_LEN_GUESS: usize = 512;

/// First guess of a value's length, in bytes: labels, capabilities and short ACLs fit.
const VALUE_LEN_GUESS: usize = 256;

/// Attempts to read a list or value that grows meanwhile.
const GROWTH_ATTEMPTS_MAX: u32 = 16;

/// Whose attributes.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// Any entry opened with `O_PATH`.
    Pinned(BorrowedFd<'a>),
    /// The entry `name` of a directory, not followed if it is a symbolic link.
    Named {
        /// The directory.
        directory: BorrowedFd<'a>,
        /// The entry's name.
        name: &'a CStr,
    },
}

/// Puts all names, each with its NUL, into `list`.
///
/// # Errors
/// What `flistxattr` gives, but for "not supported".
pub fn list(subject: Subject<'_>, list: &mut Vec<u8>) -> Result<()> {
    let answer = grow(list, LIST_LEN_GUESS, |list| match subject {
        Subject::Open(fd) => rustix::fs::flistxattr(fd, spare_capacity(list)),
        Subject::Pinned(fd) => rustix::fs::listxattr(ProcPath::of(fd, c"").as_c_str(), spare_capacity(list)),
        Subject::Named { directory, name } => {
            rustix::fs::llistxattr(ProcPath::of(directory, name).as_c_str(), spare_capacity(list))
        }
    });
    match answer {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            list.clear();
            Ok(())
        }
        answer => answer,
    }
}

/// Puts the value of `name` into `value`.
///
/// # Errors
/// `ENODATA` where there is no such attribute, and what `fgetxattr` gives.
pub fn get(subject: Subject<'_>, name: &CStr, value: &mut Vec<u8>) -> Result<()> {
    grow(value, VALUE_LEN_GUESS, |value| match subject {
        Subject::Open(fd) => rustix::fs::fgetxattr(fd, name, spare_capacity(value)),
        Subject::Pinned(fd) => {
            rustix::fs::getxattr(ProcPath::of(fd, c"").as_c_str(), name, spare_capacity(value))
        }
        Subject::Named {
            directory,
            name: entry,
        } => rustix::fs::lgetxattr(
            ProcPath::of(directory, entry).as_c_str(),
            name,
            spare_capacity(value),
        ),
    })
}

/// Sets or replaces an attribute.
///
/// # Errors
/// What `fsetxattr` gives. `ENOSPC` may mean that the entry's own room for attributes is used up.
pub fn set(subject: Subject<'_>, name: &CStr, value: &[u8]) -> Result<()> {
    let flags = XattrFlags::empty();
    match subject {
        Subject::Open(fd) => rustix::fs::fsetxattr(fd, name, value, flags),
        Subject::Pinned(fd) => rustix::fs::setxattr(ProcPath::of(fd, c"").as_c_str(), name, value, flags),
        Subject::Named {
            directory,
            name: entry,
        } => rustix::fs::lsetxattr(ProcPath::of(directory, entry).as_c_str(), name, value, flags),
    }
}

/// Removes an attribute.
///
/// # Errors
/// `ENODATA` where there is none, and what `fremovexattr` gives.
pub fn remove(subject: Subject<'_>, name: &CStr) -> Result<()> {
    match subject {
        Subject::Open(fd) => rustix::fs::fremovexattr(fd, name),
        Subject::Pinned(fd) => rustix::fs::removexattr(ProcPath::of(fd, c"").as_c_str(), name),
        Subject::Named {
            directory,
            name: entry,
        } => rustix::fs::lremovexattr(ProcPath::of(directory, entry).as_c_str(), name),
    }
}

/// A path below `/proc/self/fd` on the stack.
pub struct ProcPath {
    bytes: [u8; PROC_PATH_LEN_MAX],
    len: usize,
}

impl ProcPath {
    /// The path of what `fd` has open or, where `name` is not empty, of the entry `name` of the directory `fd`.
    ///
    /// # Panics
    /// `name` has more than 255 bytes.
    pub fn of(fd: BorrowedFd<'_>, name: &CStr) -> Self {
        let mut bytes = [0; PROC_PATH_LEN_MAX];
        let mut rest = &mut bytes[..];
        let slash = if name.is_empty() { "" } else { "/" };
        write!(rest, "/proc/self/fd/{}{slash}", fd.as_raw_fd())
            .and_then(|()| rest.write_all(name.to_bytes_with_nul()))
            .expect("a name has at most 255 bytes");
        let len = PROC_PATH_LEN_MAX - rest.len();
        Self { bytes, len }
    }

    /// The path.
    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_with_nul(&self.bytes[..self.len]).expect("the NUL was written last")
    }
}

fn grow(
    buffer: &mut Vec<u8>,
    guess: usize,
    mut call: impl FnMut(&mut Vec<u8>) -> Result<usize>,
) -> Result<()> {
    buffer.clear();
    buffer.reserve(guess);
    for _ in 0..GROWTH_ATTEMPTS_MAX {
        match call(buffer) {
            Err(Errno::RANGE) => buffer.reserve(buffer.capacity() * 4),
            Err(error) => return Err(error),
            Ok(_) => return Ok(()),
        }
    }
    Err(Errno::RANGE)
}
