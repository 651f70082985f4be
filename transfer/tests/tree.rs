//! The tree engine end to end, both sides in one process over loopback.
#![cfg(test)]

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use transfer::source::{Rounds, SourceVolume};

#[path = "tree/bed.rs"]
mod bed;
#[path = "tree/courtesy.rs"]
mod courtesy;
#[path = "tree/deep.rs"]
mod deep;
#[path = "tree/elsewhere.rs"]
mod elsewhere;
#[path = "tree/excludes.rs"]
mod excludes;
#[path = "tree/freeze.rs"]
mod freeze;
#[path = "tree/hard_links.rs"]
mod hard_links;
#[path = "tree/long_files.rs"]
mod long_files;
#[path = "tree/moving.rs"]
mod moving;
#[path = "tree/reflinks.rs"]
mod reflinks;
#[path = "tree/refusals.rs"]
mod refusals;
#[path = "tree/renames.rs"]
mod renames;
#[path = "tree/verification.rs"]
mod verification;
use bed::{Bed, noise};

#[test]
fn a_tree_is_copied_verified_and_then_only_changes_travel() {
    let bed = Bed::new();
    for index in 0..300 {
        bed.write(
            &format!("d{}/f{index}", index % 7),
            &noise(index * 97, index as u64),
        );
    }
    bed.write("big", &noise(9_000_001, 5));
    bed.write("empty", b"");
    let source = bed.path("source");
    std::os::unix::fs::symlink("nowhere", source.join("link")).unwrap();
    std::fs::hard_link(source.join("big"), source.join("d1/big2")).unwrap();
    std::fs::hard_link(source.join("d2/f2"), source.join("d3/hard")).unwrap();
    std::fs::set_permissions(source.join("d4"), std::fs::Permissions::from_mode(0o2550)).unwrap();
    let summary = bed.sync().unwrap();
    assert!(summary.ok, "{summary:?}");
    bed.assert_equal();
    let target = bed.path("target");
    let ino = |name: &str| std::fs::metadata(target.join(name)).unwrap().ino();
    assert_eq!(ino("big"), ino("d1/big2"));
    assert!(summary.verified.as_ref().unwrap().compared >= 310);

    std::thread::sleep(std::time::Duration::from_millis(50));
    let again = bed.sync().unwrap();
    assert_eq!((again.bytes_data, again.deleted), (0, 0), "{again:?}");

    // One page of the big file, a new file, a removed directory, a file that becomes a directory.
    let mut big = noise(9_000_001, 5);
    big[3_000_000..3_008_192].fill(7);
    std::fs::write(source.join("big"), &big).unwrap();
    std::fs::remove_dir_all(source.join("d5")).unwrap();
    std::fs::remove_file(source.join("empty")).unwrap();
    bed.write("empty/now/a/directory", b"x");
    let third = bed.sync().unwrap();
    assert!(third.ok, "{third:?}");
    bed.assert_equal();
    assert_eq!(
        third.bytes_data,
        65536 + 65536 * u64::from(3_000_000 / 65536 != 3_008_191 / 65536) + 1
    );
}

