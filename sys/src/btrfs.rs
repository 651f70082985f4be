//! What a mounted btrfs file system tells of itself: its trees (`BTRFS_IOC_TREE_SEARCH`), its identifier, its devices.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::block_device::DeviceNumber;

/// A folder for each mounted file system, named by its identifier.
const SYSFS: &str = "/sys/fs/btrfs";

/// The key of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Object id.
    pub object: u64,
    /// Item type, 0 to 255.
    pub kind: u32,
    /// Offset; its meaning depends on the type.
    pub offset: u64,
}

/// `struct btrfs_ioctl_search_key` of linux/btrfs.h.
#[repr(C)]
struct SearchKey {
    tree: u64,
    min_object: u64,
    max_object: u64,
    min_offset: u64,
    max_offset: u64,
    min_transaction: u64,
    max_transaction: u64,
    min_kind: u32,
    max_kind: u32,
    items: u32,
    unused: [u32; 9],
}

/// Room for items: the whole argument is one page.
const ITEMS_LEN: usize = 4096 - 104;

/// `struct btrfs_ioctl_search_args`.
#[repr(C)]
struct SearchArguments {
    key: SearchKey,
    items: [u8; ITEMS_LEN],
}

/// `_IOWR(0x94, 17, struct btrfs_ioctl_search_args)`.
const BTRFS_IOC_TREE_SEARCH: libc::c_ulong = 0xc000_0000 | (4096 << 16) | (0x94 << 8) | 17;
/// Length of `struct btrfs_ioctl_search_header`: transaction, object, offset, kind, length.
const ITEM_HEADER_LEN: usize = 32;

/// Calls `visit` with every item of `tree` from key `first` to key `last`, in order. Returns `false` when this is not
/// btrfs or the tree cannot be searched.
///
/// # Errors
/// The search fails half-way.
pub fn search(
    directory: &File,
    tree: u64,
    first: Key,
    last: Key,
    mut visit: impl FnMut(Key, &[u8]),
) -> io::Result<bool> {
    let mut next = first;
    loop {
        let mut arguments = Box::new(SearchArguments {
            key: SearchKey {
                tree,
                min_object: next.object,
                max_object: last.object,
                min_offset: next.offset,
                max_offset: last.offset,
                min_transaction: 0,
                max_transaction: u64::MAX,
                min_kind: next.kind,
                max_kind: last.kind,
                items: u32::MAX,
                unused: [0; 9],
            },
            items: [0; ITEMS_LEN],
        });
        if let Err(error) = fetch(directory, &mut arguments) {
            return match error.raw_os_error() {
                Some(libc::ENOTTY | libc::EPERM | libc::ENOENT | libc::EOVERFLOW) if next == first => {
                    Ok(false)
                }
                _ => Err(error),
            };
        }
        let mut at = 0;
        let mut seen = None;
        for _ in 0..arguments.key.items {
            let Some((key, data)) = item(&arguments.items[at..]) else {
                return Err(io::Error::other("btrfs returned a malformed item"));
            };
            at += ITEM_HEADER_LEN + data.len();
            seen = Some(key);
            if key <= last {
                visit(key, data);
            }
        }
        match seen.and_then(successor) {
            Some(key) if key <= last => next = key,
            _ => return Ok(true),
        }
    }
}

fn item(bytes: &[u8]) -> Option<(Key, &[u8])> {
    let header = bytes.get(..ITEM_HEADER_LEN)?;
    let long = |at: usize| Some(u64::from_ne_bytes(*header.get(at..)?.first_chunk()?));
    let short = |at: usize| Some(u32::from_ne_bytes(*header.get(at..)?.first_chunk()?));
    let key = Key {
        object: long(8)?,
        kind: short(24)?,
        offset: long(16)?,
    };
    Some((
        key,
        bytes.get(ITEM_HEADER_LEN..ITEM_HEADER_LEN + short(28)? as usize)?,
    ))
}

fn successor(key: Key) -> Option<Key> {
    if let Some(offset) = key.offset.checked_add(1) {
        return Some(Key { offset, ..key });
    }
    if key.kind < u32::from(u8::MAX) {
        return Some(Key {
            kind: key.kind + 1,
            offset: 0,
            ..key
        });
    }
    Some(Key {
        object: key.object.checked_add(1)?,
        kind: 0,
        offset: 0,
    })
}

fn fetch(directory: &File, arguments: &mut SearchArguments) -> io::Result<()> {
    // SAFETY: the descriptor is open and the argument has the layout and length that the ioctl number states.
    let result = unsafe {
        libc::ioctl(
            directory.as_raw_fd(),
            BTRFS_IOC_TREE_SEARCH as _,
            std::ptr::from_mut(arguments),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `struct btrfs_ioctl_fs_info_args` as far as it is needed.
#[repr(C)]
struct Information {
    max_device: u64,
    devices: u64,
    id: [u8; 16],
    rest: [u64; 124],
}

/// `_IOR(0x94, 31, struct btrfs_ioctl_fs_info_args)`.
const BTRFS_IOC_FS_INFO: libc::c_ulong = 0x8000_0000 | (1024 << 16) | (0x94 << 8) | 31;

/// The devices of the file system that this file or directory belongs to; none when it is not btrfs.
pub fn devices_of(file: &File) -> Vec<DeviceNumber> {
    let mut information = Information {
        max_device: 0,
        devices: 0,
        id: [0; 16],
        rest: [0; 124],
    };
    // SAFETY: the descriptor is open and the argument has the length that the ioctl number states.
    let result = unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            BTRFS_IOC_FS_INFO as _,
            std::ptr::from_mut(&mut information),
        )
    };
    if result < 0 {
        return Vec::new();
    }
    let hex: String = information.id.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    devices_in(&Path::new(SYSFS).join(parts.join("-")))
}

/// All devices of the mounted file system that has `device`; none when there is no such.
pub fn devices_with(device: DeviceNumber) -> Vec<DeviceNumber> {
    let file_systems = std::fs::read_dir(SYSFS).into_iter().flatten().flatten();
    let mut all = file_systems.map(|file_system| devices_in(&file_system.path()));
    all.find(|devices| devices.contains(&device)).unwrap_or_default()
}

fn devices_in(file_system: &Path) -> Vec<DeviceNumber> {
    let devices = std::fs::read_dir(file_system.join("devices"));
    let numbers = devices.into_iter().flatten().flatten();
    let mut numbers: Vec<DeviceNumber> = numbers
        .filter_map(|device| DeviceNumber::read(&device.path().join("dev")))
        .collect();
    numbers.sort();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(size_of::<SearchKey>(), 104);
        assert_eq!(offset_of!(SearchKey, min_kind), 56);
        assert_eq!(offset_of!(SearchKey, items), 64);
        assert_eq!(size_of::<SearchArguments>(), 4096);
        assert_eq!(BTRFS_IOC_TREE_SEARCH, 0xd000_9411);
        assert_eq!(size_of::<Information>(), 1024);
        assert_eq!(offset_of!(Information, id), 16);
        assert_eq!(BTRFS_IOC_FS_INFO, 0x8400_941f);
    }

    #[test]
    fn another_file_system_answers_false() {
        let key = Key {
            object: 1,
            kind: 0,
            offset: 0,
        };
        assert!(!search(&File::open("/proc").unwrap(), 1, key, key, |_, _| {}).unwrap());
    }

    #[test]
    fn successors_carry_over() {
        let key = Key {
            object: 5,
            kind: 255,
            offset: u64::MAX,
        };
        assert_eq!(
            successor(key),
            Some(Key {
                object: 6,
                kind: 0,
                offset: 0
            })
        );
    }
}
