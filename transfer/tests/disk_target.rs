//! What the disk engine makes of its target: what it already holds, what a power cut leaves of it, its size.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the test bed is shared with other tests")]

#[path = "disk/bed.rs"]
mod bed;
#[path = "disk/workload.rs"]
mod workload;

use std::ffi::OsStr;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bed::{
    Bed, Image, MIB, Recorded, assert_equal, assert_trees_equal, fsck, make_file_system, mount, partition,
    random_disk, with_freeze,
};
use go2cloud_tests::disk::wait_until_unused;
use sys::loop_device::{LoopDevice, run};
use transfer::progress::{Silent, StopFlag, Summary};
use transfer::source::{Lead, Next, Standing, sync};

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

/// What sfdisk says of a table: its complaints, and the partitions.
fn table(device: &Path) -> (bool, String) {
    let ask = |flag: &str| {
        let output = std::process::Command::new("sfdisk")
            .arg(flag)
            .arg(device)
            .output()
            .unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    (ask("--verify").contains("No errors detected"), ask("-d"))
}

/// A disk of 96 MiB whose partitions end at 61 MiB, with a file system.
fn roomy_disk(label: &str) -> LoopDevice {
    let disk = LoopDevice::new("g2c-block-roomy", 96 * MIB, 512).unwrap();
    partition(&disk, &format!("label: {label}\nsize=40M\nsize=20M\n"));
    make_file_system("ext4", &disk.partition(1));
    let mounted = mount(&disk.partition(1), "noatime");
    workload::Workload::fill(&mounted.point, 3, 4 * MIB);
    // Files that were written twice leave their first content in free blocks, which nobody copies.
    let trimmed = std::process::Command::new("fstrim").arg(&mounted.point).status();
    assert!(trimmed.unwrap().success());
    drop(mounted);
    // Something that a smaller target has no place for.
    let file = std::fs::File::options().write(true).open(&disk.path).unwrap();
    file.write_all_at(&[7; 8192], 80 * MIB).unwrap();
    file.sync_all().unwrap();
    disk
}

fn assert_file_system_copied(disk: &LoopDevice, target: &Path) {
    let attached = Image::attach(target);
    let copy = mount(&attached.partition(1), "ro,noload");
    let source = mount(&disk.partition(1), "ro,noload");
    assert_trees_equal(&source.point, &copy.point);
    drop(copy);
    fsck("ext4", &attached.partition(1));
}

#[test]
fn a_smaller_disk_that_holds_all_partitions_is_accepted() {
    for label in ["gpt", "dos"] {
        let disk = roomy_disk(label);
        let smaller = LoopDevice::new("g2c-block-smaller", 64 * MIB, 512).unwrap();
        let bed = Bed::new();
        let mut plan = bed.plan(&[&disk.path]);
        plan.verify = true;
        let summary = bed.sync(&[&smaller.path], plan).unwrap();
        assert!(summary.ok, "{summary:?}");
        let receipt = std::fs::read_to_string(bed.path("state/receipt.json")).unwrap();
        let copied = format!("\"bytes_copied\": {}", 64 * MIB);
        assert!(receipt.contains(&copied), "{receipt}");
        let (is_sound, dump) = table(&smaller.path);
        assert!(is_sound && dump.contains("size="), "{label}: {dump}");
        if label == "gpt" {
            assert!(dump.contains(&format!("last-lba: {}", 64 * 2048 - 34)), "{dump}");
        }
        assert_file_system_copied(&disk, &smaller.backing);
        // The next run knows what it has, although the end of the table is not the source's.
        let again = bed.sync(&[&smaller.path], bed.plan(&[&disk.path])).unwrap();
        assert!(again.sent <= 2, "{again:?}");
        assert!(table(&smaller.path).0);
    }
}

#[test]
fn a_larger_image_of_a_disk_with_large_sectors_has_its_backup_at_the_end() {
    let disk = LoopDevice::new("g2c-block-large", 32 * MIB, 4096).unwrap();
    partition(&disk, "label: gpt\nsize=10M\nsize=10M\n");
    let bed = Bed::new();
    let image = bed.path("target.img");
    std::fs::File::create(&image).unwrap().set_len(48 * MIB).unwrap();
    let events = Recorded::default();
    bed.sync_watched(&[&image], bed.plan(&[&disk.path]), &events)
        .unwrap();
    let warnings = events.warnings();
    assert!(
        warnings.iter().any(|text| text.contains("moved to the end")),
        "{warnings:?}"
    );
    // What sfdisk sees of it as a disk with such sectors.
    let larger = LoopDevice::new("g2c-block-larger", 48 * MIB, 4096).unwrap();
    std::fs::write(&larger.path, std::fs::read(&image).unwrap()).unwrap();
    let (is_sound, dump) = table(&larger.path);
    assert!(is_sound && dump.contains("last-lba: 12282"), "{dump}");
    let again = bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap();
    assert!(again.sent <= 2, "{again:?}");
}

#[test]
fn a_disk_that_ends_before_the_last_partition_is_refused_with_numbers() {
    let disk = roomy_disk("gpt");
    let too_small = LoopDevice::new("g2c-block-toosmall", 60 * MIB, 512).unwrap();
    let bed = Bed::new();
    let error = bed.sync(&[&too_small.path], bed.plan(&[&disk.path])).unwrap_err();
    let (error, needed) = (error.describe(), 61 * MIB + 33 * 512);
    for number in [60 * MIB, 96 * MIB, needed, needed - 60 * MIB] {
        assert!(error.contains(&number.to_string()), "{number}: {error}");
    }
    let content = std::fs::read(&too_small.backing).unwrap();
    assert!(content.iter().all(|byte| *byte == 0), "nothing was written");
}

#[test]
fn a_file_system_that_ends_before_its_disk_fits_onto_a_smaller_one() {
    let disk = LoopDevice::new("g2c-block-shrunk", 96 * MIB, 512).unwrap();
    make_file_system("ext4", &disk.path);
    let mounted = mount(&disk.path, "noatime");
    workload::Workload::fill(&mounted.point, 4, 4 * MIB);
    drop(mounted);
    let smaller = LoopDevice::new("g2c-block-shrunkto", 64 * MIB, 512).unwrap();
    let bed = Bed::new();
    // Its used blocks would fit, but a file system that is longer than its disk cannot be mounted.
    let error = bed.sync(&[&smaller.path], bed.plan(&[&disk.path])).unwrap_err();
    assert!(error.describe().contains("resize2fs"), "{error:?}");
    let resize = |len: &str| {
        run(
            "e2fsck",
            ["-f", "-p"]
                .map(OsStr::new)
                .into_iter()
                .chain([disk.path.as_os_str()]),
        )
        .unwrap();
        run("resize2fs", [disk.path.as_os_str(), len.as_ref()]).unwrap();
    };
    resize("48M");
    // Something at the very end of the disk may be a label that counts.
    let file = std::fs::File::options().write(true).open(&disk.path).unwrap();
    for (label, fits) in [([7; 512], false), ([0; 512], true)] {
        file.write_all_at(&label, 96 * MIB - 512).unwrap();
        file.sync_all().unwrap();
        let mut plan = bed.plan(&[&disk.path]);
        plan.verify = true;
        assert_eq!(bed.sync(&[&smaller.path], plan).is_ok(), fits);
    }
    fsck("ext4", &smaller.path);
    let (source, copy) = (mount(&disk.path, "ro,noload"), mount(&smaller.path, "ro,noload"));
    assert_trees_equal(&source.point, &copy.point);
}

#[test]
fn the_copy_of_another_disk_is_not_written_over() {
    let disks = ["gpt", "dos"].map(|label| {
        let disk = LoopDevice::new("g2c-block-order", 8 * MIB, 512).unwrap();
        partition(&disk, &format!("label: {label}\nsize=4M\n"));
        disk
    });
    let bed = Bed::new();
    let images = [bed.path("one.img"), bed.path("two.img")];
    let targets = images.each_ref().map(|path| path.as_path());
    let [one, two] = disks.each_ref().map(|disk| disk.path.as_path());
    bed.sync(&targets, bed.plan(&[one, two])).unwrap();
    let error = bed.sync(&targets, bed.plan(&[two, one])).unwrap_err().describe();
    assert!(
        error.contains("in the order of the first run") && error.contains("--overwrite"),
        "{error}"
    );
    for (disk, image) in disks.iter().zip(&images) {
        assert_equal(disk, image);
    }
    let again = bed.sync(&targets, bed.plan(&[one, two])).unwrap();
    assert_eq!(again.sent, 0, "the refusal changed nothing");
}

#[test]
fn an_image_for_qemu_is_made_of_the_complete_copy() {
    let disk = roomy_disk("gpt");
    let bed = Bed::new();
    let image = bed.path("disk.qcow2");
    let compare = || {
        let output = std::process::Command::new("qemu-img")
            .args(["compare", "-f", "qcow2", "-F", "raw"])
            .args([&image, &disk.path])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap();
    compare();
    // A later run sends what changed, and the image is made anew; one of somebody else is not replaced.
    flip(&disk.path, 50 * MIB);
    let again = bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap();
    assert_eq!(again.sent, 1, "{again:?}");
    compare();
    std::fs::remove_file(bed.path("disk.qcow2.raw")).unwrap();
    let error = bed
        .sync(&[&image], bed.plan(&[&disk.path]))
        .unwrap_err()
        .describe();
    assert!(
        error.contains("not ours") && error.contains("--overwrite"),
        "{error}"
    );
}

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
        let copied = bed.path("copied.img");
        std::fs::copy(&image, &copied).unwrap();
        std::fs::rename(&copied, &image).unwrap();
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
    let (image, copied) = (bed.path("target.img"), bed.path("copied.img"));
    bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap();
    std::fs::copy(&image, &copied).unwrap();
    std::fs::rename(&copied, &image).unwrap();
    drop(mount(&image, &format!("loop,noatime,offset={START}")));
    let events = Recorded::default();
    bed.sync_watched(&[&image], bed.plan(&[&disk.path]), &events)
        .unwrap();
    let warnings = events.warnings();
    assert!(
        warnings.iter().any(|text| text.contains("since the last run")),
        "{warnings:?}"
    );
    assert_equal(&disk, &image);
}
