//! What the peers say about disks, and how chunks lie in a frame. docs/PROTOCOL.md tells the conversation.
//!
//! A frame of chunks is `u32` length of the batch, the batch (postcard), then the blocks of its chunks, one chunk's
//! after the other's. Only blocks of 4096 bytes that are not zero travel: a chunk names them in a bit mask.

use serde::{Deserialize, Serialize};

use sys::block_tracker::CHUNK_LEN;

use crate::disk::digest::Digest;
use crate::disk::identity::Identity;
use crate::error::{Error, Kind, Result};
use crate::protocol::Position;

/// Granularity of zero runs, in bytes.
pub const BLOCK_LEN: usize = 4096;
/// Chunks in one frame at most: 2 MiB of content.
pub const BATCH_CHUNKS_MAX: usize = 32;
/// Disks of one migration at most.
pub const DISKS_MAX: usize = 64;
/// Digests in one [`KIND_DISK_DIGESTS`] frame at most: 1 MiB.
pub const DIGESTS_MAX: u64 = 65_536;

/// Frame kind of chunks on a data connection.
pub const KIND_DISK: u8 = crate::protocol::KIND_DISK;
/// Frame kind of a [`DiskOrder`] on the control connection.
pub const KIND_DISK_ORDER: u8 = 6;
/// Frame kind of a [`DiskReport`] on the report connection.
pub const KIND_DISK_REPORT: u8 = 7;
/// Frame kind of digests on the report connection: the answer to a fetch.
pub const KIND_DISK_DIGESTS: u8 = 8;

const _: () = assert!(CHUNK_LEN as usize / BLOCK_LEN == u16::BITS as usize);
const _: () = assert!(BATCH_CHUNKS_MAX * CHUNK_LEN as usize * 2 < crate::limits::FRAME_RAW_LEN_MAX);

/// A disk of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFacts {
    /// Its length in bytes.
    pub len: u64,
    /// Length in bytes that a target must have at least: up to the end of the last partition, and what the partition table
    /// needs at the end of the disk.
    pub needed_len: u64,
    /// Its logical sector length in bytes.
    pub sector_len: u32,
    /// What tells it from other disks.
    pub identity: Identity,
}

/// One chunk in a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Its number.
    pub chunk: u64,
    /// What the target holds now, as far as the source knows.
    pub expected: Digest,
    /// Digest of the whole content, zeros included.
    pub digest: Digest,
    /// Bit n: block n of the chunk follows in the frame; the others are zero.
    pub blocks: u16,
}

/// The chunks of one frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Which disk.
    pub disk: u16,
    /// Its chunks, ascending.
    pub pieces: Vec<Piece>,
}

/// Source to target, on the control connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskOrder {
    /// Nothing; proves that the source is alive.
    KeepAlive,
    /// First: these disks will come.
    Open {
        /// In the order of the target's disks.
        disks: Vec<DiskFacts>,
    },
    /// Send the digests of a range of chunks.
    FetchChunks {
        /// Which disk.
        disk: u16,
        /// First chunk.
        first: u64,
        /// Number of chunks.
        count: u64,
    },
    /// Send the digests of all regions of a disk.
    FetchRegions {
        /// Which disk.
        disk: u16,
    },
    /// All frames of the round have been sent; make them durable and seal the generation.
    EndRound {
        /// Frames sent in this session so far: numbers 0 to `frames - 1`.
        frames: u64,
        /// Roots of the digests that the target must hold then, disk by disk.
        roots: Vec<[u8; 32]>,
    },
    /// Re-read the medium and compare it with the digests.
    Verify,
    /// The copy is complete: adapt it to the target's disks (partition tables at the end of a larger disk).
    Finish,
    /// The source ends the session.
    Goodbye,
}

/// Target to source, on the report connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskReport {
    /// Nothing; proves that the target is alive.
    KeepAlive,
    /// The disks fit.
    Opened {
        /// What the target durably holds.
        position: Position,
        /// How much of each disk is copied, in bytes: all of it, or less onto a smaller disk.
        lens: Vec<u64>,
    },
    /// Frames became durable.
    Durable {
        /// Frames with a number below this one are durable.
        frames: u64,
    },
    /// The round is durable and sealed, and the roots agree.
    RoundDone {
        /// The new position.
        position: Position,
    },
    /// The target holds other digests than the source thinks: fetch and compare.
    RootsDiffer,
    /// Verification under way.
    VerifyProgress {
        /// Bytes re-read so far.
        bytes: u64,
        /// Bytes to re-read.
        bytes_total: u64,
    },
    /// Chunks whose content on the medium is not what was written; they are unknown now.
    Differs {
        /// Which disk.
        disk: u16,
        /// First chunk.
        first: u64,
        /// Number of chunks.
        count: u64,
    },
    /// Verification is through.
    Verified {
        /// Roots of the digests of what was re-read, disk by disk.
        roots: Vec<[u8; 32]>,
        /// Chunks compared.
        compared: u64,
        /// Bytes re-read.
        bytes: u64,
        /// Chunks that differ.
        differences: u64,
    },
    /// The copy has been adapted.
    Finished {
        /// What was changed, for people.
        changes: Vec<String>,
    },
    /// The target gives up on this session.
    Failed {
        /// Why.
        why: crate::protocol::Failure,
        /// For people: what failed and what to do.
        message: String,
    },
    /// A chunk was not written: this side holds something else than the source expected. It is wanted whole, whatever
    /// is here now.
    Wanted {
        /// Which disk.
        disk: u16,
        /// Its number.
        chunk: u64,
    },
}

