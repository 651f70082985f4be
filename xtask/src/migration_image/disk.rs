//! A disk image that boots by BIOS and by UEFI, written without root: a GPT with a BIOS boot partition for GRUB's core
//! image and an EFI system partition with everything else.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::run;

const SECTOR_LEN: u64 = 512;
/// First sector of the BIOS boot partition, and its length.
const CORE: (u64, u64) = (2048, 2048);
/// First sector of the EFI system partition.
const SYSTEM: u64 = 4096;
const LABEL: &str = "GO2CLOUD";

const MENU: &str = "serial --unit=0 --speed=115200\n\
    terminal_input serial console\n\
    terminal_output serial console\n\
    set timeout=1\n\
    menuentry 'go2cloud migration mode' {\n\
      linux /vmlinuz console=tty0 console=ttyS0,115200n8 quiet panic=30\n\
      initrd /initrd.zst\n\
    }\n";
const MODULES: &[&str] = &[
    "part_gpt",
    "part_msdos",
    "fat",
    "search",
    "search_label",
    "configfile",
    "normal",
    "linux",
    "boot",
    "serial",
    "terminal",
    "echo",
    "test",
];

/// Writes `disk.img` from `vmlinuz` and `initrd.zst` of the same folder.
pub(super) fn write(folder: &Path) -> Result<()> {
    let image = folder.join("disk.img");
    let content =
        fs::metadata(folder.join("vmlinuz"))?.len() + fs::metadata(folder.join("initrd.zst"))?.len();
    // FAT32 takes at least 33 MiB; room for settings to be added by hand.
    let system_len = (content + (24 << 20)).max(48 << 20).next_multiple_of(1 << 20);
    let file = fs::File::create(&image)?;
    file.set_len(SYSTEM * SECTOR_LEN + system_len + (1 << 20))?;
    drop(file);
    let script = folder.join("disk.sfdisk");
    fs::write(
        &script,
        format!(
            "label: gpt\nstart={}, size={}, type=21686148-6449-6E6F-744E-656564454649\nstart={SYSTEM}, size={}, type=U\n",
            CORE.0,
            CORE.1,
            system_len / SECTOR_LEN
        ),
    )?;
    run(Command::new("sfdisk")
        .arg("-q")
        .arg(&image)
        .stdin(fs::File::open(&script)?))?;
    let early = folder.join("early.cfg");
    fs::write(
        &early,
        format!(
            "search --no-floppy --label --set=root {LABEL}\nset prefix=($root)/\nconfigfile ($root)/grub.cfg\n"
        ),
    )?;
    fs::write(folder.join("grub.cfg"), MENU)?;
    let make = |format: &str, name: &str, more: &[&str]| {
        let mut command = Command::new("grub-mkimage");
        command
            .args(["-O", format, "-p", "/", "-c"])
            .arg(&early)
            .arg("-o")
            .arg(folder.join(name));
        run(command.args(MODULES).args(more))
    };
    make("x86_64-efi", "BOOTX64.EFI", &[])?;
    make("i386-pc", "core.img", &["biosdisk"])?;
    fill_system_partition(folder, &image, system_len)?;
    install_core(folder, &image)?;
    for name in ["disk.sfdisk", "early.cfg", "grub.cfg", "BOOTX64.EFI", "core.img"] {
        fs::remove_file(folder.join(name))?;
    }
    Ok(())
}

fn fill_system_partition(folder: &Path, image: &Path, len: u64) -> Result<()> {
    let place = format!("{}@@{}", image.display(), SYSTEM * SECTOR_LEN);
    let sectors = (len / SECTOR_LEN).to_string();
    run(Command::new("mformat").args([
        "-i", &place, "-F", "-v", LABEL, "-T", &sectors, "-h", "64", "-s", "32", "::",
    ]))?;
    run(Command::new("mmd").args(["-i", &place, "::EFI", "::EFI/BOOT"]))?;
    for (name, target) in [
        ("BOOTX64.EFI", "::EFI/BOOT/BOOTX64.EFI"),
        ("grub.cfg", "::grub.cfg"),
        ("vmlinuz", "::vmlinuz"),
        ("initrd.zst", "::initrd.zst"),
    ] {
        run(Command::new("mcopy")
            .args(["-i", &place])
            .arg(folder.join(name))
            .arg(target))?;
    }
    Ok(())
}

/// Writes GRUB's boot sector and core image, as `grub-install` would, by the offsets of GRUB's own source: the boot
/// sector holds the core's first sector at 0x5c; the core's first sector ends in the list of its other sectors.
fn install_core(folder: &Path, image: &Path) -> Result<()> {
    let boot =
        fs::read("/usr/lib/grub/i386-pc/boot.img").context("read GRUB's boot sector: install grub-pc-bin")?;
    let mut core = fs::read(folder.join("core.img"))?;
    let sectors = (core.len() as u64).div_ceil(SECTOR_LEN);
    ensure!(sectors <= CORE.1, "GRUB's core image does not fit its partition");
    ensure!(boot.len() == 512, "GRUB's boot sector has an unexpected length");
    let file = OpenOptions::new().read(true).write(true).open(image)?;
    let mut sector = [0u8; 512];
    file.read_exact_at(&mut sector, 0)?;
    // The partition table and the disk's signature stay.
    sector[..0x1b8].copy_from_slice(&boot[..0x1b8]);
    sector[0x5c..0x64].copy_from_slice(&CORE.0.to_le_bytes());
    // Boot from the disk that the BIOS says, and do not jump over the check of it.
    sector[0x64] = 0xff;
    sector[0x66..0x68].copy_from_slice(&[0x90, 0x90]);
    file.write_all_at(&sector, 0)?;
    core.resize(usize::try_from(sectors * SECTOR_LEN)?, 0);
    core[0x1f4..0x1fc].copy_from_slice(&(CORE.0 + 1).to_le_bytes());
    core[0x1fc..0x1fe].copy_from_slice(&u16::try_from(sectors - 1)?.to_le_bytes());
    core[0x1fe..0x200].copy_from_slice(&0x0820u16.to_le_bytes());
    file.write_all_at(&core, CORE.0 * SECTOR_LEN)?;
    Ok(())
}
