//! External sort: any number of items in bounded memory, spilled to the replica's folder as sorted files.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use super::disk;
use super::limits::{KEY_LEN_MAX, RECORD_LEN_MAX, SORT_MEMORY_LEN, SPILLS_MAX};
use crate::{Error, Result};

/// Key length (4), payload length (4).
const LENGTHS_LEN: usize = 8;
/// Class (1), group (8), sequence (8), big-endian: compared after the key.
const TAIL_LEN: usize = 17;
const COMPRESSION_LEVEL: i32 = 1;

/// One item as it lies in memory and in spills: lengths, key, tail, payload.
#[derive(Clone, Copy)]
pub(super) struct Item<'a>(&'a [u8]);

impl<'a> Item<'a> {
    fn key_len(self) -> usize {
        let len: &[u8; 4] = self.0.first_chunk().expect("an item has its lengths");
        u32::from_le_bytes(*len) as usize
    }

    /// The key.
    pub(super) fn key(self) -> &'a [u8] {
        &self.0[LENGTHS_LEN..LENGTHS_LEN + self.key_len()]
    }

    fn tail(self) -> &'a [u8] {
        let start = LENGTHS_LEN + self.key_len();
        &self.0[start..start + TAIL_LEN]
    }

    /// The class: items of one key come class by class.
    pub(super) fn class(self) -> u8 {
        self.tail()[0]
    }

    /// The group: within a class by group.
    pub(super) fn group(self) -> u64 {
        number(&self.tail()[1..9])
    }

    /// The sequence number: within a group in the order of pushing.
    pub(super) fn sequence(self) -> u64 {
        number(&self.tail()[9..17])
    }

    /// The payload.
    pub(super) fn payload(self) -> &'a [u8] {
        &self.0[LENGTHS_LEN + self.key_len() + TAIL_LEN..]
    }

    fn cmp(self, other: Item<'_>) -> Ordering {
        self.key()
            .cmp(other.key())
            .then_with(|| self.tail().cmp(other.tail()))
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Collects items.
pub(super) struct Sorter {
    folder: PathBuf,
    memory_len: usize,
    arena: Vec<u8>,
    starts: Vec<usize>,
    sequence: u64,
    spills: Vec<PathBuf>,
    spill_number: u64,
}

impl Sorter {
    /// A sorter that spills into `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        Self::with_memory(folder, SORT_MEMORY_LEN)
    }

    /// A sorter that spills after `memory_len` bytes.
    pub(super) fn with_memory(folder: &Path, memory_len: usize) -> Self {
        Self {
            folder: folder.to_owned(),
            memory_len,
            arena: Vec::new(),
            starts: Vec::new(),
            sequence: 0,
            spills: Vec::new(),
            spill_number: 0,
        }
    }

    /// Adds an item.
    pub(super) fn push(&mut self, key: &[u8], class: u8, group: u64, payload: &[u8]) -> Result<()> {
        let sequence = self.sequence;
        self.sequence += 1;
        let len = LENGTHS_LEN + key.len() + TAIL_LEN + payload.len();
        if self.arena.len() + len > self.memory_len && !self.starts.is_empty() {
            self.spill()?;
        }
        self.starts.push(self.arena.len());
        self.arena.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.arena
            .extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.arena.extend_from_slice(key);
        self.arena.push(class);
        self.arena.extend_from_slice(&group.to_be_bytes());
        self.arena.extend_from_slice(&sequence.to_be_bytes());
        self.arena.extend_from_slice(payload);
        Ok(())
    }

    /// Ends collecting and begins reading in order.
    pub(super) fn finish(mut self) -> Result<Sorted> {
        if self.spills.is_empty() {
            self.sort();
            return Ok(Sorted::Memory {
                arena: std::mem::take(&mut self.arena),
                starts: std::mem::take(&mut self.starts),
                next: 0,
            });
        }
        self.spill()?;
        self.arena = Vec::new();
        self.starts = Vec::new();
        Ok(Sorted::Spills(Merge::open(std::mem::take(&mut self.spills))?))
    }

    fn sort(&mut self) {
        let arena = &self.arena;
        self.starts
            .sort_unstable_by(|a, b| item_at(arena, *a).cmp(item_at(arena, *b)));
    }

    fn spill(&mut self) -> Result<()> {
        self.sort();
        let mut spill = self.begin_spill()?;
        for start in &self.starts {
            spill.write(item_at(&self.arena, *start))?;
        }
        spill.finish()?;
        self.arena.clear();
        self.starts.clear();
        if self.spills.len() >= SPILLS_MAX {
            let mut merged = Merge::open(std::mem::take(&mut self.spills))?;
            let mut spill = self.begin_spill()?;
            while let Some(item) = merged.next()? {
                spill.write(item)?;
            }
            spill.finish()?;
        }
        Ok(())
    }

    fn begin_spill(&mut self) -> Result<Spill<impl Write + use<>>> {
        let path = self.folder.join(format!("spill-{}", self.spill_number));
        self.spill_number += 1;
        let file = disk::create_scratch(&path)?;
        let failed = |e| Error::io("write a scratch file", &path, e);
        let mut encoder = zstd::stream::write::Encoder::new(file, COMPRESSION_LEVEL).map_err(failed)?;
        encoder.include_checksum(true).map_err(failed)?;
        self.spills.push(path.clone());
        Ok(Spill { encoder, path })
    }
}

