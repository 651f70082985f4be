//! Renames: what lies at and below one path in the older runs, copied to another, in a run of its own.
//!
//! Renames that do not touch each other are applied in one sweep. A rename that reads or overwrites what an earlier one
//! wrote begins the next sweep, over the run that the earlier ones made.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use super::super::entry::EntryPath;
use super::key;
use super::limits::{GROUP_LEN, RENAMES_PER_SWEEP_MAX};
use super::merge::{ChunkPaths, Depth, EntryScan, Show, forget_unknown, put_limit};
use super::record;
use super::run::{Column, Run, RunInfo, RunWriter, item};
use super::sort::{Sorted, Sorter};
use super::walk::{ChunkWalk, group_key};
use crate::Result;

/// Classes of sorted items: of one path the first that is there decides.
const ENTRY: u8 = 0;
const GONE: u8 = 1;
const LIMIT: u8 = 2;
const GROUP: u8 = 3;
const SUBTREE: u8 = 4;

/// Renames that can be applied at once.
#[derive(Default)]
pub(super) struct Sweep {
    renames: Vec<(EntryPath, EntryPath)>,
    from: PathSet,
    to: PathSet,
}

impl Sweep {
    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.renames.is_empty()
    }

    /// Takes a rename in; gives it back when it must wait for the next sweep.
    pub(super) fn add(&mut self, from: EntryPath, to: EntryPath) -> Option<(EntryPath, EntryPath)> {
        let waits = self.renames.len() >= RENAMES_PER_SWEEP_MAX
            || self.to.touches(&from)
            || self.from.touches(&from)
            || self.to.touches(&to)
            || self.from.touches(&to) && !self.from.contains(&to);
        if waits {
            return Some((from, to));
        }
        self.from.insert(&from);
        self.to.insert(&to);
        self.renames.push((from, to));
        None
    }

    /// Applies the renames to `runs` (newest first) as run `number`.
    pub(super) fn apply(self, folder: &Path, number: u64, runs: &[Arc<Run>]) -> Result<RunInfo> {
        let mut copy = Copy {
            sorter: Sorter::new(folder),
            entries: EntryScan::new(runs, Show::Live),
            paths: ChunkPaths::new(runs, Depth::Bottom)?,
            walk: ChunkWalk::new(runs),
        };
        for (from, to) in &self.renames {
            copy.vacate(from)?;
            copy.vacate(to)?;
            copy.copy_entries(from, to)?;
            copy.copy_chunks(from, to)?;
        }
        write(folder, number, copy.sorter.finish()?)
    }
}

/// Paths, by the prefix of what is below them, so that relatives are neighbours.
#[derive(Default)]
struct PathSet(BTreeSet<Vec<u8>>);

impl PathSet {
    fn insert(&mut self, path: &EntryPath) {
        self.0.insert(key::below(path));
    }

    fn contains(&self, path: &EntryPath) -> bool {
        self.0.contains(&key::below(path))
    }

    /// Whether `path`, something above it or something below it is in the set.
    fn touches(&self, path: &EntryPath) -> bool {
        let prefix = key::below(path);
        let from = (Bound::Included(&prefix[..]), Bound::Unbounded);
        let below = self
            .0
            .range::<[u8], _>(from)
            .next()
            .is_some_and(|next| next.starts_with(&prefix));
        let mut above = path.parent();
        while let Some(directory) = above {
            if self.contains(&directory) {
                return true;
            }
            above = directory.parent();
        }
        below
    }
}

struct Copy {
    sorter: Sorter,
    entries: EntryScan,
    paths: ChunkPaths,
    walk: ChunkWalk,
}

impl Copy {
    /// What is at and below `path` goes.
    fn vacate(&mut self, path: &EntryPath) -> Result<()> {
        self.sorter.push(&key::of(path), GONE, 0, &[])?;
        self.sorter.push(&key::below(path), SUBTREE, 0, &[])
    }

