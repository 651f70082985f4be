//! The job-driven way: register this machine, wait for a job, migrate, report.

use crate::cli::JobArgs;
use crate::exit::{self, Exit};

pub mod plan;

use plan::Plan;

/// Checks the arguments and does what they ask for.
pub fn run(args: &JobArgs) -> Exit {
    match Plan::check(args) {
        Err(refusals) => refusals.print(),
        Ok(_) => exit::FAILED,
    }
}
