//! `ModifyMigrationJob`: changes by users, and reports by agents, in one action.
//!
//! Which parameters are given says which events the call is; all of them must be allowed, or nothing happens.

use std::sync::Arc;

use super::job_changes::{find, happen, pause, refused, remove};
use super::{Answer, job_creation, sources, transit};
use crate::app::{App, Call};
use crate::clock;
use crate::code::{ApiError, ApiResult, Code};
use crate::incremental;
use crate::records::Job;
use crate::schema::{Params, parse_time};
use crate::state::{JobEvent, JobStatus};
use crate::world::World;

const RENAME: [&str; 2] = ["Name", "Description"];
const RETARGET: [&str; 6] = [
    "TargetType",
    "InstanceId",
    "SecurityGroup",
    "ImageName",
    "StartTime",
    "InstanceType",
];
const REPORT: [&str; 7] = [
    "Progress",
    "MigrateResult",
    "ImageId",
    "TransitInstanceId",
    "LastMessage",
    "LastSpeed",
    "RemainingTimeEstimate",
];

pub(super) async fn modify(app: &Arc<App>, call: &Call) -> ApiResult<Answer> {
    let params = &call.params;
    let gives = |names: &[&str]| names.iter().any(|name| params.value(name).is_some());
    if gives(&RENAME) || gives(&RETARGET) || params.text("IncrementalTime").is_some() {
        call.account_only()?;
    }
    let status = app
        .change(call, |transaction| {
            let mut job = find(transaction.world(), call, params.required("JobId"))?;
            if gives(&RENAME) {
                rename(transaction.world(), &mut job, params, call.now)?;
            }
            if gives(&RETARGET) {
                retarget(transaction.world(), &mut job, params, call.now)?;
            }
            if let Some(text) = params.text("IncrementalTime") {
                extend(&mut job, text, call.now)?;
            }
            if gives(&REPORT) && !is_final(params) {
                happen(&mut job, JobEvent::Report, call.now)?;
            }
            report(&mut job, params);
            if let Some(status) = params.text("Status") {
                set_status(transaction.world(), call, &mut job, status)?;
            }
            note_result(&mut job, params);
            job.update_time = clock::text(call.now);
            let (source_id, status) = (job.source_server_id.clone(), job.status);
            transaction.put(job);
            sources::follow_jobs(transaction, &source_id)?;
            Ok(status)
        })
        .await?;
    if matches!(
        status,
        JobStatus::Failed | JobStatus::Success | JobStatus::Deleting
    ) {
        transit::clean_up_soon(app, params.required("JobId"));
    }
    Ok(Answer::new())
}

/// Whether the report comes with a status of its own, whose event then decides whether it is allowed.
fn is_final(params: &Params) -> bool {
    matches!(params.text("Status"), Some("SUCCESS" | "FAILED" | "STOPPED"))
}

fn rename(world: &World, job: &mut Job, params: &Params, now: i64) -> ApiResult<()> {
    happen(job, JobEvent::Rename, now)?;
    if let Some(name) = params.text("Name") {
        job_creation::check_name(world, name, &job.job_id)?;
        job.name = name.to_owned();
    }
    if let Some(description) = params.text("Description") {
        job.description = description.to_owned();
    }
    Ok(())
}

fn retarget(world: &World, job: &mut Job, params: &Params, now: i64) -> ApiResult<()> {
    happen(job, JobEvent::Retarget, now)?;
    let was_image = job.makes_image();
    if let Some(kind) = params.text("TargetType") {
        job.target_type = kind.to_owned();
    }
    if job.makes_image() && !was_image && params.text("ImageName").is_none() {
        return Err(ApiError::new(
            Code::MissingParameter,
            "a target of type Image needs ImageName in the same call",
        ));
    }
    if let Some(name) = params.text("ImageName")
        && job.makes_image()
    {
        job.image_name = job_creation::image_name(world, name, &job.job_id);
    }
    if let Some(id) = params.text("InstanceId") {
        job.instance_id = id.to_owned();
    }
    if !job.makes_image() {
        let source = sources::find(world, &job.source_server_id)?;
        job_creation::check_instance(world, &job.instance_id, &source, &job.job_id)?;
    }
    for (name, place) in [
        ("SecurityGroup", &mut job.security_group),
        ("InstanceType", &mut job.instance_type),
    ] {
        if let Some(text) = params.text(name) {
            *place = text.to_owned();
        }
    }
    if let Some(start) = params.text("StartTime") {
        if parse_time(start).is_some_and(|start| start < now) {
            return Err(ApiError::new(Code::InvalidTimeFormat, "StartTime has passed"));
        }
        start.clone_into(&mut job.start_time);
        job.run_mode = if start.is_empty() { "Delayed" } else { "Timed" }.to_owned();
    }
    Ok(())
}

fn extend(job: &mut Job, text: &str, now: i64) -> ApiResult<()> {
    happen(job, JobEvent::Extend, now)?;
    let begin = parse_time(&job.start_time).filter(|start| *start > now || job.status == JobStatus::Running);
    incremental::check(text, begin.unwrap_or(now))?;
    text.clone_into(&mut job.incremental_time);
    Ok(())
}

fn report(job: &mut Job, params: &Params) {
    if let Some(progress) = params.text("Progress").and_then(|text| text.parse().ok()) {
        job.progress = progress;
    }
    if let Some(message) = params.text("LastMessage") {
        job.say(message);
    }
    let places = [
        ("ImageId", &mut job.image_id),
        ("TransitInstanceId", &mut job.transit_instance_id),
        ("LastSpeed", &mut job.last_speed),
        ("RemainingTimeEstimate", &mut job.remaining_time_estimate),
    ];
    for (name, place) in places {
        if let Some(text) = params.text(name) {
            text.clone_into(place);
        }
    }
}

/// The result belongs to the status that it comes with, so it is noted after the status.
fn note_result(job: &mut Job, params: &Params) {
    let result = params.object("MigrateResult");
    let internal = &mut job.internal;
    let places = [
        ("State", &mut internal.result_state),
        ("Result", &mut internal.result),
        ("Desc", &mut internal.result_desc),
    ];
    for (name, place) in places {
        if let Some(text) = result.text(name) {
            text.clone_into(place);
        }
    }
}

fn set_status(world: &World, call: &Call, job: &mut Job, status: &str) -> ApiResult<()> {
    let now = call.now;
    match status {
        "PENDING" if job.status == JobStatus::Pending => {}
        "PENDING" => return Err(refused(job)),
        "RUNNING" => happen(job, JobEvent::Report, now)?,
        "STOPPED" => happen(job, JobEvent::ReportStopped, now)?,
        "SUCCESS" => happen(job, JobEvent::ReportSuccess, now)?,
        "FAILED" => happen(job, JobEvent::ReportFailed, now)?,
        "STOPPING" => {
            call.account_only()?;
            pause(world, job, now)?;
        }
        "DELETING" => {
            call.account_only()?;
            remove(world, job, now)?;
        }
        _ if job.status == JobStatus::Deleting && transit::left_behind(world, job).is_none() => {
            happen(job, JobEvent::CleanedUp, now)?;
        }
        _ => return Err(refused(job)),
    }
    Ok(())
}