    fn copy_entries(&mut self, from: &EntryPath, to: &EntryPath) -> Result<()> {
        if self.entries.find(&key::of(from))? {
            self.copy_entry(&key::of(to))?;
        }
        let (below, to_below) = (key::below(from), key::below(to));
        self.entries.seek(&below)?;
        while self.entries.valid() && self.entries.item().key().starts_with(&below) {
            let moved = moved(self.entries.item().key(), &below, &to_below);
            self.copy_entry(&moved)?;
            self.entries.next()?;
        }
        Ok(())
    }

    fn copy_entry(&mut self, moved: &[u8]) -> Result<()> {
        if key::decode(moved).is_err() {
            // The new path is too long for either side to speak of it: the entry is then unknown, and sent again.
            return Ok(());
        }
        let item = self.entries.item();
        let mut payload = vec![item.kind()];
        payload.extend_from_slice(item.payload());
        if item.kind() != item::ENTRY {
            // What older runs know of chunks at the new path is not of this file.
            self.sorter.push(moved, LIMIT, 0, &[])?;
        }
        self.sorter.push(moved, ENTRY, 0, &payload)
    }

    fn copy_chunks(&mut self, from: &EntryPath, to: &EntryPath) -> Result<()> {
        let from_key = key::of(from);
        self.paths.seek(&from_key)?;
        if self.paths.next()?.is_some_and(|path| path == from_key) {
            self.copy_groups(&from_key, &key::of(to))?;
        }
        let (below, to_below) = (key::below(from), key::below(to));
        self.paths.seek(&below)?;
        while let Some(path) = self.paths.next()? {
            if !path.starts_with(&below) {
                break;
            }
            self.copy_groups(&path, &moved(&path, &below, &to_below))?;
        }
        Ok(())
    }

    fn copy_groups(&mut self, path: &[u8], moved: &[u8]) -> Result<()> {
        let resolved = self.walk.resolve(path)?;
        let Some(identity) = resolved.identity() else {
            return Ok(());
        };
        if key::decode(moved).is_err() {
            return Ok(());
        }
        let mut groups = self.walk.groups(path, &resolved, 0)?;
        let mut slots = [None; GROUP_LEN];
        let mut any = false;
        while let Some(number) = groups.next(&mut self.walk, &mut slots)? {
            forget_unknown(&mut slots);
            if slots.iter().any(Option::is_some) {
                let mut payload = Vec::new();
                record::encode_group(identity, &slots, &mut payload);
                self.sorter.push(moved, GROUP, number, &payload)?;
                any = true;
            }
        }
        if any {
            self.sorter.push(moved, LIMIT, 0, &[])
        } else {
            Ok(())
        }
    }
}

fn moved(key: &[u8], below: &[u8], to_below: &[u8]) -> Vec<u8> {
    [to_below, &key[below.len()..]].concat()
}

fn write(folder: &Path, number: u64, mut sorted: Sorted) -> Result<RunInfo> {
    let mut writer = RunWriter::create(folder, number)?;
    let mut entry_done: Option<Vec<u8>> = None;
    let mut limit_done: Option<Vec<u8>> = None;
    let mut subtree_done: Option<Vec<u8>> = None;
    while let Some(item) = sorted.next()? {
        let key = item.key();
        match item.class() {
            ENTRY | GONE if entry_done.as_deref() == Some(key) => {}
            ENTRY => {
                let (kind, payload) = item.payload().split_first().expect("the kind comes first");
                writer.put(Column::Entries, key, *kind, payload)?;
                entry_done = Some(key.to_vec());
            }
            GONE => {
                writer.put(Column::Entries, key, item::TOMBSTONE, &[])?;
                entry_done = Some(key.to_vec());
            }
            LIMIT if limit_done.as_deref() == Some(key) => {}
            LIMIT => {
                put_limit(&mut writer, key, Some(0))?;
                limit_done = Some(key.to_vec());
            }
            GROUP => {
                writer.put(
                    Column::Chunks,
                    &group_key(key, item.group()),
                    item::GROUP,
                    item.payload(),
                )?;
            }
            _ if subtree_done.as_ref().is_some_and(|done| key.starts_with(done)) => {}
            _ => {
                writer.put(Column::Removed, key, item::REMOVED, &[])?;
                subtree_done = Some(key.to_vec());
            }
        }
    }
    writer.finish()
}
