//! Everything a Linux file system keeps survives capture and writing: on ext4, XFS and btrfs, judged by a comparison that
//! shares no code with them. Needs root, loop devices and the mkfs programs.

#![expect(
    clippy::unwrap_used,
    reason = "what was assumed of the system fails the test when it is wrong"
)]

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
#[path = "fidelity/wide.rs"]
mod wide;

use copier::{Copier, Style};
use go2cloud_tests::compare::{Options, compare};
use go2cloud_tests::maketree::{everything, mutate};
use go2cloud_tests::medium::{Format, Medium};

fn round_trip(format: Format, seed: u64) {
    let medium = Medium::new(format, 400).unwrap();
    let (source, target) = (medium.path().join("source"), medium.path().join("target"));
    std::fs::create_dir(&target).unwrap();
    everything(&source, seed, 600).unwrap();
    let mut copier = Copier::new(&source, &target);
    let style = [Style::Replace, Style::Rewrite, Style::Replace, Style::Rewrite];
    for (round, style) in style.into_iter().enumerate() {
        let refusals = copier.copy(style);
        assert!(refusals.is_empty(), "{format:?} round {round}: {refusals:?}");
        let report = compare(&source, &target, Options::default());
        report.assert_equal();
        assert!(report.entries > 600, "{report}");
        mutate(&source, seed + round as u64, 60).unwrap();
    }
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
