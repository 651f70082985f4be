//! The initial RAM file system must find the root disk on virtio hardware. It is made by the guest's own tool, with
//! drivers written to the tool's configuration so that future kernels have them too, and it is verified by reading it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use transfer::Result;

use crate::convert::draft::{Derived, Draft};
use crate::convert::enclosure::Enclosure;
use crate::convert::facts::{Generator, Kernel};
use crate::convert::initramfs_image::{module_name, modules, names};
use crate::convert::initramfs_tool::decompress;
use crate::convert::machine::{Machine, Volume};
use crate::convert::options::InitramfsMode;
use crate::convert::step::{Command, Context, Findings, Step};

/// Makes and verifies initial RAM file systems.
pub struct Initramfs;

/// Drivers of the target's disks and network.
const DRIVERS: &[&str] = &["virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net"];

impl Step for Initramfs {
    fn name(&self) -> &'static str {
        "initramfs"
    }

    fn plan(
        &self,
        context: &Context<'_>,
        draft: &mut Draft<'_>,
        findings: &mut Findings,
    ) -> Result<Vec<Command>> {
        if context.facts.kernels.is_empty() {
            findings.fatal(
                "no kernel with modules was found below /boot",
                "install the distribution's kernel package at the source and migrate again",
            );
            return Ok(Vec::new());
        }
        if context.options.initramfs == InitramfsMode::VerifyOnly {
            return Ok(Vec::new());
        }
        let Some(generator) = context.facts.generator else {
            if !lacking(context, draft, findings)?.is_empty() {
                findings.fatal(
                    "the guest has no tool to make an initial RAM file system",
                    "install dracut or initramfs-tools at the source and migrate again",
                );
            }
            return Ok(Vec::new());
        };
        configure(generator, draft)?;
        let stale = draft.stale().contains(&Derived::Initramfs);
        let kernels: Vec<&Kernel> = if stale {
            context.facts.kernels.iter().collect()
        } else {
            lacking(context, draft, findings)?
        };
        draft.made(Derived::Initramfs);
        let mut commands = Vec::new();
        for kernel in kernels {
            if can_boot(context.machine, draft, kernel)? {
                check_room(draft, kernel, findings);
                commands.push(Command {
                    argv: argv(generator, draft, kernel),
                    outputs: vec![kernel.initramfs.clone()],
                    makes: None,
                    required: true,
                    why: format!(
                        "initial RAM file system of {} with the target's drivers",
                        kernel.release
                    ),
                });
            }
        }
        if let Some(last) = commands.last_mut() {
            last.makes = Some(Derived::Initramfs);
        }
        Ok(commands)
    }

    fn verify(&self, context: &Context<'_>, draft: &Draft<'_>, findings: &mut Findings) -> Result<()> {
        let mut bootable = 0;
        for kernel in &context.facts.kernels {
            if !can_boot(context.machine, draft, kernel)? {
                findings.warn(
                    format!(
                        "kernel {} has no virtio drivers: it cannot boot on the target",
                        kernel.release
                    ),
                    "choose another kernel in the boot menu, or remove this one",
                );
                continue;
            }
            match missing(context, draft, kernel) {
                Ok(missing) if missing.is_empty() => bootable += 1,
                Ok(missing) => findings.warn(
                    format!("{} lacks {}", kernel.initramfs.display(), missing.join(", ")),
                    "make it again with the guest's own tool",
                ),
                Err(error) => findings.warn(
                    format!("{}: {}", kernel.initramfs.display(), crate::chain(&error)),
                    "make it again with the guest's own tool",
                ),
            }
        }
        let newest_is_good =
            context.facts.kernels.first().is_some_and(|kernel| {
                missing(context, draft, kernel).is_ok_and(|missing| missing.is_empty())
            });
        if bootable == 0 || !newest_is_good {
            findings.fatal(
                "the newest kernel cannot find its root file system on virtio hardware",
                "look at the warnings about initial RAM file systems above; at the source, install a kernel with virtio \
                 drivers and dracut or initramfs-tools",
            );
        }
        Ok(())
    }
}

