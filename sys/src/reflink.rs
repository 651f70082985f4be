//! Sharing the blocks of one file with another (FICLONERANGE), where the file system can.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::{Errno, Result};

const _: () = assert!(size_of::<libc::file_clone_range>() == 32);
const _: () = assert!(std::mem::offset_of!(libc::file_clone_range, dest_offset) == 24);

/// Makes `len` bytes at `target_offset` of `target` share the blocks at `source_offset` of `source`; `None` where that
/// cannot be done: not this file system, not two of them, not these offsets, not these flags.
///
/// # Errors
/// What the ioctl gives, but for the reasons above.
pub fn clone_range(
    source: BorrowedFd<'_>,
    source_offset: u64,
    target: BorrowedFd<'_>,
    target_offset: u64,
    len: u64,
) -> Result<Option<()>> {
    let range = libc::file_clone_range {
        src_fd: i64::from(source.as_raw_fd()),
        src_offset: source_offset,
        src_length: len,
        dest_offset: target_offset,
    };
    // SAFETY: the kernel reads one `struct file_clone_range`; both descriptors are borrowed for the call.
    let answer = unsafe { libc::ioctl(target.as_raw_fd(), libc::FICLONERANGE, &raw const range) };
    match crate::answer(answer) {
        Ok(_) => Ok(Some(())),
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::XDEV | Errno::TXTBSY) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
