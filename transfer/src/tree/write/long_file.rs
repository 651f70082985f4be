//! A long file, written in pieces by several threads.
//!
//! Large pieces go past the page cache: they are copied once less, are on the disk when a checkpoint asks for them, and what
//! the target has cached stays. Where the file system cannot do that, they go through it like all others.

use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use sys::aligned::ALIGNMENT;

use super::create::{write_all_at, zero};
use super::metadata::{Handle, Origin};
use super::refusal::{Refusal, Refused, is_medium};
use super::{Missing, Tree, TreeWriter, seal};
use crate::error::{Error, Result};
use crate::tree::capture::{FileKind, Stat};
use crate::tree::entry::{Entry, EntryPath, Meta};
use crate::tree::operation::Existing;

/// Shortest piece that goes past the page cache, in bytes: scattered small ones are better gathered there.
const DIRECT_LEN_MIN: usize = 512 * 1024;
/// Bytes copied at a time inside the target.
const COPY_LEN: usize = 1024 * 1024;
const COPIED_FROM: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOATIME)
    .union(OFlags::CLOEXEC);

/// An open long file. All methods may be called from several threads at once, but for [`LongFile::finish`], which comes
/// after all others.
pub struct LongFile {
    fd: OwnedFd,
    /// The same file for direct I/O, once it is needed; `None` where the file system has none.
    direct: OnceLock<Option<OwnedFd>>,
    path: EntryPath,
    tree: Arc<Tree>,
    origin: Origin,
}

impl AsFd for LongFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What became of opening a long file.
pub enum Prepared {
    /// It is open and has its length.
    Ready(LongFile),
    /// The target's file system cannot hold it.
    Refused(Refusal),
}

impl TreeWriter {
    /// Opens a long file whose whole content follows and gives it its length, in bytes. A new one is one hole; one that is
    /// rewritten may still hold what it held. Of `meta`, only the flags that decide how data are stored matter here.
    ///
    /// # Errors
    /// The medium failed.
    pub fn begin_long_file(
        &mut self,
        path: &EntryPath,
        meta: &Meta,
        len: u64,
        existing: Existing,
    ) -> Result<Prepared> {
        let file = match self.open_for_writing(path, meta, existing)? {
            Ok(file) => file,
            Err(errno) => return Ok(Prepared::Refused(Refusal::new(Refused::Entry, errno))),
        };
        self.with_length(path, file.fd, file.origin, len)
    }

    /// Opens a long file of which only changed pieces follow, and gives it its length, in bytes; its content stays as far as
    /// that goes, whatever becomes of its flags. `None` when the file that is to be changed is not there, has none of the
    /// lengths `held`, or cannot be written to: then it can only be made as a whole.
    ///
    /// # Errors
    /// The medium failed.
    pub fn change_long_file(
        &mut self,
        path: &EntryPath,
        held: &RangeInclusive<u64>,
        len: u64,
    ) -> Result<Option<Prepared>> {
        let fd = match self.open_existing(path)? {
            Ok(Some(fd)) => fd,
            Ok(None) => return Ok(None),
            Err(errno) => return Ok(Some(Prepared::Refused(Refusal::new(Refused::Entry, errno)))),
        };
        let prepared = Stat::of_fd(fd.as_fd()).and_then(|stat| {
            let is_held = held.contains(&stat.size);
            if is_held {
                seal::clear(fd.as_fd())?;
            }
            Ok(is_held)
        });
        match prepared {
            Ok(true) => self.with_length(path, fd, Origin::Existing, len).map(Some),
            Ok(false) => Ok(None),
            Err(errno) => Err(self.failed("open a file for writing", path, errno)),
        }
    }

    fn with_length(&self, path: &EntryPath, fd: OwnedFd, origin: Origin, len: u64) -> Result<Prepared> {
        match rustix::fs::ftruncate(&fd, len) {
            Ok(()) => Ok(Prepared::Ready(LongFile {
                fd,
                direct: OnceLock::new(),
                path: path.clone(),
                tree: Arc::clone(&self.tree),
                origin,
            })),
            Err(errno) if is_medium(errno) => Err(self.failed("give a file its length", path, errno)),
            Err(errno) => Ok(Prepared::Refused(Refusal::new(Refused::Entry, errno))),
        }
    }

