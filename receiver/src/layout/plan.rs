//! All commands of a layout, in their order, from an inventory and the target's disks; pure, so that it can be shown
//! before it is done, and tested.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::file_system;
use super::inventory::{GroupRecord, Inventory, LogicalRecord, Place, VolumeRecord};
use super::partitions::{Freedom, TargetDisk, logical_len_min, place, script, shares};

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
        let disk = &inventory.disks[index];
        match place(inventory, index, *target, freedom) {
            Err(refusal) => refusals.push(refusal),
            Ok(partitions) if disk.table.is_some() => {
                for partition in &partitions {
                    let place = Place::Partition {
                        disk: index,
                        number: partition.number,
                    };
                    member_lens.push((place, partition.size * target.sector_len));
                }
                layout.actions.push(Action {
                    argv: words(&[
                        "sfdisk",
                        "--quiet",
                        "--wipe",
                        "always",
                        "--wipe-partitions",
                        "always",
                        &text(device),
                    ]),
                    input: Some(script(disk, &partitions, *target)),
                    partitions: Some((device.clone(), partitions.len())),
                });
            }
            Ok(_) => member_lens.push((
                Place::Partition {
                    disk: index,
                    number: 0,
                },
                target.len,
            )),
        }
    }
    for group in &inventory.groups {
        match group_actions(inventory, group, targets, &member_lens) {
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
            Ok(argv) => layout.actions.push(Action {
                argv,
                input: None,
                partitions: None,
            }),
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
    let mut room = 0;
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
        let len = member_lens
            .iter()
            .find(|(place, _)| place == member)
            .map_or(0, |(_, len)| len.saturating_sub(1 << 20));
        room += len / group.extent_len * group.extent_len;
        create.push(text(&device));
    }
    actions.push(action(create));
    actions.extend(logical_actions(inventory, group, room)?);
    Ok(actions)
}

