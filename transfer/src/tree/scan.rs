//! The walk: every directory once, in parallel, each compared with the baseline's children as it is read.
//!
//! A directory is listed, sorted and merged with the replica's children of the same path, so memory holds one
//! directory's names and a few blocks of the replica, never the tree. Whatever differs becomes a [`Task`]; entries with
//! several names go to the link spool ([`super::links`]), because their groups are known only when everything was seen.
//!
//! Mount points are boundaries unless the volume crosses mounts, and then only disk-backed file systems are entered,
//! each once. Subvolumes of btrfs are not boundaries: they are part of the tree.
//!
//! Against a baseline that knows something, what is at another place than there is set aside first ([`again`]): it may have
//! been renamed.

pub mod again;
mod stack;
pub mod version;

use std::collections::HashSet;
use std::ffi::CStr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use sys::directory::Name;
use sys::open_files::FileId;

use crate::courtesy::Courtesy;
use crate::error::{Error, Result};
use crate::source::counters::{self, Counters};
use crate::tree::capture::{self, Directory, FileKind, Stat};
use crate::tree::entry::{Entry, EntryPath, Meta, Node, Stamp, Time};
use crate::tree::filter::Filter;
use crate::tree::links::SeenLink;
use crate::tree::moves::{Deferred, is_aside};
use crate::tree::replica::{Cursor, Snapshot};
use crate::tree::side_by_side::{Pair, side_by_side};
use crate::tree::spool::Spool;
use crate::tree::tally::{Tally, motion_of};
use crate::tree::tasks::{Dispatcher, File, Task, Work};
use crate::tree::track::Changes;
use again::is_inode_of;
use stack::{Depth, Pending, Stack};
use version::{is_unchanged, stamp};

/// Longest file that is read again when it changed while it was read: one or two seconds of reading.
const AGAIN_LEN_MAX: u64 = 256 << 20;

/// What a walk needs to know.
pub struct Scan<'a> {
    /// The volume's root.
    pub root: &'a Directory,
    /// What the target durably holds.
    pub snapshot: &'a Snapshot,
    /// What is left alone on both sides.
    pub filter: &'a Filter,
    /// Device and inode numbers of directories that are never copied.
    pub never: &'a HashSet<(u64, u64)>,
    /// Whether disk-backed file systems mounted inside are entered.
    pub cross_mounts: bool,
    /// Mount points that are not looked at: whoever answers for what is there may not do so.
    pub elsewhere: &'a HashSet<EntryPath>,
    /// Begin of the round.
    pub t0: Time,
    /// Where tasks go.
    pub dispatcher: &'a Dispatcher,
    /// Counted as the walk goes.
    pub counters: &'a Counters,
    /// Entries with several names.
    pub links: &'a Mutex<Spool<SeenLink>>,
    /// Directories whose metadata are to be applied when everything in them is done.
    pub directories: &'a Mutex<Spool<Entry>>,
    /// Where what could not be looked at, or did not hold still, is noted.
    pub tally: &'a Tally,
    /// What did not hold still, when this is another look at it.
    pub again: Option<&'a HashSet<EntryPath>>,
    /// File systems entered so far, by device number.
    pub entered: &'a Mutex<HashSet<u64>>,
    /// What the tracker told, when this round relies on it.
    pub changes: Option<&'a Changes>,
    /// Files that may be changing at this moment without moving their times.
    pub busy: &'a HashSet<FileId>,
    /// Where what may have been renamed is set aside; `None` when it is to be dealt with.
    pub deferred: Option<&'a Deferred>,
    /// Giving way to others.
    pub courtesy: &'a Courtesy,
}

/// An open directory of the walk; kept open while tasks refer to it.
pub struct OpenDirectory {
    /// The descriptor.
    pub directory: Directory,
    /// Its path.
    pub path: EntryPath,
    /// Number of its file system inside the volume.
    pub file_system: u64,
    dev: u64,
}

impl OpenDirectory {
    /// A directory that was opened outside the walk.
    pub fn at(directory: Directory, path: EntryPath, file_system: u64, dev: u64) -> Self {
        Self {
            directory,
            path,
            file_system,
            dev,
        }
    }

    /// Whether another file system, or a mount, begins at an entry of this directory.
    pub(super) fn is_left_at(&self, stat: &Stat) -> bool {
        stat.dev != self.dev || stat.is_mount_root == Some(true)
    }

