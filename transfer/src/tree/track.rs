//! What changed since the last round, as the kernel told it: makes rounds cheap, never wrong.
//!
//! A [`Tracker`] watches the file systems of a volume with fanotify and gathers the directories in which something
//! happened. [`Tracker::take`] adds the directories of files that could have changed without an event (open for writing,
//! mapped shared: its caller lists them), and turns all into present paths. Wherever it is in doubt (lost events, an error of the file system, a
//! file system it cannot watch or has not watched from the start) it names the part that must be swept instead.
//!
//! Rules for the caller:
//! - Attach before the first walk. After a restart nothing is known: walk everything.
//! - Take at the start of a round, after `syncfs`; look at each named directory itself and at its direct children. A
//!   child directory that the baseline does not have at this path (new, or renamed) is walked with all below it.
//! - Settle when the round has succeeded; until then every `take` names the same directories again.
//! - A file with several names is named through one of them only; the baseline knows the others.
//! - `chattr` and project ids make no event: the last round before the cutover sweeps everything.

mod gather;
mod locate;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sys::block_device::DeviceNumber;
use sys::fanotify::{FileSystemId, Queue, Watch, file_system_id, file_system_id_at};
use sys::mounts::{Mount, mounts_everywhere};
use sys::open_files::FileId;

use super::entry::EntryPath;
use crate::error::{Error, Result};
use crate::limits;
use gather::{Gatherer, Place};
use locate::{Location, Locator};

/// Watches the file systems of one volume.
#[derive(Debug)]
pub struct Tracker {
    root: PathBuf,
    watched: Vec<Watched>,
    /// How many file systems with anonymous device numbers the kernel watched when that was last looked at.
    anonymous: usize,
    gatherer: Gatherer,
}

/// What a round has to look at.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Directories that changed themselves or whose direct children did; in the order of the replica, none twice, none
    /// below one of `sweeps`.
    pub directories: Vec<EntryPath>,
    /// Directories to be walked with all below them.
    pub sweeps: Vec<Sweep>,
    /// Which of `directories` could not be looked at, or did not hold still: they are walked with all below them, too, for the
    /// tracker may never have been told of that. Other paths may be among them.
    pub doubtful: HashSet<EntryPath>,
}

impl Changes {
    /// The same with further places to look at, which may be directories, and without what is looked at twice: the walk of a
    /// sweep goes into what is mounted below it.
    #[must_use]
    pub fn with(mut self, places: &HashSet<EntryPath>) -> Self {
        let swept: HashSet<EntryPath> = self.sweeps.iter().map(|sweep| sweep.path.clone()).collect();
        let is_below_one = |path: &EntryPath| {
            std::iter::successors(path.parent(), EntryPath::parent)
                .any(|above| swept.contains(&above) || places.contains(&above))
        };
        self.sweeps.retain(|sweep| !is_below_one(&sweep.path));
        let parents = places.iter().filter_map(EntryPath::parent);
        self.directories.extend(parents.chain(places.iter().cloned()));
        self.directories
            .retain(|path| !swept.contains(path) && !is_below_one(path));
        self.doubtful.clone_from(places);
        self.directories.sort_by(EntryPath::replica_cmp);
        self.directories.dedup();
        self
    }
}

/// A part of the volume about which the tracker knows too little.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// Its top directory.
    pub path: EntryPath,
    /// Why.
    pub reason: Doubt,
}

/// Why a part of the volume has to be swept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Doubt {
    /// The kernel lost events.
    Overflow,
    /// The file system reported an error, or the kernel something unknown.
    Broken,
    /// Changes in more directories than are kept in memory.
    TooMany,
    /// The kernel cannot watch this file system.
    Unwatched,
    /// Mounted since the last round.
    NewlyMounted,
    /// A change whose place could not be found.
    Unlocated,
    /// Holds the files of containers: older kernels do not report writes through overlayfs.
    Overlay,
}

/// A file system of the volume.
#[derive(Debug)]
struct Watched {
    mount: EntryPath,
    id: FileSystemId,
    /// Of the mount point.
    device: DeviceNumber,
    /// Why it has to be swept in every round until one is settled.
    doubt: Option<Doubt>,
}

