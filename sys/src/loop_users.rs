//! Loop devices over a file or a block device: whoever writes to it writes beneath what is mounted from them. They do not claim
//! a block device that they stand over, so that the kernel lets others open it for themselves.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::block_device::{BlockDevice, DeviceNumber, is_used, read_text};

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encryption_type: u32,
    encryption_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    encryption_name: [u8; 64],
    encryption_key: [u8; 32],
    init: [u64; 2],
}

/// `LOOP_GET_STATUS64` of linux/loop.h.
const LOOP_GET_STATUS64: libc::c_ulong = 0x4c05;
/// `LO_FLAGS_READ_ONLY` of linux/loop.h.
const READ_ONLY: u32 = 1;

/// What is looked for behind loop devices, with numbers in the kernel's form for user space.
enum Sought {
    File {
        device: u64,
        inode: u64,
    },
    /// A disk with its partitions, or a partition with its disk: who writes to one of them may write to the other.
    Devices(Vec<u64>),
}

impl Sought {
    fn at(path: &Path) -> io::Result<Self> {
        let Some(device) = BlockDevice::look(path)? else {
            let file = std::fs::metadata(path)?;
            return Ok(Self::File {
                device: encoded(file.dev()),
                inode: file.ino(),
            });
        };
        let mut numbers = vec![device.number, device.disk];
        numbers.extend(device.partitions()?.iter().map(|partition| partition.number));
        Ok(Self::Devices(
            numbers
                .into_iter()
                .map(|number| number.encoded().into())
                .collect(),
        ))
    }

    fn is_behind(&self, info: &LoopInfo) -> bool {
        self.is(info.device, info.inode, info.rdevice)
    }

    fn is_file(&self, file: &Metadata) -> bool {
        self.is(encoded(file.dev()), file.ino(), encoded(file.rdev()))
    }

    fn is(&self, on: u64, number: u64, itself: u64) -> bool {
        match self {
            Self::File { device, inode } => (*device, *inode) == (on, number),
            Self::Devices(numbers) => numbers.contains(&itself),
        }
    }
}

fn encoded(raw: u64) -> u64 {
    DeviceNumber::from_raw(raw).encoded().into()
}

/// A loop device through which the file or block device at `path` may be written, or that something is mounted from; whatever
/// name it had when it was attached. A disk is written through a loop device over one of its partitions, too, and a partition
/// through one over its disk.
///
/// # Errors
/// It is not there, or sysfs cannot be read.
pub fn user_of(path: &Path) -> io::Result<Option<PathBuf>> {
    let sought = Sought::at(path)?;
    for entry in std::fs::read_dir("/sys/block")? {
        let entry = entry?;
        let backing = entry.path().join("loop/backing_file");
        let device = Path::new("/dev").join(entry.file_name());
        let Ok(name) = read_text(&backing) else {
            continue; // no loop device, or nothing is attached to it
        };
        let is_user = match status(&device) {
            // Only to look disturbs nobody, unless something is mounted from it or stacked on it, in whatever mount namespace.
            Ok(Some(info)) => {
                sought.is_behind(&info) && (info.flags & READ_ONLY == 0 || is_used(&device) != Some(false))
            }
            Ok(None) => false,
            // No node here, or no permission: by its name, then.
            Err(_) => {
                std::fs::metadata(name.trim_end_matches('\n')).is_ok_and(|other| sought.is_file(&other))
            }
        };
        if is_user {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

/// What is attached to a loop device; `None` for nothing.
fn status(device: &Path) -> io::Result<Option<LoopInfo>> {
    let device = File::open(device)?;
    let mut info = std::mem::MaybeUninit::<LoopInfo>::zeroed();
    // SAFETY: the descriptor is open, and the argument points to a structure of the size that LOOP_GET_STATUS64 fills.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64 as _, info.as_mut_ptr()) };
    match crate::answer(answer) {
        // SAFETY: all bytes were zero before and the kernel has filled them; every value is valid for its field.
        Ok(_) => Ok(Some(unsafe { info.assume_init() })),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loop_device::{Attached, LoopDevice, run};

    #[test]
    fn the_structure_is_the_kernels() {
        assert_eq!(size_of::<LoopInfo>(), 232);
        assert_eq!(std::mem::offset_of!(LoopInfo, flags), 52);
    }

    #[test]
    fn a_device_over_a_file_is_found_by_any_name_of_it() {
        let device = LoopDevice::new("g2c-loop-users", 1 << 20, 512).unwrap();
        assert_eq!(user_of(&device.backing).unwrap().as_ref(), Some(&device.path));
        let other = device.backing.with_extension("other");
        std::fs::hard_link(&device.backing, &other).unwrap();
        assert_eq!(user_of(&other).unwrap().as_ref(), Some(&device.path));
        std::fs::remove_file(&other).unwrap();
        std::fs::write(&other, b"").unwrap();
        assert_eq!(user_of(&other).unwrap(), None);
        std::fs::remove_file(&other).unwrap();
    }

    #[test]
    fn a_device_over_a_disk_or_its_partition_is_found_from_both() {
        let disk = LoopDevice::new("g2c-loop-users", 8 << 20, 512).unwrap();
        let other = LoopDevice::new("g2c-loop-users", 8 << 20, 512).unwrap();
        let table =
            "printf 'start=2048, size=4096\\nstart=8192, size=4096\\n' | sfdisk -q --label dos \"$0\"";
        run("sh", ["-c".as_ref(), table.as_ref(), disk.path.as_os_str()]).unwrap();
        disk.scan_partitions().unwrap();
        let [one, two] = [1, 2].map(|number| disk.partition(number));
        for path in [&disk.path, &one, &other.path] {
            assert_eq!(user_of(path).unwrap(), None);
        }
        let over = Attached::new(&[], &one).unwrap();
        for path in [&disk.path, &one] {
            assert_eq!(user_of(path).unwrap().as_ref(), Some(&over.0));
        }
        assert_eq!(user_of(&two).unwrap(), None, "a neighbour");
        drop(over);
        let over = Attached::new(&[], &disk.path).unwrap();
        for path in [&disk.path, &one, &two] {
            assert_eq!(user_of(path).unwrap().as_ref(), Some(&over.0));
        }
        assert_eq!(user_of(&other.path).unwrap(), None);
        drop(over);
        let looks = Attached::new(&["--read-only"], &disk.path).unwrap();
        assert_eq!(user_of(&disk.path).unwrap(), None);
        drop(looks);
    }
}
