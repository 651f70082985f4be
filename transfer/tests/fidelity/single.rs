//! One property at a time, built with the system's own programs and read back with them.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};

use go2cloud_tests::compare::{Options, compare};
use go2cloud_tests::maketree::set_times;
use go2cloud_tests::medium::{Format, Medium};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use transfer::tree::capture::{Directory, capture_meta, shared_extents};
use transfer::tree::entry::EntryPath;
use transfer::tree::operation::SharedRange;
use transfer::tree::write::{LinkOutcome, RenameOutcome, TreeWriter};

use crate::copier::{Copier, Style};
use crate::programs::run;

/// Two folders on one new file system.
struct Pair {
    source: PathBuf,
    target: PathBuf,
    _medium: Medium,
}

impl Pair {
    fn new(format: Format) -> Self {
        let medium = Medium::new(format, 320).unwrap();
        let (source, target) = (medium.path().join("source"), medium.path().join("target"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        Self {
            source,
            target,
            _medium: medium,
        }
    }

    /// Copies in both styles and compares each time; nothing may be refused.
    fn copy_and_compare(&self) {
        let mut copier = Copier::new(&self.source, &self.target);
        for style in [Style::Replace, Style::Rewrite] {
            let refusals = copier.copy(style);
            assert!(refusals.is_empty(), "{style:?}: {refusals:?}");
            compare(&self.source, &self.target, Options::default()).assert_equal();
        }
    }

    fn at(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.source.join(name), self.target.join(name))
    }
}

fn path(text: &str) -> EntryPath {
    EntryPath::parse(text.as_bytes()).unwrap()
}

#[test]
fn set_id_bits_and_capabilities_survive_the_change_of_owner() {
    for format in Format::ALL {
        let pair = Pair::new(format);
        let (source, target) = pair.at("program");
        fs::write(&source, vec![1; 10_000]).unwrap();
        chown(&source, Some(4_000_000_000), Some(3_000_000_000)).unwrap();
        run!("chmod", "6755", &source);
        run!("setfacl", "-m", "u:1234:rx", &source);
        run!("setcap", "cap_net_raw,cap_chown=ep", &source);
        pair.copy_and_compare();
        let stat = fs::metadata(&target).unwrap();
        assert_eq!(
            (stat.uid(), stat.gid(), stat.mode() & 0o7777),
            (4_000_000_000, 3_000_000_000, 0o6755)
        );
        let capabilities = run!("getcap", &target);
        assert!(
            capabilities.contains("cap_chown,cap_net_raw=ep"),
            "{format:?}: {capabilities}"
        );
        assert!(run!("getfacl", "-n", &target).contains("user:1234:r-x"));
    }
}

#[test]
fn links_pipes_and_devices_keep_their_attributes() {
    for format in Format::ALL {
        let pair = Pair::new(format);
        let node = |name: &str, kind| {
            mknodat(
                CWD,
                pair.source.join(name),
                kind,
                Mode::RUSR,
                rustix::fs::makedev(1, 3),
            )
            .unwrap();
        };
        node("pipe", FileType::Fifo);
        node("socket", FileType::Socket);
        node("char", FileType::CharacterDevice);
        node("block", FileType::BlockDevice);
        symlink("/nowhere", pair.source.join("link")).unwrap();
        for name in ["pipe", "socket", "char", "block", "link"] {
            let (source, _) = pair.at(name);
            let value = format!("of {name}");
            for attribute in ["trusted.go2cloud", "security.selinux"] {
                run!("setfattr", "-h", "-n", attribute, "-v", &value, &source);
            }
            rustix::fs::chownat(
                CWD,
                &source,
                Some(rustix::fs::Uid::from_raw(77_777)),
                None,
                rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
            )
            .unwrap();
            set_times(&source, -5_000_000, 999_999_999).unwrap();
            fs::hard_link(&source, pair.source.join(format!("{name}-again"))).unwrap();
        }
        run!("chmod", "7421", &pair.source.join("pipe"));
        pair.copy_and_compare();
        for name in ["pipe", "socket", "char", "block", "link"] {
            let (_, target) = pair.at(name);
            let listing = run!("getfattr", "-hdm-", &target);
            assert!(
                listing.contains(&format!("trusted.go2cloud=\"of {name}\"")),
                "{format:?}: {listing}"
            );
            let stat = fs::symlink_metadata(&target).unwrap();
            assert_eq!(
                (stat.uid(), stat.nlink(), stat.mtime(), stat.mtime_nsec()),
                (77_777, 2, -5_000_000, 999_999_999)
            );
        }
    }
}

/// New entries in a finished directory inherit its default ACL, group, project, flags: none of that may stick.
#[test]
fn nothing_is_inherited_from_a_finished_directory() {
    for format in Format::ALL {
        let pair = Pair::new(format);
        let (source, target) = pair.at("directory");
        fs::create_dir(&source).unwrap();
        chown(&source, None, Some(500)).unwrap();
        run!("chmod", "2770", &source);
        run!("setfacl", "-dm", "u:99:rwx,g:98:r", &source);
        run!("chattr", "+dA", &source);
        match format {
            Format::Xfs => drop(run!("chattr", "+P", "-p", "42", &source)),
            Format::Btrfs => drop(run!("chattr", "+C", &source)),
            Format::Ext4 => {}
        }
        pair.copy_and_compare();
        // Made elsewhere and moved in: as if the directory had nothing to inherit.
        let outside = pair.source.join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), b"content").unwrap();
        fs::write(outside.join("empty"), b"").unwrap();
        fs::create_dir(outside.join("child")).unwrap();
        symlink("x", outside.join("link")).unwrap();
        mknodat(CWD, outside.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        if format == Format::Xfs {
            run!("chattr", "-p", "0", &source);
        }
        for name in ["file", "empty", "child", "link", "pipe"] {
            fs::rename(outside.join(name), source.join(name)).unwrap();
        }
        if format == Format::Xfs {
            run!("chattr", "-p", "42", &source);
        }
        let mut copier = Copier::new(&pair.source, &pair.target);
        for style in [Style::Replace, Style::Rewrite] {
            let refusals = copier.copy(style);
            assert!(refusals.is_empty(), "{format:?}: {refusals:?}");
            compare(&pair.source, &pair.target, Options::default()).assert_equal();
        }
        let acl = run!("getfacl", "-nc", &target.join("file"));
        assert!(!acl.contains("user:99"), "{format:?}: {acl}");
    }
}

