//! The replica: what of a tree is durable at the target, on disk and in replica order.
//!
//! Both sides keep one. The target's is the truth (its *journal*), the source's a copy of it (its *baseline*). Facts are
//! appended to a log; a checkpoint makes them durable; at the end of a round the log is sealed into a sorted, compressed
//! run, and runs are merged so that reading stays cheap. Memory does not grow with the number of entries: 24 MiB while
//! sealing, and some 120 bytes per 64 KiB of sorted items while open.
//!
//! A crash at any moment leaves the state before or after: what a checkpoint made durable is never lost, and no file is
//! changed after the manifest names it. The manifest is replaced last, and that is the moment a seal becomes true.
//!
//! The same records, sealed in the same generations, give the same [`Version`], whatever the order in which the records
//! of different paths were appended. docs/FORMATS.md draws the files.

mod disk;
mod exchange;
mod fold;
mod key;
mod limits;
mod log;
mod manifest;
mod merge;
mod path;
mod record;
mod rename;
mod run;
mod scan;
mod snapshot;
mod sort;
#[cfg(test)]
mod tests;
mod varint;
mod walk;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::log::{Log, LogName, LogReader};
use self::manifest::Manifest;
use self::merge::Depth;
use self::rename::Sweep;
use self::run::{Run, RunInfo};
use super::entry::Digest;
use crate::{Error, Kind, Result};

pub use self::exchange::Export;
pub use self::limits::{EXPORT_PIECE_LEN_MAX, GROUP_LEN};
pub use self::record::Record;
pub use self::snapshot::{ChunkDigests, Cursor, Entries, Snapshot};

/// Which sealed contents a replica has. Two replicas of one migration with equal versions hold the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Version {
    /// Number of generations sealed.
    pub generation: u64,
    /// Digest of their history.
    pub digest: Digest,
}

impl From<Version> for crate::progress::Sealed {
    fn from(version: Version) -> Self {
        Self {
            generation: version.generation,
            state: crate::signature::hex(&version.digest.0),
        }
    }
}

/// What is in the log of a replica that is not open.
#[derive(Clone, Copy, Debug)]
pub struct Unsealed {
    /// The migration it belongs to.
    pub migration: [u8; 16],
    /// Number of generations sealed.
    pub generation: u64,
    /// Whether the log holds records.
    pub has_records: bool,
    /// Renames among them.
    pub renames: usize,
}

/// A replica open for reading and appending. One owner: a second one is refused.
pub struct Replica {
    folder: PathBuf,
    manifest: Manifest,
    /// Oldest first, as in the manifest.
    runs: Vec<Arc<Run>>,
    log: Log,
    /// An operation failed half-way; what is on disk is fine, what is in memory is not.
    failed: bool,
    _lock: File,
}

