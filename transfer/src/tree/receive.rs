//! The target's story for a tree: one session at a time, frame by frame, until the source says goodbye.
//!
//! A thread per data connection receives, verifies, waits for its turn and applies; one thread makes groups durable and
//! acknowledges; one keeps the link alive; the session's own thread follows orders. Whatever ends a session, what has
//! been applied by then is still made durable.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use sys::aligned::AlignedBuffer;

use crate::error::{Error, Kind, Result};
use crate::link::tls::{Breaker, KEEP_ALIVE};
use crate::link::{Accepted, Frame, FrameReader, FrameWriter};
use crate::progress::StopFlag;
use crate::protocol::{self, Failure, KIND_ORDER, KIND_REPLICA, KIND_REPORT, KIND_TREE, Order, Part, Report};
use crate::receipt::Holdings;
use crate::sequence::Sequence;
use crate::signature::hex;
use crate::tree::apply::{Applier, LongFiles, Shortfall};
use crate::tree::capture::Directory;
use crate::tree::entry::EntryPath;
use crate::tree::filter::Filter;
use crate::tree::journal::{Applied, Entering, Journal};
use crate::tree::operation::{self, Operation};
use crate::tree::replica::{Record, Version};
use crate::tree::survey::{Finding, Survey};
use crate::tree::trust::{Bond, Trust};
use crate::tree::verify::{self, Difference, Verified};
use crate::tree::write::{Shared, TreeWriter};

/// Frames that wait to become durable, records only; those of many small entries count as several.
const ENTERING_MAX: usize = 256;
/// Records that wait as one: with [`ENTERING_MAX`] some 15 MiB, whatever the frames hold.
const RECORDS_MAX: usize = 128;
/// How often the watcher looks for a request to stop.
const WATCH: Duration = Duration::from_millis(50);
/// How long a broken connection waits for the source's goodbye on another one.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Entries looked at before a journal is believed.
const SAMPLE_MAX: usize = 256;
/// Findings of a survey that are written to the journal together.
const FINDINGS_MAX: usize = 1024;

/// A target tree.
pub struct TreeTarget {
    root: PathBuf,
    writer: TreeWriter,
    journal: Journal,
    trust: Trust,
    holdings: Arc<Holdings>,
}

