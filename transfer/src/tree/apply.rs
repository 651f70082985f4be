//! Applies verified operations to the target's tree, and says what is to be journalled.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use crate::error::{Error, Kind, Result};
use crate::tree::entry::{Content, Digest, Entry, EntryPath, Node};
use crate::tree::operation::{Chunk, Existing, Loaded, Operation};
use crate::tree::replica::{Cursor, GROUP_LEN, Record, Snapshot};
use crate::tree::verify::Verified;
use crate::tree::write::{LinkOutcome, LongFile, Prepared, Refusal, RenameOutcome, Shared, TreeWriter};

/// Long files open at a time; a source works on as many as it has connections, and ends them soon after.
const LONG_FILES_MAX: usize = 4096;
/// Bytes copied at a time where a link is not possible.
const COPY_LEN: usize = 1024 * 1024;

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
}

impl<'a> Applier<'a> {
    /// A hand with a cache of directories of its own; `sealed` is what the journal held when the round began.
    pub fn new(writer: TreeWriter, sealed: &Snapshot, long_files: &'a LongFiles) -> Self {
        Self {
            writer,
            journal: sealed.cursor(),
            long_files,
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
            Operation::FinishDirectory(entry) => {
                let refusals = self.writer.finish_directory(&entry.path, &entry.meta)?;
                Ok(done(entry, refusals))
            }
            Operation::File {
                entry,
                extents,
                existing,
                ..
            } => {
                let refusals = self.writer.put_file(&entry, &extents, data, existing)?;
                Ok(done(entry, refusals))
            }
            Operation::Special(entry) => {
                let refusals = self.writer.put_special(&entry)?;
                Ok(done(entry, refusals))
            }
            Operation::Metadata(entry) => {
                let refusals = self.writer.apply_metadata(&entry)?;
                let path = entry.path.clone();
                let mut outcome = done(entry, refusals);
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
                let refusals = self.writer.remove(&path)?;
                let records = if refusals.is_empty() {
                    vec![Record::Remove { path: path.clone() }]
                } else {
                    Vec::new()
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
                self.expect_base(&entry.path, base)?;
                self.long_begin(file, entry, existing)
            }
            Operation::LongChunks { file, first, chunks } => self.long_chunks(file, first, &chunks, data),
            Operation::LongEnd { file, entry } => self.long_end(file, entry),
            // Its intents are in the journal.
            Operation::Unknown { .. } => Ok(Outcome::default()),
        }
    }

    /// Compare-and-swap: changed chunks fit only to the content that the source took them from.
    fn expect_base(&mut self, path: &EntryPath, base: Digest) -> Result<()> {
        if base.is_unknown() {
            return Ok(());
        }
        let held = match self.journal.get(path)?.map(|entry| entry.node) {
            Some(Node::File(content)) => content.digest,
            _ => Digest::default(),
        };
        if held == base {
            return Ok(());
        }
        Err(Error::new(
            Kind::Retry,
            "change a file: the target holds another version of it than the source assumes",
        )
        .on(path.display()))
    }

    fn link(&mut self, leader: &EntryPath, entry: Entry) -> Result<Outcome> {
        let why = match self.writer.link(leader, &entry.path)? {
            LinkOutcome::Linked => return Ok(done(entry, Vec::new())),
            LinkOutcome::TooManyLinks => "the file system allows no more names for one file".to_owned(),
            LinkOutcome::NotPossible(error) => error.to_string(),
            LinkOutcome::LeaderMissing => {
                return Ok(refused(entry, "hard link", "its first name is missing"));
            }
        };
        let refusals = self.copy(leader, &entry)?;
        let mut outcome = done(entry.clone(), refusals);
        outcome
            .refusals
            .push((entry.path, "hard link, copied instead".to_owned(), why));
        Ok(outcome)
    }

    /// Makes an entry of its own where a link is not possible.
    fn copy(&mut self, leader: &EntryPath, entry: &Entry) -> Result<Vec<Refusal>> {
        let Node::File(content) = &entry.node else {
            return self.writer.put_special(entry);
        };
        let from = match self
            .writer
            .begin_long_file(leader, &entry.meta, content.len, Existing::Rewrite)?
        {
            Prepared::Ready(file) => file,
            Prepared::Refused(refusal) => return Ok(vec![refusal]),
        };
        let to =
            match self
                .writer
                .begin_long_file(&entry.path, &entry.meta, content.len, Existing::Replace)?
            {
                Prepared::Ready(file) => file,
                Prepared::Refused(refusal) => return Ok(vec![refusal]),
            };
        let mut buffer = vec![0; COPY_LEN];
        let mut at = 0;
        while at < content.len {
            let count = from.read_at(at, &mut buffer)?;
            if count == 0 {
                break;
            }
            if buffer[..count].iter().any(|byte| *byte != 0) {
                to.write_at(at, &buffer[..count])?;
            }
            at += count as u64;
        }
        from.finish(entry)?;
        to.finish(entry)
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

    fn long_begin(&mut self, number: u64, entry: Entry, existing: Existing) -> Result<Outcome> {
        let Node::File(content) = entry.node.clone() else {
            return Err(broken("a long file that is none"));
        };
        if !(1..=62).contains(&content.chunk_log2) {
            return Err(broken("a chunk length out of range"));
        }
        let prepared = self
            .writer
            .begin_long_file(&entry.path, &entry.meta, content.len, existing)?;
        let (file, refusals) = match prepared {
            Prepared::Ready(file) => (Some(file), Vec::new()),
            Prepared::Refused(refusal) => (None, vec![refusal]),
        };
        // From here on something is at the path, and no content is proven.
        let records = match file {
            Some(_) => vec![Record::Entry(entry.clone())],
            None => Vec::new(),
        };
        let outcome = outcome(&entry.path, records, refusals);
        let rewritten = existing == Existing::Rewrite;
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
        Ok(done(entry, refusals))
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

fn done(mut entry: Entry, refusals: Vec<Refusal>) -> Outcome {
    let missing = refusals.iter().any(Refusal::is_of_entry);
    let path = entry.path.clone();
    // What was refused is tried and named again in every round: a second run must not look complete.
    entry.stamp.clean &= refusals.is_empty();
    let records = if missing {
        Vec::new()
    } else {
        vec![Record::Entry(entry)]
    };
    outcome(&path, records, refusals)
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
