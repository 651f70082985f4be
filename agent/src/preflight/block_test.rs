//! `-blocktest`: per disk, whether block-level migration will work, and why not.

use std::path::Path;

use serde::Serialize;
use sys::block_device::{Access, BlockDevice, DirectFile};
use transfer::disk::source::examine;

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
    /// How its changes will be tracked, or why they cannot be.
    pub tracker: Option<String>,
    /// What is read of it, partition by partition.
    pub areas: Vec<AreaVerdict>,
}

/// What is read of a part of a disk.
#[derive(Debug, Serialize)]
pub struct AreaVerdict {
    /// Number of the partition, 0 for the disk itself.
    pub partition: u32,
    /// What it holds.
    pub kind: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Bytes that are read.
    pub used: u64,
    /// How the used blocks are found, or why all of them count.
    pub method: String,
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

pub(super) fn verdict(disk: &Disk) -> Verdict {
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
    let seen = examine(path).ok();
    let areas = seen.iter().flat_map(|seen| &seen.survey.areas);
    let areas = areas.map(|area| AreaVerdict {
        partition: area.partition,
        kind: area.kind.clone(),
        bytes: area.range.end - area.range.start,
        used: area.used,
        method: area.method.clone(),
    });
    Verdict {
        areas: areas.collect(),
        tracker: seen.as_ref().map(|seen| seen.tracking.clone()),
        device: disk.device.clone(),
        bytes: disk.bytes,
        possible: obstacles.is_empty(),
        obstacles,
    }
}

/// Opens the disk as the migration will, and reads its first block.
fn read_directly(path: &Path) -> std::io::Result<()> {
    let device = BlockDevice::look(path)?.ok_or_else(|| std::io::Error::other("not a block device"))?;
    let file = DirectFile::open(path, Access::Read)?;
    let mut buffer = sys::aligned::AlignedBuffer::zeroed(4096.max(device.logical_sector_len as usize));
    file.read_exact_at(&mut buffer, 0)
}

pub(super) fn text(verdict: &Verdict) -> String {
    let size = units::bytes(verdict.bytes);
    let tracker = verdict
        .tracker
        .as_deref()
        .unwrap_or("no tracker: each round reads every used block");
    if verdict.possible {
        let areas = verdict.areas.iter().map(area_text).collect::<String>();
        format!(
            "{} ({size}): block-level migration is possible; {tracker}{areas}",
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

fn area_text(area: &AreaVerdict) -> String {
    let place = match area.partition {
        0 => "whole disk".to_owned(),
        number => format!("partition {number}"),
    };
    let (used, all) = (units::bytes(area.used), units::bytes(area.bytes));
    format!("\n    {place} ({}): {used} of {all}; {}", area.kind, area.method)
}
