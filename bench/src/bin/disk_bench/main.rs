//! Measures the disk engine through the programs, on loop devices: rounds, throughput, wire bytes, memory, tracker.
//!
//! Every comparison is made in one run, A and B in turn, and printed as tables in Markdown. Needs root, `losetup`,
//! `mkfs.ext4`, `partclone.ext4`, `zstd`, `python3` and `fio`. Build all with `--release`.

mod bed;
mod limit;
mod measure;
mod memory;
mod statistics;
mod tracker;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use bed::{Bed, Place};
use limit::ReadLimit;

#[derive(Debug, Parser)]
#[command(name = "disk_bench", about = "Measures how disks are copied")]
struct Cli {
    /// What to measure; everything when nothing is named
    what: Vec<What>,
    /// Size of the disk of random content, in MiB
    #[arg(long, default_value_t = 4096)]
    disk_mib: u64,
    /// How much of it holds something, in MiB; the rest has no blocks [default: all of it]
    #[arg(long)]
    filled_mib: Option<u64>,
    /// Lets the disk of random content be read at so many MB/s at most
    #[arg(long)]
    disk_speed: Option<u64>,
    /// Repetitions of A and B
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// Pairs of slices of time with and without the tracker
    #[arg(long, default_value_t = 300)]
    pairs: usize,
    /// Size of the disk whose copy's memory is measured, in MiB; it takes little space
    #[arg(long, default_value_t = 1 << 20)]
    memory_mib: u64,
    /// Folder for disks, images and state
    #[arg(long, default_value = "/var/tmp")]
    work: PathBuf,
    /// Folder in memory, for the disk that is written to with and without the tracker
    #[arg(long, default_value = "/dev/shm")]
    volatile: PathBuf,
    /// Folder for the target's image and journal [default: the other one]; in memory, the target's disk does not limit
    #[arg(long)]
    target: Option<PathBuf>,
    /// Folder of the programs under test [default: the one this program is in]
    #[arg(long)]
    programs: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Full round against reading the disk and against the link
    Full,
    /// A tracked round with 1 % changed against a rescan by digest
    Rounds,
    /// The same on an empty disk, which takes no space however large it is
    Sparse,
    /// Wire bytes of a mounted file system against partclone and zstd
    Wire,
    /// Write throughput with and without the tracker
    Tracker,
    /// Memory of both sides on a disk of a TiB
    Memory,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let wants = |what| cli.what.is_empty() || cli.what.contains(&what);
    let programs = match &cli.programs {
        Some(folder) => folder.clone(),
        None => std::env::current_exe()?
            .parent()
            .map(PathBuf::from)
            .unwrap_or_default(),
    };
    let place = Place {
        work: cli.work.clone(),
        target: cli.target.clone().unwrap_or_else(|| cli.work.clone()),
        programs,
    };
    if wants(What::Full) || wants(What::Rounds) {
        let bed = Bed::random(&place, cli.disk_mib, cli.filled_mib.unwrap_or(cli.disk_mib))?;
        let limit = |speed| ReadLimit::new(&bed.device, speed * 1_000_000);
        let _limit = cli.disk_speed.map(limit).transpose()?;
        if wants(What::Full) {
            measure::full(&bed, cli.repeat)?;
        }
        if wants(What::Rounds) {
            measure::rounds(&bed, cli.repeat)?;
        }
    }
    if wants(What::Sparse) {
        measure::rounds(&Bed::empty(&place, cli.disk_mib)?, cli.repeat)?;
    }
    if wants(What::Wire) {
        measure::wire(&Bed::file_system(&place, cli.disk_mib)?)?;
    }
    if wants(What::Tracker) {
        let place = Place {
            work: cli.volatile.clone(),
            target: cli.volatile.clone(),
            programs: place.programs.clone(),
        };
        tracker::tracker(&Bed::random(&place, 512, 512)?, cli.pairs)?;
    }
    if wants(What::Memory) {
        memory::memory(&place, cli.memory_mib)?;
    }
    Ok(())
}
