//! Starting, pausing and deleting jobs: by users, by schedule, by silence of the source.

use super::{Answer, sources, transit};
use crate::app::{App, Call};
use crate::code::{ApiError, ApiResult, Code};
use crate::records::{Job, Source};
use crate::schema::parse_time;
use crate::state::{JobEvent, JobStatus, JobStep, SourceEvent, SourceStatus};
use crate::world::{Transaction, World};
use std::sync::Arc;

/// A job that is not deleted, and that the caller may touch.
pub(super) fn find(world: &World, call: &Call, id: &str) -> ApiResult<Job> {
    let job = world.jobs.get(id).filter(|job| job.status != JobStatus::Deleted);
    let job = job.ok_or_else(|| ApiError::new(Code::JobIdNotExist, format!("there is no job {id}")))?;
    call.own_job(job)?;
    Ok(Job::clone(job))
}

/// A refusal by the state table.
pub(super) fn refused(job: &Job) -> ApiError {
    let message = format!(
        "{} is {}: that does not allow the operation",
        job.job_id,
        job.status.as_str()
    );
    ApiError::new(Code::MigrateJobStatusNotSupport, message)
}

/// Lets an event happen to a job, and its source follow.
///
/// # Errors
///
/// When the state table refuses it.
pub(super) fn happen(job: &mut Job, event: JobEvent, now: i64) -> ApiResult<()> {
    match job.status.on(event) {
        JobStep::Go(status) => {
            job.enter(status, now);
            Ok(())
        }
        JobStep::Stay => Ok(()),
        JobStep::No => Err(refused(job)),
    }
}

/// Whether a job may start now: its source is there and free, and its target too.
pub(super) fn check_start(world: &World, job: &Job) -> ApiResult<()> {
    if job.status.on(JobEvent::Start) == JobStep::No {
        return Err(refused(job));
    }
    let source = sources::find(world, &job.source_server_id)?;
    sources::ask(&source, SourceEvent::StartJob)?;
    let other = |found: &&Arc<Job>| found.job_id != job.job_id && found.status.is_unfinished();
    if let Some(found) = world.jobs_of(&job.source_server_id).find(other) {
        let message = format!(
            "its source server has the unfinished job {}; finish or delete that first",
            found.job_id
        );
        return Err(ApiError::new(Code::SourceServerStatusNotSupport, message));
    }
    if job.makes_image() {
        return Ok(());
    }
    super::job_creation::check_instance(world, &job.instance_id, &source, &job.job_id)
}

/// Starts a job.
///
/// # Errors
///
/// When it may not start now.
pub(super) fn begin(transaction: &mut Transaction<'_>, job_id: &str, now: i64) -> ApiResult<()> {
    let Some(job) = transaction.get::<Job>(job_id) else {
        return Ok(());
    };
    check_start(transaction.world(), &job)?;
    let mut job = Job::clone(&job);
    happen(&mut job, JobEvent::Start, now)?;
    let source_id = job.source_server_id.clone();
    transaction.put(job);
    sources::follow_jobs(transaction, &source_id)
}

pub(super) async fn start(app: &App, call: &Call) -> ApiResult<Answer> {
    app.change(call, |transaction| {
        let job = find(transaction.world(), call, call.params.required("JobId"))?;
        begin(transaction, &job.job_id, call.now)?;
        Ok(Answer::new())
    })
    .await
}

pub(super) async fn stop(app: &App, call: &Call) -> ApiResult<Answer> {
    app.change(call, |transaction| {
        let mut job = find(transaction.world(), call, call.params.required("JobId"))?;
        pause(transaction.world(), &mut job, call.now)?;
        let source_id = job.source_server_id.clone();
        transaction.put(job);
        sources::follow_jobs(transaction, &source_id)?;
        Ok(Answer::new())
    })
    .await
}

