//! Load on a control plane: a fleet of registered sources that are heard from every 30 s, some of them with a running
//! job that reports every 2 s, over TLS, each source with a connection and temporary key of its own.
//!
//! First the fleet works undisturbed and each request is timed, from the moment it was due, so that a late client does
//! not make the server look fast. Then the control plane is killed in the middle of the load and started again, and
//! everything that it had answered must still be there.

mod fleet;
mod loss;
mod plane;
mod times;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use fleet::{Fleet, Size};
use plane::Plane;

/// The slowest request of a hundred may take this long.
const P99_MAX: Duration = Duration::from_millis(50);
/// The control plane may occupy this much memory.
const RESIDENT_MIB_MAX: u64 = 150;
/// Open files that both programs need: one connection for each source, and some.
const FILES_MIN: u64 = 8192;

/// Loads a control plane and measures it.
#[derive(Debug, Parser)]
struct Arguments {
    /// Program to measure.
    #[arg(
        long,
        default_value = "target/x86_64-unknown-linux-gnu/release/go2cloud-control"
    )]
    program: std::path::PathBuf,
    /// Registered sources, each heard from every 30 s.
    #[arg(long, default_value_t = 1000)]
    sources: usize,
    /// Running jobs, each reporting every 2 s.
    #[arg(long, default_value_t = 100)]
    jobs: usize,
    /// Each source asks for its jobs this often, in seconds; 0 for never.
    #[arg(long, default_value_t = 10)]
    poll_seconds: u64,
    /// How long the undisturbed load lasts, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How long the load lasts before the control plane is killed, and after, in seconds.
    #[arg(long, default_value_t = 8)]
    disturbed_seconds: u64,
    /// PostgreSQL to keep the data in, instead of the program's own file.
    #[arg(long)]
    database: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let outcome = runtime
        .context("starting the runtime")
        .and_then(|runtime| runtime.block_on(run(&arguments)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(format!("failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the numbers are what this program is for")]
fn report(line: impl std::fmt::Display) {
    println!("{line}");
}

async fn run(arguments: &Arguments) -> Result<()> {
    raise_file_limit()?;
    let mut plane = Plane::start(&arguments.program, arguments.database.as_deref())?;
    let size = Size {
        sources: arguments.sources,
        jobs: arguments.jobs,
        poll: seconds(arguments.poll_seconds),
    };
    let fleet = Fleet::register(&plane, size).await?;
    report(format!(
        "registered {} sources, {} jobs run",
        arguments.sources, arguments.jobs
    ));

    let cpu_before = plane.cpu_seconds()?;
    let times = fleet.work(Duration::from_secs(arguments.seconds)).await;
    let cpu = (plane.cpu_seconds()? - cpu_before) / Duration::from_secs(arguments.seconds).as_secs_f64();
    let memory = plane.memory()?;
    for line in times.lines() {
        report(line);
    }
    report(format!(
        "resident {} MiB, at most {} MiB; {:.1} % of one core",
        memory.now_mib,
        memory.most_mib,
        cpu * 100.0
    ));
    let p99 = times.p99();
    ensure!(
        times.failures.is_empty(),
        "{} requests failed, the first: {}",
        times.failures.len(),
        times.failures[0]
    );

    let restart = loss::kill_under_load(
        &mut plane,
        &fleet,
        Duration::from_secs(arguments.disturbed_seconds),
    )
    .await?;
    report(restart);

    ensure!(p99 < P99_MAX, "p99 is {p99:?}, more than {P99_MAX:?}");
    ensure!(
        memory.most_mib < RESIDENT_MIB_MAX,
        "memory is {} MiB, more than {RESIDENT_MIB_MAX} MiB",
        memory.most_mib
    );
    Ok(())
}

fn seconds(number: u64) -> Option<Duration> {
    (number > 0).then(|| Duration::from_secs(number))
}

fn raise_file_limit() -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < FILES_MIN) {
        limit.current = Some(limit.maximum.map_or(FILES_MIN, |most| most.min(FILES_MIN)));
        setrlimit(Resource::Nofile, limit).context("raising the limit of open files")?;
    }
    Ok(())
}
