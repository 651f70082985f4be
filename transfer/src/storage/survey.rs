//! Takes a source's inventory: run at the source, it only reads. What a disk tool is not installed for is left out,
//! and the layout refuses where it needs it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sys::block_device::BlockDevice;

use super::arrays::arrays;
use super::volumes::{self, Volume, lvm_report, tool};
use super::{
    ArrayRecord, DiskRecord, Format, GroupRecord, InterfaceRecord, Inventory, LogicalRecord, PartitionRecord,
    Place, TableRecord, VERSION, VolumeRecord, look_of_files,
};
use crate::error::{Error, Kind, Result};

/// Looks at `disks`, or at all disks of the machine when none is named.
///
/// # Errors
/// A disk cannot be read.
pub fn survey(disks: &[PathBuf]) -> Result<Inventory> {
    let disks = if disks.is_empty() {
        all_disks()
    } else {
        disks.to_vec()
    };
    let mut inventory = Inventory {
        version: VERSION,
        interfaces: interfaces(),
        ..Inventory::default()
    };
    for disk in &disks {
        inventory.disks.push(disk_record(disk)?);
    }
    let volumes = volumes::volumes(&disks)?;
    inventory.arrays = arrays(&disks, &volumes)?;
    inventory.groups = groups(&volumes, &inventory.arrays)?;
    let mounts = sys::mounts::mounts()
        .map_err(|error| Error::io("read the mount table", "/proc/self/mountinfo", error))?;
    for volume in &volumes {
        if ["", "LVM2_member", "linux_raid_member"].contains(&volume.kind.as_str()) {
            continue;
        }
        let place = place(volume, &inventory.arrays, &inventory.groups);
        inventory.volumes.push(volume_record(volume, place, &mounts)?);
    }
    Ok(inventory)
}

/// All disks of this machine, by name: no arrays or mapped devices, nothing made of files or memory.
pub fn all_disks() -> Vec<PathBuf> {
    const NOT_DISKS: &[&str] = &["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"];
    let mut names: Vec<String> = fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.retain(|name| !NOT_DISKS.iter().any(|prefix| name.starts_with(prefix)));
    names.sort_by_key(|name| (name.len(), name.clone()));
    names
        .into_iter()
        .map(|name| Path::new("/dev").join(name))
        .collect()
}

