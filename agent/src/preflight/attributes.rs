//! Attributes beyond mode and owner: what a migration has to carry, and what would stop the target's conversion.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use sys::inode_flags;
use walkdir::WalkDir;

use super::Finding;
use crate::inventory::Machine;

/// Files that the target's conversion edits.
const EDITED: [&str; 9] = [
    "/etc/fstab",
    "/etc/default/grub",
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/etc/initramfs-tools/modules",
    "/etc/machine-id",
    "/etc/lvm/devices/system.devices",
    "/etc/network/interfaces",
    "/etc/resolv.conf",
];
/// Places where attributes are usual, and entries looked at in each.
const SAMPLED: [&str; 4] = ["/etc", "/usr/bin", "/usr/sbin", "/var/log"];
const SAMPLE_MAX: usize = 2000;

pub(super) fn check(machine: &Machine) -> Finding {
    let name = "special attributes";
    let locked: Vec<&str> = EDITED
        .into_iter()
        .filter(|path| is_locked(&machine.path(path)))
        .collect();
    if !locked.is_empty() {
        return Finding::warn(
            "P43",
            name,
            format!(
                "immutable, though the target has to edit it: {}",
                locked.join(", ")
            ),
            format!("chattr -i -a {}", locked.join(" ")),
        );
    }
    let (mut seen, mut immutable, mut listed, mut capable) = (0, 0, 0, 0);
    for place in SAMPLED {
        let entries = WalkDir::new(machine.path(place)).same_file_system(true);
        for entry in entries.into_iter().flatten().take(SAMPLE_MAX) {
            seen += 1;
            if !entry.file_type().is_file() {
                continue;
            }
            immutable += u32::from(is_locked(entry.path()));
            listed += u32::from(has(entry.path(), "system.posix_acl_access"));
            capable += u32::from(has(entry.path(), "security.capability"));
        }
    }
    Finding::info(
        "P43",
        name,
        format!(
            "all are migrated; of {seen} entries looked at: {immutable} immutable, {listed} with ACLs, {capable} with capabilities"
        ),
    )
}

fn is_locked(path: &Path) -> bool {
    let flags = File::open(path)
        .ok()
        .and_then(|file| inode_flags::get(file.as_fd()).ok().flatten());
    flags.is_some_and(|flags| flags & (inode_flags::IMMUTABLE | inode_flags::APPEND) != 0)
}

fn has(path: &Path, attribute: &str) -> bool {
    let mut nothing: [u8; 0] = [];
    rustix::fs::lgetxattr(path, attribute, &mut nothing[..]).is_ok_and(|len| len > 0)
}
