//! Trackers that are not the best one, or that lose something: whole runs of the engine in a process without the
//! capability that BPF needs, and without the one that perf needs, too.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the test bed is shared with other tests")]

#[path = "disk/bed.rs"]
mod bed;
#[path = "disk/child.rs"]
mod child;
#[path = "disk/workload.rs"]
mod workload;

use std::path::Path;
use std::time::Duration;

use bed::{Bed, MIB, random_disk, with_freeze};
use child::ChildProcess;
use rustix::process::{Pid, Signal, kill_process};
use sys::aligned::AlignedBuffer;
use sys::block_device::{Access, DirectFile};
use sys::loop_device::LoopDevice;
use transfer::progress::{Event, Observer, Silent, StopFlag};
use transfer::source::{Compression, Rounds, sync};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const LEN: u64 = 32 * MIB;

/// Tells of every round, and waits for a line before the next.
struct Telling;

impl Observer for Telling {
    #[expect(clippy::print_stdout, reason = "it tells the test that has started it")]
    fn event(&self, event: &Event) {
        if let Event::RoundFinished { .. } = event {
            println!("\nround");
            std::io::stdin().read_line(&mut String::new()).unwrap();
        }
    }
}

/// Not a test by itself: a source in a process that can be stopped, with fewer capabilities.
#[test]
fn track_as_a_child() {
    let Ok(folder) = std::env::var("G2C_TRACK_SEND") else {
        return;
    };
    let bed = Bed::at(Path::new(&folder), SECRET);
    let disks = std::env::var("G2C_TRACK_DISKS").unwrap();
    let disks: Vec<&Path> = disks.split(' ').map(Path::new).collect();
    let mut plan = bed.plan(&disks);
    plan.target = vec![std::env::var("G2C_TRACK_TARGET").unwrap().parse().unwrap()];
    plan.compression = Compression::Off;
    plan.rounds = Rounds::Count(3);
    if let Ok(end) = std::env::var("G2C_TRACK_CUTOVER") {
        plan.rounds = Rounds::Count(1);
        plan.verify = end == "verified";
        plan = with_freeze(plan, Duration::from_secs(20));
    }
    let summary = sync(&plan, &Telling, &StopFlag::default()).unwrap();
    assert!(summary.ok);
    println!("\nsummary {}", summary.bytes_read);
}

/// Runs three rounds without `capabilities`; `between` acts while the source waits after the first. Returns how much was
/// read, and how the receipt says that the disks were watched.
fn three_rounds(
    capabilities: &str,
    disks: &[LoopDevice],
    between: impl FnOnce(Pid),
) -> (u64, serde_json::Value) {
    let (read, receipt, images) = run(capabilities, disks, None, (1, 3), between);
    for (disk, image) in disks.iter().zip(&images) {
        assert_equal_bytes(disk, image);
    }
    (read, receipt)
}

/// Runs so many `rounds` without `capabilities`, to a `cutover` if there is to be one; `between` acts while the source waits
/// after round `after`. Returns how much was read, the receipt, and what the target holds.
fn run(
    capabilities: &str,
    disks: &[LoopDevice],
    cutover: Option<&str>,
    (after, rounds): (u32, u32),
    between: impl FnOnce(Pid),
) -> (u64, serde_json::Value, Vec<Vec<u8>>) {
    let bed = Bed::with_secret(SECRET);
    let images: Vec<_> = (0..disks.len())
        .map(|number| bed.path(&format!("{number}.img")))
        .collect();
    let targets: Vec<&Path> = images.iter().map(AsRef::as_ref).collect();
    let receiver = bed.receiver(&targets, false);
    let names: Vec<&str> = disks.iter().map(|disk| disk.path.to_str().unwrap()).collect();
    let (names, address) = (names.join(" "), receiver.local_addr().to_string());
    let mut variables = vec![
        ("G2C_TRACK_SEND", bed.folder.as_os_str()),
        ("G2C_TRACK_DISKS", names.as_ref()),
        ("G2C_TRACK_TARGET", address.as_ref()),
    ];
    variables.extend(cutover.map(|end| ("G2C_TRACK_CUTOVER", end.as_ref())));
    let stop = StopFlag::default();
    let read = std::thread::scope(|scope| {
        scope.spawn(|| receiver.run(&Silent, &stop).unwrap());
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut source = ChildProcess::start_without(capabilities, "track_as_a_child", &variables);
            let mut between = Some(between);
            for round in 1..=rounds {
                source.line("round");
                if let Some(between) = between.take_if(|_| round == after) {
                    between(Pid::from_child(&source.process));
                }
                source.go_on();
            }
            source.line("summary").parse::<u64>().unwrap()
        }));
        stop.stop();
        read.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let receipt = std::fs::read(bed.path("state/receipt.json")).unwrap();
    let held = images.iter().map(|image| std::fs::read(image).unwrap());
    (read, serde_json::from_slice(&receipt).unwrap(), held.collect())
}

