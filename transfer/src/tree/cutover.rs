//! The tree engine's part of the cutover: how long the last round would take by the one before, and the frozen round.
//!
//! The frozen round looks at what the tracker named, and at files that are open for writing or mapped; where nothing tracks
//! changes, at everything. Meanwhile the baseline's new records stay in memory and temporary files lie in memory, too:
//! the state folder may be on a file system that is frozen. What `chattr` changed between the last round over everything
//! and the freeze is not seen: it makes no event.

use std::os::fd::AsFd;
use std::path::PathBuf;

use crate::courtesy::Courtesy;
use crate::error::{Error, Kind, Result};
use crate::progress::{Event, Silent};
use crate::source::cutover::{
    AfterFreeze, Engine, FIXED, Forecast, Freeze, HandedOver, cut_over, run_command,
};
use crate::source::freeze_points::{ToFreeze, freeze_points};
use crate::tree::round::{Busy, Ground, Pace, Session, busy_files};
use crate::tree::sync::{Round, Run};

/// Folders that are usually in memory.
const IN_MEMORY: [&str; 2] = ["/dev/shm", "/run"];
/// File systems that need no disk: tmpfs and ramfs, of linux/magic.h.
const MEMORY_MAGIC: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// A run that is being cut over.
struct CutOver<'r, 'a, 's, 'l> {
    run: &'r mut Run<'a>,
    session: &'s mut Session<'l>,
    /// The frozen round.
    round: Option<Round>,
    /// What was open for writing or mapped just before the freeze: a process that waits for the thaw inside a store to a
    /// mapping keeps others from looking at its mappings.
    busy: Busy,
    /// Folder for temporary files while frozen.
    memory: PathBuf,
    /// Frozen, nobody is given way to: all wait for us.
    hurry: Courtesy,
}

impl<'a> Run<'a> {
    /// Hands over, if the run is to end so and has not yet.
    pub(super) fn cut_over(&mut self, session: &mut Session<'_>) -> Result<()> {
        let source = self.source;
        let Some(freeze) = source.freeze.as_ref().filter(|_| !self.handed_over) else {
            return Ok(());
        };
        if let Some(handed_over) = self.freeze(freeze, session)? {
            self.summary.frozen_ms = handed_over.frozen_ms();
            self.summary.not_frozen = handed_over.not_frozen;
        }
        if self.mounts.some_without_device() {
            self.summary.not_frozen.push(self.without_device());
        }
        self.handed_over = true;
        Ok(())
    }

    /// Makes what the target holds a state of one moment.
    pub(super) fn make_moment(&mut self, session: &mut Session<'_>) -> Result<()> {
        match self.source.freeze.as_ref().map(Freeze::without_commands) {
            Some(freeze) => self.freeze(&freeze, session).map(drop),
            None => self.round(session, false).map(drop),
        }
    }

    /// Rounds until the forecast is short enough, then the frozen round. Returns how it went, if there was something to freeze.
    fn freeze(&mut self, freeze: &Freeze, session: &mut Session<'_>) -> Result<Option<HandedOver>> {
        if self.mounts.some_without_device() {
            self.warn(format!(
                "{}: stop what writes there with --pre-freeze",
                self.without_device()
            ));
        }
        if self.mounts.devices().is_empty() {
            self.last_round_without_freeze(freeze, session)?;
            return Ok(None);
        }
        if self.tracker.is_none() {
            self.warn("nothing tracks changes here: everything is looked at while frozen".to_owned());
        }
        let mut engine = CutOver {
            run: self,
            session,
            round: None,
            busy: Busy::new(),
            memory: memory()?,
            hurry: Courtesy::new(false),
        };
        cut_over(&mut engine, freeze).map(Some)
    }

    /// What can be done where nothing can be frozen: the administrator's commands, and a round between them.
    fn last_round_without_freeze(&mut self, freeze: &Freeze, session: &mut Session<'_>) -> Result<()> {
        let _after = AfterFreeze(freeze.after.as_deref());
        run_command("--pre-freeze", freeze.before.as_deref())?;
        self.round(session, false).map(drop)
    }

    fn without_device(&self) -> String {
        format!(
            "a part of {} lies on a file system that cannot be frozen",
            self.source.root.display()
        )
    }

    fn warn(&self, message: String) {
        self.ground.observer.event(&Event::Warning { message });
    }
}

impl Engine for CutOver<'_, '_, '_, '_> {
    fn next_round(&mut self) -> Result<()> {
        self.run.round(self.session, true).map(drop)
    }

    fn forecast(&mut self, _: &Freeze) -> Forecast {
        let takes = FIXED + self.run.last_sending;
        let what = match self.run.tracker {
            Some(_) => "the files that changed or are open for writing, sent anew",
            None => "a walk over everything, for nothing tracks changes here; --check says why",
        };
        Forecast {
            takes,
            reason: format!("so long took the round before: {what}"),
        }
    }

    fn to_freeze(&mut self) -> Result<ToFreeze> {
        let points = freeze_points(self.run.mounts.devices())
            .map_err(|error| Error::new(Kind::Medium, "find the file systems to freeze").because(error))?;
        Ok(ToFreeze {
            points,
            out_of_reach: Vec::new(),
        })
    }

    fn hold(&mut self) -> Result<()> {
        self.round = Some(self.run.begin_round(self.session, true)?);
        self.busy = busy_files()?;
        self.run.baseline.with(|replica| replica.hold())
    }

    fn copy(&mut self) -> Result<()> {
        let Some(round) = &self.round else { return Ok(()) };
        let ground = Ground {
            pace: Pace::Frozen { busy: &self.busy },
            state: &self.memory,
            observer: &Silent,
            courtesy: &self.hurry,
            ..*self.run.ground
        };
        self.run.send(round, self.session, &ground)
    }

    fn release(&mut self) -> Result<()> {
        self.run.baseline.with(|replica| replica.release())
    }

    fn end_round(&mut self) -> Result<bool> {
        let Some(round) = self.round.take() else {
            return Ok(false);
        };
        let was_whole = round.is_settled();
        self.run.end_round(round, self.session, Ok(()))?;
        Ok(was_whole)
    }

    fn warn(&self, message: String) {
        self.run.warn(message);
    }
}

/// A folder that is in memory.
fn memory() -> Result<PathBuf> {
    let is_in_memory = |folder: &&str| {
        std::fs::File::open(folder)
            .ok()
            .and_then(|folder| rustix::fs::fstatfs(folder.as_fd()).ok())
            .is_some_and(|status| MEMORY_MAGIC.contains(&(status.f_type as u64 & 0xffff_ffff)))
    };
    let found = IN_MEMORY.iter().find(|folder| is_in_memory(folder));
    found.map(PathBuf::from).ok_or_else(|| {
        Error::new(
            Kind::Usage,
            "find room in memory for what must not be written while frozen",
        )
        .remedy(format!(
            "mount a tmpfs at {}, or end without --freeze",
            IN_MEMORY.join(" or ")
        ))
    })
}