impl Tracker {
    /// Watches the file system of `root` and those mounted at `mounts`, directories below it that the volume crosses
    /// into. `None` when the kernel cannot watch any of them.
    ///
    /// # Errors
    /// The root or a mount point does not exist.
    pub fn attach(root: &Path, mounts: &[EntryPath]) -> Result<Option<Self>> {
        Self::attach_with(root, mounts, Queue::Unlimited, limits::TRACKED_DIRECTORIES_MAX)
    }

    fn attach_with(
        root: &Path,
        mounts: &[EntryPath],
        queue: Queue,
        places_max: usize,
    ) -> Result<Option<Self>> {
        let failed = |error| Error::io("watch for changes", root, error);
        let root = root.canonicalize().map_err(failed)?;
        let Some(watch) = Watch::new(queue).map_err(failed)? else {
            return Ok(None);
        };
        let gatherer = Gatherer::start(watch, places_max).map_err(failed)?;
        let mut tracker = Self {
            root,
            watched: Vec::new(),
            anonymous: 0,
            gatherer,
        };
        tracker.follow_mounts(mounts)?;
        for watched in &mut tracker.watched {
            watched.doubt = watched.doubt.filter(|doubt| *doubt == Doubt::Unwatched);
        }
        let any = tracker.watched.iter().any(|watched| watched.doubt.is_none());
        Ok(any.then_some(tracker))
    }

    /// What changed since the last settled round began. `mounts` are the file systems that the volume crosses into now;
    /// one that is new is watched from now on and swept this once. `busy` are the files that are open for writing.
    ///
    /// # Errors
    /// The root or a mount point is gone.
    pub fn take(&mut self, mounts: &[EntryPath], busy: &HashMap<FileId, PathBuf>) -> Result<Changes> {
        // First, so that whatever happens on a new file system from here on is either swept or an event.
        self.follow_mounts(mounts)?;
        let (places, doubt) = self.gatherer.take();
        if let Some(doubt) = doubt {
            self.doubt_all(doubt);
        }
        let locator = self.locator()?;
        let mut directories = BTreeSet::new();
        for place in &places {
            self.add(place.file_system, locator.locate(place), &mut directories);
        }
        let table = mounts_everywhere().map_err(|error| self.failed(error))?;
        for (id, path) in busy {
            if !self.may_be_asked(*id, &table) {
                continue;
            }
            if let Ok(file_system) = file_system_id_at(path) {
                self.add(file_system, locator.locate_open(path, *id), &mut directories);
            }
        }
        let sweeps = self.sweeps(&locator);
        let mut directories: Vec<EntryPath> = directories
            .into_iter()
            .filter_map(|path| EntryPath::parse(path).ok())
            .filter(|path| !sweeps.iter().any(|sweep| covers(sweep, path, &self.watched)))
            .collect();
        directories.sort_by(EntryPath::replica_cmp);
        Ok(Changes {
            directories,
            sweeps,
            ..Changes::default()
        })
    }

    /// Forgets what the last [`Tracker::take`] returned: the round that looked at it has succeeded.
    pub fn settle(&mut self) {
        self.gatherer.settle();
        for watched in &mut self.watched {
            watched.doubt = watched.doubt.filter(|doubt| *doubt == Doubt::Unwatched);
        }
    }

    /// Whether changes on the file system mounted at `mount` (the root's for the root) are seen.
    pub fn watches(&self, mount: &EntryPath) -> bool {
        self.watched
            .iter()
            .any(|watched| watched.mount == *mount && watched.doubt != Some(Doubt::Unwatched))
    }

    /// Whether it can be found out where an open file is without waiting for another machine or process, which may not answer.
    fn may_be_asked(&self, file: FileId, table: &[Mount]) -> bool {
        let device = DeviceNumber::from_raw(file.device);
        let mut watched = self.watched.iter();
        if watched.any(|watched| watched.device == device) {
            return true;
        }
        match table.iter().find(|mount| mount.device == device) {
            Some(mount) => !mount.is_elsewhere(),
            // A subvolume of btrfs; or a server that was given up, with files still open.
            None => device.major != 0 || self.watched.iter().any(|watched| watched.device.major == 0),
        }
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io("watch for changes", &self.root, error)
    }

