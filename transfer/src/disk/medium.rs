//! The port to a disk: a block device, an image file, or in tests something that fails on purpose.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sys::aligned::ALIGNMENT;
use sys::block_device::{Access, BlockDevice, DirectFile};
use sys::loop_users;

use crate::error::{Error, Kind, Result};
use crate::lock;

/// Something with a fixed length that is read and written at offsets. Offsets and lengths are multiples of the sector
/// length; addresses of buffers are aligned to 4096 bytes.
pub trait Medium: Send + Sync {
    /// Length in bytes.
    fn length(&self) -> u64;

    /// Smallest unit of I/O, in bytes.
    fn sector_len(&self) -> u64;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// The medium cannot be read there.
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// The medium refuses.
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes a range read as zeros, without data travelling where the medium can do that.
    ///
    /// # Errors
    /// The medium refuses.
    fn zero(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Returns when everything written before is durable.
    ///
    /// # Errors
    /// The medium lost something.
    fn sync(&self) -> io::Result<()>;
}

/// A block device or an image file, opened for direct I/O.
#[derive(Debug)]
pub struct DiskMedium {
    /// The path it was opened by.
    pub path: PathBuf,
    /// What the kernel says of it; `None` for an image file.
    pub device: Option<BlockDevice>,
    file: DirectFile,
    /// For the odd tail of an image file: its length need not be a multiple of what direct I/O wants.
    buffered: Option<File>,
    len: u64,
    sector_len: u64,
}

impl DiskMedium {
    /// Opens `path`.
    ///
    /// # Errors
    /// It is neither a block device nor a regular file, or the system refuses.
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        let failed = |error| Error::io("open the disk", path, error);
        let device = BlockDevice::look(path).map_err(failed)?;
        let metadata = std::fs::metadata(path).map_err(failed)?;
        let len = match &device {
            Some(device) => device.len,
            None if metadata.is_file() => metadata.len(),
            None => {
                return Err(Error::new(Kind::Usage, "use this as a disk")
                    .on(path)
                    .remedy("name a block device or an image file"));
            }
        };
        let file = DirectFile::open(path, access).map_err(failed)?;
        let buffered = match &device {
            Some(_) => None,
            None => Some(
                File::options()
                    .read(true)
                    .write(access != Access::Read)
                    .open(path)
                    .map_err(failed)?,
            ),
        };
        Ok(Self {
            sector_len: device
                .as_ref()
                .map_or(512, |device| u64::from(device.logical_sector_len)),
            path: path.to_owned(),
            device,
            file,
            buffered,
            len,
        })
    }

    /// An image file stands for a disk with sectors of this length: so its partition table counts. A block device has its own.
    #[must_use]
    pub fn with_sector_len(mut self, sector_len: u32) -> Self {
        if self.device.is_none() {
            self.sector_len = u64::from(sector_len);
        }
        self
    }

    /// Refuses what others write to through a loop device; an image file also for as long as this is open. What else has a block
    /// device in use, the kernel knows ([`Access::WriteExclusive`]).
    ///
    /// # Errors
    /// Who uses it, and what to do.
    pub fn claim(&self) -> Result<()> {
        self.refuse_loop_devices()?;
        if self.device.is_some() {
            return Ok(());
        }
        let what = "write to an image file that another receiver writes to";
        lock::exclusively(self.file.file()).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Error::new(Kind::Usage, what)
                .on(&self.path)
                .because(error)
                .remedy("end the other receiver, or name another file"),
            _ => Error::io("lock the image file", &self.path, error),
        })
    }

    fn refuse_loop_devices(&self) -> Result<()> {
        let failed = |error| Error::io("find out who uses the disk", &self.path, error);
        let free = lock::patiently(|| match loop_users::user_of(&self.path) {
            Ok(user) => Ok(user.is_none().then_some(())),
            // Partitions come and go while the kernel reads a table again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        });
        let free = free.map_err(failed)?;
        if free.is_none()
            && let Some(device) = loop_users::user_of(&self.path).map_err(failed)?
        {
            let device = device.display();
            let what = match self.device {
                Some(_) => "write to a disk that is in use",
                None => "write to an image file that is in use",
            };
            return Err(Error::new(Kind::Usage, what)
                .on(&self.path)
                .remedy(format!(
                    "{device} stands for it: unmount its file systems, switch off what is stacked on it (lsblk {device}), then \
                     losetup -d {device}"
                )));
        }
        Ok(())
    }

    /// Gives an image file its length. Does nothing to a block device.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn set_len(&mut self, len: u64) -> io::Result<()> {
        if self.device.is_none() {
            self.file.file().set_len(len)?;
            self.len = len;
        }
        Ok(())
    }
}

impl Medium for DiskMedium {
    fn length(&self) -> u64 {
        self.len
    }

    fn sector_len(&self) -> u64 {
        self.sector_len
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.buffered {
            Some(file) if is_odd(buffer.len(), offset) => file.read_exact_at(buffer, offset),
            _ => self.file.read_exact_at(buffer, offset),
        }
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match &self.buffered {
            Some(file) if is_odd(bytes.len(), offset) => file.write_all_at(bytes, offset),
            _ => self.file.write_all_at(bytes, offset),
        }
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.zero_range(offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.file().sync_data()
    }
}

fn is_odd(len: usize, offset: u64) -> bool {
    !(len as u64 | offset).is_multiple_of(ALIGNMENT as u64)
}
