//! What all requests share, and what one request is.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::code::{ApiError, ApiResult, Code};
use crate::engine::Engine;
use crate::network::Networks;
use crate::provider::Providers;
use crate::records::{Audit, Job, Source};
use crate::schema::{Action, Effect, Params, Service};
use crate::vault::Vault;
use crate::world::Transaction;

/// What the operator decided.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The data folder.
    pub data: PathBuf,
    /// Regions served.
    pub regions: Vec<String>,
    /// Calls per second of one action by one key.
    pub rate_limit: u32,
    /// Jobs that may be unfinished at a time.
    pub jobs_max: usize,
    /// Instances that may exist at a time.
    pub instances_max: usize,
    /// Greatest bandwidth limit that a job may have, in KB/s.
    pub bandwidth_max: u64,
    /// Oldest version of the agent that may register.
    pub client_version_min: Vec<u32>,
    /// A source silent for so many seconds is offline.
    pub offline_after: i64,
    /// Days that audit records are kept.
    pub audit_days: i64,
    /// Days that temporary credentials are good for.
    pub credential_days: i64,
}

/// What all requests share.
pub struct App {
    /// The world.
    pub engine: Engine,
    /// Sealed secrets.
    pub vault: Vault,
    /// What gives instances their migration mode.
    pub providers: Providers,
    /// Networks declared by the operator.
    pub networks: Networks,
    /// What the operator decided.
    pub settings: Settings,
    /// One lock per instance or job that a provider is at work on.
    pub locks: Locks,
}

/// Locks by name.
#[derive(Default)]
pub struct Locks(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Locks {
    /// Waits for a name's lock.
    pub async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds or waits for are in this map only.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(name.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The SecretId that signed.
    pub secret_id: String,
    /// For temporary credentials: the source that they registered, empty until they did.
    pub source: Option<String>,
}

/// One request that was understood and authenticated.
#[derive(Debug)]
pub struct Call {
    /// The API.
    pub service: Service,
    /// The action.
    pub action: &'static Action,
    /// Its parameters, checked.
    pub params: Params,
    /// Who calls.
    pub caller: Caller,
    /// The region named.
    pub region: String,
    /// Seconds since 1970.
    pub now: i64,
    /// The request's id.
    pub request_id: String,
    /// Address of the peer.
    pub address: String,
    /// Whether the audit record is written already, together with the change.
    pub audited: AtomicBool,
}

impl App {
    /// Changes the world for a call that ends with it: its audit record goes into the same commit.
    ///
    /// # Errors
    ///
    /// What the change says, or that the database failed.
    pub async fn change<T>(
        &self,
        call: &Call,
        work: impl FnOnce(&mut Transaction<'_>) -> ApiResult<T>,
    ) -> ApiResult<T> {
        let done = self.engine.change(|transaction| {
            let value = work(transaction)?;
            transaction.audit(call.audit("OK"));
            Ok(value)
        });
        let value = done.await?;
        call.audited.store(true, Ordering::Release);
        Ok(value)
    }
}

fn not_yours() -> ApiError {
    ApiError::new(
        Code::AuthUnauthorized,
        "temporary credentials are for their own source, its jobs and their targets only",
    )
}

/// Parameters that name what a call is about, in the order of preference.
const RESOURCES: [&str; 8] = [
    "JobId",
    "SourceServerId",
    "InstanceId",
    "InstanceIds",
    "EnrolmentId",
    "Identifier",
    "ImageName",
    "InstanceName",
];

impl Call {
    /// The audit record of this call.
    #[must_use]
    pub fn audit(&self, result: &str) -> Audit {
        let resource = RESOURCES.iter().find_map(|name| match self.params.text(name) {
            Some(text) => Some(text.to_owned()),
            None => Some(self.params.texts(name).join(" ")).filter(|texts| !texts.is_empty()),
        });
        Audit {
            sequence: 0,
            time: self.now,
            who: self.caller.secret_id.clone(),
            address: self.address.clone(),
            action: self.action.name.to_owned(),
            resource: resource.unwrap_or_default(),
            result: result.to_owned(),
            request_id: self.request_id.clone(),
            routine: self.action.effect == Effect::Report,
        }
    }

    /// Whether the caller may see this source.
    #[must_use]
    pub fn sees_source(&self, source_id: &str) -> bool {
        self.caller
            .source
            .as_deref()
            .is_none_or(|own| own == source_id && !own.is_empty())
    }

    /// Refuses a caller who may not touch this source.
    ///
    /// # Errors
    ///
    /// `AuthFailure.UnauthorizedOperation`.
    pub fn own_source(&self, source: &Source) -> ApiResult<()> {
        if self.sees_source(&source.source_server_id) {
            Ok(())
        } else {
            Err(not_yours())
        }
    }

    /// Refuses a caller who may not touch this job.
    ///
    /// # Errors
    ///
    /// `AuthFailure.UnauthorizedOperation`.
    pub fn own_job(&self, job: &Job) -> ApiResult<()> {
        if self.sees_source(&job.source_server_id) {
            Ok(())
        } else {
            Err(not_yours())
        }
    }

    /// Refuses temporary credentials.
    ///
    /// # Errors
    ///
    /// `AuthFailure.UnauthorizedOperation`.
    pub fn account_only(&self) -> ApiResult<()> {
        if self.caller.source.is_none() {
            Ok(())
        } else {
            Err(not_yours())
        }
    }

    /// Refuses temporary credentials for an instance that is not in use by a running job of their source.
    ///
    /// # Errors
    ///
    /// `AuthFailure.UnauthorizedOperation`.
    pub fn own_instance<'j>(
        &self,
        instance_id: &str,
        mut jobs: impl Iterator<Item = &'j Arc<Job>>,
    ) -> ApiResult<()> {
        let Some(own) = &self.caller.source else {
            return Ok(());
        };
        let used = jobs.any(|job| {
            job.status.is_active()
                && !own.is_empty()
                && job.source_server_id == *own
                && job.uses_instance(instance_id)
        });
        if used { Ok(()) } else { Err(not_yours()) }
    }
}