/// Network interfaces of this machine that are hardware, by name.
pub fn interfaces() -> Vec<InterfaceRecord> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        let is_hardware = entry.path().join("device").exists();
        let mac = fs::read_to_string(entry.path().join("address"))
            .unwrap_or_default()
            .trim()
            .to_owned();
        if let (true, Ok(name), false) = (is_hardware, entry.file_name().into_string(), mac.is_empty()) {
            found.push(InterfaceRecord { name, mac });
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

fn disk_record(path: &Path) -> Result<DiskRecord> {
    let device = BlockDevice::look(path)
        .map_err(|error| Error::io("look at the disk", path, error))?
        .ok_or_else(|| {
            Error::new(Kind::Usage, "take it for a disk")
                .on(path)
                .remedy("name block devices")
        })?;
    let name = path.display().to_string();
    let table = tool("sfdisk", &["--json", &name], Some(1))?;
    let table = table.map(|text| table_record(&text)).transpose()?;
    Ok(DiskRecord {
        name,
        len: device.len,
        sector_len: u64::from(device.logical_sector_len),
        table,
    })
}

fn table_record(text: &str) -> Result<TableRecord> {
    let bad = |what: &str| Error::new(Kind::Corrupt, format!("read the answer of sfdisk: {what}"));
    let value: Value = serde_json::from_str(text).map_err(|error| bad("no JSON").because(error))?;
    let table = &value["partitiontable"];
    let string = |value: &Value| value.as_str().map(str::to_owned);
    let mut partitions = Vec::new();
    for partition in table["partitions"].as_array().into_iter().flatten() {
        let node = partition["node"].as_str().unwrap_or_default();
        let digits = node.len() - node.trim_end_matches(|last: char| last.is_ascii_digit()).len();
        partitions.push(PartitionRecord {
            number: node[node.len() - digits..]
                .parse()
                .map_err(|error| bad("a partition's number").because(error))?,
            start: partition["start"].as_u64().ok_or_else(|| bad("a start"))?,
            size: partition["size"].as_u64().ok_or_else(|| bad("a size"))?,
            kind: string(&partition["type"]).unwrap_or_default(),
            uuid: string(&partition["uuid"]),
            name: string(&partition["name"]),
            attrs: string(&partition["attrs"]),
            bootable: partition["bootable"].as_bool().unwrap_or(false),
        });
    }
    let is_gpt = table["label"] == "gpt";
    if !is_gpt {
        // An MBR knows neither; sfdisk derives the UUIDs from the signature.
        partitions.iter_mut().for_each(|partition| partition.uuid = None);
    }
    Ok(TableRecord {
        label: string(&table["label"]).unwrap_or_default(),
        id: string(&table["id"]).unwrap_or_default(),
        partitions,
    })
}

fn volume_record(volume: &Volume, place: Place, mounts: &[sys::mounts::Mount]) -> Result<VolumeRecord> {
    let device = BlockDevice::look(&volume.device)
        .map_err(|error| Error::io("look at a volume", &volume.device, error))?;
    let number = device.as_ref().map(|device| device.number);
    let mount = mounts
        .iter()
        .find(|mount| mount.block_device() == number && number.is_some());
    let space = mount.and_then(|mount| rustix::fs::statvfs(&mount.point).ok());
    let mut record = VolumeRecord {
        place,
        kind: volume.kind.clone(),
        uuid: volume.uuid.clone(),
        label: volume.label.clone(),
        mounted_at: mount.map(|mount| mount.point.display().to_string()),
        mount_options: mount.map_or_else(String::new, |mount| look_of_files(&mount.kind, &mount.options)),
        len: device.map_or(0, |device| device.len),
        used: space
            .as_ref()
            .map(|space| (space.f_blocks - space.f_bfree) * space.f_frsize),
        inodes_used: space.as_ref().map(|space| space.f_files - space.f_ffree),
        format: Format::default(),
    };
    let name = volume.device.display().to_string();
    match volume.kind.as_str() {
        "ext2" | "ext3" | "ext4" => read_ext(
            &mut record,
            &tool("dumpe2fs", &["-h", &name], None)?.unwrap_or_default(),
        ),
        "xfs" => read_xfs(&mut record, &name, mount)?,
        "btrfs" => read_btrfs(&mut record, mount)?,
        _ => {}
    }
    Ok(record)
}

fn place(volume: &Volume, arrays: &[ArrayRecord], groups: &[GroupRecord]) -> Place {
    if let Some((disk, number)) = volume.position {
        return Place::Partition { disk, number };
    }
    let is_it = |array: &&ArrayRecord| volume.device == Path::new("/dev").join(&array.device);
    match arrays.iter().find(is_it) {
        Some(array) => Place::Array {
            device: array.device.clone(),
        },
        None => logical_place(&volume.device, groups),
    }
}

fn logical_place(device: &Path, groups: &[GroupRecord]) -> Place {
    let doubled = |name: &str| name.replace('-', "--");
    for group in groups {
        for logical in &group.logical {
            let mapped = format!("/dev/mapper/{}-{}", doubled(&group.name), doubled(&logical.name));
            if device == Path::new(&mapped) {
                return Place::Logical {
                    group: group.name.clone(),
                    name: logical.name.clone(),
                };
            }
        }
    }
    Place::Unknown
}

/// Lines `Key: value` of `dumpe2fs -h`.
fn read_ext(record: &mut VolumeRecord, text: &str) {
    let fields: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim(), value.trim()))
        .collect();
    let number = |key: &str| fields.get(key).and_then(|value| value.parse::<u64>().ok());
    record.format.features = fields
        .get("Filesystem features")
        .unwrap_or(&"")
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    record.format.block_len = number("Block size");
    record.format.inode_len = number("Inode size");
    if let (None, Some(count), Some(free), Some(len)) = (
        record.used,
        number("Block count"),
        number("Free blocks"),
        number("Block size"),
    ) {
        record.used = Some((count - free) * len);
    }
}

