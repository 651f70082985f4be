//! How LVM chooses its disks: a choice by names or serial numbers hides the target's disks.

use super::Finding;
use crate::inventory::Machine;

pub(super) fn check(machine: &Machine) -> Finding {
    let name = "LVM device choice";
    let text = machine.text("/etc/lvm/lvm.conf").unwrap_or_default();
    let filters: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("filter") || line.starts_with("global_filter"))
        // This one takes everything.
        .filter(|line| !line.replace(' ', "").ends_with("=[\"a|.*|\"]"))
        .collect();
    if !filters.is_empty() {
        return Finding::warn(
            "P52",
            name,
            format!("/etc/lvm/lvm.conf: {}", filters.join("; ")),
            "make sure that it takes the target's disks (/dev/vd*, /dev/nvme*), for instance: filter = [ \"a|.*|\" ]",
        );
    }
    if machine.text("/etc/lvm/devices/system.devices").is_some() {
        let seen = "system.devices lists this machine's disks; the target makes it anew";
        return Finding::info("P52", name, seen).auto_fixed();
    }
    Finding::pass("P52", name, "takes all disks")
}
