//! Where in the volume is an inode now? From a file handle to a path, proven by looking at what the path leads to.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;
use sys::fanotify::FileSystemId;
use sys::mounts::{Mount, leads_elsewhere, unescape};
use sys::open_files::FileId;

use super::gather::{Place, same_family};

/// How often a path that is renamed meanwhile is asked for again.
const ATTEMPTS: u32 = 3;

/// Longest way up to the top of a mount: [`crate::limits::PATH_LEN_MAX`] has room for half as many names.
const LEVELS_MAX: usize = crate::limits::PATH_LEN_MAX / 2;

/// Where something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// This directory of the volume, relative to its root.
    Directory(Vec<u8>),
    /// Deleted, or outside of the volume.
    Elsewhere,
    /// It could not be found out.
    Unknown,
}

/// Looks places up. Holds the mounts open: to be dropped soon, so that they can be unmounted.
pub(super) struct Locator {
    root: PathBuf,
    mounts: Vec<(FileSystemId, File)>,
    table: Vec<Mount>,
}

impl Locator {
    /// For the volume at `root` with `mounts`, each with the id of its file system.
    pub(super) fn new(
        root: &Path,
        mounts: impl Iterator<Item = (FileSystemId, PathBuf)>,
    ) -> io::Result<Self> {
        Ok(Self {
            root: root.to_owned(),
            mounts: mounts
                .map(|(id, path)| Ok((id, File::open(path)?)))
                .collect::<io::Result<_>>()?,
            table: sys::mounts::mounts()?,
        })
    }

    /// The directories that `place` is, or lies in when it is no directory: one for each mount that shows it.
    pub(super) fn locate(&self, place: &Place) -> Vec<Location> {
        let family = |mount: &&(FileSystemId, File)| same_family(mount.0, place.file_system);
        let mounts = self.mounts.iter().filter(family);
        mounts
            .map(|(_, mount)| self.locate_in(mount, place).unwrap_or(Location::Unknown))
            .collect()
    }

    /// The directories that the file open as `path` (a link in `/proc`) lies in.
    pub(super) fn locate_open(&self, path: &Path, id: FileId) -> Vec<Location> {
        // A process that has ended since closed its files, which was an event of the next round.
        let mut locations = Place::of(path)
            .map(|place| self.locate(&place))
            .unwrap_or_default();
        // A mount that shows another part of the file system cannot tell that the file is not in it; but usually the
        // name under which it was opened still leads to it.
        if let Ok(name) = fs::read_link(path)
            && let Some(directory) = name.parent()
            // A name of another mount namespace may lead there.
            && !leads_elsewhere(&self.table, &name)
            && fs::symlink_metadata(&name).is_ok_and(|found| FileId::of(&found) == id)
        {
            locations.retain(|location| *location != Location::Unknown);
            locations.push(self.relative(directory));
        }
        locations
    }

    fn locate_in(&self, mount: &File, place: &Place) -> io::Result<Location> {
        let Some(inode) = place.handle.open(mount)? else {
            return Ok(Location::Elsewhere);
        };
        for _ in 0..ATTEMPTS {
            let stat = fstat(&inode)?;
            if stat.st_nlink == 0 {
                return Ok(Location::Elsewhere);
            }
            let path = fs::read_link(format!("/proc/self/fd/{}", inode.as_raw_fd()))?;
            let leads_here = fs::symlink_metadata(&path)
                .is_ok_and(|found| (found.dev(), found.ino()) == (stat.st_dev, stat.st_ino));
            if leads_here {
                let is_directory = FileType::from_raw_mode(stat.st_mode).is_dir();
                let directory = if is_directory {
                    Some(path.as_path())
                } else {
                    path.parent()
                };
                return Ok(directory.map_or(Location::Unknown, |path| self.relative(path)));
            }
            if !is_within(&inode, &stat, mount)? {
                return Ok(Location::Elsewhere);
            }
        }
        Ok(Location::Unknown)
    }

    fn relative(&self, path: &Path) -> Location {
        match path.strip_prefix(&self.root) {
            Ok(relative) => Location::Directory(relative.as_os_str().as_bytes().to_vec()),
            Err(_) => Location::Elsewhere,
        }
    }
}

/// Whether the directory `inode` lies below the top of `mount`, going up step by step: a mount can show only a part of
/// its file system. Of anything but a directory the way up is not known: it may.
fn is_within(inode: &OwnedFd, stat: &Stat, mount: &File) -> io::Result<bool> {
    if !FileType::from_raw_mode(stat.st_mode).is_dir() {
        return Ok(true);
    }
    let top = fstat(mount.as_fd())?;
    let same = |one: &Stat, other: &Stat| (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino);
    let mut here = inode.try_clone()?;
    let mut here_stat = *stat;
    for _ in 0..LEVELS_MAX {
        if same(&here_stat, &top) {
            return Ok(true);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = match openat(&here, "..", flags, Mode::empty()) {
            Ok(above) => above,
            // So the kernel says that the way up does not lead through the top of the mount.
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let above_stat = fstat(&above)?;
        if same(&above_stat, &here_stat) {
            return Ok(false);
        }
        (here, here_stat) = (above, above_stat);
    }
    Ok(true)
}

/// The upper directories of all overlay file systems of this mount namespace: where the files of containers are.
pub(super) fn overlay_uppers() -> Vec<PathBuf> {
    let mounts = sys::mounts::mounts().unwrap_or_default();
    mounts
        .iter()
        .filter(|mount| mount.kind == "overlay")
        .filter_map(|mount| {
            let upper = mount
                .options
                .split(',')
                .find_map(|option| option.strip_prefix("upperdir="))?;
            Some(unescape(upper.as_bytes()))
        })
        .collect()
}
