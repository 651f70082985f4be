//! What a round counts and names, from many threads: what it did, what it could not read, and what did not hold still.

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::sync::{Mutex, MutexGuard};

use crate::progress::{Motion, Moved, Skipped};
use crate::source::counters::{self, Counters};
use crate::source::skips::Skips;
use crate::tree::entry::EntryPath;

/// Entries that did not hold still and are listed in the summary; the rest is counted.
const LISTED_MAX: usize = 1000;
/// Paths that are looked at again: of some 150 bytes each, 2.5 MB. With more of them everything is looked at.
const PATHS_MAX: usize = 16 * 1024;

/// Of one round.
#[derive(Debug, Default)]
pub struct Tally {
    /// Its number.
    pub round: u32,
    /// What it did.
    pub counters: Counters,
    notes: Mutex<Notes>,
}

/// What a round leaves behind.
#[derive(Debug, Default)]
pub struct Noted {
    /// What is not at the target as it is.
    pub skips: Skips,
    /// Where that is.
    pub places: Places,
    /// What did not hold still, whatever became of it.
    pub moved: Vec<Moved>,
}

#[derive(Debug, Default)]
struct Notes {
    noted: Noted,
    /// What did not hold still in the present look.
    restless: HashMap<EntryPath, Motion>,
    /// Further ones, without a name.
    further: u64,
}

impl Tally {
    /// Of the round with this number.
    pub fn new(round: u32) -> Self {
        Self {
            round,
            ..Self::default()
        }
    }

    /// Notes an entry that could not be read.
    pub fn skip(&self, path: &EntryPath, what: &str, error: &io::Error) {
        let mut notes = self.lock();
        notes.noted.places.add(path);
        notes.noted.skips.add(Skipped {
            path: path.display(),
            what: what.to_owned(),
            why: error.to_string(),
        });
    }

    /// Notes an entry that did not hold still or could not be read, as the error says. Returns what became of it if it moved.
    pub fn unreadable(&self, path: &EntryPath, what: &str, error: &io::Error) -> Option<Motion> {
        let motion = motion_of(error);
        match motion {
            Some(motion) => self.moved(path, motion),
            None => self.skip(path, what, error),
        }
        motion
    }

    /// Notes an entry that did not hold still.
    pub fn moved(&self, path: &EntryPath, motion: Motion) {
        let counter = match motion {
            Motion::Changed => &self.counters.changed,
            Motion::Vanished => &self.counters.vanished,
            Motion::Replaced => &self.counters.replaced,
        };
        counters::add(counter, 1);
        let mut notes = self.lock();
        if notes.noted.moved.len() < LISTED_MAX {
            notes.noted.moved.push(Moved {
                path: path.display(),
                motion,
            });
        }
        notes.leave(path, motion);
    }

    /// Notes an entry of which it is not known whether it held still.
    pub fn leave(&self, path: &EntryPath) {
        self.lock().leave(path, Motion::Changed);
    }

    /// Has a directory looked at in the next round, too, with all below it.
    pub fn look_later(&self, path: &EntryPath) {
        self.lock().noted.places.add(path);
    }

    /// Takes what did not hold still, for another look at it; `None` when there is nothing, or too much.
    pub fn begin_look(&self) -> Option<HashSet<EntryPath>> {
        let mut notes = self.lock();
        if notes.restless.is_empty() || notes.further > 0 {
            return None;
        }
        Some(std::mem::take(&mut notes.restless).into_keys().collect())
    }

    /// What it leaves behind; with its counters.
    pub fn finish(self) -> (Counters, Noted) {
        let Notes {
            mut noted,
            restless,
            further,
        } = self.notes.into_inner().expect("not poisoned");
        noted.skips.add_nameless(further);
        noted.places.are_too_many |= further > 0;
        for (path, motion) in restless {
            let (what, how) = match motion {
                // What vanished was removed at the target, or never was there.
                Motion::Vanished => continue,
                Motion::Changed => ("content", "it changed while it was read"),
                Motion::Replaced => ("entry", "it was replaced while it was looked at"),
            };
            noted.places.add(&path);
            noted.skips.add(Skipped {
                path: path.display(),
                what: what.to_owned(),
                why: format!("{how}: run again, or let the run end with --rounds, --until-clean or --freeze"),
            });
        }
        (self.counters, noted)
    }

    /// Whether all held still so far.
    pub fn is_settled(&self) -> bool {
        self.lock().restless.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().expect("not poisoned")
    }
}

impl Notes {
    fn leave(&mut self, path: &EntryPath, motion: Motion) {
        if self.restless.len() < PATHS_MAX {
            self.restless.insert(path.clone(), motion);
        } else if !self.restless.contains_key(path) {
            self.further += 1;
        }
    }
}

/// Places to look at again.
#[derive(Debug, Default)]
pub struct Places {
    paths: HashSet<EntryPath>,
    are_too_many: bool,
}

impl Places {
    fn add(&mut self, path: &EntryPath) {
        self.are_too_many |= self.paths.len() >= PATHS_MAX;
        if !self.are_too_many {
            self.paths.insert(path.clone());
        }
    }

    /// Whether they are not all known: whoever wants to look at all of them has to look at everything.
    pub fn are_too_many(&self) -> bool {
        self.are_too_many
    }

    /// Where they are.
    pub fn paths(&self) -> &HashSet<EntryPath> {
        &self.paths
    }
}

/// What became of an entry, if the error says that it was there a moment ago and is no longer so.
pub fn motion_of(error: &io::Error) -> Option<Motion> {
    let is_loop = || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    match error.kind() {
        ErrorKind::NotFound => Some(Motion::Vanished),
        ErrorKind::NotADirectory => Some(Motion::Replaced),
        // Our own word for a file that is another kind of entry now.
        ErrorKind::InvalidInput if error.raw_os_error().is_none() => Some(Motion::Replaced),
        _ if is_loop() => Some(Motion::Replaced),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> EntryPath {
        EntryPath::parse(name).unwrap()
    }

    #[test]
    fn what_did_not_hold_still_is_named_unless_another_look_found_it_at_rest() {
        let tally = Tally::default();
        tally.moved(&path("a/log"), Motion::Changed);
        tally.moved(&path("b"), Motion::Replaced);
        assert!(!tally.is_settled());
        let again = tally.begin_look().unwrap();
        assert_eq!(again, HashSet::from(["a/log", "b"].map(path)));
        tally.moved(&path("a/log"), Motion::Changed);
        tally.moved(&path("c"), Motion::Vanished);
        assert!(!tally.is_settled());
        let (counters, noted) = tally.finish();
        assert_eq!(counters::get(&counters.changed), 2);
        assert_eq!((noted.moved.len(), noted.skips.total()), (4, 1));
        let named = noted.skips.into_listed();
        assert!(
            named[0].path == "a/log" && named[0].why.contains("changed"),
            "{named:?}"
        );
    }

    #[test]
    fn too_many_are_counted_and_not_looked_at_again() {
        let tally = Tally::default();
        for number in 0..PATHS_MAX + 3 {
            tally.moved(&path(&number.to_string()), Motion::Changed);
        }
        assert_eq!(tally.begin_look(), None);
        let (_, noted) = tally.finish();
        assert_eq!(noted.skips.total(), PATHS_MAX as u64 + 3);
        assert_eq!(noted.moved.len(), LISTED_MAX);
        assert!(noted.places.are_too_many());
    }
}
