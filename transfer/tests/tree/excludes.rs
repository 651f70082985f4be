//! Excluded paths are the target's own: whatever happens around them, they stay.

use std::path::Path;

use transfer::progress::Summary;
use transfer::source::{SourceVolume, SyncPlan};

use crate::bed::{Bed, noise};

fn excluding(rules: &[&str]) -> impl FnOnce(&mut SyncPlan) {
    let rules = rules.iter().map(|rule| (*rule).to_owned()).collect();
    |plan| {
        plan.verify = false;
        let SourceVolume::Tree(tree) = &mut plan.volume else {
            unreachable!()
        };
        tree.excludes = rules;
    }
}

/// Copies `d` and `e`, each with a file and one deeper; then the target gets something of its own in `d/deep/cache`.
fn with_own(rules: &[&str]) -> Bed {
    let bed = Bed::new();
    for (seed, name) in ["d/file", "d/deep/file", "d/other/file", "e/file", "e/deep/file"]
        .iter()
        .enumerate()
    {
        bed.write(name, &noise(5000, seed as u64));
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(bed.sync_with(excluding(rules)).unwrap().ok);
    let deep = bed.target.join("d/deep");
    let time = std::fs::metadata(&deep).unwrap().modified().unwrap();
    own(&deep.join("cache"));
    std::fs::File::open(&deep).unwrap().set_modified(time).unwrap();
    bed
}

fn own(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("own"), "own").unwrap();
}

fn assert_own(folder: &Path) {
    assert_eq!(
        std::fs::read_to_string(folder.join("own")).unwrap(),
        "own",
        "{}",
        folder.display()
    );
}

fn assert_refused(summary: &Summary, path: &str) {
    let is_named = |skipped: &transfer::progress::Skipped| {
        skipped.path == path && skipped.why.contains("it holds what is excluded")
    };
    assert!(!summary.ok && summary.skipped.iter().any(is_named), "{summary:?}");
    assert!(
        summary.skipped.iter().all(|skipped| skipped.path == path),
        "{summary:?}"
    );
}

fn assert_equal_but(bed: &Bed, rule: &str) {
    let output = std::process::Command::new("rsync")
        .args(["-aHAXnic", "--delete", "--exclude", rule])
        .arg(format!("{}/", bed.path("source").display()))
        .arg(format!("{}/", bed.target.display()))
        .output()
        .unwrap();
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && listed.is_empty(), "{listed}");
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_removed_directory_keeps_what_is_excluded_and_is_named_until_it_is_empty() {
    for rule in ["cache", "/d/deep/cache", "own"] {
        let bed = with_own(&[rule]);
        std::fs::remove_dir_all(bed.path("source/d")).unwrap();
        for _ in 0..2 {
            let summary = bed.sync_with(excluding(&[rule])).unwrap();
            assert_refused(&summary, "d");
            assert_own(&bed.target.join("d/deep/cache"));
            assert_eq!(entries(&bed.target.join("d")), ["deep"]);
            assert_eq!(entries(&bed.target.join("d/deep")), ["cache"]);
        }
        std::fs::remove_dir_all(bed.target.join("d/deep/cache")).unwrap();
        assert!(bed.sync_with(excluding(&[rule])).unwrap().ok);
        bed.assert_equal();
    }
}

#[test]
fn what_was_copied_before_it_was_excluded_stays_with_its_directory() {
    let bed = with_own(&[]);
    std::fs::remove_dir_all(bed.path("source/d")).unwrap();
    let summary = bed.sync_with(excluding(&["/d/other/file"])).unwrap();
    assert_refused(&summary, "d");
    assert_eq!(entries(&bed.target.join("d")), ["other"]);
    assert_eq!(
        std::fs::read(bed.target.join("d/other/file")).unwrap(),
        noise(5000, 2)
    );
    // Without rules a directory goes with everything in it.
    assert!(bed.sync_with(excluding(&[])).unwrap().ok);
    bed.assert_equal();
}

#[test]
fn a_directory_that_becomes_something_else_keeps_what_is_excluded() {
    for (kind, len) in [
        ("file", 5000),
        ("long file", 3 << 20),
        ("link", 0),
        ("hard link", 0),
    ] {
        let bed = with_own(&["cache"]);
        let place = bed.path("source/d");
        std::fs::remove_dir_all(&place).unwrap();
        match kind {
            "link" => std::os::unix::fs::symlink("e", &place).unwrap(),
            "hard link" => std::fs::hard_link(bed.path("source/e/file"), &place).unwrap(),
            _ => bed.write("d", &noise(len, 7)),
        }
        for _ in 0..2 {
            let summary = bed.sync_with(excluding(&["cache"])).unwrap();
            assert!(
                !summary.ok && summary.skipped.iter().all(|skipped| skipped.path == "d"),
                "{kind}: {summary:?}"
            );
            assert_own(&bed.target.join("d/deep/cache"));
        }
        std::fs::remove_dir_all(bed.target.join("d/deep/cache")).unwrap();
        let summary = bed.sync_with(excluding(&["cache"])).unwrap();
        assert!(summary.ok, "{kind}: {summary:?}");
        bed.assert_equal();
    }
}

#[test]
fn a_rename_takes_along_what_is_excluded_at_the_target() {
    let bed = with_own(&["cache"]);
    let source = bed.path("source");
    std::fs::rename(source.join("d"), source.join("f")).unwrap();
    let summary = bed.sync_with(excluding(&["cache"])).unwrap();
    assert!(summary.ok && summary.bytes_data == 0, "{summary:?}");
    assert_own(&bed.target.join("f/deep/cache"));
    assert_equal_but(&bed, "cache");
    // Two names swapped go over a temporary one.
    for (from, to) in [("f", "aside"), ("e", "f"), ("aside", "e")] {
        std::fs::rename(source.join(from), source.join(to)).unwrap();
    }
    let summary = bed.sync_with(excluding(&["cache"])).unwrap();
    assert!(summary.ok && summary.bytes_data == 0, "{summary:?}");
    assert_own(&bed.target.join("e/deep/cache"));
    assert_equal_but(&bed, "cache");
}

#[test]
fn what_is_renamed_onto_a_directory_does_not_replace_what_is_excluded_there() {
    for rule in ["cache", "/d/deep/cache"] {
        let bed = with_own(&[rule]);
        let source = bed.path("source");
        std::fs::remove_dir_all(source.join("d")).unwrap();
        std::fs::rename(source.join("e"), source.join("d")).unwrap();
        let summary = bed.sync_with(excluding(&[rule])).unwrap();
        assert!(summary.ok, "{summary:?}");
        assert_own(&bed.target.join("d/deep/cache"));
        assert_equal_but(&bed, rule);
    }
}

#[test]
fn a_rename_onto_a_directory_without_anything_excluded_sends_no_content() {
    let bed = with_own(&["cache"]);
    let source = bed.path("source");
    std::fs::remove_dir_all(source.join("e")).unwrap();
    std::fs::rename(source.join("d"), source.join("e")).unwrap();
    let summary = bed.sync_with(excluding(&["cache"])).unwrap();
    assert!(summary.ok && summary.bytes_data == 0, "{summary:?}");
    assert_own(&bed.target.join("e/deep/cache"));
    assert_equal_but(&bed, "cache");
}
