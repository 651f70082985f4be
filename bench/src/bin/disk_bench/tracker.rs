//! What the tracker costs those who write: fio writes all the time, with and without the tracker in turn, compared pair by
//! pair.
//!
//! Noise of the machine changes within seconds, so only neighbours are compared, they are short, and the order within a pair
//! changes from pair to pair. Beside it, from the kernel's own statistics, the time that the programs take for one write: that
//! figure hardly depends on what else runs.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::bed::{Bed, Process, call};
use crate::measure::{say, share, table};
use crate::statistics::median;

/// Whether the kernel takes the time of BPF programs.
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";
/// How long writes are counted, with the tracker or without.
const SLICE: Duration = Duration::from_millis(500);
/// How long the machine gets to forget that an agent began or ended.
const SETTLE: Duration = Duration::from_millis(150);
/// Longer than all slices together: fio is ended by us.
const ENDLESS: Duration = Duration::from_secs(24 * 3600);

/// What a run of fio reports.
#[derive(Clone, Copy)]
struct Writes {
    per_second: f64,
    count: u64,
    /// Processor time of fio itself, of all of one processor.
    processor_share: f64,
}

/// Write throughput with and without the tracker, in `pairs` pairs, of requests that wait for each other and that do not.
pub(crate) fn tracker(bed: &Bed, pairs: usize) -> Result<()> {
    for depth in [1, 8] {
        let mut writer = Process::start(fio(bed, depth, ENDLESS).stdout(Stdio::null()))?;
        let begin = writes_done(&bed.device)?;
        while writes_done(&bed.device)? == begin {
            ensure!(writer.is_running()?, "fio has ended");
            std::thread::sleep(SETTLE);
        }
        let (mut without, mut with, mut overheads) = (Vec::new(), Vec::new(), Vec::new());
        for pair in 0..pairs {
            let first_is_tracked = pair % 2 == 1;
            let (first, second) = (slice(bed, first_is_tracked)?, slice(bed, !first_is_tracked)?);
            let (tracked, plain) = if first_is_tracked {
                (first, second)
            } else {
                (second, first)
            };
            with.push(tracked);
            without.push(plain);
            overheads.push(1.0 - tracked / plain);
        }
        ensure!(writer.is_running()?, "fio has ended");
        let title =
            format!("`fio` random writes of 4 KiB, queue depth {depth}, {pairs} pairs of {SLICE:?} in turn");
        table(
            &title,
            "writes/s",
            &[("without the tracker", &without), ("with", &with)],
        );
        say("");
        share(
            "tracker's share of the throughput, pair by pair",
            &overheads,
            0.02,
        );
    }
    program_times(bed)
}

/// Writes per second that the disk does for a while.
fn slice(bed: &Bed, is_tracked: bool) -> Result<f64> {
    let held = is_tracked.then(|| bed.hold_tracker()).transpose()?;
    std::thread::sleep(SETTLE);
    let (before, since) = (writes_done(&bed.device)?, Instant::now());
    std::thread::sleep(SLICE);
    let (after, took) = (writes_done(&bed.device)?, since.elapsed());
    drop(held);
    ensure!(after > before, "fio writes nothing");
    Ok((after - before) as f64 / took.as_secs_f64())
}

/// Write requests that a disk has completed: the fifth number of its `stat` in sysfs.
fn writes_done(device: &Path) -> Result<u64> {
    let name = device.file_name().context("a device has a name")?;
    let stat = std::fs::read_to_string(Path::new("/sys/class/block").join(name).join("stat"))?;
    let writes = stat.split_whitespace().nth(4).context("no count of writes")?;
    Ok(writes.parse()?)
}

/// Time of the programs themselves.
fn program_times(bed: &Bed) -> Result<()> {
    let _counting = Counting::start()?;
    let (mut nanoseconds, mut runs, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        let held = bed.hold_tracker()?;
        let sum = || {
            let programs = held.programs();
            let add = |of: fn(&crate::bed::Program) -> u64| programs.iter().map(of).sum::<u64>();
            (add(|program| program.nanoseconds), add(|program| program.runs))
        };
        let before = sum();
        let writes = written(bed)?;
        let after = sum();
        let each = (after.0 - before.0) as f64 / writes.count as f64;
        nanoseconds.push(each);
        runs.push((after.1 - before.1) as f64 / writes.count as f64);
        shares.push(each * writes.per_second / 1e9 / writes.processor_share.max(0.001));
    }
    table(
        "BPF programs, by the kernel's statistics, queue depth 1",
        "",
        &[("ns for one write", &nanoseconds), ("runs for one write", &runs)],
    );
    say(&format!(
        "\nThat is {:.2} % of the processor time that fio takes for a write; taking the time is included.",
        median(&shares) * 100.0
    ));
    Ok(())
}

/// The kernel takes the time of BPF programs while this lives.
struct Counting(String);

impl Counting {
    fn start() -> Result<Self> {
        let before = std::fs::read_to_string(STATISTICS).context("this kernel has no statistics of BPF")?;
        std::fs::write(STATISTICS, "1")?;
        Ok(Self(before))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let _ = std::fs::write(STATISTICS, &self.0);
    }
}

/// fio, which writes to the whole disk at random for as long.
fn fio(bed: &Bed, depth: u32, time: Duration) -> Command {
    let mut fio = Command::new("fio");
    fio.args([
        "--name=w",
        "--rw=randwrite",
        "--bs=4k",
        "--direct=1",
        "--ioengine=libaio",
        "--time_based",
        "--randrepeat=1",
        // Not a process of its own, which would outlive it.
        "--thread",
        "--output-format=json",
    ]);
    fio.arg(format!("--iodepth={depth}"))
        .arg(format!("--runtime={}", time.as_secs()))
        .arg(format!("--filename={}", bed.device.display()));
    if depth == 1 {
        // Who waits for each write is faster or slower by a third from one processor to another.
        fio.arg("--cpus_allowed=0");
    }
    fio
}

/// What fio itself says of its writes, each of which waits for the one before.
fn written(bed: &Bed) -> Result<Writes> {
    let report: Value = serde_json::from_slice(&call(&mut fio(bed, 1, Duration::from_secs(2)))?)?;
    let job = &report["jobs"][0];
    let number = |value: &Value| value.as_f64().context("fio reports no rate");
    Ok(Writes {
        per_second: number(&job["write"]["iops"])?,
        count: number(&job["write"]["total_ios"])? as u64,
        processor_share: (number(&job["usr_cpu"])? + number(&job["sys_cpu"])?) / 100.0,
    })
}
