//! A tree whose directories turn into links to elsewhere while it is written or read.

use std::ffi::CStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, mknodat, renameat_with};
use transfer::tree::capture::{Directory, capture_meta};
use transfer::tree::entry::{Content, Digest, Entry, EntryPath, Meta, Node, Stamp};
use transfer::tree::operation::{Existing, Extent};
use transfer::tree::write::TreeWriter;

const DURATION: Duration = Duration::from_millis(1500);

/// A root and, outside of it, a folder that nothing may touch.
struct Scene {
    root: PathBuf,
    outside: PathBuf,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("g2c-writer-").tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir_all(outside.join("b/x")).unwrap();
        for name in ["file", "victim", "b/x/deep"] {
            fs::write(outside.join(name), b"outside").unwrap();
        }
        Self {
            root,
            outside,
            _folder: folder,
        }
    }

    /// Names, contents, modes, owners and times of everything outside.
    fn outside_state(&self) -> Vec<String> {
        let mut state = Vec::new();
        let mut pending = vec![self.outside.clone()];
        while let Some(path) = pending.pop() {
            let stat = fs::symlink_metadata(&path).unwrap();
            let times = (stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec());
            state.push(format!(
                "{path:?} {:o} {} {} {times:?}",
                stat.mode(),
                stat.uid(),
                stat.nlink()
            ));
            if stat.is_dir() {
                pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        state.sort();
        state
    }

    /// Turns `a` and `a/b` into links to outside and back, until told to stop. Returns how often.
    fn flip(&self, stop: &AtomicBool) -> u32 {
        let mut flips = 0;
        let evil = self.root.join("evil");
        let real = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        while !stop.load(Ordering::Relaxed) {
            // Relative to what is a directory for sure: the flipper itself must not follow its links.
            for (parent, name, to) in [
                ("a", "b", self.outside.join("b")),
                ("", "a", self.outside.clone()),
            ] {
                let Ok(parent) = rustix::fs::open(self.root.join(parent), real, Mode::empty()) else {
                    continue;
                };
                drop(symlink(to, &evil));
                let exchange = || renameat_with(&parent, name, CWD, &evil, RenameFlags::EXCHANGE).is_ok();
                flips += u32::from(exchange());
                std::thread::yield_now();
                flips += u32::from(exchange());
                drop(fs::remove_file(&evil));
                drop(fs::remove_dir_all(&evil));
            }
        }
        flips
    }
}

fn path(text: &str) -> EntryPath {
    EntryPath::parse(text.as_bytes()).unwrap()
}

fn entry(at: &str, node: Node) -> Entry {
    let meta = Meta {
        mode: 0o777,
        uid: 6,
        gid: 6,
        ..Meta::default()
    };
    Entry {
        path: path(at),
        stamp: Stamp::default(),
        meta,
        node,
    }
}

/// Every operation of the writer once, on paths that are being swapped. That some fail is no matter.
fn write_once(writer: &mut TreeWriter) -> u32 {
    let content = Content {
        len: 7,
        digest: Digest::default(),
        chunk_log2: 0,
    };
    let extents = [Extent { offset: 0, len: 7 }];
    let mut done = 0;
    for at in ["a/file", "a/b/file", "a/victim", "a/b/x/deep"] {
        let file = entry(at, Node::File(content.clone()));
        for existing in [Existing::Rewrite, Existing::Replace] {
            done += u32::from(writer.put_file(&file, &extents, b"hostile", existing).is_ok());
        }
        drop(writer.apply_metadata(&file));
        drop(writer.begin_long_file(&path(at), &file.meta, 7, Existing::Rewrite));
        drop(writer.link(&path("a/file"), &path(at)));
        drop(writer.remove(&path(at)));
        drop(writer.put_special(&entry(at, Node::Fifo)));
        drop(writer.rename(&path(at), &path("a/b/moved")));
        drop(writer.rename(&path("a/b/moved"), &path(at)));
    }
    for at in ["a", "a/b", "a/b/x"] {
        drop(writer.put_directory(&path(at)));
        drop(writer.finish_directory(&path(at), &entry(at, Node::Directory).meta));
    }
    drop(writer.remove(&path("a/b")));
    drop(writer.remove(&path("a")));
    done
}

#[test]
fn writing_never_leaves_the_root() {
    let scene = Scene::new();
    let before = scene.outside_state();
    let (stop, done) = (AtomicBool::new(false), AtomicU32::new(0));
    let writer = TreeWriter::open(&scene.root).unwrap();
    let flips = std::thread::scope(|scope| {
        let flipper = scope.spawn(|| scene.flip(&stop));
        for mut writer in [writer.clone(), writer.clone()] {
            let (stop, done) = (&stop, &done);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    done.fetch_add(write_once(&mut writer), Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(DURATION);
        stop.store(true, Ordering::Relaxed);
        flipper.join().unwrap()
    });
    assert_eq!(scene.outside_state(), before);
    let done = done.into_inner();
    assert!(flips > 10 && done > 10, "{flips} flips, {done} files");
}

#[test]
fn reading_never_leaves_the_root() {
    let scene = Scene::new();
    fs::write(scene.root.join("a/victim"), b"inside").unwrap();
    let stop = AtomicBool::new(false);
    let read = |name: &CStr| -> std::io::Result<Vec<u8>> {
        let root = Directory::open_root(&scene.root)?;
        let directory = if name == c"deep" {
            root.open_beneath(&path("a/b/x"))?
        } else {
            root.open_child(c"a")?
        };
        let stat = directory.stat_entry(name)?;
        capture_meta(&directory, name, &stat)?;
        let file = fs::File::from(directory.open_file(name)?.0);
        let mut data = vec![0; stat.size as usize];
        file.read_exact_at(&mut data, 0)?;
        Ok(data)
    };
    let mut inside = 0;
    std::thread::scope(|scope| {
        // Only the exchange, so that the file inside is there most of the time.
        scope.spawn(|| {
            let (path, evil) = (scene.root.join("a"), scene.root.join("evil"));
            symlink(&scene.outside, &evil).unwrap();
            let end = Instant::now() + 2 * DURATION;
            while !stop.load(Ordering::Relaxed) && Instant::now() < end {
                renameat_with(CWD, &path, CWD, &evil, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let end = Instant::now() + DURATION;
        while Instant::now() < end {
            match read(c"victim") {
                Ok(data) => {
                    assert_eq!(data, b"inside");
                    inside += 1;
                }
                Err(error) => assert!(matches!(error.kind(), ErrorKind::NotADirectory), "{error}"),
            }
            assert!(read(c"deep").is_err());
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(inside > 0, "{inside}");
}

#[test]
fn pipes_and_devices_are_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let make =
        |name: &str, kind, rdev| mknodat(CWD, folder.path().join(name), kind, Mode::RUSR, rdev).unwrap();
    make("pipe", FileType::Fifo, 0);
    make("socket", FileType::Socket, 0);
    make("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    make("none", FileType::BlockDevice, rustix::fs::makedev(240, 77));
    symlink("pipe", folder.path().join("link")).unwrap();
    fs::create_dir(folder.path().join("directory")).unwrap();
    let directory = Directory::open_root(folder.path()).unwrap();
    for name in [c"pipe", c"socket", c"null", c"none", c"link", c"directory"] {
        let error = directory.open_file(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name:?}: {error}");
        let stat = directory.stat_entry(name).unwrap();
        capture_meta(&directory, name, &stat).unwrap();
    }
    // Rewriting what is a pipe by now does not wait for a reader, and replaces it.
    let mut writer = TreeWriter::open(folder.path()).unwrap();
    let content = Content {
        len: 0,
        digest: Digest::default(),
        chunk_log2: 0,
    };
    let file = entry("pipe", Node::File(content));
    assert!(!writer.apply_metadata(&file).unwrap().is_empty());
    assert!(
        writer
            .put_file(&file, &[], b"", Existing::Rewrite)
            .unwrap()
            .is_empty()
    );
    assert!(Path::new(&folder.path().join("pipe")).is_file());
}