/// Kernels whose image is missing, unreadable or without a driver.
fn lacking<'a>(context: &Context<'a>, draft: &Draft<'_>, findings: &mut Findings) -> Result<Vec<&'a Kernel>> {
    let mut lacking = Vec::new();
    for kernel in &context.facts.kernels {
        match missing(context, draft, kernel) {
            Ok(missing) if missing.is_empty() => {}
            Ok(missing) => {
                findings.note(format!(
                    "{} lacked {}",
                    kernel.initramfs.display(),
                    missing.join(", ")
                ));
                lacking.push(kernel);
            }
            Err(error) => {
                findings.note(format!(
                    "{}: {}",
                    kernel.initramfs.display(),
                    crate::chain(&error)
                ));
                lacking.push(kernel);
            }
        }
    }
    Ok(lacking)
}

/// Modules without which the root file system is not found, built-in ones included.
fn needed(machine: &Machine) -> BTreeSet<&'static str> {
    let mut needed = BTreeSet::from(["virtio_pci", "virtio_blk"]);
    let Some(root) = machine.mounted_at("/") else {
        return needed;
    };
    match root.kind.as_str() {
        "ext2" | "ext3" | "ext4" => needed.insert("ext4"),
        "xfs" => needed.insert("xfs"),
        "btrfs" => needed.insert("btrfs"),
        _ => false,
    };
    if needs_mapper(root) {
        needed.insert("dm_mod");
    }
    needed.extend(machine.volumes.iter().flatten().filter_map(|volume| {
        let is_below = volume == root || (volume.kind == "LVM2_member" && needs_mapper(root));
        is_below.then(|| raid_module(&volume.device)).flatten()
    }));
    needed
}

fn needs_mapper(volume: &Volume) -> bool {
    let device = &volume.device;
    device.starts_with("/dev/mapper") || device.to_string_lossy().starts_with("/dev/dm-")
}

/// The module of an array's level; none where the device is no array.
fn raid_module(device: &Path) -> Option<&'static str> {
    let name = device
        .strip_prefix("/dev")
        .ok()
        .filter(|name| name.to_string_lossy().starts_with("md"))?;
    let level = fs::read_to_string(Path::new("/sys/class/block").join(name).join("md/level")).ok()?;
    module_of_level(level.trim())
}

fn module_of_level(level: &str) -> Option<&'static str> {
    match level {
        "raid0" => Some("raid0"),
        "raid1" => Some("raid1"),
        "raid10" => Some("raid10"),
        "raid4" | "raid5" | "raid6" => Some("raid456"),
        _ => None,
    }
}

fn built_in(draft: &Draft<'_>, kernel: &Kernel) -> Result<BTreeSet<String>> {
    let text = draft
        .text(kernel.modules.join("modules.builtin"))?
        .unwrap_or_default();
    Ok(text.lines().filter_map(module_name).collect())
}

/// Whether the kernel's package has all that is needed, inside or as modules.
fn can_boot(machine: &Machine, draft: &Draft<'_>, kernel: &Kernel) -> Result<bool> {
    let text = draft
        .text(kernel.modules.join("modules.dep"))?
        .unwrap_or_default();
    let mut available: BTreeSet<String> = built_in(draft, kernel)?;
    available.extend(
        text.lines()
            .filter_map(|line| module_name(line.split(':').next()?)),
    );
    Ok(needed(machine).iter().all(|module| available.contains(*module)))
}

/// What is needed and neither built in nor in the image.
fn missing(context: &Context<'_>, draft: &Draft<'_>, kernel: &Kernel) -> Result<Vec<&'static str>> {
    let built_in = built_in(draft, kernel)?;
    let mut missing: Vec<&str> = needed(context.machine)
        .into_iter()
        .filter(|module| !built_in.contains(*module))
        .collect();
    let Some(image) = draft.read(&kernel.initramfs)? else {
        missing.push("the image itself");
        return Ok(missing);
    };
    let enclosure = Enclosure::new(draft.guest(), context.machine);
    let names = names(&image, &|compression, bytes| {
        decompress(&enclosure, compression, bytes)
    })?;
    let present = modules(&names);
    missing.retain(|module| !present.contains(*module));
    Ok(missing)
}

