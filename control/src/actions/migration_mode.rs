//! Into and out of migration mode.
//!
//! The wish is stored before the provider is asked, and the outcome after; a control plane that was killed in between
//! takes up the wish again at its next start ([`resume`]).

use std::sync::Arc;

use csm::Secret;

use super::{Answer, answer};
use crate::app::{App, Call};
use crate::code::{ApiError, ApiResult, Code};
use crate::identity;
use crate::provider::{Endpoint, Outcome, Reachability};
use crate::records::{Instance, Migration, MigrationPhase};
use crate::schema::{Service, is_lighthouse_id, is_virtual_instance_type};
use crate::state::JobStatus;
use crate::vault::VaultError;
use crate::world::{Transaction, World};

/// Characters of a secret of the data plane: 43 letters and digits carry 256 bits.
const SECRET_CHARS: usize = 43;

/// The instance that a call names.
fn find(world: &World, call: &Call) -> ApiResult<Instance> {
    let id = call.params.required("InstanceId");
    let code = if call.service == Service::Csm {
        Code::InvalidInstanceIdNotFound
    } else {
        Code::CvmInstanceIdNotFound
    };
    let instance = world
        .instances
        .get(id)
        .ok_or_else(|| ApiError::new(code, format!("there is no instance {id}")))?;
    if call.service == Service::Cvm && is_lighthouse_id(id) {
        return Err(ApiError::new(
            Code::InstanceNotSupported,
            "a Lighthouse instance needs LiveMigrateLhInstance",
        ));
    }
    call.own_instance(id, world.jobs.values())?;
    Ok(Instance::clone(instance))
}

/// The secret of an instance's migration mode.
///
/// # Errors
///
/// When it was sealed under another key file.
pub fn secret_of(app: &App, instance: &Instance) -> Result<Secret, VaultError> {
    let sealed = instance
        .migration
        .as_ref()
        .map_or(&instance.sealed_secret, |migration| &migration.sealed_secret);
    app.vault.unseal(&instance.instance_id, sealed)
}

fn begin(app: &App, transaction: &mut Transaction<'_>, mut instance: Instance) -> Instance {
    let sealed_secret = if instance.sealed_secret.is_empty() {
        app.vault.seal(
            &instance.instance_id,
            &Secret::new(identity::secret(SECRET_CHARS)),
        )
    } else {
        instance.sealed_secret.clone()
    };
    let phase = MigrationPhase::Entering;
    let migration = Migration {
        phase,
        sealed_secret,
        ip: String::new(),
        lan_ip: String::new(),
        port: 0,
    };
    instance.migration = Some(migration);
    transaction.put(instance.clone());
    instance
}

pub(super) async fn enter(app: &Arc<App>, call: &Call) -> ApiResult<Answer> {
    let id = call.params.required("InstanceId");
    let _guard = app.locks.lock(id).await;
    let (instance, is_new) = app
        .engine
        .change(|transaction| {
            let instance = find(transaction.world(), call)?;
            super::instances::check_state(&instance)?;
            check_type(&instance)?;
            check_in_use(transaction.world(), &instance)?;
            match &instance.migration {
                Some(migration) if migration.phase != MigrationPhase::Leaving => Ok((instance, false)),
                _ => Ok((begin(app, transaction, instance), true)),
            }
        })
        .await?;
    let secret =
        secret_of(app, &instance).map_err(|error| ApiError::new(Code::InternalError, error.to_string()))?;
    let ignore = call.params.flag("IgnoreCheckNetworkConnectivity");
    let reach = if ignore {
        Reachability::Assume
    } else {
        Reachability::Check
    };
    let provider = app.providers.of(instance.owner)?;
    match provider.enter(&instance, &secret, reach).await {
        Ok(endpoint) => {
            settle(app, id, &endpoint, &call.request_id).await?;
            Ok(answer([
                ("Ip", endpoint.ip.into()),
                ("LanIp", endpoint.lan_ip.into()),
                ("Port", endpoint.port.into()),
                ("Password", secret.reveal().into()),
            ]))
        }
        Err(error) => {
            tracing::warn!(instance = id, %error, "the instance did not enter migration mode");
            if is_new {
                if let Err(error) = provider.exit(&instance, Outcome::Failure).await {
                    tracing::warn!(instance = id, %error, "the instance did not leave migration mode either");
                }
                leave(app, id, &call.request_id, "FAILED").await?;
            }
            Err(error.into())
        }
    }
}

/// A machine without a hypervisor has nothing that could bring it into migration mode.
fn check_type(instance: &Instance) -> ApiResult<()> {
    if is_virtual_instance_type(&instance.instance_type) {
        return Ok(());
    }
    let message = format!(
        "{} is of the bare-metal type {}",
        instance.instance_id, instance.instance_type
    );
    Err(ApiError::new(Code::MigrateNotSupportInstanceType, message))
}

