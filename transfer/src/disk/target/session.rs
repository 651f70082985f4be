//! One session at the target: orders come in on the control connection, chunks on the data connections.
//!
//! A thread per data connection verifies and writes; one thread makes checkpoints; this one follows the orders. Any
//! failure breaks all connections; what was written is made durable nevertheless, and the source comes back.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use sys::aligned::AlignedBuffer;

use crate::disk::digest::root_of_all;
use crate::disk::message::{
    AREAS_MAX, DIGESTS_MAX, DISKS_MAX, DiskFacts, DiskOrder, DiskReport, KIND_DISK, KIND_DISK_DIGESTS,
    KIND_DISK_ORDER, KIND_DISK_REPORT,
};
use crate::disk::target::DiskTarget;
use crate::disk::target::batch::VerifiedBatch;
use crate::disk::target::past::Past;
use crate::disk::target::store::DiskStore;
use crate::disk::target::verify::verify;
use crate::error::{Error, Kind, Result};
use crate::link::frame::Codec;
use crate::link::tls::{Breaker, KEEP_ALIVE};
use crate::link::{Accepted, Frame, FrameReader, FrameWriter};
use crate::progress::{StopFlag, Verified};
use crate::protocol::{Failure, decode, encode};
use crate::receipt::Holdings;
use crate::signature::hex;

/// Longest time between two checkpoints while data flow.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(2);
/// How often the checkpoint thread looks whether something is to do.
const TICK: Duration = Duration::from_millis(100);
/// How often the session looks for a request to stop.
const WATCH: Duration = Duration::from_millis(50);
/// Pause while waiting for frames that are still on their way.
const NAP: Duration = Duration::from_millis(2);

/// Serves one session to its end.
///
/// # Errors
/// The disks are not admitted, a medium refuses, the source breaks the protocol, or the link is lost.
pub fn serve(
    accepted: Accepted,
    targets: &[DiskTarget],
    pasts: &[Arc<Past>],
    journal: &std::path::Path,
    holdings: &Holdings,
    stop: &StopFlag,
) -> Result<()> {
    let Accepted {
        mut control,
        report,
        data,
        breakers,
        ..
    } = accepted;
    let reports = Reports(Mutex::new(report));
    // After a crash the digests of what was under way are computed anew: that may take longer than silence is borne.
    let opened = alive_while(
        KEEP_ALIVE,
        || reports.send(&DiskReport::KeepAlive),
        || open(&mut control, targets, journal),
    );
    let store = match opened {
        Ok(store) => store.with_pasts(pasts),
        Err(error) => {
            reports.failed(&error);
            // The source closes when it has read the reason.
            drop(control.receive());
            return Err(error);
        }
    };
    let session = Session {
        store: &store,
        holdings,
        reports: &reports,
        failure: Mutex::new(None),
        ended: StopFlag::default(),
        breakers: &breakers,
    };
    let result = session.run(&mut control, data, stop);
    let saved = store.close();
    result.and(saved)
}

fn open(control: &mut FrameReader, targets: &[DiskTarget], journal: &std::path::Path) -> Result<DiskStore> {
    let out_of_turn = || {
        Error::new(
            Kind::Corrupt,
            "begin a session: the source did not name its disks",
        )
    };
    let frame = control.receive()?.ok_or_else(out_of_turn)?;
    let DiskOrder::Open { disks } = decode(KIND_DISK_ORDER, frame)? else {
        return Err(out_of_turn());
    };
    if disks.len() > DISKS_MAX || disks.iter().any(|disk| disk.areas.len() > AREAS_MAX) {
        return Err(out_of_turn());
    }
    let facts: Vec<DiskFacts> = disks;
    DiskStore::open(targets, &facts, journal)
}

/// Does `work`, and calls `sign` after every `pause` meanwhile.
fn alive_while<R>(pause: Duration, sign: impl Fn() -> Result<()> + Send, work: impl FnOnce() -> R) -> R {
    let (done, is_done) = crossbeam_channel::bounded::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while is_done.recv_timeout(pause) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
                if sign().is_err() {
                    return; // the next word after the work fails, too
                }
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// The report connection, shared by all threads of a session.
struct Reports(Mutex<FrameWriter>);

impl Reports {
    fn send(&self, report: &DiskReport) -> Result<()> {
        self.send_frame(&encode(KIND_DISK_REPORT, report)?)
    }

    fn send_frame(&self, frame: &Frame) -> Result<()> {
        let mut writer = self.0.lock().expect("no thread panics while it reports");
        writer.send(frame).map(drop)
    }

    /// Tells the source why; when even that fails there is nobody to tell.
    fn failed(&self, error: &Error) {
        let why = match error.kind() {
            Kind::Retry | Kind::Stopped => Failure::Stopped,
            Kind::Refused => Failure::OtherMigration,
            Kind::Medium => Failure::Medium,
            Kind::Usage => Failure::OtherMigration,
            Kind::Corrupt => Failure::Protocol,
        };
        let message = error.describe();
        drop(self.send(&DiskReport::Failed { why, message }));
    }
}

struct Session<'a> {
    store: &'a DiskStore,
    /// What may be attested.
    holdings: &'a Holdings,
    reports: &'a Reports,
    /// The first failure of any thread.
    failure: Mutex<Option<Error>>,
    ended: StopFlag,
    breakers: &'a [Breaker],
}

