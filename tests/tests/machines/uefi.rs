//! What a UEFI source has beside the rest. Its firmware would find GRUB by an entry that is not on its disk; here the
//! kernel is started directly, so that nothing on the disk knows the path that firmware tries by itself.

use std::fs;
use std::path::{Path, PathBuf};

use super::image::{Image, run};
use super::source::ROOT;

/// GRUB in a vendor's folder of the EFI system partition, and nothing else.
pub(crate) fn make_system_partition(device: &str, root: &str, id: &str) {
    run("mkfs.vfat", &["-F", "32", "-s", "1", device]);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let early = format!(
        "search --no-floppy --fs-uuid --set=root {root}\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n"
    );
    fs::write(path("early.cfg"), early).unwrap();
    let (grub, early) = (path("grubx64.efi"), path("early.cfg"));
    let mut arguments = vec!["-O", "x86_64-efi", "-o", &grub, "-c", &early, "-p", "/boot/grub"];
    arguments.extend([
        "part_gpt",
        "ext2",
        "fat",
        "search",
        "search_fs_uuid",
        "serial",
        "normal",
        "configfile",
        "linux",
        "boot",
        "echo",
        "terminal",
        "test",
        "gzio",
    ]);
    run("grub-mkimage", &arguments);
    let vendor = format!("::EFI/{id}");
    for folder in ["::EFI", &vendor] {
        run("mmd", &["-i", device, folder]);
    }
    run("mcopy", &["-i", device, &grub, &format!("{vendor}/grubx64.efi")]);
}

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
