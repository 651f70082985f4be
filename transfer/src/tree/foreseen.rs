//! Renames that the target is about to make, written down before.
//!
//! A file system and the journal do not change together: a crash between a rename and its record would leave the journal
//! with a path at which nothing is, and, once the source has renamed back, nobody would ever look. So the renames of a frame
//! are durable in this list before the first is made, each with the inode that it moves. When the journal is opened after a
//! crash, the list tells by those inodes how far the renames had come; the rest is made and what has no record gets one.
//!
//! The file `renames` lies beside the journal (docs/FORMATS.md). It counts only for the generation that it names.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::tree::capture::Directory;
use crate::tree::entry::{EntryPath, Time};
use crate::tree::replica::{Record, Unsealed};
use crate::tree::write::{RenameOutcome, TreeWriter};

const NAME: &str = "renames";
const MAGIC: [u8; 8] = *b"g2cREN\0\x01";
/// Longest piece: the renames of one frame.
const PIECE_LEN_MAX: usize = crate::limits::FRAME_RAW_LEN_MAX * 2;
const CHECK_LEN: usize = 16;

/// An inode of the target: number and birth time, where the file system tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Inode {
    ino: u64,
    birth: Option<Time>,
}

/// One rename.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Foreseen {
    from: EntryPath,
    to: EntryPath,
    /// What is moved; `None` when nothing was at the old path.
    inode: Option<Inode>,
}

/// What is in the file, several times over.
#[derive(Debug, Serialize, Deserialize)]
struct Piece {
    generation: u64,
    /// Whether the renames are made, so that only their records are missing.
    made: bool,
    renames: Vec<Foreseen>,
}

/// The list of the generation under way.
pub struct List {
    path: PathBuf,
    root: PathBuf,
    file: Option<File>,
    /// Where earlier renames of the generation brought what they moved.
    moved: HashMap<EntryPath, Inode>,
}

impl List {
    /// The list beside the journal in `folder`, for the tree at `root`.
    pub fn new(folder: &Path, root: &Path) -> Self {
        Self {
            path: folder.join(NAME),
            root: root.to_owned(),
            file: None,
            moved: HashMap::new(),
        }
    }

    /// Whether there is a list on disk.
    pub fn is_there(&self) -> bool {
        self.path.exists()
    }

