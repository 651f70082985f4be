//! `key`: access keys, made and disabled in the database itself, because a first key cannot be asked for with a key.
//! A running control plane sees the change within a second.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand};
use csm::Secret;
use serde_json::{Value, json};

use super::show::Output;
use crate::records::{Key, Record as _, Table};
use crate::serve::data_folder;
use crate::store::{Database, Store};
use crate::vault::Vault;
use crate::world::Change;
use crate::{clock, identity};

#[derive(Debug, Args)]
pub(super) struct KeyArguments {
    #[command(subcommand)]
    command: KeyCommand,
    /// The control plane's data folder
    #[arg(long, global = true, value_name = "DIR", env = "GO2CLOUD_DATA")]
    data: Option<PathBuf>,
    /// The control plane's database, if it is not in the data folder
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "GO2CLOUD_DATABASE",
        hide_env_values = true
    )]
    database: Option<String>,
    /// Authorities (PEM) to verify a PostgreSQL server's certificate against
    #[arg(long, global = true, value_name = "FILE", env = "GO2CLOUD_DATABASE_CA")]
    database_ca: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key; its secret is shown this once only
    Create {
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List keys
    List,
    /// Refuse a key from now on
    Disable {
        /// The key's SecretId
        secret_id: String,
    },
}

pub(super) fn run(arguments: KeyArguments) -> anyhow::Result<()> {
    let Some(data) = &arguments.data else {
        bail!("give the control plane's data folder with --data DIR")
    };
    let data = data_folder(data)?;
    let database = Database::choose(&data, arguments.database.as_deref(), arguments.database_ca)
        .map_err(anyhow::Error::msg)?;
    let mut store = database.open()?;
    let output = if arguments.json {
        Output::Json
    } else {
        Output::Table
    };
    match arguments.command {
        KeyCommand::Create { description } => create(&mut *store, &data, description, output),
        KeyCommand::List => list(&mut *store, output),
        KeyCommand::Disable { secret_id } => disable(&mut *store, &secret_id, output),
    }
}

fn put(store: &mut dyn Store, key: &Key) -> anyhow::Result<()> {
    let change = Change::Put {
        table: Table::Key,
        id: key.secret_id.clone(),
        document: key.document(),
    };
    Ok(store.commit(&[change])?)
}

fn create(
    store: &mut dyn Store,
    data: &std::path::Path,
    description: String,
    output: Output,
) -> anyhow::Result<()> {
    let vault = Vault::open(&data.join("secrets.key"))?;
    let secret_id = format!("AKID{}", identity::secret(32));
    let secret = Secret::new(identity::secret(43));
    let sealed_key = vault.seal(&secret_id, &secret);
    let key = Key {
        secret_id,
        sealed_key,
        disabled: false,
        description,
        created: clock::now(),
        temporary: None,
    };
    put(store, &key)?;
    output.one(&json!({"SecretId": key.secret_id, "SecretKey": secret.reveal()}))
}

fn list(store: &mut dyn Store, output: Output) -> anyhow::Result<()> {
    let world = store.load()?;
    let mut keys: Vec<_> = world.keys.values().collect();
    keys.sort_by_key(|key| key.created);
    let now = clock::now();
    let status = |key: &Key| match &key.temporary {
        _ if key.disabled => "disabled",
        Some(temporary) if temporary.expires <= now => "expired",
        _ => "enabled",
    };
    let row = |key: &Key| {
        let temporary = key.temporary.as_ref();
        json!({
            "SecretId": key.secret_id,
            "Status": status(key),
            "Kind": if temporary.is_some() { "temporary" } else { "account" },
            "SourceServerId": temporary.map_or("", |temporary| &temporary.source_server_id),
            "CreateTime": clock::text(key.created),
            "ExpiredTime": temporary.map_or_else(String::new, |temporary| clock::text(temporary.expires)),
            "Description": key.description,
        })
    };
    let rows: Vec<Value> = keys.into_iter().map(|key| row(key)).collect();
    let columns = [
        ("SecretId", "/SecretId"),
        ("Status", "/Status"),
        ("Kind", "/Kind"),
        ("Source", "/SourceServerId"),
        ("Created", "/CreateTime"),
        ("Description", "/Description"),
    ];
    output.list(&rows, &columns)
}

fn disable(store: &mut dyn Store, secret_id: &str, output: Output) -> anyhow::Result<()> {
    let world = store.load()?;
    let Some(key) = world.keys.get(secret_id) else {
        bail!("there is no key {secret_id}")
    };
    put(
        store,
        &Key {
            disabled: true,
            ..Key::clone(key)
        },
    )?;
    output.done(&format!("{secret_id} is disabled"))
}
