//! fanotify on whole file systems: which directories something happened in.
//!
//! Events name directories by [`FileHandle`], never files: for a change to a file or another entry it is the directory
//! that holds the name through which the change was made, for a change to a directory itself that directory. The kernel
//! merges events of one directory while they wait. What it does not report at all: stores through a mapping, `chattr`,
//! project ids, direct asynchronous writes, and a loop device's writes to its file; most of these it reports when the
//! file is closed at last.
//!
//! A mark neither keeps a file system busy nor outlives it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::fs::CWD;
use rustix::io::Errno;

use crate::file_handle::FileHandle;

/// `struct fanotify_event_metadata`, in bytes.
const METADATA_LEN: usize = 24;

/// `struct fanotify_event_info_header` and the file system's id, in bytes.
const INFO_HEADER_LEN: usize = 12;

/// Bytes read at a time; about 4000 events.
const BUFFER_LEN: usize = 256 * 1024;

/// How many events may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// As many as come: the reader must keep up. Needs CAP_SYS_ADMIN.
    Unlimited,
    /// The kernel's default, 16384; then an overflow is reported.
    Limited,
}

/// The id of a file system as `statfs` tells it (`f_fsid`).
pub type FileSystemId = [u8; 8];

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something changed in, or of, this directory; or, when the kernel does not know the directory, of this file.
    Changed {
        /// Which file system.
        file_system: FileSystemId,
        /// Which directory of it.
        handle: FileHandle,
    },
    /// Events were lost.
    Overflow,
    /// The kernel found the file system damaged, or reported something that this code cannot read.
    Broken,
}

/// A group of watched file systems.
#[derive(Debug)]
pub struct Watch {
    group: Fanotify,
    buffer: Vec<u8>,
}

