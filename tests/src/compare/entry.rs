//! One entry that both sides have: what it is, its metadata, its content.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Statx, StatxFlags, StatxTimestamp, ioctl_getflags, lgetxattr,
    llistxattr, openat, readlinkat, statx,
};
use rustix::io::Errno;

use super::content::{DataMap, first_difference};
use super::{Aspect, Comparison, Pair};

/// Inode flags that a user can set, and thus expects to find again (`chattr`): secrm, unrm, compr, sync, immutable,
/// append, nodump, noatime, nocompr, journal-data, notail, dirsync, topdir, nocow, dax, projinherit, casefold.
const FLAGS_OF_USERS: u32 = 0x0000_00ff
    | 0x0000_0400
    | 0x0000_4000
    | 0x0000_8000
    | 0x0001_0000
    | 0x0002_0000
    | 0x0080_0000
    | 0x0200_0000
    | 0x2000_0000
    | 0x4000_0000;

impl Comparison {
    /// Compares the entry `name` of two directories; returns whether it is a directory to go into.
    pub(super) fn compare_entry(&mut self, here: &Pair<OwnedFd>, name: &[u8]) -> io::Result<bool> {
        let stats = here.try_map(|directory| {
            let mask = StatxFlags::BASIC_STATS;
            statx(
                directory,
                name,
                AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT,
                mask,
            )
        })?;
        self.report.entries += 1;
        let (source, target) = (&stats.source, &stats.target);
        let file_type = type_of(source);
        if file_type != type_of(target) {
            self.differ(Aspect::Type, show_type(source), show_type(target));
            return Ok(false);
        }
        let device = (source.stx_dev_major, source.stx_dev_minor);
        if *self.root_device.get_or_insert(device) != device && !self.options.cross_mounts {
            return Ok(false);
        }
        self.compare_stat(source, target, file_type);
        self.compare_xattrs(here, name)?;
        match file_type {
            FileType::Symlink => {
                let links = here.try_map(|directory| readlinkat(directory, name, Vec::new()))?;
                self.check(Aspect::SymlinkTarget, (links.source, links.target), |link| {
                    format!("{link:?}")
                });
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let number = |stat: &Statx| (stat.stx_rdev_major, stat.stx_rdev_minor);
                self.check(Aspect::Device, (number(source), number(target)), |device| {
                    format!("{device:?}")
                });
            }
            FileType::RegularFile | FileType::Directory => self.compare_opened(here, name, &stats)?,
            _ => {}
        }
        Ok(file_type == FileType::Directory)
    }

