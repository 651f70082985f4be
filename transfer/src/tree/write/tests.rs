//! The writer's calls one by one, in a temporary folder.

use std::ffi::CString;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use super::*;
use crate::tree::capture::Directory;
use crate::tree::entry::{Content, Digest, Entry, Meta, Node, Stamp, Time};
use crate::tree::operation::{Existing, Extent};
use sys::aligned::AlignedBuffer;
use sys::page_cache::Residency;

fn path(text: &str) -> EntryPath {
    EntryPath::parse(text.as_bytes()).unwrap()
}

fn meta(mode: u32) -> Meta {
    let time = Time {
        sec: 1_000_000_000,
        nsec: 123_456_789,
    };
    Meta {
        mode,
        uid: 70_000,
        gid: 80_000,
        atime: time,
        mtime: time,
        ..Meta::default()
    }
}

fn entry(at: &str, node: Node) -> Entry {
    Entry {
        path: path(at),
        stamp: Stamp::default(),
        meta: meta(0o640),
        node,
    }
}

fn file_entry(at: &str, len: u64) -> Entry {
    let content = Content {
        len,
        digest: Digest::default(),
        chunk_log2: 0,
    };
    entry(at, Node::File(content))
}

fn put(writer: &mut TreeWriter, at: &str, data: &[u8], existing: Existing) {
    let extents = [Extent {
        offset: 0,
        len: data.len() as u32,
    }];
    let entry = file_entry(at, data.len() as u64);
    let refusals = writer.put_file(&entry, &extents, data, existing).unwrap();
    assert!(refusals.is_empty(), "{refusals:?}");
}

fn begin() -> (tempfile::TempDir, PathBuf, TreeWriter) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let writer = TreeWriter::open(&root).unwrap();
    (folder, root, writer)
}

#[test]
fn a_file_gets_data_holes_owner_mode_and_times() {
    let (_folder, root, mut writer) = begin();
    let entry = file_entry("a/b/file", 3 << 20);
    let extents = [
        Extent { offset: 4096, len: 5 },
        Extent {
            offset: 1 << 20,
            len: 6,
        },
    ];
    assert!(
        writer
            .put_file(&entry, &extents, b"helloworlds", Existing::Replace)
            .unwrap()
            .is_empty()
    );
    let data = std::fs::read(root.join("a/b/file")).unwrap();
    assert_eq!(data.len(), 3 << 20);
    assert_eq!(&data[4096..4101], b"hello");
    assert_eq!(&data[1 << 20..(1 << 20) + 6], b"worlds");
    assert_eq!(data.iter().filter(|byte| **byte != 0).count(), 11);
    let stat = std::fs::metadata(root.join("a/b/file")).unwrap();
    assert!(stat.blocks() * 512 <= 16384, "{} blocks", stat.blocks());
    assert_eq!(
        (stat.uid(), stat.gid(), stat.mode() & 0o7777),
        (70_000, 80_000, 0o640)
    );
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_000_000_000, 123_456_789));
    assert_eq!(std::fs::metadata(root.join("a")).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn rewriting_keeps_the_inode_and_replacing_does_not() {
    let (_folder, root, mut writer) = begin();
    put(&mut writer, "f", &[7; 20_000], Existing::Replace);
    std::fs::hard_link(root.join("f"), root.join("g")).unwrap();
    let extents = [Extent { offset: 0, len: 3 }, Extent { offset: 9000, len: 3 }];
    let entry = file_entry("f", 12_000);
    assert!(
        writer
            .put_file(&entry, &extents, b"abcdef", Existing::Rewrite)
            .unwrap()
            .is_empty()
    );
    let mut expected = vec![0; 12_000];
    expected[..3].copy_from_slice(b"abc");
    expected[9000..9003].copy_from_slice(b"def");
    assert!(std::fs::read(root.join("g")).unwrap() == expected);
    put(&mut writer, "f", b"new", Existing::Replace);
    assert!(std::fs::read(root.join("g")).unwrap() == expected);
    assert_eq!(std::fs::read(root.join("f")).unwrap(), b"new");
}

#[test]
fn whatever_stands_in_the_way_goes() {
    let (folder, root, mut writer) = begin();
    let outside = folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("keep"), b"x").unwrap();
    // A link to elsewhere where a parent must be, a file there, a filled directory where a file must be.
    symlink(&outside, root.join("link")).unwrap();
    std::fs::write(root.join("file"), b"x").unwrap();
    std::fs::create_dir_all(root.join("dir/x/y/z")).unwrap();
    std::fs::write(root.join("dir/x/y/f"), b"x").unwrap();
    symlink(&outside, root.join("dir/x/out")).unwrap();
    put(&mut writer, "link/keep", b"1", Existing::Rewrite);
    put(&mut writer, "file/a/b", b"2", Existing::Replace);
    put(&mut writer, "dir", b"3", Existing::Rewrite);
    assert_eq!(std::fs::read(outside.join("keep")).unwrap(), b"x");
    assert_eq!(std::fs::read(root.join("link/keep")).unwrap(), b"1");
    assert_eq!(std::fs::read(root.join("file/a/b")).unwrap(), b"2");
    assert_eq!(std::fs::read(root.join("dir")).unwrap(), b"3");
    assert!(writer.put_directory(&path("dir")).unwrap().is_empty());
    assert!(writer.put_directory(&path("dir")).unwrap().is_empty());
    assert!(root.join("dir").is_dir());
}

