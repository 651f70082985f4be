//! The disk engine end to end: loop devices with real file systems, both sides in one process over loopback.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the test bed is shared with other tests")]

#[path = "disk/bed.rs"]
mod bed;
#[path = "disk/workload.rs"]
mod workload;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bed::{Bed, Image, MIB, assert_trees_equal, fsck, make_file_system, mount, partition, with_freeze};
use rustix::process::Pid;
use sys::aligned::AlignedBuffer;
use sys::block_device::{Access, BlockDevice};
use sys::block_tracker::{BlockTracker, CHUNK_LEN};
use sys::chunk_set::ChunkSet;
use sys::loop_device::{LoopDevice, TestMount, run};
use transfer::disk::medium::{DiskMedium, Medium};
use transfer::disk::used_map::{Effort, survey};
use transfer::source::{Rounds, SourceVolume};
use workload::Workload;

const GPT: &str = "label: gpt\nsize=100M\nsize=320M\nsize=140M\nsize=20M\n";
const KINDS: [&str; 4] = ["ext4", "xfs", "btrfs", "swap"];

/// A disk with every kind of file system, mounted.
struct Server {
    mounts: Vec<(&'static str, u32, TestMount)>,
    disk: LoopDevice,
}

impl Server {
    fn new(table: &str, partitions: [u32; 4]) -> Self {
        let disk = LoopDevice::new("g2c-block-server", 600 * MIB, 512).unwrap();
        partition(&disk, table);
        let mut mounts = Vec::new();
        for (kind, number) in KINDS.into_iter().zip(partitions) {
            make_file_system(kind, &disk.partition(number));
            if kind != "swap" {
                mounts.push((kind, number, mount(&disk.partition(number), "noatime")));
            }
        }
        Self { mounts, disk }
    }

    fn points(&self) -> Vec<&Path> {
        self.mounts
            .iter()
            .map(|(_, _, mount)| mount.point.as_path())
            .collect()
    }

