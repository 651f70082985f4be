//! The boot check before a cutover: what has arrived is started at the target, on an overlay, before the last round.
//!
//! What is checked is a state of one moment: a freeze of its own makes it, without the administrator's commands, and the
//! target keeps it for the check while rounds go on.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::Value;
use transfer::boot_check::{Question, Reply, ask};
use transfer::link::auth::{Id, random_id};
use transfer::progress::{StopFlag, Summary};
use transfer::secret::Secret;
use transfer::source::{Lead, Next, Standing, SyncPlan};
use transfer::storage::survey::interfaces;
use transfer::{Error, Kind, Result};

use crate::refusal::Refusals;

/// Attempts in a row to reach a target before anything is copied: with their pauses some ten minutes.
const ATTEMPTS: u32 = 300;
/// Pause between two of them.
const ATTEMPT_PAUSE: Duration = Duration::from_secs(2);
/// Pause between two rounds while the check runs.
const ROUND_PAUSE: Duration = Duration::from_secs(10);
/// How often the target is asked for its verdict.
const ASK_PAUSE: Duration = Duration::from_secs(1);
/// Checks that may be lost with a receiver that ended meanwhile.
const LOSSES_MAX: u32 = 3;

/// What follows when the copy does not boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// There is no cutover.
    Stop,
    /// It is told, and the cutover follows.
    Warn,
}

impl Consequence {
    /// From `--boot-check`, if it was given.
    pub fn check(text: Option<&str>, refusals: &mut Refusals) -> Option<Self> {
        match text? {
            "stop" => Some(Self::Stop),
            "warn" => Some(Self::Warn),
            other => {
                refusals.add(format!(
                    "`--boot-check {other}`: write stop or warn: what follows when the copy does not boot"
                ));
                None
            }
        }
    }
}

/// What is wanted of a boot check.
pub struct BootCheck {
    /// What follows when the copy does not boot.
    pub consequence: Consequence,
    /// Decisions about the conversion, as the target understands them.
    pub convert: Value,
}

/// Who is asked for it.
pub struct Peer<'a> {
    target: Vec<SocketAddr>,
    secret: Secret,
    tell: &'a (dyn Fn(&str) + Sync),
    stop: &'a StopFlag,
}

impl<'a> Peer<'a> {
    /// The target of `plan`; `tell` shows people what goes on.
    pub fn of(plan: &SyncPlan, tell: &'a (dyn Fn(&str) + Sync), stop: &'a StopFlag) -> Self {
        Self {
            target: plan.target.clone(),
            secret: plan.secret.clone(),
            tell,
            stop,
        }
    }
}

/// Makes the rounds that `lead` wants, with a boot check before the last of them if one is wanted. `sync` makes rounds.
///
/// # Errors
/// The target cannot check, the copy does not boot, or what `sync` gives.
pub fn copy(
    check: Option<&BootCheck>,
    peer: &Peer<'_>,
    lead: &dyn Lead,
    sync: &dyn Fn(&dyn Lead) -> Result<Summary>,
) -> Result<Summary> {
    let Some(check) = check else {
        return sync(lead);
    };
    peer.can()?;
    let checked = Checked {
        check,
        peer,
        lead,
        stage: Mutex::new(Stage::Before),
        losses: AtomicU32::new(0),
    };
    let mut summary = sync(&checked)?;
    if let Stage::Over(verdict) = checked.stage.into_inner().expect("no thread panics in it") {
        summary.boot_check = Some(verdict);
    }
    Ok(summary)
}

/// How far the check has come.
enum Stage {
    /// Its turn comes before the last round.
    Before,
    /// The target holds a state of one moment.
    Moment,
    /// It runs, under this name.
    Running(Id),
    /// This is its verdict.
    Over(Value),
}

/// Leads as `lead` does, with the check before the end.
struct Checked<'a> {
    check: &'a BootCheck,
    peer: &'a Peer<'a>,
    lead: &'a dyn Lead,
    stage: Mutex<Stage>,
    losses: AtomicU32,
}

impl Lead for Checked<'_> {
    fn next(&self, standing: Standing) -> Result<Next> {
        let mut stage = self.stage();
        if let Stage::Before = *stage {
            let next = self.lead.next(standing)?;
            if matches!(next, Next::Round | Next::Moment) {
                return Ok(next);
            }
            *stage = Stage::Moment;
            return Ok(Next::Moment);
        }
        if let Stage::Moment = *stage {
            *stage = Stage::Running(self.begin()?);
        }
        if let Stage::Running(id) = *stage {
            match self.wait(id)? {
                Waited::Running => return Ok(Next::Round),
                Waited::Lost if self.losses.fetch_add(1, Ordering::Relaxed) >= LOSSES_MAX => {
                    return Err(refused("the receiver ended during each check".to_owned()));
                }
                Waited::Lost => {
                    *stage = Stage::Moment;
                    return Ok(Next::Moment);
                }
                Waited::Verdict(verdict) => *stage = Stage::Over(self.check.judge(verdict, self.peer)?),
            }
        }
        Ok(Next::Last)
    }
}

