//! The cutover of a tree: what the target holds is the state of one moment, whatever was going on.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use sys::loop_device::{LoopDevice, TestMount, run};
use transfer::progress::{Event, Observer};
use transfer::source::{Freeze, Lead, Next, Rounds, SourceVolume, Standing, SyncPlan};

use super::bed::{Bed, noise};

/// Files that get numbers in turn, on both file systems.
const FILES: usize = 8;

/// A tree of two file systems, with the state folder on the one that freezes last.
struct Tree {
    bed: Bed,
    inner: Option<TestMount>,
    outer: Option<TestMount>,
    _devices: [LoopDevice; 2],
}

impl Drop for Tree {
    fn drop(&mut self) {
        // In this order.
        drop(self.inner.take());
        drop(self.outer.take());
    }
}

impl Tree {
    fn new() -> Self {
        let device = |mebibytes: u64| {
            let device = LoopDevice::new("g2c-tree-freeze", mebibytes << 20, 512).unwrap();
            run("mkfs.ext4", ["-q".as_ref(), device.path.as_os_str()]).unwrap();
            device
        };
        let devices = [device(64), device(32)];
        let mount =
            |device: &LoopDevice| TestMount::new("g2c-tree-freeze", &device.path, "relatime").unwrap();
        let (outer, inner) = (mount(&devices[0]), mount(&devices[1]));
        let point = outer.point.join("source/inner");
        std::fs::create_dir_all(&point).unwrap();
        run(
            "mount",
            ["--move".as_ref(), inner.point.as_os_str(), point.as_os_str()],
        )
        .unwrap();
        std::fs::remove_dir(&inner.point).unwrap();
        Self {
            bed: Bed::new(),
            inner: Some(TestMount { point }),
            outer: Some(outer),
            _devices: devices,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.outer.as_ref().unwrap().point.join(name)
    }

    /// Places for the writer's files.
    fn places(root: &Path) -> [PathBuf; FILES] {
        std::array::from_fn(|at| match at % 4 {
            0 => root.join(format!("one/{at}")),
            1 => root.join(format!("two/{at}")),
            2 => root.join(format!("inner/three/{at}")),
            _ => root.join(format!("{at}")),
        })
    }

    fn fill(&self) {
        let source = self.path("source");
        for name in ["one", "two", "inner/three"] {
            std::fs::create_dir(source.join(name)).unwrap();
        }
        for index in 0..400 {
            let folder = source.join(format!("{}still/{}", ["", "inner/"][index % 2], index % 9));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(index.to_string()), noise(index * 13, index as u64)).unwrap();
        }
    }

    fn adjust(&self, plan: &mut SyncPlan, freeze: Freeze) {
        plan.state = self.path("state");
        plan.rounds = Rounds::Count(2);
        let SourceVolume::Tree(tree) = &mut plan.volume else {
            unreachable!()
        };
        tree.root = self.path("source");
        tree.cross_mounts = true;
        tree.freeze = Some(freeze);
    }
}

fn freeze(max: Duration) -> Freeze {
    Freeze {
        max,
        before: None,
        after: None,
    }
}

/// Writes numbers to its files in turn, each durable before the next; now and then two directories change places.
/// `done` is how many are durable.
fn write_numbers(root: &Path, stop: &AtomicBool, done: &AtomicU64) {
    let mut files = Tree::places(root).map(|path| File::create(path).unwrap());
    while !stop.load(Ordering::Acquire) {
        let number = done.load(Ordering::Acquire);
        let file = &mut files[number as usize % FILES];
        file.write_all(&number.to_le_bytes()).unwrap();
        file.sync_data().unwrap();
        done.store(number + 1, Ordering::Release);
        if number.is_multiple_of(5) {
            let (one, two) = (root.join("one"), root.join("two"));
            renameat_with(CWD, one, CWD, two, RenameFlags::EXCHANGE).unwrap();
        }
    }
}

