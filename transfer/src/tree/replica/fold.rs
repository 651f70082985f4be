//! Folding a log into a run: sort by path, then let each path's records follow one another.
//!
//! The result depends on the order of the records of one path only. A removed path loses what older generations had
//! below it; entries below it in the same generation stay.

use std::path::Path;
use std::sync::Arc;

use super::super::entry::{Digest, Entry, Node};
use super::limits::{GROUP_LEN, INTENT_GROUPS_MAX};
use super::log::LogReader;
use super::merge::{EntryScan, Show, put_group, put_limit};
use super::path::{Ended, PathStory};
use super::record::{self, Identity, Record};
use super::run::{Column, Run, RunInfo, RunWriter, item};
use super::sort::{Item, Sorted, Sorter};
use super::walk::ChunkWalk;
use super::{key, varint};
use crate::{Error, Kind, Result};

/// What happened to a path as a whole.
const EVENT: u8 = 0;
/// What became known of its chunks.
const PATCH: u8 = 1;
/// A subtree removed; its key is the prefix.
const SUBTREE: u8 = 2;

/// Events, as the first byte of their payload.
pub(super) mod event {
    pub(in super::super) const ENTRY: u8 = 0;
    pub(in super::super) const REMOVE: u8 = 1;
    pub(in super::super) const CHUNKS: u8 = 2;
    pub(in super::super) const INTENT_WHOLE: u8 = 3;
    pub(in super::super) const INTENT_CHUNKS: u8 = 4;
}

/// Kinds of patches, as the first byte of their payload.
const KNOWN: u8 = 0;
const TORN: u8 = 1;

/// Sorts the records of `log`, all but renames.
pub(super) fn collect(folder: &Path, log: &mut LogReader) -> Result<Sorted> {
    let mut sorter = Sorter::new(folder);
    let mut scratch = Vec::new();
    while let Some(record) = log.next()? {
        push(&mut sorter, &record, &mut scratch)?;
    }
    sorter.finish()
}

fn push(sorter: &mut Sorter, record: &Record, scratch: &mut Vec<u8>) -> Result<()> {
    scratch.clear();
    match record {
        Record::Entry(entry) => {
            scratch.push(event::ENTRY);
            let payload = record::encode_entry(entry, std::mem::take(scratch));
            sorter.push(&key::of(&entry.path), EVENT, 0, &payload)?;
            *scratch = payload;
        }
        Record::Remove { path } => {
            let key = key::of(path);
            sorter.push(&key, EVENT, 0, &[event::REMOVE])?;
            sorter.push(&key::below(path), SUBTREE, 0, &[])?;
        }
        Record::Chunks {
            path,
            ino,
            chunk_log2,
            first,
            digests,
        } => {
            let key = key::of(path);
            scratch.push(event::CHUNKS);
            varint::put(scratch, *ino);
            scratch.push(*chunk_log2);
            sorter.push(&key, EVENT, 0, scratch)?;
            for (group, offset, range) in groups(*first, digests.len() as u64) {
                scratch.clear();
                scratch.push(KNOWN);
                varint::put(scratch, offset);
                digests[range.start as usize..range.end as usize]
                    .iter()
                    .for_each(|digest| scratch.extend_from_slice(&digest.0));
                sorter.push(&key, PATCH, group, scratch)?;
            }
        }
        Record::Intent { path, chunks } => push_intent(sorter, &key::of(path), chunks, scratch)?,
        // Applied before all else.
        Record::Rename { .. } => {}
    }
    Ok(())
}

fn push_intent(sorter: &mut Sorter, key: &[u8], chunks: &[(u64, u64)], scratch: &mut Vec<u8>) -> Result<()> {
    let reach: u64 = chunks.iter().map(|(_, count)| count / GROUP_LEN as u64 + 2).sum();
    if chunks.is_empty() || reach > INTENT_GROUPS_MAX {
        return sorter.push(key, EVENT, 0, &[event::INTENT_WHOLE]);
    }
    sorter.push(key, EVENT, 0, &[event::INTENT_CHUNKS])?;
    for (first, count) in chunks {
        for (group, offset, range) in groups(*first, *count) {
            scratch.clear();
            scratch.push(TORN);
            varint::put(scratch, offset);
            varint::put(scratch, range.end - range.start);
            sorter.push(key, PATCH, group, scratch)?;
        }
    }
    Ok(())
}

