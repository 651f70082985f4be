//! The disk engine's part of the cutover: how long the last round would take by what the trackers marked, and the
//! frozen reading, which looks once more for writers beneath the file systems.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sys::block_device::BlockDevice;
use sys::block_tracker::CHUNK_LEN;

use crate::disk::source::Run;
use crate::disk::source::disk::{SourceDisk, Written};
use crate::disk::source::session::Session;
use crate::error::{Error, Kind, Result};
use crate::progress::Event;
use crate::source::cutover::{Engine, FIXED, Forecast, Freeze, HandedOver, cut_over};
use crate::source::freeze_points::{ToFreeze, of_disks};

/// Further readings while frozen, for writers beneath the file systems.
const RAW_ROUNDS_MAX: u32 = 3;
/// Rounds shorter than this say nothing about the pace.
const PACE_BYTES_MIN: u64 = 4 << 20;

/// How fast chunks are looked at and sent.
#[derive(Debug, Default)]
pub struct Pace {
    bytes_per_second: Option<f64>,
}

impl Pace {
    /// A round took so long.
    pub fn add(&mut self, bytes: u64, took: Duration) {
        if bytes >= PACE_BYTES_MIN || (self.bytes_per_second.is_none() && bytes > 0) {
            self.bytes_per_second = Some(bytes as f64 / took.as_secs_f64().max(0.000_1));
        }
    }

    /// How long `bytes` will take, frozen.
    pub fn forecast(&self, bytes: u64) -> Duration {
        let seconds = self.bytes_per_second.map_or(0.0, |pace| bytes as f64 / pace);
        FIXED + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX - FIXED)
    }
}

/// A run that is being cut over.
struct CutOver<'r, 'p, 's, 'l> {
    run: &'r mut Run<'p>,
    session: &'s Session<'l>,
    wire: &'s AtomicU64,
    /// Whether something was written beneath the frozen file systems.
    raw_writers: bool,
    /// Whether a tracker could not tell.
    is_blind: bool,
}

impl Run<'_> {
    /// Hands over, if the run is to end so.
    pub(super) fn cut_over(&mut self, session: &Session<'_>, wire: &AtomicU64) -> Result<()> {
        if let Some(freeze) = &self.source.freeze {
            self.frozen = Some(self.freeze(freeze, session, wire)?);
        }
        Ok(())
    }

    /// Makes what the target holds a state of one moment. Returns how many chunks were sent.
    pub(super) fn make_moment(&mut self, session: &Session<'_>, wire: &AtomicU64) -> Result<u64> {
        let Some(freeze) = self.source.freeze.as_ref().map(Freeze::without_commands) else {
            return self.next_round(session, wire);
        };
        let sent_before = self.counters.sent.load(Ordering::Relaxed);
        self.freeze(&freeze, session, wire)?;
        Ok(self.counters.sent.load(Ordering::Relaxed) - sent_before)
    }

    /// Rounds until the forecast is short enough, then the frozen round.
    fn freeze(&mut self, freeze: &Freeze, session: &Session<'_>, wire: &AtomicU64) -> Result<HandedOver> {
        if self.round_open {
            self.next_round(session, wire)?;
        }
        let mut engine = CutOver {
            run: self,
            session,
            wire,
            raw_writers: false,
            is_blind: false,
        };
        cut_over(&mut engine, freeze)
    }
}

impl Engine for CutOver<'_, '_, '_, '_> {
    fn next_round(&mut self) -> Result<()> {
        self.run.next_round(self.session, self.wire).map(drop)
    }

    fn forecast(&mut self, freeze: &Freeze) -> Forecast {
        let bytes = self.run.disks.iter().map(SourceDisk::peek).sum::<u64>() * CHUNK_LEN;
        let since = self.run.round_began.elapsed().as_secs_f64();
        let churn = bytes as f64 / since.max(0.001) / 1e6;
        let needed = bytes as f64 / freeze.max.saturating_sub(FIXED).as_secs_f64().max(0.001) / 1e6;
        Forecast {
            takes: self.run.pace.forecast(bytes),
            reason: format!(
                "{:.1} MB changed in the last {since:.1} s ({churn:.1} MB/s); it would need {needed:.1} MB/s from disk to \
                 disk",
                bytes as f64 / 1e6
            ),
        }
    }

    fn to_freeze(&mut self) -> Result<ToFreeze> {
        let disks = self.run.disks.iter();
        let devices: Vec<&BlockDevice> = disks.filter_map(|disk| disk.medium.device.as_ref()).collect();
        of_disks(&devices)
            .map_err(|error| Error::new(Kind::Medium, "find the file systems to freeze").because(error))
    }

    fn hold(&mut self) -> Result<()> {
        self.run.disks.iter().for_each(|disk| disk.digests.hold());
        self.run.quiet.store(true, Ordering::Release);
        Ok(())
    }

    fn copy(&mut self) -> Result<()> {
        (self.raw_writers, self.is_blind) = (false, false);
        self.run.begin_round(self.wire)?;
        self.run.copy(self.session, self.wire)?;
        for round in 0..=RAW_ROUNDS_MAX {
            // Of every disk: to ask is to schedule what was written.
            let disks = self.run.disks.iter();
            let written: Vec<Written> = disks.map(SourceDisk::was_written_now).collect();
            self.is_blind |= written.contains(&Written::Unknown);
            if !written.contains(&Written::Yes) {
                break;
            }
            self.raw_writers = round == RAW_ROUNDS_MAX;
            self.run.copy(self.session, self.wire)?;
        }
        Ok(())
    }

    fn release(&mut self) -> Result<()> {
        self.run.quiet.store(false, Ordering::Release);
        let disks = self.run.disks.iter();
        disks
            .map(|disk| disk.digests.release())
            .fold(Ok(()), std::io::Result::and)
            .map_err(|error| Error::new(Kind::Medium, "keep the digests").because(error))
    }

    fn end_round(&mut self) -> Result<bool> {
        if self.raw_writers {
            self.warn(
                "something writes to the disk beneath its frozen file systems: these ranges are not of one moment; stop \
                 it with --pre-freeze"
                    .to_owned(),
            );
        }
        if self.is_blind {
            self.warn(
                "a tracker could not tell, for it lost records, whether something wrote to the disk beneath its frozen file \
                 systems: the next run reads all of it"
                    .to_owned(),
            );
        }
        Ok(self.run.end_round(self.session, self.wire)?.corrections == 0)
    }

    fn warn(&self, message: String) {
        self.run.say(&Event::Warning { message });
    }
}
