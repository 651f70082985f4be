//! The target machine, when it is one in migration mode: made ready before the data come, made bootable and started
//! after. A receiver that only takes data says so, and its operator does the rest.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};
use transfer::machine::{Address, Answer, Request, ask};
use transfer::progress::StopFlag;
use transfer::secret::Secret;
use transfer::source::SourceVolume;
use transfer::storage::survey::{interfaces, survey};
use transfer::storage::{self, VERSION};
use transfer::{Error, Kind};

use super::failure::{Code, Ended, Failure};
use super::job::ended_by;
use super::plan::{Keep, Plan};
use crate::inventory::Inventory;

/// Attempts in a row to reach the target: with their pauses some ten minutes.
const ATTEMPTS: u32 = 300;

/// A target that is asked.
pub struct TargetMachine<'a> {
    /// Where its receiver listens.
    pub address: SocketAddr,
    /// What both peers know.
    pub secret: &'a Secret,
    /// Ends the asking.
    pub stop: &'a StopFlag,
    /// Shows people what goes on.
    pub tell: &'a dyn Fn(&str),
}

impl TargetMachine<'_> {
    /// Tells the target what comes, so that it makes its disks ready. Gives whether it is a machine whose system is this
    /// migration's affair.
    ///
    /// # Errors
    /// The target cannot take this source, or cannot be reached.
    pub fn prepare(&self, plan: &Plan, inventory: &Inventory, volume: &SourceVolume) -> Result<bool, Ended> {
        let is_tree = matches!(volume, SourceVolume::Tree(_));
        if !inventory.whole || (is_tree && plan.source_root != std::path::Path::new("/")) {
            return Ok(false);
        }
        // What cannot be told matters to a machine only, which refuses an empty document.
        let storage = storage_of(inventory, volume);
        let text = storage.as_ref().map(|storage| document(plan, storage, is_tree));
        let request = Request::Prepare {
            plan: text.unwrap_or_default(),
        };
        match (self.ask(&request, "Prepare"), storage) {
            (Ok(None), _) => Ok(false),
            (Ok(Some(_)) | Err(Ended::Failed(_)), Err(error)) => Err(ended_by(&error)),
            (Ok(Some(text)), Ok(_)) => {
                (self.tell)(&format!("the target is ready: {text}"));
                Ok(true)
            }
            (Err(ended), _) => Err(ended),
        }
    }

    /// Has the target make bootable what arrived, and verify it.
    ///
    /// # Errors
    /// What arrived would not boot, or the target cannot be reached.
    pub fn convert(&self) -> Result<(), Ended> {
        let found = self.ask(&Request::Convert, "Convert")?.unwrap_or_default();
        for line in found.lines() {
            tracing::warn!("the target's system: {line}");
        }
        (self.tell)("the target's system is converted and verified");
        Ok(())
    }

    /// Has the target start the migrated system.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn restart(&self) -> Result<(), Ended> {
        self.ask(&Request::Restart, "Restart").map(drop)
    }

    fn ask(&self, request: &Request, step: &str) -> Result<Option<String>, Ended> {
        let address = Address {
            target: &[self.address],
            secret: self.secret,
            attempts: ATTEMPTS,
        };
        match ask(&address, request, self.tell, self.stop).map_err(|error| ended_by(&error))? {
            Answer::Done { text } => Ok(Some(text)),
            Answer::NotAMachine => Ok(None),
            Answer::Refused { text } => Err(Failure::new(Code::InitServer, step, text).into()),
        }
    }
}

/// The storage that is migrated. Disks travel as they are: there only the interfaces have to be known.
fn storage_of(inventory: &Inventory, volume: &SourceVolume) -> Result<storage::Inventory, Error> {
    match volume {
        SourceVolume::Tree(_) => {
            let disks: Vec<PathBuf> = inventory
                .disks
                .iter()
                .map(|disk| PathBuf::from(&disk.device))
                .collect();
            survey(&disks).map_err(|error| {
                Error::new(Kind::Usage, "tell the target what its disks have to be")
                    .remedy("install util-linux and the tools of the file systems, or migrate block by block")
                    .because(error)
            })
        }
        SourceVolume::Disks(_) => Ok(storage::Inventory {
            version: VERSION,
            interfaces: interfaces(),
            ..storage::Inventory::default()
        }),
    }
}

/// The document of [`Request::Prepare`].
pub(super) fn document(plan: &Plan, storage: &storage::Inventory, is_tree: bool) -> String {
    json!({
        "volume": if is_tree { "tree" } else { "disks" },
        "inventory": storage,
        "minify": plan.transfer.minify,
        "grow": plan.transfer.grow,
        "convert": decisions(&plan.keep),
    })
    .to_string()
}

/// What the switches mean for the conversion. Without them the target keeps what it can as well.
pub(super) fn decisions(keep: &Keep) -> Value {
    let kept = [
        ("hostname", keep.preserve_hostname),
        ("hosts", keep.preserve_hosts),
        ("dns", keep.preserve_dns),
        ("mirrors", keep.preserve_mirrors),
        ("ntp", keep.preserve_ntp),
    ];
    let kept: Vec<&str> = kept
        .iter()
        .filter(|(_, is_asked)| *is_asked)
        .map(|(name, _)| *name)
        .collect();
    json!({
        "cloud_init": if keep.disable_cloud_init { "disable" } else { "preserve" },
        "disable_cloud_init_network": keep.disable_cloud_init_network,
        "keep": kept,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_become_decisions() {
        let keep = Keep {
            disable_cloud_init: true,
            preserve_dns: true,
            preserve_hostname: true,
            ..Keep::default()
        };
        let expected = json!({
            "cloud_init": "disable",
            "disable_cloud_init_network": false,
            "keep": ["hostname", "dns"],
        });
        assert_eq!(decisions(&keep), expected);
    }
}