/// Cuts `count` chunks from `first` on into groups: number, offset in the group, range within the count.
fn groups(first: u64, count: u64) -> impl Iterator<Item = (u64, u64, std::ops::Range<u64>)> {
    let len = GROUP_LEN as u64;
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = first + done;
        let piece = (len - at % len).min(count - done);
        let range = done..done + piece;
        done += piece;
        (piece > 0).then_some((at / len, at % len, range))
    })
}

/// Folds sorted records over the older `runs` (newest first) into run `number`; `None` when nothing remains to be said.
pub(super) fn fold(
    folder: &Path,
    number: u64,
    runs: &[Arc<Run>],
    mut sorted: Sorted,
) -> Result<Option<RunInfo>> {
    let mut fold = Fold {
        writer: RunWriter::create(folder, number)?,
        older: EntryScan::new(runs, Show::Live),
        older_chunks: ChunkWalk::new(runs),
        removed: None,
        path: None,
        group: Group::new(),
    };
    while let Some(item) = sorted.next()? {
        fold.take(item)?;
    }
    fold.end_path()?;
    if fold.writer.is_empty() {
        return Ok(None);
    }
    fold.writer.finish().map(Some)
}

struct Fold {
    writer: RunWriter,
    older: EntryScan,
    older_chunks: ChunkWalk,
    /// The last subtree removed.
    removed: Option<Vec<u8>>,
    path: Option<Current>,
    group: Group,
}

/// The path whose records are being folded.
struct Current {
    key: Vec<u8>,
    story: PathStory,
    /// Set when the first patch comes, after all events.
    ended: Option<Ended>,
    identity: Option<Identity>,
    torn_chunks: bool,
}

/// A group under construction.
struct Group {
    number: u64,
    slots: Box<[Option<Digest>]>,
    torn: Box<[bool]>,
    any: bool,
}

impl Group {
    fn new() -> Self {
        Self {
            number: 0,
            slots: vec![None; GROUP_LEN].into(),
            torn: vec![false; GROUP_LEN].into(),
            any: false,
        }
    }

    fn begin(&mut self, number: u64) {
        self.number = number;
        self.slots.fill(None);
        self.torn.fill(false);
        self.any = false;
    }

    /// Applies a patch that holds for the group's first `end` slots.
    fn apply(&mut self, patch: Patch, kind: u8, mut range: &[u8], end: usize) -> Option<()> {
        let offset = usize::try_from(varint::take(&mut range)?).ok()?;
        let len = if kind == KNOWN {
            range.len() / 32
        } else {
            usize::try_from(varint::take(&mut range)?).ok()?
        };
        let mut digests = range.chunks_exact(32);
        for at in offset..offset.checked_add(len).filter(|end| *end <= GROUP_LEN)? {
            let digest = match digests.next() {
                Some(digest) => Digest(digest.try_into().ok()?),
                None => Digest::default(),
            };
            if at < end {
                self.slots[at] = (patch != Patch::Void).then_some(digest);
                self.torn[at] = patch == Patch::Torn;
                self.any |= patch != Patch::Void;
            }
        }
        Some(())
    }
}

/// What a patch does to the slots it names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patch {
    /// Their digests are known.
    Known,
    /// Their content may be torn.
    Torn,
    /// They were written, ending earlier intents, but what was written is not of this file any more.
    Void,
}

impl Fold {
    fn take(&mut self, item: Item<'_>) -> Result<()> {
        if item.class() == SUBTREE {
            self.end_path()?;
            return self.remove_subtree(item.key());
        }
        if self.path.as_ref().is_none_or(|path| path.key != item.key()) {
            self.end_path()?;
            self.path = Some(Current {
                key: item.key().to_vec(),
                story: PathStory::default(),
                ended: None,
                identity: None,
                torn_chunks: false,
            });
        }
        let current = self.path.as_mut().expect("set above");
        if item.class() == EVENT {
            return current
                .story
                .event(item.sequence(), item.payload())
                .ok_or_else(malformed);
        }
        self.patch(item)
    }

    /// Whatever was below `prefix` is gone.
    fn remove_subtree(&mut self, prefix: &[u8]) -> Result<()> {
        if self
            .removed
            .as_ref()
            .is_some_and(|removed| prefix.starts_with(removed))
        {
            return Ok(());
        }
        self.removed = Some(prefix.to_vec());
        self.writer.put(Column::Removed, prefix, item::REMOVED, &[])
    }

