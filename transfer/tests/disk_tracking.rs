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

use bed::{Bed, MIB, assert_equal, random_disk};
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
    let bed = Bed::with_secret(SECRET);
    let images: Vec<_> = (0..disks.len())
        .map(|number| bed.path(&format!("{number}.img")))
        .collect();
    let targets: Vec<&Path> = images.iter().map(AsRef::as_ref).collect();
    let receiver = bed.receiver(&targets, false);
    let names: Vec<&str> = disks.iter().map(|disk| disk.path.to_str().unwrap()).collect();
    let (names, address) = (names.join(" "), receiver.local_addr().to_string());
    let variables = [
        ("G2C_TRACK_SEND", bed.folder.as_os_str()),
        ("G2C_TRACK_DISKS", names.as_ref()),
        ("G2C_TRACK_TARGET", address.as_ref()),
    ];
    let stop = StopFlag::default();
    let read = std::thread::scope(|scope| {
        scope.spawn(|| receiver.run(&Silent, &stop).unwrap());
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut source = ChildProcess::start_without(capabilities, "track_as_a_child", &variables);
            source.line("round");
            between(Pid::from_child(&source.process));
            source.go_on();
            for _ in 0..2 {
                source.line("round");
                source.go_on();
            }
            source.line("summary").parse::<u64>().unwrap()
        }));
        stop.stop();
        read.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    for (disk, image) in disks.iter().zip(&images) {
        assert_equal(disk, image);
    }
    let receipt = std::fs::read(bed.path("state/receipt.json")).unwrap();
    (read, serde_json::from_slice(&receipt).unwrap())
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
        // While the source stands still, nobody empties its rings.
        kill_process(source, Signal::STOP).unwrap();
        let flooded = DirectFile::open(&disks[0].path, Access::Write).unwrap();
        let block = AlignedBuffer::zeroed(512);
        for _ in 0..40_000 {
            flooded.write_all_at(&block, 0).unwrap();
        }
        write(&disks[0], 0x5a, LEN - MIB);
        write(&disks[1], 0x5a, 3 * MIB);
        kill_process(source, Signal::CONT).unwrap();
    });
    // Both once; then the first whole, and as all that is marked once more in the round after.
    assert!((4 * LEN..4 * LEN + 2 * MIB).contains(&read), "{read} bytes read");
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
