//! One disk of the source: its medium, its tracker, its map, and which chunks have to be looked at.
//!
//! A chunk that was marked is *whole* from then on: all of it counts, whatever the map said when it was taken. A chunk
//! is looked at in the round after its mark and once more in the round after that, so that a completion which the
//! tracker missed (a program interrupted by a program) cannot hide a write that was still on its way when it was read.
//!
//! A discard marks, too. When there are many marks a new map, taken after them, tells which of these chunks are wholly free: they
//! do not count until they are marked again, for what a mounted file system allocates after the map is written after it. Of a file
//! system that is not mounted that is not so: whoever writes it as an image may write the contents before the bitmaps.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use sys::aligned::AlignedBuffer;
use sys::block_device::Access;
use sys::block_tracker::{BlockTracker, CHUNK_LEN, LeftOut};
use sys::chunk_set::ChunkSet;

use crate::disk::digest::root;
use crate::disk::digest_file::DigestFile;
use crate::disk::gpt;
use crate::disk::identity::identity;
use crate::disk::medium::{DiskMedium, Medium};
use crate::disk::message::{AREAS_MAX, BLOCK_LEN, DiskFacts, is_zero};
use crate::disk::source::read::{bytes_of, read_parts};
use crate::disk::source::unreadable::{InPlace, Unreadable};
use crate::disk::used_map::survey::TAIL_LEN;
use crate::disk::used_map::{Effort, Survey, ext, overlap, survey};
use crate::error::{Error, Kind, Result};

/// Marked chunks from which on a new map pays, at least: reading 64 MiB takes about a second.
const SIFT_CHUNKS_MIN: u64 = 1024;
/// And as a part of all that hold something: for a map, file systems are written back and walked through, which takes the longer
/// the more there is in them.
const SIFT_PART: u64 = 64;

/// What a round does with many marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// Asks the file systems which of the chunks are free by now.
    Sift,
    /// Takes them as they are: while all is frozen, asking could take too long.
    Take,
}

/// What a tracker says of the time since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Nothing was written, or there is no tracker.
    No,
    /// Something was, and has to be looked at.
    Yes,
    /// It cannot tell: it has lost records, or saw nothing at all.
    Unknown,
}

/// A disk being copied.
pub struct SourceDisk {
    /// The open disk.
    pub medium: DiskMedium,
    /// What the target is told of it.
    pub facts: DiskFacts,
    /// Digests of what the target holds, as far as known.
    pub digests: DigestFile,
    /// How much of it is copied, in bytes.
    len: AtomicU64,
    state: Mutex<State>,
}

struct State {
    tracker: Option<BlockTracker>,
    /// How the disk is tracked, or why it is not.
    tracking: String,
    survey: Survey,
    chunks: Chunks,
    /// Chunks from this one on are not copied.
    chunk_limit: u64,
    unreadable: Unreadable,
    /// Whether the disk was read since the last look at the tracker.
    was_read: bool,
    /// Whether the tracker lost records since everything was looked at. A look between two rounds may be the one that learns it.
    has_lost: bool,
}

/// Sets of chunks.
struct Chunks {
    todo: ChunkSet,
    whole: ChunkSet,
    /// Marked since the current round began.
    fresh: ChunkSet,
    /// Marked before the current round began, and looked at in it: once more in the next one.
    carried: ChunkSet,
    /// Marked, and found wholly free after that.
    free: ChunkSet,
}

impl SourceDisk {
    /// Opens a disk: attaches the tracker, then takes the map. `digests` is the file of its digests.
    ///
    /// # Errors
    /// The disk or the digest file cannot be opened or read.
    pub fn open(path: &Path, digests: &Path) -> Result<Self> {
        let medium = DiskMedium::open(path, Access::Read)?;
        let (tracker, tracking) = attach(&medium);
        let survey = survey(&medium, Effort::Copy)?;
        let chunk_count = medium.length().div_ceil(CHUNK_LEN);
        let digests = DigestFile::open(digests, chunk_count)
            .map_err(|error| Error::io("open the digests", digests, error))?;
        let facts = DiskFacts {
            len: medium.length(),
            needed_len: needed_len(&medium, &survey),
            sector_len: medium.sector_len() as u32,
            // A disk whose first sectors cannot be read has no identity; its bytes are reported by the round.
            identity: identity(&medium).unwrap_or_default(),
            areas: survey
                .areas
                .iter()
                .map(|area| area.range.start)
                .take(AREAS_MAX)
                .collect(),
        };
        let disk = Self {
            medium,
            len: AtomicU64::new(facts.len),
            facts,
            digests,
            state: Mutex::new(State {
                tracker,
                tracking,
                chunks: Chunks {
                    todo: survey.map.chunks(),
                    whole: ChunkSet::empty(chunk_count),
                    fresh: ChunkSet::empty(chunk_count),
                    carried: ChunkSet::empty(chunk_count),
                    free: ChunkSet::empty(chunk_count),
                },
                survey,
                chunk_limit: chunk_count,
                unreadable: Unreadable::default(),
                was_read: false,
                has_lost: false,
            }),
        };
        Ok(disk)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no thread panics while it holds a disk's state")
    }

