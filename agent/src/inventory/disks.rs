//! Disks and partitions: sizes, tables, file systems, mount points, and whether block-level migration is possible.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use sys::block_device::BlockDevice;

use super::mounts::{self, Mount};
use super::table::{self, Style};
use super::{Inventory, Machine, file_system, identifier};

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Disk {
    /// Device, such as `/dev/vda`.
    pub device: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Logical sector size in bytes.
    pub sector_bytes: u64,
    /// Style of the partition table, if there is one.
    pub style: Option<Style>,
    /// Partitions in the order of their place on the disk.
    pub partitions: Vec<Partition>,
    /// What lies on the disk itself when it has no partitions.
    pub file_system: Option<String>,
    /// Where it is mounted, directly or by way of LVM and the like, when it has no partitions.
    pub mount_points: Vec<PathBuf>,
    /// Whether the root file system lies on it.
    pub system: bool,
    /// Why it cannot be migrated block by block; empty: it can.
    pub block_obstacles: Vec<String>,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Partition {
    /// Device, such as `/dev/vda1`.
    pub device: String,
    /// Its number in the table.
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Whether the firmware or the boot sector starts from it.
    pub bootable: bool,
    /// File system or other content, in the names of `blkid`.
    pub file_system: Option<String>,
    /// Where it is mounted, directly or by way of LVM and the like.
    pub mount_points: Vec<PathBuf>,
    /// Why it cannot be migrated block by block; empty: it can.
    pub block_obstacles: Vec<String>,
}

/// Unit of sizes and starts in sysfs, whatever the sector size of the disk is.
const SYSFS_SECTOR: u64 = 512;

/// Devices that are no disks of the machine: memory, files, optical drives, network block devices, stacked devices.
const NOT_DISKS: [&str; 8] = ["loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd"];

/// All disks; the one with the root file system first, then in the order of their names.
pub fn disks(machine: &Machine) -> Vec<Disk> {
    let mounts = mounts::mounts(machine);
    let mut disks: Vec<Disk> = machine
        .names("/sys/block")
        .into_iter()
        .filter(|name| !NOT_DISKS.iter().any(|other| name.starts_with(other)))
        .filter_map(|name| disk(machine, &name, &mounts))
        .collect();
    disks.sort_by_key(|disk| !disk.system);
    disks
}

/// Narrows `inventory` to some block devices, each as a disk.
pub(super) fn narrow(inventory: &mut Inventory, devices: &[PathBuf]) -> io::Result<()> {
    let mut disks = Vec::new();
    for path in devices {
        let device = BlockDevice::look(path)?
            .ok_or_else(|| io::Error::other(format!("{} is no disk", path.display())))?;
        let known = inventory
            .disks
            .iter()
            .find(|disk| Path::new(&disk.device) == path);
        disks.push(known.cloned().unwrap_or_else(|| {
            Disk {
                device: path.display().to_string(),
                bytes: device.len,
                sector_bytes: device.logical_sector_len.into(),
                style: None,
                partitions: Vec::new(),
                file_system: File::open(path)
                    .ok()
                    .and_then(|mut file| file_system::probe(&mut file))
                    .map(str::to_owned),
                mount_points: Vec::new(),
                system: false,
                block_obstacles: Vec::new(),
            }
        }));
    }
    let names: Vec<u8> = disks
        .iter()
        .flat_map(|disk| disk.device.bytes().chain([0]))
        .collect();
    inventory.identifier = identifier::of_part(&inventory.identifier, &names);
    inventory.disks = disks;
    Ok(())
}

fn disk(machine: &Machine, name: &str, mounts: &[Mount]) -> Option<Disk> {
    let folder = format!("/sys/block/{name}");
    let bytes = machine.number(&format!("{folder}/size"))? * SYSFS_SECTOR;
    if bytes == 0 {
        return None;
    }
    let device = device_path(name);
    let table = File::open(machine.path(&device))
        .ok()
        .and_then(|mut file| table::read(&mut file));
    let mut partitions: Vec<Partition> = machine
        .names(&folder)
        .into_iter()
        .filter_map(|part| partition(machine, &folder, &part, mounts))
        .collect();
    partitions.sort_by_key(|partition| partition.start);
    let bootable = table
        .as_ref()
        .map(|table| table.bootable.clone())
        .unwrap_or_default();
    for partition in &mut partitions {
        partition.bootable = bootable.contains(&partition.number);
    }
    let mut disk = Disk {
        sector_bytes: machine
            .number(&format!("{folder}/queue/logical_block_size"))
            .unwrap_or(512),
        style: table.map(|table| table.style),
        file_system: None,
        mount_points: Vec::new(),
        system: false,
        block_obstacles: disk_obstacles(machine, name),
        partitions,
        device,
        bytes,
    };
    if disk.partitions.is_empty() {
        let stacked = stack(machine, name);
        disk.mount_points = mount_points(&stacked, mounts);
        disk.file_system = content(machine, name, &stacked, mounts);
        disk.block_obstacles
            .extend(content_obstacles(disk.file_system.as_deref()));
    }
    let points = disk
        .partitions
        .iter()
        .flat_map(|partition| &partition.mount_points);
    disk.system = points.chain(&disk.mount_points).any(|point| point == "/");
    Some(disk)
}

fn partition(machine: &Machine, disk: &str, name: &str, mounts: &[Mount]) -> Option<Partition> {
    let folder = format!("{disk}/{name}");
    let number = machine.number(&format!("{folder}/partition"))?;
    let stacked = stack(machine, name);
    let file_system = content(machine, name, &stacked, mounts);
    Some(Partition {
        device: device_path(name),
        number: number.try_into().ok()?,
        start: machine.number(&format!("{folder}/start"))? * SYSFS_SECTOR,
        bytes: machine.number(&format!("{folder}/size"))? * SYSFS_SECTOR,
        bootable: false,
        mount_points: mount_points(&stacked, mounts),
        block_obstacles: content_obstacles(file_system.as_deref()).into_iter().collect(),
        file_system,
    })
}

/// sysfs writes `!` where the device's path has a slash.
fn device_path(name: &str) -> String {
    format!("/dev/{}", name.replace('!', "/"))
}

/// The device and everything that is stacked on it (LVM, RAID, encryption), by kernel name.
fn stack(machine: &Machine, name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![name.to_owned()];
    while let Some(name) = open.pop() {
        if found.insert(name.clone()) {
            open.extend(machine.names(&format!("/sys/class/block/{name}/holders")));
        }
    }
    found
        .into_iter()
        .flat_map(|name| {
            let number = machine.text(&format!("/sys/class/block/{name}/dev"));
            let mapped = machine.text(&format!("/sys/class/block/{name}/dm/name"));
            let mapped = mapped.map(|mapped| format!("/dev/mapper/{mapped}"));
            [Some(device_path(&name)), mapped, number].into_iter().flatten()
        })
        .collect()
}

fn is_on(mount: &Mount, stacked: &BTreeSet<String>) -> bool {
    stacked.contains(&mount.device) || stacked.contains(&mount.source)
}

fn mount_points(stacked: &BTreeSet<String>, mounts: &[Mount]) -> Vec<PathBuf> {
    let mut points: Vec<PathBuf> = mounts
        .iter()
        .filter(|mount| is_on(mount, stacked) && !is_bind(mount))
        .map(|mount| mount.point.clone())
        .collect();
    points.sort();
    points.dedup();
    points
}

/// A mount of a part of a file system is a view of it, except for btrfs, where subvolumes are mounted that way.
fn is_bind(mount: &Mount) -> bool {
    mount.root != "/" && mount.file_system != "btrfs"
}

fn content(machine: &Machine, name: &str, stacked: &BTreeSet<String>, mounts: &[Mount]) -> Option<String> {
    let itself = machine.text(&format!("/sys/class/block/{name}/dev"));
    let mounted = mounts.iter().find(|mount| {
        Some(&mount.device) == itself.as_ref() || mount.source == device_path(name) && is_on(mount, stacked)
    });
    if let Some(mount) = mounted {
        return Some(mount.file_system.clone());
    }
    let mut file = File::open(machine.path(&device_path(name))).ok()?;
    file_system::probe(&mut file).map(str::to_owned)
}

fn disk_obstacles(machine: &Machine, name: &str) -> Vec<String> {
    let flag = |file: &str| machine.number(&format!("/sys/block/{name}/{file}")) == Some(1);
    let mut obstacles = Vec::new();
    if flag("removable") {
        obstacles.push("the disk is removable".to_owned());
    }
    let holders = machine.names(&format!("/sys/class/block/{name}/holders"));
    let multipath = holders.iter().any(|holder| {
        let uuid = machine.text(&format!("/sys/class/block/{holder}/dm/uuid"));
        uuid.is_some_and(|uuid| uuid.starts_with("mpath-"))
    });
    if multipath {
        obstacles.push("the disk is one path of a multipath device".to_owned());
    }
    obstacles
}

fn content_obstacles(file_system: Option<&str>) -> Option<String> {
    (file_system == Some("zfs_member"))
        .then(|| "ZFS cannot be frozen, so that its blocks would not be of one moment".to_owned())
}
