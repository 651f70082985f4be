use super::*;
use std::time::Duration;
use sys::block_device::Access;
use sys::loop_device::{LoopDevice, TestMount, run};

const MIB: u64 = 1 << 20;
const CONTENT: [u8; 4096] = [0x5a; 4096];

/// What the bitmaps say of the file system that is mounted from all of `disk`.
fn by_bitmaps(disk: &LoopDevice) -> Finding {
    let medium = DiskMedium::open(&disk.path, Access::Read).unwrap();
    let mounts = medium.device.as_ref().unwrap().mounts().unwrap();
    let whole = 0..medium.length();
    let point = FreezePoint::open(&mounts[0].1.point).unwrap();
    mapped_by_bitmaps(&medium, &whole, point).unwrap()
}

fn assert_told(finding: &Finding, disk: &LoopDevice) {
    assert_eq!(finding.method, "block bitmaps after a short freeze");
    let bytes: u64 = finding.free.iter().map(|gap| gap.end - gap.start).sum();
    assert!((60 * MIB..88 * MIB).contains(&bytes), "{bytes} bytes free");
    let medium = std::fs::read(&disk.backing).unwrap();
    let mut blocks = finding
        .free
        .iter()
        .flat_map(|gap| medium[gap.start as usize..gap.end as usize].chunks(4096));
    assert!(
        blocks.all(|block| block != CONTENT),
        "content of a file in free space"
    );
}

/// As on a kernel without GETFSMAP.
#[test]
fn a_mounted_file_system_is_mapped_by_its_bitmaps() {
    let layouts = [
        ["-O", "has_journal"],
        ["-O", "^has_journal"],
        ["-O", "^metadata_csum,^uninit_bg,^64bit"],
    ];
    for layout in layouts {
        let disk = LoopDevice::new("g2c-block-bitmaps", 96 * MIB, 512).unwrap();
        let arguments = ["-q", "-b", "4096"]
            .iter()
            .chain(&layout)
            .map(std::ffi::OsStr::new);
        run("mkfs.ext4", arguments.chain([disk.path.as_os_str()])).unwrap();
        let mount = TestMount::new("g2c-block-bitmaps", &disk.path, "noatime").unwrap();
        // In the journal and in memory, but not where it belongs yet.
        std::fs::write(mount.point.join("file"), CONTENT.repeat(2000)).unwrap();
        assert_told(&by_bitmaps(&disk), &disk);
        // In a cutover it is frozen already.
        let point = FreezePoint::open(&mount.point).unwrap();
        let frozen = Frozen::freeze(vec![point], Duration::from_secs(10)).unwrap();
        let found = by_bitmaps(&disk);
        assert!(frozen.thaw().unwrap().thawed_early.is_empty());
        assert_told(&found, &disk);
    }
}

#[test]
fn a_frozen_xfs_is_asked_unless_the_kernel_lets_that_wait_for_the_thaw() {
    let disk = LoopDevice::new("g2c-block-frozen", 320 << 20, 512).unwrap();
    run("mkfs.xfs", ["-q".as_ref(), disk.path.as_os_str()]).unwrap();
    let mount = TestMount::new("g2c-block-frozen", &disk.path, "noatime").unwrap();
    let medium = DiskMedium::open(&disk.path, Access::Read).unwrap();
    let asked = survey(&medium, Effort::Copy).unwrap().areas.remove(0);
    assert!(asked.method.contains("GETFSMAP"), "{asked:?}");
    let point = FreezePoint::open(&mount.point).unwrap();
    let frozen = Frozen::freeze(vec![point], Duration::from_secs(10)).unwrap();
    let found = survey(&medium, Effort::Frozen).unwrap().areas.remove(0);
    assert!(frozen.thaw().unwrap().thawed_early.is_empty());
    if sys::getfsmap::waits_for_thaw() {
        assert_eq!(found.used, medium.length(), "{found:?}");
    } else {
        assert_eq!(found, asked);
    }
}

#[test]
fn areas_that_overlap_are_told_from_neighbours() {
    let areas = [0..10, 10..20, 19..30, 40..50, 42..44];
    let shared: Vec<bool> = areas.iter().map(|area| is_shared(area, &areas)).collect();
    assert_eq!(shared, [false, true, true, true, true]);
}
