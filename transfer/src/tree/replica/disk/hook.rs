//! Fault injection: lets the n-th change fail like a crash, and undoes what a power loss would lose.
//!
//! A crash keeps what the kernel was given. A power loss keeps of each file what was synced and any part of what was
//! not, and of the folder's changes those before its last sync and any first part of the later ones. Both leave states
//! of the folder that the next `open` must cope with.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A change about to happen.
pub(in super::super) enum Change<'a> {
    Create(&'a Path),
    Write(&'a Path),
    Sync,
    Rename(&'a Path, &'a Path),
    SyncFolder,
    Remove(&'a Path),
}

#[derive(Default)]
struct Watch {
    /// Changes still allowed.
    budget: u64,
    /// Durable length of each file changed since the watch began.
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

/// Stops watching, as after a crash of the program: what the kernel was given stays.
pub(in super::super) fn disarm() {
    WATCH.set(None);
}

/// Stops watching and leaves of the folder what a power loss might: `seed` chooses among the possibilities, 0 the one
/// where nothing survives that was not synced.
pub(in super::super) fn lose_power(seed: u64) {
    let Some(watch) = WATCH.take() else { return };
    let mut random = seed;
    let mut below = |limit: u64| {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        if seed == 0 || limit == 0 {
            0
        } else {
            (random >> 33) % (limit + 1)
        }
    };
    for (path, len) in &watch.durable {
        let Ok(file) = fs::OpenOptions::new().write(true).open(path) else {
            continue;
        };
        let now = file.metadata().unwrap().len();
        if now > *len {
            let kept = len + below(now - len);
            // Pages reach the disk in any order: a hole may come before what was kept.
            let hole = below(kept - len);
            file.write_all_at(&vec![0; hole as usize], *len).unwrap();
            file.set_len(kept).unwrap();
        }
    }
    let kept = below(watch.names.len() as u64) as usize;
    for (name, before) in watch.names[kept..].iter().rev() {
        let _ = fs::remove_file(name);
        if let Some(before) = before {
            fs::rename(before, name).unwrap();
        }
    }
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
                // Renaming is one change: undone, both names are as before. The old name is swept in any case.
                let before = watch.bury(to);
                watch.names.push((to.to_path_buf(), before));
                let len = watch.durable.remove(*from).unwrap_or(u64::MAX);
                watch.durable.insert(to.to_path_buf(), len);
            }
            Change::Remove(path) => {
                if let Some(before) = watch.bury(path) {
                    watch.names.push((path.to_path_buf(), Some(before)));
                }
            }
            Change::Sync | Change::SyncFolder => {}
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

pub(super) fn folder_synced() {
    WATCH.with_borrow_mut(|watch| {
        if let Some(watch) = watch {
            watch.names.clear();
        }
    });
}
