//! Writes verified chunks to a medium: only what is not there yet.

use std::sync::atomic::Ordering;

use sys::block_tracker::CHUNK_LEN;

use crate::disk::digest::Digest;
use crate::disk::message::BLOCK_LEN;
use crate::disk::target::batch::{VerifiedBatch, VerifiedChunk};
use crate::disk::target::store::StoredDisk;

/// What became of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// Bytes written.
    pub(super) bytes: u64,
    /// Positions in the batch of chunks that were not written: this side holds something else than the source thinks.
    pub(super) refused: Vec<usize>,
}

/// Writes the chunks of a batch, neighbours together; not those whose predecessor is not the expected one. `held` are the
/// digests of what is there now.
pub(super) fn write_batch(
    disk: &StoredDisk,
    batch: &VerifiedBatch,
    held: &[Digest],
) -> std::io::Result<Written> {
    let mut written = Written {
        bytes: 0,
        refused: refused(&batch.chunks, held),
    };
    let is_refused = |at: usize| written.refused.binary_search(&at).is_ok();
    let mut at = 0;
    while at < batch.chunks.len() {
        if is_refused(at) {
            at += 1;
            continue;
        }
        let chunk = &batch.chunks[at];
        let neighbours = batch.chunks[at..]
            .iter()
            .enumerate()
            .take_while(|(n, next)| {
                next.number == chunk.number + *n as u64
                    && (next.blocks == 0) == (chunk.blocks == 0)
                    && !is_refused(at + n)
            })
            .count();
        let range = at..at + neighbours;
        at = range.end;
        let (chunks, held) = (&batch.chunks[range.clone()], &held[range.clone()]);
        written.bytes += write_run(disk, chunks, held, batch.content(range))?;
    }
    Ok(written)
}

/// Compares what the source expects here with what the digests say. The medium is not read.
fn refused(chunks: &[VerifiedChunk], held: &[Digest]) -> Vec<usize> {
    let differs = |chunk: &VerifiedChunk, held: &Digest| {
        chunk.expected.is_known() && chunk.expected != *held && chunk.digest != *held
    };
    (0..chunks.len())
        .filter(|at| differs(&chunks[*at], &held[*at]))
        .collect()
}

/// Writes neighbours that are all zero or all not. Returns the bytes written.
fn write_run(
    disk: &StoredDisk,
    chunks: &[VerifiedChunk],
    held: &[Digest],
    content: &[u8],
) -> std::io::Result<u64> {
    let offset = chunks[0].number * CHUNK_LEN;
    let is_blank = disk.blank.load(Ordering::Acquire);
    let reads_as_zeros = held
        .iter()
        .all(|digest| *digest == Digest::of_zeros() || (is_blank && !digest.is_known()));
    if chunks[0].blocks == 0 {
        if !reads_as_zeros {
            disk.medium.zero(offset, content.len() as u64)?;
        }
        return Ok(0);
    }
    if reads_as_zeros {
        return write_sparse(disk, chunks, content, offset);
    }
    disk.medium.write(content, offset)?;
    Ok(content.len() as u64)
}

/// Leaves zero blocks out: the medium reads as zeros there already.
fn write_sparse(
    disk: &StoredDisk,
    chunks: &[VerifiedChunk],
    content: &[u8],
    offset: u64,
) -> std::io::Result<u64> {
    let blocks_per_chunk = CHUNK_LEN as usize / BLOCK_LEN;
    let is_used = |block: usize| {
        let chunk = &chunks[block / blocks_per_chunk];
        chunk.blocks >> (block % blocks_per_chunk) & 1 == 1
    };
    let blocks = content.len().div_ceil(BLOCK_LEN);
    let mut written = 0;
    let mut block = 0;
    while block < blocks {
        if !is_used(block) {
            block += 1;
            continue;
        }
        let end = (block..blocks).find(|next| !is_used(*next)).unwrap_or(blocks);
        let bytes = &content[block * BLOCK_LEN..(end * BLOCK_LEN).min(content.len())];
        disk.medium.write(bytes, offset + (block * BLOCK_LEN) as u64)?;
        written += bytes.len() as u64;
        block = end;
    }
    Ok(written)
}
