//! Which file systems a tree consists of: the one that its root lies on, and those mounted inside that the walk enters.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sys::block_device::DeviceNumber;
use sys::file_system::is_disk_backed;
use sys::mounts::{Mount, is_elsewhere, mounts, unescape};

use crate::error::{Error, Result};
use crate::tree::entry::EntryPath;

/// How long an automount may take.
const WAKE_MAX: Duration = Duration::from_secs(15);

/// The file systems of a tree at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeMounts {
    /// What can be seen at the root and below: the point and what is mounted there. Nothing on or below a file system that
    /// is not copied, but for its own mount point.
    seen: BTreeSet<(PathBuf, DeviceNumber)>,
    /// The mount points that the walk enters, relative to the root.
    inside: Vec<EntryPath>,
    /// Mount points, relative to the root, of file systems that another machine or process answers for.
    elsewhere: HashSet<EntryPath>,
    /// The block devices of all of them that have one.
    devices: BTreeSet<DeviceNumber>,
    /// Whether one of them has no block device, so that it cannot be frozen.
    some_without_device: bool,
    /// Whether one file system can be seen at two places.
    some_twice: bool,
}

impl TreeMounts {
    /// Of the tree at `root`; only its own file system, unless the walk `crosses`.
    ///
    /// # Errors
    /// The root does not exist, or `/proc` is not mounted.
    pub fn look(root: &Path, crosses: bool) -> Result<Self> {
        let failed =
            |error: io::Error| Error::io("find the file systems of the directory to copy", root, error);
        let root = root.canonicalize().map_err(failed)?;
        let table = mounts().map_err(failed)?;
        let holder = table
            .iter()
            .filter(|mount| root.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.as_os_str().len());
        let mut found = Self {
            seen: BTreeSet::new(),
            inside: Vec::new(),
            elsewhere: HashSet::new(),
            devices: BTreeSet::new(),
            some_without_device: false,
            some_twice: false,
        };
        let mut entered = HashSet::new();
        if let Some(holder) = holder {
            entered.insert(std::fs::metadata(&root).map_err(failed)?.dev());
            found.add_device(holder);
        }
        for (mount, is_entered) in visible_below(&root, &table, crosses) {
            found.add(&root, mount, is_entered, &mut entered);
        }
        // Not in the order in which they were mounted: one that comes and goes is the same.
        found.inside.sort_by(EntryPath::replica_cmp);
        Ok(found)
    }

    fn add(&mut self, root: &Path, mount: &Mount, is_entered: bool, entered: &mut HashSet<u64>) {
        self.seen.insert((mount.point.clone(), mount.device));
        let relative = mount
            .point
            .strip_prefix(root)
            .map(|path| path.as_os_str().as_bytes().to_vec());
        let Some(path) = relative.ok().and_then(|path| EntryPath::parse(path).ok()) else {
            return;
        };
        if is_entered {
            self.inside.push(path);
            self.add_device(mount);
            let dev = std::fs::metadata(&mount.point).map(|metadata| metadata.dev());
            self.some_twice |= !dev.is_ok_and(|dev| entered.insert(dev));
        } else if mount.is_elsewhere() {
            self.elsewhere.insert(path);
        }
    }

    fn add_device(&mut self, mount: &Mount) {
        let devices = mount.block_devices();
        self.some_without_device |= devices.is_empty();
        self.devices.extend(devices);
    }

    /// Mount points inside that the walk enters.
    pub fn inside(&self) -> &[EntryPath] {
        &self.inside
    }

    /// Mount points inside that are not even looked at: whoever answers for what is there may not do so.
    pub fn elsewhere(&self) -> &HashSet<EntryPath> {
        &self.elsewhere
    }

    /// The block devices below.
    pub fn devices(&self) -> &BTreeSet<DeviceNumber> {
        &self.devices
    }

    /// Whether a part of the tree has no block device below: it cannot be frozen.
    pub fn some_without_device(&self) -> bool {
        self.some_without_device
    }

    /// Whether what happens can be told by mount point: each file system is seen at one place.
    pub fn are_distinct(&self) -> bool {
        !self.some_twice
    }
}

