//! Renames at the source are renames at the target: no content travels for them, and every one leads to an equal tree.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use go2cloud_tests::maketree;
use transfer::progress::Summary;
use transfer::source::{Rounds, SourceVolume, SyncPlan};

use super::bed::{Bed, noise};

/// Lets the clock go past the margin within which a time proves nothing.
fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(60));
}

fn rename(root: &Path, from: &str, to: &str) {
    fs::rename(root.join(from), root.join(to)).unwrap();
}

#[test]
fn a_renamed_directory_of_100_000_files_sends_no_file_data() {
    // In memory: making them on a disk takes longer than everything else.
    let bed = Bed::within(Path::new("/dev/shm"));
    let source = bed.path("source");
    for folder in 0..100 {
        fs::create_dir_all(source.join(format!("old/{folder}"))).unwrap();
        for index in 0..1000 {
            fs::write(
                source.join(format!("old/{folder}/f{index}")),
                format!("{folder} {index}"),
            )
            .unwrap();
        }
    }
    settle();
    assert!(bed.sync_with(|plan| plan.verify = false).unwrap().ok);
    fs::create_dir(source.join("parent")).unwrap();
    rename(&source, "old", "parent/new");
    settle();
    let ino = |path: &str| fs::metadata(bed.target.join(path)).unwrap().ino();
    let before = ino("old/7/f7");
    let summary = bed.sync_with(|plan| plan.verify = false).unwrap();
    assert!(summary.ok, "{summary:?}");
    assert_eq!(
        (summary.renamed, summary.bytes_data, summary.bytes_read),
        (1, 0, 0),
        "{summary:?}"
    );
    assert!(summary.bytes_wire < 8192, "{summary:?}");
    assert_eq!(ino("parent/new/7/f7"), before);
    bed.assert_equal();
}

/// A tree, what happens to it, and how many bytes of content may travel then.
struct Case {
    name: &'static str,
    change: fn(&Path),
    bytes_data_max: u64,
    renamed: u64,
}

const CASES: &[Case] = &[
    Case {
        name: "a file",
        change: |root| rename(root, "a/small", "b/other"),
        bytes_data_max: 0,
        renamed: 1,
    },
    Case {
        name: "a long file, and a page of it changes",
        change: |root| {
            rename(root, "long", "b/longer");
            let file = fs::File::options()
                .write(true)
                .open(root.join("b/longer"))
                .unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, b"changed", 70_000).unwrap();
        },
        bytes_data_max: 65536,
        renamed: 1,
    },
    Case {
        name: "two files swapped",
        change: |root| {
            rename(root, "a/small", "t");
            rename(root, "a/x/deep", "a/small");
            rename(root, "t", "a/x/deep");
        },
        bytes_data_max: 0,
        renamed: 2,
    },
    Case {
        name: "two directories swapped",
        change: |root| {
            rename(root, "a", "t");
            rename(root, "b", "a");
            rename(root, "t", "b");
        },
        bytes_data_max: 0,
        renamed: 2,
    },
    Case {
        name: "over another one",
        change: |root| rename(root, "long", "a/small"),
        bytes_data_max: 0,
        renamed: 1,
    },
    Case {
        name: "with other metadata",
        change: |root| {
            rename(root, "a", "elsewhere");
            fs::set_permissions(
                root.join("elsewhere"),
                std::os::unix::fs::PermissionsExt::from_mode(0o711),
            )
            .unwrap();
        },
        bytes_data_max: 0,
        renamed: 1,
    },
    Case {
        name: "twice",
        change: |root| {
            rename(root, "a", "t");
            rename(root, "t", "b/a");
        },
        bytes_data_max: 0,
        renamed: 1,
    },
    Case {
        name: "a child takes its parent's place",
        change: |root| {
            rename(root, "a/x", "t");
            rename(root, "a", "t/a");
            rename(root, "t", "a");
        },
        bytes_data_max: 0,
        renamed: 2,
    },
    Case {
        name: "a directory, and something out of it and into it",
        change: |root| {
            rename(root, "a", "elsewhere");
            rename(root, "elsewhere/x/deep", "shallow");
            rename(root, "long", "elsewhere/x/long");
        },
        bytes_data_max: 0,
        renamed: 3,
    },
    Case {
        name: "into new directories",
        change: |root| {
            fs::create_dir_all(root.join("new/newer/newest")).unwrap();
            rename(root, "a/x", "new/newer/newest/x");
            fs::remove_dir_all(root.join("a")).unwrap();
        },
        bytes_data_max: 0,
        renamed: 1,
    },
    Case {
        name: "one name of several",
        change: |root| rename(root, "a/hard1", "b/hard3"),
        bytes_data_max: 0,
        renamed: 1,
    },
    Case {
        name: "all names",
        change: |root| {
            rename(root, "a/hard1", "b/hard3");
            rename(root, "b/hard2", "hard4");
        },
        bytes_data_max: 0,
        renamed: 2,
    },
    Case {
        name: "as logs are rotated",
        change: |root| {
            for number in (0..9).rev() {
                rename(root, &format!("log.{number}"), &format!("log.{}", number + 1));
            }
            fs::write(root.join("log.0"), "new").unwrap();
        },
        bytes_data_max: 3,
        renamed: 9,
    },
    Case {
        name: "a file to a directory's name and back",
        change: |root| {
            rename(root, "b", "t");
            rename(root, "long", "b");
            rename(root, "t", "long");
        },
        bytes_data_max: 0,
        renamed: 2,
    },
    Case {
        name: "into what was excluded, and out of it",
        change: |root| {
            rename(root, "a/small", "a/small.skip");
            rename(root, "b/away.skip", "b/back");
        },
        bytes_data_max: 1234,
        renamed: 0,
    },
    Case {
        name: "a directory, and the place of something in it is excluded",
        change: |root| rename(root, "a", "cached"),
        bytes_data_max: 0,
        renamed: 1,
    },
];

