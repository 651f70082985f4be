//! All commands of a layout, in their order, from an inventory and the target's disks; pure, so that it can be shown
//! before it is done, and tested.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::array;
use super::file_system;
use super::inventory::{
    DiskRecord, GroupRecord, Inventory, LogicalRecord, PartitionRecord, Place, VolumeRecord, look_of_files,
};
use super::partitions::{Freedom, TargetDisk, logical_len_min, place, script, shares, source_len};

/// One command of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Action {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Standard input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Disk whose partitions have to be seen by the kernel afterwards, and how many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<(PathBuf, usize)>,
}

/// A file system to be mounted for the transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MountRecord {
    /// Device.
    pub device: PathBuf,
    /// Type.
    pub kind: String,
    /// Where it is mounted at the source.
    pub at: String,
    /// Options without which its files would look different, comma-separated.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub options: String,
}

/// Subvolumes to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subvolumes {
    /// Device.
    pub device: PathBuf,
    /// Paths, parents first.
    pub paths: Vec<String>,
    /// The one that is mounted when none is named.
    pub default: Option<String>,
}

/// What will be done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// Commands.
    pub actions: Vec<Action>,
    /// Subvolumes.
    pub subvolumes: Vec<Subvolumes>,
    /// Mounts, parents first.
    pub mounts: Vec<MountRecord>,
}

/// Plans a layout on `targets`, one for each disk of the inventory.
///
/// # Errors
/// All reasons why it is impossible.
pub fn plan(
    inventory: &Inventory,
    targets: &[(PathBuf, TargetDisk)],
    freedom: Freedom,
) -> Result<Layout, Vec<String>> {
    let mut refusals = refusals(inventory, targets);
    let mut layout = Layout::default();
    let mut member_lens = Vec::new();
    for (index, (device, target)) in targets.iter().enumerate().take(inventory.disks.len()) {
        match place(inventory, index, *target, freedom) {
            Err(refusal) => refusals.push(refusal),
            Ok(partitions) => {
                member_lens.extend(lens(index, &partitions, *target));
                let disk = &inventory.disks[index];
                if disk.table.is_some() {
                    layout
                        .actions
                        .push(write_table(device, disk, &partitions, *target));
                }
            }
        }
    }
    for record in &inventory.arrays {
        match array::create(record, |place| node(place, targets)) {
            Ok(argv) => layout.actions.push(action(argv)),
            Err(refusal) => refusals.push(refusal),
        }
        let place = Place::Array {
            device: record.device.clone(),
        };
        member_lens.push((place, array::len(inventory, record, &member_lens)));
    }
    for group in &inventory.groups {
        match group_actions(inventory, group, targets, &member_lens, freedom) {
            Ok(actions) => layout.actions.extend(actions),
            Err(refusal) => refusals.push(refusal),
        }
    }
    for volume in inventory
        .volumes
        .iter()
        .filter(|volume| volume.kind != "LVM2_member")
    {
        let Some(device) = node(&volume.place, targets) else {
            continue;
        };
        match file_system::command(volume, &text(&device)) {
            Ok(argv) => layout.actions.push(action(argv)),
            Err(refusal) => refusals.push(refusal),
        }
        mount(&mut layout, volume, device);
    }
    layout
        .mounts
        .sort_by_key(|mount| mount.at.trim_end_matches('/').matches('/').count());
    if refusals.is_empty() {
        Ok(layout)
    } else {
        Err(refusals)
    }
}

/// Lengths of a disk's partitions, or of the disk when it has none.
fn lens(index: usize, partitions: &[PartitionRecord], target: TargetDisk) -> Vec<(Place, u64)> {
    let place = |number| Place::Partition { disk: index, number };
    if partitions.is_empty() {
        return vec![(place(0), target.len)];
    }
    let len = |partition: &PartitionRecord| (place(partition.number), partition.size * target.sector_len);
    partitions.iter().map(len).collect()
}

fn write_table(
    device: &Path,
    disk: &DiskRecord,
    partitions: &[PartitionRecord],
    target: TargetDisk,
) -> Action {
    Action {
        argv: words(&[
            "sfdisk",
            "--quiet",
            "--wipe",
            "always",
            "--wipe-partitions",
            "always",
            &text(device),
        ]),
        input: Some(script(disk, partitions, target)),
        partitions: Some((device.to_owned(), partitions.len())),
    }
}