    /// Number of the file system of the entry `path` of this directory. Only a directory is a place where another one begins: of
    /// overlayfs, files have device numbers of their own.
    pub(super) fn file_system_of(&self, path: &EntryPath, stat: &Stat) -> u64 {
        if stat.dev == self.dev || stat.kind != FileKind::Directory {
            self.file_system
        } else {
            file_system_number(path)
        }
    }

    /// The version of `stat`, an entry of this directory, taken at `t0` or later.
    pub fn stamp(&self, stat: &Stat, t0: Time) -> Stamp {
        stamp(self.file_system, stat, t0)
    }
}

impl Scan<'_> {
    /// Walks everything with `threads` threads.
    ///
    /// # Errors
    /// The root cannot be read, the baseline is damaged, or the session broke.
    pub fn run(&self, threads: usize) -> Result<()> {
        let stack = Stack::default();
        self.walk_root(&stack)?;
        self.drain(&stack, threads)
    }

    /// Walks what is on the stack and what comes up below it.
    fn drain(&self, stack: &Stack, threads: usize) -> Result<()> {
        std::thread::scope(|scope| {
            let walkers: Vec<_> = (0..threads).map(|_| scope.spawn(|| self.walk(stack))).collect();
            let results = walkers
                .into_iter()
                .map(|walker| walker.join().expect("walking does not panic"));
            results.fold(Ok(()), Result::and)
        })
    }

    /// Looks only at the directories that the tracker named, and below those that are new; sweeps what it is in doubt
    /// about.
    ///
    /// # Errors
    /// As for [`Scan::run`].
    pub fn run_tracked(&self, threads: usize) -> Result<()> {
        let Some(changes) = self.changes else {
            return self.run(threads);
        };
        if let Ok(root) = self.root.stat() {
            self.entered.lock().expect("not poisoned").insert(root.dev);
        }
        let stack = Stack::default();
        let sweeps = changes.sweeps.iter().map(|sweep| (&sweep.path, Depth::Deep));
        let directories = changes.directories.iter().map(|path| {
            let depth = if changes.doubtful.contains(path) {
                Depth::Deep
            } else {
                Depth::Shallow
            };
            (path, depth)
        });
        let mut walker = Walker::new(self, &stack);
        for (path, depth) in sweeps.chain(directories) {
            walker.named(path, depth)?;
        }
        walker.work.finish()?;
        self.drain(&stack, threads)
    }

    /// Whether the rules or the caller keep this entry, whose parents are not kept out, from being copied.
    pub fn leaves_out(&self, path: &EntryPath, stat: &Stat) -> bool {
        self.filter
            .excludes(path.as_bytes(), stat.kind == FileKind::Directory)
            || self.never.contains(&(stat.dev, stat.ino))
    }

    /// Whether a walk goes into a directory on which another file system begins; `enter` notes its device number, and tells
    /// whether that is new.
    ///
    /// # Errors
    /// The file system cannot be looked at.
    pub fn enters(
        &self,
        parent: &Directory,
        name: &CStr,
        stat: &Stat,
        enter: impl FnOnce(u64) -> bool,
    ) -> Result<bool> {
        // A second mount of the same file system would copy it twice.
        Ok(stat.is_mount_root == Some(false) || self.can_enter(parent, name)? && enter(stat.dev))
    }

    /// Path and status of an entry, unless it is left out, or gone.
    pub fn look_at(
        &self,
        directory: &Directory,
        above: &EntryPath,
        name: &CStr,
    ) -> Option<(EntryPath, Stat)> {
        let path = above.join(name.to_bytes()).ok()?;
        if self.is_elsewhere(&path) {
            return None;
        }
        // What vanished meanwhile is for the next round.
        let stat = directory.stat_entry(name).ok()?;
        (!self.leaves_out(&path, &stat)).then_some((path, stat))
    }

    /// Whether what is at this path is another machine's or process's to tell.
    pub fn is_elsewhere(&self, path: &EntryPath) -> bool {
        !self.elsewhere.is_empty() && self.elsewhere.contains(path)
    }

    fn can_enter(&self, parent: &Directory, name: &CStr) -> Result<bool> {
        use std::os::fd::AsFd;
        if !self.cross_mounts {
            return Ok(false);
        }
        let Ok(directory) = parent.open_child(name) else {
            return Ok(false);
        };
        sys::file_system::is_disk_backed(directory.as_fd())
            .map_err(|error| Error::io("look at a mounted file system", PathBuf::new(), error.into()))
    }

    /// Whether another look leaves a file as it is, for reading it again takes so long that it would change again. One that is new
    /// there may have been renamed.
    fn passes_by(&self, path: &EntryPath, stat: &Stat, known: Option<&Entry>) -> bool {
        let is_long = stat.kind == FileKind::File && stat.size > AGAIN_LEN_MAX;
        let is_old = known.is_some_and(|known| known.stamp.ino == stat.ino);
        let Some(again) = self.again.filter(|_| is_long && is_old) else {
            return false;
        };
        if again.contains(path) {
            self.tally.leave(path);
        }
        true
    }

    /// Whether the tracker named this directory, so that it is looked at anyway.
    fn is_named(&self, path: &EntryPath) -> bool {
        self.changes.is_some_and(|changes| {
            let named = changes
                .directories
                .binary_search_by(|named| named.replica_cmp(path));
            named.is_ok() || changes.sweeps.iter().any(|sweep| sweep.path == *path)
        })
    }

    fn walk_root(&self, stack: &Stack) -> Result<()> {
        let failed = |error: std::io::Error| Error::io("read the directory to copy", PathBuf::new(), error);
        let (directory, stat) = self.root.enter(&EntryPath::root()).map_err(failed)?;
        self.entered.lock().expect("not poisoned").insert(stat.dev);
        let open = OpenDirectory::at(directory, EntryPath::root(), 0, stat.dev);
        let mut walker = Walker::new(self, stack);
        let known = walker.known(&EntryPath::root())?;
        let known_ctime = known.filter(|entry| is_unchanged(&entry.stamp, &stamp(0, &stat, self.t0)));
        walker.directory(
            &Arc::new(open),
            &stat,
            known_ctime.map(|entry| entry.stamp.ctime),
            Depth::Deep,
        )?;
        walker.work.finish()
    }

    fn walk(&self, stack: &Stack) -> Result<()> {
        self.courtesy.enter();
        let mut walker = Walker::new(self, stack);
        while let Some((parent, pending)) = stack.pop() {
            self.courtesy.wait();
            let walked = walker.subdirectory(&parent, &pending);
            stack.done();
            if let Err(error) = walked {
                stack.break_off();
                return Err(error);
            }
        }
        walker.work.finish()
    }
}

