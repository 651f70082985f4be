//! How long it will take, and whether it converges: amount, speed of the link, and what changes meanwhile.

use std::time::Duration;

use rustix::fs::statvfs;

use super::{Finding, Status, Subject};
use crate::inventory::Machine;
use crate::units;

/// How long the disks are watched.
const SAMPLE: Duration = Duration::from_secs(2);
/// Share of a link's nominal rate that arrives as data: headers, and what else runs.
const LINK_SHARE: f64 = 0.8;
/// Rate that is assumed when the link does not tell its own, in bytes per second: 100 Mbit/s.
const LINK_ASSUMED: f64 = 12.5e6;
/// Unit of /proc/diskstats, in bytes.
const SECTOR: u64 = 512;

pub(super) fn check(subject: &Subject<'_>) -> Finding {
    let used = statvfs(&subject.plan.source_root)
        .map(|space| (space.f_blocks - space.f_bfree) * space.f_frsize)
        .unwrap_or(0);
    let before = written(subject.machine);
    std::thread::sleep(SAMPLE);
    let churn = (written(subject.machine).saturating_sub(before)) as f64 / SAMPLE.as_secs_f64();
    let limit = subject.plan.transfer.bandwidth_limit.unwrap_or(0) * 1024;
    let link = rate(link_speed(subject.machine), limit);
    let mut finding = forecast(used as f64, churn, link);
    if !subject.is_whole() && finding.status == Status::Warn {
        // What the whole machine writes says little about one directory.
        finding.status = Status::Info;
        finding.remedy.clear();
    }
    finding
}

/// Bytes written to whole disks since the start of the machine.
fn written(machine: &Machine) -> u64 {
    let disks = machine.names("/sys/block");
    let text = machine.text("/proc/diskstats").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let name = *fields.get(2)?;
            let real = disks.iter().any(|disk| disk == name)
                && !["loop", "ram", "zram", "dm-", "md"]
                    .iter()
                    .any(|start| name.starts_with(start));
            real.then(|| fields.get(9)?.parse::<u64>().ok()).flatten()
        })
        .sum::<u64>()
        * SECTOR
}

/// Nominal speed of the fastest network card, in bytes per second.
fn link_speed(machine: &Machine) -> Option<f64> {
    let names = machine.names("/sys/class/net");
    let speeds = names
        .iter()
        .filter_map(|name| machine.number(&format!("/sys/class/net/{name}/speed")));
    speeds
        .max()
        .filter(|megabits| *megabits > 0)
        .map(|megabits| megabits as f64 * 1e6 / 8.0)
}

fn rate(link: Option<f64>, limit: u64) -> f64 {
    let link = link.unwrap_or(LINK_ASSUMED) * LINK_SHARE;
    if limit > 0 { link.min(limit as f64) } else { link }
}

fn forecast(used: f64, churn: f64, rate: f64) -> Finding {
    let name = "forecast";
    let text = format!(
        "up to {} at {}/s, {}/s changing",
        units::bytes(used as u64),
        units::bytes(rate as u64),
        units::bytes(churn as u64)
    );
    if churn >= rate {
        let remedy =
            "raise the bandwidth, or migrate at a quieter hour: changes come faster than they can be sent";
        return Finding::warn("F01", name, format!("{text}: does not converge"), remedy);
    }
    // Each round sends what changed during the one before: a geometric series with the ratio churn to rate.
    let seconds = used / rate / (1.0 - churn / rate);
    Finding::info(
        "F01",
        name,
        format!("{text}: about {}, converges", units::seconds(seconds as u64)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_a_geometric_series() {
        let finding = forecast(51200e6, 0.0, 12.5e6);
        assert!(
            finding.observed.contains("1h08m, converges"),
            "{}",
            finding.observed
        );
        let finding = forecast(51200e6, 6.25e6, 12.5e6);
        assert!(
            finding.observed.contains("2h16m, converges"),
            "{}",
            finding.observed
        );
        assert_eq!(forecast(1e9, 2e6, 1e6).status, Status::Warn);
    }

    #[test]
    fn the_smaller_of_link_and_limit_counts() {
        assert_eq!(rate(Some(125e6), 1024), 1024.0);
        assert_eq!(rate(Some(125e6), 0), 1e8);
        assert_eq!(rate(None, 0), 1e7);
    }
}
