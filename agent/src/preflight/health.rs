//! Whether what is to be read is in order: errors that file systems have noted, and file systems that are full.

use std::collections::BTreeSet;

use rustix::fs::statvfs;

use super::Finding;
use crate::inventory::Machine;
use crate::inventory::mounts::{self, Mount};
use crate::units;

/// Free bytes below which a system does not start as it should; the target writes logs, keys and an initramfs.
const ROOT_FREE_MIN: u64 = 100 << 20;
const ROOT_FREE_SCARCE: u64 = 2 << 30;
const OTHER_FREE_MIN: u64 = 10 << 20;
/// Free inodes below which nothing can be made.
const INODES_FREE_MIN: u64 = 100;

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    let mounts = mounts::mounts(machine);
    vec![errors(machine, &mounts), space(machine, &mounts)]
}

/// Mounts of file systems that lie on disks, each file system once.
pub(super) fn on_disks(mounts: &[Mount]) -> Vec<&Mount> {
    let kinds = [
        "ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "f2fs", "jfs", "reiserfs",
    ];
    let mut seen = BTreeSet::new();
    mounts
        .iter()
        .filter(|mount| kinds.contains(&mount.file_system.as_str()) && !mount.source.starts_with("/dev/loop"))
        .filter(|mount| seen.insert(mount.source.clone()))
        .collect()
}

fn errors(machine: &Machine, mounts: &[Mount]) -> Finding {
    let name = "file system errors";
    let mut found = Vec::new();
    for device in machine.names("/sys/fs/ext4") {
        let count = machine.number(&format!("/sys/fs/ext4/{device}/errors_count"));
        if let Some(count) = count.filter(|count| *count > 0) {
            found.push(format!("ext4 on {device} has noted {count}"));
        }
    }
    for uuid in machine.names("/sys/fs/btrfs") {
        for device in machine.names(&format!("/sys/fs/btrfs/{uuid}/devinfo")) {
            let path = format!("/sys/fs/btrfs/{uuid}/devinfo/{device}/error_stats");
            let text = machine.text(&path).unwrap_or_default();
            let bad = text.lines().find(|line| !line.ends_with(" 0"));
            found.extend(bad.map(|line| format!("btrfs {uuid}: {line}")));
        }
    }
    let stopped = on_disks(mounts)
        .into_iter()
        .filter(|mount| mount.shut_down)
        .map(|mount| format!("{} was shut down by an error", mount.point.display()));
    found.extend(stopped);
    if found.is_empty() {
        Finding::pass("P39", name, "none noted")
    } else {
        let remedy = "back up first; then check it where it is not mounted (fsck -f, xfs_repair, btrfs check) and look at: dmesg --level=err";
        Finding::warn("P39", name, found.join("; "), remedy)
    }
}

fn space(machine: &Machine, mounts: &[Mount]) -> Finding {
    let name = "free space";
    let (mut bad, mut scarce) = (Vec::new(), Vec::new());
    for mount in on_disks(mounts).into_iter().filter(|mount| !mount.read_only) {
        let point = mount.point.display().to_string();
        let Ok(space) = statvfs(machine.path(&point).as_path()) else {
            continue;
        };
        let free = space.f_bavail * space.f_frsize;
        let used_share = 1.0 - space.f_bavail as f64 / space.f_blocks.max(1) as f64;
        let min = if point == "/" {
            ROOT_FREE_MIN
        } else {
            OTHER_FREE_MIN
        };
        let seen = format!("{point} has {} and {} inodes", units::bytes(free), space.f_favail);
        // File systems that make inodes when they need them count none.
        let no_inodes = space.f_files > 0 && space.f_favail < INODES_FREE_MIN;
        if free < min || no_inodes {
            bad.push(seen);
        } else if (point == "/" && free < ROOT_FREE_SCARCE) || used_share > 0.95 {
            scarce.push(seen);
        }
    }
    let remedy = "free some: the largest are listed by `du -xh / | sort -h | tail -20`; old kernels go by `apt-get autoremove` or `dnf remove --oldinstallonly`";
    if !bad.is_empty() {
        Finding::fail("P45", name, bad.join("; "), remedy)
    } else if !scarce.is_empty() {
        Finding::warn("P45", name, scarce.join("; "), remedy)
    } else {
        Finding::pass("P45", name, "enough everywhere")
    }
}
