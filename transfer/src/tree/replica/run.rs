//! Runs: immutable sorted files, each the difference that one or several generations made.
//!
//! A run has three columns, each sorted by key and cut into compressed blocks: entries (and tombstones of single
//! paths), groups of chunk digests, and removed subtrees. A block is checked against the sparse index, the index against
//! its own digest at the end of the file, and that against the manifest: nothing of a run is believed unchecked.

use std::cell::RefCell;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::entry::Digest;
use super::disk::Output;
use super::limits::{BLOCK_RAW_LEN_MAX, BLOCK_RAW_LEN_TARGET, KEY_LEN_MAX, RECORD_LEN_MAX};
use super::varint;
use crate::{Error, Kind, Result};

const MAGIC: &[u8; 8] = b"g2cRUN\x00\x01";
/// Length of what ends a run: length of the index (8), its digest (32), the magic again (8).
const TRAILER_LEN: usize = 48;
/// Longest index: 2^26 blocks are 4 TiB of entries.
const INDEX_LEN_MAX: u64 = 8 << 30;
/// Level 1: the paths' prefixes are already gone, and a round must not wait for its bookkeeping.
const COMPRESSION_LEVEL: i32 = 1;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// Key of the path → entry or tombstone.
    Entries = 0,
    /// Key of the path, 0, number of the group big-endian → digests; key of the path, 0 → limit.
    Chunks = 1,
    /// Prefix of a subtree → nothing. No prefix is a prefix of another.
    Removed = 2,
}

/// Number of columns.
const COLUMNS: usize = 3;

/// What an item is.
pub(super) mod item {
    /// An entry that does not travel in chunks.
    pub(in super::super) const ENTRY: u8 = 1;
    /// The path is gone.
    pub(in super::super) const TOMBSTONE: u8 = 2;
    /// An entry of a file that travels in chunks.
    pub(in super::super) const CHUNKED: u8 = 3;
    /// Older runs' chunks of the path are void from the number in the payload on.
    pub(in super::super) const LIMIT: u8 = 4;
    /// A group of chunk digests.
    pub(in super::super) const GROUP: u8 = 5;
    /// An older run's entry, repeated because its content became unknown; says nothing of chunks.
    pub(in super::super) const TORN: u8 = 7;
    /// Everything that older runs hold below the prefix is gone.
    pub(in super::super) const REMOVED: u8 = 6;
}

/// What the manifest knows of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunInfo {
    /// Number in the file name.
    pub number: u64,
    /// First generation whose records it holds.
    pub generation_first: u64,
    /// Last generation whose records it holds.
    pub generation_last: u64,
    /// Digest of the whole state up to and including this run.
    pub state: Digest,
    /// Length of the file in bytes.
    pub len: u64,
    /// Digest of the index.
    pub index: Digest,
    /// Entries.
    pub entries: u64,
    /// Tombstones of single paths.
    pub tombstones: u64,
    /// Sum of the entries' content lengths in bytes.
    pub content_len: u64,
    /// Raw bytes of all blocks.
    pub raw_len: u64,
}

/// File name of run `number`.
pub(super) fn file_name(number: u64) -> String {
    format!("run-{number}")
}

#[derive(Default)]
struct ColumnWriter {
    block: Vec<u8>,
    first_key: Vec<u8>,
    last_key: Vec<u8>,
    any: bool,
    index: Vec<u8>,
    blocks: u64,
    hasher: blake3::Hasher,
}

/// Writes a run; each column in the order of its keys, the columns interleaved as it comes.
pub(super) struct RunWriter {
    output: Output,
    number: u64,
    columns: [ColumnWriter; COLUMNS],
    compressor: zstd::bulk::Compressor<'static>,
    compressed: Vec<u8>,
    entries: u64,
    tombstones: u64,
    content_len: u64,
    raw_len: u64,
}

impl RunWriter {
    /// Begins run `number` in `folder`.
    pub(super) fn create(folder: &Path, number: u64) -> Result<Self> {
        let mut output = Output::create(&folder.join(file_name(number)))?;
        output.write(MAGIC)?;
        let compressor = zstd::bulk::Compressor::new(COMPRESSION_LEVEL)
            .map_err(|e| Error::new(Kind::Medium, "set up compression").because(e))?;
        Ok(Self {
            output,
            number,
            columns: Default::default(),
            compressor,
            compressed: Vec::new(),
            entries: 0,
            tombstones: 0,
            content_len: 0,
            raw_len: 0,
        })
    }

