//! Making instances: `RunInstances` as the compute API has it, and `CreateInstance` for what only this control plane has.

use std::sync::Arc;

use csm::Secret;

use super::{Answer, answer, instances, places};
use crate::app::{App, Call};
use crate::code::{ApiError, ApiResult, Code};
use crate::identity;
use crate::records::{Instance, InstanceState, Owner};
use crate::world::World;

/// The image that stands for empty disks.
pub(super) const EMPTY_IMAGE: &str = "img-00000000";
/// Length of a secret that the data plane takes, in bytes.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 32..=512;

fn check_quota(app: &App, world: &World, more: usize) -> ApiResult<()> {
    if world.instances.len() + more > app.settings.instances_max {
        let message = format!("there may be {} instances", app.settings.instances_max);
        return Err(ApiError::new(Code::InstancesQuotaLimitExceeded, message));
    }
    Ok(())
}

fn check_place(app: &App, call: &Call) -> ApiResult<()> {
    let params = &call.params;
    let place = params.object("Placement");
    let zone = place.required("Zone");
    if !places::is_zone(app, zone) {
        return Err(ApiError::new(
            Code::ZoneMismatchRegion,
            format!("there is no zone {zone:.64}; see DescribeZones"),
        ));
    }
    if params.text("InstanceChargeType") == Some("PREPAID") && params.value("InstanceChargePrepaid").is_none()
    {
        return Err(ApiError::new(
            Code::MissingParameter,
            "InstanceChargePrepaid is required with PREPAID",
        ));
    }
    Ok(())
}

pub(super) async fn run(app: &Arc<App>, call: &Call) -> ApiResult<Answer> {
    let params = &call.params;
    check_place(app, call)?;
    let place = params.object("Placement");
    let zone = place.required("Zone");
    let count = params
        .uint("InstanceCount")
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(1);
    let image_id = params.required("ImageId");
    let network = params.object("VirtualPrivateCloud");
    let (ids, is_new) = app
        .engine
        .change(|transaction| {
            let token = params.required("ClientToken");
            let known = transaction
                .world()
                .instances
                .values()
                .filter(|it| !token.is_empty() && it.client_token == token);
            let known: Vec<String> = known.map(|instance| instance.instance_id.clone()).collect();
            if !known.is_empty() {
                return Ok((known, false));
            }
            check_quota(app, transaction.world(), count)?;
            app.networks.check(
                network.required("VpcId"),
                network.required("SubnetId"),
                transaction.world(),
            )?;
            let image = instances::find_image(transaction.world(), image_id);
            if image.is_none() && image_id != EMPTY_IMAGE {
                let message = format!("there is no image {image_id}; {EMPTY_IMAGE} stands for empty disks");
                return Err(ApiError::new(Code::InvalidParameterValue, message));
            }
            let mut ids = Vec::new();
            for _ in 0..count {
                let mut instance = described(app, call);
                instance.subnet_id = network.owned("SubnetId");
                zone.clone_into(&mut instance.zone);
                if let Some(image) = &image {
                    instance.image_id.clone_from(&image.image_id);
                    instance.kind.clone_from(&image.kind);
                    instance.os_type.clone_from(&image.os_type);
                    instance.owner = image.owner;
                }
                ids.push(instance.instance_id.clone());
                transaction.put(instance);
            }
            Ok((ids, true))
        })
        .await?;
    if is_new {
        for id in ids.clone() {
            let app = app.clone();
            tokio::spawn(async move { instances::bring_up(&app, &id).await });
        }
    }
    Ok(answer([("InstanceIdSet", ids.into())]))
}

fn described(app: &App, call: &Call) -> Instance {
    let params = &call.params;
    let mut instance = instances::blank(app, &identity::id("ins-"), call.now);
    if let Some(name) = params.text("InstanceName").filter(|name| !name.is_empty()) {
        // What follows a dot is dropped, as the reference says.
        instance.instance_name = name.split('.').next().unwrap_or(name).to_owned();
    }
    if let Some(kind) = params.text("InstanceType") {
        kind.clone_into(&mut instance.instance_type);
    }
    if let Some(size) = params
        .object("SystemDisk")
        .uint("DiskSize")
        .filter(|size| *size > 0)
    {
        instance.system_disk_gb = size;
    }
    let sizes = params
        .list("DataDisks")
        .iter()
        .filter_map(|disk| disk["DiskSize"].as_u64());
    instance.data_disks_gb = sizes.filter(|size| *size > 0).collect();
    instance.client_token = params.owned("ClientToken");
    instance.note("RunInstances", "OPERATING", &call.request_id);
    instance
}

pub(super) async fn declare(app: &Arc<App>, call: &Call) -> ApiResult<Answer> {
    let instance = declared(app, call)?;
    let id = instance.instance_id.clone();
    app.engine
        .change(|transaction| {
            check_quota(app, transaction.world(), 1)?;
            transaction.put(instance);
            Ok(())
        })
        .await?;
    instances::bring_up(app, &id).await;
    let made = app
        .engine
        .read(|world| Ok(world.instances.get(&id).cloned()))
        .await?;
    let Some(instance) = made.filter(|instance| instance.state == InstanceState::Running) else {
        instances::tear_down(app, &id).await?;
        let message = "the provider could not make the instance; see the control plane's log";
        return Err(ApiError::new(Code::FailedOperation, message));
    };
    let place = app.providers.of(instance.owner)?.place(&instance);
    let place = place.map_or_else(String::new, |place| place.display().to_string());
    Ok(answer([("InstanceId", id.into()), ("Directory", place.into())]))
}

fn declared(app: &App, call: &Call) -> ApiResult<Instance> {
    let params = &call.params;
    let prefix = if params.text("Product") == Some("lh") {
        "lhins-"
    } else {
        "ins-"
    };
    let mut instance = instances::blank(app, &identity::id(prefix), call.now);
    for (name, member) in [
        ("InstanceName", &mut instance.instance_name),
        ("Kind", &mut instance.kind),
        ("OsType", &mut instance.os_type),
        ("InstanceType", &mut instance.instance_type),
        ("Uuid", &mut instance.uuid),
        ("Address", &mut instance.address),
        ("LanAddress", &mut instance.lan_address),
    ] {
        if let Some(text) = params.text(name) {
            text.clone_into(member);
        }
    }
    if let Some(size) = params.uint("SystemDiskSize") {
        instance.system_disk_gb = size;
    }
    instance.data_disks_gb = params
        .list("DataDiskSizes")
        .iter()
        .filter_map(serde_json::Value::as_u64)
        .collect();
    instance.note("CreateInstance", "OPERATING", &call.request_id);
    if instance.address.is_empty() && instance.owner != Owner::Static {
        return Ok(instance);
    }
    instance.owner = Owner::Static;
    let is_address = |text: &str| {
        text.rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    if !is_address(&instance.address)
        || (!instance.lan_address.is_empty() && !is_address(&instance.lan_address))
    {
        let message = "Address and LanAddress are where the receiver listens: HOST:PORT";
        return Err(ApiError::new(Code::InvalidParameterValue, message));
    }
    let secret = params.required("Secret");
    if !SECRET_BYTES.contains(&secret.len()) {
        let message = "Secret is the first line of the receiver's secret file: 32 to 512 bytes";
        return Err(ApiError::new(Code::InvalidParameterValue, message));
    }
    instance.sealed_secret = app.vault.seal(&instance.instance_id, &Secret::new(secret));
    Ok(instance)
}
