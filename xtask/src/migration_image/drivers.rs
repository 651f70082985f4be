//! Kernel modules and the order in which they can be loaded, found from what each module says it needs: no `depmod`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::archive::Archive;

/// What the image has to be able to do: see disks and networks of clouds, make and mount file systems, be told its
/// settings.
const WANTED: &[&str] = &[
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_scsi",
    "virtio_rng",
    "virtio_balloon",
    "virtio_console",
    "sd_mod",
    "sr_mod",
    "nvme",
    "xen_blkfront",
    "xen_netfront",
    "hv_storvsc",
    "hv_netvsc",
    "ena",
    "gve",
    "ext4",
    "xfs",
    "btrfs",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859_1",
    "nls_utf8",
    "isofs",
    "overlay",
    "loop",
    "dm_mod",
    "dm_crypt",
    "dm_mirror",
    "dm_raid",
    "dm_snapshot",
    "dm_thin_pool",
    "raid0",
    "raid1",
    "raid10",
    "raid456",
    "efivarfs",
    "qemu_fw_cfg",
    "af_packet",
    "crc32c_generic",
    "crc32c_intel",
    "libcrc32c",
    "vmw_vsock_virtio_transport",
];

/// Adds modules with all they depend on and the list that gives their order; says how many.
pub(super) fn add(archive: &mut Archive, modules: &Path) -> Result<usize> {
    let mut files = BTreeMap::new();
    collect(modules, &mut files).with_context(|| format!("list {}", modules.display()))?;
    let mut order: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for name in WANTED {
        visit(name, &files, &mut seen, &mut order)?;
    }
    let mut list = String::new();
    for name in &order {
        let path = format!("lib/modules/{name}.ko");
        archive.file(&path, fs::read(&files[name])?, 0o644);
        list.push_str(&format!("/{path}\n"));
    }
    archive.file("lib/modules.list", list.into_bytes(), 0o644);
    Ok(order.len())
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|end| end == "ko") {
            let name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .replace('-', "_");
            files.insert(name, path);
        }
    }
    Ok(())
}

/// What a module needs comes before it. A name without a file is built into the kernel, or not there at all.
fn visit(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<String>,
) -> Result<()> {
    let Some(path) = files.get(name).filter(|_| seen.insert(name.to_owned())) else {
        return Ok(());
    };
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    for needed in needs(&bytes) {
        visit(&needed, files, seen, order)?;
    }
    order.push(name.to_owned());
    Ok(())
}

/// `depends=` and `softdep=pre:` of a module's information.
fn needs(bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for field in bytes.split(|byte| *byte == 0) {
        if let Some(names) = field.strip_prefix(b"depends=") {
            found.extend(
                String::from_utf8_lossy(names)
                    .split(',')
                    .map(|name| name.replace('-', "_")),
            );
        } else if let Some(names) = field.strip_prefix(b"softdep=pre: ") {
            found.extend(
                String::from_utf8_lossy(names)
                    .split_whitespace()
                    .map(|name| name.replace('-', "_")),
            );
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_read_from_the_module() {
        let bytes = b"\x7fELF\0license=GPL\0depends=virtio-ring,virtio\0softdep=pre: crc32c\0";
        assert_eq!(needs(bytes), ["virtio_ring", "virtio", "crc32c"]);
    }
}
