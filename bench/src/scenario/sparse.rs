//! Files with holes.

use anyhow::Result;

use super::{full_rounds, links, scaled, tools};
use crate::RunArgs;
use crate::data::sparse_files;
use crate::network::Link;
use crate::site::Site;
use crate::table::{Goal, print};

const FILES: u64 = 50;
const LEN: u64 = 10 << 20;

pub(super) fn run(site: &mut Site, args: &RunArgs) -> Result<()> {
    let files = scaled(args, FILES);
    sparse_files(&site.empty("source")?, files, LEN)?;
    for link in links(args, &[Link::Unlimited]) {
        site.connect(link)?;
        let rows = full_rounds(site, args, &tools(args, link), |job| job.sparse = true)?;
        let goals = ["rsync-ssh", "rsync-daemon"].map(|against| Goal { against, times: 20.0 });
        print(
            &format!("{files} files of 10 MiB with 80 % holes, {}", link.name()),
            &rows,
            &goals,
        )?;
    }
    Ok(())
}
