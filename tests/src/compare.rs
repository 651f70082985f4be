//! Are two trees the same, in everything that a Linux file system keeps?
//!
//! The judge of end-to-end tests. It shares no code with the programs it judges: it walks on its own, asks the kernel on
//! its own, and reads project ids through `lsattr`. Both trees must be at rest. Names are bytes and depth has no limit:
//! it goes down by `openat` of one component and up by `..`.
//!
//! What it does not compare: change and birth times, inode numbers, access times unless asked, and how a hole-free range
//! lies on the medium (compression, preallocation, sharing).

mod content;
mod entry;
mod links;
mod project;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Dir, Mode, OFlags, openat};

use links::Links;
use project::Projects;

/// What to look at. The default is everything except access times.
#[derive(Clone, Debug)]
pub struct Options {
    /// Compare access times. Only meaningful when nothing has read the trees since.
    pub atime: bool,
    /// Compare modification times of directories.
    pub directory_mtime: bool,
    /// Demand that holes of the source are holes of the target.
    pub holes: bool,
    /// Compare inode flags.
    pub flags: bool,
    /// Compare project ids (runs `lsattr`).
    pub projects: bool,
    /// Compare what lies on other file systems mounted below the roots. Otherwise such a directory must only exist.
    pub cross_mounts: bool,
    /// Paths, relative to the roots, that are not looked at with all below them.
    pub skip: Vec<Vec<u8>>,
    /// Names of extended attributes that are not compared.
    pub skip_xattrs: Vec<Vec<u8>>,
    /// Differences that are kept with their details; further ones are only counted.
    pub differences_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            atime: false,
            directory_mtime: true,
            holes: true,
            flags: true,
            projects: true,
            cross_mounts: true,
            skip: Vec::new(),
            skip_xattrs: Vec::new(),
            differences_max: 1000,
        }
    }
}

/// In what an entry differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Aspect {
    /// In the source only.
    Missing,
    /// In the target only.
    Surplus,
    /// File, directory, link, …
    Type,
    /// Permission, set-id and sticky bits.
    Mode,
    /// Owner.
    Uid,
    /// Group.
    Gid,
    /// Modification time.
    Mtime,
    /// Access time.
    Atime,
    /// Length of a file.
    Size,
    /// Bytes of a file.
    Content,
    /// A hole of the source takes space in the target.
    Holes,
    /// Target of a symbolic link.
    SymlinkTarget,
    /// Number of a device.
    Device,
    /// Which names are one file.
    HardLinks,
    /// An extended attribute, an ACL, a capability or a label.
    Xattr,
    /// Inode flags (`chattr`).
    Flags,
    /// Project id.
    Project,
    /// It could not be compared.
    Unreadable,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Relative to the roots; empty for the roots themselves.
    pub path: Vec<u8>,
    /// In what.
    pub aspect: Aspect,
    /// What the source has.
    pub source: String,
    /// What the target has.
    pub target: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} ./{}: source {} target {}",
            self.aspect,
            self.path.escape_ascii(),
            self.source,
            self.target
        )
    }
}

/// What a comparison found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Entries that both sides have.
    pub entries: u64,
    /// Bytes of files that were read and compared, of one side.
    pub bytes: u64,
    /// The first differences, in walking order.
    pub differences: Vec<Difference>,
    /// How many there are in all.
    pub differences_count: u64,
}

