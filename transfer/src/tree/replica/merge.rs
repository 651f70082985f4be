//! Several runs read as one: newer items hide older ones of the same key, and whatever lies in a subtree that a newer
//! run removed.

use std::sync::Arc;

use super::limits::GROUP_LEN;
use super::record::{self, Identity, Slots};
use super::run::{Column, Run, RunInfo, RunWriter, item};
use super::scan::{Removals, Scan};
use super::varint;
use super::walk::{ChunkWalk, Resolved};
use crate::Result;
use crate::tree::entry::{Digest, Entry};

/// Which of a path's items [`EntryScan`] shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// Entries.
    Live,
    /// Entries and the tombstones of single paths, for merging runs that have older ones below them.
    All,
}

struct Layer {
    entries: Scan,
    removals: Removals,
}

/// The entries of several runs in order.
pub(super) struct EntryScan {
    /// Newest first.
    layers: Vec<Layer>,
    show: Show,
    /// The layer that holds the current key.
    leader: usize,
    /// The layer with the smallest key above it.
    challenger: Option<usize>,
    valid: bool,
    any_removals: bool,
}

impl EntryScan {
    /// A scan over `runs`, newest first. Seek before use.
    pub(super) fn new(runs: &[Arc<Run>], show: Show) -> Self {
        let layers: Vec<_> = runs
            .iter()
            .map(|run| Layer {
                entries: Scan::new(run, Column::Entries),
                removals: Removals::new(run),
            })
            .collect();
        Self {
            any_removals: layers.iter().any(|layer| !layer.removals.is_empty()),
            layers,
            show,
            leader: 0,
            challenger: None,
            valid: false,
        }
    }

    /// Goes to the first item at or after `key`.
    pub(super) fn seek(&mut self, key: &[u8]) -> Result<()> {
        for layer in &mut self.layers {
            layer.entries.seek(key)?;
        }
        self.elect()?;
        self.settle()
    }

    /// Goes to the item with exactly this key; false when there is none.
    pub(super) fn find(&mut self, key: &[u8]) -> Result<bool> {
        self.seek(key)?;
        Ok(self.valid && self.item().key() == key)
    }

    /// The current entry, whole.
    pub(super) fn entry(&self) -> Result<Entry> {
        let item = self.item();
        super::key::decode(item.key())
            .ok()
            .and_then(|path| record::decode_entry(path, item.payload()))
            .ok_or_else(|| item.run().corrupt("an entry is malformed"))
    }

    /// Whether it stands on an item.
    pub(super) fn valid(&self) -> bool {
        self.valid
    }

    /// The current item.
    pub(super) fn item(&self) -> &Scan {
        &self.layers[self.leader].entries
    }

    /// Goes to the next item.
    pub(super) fn next(&mut self) -> Result<()> {
        self.step()?;
        self.settle()
    }

    /// Moves past items that newer runs removed, and past tombstones unless they are wanted.
    fn settle(&mut self) -> Result<()> {
        while self.valid && self.is_hidden()? {
            self.step()?;
        }
        Ok(())
    }

