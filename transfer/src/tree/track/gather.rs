//! Gathers events while no round is running: a thread empties the kernel's queue into a bounded set.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use sys::fanotify::{Event, FileSystemId, Watch, file_system_id};
use sys::file_handle::FileHandle;

use super::Doubt;

/// How long events are left to be merged by the kernel before they are fetched.
const GATHER_PAUSE: Duration = Duration::from_millis(50);

/// An inode that something happened to, usually a directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) file_system: FileSystemId,
    pub(super) handle: FileHandle,
}

impl Place {
    /// Of what `path` leads to, which may be a link in `/proc`; `None` when there is nothing, or nothing with a handle.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let file = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
        Some(Self {
            file_system: file_system_id(&file).ok()?,
            handle: FileHandle::of(&file).ok()??,
        })
    }
}

/// Whether two ids can be of one file system: btrfs tells its subvolumes apart in the second word.
pub(super) fn same_family(one: FileSystemId, other: FileSystemId) -> bool {
    one[..4] == other[..4]
}

/// Owns the thread.
#[derive(Debug)]
pub(super) struct Gatherer {
    state: Arc<Mutex<State>>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    watch: Watch,
    places_max: usize,
    /// Gathered since the last `take`.
    fresh: Gathered,
    /// Handed out and not settled.
    taken: Gathered,
}

#[derive(Debug, Default)]
struct Gathered {
    places: HashSet<Place>,
    doubt: Option<Doubt>,
}

impl Gatherer {
    pub(super) fn start(watch: Watch, places_max: usize) -> io::Result<Self> {
        let events = watch.as_fd().try_clone_to_owned()?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let stopped = stop.try_clone()?;
        let state = Arc::new(Mutex::new(State {
            watch,
            places_max,
            fresh: Gathered::default(),
            taken: Gathered::default(),
        }));
        let shared = Arc::clone(&state);
        let thread = std::thread::Builder::new()
            .name("change-tracker".into())
            .spawn(move || gather(&shared, &events, &stopped))?;
        Ok(Self {
            state,
            stop,
            thread: Some(thread),
        })
    }

    pub(super) fn watch(&self, mount_point: &Path) -> io::Result<bool> {
        lock(&self.state).watch.add(mount_point)
    }

    /// [`Watch::watched`].
    pub(super) fn watched(&self) -> io::Result<Vec<u32>> {
        lock(&self.state).watch.watched()
    }

    /// All that happened before this call and is not settled.
    pub(super) fn take(&self) -> (HashSet<Place>, Option<Doubt>) {
        let mut state = lock(&self.state);
        state.drain();
        let fresh = std::mem::take(&mut state.fresh);
        state.taken.doubt = state.taken.doubt.or(fresh.doubt);
        state.taken.places.extend(fresh.places);
        if state.taken.places.len() > state.places_max {
            state.taken.places.clear();
            state.taken.doubt.get_or_insert(Doubt::TooMany);
        }
        (state.taken.places.clone(), state.taken.doubt)
    }

    pub(super) fn settle(&self) {
        lock(&self.state).taken = Gathered::default();
    }

    /// Keeps the thread from emptying the queue while the result lives.
    #[cfg(test)]
    pub(super) fn hold(&self) -> impl Drop + use<'_> {
        struct Held<'a>(#[expect(dead_code, reason = "held, not read")] MutexGuard<'a, State>);
        impl Drop for Held<'_> {
            fn drop(&mut self) {}
        }
        Held(lock(&self.state))
    }
}

impl Drop for Gatherer {
    fn drop(&mut self) {
        // An eventfd takes a first write of 1 whatever happens; should it fail, the thread is left to the process's end.
        if rustix::io::write(&self.stop, &1u64.to_ne_bytes()).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl State {
    /// Empties the kernel's queue.
    fn drain(&mut self) {
        let Self {
            watch,
            places_max,
            fresh,
            ..
        } = self;
        loop {
            let more = watch.read(|event| match event {
                Event::Changed { file_system, handle } => {
                    if fresh.places.len() < *places_max {
                        fresh.places.insert(Place { file_system, handle });
                    } else {
                        fresh.places.clear();
                        fresh.doubt.get_or_insert(Doubt::TooMany);
                    }
                }
                Event::Overflow => fresh.doubt = Some(Doubt::Overflow),
                Event::Broken => fresh.doubt = Some(Doubt::Broken),
            });
            match more {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => {
                    fresh.doubt = Some(Doubt::Broken);
                    return;
                }
            }
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A panic under the lock leaves sets that may lack something.
    state.lock().unwrap_or_else(|poisoned: PoisonError<_>| {
        let mut state = poisoned.into_inner();
        state.fresh.doubt = Some(Doubt::Broken);
        state
    })
}

/// The thread: until told to stop, waits for events, fetches them, and leaves some time for the next to be merged.
fn gather(state: &Mutex<State>, events: &OwnedFd, stop: &OwnedFd) {
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: GATHER_PAUSE.subsec_nanos().into(),
    };
    loop {
        let mut both = [
            PollFd::new(stop, PollFlags::IN),
            PollFd::new(events, PollFlags::IN),
        ];
        match poll(&mut both, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => {
                lock(state).fresh.doubt = Some(Doubt::Broken);
                return;
            }
        }
        lock(state).drain();
        let mut stopped = [PollFd::new(stop, PollFlags::IN)];
        if matches!(poll(&mut stopped, Some(&pause)), Ok(1)) {
            return;
        }
    }
}
