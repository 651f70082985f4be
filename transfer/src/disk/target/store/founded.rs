//! The first chunks of a copy that tell it from other disks: with them begins the proof that a disk is ours.
//!
//! Until there is one on a disk, nothing shows after a crash that what is half written there is our own work, and the disk
//! would be refused as somebody else's. So the first frame that holds such a chunk is written alone, its digests are durable
//! before it is written, and it is durable before anything else is.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::digest::Digest;
use crate::disk::target::batch::VerifiedBatch;
use crate::disk::target::store::StoredDisk;

/// Whether a disk has a durable chunk that tells it from others.
#[derive(Debug)]
pub(super) struct Founded {
    is_done: AtomicBool,
    /// Held while the first ones are written.
    founding: Mutex<()>,
}

impl Founded {
    /// Of a disk that is known again, or of one that is not.
    pub(super) fn new(is_ours: bool) -> Self {
        Self {
            is_done: AtomicBool::new(is_ours),
            founding: Mutex::default(),
        }
    }

    /// Does `write`, which writes `batch` to `disk`; if these are its first chunks, so that a crash leaves a proof.
    ///
    /// # Errors
    /// Those of `write`, or the digests or the disk cannot be made durable.
    pub(super) fn write<W>(
        &self,
        disk: &StoredDisk,
        batch: &VerifiedBatch,
        write: impl FnOnce() -> io::Result<W>,
    ) -> io::Result<W> {
        if self.is_done.load(Ordering::Acquire) {
            return write();
        }
        let founding = self.founding.lock().expect("no thread panics while it writes");
        // What expects something else here may be refused; zeros prove nothing.
        let telling = batch
            .chunks
            .iter()
            .filter(|chunk| !chunk.expected.is_known() && chunk.blocks != 0);
        let telling: Vec<(u64, Digest)> = telling.map(|chunk| (chunk.number, chunk.digest)).collect();
        if self.is_done.load(Ordering::Acquire) || telling.is_empty() {
            drop(founding);
            return write();
        }
        disk.digests.set_each(&telling)?;
        disk.digests.sync()?;
        let written = write()?;
        disk.medium.sync()?;
        self.is_done.store(true, Ordering::Release);
        Ok(written)
    }
}
