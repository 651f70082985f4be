//! What a source asks of the machine that receives it, beside its volume: to make its disks ready before the data come,
//! to make what arrived bootable, and to start it.
//!
//! A session of its own kind ([`crate::link::auth::VolumeKind::Machine`]), authenticated like every other: one request,
//! signs of life and progress while the target works on it, one answer. What the words mean is the receiver's affair
//! ([`Desk`]); this module carries them. A receiver that is no machine in migration mode says so, and its source goes
//! on without.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::link::auth::{Hello, PROTOCOL, Role, VolumeKind, random_id};
use crate::link::tls::KEEP_ALIVE;
use crate::link::{Accepted, FrameWriter, connect};
use crate::progress::StopFlag;
use crate::protocol::{self, KIND_ORDER, KIND_REPORT, Order, Report};
use crate::secret::Secret;
use crate::source::conversation::{Answer as Heard, Conversation, Findings, unexpected};
use crate::throttle::Throttle;

/// How often the target's watcher looks for its end.
const WATCH: Duration = Duration::from_millis(50);
/// Pause between two attempts of a source to reach the target.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// What a source asks for. Each can be asked again: what is done already is not done twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Make the disks ready for what comes. The JSON document is described in docs/CONVERSION.md.
    Prepare {
        /// The document.
        plan: String,
    },
    /// Make what arrived bootable, and verify that it is.
    Convert,
    /// Start it. Answered before the machine goes down.
    Restart,
}

/// How a target answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done {
        /// For people: what was done, and warnings.
        text: String,
    },
    /// It cannot be done.
    Refused {
        /// For people: why, and what to do.
        text: String,
    },
    /// This receiver is no machine in migration mode: its disks and its system are somebody else's affair.
    NotAMachine,
}

/// Who does at the target what a source asks for.
pub trait Desk: Sync {
    /// Does it; `tell` shows people at the source what goes on. No volume is being written meanwhile.
    fn ask(&self, request: &Request, tell: &(dyn Fn(&str) + Sync)) -> Answer;
}

/// Where a source asks.
pub struct Address<'a> {
    /// Addresses of the target's receiver, tried in order.
    pub target: &'a [SocketAddr],
    /// What both peers know.
    pub secret: &'a Secret,
    /// Attempts in a row that may fail before the target counts as lost.
    pub attempts: u32,
}

/// Asks the target, again when the link breaks, and waits for its answer; `tell` gets its progress.
///
/// # Errors
/// The target cannot be reached, refuses this source, or `stop` was set.
pub fn ask(address: &Address<'_>, request: &Request, tell: &dyn Fn(&str), stop: &StopFlag) -> Result<Answer> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match ask_once(address, request, tell, stop) {
            Err(error) if error.kind() == Kind::Retry && attempts < address.attempts => {
                tracing::info!(%error, "asking again");
                if stop.sleep(RETRY_PAUSE) {
                    return Err(crate::source::conversation::stopped());
                }
            }
            result => return result,
        }
    }
}

fn ask_once(
    address: &Address<'_>,
    request: &Request,
    tell: &dyn Fn(&str),
    stop: &StopFlag,
) -> Result<Answer> {
    let hello = Hello {
        protocol: PROTOCOL,
        session: random_id()?,
        instance: random_id()?,
        migration: [0; 16],
        role: Role::Control,
        data_connections: 1,
        volume: VolumeKind::Machine,
    };
    let throttle = std::sync::Arc::new(Throttle::new(0));
    let link = connect(address.target, address.secret, &hello, &throttle)?;
    let (conversation, report, _data) = Conversation::new(link);
    let findings = Findings::default();
    std::thread::scope(|scope| {
        scope.spawn(|| conversation.listen(report, &findings));
        scope.spawn(|| conversation.watch(stop));
        let answer = (|| {
            conversation.order(&Order::Ask {
                request: request.clone(),
            })?;
            loop {
                match conversation.answer()? {
                    Heard::Report(Report::Doing { text }) => tell(&text),
                    Heard::Report(Report::Answered { answer }) => return Ok(answer),
                    other => return Err(unexpected(other)),
                }
            }
        })();
        conversation.finish();
        answer
    })
}

/// Serves one session at the target.
///
/// # Errors
/// The link broke, or the source broke the protocol.
pub fn serve(accepted: Accepted, desk: Option<&dyn Desk>) -> Result<()> {
    let Accepted {
        mut control, report, ..
    } = accepted;
    let report = Mutex::new(report);
    while let Some(frame) = control.receive()? {
        match protocol::decode(KIND_ORDER, frame)? {
            Order::KeepAlive => {}
            Order::Goodbye => return Ok(()),
            Order::Ask { request } => {
                let answer = desk.map_or(Answer::NotAMachine, |desk| answer(desk, &request, &report));
                say(&report, &Report::Answered { answer })?;
            }
            _ => {
                return Err(Error::new(
                    Kind::Corrupt,
                    "follow an order that belongs to another kind of session",
                ));
            }
        }
    }
    Ok(())
}

/// Works on a request while another thread shows the source that somebody is there. A source that has gone is no reason
/// to stop half-way: it asks again.
fn answer(desk: &dyn Desk, request: &Request, report: &Mutex<FrameWriter>) -> Answer {
    let over = StopFlag::default();
    let say_if_possible = |message: &Report| {
        if let Err(error) = say(report, message) {
            tracing::debug!(%error, "report not sent");
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut quiet_since = Instant::now();
            while !over.sleep(WATCH) {
                if quiet_since.elapsed() >= KEEP_ALIVE {
                    quiet_since = Instant::now();
                    say_if_possible(&Report::KeepAlive);
                }
            }
        });
        let tell = |text: &str| {
            say_if_possible(&Report::Doing {
                text: text.to_owned(),
            });
        };
        let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| desk.ask(request, &tell)));
        over.stop();
        answer.unwrap_or_else(|_| Answer::Refused {
            text: "the target failed by a defect of its program; its console shows more".to_owned(),
        })
    })
}

fn say(report: &Mutex<FrameWriter>, message: &Report) -> Result<()> {
    let frame = protocol::encode(KIND_REPORT, message)?;
    report.lock().expect("not poisoned").send(&frame).map(drop)
}
