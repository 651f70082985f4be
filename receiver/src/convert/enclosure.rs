//! Runs the guest's own tools inside the guest: own mounts, processes, host name, IPC and network; a clean environment;
//! a deadline. `/dev` holds the target's disks and nothing else, so that no tool can see or name a disk of the running
//! system, and the links of `/dev/disk` that udev would make. When the tool ends, so does everything it started, and
//! the kernel drops the mounts together with their namespace: nothing is left mounted or running, even if this
//! program is killed.

use std::ffi::CStr;
use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, FileType, Mode};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use transfer::{Error, Kind, Result};

use super::guest::Guest;
use super::machine::{Firmware, Machine};
use crate::limits::{INITRAMFS_LEN_MAX, TOOL_OUTPUT_LEN_MAX, TOOL_TIME_MAX};

/// The guest, ready to have tools run in it.
pub struct Enclosure<'a> {
    guest: &'a Guest,
    machine: &'a Machine,
}

/// How a tool ended.
#[derive(Debug)]
pub struct Outcome {
    /// Whether it ended by itself with exit code 0.
    pub success: bool,
    /// How it ended, for people.
    pub ended: String,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// The end of all its output, for people.
    pub tail: String,
}

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("HOME", "/root"),
    ("LC_ALL", "C"),
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("DM_DISABLE_UDEV", "1"),
    ("SYSTEMD_OFFLINE", "1"),
    ("SYSTEMD_IGNORE_CHROOT", "0"),
    ("GRUB_DISABLE_OS_PROBER", "true"),
];

const CHARACTER_DEVICES: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    ("console", 5, 1),
    ("loop-control", 10, 237),
];

impl<'a> Enclosure<'a> {
    /// An enclosure around `guest`, with the disks of `machine`.
    pub fn new(guest: &'a Guest, machine: &'a Machine) -> Self {
        Self { guest, machine }
    }

    /// Runs `argv` with `input` on its standard input.
    ///
    /// # Errors
    /// The enclosure cannot be made (it takes root), or the tool does not exist. A tool that fails is no error here.
    pub fn run(&self, argv: &[String], input: Option<Vec<u8>>) -> Result<Outcome> {
        let (pipes, received) = mpsc::sync_channel(1);
        thread::scope(|scope| {
            // Namespaces and root belong to a thread: this one's die with it. It cannot start threads any more once it
            // has left its process namespace, so the pipes are served outside.
            let work = scope.spawn(move || {
                self.enter()?;
                let mut child = start(argv, input.is_some())?;
                let ends = (
                    child.stdin.take().zip(input),
                    child.stdout.take(),
                    child.stderr.take(),
                );
                // The receiver lives in the scope outside and waits for this.
                let _ = pipes.send(ends);
                wait(&mut child)
            });
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            if let Ok((stdin, out, err)) = received.recv() {
                let write = scope.spawn(move || stdin.map(|(mut pipe, bytes)| pipe.write_all(&bytes)));
                let out = scope.spawn(move || read(out));
                stderr = read(err);
                stdout = out.join().unwrap_or_default();
                // A tool need not read all of its input.
                let _ = write.join();
            }
            let ended = work
                .join()
                .unwrap_or_else(|_| Err(Error::new(Kind::Medium, "run a tool of the guest")));
            let (success, ended) = ended?;
            let tail = [tail(&stdout), tail(&stderr)].concat();
            Ok(Outcome {
                success,
                ended,
                stdout,
                tail,
            })
        })
    }

    fn enter(&self) -> Result<()> {
        let root = self.guest.root();
        let flags = CloneFlags::CLONE_FS
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWNET;
        unshare(flags).map_err(|error| failed("leave the system's namespaces", root, error.into()))?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private)
            .map_err(|error| failed("separate mounts", root, error.into()))?;
        rustix::mount::mount_bind_recursive(root, root)
            .map_err(|error| failed("mount the guest", root, error.into()))?;
        self.mount_runtime()
            .map_err(|error| failed("mount what tools need", root, error))?;
        self.make_devices(&root.join("dev"))
            .map_err(|error| failed("make device nodes", root, error))?;
        let name = fs::read_to_string(root.join("etc/hostname")).unwrap_or_default();
        rustix::system::sethostname(name.trim().as_bytes())
            .map_err(|error| failed("set the host name", root, error.into()))?;
        change_root(root).map_err(|error| failed("change into the guest", root, error))
    }

    fn mount_runtime(&self) -> std::io::Result<()> {
        let root = self.guest.root();
        let place = |name: &str| -> std::io::Result<PathBuf> {
            let path = root.join(name);
            if !path.is_dir() {
                fs::create_dir(&path)?;
            }
            Ok(path)
        };
        let closed = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("proc", place("proc")?, "proc", closed, None)?;
        rustix::mount::mount("sysfs", place("sys")?, "sysfs", closed | MountFlags::RDONLY, None)?;
        // What tools find about the firmware must be the target's, not that of the machine that converts.
        let firmware = root.join("sys/firmware");
        if firmware.is_dir() {
            rustix::mount::mount("none", &firmware, "tmpfs", closed, None)?;
            if self.machine.firmware == Firmware::Uefi {
                fs::create_dir(firmware.join("efi"))?;
                fs::write(firmware.join("efi/fw_platform_size"), "64\n")?;
            }
        }
        rustix::mount::mount(
            "none",
            place("run")?,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            mode(c"mode=0755"),
        )?;
        for folder in ["run/lock", "run/lvm", "run/udev"] {
            fs::create_dir(root.join(folder))?;
        }
        rustix::mount::mount(
            "none",
            place("tmp")?,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            mode(c"mode=1777"),
        )?;
        rustix::mount::mount(
            "none",
            place("dev")?,
            "tmpfs",
            MountFlags::NOSUID,
            mode(c"mode=0755"),
        )?;
        Ok(())
    }

    fn make_devices(&self, dev: &Path) -> std::io::Result<()> {
        for (name, major, minor) in CHARACTER_DEVICES {
            node(
                &dev.join(name),
                FileType::CharacterDevice,
                rustix::fs::makedev(*major, *minor),
            )?;
        }
        for folder in ["pts", "shm", "mapper", "disk"] {
            fs::create_dir(dev.join(folder))?;
        }
        rustix::mount::mount(
            "devpts",
            dev.join("pts"),
            "devpts",
            MountFlags::NOSUID,
            mode(c"newinstance,ptmxmode=0666"),
        )?;
        symlink("pts/ptmx", dev.join("ptmx"))?;
        for (name, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
            symlink(format!("/proc/self/fd{target}"), dev.join(name))?;
        }
        if let Ok(control) = fs::metadata("/dev/mapper/control") {
            node(
                &dev.join("mapper/control"),
                FileType::CharacterDevice,
                control.rdev(),
            )?;
        }
        for disk in self.machine.boot_disk.iter() {
            make_disk(dev, disk)?;
        }
        for volume in self.machine.volumes.iter().flatten() {
            make_disk(dev, &volume.device)?;
            let links = [
                ("by-uuid", &volume.uuid),
                ("by-label", &volume.label),
                ("by-partuuid", &volume.partition_uuid),
                ("by-partlabel", &volume.partition_label),
            ];
            for (folder, name) in links {
                let Some(name) = name
                    .as_ref()
                    .filter(|name| !name.is_empty() && !name.contains('/'))
                else {
                    continue;
                };
                let folder = dev.join("disk").join(folder);
                fs::create_dir_all(&folder)?;
                // Two volumes with one label: the first one wins, as it would with udev.
                let _ = symlink(&volume.device, folder.join(name));
            }
        }
        Ok(())
    }
}

