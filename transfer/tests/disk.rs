//! The disk engine end to end: loop devices with real file systems, both sides in one process over loopback.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the test bed is shared with other tests")]

#[path = "disk/bed.rs"]
mod bed;
#[path = "disk/workload.rs"]
mod workload;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bed::{Bed, Image, MIB, assert_trees_equal, fsck, make_file_system, mount, partition, with_freeze};
use go2cloud_tests::disk::wait_until_unused;
use rustix::process::Pid;
use sys::aligned::AlignedBuffer;
use sys::block_device::{Access, BlockDevice};
use sys::block_tracker::{BlockTracker, CHUNK_LEN};
use sys::chunk_set::ChunkSet;
use sys::loop_device::{LoopDevice, TestMount, run};
use transfer::disk::medium::{DiskMedium, Medium};
use transfer::disk::used_map::{Effort, survey};
use transfer::progress::{Event, Observer};
use transfer::source::{Lead, Next, Rounds, SourceVolume, Standing};
use workload::Workload;

const GPT: &str = "label: gpt\nsize=100M\nsize=320M\nsize=140M\nsize=20M\nsize=10M\n";
/// What the partitions hold; the last one nothing that anybody knows.
const KINDS: [&str; 5] = ["ext4", "xfs", "btrfs", "swap", "raw"];