impl Replica {
    /// Opens the replica in `folder`; `None` when there is none. Records of an unfinished generation, up to the last
    /// batch that reached the disk whole, are sealed: the generation is then one higher. What an open intent left torn
    /// becomes unknown.
    ///
    /// # Errors
    /// The replica is damaged, in use, or cannot be read or written.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        Self::open_with(folder, Unfinished::Seal)
    }

    /// Opens the replica in `folder` as it was sealed last; records of an unfinished generation are thrown away. For a
    /// copy, whose truth is elsewhere.
    ///
    /// # Errors
    /// The replica is damaged, in use, or cannot be read or written.
    pub fn open_sealed(folder: &Path) -> Result<Option<Self>> {
        Self::open_with(folder, Unfinished::Forget)
    }

    /// What the unfinished generation of the replica in `folder` consists of; `None` when there is no replica.
    ///
    /// # Errors
    /// The replica is damaged or cannot be read.
    pub fn unsealed(folder: &Path) -> Result<Option<Unsealed>> {
        if !folder.is_dir() {
            return Ok(None);
        }
        let Some(manifest) = Manifest::read(folder)? else {
            return Ok(None);
        };
        let name = LogName {
            migration: manifest.migration,
            generation: manifest.generation,
            number: manifest.log,
        };
        let mut log = LogReader::open(folder, name)?;
        let has_records = log.has_records()?;
        let mut renames = 0;
        while let Some(record) = log.next()? {
            renames += usize::from(matches!(record, Record::Rename { .. }));
        }
        Ok(Some(Unsealed {
            migration: manifest.migration,
            generation: manifest.generation,
            has_records,
            renames,
        }))
    }

    fn open_with(folder: &Path, unfinished: Unfinished) -> Result<Option<Self>> {
        if !folder.is_dir() {
            return Ok(None);
        }
        let lock = lock(folder)?;
        match Manifest::read(folder)? {
            Some(manifest) => Self::with_manifest(folder, manifest, lock, unfinished).map(Some),
            None => Ok(None),
        }
    }

    /// Creates an empty replica of generation 0, in place of what was there.
    ///
    /// # Errors
    /// The folder is in use or cannot be written.
    pub fn create(folder: &Path, migration: [u8; 16]) -> Result<Self> {
        disk::create_folder(folder)?;
        let lock = lock(folder)?;
        disk::remove(&manifest::file(folder))?;
        disk::sync_folder(folder)?;
        sweep(folder, None)?;
        let name = LogName {
            migration,
            generation: 0,
            number: 1,
        };
        let log = Log::create(folder, name)?;
        disk::sync_folder(folder)?;
        let manifest = Manifest {
            migration,
            generation: 0,
            state: Digest::default(),
            next_number: 2,
            log: 1,
            runs: Vec::new(),
        };
        manifest.write(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            manifest,
            runs: Vec::new(),
            log,
            failed: false,
            _lock: lock,
        })
    }

    fn with_manifest(folder: &Path, manifest: Manifest, lock: File, unfinished: Unfinished) -> Result<Self> {
        sweep(folder, Some(&manifest))?;
        let runs = manifest
            .runs
            .iter()
            .map(|info| Run::open(folder, info).map(Arc::new))
            .collect::<Result<_>>()?;
        let name = LogName {
            migration: manifest.migration,
            generation: manifest.generation,
            number: manifest.log,
        };
        let mut reader = LogReader::open(folder, name)?;
        let unfinished = unfinished == Unfinished::Seal && reader.has_records()?;
        let log = if unfinished {
            Log::closed(folder, name)?
        } else {
            Log::resume(folder, name)?
        };
        let mut replica = Self {
            folder: folder.to_owned(),
            manifest,
            runs,
            log,
            failed: false,
            _lock: lock,
        };
        if unfinished {
            let mut folded = replica.fold()?;
            // Usually no merging here: a peer that has all but this generation then needs only the new run.
            if folded.runs.len() > limits::RUNS_UNMERGED_MAX {
                folded.merge_if_due(folder)?;
            }
            replica.commit(folded)?;
        }
        Ok(replica)
    }

    /// The migration it belongs to.
    pub fn migration(&self) -> [u8; 16] {
        self.manifest.migration
    }

    /// Number of generations sealed.
    pub fn generation(&self) -> u64 {
        self.manifest.generation
    }

    /// Generation and digest of the sealed contents.
    pub fn version(&self) -> Version {
        Version {
            generation: self.manifest.generation,
            digest: self.manifest.state,
        }
    }

    /// Number of sealed entries. Too high by the entries that were replaced or lie in removed directories, until runs
    /// are merged.
    pub fn entries(&self) -> u64 {
        let (entries, tombstones) =
            self.manifest
                .runs
                .iter()
                .fold((0u64, 0u64), |(entries, tombstones), run| {
                    (
                        entries.saturating_add(run.entries),
                        tombstones.saturating_add(run.tombstones),
                    )
                });
        entries.saturating_sub(tombstones)
    }

    /// Sum of the lengths of the sealed regular files, in bytes; an estimate as [`Self::entries`] is.
    pub fn content_len(&self) -> u64 {
        self.manifest
            .runs
            .iter()
            .fold(0, |sum, run| sum.saturating_add(run.content_len))
    }

    /// The sealed contents.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.runs.iter().rev().cloned())
    }

    /// Appends records to the generation under way. They are durable after the next [`Self::checkpoint`].
    ///
    /// # Errors
    /// A record breaks the bounds of the format, or the disk refuses. In the latter case the replica must be opened
    /// again.
    pub fn append(&mut self, records: &[Record]) -> Result<()> {
        if let Some(flaw) = records.iter().find_map(Record::flaw) {
            return Err(Error::new(Kind::Usage, "append to the journal").because(flaw));
        }
        self.guarded(|this| records.iter().try_for_each(|record| this.log.append(record)))
    }

    /// From here on what is appended stays in memory, compressed: some 50 bytes for each changed file. The folder's file
    /// system is about to be frozen; until [`Self::release`] there is no checkpoint and no seal.
    ///
    /// # Errors
    /// The replica must be opened again after an earlier failure.
    pub fn hold(&mut self) -> Result<()> {
        self.guarded(|this| this.log.hold(true))
    }

    /// Writes what was held back.
    ///
    /// # Errors
    /// The disk refuses; the replica must be opened again.
    pub fn release(&mut self) -> Result<()> {
        self.guarded(|this| this.log.hold(false))
    }

    /// Makes everything appended so far durable: one `fdatasync`.
    ///
    /// # Errors
    /// The disk refuses; the replica must be opened again.
    pub fn checkpoint(&mut self) -> Result<()> {
        self.guarded(|this| this.log.checkpoint())
    }

    /// Ends the generation: its records become part of the sealed contents, durably.
    ///
    /// # Errors
    /// The disk refuses, or the replica is damaged; it must be opened again, and is then as before or as after.
    pub fn seal(&mut self) -> Result<()> {
        self.guarded(|this| {
            let folded = this.fold_all()?;
            this.commit_merged(folded)
        })
    }

    /// Ends the generation if that makes it `version`; else nothing is sealed, so that what is on disk is still a state
    /// that the peer's history knows. Whether it was sealed.
    ///
    /// # Errors
    /// As for [`Self::seal`].
    pub fn seal_as(&mut self, version: Version) -> Result<bool> {
        self.guarded(|this| {
            let folded = this.fold_all()?;
            let ours = Version {
                generation: this.manifest.generation + 1,
                digest: folded.state,
            };
            if ours != version {
                return Ok(false);
            }
            this.commit_merged(folded).map(|()| true)
        })
    }

    /// The sealed contents as pieces of at most [`EXPORT_PIECE_LEN_MAX`] bytes, for [`Self::import`]. To a peer whose
    /// version is part of our history only what it lacks; the default version stands for "nothing".
    ///
    /// # Errors
    /// The replica must be opened again after an earlier failure.
    pub fn export(&self, have: Version) -> Result<Export> {
        if self.failed {
            return Err(must_reopen(&self.folder));
        }
        Ok(Export::new(&self.manifest, &self.runs, have))
    }

    /// Makes the replica in `folder` equal to the one that was exported. Until everything has come and was verified,
    /// what was there stays; its unfinished generation is given up.
    ///
    /// # Errors
    /// The pieces are malformed or do not fit to what is in `folder`, an error among them, or the disk refuses.
    pub fn import(folder: &Path, pieces: impl IntoIterator<Item = Result<Vec<u8>>>) -> Result<Self> {
        exchange::import(folder, &mut pieces.into_iter())
    }

    fn guarded<T>(&mut self, operation: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.failed {
            return Err(must_reopen(&self.folder));
        }
        self.failed = true;
        let result = operation(self)?;
        self.failed = false;
        Ok(result)
    }

    /// What the generation under way makes of the sealed contents.
    fn fold_all(&mut self) -> Result<Folded> {
        self.log.checkpoint()?;
        if self.log.is_empty() {
            Ok(Folded::onto(self))
        } else {
            self.fold()
        }
    }

    /// Makes runs of the log's records: one per sweep of renames, one for the rest.
    fn fold(&self) -> Result<Folded> {
        let mut folded = Folded::onto(self);
        let generation = self.manifest.generation + 1;
        if self.log.may_hold_renames() {
            self.fold_renames(&mut folded, generation)?;
        }
        let mut log = LogReader::open(&self.folder, self.log.name())?;
        let sorted = fold::collect(&self.folder, &mut log)?;
        let number = folded.take_number();
        if let Some(info) = fold::fold(&self.folder, number, &folded.newest_first(), sorted)? {
            folded.add(&self.folder, generation, info)?;
        }
        Ok(folded)
    }

    fn fold_renames(&self, folded: &mut Folded, generation: u64) -> Result<()> {
        let mut log = LogReader::open(&self.folder, self.log.name())?;
        let mut sweep = Sweep::default();
        while let Some(record) = log.next()? {
            if let Record::Rename { from, to } = record
                && let Some((from, to)) = sweep.add(from, to)
            {
                folded.rename(&self.folder, generation, std::mem::take(&mut sweep))?;
                sweep.add(from, to);
            }
        }
        if sweep.is_empty() {
            Ok(())
        } else {
            folded.rename(&self.folder, generation, sweep)
        }
    }

    fn commit_merged(&mut self, mut folded: Folded) -> Result<()> {
        if !self.log.is_empty() {
            folded.merge_if_due(&self.folder)?;
        }
        self.commit(folded)
    }

    /// Makes `folded` the sealed contents and begins the next generation. In this order: the runs are durable already;
    /// the new log; their names; the manifest, which is the commit; only then the old files go.
    fn commit(&mut self, folded: Folded) -> Result<()> {
        let manifest = Manifest {
            migration: self.manifest.migration,
            generation: self.manifest.generation + 1,
            state: folded.state,
            log: folded.next_number,
            next_number: folded.next_number + 1,
            runs: folded.runs.iter().map(|run| run.info().clone()).collect(),
        };
        let name = LogName {
            migration: manifest.migration,
            generation: manifest.generation,
            number: manifest.log,
        };
        let log = Log::create(&self.folder, name)?;
        disk::sync_folder(&self.folder)?;
        manifest.write(&self.folder)?;
        let old_log = std::mem::replace(&mut self.log, log);
        self.manifest = manifest;
        self.runs = folded.runs;
        drop(old_log);
        sweep(&self.folder, Some(&self.manifest))
    }
}

