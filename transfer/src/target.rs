//! The target side's front door: what is served, where it lands, and the receiver that does it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crate::boot_check::{Checker, Question, Reply};
pub use crate::disk::target::DiskTarget;
use crate::disk::target::past::Past;
use crate::error::{Kind, Result};
use crate::link::auth::{Hello, Id, VolumeKind};
use crate::link::errand::{self, Answer, Errand};
use crate::link::tls::{Breaker, TlsStream};
use crate::link::{Accepted, Acceptor};
use crate::machine::{self, Desk};
use crate::progress::{Event, Observer, StopFlag};
use crate::protocol::{self, Failure, KIND_REPORT, Report};
use crate::receipt::Holdings;
use crate::secret::Secret;
use crate::signature::SigningKey;
use crate::tree::receive::TreeTarget;

/// How often the receiver looks for a request to stop.
const WATCH: Duration = Duration::from_millis(50);
/// How long a new source waits for the session of another one to end. A source that is done goes before its receiver
/// has put everything away, and one that was killed leaves connections whose end must be seen on each (about a second).
const LEAVING_MAX: Duration = Duration::from_secs(2);
/// How often it looks.
const LEAVING_NAP: Duration = Duration::from_millis(5);
/// Connections for errands at once.
const ERRANDS_MAX: usize = 16;
/// File in the journal's folder with the key that signs receipts.
const KEY_FILE: &str = "receipt.key";

/// What a receiver serves. Built after all checks; everything in it is valid.
pub struct ServePlan {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What both peers know.
    pub secret: Secret,
    /// Where the data land.
    pub volume: TargetVolume,
    /// Folder of the journal; made when missing. Never inside the volume.
    pub journal: PathBuf,
}

/// Where the data land.
pub enum TargetVolume {
    /// The contents of a directory.
    Tree {
        /// The directory that receives the source's contents.
        root: PathBuf,
    },
    /// Disks or image files, one for each of the source's, in the same order.
    Disks(Vec<DiskTarget>),
    /// Nowhere yet, or not now.
    Nothing,
}

/// A listening target.
pub struct Receiver {
    acceptor: Acceptor,
    target: RwLock<Arc<Target>>,
    journal: PathBuf,
    desk: Option<Arc<dyn Desk + Send>>,
    checker: Option<Arc<dyn Checker>>,
    holdings: Arc<Holdings>,
    /// Signs receipts.
    key: SigningKey,
}

/// The volume, ready to be written.
enum Target {
    Tree(Box<TreeTarget>),
    Disks {
        disks: Vec<DiskTarget>,
        /// One for each disk.
        pasts: Vec<Arc<Past>>,
        journal: PathBuf,
    },
    Nothing,
}

impl Target {
    fn open(volume: TargetVolume, journal: &Path, holdings: &Arc<Holdings>) -> Result<Self> {
        Ok(match volume {
            TargetVolume::Tree { root } => {
                let tree = TreeTarget::open(&root, journal, Arc::clone(holdings))?;
                Self::Tree(Box::new(tree))
            }
            TargetVolume::Disks(disks) => Self::Disks {
                pasts: disks
                    .iter()
                    .map(|disk| Arc::new(Past::of(disk.copy_path())))
                    .collect(),
                disks,
                journal: journal.to_owned(),
            },
            TargetVolume::Nothing => Self::Nothing,
        })
    }

    fn serves(&self, kind: VolumeKind) -> bool {
        match self {
            Self::Tree(_) => kind == VolumeKind::Tree,
            Self::Disks { .. } => kind == VolumeKind::Disks,
            Self::Nothing => false,
        }
    }

    fn serve(&self, accepted: Accepted, holdings: &Holdings, stop: &StopFlag) -> Result<()> {
        match self {
            Self::Tree(tree) => tree.serve(accepted, stop),
            Self::Disks {
                disks,
                pasts,
                journal,
            } => crate::disk::target::session::serve(accepted, disks, pasts, journal, holdings, stop),
            Self::Nothing => Ok(()),
        }
    }

