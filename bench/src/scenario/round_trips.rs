//! A long link: how many round trips a copy waits for.

use anyhow::Result;

use super::{full_rounds, scaled, source_code, tools};
use crate::RunArgs;
use crate::network::Link;
use crate::site::Site;
use crate::table::{fact, print};

const FILES: u64 = 1000;
const ROUND_TRIP_MS: u64 = 100;

pub(super) fn run(site: &mut Site, args: &RunArgs) -> Result<()> {
    source_code(site, scaled(args, FILES))?;
    let mut tools = tools(args, Link::Unlimited);
    // nc ends before a delayed answer comes.
    tools.retain(|tool| tool.is_incremental());
    let near = full_rounds(site, args, &tools, |job| job.round_trip_ms = Some(0))?;
    let far = full_rounds(site, args, &tools, |job| job.round_trip_ms = Some(ROUND_TRIP_MS))?;
    print(
        &format!(
            "{} small files, {ROUND_TRIP_MS} ms of round-trip time",
            scaled(args, FILES)
        ),
        &far,
        &[],
    )?;
    for (near, far) in near.iter().zip(&far) {
        let trips = (far.seconds() - near.seconds()) * 1000.0 / ROUND_TRIP_MS as f64;
        let goal = match near.tool.as_str() {
            "go2cloud" if trips <= 6.0 => "; goal ≤ 6 reached",
            "go2cloud" => "; goal ≤ 6 missed",
            _ => "",
        };
        fact(&format!("{}: {trips:.1} round trips{goal}", far.tool))?;
    }
    Ok(())
}
