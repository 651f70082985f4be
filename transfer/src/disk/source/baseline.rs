//! Whether the digests of the last run still say what the target holds.
//!
//! `disks.baseline` exists only while they do: it is removed before the first change of a run and written after the
//! target has sealed a round. It names the target's position; the target's journal is the truth.
//!
//! Layout: `G2DB`, the content (postcard), 32 bytes of BLAKE3 over both.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk::message::DiskFacts;
use crate::error::{Error, Result};
use crate::protocol::Position;

const MAGIC: &[u8; 4] = b"G2DB";
const VERSION: u16 = 3;

/// What the digest files beside it speak of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    version: u16,
    /// The target's position when the digests were equal on both sides.
    pub position: Position,
    /// The disks.
    pub disks: Vec<(PathBuf, DiskFacts)>,
}

impl Baseline {
    /// A baseline at `position`.
    pub fn new(position: Position, disks: Vec<(PathBuf, DiskFacts)>) -> Self {
        Self {
            version: VERSION,
            position,
            disks,
        }
    }
}

fn path_in(folder: &Path) -> PathBuf {
    folder.join("disks.baseline")
}

/// The digest file of a disk.
pub fn digests_path(folder: &Path, disk: usize) -> PathBuf {
    folder.join(format!("disk-{disk}.digests"))
}

/// Takes the baseline away, so that a crash from now on leaves none. `None` when there is none that can be trusted.
///
/// # Errors
/// The folder cannot be written to.
pub fn take(folder: &Path) -> Result<Option<Baseline>> {
    let path = path_in(folder);
    let failed = |error| Error::io("take the baseline", &path, error);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    std::fs::remove_file(&path).map_err(failed)?;
    sync_folder(folder).map_err(failed)?;
    Ok(parse(&bytes))
}

/// Puts a baseline back after the digest files are durable.
///
/// # Errors
/// The folder cannot be written to.
pub fn put(folder: &Path, baseline: &Baseline) -> Result<()> {
    let path = path_in(folder);
    let write = || {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(postcard::to_stdvec(baseline).map_err(io::Error::other)?);
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        let aside = path.with_extension("new");
        let mut file = std::fs::File::create(&aside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&aside, &path)?;
        sync_folder(folder)
    };
    write().map_err(|error| Error::io("write the baseline", &path, error))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}

fn parse(bytes: &[u8]) -> Option<Baseline> {
    let (content, checksum) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(content).as_bytes() != checksum {
        return None;
    }
    let (baseline, rest) = postcard::take_from_bytes::<Baseline>(content.strip_prefix(MAGIC)?).ok()?;
    (rest.is_empty() && baseline.version == VERSION).then_some(baseline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_baseline_is_gone_until_it_is_put_back() {
        let folder = tempfile::tempdir().unwrap();
        let facts = DiskFacts {
            len: 1 << 20,
            needed_len: 1 << 20,
            sector_len: 512,
            identity: [3; 16],
            areas: vec![0],
        };
        let position = Position {
            generation: 3,
            mark: [7; 16],
        };
        let baseline = Baseline::new(position, vec![("/dev/sda".into(), facts)]);
        assert_eq!(take(folder.path()).unwrap(), None);
        put(folder.path(), &baseline).unwrap();
        assert_eq!(take(folder.path()).unwrap(), Some(baseline.clone()));
        assert_eq!(take(folder.path()).unwrap(), None, "a crash leaves none");
        put(folder.path(), &baseline).unwrap();
        let path = path_in(folder.path());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[6] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(take(folder.path()).unwrap(), None, "a damaged one is none");
    }
}