/// All numbers in the files below, sorted.
fn numbers(root: &Path) -> Vec<u64> {
    let mut found = Vec::new();
    for path in Tree::places(root) {
        // One of the two that change places.
        let other = path
            .to_string_lossy()
            .replace("/one/", "/\0/")
            .replace("/two/", "/one/");
        let path = if path.exists() {
            path
        } else {
            other.replace("/\0/", "/two/").into()
        };
        let file = File::open(&path).unwrap();
        let len = file.metadata().unwrap().len();
        assert_eq!(len % 8, 0, "{path:?} ends in the middle of a number");
        for at in (0..len).step_by(8) {
            let mut number = [0; 8];
            file.read_exact_at(&mut number, at).unwrap();
            found.push(u64::from_le_bytes(number));
        }
    }
    found.sort_unstable();
    found
}

/// Remembers how the rounds looked, what was written when each began, and what was warned of.
#[derive(Default)]
struct Listener {
    written: AtomicU64,
    rounds: Mutex<Vec<(bool, u64)>>,
    warnings: Mutex<Vec<String>>,
}

impl Observer for Listener {
    fn event(&self, event: &Event) {
        match event {
            Event::RoundStarted { tracked, .. } => {
                let written = self.written.load(Ordering::Acquire);
                self.rounds.lock().unwrap().push((*tracked, written));
            }
            Event::Warning { message } => self.warnings.lock().unwrap().push(message.clone()),
            _ => {}
        }
    }
}

#[test]
fn a_tree_that_is_written_to_is_cut_over_at_one_moment() {
    let tree = Tree::new();
    tree.fill();
    let source = tree.path("source");
    let (stop, listener) = (AtomicBool::new(false), Listener::default());
    let summary = std::thread::scope(|scope| {
        scope.spawn(|| write_numbers(&source, &stop, &listener.written));
        let summary = tree.bed.sync_observed(&listener, |plan| {
            tree.adjust(plan, freeze(Duration::from_secs(15)));
        });
        // The writer goes on after the thaw.
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Release);
        summary
    });
    let summary = summary.unwrap();
    assert!(summary.ok && summary.frozen_ms.is_some(), "{summary:?}");
    let rounds = listener.rounds.into_inner().unwrap();
    let copied = numbers(&tree.bed.target);
    let expected: Vec<u64> = (0..copied.len() as u64).collect();
    assert_eq!(copied, expected, "the files are of different moments: {rounds:?}");
    // The frozen round is announced right before the freeze: what was durable then is there, and what came after the thaw
    // is not.
    let (before, after) = (rounds.last().unwrap().1, listener.written.into_inner());
    let count = copied.len() as u64;
    assert!(before <= count && count < after, "{before} {count} {after}");
    let tracked: Vec<bool> = rounds.iter().map(|(tracked, _)| *tracked).collect();
    assert_eq!(tracked[..2], [false, false], "{tracked:?}");
    assert!(
        tracked.len() >= 4 && tracked[2..].iter().all(|one| *one),
        "{tracked:?}"
    );
    for folder in ["still", "inner/still"] {
        let command = ["-r", "--no-dereference"].map(str::to_owned);
        let folders = [source.join(folder), tree.bed.target.join(folder)];
        let diff = std::process::Command::new("diff")
            .args(command)
            .args(folders)
            .output()
            .unwrap();
        assert!(diff.status.success(), "{diff:?}");
    }
}

#[test]
fn where_nothing_tracks_changes_a_walk_that_takes_too_long_is_refused_before_any_freeze() {
    let tree = Tree::new();
    tree.fill();
    // One file system at two places: no event tells which of them changed.
    let again = tree.path("source/again");
    std::fs::create_dir(&again).unwrap();
    let inner = tree.path("source/inner");
    run("mount", ["--bind".as_ref(), inner.as_os_str(), again.as_os_str()]).unwrap();
    let mark = tree.path("thawed");
    let listener = Listener::default();
    let result = tree.bed.sync_observed(&listener, |plan| {
        let hurried = Freeze {
            after: Some(format!("touch {}", mark.display())),
            ..freeze(Duration::from_millis(101))
        };
        tree.adjust(plan, hurried);
    });
    let marked = mark.exists();
    // With the time that it takes it is frozen nevertheless.
    let done = tree.bed.sync_observed(&listener, |plan| {
        tree.adjust(plan, freeze(Duration::from_secs(15)));
    });
    run("umount", [again.as_os_str()]).unwrap();
    let error = result.unwrap_err();
    let text = error.describe();
    assert!(
        error.kind() == transfer::Kind::Usage
            && text.contains("--freeze-max")
            && text.contains("walk over everything"),
        "{text}"
    );
    assert!(!marked, "the command after the freeze ran without one");
    let done = done.unwrap();
    assert!(done.ok && done.frozen_ms.is_some(), "{done:?}");
    let rounds = listener.rounds.into_inner().unwrap();
    assert!(rounds.iter().all(|(tracked, _)| !tracked), "{rounds:?}");
    let warnings = listener.warnings.into_inner().unwrap();
    assert!(
        warnings
            .iter()
            .any(|warning| warning.contains("nothing tracks changes")),
        "{warnings:?}"
    );
    let diff = std::process::Command::new("diff")
        .args(["-r", "--exclude", "lost+found"])
        .args([tree.path("source/still"), tree.bed.target.join("still")])
        .output()
        .unwrap();
    assert!(diff.status.success(), "{diff:?}");
}

