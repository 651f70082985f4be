//! What the target durably holds: the position, which disks, and where writes are under way.
//!
//! `disks.journal` is small and replaced whole: written aside, synchronised, renamed, the folder synchronised. **The
//! rename makes progress durable.** Beside it lie the digests, one file per disk. The journal names the regions (64 MiB)
//! that may have been written since their digests were last made durable, and does so *before* the first write into
//! them; after a crash the digests of exactly those regions are computed anew from the medium.
//!
//! Layout: `G2DJ`, `u32` length, the record (postcard), 32 bytes of BLAKE3 over all before.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sys::sighting::Sighting;

use crate::disk::digest::Digest;
use crate::disk::identity::Identity;
use crate::disk::message::DISKS_MAX;
use crate::error::{Error, Kind, Result};
use crate::link::auth::random_id;
use crate::protocol::Position;

const MAGIC: &[u8; 4] = b"G2DJ";
const NAME: &str = "disks.journal";
/// Version of the record and of the digest files.
const VERSION: u16 = 3;

/// A disk as the journal knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// Where the copy lies.
    pub path: PathBuf,
    /// How much of the source disk is copied, in bytes.
    pub source_len: u64,
    /// What tells the source disk from others; zeros when nothing does.
    pub identity: Identity,
    /// Whether chunks without a digest read as zeros.
    pub blank: bool,
    /// Numbers of the chunks that change whenever the copy is used.
    pub landmarks: Vec<u64>,
    /// What the target showed of itself when the last session ended, after its last write; `None` while a session lasts.
    pub seen: Option<Seen>,
}

/// A [`Sighting`], shortened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Which medium.
    pub medium: [u8; 16],
    /// Moves on with every write.
    pub written: [u8; 16],
}

impl Seen {
    /// Looks at a target; `None` where the system does not tell enough.
    pub fn at(path: &Path) -> Option<Self> {
        let Sighting { medium, written } = Sighting::of(path).ok().flatten()?;
        let [medium, written] = [medium, written].map(|text| Digest::of(text.as_bytes()).0);
        Some(Self { medium, written })
    }
}

/// A region of a disk: 1024 chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Region {
    /// Which disk.
    pub disk: u16,
    /// Its number.
    pub number: u64,
}

/// The content of the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u16,
    /// What the source compares its baseline with.
    pub position: Position,
    /// Whether nothing was written since the position was given.
    pub sealed: bool,
    /// The disks.
    pub disks: Vec<DiskRecord>,
    /// Regions that may hold something else than their digests say.
    pub open_regions: BTreeSet<Region>,
}

/// The journal of a target.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    /// The folder, locked for as long as this lives.
    _lock: File,
    /// The content as it is on disk.
    pub record: Record,
}

impl Journal {
    /// Opens the journal in `folder`, which is made when missing.
    ///
    /// # Errors
    /// The folder cannot be used or somebody else uses it, or the journal is damaged or of another version.
    pub fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .map_err(|error| Error::io("make the journal's folder", folder, error))?;
        let lock =
            File::open(folder).map_err(|error| Error::io("open the journal's folder", folder, error))?;
        crate::lock::exclusively(&lock).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Error::new(Kind::Usage, "lock the journal")
                .on(folder)
                .because(error)
                .remedy("end the other receiver that uses it, or give this one a --journal of its own"),
            _ => Error::io("lock the journal", folder, error),
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            _lock: lock,
            record: read(folder)?,
        })
    }

    /// The digest file of a disk.
    pub fn digests_path(&self, disk: usize) -> PathBuf {
        self.folder.join(format!("disk-{disk}.digests"))
    }

    /// Replaces the content and returns when it is durable.
    ///
    /// # Errors
    /// The file system refuses; the old content holds.
    pub fn save(&mut self, mut record: Record) -> Result<()> {
        record.version = VERSION;
        let path = self.folder.join(NAME);
        self.write(&record, &path)
            .map_err(|error| Error::io("write the journal", path, error))?;
        self.record = record;
        Ok(())
    }

    fn write(&self, record: &Record, path: &Path) -> io::Result<()> {
        let aside = self.folder.join(format!("{NAME}.new"));
        let mut file = File::create(&aside)?;
        file.write_all(&encode(record).map_err(io::Error::other)?)?;
        file.sync_all()?;
        std::fs::rename(&aside, path)?;
        File::open(&self.folder)?.sync_all()
    }
}

/// Reads the record; an empty one when there is none.
pub(super) fn read(folder: &Path) -> Result<Record> {
    let path = folder.join(NAME);
    match std::fs::read(&path) {
        Ok(bytes) => parse(&bytes).ok_or_else(|| {
            Error::new(Kind::Corrupt, "understand the journal")
                .on(&path)
                .remedy("remove the folder to begin anew with --overwrite; everything is then sent again")
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
        Err(error) => Err(Error::io("read the journal", path, error)),
    }
}

/// Draws a new mark: whoever knew the position knows no longer what is here.
///
/// # Errors
/// The kernel gives no random numbers.
pub fn move_on(position: &mut Position) -> Result<()> {
    position.mark = random_id()?;
    Ok(())
}

fn encode(record: &Record) -> std::result::Result<Vec<u8>, postcard::Error> {
    let body = postcard::to_stdvec(record)?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&body);
    let checksum = blake3::hash(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Option<Record> {
    let (content, checksum) = bytes.split_last_chunk::<32>()?;
    let (head, body) = content.split_first_chunk::<8>()?;
    let len = u32::from_le_bytes(*head.last_chunk()?) as usize;
    if !head.starts_with(MAGIC) || len != body.len() || blake3::hash(content).as_bytes() != checksum {
        return None;
    }
    let (record, rest) = postcard::take_from_bytes::<Record>(body).ok()?;
    let sound = rest.is_empty() && record.version == VERSION && record.disks.len() <= DISKS_MAX;
    sound.then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        let mut record = journal.record.clone();
        record.disks.push(DiskRecord {
            path: "/dev/vdb".into(),
            source_len: 1 << 30,
            identity: [5; 16],
            blank: true,
            landmarks: vec![0, 16],
            seen: Some(Seen {
                medium: [1; 16],
                written: [2; 16],
            }),
        });
        record.open_regions.insert(Region { disk: 0, number: 7 });
        move_on(&mut record.position).unwrap();
        journal.save(record.clone()).unwrap();
        assert!(
            Journal::open(folder.path())
                .unwrap_err()
                .describe()
                .contains("end the other")
        );
        drop(journal);
        let again = Journal::open(folder.path()).unwrap().record;
        assert_eq!((again.disks, again.position), (record.disks, record.position));
        let path = folder.path().join(NAME);
        let mut bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert_eq!(parse(&bytes), None, "byte {at}");
            bytes[at] ^= 1;
        }
        bytes.truncate(20);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Journal::open(folder.path()).unwrap_err().kind(), Kind::Corrupt);
    }
}
