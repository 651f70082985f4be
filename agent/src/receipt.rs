//! The receipt of a migration: what was copied, how, and what was compared; signed by both sides, checkable offline.
//!
//! A receipt is one JSON document, `{"receipt":BODY,"countersigned":TARGET,"signature":{…}}`; docs/FORMATS.md draws it.
//! The source signs (Ed25519) the exact bytes from BODY to TARGET, the target the digest of BODY together with what it
//! knows itself; so no canonical form is needed, and the file must not be reformatted. Every end has its receipt, a
//! failure too, whoever made the run: a job, a run without one, or `sync`. There is one way to write it: [`write`]. What is
//! made of the target when its receiver is gone, an image, is added by the source alone: [`add_image`].

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use transfer::Kind;
use transfer::progress::Summary;
use transfer::receipt::{Countersigned, countersign};
use transfer::secret::Secret;
use transfer::signature::{ALGORITHM, SigningKey};

use crate::state::{State, write_whole};

mod text;
mod verify;

pub use verify::run;

const BEGIN: &str = "{\"receipt\":";
const COUNTERSIGNED: &str = ",\"countersigned\":";
const STATEMENT: &str = "{\"statement\":";
const IMAGE: &str = ",\"image\":";
const SIGNATURE: &str = ",\"signature\":";
const KEY_FILE: &str = "receipt.key";
/// Version of the form.
const VERSION: u32 = 2;
/// What the disk engine leaves in its state folder: roots, used maps and tracking of every disk.
const DISKS_FILE: &str = "receipt.json";
/// Pause before a target that could not be asked is asked again: it may just be starting anew.
const ASK_PAUSE: Duration = Duration::from_secs(1);
/// For how long one that has a complete copy is asked again.
const ASK_MAX: Duration = Duration::from_secs(20);

/// What is told of a run.
#[derive(Debug)]
pub struct Run<'a> {
    /// Identifier of the source.
    pub source: &'a str,
    /// The source's system.
    pub system: &'a str,
    /// What was migrated: a directory, or disks.
    pub volumes: Vec<String>,
    /// The job, if there was one.
    pub job: Option<&'a str>,
    /// The target: an instance, an image or an address.
    pub target: &'a str,
    /// When it began.
    pub began: jiff::Timestamp,
    /// The folder of its baseline.
    pub baseline: &'a Path,
    /// How it ended.
    pub outcome: Outcome<'a>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// It went through; the summary says whether every entry was copied as it is.
    Done(&'a Summary),
    /// It failed.
    Failed {
        /// Code or kind of the failure.
        code: &'a str,
        /// The step that failed.
        step: &'a str,
        /// What happened.
        message: &'a str,
    },
}

/// The target, which signs, too.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// Addresses of its receiver.
    pub addresses: &'a [SocketAddr],
    /// What both sides know.
    pub secret: &'a Secret,
}

#[derive(Serialize)]
struct Body<'a> {
    version: u32,
    agent: &'static str,
    source: &'a str,
    system: &'a str,
    volumes: &'a [String],
    job: Option<&'a str>,
    target: &'a str,
    began: String,
    ended: String,
    result: &'static str,
    failure: Option<Failure<'a>>,
    summary: Option<&'a Summary>,
    disks: Option<Value>,
}

#[derive(Serialize)]
struct Failure<'a> {
    code: &'a str,
    step: &'a str,
    message: &'a str,
}

/// Signs what is told of `run`, has the target sign it or says why not, and writes it to `folder` as `receipt-NAME.json`, with a
/// readable `receipt-NAME.txt`. A target that cannot be asked, or that does not sign, is named in the receipt.
///
/// # Errors
/// The folder cannot be written, or the key cannot be made.
pub fn write(
    run: &Run<'_>,
    peer: Result<Peer<'_>, &str>,
    folder: &Path,
    name: &str,
    state: &State,
) -> io::Result<PathBuf> {
    let body = serde_json::to_string(&body(run))?;
    // A receipt that tells of a failure proves nothing anyway.
    let patience = match run.outcome {
        Outcome::Done(_) => ASK_MAX,
        Outcome::Failed { .. } => Duration::ZERO,
    };
    let countersigned = countersigned(&body, peer, patience);
    std::fs::create_dir_all(folder)?;
    let path = path(folder, name);
    sign(&path, &format!("{body}{COUNTERSIGNED}{countersigned}"), state)?;
    Ok(path)
}

