//! A set of chunk numbers of one disk: one bit per chunk.
//!
//! 64 KiB chunks of 1 TiB take 2 MiB. Numbers at or above the length given at creation are not members and are ignored.

use std::ops::Range;

/// A fixed-size set of chunk numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkSet {
    words: Vec<u64>,
    len: u64,
}

impl ChunkSet {
    /// An empty set for chunks `0..len`.
    pub fn empty(len: u64) -> Self {
        Self {
            words: vec![0; len.div_ceil(64) as usize],
            len,
        }
    }

    /// A set that holds every chunk of `0..len`.
    pub fn full(len: u64) -> Self {
        let mut set = Self::empty(len);
        set.insert_range(0..len);
        set
    }

    /// How many chunks there could be.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no chunk is a member.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// How many chunks are members.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether `chunk` is a member.
    pub fn contains(&self, chunk: u64) -> bool {
        chunk < self.len && self.words[(chunk / 64) as usize] >> (chunk % 64) & 1 == 1
    }

    /// Adds `chunk`.
    pub fn insert(&mut self, chunk: u64) {
        if chunk < self.len {
            self.words[(chunk / 64) as usize] |= 1 << (chunk % 64);
        }
    }

    /// Adds every chunk of `range`.
    pub fn insert_range(&mut self, range: Range<u64>) {
        let end = range.end.min(self.len);
        let mut chunk = range.start;
        while chunk < end {
            if chunk.is_multiple_of(64) && end - chunk >= 64 {
                self.words[(chunk / 64) as usize] = u64::MAX;
                chunk += 64;
            } else {
                self.insert(chunk);
                chunk += 1;
            }
        }
    }

    /// Removes `chunk`.
    pub fn remove(&mut self, chunk: u64) {
        if chunk < self.len {
            self.words[(chunk / 64) as usize] &= !(1 << (chunk % 64));
        }
    }

    /// Removes every chunk from `end` on; the length of the set stays.
    pub fn truncate(&mut self, end: u64) {
        if end >= self.len {
            return;
        }
        let word = (end / 64) as usize;
        self.words[word] &= (1 << (end % 64)) - 1;
        self.words[word + 1..].fill(0);
    }

    /// Adds all members of `other`, which must be of the same length.
    pub fn union_with(&mut self, other: &Self) {
        assert_eq!(self.len, other.len, "sets of one disk have one length");
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// The first member that is not below `chunk`.
    pub fn next_from(&self, chunk: u64) -> Option<u64> {
        let mut index = (chunk / 64) as usize;
        let mut word = self.words.get(index)? & (u64::MAX << (chunk % 64));
        while word == 0 {
            index += 1;
            word = *self.words.get(index)?;
        }
        Some(index as u64 * 64 + u64::from(word.trailing_zeros()))
    }

    /// The members that are not below `chunk`, in ascending order.
    pub fn iter_from(&self, chunk: u64) -> impl Iterator<Item = u64> + '_ {
        std::iter::successors(self.next_from(chunk), |last| self.next_from(last + 1))
    }

    /// Removes all members of `other`, which must be of the same length.
    pub fn subtract(&mut self, other: &Self) {
        assert_eq!(self.len, other.len, "sets of one disk have one length");
        for (word, gone) in self.words.iter_mut().zip(&other.words) {
            *word &= !gone;
        }
    }

    /// The members in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(index as u64 * 64 + u64::from(bit))
            })
        })
    }

    /// The members as maximal runs in ascending order, none longer than `run_len_max` chunks.
    pub fn runs(&self, run_len_max: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut chunks = self.iter().peekable();
        std::iter::from_fn(move || {
            let start = chunks.next()?;
            let mut end = start + 1;
            while end - start < run_len_max && chunks.next_if_eq(&end).is_some() {
                end += 1;
            }
            Some(start..end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_single_chunks_agree() {
        for (start, end) in [(0, 0), (0, 1), (3, 200), (64, 128), (63, 129), (190, 500)] {
            let mut by_range = ChunkSet::empty(200);
            by_range.insert_range(start..end);
            let mut one_by_one = ChunkSet::empty(200);
            (start..end).for_each(|chunk| one_by_one.insert(chunk));
            assert_eq!(by_range, one_by_one);
            assert_eq!(by_range.count(), end.min(200) - start.min(200));
            let mut whole = ChunkSet::full(200);
            whole.truncate(end);
            assert_eq!(whole.count(), end.min(200));
            assert_eq!(
                whole.iter_from(start).count() as u64,
                end.min(200) - start.min(200)
            );
        }
    }

    #[test]
    fn runs_cover_the_members_in_order() {
        let mut set = ChunkSet::empty(300);
        set.insert_range(5..12);
        set.insert(60);
        set.insert_range(63..70);
        set.insert(299);
        let runs: Vec<_> = set.runs(4).collect();
        assert_eq!(runs, [5..9, 9..12, 60..61, 63..67, 67..70, 299..300]);
        let mut one_by_one = Vec::new();
        let mut from = 0;
        while let Some(chunk) = set.next_from(from) {
            one_by_one.push(chunk);
            from = chunk + 1;
        }
        assert_eq!(one_by_one, set.iter().collect::<Vec<_>>());
        let members: Vec<u64> = runs.into_iter().flatten().collect();
        assert_eq!(members, set.iter().collect::<Vec<_>>());
    }
}
