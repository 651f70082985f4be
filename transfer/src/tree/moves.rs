//! Renames at the source: entries that the walk found under another name than the baseline has them under.
//!
//! While a walk compares, it sets aside what it finds at a path where the baseline has nothing or another inode
//! (*arrivals*), and what the baseline has and the walk does not find (*departures*). Whoever is among both, by identity, was
//! renamed. The target then renames, too, and both sides seal that as a generation of its own; the round goes on and compares
//! what was set aside with the baseline that now knows the new names.
//!
//! Nothing depends on a rename being found or being right: it changes the baseline and the target in the same way, and the
//! comparison that follows makes both equal to the source. Not finding one costs sending the data again. So everything here
//! is bounded and gives up silently: see the constants.

mod order;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::tree::capture::FileKind;
use crate::tree::entry::{Entry, EntryPath, Node, Stamp, Time};
use crate::tree::replica::Cursor;
use crate::tree::scan::version::stamp;
use crate::tree::scan::{Scan, kind_of};
use crate::tree::spool::Spool;

pub use order::{is_aside, is_spared, order};

/// Departures that are looked for among arrivals: their hashes take 16 bytes each, 16 MiB in all.
const DEPARTURES_MAX: usize = 1 << 20;
/// Renames found at a time; more are found in the next pass. With two paths of 100 bytes each, 8 MiB.
const MOVES_MAX: usize = 32 * 1024;
/// Directories that wait to be listed while new ones are searched: 100 bytes each.
const WAITING_MAX: usize = 128 * 1024;

/// What stays the same when an entry is renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    file_system: u64,
    ino: u64,
    birth_ns: i64,
    kind: u8,
    /// Size and modification time where the birth time is not known: an inode number alone may have been used again.
    version: (u64, Time),
}

impl Identity {
    /// The identity of an entry of this kind and version.
    pub fn of(stamp: &Stamp, kind: FileKind) -> Self {
        let version = match stamp.birth_ns {
            0 if kind != FileKind::Directory => (stamp.size, stamp.mtime),
            _ => (0, Time::default()),
        };
        Self {
            file_system: stamp.file_system,
            ino: stamp.ino,
            birth_ns: stamp.birth_ns,
            kind: kind as u8,
            version,
        }
    }

    /// Whether both are one inode, whatever happened to it.
    pub fn is_inode_of(&self, other: &Self) -> bool {
        let inode = |identity: &Self| {
            (
                identity.file_system,
                identity.ino,
                identity.birth_ns,
                identity.kind,
            )
        };
        inode(self) == inode(other)
    }
}

/// An entry at a path, seen by the walk or known to the baseline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sighting {
    /// Where.
    pub path: EntryPath,
    /// Number of the file system that its directory is on.
    pub within: u64,
    /// What.
    pub identity: Identity,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Whether the baseline has something at the path.
    pub known: bool,
}

impl Sighting {
    fn of_known(entry: &Entry, within: u64) -> Self {
        Self {
            path: entry.path.clone(),
            within,
            identity: Identity::of(&entry.stamp, kind_of(&entry.node)),
            is_directory: matches!(entry.node, Node::Directory),
            known: true,
        }
    }
}

/// What a walk set aside.
pub struct Deferred {
    state: PathBuf,
    arrivals: Mutex<Spool<Sighting>>,
    departures: Mutex<Spool<Sighting>>,
}

impl Deferred {
    /// Nothing yet; spools lie in `state`.
    ///
    /// # Errors
    /// No file can be made there.
    pub fn new(state: &Path) -> Result<Self> {
        Ok(Self {
            state: state.to_owned(),
            arrivals: Mutex::new(Spool::new(state)?),
            departures: Mutex::new(Spool::new(state)?),
        })
    }

    /// Sets aside what the walk found.
    ///
    /// # Errors
    /// The disk is full.
    pub fn arrival(&self, sighting: &Sighting) -> Result<()> {
        self.arrivals.lock().expect("not poisoned").push(sighting)
    }

