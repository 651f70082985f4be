//! A disk as it was at a moment, while it is being written: what a write is about to replace is put aside before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use sys::aligned::AlignedBuffer;
use sys::block_device::Access;
use sys::block_tracker::CHUNK_LEN;

use crate::disk::medium::{DiskMedium, Medium};
use crate::error::{Error, Kind, Result};

/// Room that is left to others on the file system of what is put aside, in bytes: the journal lies there, too.
const ROOM_MIN: u64 = 256 << 20;

/// The past of one disk of a target: nothing, until somebody asks for it to be kept.
#[derive(Debug)]
pub struct Past {
    /// The disk.
    pub path: PathBuf,
    kept: RwLock<Option<Arc<Kept>>>,
}

/// A disk as it was.
#[derive(Debug)]
pub struct Kept {
    disk: DiskMedium,
    /// What was replaced since, at its place; a sparse file.
    aside: File,
    replaced: Mutex<Replaced>,
}

#[derive(Debug, Default)]
struct Replaced {
    /// A bit for each chunk.
    chunks: Vec<u64>,
    /// Something was replaced that could not be put aside.
    is_lost: bool,
}

impl Past {
    /// Of the disk at `path`.
    pub fn of(path: PathBuf) -> Self {
        Self {
            path,
            kept: RwLock::default(),
        }
    }

    /// Keeps the disk as it is now, until [`Past::let_go`]. What is replaced goes into a file at `aside`, which has no name
    /// any more when this returns.
    ///
    /// # Errors
    /// The disk or the file cannot be opened.
    pub fn keep(&self, aside: &Path) -> Result<Arc<Kept>> {
        let mut slot = self.write_slot();
        let disk = DiskMedium::open(&self.path, Access::Read)?;
        let failed = |error| Error::io("make a file for what is replaced", aside, error);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(aside)
            .map_err(failed)?;
        std::fs::remove_file(aside).map_err(failed)?;
        let words = disk.length().div_ceil(CHUNK_LEN).div_ceil(64);
        let words = usize::try_from(words).map_err(|_| Error::new(Kind::Medium, "keep so large a disk"))?;
        let kept = Arc::new(Kept {
            disk,
            aside: file,
            replaced: Mutex::new(Replaced {
                chunks: vec![0; words],
                is_lost: false,
            }),
        });
        *slot = Some(Arc::clone(&kept));
        Ok(kept)
    }

    /// Keeps nothing any more.
    pub fn let_go(&self) {
        *self.write_slot() = None;
    }

    fn write_slot(&self) -> std::sync::RwLockWriteGuard<'_, Option<Arc<Kept>>> {
        self.kept.write().expect("no thread panics while it writes")
    }
}

impl Kept {
    /// Length of the disk in bytes.
    pub fn length(&self) -> u64 {
        self.disk.length()
    }

    /// Whether something was replaced that could not be put aside: what was read since may be an error.
    pub fn is_lost(&self) -> bool {
        self.lock().is_lost
    }

