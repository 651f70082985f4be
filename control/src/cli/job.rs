//! `job`: migration jobs.

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::connection::Session;
use super::show::Column;
use crate::clock;
use crate::schema::{Service, parse_time};

#[derive(Debug, Subcommand)]
pub(super) enum JobCommand {
    /// Make a job
    Create(Box<CreateArguments>),
    /// List jobs
    List {
        /// Only jobs of this status
        #[arg(long)]
        status: Option<String>,
        /// Only jobs of this source server
        #[arg(long, value_name = "ID")]
        source: Option<String>,
    },
    /// Show a job with all its members
    Show {
        /// The job's id
        job_id: String,
    },
    /// Start, resume or retry a job
    Start {
        /// The job's id
        job_id: String,
    },
    /// Pause a job
    Stop {
        /// The job's id
        job_id: String,
    },
    /// Delete a job; one that runs must be paused first
    Delete {
        /// The job's id
        job_id: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    /// By `job start`
    Later,
    /// At once
    Now,
}

#[derive(Debug, Args)]
pub(super) struct CreateArguments {
    /// The source server
    #[arg(long, value_name = "ID")]
    source: String,
    /// The instance to migrate to
    #[arg(
        long,
        value_name = "ID",
        conflicts_with = "image_name",
        required_unless_present = "image_name"
    )]
    instance: Option<String>,
    /// Name of the image to make instead
    #[arg(long, value_name = "NAME")]
    image_name: Option<String>,
    /// Name of the job
    #[arg(long)]
    name: Option<String>,
    /// Description of the job
    #[arg(long)]
    description: Option<String>,
    /// Network: 0 public, 2 private, 3 private with a proxy for the API
    #[arg(long, default_value_t = 0)]
    mode: u64,
    /// When to start
    #[arg(long, value_enum, default_value_t = When::Later, conflicts_with = "start_time")]
    start: When,
    /// Start at this time (UTC): 2026-01-31T08:00:00Z, at least ten minutes from now
    #[arg(long, value_name = "TIME")]
    start_time: Option<String>,
    /// Keep synchronising increments for so long: minutes, or an end time
    #[arg(long, value_name = "MINUTES|TIME")]
    incremental_time: Option<String>,
    /// Speed limit in KB/s; 0 is none
    #[arg(long, value_name = "KB/s", value_parser = clap::value_parser!(u64).range(0..=25_600))]
    bandwidth_limit: Option<u64>,
    /// Compare contents, not only times and sizes
    #[arg(long)]
    checksum: bool,
    /// Move disks block by block, where the source supports it
    #[arg(long)]
    block: bool,
    /// Leave out what this pattern matches (repeat)
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
}

/// A person who schedules a job gets this much time to think again, as in the vendor's console.
const LEAD_SECONDS: i64 = 10 * 60;

const COLUMNS: [Column; 8] = [
    ("Job", "/JobId"),
    ("Name", "/Name"),
    ("Status", "/Status"),
    ("Progress", "/Progress"),
    ("KB/s", "/LastSpeed"),
    ("Source", "/SourceServerId"),
    ("Target", "/InstanceId"),
    ("Created", "/CreateTime"),
];

pub(super) async fn run(session: &Session, command: JobCommand) -> anyhow::Result<()> {
    match command {
        JobCommand::Create(arguments) => create(session, *arguments).await,
        JobCommand::List { status, source } => {
            let mut filters = Vec::new();
            if let Some(status) = status {
                filters.push(json!({"Name": "status", "Values": [status.to_uppercase()]}));
            }
            if let Some(source) = source {
                filters.push(json!({"Name": "source-server-id", "Values": [source]}));
            }
            let jobs = session
                .list(
                    Service::Csm,
                    "DescribeMigrationJobs",
                    "MigrationJobs",
                    filters.into(),
                )
                .await?;
            session.output.list(&jobs, &COLUMNS)
        }
        JobCommand::Show { job_id } => {
            let filters = json!([{"Name": "job-id", "Values": [job_id]}]);
            let jobs = session
                .list(Service::Csm, "DescribeMigrationJobs", "MigrationJobs", filters)
                .await?;
            let job = jobs
                .first()
                .with_context(|| format!("there is no job {job_id}"))?;
            session.output.one(job)
        }
        JobCommand::Start { job_id } => act(session, "StartMigrationJob", &job_id, "starts").await,
        JobCommand::Stop { job_id } => act(session, "StopMigrationJob", &job_id, "is being paused").await,
        JobCommand::Delete { job_id } => {
            act(session, "DeleteMigrationJob", &job_id, "is being deleted").await
        }
    }
}

async fn act(session: &Session, action: &str, job_id: &str, done: &str) -> anyhow::Result<()> {
    session.csm(action, json!({"JobId": job_id})).await?;
    session.output.done(&format!("{job_id} {done}"))
}

/// A job migrates the disks that its source has, unless it makes an image, which holds the system disk only.
async fn create(session: &Session, arguments: CreateArguments) -> anyhow::Result<()> {
    let filters = json!([{"Name": "source-server-id", "Values": [arguments.source]}]);
    let sources = session
        .list(Service::Csm, "DescribeSourceServers", "SourceServers", filters)
        .await?;
    let Some(source) = sources.first() else {
        bail!("there is no source server {}", arguments.source)
    };
    let mut request = Map::new();
    let mut set = |name: &str, value: Value| {
        if !value.is_null() {
            request.insert(name.to_owned(), value);
        }
    };
    let mut system_disk = source["SystemDiskInfo"].clone();
    if arguments.block {
        system_disk["Block"] = json!({"Supported": true, "Enabled": true});
    }
    set("SourceServerId", arguments.source.clone().into());
    set("SystemDiskInfo", system_disk);
    set("Mode", arguments.mode.into());
    set("TargetRegion", session.region.clone().into());
    set("Name", arguments.name.into());
    set("Description", arguments.description.into());
    if let Some(image_name) = arguments.image_name {
        set("TargetType", "Image".into());
        set("ImageName", image_name.into());
    } else {
        set("TargetType", "Instance".into());
        set("InstanceId", arguments.instance.into());
        set("DataDisksInfo", source["DataDisksInfo"].clone());
    }
    if let Some(start) = arguments.start_time.as_deref().and_then(parse_time)
        && start < clock::now() + LEAD_SECONDS
    {
        bail!("--start-time must be at least ten minutes from now; to start earlier use --start now");
    }
    let is_timed = arguments.start_time.is_some();
    let mode = if is_timed {
        "Timed"
    } else if arguments.start == When::Now {
        "Immediate"
    } else {
        "Delayed"
    };
    set("RunMode", mode.into());
    set("StartTime", arguments.start_time.into());
    set(
        "IncrementalMigration",
        u64::from(arguments.incremental_time.is_some()).into(),
    );
    set("IncrementalTime", arguments.incremental_time.into());
    let limit = arguments
        .bandwidth_limit
        .map_or_else(String::new, |limit| limit.to_string());
    set(
        "MigrationConfigInfo",
        json!({"Checksum": arguments.checksum, "BandwidthLimit": limit}),
    );
    if !arguments.exclude.is_empty() {
        set(
            "ExcludePathList",
            serde_json::to_string(&arguments.exclude)?.into(),
        );
    }
    let answer = session.csm("CreateMigrationJob", request.into()).await?;
    session.output.one(&json!({"JobId": answer["JobId"]}))
}
