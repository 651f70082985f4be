//! The receipt of a migration: what was copied, how, and what was compared; signed, and checkable offline.
//!
//! A receipt is one JSON document: `{"receipt":BODY,"signature":{…}}`. The signature (Ed25519) covers the exact bytes of
//! BODY, so that no canonical form is needed; the file must not be reformatted. The key belongs to this machine and is
//! kept in the state folder. A receipt shows its public key: whoever wants to know not only that a receipt is whole but
//! also whose it is compares that key.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ring::rand::SystemRandom;
use ring::signature::{self, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::Serialize;
use serde_json::Value;
use transfer::progress::Summary;

use crate::cli::VerifyArgs;
use crate::exit::{self, Exit};
use crate::output::{complain, say};
use crate::state::{State, write_whole};
use crate::units;

const BEGIN: &str = "{\"receipt\":";
const MIDDLE: &str = ",\"signature\":";
const KEY_FILE: &str = "receipt.key";

/// What a receipt says.
#[derive(Debug, Serialize)]
pub struct Receipt<'a> {
    /// Version of this form.
    pub version: u32,
    /// Version of the agent.
    pub agent: &'static str,
    /// Identifier of the source.
    pub source: &'a str,
    /// What was migrated.
    pub root: &'a Path,
    /// The source's system.
    pub system: &'a str,
    /// The job, if there was one.
    pub job: Option<&'a str>,
    /// The target: an instance or an address.
    pub target: &'a str,
    /// When it began, UTC.
    pub began: String,
    /// When it ended, UTC.
    pub ended: String,
    /// What was done.
    pub summary: &'a Summary,
}

/// Signs `receipt` and writes it to `folder` as `receipt-NAME.json`, with a readable `receipt-NAME.txt`.
///
/// # Errors
/// The folder cannot be written, or the key cannot be made.
pub fn write(receipt: &Receipt<'_>, folder: &Path, name: &str, state: &State) -> io::Result<PathBuf> {
    let body = serde_json::to_string(receipt)?;
    let key = key(state)?;
    let signature = serde_json::json!({
        "algorithm": "Ed25519",
        "public_key": hex(key.public_key().as_ref()),
        "value": hex(key.sign(body.as_bytes()).as_ref()),
    });
    fs::create_dir_all(folder)?;
    let path = folder.join(format!("receipt-{name}.json"));
    write_whole(&path, format!("{BEGIN}{body}{MIDDLE}{signature}}}\n").as_bytes())?;
    let value = serde_json::from_str(&body)?;
    write_whole(&path.with_extension("txt"), text(&value).as_bytes())?;
    Ok(path)
}

/// `go2cloud verify`: checks a receipt offline. Exit code 0: whole and complete; 23: whole, but it tells of entries that
/// were not copied; 1: not to be trusted.
pub fn run(args: &VerifyArgs) -> Exit {
    let document = match fs::read_to_string(&args.receipt) {
        Ok(document) => document,
        Err(error) => {
            complain(&format!("go2cloud: {}: {error}", args.receipt.display()));
            return exit::USAGE;
        }
    };
    let (body, public_key) = match verify(&document) {
        Ok(verified) => verified,
        Err(why) => {
            complain(&format!("go2cloud: {}: {why}", args.receipt.display()));
            return exit::FAILED;
        }
    };
    if let Some(expected) = &args.key
        && !expected.eq_ignore_ascii_case(&public_key)
    {
        complain(&format!(
            "go2cloud: the receipt is whole, but signed by another key: {public_key}"
        ));
        return exit::FAILED;
    }
    say(&text(&body));
    say(&format!("The signature is good. Key: {public_key}"));
    if body["summary"]["ok"] == Value::Bool(true) {
        exit::DONE
    } else {
        exit::PARTIAL
    }
}

/// The body of a receipt and the key that signed it, if it is whole.
fn verify(document: &str) -> Result<(Value, String), String> {
    let document = document.trim_end();
    let inner = document
        .strip_prefix(BEGIN)
        .and_then(|rest| rest.strip_suffix('}'));
    let (body, signature) = inner
        .and_then(|inner| inner.rsplit_once(MIDDLE))
        .ok_or("not a receipt, or reformatted since it was written")?;
    let signature: Value =
        serde_json::from_str(signature).map_err(|error| format!("broken signature: {error}"))?;
    let part = |name: &str| signature[name].as_str().unwrap_or_default().to_owned();
    let (public_key, value) = (part("public_key"), part("value"));
    let bytes = |text: &str| unhex(text).ok_or("broken signature");
    UnparsedPublicKey::new(&signature::ED25519, bytes(&public_key)?)
        .verify(body.as_bytes(), &bytes(&value)?)
        .map_err(|_| "the signature does not fit: the receipt was changed")?;
    let body = serde_json::from_str(body).map_err(|error| format!("broken receipt: {error}"))?;
    Ok((body, public_key))
}