    /// Copies `len` bytes of the file at `from`, which stays as it is, into `to`, a new one. Returns whether `from` is a file
    /// of that length.
    ///
    /// # Errors
    /// The medium failed.
    pub fn copy_content(&mut self, from: &EntryPath, to: &LongFile, len: u64) -> Result<bool> {
        let opened = self.in_parent(
            from,
            Missing::Leave,
            "open a file to copy it",
            |directory, name| {
                let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                // Looked at first: opening a device or pipe is not for us.
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(Errno::NOTUNIQ);
                }
                rustix::fs::openat(directory, name, COPIED_FROM, Mode::empty())
            },
        )?;
        let Ok(file) = opened else {
            return Ok(false);
        };
        let failed = |errno| self.failed("copy a file of the target", from, errno);
        if Stat::of_fd(file.as_fd()).map_err(failed)?.size != len {
            return Ok(false);
        }
        let mut buffer = vec![0; COPY_LEN];
        let mut at = 0;
        while at < len {
            let count = read_at(file.as_fd(), &mut buffer, at).map_err(failed)?;
            if count == 0 {
                return Ok(false);
            }
            if buffer[..count].iter().any(|byte| *byte != 0) {
                to.write_at(at, &buffer[..count])?;
            }
            at += count as u64;
        }
        Ok(true)
    }
}

/// Fills `buffer` from `offset`, in bytes; returns how many there were before the end of the file.
fn read_at(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> rustix::io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(file, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}

impl LongFile {
    /// Writes `data` at `offset`, in bytes; past the page cache, if both lie right for it.
    ///
    /// # Errors
    /// The medium failed.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let (whole, rest) = data.split_at(data.len() - data.len() % ALIGNMENT);
        let fits = data.as_ptr().addr().is_multiple_of(ALIGNMENT) && offset.is_multiple_of(ALIGNMENT as u64);
        let direct = if fits && whole.len() >= DIRECT_LEN_MIN {
            self.direct.get_or_init(|| reopen_direct(&self.fd)).as_ref()
        } else {
            None
        };
        let written = match direct.map(|direct| write_all_at(direct.as_fd(), whole, offset)) {
            Some(Ok(())) => write_all_at(self.fd.as_fd(), rest, offset + whole.len() as u64),
            // So says a file system that cannot do it with this file, or no more.
            None | Some(Err(Errno::INVAL)) => write_all_at(self.fd.as_fd(), data, offset),
            Some(Err(errno)) => Err(errno),
        };
        written.map_err(|errno| self.failed("write a file", errno))
    }

    /// Makes a range, in bytes, read as zeros: a hole where the file system can. The range lies within the length.
    ///
    /// # Errors
    /// The medium failed.
    pub fn zero(&self, offset: u64, len: u64) -> Result<()> {
        zero(self.fd.as_fd(), offset, len).map_err(|errno| self.failed("make a hole in a file", errno))
    }

    /// Changes the length, in bytes.
    ///
    /// # Errors
    /// The medium failed.
    pub fn set_len(&self, len: u64) -> Result<()> {
        rustix::fs::ftruncate(&self.fd, len).map_err(|errno| self.failed("give a file its length", errno))
    }

    /// Applies the final metadata; nothing may be written afterwards.
    ///
    /// # Errors
    /// The medium failed.
    pub fn finish(&self, entry: &Entry) -> Result<Vec<Refusal>> {
        let handle = Handle::Open(self.fd.as_fd());
        self.tree
            .apply(&self.path, handle, FileKind::File, &entry.meta, self.origin)
    }

    fn failed(&self, operation: &str, errno: Errno) -> Error {
        Error::io(operation, self.tree.full_path(&self.path), errno.into())
    }
}

/// Opens a file once more for direct I/O: the flag belongs to an opening, and the other one still writes ends and holes.
fn reopen_direct(file: &OwnedFd) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).ok()
}