/// Leads through a moment before the end, looks at what the target holds then, and changes something before every round.
struct ThroughMoment<'a> {
    tree: &'a Tree,
    handed_over: PathBuf,
    steps: Mutex<Vec<Next>>,
    tracked: Mutex<Vec<bool>>,
}

impl Lead for ThroughMoment<'_> {
    fn next(&self, standing: Standing) -> transfer::Result<Next> {
        let mut steps = self.steps.lock().unwrap();
        let content = |root: PathBuf| std::fs::read_to_string(root.join("one/step")).unwrap();
        if steps.len() == 2 {
            let held = content(self.tree.bed.target.clone());
            assert_eq!(
                held,
                content(self.tree.path("source")),
                "the state of that moment"
            );
            assert!(
                !self.handed_over.exists(),
                "nobody's services were stopped for it"
            );
        }
        let step = format!("before step {} of {standing:?}", steps.len());
        std::fs::write(self.tree.path("source/one/step"), step).unwrap();
        Ok(steps.pop().unwrap())
    }
}

impl Observer for ThroughMoment<'_> {
    fn event(&self, event: &Event) {
        if let Event::RoundStarted { tracked, .. } = event {
            self.tracked.lock().unwrap().push(*tracked);
        }
    }
}

#[test]
fn a_led_run_makes_a_moment_without_commands_and_tracks_until_its_last_round() {
    let tree = Tree::new();
    tree.fill();
    let handed_over = tree.bed.path("handed over");
    let lead = ThroughMoment {
        tree: &tree,
        handed_over: handed_over.clone(),
        steps: Mutex::new(vec![Next::Last, Next::Round, Next::Moment, Next::Round]),
        tracked: Mutex::default(),
    };
    let summary = tree.bed.sync_led(Some(&lead), &lead, |plan| {
        let command = format!("touch '{}'", handed_over.display());
        tree.adjust(
            plan,
            Freeze {
                before: Some(command),
                ..freeze(Duration::from_secs(15))
            },
        );
    });
    let summary = summary.unwrap();
    assert!(summary.ok && summary.frozen_ms.is_some(), "{summary:?}");
    assert!(handed_over.exists());
    let tracked = lead.tracked.into_inner().unwrap();
    // The first, those of the moment and one more, the last before the cutover, and those of the cutover.
    assert!(!tracked[0], "{tracked:?}");
    assert_eq!(
        tracked.iter().filter(|tracked| !**tracked).count(),
        2,
        "{tracked:?}"
    );
    let last = tracked.iter().rposition(|tracked| !tracked).unwrap();
    assert!(last >= 3, "{tracked:?}");
    let held = std::fs::read(tree.bed.target.join("one/step")).unwrap();
    assert!(held.starts_with(b"before step 1 "));
}

/// Two names of one file in different directories of `root`, one of which nothing else happens in.
fn two_names(root: &Path) -> [PathBuf; 2] {
    let names = ["quiet/x/file", "quiet/y/other"].map(|name| root.join(name));
    for name in &names {
        std::fs::create_dir_all(name.parent().unwrap()).unwrap();
    }
    std::fs::write(&names[0], b"before").unwrap();
    std::fs::hard_link(&names[0], &names[1]).unwrap();
    names
}

