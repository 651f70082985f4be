//! Which file systems lie on what is migrated, and in which order they are frozen.
//!
//! A file system belongs to a device when it lies on it, or on something stacked on it
//! (LVM, md, dm-crypt, loop devices over files of such file systems). The ones higher in the stack freeze first: a
//! frozen file system below would block them. Among equals, later mounts freeze first and the root file system last.
//! A file system that only a container has mounted is found by the mount tables of all processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sys::block_device::{BlockDevice, DeviceNumber};
use sys::btrfs;
use sys::freeze::FreezePoint;
use sys::mounts::{Mount, mounts_everywhere, swaps};

/// Levels of stacked devices that are followed: LVM on crypt on RAID on partitions is four.
const DEPTH_MAX: usize = 16;
/// Looks at the mount tables, when processes end between the look and the use of their paths.
const LOOKS_MAX: u32 = 3;

/// The devices of disks: they themselves and their partitions.
///
/// # Errors
/// sysfs cannot be read.
pub(crate) fn devices_of(disks: &[&BlockDevice]) -> io::Result<BTreeSet<DeviceNumber>> {
    let mut devices = BTreeSet::new();
    for disk in disks {
        devices.insert(disk.number);
        devices.extend(disk.partitions()?.into_iter().map(|partition| partition.number));
    }
    Ok(devices)
}

/// What a freeze covers.
#[derive(Debug, Default)]
pub(crate) struct ToFreeze {
    /// The file systems to freeze, in order.
    pub(crate) points: Vec<FreezePoint>,
    /// What is in use and will not stand still, for people: nothing that could be frozen was found there.
    pub(crate) out_of_reach: Vec<String>,
}

/// What to freeze of what lies on these disks. A device that somebody has in use and that is neither mounted, nor a part of
/// another device, nor swap is out of reach: it is in a mount table that no process sees, or belongs to a file system
/// that does not tell on which devices it lies.
///
/// # Errors
/// As [`freeze_points`].
pub(crate) fn of_disks(disks: &[&BlockDevice]) -> io::Result<ToFreeze> {
    let points = freeze_points(&devices_of(disks)?)?;
    let mut known: BTreeSet<DeviceNumber> = swaps().into_iter().collect();
    known.extend(mounts_everywhere()?.iter().flat_map(Mount::block_devices));
    let mut out_of_reach = Vec::new();
    for disk in disks {
        let mut pieces = disk.partitions()?;
        if pieces.is_empty() {
            pieces.push((*disk).clone());
        }
        for piece in pieces {
            if !known.contains(&piece.number) && piece.holders()?.is_empty() && piece.is_used() == Some(true)
            {
                out_of_reach.push(format!(
                    "{} is in use, but no file system mounted on it was found",
                    piece.path.display()
                ));
            }
        }
    }
    Ok(ToFreeze { points, out_of_reach })
}

/// What to freeze of what lies on these devices, in order, each file system opened.
///
/// # Errors
/// The mount tables cannot be read, or a file system cannot be reached by any of its mount points.
pub(crate) fn freeze_points(below: &BTreeSet<DeviceNumber>) -> io::Result<Vec<FreezePoint>> {
    let mut looks = 1;
    loop {
        match look(below) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && looks < LOOKS_MAX => looks += 1,
            points => return points,
        }
    }
}

/// The mounts of one file system, in the order in which they were made, and where it lies.
struct Found<'a> {
    depth: usize,
    order: usize,
    mounts: Vec<&'a Mount>,
}

