//! Layouts that cannot be migrated, or not in every way; each is named.

use super::Finding;
use crate::inventory::mounts::{self, Mount};
use crate::inventory::{Inventory, Machine, Style};

/// File systems above this size, in bytes, are not to be had everywhere: 16 TiB.
const LARGE: u64 = 16 << 40;

/// Disks that clouds attach to one instance.
const DISKS_MAX: usize = 21;

pub(super) fn check(machine: &Machine, inventory: &Inventory) -> Vec<Finding> {
    let mounts = mounts::mounts(machine);
    vec![
        tables(inventory),
        file_systems(inventory, &mounts),
        encryption(inventory),
        volume_manager(machine, inventory),
        arrays(machine),
        shared(machine, inventory, &mounts),
        network_mounts(&mounts),
        count(inventory),
        sectors(inventory),
    ]
}

/// Largest disk that an MBR describes: 2^32 sectors of 512 bytes.
const MBR_BYTES_MAX: u64 = 2 << 40;

fn tables(inventory: &Inventory) -> Finding {
    let name = "partition tables";
    let disks = || inventory.disks.iter();
    let unknown: Vec<&str> = disks()
        .filter(|disk| disk.style.is_none() && !disk.partitions.is_empty())
        .map(|disk| disk.device.as_str())
        .collect();
    let large: Vec<&str> = disks()
        .filter(|disk| disk.style == Some(Style::Mbr) && disk.bytes > MBR_BYTES_MAX)
        .map(|disk| disk.device.as_str())
        .collect();
    if !unknown.is_empty() {
        let remedy = "only MBR and GPT are known: exclude the disk, or move its content to one with GPT";
        Finding::fail(
            "P30",
            name,
            format!("of another kind: {}", unknown.join(", ")),
            remedy,
        )
    } else if !large.is_empty() {
        let remedy = "an MBR reaches 2 TiB only: what lies behind is not used on the target either; sgdisk --mbrtogpt makes a GPT of it";
        Finding::warn(
            "P30",
            name,
            format!("MBR on more than 2 TiB: {}", large.join(", ")),
            remedy,
        )
    } else {
        Finding::pass("P30", name, "MBR or GPT")
    }
}

fn contents(inventory: &Inventory) -> impl Iterator<Item = (&str, &str)> {
    inventory.disks.iter().flat_map(|disk| {
        let parts = disk
            .partitions
            .iter()
            .map(|part| (part.device.as_str(), part.file_system.as_deref()));
        let whole = std::iter::once((disk.device.as_str(), disk.file_system.as_deref()));
        whole
            .chain(parts)
            .filter_map(|(device, content)| Some((device, content?)))
    })
}

fn with(inventory: &Inventory, kinds: &[&str]) -> Vec<String> {
    contents(inventory)
        .filter(|(_, content)| kinds.contains(content))
        .map(|(device, content)| format!("{device} ({content})"))
        .collect()
}

fn file_systems(inventory: &Inventory, mounts: &[Mount]) -> Finding {
    let name = "file systems";
    let mut bad = with(inventory, &["zfs_member", "bcachefs"]);
    bad.extend(
        mounts
            .iter()
            .filter(|mount| mount.file_system == "zfs")
            .map(|mount| format!("{} (zfs)", mount.point.display())),
    );
    let odd = with(inventory, &["reiserfs", "jfs", "f2fs"]);
    if !bad.is_empty() {
        Finding::fail(
            "P31",
            name,
            bad.join(", "),
            "exclude these, or move their content to ext4, xfs or btrfs first",
        )
    } else if !odd.is_empty() {
        let remedy = "file-level migration makes ext4 of them; block-level migration keeps them";
        Finding::warn("P31", name, odd.join(", "), remedy).auto_fixed()
    } else {
        Finding::pass("P31", name, "all known")
    }
}

fn encryption(inventory: &Inventory) -> Finding {
    let name = "encrypted volumes";
    let found = with(inventory, &["crypto_LUKS"]);
    if found.is_empty() {
        Finding::pass("P32", name, "none")
    } else {
        let remedy = "migrate block by block, with a passphrase at hand: a key sealed in this machine's TPM does not travel";
        Finding::warn("P32", name, found.join(", "), remedy)
    }
}

fn volume_manager(machine: &Machine, inventory: &Inventory) -> Finding {
    let name = "logical volumes";
    let mut special = Vec::new();
    for device in machine
        .names("/sys/block")
        .into_iter()
        .filter(|name| name.starts_with("dm-"))
    {
        let uuid = machine
            .text(&format!("/sys/block/{device}/dm/uuid"))
            .unwrap_or_default();
        let kind = ["-tpool", "-tdata", "-cpool", "-cdata", "-vpool", "-vdata"]
            .iter()
            .any(|end| uuid.ends_with(end));
        if kind {
            special.push(
                machine
                    .text(&format!("/sys/block/{device}/dm/name"))
                    .unwrap_or(device),
            );
        }
    }
    let members = with(inventory, &["LVM2_member"]);
    if !special.is_empty() {
        let remedy =
            "file-level migration cannot make thin, cached or deduplicated volumes: migrate block by block";
        Finding::warn("P33", name, special.join(", "), remedy)
    } else if members.is_empty() {
        Finding::pass("P33", name, "none")
    } else {
        Finding::pass("P33", name, members.join(", "))
    }
}