/// What waiting for a check came to.
enum Waited {
    /// It goes on, and a round is due.
    Running,
    /// The target knows nothing of it: its receiver was started anew.
    Lost,
    Verdict(Value),
}

impl Checked<'_> {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().expect("no thread panics in it")
    }

    /// Begins a check of what the target holds now. An older one, of an agent that is gone, is waited for.
    fn begin(&self) -> Result<Id> {
        let id = random_id()?;
        let wish =
            serde_json::json!({ "convert": self.check.convert, "interfaces": interfaces() }).to_string();
        let begin = Question::Begin { id, wish };
        loop {
            match self.peer.ask(&begin)? {
                Reply::UnderWay => {
                    (self.peer.tell)("the copy is started in a virtual machine, on an overlay");
                    return Ok(id);
                }
                Reply::Busy => self.peer.sleep(ASK_PAUSE)?,
                Reply::Refused { text } => return Err(refused(text)),
                Reply::Done { .. } | Reply::Unknown => return Err(out_of_turn()),
            }
        }
    }

    /// Waits for its end, but no longer than until the next round.
    fn wait(&self, id: Id) -> Result<Waited> {
        let round_at = Instant::now() + ROUND_PAUSE;
        loop {
            let value = match self.peer.ask(&Question::Verdict { id })? {
                Reply::Done { text } => serde_json::from_str(&text).map_err(|error| {
                    Error::new(Kind::Corrupt, "understand the boot check's verdict").because(error)
                })?,
                // Not even a machine could be made of it.
                Reply::Refused { text } => serde_json::json!({ "ok": false, "error": text }),
                Reply::Unknown => return Ok(Waited::Lost),
                Reply::UnderWay if Instant::now() >= round_at => return Ok(Waited::Running),
                Reply::UnderWay => {
                    self.peer.sleep(ASK_PAUSE)?;
                    continue;
                }
                Reply::Busy => return Err(out_of_turn()),
            };
            return Ok(Waited::Verdict(value));
        }
    }
}

impl BootCheck {
    /// Tells what was found, and whether it may go on.
    fn judge(&self, verdict: Value, peer: &Peer<'_>) -> Result<Value> {
        if verdict["ok"] == true {
            let root = verdict["inside"]["root"].as_str().unwrap_or("-");
            (peer.tell)(&format!(
                "the copy boots: kernel {}, root {root}, after {} s",
                verdict["inside"]["kernel"].as_str().unwrap_or("-"),
                verdict["seconds"]
            ));
            return Ok(verdict);
        }
        match self.consequence {
            Consequence::Warn => {
                (peer.tell)(&format!("the copy does NOT boot as it should: {verdict}"));
                Ok(verdict)
            }
            Consequence::Stop => Err(refused(format!(
                "the copy does not boot as it should, and there was no cutover: {verdict}. The serial log lies at the \
                 target; `--boot-check warn` goes on all the same"
            ))),
        }
    }
}

impl Peer<'_> {
    /// Whether it can.
    ///
    /// # Errors
    /// It cannot, or cannot be reached.
    pub fn can(&self) -> Result<()> {
        for _ in 1..ATTEMPTS {
            match self.ask(&Question::Can) {
                Ok(Reply::Refused { text }) => return Err(refused(text)),
                Err(error) if error.kind() == Kind::Retry => self.sleep(ATTEMPT_PAUSE)?,
                answered => return answered.map(drop),
            }
        }
        self.ask(&Question::Can).map(drop)
    }

    fn ask(&self, question: &Question) -> Result<Reply> {
        ask(&self.target, &self.secret, question)
    }

    fn sleep(&self, pause: Duration) -> Result<()> {
        if self.stop.sleep(pause) {
            return Err(Error::new(Kind::Stopped, "wait for the target's boot check"));
        }
        Ok(())
    }
}

fn refused(text: String) -> Error {
    Error::new(Kind::Refused, "check that the copy boots").remedy(text)
}

fn out_of_turn() -> Error {
    Error::new(Kind::Corrupt, "understand what the target says of a boot check")
        .remedy("use the same release of go2cloud on both sides")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_consequences_are_known() {
        let mut refusals = Refusals::default();
        assert_eq!(Consequence::check(None, &mut refusals), None);
        assert_eq!(
            Consequence::check(Some("stop"), &mut refusals),
            Some(Consequence::Stop)
        );
        assert_eq!(
            Consequence::check(Some("warn"), &mut refusals),
            Some(Consequence::Warn)
        );
        assert!(refusals.is_empty());
        assert_eq!(Consequence::check(Some("maybe"), &mut refusals), None);
        assert!(refusals.as_slice()[0].contains("stop or warn"));
    }
}
