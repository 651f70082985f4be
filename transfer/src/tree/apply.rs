//! Applies verified operations to the target's tree, and says what is to be journalled.

use std::collections::{HashMap, HashSet};
use std::ops::{Range, RangeInclusive};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::tree::entry::{Content, Digest, Entry, EntryPath, Node, Stamp};
use crate::tree::operation::{Chunk, Existing, Loaded, Operation};
use crate::tree::replica::{Cursor, GROUP_LEN, Record, Snapshot};
use crate::tree::verify::{Verified, metadata_difference};
use crate::tree::write::{LinkOutcome, LongFile, Prepared, Refusal, RenameOutcome, Shared, TreeWriter};

/// Long files open at a time; a source works on as many as it has connections, and ends them soon after.
const LONG_FILES_MAX: usize = 4096;

/// Long files of a session that have begun and not ended.
#[derive(Default)]
pub struct LongFiles(Mutex<HashMap<u64, Arc<Open>>>);

/// A long file under way.
pub struct Open {
    /// `None` when the target could not make it: its chunks are dropped, and it was named.
    file: Option<LongFile>,
    path: EntryPath,
    ino: u64,
    content: Content,
    /// Whether what is between extents may hold old data.
    rewritten: bool,
}

impl LongFiles {
    fn get(&self, file: u64) -> Result<Arc<Open>> {
        let open = self.0.lock().expect("not poisoned").get(&file).cloned();
        open.ok_or_else(|| broken("chunks of a file that has not begun"))
    }

    fn begin(&self, file: u64, open: Open) -> Result<()> {
        let mut files = self.0.lock().expect("not poisoned");
        if files.len() >= LONG_FILES_MAX || files.insert(file, Arc::new(open)).is_some() {
            return Err(broken("a long file begun twice, or too many of them"));
        }
        Ok(())
    }

    fn end(&self, file: u64) -> Result<Arc<Open>> {
        let open = self.0.lock().expect("not poisoned").remove(&file);
        open.ok_or_else(|| broken("the end of a file that has not begun"))
    }
}

/// What a session could not make as the source has it. What is at the path of an entry that could not be made is something
/// else, so nothing is linked to it.
#[derive(Default)]
pub struct Shortfall {
    /// Marks of their paths: some 16 bytes each, for a target that refuses one entry may refuse many.
    marks: Mutex<HashSet<u64>>,
    /// Whether there have been any: most sessions have none.
    any: AtomicBool,
    /// Whether the target lacked something of which only changes came.
    is_outdated: AtomicBool,
    /// Whether something of an entry was refused: its other names share what was accepted.
    has_refused: AtomicBool,
}

impl Shortfall {
    /// Whether everything was there of which only changes came.
    ///
    /// # Errors
    /// [`Kind::Retry`]: the journal now counts as unknown what was not; the next session sends it whole.
    pub fn check(&self) -> Result<()> {
        if self.is_outdated.load(Ordering::Acquire) {
            return Err(Error::new(
                Kind::Retry,
                "change files: the target holds other ones than its journal says",
            ));
        }
        Ok(())
    }

    fn add(&self, path: &EntryPath) {
        self.marks.lock().expect("not poisoned").insert(mark(path));
        self.any.store(true, Ordering::Release);
    }

    fn made(&self, path: &EntryPath) {
        if self.any.load(Ordering::Acquire) {
            self.marks.lock().expect("not poisoned").remove(&mark(path));
        }
    }

    fn contains(&self, path: &EntryPath) -> bool {
        self.any.load(Ordering::Acquire) && self.marks.lock().expect("not poisoned").contains(&mark(path))
    }
}

/// Tells paths apart: where two have the same by chance, a link is named as refused.
fn mark(path: &EntryPath) -> u64 {
    let digest = blake3::hash(path.as_bytes());
    u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("32 bytes hold 8"))
}

