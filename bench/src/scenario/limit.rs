//! Does the bandwidth limit hold?

use anyhow::Result;

use super::full_rounds;
use crate::RunArgs;
use crate::data::{Content, big_file};
use crate::measure::median;
use crate::site::Site;
use crate::table::fact;
use crate::tool::Tool;

/// MiB/s, and how many MiB are copied with it: 15 to 20 seconds each.
const LIMITS: [(u32, u64); 3] = [(1, 15), (10, 200), (25, 400)];

/// Allowed deviation.
const DEVIATION_MAX: f64 = 0.03;

pub(super) fn run(site: &mut Site, args: &RunArgs) -> Result<()> {
    for (limit, mib) in LIMITS {
        let source = site.empty("source")?;
        big_file(&source.join("big"), mib << 20, Content::Random, 1)?;
        let rows = full_rounds(site, args, &[Tool::Go2cloud], |job| {
            job.limit = Some(limit * 1024);
        })?;
        let samples = rows.iter().flat_map(|row| &row.samples);
        let rate =
            median(samples.map(|sample| sample.wire_bytes as f64 / sample.seconds / f64::from(1 << 20)));
        let deviation = rate / f64::from(limit) - 1.0;
        let verdict = if deviation.abs() <= DEVIATION_MAX {
            "reached"
        } else {
            "missed"
        };
        fact(&format!(
            "limit of {limit} MiB/s: {rate:.3} MiB/s on the wire, {:+.1} %; goal ± 3 % {verdict}",
            deviation * 100.0
        ))?;
    }
    Ok(())
}