/// Where systemd may mount a partition that it finds by its type, without a line in `fstab`.
const FOUND_BY_TYPE: [&str; 3] = ["/boot", "/boot/efi", "/efi"];
/// How the source of a file system on this machine's disks begins in `fstab`.
const LOCAL: [&str; 6] = ["/dev/", "UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "ID="];

/// Has file systems on disks mounted that systemd mounts when they are used and unmounts when they are not: the EFI system partition
/// is often one of these. Those that do not come in time, or of which nothing says
/// that they lie here, are noted in `silent`, and left alone from then on.
///
/// # Errors
/// The root does not exist, or `/proc` is not mounted.
pub fn wake(root: &Path, silent: &mut HashSet<PathBuf>) -> Result<()> {
    let failed = |error: io::Error| Error::io("find the file systems of the directory to copy", root, error);
    let root = root.canonicalize().map_err(failed)?;
    let table = mounts().map_err(failed)?;
    let fstab = std::fs::read("/etc/fstab").unwrap_or_default();
    wake_by(&fstab, &root, &table, silent);
    Ok(())
}

fn wake_by(fstab: &[u8], root: &Path, table: &[Mount], silent: &mut HashSet<PathBuf>) {
    for (mount, _) in visible_below(root, table, true) {
        let point = &mount.point;
        let is_asleep = mount.kind == "autofs" && mount.source == Path::new("systemd-1");
        if !is_asleep || silent.contains(point) {
            continue;
        }
        let why = match origin(fstab, point) {
            Origin::Here if opens_in_time(point) => continue,
            Origin::Here => "does not answer",
            Origin::Unknown => "is of unknown origin and not in use",
            Origin::Elsewhere => {
                silent.insert(point.clone());
                continue;
            }
        };
        tracing::warn!(point = %point.display(), "an automount {why}: what belongs there is not copied");
        silent.insert(point.clone());
    }
}

/// Where what belongs to a mount point comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// A disk of this machine.
    Here,
    /// Another machine.
    Elsewhere,
    Unknown,
}

/// By the line of a mount point in `fstab`, or as systemd finds partitions.
fn origin(fstab: &[u8], point: &Path) -> Origin {
    let text = String::from_utf8_lossy(fstab);
    let mut lines = text
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let of_point = lines.find(|fields| {
        let point_field = fields.get(1).filter(|_| !fields[0].starts_with('#'));
        point_field.is_some_and(|field| unescape(field.as_bytes()) == point)
    });
    match of_point.as_deref() {
        Some([_, _, kind, options, ..])
            if is_elsewhere(kind) || options.split(',').any(|option| option == "_netdev") =>
        {
            Origin::Elsewhere
        }
        Some([source, _, _, _, ..]) if LOCAL.iter().any(|begin| source.starts_with(begin)) => Origin::Here,
        Some(_) => Origin::Unknown,
        None if FOUND_BY_TYPE.iter().any(|found| Path::new(found) == point) => Origin::Here,
        None => Origin::Unknown,
    }
}

fn opens_in_time(point: &Path) -> bool {
    let (opened, is_opened) = crossbeam_channel::bounded(1);
    let own = point.to_owned();
    // A thread, for it may never come back; then it ends with the process.
    let opening = std::thread::Builder::new()
        .name("automount".to_owned())
        .spawn(move || opened.send(File::open(&own).is_ok()));
    opening.is_ok() && is_opened.recv_timeout(WAKE_MAX) == Ok(true)
}

/// The mounts strictly below `root` that can be reached from it by way of file systems that are copied, each with whether the
/// walk, if it `crosses`, enters it.
fn visible_below<'a>(root: &Path, table: &'a [Mount], crosses: bool) -> Vec<(&'a Mount, bool)> {
    let inside = |point: &Path| point != root && point.starts_with(root);
    // A later mount hides what was mounted there and below before.
    let is_hidden = |at: usize, point: &Path| {
        let mut later = table[at + 1..].iter();
        later.any(|later| inside(&later.point) && point.starts_with(&later.point))
    };
    let mut visible: Vec<(&Mount, bool)> = Vec::new();
    for (at, mount) in table.iter().enumerate() {
        // What is mounted below another mount comes after it in the table.
        let is_behind = || {
            let mut others = visible.iter().filter(|(_, is_entered)| !is_entered);
            others.any(|(other, _)| mount.point.starts_with(&other.point))
        };
        if inside(&mount.point) && !is_hidden(at, &mount.point) && !is_behind() {
            visible.push((mount, crosses && is_entered(mount)));
        }
    }
    visible
}

