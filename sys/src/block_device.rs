//! Block devices as sysfs describes them, and direct I/O on them.
//!
//! A *medium* here is a block device or a regular file that stands for one (a raw image). Facts are read from sysfs, so
//! that looking costs no open of the device. Offsets and lengths are bytes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::mounts::{Mount, mounts};

/// sysfs counts in these units whatever the device's sector size is.
const SYSFS_SECTOR_LEN: u64 = 512;

/// A device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceNumber {
    /// Driver.
    pub major: u32,
    /// Instance.
    pub minor: u32,
}

impl DeviceNumber {
    /// From the form that `stat` returns.
    pub fn from_raw(raw: u64) -> Self {
        Self {
            major: libc::major(raw),
            minor: libc::minor(raw),
        }
    }

    /// The kernel's internal form, as trace events carry it.
    pub fn kernel(self) -> u32 {
        self.major << 20 | self.minor & 0xf_ffff
    }

    /// The kernel's 32-bit form for user space (`new_encode_dev`).
    pub fn encoded(self) -> u32 {
        self.minor & 0xff | self.major << 8 | (self.minor & !0xff) << 12
    }

    /// From a file `dev` of sysfs; `None` when there is no such.
    pub fn read(path: &Path) -> Option<Self> {
        parse_number(&read_text(path).ok()?).ok()
    }

    pub(crate) fn sysfs(self) -> PathBuf {
        PathBuf::from(format!("/sys/dev/block/{self}"))
    }
}

impl std::fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What is known of a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its node, as given.
    pub path: PathBuf,
    /// Its number.
    pub number: DeviceNumber,
    /// The number of the whole disk: its own, unless it is a partition. Block trace events carry this one.
    pub disk: DeviceNumber,
    /// Where it begins on the whole disk, in bytes.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Smallest unit of I/O, in bytes.
    pub logical_sector_len: u32,
    /// Unit that the medium writes without reading first, in bytes.
    pub physical_sector_len: u32,
    /// Whether the device refuses writes.
    pub read_only: bool,
}

impl BlockDevice {
    /// Looks at the block device `path`; `None` when `path` is something else.
    ///
    /// # Errors
    /// `path` does not exist, or sysfs does not describe it.
    pub fn look(path: &Path) -> io::Result<Option<Self>> {
        let metadata = std::fs::metadata(path)?;
        if !metadata.file_type().is_block_device() {
            return Ok(None);
        }
        Self::by_number(path.to_owned(), DeviceNumber::from_raw(metadata.rdev())).map(Some)
    }

    fn by_number(path: PathBuf, number: DeviceNumber) -> io::Result<Self> {
        let own = number.sysfs();
        let is_partition = own.join("partition").exists();
        let whole = if is_partition { own.join("..") } else { own.clone() };
        let disk = parse_number(&read_text(&whole.join("dev"))?)?;
        Ok(Self {
            path,
            number,
            disk,
            start: if is_partition {
                read_u64(&own.join("start"))? * SYSFS_SECTOR_LEN
            } else {
                0
            },
            len: read_u64(&own.join("size"))? * SYSFS_SECTOR_LEN,
            logical_sector_len: read_u64(&whole.join("queue/logical_block_size"))? as u32,
            physical_sector_len: read_u64(&whole.join("queue/physical_block_size"))? as u32,
            read_only: read_u64(&own.join("ro"))? != 0,
        })
    }

    /// Whether this is a partition of a larger disk.
    pub fn is_partition(&self) -> bool {
        self.number != self.disk
    }

