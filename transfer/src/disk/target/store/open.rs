//! Opens the disks of a target: which of them are known, which are new, which changed meanwhile; repairs after a crash.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use sys::block_tracker::CHUNK_LEN;

use super::founded::Founded;
use super::known::recognise;
use super::landmarks::Landmarks;
use super::{DiskStore, Ledger, StoredDisk, read_digests};
use crate::disk::digest::{Digest, REGION_CHUNKS};
use crate::disk::digest_file::DigestFile;
use crate::disk::medium::{DiskMedium, Medium};
use crate::disk::message::DiskFacts;
use crate::disk::target::DiskTarget;
use crate::disk::target::admit::{Admitted, Standing, admit};
use crate::disk::target::journal::{DiskRecord, Journal, Record, Region, move_on};
use crate::error::{Error, Kind, Result};

impl DiskStore {
    /// Opens the disks and their journal in `folder`, and repairs after a crash.
    ///
    /// # Errors
    /// A disk is not admitted ([`admit`]), or the journal or a medium cannot be used.
    pub fn open(targets: &[DiskTarget], sources: &[DiskFacts], folder: &Path) -> Result<Self> {
        if targets.len() != sources.len() {
            return Err(Error::new(Kind::Usage, "match the disks of source and target").remedy(format!(
                "the source sends {} and the target has {}: name as many --into-disk as --disk, in the same order",
                sources.len(),
                targets.len()
            )));
        }
        let journal = Journal::open(folder)?;
        let mut record = journal.record.clone();
        let mut opening = Opening {
            known: std::mem::take(&mut record.disks),
            record,
            doubted: BTreeSet::new(),
            journal,
        };
        // All are admitted before anything known of one is given up: the refusal of another one costs nothing.
        let pairs = || targets.iter().zip(sources).enumerate();
        let admitted = pairs()
            .map(|(number, (target, source))| opening.admit(number, target, source))
            .collect::<Result<Vec<_>>>()?;
        let disks = pairs()
            .zip(admitted)
            .map(|((number, (target, source)), admitted)| opening.disk(number, target, source, admitted))
            .collect::<Result<Vec<_>>>()?;
        let changed = opening.recover(&disks)?;
        Ok(Self {
            disks,
            changed,
            journal: Mutex::new(opening.journal),
            ledger: Mutex::new(Ledger::default()),
            checkpoint: Mutex::new(()),
        })
    }
}

/// A store that is being opened.
struct Opening {
    journal: Journal,
    /// The disks of the session before.
    known: Vec<DiskRecord>,
    /// What the journal will say.
    record: Record,
    /// Regions of which nothing is believed, because somebody else wrote to their disk.
    doubted: BTreeSet<Region>,
}

impl Opening {
    /// Opens the disk with this number, if it may be written to.
    fn admit(&self, number: usize, target: &DiskTarget, source: &DiskFacts) -> Result<Admitted> {
        let digests_path = self.journal.digests_path(number);
        admit(target, source, |medium| {
            self.look(number, medium, target, source, &digests_path)
        })
    }

    /// Takes up what is known of an admitted disk.
    fn disk(
        &mut self,
        number: usize,
        target: &DiskTarget,
        source: &DiskFacts,
        admitted: Admitted,
    ) -> Result<StoredDisk> {
        let path = target.copy_path();
        let path = std::path::absolute(&path).unwrap_or(path);
        let digests_path = self.journal.digests_path(number);
        let failed = |error| Error::io("open the digests", &digests_path, error);
        let is_changed = admitted.standing == Standing::Changed;
        // Onto a smaller disk goes what fits; that it suffices is admitted.
        let source_len = source.len.min(admitted.medium.length());
        let digests = DigestFile::open(&digests_path, source_len.div_ceil(CHUNK_LEN)).map_err(failed)?;
        let is_ours = is_changed || admitted.standing == Standing::Ours;
        let same = self
            .known
            .get(number)
            .filter(|disk| is_ours && disk.source_len == source_len && !admitted.is_blank);
        let blank = same.map_or(admitted.is_blank, |disk| disk.blank && !is_changed);
        let known = same.map_or(&[][..], |disk| &disk.landmarks);
        let landmarks = Landmarks::new(&source.areas, known);
        let is_same = same.is_some();
        if !is_same {
            move_on(&mut self.record.position)?;
            digests.clear().and_then(|()| digests.sync()).map_err(failed)?;
            let open = &mut self.record.open_regions;
            open.retain(|region| usize::from(region.disk) != number);
        } else if is_changed {
            self.doubt(number, &digests).map_err(failed)?;
        }
        self.record.disks.push(DiskRecord {
            path: path.clone(),
            source_len,
            identity: source.identity,
            blank,
            landmarks: landmarks.list(),
            seen: None,
        });
        Ok(StoredDisk {
            path,
            medium: Box::new(admitted.medium),
            digests,
            source_len,
            disk_len: source.len,
            image: target.image().map(Path::to_owned),
            blank: AtomicBool::new(blank),
            founded: Founded::new(is_same),
            landmarks,
        })
    }