/// What applying an operation led to.
#[derive(Default)]
pub struct Outcome {
    /// For the journal, once it is durable.
    pub records: Vec<Record>,
    /// What the file system would not take: path, what, why.
    pub refusals: Vec<(EntryPath, String, String)>,
    /// How much of what should share blocks does.
    pub shared: Shared,
}

/// One connection's hand on the tree.
pub struct Applier<'a> {
    writer: TreeWriter,
    journal: Cursor,
    long_files: &'a LongFiles,
    shortfall: &'a Shortfall,
}

impl<'a> Applier<'a> {
    /// A hand with a cache of directories of its own; `sealed` is what the journal held when the round began.
    pub fn new(
        writer: TreeWriter,
        sealed: &Snapshot,
        long_files: &'a LongFiles,
        shortfall: &'a Shortfall,
    ) -> Self {
        Self {
            writer,
            journal: sealed.cursor(),
            long_files,
            shortfall,
        }
    }

    /// Takes what a new round begins with.
    pub fn turn_to(&mut self, sealed: &Snapshot) {
        self.journal = sealed.cursor();
    }

    /// What must be in the journal before `operation` is applied: that what it knows at a path, and what the operation
    /// overwrites or replaces there, is unknown from now on. A removal needs none: after a crash names are compared
    /// ([`super::survey`]).
    ///
    /// # Errors
    /// The source broke the protocol, or the journal is damaged.
    pub fn intents(&mut self, operation: &Operation) -> Result<Vec<Record>> {
        let intent = |path: &EntryPath, chunks| {
            vec![Record::Intent {
                path: path.clone(),
                chunks,
            }]
        };
        Ok(match operation {
            Operation::File {
                entry, known: true, ..
            } => intent(&entry.path, Vec::new()),
            Operation::LongBegin {
                entry,
                torn: Some(torn),
                ..
            } => intent(&entry.path, vec![*torn]),
            Operation::LongBegin { entry, existing, .. } if self.replaces(entry, *existing)? => {
                intent(&entry.path, Vec::new())
            }
            Operation::Special(entry) | Operation::Link { entry, .. }
                if self.journal.get(&entry.path)?.is_some() =>
            {
                intent(&entry.path, Vec::new())
            }
            Operation::Directory { path } if self.knows_other_than_directory(path)? => {
                intent(path, Vec::new())
            }
            Operation::FinishDirectory(entry) if self.knows_other_inode(entry)? => {
                intent(&entry.path, Vec::new())
            }
            Operation::Unknown { paths } => paths.iter().flat_map(|path| intent(path, Vec::new())).collect(),
            Operation::LongChunks { file, first, chunks } => {
                let open = self.long_files.get(*file)?;
                if open.rewritten {
                    intent(&open.path, vec![(*first, chunks.len() as u64)])
                } else {
                    Vec::new()
                }
            }
            _ => Vec::new(),
        })
    }

    /// Whether the journal knows a content at the path of a long file whose chunks are not those that will be changed.
    fn replaces(&mut self, entry: &Entry, existing: Existing) -> Result<bool> {
        let Some(known) = self.journal.get(&entry.path)? else {
            return Ok(false);
        };
        let chunks_of = |entry: &Entry| match &entry.node {
            Node::File(content) => Some((entry.stamp.ino, content.chunk_log2)),
            _ => None,
        };
        Ok(existing == Existing::Replace || chunks_of(&known) != chunks_of(entry))
    }

    fn knows_other_than_directory(&mut self, path: &EntryPath) -> Result<bool> {
        let known = self.journal.get(path)?;
        Ok(known.is_some_and(|known| !matches!(known.node, Node::Directory)))
    }

    /// Whether metadata of another directory are about to be lost that no change at the source need ever bring back: this one
    /// and the other one may have changed places with what is above them.
    fn knows_other_inode(&mut self, entry: &Entry) -> Result<bool> {
        let known = self.journal.get(&entry.path)?;
        Ok(known.is_some_and(|known| known.stamp.ino != entry.stamp.ino))
    }