#[test]
fn sealed_entries_change_link_move_and_go() {
    for format in Format::ALL {
        let pair = Pair::new(format);
        let (source, target) = pair.at("sealed");
        fs::create_dir(&source).unwrap();
        for name in ["file", "log", "leader", "moving", "leaving"] {
            fs::write(source.join(name), name).unwrap();
        }
        let seal = |flags: &str, paths: &[&Path]| {
            for path in paths {
                run!("chattr", &flags, &path);
            }
        };
        let files = ["file", "leader", "moving", "leaving"].map(|name| source.join(name));
        let all: Vec<&Path> = files
            .iter()
            .map(PathBuf::as_path)
            .chain([source.as_path()])
            .collect();
        seal("+i", &all);
        seal("+a", &[&source.join("log")]);
        pair.copy_and_compare();
        assert!(run!("lsattr", "-d", &target).contains('i'));
        assert!(run!("lsattr", &target.join("log")).contains('a'));

        let mut writer = TreeWriter::open(&pair.target).unwrap();
        assert!(matches!(
            writer
                .link(&path("sealed/leader"), &path("sealed/second"))
                .unwrap(),
            LinkOutcome::Linked
        ));
        assert!(matches!(
            writer.link(&path("sealed/leader"), &path("third")).unwrap(),
            LinkOutcome::Linked
        ));
        let moved = writer
            .rename(&path("sealed/moving"), &path("sealed/moved"))
            .unwrap();
        assert!(matches!(moved, RenameOutcome::Renamed), "{moved:?}");
        let moved = writer.rename(&path("sealed"), &path("sealed-too")).unwrap();
        assert!(matches!(moved, RenameOutcome::Renamed), "{moved:?}");
        assert!(writer.remove(&path("sealed-too/leaving")).unwrap().is_empty());
        let names = run!("ls", &pair.target.join("sealed-too"));
        assert_eq!(names, "file\nleader\nlog\nmoved\nsecond\n");
        assert_eq!(fs::metadata(pair.target.join("third")).unwrap().nlink(), 3);
        // Still sealed, all that is left.
        let flags = run!("lsattr", &pair.target.join("sealed-too"));
        assert_eq!(
            flags
                .lines()
                .filter(|line| line.split(' ').next().unwrap().contains('i'))
                .count(),
            4,
            "{flags}"
        );
        assert!(run!("lsattr", "-d", &pair.target.join("sealed-too")).contains("i"));
        pair.copy_and_compare();
        assert!(writer.remove(&path("sealed")).unwrap().is_empty());
        assert!(!target.exists());
        seal("-i", &all);
        seal("-a", &[&source.join("log")]);
    }
}

