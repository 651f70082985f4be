//! The measurements. Each makes its two sides in turn and prints a table of medians, with the goal where there is one.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::bed::{Bed, Run, call};
use crate::statistics::{interval, median};

/// Limit for the comparison with a link, in KiB per second: 100 MB/s, which this machine's processors can fill.
const LINK_KIB: u64 = 97_656;

/// Prints a line of a table.
#[expect(clippy::print_stdout, reason = "the result of a benchmark")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// Prints a table: its head, and rows of a name and the values of its repetitions.
pub(crate) fn table(title: &str, unit: &str, rows: &[(&str, &[f64])]) {
    say(&format!("\n| {title} | median {unit} | least–most | runs |"));
    say("| --- | ---: | ---: | ---: |");
    for (name, values) in rows {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        say(&format!(
            "| {name} | {} | {}–{} | {} |",
            short(median(values)),
            short(least),
            short(most),
            values.len()
        ));
    }
}

/// Three or four significant digits.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Prints a value beside its goal.
pub(crate) fn goal(what: &str, value: f64, is_reached: bool, promised: &str) {
    let verdict = if is_reached { "reached" } else { "missed" };
    say(&format!("- {what}: {value:.3}, promised {promised}: {verdict}"));
}

/// Throughput of both rounds and runs, in MB/s.
#[derive(Default)]
struct Copies {
    rounds: Vec<f64>,
    runs: Vec<f64>,
}

impl Copies {
    fn add(&mut self, bytes: u64, run: &Run) -> Result<()> {
        let round = run.rounds.first().context("no round")?;
        self.rounds.push(bytes as f64 / round / 1e6);
        self.runs.push(bytes as f64 / run.seconds / 1e6);
        Ok(())
    }
}

/// Full round against plain reading, and against a limited link.
pub(crate) fn full(bed: &Bed, repeat: usize) -> Result<()> {
    let (mut read, mut copied, mut limited) = (Vec::new(), Copies::default(), Copies::default());
    let (mut processor, mut memory) = ([Vec::new(), Vec::new()], [0, 0]);
    for _ in 0..repeat {
        let begin = Instant::now();
        let disk = format!("if={}", bed.device.display());
        call(Command::new("dd").args([&disk, "of=/dev/null", "bs=1M", "iflag=direct"]))?;
        read.push(bed.len as f64 / begin.elapsed().as_secs_f64() / 1e6);
        bed.forget();
        bed.furnish()?;
        let run = bed.sync(&["--compress", "off"])?;
        copied.add(bed.len, &run)?;
        for (at, usage) in [run.source, run.target].into_iter().enumerate() {
            processor[at].push(usage.processor_seconds * 1e9 / bed.len as f64);
            memory[at] = usage.memory.max(memory[at]);
        }
        bed.forget();
        bed.furnish()?;
        let run = bed.sync(&["--compress", "off", "--bandwidth-limit", &LINK_KIB.to_string()])?;
        limited.add(run.number("bytes_wire"), &run)?;
    }
    let link = (LINK_KIB * 1024) as f64 / 1e6;
    let title = format!(
        "full round of {} MiB of random content, not compressed",
        bed.len >> 20
    );
    table(
        &title,
        "MB/s",
        &[
            ("plain `dd bs=1M iflag=direct` of the source", &read),
            ("full round, durable at the target", &copied.rounds),
            ("the same, with beginning and end of the run", &copied.runs),
            (
                "wire bytes of a full round over a link of 100 MB/s",
                &limited.rounds,
            ),
            ("the same, with beginning and end of the run", &limited.runs),
        ],
    );
    table(
        "processor time of a full round, per byte",
        "ns",
        &[("source", &processor[0]), ("target", &processor[1])],
    );
    say(&format!(
        "\nMemory at most: source {} MiB, target {} MiB.\n",
        memory[0] >> 20,
        memory[1] >> 20
    ));
    let ratio = median(&copied.rounds) / median(&read);
    goal("full round to reading", ratio, ratio >= 0.9, "at least 0.9");
    let ratio = median(&limited.rounds) / link;
    goal("full round to the link", ratio, ratio >= 0.9, "at least 0.9");
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
        frozen.push(run.number("frozen_ms") as f64 / 1e3);
    }
    let title = format!(
        "{} MiB, 1 % of the chunks changed (a block of 4 KiB each)",
        bed.len >> 20
    );
    table(
        &title,
        "s",
        &[
            ("rescan by digest", &rescans),
            ("tracked round", &tracked),
            ("last frozen time", &frozen),
        ],
    );
    say("");
    let ratio = median(&rescans) / median(&tracked);
    goal("rescan to tracked round", ratio, ratio >= 20.0, "at least 20");
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
    let mut partclone = partclone
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run partclone.ext4; install it")?;
    let image = partclone.stdout.take().context("no output")?;
    let packed = Command::new("zstd")
        .args(["-3", "-T0", "-c"])
        .stdin(image)
        .output()?;
    partclone.wait()?;
    let theirs = packed.stdout.len() as u64;
    say("\n| wire bytes of a mounted ext4 with programs and documents, zstd level 3 | |");
    say("| --- | ---: |");
    say(&format!("| `go2cloud sync --disk --compress 3` | {ours} |"));
    say(&format!(
        "| `partclone.ext4` piped into `zstd -3`, unmounted afterwards | {theirs} |\n"
    ));
    let ratio = ours as f64 / theirs as f64;
    goal(
        "wire bytes to partclone and zstd",
        ratio,
        ratio <= 1.03,
        "at most 1.03",
    );
    Ok(())
}

/// Prints a share with its 95 % interval. Only bounds beyond the goal decide: what the noise hides is neither.
pub(crate) fn share(what: &str, values: &[f64], most: f64) {
    let (low, high) = interval(values);
    let verdict = if high <= most {
        "reached"
    } else if low > most {
        "missed"
    } else {
        "hidden by noise"
    };
    say(&format!(
        "- {what}: {:.2} % (95 % interval {:.2} to {:.2}), promised at most {:.0} %: {verdict}",
        median(values) * 100.0,
        low * 100.0,
        high * 100.0,
        most * 100.0
    ));
}
