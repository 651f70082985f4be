//! The disks of a target with their digests and their journal: writes batches, makes them durable, knows what it holds.
//!
//! Order of a checkpoint: data durable, digests durable, journal durable, then the acknowledgement. A region is open in
//! the journal from before the first write into it until its digests are durable, so that after a crash the digests of
//! exactly the open regions are computed anew from the medium. The next regions are opened ahead, by every checkpoint, too,
//! so that who writes a disk from its beginning to its end never waits for the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use sys::aligned::AlignedBuffer;
use sys::block_tracker::CHUNK_LEN;

use crate::disk::digest::{Digest, REGION_CHUNKS, root};
use crate::disk::digest_file::DigestFile;
use crate::disk::gpt;
use crate::disk::medium::Medium;
use crate::disk::target::batch::VerifiedBatch;
use crate::disk::target::image;
use crate::disk::target::journal::{Journal, Record, Region, Seen, move_on};
use crate::disk::target::past::{Past, WithPast};
use crate::disk::target::store::founded::Founded;
use crate::disk::target::store::landmarks::Landmarks;
use crate::disk::target::store::write::write_batch;
use crate::error::{Error, Kind, Result};
use crate::protocol::Position;

mod founded;
mod known;
mod landmarks;
mod open;
mod write;

/// Regions opened ahead of the one written to, twice as much as is written between two checkpoints. Doubled with every
/// journal write until the next checkpoint: a round of changes scattered over a large disk pays for a few.
const REGIONS_AHEAD: u64 = 8;
const DOUBLINGS_MAX: u32 = 7;
/// Written bytes after which a checkpoint is due.
const CHECKPOINT_BYTES: u64 = 256 << 20;
const _: () = assert!(REGIONS_AHEAD * REGION_CHUNKS * CHUNK_LEN == 2 * CHECKPOINT_BYTES);
/// Chunks after which a checkpoint is due: zeros weigh nothing, but their digests wait in memory (32 bytes each).
const CHECKPOINT_CHUNKS: usize = 256 * 1024;

/// A disk with its digests.
pub struct StoredDisk {
    /// Where the copy lies.
    pub path: PathBuf,
    /// The copy.
    pub medium: Box<dyn Medium>,
    /// What is durably on it.
    pub digests: DigestFile,
    /// How much of the source disk is copied, in bytes.
    pub source_len: u64,
    /// Length of the whole source disk in bytes.
    disk_len: u64,
    /// The image that is made of a complete copy.
    image: Option<PathBuf>,
    /// Whether chunks without a digest read as zeros.
    blank: AtomicBool,
    /// Whether anything durable on it proves that it is ours.
    founded: Founded,
    /// Where to look whether somebody else used it.
    landmarks: Landmarks,
}

impl StoredDisk {
    fn make_image(&self) -> Result<()> {
        match &self.image {
            Some(image) => image::convert(&self.path, image),
            None => Ok(()),
        }
    }
}

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Applied {
    /// Whether enough was written for a checkpoint.
    pub is_checkpoint_due: bool,
    /// Numbers of the chunks that were not written, because this side holds something else than the source expected.
    pub refused: Vec<u64>,
}

/// What was written since the last checkpoint.
#[derive(Default)]
struct Ledger {
    pending: BTreeMap<(u16, u64), Digest>,
    /// What the checkpoint under way makes durable.
    saving: Arc<BTreeMap<(u16, u64), Digest>>,
    bytes: u64,
    /// Frames applied out of order, all at or above `applied`.
    frames: BTreeSet<u64>,
    /// Frames with a number below this one are applied.
    applied: u64,
    /// Regions written to since the last checkpoint began.
    touched: BTreeSet<Region>,
    under_way: BTreeMap<Region, u32>,
    /// Regions that may be written to without a look at the journal: open there, and it is not sealed.
    open: BTreeSet<Region>,
    /// Journal writes for regions that were not open, since the last checkpoint.
    misses: u32,
}

/// All disks of a target.
pub struct DiskStore {
    /// The disks, in the order of the source's.
    pub disks: Vec<StoredDisk>,
    /// Chunks that somebody else changed before the store was opened.
    pub changed: u64,
    journal: Mutex<Journal>,
    ledger: Mutex<Ledger>,
    /// Held for the length of a checkpoint.
    checkpoint: Mutex<()>,
}

