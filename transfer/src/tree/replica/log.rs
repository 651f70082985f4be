//! The log: records of the generation under way, in the order in which they became true.
//!
//! Records are gathered into batches; a batch is compressed, checked and appended. What is durable is said by
//! [`Log::checkpoint`] alone: one `fdatasync`, after which an empty batch notes how far the log is durable. Each batch
//! carries that note, so that `open` can tell a torn end (cut off: nobody was told that it is durable) from damage
//! before a checkpoint (an error: somebody was).

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::disk::Output;
use super::limits::{BATCH_RAW_LEN_MAX, BATCH_RAW_LEN_TARGET, RECORD_LEN_MAX};
use super::record::Record;
use super::varint;
use crate::{Error, Kind, Result};

const MAGIC: &[u8; 8] = b"g2cLOG\x00\x01";
const BATCH_MAGIC: &[u8; 4] = b"g2cB";
/// Magic, migration, generation, number.
const HEADER_LEN: usize = 8 + 16 + 8 + 8;
/// The header and its check.
const FRONT_LEN: usize = HEADER_LEN + 16;
/// Magic, raw length, stored length, durable length, check.
const BATCH_HEADER_LEN: usize = 4 + 4 + 4 + 8 + 16;
const COMPRESSION_LEVEL: i32 = 1;
/// Bytes read at once while looking for batches behind a damaged one.
const SEARCH_LEN: usize = 4 * 1024 * 1024;

/// File name of log `number`.
pub(super) fn file_name(number: u64) -> String {
    format!("log-{number}")
}

/// Which log it is: bound into every check, so that no batch is taken for one of another log.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogName {
    pub migration: [u8; 16],
    /// Generation that was sealed last when the log began.
    pub generation: u64,
    pub number: u64,
}

impl LogName {
    fn header(&self) -> [u8; FRONT_LEN] {
        let mut front = [0; FRONT_LEN];
        front[..8].copy_from_slice(MAGIC);
        front[8..24].copy_from_slice(&self.migration);
        front[24..32].copy_from_slice(&self.generation.to_le_bytes());
        front[32..40].copy_from_slice(&self.number.to_le_bytes());
        let check = blake3::hash(&front[..HEADER_LEN]);
        front[HEADER_LEN..].copy_from_slice(&check.as_bytes()[..16]);
        front
    }

    /// Check of a batch: of the log's header, the batch's place, its header and its stored bytes.
    fn check(&self, at: u64, header: &[u8], stored: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(&self.header())
            .update(&at.to_le_bytes())
            .update(header)
            .update(stored);
        *hasher
            .finalize()
            .as_bytes()
            .first_chunk()
            .expect("a digest has 32 bytes")
    }
}

/// The log being written.
pub(super) struct Log {
    name: LogName,
    output: Output,
    pending: Vec<u8>,
    stored: Vec<u8>,
    compressor: zstd::bulk::Compressor<'static>,
    /// Length known to be durable, in bytes.
    durable: u64,
    /// Whether nothing was appended since the last checkpoint.
    clean: bool,
    any: bool,
    may_hold_renames: bool,
}

impl Log {
    /// Begins an empty log, durable except for its name.
    pub(super) fn create(folder: &Path, name: LogName) -> Result<Self> {
        let path = folder.join(file_name(name.number));
        let mut output = Output::create(&path)?;
        output.write(&name.header())?;
        output.sync()?;
        Self::over(name, output)
    }

    /// Continues a log without records.
    pub(super) fn resume(folder: &Path, name: LogName) -> Result<Self> {
        let path = folder.join(file_name(name.number));
        let output = Output::extend(&path, FRONT_LEN as u64)?;
        Self::over(name, output)
    }

    /// A log that a crash ended: only to be read.
    pub(super) fn closed(folder: &Path, name: LogName) -> Result<Self> {
        let path = folder.join(file_name(name.number));
        let len = std::fs::metadata(&path)
            .map_err(|e| Error::io("open the journal", &path, e))?
            .len();
        let output = Output::extend(&path, len)?;
        Ok(Self {
            any: true,
            may_hold_renames: true,
            ..Self::over(name, output)?
        })
    }

    fn over(name: LogName, output: Output) -> Result<Self> {
        Ok(Self {
            name,
            durable: output.len(),
            output,
            pending: Vec::new(),
            stored: Vec::new(),
            compressor: zstd::bulk::Compressor::new(COMPRESSION_LEVEL)
                .map_err(|e| Error::new(Kind::Medium, "set up compression").because(e))?,
            clean: true,
            any: false,
            may_hold_renames: false,
        })
    }

