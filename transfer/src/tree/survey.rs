//! Where the target's tree and its journal part: names that only one of them has.
//!
//! The journal follows the tree by seconds. What a session that broke had made, replaced or removed last is in no record, and
//! the source, which looks only at what the journal lists, would neither send what is missing nor remove what is left over. So
//! after such a session every directory is listed and compared with the journal's children of the same path: names and kinds,
//! no contents, for a content that is about to change is named in the journal before.
//!
//! What was there before the first session is not ours and is left alone, and so are what is mounted in the tree and what the
//! rules leave out.

use std::ffi::CStr;
use std::io::ErrorKind;
use std::os::fd::AsFd;

use crate::error::{Error, Result};
use crate::tree::capture::{Directory, FileKind};
use crate::tree::entry::{Content, Digest, Entry, EntryPath, Meta, Node, Stamp, Time};
use crate::tree::filter::Filter;
use crate::tree::moves::is_aside;
use crate::tree::replica::{Cursor, Record, Snapshot};
use crate::tree::scan::kind_of;
use crate::tree::side_by_side::{Pair, side_by_side};

/// One place where they part.
#[derive(Debug, PartialEq, Eq)]
pub enum Finding {
    /// The journal has it, the tree does not.
    Missing(EntryPath),
    /// The tree has it, the journal does not.
    Surplus(Entry),
    /// The tree has something of another kind.
    Other(Entry),
}

impl Finding {
    /// What makes the journal agree. What is there counts as known, and its content as unknown: the source removes it or
    /// sends it anew.
    pub fn into_records(self) -> Vec<Record> {
        match self {
            Self::Missing(path) => vec![Record::Remove { path }],
            Self::Surplus(entry) => vec![Record::Entry(entry)],
            Self::Other(entry) => vec![
                Record::Remove {
                    path: entry.path.clone(),
                },
                Record::Entry(entry),
            ],
        }
    }
}

/// What is compared.
pub struct Survey<'a> {
    /// The tree.
    pub root: &'a Directory,
    /// What the journal lists.
    pub snapshot: &'a Snapshot,
    /// What is left alone.
    pub filter: &'a Filter,
    /// What was changed last before this is not ours.
    pub since: Time,
    /// Asked once for each directory; an error ends the survey.
    pub go_on: &'a dyn Fn() -> Result<()>,
}

