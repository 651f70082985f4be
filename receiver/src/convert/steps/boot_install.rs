//! The part of the boot loader that lies outside of the guest's file systems. For a BIOS: boot sector and core image
//! on the boot disk. For UEFI: the path that firmware without memory of this disk tries, because entries in the
//! source's firmware do not travel.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use transfer::{Error, Result};

use crate::convert::draft::Draft;
use crate::convert::facts::{Architecture, Family, Grub};
use crate::convert::machine::Firmware;
use crate::convert::options::BootloaderMode;
use crate::convert::step::{Command, Context, Findings, Step};

/// Installs and verifies the boot loader's first stage.
pub struct BootInstall;

const SECTOR_LEN: u64 = 512;
/// Where distributions keep what GRUB is put together from: Debian and Red Hat, SUSE 15, SUSE 12.
const PARTS: &[&str] = &["/usr/lib/grub", "/usr/share/grub2", "/usr/lib/grub2"];
const SYSTEM_PARTITIONS: &[&str] = &["/boot/efi", "/efi", "/boot"];

impl Step for BootInstall {
    fn name(&self) -> &'static str {
        "boot-install"
    }

    fn plan(
        &self,
        context: &Context<'_>,
        draft: &mut Draft<'_>,
        findings: &mut Findings,
    ) -> Result<Vec<Command>> {
        let Some(grub) = context.facts.grub.as_ref() else {
            return Ok(Vec::new());
        };
        if context.options.bootloader == BootloaderMode::Skip {
            return Ok(Vec::new());
        }
        match context.machine.firmware {
            Firmware::Bios => plan_bios(context, draft, grub, findings),
            Firmware::Uefi => plan_uefi(context, draft, grub, findings),
        }
    }

    fn verify(&self, context: &Context<'_>, draft: &Draft<'_>, findings: &mut Findings) -> Result<()> {
        match (context.machine.firmware, &context.machine.boot_disk) {
            (Firmware::Bios, Some(disk)) => {
                if let Some(fault) = wrong_with_boot_sector(disk)? {
                    findings.fatal(
                        format!("{}: {fault}", disk.display()),
                        "convert again with --bootloader reinstall",
                    );
                }
            }
            (Firmware::Bios, None) => findings.note("the boot sector was not checked: no disk was given"),
            (Firmware::Uefi, _) => verify_fallback(context, draft, findings)?,
        }
        Ok(())
    }
}

fn plan_bios(
    context: &Context<'_>,
    draft: &mut Draft<'_>,
    grub: &Grub,
    findings: &mut Findings,
) -> Result<Vec<Command>> {
    let Some(disk) = &context.machine.boot_disk else {
        return Ok(Vec::new());
    };
    let fault = wrong_with_boot_sector(disk)?;
    if fault.is_none() && context.options.bootloader == BootloaderMode::Auto {
        return Ok(Vec::new());
    }
    let Some(install) = grub.install.as_ref().filter(|_| has_parts(draft, "i386-pc")) else {
        findings.fatal(
            "the guest has no GRUB for BIOS to install",
            "install grub-pc-bin or grub2-pc-modules at the source and migrate again, or use UEFI at the target",
        );
        return Ok(Vec::new());
    };
    let installed = grub.folder.join("i386-pc");
    let outputs = draft
        .list(&installed)
        .into_iter()
        .map(|name| installed.join(name))
        .collect();
    Ok(vec![Command {
        argv: [
            &install.display().to_string(),
            "--target=i386-pc",
            "--recheck",
            "--no-floppy",
            &disk.display().to_string(),
        ]
        .map(str::to_owned)
        .to_vec(),
        outputs,
        makes: None,
        required: true,
        why: fault.unwrap_or_else(|| "asked for".to_owned()),
    }])
}

fn has_parts(draft: &Draft<'_>, target: &str) -> bool {
    PARTS
        .iter()
        .any(|folder| draft.exists(format!("{folder}/{target}")))
}

