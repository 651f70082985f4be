//! The chunks of a copy that change whenever it is used: where its partitions begin, and where file systems do that no
//! partition table tells of, in logical volumes and the like. They are seen as they are written.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use sys::block_tracker::CHUNK_LEN;

use crate::disk::message::AREAS_MAX;
use crate::disk::target::batch::VerifiedBatch;

/// Kept of one disk, at most; more are not looked at.
const LANDMARKS_MAX: usize = 2 * AREAS_MAX;
/// What begins a file system, and where in its chunk: ext, XFS, btrfs (64 KiB behind its beginning).
const SIGNS: [(usize, &[u8]); 3] = [(1024 + 56, &[0x53, 0xef]), (0, b"XFSB"), (64, b"_BHRfS_M")];
/// Begins the header of LUKS, which stays as it is when the file system within is used.
const LUKS_MAGIC: &[u8] = b"LUKS\xba\xbe";
/// Where the file system within may begin, in bytes behind the header, as cryptsetup lays it out: 2 MiB with version 1 of the
/// header, 16 MiB with version 2, 4 MiB in older releases.
const LUKS_PAYLOADS: [u64; 3] = [2 << 20, 4 << 20, 16 << 20];

/// Numbers of chunks to look at.
#[derive(Debug)]
pub(super) struct Landmarks(Mutex<BTreeSet<u64>>);

impl Landmarks {
    /// Where the source's areas begin (bytes), and what is known from before.
    pub(super) fn new(areas: &[u64], known: &[u64]) -> Self {
        let areas = areas.iter().map(|start| start / CHUNK_LEN);
        Self(Mutex::new(
            areas.chain(known.iter().copied()).take(LANDMARKS_MAX).collect(),
        ))
    }

    /// Looks at what has been written.
    pub(super) fn note(&self, batch: &VerifiedBatch) {
        for (at, chunk) in batch.chunks.iter().enumerate() {
            let content = batch.content(at..at + 1);
            let has = |(place, sign): &(usize, &[u8])| content.get(*place..place + sign.len()) == Some(*sign);
            if SIGNS.iter().any(has) {
                self.add(chunk.number);
            }
            if content.starts_with(LUKS_MAGIC) {
                LUKS_PAYLOADS
                    .iter()
                    .for_each(|offset| self.add(chunk.number + offset / CHUNK_LEN));
            }
        }
    }

    fn add(&self, chunk: u64) {
        let mut chunks = self.lock();
        if chunks.len() < LANDMARKS_MAX {
            chunks.insert(chunk);
        }
    }

    /// All of them, ascending.
    pub(super) fn list(&self) -> Vec<u64> {
        self.lock().iter().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.0.lock().expect("no thread panics while it notes a chunk")
    }
}
