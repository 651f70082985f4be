//! The disk engine end to end: loop devices with real file systems, both sides in one process over loopback.

#[path = "disk/bed.rs"]
mod bed;
#[path = "disk/workload.rs"]
mod workload;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use bed::{Bed, Image, MIB, assert_trees_equal, fsck, make_file_system, mount, partition, with_freeze};
use sys::loop_device::{LoopDevice, TestMount, run};
use transfer::source::{Retry, Rounds};
use workload::Workload;

const GPT: &str = "label: gpt\nsize=100M\nsize=320M\nsize=140M\nsize=20M\n";
const KINDS: [&str; 4] = ["ext4", "xfs", "btrfs", "swap"];

/// A disk with every kind of file system, mounted.
struct Server {
    mounts: Vec<(&'static str, u32, TestMount)>,
    disk: LoopDevice,
}

impl Server {
    fn new(table: &str, partitions: [u32; 4]) -> Self {
        let disk = LoopDevice::new("g2c-block-server", 600 * MIB, 512).unwrap();
        partition(&disk, table);
        let mut mounts = Vec::new();
        for (kind, number) in KINDS.into_iter().zip(partitions) {
            make_file_system(kind, &disk.partition(number));
            if kind != "swap" {
                mounts.push((kind, number, mount(&disk.partition(number), "noatime")));
            }
        }
        Self { mounts, disk }
    }

    fn points(&self) -> Vec<&Path> {
        self.mounts.iter().map(|(_, _, mount)| mount.point.as_path()).collect()
    }

    /// Compares an image of this disk, whose file systems must not have changed since the copy. Works on a copy:
    /// mounting replays journals.
    fn assert_copied(&self, image: &Path) {
        let copy = image.with_extension("compared");
        run("cp", ["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()]).unwrap();
        let attached = Image::attach(&copy);
        for (kind, number, source) in &self.mounts {
            let partition = attached.partition(*number);
            if *kind == "btrfs" {
                // Two devices with one UUID cannot be mounted at once.
                run("btrfstune", ["-f".as_ref(), "-m".as_ref(), partition.as_os_str()]).unwrap();
            }
            let options = if *kind == "xfs" { "nouuid,noatime" } else { "noatime" };
            let target = mount(&partition, options);
            assert_trees_equal(&source.point, &target.point);
            drop(target);
            fsck(kind, &partition);
        }
        drop(attached);
        std::fs::remove_file(copy).unwrap();
    }
}

#[test]
fn a_quiet_server_is_copied_exactly() {
    let server = Server::new(GPT, [1, 2, 3, 4]);
    let bed = Bed::new();
    for (index, point) in server.points().into_iter().enumerate() {
        Workload::fill(point, index as u64 + 1, 12 * MIB);
    }
    let target = bed.path("target.img");
    let mut plan = bed.plan(&[&server.disk.path]);
    plan.verify = true;
    let summary = bed.sync(&[&target], plan).unwrap();
    assert!(summary.ok && summary.skipped.is_empty(), "{summary:?}");
    assert!(summary.verified.as_ref().unwrap().compared > 100);
    assert!(summary.bytes_read < 400 * MIB, "free space is not read: {} bytes", summary.bytes_read);
    assert!(summary.bytes_data < 150 * MIB, "zeros are not sent: {} bytes", summary.bytes_data);
    server.assert_copied(&target);

    // A second run with the same state sends what changed, and little else.
    let mut plan = bed.plan(&[&server.disk.path]);
    plan.rounds = Rounds::UntilClean { max: 5 };
    let again = bed.sync(&[&target], plan).unwrap();
    assert!(again.bytes_data < 4 * MIB, "{} bytes", again.bytes_data);
    server.assert_copied(&target);
}
