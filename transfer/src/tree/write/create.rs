//! Making entries: directories, files, symbolic links, devices, pipes and sockets.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use sys::inode_flags;

use super::fresh::{self, Known};
use super::metadata::{Handle, Origin};
use super::parents::is_directory;
use super::refusal::{Refusal, Refused};
use super::seal::Place;
use super::{ATTEMPTS_MAX, Missing, TreeWriter};
use crate::error::{Error, Kind, Result};
use crate::tree::capture::{FileKind, Stat};
use crate::tree::entry::{Entry, EntryPath, Meta, Node};
use crate::tree::operation::{Existing, Extent};

/// Zeros are written in pieces of this length where a file system cannot punch holes, in bytes.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

const CREATE: OFlags = OFlags::RDWR
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

const REWRITE: OFlags = OFlags::RDWR
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOATIME)
    .union(OFlags::CLOEXEC);

const PIN: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A file open for writing.
pub(super) struct OpenFile {
    pub(super) fd: OwnedFd,
    pub(super) origin: Origin,
    /// Its present state, where that is known without a look.
    pub(super) known: Option<Known>,
}

impl TreeWriter {
    /// Makes a directory, or keeps the one that is there; anything else in its place goes. Its metadata come later, with
    /// [`Self::finish_directory`].
    ///
    /// # Errors
    /// The medium failed.
    pub fn put_directory(&mut self, path: &EntryPath) -> Result<Vec<Refusal>> {
        if path.is_root() {
            return Ok(Vec::new());
        }
        for _ in 0..ATTEMPTS_MAX {
            let made = self.in_parent(path, Missing::Make, "make a directory", |directory, name| {
                match rustix::fs::mkdirat(directory, name, Mode::RWXU) {
                    Err(Errno::EXIST) if is_directory(directory, name)? == Some(true) => Ok(()),
                    answer => answer,
                }
            })?;
            match made {
                Ok(()) => return Ok(Vec::new()),
                Err(Errno::EXIST) => match self.clear_the_place(path)? {
                    Ok(()) => {}
                    Err(errno) => return Ok(refused_entry(errno)),
                },
                Err(errno) => return Ok(refused_entry(errno)),
            }
        }
        Ok(refused_entry(Errno::EXIST))
    }

    /// Makes a whole file with its data and metadata. `data` holds the bytes of all `extents`, one after the other; what
    /// lies between them stays a hole.
    ///
    /// # Errors
    /// The medium failed.
    pub fn put_file(
        &mut self,
        entry: &Entry,
        extents: &[Extent],
        data: &[u8],
        existing: Existing,
    ) -> Result<Vec<Refusal>> {
        let Node::File(content) = &entry.node else {
            return Err(not_such_an_entry(self, entry));
        };
        let file = match self.open_for_writing(&entry.path, &entry.meta, existing)? {
            Ok(file) => file,
            Err(errno) => return Ok(refused_entry(errno)),
        };
        match fill(file.fd.as_fd(), file.origin, extents, data, content.len) {
            Ok(()) => {}
            Err(Errno::FBIG) => return Ok(refused_entry(Errno::FBIG)),
            Err(errno) => return Err(self.failed("write a file", &entry.path, errno)),
        }
        if let Some(known) = &file.known {
            return self
                .tree
                .apply_to_known(&entry.path, file.fd.as_fd(), &entry.meta, known);
        }
        self.apply(
            &entry.path,
            Handle::Open(file.fd.as_fd()),
            FileKind::File,
            &entry.meta,
            file.origin,
        )
    }

