//! The checks of this machine: by themselves, or before a migration.

use super::api::Api;
use super::plan::{Control, Plan};
use crate::exit::Exit;
use crate::inventory::{Inventory, Machine};
use crate::output::complain;
use crate::preflight::{self, Status, Subject};

/// `--check`: looks, prints, migrates nothing.
pub(super) fn check(plan: &Plan, control: Option<&Control>) -> anyhow::Result<Exit> {
    let machine = Machine::here();
    let inventory = Inventory::of(&machine, plan.scope())?;
    let api = control
        .map(|control| Api::new(control, &plan.state_root))
        .transpose()?;
    let findings = preflight::check(&Subject {
        machine: &machine,
        inventory: &inventory,
        plan,
        api: api.as_ref(),
    });
    Ok(preflight::print(plan.run.style, &findings))
}

/// The checks before a migration: silent about what is in order.
pub(super) fn is_fit(plan: &Plan, inventory: &Inventory, api: Option<&Api>) -> bool {
    if plan.run.ignore_check {
        return true;
    }
    let mut findings = preflight::check(&Subject {
        machine: &Machine::here(),
        inventory,
        plan,
        api,
    });
    findings.retain(|finding| finding.status >= Status::Warn);
    for finding in &findings {
        tracing::warn!(id = finding.id, status = ?finding.status, "{}: {}; {}", finding.name, finding.observed, finding.remedy);
    }
    if !findings.is_empty() {
        preflight::print(plan.run.style, &findings);
    }
    let fit = findings.iter().all(|finding| finding.status < Status::Fail);
    if !fit {
        complain("go2cloud: repair what failed, or skip the checks with -ignore-check; nothing was migrated");
    }
    fit
}