impl Report {
    /// Whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.differences_count == 0
    }

    /// Fails the test with all differences when there are some.
    ///
    /// # Panics
    /// When the trees differ.
    #[track_caller]
    pub fn assert_equal(&self) {
        assert!(self.is_equal(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in &self.differences {
            writeln!(f, "{difference}")?;
        }
        write!(
            f,
            "{} entries, {} bytes, {} differences",
            self.entries, self.bytes, self.differences_count
        )
    }
}

/// Compares the tree at `source` with the one at `target`, the two roots included.
pub fn compare(source: &Path, target: &Path, options: Options) -> Report {
    let mut comparison = Comparison {
        options,
        report: Report::default(),
        links: Links::default(),
        projects: Projects::new(source, target),
        path: Vec::new(),
        root_device: None,
    };
    if let Err(error) = comparison.run(source, target) {
        comparison.unreadable(&error);
    }
    comparison.report
}

/// A pair of the same thing on both sides.
struct Pair<T> {
    source: T,
    target: T,
}

impl<T> Pair<T> {
    fn try_map<U, E>(&self, mut function: impl FnMut(&T) -> Result<U, E>) -> Result<Pair<U>, E> {
        Ok(Pair {
            source: function(&self.source)?,
            target: function(&self.target)?,
        })
    }
}

struct Comparison {
    options: Options,
    report: Report,
    links: Links,
    projects: Projects,
    /// Of what is being compared.
    path: Vec<u8>,
    root_device: Option<(u32, u32)>,
}

/// Names of subdirectories still to visit in one directory, and how long its own path is.
struct Level {
    pending: Vec<Vec<u8>>,
    path_len: usize,
}

impl Comparison {
    fn run(&mut self, source: &Path, target: &Path) -> io::Result<()> {
        let mut here = Pair {
            source: openat(CWD, source, directory_flags(), Mode::empty())?,
            target: openat(CWD, target, directory_flags(), Mode::empty())?,
        };
        self.compare_entry(&here, b".")?;
        let mut levels = vec![self.compare_directory(&here)?];
        while let Some(level) = levels.last_mut() {
            self.path.truncate(level.path_len);
            match level.pending.pop() {
                Some(name) => {
                    self.push(&name);
                    match here.try_map(|directory| open_directory(directory, &name)) {
                        Ok(below) => {
                            here = below;
                            levels.push(self.compare_directory(&here)?);
                        }
                        Err(error) => self.unreadable(&error),
                    }
                }
                None => {
                    levels.pop();
                    if !levels.is_empty() {
                        here = here.try_map(|directory| open_directory(directory, b".."))?;
                    }
                }
            }
        }
        self.compare_projects();
        Ok(())
    }

    /// Compares the entries of one directory; returns the subdirectories that both sides have.
    fn compare_directory(&mut self, here: &Pair<OwnedFd>) -> io::Result<Level> {
        let path_len = self.path.len();
        let names = here.try_map(list)?;
        let mut pending = Vec::new();
        let (mut source, mut target) = (names.source.iter().peekable(), names.target.iter().peekable());
        loop {
            let (name, aspect) = match (source.peek(), target.peek()) {
                (None, None) => break,
                (Some(name), None) => (*name, Some(Aspect::Missing)),
                (None, Some(name)) => (*name, Some(Aspect::Surplus)),
                (Some(left), Some(right)) if left < right => (*left, Some(Aspect::Missing)),
                (Some(left), Some(right)) if left > right => (*right, Some(Aspect::Surplus)),
                (Some(name), Some(_)) => (*name, None),
            };
            if aspect != Some(Aspect::Surplus) {
                source.next();
            }
            if aspect != Some(Aspect::Missing) {
                target.next();
            }
            self.path.truncate(path_len);
            self.push(name);
            if self.options.skip.contains(&self.path) {
                continue;
            }
            match aspect {
                Some(Aspect::Missing) => self.differ(Aspect::Missing, "has it", "has not"),
                Some(_) => self.differ(Aspect::Surplus, "has not", "has it"),
                None => match self.compare_entry(here, name) {
                    Ok(true) => pending.push(name.clone()),
                    Ok(false) => {}
                    Err(error) => self.unreadable(&error),
                },
            }
        }
        self.path.truncate(path_len);
        // Popped from the end: visited in order of names.
        pending.reverse();
        Ok(Level { pending, path_len })
    }

    fn push(&mut self, name: &[u8]) {
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
    }

    fn differ(&mut self, aspect: Aspect, source: impl fmt::Display, target: impl fmt::Display) {
        self.report.differences_count += 1;
        if self.report.differences.len() < self.options.differences_max {
            self.report.differences.push(Difference {
                path: self.path.clone(),
                aspect,
                source: source.to_string(),
                target: target.to_string(),
            });
        }
    }

    fn check<T: PartialEq>(&mut self, aspect: Aspect, values: (T, T), show: impl Fn(&T) -> String) {
        if values.0 != values.1 {
            self.differ(aspect, show(&values.0), show(&values.1));
        }
    }

    fn unreadable(&mut self, error: &io::Error) {
        self.differ(Aspect::Unreadable, error, "the same or unknown");
    }
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME | OFlags::CLOEXEC
}

fn open_directory(parent: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    Ok(openat(
        parent,
        name,
        directory_flags() | OFlags::NOFOLLOW,
        Mode::empty(),
    )?)
}

/// The names in a directory, sorted.
fn list(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory.as_fd())? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
