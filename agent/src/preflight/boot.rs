//! How the system boots: mode, boot loader, where the root file system is looked for.

use super::Finding;
use crate::inventory::{BootMode, Inventory, Machine, Style};

pub(super) fn check(machine: &Machine, inventory: &Inventory) -> Vec<Finding> {
    vec![
        mode(inventory),
        loader(machine),
        root_by(machine),
        one_boot_disk(inventory),
        fallback(machine, inventory),
        secure_boot(machine),
        gap(inventory),
        windows(inventory),
    ]
}

fn mode(inventory: &Inventory) -> Finding {
    let mode = inventory.hardware.boot_mode;
    Finding::info(
        "P20",
        "boot mode",
        format!("{}: choose a target that boots the same way", mode.name()),
    )
}

fn loader(machine: &Machine) -> Finding {
    let name = "boot loader";
    let known = [
        ("/boot/grub2/grub.cfg", "GRUB 2"),
        ("/boot/grub/grub.cfg", "GRUB 2"),
        ("/boot/efi/EFI", "EFI boot loaders"),
        ("/boot/loader/entries", "boot loader specification"),
        ("/boot/grub/menu.lst", "GRUB legacy"),
        ("/boot/grub/grub.conf", "GRUB legacy"),
    ];
    match known.iter().find(|(path, _)| machine.path(path).exists()) {
        Some((path, loader)) => Finding::pass("P21", name, format!("{loader} ({path})")),
        None => Finding::fail(
            "P21",
            name,
            "none that is known in /boot",
            "install GRUB: grub-install, or grub2-install",
        ),
    }
}

fn root_by(machine: &Machine) -> Finding {
    let name = "root device";
    let command_line = machine.text("/proc/cmdline").unwrap_or_default();
    let value = |key: &str| {
        command_line
            .split_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    };
    let unstable = |device: &&str| {
        ["/dev/sd", "/dev/hd", "/dev/xvd", "/dev/vd", "/dev/nvme"]
            .iter()
            .any(|start| device.starts_with(start))
    };
    let devices: Vec<&str> = ["root", "resume"]
        .iter()
        .filter_map(|key| value(key))
        .filter(unstable)
        .collect();
    if devices.is_empty() {
        Finding::pass(
            "P22",
            name,
            value("root").unwrap_or("not named on the kernel's command line"),
        )
    } else {
        Finding::warn(
            "P22",
            name,
            format!(
                "named by a device that may have another name on the target: {}",
                devices.join(", ")
            ),
            "use root=UUID=… (blkid tells it) in /etc/default/grub, then update-grub or grub2-mkconfig",
        )
        .auto_fixed()
    }
}

fn one_boot_disk(inventory: &Inventory) -> Finding {
    let name = "one boot disk";
    let disks: Vec<&str> = inventory
        .disks
        .iter()
        .filter(|disk| disk.partitions.iter().any(|partition| partition.bootable))
        .map(|disk| disk.device.as_str())
        .collect();
    if disks.len() > 1 {
        Finding::warn(
            "P23",
            name,
            format!("several disks can be booted: {}", disks.join(", ")),
            "make sure that the system disk is the one that the firmware starts",
        )
    } else {
        Finding::pass(
            "P23",
            name,
            disks.first().copied().unwrap_or("decided by the boot sector"),
        )
    }
}

fn fallback(machine: &Machine, inventory: &Inventory) -> Finding {
    let name = "EFI fallback loader";
    if inventory.hardware.boot_mode == BootMode::Bios {
        return Finding::pass("P24", name, "not needed with BIOS");
    }
    let there = [
        "/boot/efi/EFI/BOOT",
        "/boot/efi/EFI/Boot",
        "/efi/EFI/BOOT",
        "/boot/EFI/BOOT",
    ]
    .iter()
    .any(|folder| !machine.names(folder).is_empty());
    if there {
        Finding::pass("P24", name, "EFI/BOOT is there")
    } else {
        let remedy = "grub-install --removable, or copy shim and GRUB to EFI/BOOT: entries of the firmware do not travel";
        Finding::warn("P24", name, "EFI/BOOT is missing", remedy).auto_fixed()
    }
}

pub(super) fn secure_boot(machine: &Machine) -> Finding {
    let name = "Secure Boot";
    let variable = machine
        .names("/sys/firmware/efi/efivars")
        .into_iter()
        .find(|name| name.starts_with("SecureBoot-"));
    let on = variable
        .and_then(|name| std::fs::read(machine.path(&format!("/sys/firmware/efi/efivars/{name}"))).ok())
        .is_some_and(|bytes| bytes.get(4) == Some(&1));
    let foreign = modules_from_outside(machine);
    if on && !foreign.is_empty() {
        Finding::warn(
            "P25",
            name,
            format!(
                "on, with modules that are not the kernel's: {}",
                foreign.join(", ")
            ),
            "enrol their keys at the target (mokutil --import KEY), or turn Secure Boot off there",
        )
    } else if on {
        Finding::warn(
            "P25",
            name,
            "on",
            "choose a target with Secure Boot and the same keys, or turn it off there",
        )
    } else {
        Finding::pass("P25", name, "off")
    }
}

/// Loaded modules that were not built with the kernel: /proc/modules marks them with an O between parentheses.
fn modules_from_outside(machine: &Machine) -> Vec<String> {
    let modules = machine.text("/proc/modules").unwrap_or_default();
    let foreign = modules.lines().filter_map(|line| {
        let (rest, taints) = line.trim_end().strip_suffix(')')?.rsplit_once('(')?;
        let name = rest.split(' ').next()?;
        taints.contains('O').then(|| name.to_owned())
    });
    foreign.collect()
}

fn gap(inventory: &Inventory) -> Finding {
    let name = "room for the boot loader";
    let first = inventory
        .disks
        .first()
        .and_then(|disk| Some((disk, disk.partitions.first()?)));
    let Some((disk, first)) = first else {
        return Finding::info("P26", name, "the system disk has no partitions");
    };
    if disk.style == Some(Style::Mbr)
        && inventory.hardware.boot_mode == BootMode::Bios
        && first.start < 1 << 20
    {
        let remedy = "block-level migration keeps it as it is; file-level migration lays the disk out anew";
        return Finding::warn(
            "P26",
            name,
            format!("{} bytes before the first partition", first.start),
            remedy,
        )
        .auto_fixed();
    }
    Finding::pass("P26", name, format!("first partition at {} bytes", first.start))
}

fn windows(inventory: &Inventory) -> Finding {
    let name = "no second system";
    let ntfs = inventory
        .disks
        .iter()
        .flat_map(|disk| &disk.partitions)
        .find(|partition| partition.file_system.as_deref() == Some("ntfs"));
    match ntfs {
        Some(partition) => Finding::warn(
            "P27",
            name,
            format!("{} holds NTFS: a Windows beside this system?", partition.device),
            "only this Linux system is made to start at the target",
        ),
        None => Finding::pass("P27", name, "no Windows file systems"),
    }
}
