//! The inventory of one directory: what a migration of less than the whole system moves.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::statvfs;

use super::{Disk, Inventory, identifier};

/// Narrows `inventory` to what lies in `root`.
pub(super) fn narrow(inventory: &mut Inventory, root: &Path) -> io::Result<()> {
    inventory.identifier = identifier::of_part(&inventory.identifier, root.as_os_str().as_bytes());
    inventory.disks = vec![of_directory(root)?];
    Ok(())
}

/// Longest time to count for; what is not counted by then is taken for as large as the whole file system's use.
const COUNT_MAX: Duration = Duration::from_secs(120);
/// Entries counted between two looks at the clock.
const LOOK: usize = 4096;

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

/// What is allocated below `root` on its own file system, every file once however many names it has.
fn allocated(root: &Path) -> io::Result<u64> {
    let end = Instant::now() + COUNT_MAX;
    let mut bytes = 0.0;
    let entries = walkdir::WalkDir::new(root).same_file_system(true);
    for (number, entry) in entries.into_iter().flatten().enumerate() {
        if number % LOOK == 0 && Instant::now() > end {
            tracing::warn!(
                "{} holds very many files: its size is taken for that of its file system's content",
                root.display()
            );
            let space = statvfs(root)?;
            return Ok((space.f_blocks - space.f_bfree) * space.f_frsize);
        }
        if let Ok(metadata) = entry.metadata() {
            // `st_blocks` counts 512 bytes whatever the file system's blocks are; each name has its share of a file.
            let names = if metadata.is_dir() {
                1
            } else {
                metadata.nlink().max(1)
            };
            bytes += (metadata.blocks() * 512) as f64 / names as f64;
        }
    }
    Ok(bytes.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_as_large_as_what_lies_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let before = of_directory(folder.path()).unwrap().bytes;
        std::fs::write(folder.path().join("a"), vec![7; 1 << 20]).unwrap();
        std::fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        std::fs::File::create(folder.path().join("hole"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        // Delayed allocation counts late on some file systems.
        rustix::fs::sync();
        let added = of_directory(folder.path()).unwrap().bytes - before;
        assert!(((1 << 20)..(1 << 20) + 65536).contains(&added), "{added}");
    }
}
