//! Creating a job: everything that must hold before there is one.

use serde_json::{Value, json};

use super::job_changes::begin;
use super::{Answer, answer, sources};
use crate::app::{App, Call};
use crate::clock;
use crate::code::{ApiError, ApiResult, Code};
use crate::identity;
use crate::incremental;
use crate::records::{Job, JobInternal, Source};
use crate::schema::{Params, parse_time};
use crate::state::{JobStatus, SourceEvent};
use crate::world::World;

/// Greatest disk of a transit instance, in GB.
const TRANSIT_DISK_GB_MAX: u64 = 450;

/// Kinds of target.
const IMAGES: [&str; 2] = ["Image", "Lh-Image"];

pub(super) async fn create(app: &App, call: &Call) -> ApiResult<Answer> {
    let mode = RunMode::read(&call.params, call.now)?;
    app.change(call, |transaction| {
        let job = check(app, call, transaction.world(), mode)?;
        let id = job.job_id.clone();
        transaction.put(job);
        if mode == RunMode::Immediate {
            begin(transaction, &id, call.now)?;
        }
        Ok(answer([("JobId", id.into())]))
    })
    .await
}

/// When a job starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunMode {
    Delayed,
    Immediate,
    Timed(i64),
}

impl RunMode {
    /// A start time without a mode means Timed; Timed without a start time is not complete.
    fn read(params: &Params, now: i64) -> ApiResult<Self> {
        let start = params
            .text("StartTime")
            .filter(|text| !text.is_empty())
            .and_then(parse_time);
        if start.is_some_and(|start| start < now) {
            return Err(ApiError::new(Code::InvalidTimeFormat, "StartTime has passed"));
        }
        match (params.text("RunMode"), start) {
            (Some("Immediate"), _) => Ok(Self::Immediate),
            (Some("Timed") | None, Some(start)) => Ok(Self::Timed(start)),
            (Some("Timed"), None) => Err(ApiError::new(
                Code::MissingParameter,
                "RunMode Timed needs StartTime",
            )),
            _ => Ok(Self::Delayed),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Delayed => "Delayed",
            Self::Immediate => "Immediate",
            Self::Timed(_) => "Timed",
        }
    }
}

fn check(app: &App, call: &Call, world: &World, mode: RunMode) -> ApiResult<Job> {
    let params = &call.params;
    check_place(app, params)?;
    let source = check_source(world, params.required("SourceServerId"))?;
    check_name(world, params.text("Name").unwrap_or_default(), "")?;
    if world
        .jobs
        .values()
        .filter(|job| job.status.is_unfinished())
        .count()
        >= app.settings.jobs_max
    {
        let message = format!(
            "{} jobs are unfinished; finish or delete some first",
            app.settings.jobs_max
        );
        return Err(ApiError::new(Code::MigrateJobLimitExceeded, message));
    }
    let target_type = target_type(params)?;
    check_disks(&source, target_type, params)?;
    let instance_id = if IMAGES.contains(&target_type) {
        check_image(app, world, params)?;
        String::new()
    } else {
        let id = params.required("InstanceId");
        check_instance(world, id, &source, "")?;
        id.to_owned()
    };
    let begin = if let RunMode::Timed(start) = mode {
        start
    } else {
        call.now
    };
    incremental::check(params.required("IncrementalTime"), begin)?;
    Ok(new_job(call, world, mode, target_type, instance_id))
}

fn check_place(app: &App, params: &Params) -> ApiResult<()> {
    let region = params.required("TargetRegion");
    if !app.settings.regions.iter().any(|known| known == region) {
        let message = format!(
            "there is no region {region}; there are {}",
            app.settings.regions.join(", ")
        );
        return Err(ApiError::new(Code::InvalidRegionNotFound, message));
    }
    if params.uint("Mode") == Some(1) {
        let message = "Mode 1 is for the tool alone; jobs have 0, 2 or 3";
        return Err(ApiError::new(Code::InvalidParameterValue, message));
    }
    let config = params.object("MigrationConfigInfo");
    let limit = config
        .text("BandwidthLimit")
        .and_then(|text| text.parse::<u64>().ok())
        .unwrap_or(0);
    if limit > app.settings.bandwidth_max {
        let message = format!("BandwidthLimit is at most {} KB/s", app.settings.bandwidth_max);
        return Err(ApiError::new(Code::TooLarge, message));
    }
    Ok(())
}

