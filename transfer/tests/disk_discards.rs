//! Free space that is discarded while a disk is copied: it marks, and is not copied for that. What looks free and is not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the test bed is shared with other tests")]

#[path = "disk/bed.rs"]
mod bed;
#[path = "disk/workload.rs"]
mod workload;

use std::ffi::OsStr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bed::{Bed, MIB, assert_equal, fsck, make_file_system, mount, partition, with_freeze};
use sys::loop_device::{LoopDevice, run};
use transfer::progress::{Event, Observer};
use transfer::source::Rounds;

fn content_of(seed: u64) -> Vec<u8> {
    workload::Dice::new(seed).bytes(6 << 20)
}

fn write(path: &Path, seed: u64) {
    std::fs::write(path, content_of(seed)).unwrap();
}

/// Changes the source after the first and the second round.
struct Changes<'a> {
    point: &'a Path,
    rounds: AtomicU32,
}

impl Observer for Changes<'_> {
    fn event(&self, event: &Event) {
        if !matches!(event, Event::RoundFinished { .. }) {
            return;
        }
        match self.rounds.fetch_add(1, Ordering::Relaxed) {
            // What the first map called used is free by now, and the other way round.
            0 => {
                std::fs::remove_file(self.point.join("gone")).unwrap();
                write(&self.point.join("before the discard"), 3);
                run("sync", [OsStr::new("-f"), self.point.as_os_str()]).unwrap();
                run("fstrim", [self.point.as_os_str()]).unwrap();
                write(&self.point.join("after the discard"), 4);
            }
            1 => write(&self.point.join("into what was found free"), 5),
            _ => {}
        }
    }
}

#[test]
fn discarded_space_is_not_copied_until_it_is_written() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let disk = LoopDevice::new("g2c-block-discards", 400 * MIB, 512).unwrap();
        make_file_system(kind, &disk.path);
        let mounted = mount(&disk.path, "noatime");
        write(&mounted.point.join("stays"), 1);
        write(&mounted.point.join("gone"), 2);
        let bed = Bed::new();
        let mut plan = bed.plan(&[&disk.path]);
        plan.rounds = Rounds::Count(3);
        plan.verify = true;
        let target = LoopDevice::new("g2c-block-discards", 400 * MIB, 512).unwrap();
        let changes = Changes {
            point: &mounted.point,
            rounds: AtomicU32::new(0),
        };
        let summary = bed
            .sync_watched(
                &[&target.path],
                with_freeze(plan, Duration::from_secs(20)),
                &changes,
            )
            .unwrap();
        assert!(summary.ok && summary.verified.is_some(), "{kind}: {summary:?}");
        assert!(
            summary.bytes_read < 600 * MIB,
            "{kind}: {} bytes read",
            summary.bytes_read
        );
        // Two file systems of one name cannot be mounted side by side.
        drop(mounted);
        let copied = mount(&target.path, "noatime");
        let names = [
            "stays",
            "before the discard",
            "after the discard",
            "into what was found free",
        ];
        for (name, seed) in names.into_iter().zip([1, 3, 4, 5]) {
            let content = std::fs::read(copied.point.join(name)).unwrap();
            assert!(content == content_of(seed), "{kind}: {name}");
        }
        assert!(!copied.point.join("gone").exists());
        drop(copied);
        fsck(kind, &target.path);
    }
}

/// Writes an image over a partition that nobody has mounted: first the contents, and after a round the bitmaps, which tell of
/// them.
struct Restores<'a> {
    partition: &'a Path,
    image: &'a [u8],
    rounds: AtomicU32,
}

impl Observer for Restores<'_> {
    fn event(&self, event: &Event) {
        const CONTENTS: usize = 16 << 20;
        if !matches!(event, Event::RoundFinished { .. }) {
            return;
        }
        let (bytes, at) = match self.rounds.fetch_add(1, Ordering::Relaxed) {
            0 => (&self.image[CONTENTS..], CONTENTS),
            1 => (&self.image[..CONTENTS], 0),
            _ => return,
        };
        let node = std::fs::File::options().write(true).open(self.partition).unwrap();
        node.write_all_at(bytes, at as u64).unwrap();
        node.sync_all().unwrap();
    }
}

#[test]
fn an_image_that_is_restored_meanwhile_is_copied_whatever_the_old_bitmaps_say() {
    let image = {
        let disk = LoopDevice::new("g2c-block-restored", 160 * MIB, 512).unwrap();
        make_file_system("ext4", &disk.path);
        let mounted = mount(&disk.path, "noatime");
        for number in 0..12 {
            write(&mounted.point.join(format!("file{number}")), number);
        }
        drop(mounted);
        std::fs::read(&disk.backing).unwrap()
    };
    let disk = LoopDevice::new("g2c-block-restored", 164 * MIB, 512).unwrap();
    partition(&disk, "label: gpt\nsize=160M\n");
    make_file_system("ext4", &disk.partition(1));
    let bed = Bed::new();
    let target = bed.path("target.img");
    let mut plan = bed.plan(&[&disk.path]);
    plan.rounds = Rounds::Count(3);
    let restores = Restores {
        partition: &disk.partition(1),
        image: &image,
        rounds: AtomicU32::new(0),
    };
    let summary = bed.sync_watched(&[&target], plan, &restores).unwrap();
    assert!(summary.ok, "{summary:?}");
    assert_equal(&disk, &target);
}
