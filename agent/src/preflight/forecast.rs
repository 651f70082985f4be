//! How long it will take, how long the last round is, and whether it converges: amount, link, and what changes meanwhile.
//!
//! Every number says where it comes from: the link is measured or said to be assumed ([`super::link`]), the changes are
//! what the disks take while they are watched for some seconds.

use std::time::Duration;

use super::link::Rate;
use super::space::amount;
use super::{Finding, Status, Subject};
use crate::inventory::Machine;
use crate::units;

/// How long the disks are watched.
const SAMPLE: Duration = Duration::from_secs(3);
/// Unit of /proc/diskstats, in bytes.
const SECTOR: u64 = 512;
/// Seconds that freezing, the last exchange and thawing take at least.
const HANDOVER_SECONDS: f64 = 1.0;

pub(super) fn check(subject: &Subject<'_>, rate: &Rate) -> Finding {
    let used = amount(subject).map_or(0, |(used, _)| used);
    let before = written(subject.machine);
    std::thread::sleep(SAMPLE);
    let churn = (written(subject.machine).saturating_sub(before)) as f64 / SAMPLE.as_secs_f64();
    let limit = subject.plan.transfer.bandwidth_limit.unwrap_or(0) * 1024;
    let mut finding = forecast(used as f64, churn, &limited(rate, limit));
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

fn limited(rate: &Rate, limit: u64) -> Rate {
    if limit > 0 && (limit as f64) < rate.bytes {
        Rate {
            bytes: limit as f64,
            source: format!("limited to {}/s", units::bytes(limit)),
        }
    } else {
        rate.clone()
    }
}

fn forecast(used: f64, churn: f64, rate: &Rate) -> Finding {
    let name = "forecast";
    let text = format!(
        "up to {}; link: {}; {}/s changing, sampled for {} s",
        units::bytes(used as u64),
        rate.source,
        units::bytes(churn as u64),
        SAMPLE.as_secs()
    );
    if churn >= rate.bytes {
        let remedy =
            "raise the bandwidth, or migrate at a quieter hour: changes come faster than they can be sent";
        return Finding::warn("F01", name, format!("{text}: does not converge"), remedy);
    }
    // Each round sends what changed during the one before: a geometric series with the ratio churn to rate.
    let ratio = churn / rate.bytes;
    let seconds = used / rate.bytes / (1.0 - ratio);
    // The second round sends what changed during the first; what changed during the second is sent while frozen.
    let last = used / rate.bytes * ratio;
    let frozen = HANDOVER_SECONDS + last * ratio;
    Finding::info(
        "F01",
        name,
        format!(
            "{text}: about {}, of which {} are the second round; frozen for about {}; converges",
            units::seconds(seconds as u64),
            units::seconds(last as u64),
            units::seconds(frozen.ceil() as u64)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(bytes: f64) -> Rate {
        Rate {
            bytes,
            source: "measured".into(),
        }
    }

    #[test]
    fn rounds_are_a_geometric_series() {
        let finding = forecast(51200e6, 0.0, &rate(12.5e6));
        assert!(
            finding
                .observed
                .contains("about 1h08m, of which 0s are the second round; frozen for about 1s; converges"),
            "{}",
            finding.observed
        );
        let finding = forecast(51200e6, 6.25e6, &rate(12.5e6));
        assert!(
            finding.observed.contains("about 2h16m, of which 34m08s")
                && finding.observed.contains("frozen for about 17m05s"),
            "{}",
            finding.observed
        );
        assert_eq!(forecast(1e9, 2e6, &rate(1e6)).status, Status::Warn);
    }

    #[test]
    fn the_smaller_of_link_and_limit_counts_and_says_so() {
        assert_eq!(limited(&rate(125e6), 1024).bytes, 1024.0);
        assert!(limited(&rate(125e6), 1024).source.contains("limited"));
        assert_eq!(limited(&rate(125e6), 0), rate(125e6));
        assert_eq!(limited(&rate(1000.0), 1024), rate(1000.0));
    }
}
