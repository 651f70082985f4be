//! A long file, written in pieces by several threads.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::create::{write_all_at, zero};
use super::metadata::{Handle, Origin};
use super::refusal::{Refusal, Refused, is_medium};
use super::{Tree, TreeWriter};
use crate::error::{Error, Result};
use crate::tree::capture::FileKind;
use crate::tree::entry::{Entry, EntryPath, Meta};
use crate::tree::operation::Existing;
use std::sync::Arc;

/// An open long file. All methods may be called from several threads at once, but for [`LongFile::finish`], which comes
/// after all others.
pub struct LongFile {
    fd: OwnedFd,
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
    /// Writes `data` at `offset`, in bytes.
    ///
    /// # Errors
    /// The medium failed.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        write_all_at(self.fd.as_fd(), data, offset).map_err(|errno| self.failed("write a file", errno))
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