fn look(below: &BTreeSet<DeviceNumber>) -> io::Result<Vec<FreezePoint>> {
    let table = mounts_everywhere()?;
    // One file system may be mounted several times; freezing it once is enough.
    let mut found: BTreeMap<DeviceNumber, Found<'_>> = BTreeMap::new();
    for (order, mount) in table.iter().enumerate() {
        let devices = mount.block_devices();
        // Of several devices always the same one stands for the file system.
        let Some(&device) = devices.iter().min() else {
            continue;
        };
        let depths = || devices.iter().map(|device| depth_over(*device, below, &table, 0));
        if let Some(known) = found.get_mut(&device) {
            known.mounts.push(mount);
        } else if let Some(depth) = depths().flatten().max() {
            found.insert(
                device,
                Found {
                    depth,
                    order,
                    mounts: vec![mount],
                },
            );
        }
    }
    let mut found: Vec<Found<'_>> = found
        .into_values()
        .filter(|found| found.mounts.iter().any(|mount| mount.has_option("rw")))
        .collect();
    found.sort_by_key(|found| (std::cmp::Reverse(found.depth), std::cmp::Reverse(found.order)));
    found.iter().map(open).collect()
}

/// Opens a file system by the first of its mount points that leads to it.
fn open(found: &Found<'_>) -> io::Result<FreezePoint> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for mount in &found.mounts {
        match mount.open() {
            Ok(file) => {
                return Ok(FreezePoint {
                    path: mount.point.clone(),
                    file,
                });
            }
            Err(error) => {
                failure = io::Error::new(
                    error.kind(),
                    format!(
                        "reach the file system mounted at {}: {error}",
                        mount.point.display()
                    ),
                );
            }
        }
    }
    Err(failure)
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
        .filter_map(|entry| DeviceNumber::read(&entry.path().join("dev")))
        .collect();
    if let Ok(file) = std::fs::read_to_string(whole.join("loop/backing_file")) {
        lower.extend(devices_of_file(Path::new(file.trim_end_matches('\n')), table));
    }
    lower
}