    /// Adds an item. Keys of a column only ever grow.
    pub(super) fn put(&mut self, column: Column, key: &[u8], kind: u8, payload: &[u8]) -> Result<()> {
        let writer = &mut self.columns[column as usize];
        assert!(
            !writer.any || *key > *writer.last_key,
            "items of a run are written in order"
        );
        let shared = if writer.block.is_empty() {
            writer.first_key.clear();
            writer.first_key.extend_from_slice(key);
            0
        } else {
            writer
                .last_key
                .iter()
                .zip(key)
                .take_while(|(a, b)| a == b)
                .count()
        };
        varint::put(&mut writer.block, shared as u64);
        varint::put(&mut writer.block, (key.len() - shared) as u64);
        writer.block.extend_from_slice(&key[shared..]);
        writer.block.push(kind);
        varint::put(&mut writer.block, payload.len() as u64);
        writer.block.extend_from_slice(payload);
        writer.last_key.truncate(shared);
        writer.last_key.extend_from_slice(&key[shared..]);
        writer.any = true;
        match kind {
            item::ENTRY | item::CHUNKED | item::TORN => {
                self.entries += 1;
                let len = varint::take(&mut &payload[..]).expect("an entry's payload begins with its length");
                self.content_len = self.content_len.saturating_add(len);
            }
            item::TOMBSTONE => self.tombstones += 1,
            _ => {}
        }
        if writer.block.len() >= BLOCK_RAW_LEN_TARGET {
            self.close_block(column as usize)?;
        }
        Ok(())
    }

    fn close_block(&mut self, column: usize) -> Result<()> {
        let writer = &mut self.columns[column];
        if writer.block.is_empty() {
            return Ok(());
        }
        self.compressed.clear();
        self.compressed
            .reserve(zstd::zstd_safe::compress_bound(writer.block.len()));
        self.compressor
            .compress_to_buffer(&writer.block[..], &mut self.compressed)
            .map_err(|e| Error::new(Kind::Medium, "compress a block of the replica").because(e))?;
        varint::put(&mut writer.index, writer.first_key.len() as u64);
        writer.index.extend_from_slice(&writer.first_key);
        varint::put(&mut writer.index, self.output.len());
        varint::put(&mut writer.index, self.compressed.len() as u64);
        varint::put(&mut writer.index, writer.block.len() as u64);
        writer.index.extend_from_slice(&check(&self.compressed));
        writer.blocks += 1;
        writer.hasher.update(&writer.block);
        self.raw_len += writer.block.len() as u64;
        writer.block.clear();
        self.output.write(&self.compressed)
    }

    /// Whether nothing was put.
    pub(super) fn is_empty(&self) -> bool {
        self.columns.iter().all(|column| !column.any)
    }

    /// Ends the run and makes it durable (its name is not: sync the folder). Returns what the manifest is to know, with
    /// the digest of the run's contents in place of the state's.
    pub(super) fn finish(mut self) -> Result<RunInfo> {
        let mut index = Vec::new();
        let mut contents = blake3::Hasher::new();
        for column in 0..COLUMNS {
            self.close_block(column)?;
            let writer = &mut self.columns[column];
            varint::put(&mut index, writer.blocks);
            index.append(&mut writer.index);
            contents.update(writer.hasher.finalize().as_bytes());
        }
        let digest = Digest::of(&index);
        self.output.write(&index)?;
        self.output.write(&(index.len() as u64).to_le_bytes())?;
        self.output.write(&digest.0)?;
        self.output.write(MAGIC)?;
        self.output.sync()?;
        Ok(RunInfo {
            number: self.number,
            generation_first: 0,
            generation_last: 0,
            state: Digest(*contents.finalize().as_bytes()),
            len: self.output.len(),
            index: digest,
            entries: self.entries,
            tombstones: self.tombstones,
            content_len: self.content_len,
            raw_len: self.raw_len,
        })
    }
}

/// First half of the BLAKE3 digest: 128 bits tell damage.
fn check(bytes: &[u8]) -> [u8; 16] {
    let digest = blake3::hash(bytes);
    *digest.as_bytes().first_chunk().expect("a digest has 32 bytes")
}

struct BlockRef {
    key: Box<[u8]>,
    offset: u64,
    compressed_len: u32,
    raw_len: u32,
    check: [u8; 16],
}

/// A run open for reading, with its sparse index in memory: some 120 bytes per 64 KiB of raw items.
pub(super) struct Run {
    file: File,
    path: PathBuf,
    info: RunInfo,
    columns: [Vec<BlockRef>; COLUMNS],
}

