//! Digests of chunks, and the tree over them.
//!
//! A chunk's digest is the first 128 bits of BLAKE3 over its content. Zero means: nothing is known. The tree has a fixed
//! fan-out of 1024: a region's digest covers the digests of 1024 chunks (64 MiB), the root covers all regions. Peers
//! that compare roots, then regions, then chunks find a difference in three exchanges whatever the disk's size.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use sys::block_tracker::CHUNK_LEN;

use crate::disk::message::is_zero;

/// Bytes of a digest.
pub const DIGEST_LEN: usize = 16;
/// Chunks per region.
pub const REGION_CHUNKS: u64 = 1024;

/// Digest of a chunk or of a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; DIGEST_LEN]);

impl Digest {
    /// Nothing is known of the chunk.
    pub const UNKNOWN: Self = Self([0; DIGEST_LEN]);

    /// Digest of a content.
    pub fn of(content: &[u8]) -> Self {
        // Empty space is common, and looking at it is cheaper than hashing it.
        if content.len() as u64 == CHUNK_LEN && is_zero(content) {
            return Self::of_zeros();
        }
        Self::hashed(content)
    }

    /// Digest of a chunk of zeros.
    pub fn of_zeros() -> Self {
        static ZEROS: OnceLock<Digest> = OnceLock::new();
        *ZEROS.get_or_init(|| Self::hashed(&[0; CHUNK_LEN as usize]))
    }

    fn hashed(content: &[u8]) -> Self {
        let mut digest = [0u8; DIGEST_LEN];
        digest.copy_from_slice(&blake3::hash(content).as_bytes()[..DIGEST_LEN]);
        Self(digest)
    }

    /// Whether something is known.
    pub fn is_known(self) -> bool {
        self != Self::UNKNOWN
    }
}

/// Root over the digests of regions, with the length of what they cover.
pub fn root(len: u64, regions: &[Digest]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"go2cloud disk 1");
    hasher.update(&len.to_le_bytes());
    for region in regions {
        hasher.update(&region.0);
    }
    *hasher.finalize().as_bytes()
}

/// One root for all disks of a volume: that of the only one, or the digest of all roots, one after the other.
pub fn root_of_all(roots: &[[u8; 32]]) -> [u8; 32] {
    match roots {
        [one] => *one,
        several => *blake3::hash(several.as_flattened()).as_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_have_the_digest_that_hashing_gives() {
        let mut chunk = vec![0; CHUNK_LEN as usize];
        assert_eq!(Digest::of(&chunk), Digest::hashed(&chunk));
        let short = &chunk[..4096];
        assert_eq!(Digest::of(short), Digest::hashed(short));
        chunk[65_535] = 1;
        assert_eq!(Digest::of(&chunk), Digest::hashed(&chunk));
        assert_ne!(Digest::of(&chunk), Digest::of_zeros());
    }
}
