//! Disk images with a real system in them, made by loop devices, `partx` and `mkfs`; everything is released on drop.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Packages of the guest beside the smallest Debian: what boots it and what the conversion calls.
const PACKAGES: &str = "systemd-sysv,udev,dbus,linux-image-cloud-amd64,initramfs-tools,openssh-server,iproute2,kmod,\
                        e2fsprogs,procps,lvm2,fdisk,grub-pc-bin,grub-efi-amd64-bin,grub2-common,zstd,ifupdown";

/// Runs a program and returns its standard output.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What a guest is made of.
pub(crate) struct Guest<'a> {
    /// Its name in the cache.
    pub(crate) name: &'a str,
    /// The distribution's release.
    pub(crate) suite: &'a str,
    /// Packages beside the smallest system.
    pub(crate) packages: &'a str,
    /// Further options of `mmdebstrap`.
    pub(crate) options: &'a [String],
    /// Where the packages come from, in the form of `sources.list`; none for this machine's own sources.
    pub(crate) sources: &'a [&'a str],
}

/// An unpacked Debian 12.
pub(crate) fn debian() -> PathBuf {
    Guest {
        name: "debian12",
        suite: "bookworm",
        packages: PACKAGES,
        options: &[],
        sources: &[],
    }
    .unpacked()
}

impl Guest<'_> {
    /// The unpacked guest: made once, and kept below `target` for all tests that need one.
    pub(crate) fn unpacked(&self) -> PathBuf {
        let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e-cache");
        fs::create_dir_all(&cache).unwrap();
        let lock = fs::File::create(cache.join("lock")).unwrap();
        lock.lock().unwrap();
        let [tree, partial, made_of] =
            ["", ".partial", ".packages"].map(|kind| cache.join(format!("{}{kind}", self.name)));
        if fs::read_to_string(&made_of).is_ok_and(|packages| packages == self.packages) {
            return tree;
        }
        for stale in [&tree, &partial] {
            let _ = fs::remove_dir_all(stale);
        }
        let packages = format!("--include={}", self.packages);
        let mut arguments = vec![
            "--quiet",
            "--mode=root",
            "--format=directory",
            "--variant=minbase",
            &packages,
            "--dpkgopt=force-unsafe-io",
            "--aptopt=Apt::Install-Recommends \"false\"",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            "--dpkgopt=path-exclude=/usr/share/man/*",
        ];
        arguments.extend(self.options.iter().map(String::as_str));
        arguments.extend([self.suite, partial.to_str().unwrap()]);
        arguments.extend(self.sources);
        run("mmdebstrap", &arguments);
        fs::rename(&partial, &tree).unwrap();
        fs::write(made_of, self.packages).unwrap();
        tree
    }
}

/// A disk image.
pub(crate) struct Image {
    /// For mount points.
    pub(crate) folder: tempfile::TempDir,
    /// The image file.
    pub(crate) path: PathBuf,
}

/// The image on a loop device.
pub(crate) struct Attached {
    /// The loop device.
    pub(crate) device: String,
}

impl Image {
    /// A sparse image of `mebibytes` with partitions from an `sfdisk` script.
    pub(crate) fn new(mebibytes: u64, script: &str) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path().join("disk.img");
        fs::File::create(&path).unwrap().set_len(mebibytes << 20).unwrap();
        let scripted = folder.path().join("script");
        fs::write(&scripted, script).unwrap();
        run(
            "sh",
            &[
                "-c",
                &format!("sfdisk -q {} < {}", path.display(), scripted.display()),
            ],
        );
        Self { folder, path }
    }

    /// Puts it on a loop device with partitions.
    pub(crate) fn attach(&self) -> Attached {
        let device = run("losetup", &["--find", "--show", self.path.to_str().unwrap()]);
        run("partx", &["--add", &device]);
        Attached { device }
    }

    /// Mounts `mounts` (partition number, place, options), calls `work` with the root, and unmounts.
    pub(crate) fn mounted<T>(&self, mounts: &[(u32, &str, &str)], work: impl FnOnce(&Path) -> T) -> T {
        let attached = self.attach();
        let root = self.folder.path().join("root");
        fs::create_dir_all(&root).unwrap();
        let mut mounted = Mounts(Vec::new());
        for (number, place, options) in mounts {
            let place = root.join(place.trim_start_matches('/'));
            fs::create_dir_all(&place).unwrap();
            run(
                "mount",
                &[
                    "-o",
                    options,
                    &attached.partition(*number),
                    place.to_str().unwrap(),
                ],
            );
            mounted.0.push(place);
        }
        work(&root)
    }

    /// Loop devices over this image.
    pub(crate) fn loops(&self) -> String {
        run("losetup", &["--associated", self.path.to_str().unwrap()])
    }
}

/// Mounts, released the last one first.
struct Mounts(Vec<PathBuf>);

impl Drop for Mounts {
    fn drop(&mut self) {
        for place in self.0.iter().rev() {
            let _ = Command::new("umount").arg(place).status();
        }
    }
}

impl Attached {
    /// Node of a partition.
    pub(crate) fn partition(&self, number: u32) -> String {
        format!("{}p{number}", self.device)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // A conversion of another test, in mounts of its own, keeps what was mounted when it began until it ends.
        for _ in 0..1800 {
            let _ = Command::new("partx").args(["--delete", &self.device]).output();
            let name = self.device.trim_start_matches("/dev/");
            let entries = fs::read_dir(format!("/sys/block/{name}"))
                .into_iter()
                .flatten()
                .flatten();
            if !entries
                .into_iter()
                .any(|entry| entry.path().join("partition").exists())
            {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

/// UUID of the file system or swap space on a device.
pub(crate) fn file_system_uuid(device: &str) -> String {
    run("blkid", &["-p", "-s", "UUID", "-o", "value", device])
}

/// Makes an EFI system partition that holds GRUB in a vendor's folder, which finds its menu on the file system `root`, and
/// nothing else. `driver` is GRUB's name of that file system's kind.
pub(crate) fn make_system_partition(device: &str, root: &str, driver: &str, vendor: &str) {
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
        driver,
        "part_gpt",
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
    let vendor = format!("::EFI/{vendor}");
    for folder in ["::EFI", &vendor] {
        run("mmd", &["-i", device, folder]);
    }
    run("mcopy", &["-i", device, &grub, &format!("{vendor}/grubx64.efi")]);
}
