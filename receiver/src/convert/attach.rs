//! Disks of a system that does not run: made visible, checked, mounted as its own `/etc/fstab` says, and released.
//!
//! All mounts are made in a namespace of one thread: they vanish with it, whatever happens. Image files go through loop
//! devices, which are released on drop.

mod system_partition;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::MountPropagationFlags;
use sys::block_device::BlockDevice;
use transfer::{Error, Kind, Result};

use super::containers::Containers;
use super::machine::{Machine, Resolution, Volume};
use super::probe::{self, tool};
use system_partition::SystemPartition;

/// Disks that are attached, none of which is in use.
pub struct Disks {
    /// Device nodes in the order of the disks given.
    pub devices: Vec<PathBuf>,
    loops: Vec<PathBuf>,
    containers: Containers,
}

impl Disks {
    /// Attaches disks and image files, assembles their arrays and activates their volume groups.
    ///
    /// # Errors
    /// A disk is in use, or is none.
    pub fn attach(paths: &[PathBuf]) -> Result<Self> {
        let mut disks = Self {
            devices: Vec::new(),
            loops: Vec::new(),
            containers: Containers::default(),
        };
        for path in paths {
            let device = if path.is_file() {
                disks.attach_image(path)?
            } else {
                path.clone()
            };
            refuse_used(&device)?;
            // The kernel may lack parsers for partition tables: the tool tells it what is there. It fails when the
            // kernel knows already, or when the disk has no partitions; what is missing is found below.
            let _ = tool("partx", &["--add", &device.display().to_string()], None);
            disks.devices.push(device);
        }
        disks.containers = Containers::open(&disks.devices)?;
        Ok(disks)
    }

    fn attach_image(&mut self, path: &Path) -> Result<PathBuf> {
        let text = tool(
            "losetup",
            &["--find", "--show", "--nooverlap", &path.display().to_string()],
            None,
        )?;
        let device = PathBuf::from(text.unwrap_or_default().trim());
        self.loops.push(device.clone());
        Ok(device)
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        self.containers.close();
        for device in &self.loops {
            let name = device.display().to_string();
            // Mounts of a thread that has just ended are released a moment later.
            for _ in 0..50 {
                let _ = tool("partx", &["--delete", &name], None);
                let left = BlockDevice::look(device)
                    .ok()
                    .flatten()
                    .and_then(|disk| disk.partitions().ok());
                if left.is_none_or(|left| left.is_empty()) {
                    break;
                }
                thread::sleep(Duration::from_millis(100));
            }
            if let Err(error) = tool("losetup", &["--detach", &name], None) {
                tracing::warn!("{}", crate::chain(&error));
            }
        }
    }
}

/// Refuses a disk that is mounted, or held by something we did not start.
///
/// # Errors
/// It is in use, read-only, or no disk.
pub fn refuse_used(device: &Path) -> Result<()> {
    let refused = |why: String| {
        Error::new(Kind::Usage, "use the disk")
            .on(device)
            .remedy(format!("{why}; name a disk that nothing uses"))
    };
    let disk = BlockDevice::look(device)
        .map_err(|error| Error::io("look at the disk", device, error))?
        .ok_or_else(|| refused("it is no block device".to_owned()))?;
    if disk.read_only {
        return Err(refused("it is read-only".to_owned()));
    }
    let mounts = disk
        .mounts()
        .map_err(|error| Error::io("list mounts", device, error))?;
    if let Some((_, mount)) = mounts.first() {
        return Err(refused(format!("it is mounted at {}", mount.point.display())));
    }
    let holders = disk
        .holders()
        .map_err(|error| Error::io("list what uses the disk", device, error))?;
    if !holders.is_empty() && holders.iter().any(|holder| !holder.starts_with("dm-")) {
        return Err(refused(format!("it is part of {}", holders.join(", "))));
    }
    Ok(())
}

/// A mounted guest. Only inside the thread of [`isolated`].
pub struct Mounted {
    /// Where its root is mounted.
    pub root: PathBuf,
    /// Volumes, with the places they are mounted at.
    pub volumes: Vec<Volume>,
    system_partition: Option<SystemPartition>,
    folder: PathBuf,
    access: Access,
}

/// Whether the guest is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It is only looked at.
    Read,
    /// It is converted.
    Write,
}

impl Access {
    fn options(self, others: &str) -> String {
        let access = if self == Self::Read { "ro" } else { "rw" };
        if others.is_empty() {
            access.to_owned()
        } else {
            format!("{access},{others}")
        }
    }

