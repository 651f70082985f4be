//! An open directory of the source: its names, the status of its entries, its files.

use std::ffi::{CStr, CString};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use sys::directory::Names;

use super::stat::{FileKind, Stat};
use crate::tree::entry::EntryPath;

/// Attempts at a file whose lease holder (Samba, NFS server) has been asked to give way.
const LEASE_ATTEMPTS_MAX: u32 = 20;

/// Pause between them. 20 of them are 1 s; the kernel itself waits up to 45 s (lease-break-time), which would stall a round.
const LEASE_PAUSE: Duration = Duration::from_millis(50);

const COMMON: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// An open directory.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
}

impl Directory {
    /// Opens the directory where a volume begins. Here, and only here, symbolic links are followed: the user named it.
    ///
    /// # Errors
    /// What `open` gives.
    pub fn open_root(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = without_atime(flags, |flags| rustix::fs::open(path, flags, Mode::empty()))?;
        Ok(Self { fd })
    }

    /// Opens the directory `name` of this one.
    ///
    /// # Errors
    /// `ENOTDIR` when it is not, or no longer, a directory; `ENOENT` when it vanished.
    pub fn open_child(&self, name: &CStr) -> Result<Self> {
        let fd = without_atime(COMMON | OFlags::DIRECTORY, |flags| {
            rustix::fs::openat(&self.fd, name, flags, Mode::empty())
        })?;
        Ok(Self { fd })
    }

    /// Opens a directory any number of levels below this one.
    ///
    /// # Errors
    /// `ENOTDIR` or `ELOOP` when a component is not, or no longer, a directory; `ENOENT` when one vanished.
    pub fn open_beneath(&self, path: &EntryPath) -> Result<Self> {
        let fd = without_atime(COMMON | OFlags::DIRECTORY, |flags| {
            sys::beneath::open(self.fd.as_fd(), path.as_bytes(), flags, Mode::empty())
        })?;
        Ok(Self { fd })
    }

    /// The same, with its status.
    ///
    /// # Errors
    /// As for [`Self::open_beneath`].
    pub fn enter(&self, path: &EntryPath) -> Result<(Self, Stat)> {
        let directory = self.open_beneath(path)?;
        let stat = directory.stat()?;
        Ok((directory, stat))
    }

    /// All names in it, unordered. Memory: the names and 17 bytes each.
    ///
    /// # Errors
    /// What `getdents64` gives.
    pub fn names(&self) -> Result<Names> {
        rustix::fs::seek(&self.fd, rustix::fs::SeekFrom::Start(0))?;
        Ok(sys::directory::read_names(self.fd.as_fd())?)
    }

    /// The status of the directory itself.
    ///
    /// # Errors
    /// What `statx` gives.
    pub fn stat(&self) -> Result<Stat> {
        Ok(Stat::of_fd(self.fd.as_fd())?)
    }

    /// The status of the entry `name`.
    ///
    /// # Errors
    /// `ENOENT` when it vanished.
    pub fn stat_entry(&self, name: &CStr) -> Result<Stat> {
        Ok(Stat::of_entry(self.fd.as_fd(), name)?)
    }

    /// Opens the regular file `name` for reading, and tells its status then.
    ///
    /// # Errors
    /// `ENOENT` when it vanished, [`ErrorKind::InvalidInput`] when it is no longer a regular file.
    pub fn open_file(&self, name: &CStr) -> Result<(OwnedFd, Stat)> {
        let mut attempt = 0;
        let fd = loop {
            let answer = without_atime(COMMON, |flags| {
                rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            });
            match answer {
                Err(Errno::AGAIN) if attempt < LEASE_ATTEMPTS_MAX => {
                    attempt += 1;
                    std::thread::sleep(LEASE_PAUSE);
                }
                Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => return Err(not_a_file()),
                answer => break answer?,
            }
        };
        let stat = Stat::of_fd(fd.as_fd())?;
        if stat.kind == FileKind::File {
            Ok((fd, stat))
        } else {
            Err(not_a_file())
        }
    }

    /// What the symbolic link `name` points to.
    ///
    /// # Errors
    /// `EINVAL` when it is no longer a symbolic link; `ENOENT` when it vanished.
    pub fn read_link(&self, name: &CStr) -> Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.fd, name, Vec::new()).map(CString::into_bytes)?)
    }
}

impl From<OwnedFd> for Directory {
    /// One that is open already.
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn not_a_file() -> Error {
    Error::new(ErrorKind::InvalidInput, "it is no longer a regular file")
}

/// Opens with O_NOATIME or, where that is not allowed (neither owner nor CAP_FOWNER), without.
fn without_atime(
    flags: OFlags,
    open: impl Fn(OFlags) -> rustix::io::Result<OwnedFd>,
) -> rustix::io::Result<OwnedFd> {
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        answer => answer,
    }
}
