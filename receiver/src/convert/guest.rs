//! The system being converted, as a tree of files below some directory of ours.
//!
//! Every path is a path inside the guest. Links are followed inside the guest only: an absolute link of the guest can
//! never lead to a file of the running system. A file that is replaced keeps its owner, mode, extended attributes and
//! inode flags; a new one takes the security label of a neighbour. Nobody else changes the tree meanwhile.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, Mode, OFlags, ResolveFlags, XattrFlags};
use transfer::{Error, Kind, Result};

use crate::limits::{GUEST_FILE_LEN_MAX, LINK_DEPTH_MAX, XATTR_LEN_MAX};

/// Name prefix of files that are being written; one that is left over is never complete.
const TEMPORARY: &str = ".go2cloud-writing-";

/// A guest's root directory.
#[derive(Clone, Debug)]
pub struct Guest {
    root: PathBuf,
}

impl Guest {
    /// Takes the directory that holds the guest's `/`.
    ///
    /// # Errors
    /// It is not a directory, or the kernel cannot resolve paths inside a root.
    pub fn open(root: &Path) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::new(Kind::Usage, "open the guest's root")
                .on(root)
                .because(error)
                .remedy("mount the migrated system's root file system and name its mount point")
        };
        let root_real = fs::canonicalize(root).map_err(failed)?;
        let guest = Self { root: root_real };
        match guest.real_directory(Path::new("/")) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOSYS.raw_os_error()) => {
                Err(Error::new(Kind::Usage, "follow links inside the guest only")
                    .remedy("convert under Linux 5.6 or later, for instance in migration mode"))
            }
            other => other.map(|_| guest).map_err(failed),
        }
    }

    /// The directory of ours that holds the guest's `/`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory's path inside the guest with all links followed.
    fn real_directory(&self, path: &Path) -> io::Result<PathBuf> {
        let root = File::open(&self.root)?;
        let inside = rustix::fs::openat2(
            &root,
            if path == Path::new("/") {
                Path::new(".")
            } else {
                path
            },
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )?;
        let ours = fs::read_link(format!("/proc/self/fd/{}", inside.as_raw_fd()))?;
        let rest = ours
            .strip_prefix(&self.root)
            .map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Path::new("/").join(rest))
    }

    /// Where `path` leads inside the guest, the last component not followed.
    pub(crate) fn place(&self, path: &Path) -> io::Result<PathBuf> {
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok(self.real_directory(parent)?.join(name)),
            _ => Ok(PathBuf::from("/")),
        }
    }

    /// Where `path` leads inside the guest, all links followed; the last component need not exist.
    pub(crate) fn locate(&self, path: &Path) -> io::Result<PathBuf> {
        let mut path = path.to_owned();
        for _ in 0..LINK_DEPTH_MAX {
            let place = self.place(&path)?;
            match fs::read_link(self.ours(&place)) {
                Ok(target) => {
                    let parent = place.parent().unwrap_or(Path::new("/"));
                    path = parent.join(target);
                }
                Err(_) => return Ok(place),
            }
        }
        Err(io::Error::other("too many links"))
    }

    /// Our path of a place inside the guest.
    pub(crate) fn ours(&self, place: &Path) -> PathBuf {
        self.root.join(place.strip_prefix("/").unwrap_or(place))
    }

    /// Content of a regular file; `None` when there is none.
    ///
    /// # Errors
    /// It cannot be read, or is larger than any file the conversion deals with.
    pub fn read(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        let failed = |error| Error::io("read a file of the guest", path, error);
        let place = match self.locate(path) {
            Ok(place) => place,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut options = OpenOptions::new();
        // A fifo under a file's name must not hang the conversion.
        let file = match options
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(self.ours(&place))
        {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Ok(None);
        }
        if metadata.len() > GUEST_FILE_LEN_MAX {
            return Err(failed(io::Error::from(io::ErrorKind::FileTooLarge)));
        }
        let mut bytes = Vec::new();
        file.take(GUEST_FILE_LEN_MAX)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        Ok(Some(bytes))
    }

    /// Metadata with links followed; `None` when there is nothing.
    pub fn metadata(&self, path: &Path) -> Option<fs::Metadata> {
        fs::symlink_metadata(self.ours(&self.locate(path).ok()?)).ok()
    }

    /// Target of a symbolic link; `None` when `path` is not one.
    pub fn link(&self, path: &Path) -> Option<PathBuf> {
        fs::read_link(self.ours(&self.place(path).ok()?)).ok()
    }

    /// Whether something, even a dangling link, has this name.
    pub fn exists(&self, path: &Path) -> bool {
        self.place(path)
            .is_ok_and(|place| fs::symlink_metadata(self.ours(&place)).is_ok())
    }

    /// Whether `path` leads to a directory.
    pub fn is_dir(&self, path: &Path) -> bool {
        self.metadata(path).is_some_and(|metadata| metadata.is_dir())
    }

    /// Names in a directory, sorted; none when it does not exist.
    pub fn list(&self, path: &Path) -> Vec<OsString> {
        let Ok(place) = self.real_directory(path) else {
            return Vec::new();
        };
        let Ok(entries) = fs::read_dir(self.ours(&place)) else {
            return Vec::new();
        };
        let mut names: Vec<OsString> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        names
    }

    /// Replaces or creates a file. `mode` counts for a new file only; without it 0644.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn write(&self, path: &Path, bytes: &[u8], mode: Option<u32>) -> Result<()> {
        self.write_place(path, bytes, mode)
            .map_err(|error| Error::io("write a file of the guest", path, error))
    }

    fn write_place(&self, path: &Path, bytes: &[u8], mode: Option<u32>) -> io::Result<()> {
        self.create_parents(path)?;
        let place = self.locate(path)?;
        let ours = self.ours(&place);
        let folder = ours.parent().unwrap_or(&self.root).to_owned();
        let name = place
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let temporary = folder.join(format!("{TEMPORARY}{name}"));
        let flags = set_changeable(&ours)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        dress(&file, &ours, &folder, mode)?;
        file.sync_all()?;
        fs::rename(&temporary, &ours)?;
        File::open(&folder)?.sync_all()?;
        if let Some(flags) = flags {
            rustix::fs::ioctl_setflags(File::open(&ours)?, flags)?;
        }
        Ok(())
    }

    fn create_parents(&self, path: &Path) -> io::Result<()> {
        let Some(parent) = path.parent() else {
            return Ok(());
        };
        if self.is_dir(parent) {
            return Ok(());
        }
        self.create_parents(parent)?;
        let ours = self.ours(&self.locate(parent)?);
        fs::create_dir(&ours)?;
        copy_label_of_neighbour(&File::open(&ours)?, ours.parent().unwrap_or(&self.root));
        Ok(())
    }

    /// Makes `path` a symbolic link to `target`, in place of what was there.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn write_link(&self, path: &Path, target: &Path) -> Result<()> {
        let make = || {
            self.create_parents(path)?;
            let ours = self.ours(&self.place(path)?);
            let temporary = ours.with_file_name(format!("{TEMPORARY}link"));
            let _ = fs::remove_file(&temporary);
            symlink(target, &temporary)?;
            fs::rename(&temporary, &ours)
        };
        make().map_err(|error| Error::io("write a link of the guest", path, error))
    }

    /// Removes a file or a link; nothing happens when there is none.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn remove(&self, path: &Path) -> Result<()> {
        let remove = || {
            let ours = self.ours(&self.place(path)?);
            set_changeable(&ours)?;
            fs::remove_file(ours)
        };
        match remove() {
            Err(error) if !is_absent(&error) => Err(Error::io("remove a file of the guest", path, error)),
            _ => Ok(()),
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Clears the immutable and append-only flags; gives the old flags when they have to be set again.
fn set_changeable(ours: &Path) -> io::Result<Option<IFlags>> {
    let Ok(metadata) = fs::symlink_metadata(ours) else {
        return Ok(None);
    };
    if !metadata.is_file() {
        return Ok(None);
    }
    let file = File::open(ours)?;
    let Ok(flags) = rustix::fs::ioctl_getflags(&file) else {
        return Ok(None);
    };
    if !flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND) {
        return Ok(None);
    }
    rustix::fs::ioctl_setflags(&file, flags - (IFlags::IMMUTABLE | IFlags::APPEND))?;
    Ok(Some(flags))
}

