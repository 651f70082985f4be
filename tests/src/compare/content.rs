//! Bytes and holes of two files of one length.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::{Errno, pread};

use super::Pair;

/// Bytes compared at a time.
const PIECE_LEN: usize = 1 << 20;

/// Holes are judged in blocks of so many bytes: the smallest that every file system can leave out.
pub(super) const HOLE_BLOCK_LEN: u64 = 4096;

/// Where a file has data: ranges of offsets, ascending.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DataMap(Vec<(u64, u64)>);

impl DataMap {
    pub(super) fn of(file: &OwnedFd, len: u64) -> io::Result<Self> {
        let mut ranges = Vec::new();
        let mut at = 0;
        while at < len {
            let start = match seek(file, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            };
            if start >= len {
                break;
            }
            let end = seek(file, SeekFrom::Hole(start))?.min(len);
            ranges.push((start, end));
            at = end;
        }
        Ok(Self(ranges))
    }

    /// The union with `other`.
    fn with(&self, other: &Self) -> Self {
        let mut all: Vec<_> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        let mut union: Vec<(u64, u64)> = Vec::new();
        for (start, end) in all {
            match union.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => union.push((start, end)),
            }
        }
        Self(union)
    }

    /// The first whole block that is a hole here and data in `other`.
    pub(super) fn hole_filled_by(&self, other: &Self, len: u64) -> Option<u64> {
        let mut holes = Vec::new();
        let mut at = 0_u64;
        for (start, end) in self.0.iter().copied().chain([(len, len)]) {
            let block_start = at.next_multiple_of(HOLE_BLOCK_LEN);
            let block_end = start - start % HOLE_BLOCK_LEN;
            if block_start < block_end {
                holes.push((block_start, block_end));
            }
            at = end;
        }
        let mut data = other.0.iter().copied().peekable();
        for (hole_start, hole_end) in holes {
            while data.peek().is_some_and(|(_, end)| *end <= hole_start) {
                data.next();
            }
            // Data that only touches the hole's edge within a block does not count: a block is all or nothing.
            if let Some((start, end)) = data.peek() {
                let filled_start = (*start).max(hole_start);
                if filled_start < (*end).min(hole_end) {
                    return Some(filled_start);
                }
            }
        }
        None
    }
}

/// The offset of the first byte that differs, and how many were read of one side.
pub(super) fn first_difference(
    files: &Pair<OwnedFd>,
    maps: &Pair<DataMap>,
) -> io::Result<(Option<u64>, u64)> {
    let (mut left, mut right) = (vec![0; PIECE_LEN], vec![0; PIECE_LEN]);
    let mut read = 0;
    for (start, end) in maps.source.with(&maps.target).0 {
        let mut at = start;
        while at < end {
            let len = PIECE_LEN.min(usize::try_from(end - at).unwrap_or(PIECE_LEN));
            read_exactly(&files.source, &mut left[..len], at)?;
            read_exactly(&files.target, &mut right[..len], at)?;
            read += len as u64;
            if left[..len] != right[..len] {
                let same = left.iter().zip(&right).take_while(|(a, b)| a == b).count();
                return Ok((Some(at + same as u64), read));
            }
            at += len as u64;
        }
    }
    Ok((None, read))
}

fn read_exactly(file: &OwnedFd, buffer: &mut [u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match pread(file, &mut buffer[done..], at + done as u64)? {
            0 => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the file shrank while it was compared",
                ));
            }
            len => done += len,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filled_holes_are_found_only_in_whole_blocks() {
        const B: u64 = HOLE_BLOCK_LEN;
        let source = DataMap(vec![(B, 2 * B), (5 * B + 10, 6 * B)]);
        let len = 10 * B;
        assert_eq!(source.hole_filled_by(&source, len), None);
        assert_eq!(source.hole_filled_by(&DataMap(vec![]), len), None);
        assert_eq!(source.hole_filled_by(&DataMap(vec![(0, 2 * B)]), len), Some(0));
        assert_eq!(
            source.hole_filled_by(&DataMap(vec![(B, 3 * B)]), len),
            Some(2 * B)
        );
        assert_eq!(source.hole_filled_by(&DataMap(vec![(5 * B, 6 * B)]), len), None);
        assert_eq!(
            source.hole_filled_by(&DataMap(vec![(9 * B, 10 * B)]), len),
            Some(9 * B)
        );
    }

    #[test]
    fn unions_merge_overlaps() {
        let union = DataMap(vec![(0, 10), (20, 30)]).with(&DataMap(vec![(5, 20), (40, 50)]));
        assert_eq!(union, DataMap(vec![(0, 30), (40, 50)]));
    }
}
