//! Verification after a cutover: both media are read again, and what does not fit is repaired or named.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the test bed is shared with other tests")]

#[path = "disk/bed.rs"]
mod bed;
#[path = "disk/workload.rs"]
mod workload;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bed::{Bed, MIB, assert_trees_equal, make_file_system, mount, with_freeze};
use sys::loop_device::{LoopDevice, TestMount};
use transfer::progress::{Event, Observer, Summary};
use transfer::source::{SourceVolume, SyncPlan};

/// Where a file of the test lies in its disk: found by its content.
const MARKER: &[u8; 4096] = &[0x5a; 4096];

/// A mounted file system with a marked block.
struct Source {
    mount: TestMount,
    disk: LoopDevice,
    marker_at: u64,
}

impl Source {
    fn new() -> Self {
        let disk = LoopDevice::new("g2c-block-verify", 64 * MIB, 512).unwrap();
        make_file_system("ext4", &disk.path);
        let mount = mount(&disk.path, "noatime");
        workload::Workload::fill(&mount.point, 5, 6 * MIB);
        std::fs::write(mount.point.join("marker"), MARKER).unwrap();
        sys::loop_device::run("sync", ["-f".as_ref(), mount.point.as_os_str()]).unwrap();
        let content = std::fs::read(&disk.backing).unwrap();
        // Small file systems have blocks of 1024 bytes.
        let marker_at = content
            .chunks(1024)
            .position(|block| block == &MARKER[..1024])
            .unwrap() as u64
            * 1024;
        Self {
            mount,
            disk,
            marker_at,
        }
    }

    /// A cutover with verification that runs `after` when the file systems are thawed.
    fn plan(&self, bed: &Bed, after: Option<String>) -> SyncPlan {
        let mut plan = with_freeze(bed.plan(&[&self.disk.path]), Duration::from_secs(20));
        plan.verify = true;
        let SourceVolume::Disks(source) = &mut plan.volume else {
            unreachable!()
        };
        source.freeze.as_mut().unwrap().after = after;
        plan
    }

    /// A command that writes a byte at the marker, into the device or into the file behind it.
    fn write_at_marker(&self, to: &Path) -> String {
        format!(
            "printf X | dd of={} bs=1 seek={} conv=notrunc,fsync status=none",
            to.display(),
            self.marker_at
        )
    }
}

/// Damages the image once, after the first round.
struct Damage<'a> {
    image: &'a Path,
    at: u64,
    is_done: AtomicBool,
}

impl Observer for Damage<'_> {
    fn event(&self, event: &Event) {
        if matches!(event, Event::RoundFinished { .. }) && !self.is_done.swap(true, Ordering::AcqRel) {
            let file = std::fs::File::options().write(true).open(self.image).unwrap();
            file.write_all_at(b"!", self.at).unwrap();
        }
    }
}

fn receipt(bed: &Bed) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(bed.path("state/receipt.json")).unwrap()).unwrap()
}

/// Cuts over while the image gets damaged at the marker.
fn cut_over(source: &Source, bed: &Bed, after: Option<String>) -> transfer::Result<Summary> {
    let image = bed.path("target.img");
    let damage = Damage {
        image: &image,
        at: source.marker_at + 77,
        is_done: AtomicBool::new(false),
    };
    bed.sync_watched(&[&image], source.plan(bed, after), &damage)
}

#[test]
fn damage_of_the_frozen_copy_is_repaired_while_the_source_still_holds_it() {
    let (source, bed) = (Source::new(), Bed::new());
    let summary = cut_over(&source, &bed, None).unwrap();
    assert_eq!(summary.verified.as_ref().unwrap().repaired, 1, "{summary:?}");
    let receipt = receipt(&bed);
    let (verified, disk) = (&receipt["verified"], &receipt["disks"][0]);
    assert_eq!(verified["root"], disk["root"]);
    assert_eq!(disk["areas"][0]["root"].as_str().unwrap().len(), 64);
    let read = &disk["source_read"];
    assert!(read["compared"].as_u64().unwrap() > 100, "{receipt}");
    assert!(read["bytes"].as_u64().unwrap() > 6 * MIB, "{receipt}");
    let image = mount(&bed.path("target.img"), "loop,noatime");
    assert_trees_equal(&source.mount.point, &image.point);
}

#[test]
fn damage_of_what_the_source_has_changed_since_is_named() {
    let (source, bed) = (Source::new(), Bed::new());
    let after = source.write_at_marker(&source.disk.path);
    let error = cut_over(&source, &bed, Some(after)).unwrap_err().describe();
    assert!(error.contains("changed 1 of them"), "{error}");
    // Once more, and the copy is whole.
    let summary = bed
        .sync(&[&bed.path("target.img")], source.plan(&bed, None))
        .unwrap();
    assert!(summary.ok && summary.frozen_ms.is_some());
}

#[test]
fn a_write_that_nobody_saw_is_found_by_reading_again() {
    let (source, bed) = (Source::new(), Bed::new());
    let image = bed.path("target.img");
    let unseen = source.write_at_marker(&source.disk.backing);
    let plan = source.plan(&bed, Some(unseen));
    let error = bed.sync(&[&image], plan).unwrap_err().describe();
    assert!(error.contains("nothing was seen to write"), "{error}");
    // A write that was seen is none of the copy's business: it came after the frozen moment.
    let seen = source.write_at_marker(&source.disk.path);
    let summary = bed.sync(&[&image], source.plan(&bed, Some(seen))).unwrap();
    assert_eq!(summary.verified.unwrap().repaired, 0);
    let read = &receipt(&bed)["disks"][0]["source_read"];
    assert!(read["written_since"].as_u64().unwrap() >= 1, "{read}");
}