/// Whether the walk goes into this file system where it crosses mounts.
fn is_entered(mount: &Mount) -> bool {
    // A server that does not answer would hold us up.
    let is_local = || mount.block_device().is_some() || ["zfs", "bcachefs"].contains(&mount.kind.as_str());
    !mount.is_elsewhere()
        && is_local()
        && File::open(&mount.point).is_ok_and(|point| is_disk_backed(point.as_fd()).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;
    use sys::loop_device::{LoopDevice, TestMount, run};

    fn file_system(size: u64) -> LoopDevice {
        let device = LoopDevice::new("g2c-tree-mounts", size, 512).unwrap();
        run("mkfs.ext4", ["-q".as_ref(), device.path.as_os_str()]).unwrap();
        device
    }

    #[test]
    fn only_what_lies_on_disks_here_is_woken() {
        let fstab = b"# Caf\xe9\n#UUID=1 /old ext4 noauto 0 0\n/dev/sdb1 /boot vfat noauto 0 0\nUUID=1-2 /with\\040space ext4 noauto 0 0\n\
            server:/x /data nfs4 noauto 0 0\nfs-1:/ /efs efs noauto 0 0\nLABEL=san /san xfs noauto,_netdev 0 0\n\
            server:/efi /efi nfs noauto 0 0\nshort /boot/efi\n";
        for (point, expected) in [
            ("/boot", Origin::Here),
            ("/with space", Origin::Here),
            ("/data", Origin::Elsewhere),
            ("/san", Origin::Elsewhere),
            ("/efi", Origin::Elsewhere),
            ("/old", Origin::Unknown),
            ("/efs", Origin::Unknown),
            ("/boot/efi", Origin::Unknown),
            ("/unknown", Origin::Unknown),
        ] {
            assert_eq!(origin(fstab, Path::new(point)), expected, "{point}");
        }
        assert_eq!(origin(b"", Path::new("/boot/efi")), Origin::Here);
    }

    /// What systemd does for an automount: mounts a device when somebody opens the mount point.
    const AUTOMOUNTER: &str = "
import ctypes,fcntl,os,struct,sys
device,point=(a.encode() for a in sys.argv[1:])
libc=ctypes.CDLL(None)
os.setsid()
r,w=os.pipe()
options='fd=%d,pgrp=%d,minproto=5,maxproto=5,direct'%(w,os.getpgrp())
assert libc.mount(b'systemd-1',point,b'autofs',0,options.encode())==0
root=os.open(point,os.O_RDONLY)
print('ready',flush=True)
packet=os.read(r,4096)
token=struct.unpack_from('I',packet,8)[0]
assert libc.mount(device,point,b'ext4',0,None)==0
fcntl.ioctl(root,0x9360,token)
os.close(root)
sys.stdin.read()
";

    struct Automounter {
        process: Child,
        point: PathBuf,
    }

    impl Automounter {
        fn start(device: &Path, point: &Path) -> Self {
            let mut process = Command::new("python3")
                .args(["-c", AUTOMOUNTER])
                .args([device, point])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            let stdout = process.stdout.take().unwrap();
            BufReader::new(stdout).read_line(&mut line).unwrap();
            let point = point.to_owned();
            let automounter = Self { process, point };
            assert_eq!(line.trim(), "ready");
            automounter
        }
    }

    impl Drop for Automounter {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
            for _ in 0..2 {
                let _ = Command::new("umount").arg("-l").arg(&self.point).status();
            }
        }
    }

    #[test]
    fn what_systemd_mounts_when_it_is_used_is_mounted_where_mounts_are_crossed() {
        let device = file_system(16 << 20);
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let point = root.join("efi");
        std::fs::create_dir(&point).unwrap();
        let automounter = Automounter::start(&device.path, &point);
        let efi = EntryPath::parse(b"efi".to_vec()).unwrap();
        let look = || {
            let found = TreeMounts::look(&root, true).unwrap();
            (found.inside().contains(&efi), found.elsewhere().contains(&efi))
        };
        for (fstab, found) in [
            ("".to_owned(), (false, true)),
            (
                format!("server:/efi {} nfs noauto 0 0", point.display()),
                (false, true),
            ),
            (
                format!("LABEL=x {} ext4 noauto 0 0", point.display()),
                (true, false),
            ),
        ] {
            let mut silent = HashSet::new();
            wake_by(fstab.as_bytes(), &root, &mounts().unwrap(), &mut silent);
            assert_eq!(look(), found, "{fstab}");
            assert_eq!(silent.contains(&point), !found.0, "{fstab}");
        }
        drop(automounter);
    }

    #[test]
    fn what_is_mounted_inside_belongs_to_a_tree_that_crosses() {
        let (outer, inner) = (file_system(32 << 20), file_system(16 << 20));
        let outer = TestMount::new("g2c-tree-mounts", &outer.path, "noatime").map(|mount| (mount, outer));
        let (outer, _device) = outer.unwrap();
        let root = outer.point.canonicalize().unwrap();
        for name in ["inner", "pseudo", "again"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        let alone = TreeMounts::look(&root, true).unwrap();
        assert_eq!((alone.inside(), alone.devices().len()), (&[][..], 1));
        let mount = |arguments: &[&std::ffi::OsStr]| run("mount", arguments.iter().copied()).unwrap();
        mount(&[inner.path.as_os_str(), root.join("inner").as_os_str()]);
        mount(&[
            "-t".as_ref(),
            "tmpfs".as_ref(),
            "none".as_ref(),
            root.join("pseudo").as_os_str(),
        ]);
        let inside = [EntryPath::parse(b"inner".to_vec()).unwrap()];
        let found = TreeMounts::look(&root, true).unwrap();
        let kept = TreeMounts::look(&root, false).unwrap();
        mount(&[
            "--bind".as_ref(),
            root.join("inner").as_os_str(),
            root.join("again").as_os_str(),
        ]);
        let twice = TreeMounts::look(&root, true).unwrap();
        for name in ["again", "pseudo", "inner"] {
            run("umount", [root.join(name).as_os_str()]).unwrap();
        }
        assert_eq!((found.inside(), found.devices().len()), (&inside[..], 2));
        assert!(found.are_distinct() && !found.some_without_device());
        assert_ne!(found, alone, "what is mounted is noticed");
        assert_eq!((kept.inside(), kept.devices()), (&[][..], alone.devices()));
        assert!(!twice.are_distinct());
    }
}
