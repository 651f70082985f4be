//! Locks on files and folders that end with their holder, whatever ends it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};

/// For how long something that somebody else uses is tried again: a predecessor that was killed, or a child that it was
/// about to start, may take a moment to be gone, and so may a loop device that was detached.
const PATIENCE: Duration = Duration::from_secs(3);

/// Makes the state folder of a source if it is missing, and locks it for as long as the file is open: two runs would take each
/// other's knowledge for their own.
///
/// # Errors
/// Another run uses the folder, or it cannot be made.
pub fn state_folder(state: &Path) -> Result<File> {
    std::fs::create_dir_all(state).map_err(|error| Error::io("make the state folder", state, error))?;
    let path = state.join("lock");
    let file =
        File::create(&path).map_err(|error| Error::io("make a file in the state folder", &path, error))?;
    match exclusively(&file) {
        Ok(()) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Error::new(
            Kind::Usage,
            "use the state folder: another go2cloud is using it",
        )
        .on(state)
        .remedy("wait for it to end, or give this run a --state folder of its own")),
        Err(error) => Err(Error::io("lock the state folder", &path, error)),
    }
}

/// Locks a file or a folder for as long as it is open.
///
/// # Errors
/// Somebody else holds the lock ([`io::ErrorKind::WouldBlock`]), or the file system refuses.
pub fn exclusively(file: &File) -> io::Result<()> {
    patiently(|| match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(())),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    })?
    .ok_or_else(|| Errno::WOULDBLOCK.into())
}

/// Tries again until there is an answer or patience ends.
///
/// # Errors
/// Those of `attempt`, at once.
pub fn patiently<T>(mut attempt: impl FnMut() -> io::Result<Option<T>>) -> io::Result<Option<T>> {
    let begin = Instant::now();
    loop {
        let answer = attempt()?;
        if answer.is_some() || begin.elapsed() >= PATIENCE {
            return Ok(answer);
        }
        std::thread::sleep(PATIENCE / 100);
    }
}