/// A disk with every kind of file system, mounted.
struct Server {
    mounts: Vec<(&'static str, u32, TestMount)>,
    swap: u32,
    raw: u32,
    disk: LoopDevice,
}

impl Server {
    fn new(table: &str, partitions: [u32; 5]) -> Self {
        let disk = LoopDevice::new("g2c-block-server", 600 * MIB, 512).unwrap();
        partition(&disk, table);
        let mut mounts = Vec::new();
        for (kind, number) in KINDS[..3].iter().zip(partitions) {
            make_file_system(kind, &disk.partition(number));
            mounts.push((*kind, number, mount(&disk.partition(number), "noatime")));
        }
        let [_, _, _, swap, raw] = partitions;
        make_file_system("swap", &disk.partition(swap));
        let server = Self {
            mounts,
            swap,
            raw,
            disk,
        };
        // Pages that were swapped out once.
        write_raw(&server.disk.partition(swap), MIB, &[0x5a; 1 << 20]);
        server
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
        let raw = |device: PathBuf| std::fs::read(device).unwrap();
        assert!(
            raw(self.disk.partition(self.raw)) == raw(attached.partition(self.raw)),
            "the partition without a file system"
        );
        let (ours, theirs) = (
            raw(self.disk.partition(self.swap)),
            raw(attached.partition(self.swap)),
        );
        assert!(ours[..65_536] == theirs[..65_536], "the header of the swap area");
        assert!(
            theirs[MIB as usize..2 * MIB as usize]
                .iter()
                .all(|byte| *byte == 0),
            "what was swapped out stays"
        );
        drop(attached);
        std::fs::remove_file(copy).unwrap();
    }
}

/// Writes to a block device, and through.
fn write_raw(device: &Path, at: u64, content: &[u8]) {
    let file = std::fs::File::options().write(true).open(device).unwrap();
    file.write_all_at(content, at).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_quiet_server_is_copied_exactly() {
    let server = Server::new(GPT, [1, 2, 3, 4, 5]);
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

const MBR: &str =
    "label: dos\nsize=100M\nsize=320M\ntype=5\nsize=140M, type=83\nsize=20M, type=82\nsize=10M, type=83\n";

/// Writes small files to a file system, each with a transaction of its own, which a frozen file system refuses to begin.
fn beat(canary: &Path, stop: &AtomicBool) {
    let path = canary.join("canary");
    while !stop.load(Ordering::Acquire) {
        let _ = std::fs::remove_file(&path);
        let _ = std::fs::write(&path, [1]);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a thread waits for the thaw of the file system that it writes to. Who thaws it ends that wait.
fn waits_for_thaw(thread: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/self/task/{}/wchan", thread.as_raw_nonzero()))
        .is_ok_and(|place| place == "percpu_rwsem_wait")
}

/// Looks at an independent tracker again and again while nothing can be written to the file system of `canary`: the one that
/// freezes last and thaws first. Returns what was marked after the last look that began and ended in a freeze.
fn written_since_freeze(canary: &Path, tracker: &BlockTracker, stop: &AtomicBool) -> ChunkSet {
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        scope.spawn(move || {
            tell.send(rustix::thread::gettid()).unwrap();
            beat(canary, stop);
        });
        let canary = told.recv().unwrap();
        let mut since = None;
        while !stop.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
            if !waits_for_thaw(canary) {
                continue;
            }
            let marked = tracker.harvest().dirty;
            if waits_for_thaw(canary) {
                since = Some(ChunkSet::empty(marked.len()));
            } else if let Some(since) = &mut since {
                since.union_with(&marked);
            }
        }
        since.expect("somebody looked during the freeze")
    })
}

/// Copies a busy server with a cutover and proves that the image is the frozen moment.
fn cut_over_a_busy_server(table: &str, partitions: [u32; 5], seed: u64) {
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
    let canary = server.mounts[0].2.point.as_path();
    let (summary, mut marked) = std::thread::scope(|scope| {
        for (index, point) in server.points().into_iter().enumerate() {
            let workload = Workload::new(point, seed * 1000 + index as u64);
            let (stop, steps) = (&stop, &steps);
            scope.spawn(move || workload.run(stop, steps));
            scope.spawn(move || workload::count(point, stop));
        }
        let watching = scope.spawn(|| written_since_freeze(canary, &witness, &stop));
        let summary = bed.sync(&[&target], plan);
        stop.store(true, Ordering::Release);
        (summary.unwrap(), watching.join().unwrap())
    });
    assert!(summary.ok && summary.frozen_ms.is_some(), "{summary:?}");
    assert!(summary.not_frozen.is_empty(), "{summary:?}");
    assert!(steps.load(Ordering::Acquire) > 50, "the server was busy");
    // From here on nothing is written, and nothing counts as used that was only reserved for files to come (ext4 does so
    // as long as it is mounted): such blocks hold what they held before, and nobody reads it.
    for (kind, number, TestMount { point }) in &server.mounts {
        let device = server.disk.partition(*number);
        run("umount", [point.as_os_str()]).unwrap();
        wait_until_unused(&device);
        let mount = ["-t", kind, "-o", "ro"].map(std::ffi::OsStr::new);
        run(
            "mount",
            mount.into_iter().chain([device.as_os_str(), point.as_os_str()]),
        )
        .unwrap();
    }
    marked.union_with(&witness.harvest().dirty);
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
    drop(attached);
    hand_over_a_busy_server(&server, &bed, seed);
}

/// Goes on with the copy of a server that is busy again, until `--pre-freeze` stops its services: then nothing may differ.
fn hand_over_a_busy_server(server: &Server, bed: &Bed, seed: u64) {
    for (_, _, TestMount { point }) in &server.mounts {
        run("mount", ["-o".as_ref(), "remount,rw".as_ref(), point.as_os_str()]).unwrap();
    }
    let (asked, stopped) = (bed.path("stop"), bed.path("stopped"));
    let mut plan = with_freeze(bed.plan(&[&server.disk.path]), Duration::from_secs(20));
    let SourceVolume::Disks(source) = &mut plan.volume else {
        unreachable!()
    };
    source.freeze.as_mut().unwrap().before = Some(format!(
        "touch {}; until [ -e {} ]; do sleep 0.01; done",
        asked.display(),
        stopped.display()
    ));
    let target = bed.path("target.img");
    let (stop, steps) = (AtomicBool::new(false), AtomicU64::new(0));
    let summary = std::thread::scope(|scope| {
        let mut writers = Vec::new();
        for (index, point) in server.points().into_iter().enumerate() {
            let workload = Workload::new(point, seed * 1000 + 500 + index as u64);
            let (stop, steps) = (&stop, &steps);
            writers.push(scope.spawn(move || workload.run(stop, steps)));
        }
        let raw = server.disk.partition(server.raw);
        writers.push(scope.spawn(|| workload::scribble(raw, seed, &stop)));
        let (asked, stopped, stop) = (&asked, &stopped, &stop);
        scope.spawn(move || {
            while !asked.exists() && !stop.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(10));
            }
            stop.store(true, Ordering::Release);
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            std::fs::write(stopped, []).unwrap();
        });
        let summary = bed.sync(&[&target], plan);
        // Also when it failed before it asked.
        stop.store(true, Ordering::Release);
        summary.unwrap()
    });
    assert!(summary.ok && summary.frozen_ms.is_some(), "{summary:?}");
    assert!(steps.load(Ordering::Acquire) > 20, "the server was busy");
    server.assert_copied(&target);
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
    each_seed(|seed| cut_over_a_busy_server(GPT, [1, 2, 3, 4, 5], seed));
}

