//! Re-reads the medium and compares it with the digests of what was written.
//!
//! Everything is read with `O_DIRECT` after a checkpoint: what is hashed is what the medium holds.

use sys::block_tracker::CHUNK_LEN;

use crate::disk::digest::REGION_CHUNKS;
use crate::disk::message::DiskReport;
use crate::disk::target::store::{DiskStore, read_digests};
use crate::error::{Error, Result};

/// Chunks hashed between two reports: 16 MiB.
const STEP_CHUNKS: u64 = REGION_CHUNKS / 4;

/// Re-reads every known chunk of every disk. Differences are reported one range at a time and forgotten.
///
/// # Errors
/// A medium cannot be read, or `report` fails.
pub fn verify(store: &DiskStore, mut report: impl FnMut(&DiskReport) -> Result<()>) -> Result<()> {
    let bytes_total = store.disk_lens().iter().sum();
    let (mut bytes, mut compared, mut differences, mut passed) = (0, 0, 0, 0);
    for (number, disk) in store.disks.iter().enumerate() {
        let failed = |error| Error::io("read back the copy", &disk.path, error);
        for first in (0..disk.digests.chunk_count()).step_by(STEP_CHUNKS as usize) {
            let expected = disk.digests.get(first, STEP_CHUNKS).map_err(failed)?;
            let chunks = expected.len() as u64;
            passed += chunks * CHUNK_LEN;
            let Some(start) = expected.iter().position(|digest| digest.is_known()) else {
                continue;
            };
            let end = expected
                .iter()
                .rposition(|digest| digest.is_known())
                .unwrap_or(start)
                + 1;
            let found = read_digests(disk, first + start as u64, (end - start) as u64).map_err(failed)?;
            bytes += found.len() as u64 * CHUNK_LEN;
            let known = (first + start as u64..)
                .zip(expected[start..end].iter().zip(&found))
                .filter(|(_, (expected, _))| expected.is_known());
            let (mut known_count, mut differing) = (0, Vec::new());
            for (chunk, (expected, found)) in known {
                known_count += 1;
                if expected != found {
                    differing.push(chunk);
                }
            }
            compared += known_count;
            for range in differing.chunk_by(|a, b| a + 1 == *b) {
                let (first, count) = (range[0], range.len() as u64);
                differences += count;
                store.forget(number, first, count)?;
                report(&DiskReport::Differs {
                    disk: number as u16,
                    first,
                    count,
                })?;
            }
            report(&DiskReport::VerifyProgress {
                bytes: passed,
                bytes_total,
            })?;
        }
        if differences > 0 {
            store.settle(number)?;
        }
    }
    report(&DiskReport::Verified {
        roots: store.roots()?,
        compared,
        bytes,
        differences,
    })
}
