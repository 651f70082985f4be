//! A shared mapping of a file's first page, for tests of what mappings hide.

use std::ffi::c_void;
use std::fs::File;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

const LEN: usize = 4096;

/// Unmapped on drop.
pub(crate) struct SharedMapping(*mut c_void);

impl SharedMapping {
    /// Maps the first page of `file`, which must be that long, with the right to store or only to read.
    pub(crate) fn new(file: &File, protection: ProtFlags) -> Self {
        // SAFETY: a new mapping at an address of the kernel's choice overlays nothing.
        let mapped = unsafe { mmap(std::ptr::null_mut(), LEN, protection, MapFlags::SHARED, file, 0) };
        Self(mapped.unwrap())
    }

    /// Stores one byte; the mapping must be writable.
    pub(crate) fn store(&self, byte: u8) {
        // SAFETY: the mapping is LEN bytes long, writable as the caller says, and lives as long as `self`.
        unsafe { self.0.cast::<u8>().write_volatile(byte) };
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, and nothing refers to it any more.
        unsafe { munmap(self.0, LEN) }.unwrap();
    }
}
