//! Source side: what an entry is and everything its file system keeps of it.
//!
//! All calls start from an open [`Directory`], never follow a symbolic link, never block on pipes or devices, and leave
//! access times alone where the kernel lets them. Reading twice and comparing, so that an entry which changed meanwhile is
//! noticed, is the caller's part: errors are the bare system errors, among which `ENOENT` means "vanished".

use std::ops::Range;
use std::os::fd::BorrowedFd;

pub mod directory;
pub mod meta;
pub mod stat;

pub use directory::Directory;
pub use meta::{capture_meta, capture_meta_fd};
pub use stat::{FileKind, Stat};

/// Parts of an open file, at most some hundred from `range` on, whose blocks other files or other parts of this one use as
/// well: two parts with the same place on the medium of one file system have the same content. Empty where the file system
/// does not tell. To go on, ask again from the end of the last one.
///
/// Writes the file's dirty pages out first.
///
/// # Errors
/// What the ioctl gives.
pub fn shared_extents(file: BorrowedFd<'_>, range: Range<u64>) -> std::io::Result<Vec<sys::fiemap::Extent>> {
    let mut from = range.start;
    loop {
        let Some(found) = sys::fiemap::extents(file, from..range.end)? else {
            return Ok(Vec::new());
        };
        let Some(last) = found.last() else {
            return Ok(Vec::new());
        };
        from = last.logical_end();
        let shared: Vec<_> = found
            .into_iter()
            .filter(|extent| extent.shared && extent.placed)
            .collect();
        if !shared.is_empty() {
            return Ok(shared);
        }
    }
}
