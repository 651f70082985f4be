//! Results as Markdown.

use std::io::Write as _;

use anyhow::Result;

use crate::measure::{Sample, median};
use crate::tool::Tool;

/// All copies that one tool made of one workload over one link.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Name of the tool, and what is special about it.
    pub tool: String,
    /// One for each repetition.
    pub samples: Vec<Sample>,
}

/// How many times faster than another tool go2cloud is meant to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    /// The other tool.
    pub against: &'static str,
    /// At least so many times.
    pub times: f64,
}

impl Row {
    /// Median duration in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.seconds))
    }

    /// Median duration until everything is on the medium, in seconds.
    fn durable_seconds(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.durable_seconds))
    }

    fn line(&self, first: &Self) -> String {
        let seconds = self.seconds();
        let durable = self.durable_seconds();
        let of = |value: fn(&Sample) -> f64| median(self.samples.iter().map(value));
        let least = self
            .samples
            .iter()
            .map(|sample| sample.seconds)
            .fold(f64::INFINITY, f64::min);
        let most = self
            .samples
            .iter()
            .map(|sample| sample.seconds)
            .fold(0.0, f64::max);
        let memory = |value: fn(&Sample) -> u64| {
            let bytes = self.samples.iter().map(value).max().unwrap_or(0);
            if bytes == 0 {
                "–".to_owned()
            } else {
                format!("{}", bytes >> 20)
            }
        };
        format!(
            "| {} | {seconds:.2} | {least:.2}–{most:.2} | {durable:.2} | {:.1} | {:.1} | {} / {} | {:.1}× | {:.1}× |",
            self.tool,
            of(|sample| sample.wire_bytes as f64) / 1e6,
            of(|sample| sample.processor_seconds),
            memory(|sample| sample.source_memory),
            memory(|sample| sample.target_memory),
            seconds / first.seconds(),
            durable / first.durable_seconds()
        )
    }
}

/// Prints a table; the first row is the one that the others are compared with.
pub(crate) fn print(title: &str, rows: &[Row], goals: &[Goal]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let Some(first) = rows.first() else {
        return Ok(());
    };
    writeln!(out, "\n### {title}\n")?;
    writeln!(
        out,
        "| tool | median s | least–most s | durable s | wire MB | CPU s | memory source / target MiB | takes | durable |"
    )?;
    writeln!(
        out,
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )?;
    for row in rows {
        writeln!(out, "{}", row.line(first))?;
    }
    writeln!(out)?;
    for goal in goals.iter().filter(|_| first.tool == Tool::Go2cloud.name()) {
        let Some(other) = rows.iter().find(|row| row.tool == goal.against) else {
            continue;
        };
        // go2cloud ends when everything is durable: so the others are given until then, too.
        let times = other.durable_seconds() / first.durable_seconds();
        let verdict = if times >= goal.times { "reached" } else { "missed" };
        writeln!(
            out,
            "- {:.1}× {} ({:.1}× its end): goal ≥ {}× {verdict}",
            times,
            goal.against,
            other.seconds() / first.seconds(),
            goal.times
        )?;
    }
    out.flush()?;
    Ok(())
}

/// Prints one measured value with its goal.
pub(crate) fn fact(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "- {text}")?;
    out.flush()?;
    Ok(())
}
