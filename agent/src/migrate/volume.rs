//! What a job moves: the disks that it names, or a tree of files.

use std::path::Path;

use csm::types::job::MigrationJob;
use transfer::source::{DisksSource, SourceVolume, TreeSource};

use super::excludes;
use super::failure::{Code, Failure};
use super::plan::Plan;
use crate::inventory::{Inventory, Scope};

/// What the job moves: disks if it says so, else files.
///
/// # Errors
/// The job and what this agent was told contradict each other, or a disk cannot be migrated.
pub fn of_job(
    plan: &Plan,
    job: &MigrationJob,
    inventory: &Inventory,
    state: &Path,
) -> Result<SourceVolume, Failure> {
    let refuse = |text: String| Err(Failure::new(Code::Transmission, "Prepare", text));
    let blocks = goes_by_block(job);
    let excludes = job
        .exclude_path_list
        .as_deref()
        .filter(|list| !list.trim().is_empty());
    match (blocks, plan.scope()) {
        (true, Scope::Directory(root)) => refuse(format!(
            "the job goes block by block, but this agent was told to migrate {}",
            root.display()
        )),
        (false, Scope::Disks(_)) => {
            refuse("the job goes file by file, but this agent was told to migrate disks".to_owned())
        }
        (true, _) if excludes.is_some() => {
            refuse("the job excludes paths and goes block by block: a disk is copied whole".to_owned())
        }
        (true, _) => disks(plan, job, inventory),
        (false, _) => tree(plan, excludes, state),
    }
}

/// What is moved, for people: a directory, or disks.
pub fn names(plan: &Plan, job: Option<&MigrationJob>) -> Vec<String> {
    match (job.filter(|job| goes_by_block(job)), plan.scope()) {
        (Some(job), _) => devices(job).map(str::to_owned).collect(),
        (None, Scope::Disks(disks)) => disks.iter().map(|disk| disk.display().to_string()).collect(),
        (None, _) => vec![plan.source_root.display().to_string()],
    }
}

fn goes_by_block(job: &MigrationJob) -> bool {
    let system = job.system_disk_info.as_ref().and_then(|disk| disk.block.as_ref());
    system.and_then(|block| block.enabled).unwrap_or(false)
}

fn devices(job: &MigrationJob) -> impl Iterator<Item = &str> {
    let system = job.system_disk_info.iter().map(|disk| disk.device.as_str());
    system.chain(job.data_disks_info.iter().map(|disk| disk.device.as_str()))
}

/// The disks that the job names, in its order.
fn disks(plan: &Plan, job: &MigrationJob, inventory: &Inventory) -> Result<SourceVolume, Failure> {
    let mut disks = Vec::new();
    for device in devices(job) {
        let Some(disk) = inventory.disks.iter().find(|disk| disk.device == device) else {
            let text = format!("the job names the disk {device}, which this machine does not have");
            return Err(Failure::new(Code::Transmission, "Prepare", text));
        };
        if let Some(obstacle) = disk.block_obstacles.first() {
            let text = format!("{device} cannot be migrated block by block: {obstacle}");
            return Err(Failure::new(Code::Transmission, "Prepare", text));
        }
        disks.push(device.into());
    }
    Ok(SourceVolume::Disks(DisksSource {
        disks,
        freeze: Some(plan.transfer.freeze.clone()),
    }))
}

/// The tree that `plan` names, without what `excludes` and the file beside the program say.
///
/// # Errors
/// The file cannot be read.
pub fn tree(plan: &Plan, excludes: Option<&str>, state: &Path) -> Result<SourceVolume, Failure> {
    let excludes = excludes::of(&plan.folder, &plan.source_root, excludes).map_err(|error| {
        Failure::new(
            Code::Transmission,
            "Prepare",
            format!("{}: {error}", excludes::FILE),
        )
    })?;
    Ok(SourceVolume::Tree(TreeSource {
        root: plan.source_root.clone(),
        cross_mounts: plan.source_root == Path::new("/"),
        excludes,
        never: plan.never(state),
        estimate: true,
        freeze: plan.transfer.freeze_of_tree(&plan.source_root),
    }))
}
