//! The pipeline of a round: read, hash, compare, compress, send — for every chunk that has to be looked at.
//!
//! Several threads take jobs of up to 2 MiB from the disks' sets and do everything up to the queue of the link. Within a
//! round every chunk is sent at most once, so frames may overtake each other.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sys::aligned::AlignedBuffer;
use sys::block_tracker::CHUNK_LEN;

use crate::compress::{Compressor, Governor};
use crate::disk::digest::Digest;
use crate::disk::message::{
    BATCH_CHUNKS_MAX, BLOCK_LEN, Batch, KIND_DISK, Piece, block_len, block_mask, encode_batch,
};
use crate::disk::source::disk::SourceDisk;
use crate::disk::source::read::{bytes_of, read_parts};
use crate::disk::source::session::Session;
use crate::error::{Error, Kind, Result};
use crate::link::Frame;

/// Reading threads at most: each holds 6 MiB (content, payload, compressed payload), 48 MiB in all.
const READERS_MAX: usize = 8;
/// How often the thread that watches a round wakes up.
const WATCH_TICK: Duration = Duration::from_millis(50);

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

/// How reading behaves towards others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// At the lowest I/O priority: the source is in use.
    GiveWay,
    /// At normal priority: everybody waits for the thaw.
    Frozen,
}

/// Where the next job begins.
struct Cursor {
    disk: usize,
    chunk: u64,
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
    urgency: Urgency,
    watch: &dyn Fn(),
) -> Result<()> {
    let cursor = Mutex::new(Cursor { disk: 0, chunk: 0 });
    let first_error = Mutex::new(None);
    let stopped = AtomicBool::new(false);
    let readers = std::thread::available_parallelism()
        .map_or(2, |cores| cores.get() * 2)
        .clamp(2, READERS_MAX);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..readers)
            .map(|_| {
                scope.spawn(|| {
                    if urgency == Urgency::GiveWay {
                        sys::io_priority::lower();
                    }
                    let work = || {
                        let mut reader = Reader::new(session, counters, governor)?;
                        while !stopped.load(Ordering::Acquire) {
                            let Some((disk, job)) = next_job(disks, &cursor) else {
                                return Ok(());
                            };
                            reader.process(disk, &disks[disk], &job)?;
                        }
                        Ok(())
                    };
                    let result: Result<()> = work();
                    if let Err(error) = result {
                        stopped.store(true, Ordering::Release);
                        first_error
                            .lock()
                            .expect("nothing panics here")
                            .get_or_insert(error);
                    }
                })
            })
            .collect();
        while !threads.iter().all(|thread| thread.is_finished()) {
            watch();
            // Short rounds end without the delay of a tick.
            for _ in 0..WATCH_TICK.as_millis() {
                if threads.iter().all(|thread| thread.is_finished()) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    match first_error.into_inner().expect("nothing panics here") {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn next_job(disks: &[SourceDisk], cursor: &Mutex<Cursor>) -> Option<(usize, Vec<u64>)> {
    let mut cursor = cursor.lock().expect("taking a job does not panic");
    while cursor.disk < disks.len() {
        let job = disks[cursor.disk].next_job(cursor.chunk, BATCH_CHUNKS_MAX);
        match job.last() {
            Some(last) => {
                cursor.chunk = last + 1;
                return Some((cursor.disk, job));
            }
            None => {
                *cursor = Cursor {
                    disk: cursor.disk + 1,
                    chunk: 0,
                };
            }
        }
    }
    None
}

/// One reading thread with its buffers.
struct Reader<'a> {
    session: &'a Session<'a>,
    counters: &'a Counters,
    governor: &'a Governor,
    compressor: Compressor,
    content: AlignedBuffer,
}

impl<'a> Reader<'a> {
    fn new(session: &'a Session<'a>, counters: &'a Counters, governor: &'a Governor) -> Result<Self> {
        Ok(Self {
            session,
            counters,
            governor,
            compressor: Compressor::new()?,
            content: AlignedBuffer::zeroed(BATCH_CHUNKS_MAX * CHUNK_LEN as usize),
        })
    }

    fn process(&mut self, number: usize, disk: &SourceDisk, job: &[u64]) -> Result<()> {
        let bad = self.read(disk, job);
        let mut batch = Batch {
            disk: number as u16,
            pieces: Vec::new(),
        };
        let mut blocks = Vec::new();
        let failed = |error| Error::new(Kind::Medium, "keep the digests").because(error);
        for (slot, &chunk) in job.iter().enumerate() {
            let range = bytes_of(&(chunk..chunk + 1), disk.facts.len);
            let len = (range.end - range.start) as usize;
            let content = &self.content[slot * CHUNK_LEN as usize..][..len];
            self.counters.bytes_done.fetch_add(len as u64, Ordering::Relaxed);
            let digest = Digest::of(content);
            let expected = disk.digests.get(chunk, 1).map_err(failed)?[0];
            if digest == expected {
                continue;
            }
            let mask = block_mask(content);
            for block in (0..u16::BITS as usize).filter(|block| mask >> block & 1 == 1) {
                blocks.extend_from_slice(&content[block * BLOCK_LEN..][..block_len(len, block)]);
            }
            disk.digests.set(chunk, &[digest]).map_err(failed)?;
            batch.pieces.push(Piece {
                chunk,
                expected,
                digest,
                blocks: mask,
            });
        }
        self.counters
            .scanned
            .fetch_add(job.len() as u64, Ordering::Relaxed);
        if !batch.pieces.is_empty() {
            self.counters
                .sent
                .fetch_add(batch.pieces.len() as u64, Ordering::Relaxed);
            self.counters
                .bytes_data
                .fetch_add(blocks.len() as u64, Ordering::Relaxed);
            self.pack_and_send(encode_batch(&batch, &blocks)?, blocks.len() as u64)?;
        }
        disk.done(job, &bad);
        Ok(())
    }

    /// Reads the chunks of a job into their slots. Returns what cannot be read.
    fn read(&mut self, disk: &SourceDisk, job: &[u64]) -> Vec<Range<u64>> {
        let mut bad = Vec::new();
        let mut slot = 0;
        for run in job.chunk_by(|a, b| a + 1 == *b) {
            let chunks = run[0]..run[run.len() - 1] + 1;
            let range = bytes_of(&chunks, disk.facts.len);
            let buffer = &mut self.content[slot * CHUNK_LEN as usize..][..(range.end - range.start) as usize];
            let (bytes, unreadable) = read_parts(&disk.medium, buffer, range.start, &disk.parts(&chunks));
            self.counters.bytes_read.fetch_add(bytes, Ordering::Relaxed);
            bad.extend(unreadable);
            slot += run.len();
        }
        bad
    }

    fn pack_and_send(&mut self, payload: Vec<u8>, content_len: u64) -> Result<()> {
        let mut frame = Frame::message(KIND_DISK, Vec::new());
        frame.raw_len = payload.len() as u32;
        let began = Instant::now();
        (frame.codec, frame.payload) = self.compressor.compress(payload, self.governor)?;
        let compressed = Instant::now();
        self.session.send(frame, content_len)?;
        self.governor.learn(compressed - began, compressed.elapsed());
        Ok(())
    }
}
