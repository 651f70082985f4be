//! The baselines that jobs have left: which there are, and their end.
//!
//! A job keeps its baseline as long as it may go on: paused, failed, interrupted. A job can be deleted while nothing runs
//! for it, and while no agent runs at all; so a list of those with a baseline is kept, and compared with the jobs there are.

use csm::types::job::MigrationJob;

use super::plan::Plan;

/// Name of the list in the state folder.
pub(super) const FILE: &str = "baselines.json";

/// Notes that a job has a baseline from now on.
pub(super) fn keep(plan: &Plan, job: &str) {
    let mut jobs = listed(plan);
    if !jobs.iter().any(|listed| listed == job) {
        jobs.push(job.to_owned());
        write(plan, &jobs);
    }
}

/// Removes the baseline of a job that has ended for good: what it says of the target is worth nothing any more.
pub(super) fn forget(plan: &Plan, job: &str) {
    let folder = plan.state_of(job);
    if let Err(error) = std::fs::remove_dir_all(&folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        // It stays on the list, and is tried again.
        tracing::warn!("cannot remove {}: {error}", folder.display());
        return;
    }
    let mut jobs = listed(plan);
    let count = jobs.len();
    jobs.retain(|listed| listed != job);
    if jobs.len() < count {
        write(plan, &jobs);
    }
}

/// Removes the baselines of all jobs but those that the control plane knows.
///
/// It may not list jobs that ended long ago: should one of them be started again, its baseline is rebuilt from the target.
pub(super) fn forget_gone(plan: &Plan, known: &[MigrationJob]) {
    let is_known = |id: &String| known.iter().any(|job| job.job_id.as_ref() == Some(id));
    for gone in listed(plan).iter().filter(|id| !is_known(id)) {
        tracing::info!(job = gone, "the job is gone, and what was kept for it");
        forget(plan, gone);
    }
}

fn listed(plan: &Plan) -> Vec<String> {
    plan.state().read(FILE).unwrap_or_default()
}

fn write(plan: &Plan, jobs: &[String]) {
    if let Err(error) = plan.state().write(FILE, &jobs) {
        tracing::warn!("cannot write {}: {error}", plan.state().path(FILE).display());
    }
}
