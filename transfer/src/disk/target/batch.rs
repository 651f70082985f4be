//! Verified chunks: the only thing that the writer takes.

use std::ops::Range;

use sys::aligned::AlignedBuffer;
use sys::block_tracker::CHUNK_LEN;

use crate::disk::digest::Digest;
use crate::disk::message::{BLOCK_LEN, Piece, block_len, decode_batch, full_mask};
use crate::error::{Error, Kind, Result};

/// A chunk whose content is in the batch's buffer and whose digest was computed from it here.
#[derive(Clone, Copy, Debug)]
pub struct VerifiedChunk {
    /// Its number.
    pub number: u64,
    /// What the source thinks that the target holds.
    pub expected: Digest,
    /// The digest of its content.
    pub digest: Digest,
    /// Which of its blocks are not zero.
    pub blocks: u16,
    /// Its length in bytes.
    pub len: usize,
}

/// The verified chunks of one frame.
pub struct VerifiedBatch {
    /// Which disk.
    pub disk: u16,
    /// The chunks, ascending.
    pub chunks: Vec<VerifiedChunk>,
    content: AlignedBuffer,
}

impl VerifiedBatch {
    /// Decodes and verifies a payload; `disk_lens` are the lengths of the source's disks in bytes. Whole chunks stay where
    /// they came; where blocks are left out, all content is laid out in `spare`. Returns the buffer that is not used, too.
    ///
    /// # Errors
    /// [`Kind::Corrupt`]: malformed, outside the disk, or a digest does not fit its content.
    pub fn open(
        payload: AlignedBuffer,
        disk_lens: &[u64],
        mut spare: AlignedBuffer,
    ) -> Result<(Self, AlignedBuffer)> {
        let (batch, blocks) = decode_batch(&payload)?;
        let corrupt = |what: &str| Error::new(Kind::Corrupt, format!("accept chunks: {what}"));
        let disk_len = *disk_lens
            .get(usize::from(batch.disk))
            .ok_or_else(|| corrupt("they are for a disk that was not announced"))?;
        let ascending = batch.pieces.windows(2).all(|pair| pair[0].chunk < pair[1].chunk);
        let inside = batch
            .pieces
            .iter()
            .all(|piece| piece.chunk < disk_len.div_ceil(CHUNK_LEN));
        if !ascending || !inside {
            return Err(corrupt("their numbers are out of order or out of range"));
        }
        let pieces = batch.pieces.iter().map(|piece| {
            let len = CHUNK_LEN.min(disk_len - piece.chunk * CHUNK_LEN) as usize;
            (piece, len)
        });
        let damaged = || corrupt("a digest does not fit its content");
        // Only a disk's last chunk is short: whole chunks lie one behind the other.
        let is_whole = pieces.clone().all(|(piece, len)| piece.blocks == full_mask(len))
            && blocks.len() == pieces.clone().map(|(_, len)| len).sum::<usize>();
        let (content, other) = if is_whole {
            (payload, spare)
        } else {
            lay_out(pieces.clone(), blocks, &mut spare).ok_or_else(damaged)?;
            (spare, payload)
        };
        let mut chunks = Vec::with_capacity(batch.pieces.len());
        for ((piece, len), slot) in pieces.zip(content.chunks(CHUNK_LEN as usize)) {
            if Digest::of(&slot[..len]) != piece.digest {
                return Err(damaged());
            }
            chunks.push(VerifiedChunk {
                number: piece.chunk,
                expected: piece.expected,
                digest: piece.digest,
                blocks: piece.blocks,
                len,
            });
        }
        let verified = Self {
            disk: batch.disk,
            chunks,
            content,
        };
        Ok((verified, other))
    }

    /// The buffer, for the next batch.
    pub fn into_buffer(self) -> AlignedBuffer {
        self.content
    }

    /// The content of the chunks at positions `range` of the batch, which must be neighbours on the disk.
    pub fn content(&self, range: Range<usize>) -> &[u8] {
        let last = range.end - 1;
        let end = last * CHUNK_LEN as usize + self.chunks[last].len;
        &self.content[range.start * CHUNK_LEN as usize..end]
    }
}

