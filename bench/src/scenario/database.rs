//! A big file of which a little changed.

use anyhow::Result;

use super::{incremental_rounds, links, scaled, tools};
use crate::RunArgs;
use crate::data::{PAGE_LEN, change_pages, database};
use crate::measure::median;
use crate::network::Link;
use crate::site::Site;
use crate::table::{Goal, fact, print};

const LEN: u64 = 8 << 30;

/// What go2cloud sends for one changed page: its smallest chunk, and with big files a larger one.
const CHUNK_LEN: u64 = 64 << 10;

pub(super) fn run(site: &mut Site, args: &RunArgs) -> Result<()> {
    let len = scaled(args, LEN) / PAGE_LEN * PAGE_LEN;
    let path = site.empty("source")?.join("database");
    database(&path, len)?;
    let mut changed = 0;
    for link in links(args, &[Link::Unlimited, Link::Gigabit]) {
        site.connect(link)?;
        let rows = incremental_rounds(
            site,
            args,
            &tools(args, link),
            |job| job.in_place = true,
            |seed| {
                changed = change_pages(&path, seed)?;
                Ok(())
            },
        )?;
        let title = format!(
            "{changed} pages of 8 KiB changed in a file of {} MiB, {}",
            len >> 20,
            link.name()
        );
        let goals = ["rsync-ssh", "rsync-daemon"].map(|against| Goal { against, times: 5.0 });
        print(&title, &rows, &goals)?;
        if let Some(first) = rows.first() {
            let wire = median(first.samples.iter().map(|sample| sample.wire_bytes as f64));
            fact(&format!(
                "wire bytes: {:.2}× the changed pages, {:.2}× their chunks of {} KiB; goal ≤ 1.3× the chunks",
                wire / (changed * PAGE_LEN) as f64,
                wire / (changed * CHUNK_LEN) as f64,
                CHUNK_LEN >> 10
            ))?;
        }
    }
    Ok(())
}
