//! An EFI system partition under a kernel that cannot mount it: its files are copied out by mtools, the copy takes its
//! place in the guest, and what was written there is copied back.

use std::fs;
use std::path::{Path, PathBuf};

use transfer::{Error, Result};

use crate::convert::probe::tool;

/// A partition that is replaced by a copy of its files.
pub(super) struct SystemPartition {
    device: String,
    copy: PathBuf,
}

impl SystemPartition {
    /// Copies the files of `device` and binds the copy at `place`.
    pub(super) fn copy_in(device: &Path, folder: &Path, place: &Path) -> Result<Self> {
        let copy = folder.join("system-partition");
        fs::create_dir_all(&copy).map_err(|error| Error::io("make a folder", &copy, error))?;
        let device = device.display().to_string();
        let target = format!("{}/", copy.display());
        // An empty partition has nothing to copy; mcopy calls that a failure.
        if tool("mdir", &["-b", "-i", &device, "::/"], Some(1))?.is_some_and(|names| !names.trim().is_empty())
        {
            tool("mcopy", &["-s", "-n", "-p", "-i", &device, "::*", &target], None)?;
        }
        rustix::mount::mount_bind(&copy, place)
            .map_err(|error| Error::io("mount a copy", place, error.into()))?;
        Ok(Self { device, copy })
    }

    /// Copies everything back.
    pub(super) fn copy_out(&self) -> Result<()> {
        let entries =
            fs::read_dir(&self.copy).map_err(|error| Error::io("list a folder", &self.copy, error))?;
        for entry in entries.flatten() {
            let path = entry.path().display().to_string();
            tool("mcopy", &["-s", "-o", "-i", &self.device, &path, "::/"], None)?;
        }
        Ok(())
    }
}
