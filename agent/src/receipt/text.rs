//! A receipt for people.

use serde_json::Value;

use super::verify::Verified;
use crate::units;

/// What was done, as the source tells it.
pub(super) fn of(verified: &Verified) -> String {
    let body = &verified.body;
    let word = |name: &str| body[name].as_str().unwrap_or("-").to_owned();
    let volumes: Vec<&str> = list(&body["volumes"]).iter().filter_map(Value::as_str).collect();
    let mut text = format!(
        "Migration of {} ({}) to {}, {} to {}\n",
        volumes.join(", "),
        word("system"),
        word("target"),
        word("began"),
        word("ended")
    );
    if let Some(job) = body["job"].as_str() {
        text.push_str(&format!("Job: {job}\n"));
    }
    if let Some(image) = &verified.image {
        text.push_str(&format!("Image: {image}\n"));
    }
    text.push_str(&match body["result"].as_str() {
        Some("complete") => "Result: complete\n".to_owned(),
        Some("partial") => "Result: done, but some entries could not be copied as they are\n".to_owned(),
        _ => {
            let part = |name: &str| body["failure"][name].as_str().unwrap_or("-").to_owned();
            format!(
                "Result: failed at {}: {}: {}\n",
                part("step"),
                part("code"),
                part("message")
            )
        }
    });
    if !body["summary"].is_null() {
        text.push_str(&of_summary(&body["summary"]));
    }
    text
}

fn of_summary(summary: &Value) -> String {
    let number = |name: &str| summary[name].as_u64().unwrap_or(0);
    let seconds = summary["seconds"].as_f64().unwrap_or(0.0);
    let rate = if seconds > 0.0 {
        number("bytes_wire") as f64 / seconds
    } else {
        0.0
    };
    let mut text = format!(
        "{} entries with {}; {} rounds; {} read, {} over the wire, {}/s; {} reconnections\n",
        units::count(number("files")),
        units::bytes(number("bytes_total")),
        number("rounds"),
        units::bytes(number("bytes_read")),
        units::bytes(number("bytes_wire")),
        units::bytes(rate as u64),
        number("resumes"),
    );
    if let Some(frozen_ms) = summary["frozen_ms"].as_u64() {
        text.push_str(&format!("Frozen for {frozen_ms} ms\n"));
    }
    for what in list(&summary["not_frozen"]) {
        text.push_str(&format!("NOT frozen: {}\n", what.as_str().unwrap_or("-")));
    }
    match summary["boot_check"]["ok"].as_bool() {
        Some(true) => text.push_str("Started for a check before the cutover: the copy boots\n"),
        Some(false) => {
            text.push_str("Started for a check before the cutover: the copy does NOT boot as it should\n");
        }
        None => {}
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
    let skipped = list(&summary["skipped"]);
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

/// What the signatures prove, and what they do not.
pub(super) fn of_signatures(verified: &Verified) -> String {
    let mut text = format!(
        "Signed by the source, key {}: what stands above is what it wrote.\n",
        verified.source_key
    );
    match &verified.target {
        Err(why) => text.push_str(&format!(
            "NOT signed by the target ({why}): nobody but the source vouches for the copy."
        )),
        Ok((statement, key)) => {
            let at = i64::try_from(statement.signed_at).unwrap_or(i64::MAX);
            let at = jiff::Timestamp::from_second(at)
                .map(|at| at.to_string())
                .unwrap_or_default();
            text.push_str(&format!("Signed by the target, key {key}, at {at}: "));
            text.push_str(&match (&statement.sealed, &statement.verified) {
                (None, _) => "it has sealed nothing, and vouches for nothing.".to_owned(),
                (Some(sealed), None) => format!(
                    "its journal holds generation {} with the state {}, made durable after every digest was checked on arrival.",
                    sealed.generation, sealed.state
                ),
                (Some(sealed), Some(verified)) => format!(
                    "its journal holds generation {} with the state {}; it has re-read {} from its medium and found the root digest {}.",
                    sealed.generation,
                    sealed.state,
                    units::bytes(verified.bytes),
                    verified.root
                ),
            });
            text.push_str(
                "\nWhose keys these are the receipt cannot prove: compare them with what source and receiver show (--key, --target-key).",
            );
        }
    }
    text
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