    fn is_hidden(&mut self) -> Result<bool> {
        if self.show == Show::Live && self.item().kind() == item::TOMBSTONE {
            return Ok(true);
        }
        if !self.any_removals {
            return Ok(false);
        }
        let (newer, rest) = self.layers.split_at_mut(self.leader);
        for layer in newer {
            if layer.removals.covers(rest[0].entries.key())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn step(&mut self) -> Result<()> {
        self.layers[self.leader].entries.next()?;
        let leader = &self.layers[self.leader].entries;
        let leads = match self.challenger {
            None => leader.valid(),
            Some(challenger) => leader.valid() && leader.key() < self.layers[challenger].entries.key(),
        };
        if leads { Ok(()) } else { self.elect() }
    }

    /// Finds the smallest key, in the newest layer that has it, and passes over it in older layers.
    fn elect(&mut self) -> Result<()> {
        let mut leader = None;
        for (at, layer) in self.layers.iter().enumerate() {
            let smaller =
                leader.is_none_or(|leader: usize| layer.entries.key() < self.layers[leader].entries.key());
            if layer.entries.valid() && smaller {
                leader = Some(at);
            }
        }
        self.valid = leader.is_some();
        let Some(leader) = leader else { return Ok(()) };
        self.leader = leader;
        self.challenger = None;
        let (newer, rest) = self.layers.split_at_mut(leader + 1);
        for older in rest {
            if older.entries.valid() && older.entries.key() == newer[leader].entries.key() {
                older.entries.next()?;
            }
        }
        for (at, layer) in self.layers.iter().enumerate() {
            let smaller = self
                .challenger
                .is_none_or(|challenger| layer.entries.key() < self.layers[challenger].entries.key());
            if at != leader && layer.entries.valid() && smaller {
                self.challenger = Some(at);
            }
        }
        Ok(())
    }
}

/// Whether a merge reaches the oldest run, so that marks of what is gone have nothing left to hide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// All runs: only what is alive remains.
    Bottom,
    /// Only newer runs: marks remain.
    Overlay,
}

/// Merges `runs` (newest first) into run `number`.
pub(super) fn merge(
    folder: &std::path::Path,
    number: u64,
    runs: &[Arc<Run>],
    depth: Depth,
) -> Result<RunInfo> {
    let mut writer = RunWriter::create(folder, number)?;
    if depth == Depth::Overlay {
        merge_removals(runs, &mut writer)?;
    }
    let show = match depth {
        Depth::Bottom => Show::Live,
        Depth::Overlay => Show::All,
    };
    let mut entries = EntryScan::new(runs, show);
    entries.seek(&[])?;
    while entries.valid() {
        let item = entries.item();
        writer.put(Column::Entries, item.key(), item.kind(), item.payload())?;
        entries.next()?;
    }
    merge_chunks(runs, &mut writer, depth)?;
    let mut info = writer.finish()?;
    let (newest, oldest) = (runs[0].info(), runs[runs.len() - 1].info());
    info.generation_first = oldest.generation_first;
    info.generation_last = newest.generation_last;
    info.state = newest.state;
    Ok(info)
}

fn merge_removals(runs: &[Arc<Run>], writer: &mut RunWriter) -> Result<()> {
    let mut scans: Vec<_> = runs.iter().map(|run| Scan::new(run, Column::Removed)).collect();
    for scan in &mut scans {
        scan.seek(&[])?;
    }
    let mut last: Option<Vec<u8>> = None;
    while let Some(at) = smallest(&scans) {
        let prefix = scans[at].key();
        if last.as_ref().is_none_or(|last| !prefix.starts_with(last)) {
            writer.put(Column::Removed, prefix, item::REMOVED, &[])?;
            last = Some(prefix.to_vec());
        }
        scans[at].next()?;
    }
    Ok(())
}

fn smallest(scans: &[Scan]) -> Option<usize> {
    (0..scans.len())
        .filter(|at| scans[*at].valid())
        .min_by(|a, b| scans[*a].key().cmp(scans[*b].key()))
}

/// The paths of which some run says something about chunks, in order. For an overlay also the files that travel in
/// chunks without any digest: what they hide in older runs must stay hidden.
pub(super) struct ChunkPaths {
    scans: Vec<Scan>,
    entries: Option<EntryScan>,
}

impl ChunkPaths {
    pub(super) fn new(runs: &[Arc<Run>], depth: Depth) -> Result<Self> {
        let mut scans: Vec<_> = runs.iter().map(|run| Scan::new(run, Column::Chunks)).collect();
        for scan in &mut scans {
            scan.seek(&[])?;
        }
        let mut entries = None;
        if depth == Depth::Overlay {
            let mut scan = EntryScan::new(runs, Show::Live);
            scan.seek(&[])?;
            entries = Some(scan);
        }
        Ok(Self { scans, entries })
    }