    /// Which log it is.
    pub(super) fn name(&self) -> LogName {
        self.name
    }

    /// Whether renames may be among the records.
    pub(super) fn may_hold_renames(&self) -> bool {
        self.may_hold_renames
    }

    /// Whether nothing was appended.
    pub(super) fn is_empty(&self) -> bool {
        !self.any
    }

    /// Adds a record to the batch under way.
    pub(super) fn append(&mut self, record: &Record) -> Result<()> {
        self.may_hold_renames |= matches!(record, Record::Rename { .. });
        self.any = true;
        self.clean = false;
        let start = self.pending.len();
        let pending = std::mem::take(&mut self.pending);
        self.pending =
            postcard::to_extend(record, pending).expect("records have no part that cannot be serialised");
        let len = self.pending.len() - start;
        assert!(
            len <= RECORD_LEN_MAX,
            "records are checked before they are appended"
        );
        // The length goes before the record; it is known only now.
        let mut prefix = Vec::with_capacity(4);
        varint::put(&mut prefix, len as u64);
        self.pending.splice(start..start, prefix);
        if self.pending.len() >= BATCH_RAW_LEN_TARGET {
            self.close_batch()?;
        }
        Ok(())
    }

    /// Writes nothing from here on, or what was held back.
    pub(super) fn hold(&mut self, held: bool) -> Result<()> {
        self.output.hold(held)
    }

    /// Makes everything appended durable.
    pub(super) fn checkpoint(&mut self) -> Result<()> {
        if self.clean {
            return Ok(());
        }
        if !self.pending.is_empty() {
            self.close_batch()?;
        }
        self.output.sync()?;
        self.durable = self.output.len();
        self.clean = true;
        self.close_batch()?;
        self.output.flush()
    }

    fn close_batch(&mut self) -> Result<()> {
        self.stored.clear();
        if !self.pending.is_empty() {
            self.stored
                .reserve(zstd::zstd_safe::compress_bound(self.pending.len()));
            self.compressor
                .compress_to_buffer(&self.pending[..], &mut self.stored)
                .map_err(|e| Error::new(Kind::Medium, "compress a batch of the journal").because(e))?;
        }
        let mut header = [0; BATCH_HEADER_LEN];
        header[..4].copy_from_slice(BATCH_MAGIC);
        header[4..8].copy_from_slice(&(self.pending.len() as u32).to_le_bytes());
        header[8..12].copy_from_slice(&(self.stored.len() as u32).to_le_bytes());
        header[12..20].copy_from_slice(&self.durable.to_le_bytes());
        let check = self.name.check(self.output.len(), &header[..20], &self.stored);
        header[20..].copy_from_slice(&check);
        self.output.write(&header)?;
        self.output.write(&self.stored)?;
        self.pending.clear();
        Ok(())
    }
}

/// Reads a log from its beginning.
pub(super) struct LogReader {
    name: LogName,
    path: PathBuf,
    file: File,
    len: u64,
    at: u64,
    stored: Vec<u8>,
    raw: Vec<u8>,
    next: usize,
    decompressor: zstd::bulk::Decompressor<'static>,
}

/// Header of a batch that passed its check.
struct Batch {
    raw_len: usize,
    stored_len: usize,
    durable: u64,
}