/// One thread of the walk.
struct Walker<'a> {
    scan: &'a Scan<'a>,
    stack: &'a Stack,
    /// Taken while a directory is compared, for the comparison borrows the walker, too.
    cursor: Option<Cursor>,
    work: Work<'a>,
    /// Directories that were there in another look at those above them, and that are to be looked at themselves.
    passed: HashSet<EntryPath>,
}

impl<'a> Walker<'a> {
    fn new(scan: &'a Scan<'a>, stack: &'a Stack) -> Self {
        Self {
            scan,
            stack,
            cursor: Some(scan.snapshot.cursor()),
            work: Work::new(scan.dispatcher),
            passed: HashSet::new(),
        }
    }

    /// Looks at a directory that the tracker named. One that the baseline does not have is found through its parent,
    /// which was named, too.
    fn named(&mut self, path: &EntryPath, depth: Depth) -> Result<()> {
        let known = self.known(path)?;
        let Some(known) = known.filter(|known| matches!(known.node, Node::Directory)) else {
            return Ok(());
        };
        if self.is_out_of_reach(path) {
            return Ok(());
        }
        let (directory, stat) = match self.scan.root.enter(path) {
            Ok(entered) => entered,
            // That is found in the directory that it was in; should it come back, nobody tells what happened in it meanwhile.
            Err(error) if motion_of(&error).is_some() => {
                self.scan.tally.look_later(path);
                if self.passed.contains(path) {
                    self.scan.tally.leave(path);
                }
                return Ok(());
            }
            Err(error) => {
                self.unreadable(path, "directory", &error);
                return Ok(());
            }
        };
        let file_system = known.stamp.file_system;
        if self.scan.deferred.is_some() && !is_inode_of(&known, file_system, &stat) {
            // It or one above it was renamed or replaced: that is found from above.
            return Ok(());
        }
        let unchanged = is_unchanged(&known.stamp, &stamp(file_system, &stat, self.scan.t0));
        let open = OpenDirectory::at(directory, path.clone(), file_system, stat.dev);
        self.directory(&Arc::new(open), &stat, unchanged.then_some(stat.ctime), depth)
    }

