//! What `statx` tells of an entry: one system call, on kernels before 4.11 `fstatat`.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags, StatxTimestamp};
use rustix::io::{Errno, Result};

use crate::tree::entry::Time;

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl FileKind {
    fn of_mode(mode: u32) -> Option<Self> {
        Self::of_type(FileType::from_raw_mode(mode))
    }

    /// As a directory tells it; `None` where it does not say.
    pub fn of_type(file_type: FileType) -> Option<Self> {
        Some(match file_type {
            FileType::Directory => Self::Directory,
            FileType::RegularFile => Self::File,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Unknown => return None,
        })
    }
}

/// An entry's status at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with set-id and sticky bits: `st_mode & 0o7777`.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Device number of a device node, as in `st_rdev`.
    pub rdev: u64,
    /// Number of names.
    pub nlink: u64,
    /// Device number of its file system, as in `st_dev`.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Allocated units of 512 bytes.
    pub blocks: u64,
    /// Access time.
    pub atime: Time,
    /// Modification time.
    pub mtime: Time,
    /// Change time.
    pub ctime: Time,
    /// Birth time, where the file system tells it.
    pub btime: Option<Time>,
    /// Whether it is the root of a mount; `None` on kernels before 5.8, where a change of `dev` must do.
    pub is_mount_root: Option<bool>,
}

impl Stat {
    /// The status of the entry `name` of `directory`.
    ///
    /// # Errors
    /// `ENOENT` when it vanished, and what `statx` gives.
    pub fn of_entry(directory: BorrowedFd<'_>, name: &CStr) -> Result<Self> {
        Self::read(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
    }

    /// The status of what `fd` has open, `O_PATH` included.
    ///
    /// # Errors
    /// What `statx` gives.
    pub fn of_fd(fd: BorrowedFd<'_>) -> Result<Self> {
        Self::read(fd, c"", AtFlags::EMPTY_PATH)
    }

    /// Whether two looks at an entry show the same content and metadata: the test of "did not change while it was read".
    pub fn unchanged_since(&self, earlier: &Self) -> bool {
        // Reading may have moved the access time; blocks may have been allocated by writeback.
        let without = |stat: &Self| Self {
            atime: Time::default(),
            blocks: 0,
            ..*stat
        };
        without(self) == without(earlier)
    }

    fn read(directory: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<Self> {
        match rustix::fs::statx(
            directory,
            name,
            flags,
            StatxFlags::BASIC_STATS | StatxFlags::BTIME,
        ) {
            Ok(statx) => Self::of_statx(&statx),
            Err(Errno::NOSYS) => {
                let flags = flags.difference(AtFlags::NO_AUTOMOUNT);
                Self::of_stat(&rustix::fs::statat(directory, name, flags)?)
            }
            Err(error) => Err(error),
        }
    }

    fn of_statx(statx: &Statx) -> Result<Self> {
        let time = |stamp: &StatxTimestamp| Time {
            sec: stamp.tv_sec,
            nsec: stamp.tv_nsec,
        };
        let mode = u32::from(statx.stx_mode);
        let has_btime = statx.stx_mask & StatxFlags::BTIME.bits() != 0;
        let knows_root = statx.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
        Ok(Self {
            kind: FileKind::of_mode(mode).ok_or(Errno::IO)?,
            mode: mode & 0o7777,
            uid: statx.stx_uid,
            gid: statx.stx_gid,
            rdev: rustix::fs::makedev(statx.stx_rdev_major, statx.stx_rdev_minor),
            nlink: u64::from(statx.stx_nlink),
            dev: rustix::fs::makedev(statx.stx_dev_major, statx.stx_dev_minor),
            ino: statx.stx_ino,
            size: statx.stx_size,
            blocks: statx.stx_blocks,
            atime: time(&statx.stx_atime),
            mtime: time(&statx.stx_mtime),
            ctime: time(&statx.stx_ctime),
            btime: has_btime.then(|| time(&statx.stx_btime)),
            is_mount_root: knows_root.then(|| statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        })
    }

    fn of_stat(stat: &rustix::fs::Stat) -> Result<Self> {
        let time = |sec: i64, nsec: u64| Time {
            sec,
            nsec: u32::try_from(nsec).unwrap_or(0),
        };
        Ok(Self {
            kind: FileKind::of_mode(stat.st_mode).ok_or(Errno::IO)?,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: stat.st_rdev,
            nlink: stat.st_nlink,
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            atime: time(stat.st_atime, stat.st_atime_nsec),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            btime: None,
            is_mount_root: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// What kernels before 4.11 give is the same but for what they do not know.
    #[test]
    fn the_older_call_tells_the_same() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), [1; 5000]).unwrap();
        std::os::unix::fs::symlink("x", folder.path().join("link")).unwrap();
        std::fs::create_dir(folder.path().join("folder")).unwrap();
        let null = rustix::fs::makedev(300, 70_000);
        let at =
            rustix::fs::open(folder.path(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        rustix::fs::mknodat(
            &at,
            c"device",
            FileType::CharacterDevice,
            rustix::fs::Mode::RUSR,
            null,
        )
        .unwrap();
        for name in [c"file", c"link", c"folder", c"device"] {
            let new = Stat::of_entry(at.as_fd(), name).unwrap();
            let old = rustix::fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            let expected = Stat {
                btime: None,
                is_mount_root: None,
                ..new
            };
            assert_eq!(Stat::of_stat(&old).unwrap(), expected, "{name:?}");
        }
        let root = Stat::of_entry(rustix::fs::CWD, c"/proc").unwrap();
        assert_eq!(root.is_mount_root, Some(true));
    }

    #[test]
    fn a_read_does_not_count_as_a_change_but_a_write_does() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let look = || Stat::of_fd(file.as_file().as_fd()).unwrap();
        let before = look();
        std::fs::read(file.path()).unwrap();
        assert!(look().unchanged_since(&before));
        std::fs::write(file.path(), b"x").unwrap();
        assert!(!look().unchanged_since(&before));
    }
}
