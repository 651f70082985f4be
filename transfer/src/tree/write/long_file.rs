//! A long file, written in pieces by several threads.
//!
//! Large pieces go past the page cache: they are copied once less, are on the disk when a checkpoint asks for them, and what
//! the target has cached stays. Where the file system cannot do that, they go through it like all others.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sys::aligned::ALIGNMENT;

use super::create::{write_all_at, zero};
use super::metadata::{Handle, Origin};
use super::refusal::{Refusal, Refused, is_medium};
use super::{Tree, TreeWriter};
use crate::error::{Error, Result};
use crate::tree::capture::FileKind;
use crate::tree::entry::{Entry, EntryPath, Meta};
use crate::tree::operation::Existing;

/// Shortest piece that goes past the page cache, in bytes: scattered small ones are better gathered there.
const DIRECT_LEN_MIN: usize = 512 * 1024;

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
    /// Opens a long file and gives it its length, in bytes. A new one is one hole; of one that is rewritten, the content
    /// stays as far as the length goes. Of `meta`, only the flags that decide how data are stored matter here.
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
        let refused = |errno| Ok(Prepared::Refused(Refusal::new(Refused::Entry, errno)));
        let file = match self.open_for_writing(path, meta, existing)? {
            Ok(file) => file,
            Err(errno) => return refused(errno),
        };
        match rustix::fs::ftruncate(&file.fd, len) {
            Ok(()) => Ok(Prepared::Ready(LongFile {
                fd: file.fd,
                direct: OnceLock::new(),
                path: path.clone(),
                tree: Arc::clone(&self.tree),
                origin: file.origin,
            })),
            Err(errno) if is_medium(errno) => Err(self.failed("give a file its length", path, errno)),
            Err(errno) => refused(errno),
        }
    }
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

    /// Fills `buffer` from `offset`, in bytes; returns how many bytes there were before the end of the file.
    ///
    /// # Errors
    /// The medium failed.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match rustix::io::pread(&self.fd, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed("read a file of the target", errno)),
            }
        }
        Ok(done)
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
