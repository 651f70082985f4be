//! Which file systems a tree consists of: the one that its root lies on, and those mounted inside that the walk enters.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sys::block_device::DeviceNumber;
use sys::file_system::is_disk_backed;
use sys::mounts::{Mount, mounts};

use crate::error::{Error, Result};
use crate::tree::entry::EntryPath;

/// How long an automount may take.
const WAKE_MAX: Duration = Duration::from_secs(15);

/// The file systems of a tree at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeMounts {
    /// What can be seen at the root and below: the point and what is mounted there. Nothing on or below a file system that
    /// is not copied, but for its own mount point.
    seen: Vec<(PathBuf, DeviceNumber)>,
    /// The mount points that the walk enters, relative to the root, in the order of the mount table.
    inside: Vec<EntryPath>,
    /// Mount points, relative to the root, of file systems that another machine or process answers for.
    elsewhere: HashSet<EntryPath>,
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
        let mut table = mounts().map_err(failed)?;
        if crosses && wake(&root, &table) {
            table = mounts().map_err(failed)?;
        }
        let holder = table
            .iter()
            .filter(|mount| root.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.as_os_str().len());
        let mut found = Self {
            seen: Vec::new(),
            inside: Vec::new(),
            elsewhere: HashSet::new(),
            devices: BTreeSet::new(),
            some_without_device: false,
            some_twice: false,
        };
        let mut entered = HashSet::new();
        if let Some(holder) = holder {
            entered.insert(std::fs::metadata(&root).map_err(failed)?.dev());
            found.add_device(holder);
        }
        for (mount, is_entered) in visible_below(&root, &table, crosses) {
            found.add(&root, mount, is_entered, &mut entered);
        }
        Ok(found)
    }

    fn add(&mut self, root: &Path, mount: &Mount, is_entered: bool, entered: &mut HashSet<u64>) {
        self.seen.push((mount.point.clone(), mount.device));
        let relative = mount
            .point
            .strip_prefix(root)
            .map(|path| path.as_os_str().as_bytes().to_vec());
        let Some(path) = relative.ok().and_then(|path| EntryPath::parse(path).ok()) else {
            return;
        };
        if is_entered {
            self.inside.push(path);
            self.add_device(mount);
            let dev = std::fs::metadata(&mount.point).map(|metadata| metadata.dev());
            self.some_twice |= !dev.is_ok_and(|dev| entered.insert(dev));
        } else if mount.is_elsewhere() {
            self.elsewhere.insert(path);
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

    /// Mount points inside that are not even looked at: whoever answers for what is there may not do so.
    pub fn elsewhere(&self) -> &HashSet<EntryPath> {
        &self.elsewhere
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

/// Has file systems mounted that systemd mounts when they are used and unmounts when they are not: the EFI system partition is often
/// one of these. Those that `fstab` has from another machine are left alone; one that does not come in time stays unmounted.
/// Returns whether there were any.
fn wake(root: &Path, table: &[Mount]) -> bool {
    let fstab = std::fs::read_to_string("/etc/fstab").unwrap_or_default();
    let mut any = false;
    for (mount, _) in visible_below(root, table, true) {
        let is_asleep = mount.kind == "autofs" && mount.source == Path::new("systemd-1");
        if is_asleep && !is_from_elsewhere(&fstab, &mount.point) {
            open_in_time(&mount.point);
            any = true;
        }
    }
    any
}

/// Whether `fstab` has a file system for this mount point that another machine or process answers for.
fn is_from_elsewhere(fstab: &str, point: &Path) -> bool {
    let mut lines = fstab.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let here = fields.next().is_some_and(|field| Path::new(field) == point);
        here && fields.next().is_some_and(sys::mounts::is_elsewhere)
    })
}

fn open_in_time(point: &Path) {
    let (done, is_done) = crossbeam_channel::bounded::<()>(1);
    let own = point.to_owned();
    // A thread, for it may never come back; then it ends with the process.
    let opening = std::thread::Builder::new()
        .name("automount".to_owned())
        .spawn(move || {
            drop(File::open(&own));
            drop(done);
        });
    let in_time = is_done.recv_timeout(WAKE_MAX) != Err(crossbeam_channel::RecvTimeoutError::Timeout);
    if opening.is_err() || !in_time {
        tracing::warn!(point = %point.display(), "an automount does not answer: what belongs there is not copied");
    }
}

/// The mounts strictly below `root` that can be reached from it by way of file systems that are copied, each with whether the
/// walk, if it `crosses`, enters it.
fn visible_below<'a>(root: &Path, table: &'a [Mount], crosses: bool) -> Vec<(&'a Mount, bool)> {
    let inside = |point: &Path| point != root && point.starts_with(root);
    // A later mount hides what was mounted there and below before.
    let is_hidden = |at: usize, point: &Path| {
        let mut later = table[at + 1..].iter();
        later.any(|later| inside(&later.point) && point.starts_with(&later.point))
    };
    let mut visible: Vec<(&Mount, bool)> = Vec::new();
    for (at, mount) in table.iter().enumerate() {
        // What is mounted below another mount comes after it in the table.
        let is_behind = || {
            let mut others = visible.iter().filter(|(_, is_entered)| !is_entered);
            others.any(|(other, _)| mount.point.starts_with(&other.point))
        };
        if inside(&mount.point) && !is_hidden(at, &mount.point) && !is_behind() {
            visible.push((mount, crosses && is_entered(mount)));
        }
    }
    visible
}

/// Whether the walk goes into this file system where it crosses mounts.
fn is_entered(mount: &Mount) -> bool {
    // A server that does not answer would hold us up.
    let is_local = || mount.block_device().is_some() || ["zfs", "bcachefs"].contains(&mount.kind.as_str());
    !mount.is_elsewhere()
        && is_local()
        && File::open(&mount.point).is_ok_and(|point| is_disk_backed(point.as_fd()).unwrap_or(false))
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
    fn what_fstab_has_from_another_machine_is_not_woken() {
        let fstab = "# /boot/efi nfs\nUUID=1-2 /boot/efi vfat noauto 0 0\nserver:/x /data nfs4 noauto 0 0\n";
        assert!(is_from_elsewhere(fstab, Path::new("/data")));
        for point in ["/boot/efi", "/boot", "/other"] {
            assert!(!is_from_elsewhere(fstab, Path::new(point)), "{point}");
        }
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