impl DiskStore {
    /// From now on `pasts`, one for each disk, can keep what is replaced.
    #[must_use]
    pub fn with_pasts(mut self, pasts: &[Arc<Past>]) -> Self {
        let disks = self.disks.into_iter().zip(pasts);
        self.disks = disks
            .map(|(disk, past)| StoredDisk {
                medium: Box::new(WithPast {
                    medium: disk.medium,
                    past: Arc::clone(past),
                }),
                ..disk
            })
            .collect();
        self
    }

    /// Lengths of the source's disks in bytes.
    pub fn disk_lens(&self) -> Vec<u64> {
        self.disks.iter().map(|disk| disk.source_len).collect()
    }

    /// What the target durably holds.
    pub fn position(&self) -> Position {
        self.lock_journal().record.position
    }

    /// Writes a batch that came with frame `number`; not its chunks that were meant to replace something else than is
    /// held here ([`Applied::refused`]).
    ///
    /// # Errors
    /// A medium or the journal refuses.
    pub fn apply(&self, number: u64, batch: &VerifiedBatch) -> Result<Applied> {
        let regions: BTreeSet<Region> = batch
            .chunks
            .iter()
            .map(|chunk| Region {
                disk: batch.disk,
                number: chunk.number / REGION_CHUNKS,
            })
            .collect();
        self.open_regions(&regions)?;
        let disk = &self.disks[usize::from(batch.disk)];
        // After a failure the regions stay under way, and so open: what they hold now is found out by reading.
        let written = self
            .held(disk, batch)
            .and_then(|held| {
                disk.founded
                    .write(disk, batch, || write_batch(disk, batch, &held))
            })
            .map_err(|error| Error::io("write to the target disk", &disk.path, error))?;
        disk.landmarks.note(batch);
        let mut ledger = self.lock_ledger();
        for region in regions {
            if let Some(count) = ledger.under_way.get_mut(&region) {
                *count -= 1;
                if *count == 0 {
                    ledger.under_way.remove(&region);
                }
            }
        }
        ledger.bytes += written.bytes;
        let (mut refused, mut accepted) = (Vec::new(), Vec::with_capacity(batch.chunks.len()));
        for (at, chunk) in batch.chunks.iter().enumerate() {
            if written.refused.binary_search(&at).is_ok() {
                refused.push(chunk.number);
            } else {
                accepted.push(((batch.disk, chunk.number), chunk.digest));
            }
        }
        ledger.pending.extend(accepted);
        ledger.frames.insert(number);
        while let Some(applied) = Some(ledger.applied).filter(|next| ledger.frames.contains(next)) {
            ledger.frames.remove(&applied);
            ledger.applied += 1;
        }
        Ok(Applied {
            is_checkpoint_due: ledger.bytes >= CHECKPOINT_BYTES || ledger.pending.len() >= CHECKPOINT_CHUNKS,
            refused,
        })
    }

    /// What the medium holds where a batch goes: written since the last checkpoint, or before.
    fn held(&self, disk: &StoredDisk, batch: &VerifiedBatch) -> std::io::Result<Vec<Digest>> {
        let numbers: Vec<u64> = batch.chunks.iter().map(|chunk| chunk.number).collect();
        // In this order: what a checkpoint takes out of the ledger is in the file by then.
        let lately: Vec<Option<Digest>> = {
            let ledger = self.lock_ledger();
            let find = |number: &u64| {
                let key = (batch.disk, *number);
                ledger
                    .pending
                    .get(&key)
                    .or_else(|| ledger.saving.get(&key))
                    .copied()
            };
            numbers.iter().map(find).collect()
        };
        let before = disk.digests.get_each(&numbers)?;
        Ok(lately
            .into_iter()
            .zip(before)
            .map(|(lately, before)| lately.unwrap_or(before))
            .collect())
    }

    /// Frames with a number below this one have been written.
    pub fn applied(&self) -> u64 {
        self.lock_ledger().applied
    }

    /// Begins to count frames anew: a new session.
    pub fn restart_numbering(&self) {
        let mut ledger = self.lock_ledger();
        ledger.applied = 0;
        ledger.frames.clear();
    }

    fn open_regions(&self, regions: &BTreeSet<Region>) -> Result<()> {
        {
            let mut ledger = self.lock_ledger();
            for region in regions {
                ledger.touched.insert(*region);
                *ledger.under_way.entry(*region).or_default() += 1;
            }
            if regions.is_subset(&ledger.open) {
                return Ok(());
            }
        }
        let mut journal = self.lock_journal();
        let ahead = {
            let mut ledger = self.lock_ledger();
            // Somebody else may have opened them meanwhile.
            if regions.is_subset(&ledger.open) {
                return Ok(());
            }
            ledger.misses += 1;
            REGIONS_AHEAD << (ledger.misses - 1).min(DOUBLINGS_MAX)
        };
        let mut record = journal.record.clone();
        if std::mem::take(&mut record.sealed) {
            move_on(&mut record.position)?;
        }
        record.open_regions.extend(self.with_next(regions, ahead));
        journal.save(record)?;
        self.lock_ledger().open.clone_from(&journal.record.open_regions);
        Ok(())
    }