    /// Sets aside what the baseline has and the walk did not find.
    ///
    /// # Errors
    /// The disk is full.
    pub fn departure(&self, known: &Entry, within: u64) -> Result<()> {
        let sighting = Sighting::of_known(known, within);
        self.departures.lock().expect("not poisoned").push(&sighting)
    }

    /// Takes everything: arrivals and departures.
    ///
    /// # Errors
    /// The disk is full.
    pub fn take(&self) -> Result<(Spool<Sighting>, Spool<Sighting>)> {
        let take = |spool: &Mutex<Spool<Sighting>>| -> Result<Spool<Sighting>> {
            let fresh = Spool::new(&self.state)?;
            Ok(std::mem::replace(
                &mut *spool.lock().expect("not poisoned"),
                fresh,
            ))
        };
        Ok((take(&self.arrivals)?, take(&self.departures)?))
    }

    fn put_back(&self, arrivals: Spool<Sighting>, departures: Spool<Sighting>) {
        *self.arrivals.lock().expect("not poisoned") = arrivals;
        *self.departures.lock().expect("not poisoned") = departures;
    }
}

/// One rename.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Move {
    /// Path in the baseline.
    pub from: EntryPath,
    /// Path at the source now.
    pub to: EntryPath,
    /// Whether everything below moves, too.
    pub is_directory: bool,
}

/// Finds renames among what was set aside, which stays so. No path occurs twice among the old ones, none among the new ones.
///
/// # Errors
/// The disk is full, or the baseline is damaged.
pub fn find(scan: &Scan<'_>, deferred: &Deferred) -> Result<Vec<Move>> {
    let (arrivals, departures) = deferred.take()?;
    if arrivals.is_empty() || departures.is_empty() {
        deferred.put_back(arrivals, departures);
        return Ok(Vec::new());
    }
    let mut search = Search {
        scan,
        cursor: scan.snapshot.cursor(),
        state: &deferred.state,
        departed: Departed {
            spool: Spool::new(&deferred.state)?,
            hashes: HashSet::new(),
            hasher: RandomState::new(),
        },
        candidates: HashMap::new(),
        candidates_len: 0,
    };
    let departures = search.departures(departures)?;
    let arrivals = search.arrivals(arrivals)?;
    deferred.put_back(arrivals, departures);
    let mut moves = search.matches()?;
    spare_directories(scan, deferred, &mut moves)?;
    Ok(moves)
}

/// Moves directories aside that would be overwritten: only when the renamed ones are walked, another name of theirs may be
/// found. The target leaves those in their place that hold what is excluded there.
fn spare_directories(scan: &Scan<'_>, deferred: &Deferred, moves: &mut Vec<Move>) -> Result<()> {
    let leaving: HashSet<&EntryPath> = moves.iter().map(|one| &one.from).collect();
    let mut cursor = scan.snapshot.cursor();
    let mut spared = Vec::new();
    for to in moves.iter().map(|one| &one.to).filter(|to| !leaving.contains(to)) {
        let known = cursor.get(to)?;
        let Some(known) = known.filter(|known| matches!(known.node, Node::Directory)) else {
            continue;
        };
        let aside = order::spared(to);
        deferred.departure(
            &Entry {
                path: aside.clone(),
                ..known
            },
            0,
        )?;
        spared.push(Move {
            from: to.clone(),
            to: aside,
            is_directory: true,
        });
    }
    moves.extend(spared);
    Ok(())
}

struct Search<'a> {
    scan: &'a Scan<'a>,
    cursor: Cursor,
    state: &'a Path,
    departed: Departed,
    /// Arrivals that are probably among the departures.
    candidates: HashMap<Identity, Vec<EntryPath>>,
    candidates_len: usize,
}

/// The departures with what the baseline has below them.
struct Departed {
    spool: Spool<Sighting>,
    /// Hashes of their identities.
    hashes: HashSet<u64>,
    hasher: RandomState,
}

impl Departed {
    fn add(&mut self, sighting: &Sighting) -> Result<()> {
        if self.hashes.len() < DEPARTURES_MAX {
            self.hashes.insert(self.hasher.hash_one(sighting.identity));
            self.spool.push(sighting)?;
        }
        Ok(())
    }