fn arrays(machine: &Machine) -> Finding {
    let name = "software RAID";
    let text = machine.text("/proc/mdstat").unwrap_or_default();
    let arrays: Vec<&str> = text.lines().filter(|line| line.contains(" : active")).collect();
    // The state line of an array shows a missing member as `_`, as in [U_].
    let state = |line: &str| {
        line.rsplit('[')
            .next()
            .is_some_and(|end| end.contains('_') && end.ends_with(']'))
    };
    if text.lines().any(|line| state(line.trim_end())) {
        Finding::warn(
            "P34",
            name,
            "an array is degraded",
            "mdadm --detail tells which; repair it before migrating",
        )
    } else if arrays.is_empty() {
        Finding::pass("P34", name, "none")
    } else {
        Finding::pass("P34", name, format!("{} arrays, complete", arrays.len()))
    }
}

fn shared(machine: &Machine, inventory: &Inventory, mounts: &[Mount]) -> Finding {
    let name = "shared storage";
    let clustered: Vec<String> = mounts
        .iter()
        .filter(|mount| ["ocfs2", "gfs2", "gfs", "lustre", "vmfs"].contains(&mount.file_system.as_str()))
        .map(|mount| format!("{} ({})", mount.point.display(), mount.file_system))
        .collect();
    let multipath: Vec<&str> = inventory
        .disks
        .iter()
        .filter(|disk| {
            disk.block_obstacles
                .iter()
                .any(|obstacle| obstacle.contains("multipath"))
        })
        .map(|disk| disk.device.as_str())
        .collect();
    let sessions = machine.names("/sys/class/iscsi_session");
    if !clustered.is_empty() {
        Finding::fail(
            "P35",
            name,
            clustered.join(", "),
            "exclude it and attach it to the target by itself",
        )
    } else if !multipath.is_empty() || !sessions.is_empty() {
        let seen = format!(
            "multipath: {}; iSCSI sessions: {}",
            multipath.join(", "),
            sessions.len()
        );
        Finding::warn("P35", name, seen, "exclude what the target is to reach by itself")
    } else {
        Finding::pass("P35", name, "none")
    }
}

fn network_mounts(mounts: &[Mount]) -> Finding {
    let name = "network file systems";
    let network = [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "ceph",
        "glusterfs",
        "fuse.sshfs",
        "9p",
    ];
    let found: Vec<String> = mounts
        .iter()
        .filter(|mount| network.contains(&mount.file_system.as_str()))
        .map(|mount| mount.point.display().to_string())
        .collect();
    if found.is_empty() {
        Finding::pass("P36", name, "none")
    } else {
        Finding::info("P36", name, format!("not migrated: {}", found.join(", ")))
    }
}

fn count(inventory: &Inventory) -> Finding {
    let name = "disks";
    let list: Vec<String> = inventory
        .disks
        .iter()
        .map(|disk| format!("{} {}", disk.device, crate::units::bytes(disk.bytes)))
        .collect();
    let partitions = inventory.disks.iter().flat_map(|disk| &disk.partitions);
    let too_large: Vec<&str> = partitions
        .filter(|partition| partition.bytes > LARGE && partition.file_system.is_some())
        .map(|partition| partition.device.as_str())
        .collect();
    match inventory.disks.len() {
        0 => Finding::fail(
            "P37",
            name,
            "none is visible",
            "run it on the machine itself, as root",
        ),
        found if found > DISKS_MAX => Finding::warn(
            "P37",
            name,
            format!("{found} disks"),
            "few instances take more than 21: migrate in parts",
        ),
        _ if !too_large.is_empty() => Finding::warn(
            "P37",
            name,
            format!("more than 16 TiB: {}", too_large.join(", ")),
            "make sure that the target offers volumes of that size; ext4 without the feature 64bit ends at 16 TiB",
        ),
        _ => Finding::pass("P37", name, list.join(", ")),
    }
}

fn sectors(inventory: &Inventory) -> Finding {
    let name = "sector size";
    let large: Vec<&str> = inventory
        .disks
        .iter()
        .filter(|disk| disk.sector_bytes != 512)
        .map(|disk| disk.device.as_str())
        .collect();
    if large.is_empty() {
        Finding::pass("P38", name, "512 bytes")
    } else {
        let remedy = "file-level migration does not mind; block-level migration needs a target disk with the same sectors";
        Finding::warn(
            "P38",
            name,
            format!("not 512 bytes: {}", large.join(", ")),
            remedy,
        )
    }
}
