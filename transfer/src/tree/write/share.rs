//! Sharing blocks between files of the target, where its file system can.
//!
//! The kernel compares what is to be shared, and shares only what is equal: nothing here can change a content.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::refusal::is_medium;
use super::{Missing, TreeWriter};
use crate::error::Result;
use crate::tree::entry::EntryPath;
use crate::tree::operation::SharedRange;

/// Longest piece asked for at once, in bytes: btrfs and XFS take no more than 16 MiB each time.
const PIECE_LEN: u64 = 16 << 20;

/// How much of what should share blocks does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// Bytes that share blocks.
    pub together: u64,
    /// Bytes that do not: this file system cannot, or the contents are not equal (any more).
    pub apart: u64,
}

impl TreeWriter {
    /// Lets ranges of the file at `to` share the blocks of ranges of the file at `from`, as far as they are equal.
    ///
    /// # Errors
    /// The medium failed.
    pub fn share(&mut self, from: &EntryPath, to: &EntryPath, ranges: &[SharedRange]) -> Result<Shared> {
        let mut shared = Shared::default();
        let all: u64 = ranges.iter().map(|range| range.len).sum();
        let (Some(source), Some(target)) = (self.open_to_share(from)?, self.open_to_share(to)?) else {
            shared.apart = all;
            return Ok(shared);
        };
        for range in ranges {
            let mut done = 0;
            while done < range.len {
                let len = PIECE_LEN.min(range.len - done);
                let (from_offset, to_offset) = (range.from_offset + done, range.to_offset + done);
                match sys::reflink::dedupe_range(source.as_fd(), from_offset, target.as_fd(), to_offset, len)
                {
                    Ok(Some(bytes)) if bytes > 0 => done += bytes.min(len),
                    Ok(_) | Err(Errno::NOSPC) => break,
                    Err(errno) if is_medium(errno) => {
                        return Err(self.failed("share blocks with another file", to, errno));
                    }
                    Err(_) => break,
                }
            }
            shared.together += done;
            shared.apart += range.len - done;
        }
        Ok(shared)
    }

    fn open_to_share(&mut self, path: &EntryPath) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOATIME | OFlags::CLOEXEC;
        let opened = self.in_parent(
            path,
            Missing::Leave,
            "open a file to share its blocks",
            |directory, name| rustix::fs::openat(directory, name, flags, Mode::empty()),
        )?;
        Ok(opened.ok())
    }
}