impl LogReader {
    /// Opens the log `name` and checks its header.
    pub(super) fn open(folder: &Path, name: LogName) -> Result<Self> {
        let path = folder.join(file_name(name.number));
        let failed = |e| Error::io("open the journal", &path, e);
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(corrupt(&path, "it is missing")),
            opened => opened.map_err(failed)?,
        };
        let len = file.metadata().map_err(failed)?.len();
        let mut front = [0; FRONT_LEN];
        if len < FRONT_LEN as u64 || file.read_exact_at(&mut front, 0).is_err() || front != name.header() {
            return Err(corrupt(&path, "its header is damaged, or it is another log"));
        }
        Ok(Self {
            name,
            path,
            file,
            len,
            at: FRONT_LEN as u64,
            stored: Vec::new(),
            raw: Vec::new(),
            next: 0,
            decompressor: zstd::bulk::Decompressor::new()
                .map_err(|e| Error::new(Kind::Medium, "set up decompression").because(e))?,
        })
    }

    /// Whether the log holds any record. Reads no further than the first.
    pub(super) fn has_records(&mut self) -> Result<bool> {
        while self.next >= self.raw.len() {
            if !self.read_batch()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next record; `None` at the end, be it clean or torn.
    pub(super) fn next(&mut self) -> Result<Option<Record>> {
        if !self.has_records()? {
            return Ok(None);
        }
        let record = self
            .parse()
            .ok_or_else(|| corrupt(&self.path, "a record is malformed"))?;
        Ok(Some(record))
    }

    fn parse(&mut self) -> Option<Record> {
        let mut rest = &self.raw[self.next..];
        let len = usize::try_from(varint::take(&mut rest)?).ok()?;
        if len > RECORD_LEN_MAX || len > rest.len() {
            return None;
        }
        let (record, tail) = rest.split_at(len);
        let (record, left): (Record, _) = postcard::take_from_bytes(record).ok()?;
        self.next = self.raw.len() - tail.len();
        (left.is_empty() && record.flaw().is_none()).then_some(record)
    }

    /// Reads the next batch; false at the end.
    fn read_batch(&mut self) -> Result<bool> {
        if self.at == self.len {
            return Ok(false);
        }
        let Some(batch) = self.load(self.at)? else {
            return self.end_at_damage();
        };
        self.raw.clear();
        self.next = 0;
        if batch.stored_len > 0 {
            self.raw.reserve(batch.raw_len);
            match self
                .decompressor
                .decompress_to_buffer(&self.stored[..], &mut self.raw)
            {
                Ok(len) if len == batch.raw_len => {}
                _ => return Err(corrupt(&self.path, "a batch does not decompress")),
            }
        }
        self.at += (BATCH_HEADER_LEN + batch.stored_len) as u64;
        Ok(true)
    }

    /// Reads the batch at `at` into `stored` if there is a whole one.
    fn load(&mut self, at: u64) -> Result<Option<Batch>> {
        let failed = |e| Error::io("read the journal", &self.path, e);
        let left = self.len - at;
        let mut header = [0; BATCH_HEADER_LEN];
        if left < BATCH_HEADER_LEN as u64 {
            return Ok(None);
        }
        self.file.read_exact_at(&mut header, at).map_err(failed)?;
        let number = |range: std::ops::Range<usize>| {
            header[range]
                .iter()
                .rev()
                .fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        let (raw_len, stored_len, durable) = (number(4..8), number(8..12), number(12..20));
        let bound = zstd::zstd_safe::compress_bound(BATCH_RAW_LEN_MAX) as u64;
        if header[..4] != *BATCH_MAGIC
            || raw_len > BATCH_RAW_LEN_MAX as u64
            || stored_len > bound
            || stored_len > left - BATCH_HEADER_LEN as u64
        {
            return Ok(None);
        }
        self.stored.resize(stored_len as usize, 0);
        self.file
            .read_exact_at(&mut self.stored, at + BATCH_HEADER_LEN as u64)
            .map_err(failed)?;
        let whole = self.name.check(at, &header[..20], &self.stored) == header[20..];
        Ok(whole.then_some(Batch {
            raw_len: raw_len as usize,
            stored_len: stored_len as usize,
            durable,
        }))
    }

    /// No whole batch at `self.at`. If a later one says that this place was durable, the log is damaged; else its end is
    /// torn.
    fn end_at_damage(&mut self) -> Result<bool> {
        let torn_at = self.at;
        let mut window = Vec::new();
        let mut at = torn_at;
        while self.len - at >= BATCH_HEADER_LEN as u64 {
            window.resize((self.len - at).min(SEARCH_LEN as u64) as usize, 0);
            self.file
                .read_exact_at(&mut window, at)
                .map_err(|e| Error::io("read the journal", &self.path, e))?;
            for offset in magics(&window) {
                if let Some(batch) = self.load(at + offset as u64)?
                    && batch.durable > torn_at
                {
                    return Err(corrupt(&self.path, &format!("the batch at {torn_at} is damaged")));
                }
            }
            at += (window.len() - (BATCH_MAGIC.len() - 1)) as u64;
        }
        self.len = torn_at;
        Ok(false)
    }
}

fn magics(window: &[u8]) -> impl Iterator<Item = usize> + '_ {
    window
        .windows(BATCH_MAGIC.len())
        .enumerate()
        .filter(|(_, bytes)| bytes == BATCH_MAGIC)
        .map(|(at, _)| at)
}

fn corrupt(path: &Path, what: &str) -> Error {
    Error::new(Kind::Corrupt, "read the journal").on(path).because(what).remedy(
        "restore the folder, or remove it: the source then fetches it from the target, and the target starts over",
    )
}