fn assert_equal_bytes(disk: &LoopDevice, image: &[u8]) {
    let source = std::fs::read(&disk.backing).unwrap();
    let mut blocks = source.chunks(4096).zip(image.chunks(4096));
    assert_eq!(blocks.position(|(a, b)| a != b), None, "first block that differs");
}

/// Writes so much to a disk that the source's tracker loses records, and at last a block near the end.
fn flood(disk: &LoopDevice, source: Pid) {
    // While the source stands still, nobody empties its rings.
    kill_process(source, Signal::STOP).unwrap();
    let file = DirectFile::open(&disk.path, Access::Write).unwrap();
    let block = AlignedBuffer::zeroed(512);
    for _ in 0..40_000 {
        file.write_all_at(&block, 0).unwrap();
    }
    write(disk, 0x5a, LEN - MIB);
    kill_process(source, Signal::CONT).unwrap();
}

/// Writes to a device past the page cache.
fn write(disk: &LoopDevice, content: u8, at: u64) {
    let file = DirectFile::open(&disk.path, Access::Write).unwrap();
    let mut block = AlignedBuffer::zeroed(4096);
    block.fill(content);
    file.write_all_at(&block, at).unwrap();
}

#[test]
fn without_bpf_the_records_of_perf_make_rounds_cheap() {
    let disks = [random_disk(LEN, 512, 11)];
    let (read, receipt) = three_rounds("-bpf,-sys_admin", &disks, |_| write(&disks[0], 0xa5, 7 * MIB));
    assert!(receipt.to_string().contains("perf records"), "{receipt:#}");
    assert!((LEN..LEN + MIB).contains(&read), "{read} bytes read");
}

#[test]
fn what_a_tracker_lost_is_found_by_reading_its_disk_again_and_no_other() {
    let disks = [random_disk(LEN, 512, 12), random_disk(LEN, 512, 13)];
    let (read, _) = three_rounds("-bpf,-sys_admin", &disks, |source| {
        flood(&disks[0], source);
        write(&disks[1], 0x5a, 3 * MIB);
    });
    // Both once; then the first whole, and in the round after only what was written.
    assert!((3 * LEN..3 * LEN + 2 * MIB).contains(&read), "{read} bytes read");
}

#[test]
fn what_a_tracker_lost_before_a_cutover_is_in_it() {
    let disks = [random_disk(LEN, 512, 15)];
    // The round, that before the freeze, the frozen one.
    let (_, _, images) = run("-bpf,-sys_admin", &disks, Some("plain"), (1, 3), |source| {
        flood(&disks[0], source);
    });
    assert_equal_bytes(&disks[0], &images[0]);
}

#[test]
fn what_a_tracker_lost_after_a_cutover_is_not_called_compared() {
    let disks = [random_disk(LEN, 512, 16)];
    // The round, one that reads everything, that before the freeze, the frozen one.
    let (_, receipt, images) = run("-bpf,-sys_admin", &disks, Some("verified"), (4, 4), |source| {
        flood(&disks[0], source);
    });
    let read = &receipt["disks"][0]["source_read"];
    assert!(read["how"].as_str().unwrap().contains("not known"), "{read}");
    assert_eq!(read["bytes"].as_u64(), Some(LEN), "{read}");
    // Two chunks were written.
    assert_eq!(read["written_since"].as_u64(), Some(2), "{read}");
    let now = std::fs::read(&disks[0].backing).unwrap();
    let differing = now.chunks(65_536).zip(images[0].chunks(65_536));
    assert_eq!(differing.filter(|(a, b)| a != b).count(), 2);
}

#[test]
fn without_any_tracker_every_round_compares_everything() {
    let disks = [random_disk(LEN, 512, 14)];
    let (read, receipt) = three_rounds("-bpf,-sys_admin,-perfmon", &disks, |_| {
        write(&disks[0], 0xa5, 9 * MIB);
    });
    assert!((3 * LEN..3 * LEN + MIB).contains(&read), "{read} bytes read");
    assert!(receipt.to_string().contains("perf:"), "{receipt:#}");
}
