//! The judge must find each kind of difference, and none where there is none.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::{Aspect, Difference, Options, compare};
use crate::maketree::{everything, mutate};
use crate::medium::{Format, Medium};

fn run(program: &str, arguments: &[&str], path: &Path) {
    let output = Command::new(program).args(arguments).arg(path).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Two equal trees on one file system, made from one seed.
fn twins(medium: &Medium) -> (PathBuf, PathBuf) {
    let pair = (medium.path().join("source"), medium.path().join("target"));
    let refused = everything(&pair.0, 5, 150).unwrap();
    assert_eq!(refused, everything(&pair.1, 5, 150).unwrap());
    // Directories with fixed metadata got their times when they were filled.
    equalise(&pair.0, &pair.1, Path::new(""));
    pair
}

/// Gives the directories of `target` the times that those of `source` have; those below PATH_MAX's reach have theirs from their maker.
fn equalise(source: &Path, target: &Path, path: &Path) {
    for entry in fs::read_dir(source.join(path)).unwrap().map(Result::unwrap) {
        if entry.path().as_os_str().len() < 3800 && entry.file_type().unwrap().is_dir() {
            equalise(source, target, &path.join(entry.file_name()));
        }
    }
    for entry in fs::read_dir(source.join(path)).unwrap().map(Result::unwrap) {
        copy_times(source, target, &path.join(entry.file_name()));
    }
    copy_times(source, target, path);
}

fn copy_times(source: &Path, target: &Path, path: &Path) {
    let metadata = fs::symlink_metadata(source.join(path)).unwrap();
    // Immutable files got equal times from their maker.
    let _ = crate::maketree::set_times(&target.join(path), metadata.mtime(), metadata.mtime_nsec());
}

type Change = fn(&Path) -> io::Result<()>;

/// One change to the target each, and what must be found.
const CHANGES: [(&str, Aspect, Change); 21] = [
    ("hard/empty", Aspect::Missing, |path| fs::remove_file(path)),
    ("hard/new", Aspect::Surplus, |path| fs::write(path, b"")),
    ("hard/empty-directory", Aspect::Type, |path| {
        fs::remove_dir(path)?;
        fs::write(path, b"")
    }),
    ("hard/-rf", Aspect::Mode, |path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o4644))
    }),
    ("hard/-rf", Aspect::Uid, |path| lchown(path, Some(4), None)),
    ("hard/link", Aspect::Gid, |path| lchown(path, None, Some(4))),
    ("hard/before-1970", Aspect::Mtime, |path| {
        crate::maketree::set_times(path, -86_401, 123_456_788)
    }),
    ("hard/link", Aspect::Mtime, |path| {
        crate::maketree::set_times(path, 1, 1)
    }),
    ("hard/-rf", Aspect::Size, |path| fs::write(path, b"dash and more")),
    ("hard/-rf", Aspect::Content, |path| fs::write(path, b"dasH")),
    ("hard/hole-only", Aspect::Holes, |path| {
        File::options()
            .write(true)
            .open(path)?
            .write_all_at(&[0; 5000], 1 << 20)
    }),
    ("hard/hole-only", Aspect::Content, |path| {
        File::options()
            .write(true)
            .open(path)?
            .write_all_at(b"x", 2 << 20)
    }),
    ("hard/link", Aspect::SymlinkTarget, |path| {
        fs::remove_file(path)?;
        symlink("elsewhere", path)
    }),
    ("hard/block-device", Aspect::Device, |path| {
        fs::remove_file(path)?;
        let mode = Mode::from_raw_mode(0o644);
        Ok(mknodat(CWD, path, FileType::BlockDevice, mode, makedev(7, 254))?)
    }),
    ("hard/pipe-again", Aspect::HardLinks, |path| {
        fs::remove_file(path)?;
        run("mkfifo", &["-m", "644"], path);
        Ok(())
    }),
    ("hard/attributes", Aspect::Xattr, |path| {
        Ok(rustix::fs::lremovexattr(path, "user.empty")?)
    }),
    ("hard/attributes", Aspect::Xattr, |path| {
        Ok(rustix::fs::lremovexattr(path, "security.capability")?)
    }),
    ("hard/attributes-of-directory", Aspect::Xattr, |path| {
        Ok(rustix::fs::lremovexattr(path, "system.posix_acl_default")?)
    }),
    ("hard/attributes-of-link", Aspect::Xattr, |path| {
        Ok(rustix::fs::lremovexattr(path, "trusted.on-link")?)
    }),
    ("hard/nodump-noatime", Aspect::Flags, |path| {
        run("chattr", &["-d"], path);
        Ok(())
    }),
    ("hard/project", Aspect::Project, |path| {
        run("chattr", &["-p", "78"], path);
        Ok(())
    }),
];

