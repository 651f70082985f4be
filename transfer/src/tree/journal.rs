//! The target's journal: what has been applied becomes durable in groups, and only then is it acknowledged.
//!
//! The one sentence that matters: data first (`syncfs` of the tree), then the record (`fdatasync` of the journal), then
//! the acknowledgement. A content that is about to be overwritten or replaced is named in the journal before ([`Journal::intend`]),
//! so that a crash in between leaves it unknown and never taken for what it was.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::error::{Error, Kind, Result};
use crate::link::auth::Id;
use crate::tree::entry::EntryPath;
use crate::tree::filter::Filter;
use crate::tree::foreseen::List;
use crate::tree::replica::{Export, Record, Replica, Snapshot, Version};
use crate::tree::write::TreeWriter;

/// Content bytes after which a checkpoint is due.
const CHECKPOINT_BYTES: u64 = 256 * 1024 * 1024;
/// Records after which a checkpoint is due: they wait in memory, some 400 bytes each.
const CHECKPOINT_RECORDS: usize = 32 * 1024;
/// Time after which what has been applied is made durable. With [`CHECKPOINT_BYTES`] this bounds what a crash costs.
const CHECKPOINT_AGE: Duration = Duration::from_secs(2);

/// What a frame, or a part of it, did.
#[derive(Debug)]
pub struct Applied {
    /// Its records.
    pub records: Vec<Record>,
    /// Frames that are complete with it.
    pub frames: u64,
    /// Their content bytes.
    pub bytes: u64,
}

/// What travels to the checkpointing thread.
#[derive(Debug)]
pub enum Entering {
    /// A frame has been applied.
    Applied(Applied),
    /// Make everything durable now, and say so.
    Flush(Sender<()>),
}

/// The journal of a target tree.
pub struct Journal {
    folder: PathBuf,
    replica: Mutex<Option<Replica>>,
    renames: Mutex<List>,
}