/// Builds the payload of a frame of chunks.
///
/// # Errors
/// Never for batches within the limits.
pub fn encode_batch(batch: &Batch, blocks: &[u8]) -> Result<Vec<u8>> {
    let mut payload = begin_batch(batch, blocks.len())?;
    payload.extend_from_slice(blocks);
    Ok(payload)
}

/// The beginning of a payload, with room for so many bytes of blocks, which the caller appends.
///
/// # Errors
/// Never for batches within the limits.
pub fn begin_batch(batch: &Batch, blocks_len: usize) -> Result<Vec<u8>> {
    let head = postcard::to_stdvec(batch)
        .map_err(|error| Error::new(Kind::Corrupt, "encode chunks").because(error))?;
    let mut payload = Vec::with_capacity(4 + head.len() + blocks_len);
    payload.extend_from_slice(&(head.len() as u32).to_le_bytes());
    payload.extend_from_slice(&head);
    Ok(payload)
}

/// Takes a payload apart: the batch and the blocks of its chunks. Lengths are checked against the masks; chunk numbers
/// are not checked here.
///
/// # Errors
/// [`Kind::Corrupt`]: anything malformed.
pub fn decode_batch(payload: &[u8]) -> Result<(Batch, &[u8])> {
    let corrupt = || Error::new(Kind::Corrupt, "understand a frame of chunks");
    let (len, rest) = payload.split_first_chunk::<4>().ok_or_else(corrupt)?;
    let len = u32::from_le_bytes(*len) as usize;
    let head = rest.get(..len).ok_or_else(corrupt)?;
    let (batch, left) = postcard::take_from_bytes::<Batch>(head).map_err(|error| corrupt().because(error))?;
    if !left.is_empty() || batch.pieces.len() > BATCH_CHUNKS_MAX {
        return Err(corrupt());
    }
    Ok((batch, &rest[len..]))
}

/// Length of block `block` of a chunk of `chunk_len` bytes: the last one of a disk may be short.
pub fn block_len(chunk_len: usize, block: usize) -> usize {
    chunk_len.saturating_sub(block * BLOCK_LEN).min(BLOCK_LEN)
}

/// The blocks of a chunk that are not zero.
pub fn block_mask(content: &[u8]) -> u16 {
    content
        .chunks(BLOCK_LEN)
        .enumerate()
        .filter(|(_, block)| !is_zero(block))
        .fold(0, |mask, (index, _)| mask | 1 << index)
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| *word == [0; 16]) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_batch() {
        let batch = Batch {
            disk: 1,
            pieces: vec![Piece {
                chunk: 300,
                expected: Digest::UNKNOWN,
                digest: Digest([0xab; 16]),
                blocks: 0b101,
            }],
        };
        let payload = encode_batch(&batch, b"xyz").unwrap();
        let text = crate::signature::hex(&payload);
        assert_eq!(
            text,
            format!(
                "25000000{}ac02{}{}05{}",
                "0101",
                "00".repeat(16),
                "ab".repeat(16),
                "78797a"
            )
        );
        let (decoded, blocks) = decode_batch(&payload).unwrap();
        assert_eq!((decoded, blocks), (batch, &b"xyz"[..]));
    }

    #[test]
    fn masks_name_what_is_not_zero() {
        let mut content = vec![0u8; CHUNK_LEN as usize];
        assert_eq!(block_mask(&content), 0);
        content[4095] = 1;
        content[65_535] = 1;
        assert_eq!(block_mask(&content), 0x8001);
        assert_eq!(block_mask(&content[..5000]), 1);
        assert_eq!(
            (block_len(5000, 0), block_len(5000, 1), block_len(5000, 2)),
            (4096, 904, 0)
        );
    }

    proptest! {
        #[test]
        fn hostile_payloads_never_panic(bytes: Vec<u8>, head: u8) {
            let mut payload = u32::from(head).to_le_bytes().to_vec();
            payload.extend_from_slice(&bytes);
            drop(decode_batch(&payload));
        }
    }
}
