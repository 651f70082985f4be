//! `instance`: what takes migrations.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::connection::Session;
use super::show::Column;
use crate::schema::Service;

#[derive(Debug, Subcommand)]
pub(super) enum InstanceCommand {
    /// Make an instance, or declare a receiver that runs already
    Create(CreateArguments),
    /// List instances
    List,
    /// Show an instance with all its members
    Show {
        /// The instance's id
        instance_id: String,
    },
    /// Start an instance
    Start {
        /// The instance's id
        instance_id: String,
    },
    /// Stop an instance
    Stop {
        /// The instance's id
        instance_id: String,
    },
    /// Put an instance into migration mode, and show where its receiver listens and the secret that it wants
    Enter {
        /// The instance's id
        instance_id: String,
    },
    /// Take an instance out of migration mode, whatever became of the migration
    Exit {
        /// The instance's id
        instance_id: String,
    },
    /// Remove an instance and all its data
    Delete {
        /// The instance's id
        instance_id: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// A folder that takes a tree of files
    Directory,
    /// Disk images that take disks
    Disk,
}

#[derive(Debug, Args)]
pub(super) struct CreateArguments {
    /// Name for people
    #[arg(long)]
    name: Option<String>,
    /// What it takes
    #[arg(long, value_enum, default_value_t = Kind::Directory)]
    kind: Kind,
    /// Operating system of the sources that it takes
    #[arg(long, value_parser = ["linux", "windows"])]
    os: Option<String>,
    /// Type, as the API names types: bare-metal types cannot be migrated to
    #[arg(long = "type", value_name = "TYPE")]
    instance_type: Option<String>,
    /// UUID of the machine behind it, as its firmware names it: keeps a source from being its own target
    #[arg(long)]
    uuid: Option<String>,
    /// Size of the system disk in GB
    #[arg(long, value_name = "GB")]
    system_disk: Option<u64>,
    /// Size of a data disk in GB (repeat)
    #[arg(long, value_name = "GB")]
    data_disk: Vec<u64>,
    /// A Lighthouse instance, with an id that begins with lhins-
    #[arg(long)]
    lighthouse: bool,
    /// Where a receiver listens that runs already
    #[arg(long, value_name = "HOST:PORT", requires = "secret_file")]
    address: Option<String>,
    /// The same over the private network
    #[arg(long, value_name = "HOST:PORT", requires = "address")]
    lan_address: Option<String>,
    /// File whose first line is that receiver's secret
    #[arg(long, value_name = "FILE", requires = "address")]
    secret_file: Option<PathBuf>,
}

const COLUMNS: [Column; 8] = [
    ("Instance", "/InstanceId"),
    ("Name", "/InstanceName"),
    ("State", "/InstanceState"),
    ("Provider", "/Provider"),
    ("Kind", "/Kind"),
    ("Migration mode", "/MigrationMode"),
    ("Address", "/PublicIpAddresses"),
    ("Data", "/Directory"),
];

pub(super) async fn run(session: &Session, command: InstanceCommand) -> anyhow::Result<()> {
    match command {
        InstanceCommand::Create(arguments) => create(session, arguments).await,
        InstanceCommand::List => {
            let list = session
                .list(Service::Cvm, "DescribeInstances", "InstanceSet", json!([]))
                .await?;
            session.output.list(&list, &COLUMNS)
        }
        InstanceCommand::Show { instance_id } => {
            let request = json!({"InstanceIds": [instance_id]});
            let answer = session.call(Service::Cvm, "DescribeInstances", request).await?;
            let instance = answer["InstanceSet"]
                .get(0)
                .with_context(|| format!("there is no instance {instance_id}"))?;
            session.output.one(instance)
        }
        InstanceCommand::Start { instance_id } => {
            session
                .call(
                    Service::Cvm,
                    "StartInstances",
                    json!({"InstanceIds": [instance_id]}),
                )
                .await?;
            session.output.done(&format!("{instance_id} is being started"))
        }
        InstanceCommand::Stop { instance_id } => {
            session
                .call(
                    Service::Cvm,
                    "StopInstances",
                    json!({"InstanceIds": [instance_id]}),
                )
                .await?;
            session.output.done(&format!("{instance_id} is being stopped"))
        }
        InstanceCommand::Enter { instance_id } => enter(session, &instance_id).await,
        InstanceCommand::Exit { instance_id } => {
            let request = json!({"InstanceId": instance_id, "MigrateResult": "fail"});
            if instance_id.starts_with("lh") {
                session.csm("ExitLiveMigrateLhInstance", request).await?;
            } else {
                session
                    .call(Service::Cvm, "ExitLiveMigrateInstance", request)
                    .await?;
            }
            session
                .output
                .done(&format!("{instance_id} is out of migration mode"))
        }
        InstanceCommand::Delete { instance_id } => {
            session
                .call(Service::Own, "DeleteInstance", json!({"InstanceId": instance_id}))
                .await?;
            session.output.done(&format!("{instance_id} is deleted"))
        }
    }
}

async fn enter(session: &Session, instance_id: &str) -> anyhow::Result<()> {
    let request = json!({"InstanceId": instance_id});
    let answer = if instance_id.starts_with("lh") {
        session.csm("LiveMigrateLhInstance", request).await?
    } else {
        session.call(Service::Cvm, "LiveMigrateInstance", request).await?
    };
    session.output.one(&json!({
        "Ip": answer["Ip"],
        "LanIp": answer["LanIp"],
        "Port": answer["Port"],
        "Password": answer["Password"],
    }))
}

async fn create(session: &Session, arguments: CreateArguments) -> anyhow::Result<()> {
    let mut request = Map::new();
    let mut set = |name: &str, value: Value| {
        if !value.is_null() {
            request.insert(name.to_owned(), value);
        }
    };
    set("InstanceName", arguments.name.into());
    set(
        "Kind",
        if arguments.kind == Kind::Disk {
            "disk"
        } else {
            "directory"
        }
        .into(),
    );
    set("OsType", arguments.os.into());
    set("InstanceType", arguments.instance_type.into());
    set("Uuid", arguments.uuid.into());
    set("SystemDiskSize", arguments.system_disk.into());
    if !arguments.data_disk.is_empty() {
        set("DataDiskSizes", arguments.data_disk.into());
    }
    if arguments.lighthouse {
        set("Product", "lh".into());
    }
    set("Address", arguments.address.into());
    set("LanAddress", arguments.lan_address.into());
    if let Some(path) = arguments.secret_file {
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        set("Secret", text.lines().next().unwrap_or_default().into());
    }
    let answer = session
        .call(Service::Own, "CreateInstance", request.into())
        .await?;
    session
        .output
        .one(&json!({"InstanceId": answer["InstanceId"], "Directory": answer["Directory"]}))
}