/// Where a file lies; a device is its own place.
fn devices_of_file(path: &Path, table: &[Mount]) -> Vec<DeviceNumber> {
    let Ok(metadata) = std::fs::metadata(path) else {
        return Vec::new();
    };
    if metadata.file_type().is_block_device() {
        return vec![DeviceNumber::from_raw(metadata.rdev())];
    }
    let number = DeviceNumber::from_raw(metadata.dev());
    match table.iter().find(|mount| mount.device == number) {
        Some(mount) => mount.block_devices(),
        // A subvolume of btrfs has a number that is in no table.
        None if metadata.is_file() => {
            File::open(path).map_or_else(|_| Vec::new(), |file| btrfs::devices_of(&file))
        }
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::io::Read as _;
    use std::time::Duration;

    use sys::freeze::Frozen;
    use sys::loop_device::{LoopDevice, TestMount, run};

    #[test]
    fn what_is_stacked_freezes_before_what_it_stands_on() {
        let outer = LoopDevice::new("g2c-block-points", 300 << 20, 512).unwrap();
        run("mkfs.ext4", ["-q".as_ref(), outer.path.as_os_str()]).unwrap();
        let outer_mount = TestMount::new("g2c-block-points", &outer.path, "noatime").unwrap();
        let image = outer_mount.point.join("inner.img");
        File::create(&image).unwrap().set_len(100 << 20).unwrap();
        run("mkfs.ext4", ["-q".as_ref(), image.as_os_str()]).unwrap();
        let inner = TestMount::new("g2c-block-points", &image, "loop").unwrap();
        let again = outer_mount.point.join("again");
        std::fs::create_dir(&again).unwrap();
        let device = BlockDevice::look(&outer.path).unwrap().unwrap();
        assert_eq!(paths(&device), [inner.point.clone(), outer_mount.point.clone()]);
        drop(inner);
        assert_eq!(paths(&device), std::slice::from_ref(&outer_mount.point));
    }

    #[test]
    fn btrfs_belongs_to_all_of_its_devices_and_so_does_what_stands_on_a_subvolume() {
        let disks = [(); 2].map(|()| LoopDevice::new("g2c-block-points", 120 << 20, 512).unwrap());
        let nodes = disks.each_ref().map(|disk| disk.path.as_os_str());
        run("mkfs.btrfs", ["-q".as_ref(), nodes[0], nodes[1]]).unwrap();
        let outer = TestMount::new("g2c-block-points", &disks[0].path, "noatime").unwrap();
        let volume = outer.point.join("volume");
        let create = ["subvolume", "create"].map(OsStr::new);
        run("btrfs", create.into_iter().chain([volume.as_os_str()])).unwrap();
        let image = volume.join("inner.img");
        File::create(&image).unwrap().set_len(20 << 20).unwrap();
        run("mkfs.ext4", ["-q".as_ref(), image.as_os_str()]).unwrap();
        let inner = TestMount::new("g2c-block-points", &image, "loop").unwrap();
        for disk in &disks {
            let device = BlockDevice::look(&disk.path).unwrap().unwrap();
            assert_eq!(paths(&device), [inner.point.clone(), outer.point.clone()]);
        }
    }

    #[test]
    fn a_loop_device_over_a_device_stands_on_it() {
        let disk = LoopDevice::new("g2c-block-points", 64 << 20, 512).unwrap();
        run("mkfs.ext4", ["-q".as_ref(), disk.path.as_os_str()]).unwrap();
        let mount = TestMount::new("g2c-block-points", &disk.path, "loop").unwrap();
        let device = BlockDevice::look(&disk.path).unwrap().unwrap();
        assert_eq!(paths(&device), std::slice::from_ref(&mount.point));
    }

    fn points_of(device: &BlockDevice) -> Vec<FreezePoint> {
        freeze_points(&devices_of(&[device]).unwrap()).unwrap()
    }

    fn paths(device: &BlockDevice) -> Vec<PathBuf> {
        let points = points_of(device);
        points.into_iter().map(|point| point.path).collect()
    }

    /// A process in a mount namespace of its own; ends when dropped.
    struct Container(std::process::Child);

    impl Container {
        /// Mounts `device` where nobody else sees it.
        fn with_mount(device: &Path, folder: &Path) -> Self {
            let script = format!(
                "mount {} {} && echo mounted && exec cat",
                device.display(),
                folder.display()
            );
            let mut child = std::process::Command::new("unshare")
                .args(["-m", "sh", "-c", &script])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut word = [0; 8];
            let mounted = child.stdout.as_mut().unwrap().read_exact(&mut word);
            let container = Self(child);
            mounted.unwrap();
            container
        }

        fn path(&self, folder: &Path) -> PathBuf {
            PathBuf::from(format!("/proc/{}/root{}", self.0.id(), folder.display()))
        }
    }

    impl Drop for Container {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_file_system_that_only_a_container_has_mounted_is_frozen() {
        let disk = LoopDevice::new("g2c-block-container", 64 << 20, 512).unwrap();
        run("mkfs.ext4", ["-q".as_ref(), disk.path.as_os_str()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let device = BlockDevice::look(&disk.path).unwrap().unwrap();
        assert!(points_of(&device).is_empty());
        let container = Container::with_mount(&disk.path, folder.path());
        let file = container.path(folder.path()).join("written");
        std::fs::write(&file, b"before").unwrap();
        let points = points_of(&device);
        assert_eq!(points.len(), 1, "{points:?}");
        let frozen = Frozen::freeze(points, Duration::from_secs(20)).unwrap();
        let (done, is_done) = std::sync::mpsc::channel();
        let writer = std::thread::spawn(move || done.send(std::fs::write(file, b"after")).unwrap());
        assert!(
            is_done.recv_timeout(Duration::from_millis(300)).is_err(),
            "frozen"
        );
        frozen.thaw().unwrap();
        is_done.recv_timeout(Duration::from_secs(10)).unwrap().unwrap();
        writer.join().unwrap();
        drop(container);
        assert!(points_of(&device).is_empty(), "gone with the container");
    }
}
