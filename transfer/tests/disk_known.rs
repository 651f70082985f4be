//! Whether a target is the copy that the journal speaks of: somebody else's disk in its place, a copy that was used, moved or
//! renamed between two runs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the test bed is shared with other tests")]

#[path = "disk/bed.rs"]
mod bed;
#[path = "disk/workload.rs"]
mod workload;

use std::os::unix::fs::FileExt;
use std::path::Path;

use bed::{
    Bed, MIB, Recorded, assert_equal, assert_trees_equal, fsck, make_file_system, mount, random_disk,
    with_freeze,
};
use go2cloud_tests::disk::{flip, wait_until_unused};
use sys::loop_device::LoopDevice;
use transfer::progress::{Silent, StopFlag, Summary};
use transfer::source::{Lead, Next, Standing, sync};

/// A disk with an ext4 file system that holds `mib` MiB of files.
fn ext_disk(len: u64, seed: u64, mib: u64) -> LoopDevice {
    let disk = LoopDevice::new("g2c-block-known", len, 512).unwrap();
    make_file_system("ext4", &disk.path);
    let mounted = mount(&disk.path, "noatime");
    workload::Workload::fill(&mounted.point, seed, mib * MIB);
    drop(mounted);
    wait_until_unused(&disk.path);
    disk
}

/// Changes files on a disk.
fn change_files(device: &Path, seed: u64) {
    let mounted = mount(device, "noatime");
    workload::Workload::fill(&mounted.point, seed, 2 * MIB);
    drop(mounted);
    wait_until_unused(device);
}

/// Copies onto a target that is said to hold nothing of worth.
fn sync_over(bed: &Bed, source: &Path, target: &Path) -> Summary {
    let receiver = bed.receiver(&[target], true);
    let mut plan = bed.plan(&[source]);
    plan.target = vec![receiver.local_addr()];
    let stop = StopFlag::default();
    std::thread::scope(|scope| {
        scope.spawn(|| receiver.run(&Silent, &stop).unwrap());
        let summary = sync(&plan, &Silent, &StopFlag::default());
        stop.stop();
        summary.unwrap()
    })
}

/// Gives up before the first round.
struct GivesUp;

impl Lead for GivesUp {
    fn next(&self, _: Standing) -> transfer::Result<Next> {
        Err(transfer::Error::new(transfer::Kind::Stopped, "go on"))
    }
}

/// Puts the disk of somebody else into the place of a copy.
fn replace(image: &Path, foreign: &LoopDevice) -> Vec<u8> {
    std::fs::remove_file(image).unwrap();
    std::fs::copy(&foreign.backing, image).unwrap();
    std::fs::read(image).unwrap()
}

#[test]
fn a_foreign_disk_in_the_place_of_a_copy_just_begun_is_refused() {
    let (disk, foreign) = (ext_disk(24 * MIB, 1, 6), ext_disk(24 * MIB, 2, 6));
    let bed = Bed::new();
    let image = bed.path("target.img");
    let given_up = bed.sync_led(&[&image], bed.plan(&[&disk.path]), &GivesUp, &Silent);
    assert!(given_up.is_err() && image.exists());
    let before = replace(&image, &foreign);
    let error = bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap_err();
    assert!(error.describe().contains("--overwrite"), "{error:?}");
    assert!(std::fs::read(&image).unwrap() == before, "nothing was written");
    // What was begun and is there still goes on.
    std::fs::remove_file(&image).unwrap();
    let given_up = bed.sync_led(&[&image], bed.plan(&[&disk.path]), &GivesUp, &Silent);
    assert!(given_up.is_err());
    bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap();
    fsck("ext4", &image);
}

#[test]
fn a_foreign_disk_in_the_place_of_a_copy_is_refused() {
    let (disk, foreign) = (ext_disk(48 * MIB, 1, 8), ext_disk(48 * MIB, 2, 12));
    let bed = Bed::new();
    let image = bed.path("target.img");
    bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap();
    let before = replace(&image, &foreign);
    for is_changed in [false, true] {
        if is_changed {
            change_files(&disk.path, 3);
        }
        let error = bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap_err();
        assert!(error.describe().contains("--overwrite"), "{error:?}");
        assert!(std::fs::read(&image).unwrap() == before, "nothing was written");
    }
    // Allowed, nothing of it is left where the copy says that something is.
    sync_over(&bed, &disk.path, &image);
    let copy = mount(&image, "loop,ro,noload");
    let source = mount(&disk.path, "ro,noload");
    assert_trees_equal(&source.point, &copy.point);
    drop(copy);
    fsck("ext4", &image);
}

