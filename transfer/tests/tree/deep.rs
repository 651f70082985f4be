//! Trees deeper than a path can name.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};

use crate::bed::{Bed, noise};

const NAME_LEN: usize = 255;

fn settle() {
    std::thread::sleep(Duration::from_millis(50));
}

/// Goes down so many directories with long names, which are made if need be.
fn descend(top: &Path, levels: usize) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut here = rustix::fs::openat(CWD, top, flags, Mode::empty()).unwrap();
    for level in 0..levels {
        let name = format!("{level:0NAME_LEN$}");
        let _ = rustix::fs::mkdirat(&here, &name, Mode::RWXU);
        here = rustix::fs::openat(&here, &name, flags, Mode::empty()).unwrap();
    }
    here
}

fn write(directory: &OwnedFd, name: &str, content: &[u8]) {
    let flags = OFlags::WRONLY | OFlags::CREATE;
    let file = rustix::fs::openat(directory, name, flags, Mode::RUSR).unwrap();
    assert_eq!(rustix::io::write(&file, content).unwrap(), content.len());
}

fn is_there(directory: &OwnedFd, name: &str) -> bool {
    rustix::fs::statat(directory, name, rustix::fs::AtFlags::empty()).is_ok()
}

#[test]
fn entries_with_paths_that_are_too_long_are_named_and_the_rest_is_copied() {
    let bed = Bed::new();
    bed.write("file", &noise(10_000, 1));
    let source = bed.path("source");
    // 256 of these are the longest path, and this is one more.
    let deepest = descend(&source, 257);
    write(&deepest, "far too deep", b"x");
    let last = descend(&source, 255);
    write(&last, "just right", b"x");
    for _ in 0..2 {
        settle();
        let summary = bed.sync_with(|plan| plan.verify = false).unwrap();
        assert!(
            !summary.ok && summary.skipped.len() == 1,
            "{} named",
            summary.skipped.len()
        );
        assert_eq!(summary.skipped[0].path.len(), 256 * (NAME_LEN + 1) - 1);
        assert!(summary.skipped[0].why.contains("64 KiB"));
    }
    assert!(std::fs::read(bed.target.join("file")).unwrap() == noise(10_000, 1));
    let last = descend(&bed.target, 255);
    assert!(is_there(&last, "just right"));
}
