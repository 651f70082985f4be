//! Entries with several names: one of them carries the content, the others become links to it.
//!
//! The walk spools every name of an entry with more than one. When everything was seen, the spool is sorted by inode,
//! so that a group's names come together without a map of them in memory.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::progress::Motion;
use crate::source::counters;
use crate::tree::capture::{FileKind, Stat};
use crate::tree::entry::EntryPath;
use crate::tree::replica::Cursor;
use crate::tree::scan::{OpenDirectory, Scan};
use crate::tree::spool::Spool;
use crate::tree::tasks::{File, Task, Work};

/// One name of an entry that has several, as the walk saw it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SeenLink {
    /// Number of the file system inside the volume.
    pub file_system: u64,
    /// Device number: that of a file may be another than its directory's, and each device numbers its inodes itself.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// The name's path.
    pub path: EntryPath,
    /// Whether the baseline knows it, unchanged.
    pub unchanged: bool,
    /// Whether the baseline knows anything at this path.
    pub known: bool,
    /// Whether the baseline knows this very inode under this name.
    pub known_inode: bool,
}

/// What all names of an entry have in common: file system, device and inode number.
type Inode = (u64, u64, u64);

impl SeenLink {
    fn inode(&self) -> Inode {
        (self.file_system, self.dev, self.ino)
    }
}

/// Groups come together, and their names in the replica's order.
fn by_inode(a: &SeenLink, b: &SeenLink) -> Ordering {
    let by_path = || a.path.replica_cmp(&b.path);
    a.inode().cmp(&b.inode()).then_with(by_path)
}

/// Makes tasks of all groups in which something changed.
///
/// # Errors
/// The disk fails, the baseline is damaged, or the session broke.
pub fn dispatch(scan: &Scan<'_>, spool: Spool<SeenLink>, state: &Path) -> Result<()> {
    let mut groups = Groups {
        scan,
        cursor: scan.snapshot.cursor(),
        work: Work::new(scan.dispatcher),
        incomplete: HashSet::new(),
        deferred: scan.changes.map(|_| Spool::new(state)).transpose()?,
    };
    groups.each(spool)?;
    if let Some(mut names) = groups.deferred.take().filter(|names| !names.is_empty()) {
        // The tracker named some names of these entries only; the others must be found. Those that are not lie outside.
        let wanted = std::mem::take(&mut groups.incomplete);
        find_names(scan, &wanted, &mut names)?;
        groups.each(names)?;
    }
    groups.work.finish()
}

/// Finds all names of the wanted entries, wherever the walk goes: a walk that reads nothing.
fn find_names(scan: &Scan<'_>, wanted: &HashSet<Inode>, found: &mut Spool<SeenLink>) -> Result<()> {
    let mut cursor = scan.snapshot.cursor();
    let mut entered: HashSet<u64> = scan.root.stat().map(|root| root.dev).into_iter().collect();
    let mut waiting = vec![(EntryPath::root(), 0)];
    while let Some((path, file_system)) = waiting.pop() {
        // What vanished meanwhile is for the next round.
        let Ok((directory, own)) = scan.root.enter(&path) else {
            continue;
        };
        let Ok(names) = directory.names() else {
            continue;
        };
        let open = OpenDirectory::at(directory, path, file_system, own.dev);
        for name in names.iter() {
            let Some((child, stat)) = scan.look_at(&open.directory, &open.path, name.c_str) else {
                continue;
            };
            if stat.kind == FileKind::Directory {
                if !open.is_left_at(&stat)
                    || scan.enters(&open.directory, name.c_str, &stat, |dev| entered.insert(dev))?
                {
                    let file_system = open.file_system_of(&child, &stat);
                    waiting.push((child, file_system));
                }
                continue;
            }
            if stat.nlink > 1 && wanted.contains(&(file_system, stat.dev, stat.ino)) {
                let known = cursor.get(&child)?;
                found.push(&SeenLink {
                    file_system,
                    dev: stat.dev,
                    ino: stat.ino,
                    unchanged: false,
                    known: known.is_some(),
                    known_inode: known.is_some_and(|known| known.stamp.ino == stat.ino),
                    path: child,
                })?;
            }
        }
    }
    Ok(())
}

