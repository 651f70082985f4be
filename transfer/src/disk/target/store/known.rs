//! Knows a copy again by its content: names of devices change with the next boot.

use std::collections::BTreeSet;
use std::path::Path;

use sys::aligned::AlignedBuffer;
use sys::block_device::Access;
use sys::block_tracker::CHUNK_LEN;

use crate::disk::digest::{Digest, REGION_CHUNKS};
use crate::disk::digest_file::DigestFile;
use crate::disk::medium::{DiskMedium, Medium};
use crate::disk::source::read::bytes_of;

/// Chunks looked at, at most, to know a copy again; in every region each so manieth.
const LOOKS_MAX: usize = 64;
const LOOKS_STEP: usize = 37;

/// Whether a disk of this name holds what the journal says: names of devices change with the next boot. Looks at some
/// known chunks outside of the open regions; one that is as it should be is enough, for others may be damaged.
pub(super) fn is_our_copy(path: &Path, source_len: u64, digests: &Path, open: &BTreeSet<u64>) -> bool {
    let Ok(medium) = DiskMedium::open(path, Access::Read) else {
        return false;
    };
    let chunk_count = source_len.div_ceil(CHUNK_LEN);
    let Ok(digests) = DigestFile::open(digests, chunk_count) else {
        return false;
    };
    let mut looked = 0;
    for region in (0..digests.region_count()).filter(|region| !open.contains(region)) {
        let first = region * REGION_CHUNKS;
        let Ok(known) = digests.get(first, REGION_CHUNKS) else {
            return false;
        };
        let known = known.iter().enumerate().filter(|(_, digest)| digest.is_known());
        for (at, digest) in known.step_by(LOOKS_STEP) {
            let bytes = bytes_of(&(first + at as u64..first + at as u64 + 1), source_len);
            let mut content = AlignedBuffer::zeroed((bytes.end - bytes.start) as usize);
            looked += 1;
            if medium.read(&mut content, bytes.start).is_ok() && Digest::of(&content) == *digest {
                return true;
            }
            if looked >= LOOKS_MAX {
                return false;
            }
        }
    }
    // Nothing was durable outside of the open regions: a copy that was interrupted at its very beginning.
    looked == 0
}
