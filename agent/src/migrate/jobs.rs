//! The loop of the job-driven way: register, wait for a job or create one, carry it out.

use std::sync::Arc;
use std::time::Duration;

use csm::types::filter::Filter;
use csm::types::job::{
    CreateMigrationJob, DescribeMigrationJobs, MigrationConfigInfo, MigrationJob, StartMigrationJob,
};
use transfer::progress::StopFlag;

use super::api::{Api, chain};
use super::baselines;
use super::check::is_fit;
use super::explained;
use super::failure::{Code, Ended, Failure};
use super::job::{self, Context};
use super::plan::{Control, Plan, Target};
use super::presence;
use super::source::Source;
use crate::exit::{self, Exit};
use crate::inventory::wire::enable_block;
use crate::inventory::{Inventory, Machine};
use crate::output::{complain, remark};
use crate::status::Status;

/// Pause between two looks for a job.
const POLL: Duration = Duration::from_secs(3);

/// The story of the job-driven way.
pub(super) fn run(
    plan: &Plan,
    control: &Control,
    target: Option<&Target>,
    stop: &Arc<StopFlag>,
) -> anyhow::Result<Exit> {
    let style = plan.run.style;
    let state = plan.state();
    let Some(_lock) = presence::alone(plan)? else {
        return Ok(exit::USAGE);
    };
    let status = Status {
        message: "checking and registering".to_owned(),
        ..Status::default()
    };
    status.write(&state);
    let inventory = Inventory::of(&Machine::here(), plan.scope())?;
    let api = Arc::new(Api::new(control, &plan.state_root)?);
    if !is_fit(plan, &inventory, Some(&api)) {
        return Ok(exit::CHECK_FAILED);
    }
    let source = match Source::register(&api, &inventory, stop) {
        Ok(source) => source,
        Err(_) if stop.is_stopped() => return Ok(exit::INTERRUPTED),
        Err(error) => anyhow::bail!(explained(&error)),
    };
    remark(style, "Import source server successfully");
    let context = Context {
        plan,
        api: &api,
        inventory: &inventory,
        source: &source.id,
        stop,
    };
    service_is_ready();
    let result = match target {
        Some(target) => create_job(&context, control, target).and_then(|()| wait(&context, true)),
        None => wait(&context, plan.run.once),
    };
    source.leave();
    result
}

/// Creates a job and starts it, unless this source has one that has not ended.
fn create_job(context: &Context<'_>, control: &Control, target: &Target) -> anyhow::Result<()> {
    let style = context.plan.run.style;
    let open = |job: &MigrationJob| {
        let status = job.status.as_deref().unwrap_or_default();
        !["SUCCESS", "DELETING", "DELETED"].contains(&status)
    };
    let known = find_jobs(context)
        .map_err(|error| anyhow::anyhow!(explained(&error)))?
        .into_iter()
        .find(open);
    let id = match known.and_then(|job| Some((job.job_id?, job.status?))) {
        Some((id, status)) if status == "RUNNING" => {
            remark(style, &format!("Going on with job {id}."));
            return Ok(());
        }
        Some((id, _)) => id,
        None => {
            let request = new_job(context, control, target);
            insist(context, &request)?.job_id
        }
    };
    let request = StartMigrationJob { job_id: id.clone() };
    insist(context, &request)?;
    remark(style, &format!("Job {id} started."));
    Ok(())
}

fn insist<A: csm::Action>(context: &Context<'_>, request: &A) -> anyhow::Result<A::Response> {
    let answer = context.api.insist(request, context.stop);
    answer.map_err(|error| match error.code().and_then(Code::of_api) {
        // What the console finds out at once has the same code as what this program finds out later.
        Some(code) => anyhow::anyhow!(Failure::new(code, A::NAME.as_str(), chain(&error)).to_string()),
        None => anyhow::anyhow!(explained(&error)),
    })
}

fn new_job(context: &Context<'_>, control: &Control, target: &Target) -> CreateMigrationJob {
    let plan = context.plan;
    let mut request = CreateMigrationJob {
        source_server_id: context.source.to_owned(),
        system_disk_info: context.inventory.system_disk(),
        data_disks_info: context.inventory.data_disks(),
        mode: plan.network.mode as u64,
        target_region: control.region.clone(),
        name: Some(format!("go2cloud-{}", jiff::Timestamp::now().as_second())),
        migration_config_info: Some(MigrationConfigInfo {
            checksum: Some(plan.transfer.checksum),
            bandwidth_limit: plan.transfer.bandwidth_limit.map(|limit| limit.to_string()),
        }),
        incremental_migration: Some(u64::from(plan.transfer.incremental_minutes.is_some())),
        incremental_time: plan
            .transfer
            .incremental_minutes
            .map(|minutes| minutes.to_string()),
        ..Default::default()
    };
    if plan.block {
        enable_block(&mut request.system_disk_info, &mut request.data_disks_info);
    }
    match target {
        Target::Instance(id) => {
            request.target_type = Some("Instance".to_owned());
            request.instance_id = Some(id.clone());
        }
        Target::Image {
            name, vpc, subnet, ..
        } => {
            request.target_type = Some("Image".to_owned());
            request.image_name = Some(name.clone());
            request.vpc_id.clone_from(vpc);
            request.subnet_id.clone_from(subnet);
        }
    }
    request
}

