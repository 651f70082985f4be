//! The measurements. Each prints its two sides and their ratio.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::bed::{Bed, call};

/// Limit for the comparison with a link, in bytes per second: 800 Mbit/s, which this machine's processors can fill.
const LINK: u64 = 100_000_000;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[expect(clippy::print_stdout, reason = "the result of a benchmark")]
fn print(value: &Value) {
    println!("{value}");
}

/// Full round against plain reading, against a limited link; memory of both sides.
pub(crate) fn full(bed: &Bed, repeat: usize) -> Result<()> {
    let (mut read, mut copied, mut limited) = (Vec::new(), Vec::new(), Vec::new());
    let (mut source_memory, mut target_memory) = (0, 0);
    for _ in 0..repeat {
        let begin = Instant::now();
        let disk = format!("if={}", bed.device.display());
        call(Command::new("dd").args([&disk, "of=/dev/null", "bs=1M", "iflag=direct"]))?;
        read.push(bed.len as f64 / begin.elapsed().as_secs_f64());
        bed.forget();
        let run = bed.sync(&["--compress", "off"])?;
        copied.push(bed.len as f64 / run.seconds);
        source_memory = source_memory.max(run.source_memory);
        target_memory = target_memory.max(run.target_memory);
    }
    bed.forget();
    let limit = (LINK / 1024).to_string();
    let run = bed.sync(&["--compress", "off", "--bandwidth-limit", &limit])?;
    limited.push(run.number("bytes_wire") as f64 / run.seconds);
    let (read, copied, limited) = (median(read), median(copied), median(limited));
    print(&json!({
        "measure": "full round", "bytes": bed.len, "read_only_bytes_per_second": read,
        "copy_bytes_per_second": copied, "copy_to_read": copied / read,
        "link_bytes_per_second": LINK, "copy_over_link_bytes_per_second": limited, "copy_to_link": limited / LINK as f64,
        "source_memory": source_memory, "target_memory": target_memory,
    }));
    Ok(())
}

/// A tracked round with 1 % of the chunks changed against a rescan with as many.
pub(crate) fn rounds(bed: &Bed, repeat: usize) -> Result<()> {
    bed.forget();
    bed.sync(&[])?;
    let script = bed.dirty_script(1)?;
    let python = format!("python3 {}", script.display());
    let (mut rescans, mut tracked, mut frozen) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..repeat {
        call(Command::new("python3").arg(&script))?;
        let run = bed.sync(&[])?;
        rescans.push(*run.rounds.first().context("no round")?);
        // The first round is a rescan that finds nothing; the second, after the command, is the tracked one.
        let run = bed.sync(&["--freeze", "--freeze-max", "60", "--pre-freeze", &python])?;
        tracked.push(*run.rounds.get(1).context("no second round")?);
        frozen.push(run.number("frozen_ms") as f64);
    }
    let (rescan, tracked) = (median(rescans), median(tracked));
    print(&json!({
        "measure": "round with 1 % changed", "bytes": bed.len, "rescan_seconds": rescan, "tracked_seconds": tracked,
        "ratio": rescan / tracked, "frozen_ms": median(frozen),
    }));
    Ok(())
}

/// Wire bytes of the mounted file system against partclone and zstd at the same level of the unmounted one.
pub(crate) fn wire(bed: &Bed) -> Result<()> {
    let ours = bed.sync(&["--compress", "3"])?.number("bytes_wire");
    let point = bed.mount.as_ref().context("not mounted")?;
    call(Command::new("umount").arg(point))?;
    let mut partclone = Command::new("partclone.ext4");
    partclone
        .args(["-c", "-q", "-L", "/dev/null", "-s"])
        .arg(&bed.device)
        .args(["-o", "-"]);
    let mut partclone = partclone.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let image = partclone.stdout.take().context("no output")?;
    let packed = Command::new("zstd")
        .args(["-3", "-T0", "-c"])
        .stdin(image)
        .output()?;
    partclone.wait()?;
    let theirs = packed.stdout.len() as u64;
    print(&json!({
        "measure": "wire bytes", "go2cloud": ours, "partclone_zstd": theirs, "ratio": ours as f64 / theirs as f64,
    }));
    Ok(())
}

/// Write throughput of fio with and without the tracker, in turn.
pub(crate) fn tracker(bed: &Bed, repeat: usize) -> Result<()> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..repeat {
        without.push(fio(bed)?);
        let held = bed.hold_tracker()?;
        with.push(fio(bed)?);
        drop(held);
    }
    let (without, with) = (median(without), median(with));
    print(&json!({
        "measure": "tracker", "writes_per_second_without": without, "writes_per_second_with": with,
        "overhead": 1.0 - with / without,
    }));
    Ok(())
}

fn fio(bed: &Bed) -> Result<f64> {
    let mut fio = Command::new("fio");
    fio.args([
        "--name=w",
        "--rw=randwrite",
        "--bs=4k",
        "--direct=1",
        "--ioengine=libaio",
        "--iodepth=8",
    ]);
    fio.args(["--runtime=4", "--time_based", "--output-format=json"])
        .arg(format!("--filename={}", bed.device.display()));
    let report: Value = serde_json::from_slice(&call(&mut fio)?)?;
    report["jobs"][0]["write"]["iops"]
        .as_f64()
        .context("fio reports no rate")
}
