//! Which file systems a tree consists of: the one that its root lies on, and those mounted inside that the walk enters.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sys::block_device::DeviceNumber;
use sys::file_system::is_disk_backed;
use sys::mounts::{Mount, mounts};

use crate::error::{Error, Result};
use crate::tree::entry::EntryPath;

/// The file systems of a tree at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeMounts {
    /// What can be seen at the root and below: the point and what is mounted there. Nothing on or below a file system that
    /// is not copied, but for its own mount point.
    seen: Vec<(PathBuf, DeviceNumber)>,
    /// The mount points that the walk enters, relative to the root, in the order of the mount table.
    inside: Vec<EntryPath>,
    /// The block devices of all of them that have one.
    devices: BTreeSet<DeviceNumber>,
    /// Whether one of them has no block device, so that it cannot be frozen.
    some_without_device: bool,
    /// Whether one file system can be seen at two places.
    some_twice: bool,
}

impl TreeMounts {
    /// Of the tree at `root`; only its own file system, unless the walk `crosses`.
    ///
    /// # Errors
    /// The root does not exist, or `/proc` is not mounted.
    pub fn look(root: &Path, crosses: bool) -> Result<Self> {
        let failed =
            |error: io::Error| Error::io("find the file systems of the directory to copy", root, error);
        let root = root.canonicalize().map_err(failed)?;
        let table = mounts().map_err(failed)?;
        let holder = table
            .iter()
            .filter(|mount| root.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.as_os_str().len());
        let mut found = Self {
            seen: Vec::new(),
            inside: Vec::new(),
            devices: BTreeSet::new(),
            some_without_device: false,
            some_twice: false,
        };
        let mut entered = HashSet::new();
        if let Some(holder) = holder {
            entered.insert(std::fs::metadata(&root).map_err(failed)?.dev());
            found.add_device(holder);
        }
        if crosses {
            for mount in visible_below(&root, &table) {
                found.add(&root, mount, &mut entered);
            }
        }
        Ok(found)
    }

    fn add(&mut self, root: &Path, mount: &Mount, entered: &mut HashSet<u64>) {
        self.seen.push((mount.point.clone(), mount.device));
        let relative = mount
            .point
            .strip_prefix(root)
            .map(|path| path.as_os_str().as_bytes().to_vec());
        let path = relative.ok().and_then(|path| EntryPath::parse(path).ok());
        if let (Some(path), true) = (path, is_entered(mount)) {
            self.inside.push(path);
            self.add_device(mount);
            let dev = std::fs::metadata(&mount.point).map(|metadata| metadata.dev());
            self.some_twice |= !dev.is_ok_and(|dev| entered.insert(dev));
        }
    }

    fn add_device(&mut self, mount: &Mount) {
        let devices = mount.block_devices();
        self.some_without_device |= devices.is_empty();
        self.devices.extend(devices);
    }

    /// Mount points inside that the walk enters.
    pub fn inside(&self) -> &[EntryPath] {
        &self.inside
    }

    /// The block devices below.
    pub fn devices(&self) -> &BTreeSet<DeviceNumber> {
        &self.devices
    }

    /// Whether a part of the tree has no block device below: it cannot be frozen.
    pub fn some_without_device(&self) -> bool {
        self.some_without_device
    }

    /// Whether what happens can be told by mount point: each file system is seen at one place.
    pub fn are_distinct(&self) -> bool {
        !self.some_twice
    }
}

/// The mounts strictly below `root` that can be reached from it by way of file systems that are copied, and the mount
/// points of the others among these.
fn visible_below<'a>(root: &Path, table: &'a [Mount]) -> Vec<&'a Mount> {
    let inside = |point: &Path| point != root && point.starts_with(root);
    // A later mount hides what was mounted there and below before.
    let is_hidden = |at: usize, point: &Path| {
        let mut later = table[at + 1..].iter();
        later.any(|later| inside(&later.point) && point.starts_with(&later.point))
    };
    let below: Vec<&Mount> = table
        .iter()
        .enumerate()
        .filter(|(at, mount)| inside(&mount.point) && !is_hidden(*at, &mount.point))
        .map(|(_, mount)| mount)
        .collect();
    let foreign: Vec<&Path> = below
        .iter()
        .filter(|mount| !is_entered(mount))
        .map(|mount| mount.point.as_path())
        .collect();
    below
        .iter()
        .filter(|mount| {
            !foreign
                .iter()
                .any(|point| mount.point.starts_with(point) && mount.point != *point)
        })
        .copied()
        .collect()
}

/// Whether the walk goes into this file system where it crosses mounts.
fn is_entered(mount: &Mount) -> bool {
    // Others are not even looked at: a server that does not answer would hold us up.
    let may_be = mount.block_device().is_some() || ["zfs", "bcachefs"].contains(&mount.kind.as_str());
    may_be && File::open(&mount.point).is_ok_and(|point| is_disk_backed(point.as_fd()).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::loop_device::{LoopDevice, TestMount, run};

    fn file_system(size: u64) -> LoopDevice {
        let device = LoopDevice::new("g2c-tree-mounts", size, 512).unwrap();
        run("mkfs.ext4", ["-q".as_ref(), device.path.as_os_str()]).unwrap();
        device
    }

    #[test]
    fn what_is_mounted_inside_belongs_to_a_tree_that_crosses() {
        let (outer, inner) = (file_system(32 << 20), file_system(16 << 20));
        let outer = TestMount::new("g2c-tree-mounts", &outer.path, "noatime").map(|mount| (mount, outer));
        let (outer, _device) = outer.unwrap();
        let root = outer.point.canonicalize().unwrap();
        for name in ["inner", "pseudo", "again"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        let alone = TreeMounts::look(&root, true).unwrap();
        assert_eq!((alone.inside(), alone.devices().len()), (&[][..], 1));
        let mount = |arguments: &[&std::ffi::OsStr]| run("mount", arguments.iter().copied()).unwrap();
        mount(&[inner.path.as_os_str(), root.join("inner").as_os_str()]);
        mount(&[
            "-t".as_ref(),
            "tmpfs".as_ref(),
            "none".as_ref(),
            root.join("pseudo").as_os_str(),
        ]);
        let inside = [EntryPath::parse(b"inner".to_vec()).unwrap()];
        let found = TreeMounts::look(&root, true).unwrap();
        let kept = TreeMounts::look(&root, false).unwrap();
        mount(&[
            "--bind".as_ref(),
            root.join("inner").as_os_str(),
            root.join("again").as_os_str(),
        ]);
        let twice = TreeMounts::look(&root, true).unwrap();
        for name in ["again", "pseudo", "inner"] {
            run("umount", [root.join(name).as_os_str()]).unwrap();
        }
        assert_eq!((found.inside(), found.devices().len()), (&inside[..], 2));
        assert!(found.are_distinct() && !found.some_without_device());
        assert_ne!(found, alone, "what is mounted is noticed");
        assert_eq!((kept.inside(), kept.devices()), (&[][..], alone.devices()));
        assert!(!twice.are_distinct());
    }
}
