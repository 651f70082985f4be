//! Where a file holds data and where it is a hole, and making holes.

use std::ops::Range;
use std::os::fd::BorrowedFd;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::{Errno, Result};

/// The first stretch of data at or after `offset` and before `end`, in bytes; `None` where only a hole is left.
///
/// Moves the file's position. A file that shrinks meanwhile simply ends earlier. Where the file system does not know its
/// holes, everything is data.
///
/// # Errors
/// What `lseek` gives.
pub fn next_data(file: BorrowedFd<'_>, offset: u64, end: u64) -> Result<Option<Range<u64>>> {
    if offset >= end {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(offset..end)),
        Err(error) => return Err(error),
    };
    if start >= end {
        return Ok(None);
    }
    let stop = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(stop) => stop.min(end),
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => end,
        Err(error) => return Err(error),
    };
    Ok((stop > start).then_some(start..stop))
}

/// Whether a hole begins before `end`, in bytes; preallocated stretches that were never written nor read count as holes.
///
/// Moves the file's position. Where the file system does not know its holes, there are none.
///
/// # Errors
/// What `lseek` gives.
pub fn has_hole(file: BorrowedFd<'_>, end: u64) -> Result<bool> {
    if end == 0 {
        return Ok(false);
    }
    match rustix::fs::seek(file, SeekFrom::Hole(0)) {
        Ok(hole) => Ok(hole < end),
        Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Turns a range, in bytes, into a hole without changing the file's length; `None` where the file system cannot.
///
/// # Errors
/// What `fallocate` gives, but for "not supported".
pub fn punch(file: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Option<()>> {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    loop {
        return match rustix::fs::fallocate(file, mode, offset, len) {
            Ok(()) => Ok(Some(())),
            Err(Errno::INTR) => continue,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
            Err(error) => Err(error),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn data_and_holes_are_found_and_made() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        file.write_all_at(&[1; 8192], 5 << 20).unwrap();
        let all = || {
            let (mut found, mut offset) = (Vec::new(), 0);
            while let Some(range) = next_data(file.as_fd(), offset, 10 << 20).unwrap() {
                offset = range.end;
                found.push(range);
            }
            found
        };
        assert_eq!(all(), [1 << 20..(1 << 20) + 4096, 5 << 20..(5 << 20) + 8192]);
        assert_eq!(next_data(file.as_fd(), 0, 1 << 20).unwrap(), None);
        punch(file.as_fd(), 1 << 20, 4096).unwrap().unwrap();
        let second = 5 << 20..(5 << 20) + 8192;
        assert_eq!(all(), std::slice::from_ref(&second));
        assert!(has_hole(file.as_fd(), 10 << 20).unwrap());
        file.set_len(0).unwrap();
        assert_eq!(all(), []);
        assert!(!has_hole(file.as_fd(), 0).unwrap() && !has_hole(file.as_fd(), 1).unwrap());
        file.write_all_at(&[1; 8192], 0).unwrap();
        assert!(!has_hole(file.as_fd(), 8192).unwrap());
        file.set_len(1 << 20).unwrap();
        assert!(has_hole(file.as_fd(), 1 << 20).unwrap());
    }
}
