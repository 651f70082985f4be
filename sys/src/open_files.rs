//! Which files could change without a word: those open for writing, mapped shared, or behind a loop device.
//!
//! Stores through a mapping and direct asynchronous writes make no fanotify event, and a store to a page that is dirty
//! already moves no timestamp. Whoever must not miss a change reads these files again.
//!
//! Not seen: files that a process holds without a descriptor or mapping (in flight on a socket, registered with
//! io_uring after closing). Processes that end while this looks are passed over: their files were closed, which is an
//! event.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};
use rustix::io::Errno;

use crate::mounts::{leads_elsewhere, mounts};

/// The identity of a file: `st_dev` and `st_ino`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub ino: u64,
}

impl FileId {
    /// Of what `metadata` tells about.
    pub fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            ino: metadata.ino(),
        }
    }
}

/// Regular files that someone could be writing to, each with a path in `/proc` or `/sys` through which it can be looked
/// at for as long as it stays open.
///
/// # Errors
/// `/proc` is not mounted.
pub fn open_for_write() -> io::Result<HashMap<FileId, PathBuf>> {
    look(|process, found| {
        found.descriptors(&process.join("fd"));
        found.mappings(process);
    })
}

/// The same without those that are only mapped. Other than [`open_for_write`] this waits for nobody's memory, so that it
/// can be used while file systems are frozen: whoever stores to a mapping then keeps the map of its memory locked.
///
/// # Errors
/// `/proc` is not mounted.
pub fn opened_for_write() -> io::Result<HashMap<FileId, PathBuf>> {
    look(|process, found| found.descriptors(&process.join("fd")))
}

fn look(at: impl Fn(&Path, &mut Found)) -> io::Result<HashMap<FileId, PathBuf>> {
    let mut found = Found(HashMap::new());
    for process in fs::read_dir("/proc")? {
        let process = process?;
        if process.file_name().as_bytes()[0].is_ascii_digit() {
            at(&process.path(), &mut found);
        }
    }
    found.loop_devices();
    Ok(found.0)
}

struct Found(HashMap<FileId, PathBuf>);

impl Found {
    /// Open descriptors: the mode of the link tells whether one was opened for writing.
    fn descriptors(&mut self, folder: &Path) {
        let Ok(links) = fs::read_dir(folder) else {
            return;
        };
        for link in links.filter_map(Result::ok) {
            if link.metadata().is_ok_and(|metadata| metadata.mode() & 0o200 != 0) {
                self.add(link.path());
            }
        }
    }

    /// Shared mappings, writable now or not: `mprotect` can have taken the right away after the stores.
    fn mappings(&mut self, process: &Path) {
        let Ok(maps) = fs::read(process.join("maps")) else {
            return;
        };
        for line in maps.split(|byte| *byte == b'\n') {
            // address permissions offset device inode path
            let mut fields = line.split(|byte| *byte == b' ');
            let (Some(range), Some(permissions)) = (fields.next(), fields.next()) else {
                continue;
            };
            if permissions.last() == Some(&b's') {
                let link = process
                    .join("map_files")
                    .join(OsStr::from_bytes(&unpadded(range)));
                if fs::symlink_metadata(&link).is_ok_and(|metadata| metadata.mode() & 0o200 != 0) {
                    self.add(link);
                }
            }
        }
    }

    /// Files behind loop devices: the kernel holds them.
    fn loop_devices(&mut self) {
        let (Ok(devices), Ok(table)) = (fs::read_dir("/sys/block"), mounts()) else {
            return;
        };
        for device in devices.filter_map(Result::ok) {
            let Ok(mut backing) = fs::read(device.path().join("loop/backing_file")) else {
                continue;
            };
            if backing.last() == Some(&b'\n') {
                backing.pop();
            }
            let backing = PathBuf::from(OsStr::from_bytes(&backing));
            // Whoever answers for what is there may not do so, and nobody copies it.
            if !leads_elsewhere(&table, &backing) {
                self.add(backing);
            }
        }
    }

    fn add(&mut self, path: PathBuf) {
        if let Ok((id, FileType::RegularFile)) = known_identity(&path) {
            self.0.entry(id).or_insert(path);
        }
    }
}

/// What a path, or a magic link, leads to. Of an open file the kernel knows that without asking the machine or process where it lies.
pub(crate) fn known_identity(path: &Path) -> io::Result<(FileId, FileType)> {
    let wanted = StatxFlags::TYPE | StatxFlags::INO;
    match rustix::fs::statx(CWD, path, AtFlags::STATX_DONT_SYNC, wanted) {
        Ok(found) => {
            let id = FileId {
                device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
                ino: found.stx_ino,
            };
            Ok((id, FileType::from_raw_mode(u32::from(found.stx_mode))))
        }
        // Before 4.11.
        Err(Errno::NOSYS) => {
            let metadata = fs::metadata(path)?;
            Ok((FileId::of(&metadata), FileType::from_raw_mode(metadata.mode())))
        }
        Err(error) => Err(error.into()),
    }
}

/// `maps` pads addresses with zeros to eight digits, `map_files` does not.
fn unpadded(range: &[u8]) -> Vec<u8> {
    let trim = |address: &[u8]| -> Vec<u8> {
        let zeros = address.iter().take_while(|digit| **digit == b'0').count();
        address[zeros.min(address.len() - 1)..].to_vec()
    };
    let ends: Vec<_> = range
        .split(|byte| *byte == b'-')
        .filter(|end| !end.is_empty())
        .map(trim)
        .collect();
    ends.join(&b'-')
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::mm::ProtFlags;

    use super::*;
    use crate::shared_mapping::SharedMapping;

    #[test]
    fn open_mapped_and_looped_files_are_found_and_others_not() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["written", "read", "mapped", "mapped-to-read", "closed"] {
            fs::write(path(name), vec![0; 4096]).unwrap();
        }
        let _written = File::options().append(true).open(path("written")).unwrap();
        let _read = File::open(path("read")).unwrap();
        drop(File::options().append(true).open(path("closed")).unwrap());
        let mappings = [("mapped", true), ("mapped-to-read", false)].map(|(name, write)| {
            let file = File::options().read(true).write(write).open(path(name)).unwrap();
            let store = if write {
                ProtFlags::WRITE
            } else {
                ProtFlags::empty()
            };
            SharedMapping::new(&file, ProtFlags::READ | store)
        });
        let device = crate::loop_device::LoopDevice::new("filter-open", 1 << 20, 512).unwrap();

        let found = open_for_write().unwrap();
        let opened = opened_for_write().unwrap();
        drop(mappings);
        let id = |name: &str| FileId::of(&fs::metadata(path(name)).unwrap());
        assert!(opened.contains_key(&id("written")) && !opened.contains_key(&id("mapped")));
        let holds = |path: &Path| found.contains_key(&FileId::of(&fs::metadata(path).unwrap()));
        assert!(holds(&path("written")));
        assert!(holds(&path("mapped")));
        assert!(holds(&device.backing));
        assert!(!holds(&path("read")));
        assert!(!holds(&path("mapped-to-read")));
        assert!(!holds(&path("closed")));
    }

    #[test]
    fn addresses_lose_their_padding() {
        assert_eq!(unpadded(b"00400000-00452000"), b"400000-452000");
        assert_eq!(unpadded(b"7f00aa-7f00bb"), b"7f00aa-7f00bb");
    }
}
