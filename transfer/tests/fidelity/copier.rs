//! The smallest engine that can copy a tree through capture and writer.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use transfer::limits::WHOLE_FILE_LEN_MAX;
use transfer::tree::capture::{Directory, FileKind, Stat, capture_meta, capture_meta_fd};
use transfer::tree::entry::{Content, Digest, Entry, EntryPath, Meta, Node, Stamp};
use transfer::tree::operation::{Existing, Extent};
use transfer::tree::write::{LinkOutcome, Prepared, Refusal, TreeWriter};

/// What becomes of files that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// New inodes.
    Replace,
    /// The same inodes, where no other name has them.
    Rewrite,
}

/// Copies one tree, as often as wanted.
pub(crate) struct Copier {
    source: Directory,
    target: Directory,
    pub(crate) writer: TreeWriter,
    style: Style,
    leaders: HashMap<(u64, u64), EntryPath>,
    pub(crate) refusals: Vec<(EntryPath, Refusal)>,
}

impl Copier {
    pub(crate) fn new(source: &Path, target: &Path) -> Self {
        Self {
            source: Directory::open_root(source).unwrap(),
            target: Directory::open_root(target).unwrap(),
            writer: TreeWriter::open(target).unwrap(),
            style: Style::Replace,
            leaders: HashMap::new(),
            refusals: Vec::new(),
        }
    }

    /// Makes the target like the source and returns what was refused.
    pub(crate) fn copy(&mut self, style: Style) -> Vec<(EntryPath, Refusal)> {
        self.style = style;
        self.leaders.clear();
        let root = self.source.open_beneath(&EntryPath::root()).unwrap();
        self.directory(&root, &EntryPath::root());
        self.writer.sync().unwrap();
        std::mem::take(&mut self.refusals)
    }

    fn note(&mut self, path: &EntryPath, refusals: Vec<Refusal>) {
        self.refusals
            .extend(refusals.into_iter().map(|refusal| (path.clone(), refusal)));
    }

    fn directory(&mut self, source: &Directory, path: &EntryPath) {
        let stat = source.stat().unwrap();
        let meta = capture_meta_fd(source.as_fd(), &stat).unwrap();
        let mut names = source.names().unwrap();
        names.sort();
        self.remove_surplus(source, path);
        for name in names.iter() {
            let child = path.join(name.bytes()).unwrap();
            let stat = source.stat_entry(name.c_str).unwrap();
            if stat.kind == FileKind::Directory {
                let refusals = self.writer.put_directory(&child).unwrap();
                self.note(&child, refusals);
                self.directory(&source.open_child(name.c_str).unwrap(), &child);
            } else if !self.link(&child, &stat) {
                self.entry(source, name.c_str, child, &stat);
            }
        }
        let refusals = self.writer.finish_directory(path, &meta).unwrap();
        self.note(path, refusals);
    }

    fn remove_surplus(&mut self, source: &Directory, path: &EntryPath) {
        let Ok(target) = self.target.open_beneath(path) else {
            return;
        };
        for name in target.names().unwrap().iter() {
            if source.stat_entry(name.c_str).is_err() {
                let child = path.join(name.bytes()).unwrap();
                let refusals = self.writer.remove(&child).unwrap();
                self.note(&child, refusals);
            }
        }
    }

    fn link(&mut self, path: &EntryPath, stat: &Stat) -> bool {
        if stat.nlink < 2 {
            return false;
        }
        let Some(leader) = self.leaders.get(&(stat.dev, stat.ino)) else {
            self.leaders.insert((stat.dev, stat.ino), path.clone());
            return false;
        };
        matches!(self.writer.link(leader, path).unwrap(), LinkOutcome::Linked)
    }

