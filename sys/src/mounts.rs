//! Mount tables, parsed from `/proc/PID/mountinfo`: that of this mount namespace, or those of all that have a process. And the
//! devices used for swapping, which are in no such table.
//!
//! A namespace without processes (kept by a bind mount or a descriptor) does not appear: whoever needs "nobody uses this
//! device" opens it with `O_EXCL` instead.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::block_device::DeviceNumber;
use crate::btrfs;
use crate::open_files::known_identity;

/// File systems whose answers come from another machine or process: from one that does not answer, nobody comes back. Those of FUSE
/// are told by their prefix.
const ELSEWHERE: [&str; 17] = [
    "9p", "afs", "autofs", "beegfs", "ceph", "cifs", "coda", "gpfs", "lustre", "ncpfs", "nfs", "nfs4",
    "pvfs2", "smb3", "smbfs", "vboxsf", "virtiofs",
];

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What the kernel calls this mount, unique on the machine.
    pub id: u64,
    /// Device number of the file system as `stat` shows it; anonymous for btrfs and pseudo file systems.
    pub device: DeviceNumber,
    /// The directory of the file system that is mounted: `/` unless it is a bind mount or a subvolume.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// File system type.
    pub kind: String,
    /// What was mounted: for disk file systems the path of a device.
    pub source: PathBuf,
    /// Options of the mount and of the superblock, comma-separated.
    pub options: String,
}

impl Mount {
    /// The block device below this mount: by device number, or for file systems with an anonymous number by the path in
    /// the source column. Of several devices of btrfs it is one.
    pub fn block_device(&self) -> Option<DeviceNumber> {
        if self.device.major != 0 {
            return Some(self.device);
        }
        device_at(&self.source).or_else(|| self.block_devices().first().copied())
    }

    /// All block devices below this mount. Those of btrfs the kernel knows, also when the node in the source column is gone: the
    /// kernel mounts a root file system by `/dev/root`, and names come and go.
    pub fn block_devices(&self) -> Vec<DeviceNumber> {
        if self.device.major != 0 {
            return vec![self.device];
        }
        let named = device_at(&self.source);
        let mut devices = Vec::new();
        if self.kind == "btrfs" {
            devices = named.map(btrfs::devices_with).unwrap_or_default();
            if devices.is_empty() {
                devices = self
                    .open()
                    .map(|file| btrfs::devices_of(&file))
                    .unwrap_or_default();
            }
        }
        if devices.is_empty() {
            devices.extend(named);
        }
        devices
    }

    /// Opens the mount point, if it still leads to this mount: another one may lie over it, or be there instead by now.
    ///
    /// # Errors
    /// There is no such directory or file any more, or something else is there.
    pub fn open(&self) -> io::Result<File> {
        let kind = std::fs::metadata(&self.point)?.file_type();
        if !kind.is_dir() && !kind.is_file() {
            // Opening a pipe may wait for ever, and a device may do anything.
            return Err(io::Error::other(
                "neither a directory nor a file is mounted there",
            ));
        }
        let file = File::open(&self.point)?;
        // Before 3.15 the kernel does not tell.
        if mount_id(&file)?.is_some_and(|id| id != self.id) {
            return Err(io::Error::other("another file system is mounted over it"));
        }
        Ok(file)
    }

    /// Whether another machine or process answers for what is in it: a network file system, one of FUSE, an automount that waits.
    /// Whoever looks at it may wait for ever, and may be refused although he is root.
    pub fn is_elsewhere(&self) -> bool {
        is_elsewhere(&self.kind)
    }

    /// Whether the option stands in the list, with or without a value.
    pub fn has_option(&self, name: &str) -> bool {
        self.options
            .split(',')
            .any(|option| option.split('=').next() == Some(name))
    }
}

/// [`Mount::is_elsewhere`] of a file system type.
pub fn is_elsewhere(kind: &str) -> bool {
    kind.starts_with("fuse") && kind != "fusectl" || ELSEWHERE.contains(&kind)
}

/// Whether what is at a path is another machine's or process's to tell: by the mount that it lies on, unless that is the root.
pub fn leads_elsewhere(table: &[Mount], path: &Path) -> bool {
    let above = table.iter().filter(|mount| path.starts_with(&mount.point));
    // Of several at one place the last one covers the others.
    let innermost = above.max_by_key(|mount| mount.point.as_os_str().len());
    innermost.is_some_and(|mount| mount.is_elsewhere() && mount.point != Path::new("/"))
}

/// The number of a block device's node.
fn device_at(node: &Path) -> Option<DeviceNumber> {
    let metadata = std::fs::metadata(node).ok()?;
    metadata
        .file_type()
        .is_block_device()
        .then(|| DeviceNumber::from_raw(metadata.rdev()))
}

/// The devices in use for swapping.
pub fn swaps() -> Vec<DeviceNumber> {
    // Without the file the kernel knows no swap.
    let table = std::fs::read("/proc/swaps").unwrap_or_default();
    let lines = table.split(|byte| *byte == b'\n').skip(1);
    lines
        .filter_map(|line| line.split(|byte| *byte == b' ' || *byte == b'\t').next())
        .filter_map(|name| device_at(&unescape(name)))
        .collect()
}

