//! Image targets: a transit instance takes the data, and an image is made of it.

use std::time::Duration;

use csm::types::job::MigrationJob;
use csm::types::transit::{
    CreateImageForTransitInstance, CreateTransitInstance, DescribeTransitInstance, TerminateTransitInstance,
};
use transfer::progress::StopFlag;

use super::api::{Api, chain};
use super::failure::{Code, Ended, Failure};
use super::target::refused;
use crate::inventory::Inventory;

/// Pause between two looks at an instance that starts.
const PAUSE: Duration = Duration::from_secs(2);
/// Looks: ten minutes in all.
const LOOKS_MAX: u32 = 300;

/// Whether the job's target is an image.
pub fn is_image(job: &MigrationJob) -> bool {
    job.target_type
        .as_deref()
        .is_some_and(|kind| kind.ends_with("Image"))
}

/// Creates the job's transit instance, from `image` if one is named, or finds it, and waits until it runs. Gives its id.
///
/// # Errors
/// It is not created, or does not run in time.
pub fn create(
    api: &Api,
    job: &MigrationJob,
    inventory: &Inventory,
    image: Option<&str>,
    stop: &StopFlag,
) -> Result<String, Ended> {
    let job_id = job.job_id.clone().unwrap_or_default();
    let known = job.transit_instance_id.clone().filter(|id| !id.is_empty());
    let id = match known {
        Some(id) => id,
        None => {
            let request = CreateTransitInstance {
                job_id: job_id.clone(),
                system_disk_info: Some(inventory.system_disk()),
                data_disks_info: inventory.data_disks(),
                image_id: image.map(str::to_owned),
                ..Default::default()
            };
            let answer = api.insist(&request, stop).map_err(|error| {
                tracing::error!("Failed create transit instance, maybe no available source in target region");
                refused(&error, stop, "CreateTransitInstance")
            })?;
            answer.instance_id
        }
    };
    for _ in 0..LOOKS_MAX {
        let request = DescribeTransitInstance {
            job_id: job_id.clone(),
        };
        let answer = api
            .insist(&request, stop)
            .map_err(|error| refused(&error, stop, "DescribeTransitInstance"))?;
        let state = answer
            .instance_set
            .first()
            .and_then(|instance| instance.instance_state.as_deref());
        match state {
            Some("RUNNING") => return Ok(id),
            Some("LAUNCH_FAILED" | "SHUTDOWN" | "TERMINATING") => {
                let text = format!(
                    "the transit instance {id} is in state {}",
                    state.unwrap_or_default()
                );
                return Err(Failure::new(Code::InstanceStatus, "DescribeTransitInstance", text).into());
            }
            _ => {}
        }
        if stop.sleep(PAUSE) {
            return Err(Ended::Interrupted);
        }
    }
    let text = format!("the transit instance {id} does not run after ten minutes");
    Err(Failure::new(Code::InstanceStatus, "DescribeTransitInstance", text).into())
}

/// Makes the image and destroys the transit instance. Gives the image's id.
///
/// # Errors
/// The image is not made.
pub fn make_image(api: &Api, job_id: &str, stop: &StopFlag) -> Result<String, Ended> {
    let request = CreateImageForTransitInstance {
        job_id: job_id.to_owned(),
    };
    let image = api
        .insist(&request, stop)
        .map_err(
            |error| match refused(&error, stop, "CreateImageForTransitInstance") {
                Ended::Failed(failure) => Ended::Failed(Failure {
                    code: Code::InitServer,
                    ..failure
                }),
                other => other,
            },
        )?
        .image_id;
    let request = TerminateTransitInstance {
        job_id: job_id.to_owned(),
    };
    if let Err(error) = api.insist(&request, stop) {
        // It costs money as long as it exists, but the image is made: the migration has succeeded.
        tracing::error!(
            "the transit instance is not terminated: {}; terminate do_not_delete_csm_instance by hand",
            chain(&error)
        );
    }
    Ok(image)
}
