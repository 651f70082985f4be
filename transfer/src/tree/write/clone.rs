//! Sharing blocks between files of the target, where its file system can.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::refusal::is_medium;
use super::{LongFile, TreeWriter};
use crate::error::Result;
use crate::tree::entry::EntryPath;

/// What became of a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloneOutcome {
    /// The range shares its blocks with the other file's and reads the same.
    Shared,
    /// It does not; the caller sends the data.
    NotPossible,
}

impl TreeWriter {
    /// Makes `len` bytes at `offset` of `file` share the blocks at `from_offset` of the file at `from`. Offsets, and
    /// lengths but at the end of the file, are multiples of the file system's block length.
    ///
    /// # Errors
    /// The medium failed.
    pub fn clone_range(
        &mut self,
        from: &EntryPath,
        from_offset: u64,
        file: &LongFile,
        offset: u64,
        len: u64,
    ) -> Result<CloneOutcome> {
        let Ok(Some(source)) = self.open_existing(from)? else {
            return Ok(CloneOutcome::NotPossible);
        };
        match sys::reflink::clone_range(source.as_fd(), from_offset, file.as_fd(), offset, len) {
            Ok(Some(())) => Ok(CloneOutcome::Shared),
            Err(errno) if is_medium(errno) && errno != Errno::NOSPC => {
                Err(self.failed("share blocks with another file", from, errno))
            }
            Ok(None) | Err(_) => Ok(CloneOutcome::NotPossible),
        }
    }
}
