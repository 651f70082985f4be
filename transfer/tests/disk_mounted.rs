//! File systems that are mounted in unusual ways: covered by others.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the test bed is shared with other tests")]

#[path = "disk/bed.rs"]
mod bed;
#[path = "disk/workload.rs"]
mod workload;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use bed::{Bed, MIB, fsck, make_file_system, mount};
use sys::block_device::Access;
use sys::loop_device::{LoopDevice, run};
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
    let medium = DiskMedium::open(disk, Access::Read).unwrap();
    survey(&medium, Effort::Look).unwrap().areas.remove(0)
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
