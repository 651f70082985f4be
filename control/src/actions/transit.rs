//! Transit instances: made for a job that ends in an image, and never left behind.
//!
//! A transit instance is stored, with its job, before its provider makes it, and forgotten only after its provider has
//! removed it. So whatever ends a job - success, failure, deletion, a crash at any step - [`clean_up`] finds what is left.

use std::sync::Arc;

use serde_json::Value;

use super::job_changes::{find, happen, refused};
use super::run_instances::EMPTY_IMAGE;
use super::{Answer, answer, instances, migration_mode};
use crate::app::{App, Call};
use crate::code::{ApiError, ApiResult, Code};
use crate::identity;
use crate::provider::Outcome;
use crate::records::{Image, Instance, InstanceState, Job};
use crate::state::{JobEvent, JobStatus};
use crate::world::World;

/// The name that the tool's users know.
const NAME: &str = "do_not_delete_csm_instance";
/// The type of a transit instance when the job names none.
const DEFAULT_TYPE: &str = "S5.MEDIUM4";

/// The transit instance of a job, if it is there.
fn transit_of<'w>(world: &'w World, job: &Job) -> Option<&'w Arc<Instance>> {
    world
        .instances
        .values()
        .find(|instance| instance.transit_of == job.job_id)
}

fn image_job(world: &World, call: &Call) -> ApiResult<Job> {
    let job = find(world, call, call.params.required("JobId"))?;
    if job.makes_image() {
        Ok(job)
    } else {
        Err(ApiError::new(
            Code::InvalidJobId,
            format!("{} does not end in an image", job.job_id),
        ))
    }
}

fn running_image_job(world: &World, call: &Call) -> ApiResult<Job> {
    let job = image_job(world, call)?;
    if job.status == JobStatus::Running {
        Ok(job)
    } else {
        Err(refused(&job))
    }
}

pub(super) async fn create(app: &Arc<App>, call: &Call) -> ApiResult<Answer> {
    let made = app
        .engine
        .change(|transaction| {
            let mut job = running_image_job(transaction.world(), call)?;
            if call.params.flag("DryRun") {
                return Err(ApiError::new(
                    Code::DryRunOperation,
                    "the transit instance could be made",
                ));
            }
            if let Some(known) = transit_of(transaction.world(), &job) {
                return Ok((known.instance_id.clone(), false));
            }
            let mut instance = new_transit(app, call, transaction.world(), &job);
            if let Some(image) = base_image(call, transaction.world())? {
                instance.image_id.clone_from(&image.image_id);
                instance.kind.clone_from(&image.kind);
                instance.owner = image.owner;
            }
            let id = instance.instance_id.clone();
            job.transit_instance_id.clone_from(&id);
            transaction.put(instance);
            transaction.put(job);
            Ok((id, true))
        })
        .await?;
    let (id, is_new) = made;
    if is_new {
        let (app, id) = (app.clone(), id.clone());
        tokio::spawn(async move { instances::bring_up(&app, &id).await });
    }
    Ok(answer([("InstanceId", id.into())]))
}

/// The image that the transit instance is made from, if one is named.
fn base_image(call: &Call, world: &World) -> ApiResult<Option<Arc<Image>>> {
    let id = call.params.required("ImageId");
    if id.is_empty() || id == EMPTY_IMAGE {
        return Ok(None);
    }
    instances::find_image(world, id).map(Some).ok_or_else(|| {
        let message = format!("there is no image {id}; {EMPTY_IMAGE} stands for empty disks");
        ApiError::new(Code::InvalidParameterValue, message)
    })
}

fn new_transit(app: &App, call: &Call, world: &World, job: &Job) -> Instance {
    let size = |disk: &Value| disk["Size"].as_u64().unwrap_or(0).max(1);
    let system = call
        .params
        .value("SystemDiskInfo")
        .unwrap_or(&job.system_disk_info);
    let is_windows = world
        .sources
        .get(&job.source_server_id)
        .is_some_and(|source| source.is_windows());
    let prefix = if job.target_type == "Lh-Image" {
        "lhins-"
    } else {
        "ins-"
    };
    let by_block = |disk: &Value| disk["Block"]["Enabled"].as_bool().unwrap_or(false);
    let kind = if by_block(system) || by_block(&job.system_disk_info) {
        "disk"
    } else {
        "directory"
    };
    let mut instance = instances::blank(app, &identity::id(prefix), call.now);
    NAME.clone_into(&mut instance.instance_name);
    kind.clone_into(&mut instance.kind);
    if is_windows { "windows" } else { "linux" }.clone_into(&mut instance.os_type);
    instance.instance_type = if job.instance_type.is_empty() {
        DEFAULT_TYPE.to_owned()
    } else {
        job.instance_type.clone()
    };
    instance.system_disk_gb = size(system);
    instance.data_disks_gb = call.params.list("DataDisksInfo").iter().map(size).collect();
    instance.transit_of.clone_from(&job.job_id);
    instance.subnet_id.clone_from(&job.subnet_id);
    instance.zone = super::places::zone_of(&job.target_region);
    instance.note("RunInstances", "OPERATING", &call.request_id);
    instance
}

