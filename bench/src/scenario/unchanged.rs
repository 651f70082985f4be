//! Nothing changed: what a round costs that finds nothing to do.

use anyhow::{Context as _, Result};

use super::{incremental_rounds, job, links, round_seconds, scaled, tools};
use crate::RunArgs;
use crate::data::tiny_files;
use crate::measure::{Sample, median};
use crate::network::Link;
use crate::site::Site;
use crate::table::{Goal, fact, print};
use crate::tool::Tool;

const FILES: u64 = 500_000;

pub(super) fn run(site: &mut Site, args: &RunArgs) -> Result<()> {
    let files = scaled(args, FILES);
    tiny_files(&site.empty("source")?, files)?;
    for link in links(args, &[Link::Unlimited]) {
        site.connect(link)?;
        let rows = incremental_rounds(site, args, &tools(args, link), |_| {}, |_| Ok(()))?;
        let goals = ["rsync-ssh", "rsync-daemon"].map(|against| Goal { against, times: 3.0 });
        print(
            &format!(
                "Nothing changed, {files} files, new process (sweep), {}",
                link.name()
            ),
            &rows,
            &goals,
        )?;
        tracked(site, args)?;
    }
    Ok(())
}

/// Further rounds in one process, which the tracker makes cheap.
fn tracked(site: &Site, args: &RunArgs) -> Result<()> {
    let mut job = job(site, Tool::Go2cloud, site.path("source"));
    job.rounds = args.repeat as u32 + 2;
    let sample: Sample = Tool::Go2cloud.copy(site, &job)?;
    // The second round is still a sweep of what was too young in the first.
    let seconds = (3..=u64::from(job.rounds))
        .map(|round| round_seconds(&sample, round).with_context(|| format!("round {round} told no duration")))
        .collect::<Result<Vec<f64>>>()?;
    let least = seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let most = seconds.iter().copied().fold(0.0, f64::max);
    let middle = median(seconds.iter().copied());
    let verdict = if middle < 1.0 { "reached" } else { "missed" };
    fact(&format!(
        "by tracker: median {middle:.3} s ({least:.3}–{most:.3} s) a round; goal < 1 s {verdict}"
    ))
}