fn refusals(inventory: &Inventory, targets: &[(PathBuf, TargetDisk)]) -> Vec<String> {
    let mut refusals = Vec::new();
    if targets.len() < inventory.disks.len() {
        refusals.push(format!(
            "the source has {} disks, {} were named",
            inventory.disks.len(),
            targets.len()
        ));
    }
    for volume in inventory
        .volumes
        .iter()
        .filter(|volume| volume.place == Place::Unknown)
    {
        let at = volume.mounted_at.as_deref().unwrap_or("something not mounted");
        refusals.push(format!(
            "{at} ({}) lies on storage that cannot be made again; migrate its disk as a disk",
            volume.kind
        ));
    }
    for group in &inventory.groups {
        for logical in group.logical.iter().filter(|logical| logical.layout != "linear") {
            refusals.push(format!(
                "{}/{} is {}; only linear volumes can be made again",
                group.name, logical.name, logical.layout
            ));
        }
    }
    refusals
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Node of a partition: names that end in a digit take a `p`.
pub fn partition_node(device: &Path, number: u32) -> PathBuf {
    let name = text(device);
    if number == 0 {
        return device.to_owned();
    }
    let gap = if name.ends_with(|last: char| last.is_ascii_digit()) {
        "p"
    } else {
        ""
    };
    PathBuf::from(format!("{name}{gap}{number}"))
}

fn node(place: &Place, targets: &[(PathBuf, TargetDisk)]) -> Option<PathBuf> {
    match place {
        Place::Partition { disk, number } => Some(partition_node(&targets.get(*disk)?.0, *number)),
        Place::Logical { group, name } => Some(Path::new("/dev").join(group).join(name)),
        Place::Array { device } => Some(Path::new("/dev").join(device)),
        Place::Unknown => None,
    }
}

fn mount(layout: &mut Layout, volume: &VolumeRecord, device: PathBuf) {
    if volume.kind == "btrfs" && !volume.format.subvolumes.is_empty() {
        layout.subvolumes.push(Subvolumes {
            device: device.clone(),
            paths: volume.format.subvolumes.clone(),
            default: volume.format.default_subvolume.clone(),
        });
    }
    if let Some(at) = volume
        .mounted_at
        .as_ref()
        .filter(|at| at.starts_with('/') && volume.kind != "swap")
    {
        layout.mounts.push(MountRecord {
            device,
            kind: volume.kind.clone(),
            at: at.clone(),
            // Another machine says so.
            options: look_of_files(&volume.kind, &volume.mount_options),
        });
    }
}

fn action(argv: Vec<String>) -> Action {
    Action {
        argv,
        input: None,
        partitions: None,
    }
}

fn group_actions(
    inventory: &Inventory,
    group: &GroupRecord,
    targets: &[(PathBuf, TargetDisk)],
    member_lens: &[(Place, u64)],
    freedom: Freedom,
) -> Result<Vec<Action>, String> {
    let extent = format!("{}b", group.extent_len);
    let mut create = words(&[
        "lvm",
        "vgcreate",
        "--yes",
        "--physicalextentsize",
        &extent,
        &group.name,
    ]);
    let mut actions = Vec::new();
    let (mut room, mut growth) = (0, 0);
    for (index, member) in group.members.iter().enumerate() {
        let Some(device) = node(member, targets) else {
            return Err(format!(
                "a member of volume group {} lies on no disk that was named",
                group.name
            ));
        };
        let mut argv = words(&["lvm", "pvcreate", "-ff", "--yes"]);
        if let Some(uuid) = group.member_uuids.get(index) {
            argv.extend(words(&["--uuid", uuid, "--norestorefile"]));
        }
        argv.push(text(&device));
        actions.push(action(argv));
        // The first MiB of a member holds labels and metadata.
        let usable = |len: u64| len.saturating_sub(1 << 20) / group.extent_len * group.extent_len;
        let found = member_lens.iter().find(|(place, _)| place == member);
        let usable_now = usable(found.map_or(0, |(_, len)| *len));
        room += usable_now;
        growth += usable_now.saturating_sub(usable(source_len(inventory, member)));
        create.push(text(&device));
    }
    actions.push(action(create));
    let growth = if freedom.grow { growth } else { 0 };
    actions.extend(logical_actions(inventory, group, room, growth)?);
    Ok(actions)
}

/// Logical volumes as long as at the source, or shrunk to fit `room`; the root file system's gets `growth` beside.
fn logical_actions(
    inventory: &Inventory,
    group: &GroupRecord,
    room: u64,
    growth: u64,
) -> Result<Vec<Action>, String> {
    let extents = |len: u64| len.div_ceil(group.extent_len) * group.extent_len;
    let lens: Vec<u64> = group.logical.iter().map(|logical| extents(logical.len)).collect();
    let minima: Vec<u64> = group
        .logical
        .iter()
        .zip(&lens)
        .map(|(logical, len)| {
            extents(logical_len_min(
                inventory,
                &group.name,
                &logical.name,
                logical.len,
            ))
            .min(*len)
        })
        .collect();
    let needed = minima.iter().sum::<u64>() >> 20;
    let mut lens = shares(&lens, &minima, room).ok_or_else(|| {
        format!(
            "the volumes of {} need {needed} MiB, there is room for {} MiB",
            group.name,
            room >> 20
        )
    })?;
    let is_root = |logical: &LogicalRecord| {
        let place = Place::Logical {
            group: group.name.clone(),
            name: logical.name.clone(),
        };
        let volume = inventory.volume(&place);
        volume.is_some_and(|volume| volume.mounted_at.as_deref() == Some("/"))
    };
    if let Some(root) = group.logical.iter().position(is_root) {
        lens[root] += growth.min(room.saturating_sub(lens.iter().sum()));
    }
    let create = |(logical, len): (&LogicalRecord, u64)| {
        let count = (len / group.extent_len).to_string();
        let mut argv = words(&["lvm", "lvcreate", "--yes", "--wipesignatures", "y", "--zero", "y"]);
        argv.extend(words(&[
            "--extents",
            &count,
            "--name",
            &logical.name,
            &group.name,
        ]));
        action(argv)
    };
    Ok(group.logical.iter().zip(lens).map(create).collect())
}

#[cfg(test)]
mod tests;