/// Asks the agent to pause; with nobody there to ask, the job is paused at once.
pub(super) fn pause(world: &World, job: &mut Job, now: i64) -> ApiResult<()> {
    happen(job, JobEvent::Stop, now)?;
    let heard = world
        .sources
        .get(&job.source_server_id)
        .is_some_and(|source| matches!(source.status, SourceStatus::Online | SourceStatus::Migrating));
    if heard {
        Ok(())
    } else {
        happen(job, JobEvent::SourceLost, now)
    }
}

pub(super) async fn delete(app: &Arc<App>, call: &Call) -> ApiResult<Answer> {
    let id = call.params.required("JobId");
    app.change(call, |transaction| {
        let mut job = find(transaction.world(), call, id)?;
        remove(transaction.world(), &mut job, call.now)?;
        transaction.put(job);
        Ok(())
    })
    .await?;
    transit::clean_up_soon(app, id);
    Ok(Answer::new())
}

/// Deletes a job; at once if it left nothing behind.
pub(super) fn remove(world: &World, job: &mut Job, now: i64) -> ApiResult<()> {
    happen(job, JobEvent::Delete, now)?;
    if transit::left_behind(world, job).is_none() {
        happen(job, JobEvent::CleanedUp, now)
    } else {
        Ok(())
    }
}

/// Starts every job whose time has come and whose source is there. A source that is away delays its job.
pub async fn start_due(app: &App, now: i64) {
    let is_due = |job: &Job| {
        let due = job.run_mode == "Timed" && parse_time(&job.start_time).is_some_and(|start| start <= now);
        due && matches!(job.status.on(JobEvent::Due), JobStep::Go(_))
    };
    let due: Vec<String> = app.engine.peek(|world| {
        let ready = |job: &&Arc<Job>| is_due(job) && check_start(world, job).is_ok();
        world
            .jobs
            .values()
            .filter(ready)
            .map(|job| job.job_id.clone())
            .collect()
    });
    for id in due {
        let started = app.engine.change(|transaction| {
            let Some(job) = transaction.get::<Job>(&id).filter(|job| is_due(job)) else {
                return Ok(());
            };
            begin(transaction, &job.job_id, now)
        });
        match started.await {
            Ok(()) => tracing::info!(job = %id, "a scheduled job starts"),
            Err(error) => tracing::warn!(job = %id, %error, "a scheduled job could not start"),
        }
    }
}

/// Notes which sources have been silent for too long, and pauses what was waiting for them to pause. Silence counts only
/// from `listening_since` on: before, nobody was here to hear them.
pub async fn lose_source(app: &App, now: i64, listening_since: i64) {
    let silent_since = now - app.settings.offline_after;
    let is_lost = |source: &Source| {
        source.internal.seen.max(listening_since) < silent_since
            && matches!(
                source.status.on(SourceEvent::Lost),
                crate::state::SourceStep::Go(_)
            )
    };
    let lost: Vec<String> = app.engine.peek(|world| {
        let offline = |source: &Source| source.status == SourceStatus::Offline;
        let stuck = |source: &Source| {
            offline(source)
                && world
                    .jobs_of(&source.source_server_id)
                    .any(|job| job.status == JobStatus::Stopping)
        };
        let lost = world
            .sources
            .values()
            .filter(|source| is_lost(source) || stuck(source));
        lost.map(|source| source.source_server_id.clone()).collect()
    });
    for id in lost {
        let noted = app.engine.change(|transaction| {
            if let Some(source) = transaction.get::<Source>(&id).filter(|source| is_lost(source)) {
                let mut source = Source::clone(&source);
                sources::happen(&mut source, SourceEvent::Lost)?;
                transaction.put(source);
            }
            let stopping: Vec<Job> = transaction
                .world()
                .jobs_of(&id)
                .filter(|job| matches!(job.status.on(JobEvent::SourceLost), JobStep::Go(_)))
                .map(|job| Job::clone(job))
                .collect();
            for mut job in stopping {
                happen(&mut job, JobEvent::SourceLost, now)?;
                transaction.put(job);
            }
            Ok(())
        });
        match noted.await {
            Ok(()) => tracing::info!(source = %id, "a source is offline"),
            Err(error) => tracing::warn!(source = %id, %error, "a source's silence could not be noted"),
        }
    }
}