    /// The partitions of this disk that the kernel knows, by start; empty for a partition.
    ///
    /// # Errors
    /// sysfs cannot be read.
    pub fn partitions(&self) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        if self.is_partition() {
            return Ok(found);
        }
        for entry in std::fs::read_dir(self.number.sysfs())? {
            let entry = entry?;
            if entry.path().join("partition").exists() {
                let number = parse_number(&read_text(&entry.path().join("dev"))?)?;
                found.push(Self::by_number(
                    Path::new("/dev").join(entry.file_name()),
                    number,
                )?);
            }
        }
        found.sort_by_key(|partition| partition.start);
        Ok(found)
    }

    /// The mounts of file systems that lie directly on this device or on one of its partitions, in mount order.
    ///
    /// # Errors
    /// sysfs or the mount table cannot be read.
    pub fn mounts(&self) -> io::Result<Vec<(DeviceNumber, Mount)>> {
        let mut numbers: Vec<DeviceNumber> = self.partitions()?.into_iter().map(|part| part.number).collect();
        numbers.push(self.number);
        Ok(mounts()?
            .into_iter()
            .flat_map(|mount| {
                let devices = mount.block_devices();
                devices.into_iter().map(move |device| (device, mount.clone()))
            })
            .filter(|(number, _)| numbers.contains(number))
            .collect())
    }

    /// Devices stacked upon this one or its partitions (LVM, md, dm-crypt …), by their kernel names.
    ///
    /// # Errors
    /// sysfs cannot be read.
    pub fn holders(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let mut numbers: Vec<DeviceNumber> = self.partitions()?.into_iter().map(|part| part.number).collect();
        numbers.push(self.number);
        for number in numbers {
            match std::fs::read_dir(number.sysfs().join("holders")) {
                Ok(entries) => {
                    for entry in entries {
                        names.push(entry?.file_name().to_string_lossy().into_owned());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(names)
    }

    /// Whether somebody has it in use, in whatever mount namespace; `None` when that cannot be told. To look is to claim it for
    /// a moment: a mount of the very moment fails.
    pub fn is_used(&self) -> Option<bool> {
        is_used(&self.path)
    }

    /// The file behind a loop device.
    pub fn backing_file(&self) -> Option<PathBuf> {
        let text = read_text(&self.disk.sysfs().join("loop/backing_file")).ok()?;
        Some(PathBuf::from(text.trim_end_matches('\n')))
    }
}

/// [`BlockDevice::is_used`] by the node.
pub(crate) fn is_used(node: &Path) -> Option<bool> {
    let mut exclusive = OpenOptions::new();
    exclusive.read(true).custom_flags(libc::O_EXCL);
    match exclusive.open(node) {
        Ok(_) => Some(false),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Some(true),
        Err(_) => None,
    }
}

pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn read_u64(path: &Path) -> io::Result<u64> {
    read_text(path)?.trim().parse().map_err(io::Error::other)
}

fn parse_number(text: &str) -> io::Result<DeviceNumber> {
    let parse = || {
        let (major, minor) = text.trim().split_once(':')?;
        Some(DeviceNumber {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    };
    parse().ok_or_else(|| io::Error::other(format!("sysfs shows a device number that is none: {text:?}")))
}

/// How a medium is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading.
    Read,
    /// For reading and writing.
    Write,
    /// For reading and writing; a block device is refused with `EBUSY` while a file system, swap, LVM or another program has
    /// it in use. Of a regular file the kernel does not know that, nor of loop devices over either ([`crate::loop_users`]).
    WriteExclusive,
}

/// A medium opened for direct I/O. Addresses, offsets and lengths must be multiples of the logical sector.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    direct: bool,
}

impl DirectFile {
    /// Opens `path` with `O_DIRECT`; a regular file on a file system without direct I/O is opened buffered, a block
    /// device never is: its page cache is not coherent with the file system mounted on it.
    ///
    /// # Errors
    /// The system refuses.
    pub fn open(path: &Path, access: Access) -> io::Result<Self> {
        let exclusive = if access == Access::WriteExclusive {
            libc::O_EXCL
        } else {
            0
        };
        let open = |flags: libc::c_int| {
            OpenOptions::new()
                .read(true)
                .write(access != Access::Read)
                .custom_flags(flags | libc::O_CLOEXEC)
                .open(path)
        };
        let is_device = std::fs::metadata(path)?.file_type().is_block_device();
        let exclusive = if is_device { exclusive } else { 0 };
        match open(exclusive | libc::O_DIRECT) {
            Ok(file) => Ok(Self { file, direct: true }),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !is_device => Ok(Self {
                file: open(exclusive)?,
                direct: false,
            }),
            Err(error) => Err(error),
        }
    }

    /// Whether the page cache is bypassed.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// Read error, or the medium ends inside the range.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// Write error.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Makes a range read as zeros without sending zeros: punches a hole into a file, `BLKZEROOUT` on a device.
    ///
    /// # Errors
    /// The medium refuses.
    pub fn zero_range(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.file.metadata()?.file_type().is_block_device() {
            return self.zero_out(offset, len);
        }
        use rustix::fs::FallocateFlags as F;
        match rustix::fs::fallocate(&self.file, F::PUNCH_HOLE | F::KEEP_SIZE, offset, len) {
            Err(rustix::io::Errno::OPNOTSUPP) => {
                let zeros = crate::aligned::AlignedBuffer::zeroed(1 << 20);
                let end = offset + len;
                let mut at = offset;
                while at < end {
                    let part = (end - at).min(zeros.len() as u64);
                    self.write_all_at(&zeros[..part as usize], at)?;
                    at += part;
                }
                Ok(())
            }
            result => Ok(result?),
        }
    }

    fn zero_out(&self, offset: u64, len: u64) -> io::Result<()> {
        /// `_IO(0x12, 127)` of linux/fs.h.
        const BLKZEROOUT: libc::c_ulong = 0x127f;
        let range = [offset, len];
        // SAFETY: the descriptor is open and the argument points to two 64-bit numbers, as BLKZEROOUT wants.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), BLKZEROOUT as _, range.as_ptr()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aligned::AlignedBuffer;

    #[test]
    fn device_numbers_have_the_kernels_encodings() {
        let number = DeviceNumber {
            major: 259,
            minor: 0x12345,
        };
        assert_eq!(number.kernel(), (259 << 20) | 0x12345);
        assert_eq!(number.encoded(), 0x45 | (259 << 8) | (0x123 << 20));
        assert_eq!(DeviceNumber::from_raw(libc::makedev(259, 0x12345)), number);
    }

    #[test]
    fn whether_a_device_is_used_is_told_as_far_as_it_is_known() {
        let disk = crate::loop_device::LoopDevice::new("g2c-block-used", 1 << 20, 512).unwrap();
        let mut device = BlockDevice::look(&disk.path).unwrap().unwrap();
        assert_eq!(device.is_used(), Some(false));
        let user = DirectFile::open(&disk.path, Access::WriteExclusive).unwrap();
        assert_eq!(device.is_used(), Some(true));
        drop(user);
        device.path = PathBuf::from("/dev/g2c-block-nowhere");
        assert_eq!(device.is_used(), None);
    }

    #[test]
    fn a_regular_file_is_no_block_device_and_does_direct_io_and_holes() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = directory.path().join("image");
        std::fs::write(&path, vec![7u8; 1 << 20]).unwrap();
        assert_eq!(BlockDevice::look(&path).unwrap(), None);
        let file = DirectFile::open(&path, Access::WriteExclusive).unwrap();
        let mut buffer = AlignedBuffer::zeroed(8192);
        buffer.fill(9);
        file.write_all_at(&buffer, 4096).unwrap();
        file.zero_range(65_536, 65_536).unwrap();
        file.read_exact_at(&mut buffer, 0).unwrap();
        assert!(buffer[..4096].iter().all(|byte| *byte == 7) && buffer[4096..].iter().all(|byte| *byte == 9));
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes[65_536..131_072].iter().all(|byte| *byte == 0) && bytes[131_072] == 7);
        assert_eq!(bytes.len(), 1 << 20);
    }
}
