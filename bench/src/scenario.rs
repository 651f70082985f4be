//! The workloads, and the one way in which tools compete on them.

mod database;
mod impact;
mod large_files;
mod limit;
mod memory;
mod round_trips;
mod small_files;
mod sparse;
mod unchanged;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::RunArgs;
use crate::measure::Sample;
use crate::network::Link;
use crate::site::Site;
use crate::table::Row;
use crate::tool::{Job, Tool};

/// One workload.
struct Scenario {
    name: &'static str,
    what: &'static str,
    run: fn(&mut Site, &RunArgs) -> Result<()>,
}

const ALL: [Scenario; 10] = [
    Scenario {
        name: "small-files",
        what: "full round of 200,000 small files with a source tree's mix of sizes",
        run: small_files::run,
    },
    Scenario {
        name: "large-random",
        what: "full round of 4 GiB of random bytes in large files",
        run: large_files::random,
    },
    Scenario {
        name: "large-text",
        what: "full round of 4 GiB of text in large files",
        run: large_files::text,
    },
    Scenario {
        name: "unchanged",
        what: "a round in which none of 500,000 files changed, by sweep and by tracker",
        run: unchanged::run,
    },
    Scenario {
        name: "database",
        what: "a round after 1 % of the 8 KiB pages of an 8 GiB file changed",
        run: database::run,
    },
    Scenario {
        name: "round-trips",
        what: "1,000 small files over a link with 100 ms of round-trip time",
        run: round_trips::run,
    },
    Scenario {
        name: "sparse",
        what: "50 files of 10 MiB with 80 % holes",
        run: sparse::run,
    },
    Scenario {
        name: "memory",
        what: "resident memory of both sides with 2,000,000 files",
        run: memory::run,
    },
    Scenario {
        name: "limit",
        what: "exactness of the bandwidth limit at 1, 10 and 25 MiB/s",
        run: limit::run,
    },
    Scenario {
        name: "impact",
        what: "page cache of the source before and after",
        run: impact::run,
    },
];

/// Prints names and descriptions.
pub(crate) fn list() -> Result<()> {
    let mut out = std::io::stdout().lock();
    for scenario in &ALL {
        writeln!(out, "{:12} {}", scenario.name, scenario.what)?;
    }
    Ok(())
}

/// Runs what `args` names.
pub(crate) fn run(args: &RunArgs) -> Result<()> {
    if let Some(unknown) = args
        .scenarios
        .iter()
        .find(|name| ALL.iter().all(|scenario| scenario.name != **name))
    {
        bail!("there is no scenario {unknown}; see: bench list");
    }
    if let Some(unknown) = args
        .tools
        .iter()
        .find(|name| Tool::ALL.iter().all(|tool| tool.name() != **name))
    {
        bail!("there is no tool {unknown}");
    }
    let chosen = |scenario: &&Scenario| {
        args.scenarios.is_empty() || args.scenarios.iter().any(|name| name == scenario.name)
    };
    for scenario in ALL.iter().filter(chosen) {
        let mut site = Site::new(args)?;
        (scenario.run)(&mut site, args)?;
    }
    Ok(())
}

/// `count` made smaller by the scale, at least 1.
fn scaled(args: &RunArgs, count: u64) -> u64 {
    ((count as f64 * args.scale) as u64).max(1)
}

/// The links to use: those asked for, of `sensible` otherwise.
fn links(args: &RunArgs, sensible: &[Link]) -> Vec<Link> {
    match args.links.is_empty() {
        true => sensible.to_vec(),
        false => args.links.clone(),
    }
}

/// The tools to use on a link; go2cloud first.
fn tools(args: &RunArgs, link: Link) -> Vec<Tool> {
    let asked = |tool: &Tool| args.tools.is_empty() || args.tools.iter().any(|name| name == tool.name());
    Tool::ALL
        .into_iter()
        .filter(|tool| tool.suits(link))
        .filter(asked)
        .collect()
}

/// The job of copying `source` with `tool`, into a folder of its own.
fn job(site: &Site, tool: Tool, source: PathBuf) -> Job {
    Job {
        source,
        target: site.path(&format!("target-{}", tool.name())),
        state: site.path(&format!("state-{}", tool.name())),
        ..Job::default()
    }
}

/// Every tool copies `source` to an empty target, in turn, `args.repeat` times.
fn full_rounds(site: &Site, args: &RunArgs, tools: &[Tool], change: impl Fn(&mut Job)) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = tools.iter().map(|tool| row(*tool)).collect();
    for repetition in 0..args.repeat {
        for (tool, row) in tools.iter().zip(&mut rows) {
            let mut job = job(site, *tool, site.path("source"));
            change(&mut job);
            empty(site, &job)?;
            let volume = site.volume()?;
            job.target = volume.path().join("target");
            row.samples.push(tool.copy(site, &job)?);
            if args.verify && repetition == 0 && *tool == Tool::Go2cloud {
                verify(site, &job)?;
            }
        }
    }
    Ok(rows)
}

fn row(tool: Tool) -> Row {
    Row {
        tool: tool.name().into(),
        samples: Vec::new(),
    }
}

fn empty(site: &Site, job: &Job) -> Result<()> {
    for folder in [&job.target, &job.state] {
        let name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        site.empty(&name)?;
    }
    Ok(())
}

/// Every incremental tool copies `source` once, unmeasured, then after each `change` once more.
fn incremental_rounds(
    site: &Site,
    args: &RunArgs,
    tools: &[Tool],
    adapt: impl Fn(&mut Job),
    mut change: impl FnMut(u64) -> Result<()>,
) -> Result<Vec<Row>> {
    let tools: Vec<Tool> = tools
        .iter()
        .copied()
        .filter(|tool| tool.is_incremental())
        .collect();
    let mut rows: Vec<Row> = tools.iter().map(|tool| row(*tool)).collect();
    let jobs: Vec<Job> = tools
        .iter()
        .map(|tool| {
            let mut job = job(site, *tool, site.path("source"));
            adapt(&mut job);
            job
        })
        .collect();
    for (tool, job) in tools.iter().zip(&jobs) {
        empty(site, job)?;
        tool.copy(site, job)?;
    }
    for repetition in 0..args.repeat {
        change(repetition as u64)?;
        for ((tool, job), row) in tools.iter().zip(&jobs).zip(&mut rows) {
            row.samples.push(tool.copy(site, job)?);
            if args.verify && repetition == 0 && *tool == Tool::Go2cloud {
                verify(site, job)?;
            }
        }
    }
    for job in &jobs {
        empty(site, job)?;
    }
    Ok(rows)
}

/// Fails unless the copy is like its source in everything.
fn verify(site: &Site, job: &Job) -> Result<()> {
    let output = Command::new(site.program("go2cloud-compare"))
        .arg(&job.source)
        .arg(&job.target)
        .output()?;
    ensure!(
        output.status.success(),
        "the copy differs from its source:\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(())
}

/// Makes a source tree of `count` files as the workload.
fn source_code(site: &Site, count: u64) -> Result<()> {
    let source = site.empty("source")?;
    let mut command = Command::new(site.program("go2cloud-maketree"));
    command
        .arg("source-code")
        .arg(source)
        .args(["1", &count.to_string()]);
    ensure!(command.status()?.success(), "{command:?} failed");
    site.settle()
}

/// Duration of one round of a go2cloud run, in seconds, from its events.
fn round_seconds(sample: &Sample, round: u64) -> Option<f64> {
    sample.output.lines().find_map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        (event["event"] == "round_finished" && event["round"] == round)
            .then(|| event["progress"]["seconds"].as_f64())
            .flatten()
    })
}
