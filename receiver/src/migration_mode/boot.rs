//! What a distribution's early boot does, as far as it is needed: file systems of the kernel, drivers, disks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, finit_module, reboot};
use transfer::storage::survey::all_disks;
use transfer::{Error, Result};

use crate::convert::probe::tool;

/// Modules in the order in which they can be loaded, one path a line; written when the image is made.
const DRIVERS: &str = "/lib/modules.list";

/// Mounts what the kernel offers.
pub(super) fn mount_kernel_file_systems() -> Result<()> {
    let none = MountFlags::empty();
    for (kind, place) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
    ] {
        let failed = |error| Error::io(format!("mount {kind}"), place, error);
        fs::create_dir_all(place).map_err(failed)?;
        match mount("none", place, kind, none, None) {
            // The kernel may have mounted /dev itself.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
    fs::create_dir_all("/dev/pts").map_err(|error| Error::io("make a folder", "/dev/pts", error))?;
    // Only interactive programs want it.
    let _ = mount("none", "/dev/pts", "devpts", none, None);
    // Ctrl-Alt-Del on a console must not interrupt a migration.
    let _ = reboot(RebootCommand::CadOff);
    Ok(())
}

/// Loads drivers and counts those that work here; many are for hardware that this machine does not have.
pub(super) fn load_drivers() -> Result<usize> {
    let text =
        fs::read_to_string(DRIVERS).map_err(|error| Error::io("read the list of drivers", DRIVERS, error))?;
    let load = |path: &str| -> std::io::Result<()> { Ok(finit_module(File::open(path)?, c"", 0)?) };
    let loaded = text.lines().filter(|path| load(path).is_ok()).count();
    if Path::new("/sys/firmware/efi/efivars").exists() {
        let _ = mount(
            "none",
            "/sys/firmware/efi/efivars",
            "efivarfs",
            MountFlags::empty(),
            None,
        );
    }
    Ok(loaded)
}

/// Disks that can be written, by name, as soon as there are `count` of them.
pub(super) fn wait_for_disks(count: usize) -> Vec<PathBuf> {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let disks = disks();
        if disks.len() >= count || Instant::now() > deadline {
            return disks;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn disks() -> Vec<PathBuf> {
    let is_writable = |disk: &PathBuf| {
        let name = disk.file_name().unwrap_or_default().to_string_lossy();
        fs::read_to_string(format!("/sys/block/{name}/ro")).is_ok_and(|text| text.trim() == "0")
            && !is_our_own(&name)
    };
    let mut disks = all_disks();
    disks.retain(is_writable);
    disks
}

/// The disk that this image was started from is no target: its EFI system partition is named after us.
fn is_our_own(disk: &str) -> bool {
    let label = |node: &String| {
        tool("blkid", &["-p", "-o", "value", "-s", "LABEL", node], Some(2))
            .ok()
            .flatten()
    };
    partitions(disk)
        .iter()
        .filter_map(label)
        .any(|label| label.trim() == "GO2CLOUD")
}

fn partitions(disk: &str) -> Vec<String> {
    let entries = fs::read_dir(format!("/sys/block/{disk}"))
        .into_iter()
        .flatten()
        .flatten();
    let names = entries
        .filter(|entry| entry.path().join("partition").exists())
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut nodes: Vec<String> = names.map(|name| format!("/dev/{name}")).collect();
    nodes.push(format!("/dev/{disk}"));
    nodes
}
