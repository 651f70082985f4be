//! The receipt of a migration: what was copied, how, and what was compared; signed by both sides, checkable offline.
//!
//! A receipt is one JSON document, `{"receipt":BODY,"countersigned":TARGET,"signature":{…}}`; docs/FORMATS.md draws it.
//! The source signs (Ed25519) the exact bytes from BODY to TARGET, the target the digest of BODY together with what it
//! knows itself; so no canonical form is needed, and the file must not be reformatted. Every end has its receipt, a
//! failure too, whoever made the run: a job, a run without one, or `sync`. There is one way to write it: [`write`].

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use transfer::progress::Summary;
use transfer::receipt::countersign;
use transfer::secret::Secret;
use transfer::signature::{ALGORITHM, SigningKey};

use crate::state::{State, write_whole};

mod text;
mod verify;

pub use verify::run;

const BEGIN: &str = "{\"receipt\":";
const COUNTERSIGNED: &str = ",\"countersigned\":";
const STATEMENT: &str = "{\"statement\":";
const SIGNATURE: &str = ",\"signature\":";
const KEY_FILE: &str = "receipt.key";
/// Version of the form.
const VERSION: u32 = 2;
/// What the disk engine leaves in its state folder: roots, used maps and tracking of every disk.
const DISKS_FILE: &str = "receipt.json";

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
    let countersigned = countersigned(&body, peer);
    let key = SigningKey::of(&state.path(KEY_FILE)).map_err(io::Error::other)?;
    let covered = format!("{body}{COUNTERSIGNED}{countersigned}");
    let signature = signature(&key.public_key(), &key.sign(covered.as_bytes()));
    let document = format!("{BEGIN}{covered}{SIGNATURE}{signature}}}\n");
    std::fs::create_dir_all(folder)?;
    let path = folder.join(format!("receipt-{name}.json"));
    write_whole(&path, document.as_bytes())?;
    let verified = verify::open(&document).map_err(io::Error::other)?;
    write_whole(&path.with_extension("txt"), text::of(&verified).as_bytes())?;
    Ok(path)
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

fn countersigned(body: &str, peer: Result<Peer<'_>, &str>) -> String {
    let missing = |why: &str| serde_json::json!({ "missing": why }).to_string();
    let peer = match peer {
        Ok(peer) => peer,
        Err(why) => return missing(why),
    };
    match countersign(peer.addresses, peer.secret, body.as_bytes()) {
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

fn signature(public_key: &str, value: &str) -> String {
    serde_json::json!({ "algorithm": ALGORITHM, "public_key": public_key, "value": value }).to_string()
}

#[cfg(test)]
mod tests;
