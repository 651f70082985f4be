//! `go2cloud sync --disk` with `go2cloud-receiver --into-disk`: cutovers of disks in use, agents that die while everything
//! is frozen, interruptions, damage, refusals. Every failure ends with a retry and a comparison.
#![cfg(test)]

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use go2cloud_tests::bed::{Bed, Receiver, Run, finished};
use go2cloud_tests::compare::{Options, compare};
use go2cloud_tests::dice::Dice;
use go2cloud_tests::disk::{Disk, run};
use go2cloud_tests::maketree;
use go2cloud_tests::process::processor_hogs;
use go2cloud_tests::writer::Writer;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// A receiver of disks.
fn receiver(bed: &Bed, address: &str, images: &[&Path], flags: &[&str]) -> Receiver {
    let mut target: Vec<&OsStr> = flags.iter().map(OsStr::new).collect();
    for image in images {
        target.extend([OsStr::new("--into-disk"), image.as_os_str()]);
    }
    bed.receiver_at(address, &target)
}

fn command(bed: &Bed, address: &str, disks: &[&Disk], flags: &[&str]) -> Command {
    let mut command = bed.command_without_source(address);
    for disk in disks {
        command.arg("--disk").arg(&disk.device);
    }
    command.args(flags);
    command
}

fn sync(bed: &Bed, address: &str, disks: &[&Disk], flags: &[&str]) -> Run {
    finished(command(bed, address, disks, flags).output().unwrap())
}

fn synchronise(point: &Path) {
    run(Command::new("sync").arg("-f").arg(point));
}

/// Bytes that do not compress, over the whole disk.
fn random_disk(mib: u64, seed: u64) -> Disk {
    let disk = Disk::new(mib);
    let file = std::fs::File::options().write(true).open(&disk.device).unwrap();
    let mut bytes = vec![0; MIB as usize];
    for at in 0..mib {
        Dice::new(seed * 1000 + at).fill(&mut bytes);
        file.write_all_at(&bytes, at * MIB).unwrap();
    }
    file.sync_all().unwrap();
    disk
}

