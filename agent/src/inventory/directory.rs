//! The inventory of one directory: what a migration of less than the whole system moves.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::statvfs;

use super::{Disk, Inventory, identifier};

/// Narrows `inventory` to the file system of `root`, as far as it is used.
pub(super) fn narrow(inventory: &mut Inventory, root: &Path) -> io::Result<()> {
    inventory.identifier = identifier::of_part(&inventory.identifier, root.as_os_str().as_bytes());
    inventory.disks = vec![of_directory(root)?];
    Ok(())
}

/// The file system of `root` as a disk without partitions, of the size that its content needs at most.
///
/// # Errors
/// The file system does not answer.
pub fn of_directory(root: &Path) -> io::Result<Disk> {
    let space = statvfs(root)?;
    Ok(Disk {
        device: root.display().to_string(),
        bytes: (space.f_blocks - space.f_bfree) * space.f_frsize,
        sector_bytes: 512,
        style: None,
        partitions: Vec::new(),
        file_system: None,
        mount_points: vec![root.to_owned()],
        system: true,
        block_obstacles: vec!["only a directory is migrated".to_owned()],
    })
}