thread_local! {
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

impl Run {
    /// Opens the run that `info` describes, and checks its ends.
    pub(super) fn open(folder: &Path, info: &RunInfo) -> Result<Self> {
        let path = folder.join(file_name(info.number));
        let failed = |e| Error::io("open a run of the replica", &path, e);
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(corrupt(&path, "it is missing")),
            opened => opened.map_err(failed)?,
        };
        let len = file.metadata().map_err(failed)?.len();
        let corrupt = |what: &str| corrupt(&path, what);
        let min = (MAGIC.len() + TRAILER_LEN) as u64;
        if len != info.len || len < min {
            return Err(corrupt("its length is not the one in the manifest"));
        }
        let mut magic = [0; 8];
        file.read_exact_at(&mut magic, 0).map_err(failed)?;
        let mut trailer = [0; TRAILER_LEN];
        file.read_exact_at(&mut trailer, len - TRAILER_LEN as u64)
            .map_err(failed)?;
        if magic != *MAGIC || trailer[40..] != *MAGIC || trailer[8..40] != info.index.0 {
            return Err(corrupt("its ends are damaged, or it is another run"));
        }
        let index_len = u64::from_le_bytes(*trailer.first_chunk().expect("the trailer is longer"));
        if index_len > len - min || index_len > INDEX_LEN_MAX {
            return Err(corrupt("its index is longer than the file"));
        }
        let index_at = len - TRAILER_LEN as u64 - index_len;
        let mut index = vec![0; index_len as usize];
        file.read_exact_at(&mut index, index_at).map_err(failed)?;
        if Digest::of(&index) != info.index {
            return Err(corrupt("its index is damaged"));
        }
        let columns = parse_index(&index, index_at).ok_or_else(|| corrupt("its index is malformed"))?;
        Ok(Self {
            file,
            path,
            info: info.clone(),
            columns,
        })
    }

    /// What the manifest knows of it.
    pub(super) fn info(&self) -> &RunInfo {
        &self.info
    }

    /// The file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// An error that says what is wrong with this run.
    pub(super) fn corrupt(&self, what: &str) -> Error {
        corrupt(&self.path, what)
    }

    /// Raw bytes of a column's blocks, as the index tells.
    pub(super) fn raw_len(&self, column: Column) -> u64 {
        self.columns[column as usize]
            .iter()
            .map(|block| u64::from(block.raw_len))
            .sum()
    }

    /// Number of blocks of a column.
    pub(super) fn blocks(&self, column: Column) -> usize {
        self.columns[column as usize].len()
    }

    /// First key of a block.
    pub(super) fn first_key(&self, column: Column, block: usize) -> &[u8] {
        &self.columns[column as usize][block].key
    }

    /// Number of the last block whose first key is not above `key`; the first block when all are.
    pub(super) fn block_of(&self, column: Column, key: &[u8]) -> usize {
        self.columns[column as usize]
            .partition_point(|block| *block.key <= *key)
            .saturating_sub(1)
    }

    /// Reads, checks and decompresses a block into `raw`.
    pub(super) fn read_block(&self, column: Column, block: usize, raw: &mut Vec<u8>) -> Result<()> {
        let block = &self.columns[column as usize][block];
        let mut compressed = vec![0; block.compressed_len as usize];
        self.file
            .read_exact_at(&mut compressed, block.offset)
            .map_err(|e| Error::io("read the replica", &self.path, e))?;
        if check(&compressed) != block.check {
            return Err(self.corrupt(&format!("the block at {} is damaged", block.offset)));
        }
        raw.clear();
        raw.reserve(block.raw_len as usize);
        let decompressed = DECOMPRESSOR.with_borrow_mut(|decompressor| {
            let decompressor = match decompressor {
                Some(decompressor) => decompressor,
                None => decompressor.insert(zstd::bulk::Decompressor::new()?),
            };
            decompressor.decompress_to_buffer(&compressed, raw)
        });
        match decompressed {
            Ok(len) if len == block.raw_len as usize => Ok(()),
            _ => Err(self.corrupt(&format!("the block at {} does not decompress", block.offset))),
        }
    }
}

fn corrupt(path: &Path, what: &str) -> Error {
    Error::new(Kind::Corrupt, "read the replica").on(path).because(what).remedy(
        "restore the folder, or remove it: the source then fetches it from the target, and the target starts over",
    )
}

fn parse_index(mut index: &[u8], blocks_end: u64) -> Option<[Vec<BlockRef>; COLUMNS]> {
    let mut columns: [Vec<BlockRef>; COLUMNS] = Default::default();
    for column in &mut columns {
        for _ in 0..varint::take(&mut index)? {
            let key_len = usize::try_from(varint::take(&mut index)?).ok()?;
            if key_len > KEY_LEN_MAX || key_len > index.len() {
                return None;
            }
            let (key, rest) = index.split_at(key_len);
            index = rest;
            let offset = varint::take(&mut index)?;
            let compressed_len = varint::take(&mut index)?;
            let raw_len = varint::take(&mut index)?;
            let (check, rest) = index.split_first_chunk::<16>()?;
            index = rest;
            let end = offset.checked_add(compressed_len)?;
            let in_order = column.last().is_none_or(|last: &BlockRef| *last.key < *key);
            let bound = zstd::zstd_safe::compress_bound(BLOCK_RAW_LEN_MAX) as u64;
            if end > blocks_end || !in_order || compressed_len > bound || raw_len > BLOCK_RAW_LEN_MAX as u64 {
                return None;
            }
            column.push(BlockRef {
                key: key.into(),
                offset,
                compressed_len: u32::try_from(compressed_len).ok()?,
                raw_len: u32::try_from(raw_len).ok()?,
                check: *check,
            });
        }
    }
    index.is_empty().then_some(columns)
}

const _: () =
    assert!(BLOCK_RAW_LEN_MAX > RECORD_LEN_MAX + KEY_LEN_MAX && BLOCK_RAW_LEN_MAX < u32::MAX as usize);
