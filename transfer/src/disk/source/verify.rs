//! Verification: both sides read their media again; differences are repaired and looked at again.
//!
//! The target compares what it reads with its digests. The source does the same, either in a round that reads everything
//! or, after a cutover, against the frozen moment: a chunk that the tracker did not mark since must still be what was
//! sent. That proves the tracker, too.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sys::aligned::AlignedBuffer;
use sys::block_tracker::CHUNK_LEN;
use sys::chunk_set::ChunkSet;

use crate::courtesy::Courtesy;
use crate::disk::digest::{Digest, REGION_CHUNKS, root_of_all};
use crate::disk::message::{BATCH_CHUNKS_MAX, DiskOrder, DiskReport};
use crate::disk::source::disk::SourceDisk;
use crate::disk::source::jobs::{Cursor, Job, in_parallel};
use crate::disk::source::read::bytes_of;
use crate::disk::source::receipt::Reading;
use crate::disk::source::reconcile::{Restored, RoundEnd, end_round, restore, roots};
use crate::disk::source::session::{Session, out_of_turn};
use crate::disk::source::{RECONCILE_MAX, Run, out_of_step};
use crate::error::{Error, Kind, Result};
use crate::progress::{Event, Verified};
use crate::signature::hex;

/// Times the medium is re-read before it counts as broken.
const ATTEMPTS_MAX: u32 = 3;

/// What one re-reading of the target found.
struct Finding {
    roots: Vec<[u8; 32]>,
    compared: u64,
    bytes: u64,
    /// Disk by disk.
    differing: Vec<ChunkSet>,
}

