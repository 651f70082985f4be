//! What is measured of one copy.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::network::Network;

/// How often the memory of the processes is looked at.
const MEMORY_PERIOD: Duration = Duration::from_millis(20);

/// Clock ticks of `/proc/*/stat`, per second (USER_HZ, the same on every Linux).
const TICKS_PER_SECOND: f64 = 100.0;

/// One copy by one tool.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Duration in seconds, from the start of the client to its end.
    pub seconds: f64,
    /// The same, until everything written is on the medium of the target.
    pub durable_seconds: f64,
    /// Processor seconds of both sides, servers included.
    pub processor_seconds: f64,
    /// Bytes on the link, both directions.
    pub wire_bytes: u64,
    /// Largest resident memory of the client, in bytes; 0 when not measured.
    pub source_memory: u64,
    /// Largest resident memory of the server, in bytes; 0 when not measured.
    pub target_memory: u64,
    /// What the client printed to standard output.
    pub output: String,
}

/// Runs `client` to its end. `server` is the process id of the other side, where its memory is of interest.
pub(crate) fn measure(network: &Network, mut client: Command, server: Option<u32>) -> Result<Sample> {
    let wire_before = network.wire_bytes()?;
    let start = Instant::now();
    let child = client
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {client:?}"))?;
    let stop = AtomicBool::new(false);
    let peaks = [AtomicU64::new(0), AtomicU64::new(0)];
    let ids = [Some(child.id()), server];
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (id, peak) in ids.iter().zip(&peaks) {
                    let bytes = id.and_then(peak_memory).unwrap_or(0);
                    peak.fetch_max(bytes, Ordering::Relaxed);
                }
                std::thread::sleep(MEMORY_PERIOD);
            }
        });
        let output = child.wait_with_output();
        stop.store(true, Ordering::Relaxed);
        output
    })?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(
        output.status.success(),
        "{client:?} failed with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        last_line(&output.stdout)
    );
    let [source_memory, target_memory] = peaks.map(AtomicU64::into_inner);
    Ok(Sample {
        seconds,
        durable_seconds: seconds,
        processor_seconds: 0.0,
        wire_bytes: network.wire_bytes()? - wire_before,
        source_memory,
        target_memory,
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
    })
}

fn last_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output).into_owned();
    text.lines().last().unwrap_or_default().to_owned()
}

/// Largest resident memory of a process so far, in bytes.
fn peak_memory(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Processor seconds of all child processes that have been waited for, user and system.
pub(crate) fn children_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 16 and 17, counted from 1; the second can hold spaces and ends with the last parenthesis.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = fields
        .split_whitespace()
        .skip(13)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / TICKS_PER_SECOND
}

/// The middle of `values`, the mean of both middles when their number is even.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
    }

    #[test]
    fn waited_children_count() {
        let before = children_seconds();
        let status = Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"])
            .status();
        assert!(status.unwrap().success());
        assert!(children_seconds() > before);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(peak_memory(std::process::id()).unwrap() > 1 << 20);
    }
}