impl Survey<'_> {
    /// Lists everything; `found` is told where the two part. Memory: the names of one directory and the paths of those that wait.
    ///
    /// # Errors
    /// A directory cannot be read, the journal is damaged, or what `found` and `go_on` give.
    pub fn run(&self, found: &mut dyn FnMut(Finding) -> Result<()>) -> Result<()> {
        let mut cursor = self.snapshot.cursor();
        let mut waiting = vec![EntryPath::root()];
        while let Some(path) = waiting.pop() {
            (self.go_on)()?;
            self.directory(&path, &mut cursor, &mut waiting, found)?;
        }
        self.orphans(&mut cursor, found)
    }

    fn directory(
        &self,
        path: &EntryPath,
        cursor: &mut Cursor,
        waiting: &mut Vec<EntryPath>,
        found: &mut dyn FnMut(Finding) -> Result<()>,
    ) -> Result<()> {
        let failed = |error| Error::io("list a directory of the target", path.display(), error);
        let directory = match self.root.open_beneath(path) {
            Ok(directory) => directory,
            // Somebody else removed it since its parent was listed.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(error) => return Err(failed(error)),
        };
        let own = directory.stat().map_err(failed)?;
        // /proc and the like, mounted in the target: nothing in there is anybody's copy.
        let is_virtual = || sys::file_system::is_disk_backed(directory.as_fd()).is_ok_and(|on_disk| !on_disk);
        if !path.is_root() && own.is_mount_root == Some(true) && is_virtual() {
            return Ok(());
        }
        let mut names = directory.names().map_err(failed)?;
        names.sort();
        let mut look = Look {
            survey: self,
            directory: &directory,
            path,
            dev: own.dev,
            waiting,
            found,
        };
        side_by_side(&names, cursor, path, &mut |pair| match pair {
            Pair::Present(name) => look.surplus(name.c_str),
            Pair::Known(known) => (look.found)(Finding::Missing(known.path)),
            Pair::Both(name, known) => look.known(name.c_str, FileKind::of_type(name.file_type), known),
        })
    }

    /// Whether the rules leave an entry alone. Temporary names are our own, whatever the rules say of names like these.
    fn leaves_alone(&self, path: &EntryPath, is_directory: bool) -> bool {
        !is_aside(path) && self.filter.excludes(path.as_bytes(), is_directory)
    }

    /// What the journal lists in directories that neither it nor the tree has.
    fn orphans(&self, cursor: &mut Cursor, found: &mut dyn FnMut(Finding) -> Result<()>) -> Result<()> {
        let mut last: Option<(EntryPath, bool)> = None;
        for entry in self.snapshot.iter() {
            let entry = entry?;
            let Some(parent) = entry.path.parent().filter(|parent| !parent.is_root()) else {
                continue;
            };
            if last.as_ref().is_none_or(|(path, _)| *path != parent) {
                (self.go_on)()?;
                let is_listed = cursor
                    .get(&parent)?
                    .is_some_and(|parent| matches!(parent.node, Node::Directory));
                let is_orphaned = !is_listed && self.root.open_beneath(&parent).is_err();
                last = Some((parent, is_orphaned));
            }
            if last.as_ref().is_some_and(|(_, is_orphaned)| *is_orphaned) {
                found(Finding::Missing(entry.path))?;
            }
        }
        Ok(())
    }
}

/// A directory while it is compared.
struct Look<'a> {
    survey: &'a Survey<'a>,
    directory: &'a Directory,
    path: &'a EntryPath,
    dev: u64,
    waiting: &'a mut Vec<EntryPath>,
    found: &'a mut dyn FnMut(Finding) -> Result<()>,
}

impl Look<'_> {
    /// A name that the journal does not have.
    fn surplus(&mut self, name: &CStr) -> Result<()> {
        // One that is too long is no copy of anything.
        let Ok(path) = self.path.join(name.to_bytes()) else {
            return Ok(());
        };
        let stat = match self.directory.stat_entry(name) {
            Ok(stat) => stat,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("look at an entry of the target", path.display(), error)),
        };
        let is_directory = stat.kind == FileKind::Directory;
        let is_mounted = stat.is_mount_root.unwrap_or(stat.dev != self.dev);
        if is_mounted || stat.ctime < self.survey.since || self.survey.leaves_alone(&path, is_directory) {
            return Ok(());
        }
        if is_directory {
            self.waiting.push(path.clone());
        }
        (self.found)(Finding::Surplus(unknown(path, stat.kind)))
    }

    /// A name that both have; the directory itself told `kind`, if it does.
    fn known(&mut self, name: &CStr, kind: Option<FileKind>, known: Entry) -> Result<()> {
        let kind = match kind {
            Some(kind) => kind,
            None => {
                let stat = self.directory.stat_entry(name);
                stat.map_err(|error| {
                    Error::io("look at an entry of the target", known.path.display(), error)
                })?
                .kind
            }
        };
        let is_directory = kind == FileKind::Directory;
        if self.survey.leaves_alone(&known.path, is_directory) {
            // It was not always: the source neither looks at it nor below it.
            return Ok(());
        }
        if is_directory {
            self.waiting.push(known.path.clone());
        }
        if kind == kind_of(&known.node) {
            return Ok(());
        }
        (self.found)(Finding::Other(unknown(known.path, kind)))
    }
}