impl Session<'_> {
    fn run(&self, control: &mut FrameReader, data: Vec<FrameReader>, stop: &StopFlag) -> Result<()> {
        self.store.restart_numbering();
        let (due, checkpoints) = crossbeam_channel::bounded(1);
        let result = std::thread::scope(|scope| {
            for mut connection in data {
                let due = due.clone();
                scope.spawn(move || self.guard(self.write_frames(&mut connection, &due)));
            }
            scope.spawn(|| self.guard(self.make_checkpoints(&checkpoints)));
            scope.spawn(|| self.guard(self.watch(stop)));
            let result = self.holdings.seal(self.store.position().into());
            let result = result.and_then(|()| {
                self.reports.send(&DiskReport::Opened {
                    position: self.store.position(),
                    lens: self.store.disk_lens(),
                    changed: self.store.changed,
                })
            });
            let result = result.and_then(|()| self.follow_orders(control));
            self.ended.stop();
            // Wakes the checkpoint thread.
            let _ = due.try_send(());
            if let Err(error) = &result {
                // The control connection fails, too, when another thread has failed: that one has told why.
                if self.lock_failure().is_none() {
                    self.reports.failed(error);
                }
                self.break_off();
            }
            result
        });
        // The source waits for the end of the reports.
        self.break_off();
        match self.lock_failure().take() {
            // The control connection fails because another thread broke it off: that thread knows why.
            Some(error) => Err(error),
            None => result,
        }
    }

    fn break_off(&self) {
        self.breakers.iter().for_each(Breaker::break_off);
    }

    fn lock_failure(&self) -> std::sync::MutexGuard<'_, Option<Error>> {
        self.failure
            .lock()
            .expect("no thread panics while it reports a failure")
    }

    /// Turns the failure of a thread into the end of the session.
    fn guard(&self, result: Result<()>) {
        if let Err(error) = result
            && !self.ended.is_stopped()
        {
            self.reports.failed(&error);
            self.lock_failure().get_or_insert(error);
            self.break_off();
        }
    }

    /// Keeps the source from thinking that nobody is there, and looks for a request to stop.
    fn watch(&self, stop: &StopFlag) -> Result<()> {
        let mut spoke_at = Instant::now();
        while !self.ended.sleep(WATCH) {
            if stop.is_stopped() {
                return Err(Error::new(Kind::Stopped, "go on: the receiver was told to stop"));
            }
            if spoke_at.elapsed() >= KEEP_ALIVE {
                self.reports.send(&DiskReport::KeepAlive)?;
                spoke_at = Instant::now();
            }
        }
        Ok(())
    }

    fn write_frames(&self, connection: &mut FrameReader, due: &Sender<()>) -> Result<()> {
        let disk_lens = self.store.disk_lens();
        let mut spare = AlignedBuffer::new();
        while let Some(frame) = connection.receive()? {
            if frame.kind != KIND_DISK {
                continue; // keeps the connection alive
            }
            let number = frame.number;
            let payload = frame.decode()?;
            let (batch, other) = VerifiedBatch::open(payload, &disk_lens, spare)?;
            spare = other;
            let disk = batch.disk;
            let applied = self.store.apply(number, &batch)?;
            connection.reuse(batch.into_buffer());
            for chunk in applied.refused {
                self.reports.send(&DiskReport::Wanted { disk, chunk })?;
            }
            if applied.is_checkpoint_due {
                // Full means that one is due already.
                let _ = due.try_send(());
            }
        }
        Ok(())
    }

    fn make_checkpoints(&self, due: &Receiver<()>) -> Result<()> {
        let mut acknowledged = 0;
        let mut saved_at = Instant::now();
        loop {
            let asked = due.recv_timeout(TICK).is_ok();
            if self.ended.is_stopped() {
                return Ok(());
            }
            if !asked && saved_at.elapsed() < CHECKPOINT_INTERVAL {
                continue;
            }
            let frames = self.store.checkpoint()?;
            saved_at = Instant::now();
            if frames > acknowledged {
                acknowledged = frames;
                self.reports.send(&DiskReport::Durable { frames })?;
            }
        }
    }

    fn follow_orders(&self, control: &mut FrameReader) -> Result<()> {
        while let Some(frame) = control.receive()? {
            match decode(KIND_DISK_ORDER, frame)? {
                DiskOrder::KeepAlive => {}
                DiskOrder::Open { .. } => {
                    return Err(Error::new(Kind::Corrupt, "open the disks of a session twice"));
                }
                DiskOrder::FetchChunks { disk, first, count } => self.send_chunks(disk, first, count)?,
                DiskOrder::FetchRegions { disk } => self.send_regions(disk)?,
                DiskOrder::EndRound { frames, roots } => self.end_round(frames, &roots)?,
                DiskOrder::Verify => {
                    self.store.checkpoint()?;
                    verify(self.store, |report| {
                        self.attest(report)?;
                        self.reports.send(report)
                    })?;
                }
                DiskOrder::Finish => {
                    self.store.checkpoint()?;
                    let changes = self.store.adapt()?;
                    self.reports.send(&DiskReport::Finished { changes })?;
                }
                DiskOrder::Goodbye => return Ok(()),
            }
        }
        Ok(())
    }

    fn end_round(&self, frames: u64, roots: &[[u8; 32]]) -> Result<()> {
        while self.store.applied() < frames {
            if self.lock_failure().is_some() {
                return Ok(()); // the thread that failed has said why
            }
            std::thread::sleep(NAP);
        }
        let durable = self.store.checkpoint()?;
        self.reports.send(&DiskReport::Durable { frames: durable })?;
        if self.store.roots()? != roots {
            return self.reports.send(&DiskReport::RootsDiffer);
        }
        let position = self.store.seal()?;
        self.holdings.seal(position.into())?;
        self.reports.send(&DiskReport::RoundDone { position })
    }

    /// Notes a verification that found no difference.
    fn attest(&self, report: &DiskReport) -> Result<()> {
        if let DiskReport::Verified {
            roots,
            compared,
            bytes,
            differences: 0,
        } = report
        {
            self.holdings.verify(Verified {
                root: hex(&root_of_all(roots)),
                compared: *compared,
                bytes: *bytes,
                repaired: 0,
            })?;
        }
        Ok(())
    }

    fn disk(&self, disk: u16) -> Result<&crate::disk::target::store::StoredDisk> {
        self.store
            .disks
            .get(usize::from(disk))
            .ok_or_else(|| Error::new(Kind::Corrupt, "send the digests of a disk that is not there"))
    }

    fn send_chunks(&self, disk: u16, first: u64, count: u64) -> Result<()> {
        let digests = &self.disk(disk)?.digests;
        let failed = |error| Error::new(Kind::Medium, "read the digests").because(error);
        let end = first.saturating_add(count).min(digests.chunk_count());
        let mut at = first;
        while at < end {
            let part = DIGESTS_MAX.min(end - at);
            let bytes: Vec<u8> = digests
                .get(at, part)
                .map_err(failed)?
                .iter()
                .flat_map(|digest| digest.0)
                .collect();
            self.send_digests(&bytes)?;
            at += part;
        }
        Ok(())
    }

    fn send_regions(&self, disk: u16) -> Result<()> {
        let regions = self.disk(disk)?.digests.regions();
        let regions = regions.map_err(|error| Error::new(Kind::Medium, "read the digests").because(error))?;
        for part in regions.chunks(DIGESTS_MAX as usize) {
            let bytes: Vec<u8> = part.iter().flat_map(|digest| digest.0).collect();
            self.send_digests(&bytes)?;
        }
        Ok(())
    }

    /// Digests of blank space are zeros: worth compressing.
    fn send_digests(&self, bytes: &[u8]) -> Result<()> {
        let mut frame = Frame::message(KIND_DISK_DIGESTS, bytes);
        let packed = zstd::bulk::compress(bytes, 1)
            .map_err(|error| Error::new(Kind::Corrupt, "compress digests").because(error))?;
        if packed.len() < bytes.len() {
            frame.codec = Codec::Zstd;
            frame.payload = packed[..].into();
        }
        self.reports.send_frame(&frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn long_work_gives_signs_of_life_and_ends_them() {
        let signs = AtomicU32::new(0);
        let sign = || {
            signs.fetch_add(1, Ordering::AcqRel);
            Ok(())
        };
        let pause = Duration::from_millis(5);
        let result = alive_while(pause, sign, || {
            while signs.load(Ordering::Acquire) < 3 {
                std::thread::sleep(Duration::from_millis(1));
            }
            "done"
        });
        assert_eq!(result, "done");
        let after = signs.load(Ordering::Acquire);
        std::thread::sleep(pause * 4);
        assert_eq!(signs.load(Ordering::Acquire), after, "none after the end");
    }
}
