//! Everything a Linux file system keeps survives capture and writing: on ext4, XFS and btrfs, judged by a comparison that
//! shares no code with them. Needs root, loop devices and the mkfs programs.

#[path = "fidelity/copier.rs"]
mod copier;
#[path = "fidelity/cross.rs"]
mod cross;
#[path = "fidelity/hostile.rs"]
mod hostile;
#[path = "fidelity/programs.rs"]
mod programs;
#[path = "fidelity/single.rs"]
mod single;

use copier::{Copier, Style};
use go2cloud_tests::compare::{Options, compare};
use go2cloud_tests::maketree::{everything, mutate};
use go2cloud_tests::medium::{Format, Medium};

fn round_trip(format: Format, seed: u64) {
    let medium = Medium::new(format, 400).unwrap();
    let (source, target) = (medium.path().join("source"), medium.path().join("target"));
    std::fs::create_dir(&target).unwrap();
    let refused = everything(&source, seed, 600).unwrap();
    println!("{format:?} itself refused {refused:?}");
    let mut copier = Copier::new(&source, &target);
    let style = [Style::Replace, Style::Rewrite, Style::Replace, Style::Rewrite];
    for (round, style) in style.into_iter().enumerate() {
        let refusals = copier.copy(style);
        assert!(refusals.is_empty(), "{format:?} round {round}: {refusals:?}");
        println!("{format:?} round {round}: {}", compare_strictly(&source, &target));
        mutate(&source, seed + round as u64, 60).unwrap();
    }
}

fn compare_strictly(source: &std::path::Path, target: &std::path::Path) -> String {
    let report = compare(source, target, Options::default());
    report.assert_equal();
    assert!(report.entries > 100);
    report.to_string()
}

#[test]
fn ext4_keeps_everything_through_four_rounds() {
    round_trip(Format::Ext4, 11);
}

#[test]
fn xfs_keeps_everything_through_four_rounds() {
    round_trip(Format::Xfs, 12);
}

#[test]
fn btrfs_keeps_everything_through_four_rounds() {
    round_trip(Format::Btrfs, 13);
}