#[test]
fn all_settable_flags_are_kept() {
    for (format, files, directories) in [
        (Format::Ext4, "sudSAtaic", "DTSAd"),
        (Format::Xfs, "dSAai", "dSAP"),
        (Format::Btrfs, "dSAaic", "DSAdc"),
    ] {
        let pair = Pair::new(format);
        for flag in files.chars() {
            let (source, _) = pair.at(&format!("file-{flag}"));
            fs::write(&source, b"content").unwrap();
            run!("chattr", format!("+{flag}"), &source);
        }
        for flag in directories.chars() {
            let (source, _) = pair.at(&format!("directory-{flag}"));
            fs::create_dir(&source).unwrap();
            run!("chattr", format!("+{flag}"), &source);
        }
        pair.copy_and_compare();
        for flag in files.chars() {
            let (source, target) = pair.at(&format!("file-{flag}"));
            let flags = |path: &Path| run!("lsattr", &path).split(' ').next().unwrap().to_owned();
            assert_eq!(flags(&source), flags(&target));
            assert!(flags(&target).contains(flag), "{format:?}: {flag}");
        }
        run!("chattr", "-R", "-ia", &pair.source, &pair.target);
    }
}

#[test]
fn btrfs_keeps_copy_on_write_and_the_kind_of_compression() {
    let pair = Pair::new(Format::Btrfs);
    let (directory, _) = pair.at("nocow");
    fs::create_dir(&directory).unwrap();
    let plain = directory.join("cow-in-nocow");
    fs::write(&plain, vec![1; 50_000]).unwrap();
    run!("chattr", "+C", &directory);
    fs::write(directory.join("nocow"), vec![1; 50_000]).unwrap();
    fs::write(directory.join("long-nocow"), vec![1; 3 << 20]).unwrap();
    let (zstd, zstd_target) = pair.at("zstd");
    fs::write(&zstd, b"").unwrap();
    run!("btrfs", "property", "set", &zstd, "compression", "zstd");
    fs::write(&zstd, vec![1; 500_000]).unwrap();
    // Not chattr: setting all flags at once, it would reset the kind to the default.
    run!("xfs_io", "-r", "-c", "chattr +i", &zstd);
    pair.copy_and_compare();
    let flags = |name: &str| run!("lsattr", &pair.target.join(name));
    assert!(flags("nocow/nocow").split(' ').next().unwrap().contains('C'));
    assert!(flags("nocow/long-nocow").split(' ').next().unwrap().contains('C'));
    assert!(
        !flags("nocow/cow-in-nocow")
            .split(' ')
            .next()
            .unwrap()
            .contains('C')
    );
    let property = run!("btrfs", "property", "get", &zstd_target, "compression");
    assert_eq!(property, "compression=zstd\n");
    assert!(flags("zstd").split(' ').next().unwrap().contains('i'));
    for root in [&zstd, &zstd_target] {
        run!("chattr", "-i", &root);
    }
}

#[test]
fn access_times_are_kept_and_reading_leaves_them_alone() {
    for format in Format::ALL {
        let pair = Pair::new(format);
        fs::create_dir(pair.source.join("directory")).unwrap();
        fs::write(pair.source.join("directory/file"), b"x").unwrap();
        for (index, name) in ["directory/file", "directory", ""].into_iter().enumerate() {
            set_times(&pair.source.join(name), 5_000_000_000, 1 + index as i64).unwrap();
        }
        Copier::new(&pair.source, &pair.target).copy(Style::Replace);
        for (index, name) in ["directory/file", "directory", ""].into_iter().enumerate() {
            let nsec = 1 + index as i64;
            for root in [&pair.source, &pair.target] {
                let stat = fs::metadata(root.join(name)).unwrap();
                let times = (stat.atime(), stat.atime_nsec(), stat.mtime(), stat.mtime_nsec());
                assert_eq!(
                    times,
                    (5_000_000_001, nsec, 5_000_000_000, nsec),
                    "{format:?} {root:?} {name}"
                );
            }
        }
    }
}

