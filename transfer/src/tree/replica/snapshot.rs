//! Reading a replica: an immutable view, and cursors on it.

use std::sync::Arc;

use super::super::entry::{Digest, Entry, EntryPath};
use super::key;
use super::limits::{CHUNK_NUMBER_MAX, CHUNKS_READ_MAX, GROUP_LEN};
use super::merge::{EntryScan, Show};
use super::run::Run;
use super::walk::ChunkWalk;
use crate::{Error, Kind, Result};

/// The sealed contents of a replica at one moment. Later seals do not change it: its files stay open.
#[derive(Clone)]
pub struct Snapshot {
    /// Newest first.
    runs: Arc<[Arc<Run>]>,
}

/// Digests of a file that travels in chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkDigests {
    /// log2 of the chunk length in bytes.
    pub chunk_log2: u8,
    /// From the file's first chunk on; unknown where nothing is known, and so is what is beyond the end.
    pub digests: Vec<Digest>,
}

impl Snapshot {
    pub(super) fn new(runs: impl Iterator<Item = Arc<Run>>) -> Self {
        Self { runs: runs.collect() }
    }

    /// A cursor; each thread needs its own.
    pub fn cursor(&self) -> Cursor {
        Cursor {
            entries: EntryScan::new(&self.runs, Show::Live),
            chunks: ChunkWalk::new(&self.runs),
        }
    }

    /// All entries in order.
    pub fn iter(&self) -> Entries {
        Entries {
            scan: EntryScan::new(&self.runs, Show::Live),
            place: Place::Start,
        }
    }

    /// All entries in order, together with the digests of those that travel in chunks.
    pub fn iter_chunked(&self) -> impl Iterator<Item = Result<(Entry, Option<ChunkDigests>)>> + use<> {
        let mut cursor = self.cursor();
        self.iter().map(move |entry| {
            let entry = entry?;
            let chunks = match super::record::chunked(&entry) {
                Some((identity, _)) => cursor.chunks(&entry.path, identity.ino)?,
                None => None,
            };
            Ok((entry, chunks))
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Start,
    Within,
    End,
}

/// All entries in order; ends after an error.
pub struct Entries {
    scan: EntryScan,
    place: Place,
}

impl Iterator for Entries {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        let moved = match self.place {
            Place::Start => self.scan.seek(&[]),
            Place::Within => self.scan.next(),
            Place::End => return None,
        };
        self.place = Place::Within;
        let entry = moved.and_then(|()| {
            if self.scan.valid() {
                self.scan.entry().map(Some)
            } else {
                Ok(None)
            }
        });
        if !matches!(entry, Ok(Some(_))) {
            self.place = Place::End;
        }
        entry.transpose()
    }
}

/// A reader of single directories, entries and files. Fast when it is asked in the order of a sorted depth-first walk.
pub struct Cursor {
    entries: EntryScan,
    chunks: ChunkWalk,
}

impl Cursor {
    /// Visits the children of `directory`, sorted by name, one at a time. Does not visit what is below them.
    ///
    /// # Errors
    /// The replica is damaged or cannot be read, or `visit` failed.
    pub fn children(
        &mut self,
        directory: &EntryPath,
        visit: &mut dyn FnMut(Entry) -> Result<()>,
    ) -> Result<()> {
        let prefix = key::children(directory);
        self.entries.seek(&prefix)?;
        while self.entries.valid() && self.entries.item().key().starts_with(&prefix) {
            visit(self.entries.entry()?)?;
            self.entries.next()?;
        }
        Ok(())
    }

    /// The entry at `path`.
    ///
    /// # Errors
    /// The replica is damaged or cannot be read.
    pub fn get(&mut self, path: &EntryPath) -> Result<Option<Entry>> {
        if self.entries.find(&key::of(path))? {
            self.entries.entry().map(Some)
        } else {
            Ok(None)
        }
    }

    /// What is known of the chunks of the file `path` whose inode number at the source is `ino`; `None` when nothing is.
    /// Needs 32 bytes per chunk: for the largest files see [`Self::chunk_range`].
    ///
    /// # Errors
    /// The replica is damaged or cannot be read, or more than 2^26 chunks are known.
    pub fn chunks(&mut self, path: &EntryPath, ino: u64) -> Result<Option<ChunkDigests>> {
        self.chunk_range(path, ino, 0..CHUNK_NUMBER_MAX)
    }

    /// As [`Self::chunks`], for the chunks with numbers in `range` only: the first digest is that of `range.start`.
    ///
    /// # Errors
    /// The replica is damaged or cannot be read, or more than 2^26 chunks of the range are known.
    pub fn chunk_range(
        &mut self,
        path: &EntryPath,
        ino: u64,
        range: std::ops::Range<u64>,
    ) -> Result<Option<ChunkDigests>> {
        let key = key::of(path);
        let resolved = self.chunks.resolve(&key)?;
        let Some(identity) = resolved.identity().filter(|identity| identity.ino == ino) else {
            return Ok(None);
        };
        let mut digests = Vec::new();
        let mut slots = [None; GROUP_LEN];
        let mut groups = self
            .chunks
            .groups(&key, &resolved, range.start / GROUP_LEN as u64)?;
        while let Some(group) = groups.next(&mut self.chunks, &mut slots)? {
            let base = group
                .checked_mul(GROUP_LEN as u64)
                .filter(|base| *base < CHUNK_NUMBER_MAX);
            let base = base
                .ok_or_else(|| Error::new(Kind::Corrupt, "read the chunks of a file").on(path.display()))?;
            if base >= range.end {
                break;
            }
            for (number, digest) in (base..range.end).zip(&slots) {
                let Some(digest) = digest.filter(|digest| !digest.is_unknown()) else {
                    continue;
                };
                let Some(at) = number.checked_sub(range.start) else {
                    continue;
                };
                if at >= CHUNKS_READ_MAX {
                    return Err(Error::new(
                        Kind::Usage,
                        "read the chunks of a file at once: it has too many",
                    )
                    .on(path.display()));
                }
                digests.resize(at as usize, Digest::default());
                digests.push(digest);
            }
        }
        if digests.is_empty() && range.start == 0 {
            return Ok(None);
        }
        Ok(Some(ChunkDigests {
            chunk_log2: identity.chunk_log2,
            digests,
        }))
    }
}
