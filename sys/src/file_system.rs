//! Whether something lies on a file system whose data are on a disk.

use std::os::fd::BorrowedFd;

use rustix::io::Result;

/// Magic numbers of file systems that keep their data on a disk of this machine (linux/magic.h and the file systems'
/// own headers). Whatever is not listed is taken for a pseudo, memory or network file system.
const ON_DISK: [u64; 15] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // btrfs
    0xf2f5_2010, // F2FS
    0x3153_464a, // JFS
    0x5265_4973, // ReiserFS
    0x4d44,      // FAT
    0x2011_bab0, // exFAT
    0x5346_544e, // NTFS (ntfs)
    0x7366_746e, // NTFS (ntfs3)
    0x2fc1_2fc1, // ZFS
    0xca45_1a4e, // bcachefs
    0x3434,      // NILFS2
    0x0001_1954, // UFS
    0x4244,      // HFS
];

/// Whether `fd` lies on a file system whose data are on a disk of this machine.
///
/// # Errors
/// What `fstatfs` gives.
pub fn is_disk_backed(fd: BorrowedFd<'_>) -> Result<bool> {
    let status = rustix::fs::fstatfs(fd)?;
    let magic = (status.f_type as u64) & 0xffff_ffff;
    Ok(ON_DISK.contains(&magic))
}

/// Magic numbers of file systems on which files can share blocks and tell so.
const SHARING: [u64; 4] = [
    0x5846_5342, // XFS
    0x9123_683e, // btrfs
    0xca45_1a4e, // bcachefs
    0x7461_636f, // OCFS2
];

/// Whether `fd` lies on a file system on which files can share blocks.
///
/// # Errors
/// What `fstatfs` gives.
pub fn can_share_blocks(fd: BorrowedFd<'_>) -> Result<bool> {
    let status = rustix::fs::fstatfs(fd)?;
    let magic = (status.f_type as u64) & 0xffff_ffff;
    Ok(SHARING.contains(&magic))
}

/// Whether `fd` lies on a file system that keeps no more of a file's last access than its date, and that in the time zone
/// of its system: FAT.
///
/// # Errors
/// What `fstatfs` gives.
pub fn keeps_dates_of_access(fd: BorrowedFd<'_>) -> Result<bool> {
    let status = rustix::fs::fstatfs(fd)?;
    let magic = (status.f_type as u64) & 0xffff_ffff;
    Ok(magic == 0x4d44)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn proc_is_not_on_a_disk() {
        let proc = std::fs::File::open("/proc").unwrap();
        assert!(!is_disk_backed(proc.as_fd()).unwrap());
        assert!(!keeps_dates_of_access(proc.as_fd()).unwrap());
    }
}
