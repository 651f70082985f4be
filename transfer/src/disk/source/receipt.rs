//! The receipt of a run: what was copied, how it was found and tracked, and the roots that prove it.
//!
//! `receipt.json` in the state folder. Roots are over the digests of chunks: of the disk, and of every partition.

use std::path::Path;

use serde::Serialize;
use sys::block_tracker::CHUNK_LEN;

use crate::disk::source::disk::SourceDisk;
use crate::error::{Error, Result};
use crate::progress::Verified;
use crate::signature::hex;
use crate::source::cutover::HandedOver;

/// How a source disk was read for the verification.
#[derive(Clone, Debug, Serialize)]
pub struct Reading {
    /// When, and what.
    pub how: String,
    /// Chunks whose content was found to be what the target holds.
    pub compared: u64,
    /// Chunks that were written meanwhile, so that they cannot be compared.
    pub written_since: u64,
    /// Bytes read for this.
    pub bytes: u64,
    /// Whether a write that nobody saw would have been found: of all that reads differently it is known that it was written.
    pub complete: bool,
}

impl Reading {
    /// A disk of which everything was read anyway.
    pub fn whole(when: &str, chunks: u64) -> Self {
        Self {
            how: format!("whole, {when}"),
            compared: chunks,
            written_since: 0,
            bytes: 0,
            complete: true,
        }
    }
}

/// What is known of a run.
pub struct Proof<'a> {
    /// How the cutover went.
    pub(crate) frozen: Option<&'a HandedOver>,
    /// What the comparison of the media found.
    pub verified: Option<&'a Verified>,
    /// How each disk was read for it; nothing without a comparison.
    pub readings: &'a [Reading],
}

#[derive(Serialize)]
struct Receipt<'a> {
    frozen_ms: Option<u64>,
    /// What was in use meanwhile and could not be frozen.
    not_frozen: &'a [String],
    /// The target's side of the comparison.
    verified: Option<&'a Verified>,
    disks: Vec<DiskReceipt>,
}

#[derive(Serialize)]
struct DiskReceipt {
    path: String,
    bytes: u64,
    /// Less than all onto a smaller disk.
    bytes_copied: u64,
    tracking: String,
    root: String,
    /// The source's side of the comparison.
    source_read: Option<Reading>,
    areas: Vec<AreaReceipt>,
}

#[derive(Serialize)]
struct AreaReceipt {
    partition: u32,
    start: u64,
    end: u64,
    kind: String,
    method: String,
    bytes_used: u64,
    root: String,
}

/// Writes the receipt.
///
/// # Errors
/// The state folder cannot be written to, or a digest file cannot be read.
pub fn write(folder: &Path, disks: &[SourceDisk], proof: &Proof<'_>) -> Result<()> {
    let path = folder.join("receipt.json");
    let build = || {
        let receipt = Receipt {
            frozen_ms: proof.frozen.and_then(HandedOver::frozen_ms),
            not_frozen: proof.frozen.map_or(&[], |frozen| &frozen.not_frozen),
            verified: proof.verified,
            disks: disks
                .iter()
                .enumerate()
                .map(|(number, disk)| of_disk(disk, proof.readings.get(number).cloned()))
                .collect::<std::io::Result<_>>()?,
        };
        let text = serde_json::to_vec_pretty(&receipt).map_err(std::io::Error::other)?;
        std::fs::write(&path, text)
    };
    build().map_err(|error| Error::io("write the receipt", &path, error))
}

fn of_disk(disk: &SourceDisk, source_read: Option<Reading>) -> std::io::Result<DiskReceipt> {
    let areas = disk.survey().areas.into_iter().map(|area| {
        // A chunk that straddles two partitions belongs to both.
        let (first, end) = (area.range.start / CHUNK_LEN, area.range.end.div_ceil(CHUNK_LEN));
        Ok(AreaReceipt {
            partition: area.partition,
            start: area.range.start,
            end: area.range.end,
            kind: area.kind,
            method: area.method,
            bytes_used: area.used,
            root: hex(&disk.digests.root_of(first, end)?),
        })
    });
    Ok(DiskReceipt {
        path: disk.medium.path.display().to_string(),
        bytes: disk.facts.len,
        bytes_copied: disk.len(),
        tracking: disk.tracking(),
        root: hex(&disk.root()?),
        source_read,
        areas: areas.collect::<std::io::Result<_>>()?,
    })
}
