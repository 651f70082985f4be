//! Brings the digests of both sides into step, and ends rounds.
//!
//! The target is right about what it holds. Only regions whose digests differ are fetched chunk by chunk: three
//! exchanges, whatever the size of the disk.

use sys::chunk_set::ChunkSet;

use crate::compress::Governor;
use crate::disk::digest::{Digest, REGION_CHUNKS};
use crate::disk::message::{BATCH_CHUNKS_MAX, DiskOrder, DiskReport};
use crate::disk::source::copy::{Counters, Reader};
use crate::disk::source::disk::SourceDisk;
use crate::disk::source::session::{Session, out_of_turn};
use crate::error::{Error, Kind, Result};
use crate::protocol::Position;

/// How an attempt to end a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundEnd {
    /// Durable, sealed, equal.
    Sealed(Position),
    /// The target holds something else than this side thought: reconcile and copy what differs.
    RootsDiffer,
}

/// Takes over what the target says it holds; chunks about which this side was wrong have to be looked at again.
/// Returns how many they are.
///
/// # Errors
/// The session ended, or the digests cannot be written.
pub fn reconcile(disks: &[SourceDisk], session: &Session<'_>) -> Result<u64> {
    let mut wrong = 0;
    each_difference(disks, session, |number, first, ours, theirs| {
        let disk = &disks[usize::from(number)];
        disk.digests.set(first, theirs).map_err(not_kept)?;
        // Where this side knew nothing, the round looks at what is used anyway.
        let differ = (0..ours.len()).filter(|at| ours[*at] != theirs[*at] && ours[*at].is_known());
        let known: Vec<u64> = differ.map(|at| first + at as u64).collect();
        wrong += known.len() as u64;
        disk.look_again(known);
        Ok(())
    })?;
    Ok(wrong)
}

/// What the target turned out not to hold of what was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Chunks that it did not hold.
    pub missing: u64,
    /// Those of them that the source has changed since: they are gone. The others were sent again.
    pub gone: u64,
}

/// Sends again what the target does not hold of a state that this side must not replace by a later one: our digests stay,
/// and only what still fits them is sent.
///
/// # Errors
/// The session ended, or the digests cannot be read or written.
pub fn restore(
    disks: &[SourceDisk],
    session: &Session<'_>,
    counters: &Counters,
    governor: &Governor,
) -> Result<Restored> {
    let mut restored = Restored::default();
    let present: Vec<ChunkSet> = disks.iter().map(SourceDisk::present).collect();
    let mut reader = Reader::new(session, counters, governor)?;
    each_difference(disks, session, |number, first, ours, theirs| {
        let disk = &disks[usize::from(number)];
        let mut missing = Vec::new();
        for ((chunk, our), their) in (first..).zip(ours).zip(theirs) {
            if our == their {
                continue;
            }
            if our.is_known() && present[usize::from(number)].contains(chunk) {
                missing.push(chunk);
            } else {
                // Free space, from the beginning or by now: it does not matter what the target has there.
                disk.digests.set(chunk, &[*their]).map_err(not_kept)?;
            }
        }
        restored.missing += missing.len() as u64;
        for job in missing.chunks(BATCH_CHUNKS_MAX) {
            restored.gone += job.len() as u64 - reader.send_again(number, disk, job)?;
        }
        Ok(())
    })?;
    Ok(restored)
}

/// Fetches the target's digests where the two sides differ. `visit` gets the disk's number, a first chunk, and the digests
/// from that one on, ours and the target's.
fn each_difference(
    disks: &[SourceDisk],
    session: &Session<'_>,
    mut visit: impl FnMut(u16, u64, &[Digest], &[Digest]) -> Result<()>,
) -> Result<()> {
    for (number, disk) in disks.iter().enumerate() {
        let number = number as u16;
        session.order(&DiskOrder::FetchRegions { disk: number })?;
        let theirs = session.digests(disk.digests.region_count())?;
        let ours = disk.digests.regions().map_err(not_kept)?;
        for region in (0..ours.len()).filter(|region| ours[*region] != theirs[*region]) {
            let first = region as u64 * REGION_CHUNKS;
            let count = REGION_CHUNKS.min(disk.digests.chunk_count() - first);
            session.order(&DiskOrder::FetchChunks {
                disk: number,
                first,
                count,
            })?;
            let theirs = session.digests(count)?;
            let ours = disk.digests.get(first, count).map_err(not_kept)?;
            visit(number, first, &ours, &theirs)?;
        }
    }
    Ok(())
}

fn not_kept(error: std::io::Error) -> Error {
    Error::new(Kind::Medium, "keep the digests").because(error)
}

/// Schedules chunks that the target refused to replace: they are sent again, whatever it holds. Returns how many.
///
/// # Errors
/// The digests cannot be written, or the target asks for what is not there.
pub fn look_again_at_wanted(disks: &[SourceDisk], session: &Session<'_>) -> Result<u64> {
    let wanted = session.take_wanted();
    for (number, chunk) in &wanted {
        let disk = disks.get(usize::from(*number)).ok_or_else(out_of_turn)?;
        if *chunk >= disk.digests.chunk_count() {
            return Err(out_of_turn());
        }
        disk.digests.set(*chunk, &[Digest::UNKNOWN]).map_err(not_kept)?;
        disk.look_again([*chunk]);
    }
    Ok(wanted.len() as u64)
}

/// Roots of the digests, disk by disk.
///
/// # Errors
/// A digest file cannot be read.
pub fn roots(disks: &[SourceDisk]) -> Result<Vec<[u8; 32]>> {
    disks
        .iter()
        .map(SourceDisk::root)
        .collect::<std::io::Result<_>>()
        .map_err(|error| Error::new(Kind::Medium, "read the digests").because(error))
}

/// Asks the target to make everything sent durable and to compare its digests with ours.
///
/// # Errors
/// The session ended.
pub fn end_round(disks: &[SourceDisk], session: &Session<'_>) -> Result<RoundEnd> {
    session.order(&DiskOrder::EndRound {
        frames: session.frames_sent(),
        roots: roots(disks)?,
    })?;
    match session.report()? {
        DiskReport::RoundDone { position } => Ok(RoundEnd::Sealed(position)),
        DiskReport::RootsDiffer => Ok(RoundEnd::RootsDiffer),
        _ => Err(out_of_turn()),
    }
}
