//! What the disk engine makes of its target: what it already holds, what a power cut leaves of it, its size.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the test bed is shared with other tests")]

#[path = "disk/bed.rs"]
mod bed;
#[path = "disk/workload.rs"]
mod workload;

use std::os::unix::fs::FileExt;
use std::path::Path;

use bed::{Bed, MIB, Recorded, assert_equal, random_disk};

/// Changes one byte of a file.
fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

#[test]
fn a_change_is_not_written_over_something_unexpected() {
    let disk = random_disk(12 * MIB, 512, 31);
    let bed = Bed::new();
    let image = bed.path("target.img");
    bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap();
    let baseline = std::fs::read(bed.path("state/disks.baseline")).unwrap();
    // The target thinks that chunks 7 and 90 hold something else; 7 and 8 are changed at the source.
    for chunk in [7, 90] {
        flip(&bed.path("journal/disk-0.digests"), chunk * 16 + 3);
    }
    for chunk in [7, 8] {
        flip(&disk.path, chunk * 65_536 + 100);
    }
    let events = Recorded::default();
    let summary = bed
        .sync_watched(&[&image], bed.plan(&[&disk.path]), &events)
        .unwrap();
    assert_equal(&disk, &image);
    // 7 was refused and sent again whole; 8 once; 90 was found by the comparison of the roots.
    assert_eq!(summary.sent, 4, "{summary:?}");
    let warnings = events.warnings();
    assert!(
        warnings.iter().any(|text| text.contains("in 2 places")),
        "{warnings:?}"
    );
    // Both sides are in step again: the baseline is believed, and nothing travels.
    assert_ne!(std::fs::read(bed.path("state/disks.baseline")).unwrap(), baseline);
    let again = bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap();
    assert_eq!(again.sent, 0);
}
