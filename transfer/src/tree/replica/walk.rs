//! Which chunk digests of a path are true, given several runs.
//!
//! From the newest run to the oldest, a run's groups count as long as everything newer speaks of the same identity. An
//! entry that does not travel in chunks, a tombstone, a removed subtree or another identity ends the walk; an entry
//! with fewer chunks, or a limit, voids what older runs know beyond it.

use std::sync::Arc;

use super::limits::GROUP_LEN;
use super::record::{self, Identity, Slots};
use super::run::{Column, Run, item};
use super::scan::{Removals, Scan};
use super::varint;
use crate::Result;

struct Layer {
    entries: Scan,
    chunks: Scan,
    removals: Removals,
}

/// Reads the chunks of paths in several runs. Cheap for ascending paths.
pub(super) struct ChunkWalk {
    /// Newest first.
    layers: Vec<Layer>,
}

/// What the walk found out about a path.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    identity: Option<Identity>,
    /// Layers whose groups count, newest first, each with the number of the first chunk that newer layers voided.
    members: Vec<(usize, u64)>,
    /// First chunk that is void in runs older than all of these.
    limit: u64,
    /// What the newest entry alone says of older runs' chunks: those from its own number of chunks on are void, all when
    /// it does not travel in chunks or is gone. `None` when no run has one.
    implied: Option<u64>,
}

impl Resolved {
    /// Whose digests they are; `None` when there are none.
    pub(super) fn identity(&self) -> Option<Identity> {
        self.identity.filter(|_| !self.members.is_empty())
    }

    /// Whose digests there are or would be: that of the newest groups or entry.
    pub(super) fn identity_of_path(&self) -> Option<Identity> {
        self.identity
    }

    /// What a merged run must say about older runs' chunks beyond what its entry says.
    pub(super) fn limit_for_older(&self) -> Option<u64> {
        let implied = self.implied.unwrap_or(u64::MAX);
        (self.limit < implied).then_some(self.limit)
    }
}

impl ChunkWalk {
    /// A walk over `runs`, newest first.
    pub(super) fn new(runs: &[Arc<Run>]) -> Self {
        let layer = |run| Layer {
            entries: Scan::new(run, Column::Entries),
            chunks: Scan::new(run, Column::Chunks),
            removals: Removals::new(run),
        };
        Self {
            layers: runs.iter().map(layer).collect(),
        }
    }

    /// Finds out which layers' groups of the path with key `path` count.
    pub(super) fn resolve(&mut self, path: &[u8]) -> Result<Resolved> {
        let mut resolved = Resolved {
            limit: u64::MAX,
            ..Resolved::default()
        };
        let mut first_chunk_key = path.to_vec();
        first_chunk_key.push(0);
        for at in 0..self.layers.len() {
            if !self.layers[at].visit(at, path, &first_chunk_key, &mut resolved)? {
                resolved.limit = 0;
                break;
            }
        }
        Ok(resolved)
    }

    /// The groups of a resolved path, from group `first` on.
    pub(super) fn groups(&mut self, path: &[u8], resolved: &Resolved, first: u64) -> Result<Groups> {
        let key = group_key(path, first);
        for (layer, _) in &resolved.members {
            self.layers[*layer].chunks.seek(&key)?;
        }
        Ok(Groups {
            path: path.to_vec(),
            members: resolved.members.clone(),
        })
    }
}

impl Layer {
    /// Takes this layer into account; false when older layers do not count at all.
    fn visit(
        &mut self,
        at: usize,
        path: &[u8],
        first_chunk_key: &[u8],
        resolved: &mut Resolved,
    ) -> Result<bool> {
        let (identity, limit) = self.chunk_marks(path, first_chunk_key)?;
        if let Some(identity) = identity {
            if resolved.identity.is_some_and(|newer| newer != identity) {
                return Ok(false);
            }
            resolved.identity = Some(identity);
            resolved.members.push((at, resolved.limit));
        }
        resolved.limit = resolved.limit.min(limit);
        self.entries.seek(path)?;
        if self.entries.valid() && self.entries.key() == path {
            let mut payload = self.entries.payload();
            let kind = self.entries.kind();
            let chunked = match kind {
                item::TOMBSTONE => None,
                _ => {
                    let head = record::head(&mut payload);
                    head.ok_or_else(|| self.entries.run().corrupt("an entry is malformed"))?
                        .chunked
                }
            };
            let implied = match kind {
                item::TORN => u64::MAX,
                _ => chunked.map_or(0, |(_, count)| count),
            };
            resolved.implied = resolved.implied.or(Some(implied));
            if kind == item::TORN {
                return Ok(resolved.limit > 0 && !self.removals.covers(path)?);
            }
            let Some((identity, count)) = chunked else {
                return Ok(false);
            };
            if resolved.identity.is_some_and(|newer| newer != identity) {
                return Ok(false);
            }
            resolved.identity = Some(identity);
            resolved.limit = resolved.limit.min(count);
        }
        Ok(resolved.limit > 0 && !self.removals.covers(path)?)
    }