    /// The disks, if it is made of such.
    fn pasts(&self) -> &[Arc<Past>] {
        match self {
            Self::Disks { pasts, .. } => pasts,
            Self::Tree(_) | Self::Nothing => &[],
        }
    }
}

/// The session under way.
struct Active<'scope> {
    instance: Id,
    migration: Id,
    breakers: Vec<Breaker>,
    thread: ScopedJoinHandle<'scope, ()>,
}

impl Active<'_> {
    /// Whether another source than the one that has come now is copied. A question to the machine may be of the same.
    fn is_of_another(&self, hello: &Hello) -> bool {
        const NONE: Id = [0; 16];
        self.migration != hello.migration && self.migration != NONE && hello.migration != NONE
    }

    /// Whether it ends by itself within [`LEAVING_MAX`].
    fn leaves(&self) -> bool {
        let end = Instant::now() + LEAVING_MAX;
        while !self.thread.is_finished() && Instant::now() < end {
            std::thread::sleep(LEAVING_NAP);
        }
        self.thread.is_finished()
    }
}

impl Receiver {
    /// Opens the volume and the listening socket.
    ///
    /// # Errors
    /// The target directory cannot be opened, the address is not local, or its port is in use.
    pub fn bind(plan: ServePlan) -> Result<Self> {
        let key = SigningKey::of(&plan.journal.join(KEY_FILE))?;
        let holdings = Arc::new(Holdings::open(&plan.journal)?);
        let target = Target::open(plan.volume, &plan.journal, &holdings)?;
        Ok(Self {
            acceptor: Acceptor::bind(plan.listen, plan.secret)?,
            target: RwLock::new(Arc::new(target)),
            journal: plan.journal,
            desk: None,
            checker: None,
            holdings,
            key,
        })
    }

    /// Answers what sources ask of the machine; without this they are told that there is none.
    #[must_use]
    pub fn with_desk(mut self, desk: Arc<dyn Desk + Send>) -> Self {
        self.desk = Some(desk);
        self
    }

    /// Makes boot checks of its disks; without this they are refused.
    #[must_use]
    pub fn with_checker(mut self, checker: Arc<dyn Checker>) -> Self {
        self.checker = Some(checker);
        self
    }

    /// Serves another volume from the next session on. A session under way keeps the one it has.
    ///
    /// # Errors
    /// The target directory cannot be opened; the old volume is served on.
    pub fn exchange(&self, volume: TargetVolume) -> Result<()> {
        let target = Arc::new(Target::open(volume, &self.journal, &self.holdings)?);
        *self.target.write().unwrap_or_else(PoisonError::into_inner) = target;
        Ok(())
    }

