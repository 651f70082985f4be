//! What a source asks a receiver of disks of a boot check: whether it can, to begin one, and what came of it.
//!
//! Asked beside the sessions ([`crate::link::errand`]), because rounds go on while a check runs. The check sees the disks as
//! they were when it began ([`Past`]). What a check is, is the receiver's affair ([`Checker`]).

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::disk::target::past::Past;
use crate::error::Result;
use crate::link::auth::Id;
use crate::link::errand::{Answer, Errand, Errands};
use crate::secret::Secret;

/// A question about boot checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Is one possible there?
    Can,
    /// Begin one of what the disks hold at this moment.
    Begin {
        /// Its name.
        id: Id,
        /// A JSON document, described in docs/CONVERSION.md.
        wish: String,
    },
    /// What came of it?
    Verdict {
        /// Its name.
        id: Id,
    },
}

/// The receiver's reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It is possible, or this is the verdict, a JSON object.
    Done {
        /// For people, or the verdict.
        text: String,
    },
    /// It has begun, or goes on.
    UnderWay,
    /// Another one is under way.
    Busy,
    /// There is none of this name: the receiver was started anew since, or another one was begun.
    Unknown,
    /// It is not possible, or nothing could be made of what the disks hold.
    Refused {
        /// For people: why, and what to do.
        text: String,
    },
}

/// Who makes the checks.
pub trait Checker: Send + Sync {
    /// Answers at once; a check goes on behind. `disks` are those that this receiver writes.
    fn reply(&self, question: &Question, disks: &[Arc<Past>]) -> Reply;
}

/// Asks the receiver at the first address that answers.
///
/// # Errors
/// No address answers ([`crate::Kind::Retry`]), or the peers do not accept each other.
pub fn ask(target: &[SocketAddr], secret: &Secret, question: &Question) -> Result<Reply> {
    let errand = Errand::BootCheck(question.clone());
    match Errands::connect(target, secret)?.run(&errand)? {
        Answer::BootCheck(reply) => Ok(reply),
        other => Err(other.unexpected()),
    }
}
