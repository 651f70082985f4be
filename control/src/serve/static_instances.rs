//! Receivers that run already, declared in a file.
//!
//! `[{"InstanceName":"web-1","Address":"10.0.0.5:443","LanAddress":"…","SecretFile":"web-1.key","OsType":"linux",
//! "SystemDiskSize":50}]`. An instance is known by its name: what the file says of it is taken over at each start.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use csm::Secret;
use serde::Deserialize;

use crate::app::App;
use crate::records::{Instance, InstanceState, Owner};
use crate::{actions, clock, identity};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Declared {
    instance_name: String,
    address: String,
    #[serde(default)]
    lan_address: String,
    secret_file: PathBuf,
    #[serde(default = "linux")]
    os_type: String,
    #[serde(default)]
    system_disk_size: u64,
    #[serde(default)]
    data_disk_sizes: Vec<u64>,
    #[serde(default)]
    uuid: String,
}

fn linux() -> String {
    "linux".to_owned()
}

/// Takes over what a file declares.
///
/// # Errors
///
/// When the file, or a secret file that it names, cannot be read.
pub(super) async fn declare(app: &App, path: &Path) -> anyhow::Result<()> {
    let text =
        std::fs::read(path).with_context(|| format!("cannot read the instances in {}", path.display()))?;
    let declared: Vec<Declared> = serde_json::from_slice(&text)
        .with_context(|| format!("{} does not declare instances", path.display()))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    for one in declared {
        let file = folder.join(&one.secret_file);
        let secret =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let secret = Secret::new(secret.lines().next().unwrap_or_default());
        if one
            .address
            .rsplit_once(':')
            .is_none_or(|(_, port)| port.parse::<u16>().is_err())
        {
            bail!(
                "{}: the address {:?} of {} is not HOST:PORT",
                path.display(),
                one.address,
                one.instance_name
            );
        }
        let taken_over = app.engine.change(|transaction| {
            let known = transaction.world().instances.values().find(|instance| {
                instance.owner == Owner::Static && instance.instance_name == one.instance_name
            });
            let mut instance = match known {
                Some(known) => Instance::clone(known),
                None => actions::blank_instance(app, &identity::id("ins-"), clock::now()),
            };
            instance.owner = Owner::Static;
            instance.state = InstanceState::Running;
            instance.instance_name.clone_from(&one.instance_name);
            instance.address.clone_from(&one.address);
            instance.lan_address.clone_from(&one.lan_address);
            instance.os_type.clone_from(&one.os_type);
            instance.system_disk_gb = one.system_disk_size;
            instance.data_disks_gb.clone_from(&one.data_disk_sizes);
            if !one.uuid.is_empty() {
                instance.uuid.clone_from(&one.uuid);
            }
            instance.sealed_secret = app.vault.seal(&instance.instance_id, &secret);
            if let Some(migration) = &mut instance.migration {
                migration.sealed_secret.clone_from(&instance.sealed_secret);
            }
            transaction.put(instance);
            Ok(())
        });
        taken_over.await?;
    }
    Ok(())
}