impl TreeTarget {
    /// The tree at `root` with its journal in `journal`; what is known about it goes to `holdings`.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn open(root: &Path, journal: &Path, holdings: Arc<Holdings>) -> Result<Self> {
        Ok(Self {
            root: root.to_owned(),
            writer: TreeWriter::open(root)?,
            journal: Journal::new(journal, root),
            trust: Trust::new(journal),
            holdings,
        })
    }

    /// Serves one session to its end.
    ///
    /// # Errors
    /// Why it ended, if not by the source's goodbye; the source has been told.
    pub fn serve(&self, accepted: Accepted, stop: &StopFlag) -> Result<()> {
        let Accepted {
            hello,
            mut control,
            report,
            data,
            breakers,
            ..
        } = accepted;
        let session = Session {
            target: self,
            writer: self.writer.without_rules(),
            report: Mutex::new(report),
            breakers,
            sequence: Sequence::default(),
            long_files: LongFiles::default(),
            shortfall: Shortfall::default(),
            failure: Mutex::new(None),
            over: StopFlag::default(),
            round: AtomicU64::new(0),
            shared: Mutex::default(),
        };
        let opened = self.open_journal(hello.migration).and_then(|version| {
            self.holdings.seal(version.into())?;
            session.say(&Report::Opened { version })
        });
        if let Err(error) = opened {
            session.fail(error);
            return session.verdict();
        }
        let (entering, entered) = crossbeam_channel::bounded(ENTERING_MAX);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut frames = 0;
                let mut bytes = 0;
                let kept = self
                    .journal
                    .keep(&self.writer, &entered, |group_frames, group_bytes| {
                        frames += group_frames;
                        bytes += group_bytes;
                        session.say_if_possible(&Report::Durable { frames, bytes });
                    });
                if let Err(error) = kept {
                    session.fail(error);
                    // Whoever waits for the journal must not wait for ever.
                    for entering in &entered {
                        drop(entering);
                    }
                }
            });
            scope.spawn(|| session.watch(stop));
            for reader in data {
                let (entering, session) = (entering.clone(), &session);
                scope.spawn(move || {
                    if let Err(error) = session.receive(reader, &entering) {
                        session.fail(error);
                    }
                });
            }
            // Nothing comes after the end of the control connection.
            if let Err(error) = session.follow(&mut control, &entering) {
                session.fail_at_once(error);
            }
            session.end();
            drop(entering);
        });
        if let Err(error) = self.trust.leave() {
            session.fail_at_once(error);
        }
        session.verdict()
    }

    /// Opens the journal and has a look whether the tree is what it says: a target that was emptied or replaced behind
    /// our back must not be taken for complete.
    fn open_journal(&self, migration: crate::link::auth::Id) -> Result<Version> {
        let directory = self.directory()?;
        if !self.writer.writes_to(&directory)? {
            return Err(Error::new(
                Kind::Refused,
                "receive: since the receiver was started, another directory has come to be at the target's path",
            )
            .on(&self.root)
            .remedy("start the receiver again; a file system that belongs there is to be mounted before"));
        }
        let version = self.journal.open(migration, &self.writer)?;
        self.trust.enter();
        match self.trust.bond(&directory)? {
            Bond::Same => {}
            Bond::None => self.trust.bind(&directory)?,
            Bond::Other => {
                tracing::warn!(
                    target = %self.root.display(),
                    "the target directory is another one than that of its journal: the journal begins anew"
                );
                let version = self.journal.restart(migration)?;
                self.trust.bind(&directory)?;
                return Ok(version);
            }
        }
        if !self.trust.is_doubtful() && self.is_something_missing(&directory)? {
            self.trust.doubt();
        }
        Ok(version)
    }

    /// Whether one of the journal's first entries is not in the tree.
    fn is_something_missing(&self, directory: &Directory) -> Result<bool> {
        let (snapshot, _) = self.journal.sealed()?;
        for entry in snapshot.iter().take(SAMPLE_MAX) {
            let entry = entry?;
            let Some((parent, name)) = entry.path.place() else {
                continue;
            };
            let found = directory
                .open_beneath(&parent)
                .and_then(|parent| parent.stat_entry(&name));
            if found.is_err() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn directory(&self) -> Result<Directory> {
        Directory::open_root(&self.root)
            .map_err(|error| Error::io("open the target directory", &self.root, error))
    }

    /// Compares the names in the tree with those that the journal has sealed.
    fn survey(
        &self,
        filter: &Filter,
        go_on: &dyn Fn() -> Result<()>,
        found: &mut dyn FnMut(Finding) -> Result<()>,
    ) -> Result<()> {
        let (snapshot, _) = self.journal.sealed()?;
        let survey = Survey {
            root: &self.directory()?,
            snapshot: &snapshot,
            filter,
            since: self.trust.since()?,
            go_on,
        };
        survey.run(found)
    }
}

/// Whoever waited for the session's other threads hears this when they have ended.
fn gone() -> Error {
    Error::new(Kind::Retry, "go on: the session is over")
}

/// Passes a frame's records on, at most `together` at a time; the last ones complete the frame.
fn enter(entering: &Sender<Entering>, records: Vec<Record>, together: usize, bytes: u64) -> Result<()> {
    let mut records = records.into_iter();
    loop {
        let piece: Vec<Record> = records.by_ref().take(together).collect();
        let is_last = records.len() == 0;
        let applied = Applied {
            records: piece,
            frames: u64::from(is_last),
            bytes: if is_last { bytes } else { 0 },
        };
        entering.send(Entering::Applied(applied)).map_err(|_| gone())?;
        if is_last {
            return Ok(());
        }
    }
}

/// A session while it lasts.
struct Session<'a> {
    target: &'a TreeTarget,
    /// With the rules of this source.
    writer: TreeWriter,
    report: Mutex<FrameWriter>,
    breakers: Vec<Breaker>,
    sequence: Sequence,
    long_files: LongFiles,
    shortfall: Shortfall,
    failure: Mutex<Option<Error>>,
    over: StopFlag,
    /// Rounds sealed in this session: appliers then look at the new contents of the journal.
    round: AtomicU64,
    /// What shares blocks since that was reported.
    shared: Mutex<Shared>,
}

