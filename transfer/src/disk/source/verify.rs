//! Verification: the target re-reads its medium; differences are repaired and looked at again.

use std::sync::atomic::AtomicU64;

use crate::disk::digest::{Digest, hex, root};
use crate::disk::message::{DiskOrder, DiskReport};
use crate::disk::source::Run;
use crate::disk::source::session::{Session, out_of_turn};
use crate::error::{Error, Kind, Result};
use crate::progress::{Event, Verified};

/// Times the medium is re-read before it counts as broken.
const ATTEMPTS_MAX: u32 = 3;

/// What one re-reading found.
struct Finding {
    roots: Vec<[u8; 32]>,
    compared: u64,
    bytes: u64,
    differing: Vec<(usize, u64)>,
}

impl Run<'_> {
    /// Lets the target re-read its medium until it is equal, and keeps the result.
    pub(super) fn verify(&mut self, session: &Session<'_>, wire: &AtomicU64) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            let finding = self.re_read(session)?;
            if finding.differing.is_empty() {
                return self.accept(finding);
            }
            if self.frozen.is_some() {
                // What was read while frozen is gone; the source has moved on.
                return Err(Error::new(Kind::Medium, "trust the target's medium")
                    .because(format!("{} chunks read back wrong", finding.differing.len()))
                    .remedy(
                        "check the target's disk, then run again: the copy of the frozen moment is not whole",
                    ));
            }
            self.repaired += finding.differing.len() as u64;
            for (disk, chunk) in finding.differing {
                let digests = &self.disks[disk].digests;
                digests
                    .set(chunk, &[Digest::UNKNOWN])
                    .map_err(|error| Error::new(Kind::Medium, "keep the digests").because(error))?;
                self.disks[disk].look_again([chunk]);
            }
            self.copy(session, wire)?;
            self.end_round(session, wire)?;
        }
        Err(Error::new(Kind::Medium, "trust the target's medium")
            .because("it returns something else than was written, again and again")
            .remedy("replace the target's disk"))
    }

    fn re_read(&self, session: &Session<'_>) -> Result<Finding> {
        let mut differing = Vec::new();
        session.order(&DiskOrder::Verify)?;
        loop {
            match session.report()? {
                DiskReport::VerifyProgress { bytes, bytes_total } => {
                    self.say(&Event::Verifying { bytes, bytes_total });
                }
                DiskReport::Differs { disk, first, count } => {
                    let disk = usize::from(disk);
                    let known = self.disks.get(disk).map_or(0, |disk| disk.digests.chunk_count());
                    if count > known || first > known - count {
                        return Err(out_of_turn());
                    }
                    differing.extend((first..first + count).map(|chunk| (disk, chunk)));
                }
                DiskReport::Verified {
                    roots,
                    compared,
                    bytes,
                    ..
                } => {
                    return Ok(Finding {
                        roots,
                        compared,
                        bytes,
                        differing,
                    });
                }
                _ => return Err(out_of_turn()),
            }
        }
    }

    fn accept(&mut self, finding: Finding) -> Result<()> {
        let ours = self
            .disks
            .iter()
            .map(|disk| Ok(root(disk.facts.len, &disk.digests.regions()?)))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(|error| Error::new(Kind::Medium, "read the digests").because(error))?;
        if ours != finding.roots {
            return Err(Error::new(
                Kind::Corrupt,
                "compare source and target: their roots differ",
            ));
        }
        let root = match ours.as_slice() {
            [one] => *one,
            several => *blake3::hash(several.as_flattened()).as_bytes(),
        };
        self.verified = Some(Verified {
            root: hex(&root),
            compared: finding.compared,
            bytes: finding.bytes,
            repaired: self.repaired,
        });
        Ok(())
    }
}
