//! Which bytes of a disk hold something: everything, minus what a file system explicitly calls free.
//!
//! Ranges are kept at a granularity of 4096 bytes, used ones rounded outwards. Two kinds of absence: *free* space, which
//! may be allocated and written later and then counts (a tracker or the next map says so), and *scratch* space (swap),
//! whose content never matters. Memory is bounded: a very fragmented file system's smallest gaps count as used.

use std::cmp::Ordering;
use std::ops::Range;

use sys::block_tracker::CHUNK_LEN;
use sys::chunk_set::ChunkSet;

pub mod btrfs;
pub mod ext;
pub mod mounted;
pub mod survey;
pub mod swap;

pub use survey::{Area, Effort, Survey, survey};

/// Granularity of the map in bytes: the largest block of the file systems that are understood is not smaller.
pub const BLOCK_LEN: u64 = 4096;
/// Ranges kept per disk: 512 Ki of 16 bytes are 8 MiB.
const RANGES_MAX: usize = 512 * 1024;

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

    /// All of a disk of `len` bytes but the `free` and the `scratch` ranges, which may come in any order.
    pub fn new(len: u64, free: Vec<Range<u64>>, scratch: Vec<Range<u64>>) -> Self {
        let scratch = normalise(scratch, len);
        let absent = normalise(free.into_iter().chain(scratch.iter().cloned()).collect(), len);
        let absent = keep_longest(absent);
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

fn overlap(ranges: &[Range<u64>], window: &Range<u64>) -> Vec<Range<u64>> {
    let first = ranges.partition_point(|range| range.end <= window.start);
    ranges[first..]
        .iter()
        .take_while(|range| range.start < window.end)
        .map(|range| range.start.max(window.start)..range.end.min(window.end))
        .collect()
}

/// Rounds absent ranges inwards to blocks, sorts and merges them.
fn normalise(ranges: Vec<Range<u64>>, len: u64) -> Vec<Range<u64>> {
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    let mut sorted: Vec<Range<u64>> = ranges;
    sorted.sort_by_key(|range| range.start);
    for range in sorted {
        let end = range.end.min(len);
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(end),
            _ => merged.push(range.start..end),
        }
    }
    merged
        .into_iter()
        .map(|range| range.start.next_multiple_of(BLOCK_LEN)..range.end / BLOCK_LEN * BLOCK_LEN)
        .filter(|range| range.start < range.end)
        .collect()
}

/// Forgets the shortest gaps when there are too many: what is not known as free is copied.
fn keep_longest(mut gaps: Vec<Range<u64>>) -> Vec<Range<u64>> {
    if gaps.len() <= RANGES_MAX {
        return gaps;
    }
    let mut lengths: Vec<u64> = gaps.iter().map(|gap| gap.end - gap.start).collect();
    let (_, shortest_kept, _) = lengths.select_nth_unstable_by(RANGES_MAX, |a, b| b.cmp(a));
    let shortest_kept = *shortest_kept;
    let longer = gaps.iter().filter(|gap| gap.end - gap.start > shortest_kept);
    let mut equal = RANGES_MAX - longer.count();
    gaps.retain(|gap| match (gap.end - gap.start).cmp(&shortest_kept) {
        Ordering::Greater => true,
        Ordering::Equal if equal > 0 => {
            equal -= 1;
            true
        }
        _ => false,
    });
    gaps
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

    #[test]
    fn of_too_many_gaps_the_longest_are_kept() {
        let extra = 1000;
        // Of those that are equally long as many as there is room for.
        let lengths = (0..RANGES_MAX as u64 + extra).map(|at| 1 + at % 2 * u64::from(at < 100));
        let mut at = 0;
        let gaps = lengths.map(|blocks| {
            let start = at;
            at += (blocks + 1) * BLOCK_LEN;
            start..start + blocks * BLOCK_LEN
        });
        let kept = keep_longest(gaps.collect());
        assert_eq!(kept.len(), RANGES_MAX);
        let double = kept.iter().filter(|gap| gap.end - gap.start == 2 * BLOCK_LEN);
        assert_eq!(double.count(), 50);
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
