//! From one kind of file system to another that cannot hold everything: each loss is named, and only losses are.

use std::fs;
use std::path::{Path, PathBuf};

use go2cloud_tests::compare::{Aspect, Options, compare};
use go2cloud_tests::maketree::{everything, set_times};
use go2cloud_tests::medium::{Format, Medium};
use sys::loop_device::{LoopDevice, TestMount};
use transfer::Kind;
use transfer::tree::entry::{Content, Digest, Entry, EntryPath, Meta, Node, Stamp};
use transfer::tree::operation::{Existing, Extent};
use transfer::tree::write::{Refusal, Refused, TreeWriter};

use crate::copier::{Copier, Style};
use crate::programs::run;

/// A file system made with options of its own.
struct Custom {
    mount: TestMount,
    _device: LoopDevice,
}

impl Custom {
    fn ext4(len_mib: u64, options: &[&str]) -> Self {
        let device = LoopDevice::new("g2c-writer", len_mib << 20, 512).unwrap();
        let mut command = std::process::Command::new("mkfs.ext4");
        crate::programs::output_of(command.args(["-q", "-F"]).args(options).arg(&device.path));
        let mount = TestMount::new("g2c-writer", &device.path, "rw").unwrap();
        Self {
            mount,
            _device: device,
        }
    }
}

fn covers(refusal: &Refusal, aspect: Aspect) -> bool {
    match &refusal.what {
        Refused::Xattr(_) | Refused::Xattrs => aspect == Aspect::Xattr,
        Refused::Flags(_) => aspect == Aspect::Flags,
        Refused::Project => aspect == Aspect::Project,
        Refused::Times => aspect == Aspect::Mtime,
        _ => false,
    }
}

/// Copies, and demands that differences and refusals name each other. Returns how many there are.
fn losses_are_named(source: &Path, target: &Path) -> usize {
    let mut copier = Copier::new(source, target);
    for style in [Style::Replace, Style::Rewrite] {
        let refusals = copier.copy(style);
        let options = Options {
            // XFS shows each ACL in its own form as well.
            skip_xattrs: ["trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT"]
                .map(Into::into)
                .to_vec(),
            ..Options::default()
        };
        let report = compare(source, target, options);
        for difference in &report.differences {
            let named = refusals.iter().any(|(path, refusal)| {
                path.as_bytes() == difference.path && covers(refusal, difference.aspect)
            });
            assert!(named, "not named: {difference}");
        }
        for (path, refusal) in &refusals {
            let real = report
                .differences
                .iter()
                .any(|difference| path.as_bytes() == difference.path && covers(refusal, difference.aspect));
            assert!(real, "no loss: {path:?} {} {}", refusal.what, refusal.error);
        }
        if style == Style::Rewrite {
            return refusals.len();
        }
    }
    0
}

#[test]
fn xfs_to_small_inodes_of_ext4() {
    let medium = Medium::new(Format::Xfs, 320).unwrap();
    let source: PathBuf = medium.path().join("source");
    fs::create_dir(&source).unwrap();
    let target = Custom::ext4(64, &["-I", "128"]);
    for (name, seconds, nanoseconds) in [
        ("exact", 1_600_000_000, 0),
        ("fraction", 1_600_000_000, 1),
        ("late", 5_000_000_000, 0),
        ("early", -1_000_000, 0),
    ] {
        fs::write(source.join(name), name).unwrap();
        set_times(&source.join(name), seconds, nanoseconds).unwrap();
    }
    fs::write(source.join("large-attribute"), b"x").unwrap();
    let value = "v".repeat(50_000);
    run!(
        "setfattr",
        "-n",
        "user.large",
        "-v",
        value,
        source.join("large-attribute")
    );
    run!(
        "setfattr",
        "-n",
        "user.small",
        "-v",
        "kept",
        source.join("large-attribute")
    );
    fs::write(source.join("project"), b"x").unwrap();
    run!("chattr", "-p", "7", source.join("project"));
    for name in ["large-attribute", "project", ""] {
        set_times(&source.join(name), 1_600_000_000, 0).unwrap();
    }
    // fraction, late, large attribute, project
    assert_eq!(losses_are_named(&source, &target.mount.point), 4);
    let kept = run!(
        "getfattr",
        "-n",
        "user.small",
        target.mount.point.join("large-attribute")
    );
    assert!(kept.contains("kept"));
}

#[test]
fn btrfs_to_xfs() {
    let (from, to) = (
        Medium::new(Format::Btrfs, 200).unwrap(),
        Medium::new(Format::Xfs, 320).unwrap(),
    );
    let (source, target) = (from.path().join("source"), to.path().join("target"));
    fs::create_dir(&target).unwrap();
    everything(&source, 21, 300).unwrap();
    fs::write(source.join("compressed"), b"").unwrap();
    run!(
        "btrfs",
        "property",
        "set",
        source.join("compressed"),
        "compression",
        "zstd"
    );
    assert!(losses_are_named(&source, &target) >= 3);
}

#[test]
fn ext4_to_xfs_and_back() {
    let (from, to) = (
        Medium::new(Format::Ext4, 200).unwrap(),
        Medium::new(Format::Xfs, 320).unwrap(),
    );
    let (source, target) = (from.path().join("source"), to.path().join("target"));
    fs::create_dir(&target).unwrap();
    everything(&source, 22, 300).unwrap();
    fs::write(source.join("flags"), b"x").unwrap();
    run!("chattr", "+sudtA", source.join("flags"));
    assert_eq!(losses_are_named(&source, &target), 1);
    let flags = run!("lsattr", target.join("flags"));
    let flags = flags.split(' ').next().unwrap();
    assert!(flags.contains('d') && flags.contains('A'), "{flags}");
    let back = from.path().join("back");
    fs::create_dir(&back).unwrap();
    assert_eq!(losses_are_named(&target, &back), 0);
}

#[test]
fn a_full_medium_ends_the_session_and_room_lets_it_go_on() {
    let target = Custom::ext4(16, &["-I", "256", "-m", "0"]);
    let mut writer = TreeWriter::open(&target.mount.point).unwrap();
    let data = vec![7; 1 << 20];
    let mut put = |index: u32| {
        let content = Content {
            len: data.len() as u64,
            digest: Digest::default(),
            chunk_log2: 0,
        };
        let entry = Entry {
            path: EntryPath::parse(format!("folder/file-{index}")).unwrap(),
            stamp: Stamp::default(),
            meta: Meta::default(),
            node: Node::File(content),
        };
        let extents = [Extent {
            offset: 0,
            len: data.len() as u32,
        }];
        writer.put_file(&entry, &extents, &data, Existing::Replace)
    };
    let (full, error) = (0..100)
        .find_map(|index| put(index).err().map(|error| (index, error)))
        .unwrap();
    assert!(full > 5, "{full}: {error}");
    assert_eq!(error.kind(), Kind::Medium);
    let message = error.to_string();
    assert!(
        message.contains(&format!("folder/file-{full}")) && message.contains("free space"),
        "{message}"
    );
    fs::remove_file(target.mount.point.join("folder/file-0")).unwrap();
    assert!(put(full).unwrap().is_empty());
    let written = fs::read(target.mount.point.join(format!("folder/file-{full}"))).unwrap();
    assert!(written == data);
}
