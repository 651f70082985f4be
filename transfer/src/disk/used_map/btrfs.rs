//! Free space of a mounted btrfs file system, from its device, chunk and extent trees.
//!
//! Space of the device that belongs to no chunk is free. Inside chunks whose data lie in one piece per device (single,
//! DUP, RAID1…), everything outside the extents is free; striped chunks (RAID0, 10, 5, 6) count as used. Item layouts
//! are those of linux/btrfs_tree.h. Call after `syncfs`: delayed references are in the extent tree then.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use sys::btrfs::{Key, search};

use crate::disk::used_map::gaps::Gaps;

const TREE_EXTENT: u64 = 2;
const TREE_CHUNK: u64 = 3;
const TREE_DEVICE: u64 = 4;
const OBJECT_CHUNKS: u64 = 256;
const ITEM_EXTENT: u32 = 168;
const ITEM_METADATA: u32 = 169;
const ITEM_DEVICE_EXTENT: u32 = 204;
const ITEM_CHUNK: u32 = 228;
/// RAID0, RAID10, RAID5, RAID6.
const STRIPED: u64 = 0x8 | 0x40 | 0x80 | 0x100;
const SUPERBLOCK_OFFSET: usize = 64 * 1024;
/// Copies of the superblock and the reserved start of the device, always copied.
const ALWAYS: [Range<u64>; 3] = [
    0..1 << 20,
    64 << 20..(64 << 20) + 4096,
    256 << 30..(256 << 30) + 4096,
];

/// A piece of the device that belongs to a chunk.
struct DeviceExtent {
    physical: u64,
    logical: u64,
    len: u64,
}

/// Free ranges of the file system mounted at `point` on the area `range` whose first bytes are `head`; absolute on the
/// disk. `None` when they cannot be told.
///
/// # Errors
/// A tree cannot be read.
pub fn free_ranges(point: &Path, head: &[u8], range: &Range<u64>) -> io::Result<Option<Vec<Range<u64>>>> {
    let superblock = &head[SUPERBLOCK_OFFSET..];
    let node_len = u64::from(u32_at(superblock, 148));
    let device_id = u64_at(superblock, 201);
    let directory = File::open(point)?;
    let Some(extents) = device_extents(&directory, device_id)? else {
        return Ok(None);
    };
    // Extents of the device come in ascending order, and what is allocated in each does, too.
    let mut free = Free {
        start: range.start,
        at: 0,
        gaps: Gaps::default(),
    };
    for extent in &extents {
        let all = extent.physical..extent.physical + extent.len;
        if is_striped(&directory, extent.logical)? {
            free.until(&all);
            continue;
        }
        let logical = extent.logical..extent.logical + extent.len;
        let allocated = |at: u64, len: u64| {
            let start = at.max(logical.start) - logical.start + extent.physical;
            let end = (at + len).min(logical.end) - logical.start + extent.physical;
            free.until(&(start..end));
        };
        each_allocation(&directory, &logical, node_len, allocated)?;
    }
    let end = range.end - range.start;
    free.until(&(end..end));
    Ok(Some(free.gaps.longest()))
}

/// What lies between the parts of a device that are used.
struct Free {
    /// Where the device begins on the disk.
    start: u64,
    /// The end of the last used part.
    at: u64,
    gaps: Gaps,
}

impl Free {
    /// Everything up to this used part is free, but what is always copied.
    fn until(&mut self, used: &Range<u64>) {
        for part in ALWAYS.iter().chain(std::iter::once(used)) {
            if part.start > used.start {
                continue;
            }
            if part.start > self.at {
                self.gaps.push(self.start + self.at..self.start + part.start);
            }
            self.at = self.at.max(part.end);
        }
    }
}

fn device_extents(directory: &File, device_id: u64) -> io::Result<Option<Vec<DeviceExtent>>> {
    let mut extents = Vec::new();
    let first = Key {
        object: device_id,
        kind: ITEM_DEVICE_EXTENT,
        offset: 0,
    };
    let last = Key {
        object: device_id,
        kind: ITEM_DEVICE_EXTENT,
        offset: u64::MAX,
    };
    let supported = search(directory, TREE_DEVICE, first, last, |key, data| {
        if key.kind == ITEM_DEVICE_EXTENT && data.len() >= 32 {
            extents.push(DeviceExtent {
                physical: key.offset,
                logical: u64_at(data, 16),
                len: u64_at(data, 24),
            });
        }
    })?;
    Ok((supported && !extents.is_empty()).then_some(extents))
}

fn is_striped(directory: &File, logical: u64) -> io::Result<bool> {
    let key = Key {
        object: OBJECT_CHUNKS,
        kind: ITEM_CHUNK,
        offset: logical,
    };
    let mut striped = true;
    search(directory, TREE_CHUNK, key, key, |_, data| {
        if data.len() >= 48 {
            striped = u64_at(data, 24) & STRIPED != 0;
        }
    })?;
    Ok(striped)
}

/// Calls `allocated` with start and length of everything that the extent tree knows in `logical`.
fn each_allocation(
    directory: &File,
    logical: &Range<u64>,
    node_len: u64,
    mut allocated: impl FnMut(u64, u64),
) -> io::Result<()> {
    let first = Key {
        object: logical.start,
        kind: 0,
        offset: 0,
    };
    let last = Key {
        object: logical.end - 1,
        kind: u32::from(u8::MAX),
        offset: u64::MAX,
    };
    search(directory, TREE_EXTENT, first, last, |key, _| match key.kind {
        ITEM_EXTENT => allocated(key.object, key.offset),
        ITEM_METADATA => allocated(key.object, node_len),
        _ => {}
    })?;
    Ok(())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
