//! What the peers say about disks, and how chunks lie in a frame. docs/PROTOCOL.md tells the conversation.
//!
//! A frame of chunks ([`crate::payload`]) is the blocks of its chunks, one chunk's after the other's, and the batch. Only
//! blocks of 4096 bytes that are not zero travel: a chunk names them in a bit mask.

use serde::{Deserialize, Serialize};

use sys::block_tracker::CHUNK_LEN;

use crate::disk::digest::{DIGEST_LEN, Digest};
use crate::disk::identity::Identity;
use crate::error::{Error, Kind, Result};
use crate::payload;
use crate::protocol::Position;

/// Granularity of zero runs, in bytes.
pub const BLOCK_LEN: usize = 4096;
/// Chunks in one frame at most: 2 MiB of content.
pub const BATCH_CHUNKS_MAX: usize = 32;
/// Room for what is said of the chunks of one frame, in bytes: numbers and masks of varying length and two digests for each.
pub const DESCRIPTION_LEN_MAX: usize = BATCH_CHUNKS_MAX * (10 + 2 * DIGEST_LEN + 3) + 16;
/// Disks of one migration at most.
pub const DISKS_MAX: usize = 64;
/// Areas of one disk at most; a GUID partition table has 128 by default.
pub const AREAS_MAX: usize = 1024;
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
    /// Where its areas (partitions, or the disk itself) begin, in bytes: what lies there changes whenever they are used.
    pub areas: Vec<u64>,
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
        /// Chunks that somebody else changed since the last session. The target's digests say what they hold now.
        changed: u64,
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

/// Takes a payload apart: the batch and the blocks of its chunks. Nothing is checked here but their count.
///
/// # Errors
/// [`Kind::Corrupt`]: anything malformed.
pub fn decode_batch(payload: &[u8]) -> Result<(Batch, &[u8])> {
    let (batch, blocks): (Batch, _) = payload::open(payload)?;
    if batch.pieces.len() > BATCH_CHUNKS_MAX {
        return Err(Error::new(Kind::Corrupt, "understand a frame of chunks"));
    }
    Ok((batch, blocks))
}

/// Length of block `block` of a chunk of `chunk_len` bytes: the last one of a disk may be short.
pub fn block_len(chunk_len: usize, block: usize) -> usize {
    chunk_len.saturating_sub(block * BLOCK_LEN).min(BLOCK_LEN)
}

/// The mask of a chunk of `chunk_len` bytes that is zero nowhere.
pub fn full_mask(chunk_len: usize) -> u16 {
    ((1u32 << chunk_len.div_ceil(BLOCK_LEN)) - 1) as u16
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
        let payload = payload::describe(b"xyz"[..].into(), &batch).unwrap();
        let text = crate::signature::hex(&payload);
        let (unknown, digest) = ("00".repeat(16), "ab".repeat(16));
        assert_eq!(text, format!("78797a0101ac02{unknown}{digest}0525000000"));
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
        assert_eq!(
            [0, 1, 4096, 4097, 65_535, 65_536].map(full_mask),
            [0, 1, 1, 3, u16::MAX, u16::MAX]
        );
    }
}