    /// What the journal knows of a disk, by its content.
    fn look(
        &self,
        number: usize,
        medium: &DiskMedium,
        target: &DiskTarget,
        source: &DiskFacts,
        digests: &Path,
    ) -> Result<Standing> {
        let Some(known) = self.known.get(number) else {
            return Ok(Standing::New);
        };
        let standing = recognise(medium, known, digests, &regions_of(&self.record, number))?;
        if standing == Standing::Replaced || !is_other_source(known, source) {
            return Ok(standing);
        }
        if target.overwrite {
            return Ok(Standing::Replaced);
        }
        Err(other_source(&medium.path))
    }

    /// Believes nothing any more of what is known of a disk.
    fn doubt(&mut self, number: usize, digests: &DigestFile) -> std::io::Result<()> {
        for region in 0..digests.region_count() {
            let known = digests.get(region * REGION_CHUNKS, REGION_CHUNKS)?;
            if known.iter().any(|digest| digest.is_known()) {
                self.doubted.insert(Region {
                    disk: number as u16,
                    number: region,
                });
            }
        }
        Ok(())
    }

    /// Computes the digests of open regions anew, and makes the record of the disks durable. Returns how many chunks of
    /// the doubted ones turned out to be something else.
    fn recover(&mut self, disks: &[StoredDisk]) -> Result<u64> {
        for disk in &mut self.known {
            disk.seen = None;
        }
        let written: BTreeSet<Region> = self.record.open_regions.clone();
        self.record.open_regions.extend(&self.doubted);
        if self.record.disks != self.known || !self.record.open_regions.is_empty() {
            move_on(&mut self.record.position)?;
        }
        if !self.doubted.is_empty() {
            // Whoever is interrupted here begins anew: digests that are true already would vouch for those that are not.
            self.journal.save(self.record.clone())?;
        }
        let mut changed = 0;
        for region in std::mem::take(&mut self.record.open_regions) {
            let Some(disk) = disks.get(usize::from(region.disk)) else {
                continue;
            };
            let differing = read_again(disk, region.number)
                .map_err(|error| Error::io("read back what is on the target", &disk.path, error))?;
            if !written.contains(&region) {
                changed += differing;
            }
        }
        self.journal.save(self.record.clone())?;
        Ok(changed)
    }
}

/// Computes the digests of a region anew. Returns how many of the known ones were others.
fn read_again(disk: &StoredDisk, region: u64) -> std::io::Result<u64> {
    let first = region * REGION_CHUNKS;
    let end = (first + REGION_CHUNKS).min(disk.digests.chunk_count());
    if first >= end {
        return Ok(0);
    }
    let before = disk.digests.get(first, end - first)?;
    let now = read_digests(disk, first, end - first)?;
    disk.digests.set(first, &now)?;
    disk.digests.sync()?;
    let differs = |(before, now): &(Digest, Digest)| before.is_known() && before != now;
    Ok(before.into_iter().zip(now).filter(differs).count() as u64)
}

/// Whether the journal knows the disk as the copy of another source disk.
fn is_other_source(disk: &DiskRecord, source: &DiskFacts) -> bool {
    let nobody = [0; 16];
    disk.identity != source.identity && disk.identity != nobody && source.identity != nobody
}

fn other_source(path: &Path) -> Error {
    Error::new(Kind::Usage, "write over the copy of another disk")
        .on(path)
        .remedy(
            "name the source's disks in the order of the first run; if the source's disk was replaced or partitioned anew, \
             allow it with --overwrite",
        )
}

pub(super) fn regions_of(record: &Record, disk: usize) -> BTreeSet<u64> {
    let own = record
        .open_regions
        .iter()
        .filter(|region| usize::from(region.disk) == disk);
    own.map(|region| region.number).collect()
}