    fn compare_stat(&mut self, source: &Statx, target: &Statx, file_type: FileType) {
        if file_type != FileType::Symlink {
            let mode = |stat: &Statx| stat.stx_mode & 0o7777;
            self.check(Aspect::Mode, (mode(source), mode(target)), |mode| {
                format!("{mode:04o}")
            });
        }
        self.check(Aspect::Uid, (source.stx_uid, target.stx_uid), u32::to_string);
        self.check(Aspect::Gid, (source.stx_gid, target.stx_gid), u32::to_string);
        let time = |time: &StatxTimestamp| (time.tv_sec, time.tv_nsec);
        let show = |time: &(i64, u32)| format!("{}s+{}ns", time.0, time.1);
        if file_type != FileType::Directory || self.options.directory_mtime {
            self.check(
                Aspect::Mtime,
                (time(&source.stx_mtime), time(&target.stx_mtime)),
                show,
            );
        }
        if self.options.atime {
            self.check(
                Aspect::Atime,
                (time(&source.stx_atime), time(&target.stx_atime)),
                show,
            );
        }
        if file_type == FileType::RegularFile {
            self.check(Aspect::Size, (source.stx_size, target.stx_size), u64::to_string);
        }
        if file_type != FileType::Directory && (source.stx_nlink > 1 || target.stx_nlink > 1) {
            let inode = |stat: &Statx| (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
            if let Some((in_source, in_target)) = self.links.note(inode(source), inode(target), &self.path) {
                let show = |path: &[u8]| match path {
                    [] => "is a file of its own or new".into(),
                    path => format!("is the same file as ./{}", path.escape_ascii()),
                };
                self.differ(Aspect::HardLinks, show(&in_source), show(&in_target));
            }
        }
    }

    fn compare_xattrs(&mut self, here: &Pair<OwnedFd>, name: &[u8]) -> io::Result<()> {
        let all = here.try_map(|directory| xattrs(directory, name))?;
        let keep = |list: Vec<(Vec<u8>, Vec<u8>)>, skip: &[Vec<u8>]| {
            list.into_iter()
                .filter(|(name, _)| !skip.contains(name))
                .collect::<Vec<_>>()
        };
        let skip = &self.options.skip_xattrs;
        let pair = (keep(all.source, skip), keep(all.target, skip));
        self.check(Aspect::Xattr, pair, |list| {
            let show = |(name, value): &(Vec<u8>, Vec<u8>)| {
                format!("{}={}", name.escape_ascii(), value.escape_ascii())
            };
            format!("{:?}", list.iter().map(show).collect::<Vec<_>>())
        });
        Ok(())
    }

    /// What only an open file or directory tells.
    fn compare_opened(&mut self, here: &Pair<OwnedFd>, name: &[u8], stats: &Pair<Statx>) -> io::Result<()> {
        let files = here.try_map(|directory| {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOATIME | OFlags::CLOEXEC;
            openat(directory, name, flags, Mode::empty())
        })?;
        if self.options.flags {
            let flags = files.try_map(flags_of)?;
            self.check(Aspect::Flags, (flags.source, flags.target), |flags| {
                format!("{flags:#010x}")
            });
        }
        if self.options.projects && self.projects.add(&self.path) {
            self.compare_projects();
        }
        let len = stats.source.stx_size;
        if type_of(&stats.source) != FileType::RegularFile || len != stats.target.stx_size {
            return Ok(());
        }
        let maps = files.try_map(|file| DataMap::of(file, len))?;
        if self.options.holes
            && let Some(at) = maps.source.hole_filled_by(&maps.target, len)
        {
            self.differ(Aspect::Holes, format!("hole at {at}"), "data");
        }
        let (difference, bytes) = first_difference(&files, &maps)?;
        self.report.bytes += bytes;
        if let Some(at) = difference {
            self.differ(Aspect::Content, format!("from byte {at}"), "another");
        }
        Ok(())
    }

    /// Compares the project ids of the paths gathered so far.
    pub(super) fn compare_projects(&mut self) {
        let here = std::mem::take(&mut self.path);
        for (path, source, target) in self.projects.differences() {
            self.path = path;
            self.differ(Aspect::Project, source, target);
        }
        self.path = here;
    }
}

fn type_of(stat: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(stat.stx_mode))
}

fn show_type(stat: &Statx) -> String {
    format!("{:?}", type_of(stat))
}

/// The flags; none where the file system has none.
fn flags_of(file: &OwnedFd) -> io::Result<u32> {
    match ioctl_getflags(file) {
        Ok(flags) => Ok(flags.bits() & FLAGS_OF_USERS),
        Err(Errno::NOTTY | Errno::OPNOTSUPP) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// All extended attributes, sorted by name. Goes by `/proc`, as there is no call that takes a directory and a name.
fn xattrs(directory: &OwnedFd, name: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let path = path.as_slice();
    let mut list = vec![0; 64 * 1024];
    let len = match llistxattr(path, &mut list[..]) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut all = Vec::new();
    for attribute in list[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; 64 * 1024];
        let len = lgetxattr(path, attribute, &mut value[..])?;
        value.truncate(len);
        all.push((attribute.to_vec(), value));
    }
    all.sort_unstable();
    Ok(all)
}
