//! `enrol`: codes that sources exchange for credentials of their own; and `audit`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::connection::Session;
use super::show::Column;
use crate::schema::Service;

#[derive(Debug, Subcommand)]
pub(super) enum EnrolCommand {
    /// Make a code; it is shown this once only
    Create {
        /// How many sources it is for
        #[arg(long, default_value_t = 1)]
        uses: u64,
        /// How long it is good for
        #[arg(long, default_value_t = 24)]
        hours: u64,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List codes
    List,
    /// Withdraw a code, and the credentials that it was exchanged for
    Revoke {
        /// The enrolment's id
        enrolment_id: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct AuditArguments {
    /// How many records
    #[arg(long, default_value_t = 50)]
    limit: u64,
    /// Only records before this number
    #[arg(long, value_name = "SEQUENCE")]
    before: Option<u64>,
}

const COLUMNS: [Column; 5] = [
    ("Enrolment", "/EnrolmentId"),
    ("Status", "/Status"),
    ("Uses left", "/UsesLeft"),
    ("Expires", "/ExpiredTime"),
    ("Description", "/Description"),
];

const AUDIT_COLUMNS: [Column; 7] = [
    ("Number", "/Sequence"),
    ("Time", "/Time"),
    ("Who", "/Who"),
    ("From", "/Address"),
    ("Action", "/Action"),
    ("What", "/Resource"),
    ("Result", "/Result"),
];

pub(super) async fn run(session: &Session, command: EnrolCommand) -> anyhow::Result<()> {
    match command {
        EnrolCommand::Create {
            uses,
            hours,
            description,
        } => {
            let request = json!({"Uses": uses, "Hours": hours, "Description": description});
            let answer = session.call(Service::Own, "CreateEnrolmentCode", request).await?;
            session.output.one(&json!({
                "EnrolmentId": answer["EnrolmentId"],
                "Code": answer["Code"],
                "Uses": answer["Uses"],
                "ExpiredTime": answer["ExpiredTime"],
            }))
        }
        EnrolCommand::List => {
            let answer = session
                .call(Service::Own, "DescribeEnrolmentCodes", json!({}))
                .await?;
            session.output.list(
                answer["EnrolmentSet"].as_array().map_or(&[], Vec::as_slice),
                &COLUMNS,
            )
        }
        EnrolCommand::Revoke { enrolment_id } => {
            session
                .call(
                    Service::Own,
                    "RevokeEnrolmentCode",
                    json!({"EnrolmentId": enrolment_id}),
                )
                .await?;
            session.output.done(&format!(
                "{enrolment_id} is revoked, and what it was exchanged for"
            ))
        }
    }
}

pub(super) async fn audit(session: &Session, arguments: AuditArguments) -> anyhow::Result<()> {
    let mut request = json!({"Limit": arguments.limit});
    if let Some(before) = arguments.before {
        request["Before"] = before.into();
    }
    let answer = session
        .call(Service::Own, "DescribeAuditRecords", request)
        .await?;
    session.output.list(
        answer["AuditSet"].as_array().map_or(&[], Vec::as_slice),
        &AUDIT_COLUMNS,
    )
}