/// The name that carries a group's content.
struct Leader {
    seen: SeenLink,
    directory: OpenDirectory,
    name: CString,
    stat: Stat,
}

struct Groups<'a> {
    scan: &'a Scan<'a>,
    cursor: Cursor,
    work: Work<'a>,
    /// Changed entries some names of which were not seen.
    incomplete: HashSet<Inode>,
    /// Their names that were; they wait for the search. `None` when there is none to wait for.
    deferred: Option<Spool<SeenLink>>,
}

impl Groups<'_> {
    /// Takes the spool's groups one by one.
    fn each(&mut self, spool: Spool<SeenLink>) -> Result<()> {
        let mut group: Vec<SeenLink> = Vec::new();
        for seen in spool.sorted(by_inode)? {
            let seen = seen?;
            let same = group.first().is_some_and(|first| first.inode() == seen.inode());
            if !same {
                self.dispatch(std::mem::take(&mut group))?;
            }
            group.push(seen);
        }
        self.dispatch(group)
    }

    fn dispatch(&mut self, mut group: Vec<SeenLink>) -> Result<()> {
        group.dedup_by(|one, other| one.path == other.path);
        if group.iter().all(|seen| seen.unchanged) {
            return self.count_unchanged(&group);
        }
        let Some(Leader {
            seen: leader,
            directory,
            name,
            stat,
        }) = self.take_leader(&mut group)?
        else {
            return Ok(());
        };
        let is_complete = group.len() as u64 + 1 >= stat.nlink;
        if let Some(deferred) = self.deferred.as_mut().filter(|_| !is_complete) {
            self.incomplete.insert(leader.inode());
            deferred.push(&leader)?;
            return group.iter().try_for_each(|seen| deferred.push(seen));
        }
        let known = if leader.known {
            self.cursor.get(&leader.path)?
        } else {
            None
        };
        self.work.push(Task::Entry(Box::new(File {
            directory: Arc::new(directory),
            name,
            path: leader.path,
            stat,
            known,
            other_names: group.into_iter().map(|seen| seen.path).collect(),
            rewrite: leader.known_inode,
        })))
    }

    /// Takes the name that carries the content out of its group: one under which the target has this inode keeps it,
    /// otherwise the first one makes a new one. Names that are no longer there are taken out, too.
    fn take_leader(&mut self, group: &mut Vec<SeenLink>) -> Result<Option<Leader>> {
        let tally = self.scan.tally;
        while !group.is_empty() {
            let at = group.iter().position(|seen| seen.known_inode).unwrap_or(0);
            let seen = group.remove(at);
            let Some((parent, name)) = seen.path.place() else {
                continue;
            };
            let opened = self.scan.root.enter(&parent).and_then(|(directory, own)| {
                let stat = directory.stat_entry(&name)?;
                Ok((directory, own, stat))
            });
            match opened {
                Ok((directory, own, stat)) if (stat.dev, stat.ino) == (seen.dev, seen.ino) => {
                    let directory = OpenDirectory::at(directory, parent, seen.file_system, own.dev);
                    return Ok(Some(Leader {
                        seen,
                        directory,
                        name,
                        stat,
                    }));
                }
                Ok(_) => tally.moved(&seen.path, Motion::Replaced),
                Err(error) => {
                    let motion = tally.unreadable(&seen.path, "entry", &error);
                    if motion == Some(Motion::Vanished) && seen.known {
                        self.work.push(Task::Remove(seen.path))?;
                    }
                }
            }
        }
        Ok(None)
    }

    fn count_unchanged(&mut self, group: &[SeenLink]) -> Result<()> {
        if let Some(first) = group.first()
            && let Some(entry) = self.cursor.get(&first.path)?
        {
            counters::add(
                &self.scan.counters.bytes_done,
                entry.stamp.size * group.len() as u64,
            );
        }
        Ok(())
    }
}