    /// Reads what was at `offset`.
    ///
    /// # Errors
    /// It is behind the end, the disk cannot be read, or it was replaced and could not be put aside.
    pub fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.length()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut chunk_bytes = AlignedBuffer::zeroed(CHUNK_LEN as usize);
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let (chunk, within) = (at / CHUNK_LEN, (at % CHUNK_LEN) as usize);
            let bytes = &mut chunk_bytes[..self.chunk_len(chunk)];
            let part = rest.len().min(bytes.len() - within);
            // Held while reading: nobody replaces the chunk meanwhile.
            let replaced = self.lock();
            if replaced.is_lost {
                return Err(io::Error::other(
                    "what the disk held was replaced and could not be put aside",
                ));
            }
            if replaced.has(chunk) {
                drop(replaced);
                self.aside.read_exact_at(bytes, chunk * CHUNK_LEN)?;
            } else {
                self.disk.read(bytes, chunk * CHUNK_LEN)?;
            }
            rest[..part].copy_from_slice(&bytes[within..within + part]);
            (at, rest) = (at + part as u64, &mut rest[part..]);
        }
        Ok(())
    }

    /// Puts aside what is in this range, unless that was done before. A failure is one of who reads the past, not of who
    /// writes the present.
    fn put_aside(&self, offset: u64, len: u64) {
        let mut bytes = None;
        for chunk in offset / CHUNK_LEN..(offset + len).div_ceil(CHUNK_LEN) {
            let mut replaced = self.lock();
            if replaced.is_lost {
                return;
            }
            if replaced.has(chunk) {
                continue;
            }
            let bytes = bytes.get_or_insert_with(|| AlignedBuffer::zeroed(CHUNK_LEN as usize));
            let bytes = &mut bytes[..self.chunk_len(chunk)];
            let saved = self
                .disk
                .read(bytes, chunk * CHUNK_LEN)
                .and_then(|()| self.check_room())
                .and_then(|()| self.aside.write_all_at(bytes, chunk * CHUNK_LEN));
            match saved {
                Ok(()) => replaced.add(chunk),
                Err(error) => {
                    tracing::warn!(disk = %self.disk.path.display(), %error, "the boot check loses its view of the disk");
                    replaced.is_lost = true;
                    // Nobody reads it any more; a device, in a test, has nothing to give back.
                    drop(self.aside.set_len(0));
                }
            }
        }
    }

    fn check_room(&self) -> io::Result<()> {
        let room = rustix::fs::fstatvfs(&self.aside)?;
        if room.f_bavail.saturating_mul(room.f_frsize) < ROOM_MIN {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn chunk_len(&self, chunk: u64) -> usize {
        CHUNK_LEN.min(self.length().saturating_sub(chunk * CHUNK_LEN)) as usize
    }

    fn lock(&self) -> MutexGuard<'_, Replaced> {
        self.replaced
            .lock()
            .expect("no thread panics while it puts aside")
    }
}

impl Replaced {
    fn has(&self, chunk: u64) -> bool {
        let word = self.chunks.get((chunk / 64) as usize);
        word.is_some_and(|word| word >> (chunk % 64) & 1 == 1)
    }

    fn add(&mut self, chunk: u64) {
        if let Some(word) = self.chunks.get_mut((chunk / 64) as usize) {
            *word |= 1 << (chunk % 64);
        }
    }
}

/// A medium whose past can be kept.
pub(super) struct WithPast {
    pub(super) medium: Box<dyn Medium>,
    pub(super) past: Arc<Past>,
}

impl WithPast {
    /// Changes the medium. Who asks for the past meanwhile waits: a change is before it or behind it.
    fn change(
        &self,
        offset: u64,
        len: u64,
        change: impl FnOnce(&dyn Medium) -> io::Result<()>,
    ) -> io::Result<()> {
        let kept = self.past.kept.read().expect("no thread panics while it writes");
        if let Some(kept) = &*kept {
            kept.put_aside(offset, len);
        }
        change(self.medium.as_ref())
    }
}

impl Medium for WithPast {
    fn length(&self) -> u64 {
        self.medium.length()
    }

    fn sector_len(&self) -> u64 {
        self.medium.sector_len()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.medium.read(buffer, offset)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(offset, bytes.len() as u64, |medium| medium.write(bytes, offset))
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(offset, len, |medium| medium.zero(offset, len))
    }

    fn sync(&self) -> io::Result<()> {
        self.medium.sync()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Not a multiple of the chunk, nor of a sector.
    const LEN: usize = 5 * CHUNK_LEN as usize + 1000;

    struct Bed {
        folder: tempfile::TempDir,
        past: Arc<Past>,
        before: Vec<u8>,
    }

    impl Bed {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("disk");
            let before: Vec<u8> = (0..LEN).map(|at| (at / 1000) as u8 | 1).collect();
            std::fs::write(&path, &before).unwrap();
            Self {
                past: Arc::new(Past::of(path)),
                folder,
                before,
            }
        }

        fn medium(&self) -> WithPast {
            WithPast {
                medium: Box::new(DiskMedium::open(&self.past.path, Access::WriteExclusive).unwrap()),
                past: Arc::clone(&self.past),
            }
        }

        fn keep(&self) -> Arc<Kept> {
            self.past.keep(&self.folder.path().join("aside")).unwrap()
        }
    }