    /// Goes to the first path at or after `key`.
    pub(super) fn seek(&mut self, key: &[u8]) -> Result<()> {
        for scan in &mut self.scans {
            scan.seek(key)?;
        }
        match &mut self.entries {
            Some(entries) => entries.seek(key),
            None => Ok(()),
        }
    }

    /// The next path's key.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let mut path = match smallest(&self.scans) {
            Some(at) => Some(super::walk::path_of_item(&self.scans[at])?.to_vec()),
            None => None,
        };
        if let Some(entries) = &mut self.entries {
            while entries.valid() && !matches!(entries.item().kind(), item::CHUNKED | item::TORN) {
                entries.next()?;
            }
            if entries.valid() && path.as_ref().is_none_or(|path| entries.item().key() <= &path[..]) {
                path = Some(entries.item().key().to_vec());
                entries.next()?;
            }
        }
        let Some(path) = path else { return Ok(None) };
        let mut end = path.clone();
        end.push(1);
        for scan in &mut self.scans {
            if scan.valid() && scan.key() < &end[..] && scan.key().starts_with(&path) {
                scan.seek(&end)?;
            }
        }
        Ok(Some(path))
    }
}

fn merge_chunks(runs: &[Arc<Run>], writer: &mut RunWriter, depth: Depth) -> Result<()> {
    let mut paths = ChunkPaths::new(runs, depth)?;
    let mut walk = ChunkWalk::new(runs);
    while let Some(path) = paths.next()? {
        let resolved = walk.resolve(&path)?;
        if depth == Depth::Overlay {
            put_limit(writer, &path, resolved.limit_for_older())?;
        }
        put_groups(writer, &path, &mut walk, &resolved, depth)?;
    }
    Ok(())
}

/// Writes the mark that voids older chunks from `limit` on, when there is one.
pub(super) fn put_limit(writer: &mut RunWriter, path: &[u8], limit: Option<u64>) -> Result<()> {
    // The root has no chunks that could be void.
    let Some(limit) = limit.filter(|_| !path.is_empty()) else {
        return Ok(());
    };
    let mut key = path.to_vec();
    key.push(0);
    let mut payload = Vec::new();
    varint::put(&mut payload, limit);
    writer.put(Column::Chunks, &key, item::LIMIT, &payload)
}

/// Writes one group unless it says nothing.
pub(super) fn put_group(
    writer: &mut RunWriter,
    path: &[u8],
    group: u64,
    identity: Identity,
    slots: &Slots,
) -> Result<()> {
    if slots.iter().all(Option::is_none) {
        return Ok(());
    }
    let mut payload = Vec::with_capacity(GROUP_LEN * 32 + 32);
    record::encode_group(identity, slots, &mut payload);
    writer.put(
        Column::Chunks,
        &super::walk::group_key(path, group),
        item::GROUP,
        &payload,
    )
}

fn put_groups(
    writer: &mut RunWriter,
    path: &[u8],
    walk: &mut ChunkWalk,
    resolved: &Resolved,
    depth: Depth,
) -> Result<()> {
    let Some(identity) = resolved.identity() else {
        return Ok(());
    };
    let mut groups = walk.groups(path, resolved, 0)?;
    let mut slots = [None; GROUP_LEN];
    while let Some(group) = groups.next(walk, &mut slots)? {
        if depth == Depth::Bottom {
            forget_unknown(&mut slots);
        }
        put_group(writer, path, group, identity, &slots)?;
    }
    Ok(())
}

/// Where nothing older remains, unknown and unmentioned are the same.
pub(super) fn forget_unknown(slots: &mut [Option<Digest>]) {
    for slot in slots {
        if slot.is_some_and(|digest| digest.is_unknown()) {
            *slot = None;
        }
    }
}
