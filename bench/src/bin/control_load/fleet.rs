//! The sources: each enrols, registers, is heard from, asks for its jobs, and reports on the one that runs.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use csm::client::rate::RateLimit;
use csm::client::{Call, Kind};
use csm::types::{
    CreateMigrationJob, CreateSourceServer, DescribeMigrationJobs, Filter, ModifyMigrationJob,
    ModifySourceServer, SystemDiskInfo,
};
use csm::{Client, Secret};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::plane::Plane;
use crate::times::Times;

const HEARTBEAT: Duration = Duration::from_secs(30);
const REPORT: Duration = Duration::from_secs(2);
/// Registrations at a time: each is a TLS handshake and three requests.
const REGISTERING_MAX: usize = 16;
const REGION: &str = "local-1";

/// How big the fleet is and what it does.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) sources: usize,
    pub(crate) jobs: usize,
    /// How often a source asks for its jobs.
    pub(crate) poll: Option<Duration>,
}

/// A source of the fleet.
pub(crate) struct Source {
    client: Client,
    pub(crate) id: String,
    pub(crate) job: Option<Job>,
}

/// The job of a source.
pub(crate) struct Job {
    pub(crate) id: String,
    /// The number of the last report that was sent; it is the job's progress in hundredths.
    sent: AtomicU32,
    /// The number of the last report that was answered.
    pub(crate) answered: AtomicU32,
}

/// All sources.
pub(crate) struct Fleet {
    pub(crate) sources: Vec<Arc<Source>>,
    poll: Option<Duration>,
    pub(crate) account: Client,
}

impl Fleet {
    /// Enrols and registers sources, and gives the first of them running jobs.
    pub(crate) async fn register(plane: &Plane, size: Size) -> Result<Self> {
        let account = plane.account_client()?;
        let call = own("CreateEnrolmentCode");
        let made = account
            .call_by_name(&call, &json!({"Uses": size.sources, "Hours": 1}))
            .await?;
        let code = Secret::new(made["Code"].as_str().context("no enrolment code")?);
        let mut waiting: Vec<usize> = (0..size.sources).collect();
        // All of these come from one address, whose enrolments are limited like the calls of one key.
        let rate = Arc::new(RateLimit::default());
        let mut joining = JoinSet::new();
        let mut sources = Vec::with_capacity(size.sources);
        while !waiting.is_empty() || !joining.is_empty() {
            while joining.len() < REGISTERING_MAX
                && let Some(number) = waiting.pop()
            {
                let client = plane.client()?;
                let (code, account) = (code.clone(), (number < size.jobs).then(|| account.clone()));
                let rate = Arc::clone(&rate);
                joining.spawn(async move {
                    rate.wait("enrol").await;
                    join(client, &code, number, account).await
                });
            }
            if let Some(joined) = joining.join_next().await {
                sources.push(Arc::new(joined??));
            }
        }
        Ok(Self {
            sources,
            poll: size.poll,
            account,
        })
    }

    /// Lets all sources work for some time and returns how long their requests took.
    pub(crate) async fn work(&self, time: Duration) -> Times {
        let end = Instant::now() + time;
        let times = Arc::new(Mutex::new(Times::default()));
        let mut tasks = JoinSet::new();
        for (number, source) in self.sources.iter().enumerate() {
            let schedule = Schedule {
                number,
                of: self.sources.len(),
                end,
            };
            let mut start = |every: Duration, what: Work| {
                let (source, times) = (Arc::clone(source), Arc::clone(&times));
                tasks.spawn(async move {
                    let taken = repeat(&source, schedule, every, what).await;
                    times.lock().unwrap_or_else(PoisonError::into_inner).merge(taken);
                });
            };
            start(HEARTBEAT, Work::Heartbeat);
            if let Some(poll) = self.poll {
                start(poll, Work::Poll);
            }
            if source.job.is_some() {
                start(REPORT, Work::Report);
            }
        }
        tasks.join_all().await;
        let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *times)
    }
}