    /// Identity of this layer's groups of the path, and from which chunk on it voids older ones.
    fn chunk_marks(&mut self, path: &[u8], first_chunk_key: &[u8]) -> Result<(Option<Identity>, u64)> {
        let mut limit = u64::MAX;
        self.chunks.seek(first_chunk_key)?;
        if self.chunks.valid() && self.chunks.kind() == item::LIMIT && self.chunks.key() == first_chunk_key {
            limit = varint::take(&mut self.chunks.payload())
                .ok_or_else(|| self.chunks.run().corrupt("a limit is malformed"))?;
            self.chunks.next()?;
        }
        if !self.chunks.valid() || group_of(&self.chunks, path).is_none() {
            return Ok((None, limit));
        }
        let identity = record::group_identity(&mut self.chunks.payload())
            .ok_or_else(|| self.chunks.run().corrupt("a group of digests is malformed"))?;
        Ok((Some(identity), limit))
    }
}

/// Iterates over the groups of one path.
pub(super) struct Groups {
    path: Vec<u8>,
    members: Vec<(usize, u64)>,
}

impl Groups {
    /// Fills `slots` with the next group and returns its number.
    pub(super) fn next(&mut self, walk: &mut ChunkWalk, slots: &mut Slots) -> Result<Option<u64>> {
        let numbers = self
            .members
            .iter()
            .map(|(layer, _)| group_of(&walk.layers[*layer].chunks, &self.path));
        let Some(group) = numbers.flatten().min() else {
            return Ok(None);
        };
        slots.fill(None);
        let base = group.saturating_mul(GROUP_LEN as u64);
        for (layer, limit) in self.members.iter().rev() {
            let scan = &mut walk.layers[*layer].chunks;
            if group_of(scan, &self.path) == Some(group) {
                let mut own = [None; GROUP_LEN];
                record::apply_group(scan.payload(), &mut own)
                    .ok_or_else(|| scan.run().corrupt("a group of digests is malformed"))?;
                let end = limit.saturating_sub(base).min(GROUP_LEN as u64) as usize;
                for (slot, own) in slots.iter_mut().zip(&own[..end]) {
                    *slot = own.or(*slot);
                }
                scan.next()?;
            }
        }
        Ok(Some(group))
    }
}

/// Key of a group of the path with key `path`.
pub(super) fn group_key(path: &[u8], group: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(path.len() + 9);
    key.extend_from_slice(path);
    key.push(0);
    key.extend_from_slice(&group.to_be_bytes());
    key
}

/// Number of the group that `scan` stands on when it is one of `path`.
fn group_of(scan: &Scan, path: &[u8]) -> Option<u64> {
    if !scan.valid() || scan.kind() != item::GROUP {
        return None;
    }
    let (own, number) = scan.key().split_last_chunk::<8>()?;
    let (zero, own) = own.split_last()?;
    (*zero == 0 && own == path).then(|| u64::from_be_bytes(*number))
}

/// Key of the path that a chunk item speaks of.
pub(super) fn path_of_item(scan: &Scan) -> Result<&[u8]> {
    let key = scan.key();
    let tail = match scan.kind() {
        item::LIMIT => 1,
        item::GROUP => 9,
        _ => 0,
    };
    if tail == 0 || key.len() < tail || key[key.len() - tail] != 0 {
        return Err(scan.run().corrupt("a chunk item is malformed"));
    }
    Ok(&key[..key.len() - tail])
}
