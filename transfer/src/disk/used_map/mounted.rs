//! Reaches a mounted file system, and makes sure that it is the one meant: another one may be mounted over it.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use sys::block_device::DeviceNumber;
use sys::btrfs::{Key, search};
use sys::freeze::FreezePoint;
use sys::mounts::Mount;

const TREE_CHUNK: u64 = 3;
const OBJECT_DEVICES: u64 = 1;
const ITEM_DEVICE: u32 = 216;
const SUPERBLOCK_OFFSET: usize = 64 * 1024;
/// The device item in the superblock, `struct btrfs_dev_item` of linux/btrfs_tree.h, and in it: the number of the device,
/// the identifiers of the device and of the file system, which end it.
const DEVICE_ITEM_OFFSET: usize = SUPERBLOCK_OFFSET + 201;
const DEVICE_ITEM_LEN: usize = 98;
const IDENTIFIERS_OFFSET: usize = 66;

/// The mounts of a device, those of its root directory first.
pub fn mounts_of(mounts: &[(DeviceNumber, Mount)], number: DeviceNumber) -> Vec<&Mount> {
    let own = mounts.iter().filter(|(device, _)| *device == number);
    let mut own: Vec<&Mount> = own.map(|(_, mount)| mount).collect();
    own.sort_by_key(|mount| mount.root != Path::new("/"));
    own
}

/// Opens a mounted file system by the first of its mounts that still leads to it.
pub fn reach(mounts: &[&Mount]) -> Option<FreezePoint> {
    let mut opened = mounts.iter().filter_map(|mount| {
        let file = mount.open().ok()?;
        Some(FreezePoint {
            path: mount.point.clone(),
            file,
        })
    });
    opened.next()
}

/// A path that leads to the opened file system, whatever lies over its mount point.
pub fn by_descriptor(point: &FreezePoint) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", point.file.as_raw_fd()))
}

/// Whether the device whose first bytes are `head` belongs to the opened btrfs: its trees know the device by the number and the
/// identifiers that the superblock has.
///
/// # Errors
/// A tree cannot be read.
pub fn is_btrfs_of(point: &FreezePoint, head: &[u8]) -> io::Result<bool> {
    let Some(own) = head.get(DEVICE_ITEM_OFFSET..DEVICE_ITEM_OFFSET + DEVICE_ITEM_LEN) else {
        return Ok(false);
    };
    let Some(number) = own.first_chunk() else {
        return Ok(false);
    };
    let key = Key {
        object: OBJECT_DEVICES,
        kind: ITEM_DEVICE,
        offset: u64::from_le_bytes(*number),
    };
    let mut is_known = false;
    search(&point.file, TREE_CHUNK, key, key, |_, item| {
        is_known = item.get(IDENTIFIERS_OFFSET..DEVICE_ITEM_LEN) == own.get(IDENTIFIERS_OFFSET..);
    })?;
    Ok(is_known)
}
