//! The pipeline of a round: read, hash, compare, compress, send — for every chunk that has to be looked at.
//!
//! Several threads take jobs of up to 2 MiB from the disks' sets and do everything up to the queue of the link. Within a
//! round every chunk is sent at most once, so frames may overtake each other.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sys::aligned::AlignedBuffer;
use sys::block_tracker::CHUNK_LEN;

use crate::compress::{Compressor, Governor};
use crate::courtesy::Courtesy;
use crate::disk::digest::Digest;
use crate::disk::message::{
    BATCH_CHUNKS_MAX, BLOCK_LEN, Batch, DESCRIPTION_LEN_MAX, KIND_DISK, Piece, block_mask, full_mask,
};
use crate::disk::source::disk::SourceDisk;
use crate::disk::source::jobs::{Cursor, Job, in_parallel};
use crate::disk::source::read::bytes_of;
use crate::disk::source::session::Session;
use crate::error::{Error, Kind, Result};
use crate::link::Frame;
use crate::payload;

/// What was done, summed over all rounds.
#[derive(Debug, Default)]
pub struct Counters {
    /// Chunks looked at.
    pub scanned: AtomicU64,
    /// Chunks sent.
    pub sent: AtomicU64,
    /// Bytes of the chunks looked at.
    pub bytes_done: AtomicU64,
    /// Bytes read from the medium.
    pub bytes_read: AtomicU64,
    /// Bytes of the blocks sent, before compression.
    pub bytes_data: AtomicU64,
    /// Bytes written to the link.
    pub bytes_wire: AtomicU64,
    /// Bytes of the blocks that the target has made durable.
    pub bytes_durable: Arc<AtomicU64>,
}

/// Copies every chunk that has to be looked at; `watch` is called about every 50 ms meanwhile.
///
/// # Errors
/// The session ended, or the digests cannot be written. What was done is not done again.
pub fn copy(
    disks: &[SourceDisk],
    session: &Session<'_>,
    counters: &Counters,
    governor: &Governor,
    courtesy: &Courtesy,
    watch: &dyn Fn(),
) -> Result<()> {
    let cursor = Cursor::default();
    let next = || {
        cursor.next(disks.len(), |disk, chunk| {
            disks[disk].next_job(chunk, BATCH_CHUNKS_MAX)
        })
    };
    in_parallel(courtesy, watch, &next, || {
        let mut reader = Reader::new(session, counters, governor)?;
        Ok(move |job: Job| reader.process(job.disk, &disks[job.disk], &job.chunks))
    })
}

/// Memory for the chunks of a frame and their description.
fn buffer(session: &Session<'_>) -> AlignedBuffer {
    const LEN: usize = BATCH_CHUNKS_MAX * CHUNK_LEN as usize + DESCRIPTION_LEN_MAX;
    let spare = session.spare().filter(|spare| spare.capacity() >= LEN);
    spare.unwrap_or_else(|| AlignedBuffer::with_capacity(LEN))
}

/// One reading thread with its buffers.
pub struct Reader<'a> {
    session: &'a Session<'a>,
    counters: &'a Counters,
    governor: &'a Governor,
    compressor: Compressor,
    content: AlignedBuffer,
}

impl<'a> Reader<'a> {
    /// One that sends over `session`.
    ///
    /// # Errors
    /// There is no memory for compressing.
    pub fn new(session: &'a Session<'a>, counters: &'a Counters, governor: &'a Governor) -> Result<Self> {
        Ok(Self {
            session,
            counters,
            governor,
            compressor: Compressor::new()?,
            content: buffer(session),
        })
    }

    fn process(&mut self, number: usize, disk: &SourceDisk, job: &[u64]) -> Result<()> {
        let bad = self.read(disk, job)?;
        let mut kept = Vec::new();
        let mut batch = Batch {
            disk: number as u16,
            pieces: Vec::new(),
        };
        let mut slots: Vec<Range<usize>> = Vec::new();
        let failed = |error| Error::new(Kind::Medium, "keep the digests").because(error);
        let known = disk.digests.get_each(job).map_err(failed)?;
        for ((slot, &chunk), expected) in slots_of(job, disk.len()).zip(job).zip(known) {
            let content = &self.content[slot.clone()];
            self.counters
                .bytes_done
                .fetch_add(content.len() as u64, Ordering::Relaxed);
            let digest = Digest::of(content);
            if digest == expected {
                continue;
            }
            if expected.is_known() && disk.would_lose(chunk, &bad) {
                kept.push(chunk);
                continue;
            }
            batch.pieces.push(Piece {
                chunk,
                expected,
                digest,
                blocks: block_mask(content),
            });
            slots.push(slot);
        }
        self.counters
            .scanned
            .fetch_add(job.len() as u64, Ordering::Relaxed);
        if !batch.pieces.is_empty() {
            let changed: Vec<(u64, Digest)> = batch
                .pieces
                .iter()
                .map(|piece| (piece.chunk, piece.digest))
                .collect();
            disk.digests.set_each(&changed).map_err(failed)?;
            self.send(&batch, slots)?;
        }
        disk.done(job, &bad, &kept)
    }

