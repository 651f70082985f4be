//! The source's side of the link: a thread per connection, one failure for all.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use sys::aligned::AlignedBuffer;

use crate::compress::Governor;
use crate::disk::digest::{DIGEST_LEN, Digest};
use crate::disk::message::{DiskOrder, DiskReport, KIND_DISK_DIGESTS, KIND_DISK_ORDER, KIND_DISK_REPORT};
use crate::error::{Error, Kind, Result};
use crate::link::tls::{Breaker, KEEP_ALIVE};
use crate::link::{Frame, FrameReader, FrameWriter, SourceLink};
use crate::progress::StopFlag;
use crate::protocol::{Failure, KIND_REPORT, Report, decode, encode};

/// Frames that wait per data connection.
const QUEUE_PER_CONNECTION: usize = 2;
/// How often a waiting thread looks whether the session still lives.
const TICK: Duration = Duration::from_millis(50);
/// How long the target may take to close after the goodbye.
const GOODBYE_MAX: Duration = Duration::from_secs(3);
/// Kind of a frame without content that keeps a data connection alive.
const KIND_NOTHING: u8 = 0;

/// What the target says, in order.
enum Incoming {
    Report(DiskReport),
    Digests(Vec<Digest>),
}

/// An open session.
pub struct Session<'a> {
    control: Mutex<FrameWriter>,
    frames: Sender<Frame>,
    /// Memory of frames that have been sent.
    spares: (Sender<AlignedBuffer>, Receiver<AlignedBuffer>),
    incoming: Receiver<Incoming>,
    next_frame: AtomicU64,
    /// Numbers and content bytes of frames that are not durable yet: no more than fit between two checkpoints.
    unacknowledged: Mutex<VecDeque<(u64, u64)>>,
    durable: Arc<AtomicU64>,
    /// Chunks, by disk and number, that the target wants whole: it held something else than was thought here.
    wanted: Mutex<Vec<(u16, u64)>>,
    failure: Mutex<Option<Error>>,
    failed: AtomicBool,
    ended: StopFlag,
    breakers: Vec<Breaker>,
    wire: &'a AtomicU64,
    governor: &'a Governor,
    stop: &'a StopFlag,
}

