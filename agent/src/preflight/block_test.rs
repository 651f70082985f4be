//! `-blocktest`: per disk, whether block-level migration will work, and why not.

use std::path::Path;

use serde::Serialize;
use sys::block_device::{Access, BlockDevice, DirectFile};

use super::trackers::tracker;
use crate::exit::{self, Exit};
use crate::inventory::{Disk, Inventory};
use crate::output::{Style, say};
use crate::units;

/// The verdict about one disk.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// Its device.
    pub device: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Whether block-level migration will work.
    pub possible: bool,
    /// Why not.
    pub obstacles: Vec<String>,
    /// How its changes will be tracked; without a tracker, every used block is read again in each round.
    pub tracker: Option<String>,
}

/// Tests all disks, prints the verdicts and gives the exit code: 0 when all can be migrated.
pub fn run(style: Style, inventory: &Inventory) -> Exit {
    let verdicts: Vec<Verdict> = inventory.disks.iter().map(verdict).collect();
    match style {
        Style::Json => {
            let line = serde_json::json!({ "event": "blocktest", "disks": verdicts });
            say(&line.to_string());
        }
        Style::Quiet => {}
        Style::People => verdicts.iter().for_each(|verdict| say(&text(verdict))),
    }
    if verdicts.is_empty() {
        say("No disk is visible.");
        exit::CHECK_FAILED
    } else if verdicts.iter().all(|verdict| verdict.possible) {
        exit::DONE
    } else {
        exit::CHECK_FAILED
    }
}

fn verdict(disk: &Disk) -> Verdict {
    let mut obstacles = disk.block_obstacles.clone();
    for partition in &disk.partitions {
        obstacles.extend(
            partition
                .block_obstacles
                .iter()
                .map(|why| format!("{}: {why}", partition.device)),
        );
    }
    let path = Path::new(&disk.device);
    if let Err(error) = read_directly(path) {
        obstacles.push(format!("cannot be read past the page cache: {error}"));
    }
    Verdict {
        device: disk.device.clone(),
        bytes: disk.bytes,
        possible: obstacles.is_empty(),
        obstacles,
        tracker: tracker(path).ok(),
    }
}

/// Opens the disk as the migration will, and reads its first block.
fn read_directly(path: &Path) -> std::io::Result<()> {
    let device = BlockDevice::look(path)?.ok_or_else(|| std::io::Error::other("not a block device"))?;
    let file = DirectFile::open(path, Access::Read)?;
    let mut buffer = sys::aligned::AlignedBuffer::zeroed(4096.max(device.logical_sector_len as usize));
    file.read_exact_at(&mut buffer, 0)
}

fn text(verdict: &Verdict) -> String {
    let size = units::bytes(verdict.bytes);
    let tracker = verdict
        .tracker
        .as_deref()
        .unwrap_or("no tracker: each round reads every used block");
    if verdict.possible {
        format!(
            "{} ({size}): block-level migration is possible; {tracker}",
            verdict.device
        )
    } else {
        format!(
            "{} ({size}): not possible: {}",
            verdict.device,
            verdict.obstacles.join("; ")
        )
    }
}