#[test]
fn special_entries_are_made_and_replaced() {
    let (_folder, root, mut writer) = begin();
    let rdev = rustix::fs::makedev(259, 70_000);
    let nodes = [
        ("pipe", Node::Fifo),
        ("socket", Node::Socket),
        ("char", Node::CharDevice { rdev }),
        ("block", Node::BlockDevice { rdev }),
        (
            "link",
            Node::Symlink {
                target: b"/nowhere/\xff".to_vec(),
            },
        ),
    ];
    for _ in 0..2 {
        for (name, node) in &nodes {
            let refusals = writer.put_special(&entry(name, node.clone())).unwrap();
            assert!(refusals.is_empty(), "{name}: {refusals:?}");
        }
    }
    let stat = |name: &str| std::fs::symlink_metadata(root.join(name)).unwrap();
    assert!(stat("pipe").file_type().is_fifo() && stat("socket").file_type().is_socket());
    assert!(stat("char").file_type().is_char_device() && stat("block").file_type().is_block_device());
    assert_eq!((stat("char").rdev(), stat("block").rdev()), (rdev, rdev));
    for (name, _) in nodes {
        assert_eq!(
            (stat(name).uid(), stat(name).mtime_nsec()),
            (70_000, 123_456_789),
            "{name}"
        );
        assert_eq!(
            stat(name).mode() & 0o7777,
            if name == "link" { 0o777 } else { 0o640 }
        );
    }
}

#[test]
fn links_and_renames_may_be_repeated() {
    let (_folder, root, mut writer) = begin();
    put(&mut writer, "d/f", b"1", Existing::Replace);
    for _ in 0..2 {
        assert!(matches!(
            writer.link(&path("d/f"), &path("e/g")).unwrap(),
            LinkOutcome::Linked
        ));
    }
    assert_eq!(std::fs::metadata(root.join("e/g")).unwrap().nlink(), 2);
    assert!(matches!(
        writer.link(&path("d/none"), &path("x")).unwrap(),
        LinkOutcome::LeaderMissing
    ));
    assert!(matches!(
        writer.link(&path("none/f"), &path("x")).unwrap(),
        LinkOutcome::LeaderMissing
    ));
    // Two names of one inode: the old one goes nevertheless.
    assert!(matches!(
        writer.rename(&path("d/f"), &path("e/g")).unwrap(),
        RenameOutcome::Renamed
    ));
    assert_eq!(std::fs::metadata(root.join("e/g")).unwrap().nlink(), 1);
    assert!(matches!(
        writer.rename(&path("d/f"), &path("e/g")).unwrap(),
        RenameOutcome::AlreadyDone
    ));
    assert!(matches!(
        writer.rename(&path("d/f"), &path("e/none")).unwrap(),
        RenameOutcome::Missing
    ));
    put(&mut writer, "full/x", b"1", Existing::Replace);
    assert!(matches!(
        writer.rename(&path("e"), &path("full")).unwrap(),
        RenameOutcome::Renamed
    ));
    assert!(!root.join("full/x").exists() && root.join("full/g").exists());
    assert!(matches!(
        writer.rename(&path("full"), &path("full/in")).unwrap(),
        RenameOutcome::NotPossible(_)
    ));
    // To where it is already: nothing happens.
    assert!(matches!(
        writer.rename(&path("full"), &path("full")).unwrap(),
        RenameOutcome::AlreadyDone
    ));
    assert!(matches!(
        writer.rename(&path("full/g"), &path("full/g")).unwrap(),
        RenameOutcome::AlreadyDone
    ));
    assert!(root.join("full/g").exists());
    // A cached directory does not outlive its move.
    put(&mut writer, "full/after", b"1", Existing::Replace);
    let mut other = writer.clone();
    put(&mut other, "full/other", b"1", Existing::Replace);
    assert!(matches!(
        writer.rename(&path("full"), &path("moved")).unwrap(),
        RenameOutcome::Renamed
    ));
    put(&mut other, "full/again", b"1", Existing::Replace);
    assert!(root.join("full/again").exists() && root.join("moved/other").exists());
}

#[test]
fn a_directory_deeper_than_path_max_is_made_and_removed() {
    let (_folder, root, mut writer) = begin();
    let deep = vec!["d".repeat(100); 300].join("/");
    put(
        &mut writer,
        &format!("top/{deep}/file"),
        b"deep",
        Existing::Replace,
    );
    let source = Directory::open_root(&root).unwrap();
    let opened = source.open_beneath(&path(&format!("top/{deep}"))).unwrap();
    assert_eq!(opened.stat_entry(c"file").unwrap().size, 4);
    writer
        .finish_directory(&path(&format!("top/{deep}")), &meta(0o700))
        .unwrap();
    assert_eq!(opened.stat().unwrap().uid, 70_000);
    assert!(writer.remove(&path("top")).unwrap().is_empty());
    assert!(!root.join("top").exists());
    assert!(writer.remove(&path("top")).unwrap().is_empty());
}

