//! Lists of jobs, and of what is denied for them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::filter::{Filters, page};
use super::job_changes::{check_start, find, refused};
use super::{Answer, answer};
use crate::app::{App, Call};
use crate::code::{ApiResult, Code};
use crate::records::Job;
use crate::schema;
use crate::state::{JOB_ACTIONS, JobEvent, JobStatus, JobStep};
use crate::world::World;

const FILTERS: [&str; 5] = ["source-server-id", "job-name", "job-id", "status", "product"];

pub(super) async fn describe(app: &App, call: &Call) -> ApiResult<Answer> {
    let filters = Filters::read(&call.params, &FILTERS, Code::ParameterValueNotSupportValue)?;
    filters.form(
        "source-server-id",
        schema::is_source_id,
        Code::InvalidSourceServerIdMalformed,
    )?;
    filters.form("job-id", schema::is_job_id, Code::InvalidMigrateJobIdMalformed)?;
    let is_status = |text: &str| JobStatus::ALL.iter().any(|status| status.as_str() == text);
    filters.form("status", is_status, Code::ParameterValueNotSupportValue)?;
    filters.form(
        "product",
        |text| matches!(text, "lh" | "cvm"),
        Code::ParameterValueNotSupportValue,
    )?;
    let (total, page) = app
        .engine
        .read(|world| {
            let wanted = |job: &&Arc<Job>| {
                let hidden = job.status == JobStatus::Deleted && !filters.asks("status", "DELETED");
                !hidden && call.sees_source(&job.source_server_id) && matches(job, &filters)
            };
            let mut found: Vec<_> = world.jobs.values().filter(wanted).collect();
            found.sort_by(|one, other| other.create_time.cmp(&one.create_time));
            let (total, page) = page(found, &call.params);
            Ok((
                total,
                page.into_iter().map(|job| job.render()).collect::<Vec<_>>(),
            ))
        })
        .await?;
    Ok(answer([
        ("MigrationJobs", page.into()),
        ("TotalCount", total.into()),
    ]))
}

fn matches(job: &Job, filters: &Filters) -> bool {
    filters.all(|filter| match filter.name.as_str() {
        "source-server-id" => filter.has(&job.source_server_id),
        "job-name" => filter
            .values
            .iter()
            .any(|value| job.name.contains(value.as_str())),
        "job-id" => filter.has(&job.job_id),
        "status" => filter.has(job.status.as_str()),
        _ => filter.has(&job.product),
    })
}

pub(super) async fn denied(app: &App, call: &Call) -> ApiResult<Answer> {
    let set = app.engine.read(|world| {
        let one = |id: &String| {
            let job = find(world, call, id)?;
            Ok(json!({"JobId": id, "DeniedActions": denied_actions(world, &job)}))
        };
        call.params
            .texts("JobIds")
            .iter()
            .map(one)
            .collect::<ApiResult<Vec<Value>>>()
    });
    Ok(answer([("JobDeniedActionSet", set.await?.into())]))
}

/// What the state tables, and the job's source and target, deny now.
fn denied_actions(world: &World, job: &Job) -> Vec<Value> {
    let mut denied = Vec::new();
    for (action, event) in JOB_ACTIONS {
        let refusal = match (job.status.on(event), event) {
            (JobStep::No, _) => Some(refused(job)),
            (_, JobEvent::Start) => check_start(world, job).err(),
            _ => None,
        };
        if let Some(error) = refusal {
            denied.push(json!({"Action": action, "Code": error.code.as_str(), "Message": error.message}));
        }
    }
    denied
}