/// Lays chunks out in slots of their own, zeros where no blocks came. `None` when lengths do not fit.
fn lay_out<'b>(
    pieces: impl ExactSizeIterator<Item = (&'b Piece, usize)>,
    mut blocks: &[u8],
    slots: &mut AlignedBuffer,
) -> Option<()> {
    slots.set_len(pieces.len() * CHUNK_LEN as usize);
    for ((piece, len), slot) in pieces.zip(slots.chunks_mut(CHUNK_LEN as usize)) {
        for (block, place) in slot.chunks_mut(BLOCK_LEN).enumerate() {
            if piece.blocks >> block & 1 == 0 {
                place.fill(0);
                continue;
            }
            let (bytes, rest) = blocks.split_at_checked(block_len(len, block))?;
            place[..bytes.len()].copy_from_slice(bytes);
            blocks = rest;
        }
    }
    blocks.is_empty().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::message::Batch;
    use crate::payload::describe;

    fn open(payload: &[u8], disk_lens: &[u64]) -> Result<VerifiedBatch> {
        let mut used = AlignedBuffer::zeroed(1 << 20);
        used.fill(0xee); // what an earlier batch left
        VerifiedBatch::open(payload.into(), disk_lens, used).map(|(batch, _)| batch)
    }

    fn encode_batch(batch: &Batch, blocks: &[u8]) -> Result<AlignedBuffer> {
        describe(blocks.into(), batch)
    }

    #[test]
    fn only_fitting_content_is_verified() {
        let disk_len = 3 * CHUNK_LEN + 512;
        let mut content = vec![0u8; 512];
        content[100] = 7;
        let piece = |chunk, digest, blocks| Piece {
            chunk,
            expected: Digest::UNKNOWN,
            digest,
            blocks,
        };
        let zeros = Digest::of(&[0; CHUNK_LEN as usize]);
        let good = Batch {
            disk: 0,
            pieces: vec![piece(1, zeros, 0), piece(3, Digest::of(&content), 1)],
        };
        let payload = encode_batch(&good, &content).unwrap();
        let batch = open(&payload, &[disk_len]).unwrap();
        assert_eq!(batch.content(1..2), content);
        assert!(open(&payload, &[3 * CHUNK_LEN]).is_err(), "outside the disk");
        assert!(open(&payload, &[]).is_err(), "no such disk");
        let mut damaged = payload.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(open(&damaged, &[disk_len]).is_err(), "damaged content");
        assert!(open(&encode_batch(&good, &content[..511]).unwrap(), &[disk_len]).is_err());
        let unordered = Batch {
            disk: 0,
            pieces: vec![piece(1, zeros, 0), piece(1, zeros, 0)],
        };
        assert!(open(&encode_batch(&unordered, b"").unwrap(), &[disk_len]).is_err());
    }

    #[test]
    fn whole_chunks_stay_where_they_came() {
        let disk_len = 3 * CHUNK_LEN + 5000;
        let mut content = vec![0u8; (2 * CHUNK_LEN) as usize + 5000];
        for (at, byte) in content.iter_mut().enumerate() {
            *byte = (at % 251) as u8 + 1;
        }
        let pieces = [1, 2, 3].into_iter().zip(content.chunks(CHUNK_LEN as usize));
        let pieces = pieces.map(|(chunk, content)| Piece {
            chunk,
            expected: Digest::UNKNOWN,
            digest: Digest::of(content),
            blocks: full_mask(content.len()),
        });
        let mut batch = Batch {
            disk: 0,
            pieces: pieces.collect(),
        };
        let payload = encode_batch(&batch, &content).unwrap();
        let place = payload.as_ptr();
        let (opened, _) = VerifiedBatch::open(payload, &[disk_len], AlignedBuffer::new()).unwrap();
        assert!(opened.content(0..3) == content);
        assert_eq!(opened.content(0..1).as_ptr(), place);
        for (len, mask) in [(content.len() - 1, 3), (content.len(), 1)] {
            batch.pieces[2].blocks = mask;
            let payload = encode_batch(&batch, &content[..len]).unwrap();
            assert!(open(&payload, &[disk_len]).is_err(), "{len} {mask}");
        }
    }
}