    /// How much of the disk is copied, in bytes.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Whether nothing is copied: never, for no disk is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the first `len` bytes only: the target ends there. Nothing but the rest of a partition table is behind.
    ///
    /// # Errors
    /// The target wants less than is needed, or something else than in an earlier session.
    pub fn copy_only(&self, len: u64) -> Result<()> {
        if len == self.len() {
            return Ok(());
        }
        if len < self.facts.needed_len || len > self.len() {
            return Err(Error::new(Kind::Corrupt, "copy a part of the disk")
                .on(&self.medium.path)
                .remedy("the target's disk has changed its size: start again"));
        }
        let chunk_count = len.div_ceil(CHUNK_LEN);
        self.digests
            .shrink(chunk_count)
            .map_err(|error| Error::new(Kind::Medium, "keep the digests").because(error))?;
        self.len.store(len, Ordering::Release);
        let mut state = self.lock();
        state.chunk_limit = chunk_count;
        state.truncate();
        Ok(())
    }

    /// Whether changes are tracked.
    pub fn is_tracked(&self) -> bool {
        self.lock().tracker.is_some()
    }

    /// How changes are tracked, or why they are not; and what the tracker may have missed.
    pub fn tracking(&self) -> String {
        let state = self.lock();
        let left_out = state.tracker.as_ref().and_then(BlockTracker::left_out);
        format!("{}{}", state.tracking, remark_on(left_out))
    }

    /// What the disk holds, as last surveyed.
    pub fn survey(&self) -> Survey {
        self.lock().survey.clone()
    }

    /// Chunks that hold something: by the map, or because they were written since.
    pub fn present(&self) -> ChunkSet {
        self.lock().present()
    }

    /// Root over the digests of what the target holds.
    ///
    /// # Errors
    /// The digest file cannot be read.
    pub fn root(&self) -> io::Result<[u8; 32]> {
        Ok(root(self.len(), &self.digests.regions()?))
    }

    /// Chunks that hold something and were not marked since the last round began: the target has them since it ended.
    pub fn settled(&self) -> ChunkSet {
        let mut chunks = self.present();
        chunks.subtract(&self.lock().chunks.fresh);
        chunks
    }

    /// Number and bytes of the chunks that have to be looked at.
    pub fn todo(&self) -> (u64, u64) {
        let chunks = self.lock().chunks.todo.count();
        (chunks, chunks * CHUNK_LEN)
    }

    /// Adds to what has to be looked at: chunks that the target does not hold as this side thought.
    pub fn look_again(&self, chunks: impl IntoIterator<Item = u64>) {
        let mut state = self.lock();
        for chunk in chunks {
            state.chunks.todo.insert(chunk);
        }
    }

    /// Up to `count_max` chunks to look at, from `from` on.
    pub fn next_job(&self, from: u64, count_max: usize) -> Vec<u64> {
        let state = self.lock();
        let mut job = Vec::with_capacity(count_max);
        let mut at = from;
        while let Some(chunk) = state.chunks.todo.next_from(at).filter(|_| job.len() < count_max) {
            job.push(chunk);
            at = chunk + 1;
        }
        job
    }

    /// The parts of a run of chunks that count.
    pub fn parts(&self, chunks: &Range<u64>) -> Vec<Range<u64>> {
        let state = self.lock();
        let mut parts: Vec<Range<u64>> = Vec::new();
        for chunk in chunks.clone() {
            let bytes = bytes_of(&(chunk..chunk + 1), self.len());
            let map = &state.survey.map;
            let own = if state.chunks.whole.contains(chunk) {
                map.without_scratch(bytes)
            } else {
                map.used_in(bytes)
            };
            for part in own {
                match parts.last_mut() {
                    Some(last) if last.end == part.start => last.end = part.end,
                    _ => parts.push(part),
                }
            }
        }
        parts
    }

