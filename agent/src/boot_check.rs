//! The boot check before a cutover: what has arrived is started at the target, on an overlay, before the last round.
//!
//! The source goes on meanwhile; its rounds do not, for the disks under an overlay must not change. The state that is
//! checked is one of a moment: the rounds before end with a freeze of their own, without the administrator's commands.

use std::net::SocketAddr;

use serde_json::Value;
use transfer::machine::{Address, Answer, Request, ask};
use transfer::progress::{StopFlag, Summary};
use transfer::secret::Secret;
use transfer::source::{Freeze, Rounds, SyncPlan};
use transfer::storage::survey::interfaces;
use transfer::{Error, Kind, Result};

use crate::refusal::Refusals;

/// Attempts in a row to reach the target: with their pauses some ten minutes.
const ATTEMPTS: u32 = 300;

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
    tell: &'a dyn Fn(&str),
    stop: &'a StopFlag,
}

impl<'a> Peer<'a> {
    /// The target of `plan`; `tell` shows people what goes on.
    pub fn of(plan: &SyncPlan, tell: &'a dyn Fn(&str), stop: &'a StopFlag) -> Self {
        Self {
            target: plan.target.clone(),
            secret: plan.secret.clone(),
            tell,
            stop,
        }
    }
}

/// Makes the rounds of `plan`, with a boot check before its cutover if one is wanted. `sync` makes rounds.
///
/// # Errors
/// The target cannot check, the copy does not boot, or what `sync` gives.
pub fn copy(
    check: Option<&BootCheck>,
    peer: &Peer<'_>,
    plan: &mut SyncPlan,
    sync: &dyn Fn(&SyncPlan) -> Result<Summary>,
) -> Result<Summary> {
    let Some(check) = check else {
        return sync(plan);
    };
    peer.can()?;
    let (verify, freeze) = (plan.verify, plan.volume.freeze_mut().clone());
    plan.verify = false;
    *plan.volume.freeze_mut() = freeze.clone().map(rehearsal);
    let mut total = sync(plan)?;
    let verdict = check.verdict(peer)?;
    plan.verify = verify;
    *plan.volume.freeze_mut() = freeze;
    plan.rounds = Rounds::Count(1);
    total.add(sync(plan)?);
    total.boot_check = Some(verdict);
    Ok(total)
}

impl BootCheck {
    fn verdict(&self, peer: &Peer<'_>) -> Result<Value> {
        let wish = serde_json::json!({ "convert": self.convert, "interfaces": interfaces() });
        let unclear = |error: serde_json::Error| {
            Error::new(Kind::Corrupt, "understand the boot check's verdict").because(error)
        };
        let verdict: Value = match peer.ask(&Request::BootCheck {
            wish: wish.to_string(),
        })? {
            Ok(text) => serde_json::from_str(&text).map_err(unclear)?,
            // Not even a machine could be made of it.
            Err(text) => serde_json::json!({ "ok": false, "error": text }),
        };
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
        self.ask(&Request::CanBootCheck)?.map(drop).map_err(refused)
    }

    /// What it answers, or why it does not do it.
    fn ask(&self, request: &Request) -> Result<std::result::Result<String, String>> {
        let address = Address {
            target: &self.target,
            secret: &self.secret,
            attempts: ATTEMPTS,
        };
        match ask(&address, request, self.tell, self.stop)? {
            Answer::Done { text } => Ok(Ok(text)),
            Answer::Refused { text } => Ok(Err(text)),
            Answer::NotAMachine => Err(refused(
                "this receiver knows no boot check: install a newer one".to_owned(),
            )),
        }
    }
}

/// The freeze of the state that is checked: nobody's services are stopped for it.
fn rehearsal(freeze: Freeze) -> Freeze {
    Freeze {
        before: None,
        after: None,
        ..freeze
    }
}

fn refused(text: String) -> Error {
    Error::new(Kind::Refused, "check that the copy boots").remedy(text)
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