/// Asserts that both names are one file at the target, with what was written last.
fn assert_one_file(target: &Path) {
    use std::os::unix::fs::MetadataExt;
    let names = ["quiet/x/file", "quiet/y/other"].map(|name| target.join(name));
    let inodes = names
        .each_ref()
        .map(|name| std::fs::metadata(name).unwrap().ino());
    assert_eq!(inodes[0], inodes[1]);
    for name in names {
        assert_eq!(std::fs::read_to_string(&name).unwrap(), "after\n", "{name:?}");
    }
}

#[test]
fn a_change_through_one_of_several_names_on_a_mounted_file_system_is_found_in_the_frozen_round() {
    let tree = Tree::new();
    tree.fill();
    let [name, _] = two_names(&tree.path("source/inner"));
    std::thread::sleep(Duration::from_millis(50));
    let change = Freeze {
        before: Some(format!("echo after > {}", name.display())),
        ..freeze(Duration::from_secs(15))
    };
    let summary = tree.bed.sync_with(|plan| tree.adjust(plan, change)).unwrap();
    assert!(summary.ok && summary.frozen_ms.is_some(), "{summary:?}");
    assert_one_file(&tree.bed.target.join("inner"));
}

#[test]
fn a_change_through_one_of_several_names_in_a_subvolume_is_found_in_the_frozen_round() {
    use go2cloud_tests::medium::{Format, Medium};
    let medium = Medium::new(Format::Btrfs, 320).unwrap();
    let bed = Bed::new();
    let source = medium.path();
    let subvolume = source.join("sub");
    run(
        "btrfs",
        ["subvolume", "create"]
            .map(AsRef::as_ref)
            .into_iter()
            .chain([subvolume.as_os_str()]),
    )
    .unwrap();
    let [name, _] = two_names(&subvolume);
    std::thread::sleep(Duration::from_millis(50));
    let summary = bed.sync_with(|plan| {
        plan.rounds = Rounds::Count(2);
        let SourceVolume::Tree(tree) = &mut plan.volume else {
            unreachable!()
        };
        tree.root = source;
        tree.freeze = Some(Freeze {
            before: Some(format!("echo after > {}", name.display())),
            ..freeze(Duration::from_secs(15))
        });
    });
    let summary = summary.unwrap();
    assert!(summary.ok && summary.frozen_ms.is_some(), "{summary:?}");
    assert_one_file(&bed.target.join("sub"));
}

#[test]
fn what_could_not_be_read_is_named_although_nothing_of_it_changed_before_the_frozen_round() {
    use go2cloud_tests::medium::{Format, Medium};
    use rustix::fs::{XattrFlags, setxattr};
    let medium = Medium::new(Format::Xfs, 320).unwrap();
    let bed = Bed::new();
    let laden = medium.path().join("deep/laden");
    std::fs::create_dir(medium.path().join("deep")).unwrap();
    for name in [&laden, &medium.path().join("plain")] {
        std::fs::write(name, b"x").unwrap();
    }
    // More than one entry can carry.
    let names: Vec<String> = (0..34).map(|number| format!("user.{number}")).collect();
    for name in &names {
        setxattr(&laden, name, &[7; 65_000], XattrFlags::empty()).unwrap();
    }
    let frozen = |bed: &Bed, before: Option<String>| {
        let summary = bed.sync_with(|plan| {
            plan.rounds = Rounds::Count(2);
            let SourceVolume::Tree(tree) = &mut plan.volume else {
                unreachable!()
            };
            tree.root = medium.path();
            tree.freeze = Some(Freeze {
                before,
                ..freeze(Duration::from_secs(15))
            });
        });
        summary.unwrap()
    };
    let summary = frozen(&bed, None);
    assert!(
        !summary.ok && summary.skipped[0].path == "deep/laden",
        "{summary:?}"
    );
    assert!(!bed.target.join("deep/laden").exists());
    // What could be read in the frozen round is no failure.
    let relieved = names
        .iter()
        .map(|name| format!("setfattr -x {name} {}", laden.display()));
    let relieve = relieved.collect::<Vec<_>>().join(" && ");
    let summary = frozen(&bed, Some(relieve));
    assert!(summary.ok, "{summary:?}");
    assert!(bed.target.join("deep/laden").exists());
}
