//! The machine that the guest will run on: its volumes, firmware and network interfaces, as far as they are known.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
pub use transfer::storage::volumes::Volume;

/// Firmware that starts the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// A boot sector is started.
    Bios,
    /// A program of the EFI system partition is started.
    Uefi,
}

/// A network interface that keeps its name on other hardware.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Its name at the source.
    pub name: String,
    /// Its address at the source, lower case with colons; unknown when empty.
    pub source_mac: String,
    /// Its address at the target, lower case with colons.
    pub target_mac: String,
}

/// All that is known about the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Volumes; `None` when they are not known (a plain directory is converted) and names cannot be checked.
    pub volumes: Option<Vec<Volume>>,
    /// The disk that a BIOS starts.
    pub boot_disk: Option<PathBuf>,
    /// Firmware.
    pub firmware: Firmware,
    /// Interfaces.
    pub pins: Vec<Pin>,
}

/// Outcome of looking up a name such as `UUID=…` or `/dev/sda1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution<'a> {
    /// The name stays right on the target.
    Stable(&'a Volume),
    /// The name depends on the hardware; this volume is meant.
    Unstable(&'a Volume),
    /// A name of a block device that does not exist at the target.
    Missing,
    /// No block device, or the volumes are not known: nothing to be said.
    Unknown,
}

impl Machine {
    /// Looks up the first field of an fstab line, or the value of `root=` and `resume=`.
    pub fn resolve(&self, name: &str) -> Resolution<'_> {
        let Some(volumes) = &self.volumes else {
            return Resolution::Unknown;
        };
        let name = name.replace('"', "");
        let by = |predicate: &dyn Fn(&Volume) -> bool| {
            volumes
                .iter()
                .find(|volume| predicate(volume))
                .map_or(Resolution::Missing, Resolution::Stable)
        };
        let matches = |value: &Option<String>, wanted: &str| {
            value
                .as_deref()
                .is_some_and(|value| value.eq_ignore_ascii_case(wanted))
        };
        if let Some((tag, wanted)) = tagged(&name) {
            return match tag {
                Tag::Uuid => by(&|volume| matches(&volume.uuid, wanted)),
                Tag::Label => by(&|volume| volume.label.as_deref() == Some(wanted)),
                Tag::PartitionUuid => by(&|volume| matches(&volume.partition_uuid, wanted)),
                Tag::PartitionLabel => by(&|volume| volume.partition_label.as_deref() == Some(wanted)),
            };
        }
        if let Some(position) = device_position(&name) {
            let found = volumes.iter().find(|volume| volume.position == Some(position));
            return found.map_or(Resolution::Missing, Resolution::Unstable);
        }
        if name.starts_with("/dev/disk/") {
            return Resolution::Missing;
        }
        // Arrays have names by what is written on their members, which does not change.
        let is_array = |volume: &Volume| volume.device.to_string_lossy().starts_with("/dev/md");
        if name.starts_with("/dev/md/") && volumes.iter().any(is_array) {
            return Resolution::Unknown;
        }
        if is_container_name(&name) {
            return by(&|volume| same_mapper_device(&volume.device, Path::new(&name)));
        }
        Resolution::Unknown
    }

    /// The volume that the guest mounts at `mount_point`.
    pub fn mounted_at(&self, mount_point: &str) -> Option<&Volume> {
        self.volumes
            .iter()
            .flatten()
            .find(|volume| volume.mounted_at.as_deref() == Some(mount_point))
    }
}

enum Tag {
    Uuid,
    Label,
    PartitionUuid,
    PartitionLabel,
}

fn tagged(name: &str) -> Option<(Tag, &str)> {
    let prefixes: [(&str, Tag); 8] = [
        ("UUID=", Tag::Uuid),
        ("/dev/disk/by-uuid/", Tag::Uuid),
        ("LABEL=", Tag::Label),
        ("/dev/disk/by-label/", Tag::Label),
        ("PARTUUID=", Tag::PartitionUuid),
        ("/dev/disk/by-partuuid/", Tag::PartitionUuid),
        ("PARTLABEL=", Tag::PartitionLabel),
        ("/dev/disk/by-partlabel/", Tag::PartitionLabel),
    ];
    prefixes
        .into_iter()
        .find_map(|(prefix, tag)| name.strip_prefix(prefix).map(|value| (tag, value)))
}