/// Uses a copy as one does to see whether it works.
fn try_out(copy: &Path, options: &str) {
    let mounted = mount(copy, options);
    std::fs::write(mounted.point.join("tried"), vec![7; 300_000]).unwrap();
    drop(std::fs::remove_dir_all(mounted.point.join("folder0")));
    drop(mounted);
}

/// Runs again after the source has changed, too, and compares.
fn assert_catches_up(bed: &Bed, disk: &LoopDevice, target: &Path) -> Vec<String> {
    change_files(&disk.path, 9);
    let events = Recorded::default();
    bed.sync_watched(&[target], bed.plan(&[&disk.path]), &events)
        .unwrap();
    fsck("ext4", target);
    let options = if target.starts_with("/dev") {
        "ro,noload"
    } else {
        "loop,ro,noload"
    };
    let (source, copy) = (mount(&disk.path, "ro,noload"), mount(target, options));
    assert_trees_equal(&source.point, &copy.point);
    drop(copy);
    events.warnings()
}

#[test]
fn a_copy_that_was_changed_between_two_runs_is_read_again() {
    let disk = ext_disk(48 * MIB, 1, 8);
    let bed = Bed::new();
    let image = bed.path("target.img");
    bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap();
    try_out(&image, "loop,noatime");
    let warnings = assert_catches_up(&bed, &disk, &image);
    assert!(
        warnings
            .iter()
            .any(|text| text.contains("was changed since the last run")),
        "{warnings:?}"
    );
    // Not changed: not a word.
    let warnings = assert_catches_up(&bed, &disk, &image);
    assert!(
        warnings.iter().all(|text| !text.contains("since the last run")),
        "{warnings:?}"
    );
    // Another file with the same content is known, and what was changed in it is noticed.
    for is_tried in [false, true] {
        exchange_for_a_copy(&bed, &image);
        if is_tried {
            try_out(&image, "loop,noatime");
        }
        let warnings = assert_catches_up(&bed, &disk, &image);
        let is_noticed = warnings.iter().any(|text| text.contains("since the last run"));
        assert_eq!(is_noticed, is_tried, "{warnings:?}");
    }
}

/// Where little is copied, trying it out changes most of it.
#[test]
fn a_small_copy_is_known_by_its_name_and_medium() {
    let disk = LoopDevice::new("g2c-block-little", 24 * MIB, 512).unwrap();
    make_file_system("ext4", &disk.path);
    let bed = Bed::new();
    let image = bed.path("target.img");
    bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap();
    try_out(&image, "loop,noatime");
    assert_catches_up(&bed, &disk, &image);
    // The same file, but somebody else's content.
    let foreign = ext_disk(24 * MIB, 2, 6);
    let content = std::fs::read(&foreign.backing).unwrap();
    std::fs::write(&image, &content).unwrap();
    let error = bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap_err();
    assert!(error.describe().contains("--overwrite"), "{error:?}");
    assert!(std::fs::read(&image).unwrap() == content, "nothing was written");
}

#[test]
fn a_device_that_was_mounted_between_two_runs_is_read_again() {
    let disk = ext_disk(48 * MIB, 1, 8);
    let bed = Bed::new();
    let target = LoopDevice::new("g2c-block-tried", 48 * MIB, 512).unwrap();
    bed.sync(&[&target.path], bed.plan(&[&disk.path])).unwrap();
    try_out(&target.path, "noatime");
    wait_until_unused(&target.path);
    assert_catches_up(&bed, &disk, &target.path);
    // Under another name it is the same copy.
    let moved = bed.path("renamed");
    std::os::unix::fs::symlink(&target.path, &moved).unwrap();
    let again = bed.sync(&[&moved], bed.plan(&[&disk.path])).unwrap();
    assert_eq!(again.sent, 0, "{again:?}");
    // A cutover trusts no more than a round does.
    try_out(&target.path, "noatime");
    wait_until_unused(&target.path);
    let source = mount(&disk.path, "noatime");
    let plan = with_freeze(bed.plan(&[&disk.path]), std::time::Duration::from_secs(20));
    bed.sync(&[&target.path], plan).unwrap();
    let copy = mount(&target.path, "ro,noload");
    assert_trees_equal(&source.point, &copy.point);
    drop(copy);
    fsck("ext4", &target.path);
}

