//! The extents of a file with their place on the medium (FS_IOC_FIEMAP). Structs and values from linux/fiemap.h.

use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::{Errno, Result};

/// `_IOWR('f', 11, struct fiemap)`
const FS_IOC_FIEMAP: libc::Ioctl = 0xC020_660B;
const FIEMAP_FLAG_SYNC: u32 = 0x1;

const EXTENT_UNKNOWN: u32 = 0x2;
const EXTENT_DELALLOC: u32 = 0x4;
const EXTENT_ENCODED: u32 = 0x8;
const EXTENT_DATA_INLINE: u32 = 0x200;
const EXTENT_UNWRITTEN: u32 = 0x800;
const EXTENT_SHARED: u32 = 0x2000;

/// Extents asked for in one call.
const EXTENTS_PER_CALL: usize = 128;

/// One extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file, in bytes.
    pub logical: u64,
    /// Place on the medium, in bytes. Comparable only within one file system; meaningless where `placed` is false.
    pub physical: u64,
    /// Length, in bytes.
    pub len: u64,
    /// Whether other files, or other parts of this one, use the same blocks.
    pub shared: bool,
    /// Whether `physical` names plain, written blocks: not compressed, inline, preallocated or still unallocated ones.
    pub placed: bool,
}

#[repr(C)]
struct Request {
    start: u64,
    len: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [RawExtent; EXTENTS_PER_CALL],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawExtent {
    logical: u64,
    physical: u64,
    len: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

const _: () = assert!(size_of::<RawExtent>() == 56);
const _: () = assert!(std::mem::offset_of!(RawExtent, flags) == 40);
const _: () = assert!(std::mem::offset_of!(Request, extents) == 32);

/// The extents of `file` that touch `range`, in order and at most some hundred of them: ask again from the end of the last
/// one until the answer is empty. Holes are left out. `None` where the file system does not tell.
///
/// # Errors
/// What the ioctl gives, but for "not supported".
pub fn extents(file: BorrowedFd<'_>, range: Range<u64>) -> Result<Option<Vec<Extent>>> {
    let mut request = Box::new(Request {
        start: range.start,
        len: range.end.saturating_sub(range.start),
        flags: FIEMAP_FLAG_SYNC,
        mapped_extents: 0,
        extent_count: u32::try_from(EXTENTS_PER_CALL).expect("a small constant"),
        reserved: 0,
        extents: [RawExtent::default(); EXTENTS_PER_CALL],
    });
    if request.len == 0 {
        return Ok(Some(Vec::new()));
    }
    // SAFETY: the kernel reads the header and writes at most `extent_count` extents behind it; layout asserted above.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, &raw mut *request) };
    match crate::answer(answer) {
        Ok(_) => {}
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::BADR) => return Ok(None),
        Err(error) => return Err(error),
    }
    let found = request.mapped_extents as usize;
    Ok(Some(
        request.extents.iter().take(found).map(Extent::from_raw).collect(),
    ))
}

impl Extent {
    fn from_raw(raw: &RawExtent) -> Self {
        let unplaced =
            EXTENT_UNKNOWN | EXTENT_DELALLOC | EXTENT_ENCODED | EXTENT_DATA_INLINE | EXTENT_UNWRITTEN;
        Self {
            logical: raw.logical,
            physical: raw.physical,
            len: raw.len,
            shared: raw.flags & EXTENT_SHARED != 0,
            placed: raw.flags & unplaced == 0,
        }
    }

    /// The end in the file, in bytes.
    pub fn logical_end(&self) -> u64 {
        self.logical.saturating_add(self.len)
    }
}