#[test]
fn entries_without_any_permission_are_read_and_written() {
    let pair = Pair::new(Format::Ext4);
    fs::create_dir(pair.source.join("closed")).unwrap();
    fs::write(pair.source.join("closed/secret"), b"secret").unwrap();
    run!("chmod", "-R", "0000", &pair.source.join("closed"));
    chown(pair.source.join("closed"), Some(1000), Some(1000)).unwrap();
    pair.copy_and_compare();
    assert_eq!(fs::read(pair.target.join("closed/secret")).unwrap(), b"secret");
    assert_eq!(
        fs::metadata(pair.target.join("closed")).unwrap().mode() & 0o7777,
        0
    );
}

#[test]
fn more_names_than_an_inode_may_have_are_told_apart() {
    let medium = Medium::new(Format::Ext4, 64).unwrap();
    let mut writer = TreeWriter::open(&medium.path()).unwrap();
    fs::write(medium.path().join("leader"), b"x").unwrap();
    let leader = path("leader");
    for index in 0..64_999 {
        let outcome = writer.link(&leader, &path(&format!("names/{index}"))).unwrap();
        assert!(matches!(outcome, LinkOutcome::Linked), "{index}: {outcome:?}");
    }
    let outcome = writer.link(&leader, &path("names/too-many")).unwrap();
    assert!(matches!(outcome, LinkOutcome::TooManyLinks), "{outcome:?}");
}

#[test]
fn links_and_renames_across_file_systems_are_told_apart() {
    let (outer, inner) = (
        Medium::new(Format::Ext4, 64).unwrap(),
        Medium::new(Format::Ext4, 64).unwrap(),
    );
    fs::create_dir(outer.path().join("inner")).unwrap();
    fs::write(outer.path().join("file"), b"x").unwrap();
    let _bind = crate::programs::Bind::new(&inner.path(), &outer.path().join("inner"));
    fs::write(outer.path().join("inner/kept"), b"x").unwrap();
    let mut writer = TreeWriter::open(&outer.path()).unwrap();
    let linked = writer.link(&path("file"), &path("inner/file")).unwrap();
    assert!(matches!(linked, LinkOutcome::NotPossible(_)), "{linked:?}");
    let moved = writer.rename(&path("file"), &path("inner/file")).unwrap();
    assert!(matches!(moved, RenameOutcome::NotPossible(_)), "{moved:?}");
    // What is mounted below the root is neither emptied nor removed.
    assert!(!writer.remove(&path("inner")).unwrap().is_empty());
    assert!(inner.path().join("kept").exists());
    fs::create_dir(inner.path().join("below")).unwrap();
    assert!(writer.remove(&path("inner/below")).unwrap().is_empty());
    assert!(!inner.path().join("below").exists());
    writer.sync().unwrap();
}

#[test]
fn shared_extents_are_found_and_shared_again() {
    for format in [Format::Xfs, Format::Btrfs] {
        let pair = Pair::new(format);
        let mut content = vec![0; 4 << 20];
        go2cloud_tests::dice::Dice::new(5).fill(&mut content);
        fs::write(pair.source.join("a"), &content).unwrap();
        run!(
            "cp",
            "--reflink=always",
            pair.source.join("a"),
            pair.source.join("b")
        );
        let source = Directory::open_root(&pair.source).unwrap();
        let extents = |name: &std::ffi::CStr| {
            let (file, _) = source.open_file(name).unwrap();
            shared_extents(std::os::fd::AsFd::as_fd(&file), 0..4 << 20).unwrap()
        };
        assert!(!extents(c"a").is_empty(), "{format:?}");
        assert_eq!(extents(c"a"), extents(c"b"), "{format:?}");
        assert_eq!(
            extents(c"a").iter().map(|extent| extent.len).sum::<u64>(),
            4 << 20
        );

        Copier::new(&pair.source, &pair.target).copy(Style::Replace);
        let mut writer = TreeWriter::open(&pair.target).unwrap();
        let whole = SharedRange {
            from_offset: 0,
            to_offset: 0,
            len: 4 << 20,
        };
        let shared = writer.share(&path("a"), &path("b"), &[whole]).unwrap();
        assert_eq!((shared.together, shared.apart), (4 << 20, 0), "{format:?}");
        assert_eq!(fs::read(pair.target.join("b")).unwrap(), content);
        let listing = run!("filefrag", "-v", &pair.target.join("b"));
        assert!(listing.contains("shared"), "{format:?}: {listing}");
    }
    for format in [Format::Ext4, Format::Btrfs] {
        // This file system cannot, or the contents differ.
        let pair = Pair::new(format);
        fs::write(pair.target.join("a"), [1; 8192]).unwrap();
        fs::write(
            pair.target.join("b"),
            [if format == Format::Ext4 { 1 } else { 2 }; 8192],
        )
        .unwrap();
        let mut writer = TreeWriter::open(&pair.target).unwrap();
        let whole = SharedRange {
            from_offset: 0,
            to_offset: 0,
            len: 8192,
        };
        let shared = writer.share(&path("a"), &path("b"), &[whole]).unwrap();
        assert_eq!((shared.together, shared.apart), (0, 8192), "{format:?}");
    }
}

