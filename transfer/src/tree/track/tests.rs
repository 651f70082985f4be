//! The tracker on real file systems: what it names, what it doubts, and that nothing gets lost.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use sys::loop_device::{LoopDevice, TestMount, run};

use super::*;

fn busy() -> HashMap<FileId, PathBuf> {
    sys::open_files::open_for_write().unwrap()
}

/// A mounted file system of `kind`, gone when dropped.
fn medium(kind: &str) -> (TestMount, LoopDevice) {
    let name = format!("filter-track-{kind}");
    let device = LoopDevice::new(&name, 320 << 20, 512).unwrap();
    let force = if kind == "ext4" { "-F" } else { "-f" };
    run(
        &format!("mkfs.{kind}"),
        [OsStr::new("-q"), OsStr::new(force), device.path.as_os_str()],
    )
    .unwrap();
    (TestMount::new(&name, &device.path, "defaults").unwrap(), device)
}

fn shell(script: &str, directory: &Path) {
    let output = Command::new("sh")
        .args(["-ec", script])
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn path(path: &str) -> EntryPath {
    EntryPath::parse(path.as_bytes()).unwrap()
}

/// Takes without mounts; fails on any doubt, and settles.
fn names(tracker: &mut Tracker) -> Vec<String> {
    let changes = tracker.take(&[], &busy()).unwrap();
    assert_eq!(changes.sweeps, []);
    tracker.settle();
    changes.directories.iter().map(EntryPath::display).collect()
}

#[test]
fn changes_are_named_by_present_paths() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let (mount, _device) = medium(kind);
        let root = mount.point.as_path();
        shell("mkdir -p a/deep/er b quiet gone; touch a/file b/file", root);
        let mut tracker = Tracker::attach(root, &[]).unwrap().unwrap();
        assert_eq!(names(&mut tracker), [""; 0]);

        shell("echo x >> a/file; mkdir b/new; touch b/new/inside", root);
        assert_eq!(names(&mut tracker), ["a", "b", "b/new"], "{kind}");
        assert_eq!(names(&mut tracker), [""; 0]);

        // What happened before a rename is found where it is now; the renamed directory is new to its parent.
        shell("touch a/deep/er/file; mv a/deep b/moved", root);
        assert_eq!(names(&mut tracker), ["a", "b", "b/moved/er"], "{kind}");

        // What is gone is its parent's business; a directory that takes its place is named.
        shell("touch gone/file; rm -r gone", root);
        assert_eq!(names(&mut tracker), ["."], "{kind}");
        shell("mkdir gone; touch gone/file", root);
        assert_eq!(names(&mut tracker), [".", "gone"], "{kind}");

        // Metadata of a directory: the directory or its parent is named.
        shell("chmod 700 quiet", root);
        let found = names(&mut tracker);
        assert!(
            found == ["quiet"] || found == ["."] || found == [".", "quiet"],
            "{kind}: {found:?}"
        );

        // Until settled, the same again.
        shell("touch a/another", root);
        let first = tracker.take(&[], &busy()).unwrap().directories;
        shell("touch b/another", root);
        let second = tracker.take(&[], &busy()).unwrap().directories;
        assert_eq!(
            (first, second),
            (vec![path("a")], vec![path("a"), path("b")]),
            "{kind}"
        );
    }
}

#[test]
fn open_files_are_named_in_every_round_and_mounts_can_be_unmounted() {
    let (mount, _device) = medium("ext4");
    let root = mount.point.as_path();
    shell("mkdir a b; echo x > a/log", root);
    let mut tracker = Tracker::attach(root, &[]).unwrap().unwrap();
    let log = File::options().append(true).open(root.join("a/log")).unwrap();
    for _ in 0..2 {
        let changes = tracker.take(&[], &busy()).unwrap();
        tracker.settle();
        assert_eq!(changes.directories, [path("a")]);
    }
    fs::rename(root.join("a/log"), root.join("b/log.1")).unwrap();
    names(&mut tracker);
    assert_eq!(names(&mut tracker), ["b"]);
    fs::remove_file(root.join("b/log.1")).unwrap();
    names(&mut tracker);
    assert_eq!(names(&mut tracker), [""; 0]);
    drop(log);
    names(&mut tracker);
    run("umount", [root.as_os_str()]).unwrap();
    assert!(fs::metadata(root).unwrap().ino() != 2);
}

