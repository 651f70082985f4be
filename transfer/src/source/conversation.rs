//! The source's side of the conversation: orders go out, reports come in, and the first failure ends everything.
//!
//! Independent of what is copied. While a conversation lasts, one thread listens to the target, and one keeps the
//! link alive and watches for a request to stop. Whatever fails first is the verdict; all connections are then broken
//! off, so that every thread blocked on one of them returns.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use crate::error::{Error, Kind, Result};
use crate::link::tls::{Breaker, KEEP_ALIVE};
use crate::link::{Frame, FrameReader, FrameWriter, SourceLink};
use crate::progress::{Skipped, StopFlag};
use crate::protocol::{self, KIND_ORDER, KIND_REPLICA, KIND_REPORT, Order, Report};
use crate::source::skips::Skips;

/// Answers that wait for the orchestrator; pieces of a replica are the only ones that come in numbers.
const ANSWERS_MAX: usize = 4;
/// How often the watcher looks for a request to stop.
const WATCH: Duration = Duration::from_millis(50);
/// How long a failed sender waits for the target's own words about it.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the target tells while a round runs; shared with whoever shows progress.
#[derive(Debug, Default)]
pub struct Findings {
    /// Frames that are durable at the target.
    pub durable_frames: AtomicU64,
    /// Their content bytes.
    pub durable_bytes: AtomicU64,
    /// Bytes that share blocks at the target as they do here.
    pub shared_bytes: AtomicU64,
    /// Bytes that share blocks here, and not at the target.
    pub apart_bytes: AtomicU64,
    /// What the target could not take as it is.
    pub skipped: Mutex<Skips>,
}

/// An answer that the orchestrator waits for.
#[derive(Debug)]
pub enum Answer {
    /// Anything but progress.
    Report(Report),
    /// A piece of the target's replica.
    Replica(Vec<u8>),
}

/// A running conversation, from [`Conversation::new`] to [`Conversation::finish`].
pub struct Conversation {
    control: Mutex<FrameWriter>,
    answers: Receiver<Answer>,
    /// Taken by the listener; when it is dropped, nobody waits for answers any more.
    answering: Mutex<Option<Sender<Answer>>>,
    verdict: Mutex<Option<Error>>,
    breakers: Vec<Breaker>,
    over: StopFlag,
    /// Who answered.
    pub target: SocketAddr,
    /// Bytes written to the control connection.
    pub control_bytes: AtomicU64,
}

impl Conversation {
    /// Takes a link apart: the conversation, what [`Conversation::listen`] reads, and the data connections.
    pub fn new(link: SourceLink) -> (Self, FrameReader, Vec<FrameWriter>) {
        let (answering, answers) = crossbeam_channel::bounded(ANSWERS_MAX);
        let conversation = Self {
            control: Mutex::new(link.control),
            answers,
            answering: Mutex::new(Some(answering)),
            verdict: Mutex::new(None),
            breakers: link.breakers,
            over: StopFlag::default(),
            target: link.target,
            control_bytes: AtomicU64::new(0),
        };
        (conversation, link.report, link.data)
    }

    /// Sends an order. For the orchestrator only: it takes the verdict.
    ///
    /// # Errors
    /// The session broke; the error is the verdict.
    pub fn order(&self, order: &Order) -> Result<()> {
        self.send(order).map_err(|error| {
            self.fail(error);
            self.verdict()
        })
    }

    /// Waits for the target's next answer. For the orchestrator only: it takes the verdict.
    ///
    /// # Errors
    /// The session broke; the error is the verdict.
    pub fn answer(&self) -> Result<Answer> {
        self.answers.recv().map_err(|_| self.verdict())
    }

    /// Waits for the next answer that is a report. For the orchestrator only: it takes the verdict.
    ///
    /// # Errors
    /// The session broke, or the target sends a replica nobody asked for.
    pub fn report(&self) -> Result<Report> {
        match self.answer()? {
            Answer::Report(report) => Ok(report),
            Answer::Replica(_) => Err(unexpected("a replica")),
        }
    }

    /// Notes a failure of this side and breaks the session off. A broken connection waits a moment for the target's
    /// own words, for they say why it closed it.
    pub fn fail(&self, error: Error) {
        if error.kind() == Kind::Retry {
            self.over.sleep(LAST_WORDS);
        }
        self.end(Some(error));
    }