/// `key=value` pairs of `xfs_info`, which takes a mount point in all versions and a device in newer ones.
fn read_xfs(record: &mut VolumeRecord, name: &str, mount: Option<&sys::mounts::Mount>) -> Result<()> {
    let place = mount.map_or_else(|| name.to_owned(), |mount| mount.point.display().to_string());
    let text = tool("xfs_info", &[&place], None)?.unwrap_or_default();
    let wanted = [
        "crc",
        "finobt",
        "rmapbt",
        "reflink",
        "bigtime",
        "inobtcount",
        "sparse",
        "nrext64",
        "ftype",
    ];
    let section = |line: &str| {
        line.split_whitespace()
            .next()
            .unwrap_or_default()
            .starts_with("data")
    };
    let pairs = |text: &str| -> Vec<(String, String)> {
        let words = text
            .split([' ', ','])
            .filter_map(|word| word.trim().split_once('='));
        words
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    };
    let all = pairs(&text.replace('\n', " "));
    let features = all.iter().filter(|(key, _)| wanted.contains(&key.as_str()));
    record.format.features = features.map(|(key, value)| format!("{key}={value}")).collect();
    record.format.inode_len = all
        .iter()
        .find(|(key, _)| key == "isize")
        .and_then(|(_, value)| value.parse().ok());
    let data = text
        .lines()
        .find(|line| section(line))
        .map(pairs)
        .unwrap_or_default();
    record.format.block_len = data
        .iter()
        .find(|(key, _)| key == "bsize")
        .and_then(|(_, value)| value.parse().ok());
    Ok(())
}

fn read_btrfs(record: &mut VolumeRecord, mount: Option<&sys::mounts::Mount>) -> Result<()> {
    let Some(point) = mount.map(|mount| mount.point.display().to_string()) else {
        return Ok(());
    };
    let list = tool("btrfs", &["subvolume", "list", "-t", &point], None)?.unwrap_or_default();
    let mut paths: Vec<String> = list
        .lines()
        .skip(2)
        .filter_map(|line| line.split_whitespace().nth(3))
        // Snapshots of the past are not carried; the one that is the system is.
        .map(str::to_owned)
        .collect();
    let default = tool("btrfs", &["subvolume", "get-default", &point], None)?.unwrap_or_default();
    record.format.default_subvolume = default
        .trim()
        .split_once(" path ")
        .map(|(_, path)| path.trim().to_owned());
    paths.retain(|path| {
        !path.contains("/.snapshots/") && !path.starts_with(".snapshots/")
            || record.format.default_subvolume.as_ref() == Some(path)
    });
    paths.sort_by_key(|path| path.matches('/').count());
    record.format.subvolumes = paths;
    Ok(())
}

fn groups(volumes: &[Volume], arrays: &[ArrayRecord]) -> Result<Vec<GroupRecord>> {
    let mut groups: Vec<GroupRecord> = Vec::new();
    for member in volumes.iter().filter(|volume| volume.kind == "LVM2_member") {
        let name = member.device.display().to_string();
        let report = lvm_report("pvs", "vg_name,pv_uuid,vg_extent_size", &name)?;
        let Some([group, uuid, extent]) = report.first().map(Vec::as_slice) else {
            continue;
        };
        if group.is_empty() {
            continue;
        }
        let place = place(member, arrays, &[]);
        if let Some(known) = groups.iter_mut().find(|known| known.name == *group) {
            known.members.push(place);
            known.member_uuids.push(uuid.clone());
            continue;
        }
        groups.push(GroupRecord {
            name: group.clone(),
            extent_len: extent.parse().unwrap_or(4 << 20),
            members: vec![place],
            member_uuids: vec![uuid.clone()],
            logical: logical_volumes(group)?,
        });
    }
    Ok(groups)
}

fn logical_volumes(group: &str) -> Result<Vec<LogicalRecord>> {
    let mut volumes = Vec::new();
    for line in lvm_report("lvs", "lv_name,lv_size,lv_layout", group)? {
        if let [name, len, layout] = &line[..] {
            volumes.push(LogicalRecord {
                name: name.clone(),
                len: len.parse().unwrap_or(0),
                layout: layout.clone(),
            });
        }
    }
    Ok(volumes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_tools_are_read() {
        let mut record = VolumeRecord::default();
        read_ext(
            &mut record,
            "Filesystem features:      has_journal ext_attr 64bit\nBlock count:  100\nFree blocks: 40\nBlock size:               4096\nInode size:\t          256\n",
        );
        assert_eq!(record.format.features, ["has_journal", "ext_attr", "64bit"]);
        assert_eq!(
            (record.used, record.format.inode_len),
            (Some(60 * 4096), Some(256))
        );
        let table = table_record(r#"{"partitiontable":{"label":"dos","id":"0x1","partitions":[{"node":"/dev/loop0p2","start":2048,"size":10,"type":"83","bootable":true}]}}"#).unwrap();
        assert_eq!(
            (table.partitions[0].number, table.partitions[0].bootable),
            (2, true)
        );
        assert!(table_record("{").is_err());
    }
}
