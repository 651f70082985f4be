//! Fault injection: lets the n-th change fail like a crash, and undoes what a power loss would lose.
//!
//! A crash keeps what the kernel was given. A power loss keeps of each file only what was synced, and of the folder
//! only the changes before its last sync. Both are states of the folder that the next `open` must cope with.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A change about to happen.
pub(in super::super) enum Change<'a> {
    Create(&'a Path),
    Write(&'a Path),
    Sync(&'a Path),
    Rename(&'a Path, &'a Path),
    SyncFolder(&'a Path),
    Remove(&'a Path),
}

#[derive(Default)]
struct Watch {
    /// Changes still allowed.
    budget: u64,
    /// Durable length of each file created since the watch began.
    durable: BTreeMap<PathBuf, u64>,
    /// Names that changed since the folder was last synced, in order: name and what was there before.
    names: Vec<(PathBuf, Option<PathBuf>)>,
    graveyard: PathBuf,
    buried: u64,
}

thread_local! {
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

/// Lets `budget` changes of this thread happen and fails all later ones. `graveyard` keeps removed files; it must be on
/// the same file system.
pub(in super::super) fn arm(budget: u64, graveyard: &Path) {
    fs::create_dir_all(graveyard).unwrap();
    WATCH.set(Some(Watch {
        budget,
        graveyard: graveyard.to_owned(),
        ..Watch::default()
    }));
}

/// Stops watching; tells whether the budget ran out.
pub(in super::super) fn disarm() -> bool {
    WATCH.take().is_some_and(|watch| watch.budget == 0)
}

/// Stops watching and leaves of the folder what a power loss would: unsynced bytes and names are gone.
pub(in super::super) fn lose_power() -> bool {
    let Some(watch) = WATCH.take() else { return false };
    for (name, before) in watch.names.iter().rev() {
        let _ = fs::remove_file(name);
        if let Some(before) = before {
            fs::rename(before, name).unwrap();
        }
    }
    for (path, len) in &watch.durable {
        if let Ok(file) = fs::OpenOptions::new().write(true).open(path)
            && file.metadata().unwrap().len() > *len
        {
            file.set_len(*len).unwrap();
        }
    }
    watch.budget == 0
}

impl Watch {
    fn bury(&mut self, path: &Path) -> Option<PathBuf> {
        self.buried += 1;
        let grave = self.graveyard.join(self.buried.to_string());
        fs::hard_link(path, &grave).ok().map(|()| grave)
    }
}

pub(super) fn before(change: &Change<'_>) -> io::Result<()> {
    WATCH.with_borrow_mut(|watch| {
        let Some(watch) = watch else { return Ok(()) };
        if watch.budget == 0 {
            return Err(io::Error::other("injected crash"));
        }
        watch.budget -= 1;
        match change {
            Change::Create(path) => {
                if !path.exists() {
                    watch.names.push((path.to_path_buf(), None));
                }
                watch.durable.insert(path.to_path_buf(), 0);
            }
            Change::Write(path) => {
                let len = fs::metadata(path)?.len();
                watch.durable.entry(path.to_path_buf()).or_insert(len);
            }
            Change::Rename(from, to) => {
                let before = watch.bury(to);
                let moved = watch.bury(from);
                watch.names.push((from.to_path_buf(), moved));
                watch.names.push((to.to_path_buf(), before));
                let len = watch.durable.remove(*from).unwrap_or(u64::MAX);
                watch.durable.insert(to.to_path_buf(), len);
            }
            Change::Remove(path) => {
                if let Some(before) = watch.bury(path) {
                    watch.names.push((path.to_path_buf(), Some(before)));
                }
            }
            Change::Sync(_) | Change::SyncFolder(_) => {}
        }
        Ok(())
    })
}

pub(super) fn synced(path: &Path, len: u64) {
    WATCH.with_borrow_mut(|watch| {
        if let Some(watch) = watch {
            watch.durable.insert(path.to_path_buf(), len);
        }
    });
}

pub(super) fn folder_synced(_: &Path) {
    WATCH.with_borrow_mut(|watch| {
        if let Some(watch) = watch {
            watch.names.clear();
        }
    });
}
