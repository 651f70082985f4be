//! What a UEFI source has beside the rest. Its firmware would find GRUB by an entry that is not on its disk; here the
//! kernel is started directly, so that nothing on the disk knows the path that firmware tries by itself.

use std::fs;
use std::path::{Path, PathBuf};

use super::image::Image;
use super::source::ROOT;

/// The source's own kernel and initial RAM file system, copied out of its disk.
pub(crate) fn kernel_of(source: &Image) -> (PathBuf, PathBuf, String) {
    let folder = source.folder.path();
    let copy = |root: &Path, prefix: &str| {
        let mut entries = fs::read_dir(root.join("boot")).unwrap().flatten();
        let entry = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        fs::copy(entry.unwrap().path(), folder.join(prefix)).unwrap();
        folder.join(prefix)
    };
    let (kernel, initrd) = source.mounted(&[(ROOT, "/", "ro")], |root| {
        (copy(root, "vmlinuz"), copy(root, "initrd"))
    });
    let line = format!("root=/dev/vda{ROOT} ro console=ttyS0 no_timer_check");
    (kernel, initrd, line)
}
