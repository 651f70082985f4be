//! `go2cloud verify`: checks a receipt offline and says what it proves.
//!
//! Nothing in a file is believed before the signature over it fits. Both signatures are checked, then whether source and
//! target speak of the same: the same sealed contents, and the same root digest where the medium was re-read.

use std::fs;

use serde_json::Value;
use transfer::receipt::{Countersigned, Statement};
use transfer::signature::is_signed;

use super::{BEGIN, COUNTERSIGNED, IMAGE, SIGNATURE, STATEMENT, VERSION, text};
use crate::cli::VerifyArgs;
use crate::exit::{self, Exit};
use crate::output::{complain, say};

/// A receipt whose signatures fit.
#[derive(Debug)]
pub(super) struct Verified {
    /// What the source says.
    pub(super) body: Value,
    /// The source's public key, hexadecimal.
    pub(super) source_key: String,
    /// What the target says and its public key, or why it says nothing.
    pub(super) target: Result<(Statement, String), String>,
    /// The image that was made of the target, as the source says.
    pub(super) image: Option<String>,
}

impl Verified {
    /// Whether the target confirms what the source says.
    fn is_vouched_for(&self) -> bool {
        let is_compared = self.body["summary"]["verified"]["root"].is_string();
        match &self.target {
            Ok((statement, _)) => {
                statement.sealed.is_some() && (!is_compared || statement.verified.is_some())
            }
            Err(_) => false,
        }
    }
}

/// Checks a receipt. Exit code 0: whole, complete, signed by both; 23: whole, but it tells of a failure or of entries
/// that were not copied, or the target has not signed; 1: not to be trusted.
pub fn run(args: &VerifyArgs) -> Exit {
    let refuse = |why: &str| {
        complain(&format!("go2cloud: {}: {why}", args.receipt.display()));
        exit::FAILED
    };
    let document = match fs::read_to_string(&args.receipt) {
        Ok(document) => document,
        Err(error) => {
            refuse(&error.to_string());
            return exit::USAGE;
        }
    };
    let verified = match verify(&document) {
        Ok(verified) => verified,
        Err(why) => return refuse(&why),
    };
    let target_key = verified.target.as_ref().ok().map(|(_, key)| key.as_str());
    for (whose, expected, found) in [
        ("source", &args.key, Some(verified.source_key.as_str())),
        ("target", &args.target_key, target_key),
    ] {
        if let Some(expected) = expected
            && found.is_none_or(|found| !expected.eq_ignore_ascii_case(found))
        {
            let found = found.unwrap_or("none");
            return refuse(&format!("the {whose}'s signature is by another key: {found}"));
        }
    }
    say(text::of(&verified).trim_end());
    say(&text::of_signatures(&verified));
    if verified.body["result"] == "complete" && verified.is_vouched_for() {
        exit::DONE
    } else {
        exit::PARTIAL
    }
}

/// Takes a receipt apart, if both signatures fit and both sides speak of the same.
pub(super) fn verify(document: &str) -> Result<Verified, String> {
    let verified = open(document)?;
    if let Ok((statement, _)) = &verified.target {
        agree(&verified.body["summary"], statement)?;
    }
    Ok(verified)
}

/// Takes a receipt apart, if both signatures fit.
pub(super) fn open(document: &str) -> Result<Verified, String> {
    let (covered, signature) = signed(document.trim_end(), BEGIN)?;
    let (source_key, value) = parts(&signature);
    if !is_signed(covered.as_bytes(), &source_key, &value) {
        return Err("the source's signature does not fit: the receipt was changed".to_owned());
    }
    let (covered, image) = without_image(covered);
    let (body, target) = covered
        .rsplit_once(COUNTERSIGNED)
        .ok_or("a receipt of an older release: verify it with that release")?;
    let target = target_of(body, target)?;
    let body: Value = serde_json::from_str(body).map_err(|error| format!("broken receipt: {error}"))?;
    if body["version"] != VERSION {
        return Err(format!(
            "a receipt of version {}: verify it with the release that wrote it",
            body["version"]
        ));
    }
    Ok(Verified {
        body,
        source_key,
        target,
        image,
    })
}

/// What is covered without the image at its end, and that image.
pub(super) fn without_image(covered: &str) -> (&str, Option<String>) {
    let parts = covered.rsplit_once(IMAGE);
    // Within the target's statement, or a text, it would not be the end.
    let parts = parts.and_then(|(rest, image)| Some((rest, serde_json::from_str(image).ok()?)));
    match parts {
        Some((rest, image)) => (rest, Some(image)),
        None => (covered, None),
    }
}

/// The text that a signature covers, and the signature: `BEGIN text,"signature":{…}}`.
pub(super) fn signed<'a>(document: &'a str, begin: &str) -> Result<(&'a str, Value), String> {
    let inner = document
        .strip_prefix(begin)
        .and_then(|rest| rest.strip_suffix('}'));
    let (covered, signature) = inner
        .and_then(|inner| inner.rsplit_once(SIGNATURE))
        .ok_or("not a receipt, or reformatted since it was written")?;
    let signature = serde_json::from_str(signature).map_err(|error| format!("broken signature: {error}"))?;
    Ok((covered, signature))
}

/// Public key and value of a signature. The name of the algorithm is for people: there is only one.
fn parts(signature: &Value) -> (String, String) {
    let part = |name: &str| signature[name].as_str().unwrap_or_default().to_owned();
    (part("public_key"), part("value"))
}

fn target_of(body: &str, target: &str) -> Result<Result<(Statement, String), String>, String> {
    if !target.starts_with(STATEMENT) {
        let value: Value =
            serde_json::from_str(target).map_err(|error| format!("broken receipt: {error}"))?;
        return Ok(Err(value["missing"].as_str().unwrap_or_default().to_owned()));
    }
    let (statement, signature) = signed(target, STATEMENT)?;
    let (public_key, signature) = parts(&signature);
    let countersigned = Countersigned {
        statement: statement.to_owned(),
        public_key,
        signature,
    };
    match countersigned.check(body.as_bytes()) {
        Ok(statement) => Ok(Ok((statement, countersigned.public_key))),
        Err(error) => Err(crate::sync::chain(&error)),
    }
}

/// A summary that the target contradicts proves nothing.
fn agree(summary: &Value, statement: &Statement) -> Result<(), String> {
    if summary.is_null() {
        return Ok(());
    }
    let differ = |what: &str| Err(format!("source and target contradict each other: {what}"));
    if let Some(sealed) = &statement.sealed
        && serde_json::to_value(sealed).is_ok_and(|sealed| summary["sealed"] != sealed)
    {
        return differ("they hold different contents");
    }
    if let (Some(root), Some(verified)) = (summary["verified"]["root"].as_str(), &statement.verified)
        && verified.root != root
    {
        return differ("they have different root digests");
    }
    Ok(())
}
