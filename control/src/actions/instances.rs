//! Instances: listed, switched, brought up, torn down.

use std::sync::Arc;

use serde_json::{Value, json};

use super::filter::{Filter, Filters, page};
use super::{Answer, answer, migration_mode};
use crate::app::{App, Call};
use crate::code::{ApiError, ApiResult, Code};
use crate::identity;
use crate::provider::{Outcome, Power};
use crate::records::{Image, Instance, InstanceState, MigrationPhase};
use crate::world::World;

/// An instance of the default provider, with nothing decided yet.
#[must_use]
pub fn blank(app: &App, id: &str, now: i64) -> Instance {
    Instance {
        instance_id: id.to_owned(),
        instance_name: id.to_owned(),
        owner: app.providers.default,
        state: InstanceState::Pending,
        kind: "directory".to_owned(),
        os_type: "linux".to_owned(),
        instance_type: "S5.MEDIUM4".to_owned(),
        system_disk_gb: 50,
        data_disks_gb: Vec::new(),
        address: String::new(),
        lan_address: String::new(),
        sealed_secret: String::new(),
        transit_of: String::new(),
        subnet_id: String::new(),
        zone: super::places::zone_of(&app.settings.regions[0]),
        image_id: String::new(),
        created: now,
        latest: (String::new(), String::new(), String::new()),
        migration: None,
        uuid: identity::uuid(),
        client_token: String::new(),
    }
}

/// Refuses an instance whose state forbids a migration.
pub(super) fn check_state(instance: &Instance) -> ApiResult<()> {
    let code = match instance.state {
        InstanceState::Running | InstanceState::Stopped => return Ok(()),
        InstanceState::Stopping => Code::InstanceStateStopping,
        InstanceState::Rebooting => Code::InstanceStateRebooting,
        InstanceState::Terminating | InstanceState::Shutdown => Code::InstanceStateTerminating,
        InstanceState::Pending | InstanceState::Starting | InstanceState::LaunchFailed => {
            Code::ResourceUnavailable
        }
    };
    Err(ApiError::new(
        code,
        format!("{} is {}", instance.instance_id, instance.state.as_str()),
    ))
}

/// Refuses an instance that is in migration mode, or whose state forbids one.
pub(super) fn check_usable(instance: &Instance) -> ApiResult<()> {
    check_free(instance)?;
    check_state(instance)
}

/// As [`check_usable`], but migration mode may be on, or could not be left: entering it again follows leaving it.
pub(super) fn check_resumable(instance: &Instance) -> ApiResult<()> {
    check_state(instance)
}

fn check_free(instance: &Instance) -> ApiResult<()> {
    let code = match instance.migration.as_ref().map(|migration| migration.phase) {
        None => return Ok(()),
        Some(MigrationPhase::Entering) => Code::InstanceStateEnterServiceLiveMigrate,
        Some(MigrationPhase::Active | MigrationPhase::Leaving) => Code::InstanceStateServiceLiveMigrate,
    };
    let message = format!(
        "{} is in migration mode; finish or delete its job first",
        instance.instance_id
    );
    Err(ApiError::new(code, message))
}

