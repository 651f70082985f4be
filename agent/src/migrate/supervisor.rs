//! One thread per running job between agent and control plane: reports progress, and obeys what was ordered meanwhile.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use csm::types::filter::Filter;
use csm::types::job::{DescribeMigrationJobs, MigrationJob, ModifyMigrationJob};
use transfer::progress::StopFlag;

use super::api::{Api, chain};
use super::failure::Ended;
use super::report::{Report, Reporter};
use crate::bandwidth::Limit;
use crate::state::State;
use crate::status::Status;

/// Pause between reports; the control plane takes one every 2 s.
const PAUSE: Duration = Duration::from_secs(2);

/// The orders of the control plane, as the job's thread sees them.
#[derive(Debug, Default)]
pub struct Orders {
    /// Set when the run is to come to rest.
    pub stop: StopFlag,
    why: Mutex<Option<Ended>>,
    first_limit: Mutex<Option<u64>>,
    incremental: Mutex<Option<Incremental>>,
}

impl Orders {
    /// Why the run was stopped; by default because the program was asked to end.
    pub fn why(&self) -> Ended {
        let why = self
            .why
            .lock()
            .expect("no thread panics while it holds the reason");
        why.clone().unwrap_or(Ended::Interrupted)
    }

    /// The incremental phase as ordered now; a user may end it early.
    pub fn incremental(&self) -> Option<Incremental> {
        *self
            .incremental
            .lock()
            .expect("no thread panics while it holds the phase")
    }

    fn give(&self, why: Ended) {
        let mut reason = self
            .why
            .lock()
            .expect("no thread panics while it holds the reason");
        if reason.is_none() {
            tracing::info!(order = ?why, "the control plane ends this run of the job");
        }
        reason.get_or_insert(why);
        self.stop.stop();
    }

    /// Takes over what a job says now.
    fn follow(&self, job: &MigrationJob, limit: &Limit, wanted: Option<u64>) {
        match job.status.as_deref() {
            Some("STOPPING" | "STOPPED") => self.give(Ended::Paused),
            Some("DELETING" | "DELETED") => self.give(Ended::Deleted),
            _ => {}
        }
        *self
            .incremental
            .lock()
            .expect("no thread panics while it holds the phase") = incremental(job);
        let now = bandwidth_limit(job).unwrap_or(0);
        let mut first = self
            .first_limit
            .lock()
            .expect("no thread panics while it holds the limit");
        // The flags win over the limit that the job began with, not over one that somebody sets later.
        let began_with = *first.get_or_insert(now);
        limit.order(wanted.filter(|_| now == began_with).unwrap_or(now));
    }
}

/// The job's bandwidth limit in KB/s; none when it is empty, zero or not a number.
pub fn bandwidth_limit(job: &MigrationJob) -> Option<u64> {
    let text = job.migration_config_info.as_ref()?.bandwidth_limit.as_deref()?;
    text.trim().parse().ok().filter(|limit| *limit > 0)
}

/// How long a job goes on sending what changes after its full round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incremental {
    /// Until a moment, in seconds since 1970.
    Until(i64),
    /// For so many minutes.
    Minutes(i64),
}

impl Incremental {
    /// Whether it is over at `now` when the full round ended at `began`, both in seconds since 1970.
    pub fn is_over(self, began: i64, now: i64) -> bool {
        match self {
            Self::Until(end) => now >= end,
            Self::Minutes(minutes) => now >= began.saturating_add(minutes.saturating_mul(60)),
        }
    }
}

/// The job's incremental phase, if it has one.
pub fn incremental(job: &MigrationJob) -> Option<Incremental> {
    if job.incremental_migration != Some(1) {
        return None;
    }
    let text = job.incremental_time.as_deref()?.trim();
    if let Ok(minutes) = text.parse() {
        return Some(Incremental::Minutes(minutes));
    }
    let end: jiff::Timestamp = text.parse().ok()?;
    Some(Incremental::Until(end.as_second()))
}

/// What the thread works with.
pub struct Supervised {
    /// The control plane.
    pub api: Arc<Api>,
    /// The job.
    pub job_id: String,
    /// Where the report comes from.
    pub reporter: Arc<Reporter>,
    /// The limit that the run obeys.
    pub limit: Arc<Limit>,
    /// A limit in KB/s that the flags ask for; it wins over the one that the job begins with.
    pub wanted_limit: Option<u64>,
    /// Asks the whole program to stop.
    pub program: Arc<StopFlag>,
    /// Where readers of the status look.
    pub state: State,
    /// Id of this machine at the control plane.
    pub source: String,
}

impl Supervised {
    fn status(&self, report: &Report) -> Status {
        Status {
            source: self.source.clone(),
            job: Some(self.job_id.clone()),
            percent: report.percent,
            message: report.message.clone(),
            speed_kbs: report.speed_kbs,
            minutes_left: report.minutes_left,
            ..Status::default()
        }
    }
}

/// The running thread.
pub struct Supervisor {
    /// What it was ordered.
    pub orders: Arc<Orders>,
    end: Arc<StopFlag>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Starts it.
    ///
    /// # Errors
    /// The kernel refuses the thread.
    pub fn start(supervised: Supervised, job: &MigrationJob) -> std::io::Result<Self> {
        let orders = Arc::new(Orders::default());
        let end = Arc::new(StopFlag::default());
        orders.follow(job, &supervised.limit, supervised.wanted_limit);
        let thread = {
            let (orders, end) = (Arc::clone(&orders), Arc::clone(&end));
            std::thread::Builder::new()
                .name("supervisor".into())
                .spawn(move || supervise(&supervised, &orders, &end))?
        };
        Ok(Self {
            orders,
            end,
            thread: Some(thread),
        })
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.end.stop();
        if let Some(thread) = self.thread.take() {
            // A supervisor that panicked has nothing left to end.
            let _ = thread.join();
        }
    }
}