impl Run<'_> {
    /// Lets both sides re-read their media until they are equal, and keeps the result.
    pub(super) fn verify(&mut self, session: &Session<'_>, wire: &AtomicU64) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            // Both sides read at the same time.
            session.order(&DiskOrder::Verify)?;
            if self.readings.is_empty() {
                self.readings = self.re_read_source(wire)?;
            }
            let finding = self.follow_target(session)?;
            let count: u64 = finding.differing.iter().map(ChunkSet::count).sum();
            if count == 0 {
                return self.accept(finding);
            }
            if self.frozen.is_some() {
                self.repair_frozen(session)?;
            } else {
                self.repaired += count;
                self.repair(&finding.differing)?;
                self.copy(session, wire)?;
                self.end_round(session, wire)?;
            }
        }
        Err(Error::new(Kind::Medium, "trust the target's medium")
            .because("it returns something else than was written, again and again")
            .remedy("replace the target's disk"))
    }

    /// Schedules what the target's medium lost.
    fn repair(&self, differing: &[ChunkSet]) -> Result<()> {
        for (disk, differing) in self.disks.iter().zip(differing) {
            for chunk in differing.iter() {
                disk.digests
                    .set(chunk, &[Digest::UNKNOWN])
                    .map_err(|error| Error::new(Kind::Medium, "keep the digests").because(error))?;
            }
            disk.look_again(differing.iter());
        }
        Ok(())
    }

    /// Sends what the target's medium lost of the frozen moment, as far as the source still holds it.
    fn repair_frozen(&mut self, session: &Session<'_>) -> Result<()> {
        let restored = restore(&self.disks, session, &self.counters, &self.governor)?;
        let Restored { missing, gone } = self.seal_frozen(restored, session)?;
        if gone == 0 {
            return Ok(());
        }
        Err(Error::new(Kind::Medium, "trust the target's medium")
            .because(format!(
                "{missing} chunks read back wrong, and the source has changed {gone} of them since it was frozen",
            ))
            .remedy("check the target's disk, then run again: the copy of the frozen moment is not whole"))
    }

    /// Seals the frozen moment anew after a part of it was sent again. What still differs is restored likewise, for a round
    /// would send later content. Nothing is sealed when something is gone.
    pub(super) fn seal_frozen(&mut self, mut restored: Restored, session: &Session<'_>) -> Result<Restored> {
        for _ in 0..RECONCILE_MAX {
            if restored.gone > 0 {
                return Ok(restored);
            }
            if let RoundEnd::Sealed(position) = end_round(&self.disks, session)? {
                self.position = position;
                self.repaired += restored.missing;
                return Ok(restored);
            }
            let more = restore(&self.disks, session, &self.counters, &self.governor)?;
            restored.missing += more.missing;
            restored.gone += more.gone;
        }
        Err(out_of_step())
    }

    /// Reads the source again after a cutover.
    fn re_read_source(&mut self, wire: &AtomicU64) -> Result<Vec<Reading>> {
        if self.frozen.is_none() {
            let whole = |disk: &SourceDisk| Reading::whole("in the last round", disk.present().count());
            return Ok(self.disks.iter().map(whole).collect());
        }
        let disks = self.disks.iter().zip(&self.looked_at_all);
        let again: Vec<Again> = disks.map(|(disk, all)| Again::after_freeze(disk, *all)).collect();
        let cursor = Cursor::default();
        let next = || {
            cursor.next(self.disks.len(), |disk, from| match &again[disk] {
                Again::Nothing => Vec::new(),
                Again::Unmarked(chunks) | Again::All(chunks) => {
                    chunks.iter_from(from).take(BATCH_CHUNKS_MAX).collect()
                }
            })
        };
        let differing = Mutex::new(self.no_chunks());
        let bytes: Vec<AtomicU64> = self.disks.iter().map(|_| AtomicU64::new(0)).collect();
        let courtesy = Courtesy::new(self.plan.gives_way);
        let disks = &self.disks;
        in_parallel(&courtesy, &|| self.report_progress(wire), &next, || {
            let mut buffer = AlignedBuffer::zeroed(CHUNK_LEN as usize);
            let (differing, bytes) = (&differing, &bytes);
            Ok(move |job: Job| {
                for chunk in job.chunks {
                    let (digest, read) = read_again(&disks[job.disk], chunk, &mut buffer)?;
                    bytes[job.disk].fetch_add(read, Ordering::Relaxed);
                    if digest != known(&disks[job.disk], chunk)? {
                        let mut differing = differing.lock().expect("noting a chunk does not panic");
                        differing[job.disk].insert(chunk);
                    }
                }
                Ok(())
            })
        })?;
        self.backed_off = self.backed_off + courtesy.backed_off();
        let differing = differing.into_inner().expect("noting a chunk does not panic");
        let mut readings = Vec::new();
        for (number, (disk, again)) in self.disks.iter().zip(again).enumerate() {
            let bytes = bytes[number].load(Ordering::Relaxed);
            let reading = again.reading(disk, &differing[number], bytes)?;
            if !reading.complete {
                self.say(&Event::Warning {
                    message: format!("{}: read {}", disk.medium.path.display(), reading.how),
                });
            }
            readings.push(reading);
        }
        Ok(readings)
    }

    /// A set for each disk: a bit for each chunk, however many differ.
    fn no_chunks(&self) -> Vec<ChunkSet> {
        let empty = |disk: &SourceDisk| ChunkSet::empty(disk.digests.chunk_count());
        self.disks.iter().map(empty).collect()
    }

    /// Takes what the target says while it re-reads.
    fn follow_target(&self, session: &Session<'_>) -> Result<Finding> {
        let mut differing = self.no_chunks();
        loop {
            match session.report()? {
                DiskReport::VerifyProgress { bytes, bytes_total } => {
                    self.say(&Event::Verifying { bytes, bytes_total });
                }
                DiskReport::Differs { disk, first, count } => {
                    let disk = usize::from(disk);
                    let known = self.disks.get(disk).map_or(0, |disk| disk.digests.chunk_count());
                    if count > known || first > known - count {
                        return Err(out_of_turn());
                    }
                    differing[disk].insert_range(first..first + count);
                }
                DiskReport::Verified {
                    roots,
                    compared,
                    bytes,
                    ..
                } => {
                    return Ok(Finding {
                        roots,
                        compared,
                        bytes,
                        differing,
                    });
                }
                _ => return Err(out_of_turn()),
            }
        }
    }

    fn accept(&mut self, finding: Finding) -> Result<()> {
        let ours = roots(&self.disks)?;
        if ours != finding.roots {
            return Err(Error::new(
                Kind::Corrupt,
                "compare source and target: their roots differ",
            ));
        }
        for disk in &self.disks {
            // After a cutover, what was written since waits there.
            let left = if self.frozen.is_some() { 0 } else { disk.todo().0 };
            let unknown = unknown_among(&disk.settled(), disk)?;
            if left + unknown > 0 {
                return Err(not_compared(disk, left.max(unknown)));
            }
        }
        self.verified = Some(Verified {
            root: hex(&root_of_all(&ours)),
            compared: finding.compared,
            bytes: finding.bytes,
            repaired: self.repaired,
        });
        Ok(())
    }
}

/// What of a disk is read again after a cutover.
enum Again {
    /// Nothing: the frozen round read everything.
    Nothing,
    /// What was not marked since the freeze.
    Unmarked(ChunkSet),
    /// Everything that was there: what was written since the freeze is not known.
    All(ChunkSet),
}