    /// Applies one operation.
    ///
    /// # Errors
    /// The medium failed, or the source broke the protocol.
    pub fn apply(&mut self, verified: Verified<'_>) -> Result<Outcome> {
        let Loaded { operation, data } = verified.into_loaded();
        match operation {
            Operation::Directory { path } => {
                let refusals = self.writer.put_directory(&path)?;
                Ok(outcome(&path, Vec::new(), refusals))
            }
            Operation::FinishDirectory(entry) => self.finish_directory(entry),
            Operation::File {
                entry,
                extents,
                existing,
                ..
            } => {
                let refusals = self.writer.put_file(&entry, &extents, data, existing)?;
                self.leader_done(entry, refusals)
            }
            Operation::Special(entry) => {
                let refusals = self.writer.put_special(&entry)?;
                self.leader_done(entry, refusals)
            }
            Operation::Metadata(entry) => {
                let refusals = self.writer.apply_metadata(&entry)?;
                let path = entry.path.clone();
                let mut outcome = self.leader_done(entry, refusals)?;
                if outcome.records.is_empty() {
                    // It is not there, whatever the journal says: the next round sends its content.
                    outcome.records = vec![Record::Intent {
                        path,
                        chunks: Vec::new(),
                    }];
                }
                Ok(outcome)
            }
            Operation::Link { leader, entry } => self.link(&leader, entry),
            Operation::Remove { path } => {
                let (refusals, staying) = self.writer.remove_but_excluded(&path)?;
                let records = if refusals.is_empty() {
                    vec![Record::Remove { path: path.clone() }]
                } else {
                    self.what_stays(&path, staying)?
                };
                Ok(outcome(&path, records, refusals))
            }
            Operation::Rename { from, to } => self.rename(from, to),
            Operation::Share { from, to, ranges } => Ok(Outcome {
                shared: self.writer.share(&from, &to, &ranges)?,
                ..Outcome::default()
            }),
            Operation::LongBegin {
                file,
                entry,
                existing,
                base,
                ..
            } => {
                let held = match base {
                    Some(base) => Some(self.expect_base(&entry, base)?),
                    None => None,
                };
                self.long_begin(file, entry, existing, held)
            }
            Operation::LongChunks { file, first, chunks } => self.long_chunks(file, first, &chunks, data),
            Operation::LongEnd { file, entry } => self.long_end(file, entry),
            // Its intents are in the journal.
            Operation::Unknown { .. } => Ok(Outcome::default()),
        }
    }

    /// What the journal has of an entry that could not be removed: of a directory only those that are `staying`, so that
    /// they are tried again. What else is left in it is excluded.
    fn what_stays(&mut self, path: &EntryPath, mut staying: Vec<EntryPath>) -> Result<Vec<Record>> {
        let known = self.journal.get(path)?;
        if staying.is_empty() {
            if !known.is_some_and(|known| matches!(known.node, Node::Directory)) {
                return Ok(Vec::new());
            }
            staying.push(path.clone());
        }
        let mut records = vec![Record::Remove { path: path.clone() }];
        for path in staying {
            let stamp = self.journal.get(&path)?.map(|known| known.stamp);
            let stamp = Stamp {
                clean: false,
                ..stamp.unwrap_or_default()
            };
            // What was removed in it has moved its time.
            let meta = self.writer.metadata_held(&path)?.unwrap_or_default();
            let node = Node::Directory;
            records.push(Record::Entry(Entry {
                path,
                stamp,
                meta,
                node,
            }));
        }
        Ok(records)
    }

    fn finish_directory(&mut self, entry: Entry) -> Result<Outcome> {
        let mut refusals = self.writer.finish_directory(&entry.path, &entry.meta)?;
        if refusals.iter().any(Refusal::is_of_entry) && self.writer.put_directory(&entry.path)?.is_empty() {
            // It was gone, with nothing in it that would have made it again.
            refusals = self.writer.finish_directory(&entry.path, &entry.meta)?;
        }
        self.done(entry, refusals)
    }