    /// Fills `buffer` with what counts of a run of chunks. Returns the bytes read and what cannot be read, zeros in the buffer.
    ///
    /// # Errors
    /// The disk fails as a whole.
    pub fn read(&self, buffer: &mut [u8], chunks: &Range<u64>) -> Result<(u64, Vec<Range<u64>>)> {
        let start = bytes_of(chunks, self.len()).start;
        read_parts(&self.medium, buffer, start, &self.parts(chunks)).map_err(|error| {
            Error::new(Kind::Medium, "read the disk")
                .on(&self.medium.path)
                .because(error)
                .remedy(
                    "this is no bad sector: see the kernel's log (dmesg) whether the disk is still there, then run again; what \
                     was copied before is kept",
                )
        })
    }

    /// Whether zeros for what cannot be read of `chunk`, which the target holds something of, would replace what could be
    /// read once: not if there are zeros already.
    pub fn would_lose(&self, chunk: u64, bad: &[Range<u64>]) -> bool {
        let own = overlap(bad, &bytes_of(&(chunk..chunk + 1), self.len()));
        !own.is_empty() && !self.lock().unreadable.are_zeros(chunk, &own)
    }

    /// Chunks were looked at; `bad` are the ranges of them that cannot be read. Of the chunks `kept` the target still holds what
    /// was copied earlier.
    ///
    /// # Errors
    /// So much cannot be read that the disk counts as broken.
    pub fn done(&self, chunks: &[u64], bad: &[Range<u64>], kept: &[u64]) -> Result<()> {
        let mut state = self.lock();
        state.was_read = true;
        for &chunk in chunks {
            state.chunks.todo.remove(chunk);
            let bytes = bytes_of(&(chunk..chunk + 1), self.len());
            let in_place = if kept.contains(&chunk) {
                InPlace::Earlier
            } else {
                InPlace::Zeros
            };
            state.unreadable.set(chunk, in_place, overlap(bad, &bytes));
        }
        state.unreadable.check(&self.medium.path)
    }

    /// The ranges that could not be read, merged, and what the target holds there.
    pub fn unreadable(&self) -> Vec<(Range<u64>, InPlace)> {
        self.lock()
            .unreadable
            .ranges(|chunk| bytes_of(&(chunk..chunk + 1), self.len()))
    }

    /// Chunks of which the target holds what could be read once.
    pub fn kept(&self) -> ChunkSet {
        let state = self.lock();
        let mut kept = ChunkSet::empty(state.chunks.whole.len());
        state.unreadable.kept().for_each(|chunk| kept.insert(chunk));
        kept
    }

    /// Begins a round after the first: what the tracker marked, or everything if there is any doubt. Returns why the
    /// disk is looked at whole, if it is.
    ///
    /// # Errors
    /// A new map cannot be taken.
    pub fn begin_round(&self, marks: Marks) -> Result<Option<String>> {
        let mut state = self.lock();
        state.chunks.todo.shrink();
        let unreadable: Vec<u64> = state.unreadable.chunks().collect();
        let doubt = state.take_marks();
        let empty = ChunkSet::empty(state.chunks.fresh.len());
        let fresh = std::mem::replace(&mut state.chunks.fresh, empty);
        let carried = std::mem::replace(&mut state.chunks.carried, fresh);
        state.chunks.todo.union_with(&carried);
        unreadable
            .iter()
            .for_each(|chunk| state.chunks.todo.insert(*chunk));
        let pays = SIFT_CHUNKS_MIN.max(state.present().count() / SIFT_PART);
        let many = state.chunks.todo.count() >= pays;
        drop(state);
        match (&doubt, marks) {
            (Some(_), Marks::Sift) => self.begin_rescan(Effort::Copy)?,
            (Some(_), Marks::Take) => self.begin_rescan(Effort::Frozen)?,
            (None, Marks::Sift) if many => self.sift(),
            (None, _) => {}
        }
        Ok(doubt)
    }

    /// Forgets what has to be looked at and is wholly free in a mounted file system. All of it was marked before the map is taken
    /// here. Without a map nothing is forgotten.
    fn sift(&self) {
        let survey = match survey(&self.medium, Effort::Look) {
            Ok(survey) => survey,
            Err(error) => {
                let error = error.describe();
                tracing::warn!(error, "marked chunks that may be free are read all the same");
                return;
            }
        };
        let mut state = self.lock();
        let mut mounted = ChunkSet::empty(state.chunks.todo.len());
        for area in survey.areas.iter().filter(|area| area.mounted_at.is_some()) {
            let range = &area.range;
            mounted.insert_range(range.start.div_ceil(CHUNK_LEN)..range.end / CHUNK_LEN);
        }
        let mut free = state.chunks.todo.clone();
        free.intersect_with(&mounted);
        free.subtract(&survey.map.chunks());
        state.unreadable.retain(|chunk| !free.contains(chunk));
        let Chunks {
            todo,
            whole,
            carried,
            free: all,
            ..
        } = &mut state.chunks;
        for set in [todo, whole, carried] {
            set.subtract(&free);
        }
        all.union_with(&free);
    }

