//! Mode 1: neither source nor target reaches the API.
//!
//! A gateway that does reach it brings the target into migration mode in the first stage and out of it in the third; the
//! source sends the data in the second. The tool's folder is carried from one to the other and holds, in `stage.json`,
//! what the next stage needs: the target's address and the migration's secret, readable by its owner only.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use transfer::progress::StopFlag;

use super::api::Api;
use super::direct;
use super::failure::Ended;
use super::plan::{Control, Mode, Plan};
use super::target::{self, Wanted};
use crate::exit::{self, Exit};
use crate::inventory::{Inventory, Machine};
use crate::output::{complain, remark};
use crate::state::State;

/// Name of the file in the tool's folder.
const FILE: &str = "stage.json";

/// What a finished stage leaves for the next one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The last stage that was finished: 1 or 2.
    pub finished: u8,
    /// The target.
    pub instance: String,
    address: SocketAddr,
    secret: csm::Secret,
}

/// The stage that is next.
#[derive(Clone, Debug)]
pub enum Stage {
    /// At the gateway: the target enters migration mode.
    Enter(Control, String),
    /// At the source: data.
    Data(Record),
    /// At the gateway: the target leaves migration mode.
    Leave(Control, Record),
}

/// What the stage before has left in the tool's folder.
pub fn record(folder: &Path) -> Option<Record> {
    State::at(folder).read(FILE)
}

/// Forgets what the stages have left.
///
/// # Errors
/// The folder cannot be written.
pub fn forget(folder: &Path) -> std::io::Result<()> {
    State::at(folder).remove(FILE)
}

/// Carries out one stage.
pub(super) fn run(plan: &Plan, stage: &Stage, stop: &Arc<StopFlag>) -> anyhow::Result<Exit> {
    match stage {
        Stage::Enter(control, instance) => enter(plan, control, instance, stop),
        Stage::Data(record) => data(plan, record, stop),
        Stage::Leave(control, record) => leave(plan, control, record, stop),
    }
}

fn enter(plan: &Plan, control: &Control, instance: &str, stop: &Arc<StopFlag>) -> anyhow::Result<Exit> {
    let api = Api::new(control, &plan.state_root)?;
    // This machine is not the source: its disks say nothing.
    let mut inventory = Inventory::take(&Machine::here())?;
    inventory.disks.clear();
    let wanted = Wanted {
        inventory: &inventory,
        network: &plan.network,
        mode: Mode::Staged,
        minify: plan.transfer.minify,
    };
    let extra = super::job::extra_info(plan);
    let entered = target::judge(&api, instance, &wanted, stop)
        .and_then(|ipv6| target::enter(&api, instance, &wanted, ipv6, extra, stop));
    let entered = match entered {
        Ok(entered) => entered,
        Err(Ended::Failed(failure)) => {
            complain(&format!("go2cloud: {failure}"));
            return Ok(exit::FAILED);
        }
        Err(_) => return Ok(exit::INTERRUPTED),
    };
    let secret = std::str::from_utf8(entered.secret.expose())?;
    let record = Record {
        finished: 1,
        instance: instance.to_owned(),
        address: entered.address,
        secret: secret.into(),
    };
    State::at(&plan.folder).write(FILE, &record)?;
    remark(
        plan.run.style,
        "Stage 1 is finished and please run next stage at source machine.",
    );
    Ok(exit::DONE)
}

fn data(plan: &Plan, record: &Record, stop: &Arc<StopFlag>) -> anyhow::Result<Exit> {
    let secret = transfer::secret::Secret::parse(record.secret.reveal().as_bytes())?;
    let exit = direct::by_address(plan, record.address, &secret, stop)?;
    if exit == exit::DONE {
        let record = Record {
            finished: 2,
            ..record.clone()
        };
        State::at(&plan.folder).write(FILE, &record)?;
        remark(
            plan.run.style,
            "Stage 2 is finished and please run next stage at gateway machine.",
        );
    }
    Ok(exit)
}

fn leave(plan: &Plan, control: &Control, record: &Record, stop: &Arc<StopFlag>) -> anyhow::Result<Exit> {
    let api = Api::new(control, &plan.state_root)?;
    let inventory = Inventory::take(&Machine::here())?;
    target::exit(&api, &record.instance, &inventory, true, stop)?;
    forget(&plan.folder)?;
    remark(plan.run.style, "Migrate successfully.");
    Ok(exit::DONE)
}
