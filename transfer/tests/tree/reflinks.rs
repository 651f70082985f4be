//! Files that share blocks at the source share them at the target, where it can.

use std::fs;
use std::process::Command;

use go2cloud_tests::dice::Dice;
use go2cloud_tests::medium::{Format, Medium};
use transfer::source::SourceVolume;

use super::bed::Bed;

const LEN: usize = 24 << 20;

fn run(program: &str, arguments: &[&std::ffi::OsStr]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Bytes in use on the file system, all of it written out.
fn used(medium: &Medium) -> u64 {
    run("sync", &["-f".as_ref(), medium.path().as_os_str()]);
    let status = rustix::fs::statvfs(medium.path()).unwrap();
    (status.f_blocks - status.f_bfree) * status.f_frsize
}

/// One file whole, one but for a changed part, one with a part of it and of its own, a small one, and one that shares within
/// itself.
fn plant(source: &std::path::Path) {
    let mut content = vec![0; LEN];
    Dice::new(3).fill(&mut content);
    fs::write(source.join("image"), &content).unwrap();
    fs::write(source.join("small"), &content[..40_000]).unwrap();
    for (from, to) in [("image", "copy"), ("image", "changed"), ("small", "small copy")] {
        let (from, to) = (source.join(from), source.join(to));
        run(
            "cp",
            &["--reflink=always".as_ref(), from.as_os_str(), to.as_os_str()],
        );
    }
    let changed = fs::File::options()
        .write(true)
        .open(source.join("changed"))
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&changed, &[7; 1 << 20], 5 << 20).unwrap();
    let (image, part) = (source.join("image"), source.join("part"));
    let command = format!("reflink {} {} {} {}", image.display(), 8 << 20, 4 << 20, 2 << 20);
    run(
        "xfs_io",
        &["-f".as_ref(), "-c".as_ref(), command.as_ref(), part.as_os_str()],
    );
}

fn bed_on(source: &Medium, target: &Medium) -> Bed {
    let mut bed = Bed::new();
    bed.target = target.path().join("target");
    fs::create_dir(&bed.target).unwrap();
    fs::create_dir(source.path().join("source")).unwrap();
    plant(&source.path().join("source"));
    run("sync", &["-f".as_ref(), source.path().as_os_str()]);
    std::thread::sleep(std::time::Duration::from_millis(60));
    bed
}

fn shared_extents(path: &std::path::Path) -> bool {
    run("filefrag", &["-v".as_ref(), path.as_os_str()]).contains("shared")
}

#[test]
fn blocks_are_shared_again_on_xfs_and_btrfs() {
    for format in [Format::Xfs, Format::Btrfs] {
        let media = [(); 2].map(|()| Medium::new(format, 400).unwrap());
        let bed = bed_on(&media[0], &media[1]);
        let source = media[0].path().join("source");
        let before = used(&media[1]);
        let summary = bed
            .sync_with(|plan| {
                let SourceVolume::Tree(tree) = &mut plan.volume else {
                    unreachable!()
                };
                tree.root = source.clone();
            })
            .unwrap();
        assert!(summary.ok, "{format:?}: {summary:?}");
        go2cloud_tests::compare::compare(&source, &bed.target, Default::default()).assert_equal();
        let at_least = 2 * LEN as u64 - (2 << 20);
        assert!(summary.bytes_shared >= at_least, "{format:?}: {summary:?}");
        assert_eq!(summary.bytes_not_shared, 0, "{format:?}: {summary:?}");
        for name in ["image", "copy", "changed", "part", "small copy"] {
            assert!(shared_extents(&bed.target.join(name)), "{format:?}: {name}");
        }
        let grown = used(&media[1]) - before;
        // Three whole files would be 72 MiB. btrfs frees an extent when nothing of it is in use, so what is left of the
        // changed file costs more there than its own part.
        let at_most = if format == Format::Xfs { 32 } else { 56 };
        assert!(grown < at_most << 20, "{format:?}: {} KiB", grown >> 10);
    }
}

#[test]
fn a_target_that_cannot_share_gets_the_data() {
    let media = [Format::Xfs, Format::Ext4].map(|format| Medium::new(format, 400).unwrap());
    let bed = bed_on(&media[0], &media[1]);
    let source = media[0].path().join("source");
    let summary = bed
        .sync_with(|plan| {
            let SourceVolume::Tree(tree) = &mut plan.volume else {
                unreachable!()
            };
            tree.root = source.clone();
        })
        .unwrap();
    assert!(summary.ok, "{summary:?}");
    assert!(
        summary.bytes_shared == 0 && summary.bytes_not_shared > LEN as u64,
        "{summary:?}"
    );
    go2cloud_tests::compare::compare(&source, &bed.target, Default::default()).assert_equal();
}
