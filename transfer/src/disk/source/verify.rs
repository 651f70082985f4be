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
use crate::disk::digest::{Digest, root, root_of_all};
use crate::disk::message::{BATCH_CHUNKS_MAX, DiskOrder, DiskReport};
use crate::disk::source::Run;
use crate::disk::source::copy::send_again;
use crate::disk::source::disk::SourceDisk;
use crate::disk::source::jobs::{Cursor, Job, in_parallel};
use crate::disk::source::read::bytes_of;
use crate::disk::source::receipt::Reading;
use crate::disk::source::session::{Session, out_of_turn};
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
    differing: Vec<(usize, u64)>,
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
            if finding.differing.is_empty() {
                return self.accept(finding);
            }
            self.repaired += finding.differing.len() as u64;
            if self.frozen.is_some() {
                self.repair_frozen(&finding.differing, session)?;
            } else {
                self.repair(&finding.differing)?;
                self.copy(session, wire)?;
            }
            self.end_round(session, wire)?;
        }
        Err(Error::new(Kind::Medium, "trust the target's medium")
            .because("it returns something else than was written, again and again")
            .remedy("replace the target's disk"))
    }

    /// Schedules what the target's medium lost.
    fn repair(&self, differing: &[(usize, u64)]) -> Result<()> {
        for (disk, chunk) in differing {
            let disk = &self.disks[*disk];
            disk.digests
                .set(*chunk, &[Digest::UNKNOWN])
                .map_err(|error| Error::new(Kind::Medium, "keep the digests").because(error))?;
            disk.look_again([*chunk]);
        }
        Ok(())
    }

    /// Sends what the target's medium lost of the frozen moment, as far as the source still holds it.
    fn repair_frozen(&self, differing: &[(usize, u64)], session: &Session<'_>) -> Result<()> {
        let mut gone = 0;
        for (disk, chunk) in differing {
            let still_there = send_again(*disk as u16, &self.disks[*disk], *chunk, session, &self.governor)?;
            gone += u64::from(!still_there);
        }
        if gone == 0 {
            return Ok(());
        }
        Err(Error::new(Kind::Medium, "trust the target's medium")
            .because(format!(
                "{} chunks read back wrong, and the source has changed {gone} of them since it was frozen",
                differing.len()
            ))
            .remedy("check the target's disk, then run again: the copy of the frozen moment is not whole"))
    }

    /// Reads the source again after a cutover.
    fn re_read_source(&mut self, wire: &AtomicU64) -> Result<Vec<Reading>> {
        if self.frozen.is_none() {
            let whole = |disk: &SourceDisk| Reading::whole("in the last round", disk.present().count());
            return Ok(self.disks.iter().map(whole).collect());
        }
        // Without a tracker the round in the freeze read everything.
        let unchanged: Vec<Option<ChunkSet>> = self.disks.iter().map(unchanged_since_frozen).collect();
        let cursor = Cursor::default();
        let next = || {
            cursor.next(self.disks.len(), |disk, from| match &unchanged[disk] {
                Some(chunks) => chunks.iter_from(from).take(BATCH_CHUNKS_MAX).collect(),
                None => Vec::new(),
            })
        };
        let differing = Mutex::new(Vec::new());
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
                        differing.push((job.disk, chunk));
                    }
                }
                Ok(())
            })
        })?;
        self.backed_off = self.backed_off + courtesy.backed_off();
        let differing = differing.into_inner().expect("noting a chunk does not panic");
        let mut readings = Vec::new();
        for (number, (disk, unchanged)) in self.disks.iter().zip(&unchanged).enumerate() {
            let Some(unchanged) = unchanged else {
                readings.push(Reading::whole("while frozen", disk.present().count()));
                continue;
            };
            // What was written while it was read is marked by now.
            let still = unchanged_since_frozen(disk).unwrap_or_else(|| ChunkSet::empty(0));
            let own = differing.iter().filter(|(of, _)| *of == number);
            let unseen = own.filter(|(_, chunk)| still.contains(*chunk)).count();
            if unseen > 0 {
                return Err(unseen_writes(disk, unseen));
            }
            let compared =
                unchanged.count() - differing.iter().filter(|(of, _)| *of == number).count() as u64;
            readings.push(Reading {
                how: "again after the freeze, where nothing was written since".to_owned(),
                compared,
                written_since: disk.present().count() - compared,
                bytes: bytes[number].load(Ordering::Relaxed),
            });
        }
        Ok(readings)
    }

    /// Takes what the target says while it re-reads.
    fn follow_target(&self, session: &Session<'_>) -> Result<Finding> {
        let mut differing = Vec::new();
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
                    differing.extend((first..first + count).map(|chunk| (disk, chunk)));
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
        let ours = self
            .disks
            .iter()
            .map(|disk| Ok(root(disk.len(), &disk.digests.regions()?)))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(|error| Error::new(Kind::Medium, "read the digests").because(error))?;
        if ours != finding.roots {
            return Err(Error::new(
                Kind::Corrupt,
                "compare source and target: their roots differ",
            ));
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

/// Chunks that hold something, can be read and were not written since the file systems were frozen; `None` when nobody watched.
fn unchanged_since_frozen(disk: &SourceDisk) -> Option<ChunkSet> {
    let moved_on = disk.moved_on()?;
    let mut chunks = disk.present();
    chunks.subtract(&moved_on);
    chunks.subtract(&disk.kept());
    Some(chunks)
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