    fn check(self, volume: &Volume) -> Result<()> {
        if self == Self::Read {
            Ok(())
        } else {
            check_file_system(volume)
        }
    }
}

/// Runs `work` in a thread whose mounts nobody else sees and which end with it.
///
/// # Errors
/// Not root, or what `work` says.
pub fn isolated<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let failed = |error: nix::Error| {
                Error::new(Kind::Usage, "separate mounts")
                    .because(error)
                    .remedy("run as root")
            };
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).map_err(failed)?;
            // What is unmounted outside must not stay mounted here.
            let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", slave)
                .map_err(|error| Error::io("separate mounts", "/", error.into()))?;
            work()
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(Error::new(Kind::Medium, "convert")))
    })
}

impl Mounted {
    /// Checks and mounts the guest on `disks`.
    ///
    /// # Errors
    /// No volume holds a Linux system, or a file system is damaged.
    pub fn new(disks: &Disks, access: Access) -> Result<Self> {
        let mut volumes = probe::volumes(&disks.devices)?;
        let folder = PathBuf::from(format!("/run/go2cloud-convert-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|error| Error::io("make a mount point", &folder, error))?;
        let root = folder.join("root");
        fs::create_dir_all(&root).map_err(|error| Error::io("make a mount point", &root, error))?;
        let found = find_root(&volumes, &root)?;
        let Some((index, options)) = found else {
            return Err(Error::new(Kind::Usage, "find a Linux system on the disks")
                .remedy("name all disks of the system; encrypted and ZFS roots are not supported"));
        };
        access.check(&volumes[index])?;
        mount(&volumes[index], &root, &access.options(&options))?;
        volumes[index].mounted_at = Some("/".to_owned());
        let mut mounted = Self {
            root,
            volumes,
            system_partition: None,
            folder,
            access,
        };
        mounted.mount_rest()?;
        Ok(mounted)
    }

    fn mount_rest(&mut self) -> Result<()> {
        let path = self.root.join("etc/fstab");
        let text = fs::read(&path).map_err(|error| Error::io("read the guest's fstab", &path, error))?;
        let text = super::draft::decode(&text).0.into_owned();
        let mut lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_ascii_whitespace().collect())
            .collect();
        lines.retain(|words: &Vec<&str>| {
            words.len() >= 3 && !words[0].starts_with('#') && words[1].starts_with('/')
        });
        lines.sort_by_key(|words| words[1].matches('/').count());
        for words in lines.into_iter().filter(|words| words[1] != "/") {
            let machine = Machine {
                volumes: Some(self.volumes.clone()),
                boot_disk: None,
                firmware: super::machine::Firmware::Bios,
                pins: Vec::new(),
            };
            let (Resolution::Stable(volume) | Resolution::Unstable(volume)) = machine.resolve(words[0])
            else {
                continue;
            };
            let Some(index) = self.volumes.iter().position(|other| other == volume) else {
                continue;
            };
            self.mount_one(index, words[1], words.get(3).copied().unwrap_or_default())?;
        }
        Ok(())
    }

    fn mount_one(&mut self, index: usize, at: &str, options: &str) -> Result<()> {
        let volume = self.volumes[index].clone();
        let guest = super::guest::Guest::open(&self.root)?;
        let Some(place) = guest
            .locate(Path::new(at))
            .ok()
            .map(|place| guest.ours(&place))
            .filter(|place| place.is_dir())
        else {
            return Ok(());
        };
        if volume.kind == "vfat" && !kernel_knows("vfat") {
            self.system_partition = Some(SystemPartition::copy_in(&volume.device, &self.folder, &place)?);
        } else if ["ext2", "ext3", "ext4", "xfs", "btrfs", "vfat"].contains(&volume.kind.as_str()) {
            if self.volumes[index].mounted_at.is_none() {
                self.access.check(&volume)?;
            }
            mount(&volume, &place, &self.access.options(subvolume(options)))?;
        } else {
            return Ok(());
        }
        self.volumes[index]
            .mounted_at
            .get_or_insert_with(|| at.to_owned());
        Ok(())
    }

    /// Unmounts everything; what was written is on the disks afterwards.
    ///
    /// # Errors
    /// A disk refuses.
    pub fn finish(self) -> Result<()> {
        if let Some(partition) = self
            .system_partition
            .as_ref()
            .filter(|_| self.access == Access::Write)
        {
            partition.copy_out()?;
        }
        let failed =
            |error: rustix::io::Errno| Error::io("write out the guest's disks", &self.root, error.into());
        let root = fs::File::open(&self.root)
            .map_err(|error| Error::io("open the guest's root", &self.root, error))?;
        rustix::fs::syncfs(&root).map_err(failed)?;
        drop(root);
        let output = Command::new("umount").arg("--recursive").arg(&self.root).output();
        let unmounted = output.is_ok_and(|output| output.status.success());
        if !unmounted {
            rustix::fs::sync();
            rustix::mount::unmount(&self.root, rustix::mount::UnmountFlags::DETACH).map_err(failed)?;
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Empty folders only: whatever is still mounted belongs to this thread and goes with it.
        let _ = rustix::mount::unmount(&self.root, rustix::mount::UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.root);
        let _ = fs::remove_dir_all(self.folder.join("system-partition"));
        let _ = fs::remove_dir(&self.folder);
    }
}

fn kernel_knows(kind: &str) -> bool {
    let known = |text: &str| {
        text.lines()
            .any(|line| line.split_whitespace().last() == Some(kind))
    };
    let load = || Command::new("modprobe").arg(kind).output().is_ok();
    let read = || fs::read_to_string("/proc/filesystems").unwrap_or_default();
    known(&read()) || (load() && known(&read()))
}

/// The option that chooses a btrfs subvolume; all others concern the running system.
fn subvolume(options: &str) -> &str {
    options
        .split(',')
        .find(|option| option.starts_with("subvol="))
        .unwrap_or_default()
}

/// The volume whose content is a system's root, and the mount option it takes.
fn find_root(volumes: &[Volume], place: &Path) -> Result<Option<(usize, String)>> {
    for (index, volume) in volumes.iter().enumerate() {
        let choices: &[&str] = match volume.kind.as_str() {
            "ext2" | "ext3" | "ext4" | "xfs" => &[""],
            "btrfs" => &["", "subvol=@", "subvol=root"],
            _ => continue,
        };
        for options in choices {
            let read_only = if options.is_empty() {
                "ro".to_owned()
            } else {
                format!("ro,{options}")
            };
            if mount(volume, place, &read_only).is_err() {
                continue;
            }
            let guest = super::guest::Guest::open(place)?;
            let has = |path: &str| guest.metadata(Path::new(path)).is_some();
            let is_root =
                (has("/etc/os-release") || has("/usr/lib/os-release") || has("/etc/redhat-release"))
                    && (has("/sbin/init")
                        || has("/usr/lib/systemd/systemd")
                        || guest.exists(Path::new("/sbin/init")))
                    && has("/etc/fstab");
            drop(guest);
            rustix::mount::unmount(place, rustix::mount::UnmountFlags::empty())
                .map_err(|error| Error::io("unmount", place, error.into()))?;
            if is_root {
                return Ok(Some((index, (*options).to_owned())));
            }
        }
    }
    Ok(None)
}

fn mount(volume: &Volume, place: &Path, options: &str) -> Result<()> {
    let mut all = vec![options.to_owned()];
    // A copy beside its original has the same UUID, which XFS refuses otherwise.
    if volume.kind == "xfs" {
        all.push("nouuid".to_owned());
    }
    all.retain(|option| !option.is_empty());
    let all = if all.is_empty() {
        "rw".to_owned()
    } else {
        all.join(",")
    };
    let (device, place) = (volume.device.display().to_string(), place.display().to_string());
    tool("mount", &["-t", &volume.kind, "-o", &all, &device, &place], None).map(|_| ())
}

/// A copy of a running system is as after a power failure: journals are replayed, damage is refused.
fn check_file_system(volume: &Volume) -> Result<()> {
    if !volume.kind.starts_with("ext") {
        return Ok(());
    }
    let device = volume.device.display().to_string();
    let output = match Command::new("e2fsck").args(["-p", &device]).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        output => output.map_err(|error| Error::io("run e2fsck", &volume.device, error))?,
    };
    let said = |stream: &[u8]| String::from_utf8_lossy(stream).trim().replace('\n', "; ");
    // The exit codes of e2fsck(8): 1 is "errors corrected", from 8 on it could not look.
    let (what, remedy) = match output.status.code() {
        Some(0 | 1) => return Ok(()),
        Some(code) if code >= 8 => (
            "look at the file system",
            "see that nothing else has the disk open, and try again",
        ),
        _ => (
            "take the file system for a sound one",
            "run one more replication round and try again; if it stays, run e2fsck at the source",
        ),
    };
    let answer = format!(
        "e2fsck: {}: {} {}",
        output.status,
        said(&output.stdout),
        said(&output.stderr)
    );
    Err(Error::new(Kind::Corrupt, what)
        .on(&volume.device)
        .because(answer)
        .remedy(remedy))
}