fn check_source(world: &World, id: &str) -> ApiResult<Source> {
    let not_online = || {
        let code = Code::InvalidLiveMigrateOnlineSourceServerId;
        ApiError::new(
            code,
            format!("there is no online source server {id}; start the agent on it"),
        )
    };
    let source = sources::find(world, id).map_err(|_| not_online())?;
    sources::ask(&source, SourceEvent::CreateJob)?;
    match world.jobs_of(id).find(|job| job.status.is_unfinished()) {
        None => Ok(source),
        Some(job) => {
            let message = format!(
                "{id} has the unfinished job {}; finish or delete that first",
                job.job_id
            );
            Err(ApiError::new(Code::SourceServerRelatedUnFinishedJob, message))
        }
    }
}

/// Refuses a name that another job has.
pub(super) fn check_name(world: &World, name: &str, own_id: &str) -> ApiResult<()> {
    let taken = world.jobs.values().find(|job| {
        !name.is_empty() && job.name == name && job.job_id != own_id && job.status != JobStatus::Deleted
    });
    match taken {
        None => Ok(()),
        Some(job) => Err(ApiError::new(
            Code::MigrateJobNameExist,
            format!("{} has this name", job.job_id),
        )),
    }
}

/// The target's kind; if none is given, what the other parameters say.
fn target_type(params: &Params) -> ApiResult<&str> {
    let has = |name: &str| params.text(name).is_some_and(|text| !text.is_empty());
    let given = params.text("TargetType");
    let kind = given.unwrap_or(if !has("InstanceId") && has("ImageName") {
        "Image"
    } else {
        "Instance"
    });
    let needed = if IMAGES.contains(&kind) {
        "ImageName"
    } else {
        "InstanceId"
    };
    if has(needed) {
        Ok(kind)
    } else {
        Err(ApiError::new(
            Code::MissingParameter,
            format!("a target of type {kind} needs {needed}"),
        ))
    }
}

fn check_disks(source: &Source, target_type: &str, params: &Params) -> ApiResult<()> {
    let disks = params.list("DataDisksInfo");
    let known: Vec<u64> = source.data_disks_info.as_array().map_or_else(Vec::new, |disks| {
        disks.iter().filter_map(|disk| disk["Index"].as_u64()).collect()
    });
    let mut used = Vec::new();
    for disk in disks {
        let index = disk["Index"].as_u64().unwrap_or(0);
        if !known.contains(&index) || used.contains(&index) {
            let message = format!("data disk {index} is not on the source server, or is given twice");
            return Err(ApiError::new(Code::InvalidDataDiskIndex, message));
        }
        used.push(index);
    }
    if !IMAGES.contains(&target_type) {
        return Ok(());
    }
    if !disks.is_empty() {
        let message =
            "an image holds the system disk only; leave DataDisksInfo out or migrate to an instance";
        return Err(ApiError::new(Code::MigrateJobCreateFullCvmImage, message));
    }
    let size = params.object("SystemDiskInfo").uint("Size").unwrap_or(0);
    if size > TRANSIT_DISK_GB_MAX {
        let message = format!(
            "a transit instance's disk has at most {TRANSIT_DISK_GB_MAX} GB, the source's has {size}"
        );
        return Err(ApiError::new(Code::SystemDiskSizeTooLarge, message));
    }
    Ok(())
}

fn check_image(app: &App, world: &World, params: &Params) -> ApiResult<()> {
    app.networks
        .check(params.required("VpcId"), params.required("SubnetId"), world)
}