/// Runs `body` in a session over `link`; bytes sent are added to `wire`, `governor` learns what the link costs, content bytes that became durable to `durable`.
///
/// # Errors
/// Those of `body`, or why the session ended before.
pub fn with_session<R>(
    link: SourceLink,
    wire: &AtomicU64,
    durable: Arc<AtomicU64>,
    governor: &Governor,
    stop: &StopFlag,
    body: impl FnOnce(&Session<'_>) -> Result<R>,
) -> Result<R> {
    let (frames, queue) = crossbeam_channel::bounded(link.data.len() * QUEUE_PER_CONNECTION);
    let spares = crossbeam_channel::bounded(link.data.len() * (QUEUE_PER_CONNECTION + 1));
    let (arrived, incoming) = crossbeam_channel::unbounded();
    let session = Session {
        control: Mutex::new(link.control),
        frames,
        spares,
        incoming,
        next_frame: AtomicU64::new(0),
        unacknowledged: Mutex::default(),
        durable,
        wanted: Mutex::default(),
        failure: Mutex::new(None),
        failed: AtomicBool::new(false),
        ended: StopFlag::default(),
        breakers: link.breakers,
        wire,
        governor,
        stop,
    };
    std::thread::scope(|scope| {
        let session = &session;
        for connection in link.data {
            let queue = queue.clone();
            scope.spawn(move || session.guard(session.send_frames(connection, &queue)));
        }
        drop(queue);
        let mut report = link.report;
        let listener = scope.spawn(move || session.guard(session.listen(&mut report, &arrived)));
        scope.spawn(|| session.guard(session.stay_alive()));
        let result = body(session);
        if result.is_ok() {
            session.say_goodbye(&listener);
        }
        session.ended.stop();
        session.breakers.iter().for_each(Breaker::break_off);
        match session.lock_failure().take() {
            Some(error) => Err(error),
            None => result,
        }
    })
}

impl Session<'_> {
    fn lock_failure(&self) -> MutexGuard<'_, Option<Error>> {
        self.failure
            .lock()
            .expect("no thread panics while it reports a failure")
    }

    fn guard(&self, result: Result<()>) {
        if let Err(error) = result
            && !self.ended.is_stopped()
        {
            self.lock_failure().get_or_insert(error);
            self.failed.store(true, Ordering::Release);
            self.breakers.iter().for_each(Breaker::break_off);
        }
    }

    /// Fails when the session has failed or somebody asked to stop.
    ///
    /// # Errors
    /// Why.
    pub fn check(&self) -> Result<()> {
        if self.stop.is_stopped() {
            return Err(Error::new(Kind::Stopped, "go on: asked to stop"));
        }
        if self.failed.load(Ordering::Acquire) {
            // The real reason is in `failure`, and replaces this one at the end of the session.
            return Err(Error::new(Kind::Retry, "go on: the session has failed"));
        }
        Ok(())
    }

    fn send_frames(&self, mut connection: FrameWriter, queue: &Receiver<Frame>) -> Result<()> {
        let mut spoke = Instant::now();
        while !self.ended.is_stopped() {
            let frame = match queue.recv_timeout(TICK) {
                Ok(frame) => frame,
                Err(RecvTimeoutError::Timeout) if spoke.elapsed() < KEEP_ALIVE => continue,
                Err(RecvTimeoutError::Timeout) => Frame::message(KIND_NOTHING, &[]),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let sent = connection.send(&frame)?;
            self.wire.fetch_add(sent, Ordering::Relaxed);
            self.governor.learn(connection.strain());
            spoke = Instant::now();
            // Nobody needs more than there is room for.
            let _ = self.spares.0.try_send(frame.payload);
        }
        connection.finish()
    }

    fn listen(&self, report: &mut FrameReader, arrived: &Sender<Incoming>) -> Result<()> {
        while let Some(frame) = report.receive()? {
            let incoming = if frame.kind == KIND_DISK_DIGESTS {
                let bytes = frame.decode()?;
                Incoming::Digests(
                    bytes
                        .as_chunks::<DIGEST_LEN>()
                        .0
                        .iter()
                        .map(|bytes| Digest(*bytes))
                        .collect(),
                )
            } else if frame.kind == KIND_REPORT {
                // The receiver refuses a session before it knows that disks are meant.
                return Err(match decode(KIND_REPORT, frame)? {
                    Report::Failed { why, message } => failed(why, message),
                    _ => out_of_turn(),
                });
            } else {
                match decode(KIND_DISK_REPORT, frame)? {
                    DiskReport::KeepAlive => continue,
                    DiskReport::Durable { frames } => {
                        self.acknowledge(frames);
                        continue;
                    }
                    DiskReport::Wanted { disk, chunk } => {
                        self.lock_wanted().push((disk, chunk));
                        continue;
                    }
                    DiskReport::Failed { why, message } => {
                        return Err(failed(why, message));
                    }
                    report => Incoming::Report(report),
                }
            };
            if arrived.send(incoming).is_err() {
                break;
            }
        }
        if self.ended.is_stopped() {
            return Ok(());
        }
        Err(Error::new(Kind::Retry, "go on: the target ended the session"))
    }

    fn stay_alive(&self) -> Result<()> {
        let mut spoke = Instant::now();
        while !self.ended.sleep(TICK) && !self.failed.load(Ordering::Acquire) {
            if spoke.elapsed() >= KEEP_ALIVE {
                self.order(&DiskOrder::KeepAlive)?;
                spoke = Instant::now();
            }
        }
        Ok(())
    }

    /// Sends an order.
    ///
    /// # Errors
    /// The link is lost.
    pub fn order(&self, order: &DiskOrder) -> Result<()> {
        let frame = encode(KIND_DISK_ORDER, order)?;
        let mut control = self
            .control
            .lock()
            .expect("no thread panics while it sends an order");
        let sent = control.send(&frame)?;
        self.wire.fetch_add(sent, Ordering::Relaxed);
        Ok(())
    }

    fn wait(&self) -> Result<Incoming> {
        loop {
            match self.incoming.recv_timeout(TICK) {
                Ok(incoming) => return Ok(incoming),
                Err(RecvTimeoutError::Timeout) => self.check()?,
                Err(RecvTimeoutError::Disconnected) => {
                    self.check()?;
                    return Err(Error::new(Kind::Retry, "go on: the target ended the session"));
                }
            }
        }
    }

    /// The next report that answers an order.
    ///
    /// # Errors
    /// The session ended, or digests came that nobody asked for.
    pub fn report(&self) -> Result<DiskReport> {
        match self.wait()? {
            Incoming::Report(report) => Ok(report),
            Incoming::Digests(_) => Err(out_of_turn()),
        }
    }

    /// The next `count` digests, after a fetch.
    ///
    /// # Errors
    /// The session ended, or something else came.
    pub fn digests(&self, count: u64) -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        while (digests.len() as u64) < count {
            match self.wait()? {
                Incoming::Digests(more) if !more.is_empty() => digests.extend(more),
                _ => return Err(out_of_turn()),
            }
        }
        if digests.len() as u64 == count {
            Ok(digests)
        } else {
            Err(out_of_turn())
        }
    }

    /// Queues a frame of chunks with so many content bytes; waits while the link is behind.
    ///
    /// # Errors
    /// The session ended.
    pub fn send(&self, mut frame: Frame, content_len: u64) -> Result<()> {
        {
            let mut unacknowledged = self.lock_unacknowledged();
            frame.number = self.next_frame.fetch_add(1, Ordering::AcqRel);
            unacknowledged.push_back((frame.number, content_len));
        }
        loop {
            frame = match self.frames.send_timeout(frame, TICK) {
                Ok(()) => return Ok(()),
                Err(error) => error.into_inner(),
            };
            self.check()?;
        }
    }

    /// Memory of a frame that has been sent, if there is any.
    pub fn spare(&self) -> Option<AlignedBuffer> {
        self.spares.1.try_recv().ok()
    }

    /// Frames sent so far.
    pub fn frames_sent(&self) -> u64 {
        self.next_frame.load(Ordering::Acquire)
    }

    fn lock_unacknowledged(&self) -> MutexGuard<'_, VecDeque<(u64, u64)>> {
        self.unacknowledged
            .lock()
            .expect("no thread panics while it counts frames")
    }

    fn lock_wanted(&self) -> MutexGuard<'_, Vec<(u16, u64)>> {
        self.wanted
            .lock()
            .expect("no thread panics while it notes a chunk")
    }

    /// Chunks that the target wants whole, by disk and number, since the last call.
    pub fn take_wanted(&self) -> Vec<(u16, u64)> {
        std::mem::take(&mut *self.lock_wanted())
    }

    /// Frames with a number below `frames` are durable.
    fn acknowledge(&self, frames: u64) {
        let mut unacknowledged = self.lock_unacknowledged();
        while let Some((_, len)) = unacknowledged.pop_front_if(|(number, _)| *number < frames) {
            self.durable.fetch_add(len, Ordering::Relaxed);
        }
    }

    fn say_goodbye(&self, listener: &std::thread::ScopedJoinHandle<'_, ()>) {
        // Everything is durable and sealed: an error from here on changes nothing.
        drop(self.order(&DiskOrder::Goodbye));
        self.ended.stop();
        let since = Instant::now();
        while !listener.is_finished() && since.elapsed() < GOODBYE_MAX {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn failed(why: Failure, message: String) -> Error {
    Error::new(why.kind(), "copy to the target").because(message)
}

/// The target said something that does not belong here.
pub fn out_of_turn() -> Error {
    Error::new(
        Kind::Corrupt,
        "follow the target: it answers something else than it was asked",
    )
    .remedy("use the same release of go2cloud on both sides")
}
