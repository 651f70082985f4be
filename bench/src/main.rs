//! Side-by-side benchmarks: go2cloud against rsync over ssh, the rsync daemon and tar|zstd|nc, on one machine, in two
//! network namespaces joined by a link of a chosen speed; and `cp` as the yardstick for what the machine itself takes.
//!
//! `bench run` makes its own data, servers, keys and namespaces, copies each workload with each tool in turn (so that
//! what else happens on the machine hits all of them), and prints medians as a Markdown table. Needs root, and the
//! programs `ip`, `tc`, `nsenter`, `rsync`, `sshd`, `ssh`, `ssh-keygen`, `tar`, `zstd`, `nc` and `fincore`. The programs
//! under test, `go2cloud-maketree` and `go2cloud-compare` are looked for beside this one: build all with `--release`.

mod data;
mod measure;
mod network;
mod relay;
mod scenario;
mod server;
mod site;
mod table;
mod tool;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "bench", about = "Benchmarks go2cloud side by side with other tools")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Names the scenarios
    List,
    /// Runs scenarios and prints a table of each
    Run(RunArgs),
    /// Passes TCP connections on with a delay in each direction (used by the scenario round-trips)
    Relay(relay::RelayArgs),
}

/// What to run and how.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Scenarios; all of them when none is named
    pub scenarios: Vec<String>,
    /// Copies by each tool of which the median is taken
    #[arg(long, default_value_t = 5)]
    pub repeat: usize,
    /// Makes the workloads smaller: 0.1 takes a tenth of the files, or of the bytes where there are few files
    #[arg(long, default_value_t = 1.0)]
    pub scale: f64,
    /// Folder for data; needs as much space as three copies of the largest workload
    #[arg(long, default_value = "/var/tmp")]
    pub work: PathBuf,
    /// Folder for the file systems that full rounds copy to [default: the work folder]; one in memory, as /dev/shm, where the
    /// disk is slower than the tools, or shared
    #[arg(long)]
    pub volumes: Option<PathBuf>,
    /// Folder of the programs under test [default: the one this program is in]
    #[arg(long)]
    pub programs: Option<PathBuf>,
    /// Only these links: unlimited, 1gbit, 100mbit
    #[arg(long, value_delimiter = ',')]
    pub links: Vec<network::Link>,
    /// Only these tools, for instance go2cloud,rsync-daemon
    #[arg(long, value_delimiter = ',')]
    pub tools: Vec<String>,
    /// Further flag of go2cloud sync, for instance --flag=--compress=off; may be repeated
    #[arg(long = "flag", allow_hyphen_values = true)]
    pub flags: Vec<String>,
    /// Compare what go2cloud copied with the source, once for each row
    #[arg(long)]
    pub verify: bool,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::List => scenario::list(),
        Command::Run(args) => scenario::run(&args),
        Command::Relay(args) => relay::run(&args),
    }
}
