//! Handing sealed contents to the peer: a header, then the runs it lacks, as they are on disk.
//!
//! The header names the version that the peer must have, and the manifest that it will have. Everything that comes in is
//! foreign: a run is believed only after each of its items was read, and before that the manifest does not change.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::{self, Output};
use super::limits::{EXPORT_PIECE_LEN_MAX, GROUP_LEN};
use super::log::{Log, LogName};
use super::manifest::Manifest;
use super::run::{self, Column, Run, item};
use super::scan::Scan;
use super::{Replica, Unfinished, Version, key, lock, record, varint, walk};
use crate::{Error, Kind, Result};

const MAGIC: &[u8; 8] = b"g2cEXP\x00\x01";

/// What the first piece says.
#[derive(Serialize, Deserialize)]
struct Header {
    /// What the peer must have; the default when everything follows.
    base: Version,
    /// Runs of the manifest that the peer keeps, oldest first.
    kept: u64,
    /// A manifest, serialised, with the exporter's file numbers.
    #[serde(with = "serde_bytes")]
    manifest: Vec<u8>,
}

/// The pieces of an export.
pub struct Export {
    header: Option<Vec<u8>>,
    runs: Vec<Arc<Run>>,
    run: usize,
    at: u64,
}

impl Export {
    pub(super) fn new(manifest: &Manifest, runs: &[Arc<Run>], have: Version) -> Self {
        let kept = runs_of(manifest, have).unwrap_or(0);
        let base = if kept > 0 { have } else { Version::default() };
        let header = Header {
            base,
            kept: kept as u64,
            manifest: manifest.encode(),
        };
        Self {
            header: Some(postcard::to_extend(&header, MAGIC.to_vec()).expect("headers can be serialised")),
            runs: runs[kept..].to_vec(),
            run: 0,
            at: 0,
        }
    }
}

/// How many of the oldest runs make up version `have`, if that is part of the history.
fn runs_of(manifest: &Manifest, have: Version) -> Option<usize> {
    if have
        == (Version {
            generation: manifest.generation,
            digest: manifest.state,
        })
    {
        return Some(manifest.runs.len());
    }
    let kept = manifest
        .runs
        .iter()
        .take_while(|run| run.generation_last <= have.generation)
        .count();
    let digest = kept.checked_sub(1).map(|last| manifest.runs[last].state)?;
    (digest == have.digest && have.generation <= manifest.generation).then_some(kept)
}

impl Iterator for Export {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Result<Vec<u8>>> {
        if let Some(header) = self.header.take() {
            return Some(Ok(header));
        }
        let run = self.runs.get(self.run)?;
        let len = (run.info().len - self.at).min(EXPORT_PIECE_LEN_MAX as u64);
        let mut piece = vec![0; len as usize];
        let read = run.file().read_exact_at(&mut piece, self.at);
        self.at += len;
        if self.at == run.info().len {
            self.run += 1;
            self.at = 0;
        }
        Some(
            read.map(|()| piece)
                .map_err(|e| Error::io("read the replica", "", e)),
        )
    }
}

pub(super) fn import(folder: &Path, pieces: &mut dyn Iterator<Item = Result<Vec<u8>>>) -> Result<Replica> {
    disk::create_folder(folder)?;
    let lock = lock(folder)?;
    let first = pieces.next().ok_or_else(|| refuse("nothing came"))??;
    let (header, theirs) = parse_header(&first).ok_or_else(|| refuse("its header is malformed"))?;
    let ours = if header.kept > 0 {
        Manifest::read(folder)?
    } else {
        None
    };
    let kept = kept_runs(&header, ours.as_ref())?;
    let mut next_number = match &ours {
        Some(ours) => ours.next_number,
        None => highest_number(folder)? + 1,
    };
    let mut manifest = Manifest {
        runs: Vec::new(),
        ..theirs.clone()
    };
    if let Some(ours) = &ours {
        manifest.runs.extend_from_slice(&ours.runs[..kept]);
    }
    let mut received = Received {
        pieces,
        piece: Vec::new(),
        at: 0,
    };
    for info in &theirs.runs[header.kept as usize..] {
        let mut info = info.clone();
        info.number = next_number;
        next_number += 1;
        received.write_run(folder, &info)?;
        verify(&Arc::new(Run::open(folder, &info)?))?;
        manifest.runs.push(info);
    }
    received.expect_end()?;
    manifest.log = next_number;
    manifest.next_number = next_number + 1;
    if !manifest.is_sound() {
        return Err(refuse("its runs do not follow ours"));
    }
    let name = LogName {
        migration: manifest.migration,
        generation: manifest.generation,
        number: manifest.log,
    };
    Log::create(folder, name)?;
    disk::sync_folder(folder)?;
    manifest.write(folder)?;
    Replica::with_manifest(folder, manifest, lock, Unfinished::Forget)
}

fn parse_header(piece: &[u8]) -> Option<(Header, Manifest)> {
    let body = piece
        .strip_prefix(MAGIC)
        .filter(|body| body.len() <= EXPORT_PIECE_LEN_MAX)?;
    let (header, rest): (Header, _) = postcard::take_from_bytes(body).ok()?;
    let manifest = Manifest::decode(&header.manifest)?;
    let base_fits =
        header.kept <= manifest.runs.len() as u64 && (header.kept > 0 || header.base == Version::default());
    (rest.is_empty() && base_fits).then_some((header, manifest))
}

