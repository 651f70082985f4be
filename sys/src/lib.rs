//! Linux made safe: system calls, ioctls, trackers.
//!
//! The only crate with `unsafe` code: one call per block, each with its reason. "The kernel cannot do that" is an
//! answer (`None`, [`std::io::ErrorKind::Unsupported`]), not a surprise. This crate knows nothing of the product.
#![expect(
    unsafe_code,
    reason = "system calls without a safe wrapper live here and nowhere else"
)]

pub mod aligned;
pub mod beneath;
pub mod block_device;
pub mod block_tracker;
mod bpf;
pub mod btrfs;
pub mod child;
pub mod chunk_set;
mod control_group;
pub mod directory;
pub mod extents;
pub mod fanotify;
pub mod fiemap;
pub mod file_attributes;
pub mod file_handle;
pub mod file_system;
pub mod freeze;
pub mod getfsmap;
pub mod inode_flags;
pub mod io_priority;
pub mod loop_device;
pub mod loop_users;
pub mod mounts;
pub mod open_files;
pub mod page_cache;
mod perf;
pub mod pressure;
pub mod reflink;
#[cfg(test)]
mod shared_mapping;
pub mod sighting;
pub mod tcp_info;
mod tracepoint;
pub mod umask;
pub mod watchdog;
pub mod xattr;

/// Turns the answer of a C library call into a result.
fn answer(value: libc::c_int) -> rustix::io::Result<libc::c_int> {
    if value >= 0 {
        return Ok(value);
    }
    let errno = std::io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO);
    Err(rustix::io::Errno::from_raw_os_error(errno))
}