/// An entry of which nothing is known but that it is there.
fn unknown(path: EntryPath, kind: FileKind) -> Entry {
    let node = match kind {
        FileKind::Directory => Node::Directory,
        FileKind::File => Node::File(Content {
            len: 0,
            digest: Digest::default(),
            chunk_log2: 0,
        }),
        FileKind::Symlink => Node::Symlink { target: Vec::new() },
        FileKind::Fifo => Node::Fifo,
        FileKind::Socket => Node::Socket,
        FileKind::CharDevice => Node::CharDevice { rdev: 0 },
        FileKind::BlockDevice => Node::BlockDevice { rdev: 0 },
    };
    Entry {
        path,
        stamp: Stamp::default(),
        meta: Meta::default(),
        node,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::tree::replica::Replica;

    fn plain(path: &str) -> EntryPath {
        EntryPath::parse(path).unwrap()
    }

    fn parted(root: &Path, replica: &Replica, filter: &Filter, since: Time) -> Vec<Finding> {
        let survey = Survey {
            root: &Directory::open_root(root).unwrap(),
            snapshot: &replica.snapshot(),
            filter,
            since,
            go_on: &|| Ok(()),
        };
        let mut findings = Vec::new();
        survey
            .run(&mut |finding| {
                findings.push(finding);
                Ok(())
            })
            .unwrap();
        findings.sort_by_key(|finding| match finding {
            Finding::Missing(path) => path.display(),
            Finding::Surplus(entry) | Finding::Other(entry) => entry.path.display(),
        });
        findings
    }

    #[test]
    fn the_journal_agrees_with_the_tree_after_what_a_survey_found() {
        use FileKind::{Directory as Folder, File, Symlink};
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("tree");
        fs::create_dir_all(root.join("d/new/deep")).unwrap();
        fs::create_dir_all(root.join("left/out")).unwrap();
        fs::create_dir_all(root.join("once/copied")).unwrap();
        for name in ["d/there", "d/new/deep/file", "became/file", "recorded/file"] {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("x", root.join("link")).unwrap();
        let mut replica = Replica::create(&folder.path().join("journal"), [1; 16]).unwrap();
        let listed = [
            ("", Folder),
            ("became", File),
            ("d", Folder),
            ("d/gone", File),
            ("d/there", File),
            ("left", Folder),
            ("link", File),
            ("once", Folder),
            // Two whose directories are in no record.
            ("recorded/file", File),
            ("vanished/file", File),
        ];
        let records = listed.map(|(path, kind)| Record::Entry(unknown(plain(path), kind)));
        replica.append(&records).unwrap();
        replica.seal().unwrap();

        let filter = Filter::parse(["/left/out", "/once/"]).unwrap();
        let ours = Time::default();
        let findings = parted(&root, &replica, &filter, ours);
        let surplus = |path, kind| Finding::Surplus(unknown(plain(path), kind));
        let other = |path, kind| Finding::Other(unknown(plain(path), kind));
        assert_eq!(
            findings,
            [
                other("became", Folder),
                surplus("became/file", File),
                Finding::Missing(plain("d/gone")),
                surplus("d/new", Folder),
                surplus("d/new/deep", Folder),
                surplus("d/new/deep/file", File),
                other("link", Symlink),
                surplus("recorded", Folder),
                Finding::Missing(plain("vanished/file")),
            ]
        );
        for finding in findings {
            replica.append(&finding.into_records()).unwrap();
        }
        replica.seal().unwrap();
        assert_eq!(parted(&root, &replica, &filter, ours), []);
    }

    #[test]
    fn what_was_there_before_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("tree");
        fs::create_dir_all(root.join("foreign/deep")).unwrap();
        let mut replica = Replica::create(&folder.path().join("journal"), [1; 16]).unwrap();
        replica
            .append(&[Record::Entry(unknown(EntryPath::root(), FileKind::Directory))])
            .unwrap();
        replica.seal().unwrap();
        let later = Time {
            sec: i64::MAX,
            nsec: 0,
        };
        assert_eq!(parted(&root, &replica, &Filter::default(), later), []);
        assert_eq!(
            parted(&root, &replica, &Filter::default(), Time::default()).len(),
            2
        );
    }
}
