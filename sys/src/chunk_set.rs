//! Sets of chunk numbers of one device. Memory follows the members: a page of 512 bytes for every 4096 chunks (256 MiB of disk)
//! that has any, 2 MiB for a full TiB.

use std::ops::Range;

/// Words of one page.
const PAGE_WORDS: usize = 64;
/// Chunks of one page.
const PAGE_CHUNKS: u64 = PAGE_WORDS as u64 * 64;

type Page = [u64; PAGE_WORDS];

/// A set of chunk numbers below a fixed length.
#[derive(Clone, Debug)]
pub struct ChunkSet {
    len: u64,
    pages: Vec<Option<Box<Page>>>,
}

impl ChunkSet {
    /// The empty set for a device of `len` chunks.
    pub fn empty(len: u64) -> Self {
        Self {
            len,
            pages: vec![None; len.div_ceil(PAGE_CHUNKS) as usize],
        }
    }

    /// The set of all `len` chunks.
    pub fn full(len: u64) -> Self {
        let mut set = Self::empty(len);
        set.insert_range(0..len);
        set
    }

    /// Number of chunks of the device.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no chunk is a member.
    pub fn is_empty(&self) -> bool {
        self.next_from(0).is_none()
    }

    /// How many chunks are members.
    pub fn count(&self) -> u64 {
        let pages = self.pages.iter().flatten();
        pages
            .flat_map(|page| page.iter())
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// Whether `chunk` is a member.
    pub fn contains(&self, chunk: u64) -> bool {
        chunk < self.len && self.word(chunk / 64) >> (chunk % 64) & 1 == 1
    }

    /// Word `index`; beyond the end there are zeros.
    fn word(&self, index: u64) -> u64 {
        let page = self.pages.get((index / PAGE_WORDS as u64) as usize);
        let page = page.and_then(Option::as_deref);
        page.map_or(0, |page| page[(index % PAGE_WORDS as u64) as usize])
    }

    fn word_mut(&mut self, index: u64) -> &mut u64 {
        let page = &mut self.pages[(index / PAGE_WORDS as u64) as usize];
        &mut page.get_or_insert_with(|| Box::new([0; PAGE_WORDS]))[(index % PAGE_WORDS as u64) as usize]
    }

    /// Adds `chunk`.
    pub fn insert(&mut self, chunk: u64) {
        if chunk < self.len {
            *self.word_mut(chunk / 64) |= 1 << (chunk % 64);
        }
    }

    /// Adds every chunk of `range`.
    pub fn insert_range(&mut self, range: Range<u64>) {
        let end = range.end.min(self.len);
        let mut chunk = range.start;
        while chunk < end {
            if chunk.is_multiple_of(64) && end - chunk >= 64 {
                *self.word_mut(chunk / 64) = u64::MAX;
                chunk += 64;
            } else {
                self.insert(chunk);
                chunk += 1;
            }
        }
    }

    /// Removes `chunk`.
    pub fn remove(&mut self, chunk: u64) {
        if self.contains(chunk) {
            *self.word_mut(chunk / 64) &= !(1 << (chunk % 64));
        }
    }

    /// Removes every chunk from `end` on; the length of the set stays.
    pub fn truncate(&mut self, end: u64) {
        if end >= self.len {
            return;
        }
        let first = end.div_ceil(PAGE_CHUNKS);
        self.pages[first as usize..].fill(None);
        for chunk in end..(first * PAGE_CHUNKS).min(self.len) {
            self.remove(chunk);
        }
    }

    /// Adds all members of `other`, which must be of the same length.
    pub fn union_with(&mut self, other: &Self) {
        assert_eq!(self.len, other.len, "sets of one disk have one length");
        for (page, more) in self.pages.iter_mut().zip(&other.pages) {
            match (page, more) {
                (Some(page), Some(more)) => {
                    page.iter_mut()
                        .zip(more.iter())
                        .for_each(|(word, more)| *word |= more);
                }
                (page @ None, Some(more)) => *page = Some(more.clone()),
                (_, None) => {}
            }
        }
    }

    /// The first member that is not below `chunk`.
    pub fn next_from(&self, chunk: u64) -> Option<u64> {
        let mut index = chunk / 64;
        let mut word = self.word(index) & (u64::MAX << (chunk % 64));
        while word == 0 {
            index += 1;
            let page = (index / PAGE_WORDS as u64) as usize;
            if self.pages.get(page)?.is_none() {
                // Its last word; the next step leads to the next page.
                index = (page as u64 + 1) * PAGE_WORDS as u64 - 1;
            }
            word = self.word(index);
        }
        Some(index * 64 + u64::from(word.trailing_zeros()))
    }

    /// The members that are not below `chunk`, in ascending order.
    pub fn iter_from(&self, chunk: u64) -> impl Iterator<Item = u64> + '_ {
        std::iter::successors(self.next_from(chunk), |last| self.next_from(last + 1))
    }

    /// Removes all members of `other`, which must be of the same length.
    pub fn subtract(&mut self, other: &Self) {
        assert_eq!(self.len, other.len, "sets of one disk have one length");
        for (page, gone) in self.pages.iter_mut().zip(&other.pages) {
            if let (Some(page), Some(gone)) = (page, gone) {
                page.iter_mut()
                    .zip(gone.iter())
                    .for_each(|(word, gone)| *word &= !gone);
            }
        }
    }

    /// Removes all that are not members of `other`, which must be of the same length.
    pub fn intersect_with(&mut self, other: &Self) {
        assert_eq!(self.len, other.len, "sets of one disk have one length");
        for (page, kept) in self.pages.iter_mut().zip(&other.pages) {
            match (&mut *page, kept) {
                (Some(words), Some(kept)) => {
                    words
                        .iter_mut()
                        .zip(kept.iter())
                        .for_each(|(word, kept)| *word &= kept);
                }
                _ => *page = None,
            }
        }
    }

    /// Gives back the memory of pages without members.
    pub fn shrink(&mut self) {
        for page in &mut self.pages {
            if page.as_deref().is_some_and(|page| *page == [0; PAGE_WORDS]) {
                *page = None;
            }
        }
    }

    /// The members in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.iter_from(0)
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

impl PartialEq for ChunkSet {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Eq for ChunkSet {}

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
    fn pages_come_and_go() {
        let len = 5 * PAGE_CHUNKS + 100;
        let mut set = ChunkSet::empty(len);
        let members = [0, PAGE_CHUNKS - 1, 3 * PAGE_CHUNKS, len - 1];
        members.iter().for_each(|chunk| set.insert(*chunk));
        assert_eq!(set.iter().collect::<Vec<_>>(), members);
        assert_eq!(set.next_from(PAGE_CHUNKS), Some(3 * PAGE_CHUNKS));
        assert_eq!(
            (set.next_from(len), set.contains(len), set.count()),
            (None, false, 4)
        );
        let mut other = ChunkSet::full(len);
        other.subtract(&set);
        assert_eq!(other.count(), len - 4);
        let mut nothing = other.clone();
        nothing.intersect_with(&set);
        assert!(nothing.is_empty());
        other.union_with(&set);
        assert_eq!(other, ChunkSet::full(len));
        other.intersect_with(&set);
        assert_eq!(other, set);
        set.truncate(3 * PAGE_CHUNKS);
        set.remove(PAGE_CHUNKS - 1);
        set.remove(0);
        assert!(set.is_empty() && set == ChunkSet::empty(len));
        set.shrink();
        assert!(set.pages.iter().all(Option::is_none));
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
