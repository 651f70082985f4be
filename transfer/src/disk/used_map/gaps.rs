//! Collects the free ranges of a file system in bounded memory: of too many the longest stay.
//!
//! A gap that is forgotten is copied, which costs time and is right; a list of all gaps of a fragmented file system would
//! have more entries than fit into any promise.

use std::cmp::Ordering;
use std::ops::Range;

use crate::disk::used_map::BLOCK_LEN;

/// Ranges kept per disk: 512 Ki of 16 bytes are 8 MiB.
pub const RANGES_MAX: usize = 512 * 1024;

/// Gaps, taken one by one in ascending order.
#[derive(Debug)]
pub struct Gaps {
    /// Never more than twice as many as stay: then the shorter half is forgotten, which pays for that many more.
    kept: Vec<Range<u64>>,
    max: usize,
}

impl Default for Gaps {
    fn default() -> Self {
        Self::of(RANGES_MAX)
    }
}

impl Gaps {
    fn of(max: usize) -> Self {
        Self {
            kept: Vec::new(),
            max,
        }
    }

    /// Adds a gap, which may continue the one before.
    pub fn push(&mut self, gap: Range<u64>) {
        match self.kept.last_mut() {
            Some(last) if last.start <= gap.start && gap.start <= last.end => {
                last.end = last.end.max(gap.end);
                return;
            }
            // No whole block is free in it.
            Some(last) if last.end.saturating_sub(last.start) < BLOCK_LEN => *last = gap,
            _ => self.kept.push(gap),
        }
        if self.kept.len() >= 2 * self.max {
            self.forget_the_shortest();
        }
    }

    /// The longest gaps, ascending.
    pub fn longest(mut self) -> Vec<Range<u64>> {
        let last = self.kept.last();
        if last.is_some_and(|last| last.end.saturating_sub(last.start) < BLOCK_LEN) {
            self.kept.pop();
        }
        self.kept.sort_unstable_by_key(|gap| gap.start);
        self.keep(self.max);
        self.kept
    }

    /// Makes room. The last gap may still grow.
    fn forget_the_shortest(&mut self) {
        let last = self.kept.pop();
        self.keep(self.max);
        self.kept.extend(last);
    }

    fn keep(&mut self, count: usize) {
        if self.kept.len() <= count {
            return;
        }
        let mut lengths: Vec<u64> = self.kept.iter().map(len).collect();
        let (_, shortest_kept, _) = lengths.select_nth_unstable_by(count, |a, b| b.cmp(a));
        let shortest_kept = *shortest_kept;
        let longer = self.kept.iter().filter(|gap| len(gap) > shortest_kept);
        let mut equal = count - longer.count();
        self.kept.retain(|gap| match len(gap).cmp(&shortest_kept) {
            Ordering::Greater => true,
            Ordering::Equal if equal > 0 => {
                equal -= 1;
                true
            }
            _ => false,
        });
    }
}

impl Extend<Range<u64>> for Gaps {
    fn extend<T: IntoIterator<Item = Range<u64>>>(&mut self, gaps: T) {
        gaps.into_iter().for_each(|gap| self.push(gap));
    }
}

fn len(gap: &Range<u64>) -> u64 {
    gap.end - gap.start
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn of_too_many_gaps_the_longest_are_kept() {
        let extra = 5 * RANGES_MAX as u64;
        // Of those that are equally long as many as there is room for.
        let lengths = (0..RANGES_MAX as u64 + extra).map(|at| 1 + at % 2 * u64::from(at < 100));
        let mut at = 0;
        let mut gaps = Gaps::default();
        for blocks in lengths {
            gaps.push(at..at + blocks * BLOCK_LEN);
            at += (blocks + 1) * BLOCK_LEN;
            assert!(gaps.kept.capacity() <= 2 * RANGES_MAX, "memory is bounded");
        }
        let kept = gaps.longest();
        assert_eq!(kept.len(), RANGES_MAX);
        let double = kept.iter().filter(|gap| gap.end - gap.start == 2 * BLOCK_LEN);
        assert_eq!(double.count(), 50);
    }

    proptest! {
        #[test]
        fn what_is_kept_is_as_long_as_if_all_had_been_kept(
            parts in proptest::collection::vec((0u64..3, 1u64..20), 0..100),
        ) {
            let (mut gaps, mut all, mut at) = (Gaps::of(8), Gaps::of(1000), 0);
            for (between, blocks) in parts {
                at += between * BLOCK_LEN;
                let gap = at..at + blocks * BLOCK_LEN;
                at = gap.end;
                gaps.push(gap.clone());
                all.push(gap);
            }
            let lengths = |gaps: Gaps| {
                let mut lengths: Vec<u64> = gaps.longest().iter().map(len).collect();
                lengths.sort_unstable_by(|a, b| b.cmp(a));
                lengths
            };
            let mut expected = lengths(all);
            expected.truncate(8);
            prop_assert_eq!(lengths(gaps), expected);
        }
    }
}