#[test]
fn a_lost_state_folder_is_rebuilt_from_the_target() {
    let bed = Bed::new();
    for index in 0..50 {
        bed.write(&format!("f{index}"), &noise(5000, index));
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(bed.sync().unwrap().ok);
    std::fs::remove_dir_all(bed.path("state")).unwrap();
    let again = bed.sync().unwrap();
    assert_eq!(again.bytes_data, 0, "{again:?}");
    bed.assert_equal();
}

#[test]
fn a_state_folder_of_an_earlier_time_is_brought_up_to_date() {
    let bed = Bed::new();
    for index in 0..400 {
        bed.write(&format!("d{}/f{index}", index % 7), &noise(200, index));
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(bed.sync().unwrap().ok);
    let copy = |from: &Path, to: &Path| {
        let status = std::process::Command::new("cp")
            .arg("-a")
            .args([from, to])
            .status();
        assert!(status.unwrap().success());
    };
    let (state, earlier) = (bed.path("state"), bed.path("earlier"));
    copy(&state, &earlier);
    // After few rounds the target still knows what the source had; after many it has merged that into something else.
    for (rounds, removed) in [(1, "d3"), (5, "d4")] {
        for round in 0..rounds {
            bed.write(&format!("d1/new{rounds}-{round}"), &noise(200, round));
            std::fs::rename(bed.path("source/d0"), bed.path("source/moving")).unwrap();
            std::fs::rename(bed.path("source/d2"), bed.path("source/d0")).unwrap();
            std::fs::rename(bed.path("source/moving"), bed.path("source/d2")).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(bed.sync_with(|plan| plan.verify = false).unwrap().ok);
        }
        std::fs::remove_dir_all(&state).unwrap();
        copy(&earlier, &state);
        std::fs::remove_dir_all(bed.path("source").join(removed)).unwrap();
        bed.write("d1/last", &noise(300, rounds));
        let summary = bed.sync().unwrap();
        assert!(summary.ok && summary.bytes_data == 300, "{summary:?}");
        bed.assert_equal();
    }
}

#[test]
fn an_emptied_target_is_filled_again() {
    let bed = Bed::new();
    bed.write("a/b", b"content");
    assert!(bed.sync().unwrap().ok);
    std::fs::remove_dir_all(bed.path("target").join("a")).unwrap();
    assert!(bed.sync().unwrap().ok);
    bed.assert_equal();
}

#[test]
fn a_damaged_target_is_found_by_verification_and_repaired() {
    let bed = Bed::new();
    bed.write("small", &noise(3000, 1));
    bed.write("long", &noise(5 << 20, 2));
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(bed.sync().unwrap().ok);
    for name in ["small", "long"] {
        let path: &Path = &bed.path("target").join(name);
        let times = std::fs::metadata(path).unwrap().modified().unwrap();
        let mut content = std::fs::read(path).unwrap();
        content[1234] ^= 1;
        std::fs::write(path, content).unwrap();
        std::fs::File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(times)
            .unwrap();
    }
    let repaired = bed.sync().unwrap();
    assert!(repaired.ok, "{repaired:?}");
    assert_eq!(repaired.verified.unwrap().repaired, 2);
    bed.assert_equal();
}

#[test]
fn another_source_is_refused() {
    let bed = Bed::new();
    bed.write("a", b"1");
    assert!(bed.sync().unwrap().ok);
    let other = tempfile::tempdir().unwrap();
    let refused = bed.sync_with(|plan| {
        plan.state = other.path().join("state");
        let SourceVolume::Tree(tree) = &mut plan.volume else {
            unreachable!()
        };
        tree.root = other.path().to_owned();
    });
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), transfer::Kind::Refused, "{error}");
    assert!(
        error.describe().contains("another migration"),
        "{}",
        error.describe()
    );
}

/// Changes the source when the first round is over, and remembers what the rounds looked at.
struct Meddler<'a> {
    bed: &'a Bed,
    rounds: std::sync::Mutex<Vec<(bool, u64)>>,
    tracked: std::sync::atomic::AtomicBool,
}

impl transfer::progress::Observer for Meddler<'_> {
    fn event(&self, event: &transfer::progress::Event) {
        use transfer::progress::Event;
        match event {
            Event::RoundStarted { tracked, .. } => {
                self.tracked.store(*tracked, std::sync::atomic::Ordering::Relaxed);
            }
            Event::RoundFinished { round, progress } => {
                let tracked = self.tracked.load(std::sync::atomic::Ordering::Relaxed);
                self.rounds.lock().unwrap().push((tracked, progress.scanned));
                if *round == 1 {
                    self.meddle();
                }
            }
            _ => {}
        }
    }
}

impl Meddler<'_> {
    fn meddle(&self) {
        let source = self.bed.path("source");
        self.bed.write("d1/new", b"new");
        self.bed.write("fresh/deep/er", b"deep");
        std::fs::write(source.join("d2/f2"), b"changed").unwrap();
        std::fs::remove_file(source.join("d3/f3")).unwrap();
        std::fs::rename(source.join("d4"), source.join("d1/moved")).unwrap();
        // Another name for a file whose first name lies where nothing else happens.
        std::fs::hard_link(source.join("d5/f5"), source.join("d6/second")).unwrap();
        std::fs::set_permissions(source.join("d0"), std::fs::Permissions::from_mode(0o750)).unwrap();
    }
}

#[test]
fn a_tracked_round_looks_only_where_something_happened_and_misses_nothing() {
    let bed = Bed::new();
    for index in 0..700 {
        bed.write(&format!("d{}/f{index}", index % 7), &noise(100, index));
    }
    for index in 0..2000 {
        bed.write(&format!("quiet/{}/f{index}", index % 50), b"");
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
    let meddler = Meddler {
        bed: &bed,
        rounds: std::sync::Mutex::default(),
        tracked: std::sync::atomic::AtomicBool::new(false),
    };
    let summary = bed
        .sync_observed(&meddler, |plan| plan.rounds = Rounds::Count(3))
        .unwrap();
    assert!(summary.ok, "{summary:?}");
    bed.assert_equal();
    let rounds = meddler.rounds.into_inner().unwrap();
    assert_eq!(
        rounds.iter().map(|(tracked, _)| *tracked).collect::<Vec<_>>(),
        [false, true, false]
    );
    let (first, second) = (rounds[0].1, rounds[1].1);
    assert!(first > 2700 && second < 1500, "{rounds:?}");
    let source = std::fs::metadata(bed.path("target").join("d5/f5")).unwrap().ino();
    assert_eq!(
        source,
        std::fs::metadata(bed.path("target").join("d6/second"))
            .unwrap()
            .ino()
    );
}

/// A directory `strict` with a flag of ext4, and a target on XFS, which does not know it.
fn what_xfs_refuses() -> (go2cloud_tests::medium::Medium, Bed) {
    use go2cloud_tests::medium::{Format, Medium};
    let medium = Medium::new(Format::Xfs, 320).unwrap();
    let mut bed = Bed::new();
    bed.target = medium.path().join("target");
    std::fs::create_dir(&bed.target).unwrap();
    bed.write("strict/file", b"x");
    flag(&bed, "+D");
    (medium, bed)
}

fn flag(bed: &Bed, change: &str) {
    let mut chattr = std::process::Command::new("chattr");
    let changed = chattr.arg(change).arg(bed.path("source/strict")).status();
    assert!(changed.unwrap().success());
}

#[test]
fn what_the_target_refused_is_named_in_every_run() {
    let (_medium, bed) = what_xfs_refuses();
    for _ in 0..2 {
        let summary = bed.sync_with(|plan| plan.verify = false).unwrap();
        assert!(
            !summary.ok && summary.skipped.iter().any(|skipped| skipped.path == "strict"),
            "{summary:?}"
        );
    }
}

/// Takes a flag away that the target refuses, when the first round is over.
struct Mended<'a>(&'a Bed);