impl Journal {
    /// The journal in `folder` of the tree at `root`; nothing is opened yet.
    pub fn new(folder: &Path, root: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            replica: Mutex::new(None),
            renames: Mutex::new(List::new(folder, root)),
        }
    }

    /// Opens it for `migration`; a new one is made where there is none. What an earlier session had made durable is
    /// sealed, what it had only begun to overwrite becomes unknown, renames that it had begun are finished.
    ///
    /// # Errors
    /// It belongs to another migration, is damaged, or the disk refuses.
    pub fn open(&self, migration: Id, writer: &TreeWriter) -> Result<Version> {
        let mut slot = self.replica.lock().expect("not poisoned");
        // Closing and opening seals an unfinished generation.
        drop(slot.take());
        let mut renames = self.renames.lock().expect("not poisoned");
        let recovered = if renames.is_there() {
            let unsealed = Replica::unsealed(&self.folder)?;
            match unsealed.filter(|unsealed| unsealed.migration == migration) {
                Some(unsealed) => {
                    // The rules that held are not known: whatever is in the way of a rename stays.
                    let mut writer = writer.without_rules();
                    writer.exclude(Filter::of_everything());
                    renames.recover(&unsealed, &mut writer)?
                }
                None => None,
            }
        } else {
            None
        };
        let mut replica = match Replica::open(&self.folder)? {
            Some(replica) if replica.migration() != migration => {
                return Err(Error::new(
                    Kind::Refused,
                    "receive this source: the target holds another migration",
                )
                .on(&self.folder)
                .remedy(
                    "use an empty target directory for this source; to give the old migration up, empty the \
                         target directory and delete this journal folder",
                ));
            }
            Some(replica) => replica,
            None => Replica::create(&self.folder, migration)?,
        };
        if let Some((generation, records)) = recovered
            && generation == replica.generation()
        {
            replica.append(&records)?;
            replica.seal()?;
        }
        renames.clear()?;
        let version = replica.version();
        *slot = Some(replica);
        Ok(version)
    }

    /// Gives up the journal and begins an empty one: the tree is not what it says.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn restart(&self, migration: Id) -> Result<Version> {
        let mut slot = self.replica.lock().expect("not poisoned");
        drop(slot.take());
        self.renames.lock().expect("not poisoned").clear()?;
        let replica = Replica::create(&self.folder, migration)?;
        let version = replica.version();
        *slot = Some(replica);
        Ok(version)
    }

    /// The sealed contents and their version.
    ///
    /// # Errors
    /// The journal is not open.
    pub fn sealed(&self) -> Result<(Snapshot, Version)> {
        self.with(|replica| Ok((replica.snapshot(), replica.version())))
    }

    /// Content bytes of the sealed entries; an estimate.
    ///
    /// # Errors
    /// The journal is not open.
    pub fn content_len(&self) -> Result<u64> {
        self.with(|replica| Ok(replica.content_len()))
    }

    /// What a source with version `have` lacks.
    ///
    /// # Errors
    /// The journal is not open.
    pub fn export(&self, have: Version) -> Result<Export> {
        self.with(|replica| replica.export(have))
    }

    /// Names contents that are about to be overwritten, durably.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn intend(&self, intents: &[Record]) -> Result<()> {
        self.with(|replica| {
            replica.append(intents)?;
            replica.checkpoint()
        })
    }

    /// Writes down renames that are about to be made, durably.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn foresee(&self, renames: &[(EntryPath, EntryPath)]) -> Result<()> {
        let generation = self.with(|replica| Ok(replica.generation()))?;
        self.renames
            .lock()
            .expect("not poisoned")
            .add(generation, renames)
    }

    /// Ends the generation.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn seal(&self) -> Result<Version> {
        let version = self.with(|replica| {
            replica.seal()?;
            Ok(replica.version())
        })?;
        self.renames.lock().expect("not poisoned").clear()?;
        Ok(version)
    }

    /// Appends records without waiting for a group.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn append(&self, records: &[Record]) -> Result<()> {
        self.with(|replica| replica.append(records))
    }

    /// Makes groups durable until the channel is closed; `acknowledge` is told frames and bytes of each. What has been
    /// applied when the channel closes is still made durable.
    ///
    /// # Errors
    /// The medium failed.
    pub fn keep(
        &self,
        writer: &TreeWriter,
        entering: &Receiver<Entering>,
        mut acknowledge: impl FnMut(u64, u64),
    ) -> Result<()> {
        let mut group = Group::default();
        loop {
            let wait = group.since.map_or(CHECKPOINT_AGE, |since| {
                CHECKPOINT_AGE.saturating_sub(since.elapsed())
            });
            let (flushed, ended) = match entering.recv_timeout(wait) {
                Ok(Entering::Applied(applied)) => {
                    group.add(applied);
                    if !group.is_due() {
                        continue;
                    }
                    (None, false)
                }
                Ok(Entering::Flush(flushed)) => (Some(flushed), false),
                Err(RecvTimeoutError::Timeout) => (None, false),
                Err(RecvTimeoutError::Disconnected) => (None, true),
            };
            if group.since.is_some() {
                writer.sync()?;
                self.with(|replica| {
                    replica.append(&group.records)?;
                    replica.checkpoint()
                })?;
                acknowledge(group.frames, group.bytes);
                group = Group::default();
            }
            if let Some(flushed) = flushed {
                // Whoever asked may have given up meanwhile.
                let _ = flushed.send(());
            }
            if ended {
                return Ok(());
            }
        }
    }

    fn with<T>(&self, action: impl FnOnce(&mut Replica) -> Result<T>) -> Result<T> {
        let mut replica = self.replica.lock().expect("not poisoned");
        match replica.as_mut() {
            Some(replica) => action(replica),
            None => Err(Error::new(Kind::Retry, "use the journal: it is not open").on(&self.folder)),
        }
    }
}

/// What becomes durable together.
#[derive(Debug, Default)]
struct Group {
    records: Vec<Record>,
    frames: u64,
    bytes: u64,
    since: Option<Instant>,
}

impl Group {
    fn add(&mut self, applied: Applied) {
        self.records.extend(applied.records);
        self.frames += applied.frames;
        self.bytes += applied.bytes;
        self.since.get_or_insert_with(Instant::now);
    }

    fn is_due(&self) -> bool {
        self.bytes >= CHECKPOINT_BYTES
            || self.records.len() >= CHECKPOINT_RECORDS
            || self.since.is_some_and(|since| since.elapsed() >= CHECKPOINT_AGE)
    }
}
