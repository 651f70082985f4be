//! The command that makes a software RAID array like the source's: same level, order, UUID and name, so that
//! `mdadm.conf` and initial RAM file systems find it. The members are synchronised anew, by the kernel, meanwhile.

use std::path::PathBuf;

use super::inventory::{ArrayRecord, Inventory, Place};
use super::partitions::source_len;

/// Versions of what is written on members that can be made.
const METADATA: &[&str] = &["0.90", "1.0", "1.1", "1.2"];

/// The command that makes `array` of the nodes that `node` gives.
///
/// # Errors
/// Why it cannot be made, for people.
pub fn create(array: &ArrayRecord, node: impl Fn(&Place) -> Option<PathBuf>) -> Result<Vec<String>, String> {
    let refused = |why: &str| format!("array {} {why}; migrate its disks as disks", array.device);
    let needs_layout = matches!(array.level.as_str(), "raid5" | "raid6" | "raid10");
    if !METADATA.contains(&array.metadata.as_str()) {
        return Err(refused(&format!("is of version {:?}", array.metadata)));
    }
    if (needs_layout && array.layout.is_none()) || !(needs_layout || is_simple(&array.level)) {
        return Err(refused(&format!(
            "is of a level that cannot be made ({})",
            array.level
        )));
    }
    let mut argv: Vec<String> = vec!["mdadm".to_owned(), "--create".to_owned()];
    argv.extend([format!("/dev/{}", array.device), "--run".to_owned()]);
    if array.members.len() == 1 {
        // One disk is no array, it says otherwise.
        argv.push("--force".to_owned());
    }
    argv.extend([
        format!("--level={}", array.level),
        format!("--raid-devices={}", array.members.len()),
        format!("--metadata={}", array.metadata),
        format!("--uuid={}", array.uuid),
    ]);
    if let Some(name) = &array.name {
        let (host, name) = name.split_once(':').unwrap_or(("any", name));
        argv.extend([format!("--homehost={host}"), format!("--name={name}")]);
    }
    if let Some(len) = array.chunk_len {
        argv.push(format!("--chunk={}K", len >> 10));
    }
    if let Some(layout) = &array.layout {
        argv.push(format!("--layout={layout}"));
    }
    if array.level != "raid0" {
        let bitmap = if array.bitmap { "internal" } else { "none" };
        argv.push(format!("--bitmap={bitmap}"));
    }
    // Without it a newer mdadm would begin the data elsewhere, and the array would be smaller.
    if let Some(offset) = array.data_offset.filter(|_| array.metadata.as_str() > "1.0") {
        argv.push(format!("--data-offset={}K", offset >> 10));
    }
    for member in &array.members {
        match member {
            None => argv.push("missing".to_owned()),
            Some(place) => argv.push(
                node(place)
                    .ok_or_else(|| {
                        refused("has a member that is neither a disk that was named nor a partition")
                    })?
                    .display()
                    .to_string(),
            ),
        }
    }
    Ok(argv)
}

fn is_simple(level: &str) -> bool {
    ["raid0", "raid1"].contains(&level)
}

/// How long the array will be, in bytes, on members as long as `lens` says: a mirror grows with the one that grows
/// least; what other levels gain is left out.
pub fn len(inventory: &Inventory, array: &ArrayRecord, lens: &[(Place, u64)]) -> u64 {
    if array.level != "raid1" {
        return array.len;
    }
    let growth = |member: &Place| {
        let found = lens.iter().find(|(place, _)| place == member);
        found.map_or(0, |(_, len)| len.saturating_sub(source_len(inventory, member)))
    };
    array.len + array.members.iter().flatten().map(growth).min().unwrap_or(0)
}