fn plant(bed: &Bed) {
    bed.write("a/small", &noise(5000, 1));
    bed.write("a/x/deep", &noise(7000, 2));
    bed.write("a/cache/f", &noise(100, 9));
    bed.write("b/other-file", &noise(3000, 3));
    bed.write("b/away.skip", &noise(1234, 4));
    bed.write("long", &noise(3_000_000, 5));
    bed.write("a/hard1", &noise(900, 6));
    fs::hard_link(bed.path("source/a/hard1"), bed.path("source/b/hard2")).unwrap();
    for number in 0..9 {
        bed.write(
            &format!("log.{number}"),
            &noise(2000 + number, number as u64 + 20),
        );
    }
}

fn excludes(plan: &mut SyncPlan) {
    let SourceVolume::Tree(tree) = &mut plan.volume else {
        unreachable!()
    };
    tree.excludes = vec!["*.skip".into(), "/cached/cache".into()];
}

/// The target is what rsync makes of the source with the same rules.
fn assert_equal(bed: &Bed, name: &str) {
    let output = std::process::Command::new("rsync")
        .args([
            "-aHAXnic",
            "--delete",
            "--exclude=*.skip",
            "--exclude=/cached/cache",
        ])
        .arg(format!("{}/", bed.path("source").display()))
        .arg(format!("{}/", bed.target.display()))
        .output()
        .unwrap();
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && listed.is_empty(), "{name}: {listed}");
}

#[test]
fn every_way_to_rename_sends_no_content_and_leads_to_an_equal_tree() {
    for case in CASES {
        let bed = Bed::new();
        plant(&bed);
        settle();
        let first = bed.sync_with(excludes).unwrap();
        assert!(first.ok, "{}: {first:?}", case.name);
        (case.change)(&bed.path("source"));
        settle();
        let second = bed.sync_with(excludes).unwrap();
        assert!(second.ok, "{}: {second:?}", case.name);
        assert_equal(&bed, case.name);
        assert_eq!(second.renamed, case.renamed, "{}: {second:?}", case.name);
        assert!(
            second.bytes_data <= case.bytes_data_max,
            "{}: {second:?}",
            case.name
        );
        assert!(!bed.target.join("cached/cache").exists(), "{}", case.name);
        settle();
        let third = bed.sync_with(excludes).unwrap();
        assert_eq!(
            (third.sent, third.renamed, third.deleted),
            (0, 0, 0),
            "{}: {third:?}",
            case.name
        );
    }
}

/// The same while a tracker names where to look.
#[test]
fn tracked_rounds_find_renames_too() {
    struct Change<'a>(&'a Path, fn(&Path));
    impl transfer::progress::Observer for Change<'_> {
        fn event(&self, event: &transfer::progress::Event) {
            if let transfer::progress::Event::RoundFinished { round: 1, .. } = event {
                settle();
                (self.1)(self.0);
                settle();
            }
        }
    }
    for case in CASES {
        let bed = Bed::new();
        plant(&bed);
        settle();
        let source = bed.path("source");
        let summary: Summary = bed
            .sync_observed(&Change(&source, case.change), |plan| {
                excludes(plan);
                plan.rounds = Rounds::Count(3);
            })
            .unwrap();
        assert!(summary.ok, "{}: {summary:?}", case.name);
        assert_equal(&bed, case.name);
        assert_eq!(summary.renamed, case.renamed, "{}: {summary:?}", case.name);
    }
}

/// Random changes with many renames, each round compared; what a seed did can be repeated.
#[test]
fn random_renames_and_changes_lead_to_an_equal_tree() {
    let bed = Bed::new();
    let source = bed.path("source");
    maketree::source_code(&source, 11, 300).unwrap();
    assert!(bed.sync().unwrap().ok);
    let mut renamed = 0;
    for seed in 0..12 {
        let mut done = maketree::shuffle(&source, seed, 20).unwrap();
        done.extend(
            maketree::mutate(&source, 1000 + seed, 10)
                .unwrap()
                .iter()
                .map(ToString::to_string),
        );
        let summary = bed.sync().unwrap();
        assert!(summary.ok, "seed {seed} {done:#?}: {summary:?}");
        renamed += summary.renamed;
        let report = go2cloud_tests::compare::compare(&source, &bed.target, Default::default());
        assert!(report.is_equal(), "seed {seed} {done:#?}: {report:?}");
    }
    assert!(renamed > 100, "{renamed}");
}
