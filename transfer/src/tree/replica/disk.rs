//! The few file operations that change a replica's folder, so that each can be seen, counted and made to fail.
//!
//! Nothing else in this module writes, renames or removes a file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Bytes gathered before a write.
const BUFFER_LEN: usize = 1024 * 1024;

/// A file being written from its front, or appended to.
pub(super) struct Output {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    /// Bytes given to the kernel; the buffer comes after them.
    written: u64,
    /// Whether everything stays in the buffer, however much it is.
    held: bool,
}

impl Output {
    /// Creates the file, or empties it.
    pub(super) fn create(path: &Path) -> Result<Self> {
        hook::before(&hook::Change::Create(path))
            .map_err(|e| Error::io("create a file of the replica", path, e))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(|e| Error::io("create a file of the replica", path, e))?;
        Ok(Self::over(file, path, 0))
    }

    /// Continues the existing file after its first `len` bytes; what follows them is cut off.
    pub(super) fn extend(path: &Path, len: u64) -> Result<Self> {
        let failed = |e| Error::io("open a file of the replica for writing", path, e);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed)?;
        if file.metadata().map_err(failed)?.len() != len {
            hook::before(&hook::Change::Write(path)).map_err(failed)?;
            file.set_len(len).map_err(failed)?;
        }
        Ok(Self::over(file, path, len))
    }

    fn over(file: File, path: &Path, written: u64) -> Self {
        Self {
            file,
            path: path.to_owned(),
            buffer: Vec::new(),
            written,
            held: false,
        }
    }

    /// Keeps in memory what comes from here on, or gives it to the kernel.
    pub(super) fn hold(&mut self, held: bool) -> Result<()> {
        self.held = held;
        if held { Ok(()) } else { self.flush() }
    }

    /// Length of the file once everything is written, in bytes.
    pub(super) fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Adds bytes to the end.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_LEN && !self.held {
            self.flush()?;
        }
        Ok(())
    }

    /// Gives the buffered bytes to the kernel.
    pub(super) fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let failed = |e| Error::io("write to the replica", &self.path, e);
        if let Err(error) = hook::before(&hook::Change::Write(&self.path)) {
            // Only in tests: a crash in the middle of a write.
            let half = &self.buffer[..self.buffer.len() / 2];
            self.file.write_all_at(half, self.written).map_err(failed)?;
            return Err(failed(error));
        }
        self.file
            .write_all_at(&self.buffer, self.written)
            .map_err(failed)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes everything written so far durable.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.flush()?;
        let failed = |e| Error::io("make the replica durable", &self.path, e);
        hook::before(&hook::Change::Sync).map_err(failed)?;
        self.file.sync_data().map_err(failed)?;
        hook::synced(&self.path, self.written);
        Ok(())
    }
}

/// Writes `bytes` to `path` so that a crash leaves either the old file or the new one: under another name first, made
/// durable, renamed, and the folder made durable.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let mut output = Output::create(&temporary)?;
    output.write(bytes)?;
    output.sync()?;
    let failed = |e| Error::io("replace a file of the replica", path, e);
    hook::before(&hook::Change::Rename(&temporary, path)).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)?;
    sync_folder(path.parent().expect("files of a replica are in its folder"))
}

/// Makes creations, renames and removals in `folder` durable.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    let failed = |e| Error::io("make the replica's folder durable", folder, e);
    hook::before(&hook::Change::SyncFolder).map_err(failed)?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed)?;
    hook::folder_synced();
    Ok(())
}

/// Removes a file; one that is not there is fine.
pub(super) fn remove(path: &Path) -> Result<()> {
    let failed = |e| Error::io("remove a file of the replica", path, e);
    hook::before(&hook::Change::Remove(path)).map_err(failed)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Creates the folder with its parents, durably.
pub(super) fn create_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(|e| Error::io("create the replica's folder", folder, e))?;
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|parent| parent.sync_all())
        .map_err(|e| Error::io("make the replica's folder durable", parent, e))
}

/// A spill file of an external sort: never durable, only complete or not.
pub(super) fn create_scratch(path: &Path) -> Result<impl Write + use<>> {
    File::create(path).map_err(|e| Error::io("create a scratch file", path, e))
}

/// Where tests make changes fail. Nothing in the product.
#[cfg(not(test))]
mod hook {
    use std::path::Path;

    #[expect(dead_code, reason = "tests look at the paths")]
    pub(super) enum Change<'a> {
        Create(&'a Path),
        Write(&'a Path),
        Sync,
        Rename(&'a Path, &'a Path),
        SyncFolder,
        Remove(&'a Path),
    }

    pub(super) fn before(_: &Change<'_>) -> std::io::Result<()> {
        Ok(())
    }

    pub(super) fn synced(_: &Path, _: u64) {}

    pub(super) fn folder_synced() {}
}

#[cfg(test)]
pub(super) mod hook;
