//! File systems inside a tree that another machine or process answers for, and does not.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use transfer::progress::Silent;
use transfer::source::{Rounds, SourceVolume};

use super::bed::{Bed, noise};

/// A file system of FUSE whose process never says a word: whoever asks it anything waits until this ends.
struct Dead {
    point: PathBuf,
    device: Option<File>,
}

impl Dead {
    fn mount(point: &Path) -> Self {
        Self::mount_as("40000", point)
    }

    /// Its top is a directory or a file, by this mode.
    fn mount_as(mode: &str, point: &Path) -> Self {
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        rustix::io::fcntl_setfd(&device, rustix::io::FdFlags::empty()).unwrap();
        let options = format!(
            "fd={},rootmode={mode},user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        let status = Command::new("mount")
            .args(["-i", "-t", "fuse.dead", "-o", &options, "dead"])
            .arg(point)
            .status();
        assert!(status.unwrap().success());
        // No child of another test is to keep it open.
        rustix::io::fcntl_setfd(&device, rustix::io::FdFlags::CLOEXEC).unwrap();
        Self {
            point: point.to_owned(),
            device: Some(device),
        }
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        // Nobody waits any longer.
        self.device.take();
        let _ = Command::new("umount").arg("-l").arg(&self.point).status();
    }
}

#[test]
fn a_file_system_that_does_not_answer_holds_nobody_up() {
    for crosses in [false, true] {
        let bed = Bed::new();
        let source = bed.path("source");
        bed.write("before/file", &noise(1000, 1));
        bed.write("linked", &noise(1000, 2));
        for name in ["dead", "known"] {
            std::fs::create_dir(source.join(name)).unwrap();
        }
        std::fs::hard_link(source.join("linked"), source.join("before/linked")).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let mut deads = vec![Dead::mount(&source.join("dead"))];
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let bed = &bed;
            scope.spawn(move || {
                for mounted in ["", "known"] {
                    if !mounted.is_empty() {
                        deads.push(Dead::mount(&bed.path("source").join(mounted)));
                        // Renames, and names of one file, are looked for everywhere.
                        std::fs::rename(bed.path("source/before"), bed.path("source/new")).unwrap();
                        bed.write("linked", &noise(2000, 3));
                    }
                    let summary = bed.sync_observed(&Silent, |plan| {
                        plan.rounds = Rounds::Count(2);
                        let SourceVolume::Tree(tree) = &mut plan.volume else {
                            unreachable!()
                        };
                        tree.cross_mounts = crosses;
                        tree.estimate = true;
                    });
                    drop(done.send(summary));
                }
                deads
            });
            for _ in 0..2 {
                let summary = is_done.recv_timeout(Duration::from_secs(60));
                let summary = summary.unwrap_or_else(|_| {
                    // The threads would wait for ever.
                    eprintln!("the file system that does not answer held the run up");
                    std::process::exit(1);
                });
                assert!(summary.as_ref().unwrap().ok, "{summary:?}");
            }
        });
        assert!(bed.target.join("dead").is_dir() && bed.target.join("known").is_dir());
        bed.assert_equal();
    }
}

#[test]
fn a_file_that_is_covered_by_one_from_elsewhere_is_named_and_what_was_copied_of_it_stays() {
    let bed = Bed::new();
    bed.write("covered", &noise(1000, 1));
    bed.write("file", b"x");
    std::thread::sleep(Duration::from_millis(50));
    assert!(bed.sync().unwrap().ok);
    let dead = Dead::mount_as("100644", &bed.path("source/covered"));
    bed.write("file", b"y");
    let summary = bed.sync().unwrap();
    drop(dead);
    let named: Vec<_> = summary.skipped.iter().map(|skipped| &skipped.path[..]).collect();
    assert!(!summary.ok && named == ["covered"], "{summary:?}");
    bed.assert_equal();
    assert!(bed.sync().unwrap().ok);
}
