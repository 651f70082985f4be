//! The inventory of one directory: what a migration of less than the whole system moves.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::statvfs;
use transfer::tree::estimate::amount;
use transfer::tree::mounts::TreeMounts;

use super::{Disk, Inventory, identifier};

/// Longest time to count for; what is not counted by then is taken for as large as the whole file system's use.
const COUNT_MAX: Duration = Duration::from_secs(120);

/// Narrows `inventory` to what lies in `root`.
pub(super) fn narrow(inventory: &mut Inventory, root: &Path) -> io::Result<()> {
    let (disk, entries) = look(root)?;
    inventory.identifier = identifier::of_part(&inventory.identifier, root.as_os_str().as_bytes());
    inventory.disks = vec![disk];
    inventory.entries = entries;
    Ok(())
}

/// The content of `root` as a disk without partitions, as large as what is allocated for it.
///
/// # Errors
/// The file system does not answer.
pub fn of_directory(root: &Path) -> io::Result<Disk> {
    Ok(look(root)?.0)
}

fn look(root: &Path) -> io::Result<(Disk, Option<u64>)> {
    let (bytes, entries) = size(root)?;
    let disk = Disk {
        device: root.display().to_string(),
        bytes: bytes.max(1),
        sector_bytes: 512,
        style: None,
        partitions: Vec::new(),
        file_system: None,
        mount_points: vec![root.to_owned()],
        system: true,
        block_obstacles: vec!["only a directory is migrated".to_owned()],
    };
    Ok((disk, entries))
}

/// Bytes that are allocated below `root` on its own file system, and entries if they could be counted in time.
fn size(root: &Path) -> io::Result<(u64, Option<u64>)> {
    let end = Instant::now() + COUNT_MAX;
    let mounts = TreeMounts::look(root, false).map_err(io::Error::other)?;
    if let Some(amount) = amount(root, &mounts, || Instant::now() < end) {
        return Ok((amount.allocated.ceil() as u64, Some(amount.entries)));
    }
    tracing::warn!(
        "{} holds very many files: its size is taken for that of its file system's content",
        root.display()
    );
    let space = statvfs(root)?;
    Ok(((space.f_blocks - space.f_bfree) * space.f_frsize, None))
}