impl Watch {
    /// A group that watches nothing yet; `None` when the kernel or the missing right (CAP_SYS_ADMIN) does not allow it.
    ///
    /// # Errors
    /// Too many groups or open files.
    pub fn new(queue: Queue) -> io::Result<Option<Self>> {
        let mut flags = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
        if queue == Queue::Unlimited {
            flags |= InitFlags::FAN_UNLIMITED_QUEUE;
        }
        // Directories alone since 5.9; before that (5.1) the file itself, whose directory must then be found.
        for report in [libc::FAN_REPORT_DIR_FID, libc::FAN_REPORT_FID] {
            let flags = flags | InitFlags::from_bits_retain(report);
            match Fanotify::init(flags, EventFFlags::O_RDONLY | EventFFlags::O_LARGEFILE) {
                Ok(group) => {
                    let buffer = vec![0; BUFFER_LEN];
                    return Ok(Some(Self { group, buffer }));
                }
                Err(nix::Error::EINVAL) => {}
                Err(nix::Error::ENOSYS | nix::Error::EPERM) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Watches the file system that is mounted at `mount_point`. Returns false when it cannot be watched: overlayfs,
    /// network and pseudo file systems, btrfs subvolumes on older kernels.
    ///
    /// # Errors
    /// The path does not exist, too many marks, no memory.
    pub fn add(&self, mount_point: &Path) -> io::Result<bool> {
        let changes = MaskFlags::FAN_MODIFY
            | MaskFlags::FAN_CLOSE_WRITE
            | MaskFlags::FAN_ATTRIB
            | MaskFlags::FAN_CREATE
            | MaskFlags::FAN_DELETE
            | MaskFlags::FAN_MOVE
            | MaskFlags::FAN_ONDIR;
        // Errors of the file system are told since 5.16.
        for mask in [changes | MaskFlags::FAN_FS_ERROR, changes] {
            let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
            match self.group.mark(flags, mask, CWD, Some(mount_point)) {
                Ok(()) => return Ok(true),
                Err(nix::Error::EINVAL) => {}
                Err(nix::Error::EOPNOTSUPP | nix::Error::EXDEV | nix::Error::ENODEV) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// The file systems that are watched, by the kernel's device numbers. One that was unmounted is no longer, also when it has been
    /// mounted again.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn watched(&self) -> io::Result<Vec<u32>> {
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.group.as_fd().as_raw_fd()))?;
        let number = |line: &str| {
            let number = line.strip_prefix("fanotify sdev:")?.split(' ').next()?;
            u32::from_str_radix(number, 16).ok()
        };
        Ok(text.lines().filter_map(number).collect())
    }

    /// Hands over the events that wait, at most a buffer full; returns whether there may be more.
    ///
    /// # Errors
    /// The group is broken; nothing that a caller could mend.
    pub fn read(&mut self, mut each: impl FnMut(Event)) -> io::Result<bool> {
        let len = match rustix::io::read(&self.group, &mut self.buffer[..]) {
            Ok(len) => len,
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        parse(&self.buffer[..len], &mut each);
        Ok(len > 0)
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.group.as_fd()
    }
}

/// The id of the file system that `file` lies on, to compare with [`Event::Changed`].
///
/// # Errors
/// `fstatfs` fails.
pub fn file_system_id(file: impl AsFd) -> io::Result<FileSystemId> {
    Ok(id_of(rustix::fs::fstatvfs(file)?.f_fsid))
}

/// The same of what `path` leads to.
///
/// # Errors
/// `statfs` fails.
pub fn file_system_id_at(path: &Path) -> io::Result<FileSystemId> {
    Ok(id_of(rustix::fs::statvfs(path)?.f_fsid))
}

/// Two 32-bit words, the first in the low half.
fn id_of(words: u64) -> FileSystemId {
    let mut id = FileSystemId::default();
    id[..4].copy_from_slice(&(words as u32).to_ne_bytes());
    id[4..].copy_from_slice(&((words >> 32) as u32).to_ne_bytes());
    id
}

/// Reads the events of one buffer. Whatever does not add up is an [`Event::Broken`]: never skipped.
fn parse(mut buffer: &[u8], each: &mut impl FnMut(Event)) {
    while !buffer.is_empty() {
        let event_len = word(buffer, 0).map_or(0, |len| len as usize);
        if event_len < METADATA_LEN || event_len > buffer.len() {
            each(Event::Broken);
            return;
        }
        let (event, rest) = buffer.split_at(event_len);
        buffer = rest;
        parse_event(event, each);
    }
}

fn parse_event(event: &[u8], each: &mut impl FnMut(Event)) {
    let metadata_len = usize::from(u16::from_ne_bytes([event[6], event[7]]));
    let mask = event
        .get(8..16)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_ne_bytes);
    if event[4] != libc::FANOTIFY_METADATA_VERSION || metadata_len < METADATA_LEN {
        return each(Event::Broken);
    }
    if mask & libc::FAN_Q_OVERFLOW != 0 {
        return each(Event::Overflow);
    }
    if mask & libc::FAN_FS_ERROR != 0 {
        return each(Event::Broken);
    }
    let mut named = false;
    let mut infos = event.get(metadata_len..).unwrap_or_default();
    while infos.len() >= 4 {
        let info_len = usize::from(u16::from_ne_bytes([infos[2], infos[3]]));
        if info_len < 4 || info_len > infos.len() {
            return each(Event::Broken);
        }
        let (info, rest) = infos.split_at(info_len);
        infos = rest;
        let is_handle = matches!(
            info[0],
            libc::FAN_EVENT_INFO_TYPE_FID
                | libc::FAN_EVENT_INFO_TYPE_DFID
                | libc::FAN_EVENT_INFO_TYPE_DFID_NAME
        );
        if !is_handle {
            continue;
        }
        let file_system = info.get(4..INFO_HEADER_LEN).and_then(|id| id.try_into().ok());
        let handle = info.get(INFO_HEADER_LEN..).and_then(FileHandle::parse);
        match (file_system, handle) {
            (Some(file_system), Some(handle)) => {
                named = true;
                each(Event::Changed { file_system, handle });
            }
            _ => return each(Event::Broken),
        }
    }
    if !named {
        each(Event::Broken);
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(word))
}

#[cfg(test)]
mod tests;
