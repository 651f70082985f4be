//! `source`: source servers.

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::json;

use super::connection::Session;
use super::show::Column;
use crate::schema::Service;

#[derive(Debug, Subcommand)]
pub(super) enum SourceCommand {
    /// List source servers
    List {
        /// Only sources of this status
        #[arg(long)]
        status: Option<String>,
    },
    /// Show a source server with all its members
    Show {
        /// The source server's id
        source_id: String,
    },
    /// Forget a source server that has no unfinished job
    Delete {
        /// The source server's id
        source_id: String,
    },
}

const COLUMNS: [Column; 7] = [
    ("Source", "/SourceServerId"),
    ("Name", "/Name"),
    ("Status", "/Status"),
    ("System", "/SystemInfo/OsName"),
    ("Address", "/ServerInfo/Ip"),
    ("Disk GB", "/SystemDiskInfo/Size"),
    ("Heard", "/UpdateTime"),
];

pub(super) async fn run(session: &Session, command: SourceCommand) -> anyhow::Result<()> {
    let list = async |filters| {
        session
            .list(Service::Csm, "DescribeSourceServers", "SourceServers", filters)
            .await
    };
    match command {
        SourceCommand::List { status } => {
            let filter = |status: String| json!([{"Name": "status", "Values": [status.to_uppercase()]}]);
            let sources = list(status.map_or_else(|| json!([]), filter)).await?;
            session.output.list(&sources, &COLUMNS)
        }
        SourceCommand::Show { source_id } => {
            let sources = list(json!([{"Name": "source-server-id", "Values": [source_id]}])).await?;
            session.output.one(
                sources
                    .first()
                    .with_context(|| format!("there is no source server {source_id}"))?,
            )
        }
        SourceCommand::Delete { source_id } => {
            session
                .csm("DeleteSourceServer", json!({"SourceServerId": source_id}))
                .await?;
            session.output.done(&format!("{source_id} is deleted"))
        }
    }
}
