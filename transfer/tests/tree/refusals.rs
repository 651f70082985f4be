//! What the target cannot take, in trees so large that its journal keeps more than one run: the two sides then differ
//! after a round, and the source fetches what the target has.

use go2cloud_tests::medium::{Format, Medium};
use transfer::progress::Summary;
use transfer::source::Rounds;

use crate::bed::{Bed, noise};
use crate::what_xfs_refuses;

fn many_files(bed: &Bed, count: u64) {
    for index in 0..count {
        bed.write(&format!("d{}/f{index}", index % 30), &noise(64, index));
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
}

fn assert_only_refused(summary: &Summary, path: &str) {
    let is_named = summary.skipped.iter().all(|skipped| skipped.path == path);
    assert!(is_named && !summary.ok, "{summary:?}");
}

#[test]
fn a_refusal_among_many_entries_is_named_by_every_run_and_sends_no_content_again() {
    let (_medium, bed) = what_xfs_refuses();
    many_files(&bed, 3000);
    let first = bed.sync_with(|plan| plan.verify = false).unwrap();
    assert_only_refused(&first, "strict");
    assert!(first.bytes_data > 3000 * 64, "{first:?}");
    for run in 0..2 {
        bed.write(&format!("d{run}/new"), &noise(100, run));
        let again = bed.sync_with(|plan| plan.verify = false).unwrap();
        assert_only_refused(&again, "strict");
        assert_eq!(again.bytes_data, 100, "{again:?}");
    }
    bed.assert_equal();
}

#[test]
fn rounds_and_verification_go_on_after_a_refusal_among_many_entries() {
    let (_medium, bed) = what_xfs_refuses();
    many_files(&bed, 3000);
    let summary = bed.sync_with(|plan| plan.rounds = Rounds::Count(3)).unwrap();
    assert_only_refused(&summary, "strict");
    assert_eq!(summary.bytes_data, 3000 * 64 + 1, "{summary:?}");
    bed.assert_equal();
}

#[test]
fn verification_takes_what_was_refused_for_no_damage() {
    let medium = Medium::new(Format::Xfs, 320).unwrap();
    let mut bed = Bed::new();
    bed.target = medium.path().join("target");
    std::fs::create_dir(&bed.target).unwrap();
    bed.write("whole", &noise(50_000, 1));
    bed.write("long", &noise(3 << 20, 2));
    for name in ["whole", "long"] {
        let mut chattr = std::process::Command::new("chattr");
        let changed = chattr.arg("+u").arg(bed.path("source").join(name)).status();
        assert!(changed.unwrap().success());
    }
    std::thread::sleep(std::time::Duration::from_millis(50));
    for content in [50_000 + (3 << 20), 0] {
        let summary = bed.sync().unwrap();
        let mut skipped: Vec<_> = summary
            .skipped
            .iter()
            .map(|skipped| (&skipped.path[..], &skipped.what[..]))
            .collect();
        skipped.sort_unstable();
        assert_eq!(
            skipped,
            [("long", "inode flags 0x2"), ("whole", "inode flags 0x2")],
            "{summary:?}"
        );
        assert_eq!((summary.bytes_data, summary.rounds), (content, 1), "{summary:?}");
        assert_eq!(summary.verified.unwrap().repaired, 0);
    }
    bed.assert_equal();
}

#[test]
fn a_rename_across_file_systems_of_the_target_among_many_entries_is_made_by_copying() {
    let medium = Medium::new(Format::Ext4, 64).unwrap();
    let bed = Bed::new();
    many_files(&bed, 2000);
    bed.write("there/file", &noise(1000, 1));
    std::fs::remove_dir(medium.path().join("lost+found")).unwrap();
    let there = bed.target.join("there");
    std::fs::create_dir(&there).unwrap();
    let mount = |arguments: &[&std::path::Path], program: &str| {
        let status = std::process::Command::new(program).args(arguments).status();
        assert!(status.unwrap().success(), "{program}");
    };
    mount(&["--bind".as_ref(), &medium.path(), &there], "mount");
    let renamed = [
        ("there/file", "d1/file"),
        ("d2", "there/d2"),
        ("there/d2", "d2 again"),
    ];
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        assert!(bed.sync_with(|plan| plan.verify = false).unwrap().ok);
        for (from, to) in renamed {
            let source = bed.path("source");
            std::fs::rename(source.join(from), source.join(to)).unwrap();
            let summary = bed.sync_with(|plan| plan.verify = false).unwrap();
            assert!(summary.ok, "{summary:?}");
            assert!(summary.bytes_data < 10_000, "{summary:?}");
            assert_eq!(summary.renamed, 1, "tried once: {summary:?}");
            bed.assert_equal();
        }
    }));
    mount(&["-l".as_ref(), &there], "umount");
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