impl Again {
    fn after_freeze(disk: &SourceDisk, frozen_round_read_all: bool) -> Self {
        match unchanged_since_frozen(disk) {
            Some(chunks) => Self::Unmarked(chunks),
            None if frozen_round_read_all => Self::Nothing,
            None => Self::All(disk.settled()),
        }
    }

    /// What it showed: these chunks read differently than when they were frozen.
    fn reading(self, disk: &SourceDisk, differing: &ChunkSet, bytes: u64) -> Result<Reading> {
        let present = disk.present().count();
        let chunks = match &self {
            Self::Nothing => return Ok(Reading::whole("while frozen", present)),
            Self::Unmarked(chunks) | Self::All(chunks) => chunks.count(),
        };
        let compared = chunks - differing.count();
        let mut reading = Reading {
            how: "again after the freeze, where nothing was written since".to_owned(),
            compared,
            written_since: present - compared,
            bytes,
            complete: true,
        };
        // What was written while it was read is marked by now.
        let still = match self {
            Self::Unmarked(_) => unchanged_since_frozen(disk),
            _ => None,
        };
        if let Some(still) = still {
            let unseen = differing.iter().filter(|chunk| still.contains(*chunk)).count();
            if unseen > 0 {
                return Err(unseen_writes(disk, unseen));
            }
        } else {
            let why = match disk.is_tracked() {
                true => "the tracker lost records".to_owned(),
                false => disk.tracking(),
            };
            reading.how = format!("again after the freeze; what was written since is not known: {why}");
            reading.complete = false;
        }
        Ok(reading)
    }
}

/// Chunks that hold something, can be read and were not written since the file systems were frozen; `None` when nobody
/// watched, or not all the time.
fn unchanged_since_frozen(disk: &SourceDisk) -> Option<ChunkSet> {
    let moved_on = disk.moved_on()?;
    let mut chunks = disk.present();
    chunks.subtract(&moved_on);
    chunks.subtract(&disk.kept());
    Some(chunks)
}

/// How many of these chunks the target has no content for: it skips them when it compares.
fn unknown_among(chunks: &ChunkSet, disk: &SourceDisk) -> Result<u64> {
    let mut unknown = 0;
    for first in (0..disk.digests.chunk_count()).step_by(REGION_CHUNKS as usize) {
        let digests = disk.digests.get(first, REGION_CHUNKS);
        let digests = digests.map_err(|error| Error::new(Kind::Medium, "read the digests").because(error))?;
        let without = (first..).zip(&digests).filter(|(_, digest)| !digest.is_known());
        unknown += without.filter(|(chunk, _)| chunks.contains(*chunk)).count() as u64;
    }
    Ok(unknown)
}

fn not_compared(disk: &SourceDisk, count: u64) -> Error {
    Error::new(Kind::Corrupt, "call the copy verified")
        .on(&disk.medium.path)
        .because(format!("{count} chunks of it have not reached the target"))
        .remedy("run the same command again: what is durable at the target is kept")
}

fn known(disk: &SourceDisk, chunk: u64) -> Result<Digest> {
    let digests = disk.digests.get(chunk, 1);
    let digests = digests.map_err(|error| Error::new(Kind::Medium, "read the digests").because(error))?;
    Ok(digests.first().copied().unwrap_or_default())
}

/// Digest of a chunk as it is on the medium now, and how much of it was read.
fn read_again(disk: &SourceDisk, chunk: u64, buffer: &mut AlignedBuffer) -> Result<(Digest, u64)> {
    let chunks = chunk..chunk + 1;
    let range = bytes_of(&chunks, disk.len());
    let content = &mut buffer[..(range.end - range.start) as usize];
    let (bytes, bad) = disk.read(content, &chunks)?;
    let digest = Digest::of(content);
    if !bad.is_empty() && digest != known(disk, chunk)? {
        // It could be read before, and that is what the target holds.
        disk.done(&[chunk], &bad, &[chunk])?;
    }
    Ok((digest, bytes))
}

fn unseen_writes(disk: &SourceDisk, count: usize) -> Error {
    Error::new(Kind::Medium, "trust the copy of the frozen moment")
        .on(&disk.medium.path)
        .because(format!(
            "{count} chunks read differently now although nothing was seen to write to them ({})",
            disk.tracking()
        ))
        .remedy("check the disk and what writes to it past the kernel's block layer, then run again")
}