    /// These regions and those that follow them on their disks.
    fn with_next(&self, regions: &BTreeSet<Region>, ahead: u64) -> BTreeSet<Region> {
        let following = |region: &Region| {
            let disk = region.disk;
            let last = self.disks[usize::from(disk)].digests.region_count().max(1) - 1;
            let numbers = region.number..=(region.number + ahead).min(last);
            numbers.map(move |number| Region { disk, number })
        };
        regions.iter().flat_map(following).collect()
    }

    /// Makes everything written so far durable. Returns the number below which all frames are.
    ///
    /// # Errors
    /// A medium or the journal refuses; nothing new is durable then.
    pub fn checkpoint(&self) -> Result<u64> {
        let _one_at_a_time = self.checkpoint.lock().expect("no thread panics in a checkpoint");
        let (pending, applied) = {
            let mut ledger = self.lock_ledger();
            ledger.bytes = 0;
            ledger.misses = 0;
            ledger.touched = ledger.under_way.keys().copied().collect();
            ledger.saving = Arc::new(std::mem::take(&mut ledger.pending));
            (Arc::clone(&ledger.saving), ledger.applied)
        };
        if pending.is_empty() {
            return Ok(applied);
        }
        for (number, disk) in self.disks.iter().enumerate() {
            let number = number as u16;
            let own = pending.range((number, 0)..=(number, u64::MAX));
            let changed: Vec<(u64, Digest)> = own.map(|((_, chunk), digest)| (*chunk, *digest)).collect();
            if changed.is_empty() {
                continue;
            }
            disk.medium
                .sync()
                .and_then(|()| disk.digests.set_each(&changed))
                .and_then(|()| disk.digests.sync())
                .map_err(|error| Error::io("make the copy durable", &disk.path, error))?;
        }
        self.lock_ledger().saving = Arc::default();
        self.close_regions(REGIONS_AHEAD)?;
        Ok(applied)
    }

    /// Leaves open what was written to since the last checkpoint began, and so many regions behind the last of it: a
    /// round goes from the beginning of a disk to its end.
    fn close_regions(&self, ahead: u64) -> Result<()> {
        let mut journal = self.lock_journal();
        let mut record = journal.record.clone();
        {
            let mut ledger = self.lock_ledger();
            let touched = &ledger.touched;
            let last = touched.iter().filter(|region| {
                let behind = (Bound::Excluded(*region), Bound::Unbounded);
                let next = touched.range(behind).next();
                next.is_none_or(|next| next.disk != region.disk)
            });
            record.open_regions = self.with_next(&last.copied().collect(), ahead);
            record.open_regions.extend(touched);
            // From here on nobody begins to write to what is being closed; what is opened has to be durable first.
            ledger.open.retain(|region| record.open_regions.contains(region));
        }
        if record == journal.record {
            return Ok(());
        }
        let is_sealed = record.sealed;
        journal.save(record)?;
        if !is_sealed {
            self.lock_ledger().open.clone_from(&journal.record.open_regions);
        }
        Ok(())
    }

    /// Makes everything durable at the end of a session, and opens nothing for the next.
    ///
    /// # Errors
    /// A medium or the journal refuses.
    pub fn close(&self) -> Result<()> {
        self.checkpoint()?;
        self.close_regions(0)?;
        self.look_at_disks()
    }

    fn note_landmarks(&self, record: &mut Record) {
        for (disk, known) in self.disks.iter().zip(&mut record.disks) {
            known.landmarks = disk.landmarks.list();
        }
    }

    /// Notes what the disks show of themselves, so that the next session sees whether somebody wrote to them.
    fn look_at_disks(&self) -> Result<()> {
        let mut journal = self.lock_journal();
        let mut record = journal.record.clone();
        for (disk, known) in self.disks.iter().zip(&mut record.disks) {
            known.seen = Seen::at(&disk.path);
        }
        self.note_landmarks(&mut record);
        journal.save(record)
    }