/// Logical volumes as long as at the source, or shrunk to fit `room`.
fn logical_actions(inventory: &Inventory, group: &GroupRecord, room: u64) -> Result<Vec<Action>, String> {
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
    let lens = shares(&lens, &minima, room).ok_or_else(|| {
        format!(
            "the volumes of {} need {needed} MiB, there is room for {} MiB",
            group.name,
            room >> 20
        )
    })?;
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
mod tests {
    use super::super::inventory::{DiskRecord, PartitionRecord, TableRecord};
    use super::*;

    const GIB: u64 = 1 << 30;

    fn lvm_system() -> Inventory {
        let partition = |number, start: u64, size: u64, kind: &str| PartitionRecord {
            number,
            start,
            size,
            kind: kind.to_owned(),
            ..PartitionRecord::default()
        };
        let logical = |name: &str, kind: &str, at: Option<&str>, len, used| VolumeRecord {
            place: Place::Logical {
                group: "vg-0".to_owned(),
                name: name.to_owned(),
            },
            kind: kind.to_owned(),
            mounted_at: at.map(str::to_owned),
            len,
            used,
            ..VolumeRecord::default()
        };
        Inventory {
            version: 1,
            disks: vec![DiskRecord {
                name: "/dev/sda".to_owned(),
                len: 40 * GIB,
                sector_len: 512,
                table: Some(TableRecord {
                    label: "dos".to_owned(),
                    id: "0x12345678".to_owned(),
                    partitions: vec![
                        partition(1, 2048, 2097152, "83"),
                        partition(2, 2099200, 40 * GIB / 512 - 2099200, "8e"),
                    ],
                }),
            }],
            volumes: vec![
                logical("root", "xfs", Some("/"), 20 * GIB, Some(2 * GIB)),
                VolumeRecord {
                    place: Place::Partition { disk: 0, number: 1 },
                    kind: "ext4".to_owned(),
                    mounted_at: Some("/boot".to_owned()),
                    len: GIB,
                    used: Some(GIB / 4),
                    ..VolumeRecord::default()
                },
                logical("swap", "swap", None, 2 * GIB, None),
            ],
            groups: vec![GroupRecord {
                name: "vg-0".to_owned(),
                extent_len: 4 << 20,
                members: vec![Place::Partition { disk: 0, number: 2 }],
                member_uuids: vec!["PVUUID".to_owned()],
                logical: [("root", 20 * GIB), ("swap", 2 * GIB)]
                    .map(|(name, len)| LogicalRecord {
                        name: name.to_owned(),
                        len,
                        layout: "linear".to_owned(),
                    })
                    .to_vec(),
            }],
            interfaces: Vec::new(),
        }
    }

    fn lines(layout: &Layout) -> Vec<String> {
        layout
            .actions
            .iter()
            .map(|action| action.argv.join(" "))
            .collect()
    }

    fn targets(gibibytes: u64) -> Vec<(PathBuf, TargetDisk)> {
        vec![(
            "/dev/vda".into(),
            TargetDisk {
                len: gibibytes * GIB,
                sector_len: 512,
            },
        )]
    }

    const KEEP: Freedom = Freedom {
        minify: false,
        grow: false,
    };

    #[test]
    fn a_system_on_lvm_is_made_again_in_order() {
        let layout = plan(&lvm_system(), &targets(40), KEEP).unwrap();
        let lines = lines(&layout);
        assert_eq!(
            lines[0],
            "sfdisk --quiet --wipe always --wipe-partitions always /dev/vda"
        );
        assert_eq!(
            lines[1],
            "lvm pvcreate -ff --yes --uuid PVUUID --norestorefile /dev/vda2"
        );
        assert_eq!(
            lines[2],
            "lvm vgcreate --yes --physicalextentsize 4194304b vg-0 /dev/vda2"
        );
        assert_eq!(
            lines[3],
            "lvm lvcreate --yes --wipesignatures y --zero y --extents 5120 --name root vg-0"
        );
        assert!(
            lines[5].starts_with("mkfs.xfs") && lines[5].ends_with("/dev/vg-0/root"),
            "{lines:?}"
        );
        let mounts: Vec<&str> = layout.mounts.iter().map(|mount| mount.at.as_str()).collect();
        assert_eq!(mounts, ["/", "/boot"]);
    }

    #[test]
    fn logical_volumes_shrink_with_their_disk() {
        let freedom = Freedom {
            minify: true,
            grow: false,
        };
        let layout = plan(&lvm_system(), &targets(10), freedom).unwrap();
        let line = lines(&layout)
            .into_iter()
            .find(|line| line.contains("--name root"))
            .unwrap();
        let extents: u64 = line
            .split_once("--extents ")
            .unwrap()
            .1
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        assert!(
            extents * (4 << 20) > 5 * GIB && extents * (4 << 20) < 8 * GIB,
            "{line}"
        );
    }

    #[test]
    fn all_refusals_come_at_once() {
        let mut inventory = lvm_system();
        inventory.groups[0].logical[0].layout = "thin,sparse".to_owned();
        inventory.volumes.push(VolumeRecord {
            kind: "ext4".to_owned(),
            mounted_at: Some("/data".to_owned()),
            ..VolumeRecord::default()
        });
        let refusals = plan(&inventory, &targets(10), KEEP).unwrap_err();
        assert_eq!(
            refusals
                .iter()
                .filter(|text| text.contains("thin") || text.contains("/data") || text.contains("--minify"))
                .count(),
            3,
            "{refusals:?}"
        );
        assert!(plan(&lvm_system(), &[], KEEP).unwrap_err()[0].contains("0 were named"));
    }

    #[test]
    fn nodes_are_named_as_the_kernel_does() {
        assert_eq!(partition_node(Path::new("/dev/vda"), 2), Path::new("/dev/vda2"));
        assert_eq!(
            partition_node(Path::new("/dev/nvme0n1"), 2),
            Path::new("/dev/nvme0n1p2")
        );
        assert_eq!(partition_node(Path::new("/dev/vda"), 0), Path::new("/dev/vda"));
    }
}