/// What keeps a BIOS from starting GRUB from this disk. The first sector holds where the core image begins.
fn wrong_with_boot_sector(disk: &Path) -> Result<Option<String>> {
    let failed = |error| Error::io("read the boot sector", disk, error);
    let file = File::open(disk).map_err(failed)?;
    let mut sector = [0u8; SECTOR_LEN as usize];
    file.read_exact_at(&mut sector, 0).map_err(failed)?;
    if sector[510..] != [0x55, 0xaa] {
        return Ok(Some("the first sector is no boot sector".to_owned()));
    }
    if !sector[..440].windows(4).any(|window| window == b"GRUB") {
        return Ok(Some("the boot sector is not GRUB's".to_owned()));
    }
    let mut field = [0u8; 8];
    field.copy_from_slice(&sector[0x5c..0x64]);
    let mut core = [0u8; SECTOR_LEN as usize];
    let Some(start) = u64::from_le_bytes(field)
        .checked_mul(SECTOR_LEN)
        .filter(|start| *start > 0)
    else {
        return Ok(Some(
            "the boot sector does not say where the core image is".to_owned(),
        ));
    };
    match file.read_exact_at(&mut core, start) {
        Ok(()) if core.iter().any(|byte| *byte != 0) => Ok(None),
        Ok(()) => Ok(Some("GRUB's core image is missing".to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(Some(
            "GRUB's core image lies behind the end of the disk".to_owned(),
        )),
        Err(error) => Err(failed(error)),
    }
}

fn fallback_name(architecture: Architecture) -> &'static str {
    if architecture == Architecture::Aarch64 {
        "BOOTAA64.EFI"
    } else {
        "BOOTX64.EFI"
    }
}

fn system_partition(draft: &Draft<'_>) -> Option<&'static str> {
    SYSTEM_PARTITIONS
        .iter()
        .copied()
        .find(|folder| entry(draft, folder, "EFI").is_some())
}

/// A name of a file system that ignores case.
fn entry(draft: &Draft<'_>, folder: &str, name: &str) -> Option<String> {
    draft
        .list(folder)
        .into_iter()
        .find(|present| present.eq_ignore_ascii_case(name))
        .map(|name| format!("{folder}/{name}"))
}

fn fallback(draft: &Draft<'_>, partition: &str, architecture: Architecture) -> Option<String> {
    let folder = entry(draft, &entry(draft, partition, "EFI")?, "BOOT")?;
    entry(draft, &folder, fallback_name(architecture))
}

fn plan_uefi(
    context: &Context<'_>,
    draft: &mut Draft<'_>,
    grub: &Grub,
    findings: &mut Findings,
) -> Result<Vec<Command>> {
    let architecture = context.facts.architecture;
    let Some(partition) = system_partition(draft).or(draft.exists("/boot/efi").then_some("/boot/efi")) else {
        findings.fatal(
            "the EFI system partition is not mounted",
            "name all disks of the system; its partition must be in /etc/fstab",
        );
        return Ok(Vec::new());
    };
    let present = fallback(draft, partition, architecture);
    if present.is_some() && context.options.bootloader == BootloaderMode::Auto {
        return Ok(Vec::new());
    }
    if copy_vendor_loader(draft, partition, architecture)? {
        return Ok(Vec::new());
    }
    let target = if architecture == Architecture::Aarch64 {
        "arm64-efi"
    } else {
        "x86_64-efi"
    };
    let can_install = context.facts.family != Family::RedHat && has_parts(draft, target);
    let Some(install) = grub.install.as_ref().filter(|_| can_install) else {
        findings.fatal(
            "the EFI system partition has no boot loader, and the guest none to install",
            "install shim and GRUB for UEFI (grub2-efi-x64 and shim-x64, or grub-efi-amd64) at the source and migrate again",
        );
        return Ok(Vec::new());
    };
    Ok(vec![Command {
        argv: vec![
            install.display().to_string(),
            format!("--target={target}"),
            format!("--efi-directory={partition}"),
            "--removable".to_owned(),
            "--no-nvram".to_owned(),
        ],
        outputs: Vec::new(),
        makes: None,
        required: true,
        why: "firmware finds this path without an entry of its own".to_owned(),
    }])
}

/// Copies the distribution's signed loaders to the path that firmware tries; no tool has to run, and Secure Boot keeps
/// working.
fn copy_vendor_loader(draft: &mut Draft<'_>, partition: &str, architecture: Architecture) -> Result<bool> {
    let Some(root) = entry(draft, partition, "EFI") else {
        return Ok(false);
    };
    // SUSE's have no processor in their names, and look for each other by these.
    let (shims, grubs, others): (&[&str], &[&str], &[&str]) = match architecture {
        Architecture::Aarch64 => (
            &["shimaa64.efi", "shim.efi"],
            &["grubaa64.efi", "grub.efi"],
            &["mmaa64.efi"],
        ),
        _ => (
            &["shimx64.efi", "shim.efi"],
            &["grubx64.efi", "grub.efi"],
            &["mmx64.efi"],
        ),
    };
    let why = "firmware finds this path without an entry of its own";
    for vendor in draft
        .list(&root)
        .into_iter()
        .filter(|name| !name.eq_ignore_ascii_case("BOOT"))
    {
        let folder = format!("{root}/{vendor}");
        let first = |names: &[&str]| names.iter().find_map(|name| entry(draft, &folder, name));
        let Some(grub) = first(grubs) else { continue };
        let loader = first(shims).unwrap_or(grub);
        let target = entry(draft, &root, "BOOT").unwrap_or_else(|| format!("{root}/BOOT"));
        let bytes = draft.read(&loader)?.unwrap_or_default();
        draft.write(
            format!("{target}/{}", fallback_name(architecture)),
            &bytes,
            Some(0o755),
            why,
        )?;
        let both = ["MokManager.efi", "grub.cfg"];
        for name in grubs.iter().chain(others).chain(&both) {
            if let Some(source) = entry(draft, &folder, name) {
                let bytes = draft.read(&source)?.unwrap_or_default();
                draft.write(format!("{target}/{name}"), &bytes, Some(0o755), why)?;
            }
        }
        return Ok(true);
    }
    Ok(false)
}

fn verify_fallback(context: &Context<'_>, draft: &Draft<'_>, findings: &mut Findings) -> Result<()> {
    let architecture = context.facts.architecture;
    let path = system_partition(draft).and_then(|partition| fallback(draft, partition, architecture));
    let Some(path) = path else {
        findings.fatal(
            format!("EFI/BOOT/{} is missing", fallback_name(architecture)),
            "convert again with --bootloader reinstall and all disks of the system",
        );
        return Ok(());
    };
    let bytes = draft.read(&path)?.unwrap_or_default();
    let wanted = if architecture == Architecture::Aarch64 {
        0xaa64
    } else {
        0x8664
    };
    if executable_machine(&bytes) != Some(wanted) {
        findings.fatal(
            format!("{path} is no UEFI program for this processor"),
            "convert again with --bootloader reinstall",
        );
    }
    Ok(())
}

/// Processor of a PE program.
fn executable_machine(bytes: &[u8]) -> Option<u16> {
    if !bytes.starts_with(b"MZ") {
        return None;
    }
    let offset: [u8; 4] = bytes.get(0x3c..0x40)?.try_into().ok()?;
    let start = usize::try_from(u32::from_le_bytes(offset)).ok()?;
    let header = bytes.get(start..start.checked_add(6)?)?;
    header
        .starts_with(b"PE\0\0")
        .then(|| u16::from_le_bytes([header[4], header[5]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_sectors_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        let mut bytes = vec![0u8; 4096];
        let wrong = |bytes: &[u8]| {
            std::fs::write(&disk, bytes).unwrap();
            wrong_with_boot_sector(&disk).unwrap()
        };
        assert!(wrong(&bytes).unwrap().contains("no boot sector"));
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert!(wrong(&bytes).unwrap().contains("not GRUB"));
        bytes[0x180..0x184].copy_from_slice(b"GRUB");
        assert!(wrong(&bytes).unwrap().contains("does not say"));
        bytes[0x5c] = 1;
        assert!(wrong(&bytes).unwrap().contains("missing"));
        bytes[512] = 7;
        assert_eq!(wrong(&bytes), None);
        bytes[0x5d] = 1;
        assert!(wrong(&bytes).unwrap().contains("behind the end"));
    }

    #[test]
    fn programs_of_other_processors_are_told_apart() {
        let mut bytes = vec![0u8; 0x90];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c] = 0x80;
        bytes[0x80..0x86].copy_from_slice(b"PE\0\0\x64\x86");
        assert_eq!(executable_machine(&bytes), Some(0x8664));
        assert_eq!(executable_machine(&bytes[..0x84]), None);
        assert_eq!(executable_machine(b"\x7fELF"), None);
    }
}
