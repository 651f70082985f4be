//! Excluded paths are the target's own: whatever happens around them, they stay.

use std::collections::BTreeMap;
use std::path::Path;

use go2cloud_tests::dice::Dice;
use transfer::progress::Summary;
use transfer::source::{SourceVolume, SyncPlan};

use crate::bed::{Bed, noise};

fn excluding(rules: &[&str]) -> impl FnOnce(&mut SyncPlan) {
    let rules = rules.iter().map(|rule| rule.as_bytes().to_vec()).collect();
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
        for verify in [false, true] {
            let summary = bed
                .sync_with(|plan| {
                    excluding(&[rule])(plan);
                    plan.verify = verify;
                })
                .unwrap();
            assert_refused(&summary, "d");
            assert_eq!(summary.rounds, 1, "{summary:?}");
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
fn what_is_excluded_at_one_place_only_stays_there_when_its_directory_is_renamed() {
    let rule = "/d/deep/cache";
    let bed = with_own(&[rule]);
    std::fs::rename(bed.path("source/d"), bed.path("source/f")).unwrap();
    let summary = bed
        .sync_with(|plan| {
            excluding(&[rule])(plan);
            plan.verify = true;
        })
        .unwrap();
    assert_refused(&summary, "d");
    assert_own(&bed.target.join("d/deep/cache"));
    assert_eq!(entries(&bed.target.join("d")), ["deep"]);
    // Beside it everything is equal.
    let time = std::fs::metadata(&bed.target).unwrap().modified().unwrap();
    std::fs::rename(bed.target.join("d"), bed.path("own")).unwrap();
    std::fs::File::open(&bed.target)
        .unwrap()
        .set_modified(time)
        .unwrap();
    bed.assert_equal();
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

#[test]
fn rules_for_names_like_our_own_leave_nothing_of_a_rename_behind() {
    let include: &[&str] = &["+ /app/", "+ /app/**", "+ /app.new/", "+ /app.new/**", "- *"];
    for rules in [&[".*"], &["- /.*"], include] {
        let bed = Bed::new();
        for (seed, folder) in ["app", "app.new"].iter().enumerate() {
            bed.write(&format!("{folder}/deep/file"), &noise(5000, seed as u64));
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(bed.sync_with(excluding(rules)).unwrap().ok);
        let source = bed.path("source");
        std::fs::rename(source.join("app"), source.join("app.old")).unwrap();
        std::fs::rename(source.join("app.new"), source.join("app")).unwrap();
        std::fs::remove_dir_all(source.join("app.old")).unwrap();
        let summary = bed.sync_with(excluding(rules)).unwrap();
        assert!(summary.ok && summary.bytes_data == 0, "{rules:?}: {summary:?}");
        assert_eq!(entries(&bed.target), ["app"], "{rules:?}");
        bed.assert_equal();
        // Two names are swapped over a third one.
        bed.write("app.new/deep/other", &noise(5000, 7));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(bed.sync_with(excluding(rules)).unwrap().ok);
        for (from, to) in [("app", "third"), ("app.new", "app"), ("third", "app.new")] {
            std::fs::rename(source.join(from), source.join(to)).unwrap();
        }
        let summary = bed.sync_with(excluding(rules)).unwrap();
        assert!(summary.ok && summary.bytes_data == 0, "{rules:?}: {summary:?}");
        assert_eq!(entries(&bed.target), ["app", "app.new"], "{rules:?}");
        bed.assert_equal();
    }
}

/// Few names, so that what changes meets what is excluded.
struct Garden {
    dice: Dice,
}

impl Garden {
    fn name(&mut self) -> String {
        ["a", "b", "c", "d", "x.o", "y.o"][self.dice.below(6) as usize].to_owned()
    }

    /// A path of up to four names.
    fn path(&mut self) -> String {
        let names: Vec<String> = (0..=self.dice.below(4)).map(|_| self.name()).collect();
        names.join("/")
    }

    fn rules(&mut self) -> Vec<String> {
        (0..=self.dice.below(3))
            .map(|_| {
                let prefix = ["", "", "", "+ "][self.dice.below(4) as usize];
                let anchor = ["", "/"][self.dice.below(2) as usize];
                let middle = match self.dice.below(4) {
                    0 => "*.o".to_owned(),
                    1 => self.path(),
                    _ => self.name(),
                };
                let end = ["", "", "/", "/*", "/**"][self.dice.below(5) as usize];
                [prefix, anchor, &middle, end].concat()
            })
            .collect()
    }

    /// Makes a file or directory with what is missing above it, unless something else is in the way.
    fn plant(&mut self, roots: &[&Path], seed: u64) -> Option<String> {
        let path = self.path();
        let is_directory = self.dice.below(4) == 0;
        let is_free = roots.iter().all(|root| {
            let mut above = Path::new(&path).ancestors().skip(1);
            std::fs::symlink_metadata(root.join(&path)).is_err()
                && above.all(|above| root.join(above).is_dir() || !root.join(above).exists())
        });
        if !is_free {
            return None;
        }
        for root in roots {
            std::fs::create_dir_all(root.join(&path).parent().unwrap()).unwrap();
            if is_directory {
                std::fs::create_dir(root.join(&path)).unwrap();
            } else {
                std::fs::write(root.join(&path), noise(10 + seed as usize, seed)).unwrap();
            }
        }
        Some(path)
    }

    /// Removes something, or lets it become something else.
    fn change(&mut self, root: &Path, seed: u64) {
        let path = root.join(self.path());
        let Ok(metadata) = std::fs::symlink_metadata(&path) else {
            return;
        };
        if metadata.is_dir() {
            std::fs::remove_dir_all(&path).unwrap();
        } else {
            std::fs::remove_file(&path).unwrap();
        }
        match self.dice.below(3) {
            0 if metadata.is_dir() => std::fs::write(&path, noise(200 + seed as usize, seed)).unwrap(),
            0 => std::fs::create_dir(&path).unwrap(),
            _ => {}
        }
    }
}

/// Paths with the content of files.
type Listing = BTreeMap<String, Option<Vec<u8>>>;

fn listed(root: &Path) -> Listing {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                found.insert(name, None);
                waiting.push(path);
            } else {
                found.insert(name, Some(std::fs::read(path).unwrap()));
            }
        }
    }
    found
}

/// Whether this is the target's own, in a directory that is the source's or the target's own, too.
fn stays_on_purpose(path: &str, before: &Listing, theirs: &Listing, source: &Path) -> bool {
    let mut above: Vec<&Path> = Path::new(path).ancestors().collect();
    above.pop();
    let first = above
        .into_iter()
        .rev()
        .find(|above| !theirs.contains_key(above.to_str().unwrap()));
    first.is_some_and(|first| {
        let parent = first.parent().unwrap();
        let is_copied = |path: &Path| before.contains_key(path.to_str().unwrap());
        !is_copied(first) && (!is_copied(parent) || source.join(parent).is_dir())
    })
}

/// The same source, the same rules and the same target for both. What is the target's own and not excluded stays with us
/// where its directory does, and directories are not renamed: there we differ on purpose.
#[test]
fn what_stays_at_the_target_is_what_rsync_leaves() {
    let (mut kept, mut refused) = (0, 0);
    for seed in 0..16 {
        // Nothing here needs a medium.
        let bed = Bed::within(Path::new("/dev/shm"));
        let (source, theirs) = (bed.path("source"), bed.path("theirs"));
        let mut garden = Garden {
            dice: Dice::new(seed),
        };
        for step in 0..40 {
            garden.plant(&[&source], step);
        }
        let rules = garden.rules();
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let rules_before = if garden.dice.below(2) == 0 {
            &rules[..]
        } else {
            &[]
        };
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert!(bed.sync_with(excluding(rules_before)).unwrap().ok);
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .args([&bed.target, &theirs])
            .status();
        assert!(copied.unwrap().success());
        let before = listed(&bed.target);
        let own: Vec<String> = (100..125)
            .filter_map(|step| garden.plant(&[&bed.target, &theirs], step))
            .collect();
        for step in 0..20 {
            garden.change(&source, step);
            garden.plant(&[&source], 300 + step);
        }
        std::fs::write(bed.path("rules"), rules.join("\n")).unwrap();
        let output = std::process::Command::new("rsync")
            .args(["-a", "--delete", "--exclude-from"])
            .arg(bed.path("rules"))
            .arg(format!("{}/", source.display()))
            .arg(format!("{}/", theirs.display()))
            .output()
            .unwrap();
        assert!(matches!(output.status.code(), Some(0 | 23)), "{output:?}");
        let theirs = listed(&theirs);
        for run in 0..2 {
            let summary = bed.sync_with(excluding(&rules)).unwrap();
            let mut ours = listed(&bed.target);
            ours.retain(|path, _| !stays_on_purpose(path, &before, &theirs, &source));
            let context = format!("seed {seed}, run {run}, rules {rules:?}, own {own:?}, {summary:?}");
            let names = |some: &Listing| some.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&ours), names(&theirs), "{context}");
            assert!(ours == theirs, "{context}");
            refused += u32::from(!summary.ok);
        }
        kept += own.iter().filter(|own| theirs.contains_key(*own)).count();
    }
    // The comparison means something only where rules bite.
    assert!(
        kept > 30 && refused > 4,
        "{kept} entries kept, {refused} runs refused"
    );
}