fn key(state: &State) -> io::Result<Ed25519KeyPair> {
    let refused = |what: &str| io::Error::other(format!("{what}: {}", state.path(KEY_FILE).display()));
    if let Some(text) = state.read::<String>(KEY_FILE) {
        let bytes = unhex(&text).ok_or_else(|| refused("broken key"))?;
        return Ed25519KeyPair::from_pkcs8(&bytes).map_err(|_| refused("broken key"));
    }
    let document =
        Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| refused("no random numbers"))?;
    state.write(KEY_FILE, &hex(document.as_ref()))?;
    Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|_| refused("broken key"))
}

fn text(body: &Value) -> String {
    let word = |name: &str| body[name].as_str().unwrap_or("-").to_owned();
    let summary = &body["summary"];
    let number = |name: &str| summary[name].as_u64().unwrap_or(0);
    let mut text = format!(
        "Migration of {} ({}) to {}, {} to {}\n",
        word("root"),
        word("system"),
        word("target"),
        word("began"),
        word("ended")
    );
    if let Some(job) = body["job"].as_str() {
        text.push_str(&format!("Job: {job}\n"));
    }
    text.push_str(&format!(
        "{} entries with {}; {} rounds; {} read, {} over the wire; {} reconnections\n",
        units::count(number("files")),
        units::bytes(number("bytes_total")),
        number("rounds"),
        units::bytes(number("bytes_read")),
        units::bytes(number("bytes_wire")),
        number("resumes"),
    ));
    if let Some(frozen_ms) = summary["frozen_ms"].as_u64() {
        text.push_str(&format!("Frozen for {frozen_ms} ms\n"));
    }
    match summary["verified"]["root"].as_str() {
        Some(root) => text.push_str(&format!(
            "Read back from the target's medium and compared: {} entries, root digest {root}\n",
            units::count(summary["verified"]["compared"].as_u64().unwrap_or(0)),
        )),
        None => {
            text.push_str("The target's medium was not read back: every byte was verified on arrival only\n");
        }
    }
    let skipped = summary["skipped"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    text.push_str(&format!("Not copied as it is: {} entries\n", skipped.len()));
    for entry in skipped {
        let part = |name: &str| entry[name].as_str().unwrap_or("-").to_owned();
        text.push_str(&format!(
            "  {} of {}: {}\n",
            part("what"),
            part("path"),
            part("why")
        ));
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use transfer::progress::{Skipped, Verified};

    use super::*;

    fn written(summary: &Summary) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let receipt = Receipt {
            version: 1,
            agent: "0",
            source: "abc",
            root: Path::new("/srv"),
            system: "Debian",
            job: Some("job-1"),
            target: "ins-1",
            began: "2026-01-01T00:00:00Z".into(),
            ended: "2026-01-01T00:01:00Z".into(),
            summary,
        };
        let path = write(&receipt, folder.path(), "job-1", &State::at(folder.path())).unwrap();
        (folder, path)
    }

    fn summary() -> Summary {
        Summary {
            ok: true,
            files: 1234,
            seconds: 0.1 + 0.2,
            verified: Some(Verified {
                root: "feed".into(),
                compared: 1234,
                ..Verified::default()
            }),
            ..Summary::default()
        }
    }

    #[test]
    fn receipts_verify_and_changed_ones_do_not() {
        let (_folder, path) = written(&summary());
        let document = fs::read_to_string(&path).unwrap();
        assert!(serde_json::from_str::<Value>(&document).is_ok());
        let (body, key) = verify(&document).unwrap();
        assert_eq!(body["summary"]["files"], 1234);
        assert_eq!(key.len(), 64);
        for (from, to) in [("1234", "1235"), ("feed", "feee"), ("Ed25519", "Ed2551x")] {
            let changed = document.replacen(from, to, 1);
            assert_ne!(changed, document);
            // The name of the algorithm is for people: it is not signed, and it is not believed either.
            assert_eq!(verify(&changed).is_err(), from != "Ed25519", "{from}");
        }
        assert!(verify("{}").is_err() && verify("").is_err());
        let args = |key: Option<&str>| VerifyArgs {
            receipt: path.clone(),
            key: key.map(str::to_owned),
        };
        assert_eq!(run(&args(None)), exit::DONE);
        assert_eq!(run(&args(Some(&key))), exit::DONE);
        assert_eq!(run(&args(Some("00"))), exit::FAILED);
    }

    #[test]
    fn skipped_entries_are_named_and_change_the_exit_code() {
        let summary = Summary {
            ok: false,
            skipped: vec![Skipped {
                path: "a/b".into(),
                what: "content".into(),
                why: "Input/output error".into(),
            }],
            ..summary()
        };
        let (folder, path) = written(&summary);
        let text = fs::read_to_string(folder.path().join("receipt-job-1.txt")).unwrap();
        assert!(text.contains("content of a/b: Input/output error"), "{text}");
        let args = VerifyArgs {
            receipt: path,
            key: None,
        };
        assert_eq!(run(&args), exit::PARTIAL);
    }

    #[test]
    fn one_machine_signs_with_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::at(folder.path());
        let first = key(&state).unwrap().public_key().as_ref().to_vec();
        assert_eq!(key(&state).unwrap().public_key().as_ref(), first);
    }
}
