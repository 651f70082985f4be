//! Which bytes of a disk hold something: everything, minus what a file system explicitly calls free.
//!
//! Ranges are kept at a granularity of 4096 bytes, used ones rounded outwards. Two kinds of absence: *free* space, which
//! may be allocated and written later and then counts (a tracker or the next map says so), and *scratch* space (swap),
//! whose content never matters. Memory is bounded: a very fragmented file system's smallest gaps count as used.

use std::ops::Range;

use sys::block_tracker::CHUNK_LEN;
use sys::chunk_set::ChunkSet;

pub mod btrfs;
pub mod ext;
pub mod gaps;
pub mod mounted;
pub mod survey;
pub mod swap;

pub use survey::{Area, Effort, Survey, survey};

/// Granularity of the map in bytes: the largest block of the file systems that are understood is not smaller.
pub const BLOCK_LEN: u64 = 4096;
/// The used ranges of one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedMap {
    len: u64,
    used: Vec<Range<u64>>,
    scratch: Vec<Range<u64>>,
}

impl UsedMap {
    /// All of a disk of `len` bytes.
    pub fn whole(len: u64) -> Self {
        Self::new(len, Vec::new(), Vec::new())
    }

    /// All of a disk of `len` bytes but the `free` and the `scratch` ranges, which may come in any order;
    /// how many these are is bounded by who collected them ([`gaps::Gaps`]).
    pub fn new(len: u64, free: Vec<Range<u64>>, scratch: Vec<Range<u64>>) -> Self {
        let scratch = normalise(scratch, len);
        let mut absent = free;
        absent.extend(scratch.iter().cloned());
        let absent = normalise(absent, len);
        let mut used = Vec::with_capacity(absent.len() + 1);
        let mut at = 0;
        for gap in &absent {
            if gap.start > at {
                used.push(at..gap.start);
            }
            at = gap.end;
        }
        if at < len {
            used.push(at..len);
        }
        Self { len, used, scratch }
    }

    /// Length of the disk in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing is used.
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    /// Bytes in use.
    pub fn bytes(&self) -> u64 {
        self.used.iter().map(|range| range.end - range.start).sum()
    }

    /// The chunks that hold at least one used byte.
    pub fn chunks(&self) -> ChunkSet {
        let mut chunks = ChunkSet::empty(self.len.div_ceil(CHUNK_LEN));
        for range in &self.used {
            chunks.insert_range(range.start / CHUNK_LEN..range.end.div_ceil(CHUNK_LEN));
        }
        chunks
    }

    /// Chunks that lie wholly in scratch space: their content never matters.
    pub fn scratch_chunks(&self) -> ChunkSet {
        let mut chunks = ChunkSet::empty(self.len.div_ceil(CHUNK_LEN));
        for range in &self.scratch {
            chunks.insert_range(range.start.div_ceil(CHUNK_LEN)..range.end / CHUNK_LEN);
        }
        chunks
    }

    /// The used parts of `range`.
    pub fn used_in(&self, range: Range<u64>) -> Vec<Range<u64>> {
        overlap(&self.used, &range)
    }

    /// `range` without scratch space.
    pub fn without_scratch(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut parts = Vec::new();
        let mut at = range.start;
        for gap in overlap(&self.scratch, &range) {
            if gap.start > at {
                parts.push(at..gap.start);
            }
            at = gap.end;
        }
        if at < range.end {
            parts.push(at..range.end);
        }
        parts
    }
}

/// The parts of ascending `ranges` that lie in `window`.
pub(crate) fn overlap(ranges: &[Range<u64>], window: &Range<u64>) -> Vec<Range<u64>> {
    let first = ranges.partition_point(|range| range.end <= window.start);
    ranges[first..]
        .iter()
        .take_while(|range| range.start < window.end)
        .map(|range| range.start.max(window.start)..range.end.min(window.end))
        .collect()
}

/// Rounds absent ranges inwards to blocks, sorts and merges them; all in the memory that they came in.
fn normalise(mut ranges: Vec<Range<u64>>, len: u64) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let continues = next.start <= last.end;
        if continues {
            last.end = last.end.max(next.end);
        }
        continues
    });
    ranges.retain_mut(|range| {
        *range = range.start.next_multiple_of(BLOCK_LEN)..range.end.min(len) / BLOCK_LEN * BLOCK_LEN;
        range.start < range.end
    });
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn scratch_is_never_used_and_free_is_rounded_inwards() {
        let swap = 65_536..196_608;
        let map = UsedMap::new(1 << 20, vec![5000..20_000, 16_000..40_960], Vec::from([swap]));
        assert_eq!(
            map.used_in(0..1 << 20),
            [0..8192, 40_960..65_536, 196_608..1 << 20]
        );
        assert_eq!(map.scratch_chunks().iter().collect::<Vec<_>>(), [1, 2]);
        let before_swap = 60_000..65_536;
        assert_eq!(
            map.without_scratch(60_000..70_000),
            std::slice::from_ref(&before_swap)
        );
        assert!(map.chunks().contains(0) && !map.chunks().contains(1));
        assert_eq!(UsedMap::whole(512 * 77).bytes(), 512 * 77);
    }

    proptest! {
        #[test]
        fn used_and_absent_cover_every_block_exactly_once(
            free in proptest::collection::vec((0u64..100, 1u64..20), 0..20),
            len_blocks in 1u64..110,
        ) {
            let len = len_blocks * BLOCK_LEN;
            let free: Vec<_> = free.into_iter().map(|(at, n)| at * BLOCK_LEN..(at + n) * BLOCK_LEN).collect();
            let map = UsedMap::new(len, free.clone(), Vec::new());
            for block in 0..len_blocks {
                let range = block * BLOCK_LEN..(block + 1) * BLOCK_LEN;
                let is_free = free.iter().any(|gap| gap.start <= range.start && range.end <= gap.end)
                    || (free.iter().any(|gap| gap.contains(&range.start)));
                prop_assert_eq!(map.used_in(range.clone()).is_empty(), is_free);
            }
        }
    }
}
