//! File systems that are mounted in unusual ways: covered by others, by a node that is gone, or in use by somebody unknown.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the test bed is shared with other tests")]

#[path = "disk/bed.rs"]
mod bed;
#[path = "disk/workload.rs"]
mod workload;

use std::ffi::OsStr;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bed::{Bed, MIB, Recorded, fsck, make_file_system, mount, partition, with_freeze};
use sys::block_device::Access;
use sys::loop_device::{LoopDevice, TestMount, run};
use transfer::disk::medium::DiskMedium;
use transfer::disk::used_map::{Area, Effort, survey};
use workload::Workload;

fn disk(kind: &str) -> LoopDevice {
    let disk = LoopDevice::new("g2c-block-mounted", 160 * MIB, 512).unwrap();
    make_file_system(kind, &disk.path);
    disk
}

/// Something mounted over a directory; unmounted on drop.
struct Over(PathBuf);

impl Over {
    fn mount(arguments: &[&OsStr], point: &Path) -> Self {
        let all = arguments.iter().copied().chain([point.as_os_str()]);
        run("mount", all).unwrap();
        Self(point.to_owned())
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).output();
    }
}

fn area(disk: &Path) -> Area {
    area_by(disk, Effort::Look)
}

fn area_by(disk: &Path, effort: Effort) -> Area {
    let medium = DiskMedium::open(disk, Access::Read).unwrap();
    survey(&medium, effort).unwrap().areas.remove(0)
}

#[test]
fn the_map_is_not_that_of_a_file_system_mounted_over_it() {
    for kind in ["btrfs", "ext4"] {
        let (ours, other) = (disk(kind), disk(kind));
        let below = mount(&ours.path, "noatime");
        Workload::fill(&below.point, 9, 20 * MIB);
        let over = Over::mount(&[other.path.as_os_str()], &below.point);
        let bed = Bed::new();
        let image = bed.path("target.img");
        let mut plan = bed.plan(&[&ours.path]);
        plan.verify = true;
        assert!(bed.sync(&[&image], plan).unwrap().ok);
        fsck(kind, &image);
        let covered = area(&ours.path);
        assert!(covered.method.contains("mounted over it"), "{kind}: {covered:?}");
        // A second mount leads to it.
        let again = mount(&ours.path, "noatime");
        let reached = area(&ours.path);
        assert!(!reached.method.contains("whole"), "{kind}: {reached:?}");
        assert!(reached.used < 100 * MIB, "{kind}: {reached:?}");
        drop((again, over, below));
    }
}

/// The disk is read past the caches, and the partition's is another one than the disk's.
#[test]
fn what_is_in_the_cache_of_a_partition_that_nobody_has_mounted_counts() {
    let image = {
        let disk = disk("ext4");
        let mounted = mount(&disk.path, "noatime");
        Workload::fill(&mounted.point, 11, 40 * MIB);
        drop(mounted);
        std::fs::read(&disk.backing).unwrap()
    };
    let disk = LoopDevice::new("g2c-block-mounted", 164 * MIB, 512).unwrap();
    partition(&disk, "label: gpt\nsize=160M\n");
    make_file_system("ext4", &disk.partition(1));
    let node = std::fs::File::options()
        .write(true)
        .open(disk.partition(1))
        .unwrap();
    let before = area(&disk.path);
    // The bitmaps are in front; whoever closes the node writes out what is in its cache.
    node.write_all_at(&image[..16 << 20], 0).unwrap();
    let found = area_by(&disk.path, Effort::Copy);
    assert!(found.method.contains("bitmaps of the unmounted"), "{found:?}");
    assert!(found.used > before.used + 10 * MIB, "{found:?}");
}

