//! Checks before a migration: each has a stable id, says what it looked at, and what an administrator can do.
//!
//! Nothing is changed. What the target's side of the conversion repairs by itself is marked as such, so that nobody is
//! scared by it. Lists of drivers of an initramfs are asked from the distribution's own tool, if it is there.

use crate::inventory::{Inventory, Machine, Scope};
use crate::migrate::api::Api;
use crate::migrate::plan::Plan;

mod attributes;
pub mod block_test;
mod boot;
mod configuration;
mod consistency;
mod control;
mod finding;
mod firewall;
mod forecast;
mod guest;
mod health;
mod kernel;
mod link;
mod network;
mod print;
mod processor;
mod space;
mod storage;
mod swap;
mod system;
mod threshold;
mod trackers;
mod volume_groups;
mod workload;

pub use finding::{Finding, Status};
pub use print::print;

/// What is checked.
pub struct Subject<'a> {
    /// Where files are read.
    pub machine: &'a Machine,
    /// What it is.
    pub inventory: &'a Inventory,
    /// What is planned.
    pub plan: &'a Plan,
    /// The control plane, if it is known.
    pub api: Option<&'a Api>,
}

impl Subject<'_> {
    /// Whether the whole system is migrated, so that it must boot at the target.
    fn is_whole(&self) -> bool {
        matches!(self.plan.scope(), Scope::Machine)
    }
}

/// Makes all checks, in the order of their ids.
pub fn check(subject: &Subject<'_>) -> Vec<Finding> {
    let machine = subject.machine;
    let inventory = subject.inventory;
    let mut findings = system::always(machine);
    if subject.is_whole() {
        findings.extend(system::whole(machine, inventory));
        findings.extend(kernel::check(machine, &inventory.os.kernel));
        findings.extend(boot::check(machine, inventory));
        findings.extend(storage::check(machine, inventory));
        findings.extend(configuration::check(machine));
        findings.extend(network::check(machine));
        findings.extend(guest::check(machine));
        findings.extend(health::check(machine));
        findings.extend(workload::check(machine));
        findings.extend(consistency::check(machine));
        findings.push(processor::check(machine, inventory));
        findings.push(attributes::check(machine));
        findings.push(swap::check(machine));
        findings.push(volume_groups::check(machine));
    }
    findings.push(firewall::check());
    findings.extend(space::check(subject));
    findings.extend(trackers::check(subject));
    findings.extend(control::check(subject));
    let (link, rate) = link::check(subject);
    findings.push(link);
    findings.push(forecast::check(subject, &rate));
    findings.sort_by(|one, other| one.id.cmp(other.id));
    findings
}

#[cfg(test)]
mod tests;