/// Disk number and partition number of a kernel device name: `/dev/sdb3` is (1, 3), `/dev/nvme0n1p2` is (0, 2).
pub fn device_position(name: &str) -> Option<(usize, u32)> {
    let name = name.strip_prefix("/dev/")?;
    let number = |text: &str| {
        if text.is_empty() {
            Some(0)
        } else {
            text.parse().ok()
        }
    };
    for prefix in ["xvd", "sd", "vd", "hd"] {
        let Some(rest) = name.strip_prefix(prefix) else {
            continue;
        };
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_lowercase()).len();
        if letters == 0 || letters > 2 {
            return None;
        }
        let disk = rest[..letters]
            .bytes()
            .fold(0, |disk, letter| disk * 26 + usize::from(letter - b'a') + 1);
        return Some((disk - 1, number(&rest[letters..])?));
    }
    let numbered = |rest: &str| -> Option<(usize, u32)> {
        let (disk, partition) = rest.split_once('p').unwrap_or((rest, ""));
        Some((disk.parse().ok()?, number(partition)?))
    };
    if let Some(rest) = name.strip_prefix("nvme") {
        let (controller, rest) = rest.split_once('n')?;
        let (_, partition) = rest.split_once('p').unwrap_or((rest, ""));
        return Some((controller.parse().ok()?, number(partition)?));
    }
    if let Some(rest) = name.strip_prefix("mmcblk") {
        return numbered(rest);
    }
    let rest = name.strip_prefix("cciss/c0d")?;
    numbered(rest)
}

/// Whether a name is one of LVM, device mapper or md: stable across hardware, but it has to exist.
fn is_container_name(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("/dev/") else {
        return false;
    };
    let parts = rest.split('/').count();
    rest.starts_with("mapper/") || rest.starts_with("md") || (parts == 2 && !is_special_folder(rest))
}

fn is_special_folder(rest: &str) -> bool {
    [
        "shm",
        "pts",
        "disk",
        "cciss",
        "bus",
        "fd",
        "input",
        "block",
        "char",
        "mqueue",
        "hugepages",
    ]
    .iter()
    .any(|folder| rest.split('/').next() == Some(folder))
}

/// `/dev/vg0/root` and `/dev/mapper/vg0-root` are the same; hyphens inside names are doubled in the latter.
fn same_mapper_device(ours: &Path, asked: &Path) -> bool {
    let mapper = |path: &Path| -> Option<String> {
        let rest = path.strip_prefix("/dev").ok()?.to_str()?;
        if let Some(name) = rest.strip_prefix("mapper/") {
            return Some(name.to_owned());
        }
        let (group, volume) = rest.split_once('/')?;
        Some(format!(
            "{}-{}",
            group.replace('-', "--"),
            volume.replace('-', "--")
        ))
    };
    ours == asked || (mapper(ours).is_some() && mapper(ours) == mapper(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_names_have_positions() {
        for (name, position) in [
            ("/dev/sda1", Some((0, 1))),
            ("/dev/sdb", Some((1, 0))),
            ("/dev/sdaa2", Some((26, 2))),
            ("/dev/xvda1", Some((0, 1))),
            ("/dev/hdc3", Some((2, 3))),
            ("/dev/nvme1n1p2", Some((1, 2))),
            ("/dev/mmcblk0p1", Some((0, 1))),
            ("/dev/cciss/c0d0p1", Some((0, 1))),
            ("/dev/cciss/c0d1", Some((1, 0))),
            ("/dev/sr0", None),
            ("/dev/mapper/vg-root", None),
            ("tmpfs", None),
        ] {
            assert_eq!(device_position(name), position, "{name}");
        }
    }

    #[test]
    fn names_are_resolved_or_not() {
        let root = Volume {
            device: "/dev/vda2".into(),
            uuid: Some("aaaa-BBBB".to_owned()),
            position: Some((0, 2)),
            ..Volume::default()
        };
        let home = Volume {
            device: "/dev/mapper/my--vg-home".into(),
            ..Volume::default()
        };
        let array = Volume {
            device: "/dev/md0".into(),
            ..Volume::default()
        };
        let mut machine = Machine {
            volumes: Some(vec![root.clone(), home.clone()]),
            boot_disk: None,
            firmware: Firmware::Bios,
            pins: Vec::new(),
        };
        assert_eq!(machine.resolve("UUID=\"AAAA-bbbb\""), Resolution::Stable(&root));
        assert_eq!(
            machine.resolve("/dev/disk/by-uuid/aaaa-BBBB"),
            Resolution::Stable(&root)
        );
        assert_eq!(machine.resolve("/dev/sda2"), Resolution::Unstable(&root));
        assert_eq!(machine.resolve("/dev/sda3"), Resolution::Missing);
        assert_eq!(machine.resolve("/dev/my-vg/home"), Resolution::Stable(&home));
        assert_eq!(machine.resolve("/dev/vg9/home"), Resolution::Missing);
        assert_eq!(machine.resolve("LABEL=x"), Resolution::Missing);
        assert_eq!(machine.resolve("tmpfs"), Resolution::Unknown);
        assert_eq!(machine.resolve("server:/export"), Resolution::Unknown);
        assert_eq!(machine.resolve("/dev/md/home"), Resolution::Missing);
        machine
            .volumes
            .iter_mut()
            .for_each(|volumes| volumes.push(array.clone()));
        assert_eq!(machine.resolve("/dev/md/home"), Resolution::Unknown);
        assert_eq!(machine.resolve("/dev/md0"), Resolution::Stable(&array));
        assert_eq!(machine.resolve("/dev/md1"), Resolution::Missing);
    }
}