pub(super) async fn describe(app: &App, call: &Call) -> ApiResult<Answer> {
    let set = app.engine.read(|world| {
        let job = image_job(world, call)?;
        Ok(transit_of(world, &job)
            .map(|instance| instance.render_transit())
            .into_iter()
            .collect::<Vec<_>>())
    });
    Ok(answer([("InstanceSet", set.await?.into())]))
}

pub(super) async fn make_image(app: &Arc<App>, call: &Call) -> ApiResult<Answer> {
    let begun = app
        .engine
        .change(|transaction| {
            let mut job = running_image_job(transaction.world(), call)?;
            if !job.image_id.is_empty() && transaction.world().images.contains_key(&job.image_id) {
                return Ok((job.image_id, None));
            }
            if !job.internal.pending_image_id.is_empty() {
                let message = "the image is being made; call again for its id";
                return Err(ApiError::new(Code::TaskRunning, message));
            }
            let no_instance =
                || ApiError::new(Code::InvalidInstanceIdNotFound, "the job has no transit instance");
            let instance = transit_of(transaction.world(), &job)
                .cloned()
                .ok_or_else(no_instance)?;
            instances::check_usable(&instance)?;
            let image = new_image(call, &job, &instance);
            job.internal.pending_image_id.clone_from(&image.image_id);
            transaction.put(image.clone());
            transaction.put(job);
            Ok((image.image_id.clone(), Some((instance, image))))
        })
        .await?;
    if let (_, Some((instance, image))) = &begun {
        finish_image(app, instance, image).await?;
    }
    Ok(answer([("ImageId", begun.0.into())]))
}

fn new_image(call: &Call, job: &Job, instance: &Instance) -> Image {
    Image {
        image_id: identity::id("img-"),
        image_name: job.image_name.clone(),
        description: job.description.clone(),
        owner: instance.owner,
        state: "CREATING".to_owned(),
        job_id: job.job_id.clone(),
        instance_id: instance.instance_id.clone(),
        kind: instance.kind.clone(),
        os_type: instance.os_type.clone(),
        architecture: "x86_64".to_owned(),
        size_gb: instance.system_disk_gb,
        created: call.now,
    }
}

/// Lets the provider make an image that is stored as being made; afterwards it is there, or nothing of it is.
pub(super) async fn finish_image(app: &App, instance: &Instance, image: &Image) -> ApiResult<()> {
    let _guard = app.locks.lock(&instance.instance_id).await;
    let provider = app.providers.of(image.owner)?;
    let made = provider.make_image(instance, image).await;
    if made.is_err()
        && let Err(error) = provider.discard_image(image).await
    {
        tracing::warn!(image = %image.image_id, %error, "an unfinished image could not be removed yet");
        return made.map_err(ApiError::from);
    }
    note_image(app, image, made.is_ok()).await?;
    made.map_err(ApiError::from)
}

async fn note_image(app: &App, image: &Image, is_made: bool) -> ApiResult<()> {
    app.engine
        .change(|transaction| {
            if is_made {
                transaction.put(Image {
                    state: "NORMAL".to_owned(),
                    ..image.clone()
                });
            } else {
                transaction.remove::<Image>(&image.image_id);
            }
            let job = transaction.get::<Job>(&image.job_id);
            if let Some(job) = job.filter(|job| job.internal.pending_image_id == image.image_id) {
                let mut job = Job::clone(&job);
                job.internal.pending_image_id.clear();
                if is_made {
                    job.image_id.clone_from(&image.image_id);
                }
                transaction.put(job);
            }
            Ok(())
        })
        .await
}

pub(super) async fn terminate(app: &Arc<App>, call: &Call) -> ApiResult<Answer> {
    let transit = app.engine.read(|world| {
        let job = image_job(world, call)?;
        Ok(transit_of(world, &job).map(|instance| instance.instance_id.clone()))
    });
    if let Some(id) = transit.await? {
        migration_mode::end(app, &id, Outcome::Failure, &call.request_id).await?;
        instances::tear_down(app, &id).await?;
    }
    Ok(Answer::new())
}