#[test]
fn a_subvolume_of_btrfs_is_seen() {
    let (mount, _device) = medium("btrfs");
    let root = mount.point.as_path();
    shell("btrfs -q subvolume create sub; mkdir sub/a", root);
    let mut tracker = Tracker::attach(root, &[]).unwrap().unwrap();
    let file = File::create(root.join("sub/a/file")).unwrap();
    assert_eq!(names(&mut tracker), ["sub/a"]);
    assert_eq!(names(&mut tracker), ["sub/a"], "it is still open");
    drop(file);
    assert_eq!(names(&mut tracker), ["sub/a"]);
}

#[test]
fn subvolumes_mounted_apart_are_told_apart() {
    let (top, device) = medium("btrfs");
    shell(
        "for name in root home; do btrfs -q subvolume create @$name; done; mkdir -p @root/home @root/a @home/b",
        &top.point,
    );
    let root = TestMount::new("filter-track-subvolume", &device.path, "subvol=@root").unwrap();
    let home = root.point.join("home");
    run(
        "mount",
        [
            "-o".as_ref(),
            "subvol=@home".as_ref(),
            device.path.as_os_str(),
            home.as_os_str(),
        ],
    )
    .unwrap();
    let unmount = scopeguard(home);
    let mounts = [path("home")];
    // Kernels before 6.8 cannot watch a subvolume: a sweep, then.
    if let Some(mut tracker) = Tracker::attach(&root.point, &mounts).unwrap() {
        let open = File::create(root.point.join("home/b/open")).unwrap();
        shell("touch a/x home/b/y", &root.point);
        for expected in [&[path("a"), path("home/b")][..], &[path("home/b")]] {
            let changes = tracker.take(&mounts, &busy()).unwrap();
            assert_eq!(
                (&changes.directories[..], &changes.sweeps[..]),
                (expected, &[][..])
            );
            tracker.settle();
        }
        drop(open);
    }
    drop(unmount);
}

#[test]
fn a_volume_that_is_a_part_of_its_file_system_hears_only_of_itself() {
    let (mount, _device) = medium("ext4");
    shell("mkdir -p data/a other", &mount.point);
    let mut tracker = Tracker::attach(&mount.point.join("data"), &[]).unwrap().unwrap();
    let _open = File::create(mount.point.join("other/file")).unwrap();
    shell("touch data/a/x", &mount.point);
    assert_eq!(names(&mut tracker), ["a"]);

    // The same through a bind mount of the part.
    let bound = TestMount::new("filter-track-bind", &mount.point.join("data"), "bind").unwrap();
    let mut tracker = Tracker::attach(&bound.point, &[]).unwrap().unwrap();
    let _open_inside = File::create(mount.point.join("data/a/open")).unwrap();
    shell("touch data/a/y other/y; mkdir other/dir", &mount.point);
    assert_eq!(names(&mut tracker), ["a"]);
}

