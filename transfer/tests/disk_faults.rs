//! The disk engine when things go wrong: killed peers, damaged media, wrong disks, odd sizes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the test bed is shared with other tests")]

#[path = "disk/bed.rs"]
mod bed;
#[path = "disk/child.rs"]
mod child;
#[path = "disk/workload.rs"]
mod workload;

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bed::{Bed, MIB, assert_equal, make_file_system, mount, partition, random_disk};
use child::ChildProcess;
use go2cloud_tests::disk::wait_until_unused;
use sys::loop_device::{LoopDevice, run as run_program};
use transfer::progress::{Silent, StopFlag, Summary};
use transfer::secret::Secret;
use transfer::source::{Compression, Retry, Rounds, sync};
use transfer::target::{DiskTarget, Receiver, ServePlan, TargetVolume};
use transfer::throttle::Throttle;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Not a test by itself: a receiver in a process that can be killed.
#[test]
fn receive_as_a_child() {
    let Ok(folder) = std::env::var("G2C_BLOCK_RECEIVE") else {
        return;
    };
    let folder = Path::new(&folder);
    let plan = ServePlan {
        listen: std::env::var("G2C_BLOCK_LISTEN").unwrap().parse().unwrap(),
        secret: Secret::parse(SECRET.as_bytes()).unwrap(),
        volume: TargetVolume::Disks(vec![DiskTarget {
            path: folder.join("target.img"),
            overwrite: false,
        }]),
        journal: folder.join("journal"),
    };
    let receiver = Receiver::bind(plan).unwrap();
    println!("\nlistening {}", receiver.local_addr());
    receiver.run(&Silent, &StopFlag::default()).unwrap();
}

/// Not a test by itself: a source in a process that can be killed.
#[test]
fn send_as_a_child() {
    let Ok(folder) = std::env::var("G2C_BLOCK_SEND") else {
        return;
    };
    let bed = Bed::at(Path::new(&folder), SECRET);
    let mut plan = bed.plan(&[Path::new(&std::env::var("G2C_BLOCK_DISK").unwrap())]);
    plan.target = vec![std::env::var("G2C_BLOCK_LISTEN").unwrap().parse().unwrap()];
    plan.compression = Compression::Off;
    plan.throttle = Arc::new(Throttle::new(30_000_000));
    let summary = sync(&plan, &Silent, &StopFlag::default());
    println!(
        "\nsummary {}",
        summary.map(|summary| summary.bytes_data).unwrap_or(0)
    );
}

fn start_receiver(bed: &Bed, listen: &str) -> (ChildProcess, SocketAddr) {
    let folder = bed.folder.as_os_str();
    let variables = [
        ("G2C_BLOCK_RECEIVE", folder),
        ("G2C_BLOCK_LISTEN", listen.as_ref()),
    ];
    let mut child = ChildProcess::start("receive_as_a_child", &variables);
    let address = child.line("listening").parse().unwrap();
    (child, address)
}

#[test]
fn a_killed_receiver_loses_nothing_and_gets_nothing_twice() {
    let disk = random_disk(160 * MIB, 512, 1);
    let bed = Bed::with_secret(SECRET);
    let (first, address) = start_receiver(&bed, "127.0.0.1:0");
    let mut plan = bed.plan(&[&disk.path]);
    plan.target = vec![address];
    plan.compression = Compression::Off;
    plan.throttle = Arc::new(Throttle::new(40_000_000));
    plan.retry = Retry::Times(60);
    plan.verify = true;
    let summary: Summary = std::thread::scope(|scope| {
        let run = scope.spawn(|| sync(&plan, &Silent, &StopFlag::default()));
        let mut receiver = first;
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(900));
            drop(receiver); // SIGKILL
            (receiver, _) = start_receiver(&bed, &address.to_string());
        }
        run.join().unwrap().unwrap()
    });
    assert!(summary.resumes >= 1, "{summary:?}");
    assert_equal(&disk, &bed.path("target.img"));
    // What was in flight or half written at a kill may travel twice, nothing else; and nothing else is read again, but for
    // the verification, which reads everything.
    for bytes in [summary.bytes_data, summary.bytes_read - 160 * MIB] {
        assert!(bytes < 160 * MIB + 3 * 40 * MIB, "{summary:?}");
    }
}