    /// Compare-and-swap: changed chunks fit only to the content that the source took them from. Returns the lengths that the
    /// file may have, if it is what the journal says.
    fn expect_base(&mut self, entry: &Entry, base: Digest) -> Result<RangeInclusive<u64>> {
        let path = &entry.path;
        let held = match self.journal.get(path)?.map(|entry| entry.node) {
            Some(Node::File(content)) if !content.digest.is_unknown() => Some(content),
            _ => None,
        };
        let held_digest = held.as_ref().map_or_else(Digest::default, |held| held.digest);
        if !base.is_unknown() && held_digest != base {
            return Err(Error::new(
                Kind::Retry,
                "change a file: the target holds another version of it than the source assumes",
            )
            .on(path.display()));
        }
        if let Some(held) = held {
            return Ok(held.len..=held.len);
        }
        // Of one that an interruption left only chunks are known: it holds them, whatever its length.
        let last = self.journal.chunks(path, entry.stamp.ino)?.and_then(|chunks| {
            let last = (chunks.digests.len() as u64).checked_sub(1)?;
            Some((last << chunks.chunk_log2) + 1)
        });
        Ok(last.unwrap_or_default()..=u64::MAX)
    }

    fn link(&mut self, leader: &EntryPath, mut entry: Entry) -> Result<Outcome> {
        if self.shortfall.contains(leader) {
            return Ok(refused(entry, "hard link", "its first name could not be written"));
        }
        let why = match self.writer.link(leader, &entry.path)? {
            LinkOutcome::Linked => return self.linked(entry),
            LinkOutcome::TooManyLinks => "the file system allows no more names for one file".to_owned(),
            LinkOutcome::NotPossible(error) => error.to_string(),
            LinkOutcome::LeaderMissing => {
                return Ok(refused(entry, "hard link", "its first name is missing"));
            }
        };
        let refusals = self.copy(leader, &entry)?;
        // Tried and named again in every round, as what is refused of an entry.
        entry.stamp.clean = false;
        let mut outcome = self.done(entry.clone(), refusals)?;
        if outcome.records.is_empty() {
            // What was there made room for it.
            outcome.records = vec![Record::Remove {
                path: entry.path.clone(),
            }];
        }
        outcome
            .refusals
            .push((entry.path, "hard link, copied instead".to_owned(), why));
        Ok(outcome)
    }

    /// A further name of an inode that may not have taken all of its metadata.
    fn linked(&mut self, mut entry: Entry) -> Result<Outcome> {
        if self.shortfall.has_refused.load(Ordering::Acquire)
            && let Some(held) = self.writer.metadata_held(&entry.path)?
            && metadata_difference(&held, &entry.meta).is_some()
        {
            entry.stamp.clean = false;
            entry.meta = held;
        }
        self.done(entry, Vec::new())
    }

    /// Makes an entry of its own where a link is not possible.
    fn copy(&mut self, leader: &EntryPath, entry: &Entry) -> Result<Vec<Refusal>> {
        let Node::File(content) = &entry.node else {
            return self.writer.put_special(entry);
        };
        let prepared =
            self.writer
                .begin_long_file(&entry.path, &entry.meta, content.len, Existing::Replace)?;
        let file = match prepared {
            Prepared::Ready(file) => file,
            Prepared::Refused(refusal) => return Ok(vec![refusal]),
        };
        if !self.writer.copy_content(leader, &file, content.len)? {
            self.writer.remove(&entry.path)?;
            return Ok(vec![Refusal::another_content()]);
        }
        file.finish(entry)
    }