/// A target with a job of its own is entered for that job only while it runs.
fn check_in_use(world: &World, instance: &Instance) -> ApiResult<()> {
    let job = world
        .jobs
        .values()
        .find(|job| job.status.is_unfinished() && job.uses_instance(&instance.instance_id));
    match job {
        Some(job) if job.status == JobStatus::Deleting => {
            let message = format!("{} is being deleted", job.job_id);
            Err(ApiError::new(Code::InstanceStateServiceLiveMigrate, message))
        }
        _ => Ok(()),
    }
}

async fn settle(app: &App, id: &str, endpoint: &Endpoint, request_id: &str) -> ApiResult<()> {
    app.engine
        .change(|transaction| {
            let Some(instance) = transaction.get::<Instance>(id) else {
                return Ok(());
            };
            let mut instance = Instance::clone(&instance);
            if let Some(migration) = &mut instance.migration {
                migration.phase = MigrationPhase::Active;
                migration.ip.clone_from(&endpoint.ip);
                migration.lan_ip.clone_from(&endpoint.lan_ip);
                migration.port = endpoint.port;
            }
            instance.note("LiveMigrateInstance", "SUCCESS", request_id);
            transaction.put(instance);
            Ok(())
        })
        .await
}

async fn leave(app: &App, id: &str, request_id: &str, outcome: &str) -> ApiResult<()> {
    app.engine
        .change(|transaction| {
            let Some(instance) = transaction.get::<Instance>(id) else {
                return Ok(());
            };
            let mut instance = Instance::clone(&instance);
            instance.migration = None;
            instance.note("ExitLiveMigrateInstance", outcome, request_id);
            transaction.put(instance);
            Ok(())
        })
        .await
}

pub(super) async fn exit(app: &Arc<App>, call: &Call) -> ApiResult<Answer> {
    let id = call.params.required("InstanceId");
    let outcome = if call.params.text("MigrateResult") == Some("succ") {
        Outcome::Success
    } else {
        Outcome::Failure
    };
    app.engine.read(|world| find(world, call).map(drop)).await?;
    end(app, id, outcome, &call.request_id).await?;
    Ok(Answer::new())
}

/// Takes an instance out of migration mode; one that is not in it is none the worse.
///
/// # Errors
///
/// When the provider fails; the wish stays, and can be repeated.
pub(super) async fn end(app: &App, id: &str, outcome: Outcome, request_id: &str) -> ApiResult<()> {
    let _guard = app.locks.lock(id).await;
    let leaving = app
        .engine
        .change(|transaction| {
            let Some(instance) = transaction
                .get::<Instance>(id)
                .filter(|instance| instance.migration.is_some())
            else {
                return Ok(None);
            };
            let mut instance = Instance::clone(&instance);
            if let Some(migration) = &mut instance.migration {
                migration.phase = MigrationPhase::Leaving;
            }
            transaction.put(instance.clone());
            Ok(Some(instance))
        })
        .await?;
    let Some(instance) = leaving else { return Ok(()) };
    app.providers.of(instance.owner)?.exit(&instance, outcome).await?;
    leave(app, id, request_id, "SUCCESS").await
}

/// Takes up, after a start, what was meant to be: receivers listen again, and those that were to end do.
pub async fn resume(app: &Arc<App>) {
    let meant: Vec<Instance> = app.engine.peek(|world| {
        world
            .instances
            .values()
            .filter(|instance| instance.migration.is_some())
            .map(|it| Instance::clone(it))
            .collect()
    });
    for instance in meant {
        let id = &instance.instance_id;
        let is_leaving = instance
            .migration
            .as_ref()
            .is_some_and(|it| it.phase == MigrationPhase::Leaving);
        let done = if is_leaving {
            end(app, id, Outcome::Failure, "").await
        } else {
            enter_again(app, &instance).await
        };
        match done {
            Ok(()) => tracing::info!(instance = %id, "migration mode is as it was before the restart"),
            Err(error) => {
                tracing::error!(instance = %id, %error, "migration mode could not be taken up again");
            }
        }
    }
}

async fn enter_again(app: &App, instance: &Instance) -> ApiResult<()> {
    let _guard = app.locks.lock(&instance.instance_id).await;
    let secret =
        secret_of(app, instance).map_err(|error| ApiError::new(Code::InternalError, error.to_string()))?;
    let endpoint = app
        .providers
        .of(instance.owner)?
        .enter(instance, &secret, Reachability::Assume)
        .await?;
    settle(app, &instance.instance_id, &endpoint, "").await
}
