//! What the tracker costs those who write: many short runs of fio with and without it in turn, compared pair by pair.
//!
//! Noise of the machine changes within seconds, so only neighbours are compared, and the order within a pair changes from
//! pair to pair. Beside it, from the kernel's own statistics, the time that the programs take for one write: that figure
//! hardly depends on what else runs.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::bed::{Bed, call};
use crate::measure::{say, share, table};
use crate::statistics::median;

/// Whether the kernel takes the time of BPF programs.
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";
/// Length of one run, in seconds.
const SECONDS: u32 = 2;

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
        let (mut without, mut with, mut overheads) = (Vec::new(), Vec::new(), Vec::new());
        for pair in 0..pairs {
            let mut one = |is_tracked: bool| -> Result<f64> {
                let held = if is_tracked {
                    Some(bed.hold_tracker()?)
                } else {
                    None
                };
                let writes = fio(bed, depth)?;
                drop(held);
                let side = if is_tracked { &mut with } else { &mut without };
                side.push(writes.per_second);
                Ok(writes.per_second)
            };
            let first_is_tracked = pair % 2 == 1;
            let (first, second) = (one(first_is_tracked)?, one(!first_is_tracked)?);
            let (tracked, plain) = if first_is_tracked {
                (first, second)
            } else {
                (second, first)
            };
            overheads.push(1.0 - tracked / plain);
        }
        let title = format!("`fio` random writes of 4 KiB, queue depth {depth}, {SECONDS} s each, in turn");
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
        let writes = fio(bed, 1)?;
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

fn fio(bed: &Bed, depth: u32) -> Result<Writes> {
    let mut fio = Command::new("fio");
    fio.args([
        "--name=w",
        "--rw=randwrite",
        "--bs=4k",
        "--direct=1",
        "--ioengine=libaio",
        "--time_based",
        "--randrepeat=1",
        "--output-format=json",
    ]);
    fio.arg(format!("--iodepth={depth}"))
        .arg(format!("--runtime={SECONDS}"))
        .arg(format!("--filename={}", bed.device.display()));
    let report: Value = serde_json::from_slice(&call(&mut fio)?)?;
    let job = &report["jobs"][0];
    let number = |value: &Value| value.as_f64().context("fio reports no rate");
    Ok(Writes {
        per_second: number(&job["write"]["iops"])?,
        count: number(&job["write"]["total_ios"])? as u64,
        processor_share: (number(&job["usr_cpu"])? + number(&job["sys_cpu"])?) / 100.0,
    })
}
