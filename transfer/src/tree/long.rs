//! Long files, as the source sees them: read in chunks by several senders at once.
//!
//! Only chunks whose digest differs from the baseline's are sent; the target is never read for it. The file ends when
//! every chunk has been found unchanged or its frame has been numbered; the end is ordered behind all of them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use sys::aligned::AlignedBuffer;
use sys::page_cache::Residency;

use crate::limits;
use crate::tree::capture::Stat;
use crate::tree::entry::{Content, Digest};
use crate::tree::operation::{Chunk, Extent};
use crate::tree::tasks::File;

/// A long file on its way.
pub struct LongFile {
    /// The task.
    pub task: Box<File>,
    /// Its data.
    pub data: OwnedFd,
    /// Status before the first read.
    pub before: Stat,
    /// Number within the session.
    pub number: u64,
    /// log2 of the chunk length.
    pub chunk_log2: u8,
    /// What the target holds, chunk by chunk; empty when nothing usable is known.
    pub base: Vec<Digest>,
    /// Frames that carry its chunks wait for this number.
    pub begun_after: u64,
    /// Whether parts of it may be holes.
    sparse: bool,
    /// What of it was in the page cache before.
    resident: Residency,
    digests: Mutex<Vec<Digest>>,
    next: AtomicU64,
    unsettled: AtomicU64,
    ended_after: AtomicU64,
    /// Whether a part could not be read: the file is not done then, whatever its times say.
    pub damaged: AtomicBool,
}

impl LongFile {
    /// A file whose begin has been sent in a frame below `begun_after`.
    pub fn new(
        task: Box<File>,
        data: OwnedFd,
        before: Stat,
        number: u64,
        chunk_log2: u8,
        base: Vec<Digest>,
        begun_after: u64,
    ) -> Self {
        let count = before.size.div_ceil(1 << chunk_log2);
        let resident = Residency::of(data.as_fd(), before.size);
        Self {
            sparse: may_have_holes(&data, &before),
            resident,
            task,
            data,
            before,
            number,
            chunk_log2,
            base,
            begun_after,
            digests: Mutex::new(vec![Digest::default(); count as usize]),
            next: AtomicU64::new(0),
            unsettled: AtomicU64::new(count),
            ended_after: AtomicU64::new(begun_after),
            damaged: AtomicBool::new(false),
        }
    }

    /// The next chunks to read, a frame's worth: first and count.
    pub fn take(&self) -> Option<(u64, u64)> {
        let step = (limits::FRAME_RAW_LEN_TARGET as u64 >> self.chunk_log2).max(1);
        let first = self.next.fetch_add(step, Ordering::AcqRel);
        let count = self.before.size.div_ceil(1 << self.chunk_log2);
        (first < count).then(|| (first, step.min(count - first)))
    }

    /// Takes chunks that have been read out of the page cache, unless they were there before.
    pub fn forget(&self, first: u64, count: u64) {
        let end = (first + count) << self.chunk_log2;
        let range = first << self.chunk_log2..end.min(self.before.size);
        self.resident.drop_others(self.data.as_fd(), range);
    }

    /// The same for all of it: what was read ahead, and pages that two ranges shared.
    pub fn forget_all(&self) {
        self.resident.drop_others(self.data.as_fd(), 0..self.before.size);
    }

    /// Notes that `count` chunks are through, their frame below `after`. Returns whether they were the last ones.
    pub fn settle(&self, count: u64, after: u64) -> bool {
        self.ended_after.fetch_max(after, Ordering::AcqRel);
        self.unsettled.fetch_sub(count, Ordering::AcqRel) == count
    }

    /// The end must follow all frames below this number.
    pub fn ended_after(&self) -> u64 {
        self.ended_after.load(Ordering::Acquire)
    }

    /// What the file holds, once all chunks have been read.
    pub fn content(&self) -> Content {
        let digests = self.digests.lock().expect("not poisoned");
        Content {
            len: self.before.size,
            digest: digest_of_chunks(&digests),
            chunk_log2: self.chunk_log2,
        }
    }