    /// Roots of the digests, disk by disk.
    ///
    /// # Errors
    /// A digest file cannot be read.
    pub fn roots(&self) -> Result<Vec<[u8; 32]>> {
        self.disks
            .iter()
            .map(|disk| Ok(root(disk.source_len, &disk.digests.regions()?)))
            .collect::<std::io::Result<_>>()
            .map_err(|error| Error::new(Kind::Medium, "read the digests").because(error))
    }

    /// Seals a generation. Everything must be durable.
    ///
    /// # Errors
    /// The journal refuses.
    pub fn seal(&self) -> Result<Position> {
        let mut journal = self.lock_journal();
        let mut record = journal.record.clone();
        move_on(&mut record.position)?;
        record.position.generation += 1;
        record.sealed = true;
        self.note_landmarks(&mut record);
        {
            let mut ledger = self.lock_ledger();
            record.open_regions.clone_from(&ledger.touched);
            // The next write has to move the position on first.
            ledger.open.clear();
        }
        let position = record.position;
        journal.save(record)?;
        Ok(position)
    }

    /// Forgets what is known of chunks whose content on the medium is not what it should be. Durable only after
    /// [`DiskStore::settle`]; that whoever knew the position knows no longer what is here, is at once.
    ///
    /// # Errors
    /// The journal or the digests refuse.
    pub fn forget(&self, disk: usize, first: u64, count: u64) -> Result<()> {
        let stored = &self.disks[disk];
        let mut journal = self.lock_journal();
        let mut record = journal.record.clone();
        if std::mem::take(&mut record.sealed) {
            move_on(&mut record.position)?;
        }
        record.disks[disk].blank = false;
        stored.blank.store(false, Ordering::Release);
        if record != journal.record {
            journal.save(record)?;
        }
        stored
            .digests
            .set(first, &vec![Digest::UNKNOWN; count as usize])
            .map_err(|error| Error::io("write the digests", &stored.path, error))
    }

    /// Makes durable what was forgotten of a disk.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn settle(&self, disk: usize) -> Result<()> {
        let stored = &self.disks[disk];
        let synchronised = stored.digests.sync();
        synchronised.map_err(|error| Error::io("write the digests", &stored.path, error))
    }

    /// Adapts the copies to disks of another length than their sources, and makes images of them where these are wanted.
    /// Returns what was changed, for people.
    ///
    /// # Errors
    /// A medium refuses, or an image cannot be made.
    pub fn adapt(&self) -> Result<Vec<String>> {
        let mut changes = Vec::new();
        for (number, disk) in self.disks.iter().enumerate() {
            let failed = |error| Error::io("move the backup of the partition table", &disk.path, error);
            let Some(change) = gpt::plan_move(disk.medium.as_ref(), disk.disk_len).map_err(failed)? else {
                disk.make_image()?;
                continue;
            };
            // Forgotten before it is changed: the next session sends these chunks again.
            for range in change.ranges() {
                let first = range.start / CHUNK_LEN;
                let end = range.end.min(disk.source_len).div_ceil(CHUNK_LEN);
                if first < end {
                    self.forget(number, first, end - first)?;
                }
            }
            self.settle(number)?;
            change.apply(disk.medium.as_ref()).map_err(failed)?;
            disk.make_image()?;
            changes.push(format!(
                "{}: backup of the partition table moved to the end of the larger disk",
                disk.path.display()
            ));
        }
        Ok(changes)
    }

    fn lock_journal(&self) -> std::sync::MutexGuard<'_, Journal> {
        self.journal
            .lock()
            .expect("no thread panics while it holds the journal")
    }

    fn lock_ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger
            .lock()
            .expect("no thread panics while it holds the ledger")
    }
}

/// Computes the digests of chunks from what is on the medium.
///
/// # Errors
/// The medium cannot be read.
pub fn read_digests(disk: &StoredDisk, first: u64, count: u64) -> std::io::Result<Vec<Digest>> {
    /// 1 MiB at a time.
    const CHUNKS: u64 = 16;
    let mut buffer = AlignedBuffer::zeroed((CHUNKS * CHUNK_LEN) as usize);
    let mut digests = Vec::with_capacity(count as usize);
    let mut at = first;
    while at < first + count {
        let part = CHUNKS.min(first + count - at);
        let end = ((at + part) * CHUNK_LEN).min(disk.source_len);
        let len = (end - at * CHUNK_LEN) as usize;
        disk.medium.read(&mut buffer[..len], at * CHUNK_LEN)?;
        digests.extend(buffer[..len].chunks(CHUNK_LEN as usize).map(Digest::of));
        at += part;
    }
    Ok(digests)
}

#[cfg(test)]
mod tests;
