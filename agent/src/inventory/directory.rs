//! The inventory of one directory: what a migration of less than the whole system moves.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::statvfs;

use super::{Disk, Inventory, identifier};

/// Narrows `inventory` to what lies in `root`.
pub(super) fn narrow(inventory: &mut Inventory, root: &Path) -> io::Result<()> {
    inventory.identifier = identifier::of_part(&inventory.identifier, root.as_os_str().as_bytes());
    inventory.disks = vec![of_directory(root)?];
    Ok(())
}

/// Entries that are counted before the whole file system's use is taken instead: some seconds' worth.
const COUNTED_MAX: usize = 1_000_000;

/// The content of `root` as a disk without partitions, as large as what is allocated for it.
///
/// # Errors
/// The file system does not answer.
pub fn of_directory(root: &Path) -> io::Result<Disk> {
    Ok(Disk {
        device: root.display().to_string(),
        bytes: allocated(root)?.max(1),
        sector_bytes: 512,
        style: None,
        partitions: Vec::new(),
        file_system: None,
        mount_points: vec![root.to_owned()],
        system: true,
        block_obstacles: vec!["only a directory is migrated".to_owned()],
    })
}

fn allocated(root: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let mut entries = walkdir::WalkDir::new(root)
        .same_file_system(true)
        .into_iter()
        .flatten();
    for entry in entries.by_ref().take(COUNTED_MAX) {
        // `st_blocks` counts 512 bytes whatever the file system's blocks are.
        bytes += entry
            .metadata()
            .map(|metadata| metadata.blocks() * 512)
            .unwrap_or(0);
    }
    if entries.next().is_some() {
        let space = statvfs(root)?;
        bytes = (space.f_blocks - space.f_bfree) * space.f_frsize;
    }
    Ok(bytes)
}
