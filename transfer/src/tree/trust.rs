//! How far the target believes its journal: which tree it speaks of, and whether the last session ended as it should.
//!
//! Two files beside the journal (docs/FORMATS.md). `tree` names the root directory by its inode and was made when the journal
//! began. `unsettled` is there while frames have been applied that no seal covers: whoever finds it when a session opens has the
//! tree surveyed ([`super::survey`]).

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::tree::capture::{Directory, Stat};
use crate::tree::entry::Time;

/// Which tree a journal speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bond {
    /// None yet.
    None,
    /// This one.
    Same,
    /// Another one: something else was mounted or put there.
    Other,
}

/// The trust in one journal.
pub struct Trust {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whether `unsettled` is on disk.
    is_marked: bool,
    /// Whether frames were applied since the last seal.
    is_unsealed: bool,
    /// Whether the tree may differ from the journal since before.
    is_doubtful: bool,
}

impl Trust {
    /// The trust in the journal in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            state: Mutex::default(),
        }
    }

    /// A session begins.
    pub fn enter(&self) {
        let is_marked = self.mark().exists();
        *self.lock() = State {
            is_marked,
            is_unsealed: false,
            is_doubtful: is_marked,
        };
    }

    /// Whether the journal speaks of the tree at `root`.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn bond(&self, root: &Directory) -> Result<Bond> {
        let path = self.tree();
        match fs::read_to_string(&path) {
            Ok(told) if told == identity(&status(root, &path)?) => Ok(Bond::Same),
            Ok(_) => Ok(Bond::Other),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Bond::None),
            Err(error) => Err(Error::io("read which tree the journal speaks of", &path, error)),
        }
    }

    /// From now on the journal speaks of the tree at `root`.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn bind(&self, root: &Directory) -> Result<()> {
        let path = self.tree();
        let told = identity(&status(root, &path)?);
        let failed = |error| Error::io("write down which tree the journal speaks of", &path, error);
        let new = path.with_extension("new");
        File::create(&new)
            .and_then(|mut file| {
                file.write_all(told.as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&new, &path))
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .map_err(failed)
    }

    /// When the journal began to speak of its tree: what was changed last before is not ours.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn since(&self) -> Result<Time> {
        let path = self.tree();
        let failed = |error| Error::io("find out since when the journal is kept", &path, error);
        let file = File::open(&path).map_err(failed)?;
        let stat = Stat::of_fd(std::os::fd::AsFd::as_fd(&file)).map_err(|error| failed(error.into()))?;
        Ok(stat.mtime)
    }

    /// A frame is about to be applied: from here on a crash leaves doubt, durably.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn apply(&self) -> Result<()> {
        let mut state = self.lock();
        if !state.is_marked {
            let path = self.mark();
            File::create(&path)
                .and_then(|file| file.sync_all())
                .and_then(|()| File::open(&self.folder)?.sync_all())
                .map_err(|error| Error::io("note that a session has begun", &path, error))?;
            state.is_marked = true;
        }
        state.is_unsealed = true;
        Ok(())
    }

    /// What was applied is sealed.
    pub fn seal(&self) {
        self.lock().is_unsealed = false;
    }

    /// The tree may differ from the journal.
    pub fn doubt(&self) {
        self.lock().is_doubtful = true;
    }

    /// Whether it may.
    pub fn is_doubtful(&self) -> bool {
        self.lock().is_doubtful
    }

    /// The journal agrees with the tree.
    pub fn settle(&self) {
        self.lock().is_doubtful = false;
    }

    /// The session has ended and everything that it applied is in the journal, or the mark stays.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn leave(&self) -> Result<()> {
        let mut state = self.lock();
        if state.is_doubtful && !state.is_marked {
            drop(state);
            return self.apply();
        }
        if !state.is_marked || state.is_unsealed || state.is_doubtful {
            return Ok(());
        }
        let path = self.mark();
        fs::remove_file(&path).map_err(|error| Error::io("note that the session is over", &path, error))?;
        state.is_marked = false;
        Ok(())
    }

    fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    fn mark(&self) -> PathBuf {
        self.folder.join("unsettled")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }
}

fn status(root: &Directory, path: &Path) -> Result<Stat> {
    root.stat()
        .map_err(|error| Error::io("look at the target directory", path, error))
}

/// Inode number and birth time, where the file system tells it.
fn identity(stat: &Stat) -> String {
    let birth = stat.btime.unwrap_or_default();
    format!("{} {}.{:09}\n", stat.ino, birth.sec, birth.nsec)
}
