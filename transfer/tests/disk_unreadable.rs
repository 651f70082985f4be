//! Source disks that fail after they were copied once: what is at the target already stays there.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the test bed is shared with other tests")]

#[path = "disk/bed.rs"]
mod bed;
#[path = "disk/workload.rs"]
mod workload;

use std::path::Path;
use std::time::Duration;

use bed::{Bed, MIB, assert_equal, random_disk, with_freeze};
use sys::loop_device::LoopDevice;
use transfer::error::Kind;

/// A disk whose end cannot be read any more: the file behind it is shorter.
struct Failed<'a> {
    disk: &'a LoopDevice,
    content: Vec<u8>,
}

impl<'a> Failed<'a> {
    fn from(disk: &'a LoopDevice, len: u64) -> Self {
        let content = std::fs::read(&disk.backing).unwrap();
        truncate(disk, len);
        Self { disk, content }
    }

    /// All of it is still at the target, and when it can be read again all is copied.
    fn has_cost_nothing(self, bed: &Bed, image: &Path) {
        assert!(
            std::fs::read(image).unwrap() == self.content,
            "all of it is still there"
        );
        std::fs::write(&self.disk.backing, &self.content).unwrap();
        assert!(bed.sync(&[image], bed.plan(&[&self.disk.path])).unwrap().ok);
        assert_equal(self.disk, image);
    }
}

fn truncate(disk: &LoopDevice, len: u64) {
    let file = std::fs::File::options().write(true).open(&disk.backing).unwrap();
    file.set_len(len).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn what_was_copied_while_it_could_be_read_is_kept_and_told() {
    let disk = random_disk(24 * MIB, 512, 21);
    let bed = Bed::new();
    let image = bed.path("target.img");
    assert!(bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap().ok);
    // In the midst of a chunk: what can be read of it does not make up for the rest.
    let failed = Failed::from(&disk, 22 * MIB + 8192);
    let mut plan = bed.plan(&[&disk.path]);
    plan.verify = true;
    let plan = with_freeze(plan, Duration::from_secs(20));
    let summary = bed.sync(&[&image], plan).unwrap();
    assert!(!summary.ok && summary.verified.is_some(), "{summary:?}");
    let [skipped] = &summary.skipped[..] else {
        panic!("one range: {:?}", summary.skipped)
    };
    let place = format!("bytes {}-{}", 22 * MIB, 24 * MIB - 1);
    assert!(skipped.path.ends_with(&place), "{skipped:?}");
    assert!(skipped.what.contains("earlier"), "{skipped:?}");
    failed.has_cost_nothing(&bed, &image);
}

#[test]
fn a_disk_that_fails_behind_its_first_mebibyte_ends_the_run_and_costs_nothing() {
    let disk = random_disk(64 * MIB, 512, 22);
    let bed = Bed::new();
    let image = bed.path("target.img");
    assert!(bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap().ok);
    let failed = Failed::from(&disk, MIB);
    let error = bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap_err();
    assert_eq!(error.kind(), Kind::Medium);
    assert!(error.describe().contains("ddrescue"), "{}", error.describe());
    failed.has_cost_nothing(&bed, &image);
}