fn mode(text: &'static CStr) -> Option<&'static CStr> {
    Some(text)
}

fn failed(what: &str, root: &Path, error: std::io::Error) -> Error {
    Error::io(format!("enclose the guest: {what}"), root, error)
}

fn node(path: &Path, kind: FileType, device: u64) -> std::io::Result<()> {
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    let permissions = if kind == FileType::BlockDevice {
        0o660
    } else {
        0o666
    };
    Ok(rustix::fs::mknodat(
        CWD,
        path,
        kind,
        Mode::from_raw_mode(permissions),
        device,
    )?)
}

/// A block device of ours under the same name, with the disk it is part of.
fn make_disk(dev: &Path, device: &Path) -> std::io::Result<()> {
    let Ok(metadata) = fs::metadata(device) else {
        return Ok(());
    };
    let Ok(name) = device.strip_prefix("/dev") else {
        return Ok(());
    };
    if !metadata.file_type().is_block_device() {
        return Ok(());
    }
    let place = dev.join(name);
    fs::create_dir_all(place.parent().unwrap_or(dev))?;
    node(&place, FileType::BlockDevice, metadata.rdev())?;
    let number = format!(
        "{}:{}",
        rustix::fs::major(metadata.rdev()),
        rustix::fs::minor(metadata.rdev())
    );
    let Ok(system) = fs::canonicalize(format!("/sys/dev/block/{number}")) else {
        return Ok(());
    };
    let kernel_name = system.file_name().unwrap_or_default().to_owned();
    node(&dev.join(&kernel_name), FileType::BlockDevice, metadata.rdev())?;
    if let (true, Some(parent)) = (system.join("partition").exists(), system.parent()) {
        let parent = Path::new("/dev").join(parent.file_name().unwrap_or_default());
        return make_disk(dev, &parent);
    }
    Ok(())
}

/// Makes the guest the root of this thread's namespace. Where the present root is the kernel's first file system,
/// which cannot be pivoted, the root is changed for this thread only.
fn change_root(root: &Path) -> std::io::Result<()> {
    std::env::set_current_dir(root)?;
    if rustix::process::pivot_root(".", ".").is_ok() {
        rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    } else {
        rustix::process::chroot(".")?;
    }
    std::env::set_current_dir("/")
}

fn start(argv: &[String], has_input: bool) -> Result<Child> {
    let (program, arguments) = argv
        .split_first()
        .ok_or_else(|| Error::new(Kind::Usage, "run nothing"))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(ENVIRONMENT.iter().copied());
    command.stdin(if has_input { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    sys::child::end_with_parent(&mut command);
    command
        .spawn()
        .map_err(|error| Error::io("start a tool of the guest", program, error))
}

fn read(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What was read before a failure is still of use.
        let _ = pipe.take(INITRAMFS_LEN_MAX).read_to_end(&mut bytes);
    }
    bytes
}

fn tail(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(TOOL_OUTPUT_LEN_MAX);
    String::from_utf8_lossy(&bytes[start..]).into_owned()
}

/// The tool is process 1 of its namespace: killing it kills all that it started.
fn wait(child: &mut Child) -> Result<(bool, String)> {
    let failed =
        |error: std::io::Error| Error::new(Kind::Medium, "wait for a tool of the guest").because(error);
    let deadline = Instant::now() + TOOL_TIME_MAX;
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok((status.success(), status.to_string()));
        }
        if Instant::now() > deadline {
            child.kill().map_err(failed)?;
            child.wait().map_err(failed)?;
            return Ok((false, format!("no end after {} seconds", TOOL_TIME_MAX.as_secs())));
        }
        thread::sleep(std::time::Duration::from_millis(20));
    }
}