    /// Sends those of a job's chunks once more that still are what was sent before; a job has [`BATCH_CHUNKS_MAX`] chunks at most.
    /// Returns how many these are.
    ///
    /// # Errors
    /// The session ended, or the disk or its digests cannot be read.
    pub fn send_again(&mut self, number: u16, disk: &SourceDisk, job: &[u64]) -> Result<u64> {
        self.read(disk, job)?;
        let known = disk.digests.get_each(job);
        let known = known.map_err(|error| Error::new(Kind::Medium, "read the digests").because(error))?;
        let mut batch = Batch {
            disk: number,
            pieces: Vec::new(),
        };
        let mut slots = Vec::new();
        for ((slot, &chunk), known) in slots_of(job, disk.len()).zip(job).zip(known) {
            let content = &self.content[slot.clone()];
            let digest = Digest::of(content);
            if digest == known {
                batch.pieces.push(Piece {
                    chunk,
                    expected: Digest::UNKNOWN,
                    digest,
                    blocks: block_mask(content),
                });
                slots.push(slot);
            }
        }
        if !batch.pieces.is_empty() {
            self.send(&batch, slots)?;
        }
        Ok(batch.pieces.len() as u64)
    }

    /// Sends a batch whose chunks lie in these slots of what was read.
    fn send(&mut self, batch: &Batch, slots: Vec<Range<usize>>) -> Result<()> {
        self.counters
            .sent
            .fetch_add(batch.pieces.len() as u64, Ordering::Relaxed);
        let content = std::mem::replace(&mut self.content, buffer(self.session));
        let (payload, len) = payload_of(batch, slots, content)?;
        self.counters.bytes_data.fetch_add(len, Ordering::Relaxed);
        let mut frame = Frame::message(KIND_DISK, &[]);
        frame.raw_len = payload.len() as u32;
        (frame.codec, frame.payload) = self.compressor.compress(payload, self.governor)?;
        self.session.send(frame, len)
    }

    /// Reads the chunks of a job into their slots. Returns what cannot be read.
    fn read(&mut self, disk: &SourceDisk, job: &[u64]) -> Result<Vec<Range<u64>>> {
        let mut bad = Vec::new();
        let mut slot = 0;
        self.content.set_len(BATCH_CHUNKS_MAX * CHUNK_LEN as usize);
        for run in job.chunk_by(|a, b| a + 1 == *b) {
            let chunks = run[0]..run[run.len() - 1] + 1;
            let range = bytes_of(&chunks, disk.len());
            let buffer = &mut self.content[slot * CHUNK_LEN as usize..][..(range.end - range.start) as usize];
            let (bytes, unreadable) = disk.read(buffer, &chunks)?;
            self.counters.bytes_read.fetch_add(bytes, Ordering::Relaxed);
            bad.extend(unreadable);
            slot += run.len();
        }
        Ok(bad)
    }
}

/// Where the chunks of a job lie in the memory that they are read into, on a disk of `len` bytes.
fn slots_of(job: &[u64], len: u64) -> impl Iterator<Item = Range<usize>> + '_ {
    let starts = (0..).step_by(CHUNK_LEN as usize);
    starts.zip(job).map(move |(start, chunk)| {
        let range = bytes_of(&(*chunk..chunk + 1), len);
        start..start + (range.end - range.start) as usize
    })
}

/// The payload of a batch whose chunks lie in these `slots` of `content`, made of that memory, and how many bytes of blocks
/// it holds.
fn payload_of(
    batch: &Batch,
    slots: impl IntoIterator<Item = Range<usize>>,
    mut content: AlignedBuffer,
) -> Result<(AlignedBuffer, u64)> {
    let mut end = 0;
    for (piece, slot) in batch.pieces.iter().zip(slots) {
        if slot.start == end && piece.blocks == full_mask(slot.len()) {
            end = slot.end;
            continue;
        }
        for (index, start) in slot.clone().step_by(BLOCK_LEN).enumerate() {
            if piece.blocks >> index & 1 == 1 {
                let block = start..slot.end.min(start + BLOCK_LEN);
                let len = block.len();
                content.copy_within(block, end);
                end += len;
            }
        }
    }
    content.truncate(end);
    Ok((payload::describe(content, batch)?, end as u64))
}