#[test]
fn a_busy_server_with_logical_partitions_is_cut_over_at_one_moment() {
    each_seed(|seed| cut_over_a_busy_server(MBR, [1, 2, 5, 6, 7], seed + 5000));
}

#[test]
fn one_mounted_partition_is_cut_over_alone() {
    let server = Server::new(GPT, [1, 2, 3, 4, 5]);
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
                    FileExt::write_all_at(&file, &dice.bytes(MIB as usize), at).unwrap();
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

/// Leads through a moment before the end, looks at what the target holds then, and changes something before every round.
struct ThroughMoment<'a> {
    source: &'a Path,
    target: &'a Path,
    handed_over: &'a Path,
    steps: Mutex<Vec<Next>>,
    tracked: Mutex<Vec<bool>>,
}

impl Lead for ThroughMoment<'_> {
    fn next(&self, _: Standing) -> transfer::Result<Next> {
        let mut steps = self.steps.lock().unwrap();
        let left = steps.len();
        let changing = self.source.join("changing");
        if left == 2 {
            let image = Image::attach(self.target);
            fsck("ext4", &image.partition(1));
            let held = mount(&image.partition(1), "ro");
            assert_eq!(
                std::fs::read(held.point.join("changing")).unwrap(),
                std::fs::read(&changing).unwrap(),
                "the state of that moment"
            );
            assert!(
                !self.handed_over.exists(),
                "nobody's services were stopped for it"
            );
        }
        std::fs::write(changing, vec![left as u8; 100_000]).unwrap();
        rustix::fs::sync();
        Ok(steps.pop().unwrap())
    }
}

impl Observer for ThroughMoment<'_> {
    fn event(&self, event: &Event) {
        if let Event::RoundStarted { tracked, .. } = event {
            self.tracked.lock().unwrap().push(*tracked);
        }
    }
}

#[test]
fn a_led_run_makes_a_moment_without_commands_and_reads_only_what_changes() {
    let disk = LoopDevice::new("g2c-block-led", 200 * MIB, 512).unwrap();
    partition(&disk, "label: gpt\nsize=180M\n");
    make_file_system("ext4", &disk.partition(1));
    let source = mount(&disk.partition(1), "noatime");
    Workload::fill(&source.point, 3, 40 * MIB);
    rustix::fs::sync();
    let bed = Bed::new();
    let (target, handed_over) = (bed.path("target.img"), bed.path("handed over"));
    let lead = ThroughMoment {
        source: &source.point,
        target: &target,
        handed_over: &handed_over,
        steps: Mutex::new(vec![Next::Last, Next::Round, Next::Moment, Next::Round]),
        tracked: Mutex::default(),
    };
    let mut plan = with_freeze(bed.plan(&[&disk.path]), Duration::from_secs(15));
    let SourceVolume::Disks(volume) = &mut plan.volume else {
        unreachable!()
    };
    volume.freeze.as_mut().unwrap().before = Some(format!("touch '{}'", handed_over.display()));
    let summary = bed.sync_led(&[&target], plan, &lead, &lead).unwrap();
    assert!(summary.ok && summary.frozen_ms.is_some(), "{summary:?}");
    assert!(handed_over.exists());
    let tracked = lead.tracked.into_inner().unwrap();
    assert!(
        tracked.len() >= 5 && !tracked[0] && tracked[1..].iter().all(|tracked| *tracked),
        "{tracked:?}"
    );
    assert!(
        summary.bytes_read < 100 * MIB,
        "read once, and then what changed: {} bytes",
        summary.bytes_read
    );
    let image = Image::attach(&target);
    fsck("ext4", &image.partition(1));
    let held = mount(&image.partition(1), "ro");
    assert_trees_equal(&source.point, &held.point);
}
