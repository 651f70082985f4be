//! A few large files, everything new: random bytes, or text.

use anyhow::Result;

use super::{full_rounds, links, scaled, tools};
use crate::RunArgs;
use crate::data::{Content, big_file};
use crate::network::Link;
use crate::site::Site;
use crate::table::{Goal, print};

const LEN: u64 = 4 << 30;
const FILES: u64 = 8;

pub(super) fn random(site: &mut Site, args: &RunArgs) -> Result<()> {
    run(site, args, Content::Random, "random")
}

pub(super) fn text(site: &mut Site, args: &RunArgs) -> Result<()> {
    run(site, args, Content::Text, "text")
}

fn run(site: &mut Site, args: &RunArgs, content: Content, name: &str) -> Result<()> {
    let len = scaled(args, LEN);
    let source = site.empty("source")?;
    for index in 0..FILES {
        big_file(&source.join(format!("big{index}")), len / FILES, content, index)?;
    }
    for link in links(args, &[Link::Unlimited, Link::Gigabit, Link::HundredMegabit]) {
        site.connect(link)?;
        let rows = full_rounds(site, args, &tools(args, link), |_| {})?;
        let times = if link == Link::Unlimited { 1.2 } else { 1.0 };
        let goal = Goal {
            against: "rsync-daemon",
            times,
        };
        let title = format!(
            "Full round, {} MiB of {name} in {FILES} files, {}",
            len >> 20,
            link.name()
        );
        print(&title, &rows, &[goal])?;
    }
    Ok(())
}
