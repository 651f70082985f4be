//! All names of a directory at once, in little memory.
//!
//! Names lie NUL-terminated in one arena; a name costs its bytes, its NUL and 16 bytes more. `.` and `..` are left out.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, RawDir};
use rustix::io::{Errno, Result};

/// Buffer for one `getdents64`, in bytes: some 1,000 entries, so that a directory of a million costs 1,000 calls.
const BUFFER_LEN: usize = 32 * 1024;

/// Bytes of names of one directory: positions are 32 bits wide. 4 GiB are 16 million names of 255 bytes.
const ARENA_LEN_MAX: usize = u32::MAX as usize;

/// The names of one directory.
#[derive(Default)]
pub struct Names {
    arena: Vec<u8>,
    slots: Vec<Slot>,
}

struct Slot {
    ino: u64,
    start: u32,
    len: u8,
    file_type: u8,
}

const _: () = assert!(size_of::<Slot>() == 16);

/// One name with what the directory itself tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a> {
    /// The name, as the kernel wants it.
    pub c_str: &'a CStr,
    /// Inode number. Below a mount point it is that of the covered directory.
    pub ino: u64,
    /// Type of the entry, `Unknown` where the file system does not say.
    pub file_type: FileType,
}

impl<'a> Name<'a> {
    /// The bytes of the name, without NUL.
    pub fn bytes(&self) -> &'a [u8] {
        self.c_str.to_bytes()
    }
}

/// Reads all names of `directory`, which must be open for reading and at its start.
///
/// # Errors
/// What `getdents64` gives; `EOVERFLOW` where the names exceed 4 GiB.
pub fn read_names(directory: BorrowedFd<'_>) -> Result<Names> {
    let mut names = Names::default();
    let mut buffer = Vec::<u8>::with_capacity(BUFFER_LEN);
    names.fill(directory, buffer.spare_capacity_mut())?;
    Ok(names)
}

impl Names {
    fn fill(&mut self, directory: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> Result<()> {
        let mut entries = RawDir::new(directory, buffer);
        while let Some(entry) = entries.next() {
            match entry {
                Ok(entry) => self.push(entry.file_name(), entry.ino(), entry.file_type())?,
                // The directory was removed after it was opened: it has no entries.
                Err(Errno::NOENT) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn push(&mut self, name: &CStr, ino: u64, file_type: FileType) -> Result<()> {
        let bytes = name.to_bytes();
        if bytes == b"." || bytes == b".." {
            return Ok(());
        }
        if self.arena.len() + bytes.len() >= ARENA_LEN_MAX {
            return Err(Errno::OVERFLOW);
        }
        let start = u32::try_from(self.arena.len()).map_err(|_| Errno::OVERFLOW)?;
        let len = u8::try_from(bytes.len()).map_err(|_| Errno::NAMETOOLONG)?;
        self.arena.extend_from_slice(name.to_bytes_with_nul());
        self.slots.push(Slot {
            ino,
            start,
            len,
            file_type: type_code(file_type),
        });
        Ok(())
    }

    /// Number of names.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether the directory is empty.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Orders the names by their bytes. A name that was listed twice, because it was removed and made again meanwhile, stays
    /// once.
    pub fn sort(&mut self) {
        let arena = &self.arena;
        let bytes = |slot: &Slot| {
            let start = slot.start as usize;
            &arena[start..start + usize::from(slot.len)]
        };
        self.slots.sort_unstable_by(|a, b| bytes(a).cmp(bytes(b)));
        self.slots.dedup_by(|a, b| bytes(a) == bytes(b));
    }

    /// Orders the names by inode number: the order in which a rotating disk reads them fastest.
    pub fn sort_by_ino(&mut self) {
        self.slots.sort_unstable_by_key(|slot| slot.ino);
    }

    /// The name at `index` in the present order.
    ///
    /// # Panics
    /// `index` is not below [`Self::len`].
    pub fn get(&self, index: usize) -> Name<'_> {
        let slot = &self.slots[index];
        let start = slot.start as usize;
        let with_nul = &self.arena[start..=start + usize::from(slot.len)];
        Name {
            c_str: CStr::from_bytes_with_nul(with_nul).expect("each name is followed by its NUL"),
            ino: slot.ino,
            file_type: type_of(slot.file_type),
        }
    }

    /// All names in the present order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Name<'_>> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Bytes of memory in use.
    pub fn memory_len(&self) -> usize {
        self.arena.capacity() + self.slots.capacity() * size_of::<Slot>()
    }
}

const TYPES: [FileType; 8] = [
    FileType::Unknown,
    FileType::RegularFile,
    FileType::Directory,
    FileType::Symlink,
    FileType::Fifo,
    FileType::Socket,
    FileType::CharacterDevice,
    FileType::BlockDevice,
];

fn type_code(file_type: FileType) -> u8 {
    let index = TYPES.iter().position(|known| *known == file_type).unwrap_or(0);
    u8::try_from(index).unwrap_or(0)
}

fn type_of(code: u8) -> FileType {
    TYPES[usize::from(code)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn all_names_come_once_and_sorted() {
        let folder = tempfile::tempdir().unwrap();
        let mut expected = Vec::new();
        for byte in 1..=255_u8 {
            if byte != b'/' && byte != b'.' {
                let name = [b'n', byte, byte];
                let path = folder
                    .path()
                    .join(std::os::unix::ffi::OsStrExt::from_bytes(&name[..]) as &std::ffi::OsStr);
                std::fs::write(path, b"").unwrap();
                expected.push(name.to_vec());
            }
        }
        std::fs::create_dir(folder.path().join("zz")).unwrap();
        let directory = std::fs::File::open(folder.path()).unwrap();
        let mut names = read_names(directory.as_fd()).unwrap();
        names.sort();
        let mut found: Vec<_> = names.iter().map(|name| name.bytes().to_vec()).collect();
        assert_eq!(names.get(found.len() - 1).file_type, FileType::Directory);
        assert_eq!(found.pop().unwrap(), b"zz");
        expected.sort();
        assert_eq!(found, expected);
        assert_eq!(names.get(0).file_type, FileType::RegularFile);
    }
}