impl Session<'_> {
    /// Receives and applies the frames of one connection.
    fn receive(&self, mut reader: FrameReader, entering: &Sender<Entering>) -> Result<()> {
        let (snapshot, _) = self.target.journal.sealed()?;
        let mut applier = Applier::new(self.writer.clone(), &snapshot, &self.long_files, &self.shortfall);
        let mut round = self.round.load(Ordering::Acquire);
        while let Some(frame) = reader.receive()? {
            let now = self.round.load(Ordering::Acquire);
            if now != round {
                applier.turn_to(&self.target.journal.sealed()?.0);
                round = now;
            }
            let payload = self.frame(frame, &mut applier, entering)?;
            reader.reuse(payload);
        }
        Ok(())
    }

    /// Applies a frame; returns its payload, whose memory is needed no more.
    fn frame(
        &self,
        frame: Frame,
        applier: &mut Applier<'_>,
        entering: &Sender<Entering>,
    ) -> Result<AlignedBuffer> {
        if frame.kind != KIND_TREE {
            return Err(Error::new(
                Kind::Corrupt,
                format!("accept a frame of kind {} here", frame.kind),
            ));
        }
        let (number, after) = (frame.number, frame.after);
        let payload = frame.decode()?;
        let loaded = operation::load(&payload)?;
        let verified = loaded
            .into_iter()
            .map(Verified::check)
            .collect::<Result<Vec<_>>>()?;
        self.sequence.wait_for(number, after)?;
        self.target.trust.apply()?;
        let mut intents = Vec::new();
        for operation in &verified {
            intents.extend(applier.intents(operation.operation())?);
        }
        if !intents.is_empty() {
            self.target.journal.intend(&intents)?;
        }
        let renames = verified
            .iter()
            .filter_map(|operation| operation.operation().as_rename());
        let renames: Vec<_> = renames.collect();
        if !renames.is_empty() {
            self.target.journal.foresee(&renames)?;
        }
        let mut records = Vec::new();
        let mut touched = None;
        for operation in verified {
            operation.operation().note_touched(&mut touched, &mut records);
            let removes = matches!(operation.operation(), Operation::Remove { .. });
            let outcome = applier.apply(operation)?;
            if removes && !outcome.refusals.is_empty() {
                // A part of it may be gone.
                self.target.trust.doubt();
            }
            records.extend(outcome.records);
            self.count_shared(outcome.shared);
            for (path, what, why) in outcome.refusals {
                self.say(&Report::Skipped { path, what, why })?;
            }
        }
        // What is known of renames that a crash interrupts speaks of whole frames.
        let together = if renames.is_empty() {
            RECORDS_MAX
        } else {
            usize::MAX
        };
        enter(entering, records, together, payload.len() as u64)?;
        self.sequence.applied(number)?;
        Ok(payload)
    }

    /// Follows orders until the goodbye.
    fn follow(&self, control: &mut FrameReader, entering: &Sender<Entering>) -> Result<()> {
        loop {
            let Some(frame) = control.receive()? else {
                return Err(Error::new(
                    Kind::Retry,
                    "hear from the source: it ended without a goodbye",
                ));
            };
            match protocol::decode(KIND_ORDER, frame)? {
                Order::KeepAlive => {}
                Order::Goodbye => return Ok(()),
                Order::Fetch { have } => {
                    for piece in self.target.journal.export(have)? {
                        self.report
                            .lock()
                            .expect("not poisoned")
                            .send(&Frame::message(KIND_REPLICA, &piece?))?;
                    }
                    let (_, version) = self.target.journal.sealed()?;
                    self.say(&Report::ReplicaEnd { version })?;
                }
                Order::EndRound { frames } => {
                    self.sequence.wait_below(frames)?;
                    self.flush(entering)?;
                    if let Err(error) = self.shortfall.check() {
                        let (why, message) = (Failure::Outdated, error.describe());
                        self.say(&Report::Failed { why, message })?;
                        return Err(error);
                    }
                    self.say_shared()?;
                    let version = self.target.journal.seal()?;
                    self.target.trust.seal();
                    self.target.holdings.seal(version.into())?;
                    self.round.fetch_add(1, Ordering::AcqRel);
                    self.say(&Report::RoundDone { version })?;
                }
                Order::Verify => self.verify()?,
                Order::Survey { excludes } => self.survey(&excludes)?,
                Order::Ask { .. } => {
                    return Err(Error::new(
                        Kind::Corrupt,
                        "follow an order that belongs to another kind of session",
                    ));
                }
            }
        }
    }

    fn count_shared(&self, more: Shared) {
        let mut shared = self.shared.lock().expect("not poisoned");
        shared.together += more.together;
        shared.apart += more.apart;
    }

    fn say_shared(&self) -> Result<()> {
        let Shared { together, apart } = std::mem::take(&mut *self.shared.lock().expect("not poisoned"));
        match together + apart {
            0 => Ok(()),
            _ => self.say(&Report::Shared { together, apart }),
        }
    }

    fn flush(&self, entering: &Sender<Entering>) -> Result<()> {
        let (flushed, done) = crossbeam_channel::bounded(1);
        entering.send(Entering::Flush(flushed)).map_err(|_| gone())?;
        done.recv().map_err(|_| gone())
    }

    /// Makes the journal list what is in the tree, where the two may have parted.
    fn survey(&self, excludes: &[Vec<u8>]) -> Result<()> {
        let filter = Filter::parse(excludes)?;
        let mut parted = false;
        if self.target.trust.is_doubtful() {
            tracing::info!(target = %self.target.root.display(), "the target's names are compared with its journal");
            let mut records = Vec::new();
            self.target.survey(&filter, &|| self.go_on(), &mut |finding| {
                parted = true;
                records.extend(finding.into_records());
                if records.len() >= FINDINGS_MAX {
                    self.target.journal.append(&records)?;
                    records.clear();
                }
                Ok(())
            })?;
            self.target.journal.append(&records)?;
        }
        let version = if parted {
            self.target.journal.seal()?
        } else {
            self.target.journal.sealed()?.1
        };
        self.target.trust.settle();
        self.target.holdings.seal(version.into())?;
        self.round.fetch_add(1, Ordering::AcqRel);
        if !filter.is_empty() && !self.writer.exclude(filter) {
            return Err(Error::new(Kind::Corrupt, "take exclude rules twice"));
        }
        self.say(&Report::Surveyed { version })
    }

    /// Re-reads the medium and compares it with the journal.
    fn verify(&self) -> Result<()> {
        let (snapshot, _) = self.target.journal.sealed()?;
        let bytes_total = self.target.journal.content_len()?;
        let (mut told, mut differences) = (Instant::now(), 0);
        let mut replica = snapshot.cursor();
        let mut differs = |path: EntryPath, Difference { part, what }| {
            differences += 1;
            let record = verify::record_of(path.clone(), part, &mut replica)?;
            self.target.journal.append(&[record])?;
            self.say(&Report::Differs { path, part, what })
        };
        let mut progress = |bytes| {
            if told.elapsed() >= Duration::from_millis(200) {
                told = Instant::now();
                self.say(&Report::VerifyProgress { bytes, bytes_total })?;
            }
            self.go_on()
        };
        let findings = verify::read_back(&self.target.root, &snapshot, &mut differs, &mut progress)?;
        differences += self.tell_surplus()?;
        let version = if differences > 0 {
            self.target.journal.seal()?
        } else {
            self.target.journal.sealed()?.1
        };
        self.round.fetch_add(1, Ordering::AcqRel);
        let (root, compared, bytes) = (findings.root, findings.compared, findings.bytes);
        self.target.holdings.seal(version.into())?;
        if differences == 0 {
            self.target.holdings.verify(crate::progress::Verified {
                root: hex(&root),
                compared,
                bytes,
                repaired: 0,
            })?;
        }
        self.say(&Report::Verified {
            root,
            compared,
            bytes,
            differences,
            version,
        })
    }

    /// Names what is in the tree and not in the journal, which then lists it as unknown; returns how much that is.
    fn tell_surplus(&self) -> Result<u64> {
        let everything = Filter::default();
        let mut surplus = 0;
        let filter = self.writer.rules().unwrap_or(&everything);
        self.target.survey(filter, &|| self.go_on(), &mut |finding| {
            // What is missing or of another kind has been found by reading.
            let Finding::Surplus(entry) = finding else {
                return Ok(());
            };
            surplus += 1;
            let (path, what) = (entry.path.clone(), "not at the source".to_owned());
            self.target.journal.append(&[Record::Entry(entry)])?;
            let part = Part::Content;
            self.say(&Report::Differs { path, part, what })
        })?;
        Ok(surplus)
    }

    fn go_on(&self) -> Result<()> {
        if self.over.is_stopped() {
            Err(gone())
        } else {
            Ok(())
        }
    }

    fn watch(&self, stop: &StopFlag) {
        let mut quiet_since = Instant::now();
        while !self.over.sleep(WATCH) {
            if stop.is_stopped() {
                self.fail(Error::new(
                    Kind::Stopped,
                    "serve on: the receiver was told to stop",
                ));
            } else if quiet_since.elapsed() >= KEEP_ALIVE {
                quiet_since = Instant::now();
                if let Err(error) = self.say(&Report::KeepAlive) {
                    self.fail(error);
                }
            }
        }
    }

    fn say(&self, report: &Report) -> Result<()> {
        let frame = protocol::encode(KIND_REPORT, report)?;
        self.report.lock().expect("not poisoned").send(&frame).map(drop)
    }

    /// For what a source that is gone need not hear.
    fn say_if_possible(&self, report: &Report) {
        if let Err(error) = self.say(report) {
            tracing::debug!(%error, "report not sent");
        }
    }

    /// Notes the first failure, tells the source, and ends the session.
    ///
    /// A source that has said goodbye closes all its connections at once, and the end of another one may be seen before
    /// the goodbye: a broken connection waits a moment for it.
    fn fail(&self, error: Error) {
        if error.kind() == Kind::Retry {
            self.over.sleep(LAST_WORDS);
        }
        self.fail_at_once(error);
    }

    fn fail_at_once(&self, error: Error) {
        {
            let mut failure = self.failure.lock().expect("not poisoned");
            if self.over.is_stopped() || failure.is_some() {
                return;
            }
            let why = match error.kind() {
                Kind::Retry => None,
                Kind::Stopped => Some(Failure::Stopped),
                Kind::Refused => Some(Failure::OtherMigration),
                Kind::Corrupt => Some(Failure::Protocol),
                Kind::Medium | Kind::Usage => Some(Failure::Medium),
            };
            let message = error.describe();
            *failure = Some(error);
            if let Some(why) = why {
                self.say_if_possible(&Report::Failed { why, message });
            }
        }
        self.end();
    }

    fn end(&self) {
        self.over.stop();
        self.sequence.break_off();
        for breaker in &self.breakers {
            breaker.break_off();
        }
    }

    fn verdict(&self) -> Result<()> {
        self.failure
            .lock()
            .expect("not poisoned")
            .take()
            .map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_many_records_wait_in_parts_and_are_complete_with_the_last() {
        for (count, together, parts) in [(0, 4, 1), (3, 4, 1), (4, 4, 1), (9, 4, 3), (9, usize::MAX, 1)] {
            let record = |index: usize| Record::Remove {
                path: EntryPath::parse(index.to_string().as_bytes()).unwrap(),
            };
            let (entering, entered) = crossbeam_channel::unbounded();
            enter(&entering, (0..count).map(record).collect(), together, 7).unwrap();
            drop(entering);
            let applied: Vec<Applied> = entered
                .iter()
                .map(|entering| match entering {
                    Entering::Applied(applied) => applied,
                    Entering::Flush(_) => panic!("nobody asked for it"),
                })
                .collect();
            assert_eq!(applied.len(), parts);
            let complete: Vec<(u64, u64)> = applied.iter().map(|part| (part.frames, part.bytes)).collect();
            assert!(complete[..parts - 1].iter().all(|part| *part == (0, 0)));
            assert_eq!(complete[parts - 1], (1, 7));
            let records: Vec<Record> = applied.into_iter().flat_map(|part| part.records).collect();
            assert_eq!(records, (0..count).map(record).collect::<Vec<_>>());
        }
    }
}