/// Adds the image that was made of the target to the receipt at `path`, and signs it anew.
///
/// # Errors
/// There is no receipt, it was changed, or it cannot be written.
pub fn add_image(path: &Path, image: &str, state: &State) -> io::Result<()> {
    let document = std::fs::read_to_string(path)?;
    // What is not one's own must not be signed.
    verify::open(&document).map_err(io::Error::other)?;
    let (covered, _) = verify::signed(document.trim_end(), BEGIN).map_err(io::Error::other)?;
    let (covered, _) = verify::without_image(covered);
    sign(path, &format!("{covered}{IMAGE}{}", Value::from(image)), state)
}

/// Signs `covered` as the source and writes the whole, with what it says for people.
fn sign(path: &Path, covered: &str, state: &State) -> io::Result<()> {
    let key = SigningKey::of(&state.path(KEY_FILE)).map_err(io::Error::other)?;
    let signature = signature(&key.public_key(), &key.sign(covered.as_bytes()));
    let document = format!("{BEGIN}{covered}{SIGNATURE}{signature}}}\n");
    write_whole(path, document.as_bytes())?;
    let verified = verify::open(&document).map_err(io::Error::other)?;
    write_whole(&path.with_extension("txt"), text::of(&verified).as_bytes())
}

/// Where the receipt of that name lies.
pub fn path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("receipt-{name}.json"))
}

/// A name for the receipt of a run without a job: letters, digits, dots and dashes only.
pub fn name_for(target: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || ".-".contains(letter);
    target
        .chars()
        .map(|letter| if plain(letter) { letter } else { '-' })
        .collect()
}

fn body<'a>(run: &'a Run<'a>) -> Body<'a> {
    let (result, failure, summary) = match run.outcome {
        Outcome::Done(summary) if summary.ok => ("complete", None, Some(summary)),
        Outcome::Done(summary) => ("partial", None, Some(summary)),
        Outcome::Failed { code, step, message } => ("failed", Some(Failure { code, step, message }), None),
    };
    // The file of an earlier run must not tell of one that failed.
    let disks = summary
        .and_then(|_| std::fs::read(run.baseline.join(DISKS_FILE)).ok())
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let utc = |time: jiff::Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    Body {
        version: VERSION,
        agent: env!("CARGO_PKG_VERSION"),
        source: run.source,
        system: run.system,
        volumes: &run.volumes,
        job: run.job,
        target: run.target,
        began: utc(run.began),
        ended: utc(jiff::Timestamp::now()),
        result,
        failure,
        summary,
        disks: disks.map(|mut disks| disks["disks"].take()),
    }
}

fn countersigned(body: &str, peer: Result<Peer<'_>, &str>, patience: Duration) -> String {
    let missing = |why: &str| serde_json::json!({ "missing": why }).to_string();
    let peer = match peer {
        Ok(peer) => peer,
        Err(why) => return missing(why),
    };
    match ask(peer, body, patience) {
        Ok(signed) => {
            let signature = signature(&signed.public_key, &signed.signature);
            format!("{STATEMENT}{}{SIGNATURE}{signature}}}", signed.statement)
        }
        Err(error) => {
            let why = crate::sync::chain(&error);
            tracing::warn!("the target has not signed the receipt: {why}");
            missing(&why)
        }
    }
}

/// Has the target sign. One that cannot be reached is asked again for as long as `patience` lasts.
fn ask(peer: Peer<'_>, body: &str, patience: Duration) -> transfer::Result<Countersigned> {
    let began = Instant::now();
    loop {
        match countersign(peer.addresses, peer.secret, body.as_bytes()) {
            Err(error) if error.kind() == Kind::Retry && began.elapsed() < patience => {
                tracing::debug!(%error, "the target is asked again for its signature");
                std::thread::sleep(ASK_PAUSE);
            }
            asked => return asked,
        }
    }
}

fn signature(public_key: &str, value: &str) -> String {
    serde_json::json!({ "algorithm": ALGORITHM, "public_key": public_key, "value": value }).to_string()
}

#[cfg(test)]
mod tests;