/// Gives a new file the owner, mode and attributes of the one it replaces, or those of a newcomer.
fn dress(file: &File, replaced: &Path, folder: &Path, mode: Option<u32>) -> io::Result<()> {
    let Ok(metadata) = fs::metadata(replaced) else {
        file.set_permissions(fs::Permissions::from_mode(mode.unwrap_or(0o644)))?;
        copy_label_of_neighbour(file, folder);
        return Ok(());
    };
    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (metadata.uid(), metadata.gid()) {
        fchown(file, Some(metadata.uid()), Some(metadata.gid()))?;
    }
    file.set_permissions(fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    copy_attributes(&File::open(replaced)?, file)
}

/// Copies every extended attribute.
pub(crate) fn copy_attributes(from: &File, to: &File) -> io::Result<()> {
    let mut names = vec![0u8; XATTR_LEN_MAX];
    let Ok(len) = rustix::fs::flistxattr(from, &mut names[..]) else {
        return Ok(());
    };
    for name in names[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0u8; XATTR_LEN_MAX];
        let len = rustix::fs::fgetxattr(from, name, &mut value[..])?;
        rustix::fs::fsetxattr(to, name, &value[..len], XattrFlags::empty())?;
    }
    Ok(())
}

/// A new file without a label would be unreadable for confined services: it takes that of a file beside it, or of its
/// folder. Without labels nothing happens; the step for SELinux checks the result.
fn copy_label_of_neighbour(file: &File, folder: &Path) {
    let label = |path: &Path| {
        let mut value = vec![0u8; XATTR_LEN_MAX];
        let len = rustix::fs::lgetxattr(path, "security.selinux", &mut value[..]).ok()?;
        value.truncate(len);
        Some(value)
    };
    let is_directory = file.metadata().is_ok_and(|metadata| metadata.is_dir());
    let mut neighbours = fs::read_dir(folder).into_iter().flatten().flatten();
    let neighbour = neighbours.find_map(|entry| {
        let same_kind = entry
            .file_type()
            .is_ok_and(|kind| kind.is_dir() == is_directory && !kind.is_symlink());
        if same_kind { label(&entry.path()) } else { None }
    });
    if let Some(label) = neighbour.or_else(|| label(folder)) {
        let _ = rustix::fs::fsetxattr(file, "security.selinux", &label, XattrFlags::empty());
    }
}