/// What opening does with an unfinished generation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unfinished {
    Seal,
    Forget,
}

/// Sealed contents in the making.
struct Folded {
    /// Oldest first.
    runs: Vec<Arc<Run>>,
    state: Digest,
    next_number: u64,
}

impl Folded {
    /// The sealed contents of `replica` as they are.
    fn onto(replica: &Replica) -> Self {
        Self {
            runs: replica.runs.clone(),
            state: replica.manifest.state,
            next_number: replica.manifest.next_number,
        }
    }

    fn take_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    fn newest_first(&self) -> Vec<Arc<Run>> {
        self.runs.iter().rev().cloned().collect()
    }

    fn rename(&mut self, folder: &Path, generation: u64, sweep: Sweep) -> Result<()> {
        let number = self.take_number();
        let info = sweep.apply(folder, number, &self.newest_first())?;
        self.add(folder, generation, info)?;
        if self.runs.len() >= limits::MANIFEST_RUNS_MAX / 2 {
            self.merge(folder, 0)?;
        }
        Ok(())
    }

    /// Adds a run whose `state` is the digest of its own contents.
    fn add(&mut self, folder: &Path, generation: u64, mut info: RunInfo) -> Result<()> {
        info.generation_first = generation;
        info.generation_last = generation;
        self.state = Digest::of(&[self.state.0, info.state.0].concat());
        info.state = self.state;
        self.runs.push(Arc::new(Run::open(folder, &info)?));
        Ok(())
    }