/// A swap area is never sent: what is becoming something else must not pass for one.
#[test]
fn an_image_in_the_cache_of_a_former_swap_partition_counts() {
    let disk = LoopDevice::new("g2c-block-mounted", 64 * MIB, 512).unwrap();
    partition(&disk, "label: gpt\nsize=60M\n");
    make_file_system("swap", &disk.partition(1));
    assert_eq!(area_by(&disk.path, Effort::Copy).kind, "swap");
    let node = std::fs::File::options()
        .write(true)
        .open(disk.partition(1))
        .unwrap();
    node.write_all_at(&[7; 1 << 20], 0).unwrap();
    let found = area_by(&disk.path, Effort::Copy);
    assert_eq!((&found.kind[..], found.used), ("unknown", 60 * MIB), "{found:?}");
}

#[test]
fn a_mount_point_that_cannot_be_reached_any_more_ends_no_run() {
    let disk = disk("ext4");
    let folder = tempfile::tempdir().unwrap();
    let point = folder.path().join("point");
    std::fs::create_dir(&point).unwrap();
    let below = Over::mount(&[disk.path.as_os_str()], &point);
    let over = Over::mount(&["-t", "tmpfs", "g2c-block-over"].map(OsStr::new), folder.path());
    let covered = area(&disk.path);
    assert!(covered.method.contains("copied whole"), "{covered:?}");
    drop((over, below));
}

#[test]
fn btrfs_that_was_mounted_by_a_node_that_is_gone_is_known_and_frozen() {
    let disk = disk("btrfs");
    let bed = Bed::new();
    let node = bed.path("node");
    run("cp", ["-a".as_ref(), disk.path.as_os_str(), node.as_os_str()]).unwrap();
    let mounted = mount(&node, "noatime");
    std::fs::remove_file(&node).unwrap();
    Workload::fill(&mounted.point, 10, 6 * MIB);
    let found = area(&disk.path);
    assert!(
        found.method.contains("extent tree") && found.mounted_at.as_ref() == Some(&mounted.point),
        "{found:?}"
    );
    let recorded = Recorded::default();
    let image = bed.path("target.img");
    let plan = with_freeze(bed.plan(&[&disk.path]), Duration::from_secs(20));
    let summary = bed.sync_watched(&[&image], plan, &recorded).unwrap();
    assert!(
        summary.frozen_ms.is_some() && summary.not_frozen.is_empty(),
        "{summary:?} {:?}",
        recorded.warnings()
    );
    fsck("btrfs", &image);
}

#[test]
fn what_is_in_use_and_cannot_be_frozen_is_named() {
    const EXCLUSIVE: i32 = rustix::fs::OFlags::EXCL.bits() as i32;
    let disk = disk("ext4");
    let cut_over = || {
        let (bed, recorded) = (Bed::new(), Recorded::default());
        let plan = with_freeze(bed.plan(&[&disk.path]), Duration::from_secs(20));
        let summary = bed
            .sync_watched(&[&bed.path("target.img")], plan, &recorded)
            .unwrap();
        let receipt: serde_json::Value =
            serde_json::from_slice(&std::fs::read(bed.path("state/receipt.json")).unwrap()).unwrap();
        let named = |text: &String| text.contains(disk.path.to_str().unwrap()) && text.contains("in use");
        let is_warned = recorded.warnings().iter().any(named);
        assert_eq!(
            receipt["not_frozen"].as_array().unwrap().len(),
            summary.not_frozen.len()
        );
        assert_eq!(receipt["frozen_ms"].as_u64(), summary.frozen_ms);
        assert_eq!(is_warned, summary.not_frozen.iter().any(named), "{summary:?}");
        (is_warned, summary.frozen_ms.is_some())
    };
    // At rest there is nothing to freeze, and it is of one moment.
    assert_eq!(cut_over(), (false, true));
    let user = std::fs::File::options()
        .read(true)
        .custom_flags(EXCLUSIVE)
        .open(&disk.path)
        .unwrap();
    assert!(area(&disk.path).method.contains("in use"));
    assert_eq!(cut_over(), (true, false));
    drop(user);
    // A file system that is mounted read-only does not change, frozen or not.
    let _mount: TestMount = mount(&disk.path, "ro");
    assert_eq!(cut_over(), (false, true));
}
