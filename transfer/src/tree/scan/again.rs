//! What the walk sets aside because it may have been renamed, and the second look at it.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::Arc;

use super::{Depth, Merge, OpenDirectory, Scan, Stack, Walker, kind_of, stamp};
use crate::error::Result;
use crate::tree::capture::{FileKind, Stat};
use crate::tree::entry::{Entry, EntryPath, Node, Time};
use crate::tree::moves::{Identity, Sighting};
use crate::tree::spool::Spool;
use crate::tree::tasks::Task;

/// Directories kept open for the second look: the walk's threads set aside several directories' entries in turn.
const OPEN_MAX: usize = 16;
/// New directories that wait, with their parents open, until they are walked.
const WAITING_MAX: usize = 64;

/// What was set aside.
pub struct SetAside {
    /// What the walk found.
    pub arrivals: Spool<Sighting>,
    /// What the baseline had at places where the walk found nothing or something else.
    pub departures: Spool<Sighting>,
    /// Renamed directories that have been walked since.
    pub walked: HashSet<EntryPath>,
    /// Whether the baseline knows more since then.
    pub renamed: bool,
}

impl Scan<'_> {
    /// Walks directories that were renamed, against what the baseline now has under their new names. What a rename brought
    /// to an excluded place goes. Gives back those that the baseline has indeed.
    ///
    /// # Errors
    /// As for [`Scan::run`].
    pub fn run_renamed(&self, renamed: Vec<EntryPath>, threads: usize) -> Result<Vec<EntryPath>> {
        let stack = Stack::default();
        let mut walker = Walker::new(self, &stack);
        let mut walked = Vec::new();
        for path in renamed {
            if walker.knows_directory(&path)? {
                walker.remove_excluded(&path)?;
                walker.named(&path, Depth::Deep)?;
                walked.push(path);
                // Each holds its directory open.
                if walked.len().is_multiple_of(WAITING_MAX) {
                    self.drain(&stack, threads)?;
                }
            }
        }
        walker.work.finish()?;
        self.drain(&stack, threads)?;
        Ok(walked)
    }

    /// Looks again at what was set aside, and acts.
    ///
    /// # Errors
    /// As for [`Scan::run`].
    pub fn look_again(&self, set_aside: SetAside, threads: usize) -> Result<()> {
        let SetAside {
            arrivals,
            departures,
            walked,
            renamed,
        } = set_aside;
        let stack = Stack::default();
        let mut again = Again {
            walker: Walker::new(self, &stack),
            open: Vec::new(),
            waiting: 0,
            threads,
        };
        for sighting in arrivals.read()? {
            let sighting = sighting?;
            if !walked.contains(&sighting.path) {
                again.look(
                    &sighting,
                    Wanted::Present {
                        known: sighting.known || renamed,
                    },
                )?;
            }
        }
        for sighting in departures.read()? {
            again.look(&sighting?, Wanted::Gone)?;
        }
        again.walker.work.finish()?;
        self.drain(&stack, threads)
    }

    /// Has the root's metadata applied at the end of the round, where that is not due anyway.
    ///
    /// # Errors
    /// The disk is full.
    pub fn finish_root(&self) -> Result<()> {
        let stack = Stack::default();
        let mut walker = Walker::new(self, &stack);
        match self.root.enter(&EntryPath::root()) {
            Ok((directory, stat)) => {
                let open = OpenDirectory::at(directory, EntryPath::root(), 0, stat.dev);
                walker.finish_later(&open, &stat)
            }
            Err(error) => {
                walker.unreadable(&EntryPath::root(), "directory", &error);
                Ok(())
            }
        }
    }
}

/// What the second look is for.
#[derive(Clone, Copy)]
enum Wanted {
    /// What is there.
    Present {
        /// Whether the baseline may have something at the path.
        known: bool,
    },
    /// Whether it is still gone: what is there instead has been looked at as an arrival.
    Gone,
}

struct Again<'a> {
    walker: Walker<'a>,
    /// The last used one at the end.
    open: Vec<Arc<OpenDirectory>>,
    waiting: usize,
    threads: usize,
}