#[test]
fn mounts_inside_the_volume_are_followed() {
    let (mount, _device) = medium("ext4");
    let root = mount.point.as_path();
    shell("mkdir -p a mnt/bound", root);
    let inner = {
        let (inner, device) = medium("xfs");
        run(
            "mount",
            [
                "--bind".as_ref(),
                inner.point.as_os_str(),
                root.join("mnt").as_os_str(),
            ],
        )
        .unwrap();
        (inner, device)
    };
    let unmount = scopeguard(root.join("mnt"));
    let mounts = [path("mnt")];
    let mut tracker = Tracker::attach(root, &mounts).unwrap().unwrap();
    assert!(tracker.watches(&path("")) && tracker.watches(&path("mnt")) && !tracker.watches(&path("a")));
    shell("touch a/x mnt/y", root);
    assert_eq!(
        tracker.take(&mounts, &busy()).unwrap().directories,
        [path("a"), path("mnt")]
    );
    tracker.settle();

    // A file system that appears later is swept once; an unwatchable one always.
    shell(
        "mkdir mnt/tmp mnt/pseudo; mount -t tmpfs none mnt/tmp; mount -t proc none mnt/pseudo",
        root,
    );
    let more = [path("mnt"), path("mnt/tmp"), path("mnt/pseudo")];
    let sweep = |of: &str, reason| Sweep {
        path: path(of),
        reason,
    };
    let changes = tracker.take(&more, &busy()).unwrap();
    assert_eq!(changes.directories, [path("mnt")]);
    assert_eq!(
        changes.sweeps,
        [
            sweep("mnt/tmp", Doubt::NewlyMounted),
            sweep("mnt/pseudo", Doubt::Unwatched)
        ]
    );
    tracker.settle();
    shell("touch mnt/tmp/file", root);
    let changes = tracker.take(&more, &busy()).unwrap();
    assert_eq!(changes.directories, [path("mnt/tmp")]);
    assert_eq!(changes.sweeps, [sweep("mnt/pseudo", Doubt::Unwatched)]);
    drop(tracker);
    shell("umount mnt/tmp; umount mnt/pseudo", root);
    drop((unmount, inner));
}

/// As an automount does that nobody uses for a while.
#[test]
fn what_was_unmounted_and_mounted_again_is_swept_and_watched_anew() {
    let (outer, _outer_device) = medium("ext4");
    let root = outer.point.as_path();
    for kind in ["ext4", "btrfs"] {
        let device = LoopDevice::new("filter-track-again", 320 << 20, 512).unwrap();
        let force = if kind == "ext4" { "-F" } else { "-f" };
        let options = ["-q".as_ref(), force.as_ref(), device.path.as_os_str()];
        run(&format!("mkfs.{kind}"), options).unwrap();
        let point = root.join("again");
        fs::create_dir_all(&point).unwrap();
        let mount = || run("mount", [device.path.as_os_str(), point.as_os_str()]).unwrap();
        mount();
        let unmount = scopeguard(point.clone());
        let mounts = [path("again")];
        let mut tracker = Tracker::attach(root, &mounts).unwrap().unwrap();
        assert_eq!(tracker.take(&mounts, &busy()).unwrap().sweeps, []);
        tracker.settle();
        run("umount", [point.as_os_str()]).unwrap();
        mount();
        shell("touch again/unseen", root);
        let changes = tracker.take(&mounts, &busy()).unwrap();
        let again = Sweep {
            path: path("again"),
            reason: Doubt::NewlyMounted,
        };
        assert_eq!(changes.sweeps, [again], "{kind}");
        tracker.settle();
        shell("touch again/seen", root);
        let changes = tracker.take(&mounts, &busy()).unwrap();
        assert_eq!(
            (&changes.sweeps[..], &changes.directories[..]),
            (&[][..], &mounts[..]),
            "{kind}"
        );
        drop((tracker, unmount));
    }
}

#[test]
fn nothing_is_looked_at_twice() {
    let path = |name: &str| EntryPath::parse(name).unwrap();
    let sweep = |name: &str| Sweep {
        path: path(name),
        reason: Doubt::Overflow,
    };
    let changes = Changes {
        directories: ["b", "b/deep/er", "mnt/inner/x"].map(path).to_vec(),
        sweeps: vec![sweep("mnt"), sweep("mnt/inner"), sweep("mnt too")],
        ..Changes::default()
    };
    let places = HashSet::from(["a/log", "b", "mnt", "mnt/inner/y"].map(path));
    let changes = changes.with(&places);
    assert_eq!(changes.directories, ["", "a", "b", "a/log"].map(path));
    assert_eq!(changes.sweeps, ["mnt", "mnt too"].map(sweep));
}

