//! Raw arguments, as the user typed them. Nothing is checked against the world here; see [`crate::plan`].

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::boot_check::BootCheckArgs;
use crate::convert::command::ConvertArgs;
use crate::layout::command::{InventoryArgs, LayoutArgs};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "go2cloud-receiver",
    version,
    about = "Receives a migration: writes, verifies and journals what the source sends, and makes it boot",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage.\n\
                  The program stays up between runs and ends on SIGTERM or SIGINT after making its journal durable."
)]
pub struct Cli {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Serving a migration.
    #[command(flatten)]
    pub serve: Option<ServeArgs>,

    /// Log more (repeat for still more).
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a migrated system boot on KVM with virtio
    Convert(Box<ConvertArgs>),
    /// Prove that a system boots: start a converted copy-on-write overlay of its disks in a virtual machine
    BootCheck(Box<BootCheckArgs>),
    /// At the source: describe its disks, for `layout` at the target
    Inventory(InventoryArgs),
    /// Make the target's disks what the source's are: partitions, volume groups, file systems
    Layout(LayoutArgs),
}

/// What serving needs.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Numeric address and port to listen on; port 0 takes a free one and reports it
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,

    /// File whose first line is the migration's secret (32 to 512 bytes)
    #[arg(long, value_name = "FILE")]
    pub secret_file: PathBuf,

    /// Directory that receives the source's tree
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "into_disk",
        conflicts_with = "into_disk"
    )]
    pub into: Option<PathBuf>,

    /// Disk or image file that receives a source disk, NAME.qcow2 by way of a raw copy beside it; repeat in the order of the
    /// source's disks
    #[arg(long, value_name = "DEVICE|FILE")]
    pub into_disk: Vec<PathBuf>,

    /// Overwrite a disk that already carries a partition table or a file system
    #[arg(long, conflicts_with = "into")]
    pub overwrite: bool,

    /// Folder of the journal [default: /var/lib/go2cloud/receiver/ and a hash of the target's path]
    #[arg(long, value_name = "DIR")]
    pub journal: Option<PathBuf>,

    /// Write events to standard output, one JSON object per line
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_contract_of_the_tree_and_of_the_disk_is_understood() {
        let tree =
            parse("go2cloud-receiver --listen 10.0.0.2:443 --secret-file s.key --into /mnt/target").unwrap();
        assert_eq!(tree.serve.unwrap().into.unwrap(), PathBuf::from("/mnt/target"));
        let disks = parse(
            "go2cloud-receiver --listen [::1]:0 --secret-file s.key --into-disk /dev/vdb --into-disk x.img --overwrite",
        )
        .unwrap();
        let disks = disks.serve.unwrap();
        assert_eq!(disks.into_disk.len(), 2);
        assert!(disks.overwrite);
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "r --listen 127.0.0.1:0 --secret-file s",
            "r --listen 127.0.0.1:0 --secret-file s --into a --into-disk b",
            "r --listen 127.0.0.1:0 --secret-file s --into a --overwrite",
            "r --listen localhost:0 --secret-file s --into a",
            "r --secret-file s --into a",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