    /// Begins a round that looks at everything by a new map, taken with so much `effort`.
    ///
    /// # Errors
    /// The map cannot be taken.
    pub fn begin_rescan(&self, effort: Effort) -> Result<()> {
        // Before the map is taken: what is written from now on is marked.
        {
            let mut state = self.lock();
            drop(state.take_marks());
            state.has_lost = false;
        }
        let survey = survey(&self.medium, effort)?;
        let mut state = self.lock();
        if state.tracker.is_none() {
            let chunk_count = state.chunks.whole.len();
            state.chunks.whole = ChunkSet::empty(chunk_count);
        }
        state.chunks.free = ChunkSet::empty(state.chunks.whole.len());
        state.chunks.todo = survey.map.chunks();
        let whole = state.chunks.whole.clone();
        state.chunks.todo.union_with(&whole);
        state.survey = survey;
        state.truncate();
        // What could not be read and is free by now is no loss.
        let State {
            chunks, unreadable, ..
        } = &mut *state;
        unreadable.retain(|chunk| chunks.todo.contains(chunk));
        Ok(())
    }

    /// Looks for marks made during a freeze, and schedules them.
    pub fn was_written_now(&self) -> Written {
        let mut state = self.lock();
        if state.tracker.is_none() {
            return Written::No;
        }
        match state.take_marks() {
            Some(_) => Written::Unknown,
            None if state.chunks.todo.is_empty() => Written::No,
            None => Written::Yes,
        }
    }

    /// Chunks written since the last round looked at everything that was marked. `None` when nobody watched, or something
    /// was lost since.
    pub fn moved_on(&self) -> Option<ChunkSet> {
        let mut state = self.lock();
        match state.take_marks() {
            None => Some(state.chunks.todo.clone()),
            Some(_) => None,
        }
    }

    /// What would be looked at in the next round; the marks are kept.
    pub fn peek(&self) -> u64 {
        let mut state = self.lock();
        match state.take_marks() {
            None => {
                let mut chunks = state.chunks.todo.clone();
                chunks.union_with(&state.chunks.carried);
                chunks.count()
            }
            Some(_) => {
                let mut chunks = state.survey.map.chunks();
                chunks.truncate(state.chunk_limit);
                chunks.count()
            }
        }
    }
}

impl State {
    /// Chunks that hold something.
    fn present(&self) -> ChunkSet {
        let mut chunks = self.survey.map.chunks();
        chunks.union_with(&self.chunks.whole);
        chunks.subtract(&self.chunks.free);
        chunks.truncate(self.chunk_limit);
        chunks
    }

    /// Forgets chunks that are not copied.
    fn truncate(&mut self) {
        let Chunks {
            todo,
            whole,
            fresh,
            carried,
            free,
        } = &mut self.chunks;
        for set in [todo, whole, fresh, carried, free] {
            set.truncate(self.chunk_limit);
        }
    }

    /// Moves the tracker's marks to what has to be looked at. Returns a doubt that calls for a rescan.
    fn take_marks(&mut self) -> Option<String> {
        let Some(tracker) = &self.tracker else {
            return Some(self.tracking.clone());
        };
        let harvest = tracker.harvest();
        if std::mem::take(&mut self.was_read) && !harvest.saw_requests {
            self.tracking = format!("not tracked: the {} does not see this device", tracker.method());
            self.tracker = None;
            return Some(self.tracking.clone());
        }
        self.has_lost |= harvest.lost;
        if self.has_lost {
            return Some("records of the tracker were lost".to_owned());
        }
        let mut dirty = harvest.dirty;
        dirty.subtract(&self.survey.map.scratch_chunks());
        dirty.truncate(self.chunk_limit);
        self.chunks.free.subtract(&dirty);
        self.chunks.whole.union_with(&dirty);
        self.chunks.fresh.union_with(&dirty);
        self.chunks.todo.union_with(&dirty);
        None
    }
}

/// What a target needs at least: the partitions, and room for the backup of a GUID partition table. A file system counts
/// to its end, used or not: with less it would not be mounted.
fn needed_len(medium: &DiskMedium, survey: &Survey) -> u64 {
    let partitions = survey.areas.iter().filter(|area| area.partition > 0);
    let Some(end) = partitions.map(|area| area.range.end).max() else {
        return bare_len(medium, survey);
    };
    match gpt::backup_len(medium) {
        Ok(backup_len) => (end + backup_len).min(medium.length()),
        Err(_) => medium.length(),
    }
}

