//! What the target holds of an entry's metadata, where it did not take all that it was given.

use std::ffi::CString;
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::{Missing, TreeWriter};
use crate::error::Result;
use crate::tree::capture::{Directory, capture_meta, capture_meta_fd};
use crate::tree::entry::{EntryPath, Meta};

impl TreeWriter {
    /// The metadata of the entry at `path` as they are; `None` where they cannot be read.
    ///
    /// # Errors
    /// The medium failed.
    pub fn metadata_held(&mut self, path: &EntryPath) -> Result<Option<Meta>> {
        if path.is_root() {
            return Ok(self.metadata_of_root().ok());
        }
        let held = self.in_parent(path, Missing::Leave, "read metadata", |directory, name| {
            let directory = directory.try_clone_to_owned();
            let directory = Directory::from(directory.map_err(|_| Errno::MFILE)?);
            let name = CString::new(name).map_err(|_| Errno::INVAL)?;
            let held = directory.stat_entry(&name);
            Ok(held.and_then(|stat| capture_meta(&directory, &name, &stat)).ok())
        })?;
        Ok(held.unwrap_or_default())
    }

    fn metadata_of_root(&self) -> std::io::Result<Meta> {
        let directory = Directory::from(self.tree.root.try_clone()?);
        let opened = directory.open_beneath(&EntryPath::root())?;
        capture_meta_fd(opened.as_fd(), &opened.stat()?)
    }
}
