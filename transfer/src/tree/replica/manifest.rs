//! The manifest: which files make up the replica. Replacing it is what makes a seal or an import true.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::entry::Digest;
use super::disk;
use super::limits::{MANIFEST_LEN_MAX, MANIFEST_RUNS_MAX};
use super::run::RunInfo;
use crate::{Error, Kind, Result};

const MAGIC: &[u8; 8] = b"g2cMAN\x00\x01";
/// Longest magic, body and digest.
const FILE_LEN_MAX: u64 = (MANIFEST_LEN_MAX + 40) as u64;

/// What a replica is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Whose replica it is.
    pub migration: [u8; 16],
    /// Number of generations sealed.
    pub generation: u64,
    /// Digest of the history of sealed contents: equal exactly when the same records were sealed in the same generations.
    pub state: Digest,
    /// Number that the next file gets. Numbers are never used twice.
    pub next_number: u64,
    /// Number of the log.
    pub log: u64,
    /// Runs, oldest first.
    pub runs: Vec<RunInfo>,
}

impl Manifest {
    /// Serialises and checks.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = postcard::to_extend(self, MAGIC.to_vec()).expect("manifests can be serialised");
        let digest = Digest::of(&bytes);
        bytes.extend_from_slice(&digest.0);
        bytes
    }

    /// Parses untrusted bytes.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (checked, digest) = bytes.split_last_chunk::<32>()?;
        let body = checked.strip_prefix(MAGIC)?;
        if body.len() > MANIFEST_LEN_MAX || Digest::of(checked).0 != *digest {
            return None;
        }
        let (manifest, rest): (Self, _) = postcard::take_from_bytes(body).ok()?;
        (rest.is_empty() && manifest.is_sound()).then_some(manifest)
    }

    /// Whether its parts fit together.
    pub(super) fn is_sound(&self) -> bool {
        let generations_follow = self.runs.windows(2).all(|pair| {
            // Renames chained in one generation make several runs of it.
            pair[0].generation_last <= pair[1].generation_first
        });
        let ranges = self.runs.iter().all(|run| {
            (1..=run.generation_last).contains(&run.generation_first)
                && run.generation_last <= self.generation
        });
        let numbers =
            self.runs.iter().all(|run| run.number < self.next_number) && self.log < self.next_number;
        let state = self.runs.last().map_or(Digest::default(), |run| run.state);
        generations_follow
            && ranges
            && numbers
            && self.next_number < u64::MAX / 2
            && self.generation < u64::MAX / 2
            && self.runs.len() <= MANIFEST_RUNS_MAX
            && state == self.state
    }

    /// Reads the manifest of `folder`; `None` when there is none.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = file(folder);
        let bytes = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > FILE_LEN_MAX => Vec::new(),
            Ok(_) => fs::read(&path).map_err(|e| Error::io("read the replica's manifest", &path, e))?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read the replica's manifest", &path, error)),
        };
        match Self::decode(&bytes) {
            Some(manifest) => Ok(Some(manifest)),
            None => Err(Error::new(Kind::Corrupt, "read the replica's manifest").on(&path).remedy(
                "restore the folder, or remove it: the source then fetches it from the target, and the target starts over",
            )),
        }
    }

    /// Makes this the manifest of `folder`, durably: the commit of a seal or an import.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        disk::replace(&file(folder), &self.encode())
    }
}

/// Path of the manifest in `folder`.
pub(super) fn file(folder: &Path) -> PathBuf {
    folder.join("MANIFEST")
}
