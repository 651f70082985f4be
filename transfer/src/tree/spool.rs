//! Records that wait on disk: more than memory should hold, needed once more before the round ends.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Kind, Result};

/// Longest record: an entry with its attributes and two paths.
const RECORD_LEN_MAX: u32 = 4 * 1024 * 1024;
/// Records sorted in memory at a time.
const SORT_COUNT: usize = 64 * 1024;
/// Buffer of each sorted run while merging, in bytes: 10,000,000 records make some 160 runs, 2.5 MiB.
const MERGE_BUFFER: usize = 16 * 1024;

/// An append-only file of records without a name: it vanishes with the process.
pub struct Spool<T> {
    file: BufWriter<File>,
    path: PathBuf,
    count: u64,
    record: PhantomData<fn(T) -> T>,
}

impl<T: Serialize + DeserializeOwned> Spool<T> {
    /// A new, empty spool on the file system of `directory`.
    ///
    /// # Errors
    /// No file can be made there.
    pub fn new(directory: &Path) -> Result<Self> {
        let file = unnamed_file(directory)?;
        Ok(Self {
            file: BufWriter::new(file),
            path: directory.to_owned(),
            count: 0,
            record: PhantomData,
        })
    }

    /// Records so far.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a record.
    ///
    /// # Errors
    /// The disk is full.
    pub fn push(&mut self, record: &T) -> Result<()> {
        let bytes = postcard::to_stdvec(record)
            .map_err(|error| Error::new(Kind::Corrupt, "encode a record").because(error))?;
        let len = (bytes.len() as u32).to_le_bytes();
        let written = self
            .file
            .write_all(&len)
            .and_then(|()| self.file.write_all(&bytes));
        written.map_err(|error| self.failed(error))?;
        self.count += 1;
        Ok(())
    }

    /// The records in the order in which they came.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn read(self) -> Result<Records<T>> {
        let path = self.path.clone();
        let failed = |error| Error::io("read back a temporary file in", &path, error);
        let mut file = self
            .file
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        Ok(Records {
            file: BufReader::with_capacity(MERGE_BUFFER, file),
            left: self.count,
            path,
            record: PhantomData,
        })
    }

    /// The records in the order of `compare`, in bounded memory.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn sorted(self, compare: fn(&T, &T) -> Ordering) -> Result<Sorted<T>> {
        let directory = self.path.clone();
        let mut unsorted = self.read()?;
        let mut runs = Vec::new();
        loop {
            let mut chunk = unsorted.by_ref().take(SORT_COUNT).collect::<Result<Vec<T>>>()?;
            if chunk.is_empty() {
                break;
            }
            chunk.sort_by(compare);
            let mut run = Self::new(&directory)?;
            chunk.iter().try_for_each(|record| run.push(record))?;
            runs.push(run.read()?);
        }
        let mut sorted = Sorted {
            heap: BinaryHeap::with_capacity(runs.len()),
            runs,
            compare,
        };
        for run in 0..sorted.runs.len() {
            sorted.refill(run)?;
        }
        Ok(sorted)
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io("write a temporary file in", &self.path, error)
    }
}

fn unnamed_file(directory: &Path) -> Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(File::from(file)),
        // Kernels before 3.11 and some file systems do not know unnamed files.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
            named_and_unlinked(directory)
        }
        Err(error) => Err(Error::io("make a temporary file in", directory, error.into())),
    }
}

fn named_and_unlinked(directory: &Path) -> Result<File> {
    let name = crate::link::auth::random_id()?
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    let path = directory.join(format!(".spool-{name}"));
    let failed = |error| Error::io("make a temporary file", &path, error);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(failed)?;
    std::fs::remove_file(&path).map_err(failed)?;
    Ok(file)
}

/// Reads a spool back.
pub struct Records<T> {
    file: BufReader<File>,
    left: u64,
    path: PathBuf,
    record: PhantomData<fn(T) -> T>,
}

impl<T: DeserializeOwned> Records<T> {
    fn read_one(&mut self) -> Result<T> {
        let failed = |error| Error::io("read back a temporary file in", &self.path, error);
        let mut len = [0u8; 4];
        self.file.read_exact(&mut len).map_err(failed)?;
        let len = u32::from_le_bytes(len);
        if len > RECORD_LEN_MAX {
            return Err(Error::new(Kind::Corrupt, "read back a temporary file").on(&self.path));
        }
        let mut bytes = vec![0; len as usize];
        self.file.read_exact(&mut bytes).map_err(failed)?;
        postcard::from_bytes(&bytes).map_err(|error| {
            Error::new(Kind::Corrupt, "read back a temporary file")
                .on(&self.path)
                .because(error)
        })
    }
}

impl<T: DeserializeOwned> Iterator for Records<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(self.read_one())
    }
}

/// Merges sorted runs.
pub struct Sorted<T> {
    runs: Vec<Records<T>>,
    heap: BinaryHeap<Head<T>>,
    compare: fn(&T, &T) -> Ordering,
}

/// The first record of a run that has not been taken yet.
struct Head<T> {
    record: T,
    run: usize,
    compare: fn(&T, &T) -> Ordering,
}

impl<T> Ord for Head<T> {
    /// Reversed: the heap gives the greatest first, and we want the least.
    fn cmp(&self, other: &Self) -> Ordering {
        (self.compare)(&other.record, &self.record).then_with(|| other.run.cmp(&self.run))
    }
}

impl<T> PartialOrd for Head<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Head<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Head<T> {}

impl<T: DeserializeOwned> Sorted<T> {
    fn refill(&mut self, run: usize) -> Result<()> {
        if let Some(record) = self.runs[run].next() {
            self.heap.push(Head {
                record: record?,
                run,
                compare: self.compare,
            });
        }
        Ok(())
    }
}

impl<T: DeserializeOwned> Iterator for Sorted<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.heap.pop()?;
        Some(self.refill(head.run).map(|()| head.record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorting_many_runs_loses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::<u32>::new(directory.path()).unwrap();
        let count = SORT_COUNT as u32 * 2 + 17;
        for index in 0..count {
            spool.push(&(index.wrapping_mul(2_654_435_761) % count)).unwrap();
        }
        let sorted: Vec<u32> = spool.sorted(Ord::cmp).unwrap().map(Result::unwrap).collect();
        let mut expected: Vec<u32> = (0..count)
            .map(|index| index.wrapping_mul(2_654_435_761) % count)
            .collect();
        expected.sort_unstable();
        assert_eq!(sorted, expected);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
