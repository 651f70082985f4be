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

/// `_IOWR(0x94, 54, struct file_dedupe_range)` of linux/fs.h
const FIDEDUPERANGE: libc::Ioctl = 0xC018_9436;
const RANGE_DIFFERS: i32 = 1;

/// `struct file_dedupe_range` with one `struct file_dedupe_range_info` behind it.
#[repr(C)]
struct DedupeRange {
    source_offset: u64,
    source_len: u64,
    target_count: u16,
    reserved: [u16; 3],
    target_file: i64,
    target_offset: u64,
    bytes_deduped: u64,
    status: i32,
    reserved_end: u32,
}

const _: () = assert!(size_of::<DedupeRange>() == 24 + 32);
const _: () = assert!(std::mem::offset_of!(DedupeRange, target_file) == 24);

/// Makes up to `len` bytes at `target_offset` of `target` share the blocks at `source_offset` of `source` if both read the
/// same: the kernel compares them, so no content ever changes. Returns how many bytes share blocks now; `None` where they
/// differ or that cannot be done.
///
/// # Errors
/// What the ioctl gives, but for the reasons above.
pub fn dedupe_range(
    source: BorrowedFd<'_>,
    source_offset: u64,
    target: BorrowedFd<'_>,
    target_offset: u64,
    len: u64,
) -> Result<Option<u64>> {
    let mut range = DedupeRange {
        source_offset,
        source_len: len,
        target_count: 1,
        reserved: [0; 3],
        target_file: i64::from(target.as_raw_fd()),
        target_offset,
        bytes_deduped: 0,
        status: 0,
        reserved_end: 0,
    };
    // SAFETY: the kernel reads and writes one `struct file_dedupe_range` with one info; layout asserted above, both
    // descriptors are borrowed for the call.
    let answer = unsafe { libc::ioctl(source.as_raw_fd(), FIDEDUPERANGE, &raw mut range) };
    match crate::answer(answer) {
        Ok(_) => {}
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::XDEV | Errno::PERM) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    }
    match range.status {
        0 => Ok(Some(range.bytes_deduped)),
        RANGE_DIFFERS => Ok(None),
        status => match Errno::from_raw_os_error(-status) {
            Errno::OPNOTSUPP | Errno::INVAL | Errno::XDEV | Errno::PERM | Errno::TXTBSY => Ok(None),
            error => Err(error),
        },
    }
}
