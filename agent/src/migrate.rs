//! The job-driven way: register this machine, wait for a job, migrate, report.

use std::sync::Arc;
use std::time::Duration;

use csm::types::filter::Filter;
use csm::types::job::{
    CreateMigrationJob, DescribeMigrationJobs, MigrationConfigInfo, MigrationJob, StartMigrationJob,
};
use transfer::progress::StopFlag;

use crate::cli::JobArgs;
use crate::exit::{self, Exit};
use crate::inventory::{Inventory, Machine};
use crate::output::{Style, complain, say};
use crate::preflight::{self, Status, Subject, block_test};
use crate::{log, signals};

pub mod api;
pub mod direct;
pub mod enrolment;
pub mod excludes;
pub mod failure;
pub mod job;
pub mod plan;
pub mod report;
pub mod source;
pub mod supervisor;
pub mod target;
pub mod transit;

use api::{Api, chain};
use failure::Ended;
use job::Context;
use plan::{Control, Plan, Target, Task};
use source::Source;

/// Pause between two looks for a job.
const POLL: Duration = Duration::from_secs(3);

/// Checks the arguments and does what they ask for.
pub fn run(args: &JobArgs) -> Exit {
    plan::hide_keys();
    let plan = match Plan::check(args) {
        Ok(plan) => plan,
        Err(refusals) => return refusals.print(),
    };
    if let Err(error) = log::start(&plan.folder, &plan.run) {
        complain(&format!(
            "go2cloud: cannot write the log: {error}; going on without one"
        ));
    }
    match act(&plan) {
        Ok(exit) => exit,
        Err(error) => {
            tracing::error!("{error:#}");
            complain(&format!("go2cloud: {error:#}"));
            exit::FAILED
        }
    }
}

fn act(plan: &Plan) -> anyhow::Result<Exit> {
    let stop = Arc::new(StopFlag::default());
    signals::stop_on_signals(Arc::clone(&stop))?;
    match &plan.task {
        Task::Jobs(control, target) => jobs(plan, control, target.as_ref(), &stop),
        Task::NoJob(control, instance) => direct::by_instance(plan, control, instance, &stop),
        Task::Direct { address, secret } => direct::by_address(plan, *address, secret, &stop),
        Task::Check(control) => check(plan, control.as_ref()),
        Task::BlockTest => Ok(block_test::run(
            plan.run.style,
            &Inventory::take(&Machine::here())?,
        )),
        Task::Clean(..) => Ok(exit::FAILED),
    }
}

/// `--check`: looks, prints, migrates nothing.
fn check(plan: &Plan, control: Option<&Control>) -> anyhow::Result<Exit> {
    let machine = Machine::here();
    let inventory = Inventory::of(&machine, &plan.source_root)?;
    let api = control
        .map(|control| Api::new(control, &plan.state_root))
        .transpose()?;
    let findings = preflight::check(&Subject {
        machine: &machine,
        inventory: &inventory,
        plan,
        api: api.as_ref(),
    });
    Ok(preflight::print(plan.run.style, &findings))
}

/// The checks before a migration: silent about what is in order.
fn is_fit(plan: &Plan, inventory: &Inventory, api: Option<&Api>) -> bool {
    if plan.run.ignore_check {
        return true;
    }
    let mut findings = preflight::check(&Subject {
        machine: &Machine::here(),
        inventory,
        plan,
        api,
    });
    findings.retain(|finding| finding.status >= Status::Warn);
    for finding in &findings {
        tracing::warn!(id = finding.id, status = ?finding.status, "{}: {}; {}", finding.name, finding.observed, finding.remedy);
    }
    if !findings.is_empty() {
        preflight::print(Style::People, &findings);
    }
    let fit = findings.iter().all(|finding| finding.status < Status::Fail);
    if !fit {
        complain("go2cloud: repair what failed, or skip the checks with -ignore-check; nothing was migrated");
    }
    fit
}

