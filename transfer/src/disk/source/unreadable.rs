//! What a disk cannot read of itself: by chunk, bounded, and what the target holds instead.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Kind, Result};

/// Unreadable bytes of one disk at most; with more it counts as broken. Bad sectors come by the thousand: these are 4096 of
/// the 4096 bytes that disks are made of. A disk that answers only errors is found after 256 chunks, before it has been asked
/// for hours, sector by sector, for what it does not give. And the list is bounded: in the worst case a sector of 512 bytes in each of
/// 32,768 chunks, about 4 MiB.
const UNREADABLE_MAX: u64 = 16 << 20;

/// What the target holds where the source cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InPlace {
    /// Zeros, for there was never anything else to send.
    Zeros,
    /// The whole chunk as it was copied when it could still be read.
    Earlier,
}

impl fmt::Display for InPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zeros => "zeros are",
            Self::Earlier => "what was copied earlier is",
        })
    }
}

/// The unreadable ranges of a disk.
#[derive(Debug, Default)]
pub struct Unreadable {
    chunks: BTreeMap<u64, (InPlace, Vec<Range<u64>>)>,
    bytes: u64,
}

impl Unreadable {
    /// Notes what cannot be read of a chunk: nothing, if it can be read.
    pub fn set(&mut self, chunk: u64, in_place: InPlace, ranges: Vec<Range<u64>>) {
        let sum = |ranges: &[Range<u64>]| ranges.iter().map(|range| range.end - range.start).sum::<u64>();
        if let Some((_, before)) = self.chunks.remove(&chunk) {
            self.bytes -= sum(&before);
        }
        if !ranges.is_empty() {
            self.bytes += sum(&ranges);
            self.chunks.insert(chunk, (in_place, ranges));
        }
    }

    /// Forgets the chunks that are not to be kept.
    pub fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        let forgotten: Vec<u64> = self.chunks().filter(|chunk| !keep(*chunk)).collect();
        for chunk in forgotten {
            self.set(chunk, InPlace::Zeros, Vec::new());
        }
    }

    /// # Errors
    /// It is too much for a disk that works.
    pub fn check(&self, path: &Path) -> Result<()> {
        if self.bytes <= UNREADABLE_MAX {
            return Ok(());
        }
        Err(Error::new(Kind::Medium, "read the disk")
            .on(path)
            .because(format!(
                "more than {} MiB of it cannot be read",
                UNREADABLE_MAX >> 20
            ))
            .remedy(
                "it fails: the target keeps what was copied before. Save what can be read with a program for failing disks \
                 (ddrescue) to another disk, and copy that one",
            ))
    }

    /// Whether the target holds zeros for all of `ranges` of a chunk.
    pub fn are_zeros(&self, chunk: u64, ranges: &[Range<u64>]) -> bool {
        let Some((InPlace::Zeros, zeros)) = self.chunks.get(&chunk) else {
            return false;
        };
        let is_zero = |range: &Range<u64>| {
            zeros
                .iter()
                .any(|zeros| zeros.start <= range.start && range.end <= zeros.end)
        };
        ranges.iter().all(is_zero)
    }

    /// Chunks that cannot be read wholly.
    pub fn chunks(&self) -> impl Iterator<Item = u64> + '_ {
        self.chunks.keys().copied()
    }

    /// Those of which the target keeps what was copied earlier.
    pub fn kept(&self) -> impl Iterator<Item = u64> + '_ {
        let kept =
            |(chunk, (in_place, _)): (&u64, &(InPlace, _))| (*in_place == InPlace::Earlier).then_some(*chunk);
        self.chunks.iter().filter_map(kept)
    }

    /// What differs from the source, merged. A chunk that is kept differs as a whole, as far as anybody knows; `bytes_of` says
    /// where it lies.
    pub fn ranges(&self, bytes_of: impl Fn(u64) -> Range<u64>) -> Vec<(Range<u64>, InPlace)> {
        let mut merged: Vec<(Range<u64>, InPlace)> = Vec::new();
        for (chunk, (in_place, ranges)) in &self.chunks {
            let ranges = match in_place {
                InPlace::Zeros => ranges.clone(),
                InPlace::Earlier => vec![bytes_of(*chunk)],
            };
            for range in ranges {
                match merged.last_mut() {
                    Some((last, with)) if last.end == range.start && with == in_place => last.end = range.end,
                    _ => merged.push((range, *in_place)),
                }
            }
        }
        merged
    }
}
