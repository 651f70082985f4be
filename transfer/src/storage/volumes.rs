//! Volumes on disks with their names, by `blkid`, which reads the disks themselves; those inside LVM and md included.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;
use sys::block_device::{BlockDevice, DeviceNumber};

use crate::error::{Error, Kind, Result};

/// A file system, swap space or container on a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// Device node of ours.
    pub device: PathBuf,
    /// Type as `blkid` names it.
    pub kind: String,
    /// File system UUID.
    pub uuid: Option<String>,
    /// Label.
    pub label: Option<String>,
    /// UUID of the partition.
    pub partition_uuid: Option<String>,
    /// Name of the partition.
    pub partition_label: Option<String>,
    /// Type of the partition: a GUID, or `0x83`.
    pub partition_type: Option<String>,
    /// Number of the disk (0 is the first) and of the partition (from 1; 0 is the whole disk).
    pub position: Option<(usize, u32)>,
    /// Where the guest mounts it, once that is known.
    pub mounted_at: Option<String>,
}

impl Volume {
    /// A name that does not depend on the hardware.
    pub fn stable_name(&self) -> Option<String> {
        let mapped = self.device.starts_with("/dev/mapper");
        if mapped {
            return Some(self.device.display().to_string());
        }
        let uuid = self.uuid.as_ref().map(|uuid| format!("UUID={uuid}"));
        uuid.or_else(|| {
            self.partition_uuid
                .as_ref()
                .map(|uuid| format!("PARTUUID={uuid}"))
        })
    }
}

/// Runs one of our disk tools and returns its standard output; `None` when it says "nothing found" by `nothing_code`.
///
/// # Errors
/// The tool is missing or fails.
pub fn tool(program: &str, arguments: &[&str], nothing_code: Option<i32>) -> Result<Option<String>> {
    let what = || format!("run {program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).output().map_err(|error| {
        Error::new(Kind::Usage, what())
            .because(error)
            .remedy(format!("install {program}, or convert in migration mode"))
    })?;
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    if nothing_code.is_some() && output.status.code() == nothing_code {
        return Ok(None);
    }
    Err(Error::new(Kind::Medium, what()).because(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// What LVM reports about `name` by `command` (`pvs`, `lvs`): the `columns` of each line, sizes in bytes.
///
/// # Errors
/// LVM is missing, or does not know `name`.
pub fn lvm_report(command: &str, columns: &str, name: &str) -> Result<Vec<Vec<String>>> {
    let options = [
        command,
        "--noheadings",
        "--separator",
        "|",
        "--units",
        "b",
        "--nosuffix",
        "-o",
        columns,
        name,
    ];
    let text = tool("lvm", &options, None)?.unwrap_or_default();
    let fields = |line: &str| line.trim().split('|').map(str::to_owned).collect();
    Ok(text.lines().map(fields).collect())
}

/// The volume group of a physical (`pvs`) or logical (`lvs`) volume; empty when it belongs to none.
///
/// # Errors
/// LVM is missing, or does not know `device`.
pub fn volume_group(command: &str, device: &str) -> Result<String> {
    let report = lvm_report(command, "vg_name", device)?;
    Ok(report.into_iter().flatten().next().unwrap_or_default())
}

/// All volumes on `disks`, those inside LVM and md included.
///
/// # Errors
/// A disk cannot be read.
pub fn volumes(disks: &[PathBuf]) -> Result<Vec<Volume>> {
    let mut found: Vec<Volume> = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, path) in disks.iter().enumerate() {
        let disk = look(path)?;
        let failed = |error| Error::io("list partitions", path, error);
        let partitions = disk.partitions().map_err(failed)?;
        if partitions.is_empty() {
            found.extend(probe(path)?.map(|volume| Volume {
                position: Some((index, 0)),
                ..volume
            }));
        }
        for partition in partitions {
            let number = partition_number(partition.number);
            found.extend(probe(&partition.path)?.map(|volume| Volume {
                position: number.map(|number| (index, number)),
                ..volume
            }));
        }
        found.extend(held(&disk, path, &mut seen)?);
    }
    Ok(found)
}

/// Volumes in what is made of a device's blocks, such as arrays and logical volumes, and in what is made of those.
fn held(device: &BlockDevice, path: &Path, seen: &mut BTreeSet<String>) -> Result<Vec<Volume>> {
    let failed = |error| Error::io("list what is made of a device", path, error);
    let mut found = Vec::new();
    for holder in device.holders().map_err(failed)? {
        let node = mapped_name(&holder);
        if !seen.insert(holder) {
            continue;
        }
        let inner = look(&node)?;
        let partitions = inner.partitions().map_err(failed)?;
        if partitions.is_empty() {
            found.extend(probe(&node)?);
        }
        for partition in partitions {
            found.extend(probe(&partition.path)?);
        }
        found.extend(held(&inner, &node, seen)?);
    }
    Ok(found)
}

fn look(path: &Path) -> Result<BlockDevice> {
    let refused = || {
        Error::new(Kind::Usage, "use it as a disk")
            .on(path)
            .remedy("name a block device or an image file")
    };
    BlockDevice::look(path)
        .map_err(|error| refused().because(error))?
        .ok_or_else(refused)
}

fn partition_number(number: DeviceNumber) -> Option<u32> {
    fs::read_to_string(format!(
        "/sys/dev/block/{}:{}/partition",
        number.major, number.minor
    ))
    .ok()?
    .trim()
    .parse()
    .ok()
}

/// `/dev/mapper/NAME` of `dm-0`.
fn mapped_name(kernel_name: &str) -> PathBuf {
    let name = fs::read_to_string(format!("/sys/class/block/{kernel_name}/dm/name"));
    name.map_or_else(
        |_| Path::new("/dev").join(kernel_name),
        |name| Path::new("/dev/mapper").join(name.trim()),
    )
}

fn probe(device: &Path) -> Result<Option<Volume>> {
    let name = device.display().to_string();
    let Some(text) = tool("blkid", &["-p", "-o", "export", &name], Some(2))? else {
        return Ok(None);
    };
    Ok(Some(parse(device, &text)))
}

fn parse(device: &Path, text: &str) -> Volume {
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(unescape)
            .filter(|value| !value.is_empty())
    };
    Volume {
        device: device.to_owned(),
        kind: value("TYPE").unwrap_or_default(),
        uuid: value("UUID"),
        label: value("LABEL"),
        partition_uuid: value("PART_ENTRY_UUID"),
        partition_label: value("PART_ENTRY_NAME"),
        partition_type: value("PART_ENTRY_TYPE"),
        position: None,
        mounted_at: None,
    }
}

/// `blkid -o export` protects blanks and quotes by backslashes.
fn unescape(value: &str) -> String {
    let mut result = String::new();
    let mut rest = value.chars();
    while let Some(character) = rest.next() {
        let meant = if character == '\\' {
            rest.next()
        } else {
            Some(character)
        };
        result.extend(meant);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_blkid_are_read() {
        let volume = parse(
            Path::new("/dev/vda1"),
            "DEVNAME=/dev/vda1\nLABEL=my\\ root\nUUID=0c-1\nTYPE=ext4\nPART_ENTRY_SCHEME=gpt\nPART_ENTRY_NAME=\n\
             PART_ENTRY_UUID=aa\nPART_ENTRY_TYPE=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n",
        );
        assert_eq!(volume.label.as_deref(), Some("my root"));
        assert_eq!(volume.uuid.as_deref(), Some("0c-1"));
        assert_eq!(volume.partition_label, None);
    }
}