/// When a source's requests are due: all sources spread evenly over the interval.
#[derive(Clone, Copy)]
struct Schedule {
    number: usize,
    of: usize,
    end: Instant,
}

#[derive(Clone, Copy)]
enum Work {
    Heartbeat,
    Poll,
    Report,
}

async fn repeat(source: &Source, schedule: Schedule, every: Duration, what: Work) -> Times {
    let mut times = Times::default();
    let share = u32::try_from(schedule.number * 1000 / schedule.of).unwrap_or_default();
    let mut due = Instant::now() + every * share / 1000;
    while due < schedule.end {
        sleep_until(due).await;
        match source.perform(what).await {
            Ok(action) => times.add(action, due.elapsed()),
            Err(error) => times.failures.push(format!("{error:#}")),
        }
        // A request that was answered late does not make the next one come later.
        due += every;
    }
    times
}

impl Source {
    async fn perform(&self, what: Work) -> Result<&'static str> {
        match (what, &self.job) {
            (Work::Report, Some(job)) => {
                let number = job.sent.fetch_add(1, Ordering::SeqCst) + 1;
                let report = ModifyMigrationJob {
                    job_id: job.id.clone(),
                    progress: Some(format!("{}.{:02}", number / 100, number % 100)),
                    last_message: Some(format!("report {number}")),
                    last_speed: Some("20480".into()),
                    remaining_time_estimate: Some("7".into()),
                    ..Default::default()
                };
                self.client.call(&report).await?;
                job.answered.fetch_max(number, Ordering::SeqCst);
                Ok("ModifyMigrationJob")
            }
            (Work::Poll, _) => {
                let filter = Filter {
                    name: "source-server-id".into(),
                    values: vec![self.id.clone()],
                };
                self.client
                    .call(&DescribeMigrationJobs {
                        filters: vec![filter],
                        ..Default::default()
                    })
                    .await?;
                Ok("DescribeMigrationJobs")
            }
            _ => {
                let heartbeat = ModifySourceServer {
                    source_server_id: self.id.clone(),
                    ..Default::default()
                };
                self.client.call(&heartbeat).await?;
                Ok("ModifySourceServer")
            }
        }
    }
}

async fn join(client: Client, code: &Secret, number: usize, account: Option<Client>) -> Result<Source> {
    // On a busy machine requests bunch up on their way, and the limit is in force at their arrival.
    while let Err(error) = client.enrol(code).await {
        ensure!(error.kind() == Kind::Throttled, error);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let id = client
        .call(&registration(&format!("{number:064}")))
        .await?
        .source_server_id;
    let job = match account {
        Some(account) => Some(start_job(&account, &id).await?),
        None => None,
    };
    Ok(Source { client, id, job })
}

/// What a source says of itself.
pub(crate) fn registration(identifier: &str) -> CreateSourceServer {
    CreateSourceServer {
        client_version: "2.1.3".into(),
        architecture: "x86_64".into(),
        os_type: "Debian".into(),
        identifier: identifier.to_owned(),
        system_disk_info: system_disk(),
        ..Default::default()
    }
}

fn system_disk() -> SystemDiskInfo {
    SystemDiskInfo {
        device: "/dev/vda".into(),
        size: 50,
        ..Default::default()
    }
}

fn own(action: &'static str) -> Call<'static> {
    Call {
        service: "go2cloud",
        version: "2026-11-01",
        action,
    }
}

async fn start_job(account: &Client, source_id: &str) -> Result<Job> {
    let instance = account
        .call_by_name(&own("CreateInstance"), &json!({"SystemDiskSize": 50}))
        .await?;
    let job = CreateMigrationJob {
        source_server_id: source_id.to_owned(),
        system_disk_info: system_disk(),
        target_region: REGION.into(),
        target_type: Some("Instance".into()),
        instance_id: instance["InstanceId"].as_str().map(str::to_owned),
        run_mode: Some("Immediate".into()),
        ..Default::default()
    };
    let id = account.call(&job).await?.job_id;
    Ok(Job {
        id,
        sent: AtomicU32::new(0),
        answered: AtomicU32::new(0),
    })
}
