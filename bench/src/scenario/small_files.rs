//! Many small files, everything new.

use anyhow::Result;

use super::{full_rounds, links, scaled, source_code, tools};
use crate::RunArgs;
use crate::network::Link;
use crate::site::Site;
use crate::table::{Goal, print};

const FILES: u64 = 200_000;

const GOALS: [Goal; 2] = [
    Goal {
        against: "rsync-ssh",
        times: 3.0,
    },
    Goal {
        against: "rsync-daemon",
        times: 2.0,
    },
];

pub(super) fn run(site: &mut Site, args: &RunArgs) -> Result<()> {
    let files = scaled(args, FILES);
    source_code(site, files)?;
    for link in links(args, &[Link::Unlimited, Link::Gigabit, Link::HundredMegabit]) {
        site.connect(link)?;
        let rows = full_rounds(site, args, &tools(args, link), |_| {})?;
        print(
            &format!("Full round, {files} small files, {}", link.name()),
            &rows,
            &GOALS,
        )?;
    }
    Ok(())
}