/// The same for a disk without partitions. Only of an ext file system is it known that it may end before its disk: it was
/// made smaller. The end of the disk must be empty then, for labels of RAID and the like lie there.
fn bare_len(medium: &DiskMedium, survey: &Survey) -> u64 {
    let len = medium.length();
    let is_ext = matches!(&survey.areas[..], [area] if area.kind == "ext");
    let tail = len.saturating_sub(TAIL_LEN).next_multiple_of(BLOCK_LEN as u64);
    if !is_ext || tail >= len {
        return len;
    }
    let mut head = AlignedBuffer::zeroed(BLOCK_LEN);
    let mut last = AlignedBuffer::zeroed((len - tail) as usize);
    let read = medium
        .read(&mut head, 0)
        .and_then(|()| medium.read(&mut last, tail));
    match ext::end(&head) {
        Some(end) if read.is_ok() && is_zero(&last) && (1..len).contains(&end) => end,
        _ => len,
    }
}

/// A program left out at one end of a request is made up for at the other one.
fn remark_on(left_out: Option<LeftOut>) -> String {
    match left_out {
        Some(LeftOut { before, after }) if before > 0 && after > 0 => format!(
            "; left out by the kernel {before} times before and {after} times after requests: should both have been the same \
             one, a write was missed, which --checksum finds"
        ),
        _ => String::new(),
    }
}

/// Attaches a tracker; the text says how the disk is tracked, or why it is not.
pub(super) fn attach(medium: &DiskMedium) -> (Option<BlockTracker>, String) {
    let Some(device) = &medium.device else {
        return (None, "not tracked: an image file".to_owned());
    };
    if let Ok(mounts) = device.mounts()
        && let Some((_, mount)) = mounts.iter().find(|(_, mount)| mount.has_option("dax"))
    {
        return (
            None,
            format!("not tracked: {} is mounted with dax", mount.point.display()),
        );
    }
    match BlockTracker::attach(device) {
        Ok(tracker) => {
            let described = tracker.describe();
            (Some(tracker), described)
        }
        Err(error) => (None, format!("not tracked: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::loop_device::{LoopDevice, run};

    /// An ext file system that nobody has mounted.
    fn ext_disk() -> (LoopDevice, tempfile::TempDir, SourceDisk) {
        let device = LoopDevice::new("g2c-block-source", 96 << 20, 512).unwrap();
        run("mkfs.ext4", ["-q".as_ref(), device.path.as_os_str()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let disk = SourceDisk::open(&device.path, &folder.path().join("digests")).unwrap();
        (device, folder, disk)
    }

    #[test]
    fn what_could_not_be_read_and_is_free_in_a_new_map_is_no_loss() {
        let (_device, _folder, disk) = ext_disk();
        let present = disk.present();
        let free = (0..).find(|chunk| !present.contains(*chunk)).unwrap();
        let bad = [0, free].map(|chunk| bytes_of(&(chunk..chunk + 1), disk.len()));
        disk.done(&[0, free], &bad, &[]).unwrap();
        assert_eq!(disk.unreadable().len(), 2);
        disk.begin_rescan(Effort::Copy).unwrap();
        let [used, _] = bad;
        assert_eq!(disk.unreadable(), [(used, InPlace::Zeros)]);
    }

    #[test]
    fn a_tracker_that_lost_something_does_not_know_whether_there_was_a_write() {
        let (device, _folder, disk) = ext_disk();
        disk.lock().chunks.todo = ChunkSet::empty(disk.digests.chunk_count());
        assert!(disk.is_tracked());
        assert_eq!(disk.was_written_now(), Written::No);
        let file = sys::block_device::DirectFile::open(&device.path, Access::Write).unwrap();
        file.write_all_at(&AlignedBuffer::zeroed(4096), 40 << 20).unwrap();
        assert_eq!(disk.was_written_now(), Written::Yes);
        disk.lock().has_lost = true;
        assert_eq!(disk.was_written_now(), Written::Unknown);
    }

    #[test]
    fn only_what_was_left_out_at_both_ends_is_worth_a_remark() {
        let of = |before, after| remark_on(Some(LeftOut { before, after }));
        assert!(remark_on(None).is_empty() && of(7, 0).is_empty() && of(0, 7).is_empty());
        assert!(of(3, 7).contains("3 times before and 7 times after"));
    }
}