    fn rename(&mut self, from: EntryPath, to: EntryPath) -> Result<Outcome> {
        match self.writer.rename(&from, &to)? {
            RenameOutcome::Renamed | RenameOutcome::AlreadyDone => Ok(Outcome {
                records: vec![Record::Rename { from, to }],
                ..Outcome::default()
            }),
            // Without the record the journal differs from what the source assumes: it fetches the journal and sends anew.
            RenameOutcome::Missing => {
                tracing::debug!(from = from.display(), "nothing to rename");
                Ok(Outcome::default())
            }
            RenameOutcome::NotPossible(error) => {
                tracing::debug!(from = from.display(), %error, "not renamed");
                Ok(Outcome::default())
            }
        }
    }

    /// `held`: the lengths of which the file that is to be changed must have one; `None` when all of it follows.
    fn long_begin(
        &mut self,
        number: u64,
        entry: Entry,
        existing: Existing,
        held: Option<RangeInclusive<u64>>,
    ) -> Result<Outcome> {
        let Node::File(content) = entry.node.clone() else {
            return Err(broken("a long file that is none"));
        };
        let chunk_len = 1u64.checked_shl(content.chunk_log2.into()).unwrap_or(0);
        if !(limits::CHUNK_LEN_MIN..=limits::CHUNK_LEN_MAX).contains(&chunk_len) {
            return Err(broken("a chunk length out of range"));
        }
        let (path, writer) = (&entry.path, &mut self.writer);
        let prepared = match &held {
            Some(held) => writer.change_long_file(path, held, content.len)?,
            None => Some(writer.begin_long_file(path, &entry.meta, content.len, existing)?),
        };
        let (file, records, refusals) = match prepared {
            // From here on something is at the path, and no content is proven.
            Some(Prepared::Ready(file)) => (Some(file), vec![Record::Entry(entry.clone())], Vec::new()),
            Some(Prepared::Refused(refusal)) => (None, Vec::new(), vec![refusal]),
            None => (None, self.outdated(path), Vec::new()),
        };
        if file.is_none() {
            self.shortfall.add(path);
        }
        let outcome = outcome(path, records, refusals);
        let rewritten = existing == Existing::Rewrite && file.is_some();
        let open = Open {
            file,
            path: entry.path,
            ino: entry.stamp.ino,
            content,
            rewritten,
        };
        self.long_files.begin(number, open)?;
        Ok(outcome)
    }

    /// Only changes come of something that is not there. The session goes on, so that all such files are found, but its round
    /// does not end well, and the next session sends them whole.
    fn outdated(&self, path: &EntryPath) -> Vec<Record> {
        tracing::warn!(
            path = path.display(),
            "the target does not hold what its journal lists: the file is sent again"
        );
        self.shortfall.is_outdated.store(true, Ordering::Release);
        vec![Record::Intent {
            path: path.clone(),
            chunks: Vec::new(),
        }]
    }

    fn long_chunks(&mut self, number: u64, first: u64, chunks: &[Chunk], data: &[u8]) -> Result<Outcome> {
        let open = self.long_files.get(number)?;
        let chunk_len = 1u64 << open.content.chunk_log2;
        let count = first.checked_add(chunks.len() as u64);
        let end = count.and_then(|count| count.checked_mul(chunk_len));
        let Some(end) = end.filter(|end| *end < open.content.len + chunk_len && !chunks.is_empty()) else {
            return Err(broken("chunks behind the end of their file"));
        };
        if chunks.len() > GROUP_LEN {
            return Err(broken("too many chunks at once"));
        }
        let Some(file) = &open.file else {
            return Ok(Outcome::default());
        };
        let mut pieces = Pieces {
            file,
            rewritten: open.rewritten,
            data,
            run: first * chunk_len..first * chunk_len,
        };
        for (index, chunk) in (first..).zip(chunks) {
            let offset = index * chunk_len;
            if u64::from(chunk.len) != chunk_len.min(open.content.len - offset) {
                return Err(broken("a chunk of the wrong length"));
            }
            for extent in &chunk.extents {
                pieces.add(offset + u64::from(extent.offset), u64::from(extent.len))?;
            }
        }
        pieces.end(end.min(open.content.len))?;
        let record = Record::Chunks {
            path: open.path.clone(),
            ino: open.ino,
            chunk_log2: open.content.chunk_log2,
            first,
            digests: chunks.iter().map(|chunk| chunk.digest).collect(),
        };
        Ok(Outcome {
            records: vec![record],
            ..Outcome::default()
        })
    }