#[test]
fn each_kind_of_difference_is_found() {
    for format in Format::ALL {
        let medium = Medium::new(format, 320).unwrap();
        let (source, target) = twins(&medium);
        let report = compare(&source, &target, Options::default());
        report.assert_equal();
        assert!(report.entries > 180 && report.bytes > 1 << 20, "{report}");
        for (path, aspect, change) in CHANGES {
            if format != Format::Xfs && aspect == Aspect::Project {
                continue;
            }
            let found = || -> Vec<_> {
                let differences = compare(&source, &target, Options::default()).differences;
                let wanted = |one: &Difference| one.aspect == aspect && one.path == path.as_bytes();
                differences.into_iter().filter(wanted).collect()
            };
            let before = found();
            change(&target.join(path)).unwrap();
            let after = found();
            assert!(
                !after.is_empty() && after != before,
                "{format:?}: {path} changed in {aspect:?} and nobody saw it"
            );
        }
    }
}

#[test]
fn a_change_in_the_depths_and_an_access_time_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    for root in [&source, &target] {
        fs::create_dir_all(root).unwrap();
        fs::write(root.join("file"), b"x").unwrap();
        crate::maketree::set_times(&root.join("file"), 100, 0).unwrap();
        crate::maketree::set_times(root, 100, 0).unwrap();
    }
    let strict = || Options {
        atime: true,
        ..Options::default()
    };
    compare(&source, &target, strict()).assert_equal();
    let touched = Command::new("touch")
        .args(["-ad", "@500"])
        .arg(target.join("file"))
        .status()
        .unwrap();
    assert!(touched.success());
    compare(&source, &target, Options::default()).assert_equal();
    let report = compare(&source, &target, strict());
    assert_eq!(
        report
            .differences
            .iter()
            .map(|one| one.aspect)
            .collect::<Vec<_>>(),
        [Aspect::Atime]
    );

    let name = "d".repeat(250);
    let deep = format!(
        "cd \"$0\"; for i in $(seq 20); do mkdir {name} && cd {name}; done; echo $1 > bottom; \
        while touch -d @100 bottom .; [ $PWD != / ] && [ -d ../{name} ]; do cd ..; done; touch -d @100 . bottom; rm bottom"
    );
    for (root, text) in [(&source, "one"), (&target, "two")] {
        let status = Command::new("bash")
            .args(["-c", &deep])
            .arg(root)
            .arg(text)
            .status()
            .unwrap();
        assert!(status.success());
    }
    let report = compare(
        &source,
        &target,
        Options {
            directory_mtime: false,
            ..Options::default()
        },
    );
    let found: Vec<_> = report
        .differences
        .iter()
        .map(|one| (one.aspect, one.path.len() > 4096))
        .collect();
    assert_eq!(found, [(Aspect::Content, true)], "{report}");
}

#[test]
fn a_single_random_mutation_never_goes_unseen() {
    for seed in 0..24 {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("source"), folder.path().join("target"));
        for root in [&source, &target] {
            everything(root, seed, 30).unwrap();
        }
        equalise(&source, &target, Path::new(""));
        compare(&source, &target, Options::default()).assert_equal();
        let made = mutate(&target, seed, 1).unwrap();
        let seen = !compare(&source, &target, Options::default()).is_equal();
        for root in [&source, &target] {
            // So that the folder can be deleted.
            run("chattr", &["-ia"], &root.join("hard/immutable"));
            run("chattr", &["-ia"], &root.join("hard/append-only"));
        }
        // A hole punched where there was one already changes nothing.
        assert!(
            seen || made[0].what == "punch a hole",
            "seed {seed}: {} went unseen",
            made[0]
        );
    }
}