/// Lets the provider make an instance that is stored as pending.
pub(super) async fn bring_up(app: &App, id: &str) {
    let _guard = app.locks.lock(id).await;
    let found = app.engine.peek(|world| {
        let instance = world
            .instances
            .get(id)
            .filter(|instance| instance.state == InstanceState::Pending)
            .cloned();
        instance.map(|instance| (world.images.get(&instance.image_id).cloned(), instance))
    });
    let Some((image, instance)) = found else { return };
    let made = match app.providers.of(instance.owner) {
        Ok(provider) => provider.create(&instance, image.as_deref()).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &made {
        tracing::warn!(instance = id, %error, "the instance could not be made");
    }
    let is_made = made.is_ok();
    let noted = app.engine.change(|transaction| {
        if let Some(instance) = transaction.get::<Instance>(id) {
            let mut instance = Instance::clone(&instance);
            instance.state = if is_made {
                InstanceState::Running
            } else {
                InstanceState::LaunchFailed
            };
            instance.latest.1 = if is_made { "SUCCESS" } else { "FAILED" }.to_owned();
            transaction.put(instance);
        }
        Ok(())
    });
    if let Err(error) = noted.await {
        tracing::warn!(instance = id, %error, "the instance's state is not stored yet");
    }
}

/// Lets the provider remove an instance, and forgets it.
///
/// # Errors
///
/// When the provider fails; it can be tried again.
pub(super) async fn tear_down(app: &App, id: &str) -> ApiResult<()> {
    let _guard = app.locks.lock(id).await;
    let found = app.engine.change(|transaction| {
        let Some(instance) = transaction.get::<Instance>(id) else {
            return Ok(None);
        };
        let mut instance = Instance::clone(&instance);
        instance.state = InstanceState::Terminating;
        transaction.put(instance.clone());
        Ok(Some(instance))
    });
    let Some(instance) = found.await? else {
        return Ok(());
    };
    app.providers.of(instance.owner)?.destroy(&instance).await?;
    app.engine
        .change(|transaction| {
            transaction.remove::<Instance>(id);
            Ok(())
        })
        .await
}

const FILTERS: [&str; 18] = [
    "zone",
    "project-id",
    "host-id",
    "vpc-id",
    "subnet-id",
    "instance-id",
    "security-group-id",
    "instance-name",
    "instance-charge-type",
    "instance-state",
    "private-ip-address",
    "public-ip-address",
    "ipv6-address",
    "tag-key",
    "tag-value",
    "tag:",
    "architectures",
    "instance-family",
];

fn matches(filter: &Filter, instance: &Instance, view: &Value) -> bool {
    let one_of = |name: &str| {
        let list = view[name].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).any(|text| filter.has(text))
    };
    match filter.name.as_str() {
        "zone" => filter.has(&instance.zone),
        "subnet-id" => filter.has(&instance.subnet_id),
        "instance-id" => filter.has(&instance.instance_id),
        "instance-name" => filter
            .values
            .iter()
            .any(|value| instance.instance_name.contains(value.as_str())),
        "instance-charge-type" => filter.has("POSTPAID_BY_HOUR"),
        "instance-state" => filter.has(instance.state.as_str()),
        "private-ip-address" => one_of("PrivateIpAddresses"),
        "public-ip-address" => one_of("PublicIpAddresses"),
        "ipv6-address" => one_of("IPv6Addresses"),
        "instance-family" => filter.has(instance.instance_type.split('.').next().unwrap_or_default()),
        // What instances of this control plane do not have: projects, hosts, networks, tags.
        _ => false,
    }
}

pub(super) async fn describe(app: &App, call: &Call) -> ApiResult<Answer> {
    let params = &call.params;
    let ids = params.texts("InstanceIds");
    if !ids.is_empty() && !params.list("Filters").is_empty() {
        return Err(ApiError::new(
            Code::InvalidParameter,
            "give InstanceIds or Filters, not both",
        ));
    }
    let filters = Filters::read(params, &FILTERS, Code::InvalidFilter)?;
    let addresses = params.texts("IpAddresses");
    let (total, page) = app
        .engine
        .read(|world| {
            let mut found = Vec::new();
            for instance in newest_first(world) {
                let place = app
                    .providers
                    .of(instance.owner)
                    .ok()
                    .and_then(|provider| provider.place(instance));
                let view =
                    instance.render(&place.map_or_else(String::new, |place| place.display().to_string()));
                let shown = ["PublicIpAddresses", "PrivateIpAddresses", "IPv6Addresses"]
                    .map(|list| view[list].to_string())
                    .concat();
                let wanted = (ids.is_empty() || ids.contains(&instance.instance_id))
                    && filters.all(|filter| matches(filter, instance, &view))
                    && (addresses.is_empty()
                        || addresses.iter().any(|ip| shown.contains(&format!("\"{ip}\""))))
                    && params
                        .text("VagueIpAddress")
                        .is_none_or(|part| shown.contains(part))
                    && params
                        .text("VagueInstanceName")
                        .is_none_or(|part| instance.instance_name.contains(part))
                    && call
                        .own_instance(&instance.instance_id, world.jobs.values())
                        .is_ok();
                if wanted {
                    found.push(view);
                }
            }
            Ok(page(found, params))
        })
        .await?;
    Ok(answer([
        ("TotalCount", total.into()),
        ("InstanceSet", page.into()),
    ]))
}

fn newest_first(world: &World) -> Vec<&Arc<Instance>> {
    let mut all: Vec<_> = world.instances.values().collect();
    all.sort_by_key(|instance| std::cmp::Reverse(instance.created));
    all
}

pub(super) async fn describe_status(app: &App, call: &Call) -> ApiResult<Answer> {
    let ids = call.params.texts("InstanceIds");
    let (total, page) = app
        .engine
        .read(|world| {
            let wanted = |instance: &&Arc<Instance>| {
                (ids.is_empty() || ids.contains(&instance.instance_id))
                    && call.own_instance(&instance.instance_id, world.jobs.values()).is_ok()
            };
            let found = newest_first(world).into_iter().filter(wanted);
            let state = |instance: &Arc<Instance>| {
                json!({"InstanceId": instance.instance_id, "InstanceState": instance.state.as_str()})
            };
            Ok(page(found.map(state).collect(), &call.params))
        })
        .await?;
    Ok(answer([
        ("TotalCount", total.into()),
        ("InstanceStatusSet", page.into()),
    ]))
}

