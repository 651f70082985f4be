//! What is mounted where: the kernel's mountinfo.

use std::path::PathBuf;

use super::Machine;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Device number `major:minor`; of an anonymous device for btrfs, overlay and the like.
    pub device: String,
    /// Root of the mount within its file system.
    pub root: String,
    /// Where it is mounted.
    pub point: PathBuf,
    /// File system type.
    pub file_system: String,
    /// What was mounted, such as `/dev/vda1`.
    pub source: String,
    /// Whether it is mounted read-only.
    pub read_only: bool,
    /// Whether the kernel has stopped it because of an error.
    pub shut_down: bool,
}

/// All mounts, in the order of the kernel: later ones may cover earlier ones.
pub fn mounts(machine: &Machine) -> Vec<Mount> {
    let text = machine.text("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(2);
    let mut after = after.split(' ');
    let device = before.next()?.to_owned();
    let root = plain(before.next()?);
    let point = PathBuf::from(plain(before.next()?));
    let options = before.next()?;
    let (file_system, source) = (after.next()?.to_owned(), plain(after.next()?));
    let of_file_system = after.next().unwrap_or_default();
    Some(Mount {
        device,
        root,
        point,
        file_system,
        source,
        read_only: options.split(',').any(|option| option == "ro"),
        shut_down: of_file_system
            .split(',')
            .any(|option| ["shutdown", "emergency_ro"].contains(&option)),
    })
}

/// Undoes the kernel's octal escapes of white space and backslashes.
fn plain(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_its_escapes() {
        let line = r"36 35 98:0 /mnt1 /mnt\0402\134x rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let mount = parse(line).unwrap();
        assert_eq!(mount.point, PathBuf::from(r"/mnt 2\x"));
        assert_eq!((mount.device.as_str(), mount.root.as_str()), ("98:0", "/mnt1"));
        assert_eq!(
            (mount.file_system.as_str(), mount.source.as_str()),
            ("ext3", "/dev/root")
        );
        assert!(!mount.read_only && !mount.shut_down);
        assert!(
            parse("36 35 98:0 / / rw - ext4 /dev/vda1 rw,emergency_ro")
                .unwrap()
                .shut_down
        );
        assert!(parse("nonsense").is_none());
    }
}