    /// Whether this is among them, but for a rare collision.
    fn may_hold(&self, identity: &Identity) -> bool {
        self.hashes.contains(&self.hasher.hash_one(identity))
    }
}

impl Search<'_> {
    /// Takes in the departures and everything below them. Gives back those that the baseline still has.
    fn departures(&mut self, spool: Spool<Sighting>) -> Result<Spool<Sighting>> {
        let mut left = Spool::new(self.state)?;
        for sighting in spool.read()? {
            let sighting = sighting?;
            let known = self.cursor.get(&sighting.path)?;
            let Some(known) = known.map(|known| Sighting::of_known(&known, sighting.within)) else {
                continue;
            };
            left.push(&sighting)?;
            if known.identity != sighting.identity {
                continue;
            }
            self.departed.add(&sighting)?;
            if sighting.is_directory {
                self.departed_below(sighting.path)?;
            }
        }
        Ok(left)
    }

    fn departed_below(&mut self, directory: EntryPath) -> Result<()> {
        let mut waiting = vec![directory];
        while let Some(directory) = waiting.pop() {
            let departed = &mut self.departed;
            self.cursor.children(&directory, &mut |known| {
                let sighting = Sighting::of_known(&known, 0);
                departed.add(&sighting)?;
                if sighting.is_directory && waiting.len() < WAITING_MAX {
                    waiting.push(sighting.path);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Looks through the arrivals, and through new directories. Gives the arrivals back.
    fn arrivals(&mut self, spool: Spool<Sighting>) -> Result<Spool<Sighting>> {
        let mut left = Spool::new(self.state)?;
        for sighting in spool.read()? {
            let sighting = sighting?;
            left.push(&sighting)?;
            self.arrived(sighting);
        }
        Ok(left)
    }

    /// A candidate is noted; below any other directory the search goes on.
    fn arrived(&mut self, sighting: Sighting) {
        let mut waiting = self.consider(sighting);
        while let Some((directory, file_system)) = waiting.pop() {
            // What vanished meanwhile is for the next round.
            let Ok((open, own)) = self.scan.root.enter(&directory) else {
                continue;
            };
            let Ok(names) = open.names() else {
                continue;
            };
            for name in names.iter() {
                let Some((path, stat)) = self.scan.look_at(&open, &directory, name.c_str) else {
                    continue;
                };
                if stat.dev != own.dev || stat.is_mount_root == Some(true) {
                    continue;
                }
                let below = self.consider(Sighting {
                    path,
                    within: file_system,
                    identity: Identity::of(&stamp(file_system, &stat, self.scan.t0), stat.kind),
                    is_directory: stat.kind == FileKind::Directory,
                    known: false,
                });
                if waiting.len() < WAITING_MAX {
                    waiting.extend(below);
                }
            }
        }
    }

    /// Notes a candidate; gives back a directory that is none, to be searched.
    fn consider(&mut self, sighting: Sighting) -> Vec<(EntryPath, u64)> {
        if self.departed.may_hold(&sighting.identity) {
            if self.candidates_len < MOVES_MAX {
                self.candidates_len += 1;
                self.candidates
                    .entry(sighting.identity)
                    .or_default()
                    .push(sighting.path);
            }
            return Vec::new();
        }
        let file_system = sighting.identity.file_system;
        let directory = sighting.is_directory.then_some((sighting.path, file_system));
        directory.into_iter().collect()
    }

    /// Pairs candidates with departures.
    fn matches(mut self) -> Result<Vec<Move>> {
        let mut moves = Vec::new();
        let (mut old, mut new) = (HashSet::new(), HashSet::new());
        if self.candidates.is_empty() {
            return Ok(moves);
        }
        for sighting in self.departed.spool.read()? {
            let sighting = sighting?;
            let to = self.candidates.get_mut(&sighting.identity).and_then(Vec::pop);
            let Some(to) = to.filter(|to| *to != sighting.path) else {
                continue;
            };
            if !old.insert(sighting.path.clone()) || !new.insert(to.clone()) {
                continue;
            }
            moves.push(Move {
                from: sighting.path,
                to,
                is_directory: sighting.is_directory,
            });
        }
        Ok(moves)
    }
}