    /// All events of the path are known: decides which patches hold, and writes what voids older ones.
    fn end_events(&mut self) -> Result<()> {
        let Some(current) = &mut self.path else {
            return Ok(());
        };
        if current.ended.is_some() {
            return Ok(());
        }
        let ended = current.story.end();
        current.identity = ended.identity;
        let removed = is_removed(self.removed.as_deref(), &current.key);
        if ended.identity.is_none() && ended.limit.is_none() && ended.intent_chunks && !removed {
            current.identity = self.older_chunks.resolve(&current.key)?.identity_of_path();
        }
        put_limit(&mut self.writer, &current.key, ended.limit)?;
        current.ended = Some(ended);
        Ok(())
    }

    fn patch(&mut self, item: Item<'_>) -> Result<()> {
        self.end_events()?;
        if self.group.any && self.group.number != item.group() {
            self.end_group()?;
        }
        let current = self.path.as_ref().expect("a patch belongs to a path");
        let ended = current.ended.as_ref().expect("events have ended");
        if !self.group.any {
            self.group.begin(item.group());
        }
        let base = item.group() * GROUP_LEN as u64;
        let end = ended
            .count_after(item.sequence())
            .saturating_sub(base)
            .min(GROUP_LEN as u64) as usize;
        let (kind, range) = item.payload().split_first().ok_or_else(malformed)?;
        let patch = match *kind {
            TORN if item.sequence() < ended.torn_from => return Ok(()),
            TORN => Patch::Torn,
            _ if item.sequence() < ended.valid_from => Patch::Void,
            _ => Patch::Known,
        };
        self.group.apply(patch, *kind, range, end).ok_or_else(malformed)
    }

    fn end_group(&mut self) -> Result<()> {
        let Some(current) = &mut self.path else {
            return Ok(());
        };
        if !self.group.any {
            return Ok(());
        }
        current.torn_chunks |= self.group.torn.contains(&true);
        if let Some(identity) = current.identity {
            put_group(
                &mut self.writer,
                &current.key,
                self.group.number,
                identity,
                &self.group.slots,
            )?;
        }
        self.group.any = false;
        Ok(())
    }

    fn end_path(&mut self) -> Result<()> {
        self.end_events()?;
        self.end_group()?;
        let Some(current) = self.path.take() else {
            return Ok(());
        };
        let ended = current.ended.expect("events have ended");
        let torn = ended.torn || current.torn_chunks;
        let removed = is_removed(self.removed.as_deref(), &current.key);
        if ended.removed {
            return self
                .writer
                .put(Column::Entries, &current.key, item::TOMBSTONE, &[]);
        }
        if !torn {
            return match ended.entry {
                Some(payload) => put_entry(&mut self.writer, &current.key, &payload),
                None => Ok(()),
            };
        }
        if let Some(payload) = ended.entry {
            let path = key::decode(&current.key).ok();
            let entry = path
                .and_then(|path| record::decode_entry(path, &payload))
                .ok_or_else(malformed)?;
            let payload = record::encode_entry(&torn_entry(entry), Vec::new());
            put_entry(&mut self.writer, &current.key, &payload)
        } else if !removed && self.older.find(&current.key)? {
            let payload = record::encode_entry(&torn_entry(self.older.entry()?), Vec::new());
            self.writer
                .put(Column::Entries, &current.key, item::TORN, &payload)
        } else {
            Ok(())
        }
    }
}

/// Whether this generation removed a directory above the key.
fn is_removed(prefix: Option<&[u8]>, key: &[u8]) -> bool {
    prefix.is_some_and(|prefix| key::is_below(key, prefix))
}

fn put_entry(writer: &mut RunWriter, key: &[u8], payload: &[u8]) -> Result<()> {
    let head = record::head(&mut &payload[..]).ok_or_else(malformed)?;
    let kind = match head.chunked {
        Some(_) => item::CHUNKED,
        None => item::ENTRY,
    };
    writer.put(Column::Entries, key, kind, payload)
}

/// The entry with its content unknown.
fn torn_entry(mut entry: Entry) -> Entry {
    entry.stamp.clean = false;
    if let Node::File(content) = &mut entry.node {
        content.digest = Digest::default();
    }
    entry
}

fn malformed() -> Error {
    Error::new(Kind::Corrupt, "sort the journal")
        .because("a scratch file was changed while it was in use")
        .remedy("run the same command again")
}