/// How many of our own runs stay, once it is certain that they are what the header means.
fn kept_runs(header: &Header, ours: Option<&Manifest>) -> Result<usize> {
    if header.kept == 0 {
        return Ok(0);
    }
    let theirs = Manifest::decode(&header.manifest).ok_or_else(|| refuse("its header is malformed"))?;
    let Some(ours) = ours else {
        return Err(refuse("it builds upon a state that is not here"));
    };
    let version = Version {
        generation: ours.generation,
        digest: ours.state,
    };
    let last_kept = theirs.runs[header.kept as usize - 1].state;
    if version != header.base || last_kept != ours.state || ours.migration != theirs.migration {
        return Err(refuse("it builds upon another state than the one here"));
    }
    Ok(ours.runs.len())
}

fn highest_number(folder: &Path) -> Result<u64> {
    let failed = |e| Error::io("list the replica's folder", folder, e);
    let mut highest = 0;
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.split_once('-'))
            .and_then(|(_, number)| number.parse().ok());
        highest = number.unwrap_or(0).max(highest);
    }
    // A foreign file may have any number in its name; ours stay far below.
    Ok(highest.min(u64::MAX / 4))
}

struct Received<'a> {
    pieces: &'a mut dyn Iterator<Item = Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
}

impl Received<'_> {
    fn write_run(&mut self, folder: &Path, info: &run::RunInfo) -> Result<()> {
        let mut output = Output::create(&folder.join(run::file_name(info.number)))?;
        while output.len() < info.len {
            if self.at == self.piece.len() {
                self.piece = self.pieces.next().ok_or_else(|| refuse("it ends early"))??;
                self.at = 0;
            }
            let left = usize::try_from(info.len - output.len()).unwrap_or(usize::MAX);
            let end = self.piece.len().min(self.at.saturating_add(left));
            output.write(&self.piece[self.at..end])?;
            self.at = end;
        }
        output.sync()
    }

    fn expect_end(&mut self) -> Result<()> {
        if self.at == self.piece.len() && self.pieces.next().is_none() {
            return Ok(());
        }
        Err(refuse("it goes on after its end"))
    }
}

fn refuse(why: &str) -> Error {
    Error::new(Kind::Corrupt, "take over the peer's replica")
        .because(why)
        .remedy("connect again")
}

/// Reads every item of a foreign run.
fn verify(run: &Arc<Run>) -> Result<()> {
    let (mut entries, mut tombstones, mut content_len, mut raw_len) = (0u64, 0u64, 0u64, 0u64);
    for column in [Column::Entries, Column::Chunks, Column::Removed] {
        let mut scan = Scan::new(run, column);
        let mut last: Option<Vec<u8>> = None;
        scan.seek(&[])?;
        while scan.valid() {
            if last.as_deref().is_some_and(|last| scan.key() <= last) {
                return Err(run.corrupt("items are out of order"));
            }
            let sound = match column {
                Column::Entries => entry_is_sound(&scan),
                Column::Chunks => chunk_item_is_sound(&scan)?,
                Column::Removed => {
                    scan.kind() == item::REMOVED
                        && scan.payload().is_empty()
                        && last.as_ref().is_none_or(|last| !scan.key().starts_with(last))
                }
            };
            if !sound {
                return Err(run.corrupt("an item is malformed"));
            }
            match scan.kind() {
                item::TOMBSTONE => tombstones += 1,
                item::ENTRY | item::CHUNKED | item::TORN => {
                    entries += 1;
                    content_len = content_len.saturating_add(varint::take(&mut scan.payload()).unwrap_or(0));
                }
                _ => {}
            }
            let last = last.get_or_insert_default();
            last.clear();
            last.extend_from_slice(scan.key());
            scan.next()?;
        }
        raw_len += run.raw_len(column);
    }
    let info = run.info();
    if (entries, tombstones, content_len, raw_len)
        != (info.entries, info.tombstones, info.content_len, info.raw_len)
    {
        return Err(run.corrupt("its counts are not those of the manifest"));
    }
    Ok(())
}

fn entry_is_sound(scan: &Scan) -> bool {
    let Ok(path) = key::decode(scan.key()) else {
        return false;
    };
    match scan.kind() {
        item::TOMBSTONE => scan.payload().is_empty(),
        item::TORN => record::decode_entry(path, scan.payload()).is_some(),
        kind @ (item::ENTRY | item::CHUNKED) => record::decode_entry(path, scan.payload())
            .is_some_and(|entry| record::chunked(&entry).is_some() == (kind == item::CHUNKED)),
        _ => false,
    }
}

fn chunk_item_is_sound(scan: &Scan) -> Result<bool> {
    let path = walk::path_of_item(scan)?;
    let mut payload = scan.payload();
    let sound = match scan.kind() {
        item::LIMIT => varint::take(&mut payload).is_some() && payload.is_empty(),
        _ => {
            let group = scan
                .key()
                .last_chunk()
                .map_or(u64::MAX, |number| u64::from_be_bytes(*number));
            group < super::limits::CHUNK_NUMBER_MAX / GROUP_LEN as u64
                && record::apply_group(payload, &mut [None; GROUP_LEN]).is_some()
        }
    };
    Ok(sound && !path.is_empty() && key::decode(path).is_ok())
}
