//! Numbers for Prometheus, counted here and written as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::state::{JobStatus, SourceStatus};
use crate::world::World;

/// Upper bounds of the histogram of answer times, in milliseconds.
const BOUNDS_MS: [u64; 9] = [1, 2, 5, 10, 25, 50, 100, 500, 2000];

#[derive(Debug, Default)]
struct Counts {
    requests: BTreeMap<(String, String), u64>,
    buckets: [u64; BOUNDS_MS.len()],
    count: u64,
    seconds: f64,
}

/// Counts of requests.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Counts>);

impl Metrics {
    /// Counts one request. Actions and codes are those of the tables, so there are only so many.
    pub fn count(&self, action: &str, code: &str, took: Duration) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ms = took.as_secs_f64() * 1000.0;
        for (bound, bucket) in BOUNDS_MS.iter().zip(&mut counts.buckets) {
            *bucket += u64::from(ms <= *bound as f64);
        }
        counts.count += 1;
        counts.seconds += took.as_secs_f64();
        *counts
            .requests
            .entry((action.to_owned(), code.to_owned()))
            .or_default() += 1;
    }

    /// All numbers, in Prometheus' text format.
    #[must_use]
    pub fn render(&self, world: &World) -> String {
        let mut text = String::new();
        self.write_requests(&mut text)
            .and_then(|()| write_world(&mut text, world))
            .expect("a String takes all text");
        text
    }

    fn write_requests(&self, text: &mut String) -> std::fmt::Result {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(
            text,
            "# HELP go2cloud_requests_total Requests, by action and code."
        )?;
        writeln!(text, "# TYPE go2cloud_requests_total counter")?;
        for ((action, code), count) in &counts.requests {
            writeln!(
                text,
                "go2cloud_requests_total{{action=\"{action}\",code=\"{code}\"}} {count}"
            )?;
        }
        writeln!(text, "# HELP go2cloud_request_seconds Time to the answer.")?;
        writeln!(text, "# TYPE go2cloud_request_seconds histogram")?;
        for (bound, count) in BOUNDS_MS.iter().zip(&counts.buckets) {
            writeln!(
                text,
                "go2cloud_request_seconds_bucket{{le=\"{}\"}} {count}",
                *bound as f64 / 1000.0
            )?;
        }
        writeln!(
            text,
            "go2cloud_request_seconds_bucket{{le=\"+Inf\"}} {}",
            counts.count
        )?;
        writeln!(text, "go2cloud_request_seconds_sum {}", counts.seconds)?;
        writeln!(text, "go2cloud_request_seconds_count {}", counts.count)
    }
}

fn write_world(text: &mut String, world: &World) -> std::fmt::Result {
    writeln!(
        text,
        "# HELP go2cloud_jobs Jobs, by status.\n# TYPE go2cloud_jobs gauge"
    )?;
    for status in JobStatus::ALL {
        let count = world.jobs.values().filter(|job| job.status == status).count();
        writeln!(text, "go2cloud_jobs{{status=\"{}\"}} {count}", status.as_str())?;
    }
    writeln!(
        text,
        "# HELP go2cloud_sources Source servers, by status.\n# TYPE go2cloud_sources gauge"
    )?;
    for status in SourceStatus::ALL {
        let count = world
            .sources
            .values()
            .filter(|source| source.status == status)
            .count();
        writeln!(text, "go2cloud_sources{{status=\"{}\"}} {count}", status.as_str())?;
    }
    let in_migration = world
        .instances
        .values()
        .filter(|instance| instance.migration.is_some())
        .count();
    writeln!(
        text,
        "# HELP go2cloud_instances Instances.\n# TYPE go2cloud_instances gauge"
    )?;
    writeln!(text, "go2cloud_instances {}", world.instances.len())?;
    writeln!(
        text,
        "# HELP go2cloud_instances_in_migration_mode Instances in migration mode."
    )?;
    writeln!(text, "# TYPE go2cloud_instances_in_migration_mode gauge")?;
    writeln!(text, "go2cloud_instances_in_migration_mode {in_migration}")
}