/// Notes how much the target has called durable.
#[derive(Default)]
struct Durable(std::sync::atomic::AtomicU64);

impl transfer::progress::Observer for Durable {
    fn event(&self, event: &transfer::progress::Event) {
        if let transfer::progress::Event::Progress(progress) = event {
            self.0
                .fetch_max(progress.bytes_durable, std::sync::atomic::Ordering::AcqRel);
        }
    }
}

/// Copies until the target has called `enough` bytes durable and then has written on for a while; then its power fails:
/// nothing more reaches its medium, and what was only in memory is lost. Returns how much was durable.
fn sync_until_power_cut(bed: &Bed, disk: &LoopDevice, target: &Bed, enough: u64) -> u64 {
    let (receiver, address) = start_receiver(target, "127.0.0.1:0");
    let mut plan = bed.plan(&[&disk.path]);
    plan.target = vec![address];
    plan.compression = Compression::Off;
    plan.throttle = Arc::new(Throttle::new(14_000_000));
    let (durable, since) = (Durable::default(), std::time::Instant::now());
    let seen = || durable.0.load(std::sync::atomic::Ordering::Acquire);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| sync(&plan, &durable, &StopFlag::default()));
        while seen() < enough && !run.is_finished() && since.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(500));
        // Without -f: the journal of the file system is not written out first.
        let shutdown = ["-x", "-c", "shutdown"].map(std::ffi::OsStr::new);
        run_program("xfs_io", shutdown.into_iter().chain([target.folder.as_os_str()])).unwrap();
        let at_the_cut = seen();
        drop(receiver);
        assert!(run.join().unwrap().is_err(), "the copy was not through yet");
        assert!(at_the_cut >= enough, "{at_the_cut} bytes in a minute");
        at_the_cut
    })
}

#[test]
fn a_power_cut_at_the_target_loses_nothing_that_was_durable() {
    let disk = random_disk(160 * MIB, 512, 21);
    for kind in ["ext4", "xfs"] {
        let medium = LoopDevice::new("g2c-block-power", 400 * MIB, 512).unwrap();
        make_file_system(kind, &medium.path);
        let mounted = mount(&medium.path, "noatime");
        let remount = || {
            run_program("umount", [mounted.point.as_os_str()]).unwrap();
            wait_until_unused(&medium.path);
            run_program("mount", [medium.path.as_os_str(), mounted.point.as_os_str()]).unwrap();
        };
        let (bed, target) = (Bed::with_secret(SECRET), Bed::at(&mounted.point, SECRET));
        let mut durable = 0;
        for enough in [12 * MIB, 12 * MIB] {
            durable += sync_until_power_cut(&bed, &disk, &target, enough);
            remount();
        }
        let (_receiver, address) = start_receiver(&target, "127.0.0.1:0");
        let mut plan = bed.plan(&[&disk.path]);
        plan.target = vec![address];
        plan.verify = true;
        let summary = sync(&plan, &Silent, &StopFlag::default()).unwrap();
        assert!(
            summary.bytes_data <= 160 * MIB - durable,
            "{kind}: {} bytes sent, {durable} were durable",
            summary.bytes_data
        );
        assert_equal(&disk, &mounted.point.join("target.img"));
    }
}

