//! Each change names the right directory, on each file system; and what cannot be read is never skipped.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::mm::ProtFlags;

use super::*;
use crate::loop_device::{LoopDevice, TestMount, run};
use crate::shared_mapping::SharedMapping;

/// A mounted file system of `kind`, gone when dropped.
pub(super) fn medium(kind: &str) -> (TestMount, LoopDevice) {
    let device = LoopDevice::new(&format!("filter-fanotify-{kind}"), 320 << 20, 512).unwrap();
    let force = if kind == "ext4" { "-F" } else { "-f" };
    run(
        &format!("mkfs.{kind}"),
        [OsStr::new("-q"), OsStr::new(force), device.path.as_os_str()],
    )
    .unwrap();
    let mount = TestMount::new(&format!("filter-fanotify-{kind}"), &device.path, "defaults").unwrap();
    (mount, device)
}

/// Inode numbers of the directories that events named since the last call.
fn named(watch: &mut Watch, mount: &Path) -> BTreeSet<u64> {
    let root = File::open(mount).unwrap();
    let id = file_system_id(&root).unwrap();
    let mut named = BTreeSet::new();
    let mut each = |event| match event {
        Event::Changed { file_system, handle } => {
            assert_eq!(file_system, id);
            if let Some(directory) = handle.open(&root).unwrap() {
                let stat = rustix::fs::fstat(&directory).unwrap();
                assert!(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir());
                named.insert(stat.st_ino);
            }
        }
        other => panic!("{other:?}"),
    };
    while watch.read(&mut each).unwrap() {}
    named
}

type Change = fn(&Path);

const CHANGES: [(&str, &[&str], Change); 19] = [
    ("create", &["a"], |root| {
        fs::write(root.join("a/new"), b"x").unwrap();
    }),
    ("make a directory", &["a"], |root| {
        fs::create_dir(root.join("a/dir")).unwrap();
    }),
    ("write", &["a"], |root| {
        File::options()
            .write(true)
            .open(root.join("a/file"))
            .unwrap()
            .write_all_at(b"y", 0)
            .unwrap();
    }),
    ("truncate", &["a"], |root| truncate(&root.join("a/file"))),
    ("chmod a file", &["a"], |root| {
        fs::set_permissions(root.join("a/file"), fs::Permissions::from_mode(0o600)).unwrap();
    }),
    ("chown", &["a"], |root| {
        std::os::unix::fs::chown(root.join("a/file"), Some(1), Some(1)).unwrap();
    }),
    ("set a time", &["a"], |root| {
        program("touch", &["-d", "@5"], &root.join("a/file"));
    }),
    ("set an attribute", &["a"], |root| {
        program("setfattr", &["-n", "user.x", "-v", "y"], &root.join("a/file"));
    }),
    ("set an ACL", &["a"], |root| {
        program("setfacl", &["-m", "u:5:r"], &root.join("a/file"));
    }),
    ("link", &["b"], |root| {
        fs::hard_link(root.join("a/file"), root.join("b/linked")).unwrap();
    }),
    ("make a symbolic link", &["b"], |root| {
        symlink("x", root.join("b/symlink")).unwrap();
    }),
    ("make a pipe", &["b"], |root| {
        program("mkfifo", &[], &root.join("b/pipe"));
    }),
    ("rename between directories", &["a", "b"], |root| {
        fs::rename(root.join("a/new"), root.join("b/new")).unwrap();
    }),
    ("delete", &["b"], |root| {
        fs::remove_file(root.join("b/new")).unwrap();
    }),
    ("remove a directory", &["a"], |root| {
        fs::remove_dir(root.join("a/dir")).unwrap();
    }),
    ("preallocate", &["a"], |root| {
        program("fallocate", &["-l", "100000"], &root.join("a/file"));
    }),
    ("punch a hole", &["a"], |root| {
        program(
            "fallocate",
            &["-p", "-o", "4096", "-l", "4096"],
            &root.join("a/file"),
        );
    }),
    ("close what was mapped and stored to", &["a"], |root| {
        let file = File::options()
            .read(true)
            .write(true)
            .open(root.join("a/file"))
            .unwrap();
        let mapping = SharedMapping::new(&file, ProtFlags::READ | ProtFlags::WRITE);
        drop(file);
        mapping.store(7);
    }),
    ("rename a directory", &["", "b"], |root| {
        fs::rename(root.join("c"), root.join("b/c")).unwrap();
    }),
];

fn truncate(path: &Path) {
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(8192)
        .unwrap();
}

