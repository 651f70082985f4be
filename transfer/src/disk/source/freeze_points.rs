//! Which file systems lie on the migrated disks, and in which order they are frozen.
//!
//! A file system belongs to a disk when its device is the disk, one of its partitions, or something stacked on them
//! (LVM, md, dm-crypt, loop devices over files of such file systems). The ones higher in the stack freeze first: a
//! frozen file system below would block them. Among equals, later mounts freeze first and the root file system last.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sys::block_device::{BlockDevice, DeviceNumber};
use sys::mounts::{Mount, mounts};

/// Levels of stacked devices that are followed: LVM on crypt on RAID on partitions is four.
const DEPTH_MAX: usize = 16;

/// Mount points to freeze, in order.
///
/// # Errors
/// The mount table or sysfs cannot be read.
pub fn freeze_points(disks: &[&BlockDevice]) -> io::Result<Vec<PathBuf>> {
    let mut below = BTreeSet::new();
    for disk in disks {
        below.insert(disk.number);
        below.extend(disk.partitions()?.into_iter().map(|partition| partition.number));
    }
    let table = mounts()?;
    let mut found: Vec<(usize, usize, PathBuf)> = Vec::new();
    let mut seen = BTreeSet::new();
    for (order, mount) in table.iter().enumerate() {
        let Some(device) = mount.block_device() else {
            continue;
        };
        let Some(depth) = depth_over(device, &below, &table, 0) else {
            continue;
        };
        // One file system may be mounted several times; freezing it once is enough.
        if seen.insert(device) && is_writable_somewhere(&table, device) {
            found.push((depth, order, mount.point.clone()));
        }
    }
    found.sort_by_key(|(depth, order, _)| (std::cmp::Reverse(*depth), std::cmp::Reverse(*order)));
    Ok(found.into_iter().map(|(_, _, point)| point).collect())
}

fn is_writable_somewhere(table: &[Mount], device: DeviceNumber) -> bool {
    let mut own = table.iter().filter(|mount| mount.block_device() == Some(device));
    own.any(|mount| mount.has_option("rw"))
}

/// How many levels `device` lies above one of `below`; `None` when it does not.
fn depth_over(
    device: DeviceNumber,
    below: &BTreeSet<DeviceNumber>,
    table: &[Mount],
    level: usize,
) -> Option<usize> {
    if below.contains(&device) {
        return Some(level);
    }
    if level >= DEPTH_MAX {
        return None;
    }
    let lower = lower_devices(device, table);
    lower
        .into_iter()
        .filter_map(|lower| depth_over(lower, below, table, level + 1))
        .max()
}

/// What a device is made of: the devices it is stacked on, or the one that holds a loop device's file.
fn lower_devices(device: DeviceNumber, table: &[Mount]) -> Vec<DeviceNumber> {
    let own = PathBuf::from(format!("/sys/dev/block/{device}"));
    let whole = if own.join("partition").exists() {
        own.join("..")
    } else {
        own
    };
    let mut lower: Vec<DeviceNumber> = std::fs::read_dir(whole.join("slaves"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| number_in(&entry.path().join("dev")))
        .collect();
    if let Ok(file) = std::fs::read_to_string(whole.join("loop/backing_file")) {
        lower.extend(device_of_file(Path::new(file.trim_end_matches('\n')), table));
    }
    lower
}

fn number_in(path: &Path) -> Option<DeviceNumber> {
    let text = std::fs::read_to_string(path).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(DeviceNumber {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

fn device_of_file(path: &Path, table: &[Mount]) -> Option<DeviceNumber> {
    let number = DeviceNumber::from_raw(std::fs::metadata(path).ok()?.dev());
    let mount = table.iter().find(|mount| mount.device == number)?;
    mount.block_device()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::loop_device::{LoopDevice, TestMount, run};

    #[test]
    fn what_is_stacked_freezes_before_what_it_stands_on() {
        let outer = LoopDevice::new("g2c-block-points", 300 << 20, 512).unwrap();
        run("mkfs.ext4", ["-q".as_ref(), outer.path.as_os_str()]).unwrap();
        let outer_mount = TestMount::new("g2c-block-points", &outer.path, "noatime").unwrap();
        let image = outer_mount.point.join("inner.img");
        std::fs::File::create(&image).unwrap().set_len(100 << 20).unwrap();
        run("mkfs.ext4", ["-q".as_ref(), image.as_os_str()]).unwrap();
        let inner = TestMount::new("g2c-block-points", &image, "loop").unwrap();
        let again = outer_mount.point.join("again");
        std::fs::create_dir(&again).unwrap();
        let device = BlockDevice::look(&outer.path).unwrap().unwrap();
        assert_eq!(
            freeze_points(&[&device]).unwrap(),
            [inner.point.clone(), outer_mount.point.clone()]
        );
        drop(inner);
        assert_eq!(
            freeze_points(&[&device]).unwrap(),
            std::slice::from_ref(&outer_mount.point)
        );
    }
}