impl transfer::progress::Observer for Mended<'_> {
    fn event(&self, event: &transfer::progress::Event) {
        if let transfer::progress::Event::RoundFinished { round: 1, .. } = event {
            flag(self.0, "-D");
        }
    }
}

#[test]
fn what_is_refused_no_more_is_no_failure() {
    let (_medium, bed) = what_xfs_refuses();
    let mended = Mended(&bed);
    let summary = bed
        .sync_observed(&mended, |plan| plan.rounds = Rounds::Count(2))
        .unwrap();
    assert!(summary.ok, "{summary:?}");
}

/// Changes what makes no event when the first round is over.
struct Quiet<'a>(&'a Bed);

impl transfer::progress::Observer for Quiet<'_> {
    fn event(&self, event: &transfer::progress::Event) {
        let transfer::progress::Event::RoundFinished { round: 1, .. } = event else {
            return;
        };
        let source = self.0.path("source");
        for (flags, name) in [("+d", "deep/flagged"), ("+A", "deep"), ("-p 7", "in project")] {
            let mut chattr = std::process::Command::new("chattr");
            let changed = chattr.args(flags.split(' ')).arg(source.join(name)).status();
            assert!(changed.unwrap().success(), "{flags} {name}");
        }
    }
}

/// The last of two rounds looks at the times of every entry, and these changes move a time.
#[test]
fn flags_and_projects_make_no_event_and_are_found_by_the_last_round() {
    use go2cloud_tests::compare::{Options, compare};
    use go2cloud_tests::medium::{Format, Medium};
    // It goes with its files, and has project ids.
    let medium = Medium::new(Format::Xfs, 320).unwrap();
    let bed = Bed::within(&medium.path());
    for name in ["deep/flagged", "deep/other", "in project"] {
        bed.write(name, &noise(100_000, 5));
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
    let summary = bed
        .sync_observed(&Quiet(&bed), |plan| plan.rounds = Rounds::Count(2))
        .unwrap();
    assert!(summary.ok && summary.rounds == 2, "{summary:?}");
    compare(&bed.path("source"), &bed.target, Options::default()).assert_equal();
    let listed = std::process::Command::new("lsattr")
        .args(["-p", "-d"])
        .args(["deep/flagged", "deep", "in project"].map(|name| bed.target.join(name)))
        .output();
    let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
    let mut lines = listed.lines().map(str::trim_start);
    let mut next = || {
        lines
            .next()
            .unwrap()
            .split_whitespace()
            .take(2)
            .collect::<Vec<_>>()
    };
    let (flagged, folder, project) = (next(), next(), next());
    assert!(flagged[1].contains('d') && folder[1].contains('A'), "{listed}");
    assert_eq!(project[0], "7", "{listed}");
    // The two files were read again, for what moved their times might have been a store: twice, where that was so lately that
    // another one would not have moved them. Nothing travelled twice.
    assert!((500_000..=700_000).contains(&summary.bytes_read), "{summary:?}");
    assert_eq!(summary.bytes_data, 300_000, "{summary:?}");
}

#[test]
fn a_wide_tree_is_copied_whole_with_few_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let bed = Bed::new();
    for index in 0..1500 {
        bed.write(&format!("{}/{index}/f", index % 10), b"x");
    }
    let limit = getrlimit(Resource::Nofile);
    let mut few = limit;
    // For both sides: of the target, each of 16 connections keeps a dozen directories open.
    few.current = Some(450);
    setrlimit(Resource::Nofile, few).unwrap();
    let summary = bed.sync_with(|plan| (plan.connections, plan.verify) = (16, false));
    setrlimit(Resource::Nofile, limit).unwrap();
    let summary = summary.unwrap();
    assert!(
        summary.ok,
        "{} skipped: {:?}",
        summary.skipped_total,
        summary.skipped.first()
    );
    bed.assert_equal();
}