    /// Writes down renames that are about to be made in this order, durably.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn add(&mut self, generation: u64, renames: &[(EntryPath, EntryPath)]) -> Result<()> {
        let inodes = Inodes::of(&self.root)?;
        let mut foreseen = Vec::with_capacity(renames.len());
        for (from, to) in renames {
            let inode = self.moved.remove(from).or_else(|| inodes.at(from));
            if let Some(inode) = inode {
                self.moved.insert(to.clone(), inode);
            }
            foreseen.push(Foreseen {
                from: from.clone(),
                to: to.clone(),
                inode,
            });
        }
        let piece = encode(&Piece {
            generation,
            made: false,
            renames: foreseen,
        })?;
        let failed = |error| Error::io("write down what is to be renamed", &self.path, error);
        if self.file.is_none() {
            let file = OpenOptions::new().create(true).append(true).open(&self.path);
            self.file = Some(file.map_err(failed)?);
            sync_folder(&self.path).map_err(failed)?;
        }
        let file = self.file.as_mut().expect("opened above");
        let written = file.write_all(&piece).and_then(|()| file.sync_data());
        written.map_err(failed)
    }

    /// Forgets the list: its generation is sealed.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn clear(&mut self) -> Result<()> {
        self.file = None;
        self.moved.clear();
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove the list of renames", &self.path, error))
            }
            _ => Ok(()),
        }
    }

    /// After a crash: makes the rest of the renames. Returns the records that the journal lacks, and the generation to
    /// which they belong; when the journal is in that generation, they are to be appended and sealed.
    ///
    /// # Errors
    /// The medium failed.
    pub fn recover(
        &self,
        unsealed: &Unsealed,
        writer: &mut TreeWriter,
    ) -> Result<Option<(u64, Vec<Record>)>> {
        let (generation, made, renames) = match self.read()? {
            Some(read) => read,
            None => return Ok(None),
        };
        if made {
            return Ok(Some((generation, records(renames))));
        }
        if generation != unsealed.generation {
            return Ok(None);
        }
        let applied = self.finish(renames, writer)?;
        writer.sync()?;
        let missing: Vec<Foreseen> = applied.into_iter().skip(unsealed.renames).collect();
        // Opening the journal seals what is in its log.
        let generation = generation + u64::from(unsealed.has_records);
        let piece = encode(&Piece {
            generation,
            made: true,
            renames: missing.clone(),
        })?;
        let new = self.path.with_extension("new");
        let failed = |error| Error::io("write down what was renamed", &self.path, error);
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(&piece)?;
            file.sync_data()
        });
        written
            .and_then(|()| std::fs::rename(&new, &self.path))
            .and_then(|()| sync_folder(&self.path))
            .map_err(failed)?;
        Ok(Some((generation, records(missing))))
    }

    /// Makes those renames that were not made; returns those that are made now.
    fn finish(&self, renames: Vec<Foreseen>, writer: &mut TreeWriter) -> Result<Vec<Foreseen>> {
        let inodes = Inodes::of(&self.root)?;
        // They were made in order: where the last one that shows brought its inode, all before it had been tried.
        let tried = renames
            .iter()
            .rposition(|one| one.inode.is_some() && inodes.at(&one.to) == one.inode)
            .map_or(0, |last| last + 1);
        let mut applied = Vec::with_capacity(renames.len());
        for (index, one) in renames.into_iter().enumerate() {
            let is_made = if index < tried {
                one.inode.is_some() && inodes.at(&one.from) != one.inode
            } else {
                matches!(
                    writer.rename(&one.from, &one.to)?,
                    RenameOutcome::Renamed | RenameOutcome::AlreadyDone
                )
            };
            if is_made {
                applied.push(one);
            }
        }
        Ok(applied)
    }

    /// What the file says, up to the first piece that is not whole: its renames had not begun.
    fn read(&self) -> Result<Option<(u64, bool, Vec<Foreseen>)>> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read the list of renames", &self.path, error)),
        };
        let mut rest = &bytes[..];
        let mut all: Option<(u64, bool, Vec<Foreseen>)> = None;
        while let Some(piece) = decode(&mut rest) {
            match &mut all {
                Some((generation, made, renames))
                    if *generation == piece.generation && *made == piece.made =>
                {
                    renames.extend(piece.renames);
                }
                _ => all = Some((piece.generation, piece.made, piece.renames)),
            }
        }
        Ok(all)
    }
}

fn records(renames: Vec<Foreseen>) -> Vec<Record> {
    let record = |one: Foreseen| Record::Rename {
        from: one.from,
        to: one.to,
    };
    renames.into_iter().map(record).collect()
}

fn encode(piece: &Piece) -> Result<Vec<u8>> {
    let body = postcard::to_stdvec(piece)
        .map_err(|error| Error::new(Kind::Corrupt, "encode renames").because(error))?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(&blake3::hash(&body).as_bytes()[..CHECK_LEN]);
    Ok(bytes)
}

fn decode(rest: &mut &[u8]) -> Option<Piece> {
    let after = rest.strip_prefix(&MAGIC)?;
    let (len, after) = after.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    if len > PIECE_LEN_MAX || after.len() < len + CHECK_LEN {
        return None;
    }
    let (body, after) = after.split_at(len);
    let (check, after) = after.split_at(CHECK_LEN);
    if check != &blake3::hash(body).as_bytes()[..CHECK_LEN] {
        return None;
    }
    *rest = after;
    postcard::from_bytes(body).ok()
}

