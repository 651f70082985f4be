//! Names of one file that the target cannot link: they become copies, and are named until they can.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use go2cloud_tests::medium::{Format, Medium};
use transfer::progress::Summary;
use transfer::source::SourceVolume;

use crate::bed::{Bed, noise};

fn run(bed: &Bed) -> Summary {
    std::thread::sleep(Duration::from_millis(50));
    bed.sync().unwrap()
}

/// Two file systems that are made alike number their files alike; a file that is mounted over another one is on its own.
#[test]
fn files_of_two_file_systems_are_never_taken_for_one() {
    let (one, other) = (
        Medium::new(Format::Ext4, 32).unwrap(),
        Medium::new(Format::Ext4, 32).unwrap(),
    );
    let bed = Bed::new();
    for (medium, seed) in [(&one, 1), (&other, 2)] {
        std::fs::remove_dir(medium.path().join("lost+found")).unwrap();
        std::fs::write(medium.path().join("file"), noise(5000, seed)).unwrap();
        std::fs::hard_link(medium.path().join("file"), medium.path().join("same")).unwrap();
    }
    let inode = |medium: &Medium| std::fs::metadata(medium.path().join("file")).unwrap().ino();
    assert_eq!(inode(&one), inode(&other), "the test needs equal numbers");
    let point = one.path().join("mounted");
    std::fs::write(&point, b"below").unwrap();
    call("mount", &["--bind".as_ref(), &other.path().join("file"), &point]);
    std::thread::sleep(Duration::from_millis(50));
    let sync = || {
        bed.sync_with(|plan| {
            let SourceVolume::Tree(tree) = &mut plan.volume else {
                unreachable!()
            };
            tree.root = one.path();
        })
    };
    let (first, second) = (sync(), sync());
    call("umount", &[&point]);
    assert!(first.as_ref().unwrap().ok, "{first:?}");
    for (name, seed) in [("file", 1), ("same", 1), ("mounted", 2)] {
        let content = std::fs::read(bed.target.join(name)).unwrap();
        assert!(content == noise(5000, seed), "{name}");
    }
    let second = second.unwrap();
    assert_eq!((second.sent, second.bytes_read), (0, 0), "{second:?}");
}

fn call(program: &str, arguments: &[&Path]) {
    let status = Command::new(program).args(arguments).status();
    assert!(status.unwrap().success(), "{program}");
}

/// How many names a run says to be copies.
fn copies(summary: &Summary) -> usize {
    let copies: HashSet<_> = summary
        .skipped
        .iter()
        .inspect(|skipped| assert_eq!(skipped.what, "hard link, copied instead"))
        .map(|skipped| &skipped.path)
        .collect();
    assert_eq!(summary.ok, copies.is_empty(), "{summary:?}");
    copies.len()
}

fn inodes(folder: &Path) -> HashSet<u64> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().metadata().unwrap().ino())
        .collect()
}

/// A btrfs that keeps all names of an inode in a directory in one item has room for fewer than a hundred long ones.
#[test]
fn more_names_than_the_target_allows_are_copies_that_every_run_names() {
    let medium = Medium::with_options(Format::Btrfs, 128, &["-O", "^extref"]).unwrap();
    let mut bed = Bed::new();
    bed.target = medium.path().join("target");
    std::fs::create_dir(&bed.target).unwrap();
    let source = bed.path("source");
    let name = |index: usize| format!("{index:0200}");
    bed.write(&name(0), &noise(50_000, 1));
    for index in 1..100 {
        std::fs::hard_link(source.join(name(0)), source.join(name(index))).unwrap();
    }
    let first = run(&bed);
    let count = copies(&first);
    assert!(count > 5, "{first:?}");
    assert_eq!(first.bytes_data, 50_000, "{first:?}");
    assert_eq!(inodes(&bed.target).len(), count + 1);
    let second = run(&bed);
    assert_eq!((copies(&second), second.bytes_data), (count, 0), "{second:?}");
    // A new content reaches them all.
    std::fs::write(source.join(name(0)), noise(60_000, 2)).unwrap();
    let third = run(&bed);
    assert_eq!((copies(&third), third.bytes_data), (count, 60_000), "{third:?}");
    for index in 0..100 {
        assert!(std::fs::read(bed.target.join(name(index))).unwrap() == noise(60_000, 2));
    }
    for index in 1..60 {
        std::fs::remove_file(source.join(name(index))).unwrap();
    }
    let fourth = run(&bed);
    assert_eq!((copies(&fourth), fourth.bytes_data), (0, 0), "{fourth:?}");
    assert_eq!(inodes(&bed.target).len(), 1);
    bed.assert_equal();
}

#[test]
fn a_link_across_file_systems_of_the_target_is_a_copy_that_every_run_names() {
    let medium = Medium::new(Format::Ext4, 64).unwrap();
    std::fs::remove_dir(medium.path().join("lost+found")).unwrap();
    let bed = Bed::new();
    let (source, there) = (bed.path("source"), bed.target.join("there"));
    let mut content = noise(3 << 20, 1);
    bed.write("here", &content);
    for folder in [&source.join("there"), &there] {
        std::fs::create_dir(folder).unwrap();
    }
    std::fs::hard_link(source.join("here"), source.join("there/too")).unwrap();
    let mount = |program: &str, arguments: &[&std::ffi::OsStr]| {
        let status = Command::new(program).args(arguments).status();
        assert!(status.unwrap().success(), "{program}");
    };
    mount(
        "mount",
        &["--bind".as_ref(), medium.path().as_os_str(), there.as_os_str()],
    );
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for changed in [3 << 20, 0, 1 << 16] {
            if changed == 1 << 16 {
                content[1_000_000] ^= 1;
                std::fs::write(source.join("here"), &content).unwrap();
            }
            let summary = run(&bed);
            assert_eq!(
                (copies(&summary), summary.bytes_data),
                (1, changed),
                "{summary:?}"
            );
            assert!(std::fs::read(there.join("too")).unwrap() == content);
            assert!(std::fs::read(bed.target.join("here")).unwrap() == content);
        }
    }));
    mount("umount", &["-l".as_ref(), there.as_os_str()]);
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