    fn entry(&mut self, source: &Directory, name: &CStr, path: EntryPath, stat: &Stat) {
        let node = match stat.kind {
            FileKind::File => return self.file(source, name, path, stat),
            FileKind::Symlink => Node::Symlink {
                target: source.read_link(name).unwrap(),
            },
            FileKind::Fifo => Node::Fifo,
            FileKind::Socket => Node::Socket,
            FileKind::CharDevice => Node::CharDevice { rdev: stat.rdev },
            FileKind::BlockDevice => Node::BlockDevice { rdev: stat.rdev },
            FileKind::Directory => unreachable!("directories are not here"),
        };
        let meta = capture_meta(source, name, stat).unwrap();
        let entry = entry_of(path, meta, node);
        let refusals = self.writer.put_special(&entry).unwrap();
        self.note(&entry.path, refusals);
    }

    fn file(&mut self, source: &Directory, name: &CStr, path: EntryPath, stat: &Stat) {
        let (fd, _) = source.open_file(name).unwrap();
        let meta = capture_meta_fd(fd.as_fd(), stat).unwrap();
        let ranges = data_of(&fd, stat.size);
        let file = std::fs::File::from(fd);
        let content = Content {
            len: stat.size,
            digest: Digest::default(),
            chunk_log2: 0,
        };
        let entry = entry_of(path, meta, Node::File(content));
        let existing = self.existing(&entry.path, stat);
        let refusals = if stat.size > WHOLE_FILE_LEN_MAX {
            self.long_file(&file, &entry, &ranges, existing)
        } else {
            let (mut data, mut extents) = (Vec::new(), Vec::new());
            for (start, end) in ranges {
                let from = data.len();
                data.resize(from + (end - start) as usize, 0);
                file.read_exact_at(&mut data[from..], start).unwrap();
                extents.push(Extent {
                    offset: start as u32,
                    len: (end - start) as u32,
                });
            }
            self.writer.put_file(&entry, &extents, &data, existing).unwrap()
        };
        self.note(&entry.path, refusals);
    }

    /// Another name of the same inode may belong to another file by now.
    fn existing(&self, path: &EntryPath, stat: &Stat) -> Existing {
        let (parent, name) = path.split().unwrap();
        let parent = EntryPath::parse(parent).unwrap();
        let name = std::ffi::CString::new(name).unwrap();
        let there = self
            .target
            .open_beneath(&parent)
            .and_then(|target| target.stat_entry(&name));
        let alone = stat.nlink == 1 && there.map_or(true, |there| there.nlink == 1);
        if self.style == Style::Rewrite && alone {
            Existing::Rewrite
        } else {
            Existing::Replace
        }
    }

    fn long_file(
        &mut self,
        file: &std::fs::File,
        entry: &Entry,
        ranges: &[(u64, u64)],
        existing: Existing,
    ) -> Vec<Refusal> {
        let len = file.metadata().unwrap().len();
        let long = match self
            .writer
            .begin_long_file(&entry.path, &entry.meta, len, existing)
            .unwrap()
        {
            Prepared::Ready(long) => long,
            Prepared::Refused(refusal) => return vec![refusal],
        };
        let mut at = 0;
        for (start, end) in ranges {
            long.zero(at, start - at).unwrap();
            let mut data = vec![0; (end - start) as usize];
            file.read_exact_at(&mut data, *start).unwrap();
            long.write_at(*start, &data).unwrap();
            at = *end;
        }
        long.zero(at, len - at).unwrap();
        long.finish(entry).unwrap()
    }
}

fn data_of(fd: &OwnedFd, len: u64) -> Vec<(u64, u64)> {
    let (mut ranges, mut at) = (Vec::new(), 0);
    while let Some(range) = sys::extents::next_data(fd.as_fd(), at, len).unwrap() {
        at = range.end;
        ranges.push((range.start, range.end));
    }
    ranges
}

fn entry_of(path: EntryPath, meta: Meta, node: Node) -> Entry {
    Entry {
        path,
        stamp: Stamp::default(),
        meta,
        node,
    }
}