    /// Brings `watched` up to date with what is mounted. What was unmounted and mounted again is new.
    fn follow_mounts(&mut self, mounts: &[EntryPath]) -> Result<()> {
        let marked = self.gatherer.watched().map_err(|error| self.failed(error))?;
        let are_all_marked = anonymous(&marked) >= self.anonymous;
        let is_marked = |watched: &Watched| match watched.device.major {
            _ if watched.doubt == Some(Doubt::Unwatched) => true,
            // The kernel knows btrfs by another number than its files show.
            0 => are_all_marked,
            _ => marked.contains(&watched.device.kernel()),
        };
        let mut before = std::mem::take(&mut self.watched);
        let mut present = vec![EntryPath::root()];
        present.extend(mounts.iter().filter(|mount| !mount.is_root()).cloned());
        for mount in present {
            let path = self.path_of(&mount);
            let failed = |error| Error::io("watch for changes", &path, error);
            let point = File::open(&path).map_err(failed)?;
            let device = point.metadata().map_err(failed)?.dev();
            let device = DeviceNumber::from_raw(device);
            let id = file_system_id(&point).map_err(failed)?;
            let known = before
                .iter()
                .position(|old| (&old.mount, old.id) == (&mount, id) && is_marked(old));
            let watched = match known {
                Some(index) => before.swap_remove(index),
                None => {
                    let can = self.gatherer.watch(&path).map_err(failed)?;
                    let doubt = Some(if can {
                        Doubt::NewlyMounted
                    } else {
                        Doubt::Unwatched
                    });
                    Watched {
                        mount,
                        id,
                        device,
                        doubt,
                    }
                }
            };
            self.watched.push(watched);
        }
        let marked = self.gatherer.watched().map_err(|error| self.failed(error))?;
        self.anonymous = anonymous(&marked);
        Ok(())
    }

    fn path_of(&self, path: &EntryPath) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        // `join` with an empty path would add a slash.
        match path.is_root() {
            true => self.root.clone(),
            false => self.root.join(std::ffi::OsStr::from_bytes(path.as_bytes())),
        }
    }

    fn locator(&self) -> Result<Locator> {
        let mounts = self
            .watched
            .iter()
            .filter(|watched| watched.doubt != Some(Doubt::Unwatched))
            .map(|watched| (watched.id, self.path_of(&watched.mount)));
        Locator::new(&self.root, mounts).map_err(|error| Error::io("watch for changes", &self.root, error))
    }

    /// Adds what was found of a place on `file_system`, or doubts that.
    fn add(
        &mut self,
        file_system: FileSystemId,
        locations: Vec<Location>,
        directories: &mut BTreeSet<Vec<u8>>,
    ) {
        for location in locations {
            match location {
                Location::Directory(path) => {
                    directories.insert(path);
                }
                Location::Elsewhere => {}
                Location::Unknown => {
                    for watched in &mut self.watched {
                        if gather::same_family(watched.id, file_system) {
                            watched.doubt.get_or_insert(Doubt::Unlocated);
                        }
                    }
                }
            }
        }
    }

    fn doubt_all(&mut self, doubt: Doubt) {
        for watched in &mut self.watched {
            watched.doubt.get_or_insert(doubt);
        }
    }

    fn sweeps(&mut self, locator: &Locator) -> Vec<Sweep> {
        let mut uppers = Vec::new();
        for upper in locate::overlay_uppers() {
            for location in Place::of(&upper)
                .map(|place| locator.locate(&place))
                .unwrap_or_default()
            {
                match location {
                    Location::Directory(path) => uppers.extend(EntryPath::parse(path)),
                    Location::Elsewhere => {}
                    Location::Unknown => self.doubt_all(Doubt::Overlay),
                }
            }
        }
        let of = |watched: &Watched| {
            let path = watched.mount.clone();
            watched.doubt.map(|reason| Sweep { path, reason })
        };
        let mut sweeps: Vec<Sweep> = self.watched.iter().filter_map(of).collect();
        for path in uppers {
            if !sweeps.iter().any(|sweep| covers(sweep, &path, &self.watched)) {
                let reason = Doubt::Overlay;
                sweeps.push(Sweep { path, reason });
            }
        }
        sweeps
    }
}

/// How many of these device numbers of the kernel's are of no device.
fn anonymous(devices: &[u32]) -> usize {
    devices.iter().filter(|device| **device >> 20 == 0).count()
}

/// Whether sweeping `sweep` comes by `path`: it lies below, with no other file system mounted in between.
fn covers(sweep: &Sweep, path: &EntryPath, watched: &[Watched]) -> bool {
    let within = |top: &EntryPath| path == top || path.is_below(top);
    within(&sweep.path)
        && !watched
            .iter()
            .any(|other| other.mount.is_below(&sweep.path) && within(&other.mount))
}