fn supervise(supervised: &Supervised, orders: &Orders, end: &StopFlag) {
    let mut last = Report::default();
    let mut lost = false;
    while !end.is_stopped() {
        let report = supervised.reporter.now();
        supervised.status(&report).write(&supervised.state);
        let result = tell(supervised, &report, &mut last).and_then(|()| ask(supervised, orders));
        match result {
            Ok(()) => lost = false,
            Err(error) if lost => tracing::debug!("{}", chain(&error)),
            Err(error) => {
                lost = true;
                tracing::warn!("cannot report: {}; the migration goes on", chain(&error));
            }
        }
        if pause(supervised, end) {
            orders.stop.stop();
        }
    }
}

/// Waits for the next report. Returns whether the program is to stop.
fn pause(supervised: &Supervised, end: &StopFlag) -> bool {
    let step = Duration::from_millis(100);
    for _ in 0..PAUSE.as_millis() / step.as_millis() {
        if supervised.program.is_stopped() || end.sleep(step) {
            break;
        }
    }
    if supervised.program.is_stopped() {
        end.sleep(step);
    }
    supervised.program.is_stopped()
}

fn tell(supervised: &Supervised, report: &Report, last: &mut Report) -> Result<(), csm::client::Error> {
    if report == last {
        return Ok(());
    }
    let message =
        (report.message != last.message && !report.message.is_empty()).then(|| report.message.clone());
    let request = ModifyMigrationJob {
        job_id: supervised.job_id.clone(),
        progress: Some(format!("{:.1}", report.percent)),
        last_message: message,
        last_speed: Some(report.speed_kbs.to_string()),
        remaining_time_estimate: report.minutes_left.map(|minutes| minutes.to_string()),
        ..Default::default()
    };
    supervised.api.call(&request)?;
    last.clone_from(report);
    Ok(())
}

fn ask(supervised: &Supervised, orders: &Orders) -> Result<(), csm::client::Error> {
    match find_job(&supervised.api, "job-id", &supervised.job_id)? {
        Some(job) => orders.follow(&job, &supervised.limit, supervised.wanted_limit),
        None => orders.give(Ended::Deleted),
    }
    Ok(())
}

/// The first job that a filter finds.
///
/// # Errors
/// The control plane does not answer.
pub fn find_job(api: &Api, filter: &str, value: &str) -> Result<Option<MigrationJob>, csm::client::Error> {
    let request = DescribeMigrationJobs {
        filters: vec![Filter {
            name: filter.to_owned(),
            values: vec![value.to_owned()],
        }],
        ..Default::default()
    };
    Ok(api.call(&request)?.migration_jobs.into_iter().next())
}

#[cfg(test)]
mod tests {
    use csm::types::job::MigrationConfigInfo;
    use transfer::throttle::Throttle;

    use super::*;

    fn job(status: &str, limit: &str) -> MigrationJob {
        MigrationJob {
            status: Some(status.to_owned()),
            migration_config_info: Some(MigrationConfigInfo {
                bandwidth_limit: Some(limit.to_owned()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn the_first_order_counts() {
        let limit = Limit::new(Arc::new(Throttle::new(0)));
        let orders = Orders::default();
        orders.follow(&job("RUNNING", ""), &limit, None);
        assert!(!orders.stop.is_stopped());
        orders.follow(&job("STOPPING", ""), &limit, None);
        orders.follow(&job("DELETING", ""), &limit, None);
        assert!(orders.stop.is_stopped());
        assert_eq!(orders.why(), Ended::Paused);
    }

    #[test]
    fn flags_win_over_the_job_until_somebody_changes_the_job() {
        let throttle = Arc::new(Throttle::new(0));
        let limit = Limit::new(Arc::clone(&throttle));
        let orders = Orders::default();
        for (job_says, flags_say, expected) in [
            ("512", Some(3), 3),
            ("512", Some(3), 3),
            ("1024", Some(3), 1024),
            ("", Some(3), 0),
        ] {
            orders.follow(&job("RUNNING", job_says), &limit, flags_say);
            assert_eq!(throttle.limit(), expected * 1024, "{job_says}");
        }
        let orders = Orders::default();
        orders.follow(&job("RUNNING", "512"), &limit, None);
        assert_eq!(throttle.limit(), 512 * 1024);
        limit.set(7);
        orders.follow(&job("RUNNING", "512"), &limit, None);
        assert_eq!(
            throttle.limit(),
            7 * 1024,
            "what was said on the machine since then holds"
        );
    }

    #[test]
    fn the_incremental_phase_has_an_end_only_when_asked_for() {
        let mut job = job("RUNNING", "");
        job.incremental_time = Some("2026-11-21T10:00:00Z".into());
        assert_eq!(incremental(&job), None);
        job.incremental_migration = Some(1);
        let phase = incremental(&job).unwrap();
        assert_eq!(phase, Incremental::Until(1_795_255_200));
        assert!(phase.is_over(0, 1_795_255_200) && !phase.is_over(0, 1_795_255_199));
        job.incremental_time = Some("60".into());
        let phase = incremental(&job).unwrap();
        assert!(phase.is_over(1000, 4600) && !phase.is_over(1000, 4599));
    }
}