impl Again<'_> {
    fn look(&mut self, sighting: &Sighting, wanted: Wanted) -> Result<()> {
        let Some((parent, name)) = sighting.path.place() else {
            return Ok(());
        };
        let open = match self.parent(parent, sighting.within) {
            Ok(open) => open,
            Err(error) => {
                self.walker.unreadable(&sighting.path, "entry", &error);
                return Ok(());
            }
        };
        let mut merge = Merge {
            open: &open,
            depth: Depth::Deep,
            subdirectories: Vec::new(),
            touched: false,
            too_long: false,
        };
        match wanted {
            Wanted::Present { known } => {
                let known = if known {
                    self.walker.known(&sighting.path)?
                } else {
                    None
                };
                self.walker.entry(&mut merge, &name, known)?;
            }
            Wanted::Gone => match open.directory.stat_entry(&name) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if let Some(known) = self.walker.known(&sighting.path)? {
                        self.walker.gone(&mut merge, &known)?;
                    }
                }
                _ => return Ok(()),
            },
        }
        let subdirectories = merge.subdirectories;
        self.waiting += subdirectories.len();
        self.walker.stack.push(&open, subdirectories);
        if self.waiting >= WAITING_MAX {
            self.waiting = 0;
            self.walker.scan.drain(self.walker.stack, self.threads)?;
        }
        Ok(())
    }

    fn parent(&mut self, path: EntryPath, file_system: u64) -> std::io::Result<Arc<OpenDirectory>> {
        if let Some(at) = self.open.iter().rposition(|open| open.path == path) {
            return Ok(Arc::clone(&self.open[at]));
        }
        let (directory, stat) = self.walker.scan.root.enter(&path)?;
        let open = Arc::new(OpenDirectory::at(directory, path, file_system, stat.dev));
        if self.open.len() >= OPEN_MAX {
            self.open.remove(0);
        }
        self.open.push(Arc::clone(&open));
        Ok(open)
    }
}

impl Walker<'_> {
    /// Sets an entry aside unless the baseline has this very inode at its path.
    pub(super) fn sets_aside(
        &mut self,
        merge: &mut Merge<'_>,
        path: &EntryPath,
        stat: &Stat,
        known: Option<&Entry>,
    ) -> Result<bool> {
        let Some(deferred) = self.scan.deferred else {
            return Ok(false);
        };
        let file_system = merge.open.file_system_of(path, stat);
        let within = merge.open.file_system;
        if let Some(known) = known {
            if is_inode_of(known, file_system, stat) {
                return Ok(false);
            }
            deferred.departure(known, within)?;
        }
        merge.touched = true;
        deferred.arrival(&Sighting {
            path: path.clone(),
            within,
            identity: Identity::of(&stamp(file_system, stat, self.scan.t0), stat.kind),
            is_directory: stat.kind == FileKind::Directory,
            known: known.is_some(),
        })?;
        Ok(true)
    }

    /// What the baseline has at a path.
    pub(super) fn known(&mut self, path: &EntryPath) -> Result<Option<Entry>> {
        self.cursor.as_mut().map_or(Ok(None), |cursor| cursor.get(path))
    }

    /// Whether the baseline has the very directory that is at the path: the target made the rename.
    fn knows_directory(&mut self, path: &EntryPath) -> Result<bool> {
        let known = self.known(path)?;
        let Some(known) = known.filter(|known| matches!(known.node, Node::Directory)) else {
            return Ok(false);
        };
        let entered = self.scan.root.enter(path);
        Ok(entered.is_ok_and(|(_, stat)| is_inode_of(&known, known.stamp.file_system, &stat)))
    }

    /// Removes what the baseline has below a directory at places that the rules leave out: it was not excluded under its old
    /// name.
    fn remove_excluded(&mut self, directory: &EntryPath) -> Result<()> {
        let scan = self.scan;
        if scan.filter.is_empty() {
            return Ok(());
        }
        let mut waiting = vec![directory.clone()];
        while let Some(directory) = waiting.pop() {
            let work = &mut self.work;
            let Some(cursor) = &mut self.cursor else {
                return Ok(());
            };
            cursor.children(&directory, &mut |known| {
                let is_directory = matches!(known.node, Node::Directory);
                if scan.filter.excludes(known.path.as_bytes(), is_directory) {
                    return work.push(Task::Remove(known.path));
                }
                if is_directory {
                    waiting.push(known.path);
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Whether the baseline's entry and what is on `file_system` are one inode.
pub(super) fn is_inode_of(known: &Entry, file_system: u64, stat: &Stat) -> bool {
    let present = Identity::of(&stamp(file_system, stat, Time::default()), stat.kind);
    Identity::of(&known.stamp, kind_of(&known.node)).is_inode_of(&present)
}