fn sync_folder(file: &Path) -> std::io::Result<()> {
    File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Looks inodes up by path.
struct Inodes(Directory);

impl Inodes {
    fn of(root: &Path) -> Result<Self> {
        Directory::open_root(root)
            .map(Self)
            .map_err(|error| Error::io("open the target directory", root, error))
    }

    fn at(&self, path: &EntryPath) -> Option<Inode> {
        let (parent, name) = path.place()?;
        let stat = self.0.open_beneath(&parent).ok()?.stat_entry(&name).ok()?;
        Some(Inode {
            ino: stat.ino,
            birth: stat.btime,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tree::entry::{Content, Digest, Entry, Meta, Node, Stamp};
    use crate::tree::journal::Journal;

    const MIGRATION: [u8; 16] = [7; 16];

    fn plain(path: &str) -> EntryPath {
        EntryPath::parse(path).unwrap()
    }

    fn known(path: &str) -> Record {
        let node = match path.ends_with('/') {
            true => Node::Directory,
            false => Node::File(Content {
                len: 1,
                digest: Digest::of(path.as_bytes()),
                chunk_log2: 0,
            }),
        };
        Record::Entry(Entry {
            path: plain(path.trim_end_matches('/')),
            stamp: Stamp::default(),
            meta: Meta::default(),
            node,
        })
    }

    /// Paths of the tree with what is in its files.
    fn tree(root: &Path) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut waiting = vec![root.to_owned()];
        while let Some(folder) = waiting.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(root).unwrap().display().to_string();
                if path.is_dir() {
                    waiting.push(path.clone());
                    found.push((name, String::new()));
                } else {
                    found.push((name, fs::read_to_string(path).unwrap()));
                }
            }
        }
        found.sort();
        found
    }

    /// Cuts a series of renames off after each one, with each number of records durable by then, and once more while it is
    /// taken up; tree and journal must agree and be where the renames lead.
    #[test]
    fn renames_that_were_cut_off_are_finished() {
        let series = [
            // Two names swapped over a third, a directory renamed, something moved into it, and one that is not there.
            [
                ("a", "t"),
                ("b", "a"),
                ("t", "b"),
                ("d", "e"),
                ("c", "e/c"),
                ("missing", "x"),
            ],
            [
                ("d/f", "t"),
                ("d", "a"),
                ("t", "d"),
                ("a", "c"),
                ("b", "a"),
                ("missing", "b"),
            ],
        ];
        for renames in series {
            let renames: Vec<_> = renames
                .iter()
                .map(|(from, to)| (plain(from), plain(to)))
                .collect();
            for cut in 0..=renames.len() {
                for durable in 0..=cut.min(5) {
                    one_cut(&renames, cut, durable);
                }
            }
        }
    }

    fn one_cut(renames: &[(EntryPath, EntryPath)], cut: usize, durable: usize) {
        let folder = tempfile::tempdir().unwrap();
        let (root, place) = (folder.path().join("tree"), folder.path().join("journal"));
        fs::create_dir_all(root.join("d")).unwrap();
        for name in ["a", "b", "c", "d/f"] {
            fs::write(root.join(name), name).unwrap();
        }
        let mut writer = TreeWriter::open(&root).unwrap();
        let journal = Journal::new(&place, &root);
        journal.open(MIGRATION, &writer).unwrap();
        journal.append(&["a", "b", "c", "d/", "d/f"].map(known)).unwrap();
        journal.seal().unwrap();
        let (first, second) = renames.split_at(3);
        for (offset, some) in [(0, first), (3, second)] {
            if offset == 0 || cut >= offset {
                journal.foresee(some).unwrap();
            }
            for (index, (from, to)) in (offset..).zip(some) {
                if index < cut {
                    let outcome = writer.rename(from, to).unwrap();
                    if index < durable {
                        assert!(matches!(outcome, RenameOutcome::Renamed));
                        let (from, to) = (from.clone(), to.clone());
                        journal.append(&[Record::Rename { from, to }]).unwrap();
                    }
                }
            }
        }
        journal.intend(&[]).unwrap();
        drop(journal);
        for _ in 0..2 {
            let journal = Journal::new(&place, &root);
            journal.open(MIGRATION, &writer).unwrap();
            let snapshot = journal.sealed().unwrap().0;
            let mut listed: Vec<_> = snapshot
                .iter()
                .map(|entry| {
                    let entry = entry.unwrap();
                    let content = match entry.node {
                        Node::File(content) => content.digest,
                        _ => Digest::default(),
                    };
                    (entry.path.display(), content)
                })
                .collect();
            listed.sort_by(|one, other| one.0.cmp(&other.0));
            let digest = |(path, content): (String, String)| match content.as_str() {
                "" => (path, Digest::default()),
                content => (path, Digest::of(content.as_bytes())),
            };
            let present: Vec<_> = tree(&root).into_iter().map(digest).collect();
            assert_eq!(
                listed, present,
                "cut after {cut}, {durable} durable of {renames:?}"
            );
            // The renames of a frame that was written down are made to the last.
            if cut >= 3 {
                assert!(!root.join("missing").exists());
                assert!(!root.join("t").exists(), "{present:?}");
            }
            assert!(!place.join(NAME).exists());
        }
    }
}