fn find_jobs(context: &Context<'_>) -> Result<Vec<MigrationJob>, csm::client::Error> {
    let request = DescribeMigrationJobs {
        filters: vec![Filter {
            name: "source-server-id".to_owned(),
            values: vec![context.source.to_owned()],
        }],
        limit: Some(50),
        ..Default::default()
    };
    Ok(context.api.insist(&request, context.stop)?.migration_jobs)
}

/// Waits for jobs and carries them out, one after the other.
fn wait(context: &Context<'_>, once: bool) -> anyhow::Result<Exit> {
    let style = context.plan.run.style;
    if !once {
        remark(
            style,
            "Waiting for a job from the console. Keep this program running until the job has ended.",
        );
        if context.plan.run.has_idle_target {
            let text =
                "A job from the console names its own target: the one named here counts only with -console.";
            remark(style, text);
            tracing::warn!("{text}");
        }
    }
    let mut told = false;
    while !context.stop.is_stopped() {
        let idle = Status {
            source: context.source.to_owned(),
            message: "waiting for a job".to_owned(),
            ..Status::default()
        };
        idle.write(&context.plan.state());
        let jobs = match find_jobs(context) {
            Ok(jobs) => jobs,
            Err(_) if context.stop.is_stopped() => break,
            Err(error) => anyhow::bail!(explained(&error)),
        };
        baselines::forget_gone(context.plan, &jobs);
        let with = |status: &str| jobs.iter().find(|job| job.status.as_deref() == Some(status));
        if let Some(job) = with("STOPPING") {
            job::rest(context, job);
        } else if let Some(job) = with("RUNNING") {
            told = false;
            let ended = carry_out(context, job);
            if once && let Some(exit) = ended.filter(|exit| *exit != exit::INTERRUPTED) {
                return Ok(exit);
            }
        } else if once && with("STOPPED").is_some() && !told {
            told = true;
            remark(style, "The job is paused. Start it in the console to go on.");
        }
        if context.stop.sleep(POLL) {
            break;
        }
    }
    remark(
        style,
        "Stopped. Start this program again to go on: what is durable at the target is kept.",
    );
    Ok(exit::INTERRUPTED)
}

/// Carries one job out. Gives the exit code for its end, or nothing when it only paused.
fn carry_out(context: &Context<'_>, job: &MigrationJob) -> Option<Exit> {
    let style = context.plan.run.style;
    let id = job.job_id.as_deref().unwrap_or_default();
    remark(style, &format!("Job {id}: migrating."));
    baselines::keep(context.plan, id);
    let result = job::migrate(context, job);
    leave_status(context, id, &result);
    match result {
        Ok(summary) => {
            crate::output::print_summary(style, &summary);
            baselines::forget(context.plan, id);
            remark(style, "Migrate successfully.");
            Some(exit::DONE)
        }
        Err(Ended::Failed(failure)) => {
            complain(&format!("go2cloud: {failure}"));
            Some(exit::FAILED)
        }
        Err(Ended::Paused) => {
            remark(
                style,
                &format!("Job {id}: paused. What is durable at the target is kept."),
            );
            None
        }
        Err(Ended::Deleted) => {
            remark(style, &format!("Job {id}: deleted."));
            baselines::forget(context.plan, id);
            Some(exit::FAILED)
        }
        Err(Ended::Interrupted) => Some(exit::INTERRUPTED),
    }
}

/// Leaves how the job ended for readers of the status.
fn leave_status(context: &Context<'_>, id: &str, result: &Result<transfer::progress::Summary, Ended>) {
    let message = match result {
        Ok(_) => format!("job {id} succeeded"),
        Err(Ended::Failed(failure)) => format!("job {id} failed: {failure}"),
        Err(Ended::Paused) => format!("job {id} is paused"),
        Err(Ended::Deleted) => format!("job {id} was deleted"),
        Err(Ended::Interrupted) => format!("stopped during job {id}; it goes on at the next start"),
    };
    let status = Status {
        source: context.source.to_owned(),
        message,
        ..Status::default()
    };
    status.write(&context.plan.state());
}

/// Tells systemd, if it started this program, that the source is registered.
fn service_is_ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!("cannot notify the service manager: {error}");
    }
}