    fn long_end(&mut self, number: u64, entry: Entry) -> Result<Outcome> {
        let open = self.long_files.end(number)?;
        if open.path != entry.path {
            return Err(broken("the end of another file"));
        }
        let Some(file) = &open.file else {
            return Ok(Outcome::default());
        };
        let refusals = file.finish(&entry)?;
        self.leader_done(entry, refusals)
    }

    /// The same as [`Self::done`] for what links may follow.
    fn leader_done(&mut self, entry: Entry, refusals: Vec<Refusal>) -> Result<Outcome> {
        if refusals.iter().any(Refusal::is_of_entry) {
            self.shortfall.add(&entry.path);
        } else {
            self.shortfall.made(&entry.path);
        }
        self.done(entry, refusals)
    }

    /// What was refused is tried and named again in every round: a second run must not look complete. Verification compares
    /// with what was accepted instead.
    fn done(&mut self, mut entry: Entry, refusals: Vec<Refusal>) -> Result<Outcome> {
        let path = entry.path.clone();
        if refusals.iter().any(Refusal::is_of_entry) {
            return Ok(outcome(&path, Vec::new(), refusals));
        }
        if !refusals.is_empty() {
            entry.stamp.clean = false;
            self.shortfall.has_refused.store(true, Ordering::Release);
            if let Some(held) = self.writer.metadata_held(&path)? {
                entry.meta = held;
            }
        }
        Ok(outcome(&path, vec![Record::Entry(entry)], refusals))
    }
}

/// Writes neighbouring chunks: extents that touch each other together, holes between them.
struct Pieces<'a> {
    file: &'a LongFile,
    /// Whether what is between extents may hold old data.
    rewritten: bool,
    /// Of the extents from the beginning of `run`.
    data: &'a [u8],
    /// What is known to be data and not yet written, in bytes of the file.
    run: Range<u64>,
}

impl Pieces<'_> {
    /// The next extent.
    fn add(&mut self, offset: u64, len: u64) -> Result<()> {
        if offset != self.run.end {
            self.end(offset)?;
            self.run = offset..offset;
        }
        self.run.end += len;
        Ok(())
    }

    /// Writes what has been gathered; from there to `hole_end` there are no data.
    fn end(&mut self, hole_end: u64) -> Result<()> {
        let (own, others) = self.data.split_at((self.run.end - self.run.start) as usize);
        if !own.is_empty() {
            self.file.write_at(self.run.start, own)?;
        }
        self.data = others;
        if self.rewritten && hole_end > self.run.end {
            self.file.zero(self.run.end, hole_end - self.run.end)?;
        }
        Ok(())
    }
}

fn refused(entry: Entry, what: &str, why: &str) -> Outcome {
    Outcome {
        refusals: vec![(entry.path, what.to_owned(), why.to_owned())],
        ..Outcome::default()
    }
}

fn outcome(path: &EntryPath, records: Vec<Record>, refusals: Vec<Refusal>) -> Outcome {
    let refusals = refusals.into_iter();
    let refusals =
        refusals.map(|refusal| (path.clone(), refusal.what.to_string(), refusal.error.to_string()));
    Outcome {
        records,
        refusals: refusals.collect(),
        ..Outcome::default()
    }
}

fn broken(what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("apply a frame with {what}"))
        .remedy("use the same release of go2cloud on both sides")
}