    fn target(&self) -> Arc<Target> {
        Arc::clone(&self.target.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The address listened on, with the port that was given for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.acceptor.local_addr()
    }

    /// The public key that signs receipts, hexadecimal.
    pub fn receipt_key(&self) -> String {
        self.key.public_key()
    }

    /// Serves one session after the other until asked to stop. Another source meanwhile is refused, another process of the
    /// same one is told to try again; a new session of the same process replaces its old one.
    ///
    /// # Errors
    /// TLS cannot be set up. Failures of sessions are told to the source and the observer; the receiver stays up.
    pub fn run(&self, observer: &dyn Observer, stop: &StopFlag) -> Result<()> {
        let (sender, sessions) = crossbeam_channel::bounded(1);
        let (asking, errands) = crossbeam_channel::bounded(ERRANDS_MAX);
        std::thread::scope(|scope| {
            let accepting = scope.spawn(move || self.acceptor.run(&sender, &asking, stop));
            scope.spawn(move || {
                let active = Arc::new(());
                for stream in errands {
                    // One too many is dropped: its peer finds the connection closed and may come again.
                    if Arc::strong_count(&active) <= ERRANDS_MAX {
                        let active = Arc::clone(&active);
                        scope.spawn(move || {
                            self.run_errands(stream);
                            drop(active);
                        });
                    }
                }
            });
            let mut active: Option<Active<'_>> = None;
            while !stop.is_stopped() && !accepting.is_finished() {
                if let Ok(accepted) = sessions.recv_timeout(WATCH) {
                    active = self.take(scope, active, accepted, observer, stop);
                }
            }
            // Connections that came too late are dropped, so that nobody waits for a place in the channel.
            drop(sessions);
            accepting.join().expect("accepting does not panic")
        })
    }

    fn take<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        active: Option<Active<'scope>>,
        accepted: Accepted,
        observer: &'env dyn Observer,
        stop: &'env StopFlag,
    ) -> Option<Active<'scope>> {
        let active = active.filter(|active| !active.thread.is_finished());
        let is_request = accepted.hello.volume == VolumeKind::Machine;
        if !is_request && !self.target().serves(accepted.hello.volume) {
            refuse(
                accepted,
                Failure::OtherMigration,
                "this receiver serves another kind of volume",
            );
            return active;
        }
        if let Some(active) = active {
            let is_same = active.instance == accepted.hello.instance;
            if !is_same && !active.leaves() {
                let (why, message) = if active.is_of_another(&accepted.hello) {
                    (
                        Failure::OtherMigration,
                        "another source is connected to this receiver, and a target holds one source only: give this one \
                         a receiver of its own, with its own directory and journal",
                    )
                } else {
                    (
                        Failure::Busy,
                        "another session, probably an earlier one of this source, is still open here: it ends 30 seconds \
                         after the last word of the process that began it, or with that process if it still runs",
                    )
                };
                refuse(accepted, why, message);
                return Some(active);
            }
            active.breakers.iter().for_each(Breaker::break_off);
            active.thread.join().expect("a session does not panic");
        }
        let breakers = accepted
            .breakers
            .iter()
            .map(Breaker::try_clone)
            .collect::<Result<Vec<_>>>();
        let breakers = breakers.unwrap_or_default();
        let Hello {
            instance, migration, ..
        } = accepted.hello;
        let thread = scope.spawn(move || self.serve(accepted, observer, stop));
        Some(Active {
            instance,
            migration,
            breakers,
            thread,
        })
    }

    /// Answers the questions of one connection.
    fn run_errands(&self, stream: TlsStream) {
        let answered = errand::serve(stream, |errand| match errand {
            Errand::Countersign { receipt } => {
                let answer = self.holdings.countersign(receipt, &self.key);
                answer.unwrap_or_else(|error| Answer::Refused {
                    message: error.describe(),
                })
            }
            Errand::Probe { .. } => Answer::Received,
            Errand::BootCheck(question) => Answer::BootCheck(self.reply(question)),
        });
        if let Err(error) = answered {
            tracing::info!(%error, "an errand failed");
        }
    }

    fn reply(&self, question: &Question) -> Reply {
        let why = match &self.checker {
            None => {
                "this receiver cannot start what it receives: a machine in migration mode has no QEMU. Leave out --boot-check: \
                 conversion verifies what arrived before it is started; or receive the disks on a host with QEMU \
                 (go2cloud-receiver --into-disk)"
            }
            Some(checker) => match self.target().pasts() {
                [] => "it takes whole disks: receive with --into-disk, or leave out --boot-check",
                pasts => return checker.reply(question, pasts),
            },
        };
        Reply::Refused { text: why.to_owned() }
    }

    fn serve(&self, accepted: Accepted, observer: &dyn Observer, stop: &StopFlag) {
        let (target, connections) = (accepted.source.to_string(), accepted.data.len());
        observer.event(&Event::Connected { target, connections });
        let served = if accepted.hello.volume == VolumeKind::Machine {
            machine::serve(accepted, self.desk.as_deref().map(|desk| desk as &dyn Desk))
        } else {
            self.target().serve(accepted, &self.holdings, stop)
        };
        match served {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::Stopped => {}
            Err(error) => observer.event(&Event::Warning {
                message: error.describe(),
            }),
        }
    }
}

fn refuse(mut accepted: Accepted, why: Failure, message: &str) {
    let report = Report::Failed {
        why,
        message: message.to_owned(),
    };
    let told = protocol::encode(KIND_REPORT, &report).and_then(|frame| accepted.report.send(&frame));
    if let Err(error) = told {
        tracing::debug!(%error, "refusal not sent");
    }
}
