//! Disks of one's own to test on: sparse files behind loop devices, with partitions, file systems and mounts.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

/// A loop device; whatever was made of it is unmade when it is dropped, also when a test panics.
#[derive(Debug)]
pub struct Disk {
    /// Its node.
    pub device: PathBuf,
    /// The file behind it.
    pub backing: PathBuf,
    /// Whether the file goes with the device.
    is_own: bool,
    mounts: Vec<PathBuf>,
    folder: tempfile::TempDir,
}

impl Disk {
    /// An empty disk of `mib` MiB.
    ///
    /// # Panics
    /// Not root, or no space.
    #[must_use]
    pub fn new(mib: u64) -> Self {
        let folder = Self::folder();
        let backing = folder.path().join("disk.img");
        std::fs::File::create(&backing)
            .and_then(|file| file.set_len(mib << 20))
            .expect("an image file");
        Self::over(backing, folder, true)
    }

    /// An image as a disk, to look into it. The image stays.
    ///
    /// # Panics
    /// There is no image.
    #[must_use]
    pub fn of_image(image: &Path) -> Self {
        Self::over(image.to_owned(), Self::folder(), false)
    }

    fn folder() -> tempfile::TempDir {
        tempfile::Builder::new()
            .prefix("go2cloud-disk-")
            .tempdir_in("/var/tmp")
            .expect("a folder")
    }

    fn over(backing: PathBuf, folder: tempfile::TempDir, is_own: bool) -> Self {
        let device = run(Command::new("losetup")
            .args(["--find", "--show", "--partscan"])
            .arg(&backing));
        let disk = Self {
            device: PathBuf::from(device.trim()),
            backing,
            is_own,
            mounts: Vec::new(),
            folder,
        };
        disk.scan();
        disk
    }

    /// Writes a partition table by an sfdisk script.
    ///
    /// # Panics
    /// sfdisk refuses.
    pub fn partition(&self, script: &str) {
        let mut sfdisk = Command::new("sfdisk")
            .arg("-q")
            .arg(&self.device)
            .stdin(Stdio::piped())
            .spawn()
            .expect("sfdisk starts");
        let mut script_end = sfdisk.stdin.take().expect("its input");
        script_end.write_all(script.as_bytes()).expect("it reads");
        drop(script_end);
        assert!(sfdisk.wait().expect("it ends").success(), "{script}");
        self.scan();
    }

    fn scan(&self) {
        // Fails on a disk without a table.
        let _ = Command::new("partx").arg("-u").arg(&self.device).output();
    }

    /// Node of partition `number`; of the disk itself for 0.
    #[must_use]
    pub fn part(&self, number: u32) -> PathBuf {
        match number {
            0 => self.device.clone(),
            _ => PathBuf::from(format!("{}p{number}", self.device.display())),
        }
    }

    /// Makes a file system.
    ///
    /// # Panics
    /// mkfs refuses.
    pub fn format(&self, number: u32, kind: &str) {
        let force = if kind == "ext4" { "-F" } else { "-f" };
        run(Command::new(format!("mkfs.{kind}"))
            .args(["-q", force])
            .arg(self.part(number)));
    }

    /// Mounts a partition, or the disk itself for 0.
    ///
    /// # Panics
    /// It cannot be mounted.
    pub fn mount(&mut self, number: u32, options: &str) -> PathBuf {
        let point = self.folder.path().join(format!("mount{number}"));
        std::fs::create_dir_all(&point).expect("a mount point");
        run(Command::new("mount")
            .args(["-o", options])
            .arg(self.part(number))
            .arg(&point));
        self.mounts.push(point.clone());
        point
    }

    /// Unmounts what [`Disk::mount`] mounted, for good: a copy of the mount in somebody else's namespace counts.
    ///
    /// # Panics
    /// It is in use.
    pub fn unmount(&self, number: u32) {
        run(Command::new("umount").arg(self.part(number)));
        wait_until_unused(&self.part(number));
    }
}

/// Changes one byte of a file or device in place.
///
/// # Panics
/// It cannot be read or written.
pub fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("a file that can be changed");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte there");
    file.write_all_at(&[!byte[0]], at)
        .expect("a medium that takes it");
}

/// Waits until no file system of a device is mounted: mount namespaces that other tests made meanwhile keep it mounted until
/// they end, and its log dirty.
///
/// # Panics
/// Somebody keeps it mounted for minutes.
pub fn wait_until_unused(device: &Path) {
    let since = Instant::now();
    while rustix::fs::open(device, OFlags::RDONLY | OFlags::EXCL, Mode::empty()).is_err() {
        assert!(
            since.elapsed() < Duration::from_secs(100),
            "somebody keeps {} mounted",
            device.display()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for point in self.mounts.iter().rev() {
            if !quietly(Command::new("umount").arg(point)) {
                // A process that a failed test left behind must not keep it.
                quietly(Command::new("umount").arg("-l").arg(point));
            }
        }
        quietly(Command::new("partx").arg("-d").arg(&self.device));
        quietly(Command::new("losetup").arg("-d").arg(&self.device));
        if self.is_own {
            let _ = std::fs::remove_file(&self.backing);
        }
    }
}

fn quietly(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// Runs a command that must succeed. Returns what it wrote.
///
/// # Panics
/// It fails.
pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