    /// Makes a symbolic link, device, pipe or socket with its metadata; whatever is in its place goes.
    ///
    /// # Errors
    /// The medium failed, or the entry is of another kind.
    pub fn put_special(&mut self, entry: &Entry) -> Result<Vec<Refusal>> {
        let private = Mode::RUSR | Mode::WUSR;
        let (kind, file_type, rdev) = match &entry.node {
            Node::Symlink { .. } => (FileKind::Symlink, FileType::Symlink, 0),
            Node::Fifo => (FileKind::Fifo, FileType::Fifo, 0),
            Node::Socket => (FileKind::Socket, FileType::Socket, 0),
            Node::CharDevice { rdev } => (FileKind::CharDevice, FileType::CharacterDevice, *rdev),
            Node::BlockDevice { rdev } => (FileKind::BlockDevice, FileType::BlockDevice, *rdev),
            Node::Directory | Node::File(_) => return Err(not_such_an_entry(self, entry)),
        };
        let made = self.create(&entry.path, "make an entry", |directory, name| {
            match &entry.node {
                Node::Symlink { target } => rustix::fs::symlinkat(&target[..], directory, name)?,
                _ => rustix::fs::mknodat(directory, name, file_type, private, rdev)?,
            }
            rustix::fs::openat(directory, name, PIN, Mode::empty())
        })?;
        let fd = match made {
            Ok(fd) => fd,
            Err(errno) => return Ok(refused_entry(errno)),
        };
        if Stat::of_fd(fd.as_fd()).map(|stat| stat.kind) != Ok(kind) {
            return Ok(refused_entry(Errno::BUSY));
        }
        self.apply(
            &entry.path,
            Handle::Pinned(fd.as_fd()),
            kind,
            &entry.meta,
            Origin::Fresh,
        )
    }

    /// Applies metadata to an entry that is there.
    ///
    /// # Errors
    /// The medium failed.
    pub fn apply_metadata(&mut self, entry: &Entry) -> Result<Vec<Refusal>> {
        let kind = match &entry.node {
            Node::Directory => return self.finish_directory(&entry.path, &entry.meta),
            Node::File(_) => FileKind::File,
            Node::Symlink { .. } => FileKind::Symlink,
            Node::Fifo => FileKind::Fifo,
            Node::Socket => FileKind::Socket,
            Node::CharDevice { .. } => FileKind::CharDevice,
            Node::BlockDevice { .. } => FileKind::BlockDevice,
        };
        let flags = if kind == FileKind::File {
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOATIME | OFlags::CLOEXEC
        } else {
            PIN
        };
        let opened = self.in_parent(&entry.path, Missing::Leave, "open an entry", |directory, name| {
            // Looked at first: opening a device or pipe is not for us.
            let pin = rustix::fs::openat(directory, name, PIN, Mode::empty())?;
            if Stat::of_fd(pin.as_fd())?.kind != kind {
                return Err(Errno::NOTUNIQ);
            }
            if flags == PIN {
                return Ok(pin);
            }
            let fd = rustix::fs::openat(directory, name, flags, Mode::empty())?;
            if Stat::of_fd(fd.as_fd())?.kind == kind {
                Ok(fd)
            } else {
                Err(Errno::NOTUNIQ)
            }
        })?;
        let fd = match opened {
            Ok(fd) => fd,
            Err(Errno::NOTUNIQ) => return Ok(vec![Refusal::another_kind()]),
            Err(errno) => return Ok(refused_entry(errno)),
        };
        let handle = if flags == PIN {
            Handle::Pinned(fd.as_fd())
        } else {
            Handle::Open(fd.as_fd())
        };
        self.apply(&entry.path, handle, kind, &entry.meta, Origin::Existing)
    }