impl Drop for Sorter {
    fn drop(&mut self) {
        self.spills.iter().for_each(remove_scratch);
    }
}

fn remove_scratch(path: &PathBuf) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "a scratch file stays until the replica is opened again");
    }
}

fn item_at(arena: &[u8], start: usize) -> Item<'_> {
    let lengths: &[u8; LENGTHS_LEN] = arena[start..]
        .first_chunk()
        .expect("items lie whole in the arena");
    Item(&arena[start..start + item_len(lengths)])
}

fn item_len(lengths: &[u8; LENGTHS_LEN]) -> usize {
    let part = |at: usize| {
        let len: &[u8; 4] = lengths[at..].first_chunk().expect("two lengths of four bytes");
        u32::from_le_bytes(*len) as usize
    };
    LENGTHS_LEN + part(0) + TAIL_LEN + part(4)
}

struct Spill<W: Write> {
    encoder: zstd::stream::write::Encoder<'static, W>,
    path: PathBuf,
}

impl<W: Write> Spill<W> {
    fn write(&mut self, item: Item<'_>) -> Result<()> {
        self.encoder
            .write_all(item.0)
            .map_err(|e| Error::io("write a scratch file", &self.path, e))
    }

    fn finish(self) -> Result<()> {
        let mut file = self
            .encoder
            .finish()
            .map_err(|e| Error::io("write a scratch file", &self.path, e))?;
        file.flush()
            .map_err(|e| Error::io("write a scratch file", &self.path, e))
    }
}

/// The items in order.
pub(super) enum Sorted {
    /// Everything fitted into memory.
    Memory {
        /// Items back to back.
        arena: Vec<u8>,
        /// Where they begin, in order.
        starts: Vec<usize>,
        /// The next one.
        next: usize,
    },
    /// Spills are merged.
    Spills(Merge),
}

impl Sorted {
    /// The next item.
    pub(super) fn next(&mut self) -> Result<Option<Item<'_>>> {
        match self {
            Self::Memory { arena, starts, next } => {
                let Some(start) = starts.get(*next) else {
                    return Ok(None);
                };
                *next += 1;
                Ok(Some(item_at(arena, *start)))
            }
            Self::Spills(merge) => merge.next(),
        }
    }
}

/// Merges spills; removes them when dropped.
pub(super) struct Merge {
    heads: BinaryHeap<Head>,
    taken: bool,
    paths: Vec<PathBuf>,
}

struct Head {
    bytes: Vec<u8>,
    decoder: zstd::stream::read::Decoder<'static, BufReader<File>>,
    path: PathBuf,
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    /// Reversed: the heap's greatest is the smallest item.
    fn cmp(&self, other: &Self) -> Ordering {
        Item(&other.bytes).cmp(Item(&self.bytes))
    }
}