/// Refuses a target that does not exist, is in use, or has another operating system.
pub(super) fn check_instance(world: &World, id: &str, source: &Source, own_job: &str) -> ApiResult<()> {
    let missing = || {
        ApiError::new(
            Code::InvalidInstanceIdNotFound,
            format!("there is no instance {id}"),
        )
    };
    let instance = world
        .instances
        .get(id)
        .filter(|instance| instance.transit_of.is_empty())
        .ok_or_else(missing)?;
    // Migration mode may be left from this job's own last run: it was paused, or failed before it could leave it.
    let own = world.jobs.get(own_job);
    if own.is_some_and(|job| job.instance_id == id && job.status != JobStatus::Pending) {
        super::instances::check_resumable(instance)?;
    } else {
        super::instances::check_usable(instance)?;
    }
    let other = world
        .jobs
        .values()
        .find(|job| job.job_id != own_job && job.status.is_unfinished() && job.uses_instance(id));
    if let Some(job) = other {
        let message = format!("{id} is the target of the unfinished job {}", job.job_id);
        return Err(ApiError::new(Code::TargetInstanceRelatedUnFinishedJob, message));
    }
    if (instance.os_type == "windows") != source.is_windows() {
        let message = format!(
            "the source runs {}, {id} is made for {}",
            source.os_type, instance.os_type
        );
        return Err(ApiError::new(Code::OsTypeMismatch, message));
    }
    Ok(())
}

/// The image's name, with the job's id added if it is taken.
pub(super) fn image_name(world: &World, wanted: &str, job_id: &str) -> String {
    let by_image = world.images.values().any(|image| image.image_name == wanted);
    let by_job = world.jobs.values().any(|job| {
        job.job_id != job_id && job.status.is_unfinished() && job.makes_image() && job.image_name == wanted
    });
    if !wanted.is_empty() && (by_image || by_job) {
        format!("{wanted}_{job_id}")
    } else {
        wanted.to_owned()
    }
}

fn new_job(call: &Call, world: &World, mode: RunMode, target_type: &str, instance_id: String) -> Job {
    let params = &call.params;
    let value = |name: &str, none: Value| params.value(name).cloned().unwrap_or(none);
    let job_id = identity::id("migrate-");
    Job {
        name: params.text("Name").unwrap_or(&job_id).to_owned(),
        description: params.owned("Description"),
        status: JobStatus::Pending,
        source_server_id: params.owned("SourceServerId"),
        target_type: target_type.to_owned(),
        target_region: params.owned("TargetRegion"),
        instance_id,
        image_name: image_name(world, params.required("ImageName"), &job_id),
        image_id: String::new(),
        transit_instance_id: String::new(),
        security_group: params.owned("SecurityGroup"),
        vpc_id: params.owned("VpcId"),
        subnet_id: params.owned("SubnetId"),
        instance_type: params.owned("InstanceType"),
        mode: params.uint("Mode").unwrap_or(0),
        system_disk_info: value("SystemDiskInfo", json!({})),
        data_disks_info: value("DataDisksInfo", json!([])),
        migration_config_info: value(
            "MigrationConfigInfo",
            json!({"Checksum": false, "BandwidthLimit": ""}),
        ),
        create_time: clock::text(call.now),
        start_time: params.owned("StartTime"),
        update_time: clock::text(call.now),
        end_time: String::new(),
        progress: 0.0,
        last_speed: String::new(),
        remaining_time_estimate: String::new(),
        incremental_migration: params.uint("IncrementalMigration").unwrap_or(0),
        incremental_time: params.owned("IncrementalTime"),
        one_click_job_id: params.owned("OneClickJobId"),
        run_mode: mode.name().to_owned(),
        exclude_path_list: params.owned("ExcludePathList"),
        user_intent_list: params.owned("UserIntentList"),
        product: params.text("Product").unwrap_or("cvm").to_owned(),
        internal: JobInternal {
            owner: call.caller.secret_id.clone(),
            ..JobInternal::default()
        },
        job_id,
    }
}