fn find_all(world: &World, ids: &[String]) -> ApiResult<Vec<Instance>> {
    let one = |id: &String| {
        let missing = || ApiError::new(Code::CvmInstanceIdNotFound, format!("there is no instance {id}"));
        world
            .instances
            .get(id)
            .map(|instance| Instance::clone(instance))
            .ok_or_else(missing)
    };
    ids.iter().map(one).collect()
}

/// What an operation needs, shows meanwhile, and leaves.
fn power_states(action: &str) -> (Power, InstanceState, InstanceState, InstanceState, Code) {
    use InstanceState::{Rebooting, Running, Starting, Stopped, Stopping};
    match action {
        "StartInstances" => (
            Power::Start,
            Stopped,
            Starting,
            Running,
            Code::InstanceStateRunning,
        ),
        "StopInstances" => (
            Power::Stop,
            Running,
            Stopping,
            Stopped,
            Code::InstanceStateStopped,
        ),
        _ => (
            Power::Reboot,
            Running,
            Rebooting,
            Running,
            Code::InstanceStateStopped,
        ),
    }
}

pub(super) async fn power(app: &Arc<App>, call: &Call) -> ApiResult<Answer> {
    let (power, needed, meanwhile, after, wrong) = power_states(call.action.name);
    let ids = call.params.texts("InstanceIds");
    if call.params.flag("ForceReboot") && call.params.text("StopType").is_some() {
        return Err(ApiError::new(
            Code::InvalidParameterValue,
            "give ForceReboot or StopType, not both",
        ));
    }
    let instances = app
        .engine
        .change(|transaction| {
            let mut instances = find_all(transaction.world(), &ids)?;
            for instance in &mut instances {
                check_usable(instance)?;
                if instance.state != needed {
                    let message = format!("{} is {}", instance.instance_id, instance.state.as_str());
                    return Err(ApiError::new(wrong, message));
                }
                instance.state = meanwhile;
                instance.note(call.action.name, "OPERATING", &call.request_id);
                transaction.put(instance.clone());
            }
            Ok(instances)
        })
        .await?;
    for instance in instances {
        let app = app.clone();
        tokio::spawn(async move { switch(&app, &instance, power, needed, after).await });
    }
    Ok(answer([("TaskId", call.request_id.clone().into())]))
}

async fn switch(app: &App, instance: &Instance, power: Power, before: InstanceState, after: InstanceState) {
    let id = &instance.instance_id;
    let _guard = app.locks.lock(id).await;
    let done = match app.providers.of(instance.owner) {
        Ok(provider) => provider.power(instance, power).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &done {
        tracing::warn!(instance = %id, %error, "the instance could not be switched");
    }
    let is_done = done.is_ok();
    let noted = app.engine.change(|transaction| {
        if let Some(instance) = transaction.get::<Instance>(id) {
            let mut instance = Instance::clone(&instance);
            instance.state = if is_done { after } else { before };
            instance.latest.1 = if is_done { "SUCCESS" } else { "FAILED" }.to_owned();
            transaction.put(instance);
        }
        Ok(())
    });
    if let Err(error) = noted.await {
        tracing::warn!(instance = %id, %error, "the instance's state is not stored yet");
    }
}

fn check_removable(world: &World, instance: &Instance) -> ApiResult<()> {
    check_free(instance)?;
    let used = world
        .jobs
        .values()
        .find(|job| job.status.is_unfinished() && job.uses_instance(&instance.instance_id));
    match used {
        None => Ok(()),
        Some(job) => {
            let message = format!("{} is in use by the job {}", instance.instance_id, job.job_id);
            Err(ApiError::new(Code::InstanceStateServiceLiveMigrate, message))
        }
    }
}

pub(super) async fn terminate(app: &Arc<App>, call: &Call) -> ApiResult<Answer> {
    remove(app, call.params.texts("InstanceIds"), call.params.flag("DryRun")).await?;
    Ok(answer([("TaskId", call.request_id.clone().into())]))
}

pub(super) async fn delete(app: &Arc<App>, call: &Call) -> ApiResult<Answer> {
    let id = call.params.owned("InstanceId");
    migration_mode::end(app, &id, Outcome::Failure, &call.request_id).await?;
    remove(app, vec![id], false).await?;
    Ok(Answer::new())
}

async fn remove(app: &App, ids: Vec<String>, is_dry: bool) -> ApiResult<()> {
    app.engine
        .read(|world| {
            find_all(world, &ids)?
                .iter()
                .try_for_each(|instance| check_removable(world, instance))
        })
        .await?;
    if is_dry {
        return Err(ApiError::new(
            Code::DryRunOperation,
            "the instances could be terminated",
        ));
    }
    for id in &ids {
        tear_down(app, id).await?;
    }
    Ok(())
}

/// The image that a request names, if it is whole.
pub(super) fn find_image(world: &World, id: &str) -> Option<Arc<Image>> {
    world
        .images
        .get(id)
        .filter(|image| image.state == "NORMAL")
        .cloned()
}