/// The story of the job-driven way.
fn jobs(
    plan: &Plan,
    control: &Control,
    target: Option<&Target>,
    stop: &Arc<StopFlag>,
) -> anyhow::Result<Exit> {
    let inventory = Inventory::of(&Machine::here(), &plan.source_root)?;
    let api = Arc::new(Api::new(control, &plan.state_root)?);
    if !is_fit(plan, &inventory, Some(&api)) {
        return Ok(exit::CHECK_FAILED);
    }
    let source = match Source::register(&api, &inventory, stop) {
        Ok(source) => source,
        Err(_) if stop.is_stopped() => return Ok(exit::INTERRUPTED),
        Err(error) => return Err(error.into()),
    };
    say("Import source server successfully");
    let context = Context {
        plan,
        api: &api,
        inventory: &inventory,
        stop,
    };
    let result = match target {
        Some(target) => {
            create_job(&context, control, &source.id, target).and_then(|()| wait(&context, &source.id, true))
        }
        None => wait(&context, &source.id, plan.run.once),
    };
    source.leave();
    result
}

/// Creates a job and starts it, unless this source has one that has not ended.
fn create_job(context: &Context<'_>, control: &Control, source: &str, target: &Target) -> anyhow::Result<()> {
    let open = |job: &MigrationJob| {
        let status = job.status.as_deref().unwrap_or_default();
        !["SUCCESS", "DELETING", "DELETED"].contains(&status)
    };
    let known = find_jobs(context, source)?.into_iter().find(open);
    let id = match known.and_then(|job| Some((job.job_id?, job.status?))) {
        Some((id, status)) if status == "RUNNING" => {
            say(&format!("Going on with job {id}."));
            return Ok(());
        }
        Some((id, _)) => id,
        None => {
            let request = new_job(context, control, source, target);
            context.api.insist(&request, context.stop)?.job_id
        }
    };
    let request = StartMigrationJob { job_id: id.clone() };
    context.api.insist(&request, context.stop)?;
    say(&format!("Job {id} started."));
    Ok(())
}

fn new_job(context: &Context<'_>, control: &Control, source: &str, target: &Target) -> CreateMigrationJob {
    let plan = context.plan;
    let mut request = CreateMigrationJob {
        source_server_id: source.to_owned(),
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

fn find_jobs(context: &Context<'_>, source: &str) -> Result<Vec<MigrationJob>, csm::client::Error> {
    let request = DescribeMigrationJobs {
        filters: vec![Filter {
            name: "source-server-id".to_owned(),
            values: vec![source.to_owned()],
        }],
        limit: Some(50),
        ..Default::default()
    };
    Ok(context.api.insist(&request, context.stop)?.migration_jobs)
}

/// Waits for jobs and carries them out, one after the other.
fn wait(context: &Context<'_>, source: &str, once: bool) -> anyhow::Result<Exit> {
    if !once {
        say("Waiting for a job from the console. Keep this program running until the job has ended.");
    }
    let mut told = false;
    while !context.stop.is_stopped() {
        let jobs = match find_jobs(context, source) {
            Ok(jobs) => jobs,
            Err(_) if context.stop.is_stopped() => break,
            Err(error) => return Err(error.into()),
        };
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
            say("The job is paused. Start it in the console to go on.");
        }
        if context.stop.sleep(POLL) {
            break;
        }
    }
    say("Stopped. Start this program again to go on: what is durable at the target is kept.");
    Ok(exit::INTERRUPTED)
}

/// Carries one job out. Gives the exit code for its end, or nothing when it only paused.
fn carry_out(context: &Context<'_>, job: &MigrationJob) -> Option<Exit> {
    let id = job.job_id.as_deref().unwrap_or_default();
    say(&format!("Job {id}: migrating."));
    match job::migrate(context, job) {
        Ok(summary) => {
            crate::output::print_summary(context.plan.run.style, &summary);
            say("Migrate successfully.");
            Some(exit::DONE)
        }
        Err(Ended::Failed(failure)) => {
            complain(&format!("go2cloud: {failure}"));
            Some(exit::FAILED)
        }
        Err(Ended::Paused) => {
            say(&format!(
                "Job {id}: paused. What is durable at the target is kept."
            ));
            None
        }
        Err(Ended::Deleted) => {
            say(&format!("Job {id}: deleted."));
            Some(exit::FAILED)
        }
        Err(Ended::Interrupted) => Some(exit::INTERRUPTED),
    }
}

/// An error of the API with what to do about it, for `anyhow`'s `{:#}`.
pub(crate) fn explained(error: &csm::client::Error) -> String {
    format!("{}; {}", chain(error), error.remedy())
}