    /// Applies the metadata of a directory; called after everything in it has been done. The root is the empty path.
    ///
    /// # Errors
    /// The medium failed.
    pub fn finish_directory(&mut self, path: &EntryPath, meta: &Meta) -> Result<Vec<Refusal>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = if path.is_root() {
            Ok(rustix::fs::openat(&self.tree.root, c".", flags, Mode::empty())
                .map_err(|errno| self.failed("open the target directory", path, errno))?)
        } else {
            self.in_parent(path, Missing::Leave, "open a directory", |directory, name| {
                rustix::fs::openat(directory, name, flags, Mode::empty())
            })?
        };
        let fd = match opened {
            Ok(fd) => fd,
            Err(errno) => return Ok(refused_entry(errno)),
        };
        if fresh::bequeaths(meta) {
            // What is known of its new files is no longer true.
            self.tree.generation.move_on();
        }
        self.apply(
            path,
            Handle::Open(fd.as_fd()),
            FileKind::Directory,
            meta,
            Origin::Existing,
        )
    }

    /// Opens a file for its whole content: a new one, or the one that is there if `existing` says so and it is a file. What
    /// that one held may be gone afterwards.
    pub(super) fn open_for_writing(
        &mut self,
        path: &EntryPath,
        meta: &Meta,
        existing: Existing,
    ) -> Result<rustix::io::Result<OpenFile>> {
        let tree = Arc::clone(&self.tree);
        let opened = |fd: OwnedFd, origin| -> Result<rustix::io::Result<OpenFile>> {
            let storage = prepare_flags(fd.as_fd(), meta.flags, origin);
            storage
                .map_err(|errno| Error::io("open a file for writing", tree.full_path(path), errno.into()))?;
            Ok(Ok(OpenFile {
                fd,
                origin,
                known: None,
            }))
        };
        if existing == Existing::Rewrite {
            match self.open_existing(path)? {
                Ok(Some(fd)) => return opened(fd, Origin::Existing),
                Ok(None) => {}
                Err(errno) => return Ok(Err(errno)),
            }
        }
        let known = self.known_before(path, meta);
        let mode = fresh::mode_of(known.as_ref(), meta);
        let made = self.create(path, "make a file", |directory, name| {
            rustix::fs::openat(directory, name, CREATE, mode)
        })?;
        let fd = match made {
            Ok(fd) => fd,
            Err(errno) => return Ok(Err(errno)),
        };
        if known.is_some() {
            let origin = Origin::Fresh;
            return Ok(Ok(OpenFile { fd, origin, known }));
        }
        self.learn(path, fd.as_fd())
            .map_err(|errno| self.failed("look at a new file", path, errno))?;
        opened(fd, Origin::Fresh)
    }

    /// The regular file at `path`, open for writing; `None` where there is none, or only something to be replaced.
    pub(super) fn open_existing(&mut self, path: &EntryPath) -> Result<rustix::io::Result<Option<OwnedFd>>> {
        let opened = self.in_parent(
            path,
            Missing::Leave,
            "open a file for writing",
            |directory, name| {
                let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                // Looked at first: opening a device or pipe is not for us.
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Ok(None);
                }
                match rustix::fs::openat(directory, name, REWRITE, Mode::empty()) {
                    // A program that runs cannot be written to, but it can be replaced unless it has other names.
                    Err(Errno::TXTBSY) if stat.st_nlink == 1 => Ok(None),
                    Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => Ok(None),
                    fd => {
                        let fd = fd?;
                        let is_file = Stat::of_fd(fd.as_fd())?.kind == FileKind::File;
                        Ok(is_file.then_some(fd))
                    }
                }
            },
        )?;
        Ok(match opened {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            opened => opened,
        })
    }

    /// Runs `make`, which must fail with `EEXIST` where something is, and removes that something first if need be.
    pub(super) fn create<T>(
        &mut self,
        path: &EntryPath,
        operation: &str,
        make: impl FnMut(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<rustix::io::Result<T>> {
        self.create_beside(path, operation, None, make)
    }

    /// The same for an operation on two entries, the other of which is at `other`.
    pub(super) fn create_beside<T>(
        &mut self,
        path: &EntryPath,
        operation: &str,
        other: Option<Place<'_>>,
        mut make: impl FnMut(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<rustix::io::Result<T>> {
        for _ in 0..ATTEMPTS_MAX {
            match self.in_parent_beside(path, Missing::Make, operation, other, &mut make)? {
                Err(Errno::EXIST) => match self.clear_the_place(path)? {
                    Ok(()) => {}
                    Err(errno) => return Ok(Err(errno)),
                },
                answer => return Ok(answer),
            }
        }
        Ok(Err(Errno::EXIST))
    }

    /// Removes whatever is at `path`. The inner result says why it stays.
    fn clear_the_place(&mut self, path: &EntryPath) -> Result<rustix::io::Result<()>> {
        Ok(match self.remove(path)?.first() {
            None => Ok(()),
            Some(refusal) => Err(Errno::from_io_error(&refusal.error).unwrap_or(Errno::NOTEMPTY)),
        })
    }
}

pub(super) fn refused_entry(errno: Errno) -> Vec<Refusal> {
    vec![Refusal::new(Refused::Entry, errno)]
}

fn not_such_an_entry(writer: &TreeWriter, entry: &Entry) -> Error {
    Error::new(
        Kind::Corrupt,
        "write an entry of another kind than its operation's",
    )
    .on(writer.full_path(&entry.path))
}

/// Clears the flags that seal an existing file and sets those that decide how data are stored, which count only while the
/// file is empty: it is emptied for them, for its whole content follows. What is refused here is refused and reported once
/// more when all flags are applied.
fn prepare_flags(fd: BorrowedFd<'_>, wanted: u32, origin: Origin) -> rustix::io::Result<()> {
    let Some(flags) = inode_flags::get(fd)? else {
        return Ok(());
    };
    if origin == Origin::Existing && flags & inode_flags::SEALING != 0 {
        inode_flags::set(fd, flags & !inode_flags::SEALING)?;
    }
    if (flags ^ wanted) & inode_flags::STORAGE == 0 {
        return Ok(());
    }
    if origin == Origin::Existing {
        rustix::fs::ftruncate(fd, 0)?;
    }
    let kept = flags & !(inode_flags::STORAGE | inode_flags::SEALING);
    let changed = kept | wanted & inode_flags::STORAGE;
    match inode_flags::set(fd, changed) {
        Err(errno) if super::refusal::is_medium(errno) => Err(errno),
        _ => Ok(()),
    }
}

fn fill(
    fd: BorrowedFd<'_>,
    origin: Origin,
    extents: &[Extent],
    mut data: &[u8],
    len: u64,
) -> rustix::io::Result<()> {
    let mut end = 0;
    for extent in extents {
        let offset = u64::from(extent.offset);
        if origin == Origin::Existing && offset > end {
            zero(fd, end, offset - end)?;
        }
        let (own, others) = data.split_at_checked(extent.len as usize).ok_or(Errno::FAULT)?;
        write_all_at(fd, own, offset)?;
        data = others;
        end = offset + own.len() as u64;
    }
    if origin == Origin::Existing && len > end {
        zero(fd, end, len - end)?;
    }
    if origin == Origin::Existing || len > end {
        rustix::fs::ftruncate(fd, len)?;
    }
    Ok(())
}

/// Writes all of `data` at `offset`, in bytes.
pub(super) fn write_all_at(fd: BorrowedFd<'_>, mut data: &[u8], mut offset: u64) -> rustix::io::Result<()> {
    while !data.is_empty() {
        match rustix::io::pwrite(fd, data, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => {
                data = &data[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes a range of an existing file read as zeros: a hole where the file system can.
pub(super) fn zero(fd: BorrowedFd<'_>, offset: u64, len: u64) -> rustix::io::Result<()> {
    if len == 0 || sys::extents::punch(fd, offset, len)?.is_some() {
        return Ok(());
    }
    let mut done = 0;
    while done < len {
        let piece = ZEROS
            .len()
            .min(usize::try_from(len - done).unwrap_or(ZEROS.len()));
        write_all_at(fd, &ZEROS[..piece], offset + done)?;
        done += piece as u64;
    }
    Ok(())
}
