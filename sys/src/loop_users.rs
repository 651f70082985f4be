//! Loop devices over a file: whoever writes to the file writes beneath what is mounted from them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::block_device::{DeviceNumber, read_text};

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

/// A loop device through which the file at `path` may be written, or that something is mounted from; whatever name the
/// file had when it was attached.
///
/// # Errors
/// The file is not there, or sysfs cannot be read.
pub fn user_of(path: &Path) -> io::Result<Option<PathBuf>> {
    let file = std::fs::metadata(path)?;
    for entry in std::fs::read_dir("/sys/block")? {
        let entry = entry?;
        let backing = entry.path().join("loop/backing_file");
        let device = Path::new("/dev").join(entry.file_name());
        let Ok(name) = read_text(&backing) else {
            continue; // no loop device, or nothing is attached to it
        };
        let is_user = match status(&device) {
            Ok(Some(info)) => {
                let is_same = info.inode == file.ino()
                    && info.device == u64::from(DeviceNumber::from_raw(file.dev()).encoded());
                is_same && (info.flags & READ_ONLY == 0 || is_claimed(&device))
            }
            Ok(None) => false,
            // No node here, or no permission: by its name, then.
            Err(_) => std::fs::metadata(name.trim_end_matches('\n'))
                .is_ok_and(|other| (other.dev(), other.ino()) == (file.dev(), file.ino())),
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

/// Whether a file system, a stacked device or a program has it for itself, in whatever mount namespace.
fn is_claimed(device: &Path) -> bool {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL | libc::O_CLOEXEC)
        .open(device);
    opened.is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loop_device::LoopDevice;

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
}
