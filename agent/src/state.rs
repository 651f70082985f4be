//! What is kept between runs: one folder, one running agent per folder, small JSON files written in one piece.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The default folder.
pub const ROOT: &str = "/var/lib/go2cloud";

/// A folder of state, with the files in it by name.
#[derive(Clone, Debug)]
pub struct State {
    root: PathBuf,
}

/// The right to be the one agent that works with a folder; given back when dropped, or when the process ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock lives as long as the open file")] File);

impl State {
    /// The state in `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The path of one of its files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Becomes the one agent of this folder; `None` when another one runs.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn lock(&self) -> io::Result<Option<Lock>> {
        fs::create_dir_all(&self.root)?;
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.path("agent.lock"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                file.set_len(0)?;
                write!(file, "{}", std::process::id())?;
                Ok(Some(Lock(file)))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The process id of the agent that works with this folder now.
    pub fn running(&self) -> Option<u32> {
        let file = File::open(self.path("agent.lock")).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => None,
            Err(_) => fs::read_to_string(self.path("agent.lock"))
                .ok()?
                .trim()
                .parse()
                .ok(),
        }
    }

    /// Reads one of its files; `None` when it is not there or was not written by this program.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&fs::read(self.path(name)).ok()?).ok()
    }

    /// Writes one of its files: whole or not at all, readable by its owner only.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        fs::create_dir_all(&self.root)?;
        write_whole(&self.path(name), &serde_json::to_vec(value)?)
    }

    /// Removes one of its files, if it is there.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Writes a file whole or not at all, readable by its owner only.
///
/// # Errors
/// The folder cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = PathBuf::from(name);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_per_folder() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::at(folder.path().join("deep/er"));
        assert_eq!(state.running(), None);
        let lock = state.lock().unwrap();
        assert!(lock.is_some());
        assert!(state.lock().unwrap().is_none());
        assert_eq!(state.running(), Some(std::process::id()));
        drop(lock);
        assert_eq!(state.running(), None);
        assert!(state.lock().unwrap().is_some());
    }

    #[test]
    fn files_are_replaced_whole_and_foreign_ones_are_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::at(folder.path());
        state.write("a", &[1, 2, 3]).unwrap();
        assert_eq!(state.read::<Vec<u8>>("a"), Some(vec![1, 2, 3]));
        fs::write(state.path("a"), "[1,").unwrap();
        assert_eq!(state.read::<Vec<u8>>("a"), None);
        state.remove("a").unwrap();
        state.remove("a").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
