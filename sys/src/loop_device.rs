//! Loop devices and mounts for tests and benchmarks: real block devices that anyone with root can have.
//!
//! Everything made here is unmade on drop, also when a test panics. Uses the `losetup`, `mount` and `umount` programs.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Attempts at unmounting at the end of a test, and the pause between two: two seconds in all.
const UNMOUNT_ATTEMPTS: u32 = 40;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(50);

/// A loop device over a sparse file, both removed on drop.
#[derive(Debug)]
pub struct LoopDevice {
    /// Its node.
    pub path: PathBuf,
    /// The file behind it.
    pub backing: PathBuf,
}

impl LoopDevice {
    /// A device of `len` zero bytes with sectors of `sector_len` bytes; `name` prefixes the file behind it.
    ///
    /// # Errors
    /// No space, no loop devices, not root.
    pub fn new(name: &str, len: u64, sector_len: u32) -> io::Result<Self> {
        let backing = unique_path(name, "img");
        std::fs::File::create(&backing)?.set_len(len)?;
        let mut device = Self {
            path: PathBuf::new(),
            backing,
        };
        let sector_len = format!("--sector-size={sector_len}");
        device.path = attach(&["--partscan", "--direct-io=on", &sector_len], &device.backing)?;
        Ok(device)
    }

    /// Makes the kernel read the partition table again and waits for the nodes.
    ///
    /// # Errors
    /// `partx` fails.
    pub fn scan_partitions(&self) -> io::Result<()> {
        scan(&self.path)
    }

    /// The node of partition `number`.
    pub fn partition(&self, number: u32) -> PathBuf {
        PathBuf::from(format!("{}p{number}", self.path.display()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if self.path.as_os_str().is_empty() {
            let _ = std::fs::remove_file(&self.backing);
            return;
        }
        // A device still busy goes away with its last user: losetup marks it so.
        let _ = Command::new("partx").arg("-d").arg(&self.path).output();
        let _ = Command::new("losetup").arg("-d").arg(&self.path).output();
        let _ = std::fs::remove_file(&self.backing);
    }
}

/// A loop device over somebody's file or block device; detached on drop.
#[derive(Debug)]
pub struct Attached(pub PathBuf);

impl Attached {
    /// One with further `flags` of losetup.
    ///
    /// # Errors
    /// What losetup says.
    pub fn new(flags: &[&str], over: &Path) -> io::Result<Self> {
        attach(flags, over).map(Self)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).output();
    }
}

/// Attaches a file or block device to a free loop device, and returns that.
fn attach(flags: &[&str], over: &Path) -> io::Result<PathBuf> {
    let output = Command::new("losetup")
        .args(["--find", "--show"])
        .args(flags)
        .arg(over)
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}

/// Makes the kernel know all partitions of a loop device.
///
/// # Errors
/// `partx` fails.
pub fn scan(device: &Path) -> io::Result<()> {
    run("partx", [OsStr::new("-u"), device.as_os_str()])?;
    // Updating leaves out logical partitions after the first; adding complains of those that are there already.
    drop(Command::new("partx").arg("-a").arg(device).output());
    Ok(())
}

/// A mounted file system, unmounted on drop.
#[derive(Debug)]
pub struct TestMount {
    /// Where it is mounted.
    pub point: PathBuf,
}

impl TestMount {
    /// Mounts `device` at a new directory with `options`.
    ///
    /// # Errors
    /// `mount` fails.
    pub fn new(name: &str, device: &Path, options: &str) -> io::Result<Self> {
        let mount = Self {
            point: unique_path(name, "mnt"),
        };
        std::fs::create_dir(&mount.point)?;
        run(
            "mount",
            [
                OsStr::new("-o"),
                OsStr::new(options),
                device.as_os_str(),
                mount.point.as_os_str(),
            ],
        )?;
        Ok(mount)
    }
}

impl Drop for TestMount {
    fn drop(&mut self) {
        // A process that is just ending, as a watchdog of a freeze, may still have it open.
        for _ in 0..UNMOUNT_ATTEMPTS {
            let answer = Command::new("umount").arg(&self.point).output();
            if !answer.is_ok_and(|output| String::from_utf8_lossy(&output.stderr).contains("busy")) {
                break;
            }
            std::thread::sleep(UNMOUNT_PAUSE);
        }
        let _ = std::fs::remove_dir(&self.point);
    }
}

/// Runs a program and fails with its standard error when it does.
///
/// # Errors
/// The program is missing or fails.
pub fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a OsStr>) -> io::Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{program}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )))
}

fn unique_path(name: &str, kind: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(format!("/var/tmp/{name}-{}-{number}.{kind}", std::process::id()))
}
