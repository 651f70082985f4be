//! `FS_IOC_GETFSMAP`: the free space of a mounted ext4 or XFS file system, as the kernel knows it now.
//!
//! Only records whose owner is explicitly "free" are reported: ext4 can leave gaps without any record, which are *not*
//! free. Space allocated after the call is the business of a block tracker.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::block_device::DeviceNumber;

/// `struct fsmap` of linux/fsmap.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Record {
    device: u32,
    flags: u32,
    physical: u64,
    owner: u64,
    offset: u64,
    length: u64,
    reserved: [u64; 3],
}

/// Records fetched per call: 64 KiB of memory.
const RECORDS: usize = 1024;

/// `struct fsmap_head` of linux/fsmap.h with room for the records.
#[repr(C)]
struct Head {
    iflags: u32,
    oflags: u32,
    count: u32,
    entries: u32,
    reserved: [u64; 6],
    keys: [Record; 2],
    records: [Record; RECORDS],
}

const RECORD_ZERO: Record = Record {
    device: 0,
    flags: 0,
    physical: 0,
    owner: 0,
    offset: 0,
    length: 0,
    reserved: [0; 3],
};

/// The ioctl number covers the head without records: `_IOWR('X', 59, struct fsmap_head)`.
const FS_IOC_GETFSMAP: libc::c_ulong = 0xc000_0000 | (192 << 16) | (0x58 << 8) | 59;
const FMR_OF_SPECIAL_OWNER: u32 = 0x10;
const FMR_OF_LAST: u32 = 0x20;
const FMR_OWN_FREE: u64 = 1;
/// `FMH_OF_DEV_T`: the device field holds a device number in the kernel's encoding for user space.
const FMH_OF_DEV_T: u32 = 1;

/// Whether XFS, asked while it is frozen, may wait for the thaw: from Linux 5.7 to 5.12 the question counts as writing ("xfs: prohibit
/// fs freezing when using empty transactions"), and in some updates of older kernels.
pub fn waits_for_thaw() -> bool {
    is_waiting(&rustix::system::uname().release().to_string_lossy())
}

fn is_waiting(release: &str) -> bool {
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next(), numbers.next());
    version < (Some(5), Some(13))
}

/// Calls `visit` with every byte range of `device` that the file system mounted at `point` holds free, ascending. Returns
/// `false` when this file system or kernel cannot tell. There may be millions of them.
///
/// # Errors
/// The mount point cannot be opened or the call fails half-way.
pub fn each_free(point: &Path, device: DeviceNumber, mut visit: impl FnMut(Range<u64>)) -> io::Result<bool> {
    let directory = File::open(point)?;
    let mut head = Box::new(Head {
        iflags: 0,
        oflags: 0,
        count: RECORDS as u32,
        entries: 0,
        reserved: [0; 6],
        keys: [RECORD_ZERO; 2],
        records: [RECORD_ZERO; RECORDS],
    });
    head.keys[1] = Record {
        device: u32::MAX,
        flags: u32::MAX,
        physical: u64::MAX,
        owner: u64::MAX,
        offset: u64::MAX,
        ..RECORD_ZERO
    };
    let mut has_told = false;
    loop {
        if let Err(error) = fetch(&directory, &mut head) {
            return match error.raw_os_error() {
                Some(libc::ENOTTY | libc::EOPNOTSUPP | libc::EINVAL) if !has_told => Ok(false),
                _ => Err(error),
            };
        }
        let found = &head.records[..(head.entries as usize).min(RECORDS)];
        for record in found {
            if is_free_space_of(record, device, head.oflags) {
                has_told = true;
                visit(record.physical..record.physical.saturating_add(record.length));
            }
        }
        let Some(last) = found.last().copied() else { break };
        if last.flags & FMR_OF_LAST != 0 {
            break;
        }
        // The next call starts behind the last record: the kernel adds the key's length to its position.
        head.keys[0] = last;
    }
    Ok(true)
}

fn is_free_space_of(record: &Record, device: DeviceNumber, oflags: u32) -> bool {
    record.flags & FMR_OF_SPECIAL_OWNER != 0
        && record.owner == FMR_OWN_FREE
        && oflags & FMH_OF_DEV_T != 0
        && record.device == device.encoded()
}

fn fetch(directory: &File, head: &mut Head) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the head has the layout and the room for `count` records that the kernel expects.
    let result = unsafe {
        libc::ioctl(
            directory.as_raw_fd(),
            FS_IOC_GETFSMAP as _,
            std::ptr::from_mut(head),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart_by_their_version() {
        for release in [
            "5.7.0",
            "5.10.0-28-amd64",
            "5.12",
            "4.18.0-553.el8",
            "5.4.69",
            "unknown",
            "",
        ] {
            assert!(is_waiting(release), "{release}");
        }
        for release in ["5.13.0", "5.14.0-427.el9", "6.1.0-9-amd64"] {
            assert!(!is_waiting(release), "{release}");
        }
    }
    use std::mem::{offset_of, size_of};

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(size_of::<Record>(), 64);
        assert_eq!(offset_of!(Record, physical), 8);
        assert_eq!(offset_of!(Record, length), 32);
        assert_eq!(offset_of!(Head, keys), 64);
        assert_eq!(offset_of!(Head, records), 192);
        assert_eq!(FS_IOC_GETFSMAP, 0xc0c0_583b);
    }

    #[test]
    fn a_file_system_without_the_call_answers_none() {
        let device = DeviceNumber { major: 0, minor: 1 };
        assert!(!each_free(Path::new("/proc"), device, |_| {}).unwrap());
    }
}
