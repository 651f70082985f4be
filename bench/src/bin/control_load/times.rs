//! How long requests took.

use std::collections::BTreeMap;
use std::time::Duration;

/// Times of requests by action, and what failed.
#[derive(Debug, Default)]
pub(crate) struct Times {
    by_action: BTreeMap<&'static str, Vec<Duration>>,
    pub(crate) failures: Vec<String>,
}

impl Times {
    pub(crate) fn add(&mut self, action: &'static str, time: Duration) {
        self.by_action.entry(action).or_default().push(time);
    }

    pub(crate) fn merge(&mut self, other: Self) {
        for (action, times) in other.by_action {
            self.by_action.entry(action).or_default().extend(times);
        }
        self.failures.extend(other.failures);
    }

    /// The time that 99 of 100 requests of all actions stayed below.
    pub(crate) fn p99(&self) -> Duration {
        let mut all: Vec<Duration> = self.by_action.values().flatten().copied().collect();
        all.sort();
        percentile(&all, 99)
    }

    /// One line for each action and one for all.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut all: Vec<Duration> = Vec::new();
        let mut lines = Vec::new();
        for (action, times) in &self.by_action {
            let mut times = times.clone();
            times.sort();
            lines.push(line(action, &times));
            all.extend(times);
        }
        all.sort();
        lines.push(line("all", &all));
        lines
    }
}

fn line(name: &str, sorted: &[Duration]) -> String {
    let at = |percent| percentile(sorted, percent).as_secs_f64() * 1000.0;
    format!(
        "{name}: {} requests; p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, slowest {:.1} ms",
        sorted.len(),
        at(50),
        at(90),
        at(99),
        at(100)
    )
}

/// The smallest time that so many percent of the times do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let sorted: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 50), Duration::from_millis(100));
        assert_eq!(percentile(&sorted, 99), Duration::from_millis(198));
        assert_eq!(percentile(&sorted, 100), Duration::from_millis(200));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}
