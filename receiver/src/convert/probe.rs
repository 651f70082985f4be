//! Finds out what lies on disks: volumes with their names, by `blkid`, which reads the disk itself; and which of them
//! a directory's mounts come from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sys::block_device::{BlockDevice, DeviceNumber};
use sys::mounts::Mount;
use transfer::{Error, Kind, Result};

use super::machine::{Firmware, Volume};

/// GUID of the partition that holds GRUB's core image for a BIOS.
const BIOS_BOOT: &str = "21686148-6449-6e6f-744e-656564454649";
/// GUID of the EFI system partition.
const EFI_SYSTEM: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";

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

/// All volumes on `disks`, those inside LVM and md included.
///
/// # Errors
/// A disk cannot be read.
pub fn volumes(disks: &[PathBuf]) -> Result<Vec<Volume>> {
    let mut found: Vec<Volume> = Vec::new();
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
        for holder in disk.holders().map_err(failed)? {
            let device = mapped_name(&holder);
            if found.iter().all(|volume| volume.device != device) {
                found.extend(probe(&device)?);
            }
        }
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

/// Which firmware the layout of the disks is made for. A partition for a BIOS wins: images for both have both.
pub fn firmware(volumes: &[Volume]) -> Firmware {
    let has = |kind: &str| {
        volumes.iter().any(|volume| {
            volume
                .partition_type
                .as_deref()
                .is_some_and(|found| found.eq_ignore_ascii_case(kind))
        })
    };
    if !has(BIOS_BOOT) && has(EFI_SYSTEM) {
        Firmware::Uefi
    } else {
        Firmware::Bios
    }
}

/// Volumes of all disks that the mounts at and below `root` come from, and the disks. `None` when `root` is not a mount
/// point of a disk.
///
/// # Errors
/// A disk cannot be read.
pub fn volumes_below(root: &Path) -> Result<Option<(Vec<PathBuf>, Vec<Volume>)>> {
    let mounts = sys::mounts::mounts()
        .map_err(|error| Error::io("read the mount table", "/proc/self/mountinfo", error))?;
    let below: Vec<&Mount> = mounts
        .iter()
        .filter(|mount| mount.point.starts_with(root))
        .collect();
    if !below
        .iter()
        .any(|mount| mount.point == root && mount.block_device().is_some())
    {
        return Ok(None);
    }
    let mut disks: Vec<PathBuf> = Vec::new();
    for number in below.iter().filter_map(|mount| mount.block_device()) {
        for disk in disks_under(number) {
            if !disks.contains(&disk) {
                disks.push(disk);
            }
        }
    }
    disks.sort();
    let mut volumes = volumes(&disks)?;
    for mount in below {
        let Some(number) = mount.block_device() else {
            continue;
        };
        let place = Path::new("/").join(mount.point.strip_prefix(root).unwrap_or(&mount.point));
        let is_it = |volume: &&mut Volume| device_number(&volume.device) == Some(number);
        if let Some(volume) = volumes
            .iter_mut()
            .find(is_it)
            .filter(|volume| volume.mounted_at.is_none())
        {
            volume.mounted_at = Some(place.display().to_string());
        }
    }
    Ok(Some((disks, volumes)))
}

fn device_number(device: &Path) -> Option<DeviceNumber> {
    BlockDevice::look(device).ok()?.map(|device| device.number)
}

/// Whole disks below a partition or a mapped device.
fn disks_under(number: DeviceNumber) -> Vec<PathBuf> {
    let system = PathBuf::from(format!("/sys/dev/block/{}:{}", number.major, number.minor));
    let below: Vec<PathBuf> = fs::read_dir(system.join("slaves"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    if below.is_empty() {
        return Vec::from_iter(disk_of(&system));
    }
    below.iter().flat_map(|path| disk_of(path)).collect()
}

fn disk_of(system: &Path) -> Option<PathBuf> {
    let mut real = fs::canonicalize(system).ok()?;
    if real.join("partition").exists() {
        real.pop();
    }
    Some(Path::new("/dev").join(real.file_name()?))
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
        assert_eq!(firmware(&[volume]), Firmware::Uefi);
        assert_eq!(firmware(&[]), Firmware::Bios);
    }
}
