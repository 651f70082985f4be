//! What each action does.
//!
//! [`run`] is the list of all actions. Each gets a call whose parameters passed their table, asks the state tables, and
//! changes the world in one transaction. Those that need a provider ask it between two transactions, so that a crash at
//! any point finds on disk what was meant to happen.

mod enrolment;
pub mod filter;
mod images;
mod instances;
mod job_changes;
mod job_creation;
mod job_queries;
mod job_report;
mod migration_mode;
mod places;
mod run_instances;
mod sources;
pub mod transit;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::app::{App, Call};
use crate::code::{ApiError, ApiResult, Code};
use crate::provider::ProviderError;
use crate::schema::Service;

pub use enrolment::{ENROL_ACTION, exchange};
pub use instances::blank as blank_instance;
pub use job_changes::{lose_source, start_due};
pub use migration_mode::{resume as resume_migration_mode, secret_of};

/// Members of an answer.
type Answer = Map<String, Value>;

/// Makes members of an answer.
fn answer<const N: usize>(members: [(&str, Value); N]) -> Answer {
    members
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

impl From<ProviderError> for ApiError {
    fn from(error: ProviderError) -> Self {
        let code = match &error {
            ProviderError::Unsupported(_) => Code::UnsupportedOperation,
            ProviderError::Unreachable(_) => Code::PortUnreachable,
            ProviderError::Failed(_) => Code::FailedOperation,
        };
        ApiError::new(code, error.to_string())
    }
}

/// Does what a call asks for.
///
/// # Errors
///
/// What the caller is told.
pub async fn run(app: &Arc<App>, call: &Call) -> ApiResult<Answer> {
    if call.service == Service::Own {
        return run_own(app, call).await;
    }
    match call.action.name {
        "CreateMigrationJob" => job_creation::create(app, call).await,
        "DeleteMigrationJob" => job_changes::delete(app, call).await,
        "DescribeMigrationJobDeniedActions" => job_queries::denied(app, call).await,
        "DescribeMigrationJobs" => job_queries::describe(app, call).await,
        "ModifyMigrationJob" => job_report::modify(app, call).await,
        "StartMigrationJob" => job_changes::start(app, call).await,
        "StopMigrationJob" => job_changes::stop(app, call).await,
        "CreateTransitInstance" => transit::create(app, call).await,
        "DescribeTransitInstance" => transit::describe(app, call).await,
        "CreateImageForTransitInstance" => transit::make_image(app, call).await,
        "TerminateTransitInstance" => transit::terminate(app, call).await,
        "LiveMigrateLhInstance" | "LiveMigrateInstance" => migration_mode::enter(app, call).await,
        "ExitLiveMigrateLhInstance" | "ExitLiveMigrateInstance" => migration_mode::exit(app, call).await,
        "CreateSourceServer" => sources::create(app, call).await,
        "DeleteSourceServer" => sources::delete(app, call).await,
        "DescribeSourceServerDeniedActions" => sources::denied(app, call).await,
        "DescribeSourceServers" => sources::describe(app, call).await,
        "ModifySourceServer" => sources::modify(app, call).await,
        "DescribeRegions" => Ok(places::regions(app)),
        "DescribeZones" => Ok(places::zones(app, call)),
        "DescribeInstances" => instances::describe(app, call).await,
        "DescribeInstancesStatus" => instances::describe_status(app, call).await,
        "StartInstances" | "StopInstances" | "RebootInstances" => instances::power(app, call).await,
        "RunInstances" => run_instances::run(app, call).await,
        "TerminateInstances" => instances::terminate(app, call).await,
        "DescribeImages" => images::describe(app, call).await,
        "CreateImage" => images::create(app, call).await,
        "ImportImage" => images::import(app, call).await,
        name => Err(ApiError::new(
            Code::InvalidAction,
            format!("there is no action {name}"),
        )),
    }
}

async fn run_own(app: &Arc<App>, call: &Call) -> ApiResult<Answer> {
    match call.action.name {
        "CreateInstance" => run_instances::declare(app, call).await,
        "DeleteInstance" => instances::delete(app, call).await,
        "CreateEnrolmentCode" => enrolment::create(app, call).await,
        "DescribeEnrolmentCodes" => enrolment::describe(app, call).await,
        "RevokeEnrolmentCode" => enrolment::revoke(app, call).await,
        "DescribeAuditRecords" => enrolment::audit(app, call).await,
        name => Err(ApiError::new(
            Code::InvalidAction,
            format!("there is no action {name}"),
        )),
    }
}
