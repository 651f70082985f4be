//! File handles: names for inodes that survive renames, as fanotify reports them and NFS uses them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::answer;

/// Longest handle the kernel makes, in bytes (MAX_HANDLE_SZ).
const HANDLE_LEN_MAX: usize = 128;

/// An inode of a file system that the holder knows by other means.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileHandle {
    kind: i32,
    bytes: Box<[u8]>,
}

impl std::fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:", self.kind)?;
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
struct Raw {
    len: u32,
    kind: i32,
    bytes: [u8; HANDLE_LEN_MAX],
}

impl FileHandle {
    /// Reads a `struct file_handle` off the front of `bytes`, as it stands in a fanotify event.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first_chunk::<4>()?;
        let len = usize::try_from(u32::from_ne_bytes(*len)).ok()?;
        if len == 0 || len > HANDLE_LEN_MAX {
            return None;
        }
        Some(Self {
            kind: i32::from_ne_bytes(*kind),
            bytes: rest.get(..len)?.into(),
        })
    }

    /// The handle of what an open file descriptor (also one opened with `O_PATH`) refers to; `None` when its file system
    /// gives no handles.
    ///
    /// # Errors
    /// Anything but "not supported".
    pub fn of(file: impl AsFd) -> io::Result<Option<Self>> {
        let mut raw = Raw {
            len: HANDLE_LEN_MAX as u32,
            kind: 0,
            bytes: [0; HANDLE_LEN_MAX],
        };
        let mut mount_id = 0;
        // SAFETY: `raw` starts like a file_handle and has as many bytes behind it as its length field says; the path is
        // a constant C string; the descriptor is borrowed for the call.
        let result = answer(unsafe {
            libc::name_to_handle_at(
                file.as_fd().as_raw_fd(),
                c"".as_ptr(),
                (&raw mut raw).cast(),
                &raw mut mount_id,
                libc::AT_EMPTY_PATH,
            )
        });
        match result {
            Ok(_) => Ok(Some(Self {
                kind: raw.kind,
                bytes: raw.bytes[..HANDLE_LEN_MAX.min(raw.len as usize)].into(),
            })),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the inode with `O_PATH` in the file system of `mount` (any open file of it, not one opened with `O_PATH`).
    /// `None` when it no longer exists.
    ///
    /// # Errors
    /// Not root (CAP_DAC_READ_SEARCH), or the file system gives no handles.
    pub fn open(&self, mount: impl AsFd) -> io::Result<Option<OwnedFd>> {
        let mut raw = Raw {
            len: self.bytes.len() as u32,
            kind: self.kind,
            bytes: [0; HANDLE_LEN_MAX],
        };
        raw.bytes[..self.bytes.len()].copy_from_slice(&self.bytes);
        // SAFETY: `raw` starts like a file_handle and holds as many bytes as its length field says.
        let result = answer(unsafe {
            libc::open_by_handle_at(
                mount.as_fd().as_raw_fd(),
                (&raw mut raw).cast(),
                libc::O_PATH | libc::O_CLOEXEC,
            )
        });
        match result {
            // SAFETY: the kernel just returned this descriptor to us alone.
            Ok(descriptor) => Ok(Some(unsafe { OwnedFd::from_raw_fd(descriptor) })),
            Err(Errno::STALE | Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::mem::{offset_of, size_of};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(offset_of!(Raw, len), offset_of!(libc::file_handle, handle_bytes));
        assert_eq!(offset_of!(Raw, kind), offset_of!(libc::file_handle, handle_type));
        assert_eq!(offset_of!(Raw, bytes), offset_of!(libc::file_handle, f_handle));
        assert_eq!(size_of::<Raw>(), size_of::<libc::file_handle>() + HANDLE_LEN_MAX);
    }

    #[test]
    fn a_handle_survives_a_rename_and_dies_with_its_file() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        fs::create_dir(&old).unwrap();
        let mount = fs::File::open(folder.path()).unwrap();
        let handle = FileHandle::of(fs::File::open(&old).unwrap()).unwrap().unwrap();
        fs::rename(&old, &new).unwrap();
        let opened = fs::File::from(handle.open(&mount).unwrap().unwrap());
        assert_eq!(
            opened.metadata().unwrap().ino(),
            fs::metadata(&new).unwrap().ino()
        );
        drop(opened);
        fs::remove_dir(&new).unwrap();
        assert!(handle.open(&mount).unwrap().is_none());
    }

    #[test]
    fn cut_handles_are_refused() {
        assert!(FileHandle::parse(&[8, 0, 0, 0, 1, 0, 0, 0, 1, 2, 3]).is_none());
        assert!(FileHandle::parse(&[0; 8]).is_none());
        assert!(FileHandle::parse(&[255; 200]).is_none());
        assert!(FileHandle::parse(&[2, 0, 0, 0, 1, 0, 0, 0, 1, 2, 3]).is_some());
    }
}
