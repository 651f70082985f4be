//! Knows a copy again, and notices when somebody else wrote to it: names of devices change with the next boot, and a copy
//! is tried out between two runs.
//!
//! A target that shows of itself what it showed when the last session ended, was not written to since. Of any other one
//! chunks are read and compared with their digests: where the disk begins and ends and where its file systems begin, for that is
//! what every mount changes, and some that are spread over the rest. Nothing is believed of a disk that does not prove to be
//! ours, and nothing of the digests of one that was changed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use sys::aligned::AlignedBuffer;
use sys::block_tracker::CHUNK_LEN;

use crate::disk::digest::{Digest, REGION_CHUNKS};
use crate::disk::digest_file::DigestFile;
use crate::disk::identity::identity;
use crate::disk::medium::{DiskMedium, Medium};
use crate::disk::source::read::bytes_of;
use crate::disk::target::admit::Standing;
use crate::disk::target::journal::{DiskRecord, Seen};
use crate::error::{Error, Result};

/// Chunks looked at, at most, beside the landmarks and both ends of the disk: 8 MiB.
const LOOKS_MAX: usize = 128;
/// Candidates for them in every region, at least.
const CANDIDATES_MIN: usize = 4;
/// Different contents that have to be as they should be, where there are so many.
const MATCHES_MIN: usize = 4;
/// Chunks at the beginning of a disk or a file system that say what is there: the superblock of btrfs is in the second.
const HEAD_CHUNKS: u64 = 2;

/// Looks whether a disk is the copy that the journal has as `record`. What is in the `open` regions may have been written
/// over by ourselves: it speaks for the disk or not at all.
///
/// # Errors
/// Its digests cannot be opened.
pub(super) fn recognise(
    medium: &DiskMedium,
    record: &DiskRecord,
    digests: &Path,
    open: &BTreeSet<u64>,
) -> Result<Standing> {
    let failed = |error| Error::io("read the digests", digests, error);
    let digests = DigestFile::open(digests, record.source_len.div_ceil(CHUNK_LEN)).map_err(failed)?;
    let zeros = Zeros::of(record.source_len);
    let looks = looks(&digests, record, zeros).map_err(failed)?;
    let telling: HashSet<Digest> = looks
        .values()
        .copied()
        .filter(|digest| zeros.are_not(*digest))
        .collect();
    if telling.is_empty() {
        return Ok(Standing::Replaced);
    }
    let now = Seen::at(&medium.path);
    if record.seen.is_some() && record.seen == now {
        return Ok(Standing::Ours);
    }
    // The same, but its times or counters moved on.
    let is_same_medium = record
        .seen
        .is_some_and(|seen| now.is_some_and(|now| now.medium == seen.medium));
    let name = name(medium, record, &looks);
    if name == Name::Other {
        return Ok(Standing::Replaced);
    }
    let (mut found, mut missed, mut is_changed) = (HashSet::new(), HashSet::new(), false);
    for (chunk, digest) in &looks {
        let is_here = holds(medium, record, *chunk, *digest);
        let is_open = open.contains(&(chunk / REGION_CHUNKS));
        is_changed |= !is_here && !is_open;
        if is_here && zeros.are_not(*digest) {
            found.insert(*digest);
        } else if !is_open && zeros.are_not(*digest) {
            missed.insert(*digest);
        }
    }
    // Where little is copied, trying it out changes most of it: there one content and the name on the same medium are enough.
    let is_ours = if is_same_medium && name == Name::Same {
        !found.is_empty()
    } else {
        found.len() >= MATCHES_MIN.min(telling.len() / 2 + 1) && found.len() > missed.len()
    };
    Ok(match (is_ours, is_changed || is_same_medium) {
        (false, _) => Standing::Replaced,
        (true, true) => Standing::Changed,
        (true, false) => Standing::Ours,
    })
}

/// What tells no disk from another, for it is everywhere: a chunk of zeros, and zeros as long as the last chunk of a disk.
#[derive(Clone, Copy)]
struct Zeros([Digest; 2]);

impl Zeros {
    /// Those of a disk of `len` bytes.
    fn of(len: u64) -> Self {
        let last = [0; CHUNK_LEN as usize];
        let last = &last[..(len % CHUNK_LEN) as usize];
        Self([Digest::of_zeros(), Digest::of(last)])
    }

    /// Whether a content is known and tells one disk from another.
    fn are_not(self, digest: Digest) -> bool {
        digest.is_known() && !self.0.contains(&digest)
    }
}

/// What a disk calls itself, compared with what the source's did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Same,
    Other,
    /// It has none, the source's had none, or its beginning has not been copied yet.
    Unclear,
}

fn name(medium: &DiskMedium, record: &DiskRecord, looks: &BTreeMap<u64, Digest>) -> Name {
    let nobody = [0; 16];
    let head = 0..HEAD_CHUNKS.min(record.source_len.div_ceil(CHUNK_LEN));
    let is_copied = head.into_iter().all(|chunk| looks.contains_key(&chunk));
    match identity(medium).unwrap_or(nobody) {
        name if name == nobody || record.identity == nobody => Name::Unclear,
        name if name == record.identity => Name::Same,
        _ if is_copied => Name::Other,
        _ => Name::Unclear,
    }
}

fn holds(medium: &DiskMedium, record: &DiskRecord, chunk: u64, digest: Digest) -> bool {
    let bytes = bytes_of(&(chunk..chunk + 1), record.source_len);
    let mut content = AlignedBuffer::zeroed((bytes.end - bytes.start) as usize);
    medium.read(&mut content, bytes.start).is_ok() && Digest::of(&content) == digest
}

/// The chunks to look at and what they should be; only such of which something is known.
fn looks(digests: &DigestFile, record: &DiskRecord, zeros: Zeros) -> std::io::Result<BTreeMap<u64, Digest>> {
    let mut looks = spread(digests, zeros)?;
    let count = digests.chunk_count();
    let ends = [0, count.saturating_sub(HEAD_CHUNKS)];
    let landmarks = record.landmarks.iter().copied();
    for first in landmarks.chain(ends).filter(|first| *first < count) {
        let known = digests.get(first, HEAD_CHUNKS)?;
        let known = (first..).zip(known).filter(|(_, digest)| digest.is_known());
        looks.extend(known);
    }
    Ok(looks)
}

/// Some chunks of telling and different contents, spread over what is known.
fn spread(digests: &DigestFile, zeros: Zeros) -> std::io::Result<BTreeMap<u64, Digest>> {
    let regions = digests.region_count();
    let per_region = (LOOKS_MAX / regions.max(1) as usize).max(CANDIDATES_MIN);
    let (mut candidates, mut seen) = (Vec::new(), HashSet::new());
    for region in 0..regions {
        let first = region * REGION_CHUNKS;
        let known = digests.get(first, REGION_CHUNKS)?;
        let telling: Vec<(u64, Digest)> = (first..)
            .zip(known)
            .filter(|(_, digest)| zeros.are_not(*digest))
            .collect();
        let step = telling.len().div_ceil(per_region).max(1);
        candidates.extend(
            telling
                .into_iter()
                .step_by(step)
                .filter(|(_, digest)| seen.insert(*digest)),
        );
    }
    let step = candidates.len().div_ceil(LOOKS_MAX).max(1);
    Ok(candidates.into_iter().step_by(step).collect())
}
