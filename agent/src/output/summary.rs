//! How a run ended, for people and for programs.

use std::error::Error;

use serde::Serialize;
use transfer::progress::Summary;

use super::{Style, complain, json, say};
use crate::units;

/// Skipped entries named on the terminal; the JSON summary names all.
const SKIPPED_SHOWN_MAX: usize = 20;

/// Prints what was done.
pub fn print_summary(style: Style, summary: &Summary) {
    match style {
        Style::Quiet => {}
        Style::Json => {
            #[derive(Serialize)]
            struct Line<'a> {
                event: &'static str,
                #[serde(flatten)]
                summary: &'a Summary,
            }
            json::line(&Line {
                event: "summary",
                summary,
            });
        }
        Style::People => say(&text(summary)),
    }
    if style != Style::Json {
        complain_about_skipped(summary);
    }
}

fn text(summary: &Summary) -> String {
    let mut text = format!(
        "{} entries with {} at the target; {} sent, {} deleted, {} over the wire, {} rounds, {:.1} s",
        units::count(summary.files),
        units::bytes(summary.bytes_total),
        units::count(summary.sent),
        units::count(summary.deleted),
        units::bytes(summary.bytes_wire),
        summary.rounds,
        summary.seconds,
    );
    if summary.resumes > 0 {
        text.push_str(&format!(", {} reconnections", summary.resumes));
    }
    let paused = summary.backed_off.seconds();
    if paused > 0.0 {
        text.push_str(&format!(
            ", paused for {paused:.1} s for the sake of others on this machine"
        ));
    }
    if let Some(frozen_ms) = summary.frozen_ms {
        text.push_str(&format!(", frozen for {frozen_ms} ms"));
    }
    for what in &summary.not_frozen {
        text.push_str(&format!("\nnot frozen: {what}"));
    }
    if let Some(verified) = &summary.verified {
        text.push_str(&format!(
            "\nread back from the target's medium and equal: {} entries, {}, root digest {}",
            units::count(verified.compared),
            units::bytes(verified.bytes),
            verified.root,
        ));
        if verified.repaired > 0 {
            text.push_str(&format!(
                "\n{} differences were found, repaired and found equal afterwards: look after the target's medium",
                units::count(verified.repaired)
            ));
        }
    }
    text
}

fn complain_about_skipped(summary: &Summary) {
    let count = summary.skipped.len();
    for skipped in summary.skipped.iter().take(SKIPPED_SHOWN_MAX) {
        complain(&format!(
            "go2cloud: not copied: {} of {}: {}",
            skipped.what, skipped.path, skipped.why
        ));
    }
    if count > SKIPPED_SHOWN_MAX {
        complain(&format!(
            "go2cloud: and {} more; --json names all",
            count - SKIPPED_SHOWN_MAX
        ));
    }
}

/// Prints an error and its causes, one a line.
pub fn print_error(error: &(dyn Error + 'static)) {
    complain(&format!("go2cloud: {error}"));
    let mut cause = error.source();
    while let Some(error) = cause {
        complain(&format!("  because: {error}"));
        cause = error.source();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_matters() {
        let summary = Summary {
            ok: true,
            files: 12_345,
            bytes_total: 3 << 30,
            rounds: 2,
            resumes: 1,
            frozen_ms: Some(42),
            not_frozen: vec!["/boot/efi".into()],
            ..Summary::default()
        };
        let text = text(&summary);
        for part in [
            "12,345 entries",
            "3.00 GiB",
            "2 rounds",
            "1 reconnections",
            "42 ms",
            "not frozen: /boot/efi",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