    /// Reads chunk `index`, appending its data to `data`. `None` when the target holds it already; `data` is then as
    /// before. A file that shrank meanwhile reads as zero: the end finds out.
    ///
    /// # Errors
    /// What `pread` gives.
    pub fn read_chunk(
        &self,
        index: u64,
        data: &mut AlignedBuffer,
        bytes_read: &AtomicU64,
    ) -> std::io::Result<Option<Chunk>> {
        let offset = index << self.chunk_log2;
        let len = (1u64 << self.chunk_log2).min(self.before.size - offset);
        let start = data.len();
        let mut extents = Vec::new();
        let mut at = offset;
        while let Some(range) = next_stretch(&self.data, at, offset + len, self.sparse)? {
            let begin = data.len();
            data.append_from(self.data.as_fd(), range.start, (range.end - range.start) as usize)?;
            bytes_read.fetch_add((data.len() - begin) as u64, Ordering::Relaxed);
            at = range.end;
            let extent_len = (data.len() - begin) as u32;
            if extent_len > 0 {
                extents.push(Extent {
                    offset: (range.start - offset) as u32,
                    len: extent_len,
                });
            }
        }
        let digest = digest_of_extents(&extents, &data[start..], len);
        self.digests.lock().expect("not poisoned")[index as usize] = digest;
        if self.base.get(index as usize) == Some(&digest) {
            data.truncate(start);
            return Ok(None);
        }
        Ok(Some(Chunk {
            len: len as u32,
            digest,
            extents,
        }))
    }
}

/// Digest of a long file's content: BLAKE3 of its chunk digests.
pub fn digest_of_chunks(digests: &[Digest]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for digest in digests {
        hasher.update(&digest.0);
    }
    Digest(*hasher.finalize().as_bytes())
}

/// Digest of `len` bytes that are zero outside `extents`, whose data lie in `data` one after the other.
pub fn digest_of_extents(extents: &[Extent], data: &[u8], len: u64) -> Digest {
    if extents.is_empty() && len.is_power_of_two() {
        return digest_of_zeros(len.trailing_zeros());
    }
    hash_extents(extents, data, len)
}

/// Digest of 2^`log2` zeros, computed once: holes of sparse files cost nothing.
fn digest_of_zeros(log2: u32) -> Digest {
    static KNOWN: [OnceLock<Digest>; u64::BITS as usize] = [const { OnceLock::new() }; u64::BITS as usize];
    *KNOWN[log2 as usize].get_or_init(|| hash_extents(&[], &[], 1 << log2))
}

fn hash_extents(extents: &[Extent], data: &[u8], len: u64) -> Digest {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut hasher = blake3::Hasher::new();
    let mut at = 0u64;
    let mut data = data;
    let zeros = |hasher: &mut blake3::Hasher, count: u64| {
        let mut left = count;
        while left > 0 {
            let step = left.min(ZEROS.len() as u64);
            hasher.update(&ZEROS[..step as usize]);
            left -= step;
        }
    };
    for extent in extents {
        zeros(&mut hasher, u64::from(extent.offset) - at);
        let (own, others) = data.split_at(extent.len as usize);
        hasher.update(own);
        data = others;
        at = u64::from(extent.offset) + u64::from(extent.len);
    }
    zeros(&mut hasher, len - at);
    Digest(*hasher.finalize().as_bytes())
}

/// The chunk length for a file of `len` bytes: as fine as the number of digests allows.
pub fn chunk_log2(len: u64) -> u8 {
    let mut chunk = limits::CHUNK_LEN_MIN;
    while len / chunk > limits::CHUNK_COUNT_SOFT_MAX && chunk < limits::CHUNK_LEN_MAX {
        chunk *= 2;
    }
    chunk.trailing_zeros() as u8
}

/// Whether parts of a file may be holes, or preallocated and never written: those have their blocks, and read as zeros.
pub fn may_have_holes(file: &OwnedFd, stat: &Stat) -> bool {
    stat.blocks * 512 < stat.size || sys::extents::has_hole(file.as_fd(), stat.size).unwrap_or(true)
}

/// The next stretch to read: the whole rest where nothing speaks for holes.
///
/// # Errors
/// What `lseek` gives.
pub fn next_stretch(
    file: &OwnedFd,
    at: u64,
    end: u64,
    sparse: bool,
) -> std::io::Result<Option<std::ops::Range<u64>>> {
    if at >= end {
        Ok(None)
    } else if sparse {
        Ok(sys::extents::next_data(file.as_fd(), at, end)?)
    } else {
        Ok(Some(at..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_grow_with_the_file() {
        assert_eq!(chunk_log2(2 << 20), 16);
        assert_eq!(chunk_log2(8 << 30), 16);
        assert_eq!(chunk_log2(1 << 36), 18);
        assert_eq!(chunk_log2(1 << 44), 20);
    }

    #[test]
    fn holes_hash_as_zeros() {
        let mut whole = vec![0u8; 200_000];
        whole[70_000..70_003].copy_from_slice(b"abc");
        let extents = [Extent {
            offset: 70_000,
            len: 3,
        }];
        assert_eq!(digest_of_extents(&extents, b"abc", 200_000), Digest::of(&whole));
        for len in [0, 1, 4096, 65_536, 65_537, 1 << 20] {
            let zeros = vec![0; len];
            for _ in 0..2 {
                assert_eq!(digest_of_extents(&[], b"", len as u64), Digest::of(&zeros));
            }
        }
    }
}