    /// Compares an image of this disk, whose file systems must not have changed since the copy. Works on a copy:
    /// mounting replays journals.
    fn assert_copied(&self, image: &Path) {
        let copy = image.with_extension("compared");
        run(
            "cp",
            ["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()],
        )
        .unwrap();
        let attached = Image::attach(&copy);
        for (kind, number, source) in &self.mounts {
            let partition = attached.partition(*number);
            if *kind == "btrfs" {
                // Two devices with one UUID cannot be mounted at once.
                run("btrfstune", ["-f".as_ref(), "-m".as_ref(), partition.as_os_str()]).unwrap();
            }
            let options = if *kind == "xfs" {
                "nouuid,noatime"
            } else {
                "noatime"
            };
            let target = mount(&partition, options);
            assert_trees_equal(&source.point, &target.point);
            drop(target);
            fsck(kind, &partition);
        }
        drop(attached);
        std::fs::remove_file(copy).unwrap();
    }
}

#[test]
fn a_quiet_server_is_copied_exactly() {
    let server = Server::new(GPT, [1, 2, 3, 4]);
    let bed = Bed::new();
    for (index, point) in server.points().into_iter().enumerate() {
        Workload::fill(point, index as u64 + 1, 12 * MIB);
    }
    let target = bed.path("target.img");
    let mut plan = bed.plan(&[&server.disk.path]);
    plan.verify = true;
    let summary = bed.sync(&[&target], plan).unwrap();
    assert!(summary.ok && summary.skipped.is_empty(), "{summary:?}");
    assert!(summary.verified.as_ref().unwrap().compared > 100);
    assert!(
        summary.bytes_read < 400 * MIB,
        "free space is not read: {} bytes",
        summary.bytes_read
    );
    assert!(
        summary.bytes_data < 150 * MIB,
        "zeros are not sent: {} bytes",
        summary.bytes_data
    );
    server.assert_copied(&target);

    // A second run with the same state sends what changed, and little else.
    let mut plan = bed.plan(&[&server.disk.path]);
    plan.rounds = Rounds::UntilClean { max: 5 };
    let again = bed.sync(&[&target], plan).unwrap();
    assert!(again.bytes_data < 4 * MIB, "{} bytes", again.bytes_data);
    server.assert_copied(&target);
}

const MBR: &str = "label: dos\nsize=100M\nsize=320M\ntype=5\nsize=140M, type=83\nsize=20M, type=82\n";

/// A moment at which nothing could be written.
struct Stall {
    /// The process that guards the freeze, if there was one: then this may be it.
    guard: Option<u32>,
    /// What was marked between the look at the tracker before this one and this one.
    marked_before: ChunkSet,
}

/// The process that guards a freeze of the thread `copying`, which has no other children.
fn guard_of(copying: Pid) -> Option<u32> {
    let path = format!("/proc/self/task/{}/children", copying.as_raw_nonzero());
    let children = std::fs::read_to_string(path).unwrap();
    children
        .split_whitespace()
        .next()
        .map(|child| child.parse().unwrap())
}

/// Writes small files to a file system, each with a transaction of its own, which a frozen file system refuses to begin.
fn beat(canary: &Path, beats: &AtomicU64, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        let beat = beats.fetch_add(1, Ordering::AcqRel);
        let path = canary.join(format!("canary{}", beat % 2));
        let _ = std::fs::remove_file(&path);
        let _ = std::fs::write(&path, [1]);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Looks at an independent tracker inside every moment in which nothing can be written to any of `canaries`: the file system
/// that freezes last and thaws first, and the one that freezes first and thaws last.
fn watch_stalls(canaries: [&Path; 2], tracker: &BlockTracker, copying: Pid, stop: &AtomicBool) -> Vec<Stall> {
    let beats = [AtomicU64::new(0), AtomicU64::new(0)];
    let now = || beats.each_ref().map(|beats| beats.load(Ordering::Acquire));
    std::thread::scope(|scope| {
        for (canary, beats) in canaries.into_iter().zip(&beats) {
            scope.spawn(move || beat(canary, beats, stop));
        }
        let mut stalls = Vec::new();
        while !stop.load(Ordering::Acquire) {
            let before = now();
            std::thread::sleep(Duration::from_millis(25));
            let moved = |side: usize| now()[side] != before[side];
            if moved(0) || moved(1) {
                continue;
            }
            let guard = guard_of(copying);
            let marked_before = tracker.harvest().dirty;
            // A thaw meanwhile makes it a look after the freeze.
            let is_still = !moved(0) && !moved(1) && guard_of(copying) == guard;
            stalls.push(Stall {
                guard: guard.filter(|_| is_still),
                marked_before,
            });
            // A busy disk's stall may become a frozen one.
            while !moved(0) && !moved(1) && guard_of(copying) == guard && !stop.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        stalls
    })
}

/// What was written since the last freeze. Of the stalls while it was guarded the first is taken: it is the freeze itself, or
/// lies before it, when another file system was being frozen; then a little more than was written since counts.
fn written_since_freeze(stalls: Vec<Stall>, mut marked: ChunkSet) -> ChunkSet {
    let guard = stalls.iter().rev().find_map(|stall| stall.guard);
    let freeze = stalls
        .iter()
        .position(|stall| stall.guard.is_some() && stall.guard == guard)
        .expect("the freeze is a stall");
    for stall in stalls.into_iter().skip(freeze + 1) {
        marked.union_with(&stall.marked_before);
    }
    marked
}

/// Copies a busy server with a cutover and proves that the image is the frozen moment.
fn cut_over_a_busy_server(table: &str, partitions: [u32; 4], seed: u64) {
    let server = Server::new(table, partitions);
    let bed = Bed::new();
    for (index, point) in server.points().into_iter().enumerate() {
        Workload::fill(point, seed * 100 + index as u64, 8 * MIB);
    }
    let device = BlockDevice::look(&server.disk.path).unwrap().unwrap();
    let witness = BlockTracker::attach(&device).unwrap();
    let target = bed.path("target.img");
    let plan = with_freeze(bed.plan(&[&server.disk.path]), Duration::from_secs(20));
    let (stop, steps) = (AtomicBool::new(false), AtomicU64::new(0));
    // Later mounts freeze first.
    let canaries = [0, 2].map(|at| server.mounts[at].2.point.as_path());
    let copying = rustix::thread::gettid();
    let (summary, stalls) = std::thread::scope(|scope| {
        for (index, point) in server.points().into_iter().enumerate() {
            let workload = Workload::new(point, seed * 1000 + index as u64);
            let (stop, steps) = (&stop, &steps);
            scope.spawn(move || workload.run(stop, steps));
            scope.spawn(move || workload::count(point, stop));
        }
        let watching = scope.spawn(|| watch_stalls(canaries, &witness, copying, &stop));
        let summary = bed.sync(&[&target], plan);
        stop.store(true, Ordering::Release);
        (summary.unwrap(), watching.join().unwrap())
    });
    assert!(summary.ok && summary.frozen_ms.is_some(), "{summary:?}");
    assert!(steps.load(Ordering::Acquire) > 50, "the server was busy");
    // From here on nothing is written: what was in the page cache is on the disk, and marked.
    for point in server.points() {
        run("sync", ["-f".as_ref(), point.as_os_str()]).unwrap();
        run("mount", ["-o".as_ref(), "remount,ro".as_ref(), point.as_os_str()]).unwrap();
    }
    let marked = written_since_freeze(stalls, witness.harvest().dirty);
    let (compared, differing) = compare_used(&server.disk.path, &target, &marked);
    assert!(
        differing.is_empty(),
        "seed {seed}: of {compared} blocks {} differ: {:?}",
        differing.len(),
        differing.first()
    );
    assert!(
        compared > 4000,
        "seed {seed}: only {compared} blocks were comparable"
    );
    let attached = Image::attach(&target);
    for (kind, number, _) in &server.mounts {
        let partition = attached.partition(*number);
        if *kind == "ext4" {
            fsck(kind, &partition); // frozen means: no journal to replay
        }
        if *kind == "btrfs" {
            run("btrfstune", ["-f".as_ref(), "-m".as_ref(), partition.as_os_str()]).unwrap();
        }
        let image = mount(&partition, if *kind == "xfs" { "nouuid" } else { "noatime" });
        workload::assert_counted(&image.point, kind);
        drop(image);
        fsck(kind, &partition);
    }
}

/// Compares every used block that was not written after the frozen moment. Returns how many, and the numbers of those
/// that differ.
fn compare_used(disk: &Path, image: &Path, written_since: &ChunkSet) -> (u64, Vec<u64>) {
    let source = DiskMedium::open(disk, Access::Read).unwrap();
    let copy = DiskMedium::open(image, Access::Read).unwrap();
    let map = survey(&source, Effort::Look).unwrap().map;
    let (mut ours, mut theirs) = (AlignedBuffer::zeroed(65_536), AlignedBuffer::zeroed(65_536));
    let (mut compared, mut differing) = (0, Vec::new());
    for chunk in (0..source.length() / CHUNK_LEN).filter(|chunk| !written_since.contains(*chunk)) {
        let bytes = chunk * CHUNK_LEN..(chunk + 1) * CHUNK_LEN;
        let used = map.used_in(bytes.clone());
        if used.is_empty() {
            continue;
        }
        source.read(&mut ours, bytes.start).unwrap();
        copy.read(&mut theirs, bytes.start).unwrap();
        for part in used {
            for at in part.step_by(4096) {
                let block = (at - bytes.start) as usize..(at - bytes.start) as usize + 4096;
                compared += 1;
                if ours[block.clone()] != theirs[block] {
                    differing.push(at / 4096);
                }
            }
        }
    }
    (compared, differing)
}

/// Runs a test with several seeds: more by `G2C_BLOCK_RUNS`, from another one on by `G2C_BLOCK_SEED`.
#[expect(clippy::print_stdout, reason = "a long test says how far it is")]
fn each_seed(test: impl Fn(u64)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse().ok());
    let first = number("G2C_BLOCK_SEED").unwrap_or(1);
    let last = first + number("G2C_BLOCK_RUNS").unwrap_or(2) - 1;
    for seed in first..=last {
        let began = Instant::now();
        test(seed);
        println!("seed {seed} to {last}: {:.1} s", began.elapsed().as_secs_f64());
    }
}

#[test]
fn a_busy_server_with_gpt_is_cut_over_at_one_moment() {
    each_seed(|seed| cut_over_a_busy_server(GPT, [1, 2, 3, 4], seed));
}

#[test]
fn a_busy_server_with_logical_partitions_is_cut_over_at_one_moment() {
    each_seed(|seed| cut_over_a_busy_server(MBR, [1, 2, 5, 6], seed + 5000));
}

#[test]
fn one_mounted_partition_is_cut_over_alone() {
    let server = Server::new(GPT, [1, 2, 3, 4]);
    let bed = Bed::new();
    let point = &server.mounts[1].2.point;
    Workload::fill(point, 77, 10 * MIB);
    let marks = [bed.path("before"), bed.path("after")];
    let mut plan = with_freeze(bed.plan(&[&server.disk.partition(2)]), Duration::from_secs(20));
    plan.verify = true;
    let SourceVolume::Disks(source) = &mut plan.volume else {
        unreachable!()
    };
    let freeze = source.freeze.as_mut().unwrap();
    freeze.before = Some(format!(
        "echo last words > {}/last; touch {}",
        point.display(),
        marks[0].display()
    ));
    freeze.after = Some(format!("touch {}", marks[1].display()));
    let image = bed.path("target.img");
    let summary = bed.sync(&[&image], plan).unwrap();
    assert!(summary.ok && summary.frozen_ms.unwrap() < 10_000, "{summary:?}");
    assert!(marks.iter().all(|mark| mark.exists()), "both commands ran");
    let target = mount(&image, "loop,nouuid,noatime");
    assert_trees_equal(point, &target.point);
    assert_eq!(std::fs::read(target.point.join("last")).unwrap(), b"last words\n");
}

#[test]
fn a_freeze_that_would_take_too_long_is_refused_with_numbers() {
    let disk = LoopDevice::new("g2c-block-churn", 200 * MIB, 512).unwrap();
    make_file_system("ext4", &disk.path);
    let mount = mount(&disk.path, "noatime");
    Workload::fill(&mount.point, 5, 6 * MIB);
    let bed = Bed::new();
    let mut plan = with_freeze(bed.plan(&[&disk.path]), Duration::from_millis(101));
    plan.compression = transfer::source::Compression::Off;
    plan.throttle = std::sync::Arc::new(transfer::throttle::Throttle::new(3_000_000));
    let stop = AtomicBool::new(false);
    let error = std::thread::scope(|scope| {
        // Several writers, so that a busy machine does not let the disk come to rest for a moment.
        for writer in 0..3u64 {
            let (mount, stop) = (&mount, &stop);
            scope.spawn(move || {
                let mut dice = workload::Dice::new(9 + writer);
                let file = std::fs::File::create(mount.point.join(format!("churn{writer}"))).unwrap();
                while !stop.load(Ordering::Acquire) {
                    // Ten times what the link can take; even a moment's worth is too much for the freeze.
                    let at = dice.below(8) * MIB;
                    std::os::unix::fs::FileExt::write_all_at(&file, &dice.bytes(MIB as usize), at).unwrap();
                    file.sync_data().unwrap();
                }
            });
        }
        let result = bed.sync(&[&bed.path("target.img")], plan);
        stop.store(true, Ordering::Release);
        result.unwrap_err().describe()
    });
    assert!(
        error.contains("--freeze-max") && error.contains("MB/s"),
        "{error}"
    );
    std::fs::write(mount.point.join("not frozen"), b"x").unwrap();
}