/// Value of an extended attribute of a file itself; `None` when it has none.
pub(crate) fn attribute(ours: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0u8; XATTR_LEN_MAX];
    let len = rustix::fs::lgetxattr(ours, name, &mut value[..]).ok()?;
    value.truncate(len);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> (tempfile::TempDir, Guest) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("etc/deep")).unwrap();
        let guest = Guest::open(folder.path()).unwrap();
        (folder, guest)
    }

    #[test]
    fn absolute_links_stay_inside_the_guest() {
        let (folder, guest) = guest();
        symlink("/etc/passwd", folder.path().join("etc/link")).unwrap();
        assert_eq!(guest.read(Path::new("/etc/link")).unwrap(), None);
        guest.write(Path::new("/etc/link"), b"inside", None).unwrap();
        assert_eq!(fs::read(folder.path().join("etc/passwd")).unwrap(), b"inside");
        symlink("../../../../../../..", folder.path().join("etc/up")).unwrap();
        assert_eq!(
            guest.read(Path::new("/etc/up/etc/passwd")).unwrap().unwrap(),
            b"inside"
        );
    }

    #[test]
    fn a_replaced_file_keeps_owner_mode_attributes_and_flags() {
        let (folder, guest) = guest();
        let path = folder.path().join("etc/shadow");
        fs::write(&path, "old").unwrap();
        std::os::unix::fs::chown(&path, Some(12), Some(34)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        rustix::fs::setxattr(&path, "user.note", b"kept", XattrFlags::empty()).unwrap();
        let immutable = rustix::fs::ioctl_setflags(File::open(&path).unwrap(), IFlags::IMMUTABLE).is_ok();
        guest.write(Path::new("/etc/shadow"), b"new", None).unwrap();
        let file = File::open(&path).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(
            (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777),
            (12, 34, 0o640)
        );
        assert_eq!(attribute(&path, "user.note").unwrap(), b"kept");
        if immutable {
            assert!(
                rustix::fs::ioctl_getflags(&file)
                    .unwrap()
                    .contains(IFlags::IMMUTABLE)
            );
            guest.remove(Path::new("/etc/shadow")).unwrap();
        }
    }

    #[test]
    fn missing_folders_are_made_and_missing_files_are_no_error() {
        let (folder, guest) = guest();
        assert_eq!(guest.read(Path::new("/nothing/here")).unwrap(), None);
        guest.write(Path::new("/a/b/c"), b"x", Some(0o600)).unwrap();
        assert_eq!(
            fs::metadata(folder.path().join("a/b/c")).unwrap().mode() & 0o7777,
            0o600
        );
        guest.remove(Path::new("/nothing/here")).unwrap();
        assert!(guest.list(Path::new("/nothing")).is_empty());
    }
}