#[test]
fn names_of_any_byte_survive() {
    let (_folder, root, mut writer) = begin();
    for byte in (1..=255_u8).filter(|byte| *byte != b'/') {
        let name = [b'x', byte];
        let mut entry = file_entry("x", 0);
        entry.path = EntryPath::parse(name).unwrap();
        assert!(
            writer
                .put_file(&entry, &[], b"", Existing::Replace)
                .unwrap()
                .is_empty()
        );
    }
    let source = Directory::open_root(&root).unwrap();
    let mut names = source.names().unwrap();
    names.sort();
    assert_eq!(names.len(), 254);
    assert!(names.iter().all(|name| source.stat_entry(name.c_str).is_ok()));
    let long = CString::new(vec![0xff; 255]).unwrap();
    let mut entry = file_entry("x", 0);
    entry.path = EntryPath::parse(long.as_bytes()).unwrap();
    assert!(
        writer
            .put_file(&entry, &[], b"", Existing::Replace)
            .unwrap()
            .is_empty()
    );
    assert!(source.stat_entry(&long).is_ok());
}

#[test]
fn a_long_file_is_written_by_many_and_punched() {
    let (_folder, root, mut writer) = begin();
    let entry = file_entry("long", 8 << 20);
    let Prepared::Ready(file) = writer
        .begin_long_file(&entry.path, &entry.meta, 8 << 20, Existing::Replace)
        .unwrap()
    else {
        panic!("refused");
    };
    std::thread::scope(|scope| {
        for index in 0..8_u8 {
            let file = &file;
            scope.spawn(move || {
                file.write_at(u64::from(index) << 20, &vec![index + 1; 1 << 20])
                    .unwrap();
            });
        }
    });
    file.zero(2 << 20, 2 << 20).unwrap();
    assert!(file.finish(&entry).unwrap().is_empty());
    let data = std::fs::read(root.join("long")).unwrap();
    for (index, chunk) in data.chunks(1 << 20).enumerate() {
        let expected = if index == 2 || index == 3 {
            0
        } else {
            index as u8 + 1
        };
        assert!(chunk.iter().all(|byte| *byte == expected));
    }
    assert_eq!(
        std::fs::metadata(root.join("long")).unwrap().blocks() * 512,
        6 << 20
    );
    let lengths = [0..=7 << 20, 0..=8 << 20];
    let changed = lengths.map(|held| writer.change_long_file(&entry.path, &held, 5 << 20).unwrap());
    assert!(matches!(changed, [None, Some(Prepared::Ready(_))]));
    assert!(std::fs::read(root.join("long")).unwrap() == data[..5 << 20]);
    let nothing = writer
        .change_long_file(&path("none"), &(0..=u64::MAX), 1)
        .unwrap();
    assert!(nothing.is_none() && !root.join("none").exists());
}

#[test]
fn large_pieces_go_past_the_page_cache_and_odd_ones_through_it() {
    let (_folder, root, mut writer) = begin();
    let mut content = AlignedBuffer::zeroed((2 << 20) + 100);
    for (at, byte) in content.iter_mut().enumerate() {
        *byte = (at / 4096 + at) as u8;
    }
    let (begin, end) = content.split_at(1 << 20);
    let len = content.len() as u64;
    let entry = file_entry("long", len);
    let prepared = writer.begin_long_file(&entry.path, &entry.meta, len, Existing::Replace);
    let Prepared::Ready(file) = prepared.unwrap() else {
        panic!("refused");
    };
    let resident = |len| Residency::of(file.as_fd(), len);
    file.write_at(0, begin).unwrap();
    if resident(1 << 20) == Residency::Everything {
        // A file system in memory has nothing but its cache.
        assert_eq!(rustix::fs::statfs(&root).unwrap().f_type, 0x0102_1994);
    } else {
        assert_eq!(resident(1 << 20), Residency::Nothing);
    }
    file.write_at(1 << 20, end).unwrap();
    // Neither place nor memory fits direct I/O: it is written all the same, over what went past the cache.
    file.write_at(1001, &content[1001..1001 + (600 << 10)]).unwrap();
    assert!(file.finish(&entry).unwrap().is_empty());
    assert!(std::fs::read(root.join("long")).unwrap() == content[..]);
}

#[test]
fn the_root_gets_its_metadata_and_stays() {
    let (_folder, root, mut writer) = begin();
    assert!(
        writer
            .finish_directory(&EntryPath::root(), &meta(0o2755))
            .unwrap()
            .is_empty()
    );
    let stat = std::fs::metadata(&root).unwrap();
    assert_eq!((stat.uid(), stat.permissions().mode() & 0o7777), (70_000, 0o2755));
    assert!(!writer.remove(&EntryPath::root()).unwrap().is_empty());
    assert!(root.exists());
    writer.sync().unwrap();
}