impl Head {
    /// Reads the next item; false at the end.
    fn advance(&mut self) -> Result<bool> {
        let failed = |e| Error::io("read a scratch file", &self.path, e);
        let mut lengths = [0; LENGTHS_LEN];
        match self.decoder.read(&mut lengths[..1]).map_err(failed)? {
            0 => return Ok(false),
            _ => self.decoder.read_exact(&mut lengths[1..]).map_err(failed)?,
        }
        let len = item_len(&lengths);
        if len > LENGTHS_LEN + KEY_LEN_MAX + TAIL_LEN + RECORD_LEN_MAX {
            return Err(failed(ErrorKind::InvalidData.into()));
        }
        self.bytes.clear();
        self.bytes.extend_from_slice(&lengths);
        self.bytes.resize(len, 0);
        self.decoder
            .read_exact(&mut self.bytes[LENGTHS_LEN..])
            .map_err(failed)?;
        Ok(true)
    }
}

impl Merge {
    fn open(paths: Vec<PathBuf>) -> Result<Self> {
        let mut merge = Self {
            heads: BinaryHeap::with_capacity(paths.len()),
            taken: false,
            paths,
        };
        for path in &merge.paths {
            let failed = |e| Error::io("read a scratch file", path, e);
            let file = File::open(path).map_err(failed)?;
            let mut head = Head {
                bytes: Vec::new(),
                decoder: zstd::stream::read::Decoder::new(file).map_err(failed)?,
                path: path.clone(),
            };
            if head.advance()? {
                merge.heads.push(head);
            }
        }
        Ok(merge)
    }

    fn next(&mut self) -> Result<Option<Item<'_>>> {
        if self.taken
            && let Some(mut head) = self.heads.peek_mut()
            && !head.advance()?
        {
            PeekMut::pop(head);
        }
        self.taken = true;
        match self.heads.peek() {
            Some(head) => Ok(Some(Item(&head.bytes))),
            None => Ok(None),
        }
    }
}

impl Drop for Merge {
    fn drop(&mut self) {
        self.paths.iter().for_each(remove_scratch);
    }
}

const _: () = assert!(KEY_LEN_MAX + RECORD_LEN_MAX < u32::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted_by(memory_len: usize, count: u64) -> usize {
        let folder = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::with_memory(folder.path(), memory_len);
        let mut expected = Vec::new();
        for sequence in 0..count {
            let random = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let key = format!("{:x}", random % 500).into_bytes();
            let (class, group) = ((random % 3) as u8, random % 5);
            let payload = vec![b'x'; (random % 50) as usize];
            sorter.push(&key, class, group, &payload).unwrap();
            expected.push((key, class, group, sequence, payload));
        }
        expected.sort();
        let spills = sorter.spills.len();
        let mut sorted = sorter.finish().unwrap();
        for wanted in expected {
            let item = sorted.next().unwrap().unwrap();
            let found = (
                item.key().to_vec(),
                item.class(),
                item.group(),
                item.sequence(),
                item.payload().to_vec(),
            );
            assert_eq!(found, wanted);
        }
        assert!(sorted.next().unwrap().is_none());
        drop(sorted);
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "scratch files are removed"
        );
        spills
    }

    #[test]
    fn items_come_in_order_from_memory_and_from_spills() {
        assert_eq!(sorted_by(1 << 20, 1000), 0);
        assert!(sorted_by(4096, 1000) > 5);
        assert!(
            sorted_by(1024, 5000) < SPILLS_MAX,
            "many spills are merged into one on the way"
        );
        assert_eq!(sorted_by(1024, 0), 0);
    }

    #[test]
    fn a_damaged_spill_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::with_memory(folder.path(), 1024);
        (0..500u64).for_each(|at| sorter.push(&at.to_be_bytes(), 0, 0, b"payload").unwrap());
        let path = sorter.spills[0].clone();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let read = sorter.finish().and_then(|mut sorted| {
            while sorted.next()?.is_some() {}
            Ok(())
        });
        assert!(read.is_err());
    }

    #[test]
    fn an_item_larger_than_the_memory_is_sorted_too() {
        let folder = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::with_memory(folder.path(), 100);
        for key in [b"c", b"a", b"b"] {
            sorter.push(key, 0, 0, &[7; 1000]).unwrap();
        }
        let mut sorted = sorter.finish().unwrap();
        for key in [b"a", b"b", b"c"] {
            assert_eq!(sorted.next().unwrap().unwrap().key(), key);
        }
    }
}
