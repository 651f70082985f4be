//! Directories that wait to be walked, and how far the walk goes below them.

use std::ffi::CString;
use std::sync::{Arc, Condvar, Mutex};

use crate::tree::entry::Time;
use crate::tree::scan::OpenDirectory;

/// Directories that wait to be walked: a stack of listings, so that the walk goes deep first and a directory with a
/// million subdirectories costs their names only.
#[derive(Default)]
pub(super) struct Stack {
    state: Mutex<StackState>,
    changed: Condvar,
}

#[derive(Default)]
struct StackState {
    listings: Vec<Listing>,
    active: usize,
    broken: bool,
}

struct Listing {
    parent: Arc<OpenDirectory>,
    names: Vec<Pending>,
}

/// A directory that waits to be walked.
pub(super) struct Pending {
    /// Its name.
    pub(super) name: CString,
    /// Change time of its unchanged baseline entry.
    pub(super) known: Option<Time>,
    /// How far the walk goes below it.
    pub(super) depth: Depth,
}

/// How far a walk goes below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// All the way down.
    Deep,
    /// To its children, and further only below those that are new: the tracker vouches for the rest.
    Shallow,
}

impl Stack {
    /// Adds directories of `parent`.
    pub(super) fn push(&self, parent: &Arc<OpenDirectory>, names: Vec<Pending>) {
        if !names.is_empty() {
            self.lock().listings.push(Listing {
                parent: Arc::clone(parent),
                names,
            });
            self.changed.notify_all();
        }
    }

    /// The next directory; `None` when the walk is over. Each one taken must be given back by [`Stack::done`].
    pub(super) fn pop(&self) -> Option<(Arc<OpenDirectory>, Pending)> {
        let mut state = self.lock();
        loop {
            if state.broken {
                return None;
            }
            if let Some(listing) = state.listings.last_mut() {
                let pending = listing
                    .names
                    .pop()
                    .expect("empty listings are not pushed and are removed");
                let parent = Arc::clone(&listing.parent);
                if listing.names.is_empty() {
                    state.listings.pop();
                }
                state.active += 1;
                return Some((parent, pending));
            }
            if state.active == 0 {
                return None;
            }
            state = self.changed.wait(state).expect("not poisoned");
        }
    }

    /// One that was taken is through.
    pub(super) fn done(&self) {
        let mut state = self.lock();
        state.active -= 1;
        if state.active == 0 {
            self.changed.notify_all();
        }
    }

    /// Ends the walk for everybody.
    pub(super) fn break_off(&self) {
        self.lock().broken = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, StackState> {
        self.state.lock().expect("not poisoned")
    }
}