/// A project id that does not match its directory's forbids renames: the proof that links and pipes have theirs, too.
#[test]
fn entries_of_a_project_can_be_renamed_within_it() {
    let pair = Pair::new(Format::Xfs);
    let (source, target) = pair.at("project");
    fs::create_dir(&source).unwrap();
    run!("chattr", "+P", "-p", "42", &source);
    fs::write(source.join("file"), b"x").unwrap();
    symlink("x", source.join("link")).unwrap();
    mknodat(CWD, source.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    run!(
        "setfattr",
        "-h",
        "-n",
        "trusted.go2cloud",
        "-v",
        "x",
        source.join("link")
    );
    run!(
        "setfattr",
        "-h",
        "-n",
        "trusted.go2cloud",
        "-v",
        "x",
        source.join("pipe")
    );
    // Linux 6.17 and later can say so; before, it is refused and named.
    let knows = {
        let directory = Directory::open_root(&source).unwrap();
        let stat = directory.stat_entry(c"link").unwrap();
        capture_meta(&directory, c"link", &stat).unwrap().project == 42
    };
    if !knows {
        return;
    }
    pair.copy_and_compare();
    for name in ["file", "link", "pipe"] {
        fs::rename(target.join(name), target.join(format!("{name}-renamed"))).unwrap();
    }
}

/// Removing one name of a sealed file leaves its other names sealed.
#[test]
fn a_sealed_file_that_keeps_a_name_stays_sealed() {
    let pair = Pair::new(Format::Ext4);
    fs::write(pair.target.join("one"), b"x").unwrap();
    fs::hard_link(pair.target.join("one"), pair.target.join("two")).unwrap();
    run!("chattr", "+i", pair.target.join("one"));
    let mut writer = TreeWriter::open(&pair.target).unwrap();
    assert!(writer.remove(&path("one")).unwrap().is_empty());
    assert!(!pair.target.join("one").exists());
    assert!(run!("lsattr", pair.target.join("two")).contains('i'));
}

/// Many writers at once, in directories that none of them has made yet and in one that is sealed.
#[test]
fn writers_share_new_and_sealed_directories() {
    for format in Format::ALL {
        let pair = Pair::new(format);
        fs::create_dir(pair.target.join("sealed")).unwrap();
        run!("chattr", "+i", pair.target.join("sealed"));
        let writer = TreeWriter::open(&pair.target).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let mut writer = writer.clone();
                scope.spawn(move || {
                    for index in 0..100 {
                        for at in [
                            format!("new/{}/{index}/{thread}", index % 7),
                            format!("sealed/{thread}-{index}"),
                        ] {
                            let refusals = writer.put_directory(&path(&at)).unwrap();
                            assert!(refusals.is_empty(), "{at}: {refusals:?}");
                        }
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(pair.target.join("sealed")).unwrap().count(), 400);
        assert!(run!("lsattr", "-d", pair.target.join("sealed")).contains('i'));
        let mut made = 0;
        for first in fs::read_dir(pair.target.join("new")).unwrap() {
            for second in fs::read_dir(first.unwrap().path()).unwrap() {
                made += fs::read_dir(second.unwrap().path()).unwrap().count();
            }
        }
        assert_eq!(made, 400, "{format:?}");
    }
}

#[test]
fn a_running_program_is_replaced_unless_it_has_other_names() {
    let pair = Pair::new(Format::Ext4);
    let program = pair.target.join("program");
    fs::copy("/bin/sleep", &program).unwrap();
    let mut running = std::process::Command::new(&program).arg("60").spawn().unwrap();
    let before = fs::metadata(&program).unwrap().ino();
    fs::write(pair.source.join("program"), b"new").unwrap();
    let mut copier = Copier::new(&pair.source, &pair.target);
    let refusals = copier.copy(Style::Rewrite);
    let replaced = fs::read(&program).unwrap() == b"new" && fs::metadata(&program).unwrap().ino() != before;
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(refusals.is_empty() && replaced, "{refusals:?}");
}