    /// Why the session ended: the first failure. Whoever orchestrates takes it, once.
    pub fn verdict(&self) -> Error {
        let verdict = self.verdict.lock().expect("not poisoned").take();
        verdict.unwrap_or_else(|| Error::new(Kind::Retry, "go on: the session is over"))
    }

    /// Whether the session has ended, for whatever reason.
    pub fn is_over(&self) -> bool {
        self.over.is_stopped()
    }

    /// Ends the conversation in order, if it has not ended yet; its threads then return.
    pub fn finish(&self) {
        if let Err(error) = self.send(&Order::Goodbye) {
            tracing::debug!(%error, "the target was gone before the goodbye");
        }
        self.end(None);
    }

    /// Listens to the target until the conversation is over. Runs in a thread of its own.
    pub fn listen(&self, mut report: FrameReader, findings: &Findings) {
        let Some(answers) = self.answering.lock().expect("not poisoned").take() else {
            return;
        };
        loop {
            let heard = report.receive().and_then(|frame| match frame {
                Some(frame) => self.hear(frame, &answers, findings),
                None => Err(Error::new(
                    Kind::Retry,
                    "hear from the target: it ended the session",
                )),
            });
            if let Err(error) = heard {
                return self.end(Some(error));
            }
        }
    }

    fn hear(&self, frame: Frame, answers: &Sender<Answer>, findings: &Findings) -> Result<()> {
        let answer = if frame.kind == KIND_REPLICA {
            Answer::Replica(frame.decode()?.to_vec())
        } else {
            match protocol::decode(KIND_REPORT, frame)? {
                Report::KeepAlive => return Ok(()),
                Report::Durable { frames, bytes } => {
                    findings.durable_frames.store(frames, Ordering::Relaxed);
                    findings.durable_bytes.store(bytes, Ordering::Relaxed);
                    return Ok(());
                }
                Report::Shared { together, apart } => {
                    findings.shared_bytes.fetch_add(together, Ordering::Relaxed);
                    findings.apart_bytes.fetch_add(apart, Ordering::Relaxed);
                    return Ok(());
                }
                Report::Skipped { path, what, why } => {
                    let skipped = Skipped {
                        path: path.display(),
                        what,
                        why,
                    };
                    findings.skipped.lock().expect("not poisoned").add(skipped);
                    return Ok(());
                }
                Report::Failed { why, message } => {
                    return Err(Error::new(why.kind(), format!("go on at the target: {message}")));
                }
                report => Answer::Report(report),
            }
        };
        // Nobody waits any more only when the session is over.
        answers
            .send(answer)
            .map_err(|_| Error::new(Kind::Retry, "go on: the session is over"))
    }

    /// Keeps the link alive and watches for a request to stop, until the conversation is over. Runs in a thread of its own.
    pub fn watch(&self, stop: &StopFlag) {
        let mut quiet_since = Instant::now();
        while !self.over.sleep(WATCH) {
            if stop.is_stopped() {
                return self.end(Some(stopped()));
            }
            if quiet_since.elapsed() >= KEEP_ALIVE {
                quiet_since = Instant::now();
                if let Err(error) = self.send(&Order::KeepAlive) {
                    return self.fail(error);
                }
            }
        }
    }

    fn send(&self, order: &Order) -> Result<()> {
        let frame = protocol::encode(KIND_ORDER, order)?;
        let bytes = self.control.lock().expect("not poisoned").send(&frame)?;
        self.control_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// The first one decides; later failures are consequences.
    fn end(&self, error: Option<Error>) {
        {
            let mut verdict = self.verdict.lock().expect("not poisoned");
            if self.over.is_stopped() {
                return;
            }
            *verdict = error;
            self.over.stop();
        }
        for breaker in &self.breakers {
            breaker.break_off();
        }
    }
}

/// The error of a run that was asked to stop.
pub fn stopped() -> Error {
    Error::new(Kind::Stopped, "finish: stopped on request")
        .remedy("run the same command again to go on from what is durable")
}

/// The error for a message that does not belong here.
pub fn unexpected(what: impl std::fmt::Debug) -> Error {
    Error::new(
        Kind::Corrupt,
        format!("understand the target: it sent {what:?} out of turn"),
    )
    .remedy("use the same release of go2cloud on both sides")
}