/// What a job that is over has left behind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LeftBehind {
    /// An instance target that is still in migration mode.
    entered: Option<String>,
    /// A transit instance.
    transit: Option<String>,
    /// An image that was not finished.
    image: Option<String>,
}

/// What a job that is over, or being deleted, has left behind; `None` if nothing, or if it is not over.
#[must_use]
pub fn left_behind(world: &World, job: &Job) -> Option<LeftBehind> {
    let is_gone = matches!(job.status, JobStatus::Deleting | JobStatus::Deleted);
    if !is_gone && !matches!(job.status, JobStatus::Success | JobStatus::Failed) {
        return None;
    }
    let entered = world.instances.get(&job.instance_id).filter(|instance| {
        let in_use = |other: &Arc<Job>| {
            other.job_id != job.job_id
                && other.status.is_unfinished()
                && other.uses_instance(&instance.instance_id)
        };
        is_gone
            && job.status == JobStatus::Deleting
            && instance.migration.is_some()
            && !world.jobs.values().any(in_use)
    });
    let pending = &job.internal.pending_image_id;
    let left = LeftBehind {
        entered: entered.map(|instance| instance.instance_id.clone()),
        transit: transit_of(world, job).map(|instance| instance.instance_id.clone()),
        image: Some(pending.clone()).filter(|image| world.images.contains_key(image)),
    };
    (left != LeftBehind::default()).then_some(left)
}

/// Removes what a job left behind, in the background.
pub fn clean_up_soon(app: &Arc<App>, job_id: &str) {
    let (app, job_id) = (app.clone(), job_id.to_owned());
    tokio::spawn(async move {
        if let Err(error) = clean_up(&app, &job_id).await {
            tracing::warn!(job = %job_id, %error, "what the job left behind is not removed yet; it will be tried again");
        }
    });
}

/// The jobs that have left something behind, or that wait to be gone.
#[must_use]
pub fn to_clean_up(world: &World) -> Vec<String> {
    let waits = |job: &&Arc<Job>| job.status == JobStatus::Deleting || left_behind(world, job).is_some();
    world
        .jobs
        .values()
        .filter(waits)
        .map(|job| job.job_id.clone())
        .collect()
}

/// Removes what a job left behind.
///
/// # Errors
///
/// When a provider fails; it can be tried again.
pub async fn clean_up(app: &App, job_id: &str) -> ApiResult<()> {
    let _guard = app.locks.lock(job_id).await;
    let left = app
        .engine
        .peek(|world| world.jobs.get(job_id).and_then(|job| left_behind(world, job)));
    let left = left.unwrap_or_default();
    for id in [&left.entered, &left.transit].into_iter().flatten() {
        migration_mode::end(app, id, Outcome::Failure, "").await?;
    }
    if let Some(id) = &left.image {
        let image = app.engine.peek(|world| world.images.get(id).cloned());
        if let Some(image) = image.filter(|image| image.state != "NORMAL") {
            let _guard = app.locks.lock(&image.instance_id).await;
            app.providers.of(image.owner)?.discard_image(&image).await?;
            note_image(app, &image, false).await?;
        }
    }
    if let Some(id) = &left.transit {
        instances::tear_down(app, id).await?;
    }
    app.engine
        .change(|transaction| {
            let Some(job) = transaction
                .get::<Job>(job_id)
                .filter(|job| job.status == JobStatus::Deleting)
            else {
                return Ok(());
            };
            if left_behind(transaction.world(), &job).is_some() {
                return Ok(());
            }
            let mut job = Job::clone(&job);
            happen(&mut job, JobEvent::CleanedUp, crate::clock::now())?;
            transaction.put(job);
            Ok(())
        })
        .await
}

/// Takes up, after a start, the making of instances and images that was interrupted.
pub async fn resume(app: &Arc<App>) {
    let (pending, images) = app.engine.peek(|world| {
        let is_pending = |instance: &&Arc<Instance>| instance.state == InstanceState::Pending;
        let pending: Vec<_> = world
            .instances
            .values()
            .filter(is_pending)
            .map(|instance| instance.instance_id.clone())
            .collect();
        let creating = world.images.values().filter(|image| image.state == "CREATING");
        let images: Vec<_> = creating
            .map(|image| (image.clone(), world.instances.get(&image.instance_id).cloned()))
            .collect();
        (pending, images)
    });
    for id in pending {
        instances::bring_up(app, &id).await;
    }
    for (image, instance) in images {
        let done = match instance {
            Some(instance) => finish_image(app, &instance, &image).await,
            None => note_image(app, &image, false).await,
        };
        if let Err(error) = done {
            tracing::warn!(image = %image.image_id, %error, "an interrupted image was not made");
        }
    }
}
