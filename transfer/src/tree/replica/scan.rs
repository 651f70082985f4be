//! Reading one column of one run, item by item.

use std::sync::Arc;

use super::limits::KEY_LEN_MAX;
use super::run::{Column, Run};
use super::varint;
use crate::Result;

/// A position in a column. Asking for keys in roughly ascending order is cheap: the block at hand is not read again, and
/// within it the search goes on from where it stands.
pub(super) struct Scan {
    run: Arc<Run>,
    column: Column,
    block: usize,
    loaded: bool,
    raw: Vec<u8>,
    /// Where the next item begins in `raw`.
    next: usize,
    key: Vec<u8>,
    kind: u8,
    payload: std::ops::Range<usize>,
    valid: bool,
}

impl Scan {
    /// A scan that stands nowhere; seek first.
    pub(super) fn new(run: &Arc<Run>, column: Column) -> Self {
        Self {
            run: Arc::clone(run),
            column,
            block: 0,
            loaded: false,
            raw: Vec::new(),
            next: 0,
            key: Vec::new(),
            kind: 0,
            payload: 0..0,
            valid: false,
        }
    }

    /// Whether it stands on an item.
    pub(super) fn valid(&self) -> bool {
        self.valid
    }

    /// The key it stands on.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// What kind of item it stands on.
    pub(super) fn kind(&self) -> u8 {
        self.kind
    }

    /// The payload of the item it stands on.
    pub(super) fn payload(&self) -> &[u8] {
        &self.raw[self.payload.clone()]
    }

    /// The run it reads.
    pub(super) fn run(&self) -> &Run {
        &self.run
    }

    /// Whether the column has no items at all.
    pub(super) fn is_empty(&self) -> bool {
        self.run.blocks(self.column) == 0
    }

    /// Goes to the first item whose key is not below `key`.
    pub(super) fn seek(&mut self, key: &[u8]) -> Result<()> {
        if self.is_empty() {
            self.valid = false;
            return Ok(());
        }
        let block = self.run.block_of(self.column, key);
        let forward = self.loaded && self.valid && block == self.block && *self.key <= *key;
        if !forward {
            self.enter(block)?;
            self.next()?;
        }
        while self.valid && *self.key < *key {
            self.next()?;
        }
        Ok(())
    }

    /// Goes to the next item.
    pub(super) fn next(&mut self) -> Result<()> {
        while self.next >= self.raw.len() {
            if self.block + 1 >= self.run.blocks(self.column) {
                self.valid = false;
                return Ok(());
            }
            self.enter(self.block + 1)?;
        }
        if self.parse().is_none() {
            self.valid = false;
            self.loaded = false;
            return Err(self.run.corrupt("an item is malformed or out of order"));
        }
        Ok(())
    }

    /// Skips whole blocks that end before `key`; then stands somewhere at or before the first item not below it.
    pub(super) fn skip_towards(&mut self, key: &[u8]) -> Result<()> {
        if self.valid && self.run.block_of(self.column, key) > self.block {
            return self.seek(
                self.run
                    .clone()
                    .first_key(self.column, self.run.block_of(self.column, key)),
            );
        }
        Ok(())
    }

    fn enter(&mut self, block: usize) -> Result<()> {
        if !self.loaded || block != self.block {
            self.loaded = false;
            self.run.read_block(self.column, block, &mut self.raw)?;
            self.block = block;
            self.loaded = true;
        }
        self.next = 0;
        self.key.clear();
        self.valid = false;
        Ok(())
    }

    #[inline]
    fn parse(&mut self) -> Option<()> {
        let mut rest = &self.raw[self.next..];
        let shared = varint::take(&mut rest)? as usize;
        let suffix_len = varint::take(&mut rest)? as usize;
        if shared > self.key.len() || suffix_len > rest.len() || shared + suffix_len > KEY_LEN_MAX {
            return None;
        }
        let (suffix, mut rest) = rest.split_at(suffix_len);
        if self.next == 0 {
            if shared != 0 || suffix != self.run.first_key(self.column, self.block) {
                return None;
            }
        } else if *suffix <= self.key[shared..] {
            return None;
        }
        self.key.truncate(shared);
        self.key.extend_from_slice(suffix);
        let (&kind, tail) = rest.split_first()?;
        rest = tail;
        let payload_len = varint::take(&mut rest)? as usize;
        if payload_len > rest.len() {
            return None;
        }
        let start = self.raw.len() - rest.len();
        self.kind = kind;
        self.payload = start..start + payload_len;
        self.next = start + payload_len;
        self.valid = true;
        Some(())
    }
}

/// Tells whether a run removed the subtree that a key lies in. Cheap for ascending keys.
pub(super) struct Removals {
    scan: Scan,
    /// The last prefix at or before the key asked for.
    current: Option<Vec<u8>>,
    started: bool,
}

impl Removals {
    /// The removed subtrees of `run`.
    pub(super) fn new(run: &Arc<Run>) -> Self {
        Self {
            scan: Scan::new(run, Column::Removed),
            current: None,
            started: false,
        }
    }

    /// Whether the run has none.
    pub(super) fn is_empty(&self) -> bool {
        self.scan.is_empty()
    }

    /// Whether `key` lies in a removed subtree.
    pub(super) fn covers(&mut self, key: &[u8]) -> Result<bool> {
        if self.scan.is_empty() {
            return Ok(false);
        }
        let behind = self.current.as_ref().is_some_and(|current| *key < **current);
        if !self.started || behind || (self.current.is_none() && self.scan.valid()) {
            let first = self.scan.run.block_of(Column::Removed, key);
            let run = Arc::clone(&self.scan.run);
            self.scan.seek(run.first_key(Column::Removed, first))?;
            self.current = None;
            self.started = true;
        } else {
            self.scan.skip_towards(key)?;
        }
        while self.scan.valid() && self.scan.key() <= key {
            match &mut self.current {
                Some(current) => {
                    current.clear();
                    current.extend_from_slice(self.scan.key());
                }
                None => self.current = Some(self.scan.key().to_vec()),
            }
            self.scan.next()?;
        }
        Ok(self
            .current
            .as_ref()
            .is_some_and(|current| super::key::is_below(key, current)))
    }
}