fn assert_equal(disk: &Disk, image: &Path) {
    let output = Command::new("cmp").arg(&disk.device).arg(image).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Compares a mounted file system with its copy in an image, and checks the copy.
fn assert_file_system_copied(source: &Path, image: &Path, number: u32, kind: &str) {
    let mut copy = Disk::of_image(image);
    let options = if kind == "xfs" {
        "ro,norecovery,nouuid"
    } else {
        "ro,noload"
    };
    let point = copy.mount(number, options);
    let options = Options {
        projects: false,
        ..Options::default()
    };
    compare(source, &point, options).assert_equal();
    copy.unmount(number);
    match kind {
        "xfs" => {
            // A frozen XFS keeps something in its log; a mount replays it.
            copy.mount(number, "nouuid");
            copy.unmount(number);
            run(Command::new("xfs_repair").arg("-n").arg(copy.part(number)))
        }
        _ => run(Command::new("e2fsck").args(["-f", "-n"]).arg(copy.part(number))),
    };
}

#[test]
fn several_disks_are_cut_over_at_one_moment() {
    let bed = Bed::new();
    let mut disks = [Disk::new(460), Disk::new(64)];
    disks[0].partition("label: gpt\nsize=100M\nsize=340M\n");
    disks[0].format(1, "ext4");
    disks[0].format(2, "xfs");
    disks[1].format(0, "ext4");
    let points = [
        disks[0].mount(1, "noatime"),
        disks[0].mount(2, "noatime"),
        disks[1].mount(0, "noatime"),
    ];
    for (seed, point) in points.iter().enumerate() {
        maketree::source_code(point, seed as u64, 300).unwrap();
        synchronise(point);
    }
    let images = [bed.path("one.img"), bed.path("two.img")];
    let targets = images.each_ref().map(PathBuf::as_path);
    let receiver = receiver(&bed, "127.0.0.1:0", &targets, &[]);
    let before = format!("echo last words > {}/last", points[1].display());
    let after = format!("touch {}", bed.path("thawed").display());
    let flags = [
        "--freeze",
        "--freeze-max",
        "20",
        "--checksum",
        "--pre-freeze",
        &before,
        "--post-freeze",
        &after,
    ];
    let done = sync(&bed, &receiver.address, &disks.each_ref(), &flags);
    done.assert_done();
    assert!(done.number("frozen_ms") < 20_000 && bed.path("thawed").exists());
    assert_file_system_copied(&points[0], &images[0], 1, "ext4");
    assert_file_system_copied(&points[1], &images[0], 2, "xfs");
    assert_file_system_copied(&points[2], &images[1], 0, "ext4");
    assert_eq!(std::fs::read(points[1].join("last")).unwrap(), b"last words\n");
    let receipt: Value =
        serde_json::from_slice(&std::fs::read(bed.path("state/receipt.json")).unwrap()).unwrap();
    let areas = receipt["disks"][0]["areas"].as_array().unwrap();
    assert!(
        areas.len() == 2
            && areas
                .iter()
                .all(|area| area["root"].as_str().unwrap().len() == 64)
    );
    assert!(
        receipt["disks"][0]["tracking"].as_str().unwrap().contains("BPF"),
        "{receipt}"
    );
}

#[test]
fn an_agent_that_dies_or_hangs_while_frozen_leaves_nothing_frozen() {
    let bed = Bed::new();
    let mut disk = Disk::new(96);
    disk.format(0, "ext4");
    let point = disk.mount(0, "noatime");
    std::fs::create_dir(point.join("still")).unwrap();
    maketree::source_code(&point.join("still"), 7, 50).unwrap();
    let image = bed.path("target.img");
    let receiver = receiver(&bed, "127.0.0.1:0", &[&image], &[]);
    // What is written just before the freeze takes a second or two on this link.
    let flags = [
        "--freeze",
        "--freeze-max",
        "7",
        "--connections",
        "1",
        "--bandwidth-limit",
        "12000",
    ];
    let start = || command(&bed, &receiver.address, &[&disk], &flags);
    let writer = Writer::default();
    let stopped = writer.during(&point.join("rewritten"), 32 * MIB, || writer.outlive(&bed, start));
    let _ = stopped.go_on();
    assert_file_system_copied(&point, &image, 0, "ext4");
}

#[test]
fn the_root_file_system_with_the_agent_and_its_files_on_it_is_frozen() {
    let bed = Bed::new();
    let mut disk = Disk::new(500);
    disk.format(0, "ext4");
    let root = disk.mount(0, "noatime");
    maketree::source_code(&root.join("data"), 3, 100).unwrap();
    let image = bed.path("target.img");
    let receiver = receiver(&bed, "127.0.0.1:0", &[&image], &[]);
    let disk_option = format!("--disk {}", disk.device.display());
    let _ = bed.sync_with_root(&root, &receiver.address, &disk_option);
    let mut copy = Disk::of_image(&image);
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(&copy.device));
    let point = copy.mount(0, "ro,noload");
    let options = Options {
        projects: false,
        ..Options::default()
    };
    compare(&root.join("data"), &point.join("data"), options).assert_equal();
    assert_eq!(
        std::fs::read(root.join("opt/go2cloud/go2cloud")).unwrap(),
        std::fs::read(point.join("opt/go2cloud/go2cloud")).unwrap()
    );
}

/// Runs an agent until the target has called a third of 96 MiB durable, and kills it. Returns how much was.
fn kill_when_a_third_is_durable(bed: &Bed, address: &str, disk: &Disk) -> u64 {
    // A target that is busy makes durable late: all of it takes sixteen seconds.
    let flags = ["--bandwidth-limit", "6000", "--no-retry"];
    let mut command = command(bed, address, &[disk], &flags);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut agent = command.spawn().unwrap();
    let stdout = agent.stdout.take().unwrap();
    let durable = BufReader::new(stdout).lines().find_map(|line| {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        event["bytes_durable"].as_u64().filter(|bytes| *bytes > 32 * MIB)
    });
    agent.kill().unwrap();
    agent.wait().unwrap();
    durable.expect("the copy takes longer than becoming durable")
}

#[test]
fn both_sides_are_killed_and_nothing_durable_travels_twice() {
    let bed = Bed::new();
    let disk = random_disk(96, 1);
    let image = bed.path("target.img");
    let first = receiver(&bed, "127.0.0.1:0", &[&image], &[]);
    let durable = kill_when_a_third_is_durable(&bed, &first.address, &disk);
    first.kill();
    let second = receiver(&bed, "127.0.0.1:0", &[&image], &[]);
    let again = sync(&bed, &second.address, &[&disk], &[]);
    again.assert_done();
    assert_equal(&disk, &image);
    let wire = again.number("bytes_wire");
    assert!(
        wire < 96 * MIB - durable + 3 * MIB,
        "{wire} bytes sent again, {durable} were durable"
    );
    // And once it is complete: next to nothing.
    let last = sync(&bed, &second.address, &[&disk], &[]);
    last.assert_done();
    assert!(last.number("bytes_wire") < 20_000, "{last:?}");
}