    fn all(kept: &Kept) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; LEN];
        kept.read(&mut bytes, 0)?;
        Ok(bytes)
    }

    #[test]
    fn the_past_stays_whatever_is_written_and_zeroed() {
        let bed = Bed::new();
        let (medium, kept) = (bed.medium(), bed.keep());
        let new = AlignedBuffer::zeroed(2 * CHUNK_LEN as usize);
        medium.write(&new[..4096], CHUNK_LEN).unwrap();
        medium.write(&new, 2 * CHUNK_LEN - 4096).unwrap();
        medium.zero(4 * CHUNK_LEN, 4096).unwrap();
        medium.write(&new[..1000], 5 * CHUNK_LEN).unwrap();
        assert_eq!(all(&kept).unwrap(), bed.before);
        for (offset, len) in [(0, 0), (4095, 2), (CHUNK_LEN - 1, 70_000), (LEN as u64 - 1, 1)] {
            let mut part = vec![0; len];
            kept.read(&mut part, offset).unwrap();
            assert_eq!(part, bed.before[offset as usize..][..len]);
        }
        assert!(kept.read(&mut [0; 2], LEN as u64 - 1).is_err(), "behind the end");
        assert!(kept.read(&mut [0; 2], u64::MAX).is_err());
        let now = std::fs::read(&bed.past.path).unwrap();
        assert!(now != bed.before && now.len() == LEN);
        assert!(!bed.folder.path().join("aside").exists());
        // Another moment.
        bed.past.let_go();
        medium.write(&new[..4096], 0).unwrap();
        let later = bed.keep();
        assert_eq!(all(&later).unwrap()[..4096], new[..4096]);
    }

    #[test]
    fn who_reads_while_others_write_sees_the_past_only() {
        let bed = Bed::new();
        let (medium, kept) = (bed.medium(), bed.keep());
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let readers = [(); 2].map(|()| {
                scope.spawn(|| {
                    let mut reads = 0;
                    while !over.load(Ordering::Acquire) || reads == 0 {
                        assert_eq!(all(&kept).unwrap(), bed.before);
                        reads += 1;
                    }
                })
            });
            let writers = [3u8, 5].map(|value| {
                let medium = &medium;
                scope.spawn(move || {
                    let mut bytes = AlignedBuffer::zeroed(8192);
                    for step in 0..2000u64 {
                        bytes.fill(value.wrapping_mul(step as u8));
                        medium
                            .write(&bytes, step * 7919 % 39 * 8192 / 4096 * 4096)
                            .unwrap();
                    }
                })
            });
            for writer in writers {
                writer.join().unwrap();
            }
            over.store(true, Ordering::Release);
            for reader in readers {
                reader.join().unwrap();
            }
        });
        assert_ne!(std::fs::read(&bed.past.path).unwrap(), bed.before);
    }

    /// Whoever writes the present does not depend on the past.
    #[test]
    fn what_cannot_be_put_aside_is_an_error_of_who_reads_it() {
        let bed = Bed::new();
        let medium = bed.medium();
        let disk = DiskMedium::open(&bed.past.path, Access::Read).unwrap();
        let kept = Arc::new(Kept {
            disk,
            // Never takes anything.
            aside: File::options().read(true).write(true).open("/dev/full").unwrap(),
            replaced: Mutex::new(Replaced {
                chunks: vec![0; 1],
                is_lost: false,
            }),
        });
        *bed.past.write_slot() = Some(Arc::clone(&kept));
        assert_eq!(all(&kept).unwrap(), bed.before);
        let new = AlignedBuffer::zeroed(4096);
        medium.write(&new, 0).unwrap();
        assert!(kept.is_lost() && all(&kept).unwrap_err().to_string().contains("put aside"));
        assert_eq!(std::fs::read(&bed.past.path).unwrap()[..4096], new[..]);
    }
}
