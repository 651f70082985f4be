//! The job-driven way: register this machine, wait for a job, migrate, report.

use std::sync::Arc;

use transfer::progress::StopFlag;

use crate::cli::JobArgs;
use crate::exit::{self, Exit};
use crate::inventory::{Inventory, Machine};
use crate::output::complain;
use crate::preflight::block_test;
use crate::refusal::Refusals;
use crate::{log, signals};

pub mod account;
pub mod api;
mod baselines;
mod check;
mod clean;
mod daemon;
pub mod direct;
pub mod enrolment;
pub mod excludes;
pub mod failure;
pub mod finish;
pub mod job;
mod jobs;
pub mod machine;
pub mod plan;
mod presence;
pub mod report;
pub mod source;
pub mod staged;
pub mod supervisor;
pub mod target;
pub mod transit;
pub mod volume;

use api::chain;
use plan::{Plan, Task};

/// Checks the arguments and does what they ask for, unless there are `refusals` or these find some.
pub fn run(args: &JobArgs, refusals: Refusals) -> Exit {
    plan::hide_keys();
    let plan = match Plan::check(args, refusals) {
        Ok(plan) => plan,
        Err(refusals) => return refusals.print(),
    };
    if let Err(error) = log::start(&plan.folder, &plan.run) {
        complain(&format!(
            "go2cloud: cannot write the log: {error}; going on without one"
        ));
    }
    if plan.run.daemon
        && let Some(exit) = daemon::go_background(&plan)
    {
        return exit;
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
        Task::Jobs(control, target) => jobs::run(plan, control, target.as_ref(), &stop),
        Task::NoJob(control, instance) => direct::by_instance(plan, control, instance, &stop),
        Task::Direct { address, secret } => direct::by_address(plan, *address, secret, &stop),
        Task::Staged(stage) => staged::run(plan, stage, &stop),
        Task::Check { control, .. } => check::check(plan, control.as_ref()),
        Task::BlockTest => Ok(block_test::run(
            plan.run.style,
            &Inventory::take(&Machine::here())?,
        )),
        Task::Clean(control, instance) => clean::run(plan, control.as_ref(), instance.as_deref(), &stop),
    }
}

/// An error of the API with what to do about it, for `anyhow`'s `{:#}`.
pub(crate) fn explained(error: &csm::client::Error) -> String {
    format!("{}; {}", chain(error), error.remedy())
}
