//! Whether everything can be copied as of one moment, and what the program itself needs of the system.

use super::Finding;
use super::health::on_disks;
use crate::inventory::Machine;
use crate::inventory::mounts;

/// File systems that the kernel can freeze (FIFREEZE).
const FREEZABLE: [&str; 8] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs"];

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    vec![freeze(machine), tools()]
}

fn freeze(machine: &Machine) -> Finding {
    let name = "copy of one moment";
    let mounts = mounts::mounts(machine);
    let (can, cannot): (Vec<_>, Vec<_>) = on_disks(&mounts)
        .into_iter()
        .partition(|mount| FREEZABLE.contains(&mount.file_system.as_str()));
    let list = |mounts: Vec<&mounts::Mount>| {
        let names = mounts.iter().map(|mount| mount.point.display().to_string());
        names.collect::<Vec<_>>().join(", ")
    };
    let mut text = format!(
        "the cutover freezes {} at once; no snapshots and no free space in volume groups are needed",
        list(can)
    );
    if !cannot.is_empty() {
        text.push_str(&format!(
            "; {} cannot be frozen: do not write there during the cutover",
            list(cannot)
        ));
    }
    Finding::info("P79", name, text)
}

fn tools() -> Finding {
    Finding::pass(
        "P80",
        "tools of the system",
        "none is needed: this program is all",
    )
}
