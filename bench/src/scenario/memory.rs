//! Memory with very many files: a full round, then a sweep with the baseline.

use anyhow::Result;

use super::{job, scaled};
use crate::RunArgs;
use crate::data::tiny_files;
use crate::site::Site;
use crate::table::fact;
use crate::tool::Tool;

const FILES: u64 = 2_000_000;

/// Goal of each side, in bytes.
const MEMORY_MAX: u64 = 128 << 20;

pub(super) fn run(site: &mut Site, args: &RunArgs) -> Result<()> {
    let files = scaled(args, FILES);
    tiny_files(&site.empty("source")?, files)?;
    let job = job(site, Tool::Go2cloud, site.path("source"));
    for round in ["full round", "sweep"] {
        let sample = Tool::Go2cloud.copy(site, &job)?;
        let verdict = if sample.source_memory.max(sample.target_memory) <= MEMORY_MAX {
            "reached"
        } else {
            "missed"
        };
        fact(&format!(
            "{round} of {files} files in {:.1} s: {} MiB at the source, {} MiB at the target; goal ≤ 128 MiB {verdict}",
            sample.seconds,
            sample.source_memory >> 20,
            sample.target_memory >> 20
        ))?;
    }
    Ok(())
}