    /// Whether the exclude rules leave out this directory or one above it, or another file system covers it that is not looked at.
    fn is_out_of_reach(&self, path: &EntryPath) -> bool {
        let mut above = Some(path.clone());
        while let Some(directory) = above.filter(|directory| !directory.is_root()) {
            if self.scan.is_elsewhere(&directory) || self.scan.filter.excludes(directory.as_bytes(), true) {
                return true;
            }
            above = directory.parent();
        }
        false
    }

    /// Walks one directory that a listing named.
    fn subdirectory(&mut self, parent: &Arc<OpenDirectory>, pending: &Pending) -> Result<()> {
        let path = parent.path.join(pending.name.to_bytes());
        let path = path.expect("its path was made when its parent was compared");
        let opened = parent.directory.open_child(&pending.name).and_then(|directory| {
            let stat = directory.stat()?;
            Ok((directory, stat))
        });
        let (directory, stat) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.scan.tally.look_later(&path);
                self.unreadable(&path, "directory", &error);
                return Ok(());
            }
        };
        let file_system = parent.file_system_of(&path, &stat);
        let open = OpenDirectory::at(directory, path, file_system, stat.dev);
        self.directory(&Arc::new(open), &stat, pending.known, pending.depth)
    }

    /// Lists a directory and compares it with what the baseline knows of it. `known` is the change time of its
    /// unchanged baseline entry.
    fn directory(
        &mut self,
        open: &Arc<OpenDirectory>,
        stat: &Stat,
        known: Option<Time>,
        depth: Depth,
    ) -> Result<()> {
        let mut names = match open.directory.names() {
            Ok(names) => names,
            Err(error) => {
                self.unreadable(&open.path, "directory", &error);
                return Ok(());
            }
        };
        names.sort();
        counters::add(&self.scan.counters.scanned, 1);
        let mut merge = Merge {
            open,
            depth,
            subdirectories: Vec::new(),
            touched: false,
            too_long: false,
        };
        let mut cursor = self
            .cursor
            .take()
            .expect("directories are compared one at a time");
        let compared = side_by_side(&names, &mut cursor, &open.path, &mut |pair| match pair {
            Pair::Present(name) => self.name(&mut merge, &name, None),
            Pair::Known(known) => self.gone(&mut merge, &known),
            Pair::Both(name, known) => self.name(&mut merge, &name, Some(known)),
        });
        self.cursor = Some(cursor);
        compared?;
        let Merge {
            subdirectories,
            touched,
            too_long,
            ..
        } = merge;
        if too_long {
            self.too_long(&open.path);
        }
        self.stack.push(open, subdirectories);
        if touched || known != Some(stat.ctime) {
            self.finish_later(open, stat)?;
        }
        Ok(())
    }

    /// Has the directory's metadata applied at the end of the round.
    fn finish_later(&mut self, open: &OpenDirectory, stat: &Stat) -> Result<()> {
        use std::os::fd::AsFd;
        match capture::capture_meta_fd(open.directory.as_fd(), stat) {
            Ok(meta) => {
                let stamp = open.stamp(stat, self.scan.t0);
                let entry = Entry {
                    path: open.path.clone(),
                    stamp,
                    meta,
                    node: Node::Directory,
                };
                self.scan.directories.lock().expect("not poisoned").push(&entry)
            }
            Err(error) => {
                self.unreadable(&open.path, "metadata", &error);
                Ok(())
            }
        }
    }

    /// Looks at one name of a listing.
    fn name(&mut self, merge: &mut Merge<'_>, name: &Name<'_>, known: Option<Entry>) -> Result<()> {
        if self.scan.elsewhere.is_empty() {
            return self.entry(merge, name.c_str, known);
        }
        match merge.open.path.join(name.bytes()) {
            Ok(path) if self.scan.is_elsewhere(&path) => {
                self.covered(merge, path, FileKind::of_type(name.file_type), known)
            }
            _ => self.entry(merge, name.c_str, known),
        }
    }

    /// Looks at one name.
    fn entry(&mut self, merge: &mut Merge<'_>, name: &CStr, known: Option<Entry>) -> Result<()> {
        let Ok(path) = merge.open.path.join(name.to_bytes()) else {
            merge.too_long = true;
            return Ok(());
        };
        let stat = match merge.open.directory.stat_entry(name) {
            Ok(stat) => stat,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return known.map_or(Ok(()), |known| self.gone(merge, &known));
            }
            Err(error) => {
                self.unreadable(&path, "entry", &error);
                return Ok(());
            }
        };
        let is_directory = stat.kind == FileKind::Directory;
        if self.scan.leaves_out(&path, &stat) {
            return known.map_or(Ok(()), |known| self.left_out(merge, known, is_directory));
        }
        if self.scan.passes_by(&path, &stat, known.as_ref())
            || self.sets_aside(merge, &path, &stat, known.as_ref())?
        {
            return Ok(());
        }
        counters::add(&self.scan.counters.scanned, u64::from(!is_directory));
        if is_directory {
            return self.directory_entry(merge, name, path, &stat, known);
        }
        let content_len = if stat.kind == FileKind::File { stat.size } else { 0 };
        counters::add(&self.scan.counters.bytes_total, content_len);
        let unchanged = known.as_ref().is_some_and(|known| {
            kind_of(&known.node) == stat.kind && self.is_at_rest(merge.open, &stat, known)
        });
        merge.touched |= !unchanged;
        if stat.nlink > 1 {
            return self.one_of_several(merge.open, path, &stat, known.as_ref(), unchanged);
        }
        if unchanged {
            counters::add(&self.scan.counters.bytes_done, content_len);
            return Ok(());
        }
        let file = File {
            directory: Arc::clone(merge.open),
            name: name.to_owned(),
            path,
            stat,
            known,
            other_names: Vec::new(),
            rewrite: false,
        };
        self.work.push(Task::Entry(Box::new(file)))
    }

    /// An entry with several names: the others are known when everything was seen.
    fn one_of_several(
        &mut self,
        open: &OpenDirectory,
        path: EntryPath,
        stat: &Stat,
        known: Option<&Entry>,
        unchanged: bool,
    ) -> Result<()> {
        if known.is_some_and(|known| matches!(known.node, Node::Directory)) {
            self.work.push(Task::Remove(path.clone()))?;
        }
        let is_known = |known: &Entry| kind_of(&known.node) == stat.kind && known.stamp.ino == stat.ino;
        let seen = SeenLink {
            file_system: open.file_system,
            dev: stat.dev,
            ino: stat.ino,
            path,
            unchanged,
            known: known.is_some(),
            known_inode: known.is_some_and(is_known),
        };
        self.scan.links.lock().expect("not poisoned").push(&seen)
    }

    /// What is there now is left out. What the baseline knows there goes if it is of the other kind, and that is not
    /// excluded: rules may speak of directories alone.
    fn left_out(&mut self, merge: &mut Merge<'_>, known: Entry, is_directory: bool) -> Result<()> {
        let was_directory = matches!(known.node, Node::Directory);
        let excludes = |is_directory| self.scan.filter.excludes(known.path.as_bytes(), is_directory);
        if was_directory == is_directory || excludes(was_directory) {
            return Ok(());
        }
        merge.touched = true;
        self.work.push(Task::Remove(known.path))
    }

    /// Whether an entry is what the baseline knows, and nobody may be changing it without moving its times.
    fn is_at_rest(&self, open: &OpenDirectory, stat: &Stat, known: &Entry) -> bool {
        let id = FileId {
            device: stat.dev,
            ino: stat.ino,
        };
        !self.scan.busy.contains(&id) && is_unchanged(&known.stamp, &open.stamp(stat, self.scan.t0))
    }

    fn directory_entry(
        &mut self,
        merge: &mut Merge<'_>,
        name: &CStr,
        path: EntryPath,
        stat: &Stat,
        known: Option<Entry>,
    ) -> Result<()> {
        let crosses = merge.open.is_left_at(stat);
        let is_mounted = crosses && stat.is_mount_root != Some(false);
        let is_again = self.scan.again.is_some() && is_mounted;
        if is_again && merge.depth == Depth::Shallow {
            // What is mounted was entered, or not, when everything was looked at.
            return Ok(());
        }
        let known = known.filter(|known| matches!(known.node, Node::Directory));
        if known.is_none() {
            merge.touched = true;
            self.work.push(Task::Directory(path.clone()))?;
        }
        let file_system = merge.open.file_system_of(&path, stat);
        let present = stamp(file_system, stat, self.scan.t0);
        let unchanged = known
            .as_ref()
            .is_some_and(|known| is_unchanged(&known.stamp, &present));
        let enter = |dev| self.scan.entered.lock().expect("not poisoned").insert(dev);
        if crosses && !self.scan.enters(&merge.open.directory, name, stat, enter)? {
            return if unchanged || is_again && known.is_some() {
                Ok(())
            } else {
                self.boundary(path, stat, present)
            };
        }
        let depth = match (merge.depth, &known) {
            (Depth::Shallow, Some(_)) if unchanged => return Ok(()),
            (Depth::Shallow, Some(_)) if self.scan.is_named(&path) => {
                if self.scan.again.is_some() {
                    self.passed.insert(path);
                }
                return Ok(());
            }
            (depth, Some(_)) => depth,
            (_, None) => Depth::Deep,
        };
        merge.subdirectories.push(Pending {
            name: name.to_owned(),
            known: unchanged.then_some(stat.ctime),
            depth,
        });
        Ok(())
    }

    /// A mount point that is not entered is copied as the empty directory that it covers: mode and owner.
    fn boundary(&mut self, path: EntryPath, stat: &Stat, stamp: Stamp) -> Result<()> {
        let meta = Meta {
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            atime: stat.atime,
            mtime: stat.mtime,
            ..Meta::default()
        };
        let entry = Entry {
            path,
            stamp,
            meta,
            node: Node::Directory,
        };
        self.scan.directories.lock().expect("not poisoned").push(&entry)
    }

    /// A mount point that is not looked at is copied as an empty directory of root's, unless the baseline has a directory there. The
    /// listing of the directory above tells the `kind` of what is covered, if it does.
    fn covered(
        &mut self,
        merge: &mut Merge<'_>,
        path: EntryPath,
        kind: Option<FileKind>,
        known: Option<Entry>,
    ) -> Result<()> {
        let known_kind = known.map(|known| kind_of(&known.node));
        let is_directory = kind.or(known_kind).unwrap_or(FileKind::Directory) == FileKind::Directory;
        if self.scan.filter.excludes(path.as_bytes(), is_directory) {
            return Ok(());
        }
        if !is_directory {
            let why = "another machine or process answers for what is mounted over it: unmount that, or exclude the file";
            self.scan
                .tally
                .skip(&path, "content", &std::io::Error::other(why));
            return Ok(());
        }
        if known_kind == Some(FileKind::Directory) {
            return Ok(());
        }
        merge.touched = true;
        self.work.push(Task::Directory(path.clone()))?;
        let meta = Meta {
            mode: 0o755,
            mtime: self.scan.t0,
            atime: self.scan.t0,
            ..Meta::default()
        };
        let entry = Entry {
            path,
            stamp: Stamp::default(),
            meta,
            node: Node::Directory,
        };
        self.scan.directories.lock().expect("not poisoned").push(&entry)
    }

    /// The baseline knows an entry that is no longer there.
    fn gone(&mut self, merge: &mut Merge<'_>, known: &Entry) -> Result<()> {
        let is_directory = matches!(known.node, Node::Directory);
        // Temporary names are our own, whatever the rules say of names like these.
        if !is_aside(&known.path) && self.scan.filter.excludes(known.path.as_bytes(), is_directory) {
            return Ok(());
        }
        merge.touched = true;
        if let Some(deferred) = self.scan.deferred {
            return deferred.departure(known, merge.open.file_system);
        }
        self.work.push(Task::Remove(known.path.clone()))
    }

    /// Once for all entries of a directory: anybody can make as many as they like.
    fn too_long(&self, directory: &EntryPath) {
        let error = std::io::Error::other("their paths are longer than 64 KiB");
        self.unreadable(directory, "entries in it", &error);
    }

    /// What cannot be read is named; what vanished meanwhile is for the next look.
    fn unreadable(&self, path: &EntryPath, what: &str, error: &std::io::Error) {
        self.scan.tally.unreadable(path, what, error);
    }
}

/// A directory while it is compared.
struct Merge<'a> {
    open: &'a Arc<OpenDirectory>,
    depth: Depth,
    subdirectories: Vec<Pending>,
    /// Whether anything directly in it will change at the target, which moves its modification time there.
    touched: bool,
    /// Whether there are entries in it whose paths are longer than a path can be here.
    too_long: bool,
}

/// The kind of file that a baseline entry is.
pub fn kind_of(node: &Node) -> FileKind {
    match node {
        Node::Directory => FileKind::Directory,
        Node::File(_) => FileKind::File,
        Node::Symlink { .. } => FileKind::Symlink,
        Node::Fifo => FileKind::Fifo,
        Node::Socket => FileKind::Socket,
        Node::CharDevice { .. } => FileKind::CharDevice,
        Node::BlockDevice { .. } => FileKind::BlockDevice,
    }
}

/// A file system inside the volume is named after the place where it begins: device numbers change at every boot.
fn file_system_number(path: &EntryPath) -> u64 {
    let digest = blake3::hash(path.as_bytes());
    u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("32 bytes hold 8")) | 1
}
