//! Findings for people: a table with colours; and for programs: one JSON document.

use std::io::Write as _;

use anstyle::{AnsiColor, Style as Paint};
use serde::Serialize;

use super::finding::{self, Finding, Status};
use crate::exit::Exit;
use crate::output::{Style, say};

/// Width of the column of names.
const NAME_WIDTH: usize = 24;

/// Prints `findings` and gives the exit code that tells the worst of them.
pub fn print(style: Style, findings: &[Finding]) -> Exit {
    let exit = finding::exit(findings);
    match style {
        Style::Json => {
            #[derive(Serialize)]
            struct Report<'a> {
                event: &'static str,
                exit: u8,
                findings: &'a [Finding],
            }
            let report = Report {
                event: "check",
                exit: exit.0,
                findings,
            };
            say(&serde_json::to_string(&report).expect("findings have string keys and no failing parts"));
        }
        Style::People => {
            let mut output = anstream::stdout().lock();
            // A reader that went away does not change the result.
            let _ = output.write_all(table(findings).as_bytes());
        }
        Style::Quiet => {}
    }
    exit
}

fn table(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let (word, colour) = match finding.status {
            Status::Pass => ("pass", AnsiColor::Green),
            Status::Info => ("info", AnsiColor::Cyan),
            Status::Warn => ("WARN", AnsiColor::Yellow),
            Status::Fail => ("FAIL", AnsiColor::Red),
        };
        let paint = Paint::new().fg_color(Some(colour.into()));
        text.push_str(&format!(
            "{paint}{word}{paint:#}  {:<4} {:<NAME_WIDTH$}  {}\n",
            finding.id, finding.name, finding.observed
        ));
        let indent = " ".repeat(4 + 2 + 4 + 1 + NAME_WIDTH + 2);
        if !finding.remedy.is_empty() {
            text.push_str(&format!("{indent}→ {}\n", finding.remedy));
        }
        if finding.auto_fix {
            text.push_str(&format!("{indent}  (the target repairs this by itself)\n"));
        }
    }
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    text.push_str(&format!(
        "{} checks: {} failed, {} warnings\n",
        findings.len(),
        count(Status::Fail),
        count(Status::Warn)
    ));
    text
}