#[test]
fn reading_a_disk_gives_way_to_others_that_wait() {
    let disk = random_disk(72, 5);
    let _hogs = processor_hogs();
    let paused = |flags: &[&str]| {
        let bed = Bed::new();
        let image = bed.path("target.img");
        let receiver = receiver(&bed, "127.0.0.1:0", &[&image], &[]);
        let run = sync(&bed, &receiver.address, &[&disk], flags);
        run.assert_done();
        assert_equal(&disk, &image);
        // Other tests may keep the disks busier than this one the processors.
        let reasons = ["cpu_seconds", "memory_seconds", "io_seconds"];
        let seconds = reasons.map(|reason| run.summary()["backed_off"][reason].as_f64().unwrap());
        seconds.iter().sum::<f64>()
    };
    // Pressure needs some seconds of reading to be looked at, and the link holds reading up only when its queues are full.
    let seconds = paused(&["--bandwidth-limit", "12000"]);
    assert!(seconds > 0.3, "{seconds}");
    assert_eq!(paused(&["--bandwidth-limit", "24000", "--no-back-off"]), 0.0);
}

#[test]
fn a_flipped_byte_at_the_target_is_found_and_repaired() {
    let bed = Bed::new();
    let disk = random_disk(24, 2);
    let image = bed.path("target.img");
    let receiver = receiver(&bed, "127.0.0.1:0", &[&image], &[]);
    sync(&bed, &receiver.address, &[&disk], &[]).assert_done();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&image)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 7_654_321).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 7_654_321).unwrap();
    let run = sync(&bed, &receiver.address, &[&disk], &["--checksum"]);
    run.assert_done();
    assert_eq!(run.summary()["verified"]["repaired"], 1, "{run:?}");
    assert!(run.number("bytes_wire") < 200_000, "one place of 64 KiB: {run:?}");
    assert_equal(&disk, &image);
}

#[test]
fn what_must_not_be_written_to_is_refused() {
    let bed = Bed::new();
    let disk = random_disk(8, 3);
    let refused = |target: &Path, disks: &[&Disk], words: &[&str]| {
        let receiver = receiver(&bed, "127.0.0.1:0", &[target], &[]);
        let run = sync(&bed, &receiver.address, disks, &["--no-retry"]);
        assert_eq!(run.code, Some(1), "{run:?}");
        for word in words {
            assert!(run.stderr.contains(word), "{word}: {}", run.stderr);
        }
    };
    let mut mounted = Disk::new(16);
    mounted.format(0, "ext4");
    refused(&mounted.device, &[&disk], &["holds something", "--overwrite"]);
    mounted.mount(0, "noatime");
    refused(&mounted.device, &[&disk], &["in use", "unmount"]);
    let small = Disk::new(6);
    refused(
        &small.device,
        &[&disk],
        &["too small", &(6 * MIB).to_string(), &(8 * MIB).to_string()],
    );
    refused(
        &bed.path("one.img"),
        &[&disk, &small],
        &["as many --into-disk as --disk"],
    );
    let file = bed.path("no-device");
    std::fs::write(&file, b"x").unwrap();
    let mut command = bed.command_without_source("127.0.0.1:1");
    let run = finished(command.arg("--disk").arg(&file).output().unwrap());
    assert!(
        run.code == Some(2) && run.stderr.contains("not a block device"),
        "{run:?}"
    );
    // The retry, allowed: what was there is gone, and the copy is exact.
    drop(mounted);
    let again = Disk::new(16);
    again.format(0, "ext4");
    let receiver = receiver(&bed, "127.0.0.1:0", &[&again.device], &["--overwrite"]);
    sync(&bed, &receiver.address, &[&disk], &["--checksum"]).assert_done();
    let output = Command::new("cmp")
        .args(["-n", &(8 * MIB).to_string()])
        .arg(&disk.device)
        .arg(&again.device)
        .output();
    assert!(output.unwrap().status.success());
}

#[test]
fn disks_in_another_order_are_refused() {
    let bed = Bed::new();
    let disks = ["gpt", "dos"].map(|label| {
        let disk = Disk::new(8);
        disk.partition(&format!("label: {label}\nsize=4M\n"));
        disk
    });
    let images = [bed.path("one.img"), bed.path("two.img")];
    let targets = images.each_ref().map(PathBuf::as_path);
    let receiver = receiver(&bed, "127.0.0.1:0", &targets, &[]);
    let [one, two] = disks.each_ref();
    sync(&bed, &receiver.address, &[one, two], &[]).assert_done();
    let run = sync(&bed, &receiver.address, &[two, one], &["--no-retry"]);
    assert!(
        run.code == Some(1) && run.stderr.contains("in the order of the first run"),
        "{run:?}"
    );
    sync(&bed, &receiver.address, &[one, two], &["--checksum"]).assert_done();
    for (disk, image) in disks.iter().zip(&images) {
        assert_equal(disk, image);
    }
}