fn program(name: &str, arguments: &[&str], path: &Path) {
    let output = Command::new(name).args(arguments).arg(path).output().unwrap();
    assert!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn every_change_names_its_directory_on_every_file_system() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let (mount, _device) = medium(kind);
        let root = &mount.point;
        for directory in ["a", "b", "c", "quiet"] {
            fs::create_dir(root.join(directory)).unwrap();
        }
        fs::write(root.join("a/file"), b"x").unwrap();
        let mut watch = Watch::new(Queue::Unlimited).unwrap().unwrap();
        assert!(watch.add(root).unwrap());
        assert_eq!(named(&mut watch, root), BTreeSet::new());
        for (what, wanted, change) in CHANGES {
            change(root);
            let found = named(&mut watch, root);
            for directory in wanted {
                let ino = fs::metadata(root.join(directory)).unwrap().ino();
                assert!(found.contains(&ino), "{kind}: {what} did not name {directory:?}");
            }
            let quiet = fs::metadata(root.join("quiet")).unwrap().ino();
            assert!(
                !found.contains(&quiet),
                "{kind}: {what} named a directory it does not concern"
            );
        }
    }
}

#[test]
fn a_change_of_a_directory_itself_names_it_or_its_parent() {
    let (mount, _device) = medium("ext4");
    fs::create_dir(mount.point.join("a")).unwrap();
    let mut watch = Watch::new(Queue::Unlimited).unwrap().unwrap();
    assert!(watch.add(&mount.point).unwrap());
    fs::set_permissions(mount.point.join("a"), fs::Permissions::from_mode(0o700)).unwrap();
    let inos = ["a", ""].map(|path| fs::metadata(mount.point.join(path)).unwrap().ino());
    let found = named(&mut watch, &mount.point);
    assert!(inos.iter().any(|ino| found.contains(ino)));
}

#[test]
fn a_full_queue_is_told() {
    let (mount, _device) = medium("ext4");
    let mut watch = Watch::new(Queue::Limited).unwrap().unwrap();
    assert!(watch.add(&mount.point).unwrap());
    // One event of each of more directories than the queue holds.
    for index in 0..17_000 {
        let directory = mount.point.join(format!("{index}"));
        fs::create_dir(&directory).unwrap();
        File::create(directory.join("x")).unwrap();
    }
    let mut overflows = 0;
    while watch
        .read(|event| overflows += u32::from(event == Event::Overflow))
        .unwrap()
    {}
    assert_eq!(overflows, 1);
}

#[test]
fn pseudo_file_systems_cannot_be_watched() {
    let watch = Watch::new(Queue::Unlimited).unwrap().unwrap();
    assert!(!watch.add(Path::new("/proc")).unwrap());
    assert!(
        watch
            .add(Path::new("/var/tmp/there-is-no-such-directory"))
            .is_err()
    );
}

#[test]
fn what_cannot_be_read_is_reported_as_broken() {
    let events = |bytes: &[u8]| {
        let mut events = Vec::new();
        parse(bytes, &mut |event| events.push(event));
        events
    };
    let event = |mask: u64, infos: &[u8]| {
        let mut bytes = u32::to_ne_bytes(24 + infos.len() as u32).to_vec();
        bytes.extend_from_slice(&[libc::FANOTIFY_METADATA_VERSION, 0]);
        bytes.extend_from_slice(&24u16.to_ne_bytes());
        bytes.extend_from_slice(&mask.to_ne_bytes());
        bytes.extend_from_slice(&[255; 8]);
        bytes.extend_from_slice(infos);
        bytes
    };
    let info = [
        3, 0, 28, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 0, 0, 0, 1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8,
    ];
    assert!(matches!(
        events(&event(2, &info))[..],
        [Event::Changed {
            file_system: [1, 2, 3, 4, 5, 6, 7, 8],
            ..
        }]
    ));
    assert_eq!(events(&event(libc::FAN_Q_OVERFLOW, &[])), [Event::Overflow]);
    assert_eq!(events(&event(libc::FAN_FS_ERROR, &info)), [Event::Broken]);
    assert_eq!(events(&event(2, &[])), [Event::Broken]);
    assert_eq!(events(&event(2, &info[..27])), [Event::Broken]);
    assert_eq!(events(&event(2, &[3, 0, 0, 0])), [Event::Broken]);
    assert_eq!(events(&[1, 0, 0]), [Event::Broken]);
    assert_eq!(events(&[200, 0, 0, 0]), [Event::Broken]);
    let mut other_version = event(2, &info);
    other_version[4] = 9;
    assert_eq!(events(&other_version), [Event::Broken]);
}
