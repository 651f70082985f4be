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
    random_disk,
};
use go2cloud_tests::disk::flip;
use sys::loop_device::{LoopDevice, run};

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
