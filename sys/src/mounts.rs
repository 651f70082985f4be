//! The mount table of this mount namespace, parsed from `/proc/self/mountinfo`.
//!
//! File systems mounted only in another namespace do not appear: whoever needs "nobody uses this device" opens it with
//! `O_EXCL` instead.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::block_device::DeviceNumber;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
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
    /// the source column.
    pub fn block_device(&self) -> Option<DeviceNumber> {
        if self.device.major != 0 {
            return Some(self.device);
        }
        let metadata = std::fs::metadata(&self.source).ok()?;
        rustix::fs::FileType::from_raw_mode(metadata.mode())
            .is_block_device()
            .then(|| DeviceNumber::from_raw(metadata.rdev()))
    }

    /// Whether the option stands in the list, with or without a value.
    pub fn has_option(&self, name: &str) -> bool {
        self.options
            .split(',')
            .any(|option| option.split('=').next() == Some(name))
    }
}

/// All mounts, in the order in which they were made.
///
/// # Errors
/// `/proc` is not mounted.
pub fn mounts() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
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

/// Undoes the kernel's `\ooo` for space, tab, newline and backslash.
fn unescape(field: &[u8]) -> PathBuf {
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

    #[test]
    fn lines_with_optional_fields_and_escapes_are_parsed() {
        let table = b"36 35 98:0 /mnt1 /mnt\\040two rw,noatime master:1 shared:2 - ext3 /dev/ro\\134ot rw,dax=always\n\
            40 35 0:52 / /data rw - btrfs /dev/vdb1 rw,space_cache=v2\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].device, DeviceNumber { major: 98, minor: 0 });
        assert_eq!(mounts[0].point, PathBuf::from("/mnt two"));
        assert_eq!(mounts[0].source, PathBuf::from("/dev/ro\\ot"));
        assert!(
            mounts[0].has_option("dax") && mounts[0].has_option("noatime") && !mounts[0].has_option("ro")
        );
        assert_eq!(mounts[1].kind, "btrfs");
    }

    #[test]
    fn the_running_system_has_a_proc_mount() {
        assert!(mounts().unwrap().iter().any(|mount| mount.kind == "proc"));
    }
}