/// Unmounts on drop, also when a test fails; lazily, with what is mounted below.
fn scopeguard(point: PathBuf) -> impl Drop {
    struct Unmount(PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = Command::new("umount").args(["-R", "-l"]).arg(&self.0).status();
        }
    }
    Unmount(point)
}

#[test]
fn lost_events_and_too_many_directories_are_doubts_that_last_until_settled() {
    let (mount, _device) = medium("ext4");
    let root = mount.point.as_path();
    let mut tracker = Tracker::attach_with(root, &[], Queue::Limited, 1 << 20)
        .unwrap()
        .unwrap();
    let held = tracker.gatherer.hold();
    for index in 0..17_000 {
        fs::create_dir(root.join(format!("{index}"))).unwrap();
        fs::write(root.join(format!("{index}/x")), b"").unwrap();
    }
    drop(held);
    for _ in 0..2 {
        let changes = tracker.take(&[], &busy()).unwrap();
        assert_eq!(
            changes.sweeps,
            [Sweep {
                path: EntryPath::root(),
                reason: Doubt::Overflow
            }]
        );
        assert_eq!(changes.directories, [], "the sweep covers them");
    }
    tracker.settle();
    shell("touch 7/y", root);
    assert_eq!(names(&mut tracker), ["7"]);

    let mut tracker = Tracker::attach_with(root, &[], Queue::Unlimited, 10)
        .unwrap()
        .unwrap();
    shell("for i in $(seq 20); do touch $i/z; done", root);
    let changes = tracker.take(&[], &busy()).unwrap();
    assert_eq!(
        changes.sweeps,
        [Sweep {
            path: EntryPath::root(),
            reason: Doubt::TooMany
        }]
    );
    tracker.settle();
    shell("touch 7/y", root);
    assert_eq!(names(&mut tracker), ["7"]);
}

#[test]
fn containers_are_swept_and_overlayfs_itself_is_not_watched() {
    let (mount, _device) = medium("ext4");
    let root = mount.point.as_path();
    shell("mkdir lower work upper merged a", root);
    shell(
        "mount -t overlay none -o lowerdir=lower,upperdir=$PWD/upper,workdir=$PWD/work merged",
        root,
    );
    let unmount = scopeguard(root.join("merged"));
    assert!(Tracker::attach(&root.join("merged"), &[]).unwrap().is_none());
    let mut tracker = Tracker::attach(root, &[]).unwrap().unwrap();
    shell("echo x > merged/file; touch a/file", root);
    let changes = tracker.take(&[], &busy()).unwrap();
    assert_eq!(
        changes.sweeps,
        [Sweep {
            path: path("upper"),
            reason: Doubt::Overlay
        }]
    );
    assert!(changes.directories.contains(&path("a")) && !changes.directories.contains(&path("upper")));
    drop(unmount);
}

#[test]
fn nothing_gets_lost_while_rounds_and_changes_race() {
    let (mount, _device) = medium("ext4");
    let root = mount.point.as_path();
    for index in 0..300 {
        fs::create_dir(root.join(format!("{index}"))).unwrap();
    }
    let mut tracker = Tracker::attach(root, &[]).unwrap().unwrap();
    let mut touched = HashSet::new();
    let mut named = HashSet::new();
    std::thread::scope(|scope| {
        let changer = scope.spawn(|| {
            (0..3000u64)
                .map(|step| {
                    let directory = step.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
                    let directory = format!("{}", directory % 300);
                    fs::write(root.join(&directory).join("file"), step.to_string()).unwrap();
                    directory
                })
                .collect::<HashSet<_>>()
        });
        while !changer.is_finished() {
            named.extend(names(&mut tracker));
        }
        touched.extend(changer.join().unwrap());
    });
    named.extend(names(&mut tracker));
    assert!(touched.len() > 250);
    assert_eq!(
        touched.difference(&named).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
}
