//! Bounds of the conversion.

use std::time::Duration;

/// Longest chain of symbolic links followed inside a guest: the kernel's own limit.
pub const LINK_DEPTH_MAX: usize = 40;

/// Largest file of the guest held in memory, in bytes: an uncompressed initramfs with all drivers and firmware.
pub const GUEST_FILE_LEN_MAX: u64 = 512 * 1024 * 1024;

/// Largest initramfs after decompression, in bytes: `dracut --no-hostonly` with firmware stays below half of it.
pub const INITRAMFS_LEN_MAX: u64 = 1024 * 1024 * 1024;

/// Largest value, and largest list, of extended attributes: the kernel's XATTR_SIZE_MAX and XATTR_LIST_MAX.
pub const XATTR_LEN_MAX: usize = 64 * 1024;

/// Longest run of one of the guest's tools: an initramfs took 218 s under emulation; four times that, rounded up.
pub const TOOL_TIME_MAX: Duration = Duration::from_secs(900);

/// Bytes of a tool's output that are kept for the report: its end, where errors are.
pub const TOOL_OUTPUT_LEN_MAX: usize = 64 * 1024;

/// Longest run of a disk tool of ours (probing, partition scans).
pub const PROBE_TIME_MAX: Duration = Duration::from_secs(60);

/// Lines of a file for which a planned change is shown line by line; a longer one is shown by its size.
pub const DIFF_LINE_COUNT_MAX: usize = 20_000;