    /// Merges everything when the overlays have grown to a quarter of the base, the overlays alone when there are many.
    fn merge_if_due(&mut self, folder: &Path) -> Result<()> {
        let Some((base, overlays)) = self.runs.split_first() else {
            return Ok(());
        };
        let overlay_len = overlays
            .iter()
            .fold(0u64, |sum, run| sum.saturating_add(run.info().raw_len));
        if overlay_len > base.info().raw_len / 4 {
            self.merge(folder, 0)
        } else if self.runs.len() > limits::RUNS_MAX {
            self.merge(folder, 1)
        } else {
            Ok(())
        }
    }

    /// Merges the runs from `oldest` on.
    fn merge(&mut self, folder: &Path, oldest: usize) -> Result<()> {
        let depth = if oldest == 0 {
            Depth::Bottom
        } else {
            Depth::Overlay
        };
        let number = self.take_number();
        let newest_first: Vec<_> = self.runs[oldest..].iter().rev().cloned().collect();
        let info = merge::merge(folder, number, &newest_first, depth)?;
        self.runs.truncate(oldest);
        self.runs.push(Arc::new(Run::open(folder, &info)?));
        Ok(())
    }
}

fn must_reopen(folder: &Path) -> Error {
    Error::new(Kind::Medium, "go on with the replica after a failure")
        .on(folder)
        .remedy("run the same command again: what is durable is kept")
}

/// Locks the folder for as long as the returned file is open.
fn lock(folder: &Path) -> Result<File> {
    let file = File::open(folder).map_err(|e| Error::io("open the replica's folder", folder, e))?;
    crate::lock::exclusively(&file).map_err(|error| {
        Error::new(Kind::Usage, "lock the replica")
            .on(folder)
            .because(error)
            .remedy("end the other program that uses it, or wait for it")
    })?;
    Ok(file)
}

/// Removes files of ours that the manifest does not name: leftovers of a crash, and what a seal replaced.
fn sweep(folder: &Path, manifest: Option<&Manifest>) -> Result<()> {
    let failed = |e| Error::io("list the replica's folder", folder, e);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(name) = name.to_str() else { continue };
        let Some((kind, number)) = name.split_once(['-', '.']) else {
            continue;
        };
        let number = number.parse::<u64>().ok();
        let stale = match (kind, number) {
            ("MANIFEST", None) => name == "MANIFEST.tmp",
            ("spill", Some(_)) => true,
            ("run", Some(number)) => {
                !manifest.is_some_and(|manifest| manifest.runs.iter().any(|run| run.number == number))
            }
            ("log", Some(number)) => manifest.is_none_or(|manifest| manifest.log != number),
            _ => false,
        };
        if stale {
            disk::remove(&folder.join(name))?;
        }
    }
    Ok(())
}