/// Tools write the new image beside the old one; a full `/boot` would leave the system with neither.
fn check_room(draft: &Draft<'_>, kernel: &Kernel, findings: &mut Findings) {
    const MARGIN: u64 = 8 * 1024 * 1024;
    /// An image of all drivers, when there is none to go by.
    const TYPICAL: u64 = 64 * 1024 * 1024;
    let guest = draft.guest();
    let Ok(place) = guest.locate(Path::new("/boot")) else {
        return;
    };
    let Ok(room) = rustix::fs::statvfs(guest.ours(&place)) else {
        return;
    };
    let available = room.f_bavail.saturating_mul(room.f_frsize);
    let needed = guest
        .metadata(&kernel.initramfs)
        .map_or(TYPICAL, |metadata| metadata.len() + metadata.len() / 4)
        + MARGIN;
    if available < needed {
        findings.fatal(
            format!(
                "/boot has {} MiB free, making {} needs {} MiB",
                available >> 20,
                kernel.initramfs.display(),
                needed >> 20
            ),
            "remove old kernels at the source and copy again",
        );
    }
}

/// Drivers in the tool's own configuration, so that kernels installed later boot too.
fn configure(generator: Generator, draft: &mut Draft<'_>) -> Result<()> {
    let why = "drivers of the target's hardware";
    match generator {
        Generator::Dracut => {
            let text = format!(
                "# Drivers of virtual machines.\nadd_drivers+=\" {} \"\n",
                DRIVERS.join(" ")
            );
            draft.write("/etc/dracut.conf.d/90-go2cloud.conf", text.as_bytes(), None, why)
        }
        Generator::InitramfsTools => {
            configure_modules(draft, why)?;
            if initramfs_tools_policy(draft)? != "most" {
                let text = b"# Drivers for other hardware too: this system was migrated.\nMODULES=most\n";
                draft.write(
                    "/etc/initramfs-tools/conf.d/zz-go2cloud",
                    text,
                    None,
                    "drivers for other hardware too",
                )?;
            }
            Ok(())
        }
        Generator::Mkinitcpio => draft.edit("/etc/mkinitcpio.conf", why, mkinitcpio_modules),
    }
}

fn configure_modules(draft: &mut Draft<'_>, why: &str) -> Result<()> {
    const FILE: &str = "/etc/initramfs-tools/modules";
    let text = draft.text(FILE)?.unwrap_or_default();
    let present: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| !word.starts_with('#'))
        .collect();
    let missing: Vec<&str> = DRIVERS
        .iter()
        .filter(|driver| !present.contains(*driver))
        .copied()
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let gap = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let added = format!("{text}{gap}{}\n", missing.join("\n"));
    draft.write(FILE, added.as_bytes(), None, why)
}

/// Effective value of `MODULES`; later files win.
fn initramfs_tools_policy(draft: &Draft<'_>) -> Result<String> {
    let mut policy = "most".to_owned();
    let mut files = vec!["/etc/initramfs-tools/initramfs.conf".to_owned()];
    files.extend(draft.files("/etc/initramfs-tools/conf.d", ""));
    for file in files {
        let text = draft.text(&file)?.unwrap_or_default();
        for (name, value) in text.lines().filter_map(crate::convert::facts::assignment) {
            if name == "MODULES" {
                policy = value;
            }
        }
    }
    Ok(policy)
}

fn mkinitcpio_modules(text: &str) -> String {
    super::fstab::each_line(text, |line| {
        let inner = line.strip_prefix("MODULES=(")?.strip_suffix(')')?;
        let mut words: Vec<&str> = inner.split_whitespace().collect();
        words.extend(
            DRIVERS
                .iter()
                .filter(|driver| !inner.split_whitespace().any(|word| word == **driver)),
        );
        Some(format!("MODULES=({})", words.join(" ")))
    })
}

fn argv(generator: Generator, draft: &Draft<'_>, kernel: &Kernel) -> Vec<String> {
    let image = kernel.initramfs.display().to_string();
    let release = kernel.release.as_str();
    let words: Vec<&str> = match generator {
        // Not the host's hardware: what runs this is another machine, or none.
        Generator::Dracut => vec!["dracut", "--force", "--no-hostonly", image.as_str(), release],
        Generator::InitramfsTools if draft.guest().exists(Path::new(&image)) => {
            vec!["update-initramfs", "-u", "-k", release]
        }
        Generator::InitramfsTools => vec!["update-initramfs", "-c", "-k", release],
        Generator::Mkinitcpio => vec!["mkinitcpio", "-k", release, "-g", image.as_str()],
    };
    words.into_iter().map(str::to_owned).collect()
}
