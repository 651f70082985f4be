//! Finds out what lies on disks: which volumes a directory's mounts come from, and which firmware they are made for.

use std::fs;
use std::path::{Path, PathBuf};

use sys::block_device::{BlockDevice, DeviceNumber};
use sys::mounts::Mount;
pub use transfer::storage::volumes::{lvm_report, tool, volume_group, volumes};
use transfer::{Error, Result};

use super::machine::{Firmware, Volume};

/// GUID of the partition that holds GRUB's core image for a BIOS.
const BIOS_BOOT: &str = "21686148-6449-6e6f-744e-656564454649";
/// GUID of the EFI system partition.
const EFI_SYSTEM: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";

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
    fn an_efi_system_partition_is_for_uefi_unless_there_is_one_for_a_bios() {
        let volume = |kind: &str| Volume {
            partition_type: Some(kind.to_owned()),
            ..Volume::default()
        };
        let (efi, bios) = (volume("C12A7328-F81F-11D2-BA4B-00A0C93EC93B"), volume(BIOS_BOOT));
        assert_eq!(firmware(std::slice::from_ref(&efi)), Firmware::Uefi);
        assert_eq!(firmware(&[efi, bios]), Firmware::Bios);
        assert_eq!(firmware(&[]), Firmware::Bios);
    }
}