/// All mounts, in the order in which they were made.
///
/// # Errors
/// `/proc` is not mounted.
pub fn mounts() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mounts of this namespace, then those that processes see elsewhere: in other mount namespaces or other roots. The
/// mount points of these lead through `/proc/PID/root`, as long as that process lives; [`Mount::open`] makes sure.
///
/// # Errors
/// `/proc` is not mounted.
pub fn mounts_everywhere() -> io::Result<Vec<Mount>> {
    let mut all = mounts()?;
    let mut seen: BTreeSet<View> = view(Path::new("/proc/self")).into_iter().collect();
    for process in std::fs::read_dir("/proc")?.flatten() {
        let is_process = process
            .file_name()
            .as_encoded_bytes()
            .iter()
            .all(u8::is_ascii_digit);
        let process = process.path();
        // A process that has ended meanwhile sees nothing any more.
        if !is_process || view(&process).is_none_or(|view| !seen.insert(view)) {
            continue;
        }
        let table = std::fs::read(process.join("mountinfo")).unwrap_or_default();
        all.extend(parse(&table).into_iter().map(|mount| Mount {
            point: beneath(&process.join("root"), &mount.point),
            ..mount
        }));
    }
    Ok(all)
}

/// What decides which mounts a process sees: its mount namespace, and device and inode of its root.
type View = (u64, u64, u64);

fn view(process: &Path) -> Option<View> {
    let namespace = std::fs::metadata(process.join("ns/mnt")).ok()?;
    let (root, _) = known_identity(&process.join("root")).ok()?;
    Some((namespace.ino(), root.device, root.ino))
}

fn beneath(root: &Path, point: &Path) -> PathBuf {
    root.join(point.strip_prefix("/").unwrap_or(point))
}

/// The mount that an open file was reached by.
fn mount_id(file: &File) -> io::Result<Option<u64>> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    Ok(line.and_then(|id| id.trim().parse().ok()))
}

fn parse(table: &[u8]) -> Vec<Mount> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let text = |index: usize| Some(String::from_utf8_lossy(fields.get(index)?).into_owned());
    let device = text(2)?;
    let (major, minor) = device.split_once(':')?;
    Some(Mount {
        id: text(0)?.parse().ok()?,
        device: DeviceNumber {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        },
        root: unescape(fields.get(3)?),
        point: unescape(fields.get(4)?),
        kind: text(dash + 1)?,
        source: unescape(fields.get(dash + 2)?),
        options: format!("{},{}", text(5)?, text(dash + 3)?),
    })
}

/// Undoes the `\ooo` of the mount tables for space, tab, newline and backslash.
pub fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .filter(|digits| digits.iter().all(|digit| (b'0'..b'8').contains(digit)));
        match octal {
            Some(digits) => {
                bytes.push(
                    digits
                        .iter()
                        .fold(0u8, |value, digit| value.wrapping_mul(8) + (digit - b'0')),
                );
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn lines_with_optional_fields_and_escapes_are_parsed() {
        let table = b"36 35 98:0 /mnt1 /mnt\\040two rw,noatime master:1 shared:2 - ext3 /dev/ro\\134ot rw,dax=always\n\
            40 35 0:52 / /data rw - btrfs /dev/vdb1 rw,space_cache=v2\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!((mounts[0].id, mounts[1].id), (36, 40));
        assert_eq!(mounts[0].device, DeviceNumber { major: 98, minor: 0 });
        assert_eq!(mounts[0].point, PathBuf::from("/mnt two"));
        assert_eq!(mounts[0].source, PathBuf::from("/dev/ro\\ot"));
        assert!(
            mounts[0].has_option("dax") && mounts[0].has_option("noatime") && !mounts[0].has_option("ro")
        );
        assert_eq!(mounts[1].kind, "btrfs");
    }

    #[test]
    fn what_another_machine_or_process_answers_for_is_elsewhere() {
        for kind in ["nfs4", "cifs", "fuse.sshfs", "fuseblk", "fuse", "autofs"] {
            assert!(is_elsewhere(kind), "{kind}");
        }
        for kind in ["ext4", "btrfs", "tmpfs", "proc", "overlay", "fusectl"] {
            assert!(!is_elsewhere(kind), "{kind}");
        }
    }

    #[test]
    fn where_a_path_leads_is_told_by_the_innermost_mount() {
        let table = parse(
            b"1 0 0:9 / / rw - nfs4 server:/ rw\n2 1 0:5 / /data rw - autofs systemd-1 rw\n\
              3 2 8:1 / /data rw - ext4 /dev/sda1 rw\n4 1 0:6 / /far rw - nfs4 server:/far rw\n",
        );
        assert!(leads_elsewhere(&table, Path::new("/far/file")));
        for path in ["/data/image", "/image", "/farther"] {
            assert!(!leads_elsewhere(&table, Path::new(path)), "{path}");
        }
    }

    #[test]
    fn a_mount_is_opened_unless_another_lies_over_it() {
        let folder = tempfile::tempdir().unwrap();
        let mount = |options: &str| {
            crate::loop_device::run(
                "mount",
                ["-t", "tmpfs", "-o", options, "g2c-block-mounts"]
                    .map(OsStr::new)
                    .into_iter()
                    .chain([folder.path().as_os_str()]),
            )
            .unwrap();
            Unmount(folder.path())
        };
        let here = || {
            let all = mounts_everywhere().unwrap();
            let own = all.into_iter().filter(|mount| mount.point == folder.path());
            own.collect::<Vec<_>>()
        };
        let _first = mount("size=1m");
        let [below] = &here()[..] else {
            panic!("{:?}", here())
        };
        below.open().unwrap();
        let second = mount("size=2m");
        assert!(below.open().is_err());
        here()[1].open().unwrap();
        drop(second);
        below.open().unwrap();
    }

    /// Unmounts what lies uppermost.
    struct Unmount<'a>(&'a Path);

    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            drop(std::process::Command::new("umount").arg(self.0).output());
        }
    }

    #[test]
    fn the_running_system_has_a_proc_mount() {
        assert!(mounts().unwrap().iter().any(|mount| mount.kind == "proc"));
    }
}
