//! The digests of all chunks of a disk, kept in a file: 256 MiB per TiB of disk, never in memory.
//!
//! The file holds 16 bytes per chunk, chunk after chunk, nothing else. It is not durable by itself: whoever relies on it
//! after a crash calls [`DigestFile::sync`] at the right moment. While it is *held*, changes stay in memory: a frozen
//! source must not write to its own disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::digest::{DIGEST_LEN, Digest, REGION_CHUNKS};

/// Digests by chunk number.
#[derive(Debug)]
pub struct DigestFile {
    file: File,
    chunk_count: AtomicU64,
    /// Changes made while held; `None` when not held.
    held: Mutex<Option<BTreeMap<u64, Digest>>>,
    /// Digests of regions computed before and still true.
    regions: Mutex<Vec<Option<Digest>>>,
}

impl DigestFile {
    /// Opens the file for `chunk_count` chunks, making it when missing; new chunks are unknown.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn open(path: &Path, chunk_count: u64) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        file.set_len(chunk_count * DIGEST_LEN as u64)?;
        Ok(Self {
            file,
            chunk_count: AtomicU64::new(chunk_count),
            held: Mutex::new(None),
            regions: Mutex::new(vec![None; chunk_count.div_ceil(REGION_CHUNKS) as usize]),
        })
    }

    /// Number of chunks.
    pub fn chunk_count(&self) -> u64 {
        self.chunk_count.load(Ordering::Acquire)
    }

    /// Number of regions.
    pub fn region_count(&self) -> u64 {
        self.chunk_count().div_ceil(REGION_CHUNKS)
    }

    /// Forgets the chunks from `chunk_count` on.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn shrink(&self, chunk_count: u64) -> io::Result<()> {
        assert!(
            chunk_count <= self.chunk_count(),
            "a disk does not grow while it is copied"
        );
        self.file.set_len(chunk_count * DIGEST_LEN as u64)?;
        self.chunk_count.store(chunk_count, Ordering::Release);
        let mut regions = self.lock_regions();
        regions.truncate(self.region_count() as usize);
        // The last one covers less than before.
        if let Some(last) = regions.last_mut() {
            *last = None;
        }
        Ok(())
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn clear(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.set_len(self.chunk_count() * DIGEST_LEN as u64)?;
        self.lock_regions().fill(None);
        Ok(())
    }

    /// The digests of chunks `first..first + count`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn get(&self, first: u64, count: u64) -> io::Result<Vec<Digest>> {
        let count = count.min(self.chunk_count().saturating_sub(first));
        let mut bytes = vec![0u8; count as usize * DIGEST_LEN];
        self.file.read_exact_at(&mut bytes, first * DIGEST_LEN as u64)?;
        let mut digests: Vec<Digest> = bytes
            .as_chunks::<DIGEST_LEN>()
            .0
            .iter()
            .map(|bytes| Digest(*bytes))
            .collect();
        if let Some(held) = &*self.lock_held() {
            for (chunk, digest) in held.range(first..first + count) {
                digests[(chunk - first) as usize] = *digest;
            }
        }
        Ok(digests)
    }

    /// Sets the digests of the chunks from `first` on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set(&self, first: u64, digests: &[Digest]) -> io::Result<()> {
        assert!(
            first + digests.len() as u64 <= self.chunk_count(),
            "chunk numbers are checked before"
        );
        if let Some(held) = &mut *self.lock_held() {
            held.extend(
                digests
                    .iter()
                    .enumerate()
                    .map(|(at, digest)| (first + at as u64, *digest)),
            );
        } else {
            let bytes: Vec<u8> = digests.iter().flat_map(|digest| digest.0).collect();
            self.file.write_all_at(&bytes, first * DIGEST_LEN as u64)?;
        }
        let last = first + digests.len().max(1) as u64 - 1;
        let mut regions = self.lock_regions();
        for region in first / REGION_CHUNKS..=last / REGION_CHUNKS {
            regions[region as usize] = None;
        }
        Ok(())
    }

    /// Sets digests of ascending chunks, neighbours together.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_each(&self, changed: &[(u64, Digest)]) -> io::Result<()> {
        for run in changed.chunk_by(|a, b| a.0 + 1 == b.0) {
            let values: Vec<Digest> = run.iter().map(|(_, digest)| *digest).collect();
            self.set(run[0].0, &values)?;
        }
        Ok(())
    }

    /// The digests of ascending chunks.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn get_each(&self, chunks: &[u64]) -> io::Result<Vec<Digest>> {
        let mut digests = Vec::with_capacity(chunks.len());
        for run in chunks.chunk_by(|a, b| a + 1 == *b) {
            digests.extend(self.get(run[0], run.len() as u64)?);
        }
        Ok(digests)
    }

    /// Keeps changes in memory from now on.
    pub fn hold(&self) {
        self.lock_held().get_or_insert_default();
    }

    /// Writes what was held and writes through again.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn release(&self) -> io::Result<()> {
        let held = self.lock_held().take();
        for (chunk, digest) in held.unwrap_or_default() {
            self.file.write_all_at(&digest.0, chunk * DIGEST_LEN as u64)?;
        }
        Ok(())
    }

    /// The digest over the chunk digests of a region.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn region(&self, region: u64) -> io::Result<Digest> {
        // Locked throughout: a change meanwhile waits, and then clears what is stored here.
        let mut regions = self.lock_regions();
        if let Some(digest) = regions[region as usize] {
            return Ok(digest);
        }
        let digests = self.get(region * REGION_CHUNKS, REGION_CHUNKS)?;
        let bytes: Vec<u8> = digests.iter().flat_map(|digest| digest.0).collect();
        Ok(*regions[region as usize].insert(Digest::of(&bytes)))
    }

    /// The digests of all regions.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn regions(&self) -> io::Result<Vec<Digest>> {
        (0..self.region_count())
            .map(|region| self.region(region))
            .collect()
    }

    /// A digest over the chunks `first..end`, for instance of one partition.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn root_of(&self, first: u64, end: u64) -> io::Result<[u8; 32]> {
        let mut hasher = blake3::Hasher::new();
        let mut at = first;
        while at < end {
            let digests = self.get(at, REGION_CHUNKS.min(end - at))?;
            if digests.is_empty() {
                break;
            }
            at += digests.len() as u64;
            for digest in digests {
                hasher.update(&digest.0);
            }
        }
        Ok(*hasher.finalize().as_bytes())
    }

    /// Returns when all changes are durable.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn lock_held(&self) -> std::sync::MutexGuard<'_, Option<BTreeMap<u64, Digest>>> {
        self.held
            .lock()
            .expect("no thread panics while it holds the changes")
    }

    fn lock_regions(&self) -> std::sync::MutexGuard<'_, Vec<Option<Digest>>> {
        self.regions
            .lock()
            .expect("no thread panics while it holds the regions")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_changes_are_seen_but_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("digests");
        let digests = DigestFile::open(&path, 3000).unwrap();
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        digests.set(1023, &[one, one]).unwrap();
        let before = digests.regions().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        digests.hold();
        digests.set(1024, &[two]).unwrap();
        assert_eq!(
            digests.get(1022, 4).unwrap(),
            [Digest::UNKNOWN, one, two, Digest::UNKNOWN]
        );
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        let after = digests.regions().unwrap();
        assert!(before[0] == after[0] && before[1] != after[1] && before[2] == after[2]);
        digests.release().unwrap();
        assert_eq!(DigestFile::open(&path, 3000).unwrap().regions().unwrap(), after);
        digests.shrink(1025).unwrap();
        assert_eq!((digests.chunk_count(), digests.region_count()), (1025, 2));
        assert_ne!(digests.regions().unwrap()[1], after[1]);
        assert_eq!(digests.get(1024, 4).unwrap(), [two]);
        let digests = DigestFile::open(&path, 3000).unwrap();
        digests.clear().unwrap();
        assert_eq!(digests.get(0, 9000).unwrap(), vec![Digest::UNKNOWN; 3000]);
    }
}