/// So that its contents alone tell what it is: another file, of another time.
fn exchange_for_a_copy(bed: &Bed, image: &Path) {
    let copied = bed.path("copied.img");
    std::fs::copy(image, &copied).unwrap();
    std::fs::rename(&copied, image).unwrap();
}

/// Another run says that the copy was changed, and makes it equal.
fn assert_is_noticed(bed: &Bed, disk: &LoopDevice, image: &Path) {
    let events = Recorded::default();
    bed.sync_watched(&[image], bed.plan(&[&disk.path]), &events)
        .unwrap();
    let warnings = events.warnings();
    assert!(
        warnings.iter().any(|text| text.contains("since the last run")),
        "{warnings:?}"
    );
    assert_equal(disk, image);
}

/// As logical volumes lie: no partition table tells of them.
#[test]
fn a_file_system_inside_of_something_else_is_looked_at() {
    const START: u64 = 8 * MIB;
    let (disk, file_system) = (random_disk(48 * MIB, 512, 3), ext_disk(32 * MIB, 1, 6));
    let content = std::fs::read(&file_system.backing).unwrap();
    let file = std::fs::File::options().write(true).open(&disk.path).unwrap();
    file.write_all_at(&content, START).unwrap();
    file.sync_all().unwrap();
    let bed = Bed::new();
    let image = bed.path("target.img");
    bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap();
    exchange_for_a_copy(&bed, &image);
    drop(mount(&image, &format!("loop,noatime,offset={START}")));
    assert_is_noticed(&bed, &disk, &image);
}

/// Its header stays as it is when the file system within is used, and what is within looks like nothing.
#[test]
fn the_places_where_luks_may_keep_a_file_system_are_looked_at() {
    let disk = random_disk(48 * MIB, 512, 5);
    let file = std::fs::File::options().write(true).open(&disk.path).unwrap();
    file.write_all_at(b"LUKS\xba\xbe", 0).unwrap();
    file.sync_all().unwrap();
    let bed = Bed::new();
    let image = bed.path("target.img");
    bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap();
    for payload in [2, 4, 16] {
        exchange_for_a_copy(&bed, &image);
        flip(&image, payload * MIB + 1024);
        assert_is_noticed(&bed, &disk, &image);
    }
}

#[test]
fn a_disk_that_is_refused_costs_no_other_one_what_is_known_of_it() {
    let (small, large) = (random_disk(8 * MIB, 512, 6), random_disk(24 * MIB, 512, 7));
    let targets = [8, 24].map(|mib| LoopDevice::new("g2c-block-swapped", mib * MIB, 512).unwrap());
    let [first, second] = [&targets[0].path, &targets[1].path].map(std::path::PathBuf::as_path);
    let bed = Bed::new();
    let plan = || bed.plan(&[&small.path, &large.path]);
    bed.sync(&[first, second], plan()).unwrap();
    // In the wrong order the first one would fit, were it allowed, and the second one is too small.
    let receiver = bed.receiver(&[second, first], true);
    let mut swapped = plan();
    swapped.target = vec![receiver.local_addr()];
    let stop = StopFlag::default();
    let refused = std::thread::scope(|scope| {
        scope.spawn(|| receiver.run(&Silent, &stop).unwrap());
        let refused = sync(&swapped, &Silent, &StopFlag::default());
        stop.stop();
        refused.unwrap_err().describe()
    });
    assert!(refused.contains("too small"), "{refused}");
    drop(receiver);
    let again = bed.sync(&[first, second], plan()).unwrap();
    assert_eq!(again.sent, 0, "{again:?}");
    for (disk, target) in [&small, &large].into_iter().zip(&targets) {
        assert_equal(disk, &target.backing);
    }
}