/// A disk with sectors that cannot be read: a file on btrfs, one block of which was damaged beneath the file system, so that
/// its checksum does not fit.
struct Scratched {
    disk: Disk,
    _below: Disk,
    bad: std::ops::Range<u64>,
    content: Vec<u8>,
}

impl Scratched {
    fn new() -> Self {
        let (len, bad) = (12 * MIB, 5 * MIB + 8192..5 * MIB + 12_288);
        let mut content = vec![0; len as usize];
        Dice::new(77).fill(&mut content);
        let mut below = Disk::new(160);
        below.format(0, "btrfs");
        let point = below.mount(0, "noatime");
        std::fs::write(point.join("disk.img"), &content).unwrap();
        below.unmount(0);
        let block = &content[bad.start as usize..bad.end as usize];
        let beneath = std::fs::read(&below.backing).unwrap();
        let places = beneath
            .chunks(4096)
            .enumerate()
            .filter(|(_, part)| *part == block);
        let file = std::fs::File::options().write(true).open(&below.device).unwrap();
        for (at, _) in places {
            file.write_all_at(&[0xff; 64], at as u64 * 4096).unwrap();
        }
        file.sync_all().unwrap();
        let point = below.mount(0, "noatime");
        let disk = Disk::of_image(&point.join("disk.img"));
        Self {
            disk,
            _below: below,
            bad,
            content,
        }
    }
}

#[test]
fn bad_sectors_are_reported_by_range_and_copied_when_they_can_be_read_again() {
    let bed = Bed::new();
    let scratched = Scratched::new();
    let image = bed.path("target.img");
    let receiver = receiver(&bed, "127.0.0.1:0", &[&image], &[]);
    for _ in 0..2 {
        let run = sync(&bed, &receiver.address, &[&scratched.disk], &["--rounds", "2"]);
        assert_eq!(run.code, Some(23), "done, but not whole: {run:?}");
        let skipped = run.summary()["skipped"].as_array().unwrap();
        let place = format!("bytes {}-{}", scratched.bad.start, scratched.bad.end - 1);
        assert!(
            skipped.len() == 1 && skipped[0]["path"].to_string().contains(&place),
            "{skipped:?}"
        );
        let mut expected = scratched.content.clone();
        expected[scratched.bad.start as usize..scratched.bad.end as usize].fill(0);
        assert!(
            std::fs::read(&image).unwrap() == expected,
            "everything else is there"
        );
    }
    // A write heals a sector.
    let (start, end) = (scratched.bad.start, scratched.bad.end as usize);
    let device = std::fs::File::options()
        .write(true)
        .open(&scratched.disk.device)
        .unwrap();
    device
        .write_all_at(&scratched.content[start as usize..end], start)
        .unwrap();
    device.sync_all().unwrap();
    sync(&bed, &receiver.address, &[&scratched.disk], &["--checksum"]).assert_done();
    assert!(std::fs::read(&image).unwrap() == scratched.content);
}

/// A disk without a system, and a receiver that is asked to start what arrives.
#[test]
fn what_does_not_boot_is_not_cut_over_unless_it_is_wanted_so() {
    let bed = Bed::new();
    let mut disk = Disk::new(32);
    disk.format(0, "ext4");
    let point = disk.mount(0, "noatime");
    std::fs::write(point.join("data"), "no system").unwrap();
    let (image, mark) = (bed.path("target.img"), bed.path("frozen"));
    let receiver = receiver(&bed, "127.0.0.1:0", &[&image], &[]);
    let before = format!("touch {}", mark.display());
    let flags =
        |consequence| ["--freeze", "--pre-freeze", &before, "--boot-check", consequence].map(str::to_owned);
    let run = |consequence| {
        let flags = flags(consequence);
        sync(
            &bed,
            &receiver.address,
            &[&disk],
            &flags.each_ref().map(String::as_str),
        )
    };
    let refused = run("stop");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("does not boot") && !mark.exists(),
        "there was a cutover: {refused:?}"
    );
    let done = run("warn");
    done.assert_done();
    assert!(mark.exists());
    assert_eq!(done.summary()["boot_check"]["ok"], false, "{done:?}");
    let mut copy = Disk::of_image(&image);
    let copied = copy.mount(0, "ro,noload");
    assert_eq!(std::fs::read(copied.join("data")).unwrap(), b"no system");
    // Where nothing can be started, nothing is copied.
    let tree = bed.receiver_at(
        "127.0.0.1:0",
        &["--into".as_ref(), bed.path("target").as_os_str()],
    );
    let refused = sync(&bed, &tree.address, &[&disk], &["--boot-check", "stop"]);
    assert!(
        refused.code == Some(1) && refused.stderr.contains("--into-disk"),
        "{refused:?}"
    );
}
