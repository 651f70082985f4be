//! What verification takes for a difference, and how it is repaired.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, SystemTime};

use go2cloud_tests::medium::{Format, Medium};
use transfer::progress::{Event, Observer, Summary};

use crate::bed::{Bed, noise};

/// Of a short file and of one that travels in chunks.
const SHORT: usize = 400_000;
const LONG: usize = 3 << 20;

fn run(bed: &Bed) -> Summary {
    std::thread::sleep(Duration::from_millis(50));
    bed.sync().unwrap()
}

fn two_files(bed: &Bed) {
    bed.write("short", &noise(SHORT, 1));
    bed.write("long", &noise(LONG, 2));
}

fn repaired(summary: &Summary) -> u64 {
    summary.verified.as_ref().unwrap().repaired
}

fn call(program: &str, arguments: &[&str], path: &std::path::Path) {
    let status = Command::new(program).args(arguments).arg(path).status();
    assert!(status.unwrap().success(), "{program} {arguments:?}");
}

#[test]
fn metadata_that_the_target_refused_are_no_difference() {
    let medium = Medium::new(Format::Xfs, 320).unwrap();
    let mut bed = Bed::new();
    bed.target = medium.path().join("target");
    std::fs::create_dir(&bed.target).unwrap();
    two_files(&bed);
    bed.write("folder/file", b"x");
    let source = bed.path("source");
    for name in ["short", "long", "folder"] {
        call("chattr", &["+c"], &source.join(name));
    }
    std::fs::hard_link(source.join("short"), source.join("the same")).unwrap();
    for bytes in [SHORT + LONG + 1, 0] {
        let summary = run(&bed);
        let mut named: Vec<_> = summary.skipped.iter().map(|skipped| &skipped.path[..]).collect();
        named.sort_unstable();
        assert_eq!(named, ["folder", "long", "short"], "{summary:?}");
        assert!(!summary.ok && repaired(&summary) == 0, "{summary:?}");
        assert_eq!(
            (summary.bytes_data, summary.rounds),
            (bytes as u64, 1),
            "{summary:?}"
        );
        bed.assert_equal();
    }
    // What was accepted must still be there when the medium is read.
    let damage = OnRound(1, || {
        for name in ["short", "long", "folder"] {
            let mode = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(bed.target.join(name), mode).unwrap();
        }
    });
    let summary = bed.sync_observed(&damage, |_| {}).unwrap();
    assert_eq!((summary.rounds, summary.bytes_data), (2, 0), "{summary:?}");
    assert!(repaired(&summary) >= 3, "{summary:?}");
    bed.assert_equal();
}

/// Does something when a round has ended, before the verification.
struct OnRound<F: Fn() + Send + Sync>(u32, F);

impl<F: Fn() + Send + Sync> Observer for OnRound<F> {
    fn event(&self, event: &Event) {
        if matches!(event, Event::RoundFinished { round, .. } if *round == self.0) {
            (self.1)();
        }
    }
}

#[test]
fn metadata_that_differ_are_applied_again_and_no_content_is_sent() {
    let bed = Bed::new();
    two_files(&bed);
    std::fs::create_dir(bed.path("source/folder")).unwrap();
    let first = run(&bed);
    assert!(first.ok && repaired(&first) == 0, "{first:?}");
    let target = |name: &str| bed.target.join(name);
    std::fs::set_permissions(target("short"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let long = std::fs::File::options().write(true).open(target("long")).unwrap();
    long.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    call("setfattr", &["-n", "user.stranger", "-v", "x"], &target("folder"));
    let summary = run(&bed);
    assert!(summary.ok, "{summary:?}");
    assert_eq!((repaired(&summary), summary.bytes_data), (3, 0), "{summary:?}");
    assert_eq!(summary.rounds, 2, "{summary:?}");
    bed.assert_equal();
    let again = run(&bed);
    assert_eq!((repaired(&again), again.sent), (0, 0), "{again:?}");
}

/// As a kernel with SELinux does it, where the source has no labels.
#[test]
fn a_label_that_only_the_target_has_is_no_difference() {
    let bed = Bed::new();
    two_files(&bed);
    assert!(run(&bed).ok);
    let label = ["-n", "security.selinux", "-v", "system_u:object_r:unlabeled_t:s0"];
    for name in ["short", "long", ""] {
        call("setfattr", &label, &bed.target.join(name));
    }
    let summary = run(&bed);
    assert!(summary.ok, "{summary:?}");
    assert_eq!((repaired(&summary), summary.sent), (0, 0), "{summary:?}");
    // Where the source has a label, another one is a difference.
    call("setfattr", &label, &bed.path("source/short"));
    assert!(run(&bed).ok);
    let other = ["-n", "security.selinux", "-v", "other"];
    call("setfattr", &other, &bed.target.join("short"));
    let summary = run(&bed);
    assert!(summary.ok, "{summary:?}");
    assert_eq!((repaired(&summary), summary.bytes_data), (1, 0), "{summary:?}");
}

#[test]
fn an_empty_directory_that_is_gone_is_made_again() {
    let bed = Bed::new();
    // More than a session looks at before it believes its journal.
    for index in 0..300 {
        bed.write(&format!("file {index}"), b"");
    }
    std::fs::create_dir_all(bed.path("source/folder/empty")).unwrap();
    assert!(run(&bed).ok);
    std::fs::remove_dir(bed.target.join("folder/empty")).unwrap();
    let summary = run(&bed);
    assert!(summary.ok && summary.resumes == 0, "{summary:?}");
    // And the times of its parent, perhaps once more because it was made.
    assert!((2..=3).contains(&repaired(&summary)), "{summary:?}");
    bed.assert_equal();
}