#[test]
fn a_killed_source_goes_on_where_it_was() {
    let disk = random_disk(96 * MIB, 512, 2);
    let bed = Bed::with_secret(SECRET);
    let (_receiver, address) = start_receiver(&bed, "127.0.0.1:0");
    let listen = address.to_string();
    let variables = [
        ("G2C_BLOCK_SEND", bed.folder.as_os_str()),
        ("G2C_BLOCK_DISK", disk.path.as_os_str()),
        ("G2C_BLOCK_LISTEN", listen.as_ref()),
    ];
    let child = ChildProcess::start("send_as_a_child", &variables);
    let image = bed.path("target.img");
    let written = || std::fs::metadata(&image).map_or(0, |metadata| metadata.blocks() * 512);
    let since = std::time::Instant::now();
    while written() < 40 * MIB {
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "{} bytes in a minute",
            written()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(child); // SIGKILL
    let mut child = ChildProcess::start("send_as_a_child", &variables);
    let sent: u64 = child.line("summary").parse().unwrap();
    assert!(
        sent > 0 && sent < 75 * MIB,
        "the second run sent {sent} bytes of {}",
        96 * MIB
    );
    assert_equal(&disk, &bed.path("target.img"));
}

#[test]
fn a_damaged_target_is_found_and_repaired() {
    let disk = random_disk(20 * MIB, 512, 3);
    let bed = Bed::new();
    let image = bed.path("target.img");
    bed.sync(&[&image], bed.plan(&[&disk.path])).unwrap();
    assert_equal(&disk, &image);
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    for at in [0, 5_000_000, 20 * MIB - 1] {
        file.write_all_at(b"!", at).unwrap();
    }
    let mut plan = bed.plan(&[&disk.path]);
    plan.verify = true;
    let summary = bed.sync(&[&image], plan).unwrap();
    assert_eq!(summary.verified.unwrap().repaired, 3);
    assert_equal(&disk, &image);
    assert!(bed.path("state/receipt.json").exists());
}

#[test]
fn odd_lengths_and_large_sectors_are_copied_whole() {
    for (len, sector_len) in [
        (3 * 65_536 + 512 * 3, 512),
        (5 * 65_536 + 4096, 4096),
        (512, 512),
        (4 * MIB, 4096),
    ] {
        let disk = random_disk(len, sector_len, len);
        let bed = Bed::new();
        let mut plan = bed.plan(&[&disk.path]);
        plan.verify = true;
        let summary = bed.sync(&[&bed.path("target.img")], plan).unwrap();
        assert_eq!(summary.bytes_total, len);
        assert_equal(&disk, &bed.path("target.img"));
    }
}

#[test]
fn a_lost_baseline_is_fetched_and_two_disks_travel_together() {
    let disks = [random_disk(8 * MIB, 512, 4), random_disk(5 * MIB, 4096, 5)];
    let bed = Bed::new();
    let images = [bed.path("one.img"), bed.path("two.img")];
    let (sources, targets) = (
        disks.each_ref().map(|disk| disk.path.as_path()),
        images.each_ref().map(|p| p.as_path()),
    );
    bed.sync(&targets, bed.plan(&sources)).unwrap();
    std::fs::remove_dir_all(bed.path("state")).unwrap();
    let again = bed.sync(&targets, bed.plan(&sources)).unwrap();
    assert_eq!(again.bytes_data, 0, "nothing durable is sent again");
    for (disk, image) in disks.iter().zip(&images) {
        assert_equal(disk, image);
    }
}

#[test]
fn later_rounds_read_what_was_written() {
    let disk = random_disk(64 * MIB, 512, 6);
    let bed = Bed::new();
    let mut plan = bed.plan(&[&disk.path]);
    plan.rounds = Rounds::Count(4);
    let written = std::sync::atomic::AtomicU64::new(0);
    let watch = OnRound(|| {
        let file = std::fs::File::options().write(true).open(&disk.path).unwrap();
        let at = written.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        file.write_all_at(&[at as u8; 5000], (at + 3) * 10_000_000)
            .unwrap();
        file.sync_all().unwrap();
    });
    let summary = bed
        .sync_watched(&[&bed.path("target.img")], plan, &watch)
        .unwrap();
    assert_eq!(summary.rounds, 4);
    assert!(summary.bytes_read < 66 * MIB, "{} bytes read", summary.bytes_read);
    // The last write came after the last round.
    let bed_image = bed.path("target.img");
    bed.sync(&[&bed_image], bed.plan(&[&disk.path])).unwrap();
    assert_equal(&disk, &bed_image);
}

/// Does something at the end of every round.
struct OnRound<F: Fn() + Send + Sync>(F);

impl<F: Fn() + Send + Sync> transfer::progress::Observer for OnRound<F> {
    fn event(&self, event: &transfer::progress::Event) {
        if matches!(event, transfer::progress::Event::RoundFinished { .. }) {
            (self.0)();
        }
    }
}

#[test]
fn a_second_source_at_a_busy_receiver_is_refused() {
    let (disk, other) = (random_disk(6 * MIB, 512, 5), random_disk(6 * MIB, 512, 6));
    let bed = Bed::new();
    let image = bed.path("target.img");
    let refused = std::sync::OnceLock::new();
    let during = OnConnected(|address| {
        let mut second = bed.plan(&[&other.path]);
        second.target = vec![address];
        second.state = bed.path("another state");
        second.retry = Retry::Never;
        refused.get_or_init(|| sync(&second, &Silent, &StopFlag::default()).unwrap_err());
    });
    let plan = bed.plan(&[&disk.path]);
    let summary = bed.sync_watched(&[&image], plan, &during).unwrap();
    let refused = refused.get().unwrap();
    assert_eq!(refused.kind(), transfer::Kind::Refused, "{refused}");
    for words in ["another source", "receiver of its own"] {
        assert!(refused.describe().contains(words), "{words}: {refused}");
    }
    assert_eq!(summary.resumes, 0, "the first one went on: {summary:?}");
    assert_equal(&disk, &image);
}

/// Calls a function with the receiver's address when a session has begun.
struct OnConnected<F: Fn(SocketAddr) + Send + Sync>(F);

impl<F: Fn(SocketAddr) + Send + Sync> transfer::progress::Observer for OnConnected<F> {
    fn event(&self, event: &transfer::progress::Event) {
        if let transfer::progress::Event::Connected { target, .. } = event {
            (self.0)(target.parse().unwrap());
        }
    }
}

#[test]
fn wrong_targets_are_refused_and_nothing_is_written() {
    let disk = random_disk(6 * MIB, 512, 7);
    let refusal = |bed: &Bed, target: &Path| {
        let error = bed.sync(&[target], bed.plan(&[&disk.path])).unwrap_err();
        error.describe()
    };
    let small = LoopDevice::new("g2c-block-small", 5 * MIB, 512).unwrap();
    assert!(refusal(&Bed::new(), &small.path).contains("smaller"));
    let other_sector = LoopDevice::new("g2c-block-sector", 8 * MIB, 4096).unwrap();
    assert!(refusal(&Bed::new(), &other_sector.path).contains("sector"));
    let taken = random_disk(8 * MIB, 512, 8);
    assert!(refusal(&Bed::new(), &taken.path).contains("--overwrite"));
    let mounted = LoopDevice::new("g2c-block-mounted", 16 * MIB, 512).unwrap();
    make_file_system("ext4", &mounted.path);
    let _mount = mount(&mounted.path, "noatime");
    assert!(refusal(&Bed::new(), &mounted.path).contains("unmount"));
    assert!(refusal(&Bed::new(), Path::new("/dev/g2c-block-nowhere")).contains("lsblk"));
}

#[test]
fn a_larger_disk_gets_the_backup_of_the_table_at_its_end() {
    let disk = LoopDevice::new("g2c-block-gpt", 32 * MIB, 512).unwrap();
    partition(&disk, "label: gpt\nsize=10M\nsize=10M\n");
    let larger = LoopDevice::new("g2c-block-larger", 48 * MIB, 512).unwrap();
    std::fs::File::options()
        .write(true)
        .open(&larger.path)
        .unwrap()
        .write_all(&[7; 1 << 20])
        .unwrap();
    let bed = Bed::new();
    assert!(
        bed.sync(&[&larger.path], bed.plan(&[&disk.path])).is_err(),
        "it holds something"
    );
    let receiver = bed.receiver(&[&larger.path], true);
    let mut plan = bed.plan(&[&disk.path]);
    plan.target = vec![receiver.local_addr()];
    let stop = StopFlag::default();
    std::thread::scope(|scope| {
        scope.spawn(|| receiver.run(&Silent, &stop).unwrap());
        let summary = sync(&plan, &Silent, &StopFlag::default());
        stop.stop();
        assert!(summary.unwrap().ok);
    });
    let output = Command::new("sfdisk")
        .arg("--verify")
        .arg(&larger.path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("No errors detected"), "{text} {output:?}");
}
