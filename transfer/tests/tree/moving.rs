//! What changes right before it is looked at, or while it is read: nothing of it may pass for unchanged.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use sys::loop_device::{LoopDevice, TestMount, run};
use transfer::source::SourceVolume;

use super::bed::Bed;

/// Modification and change time of a file.
fn times(path: &Path) -> [(i64, i64); 2] {
    let found = std::fs::metadata(path).unwrap();
    [
        (found.mtime(), found.mtime_nsec()),
        (found.ctime(), found.ctime_nsec()),
    ]
}

#[test]
fn a_second_change_within_one_second_is_found_where_times_are_whole_seconds() {
    let device = LoopDevice::new("g2c-tree-moving", 16 << 20, 512).unwrap();
    let format = ["-q", "-I", "128"].map(AsRef::as_ref);
    run("mkfs.ext4", format.into_iter().chain([device.path.as_os_str()])).unwrap();
    let mount = TestMount::new("g2c-tree-moving", &device.path, "relatime").unwrap();
    let file = mount.point.join("file");
    let bed = Bed::new();
    let sync = || {
        let summary = bed.sync_with(|plan| {
            let SourceVolume::Tree(tree) = &mut plan.volume else {
                unreachable!()
            };
            tree.root = mount.point.clone();
        });
        summary.unwrap()
    };
    // Until all of it falls into one second.
    for attempt in 0.. {
        assert!(attempt < 20, "this machine is too slow");
        std::fs::write(&file, b"one").unwrap();
        let before = times(&file);
        std::thread::sleep(Duration::from_millis(60));
        sync();
        std::fs::write(&file, b"two").unwrap();
        if times(&file) == before {
            break;
        }
    }
    sync();
    assert_eq!(std::fs::read(bed.target.join("file")).unwrap(), b"two");
    // Long after, what is unchanged is not read again.
    std::thread::sleep(Duration::from_millis(2100));
    sync();
    assert_eq!(sync().bytes_read, 0);
}
